"""What a look of a collector gave."""

from __future__ import annotations

from ingest.collector import Collected
from schemas.records import Scrape
from schemas.series import split


def scrape(collected: Collected) -> Scrape:
    """Its one scrape."""
    (one,) = (record for record in collected.records if isinstance(record, Scrape))
    return one


def points(collected: Collected) -> dict[str, float | None]:
    """The values of its scrape by series."""
    one = scrape(collected)
    return dict(zip(split(one.series), one.values, strict=True))
