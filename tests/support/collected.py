"""What a look of a collector gave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ingest.collector import Collected, Collector, Target
from ingest.edges import Edges
from schemas.records import Scrape
from schemas.series import split


class Observer:
    """A collector together with the events that the scheduler makes of its faults; the spool keeps everything."""

    def __init__(self, target: Target, collector: Collector) -> None:
        self.collector = collector
        self.edges = Edges(target)

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """A look, with the events of its edges behind its records."""
        seen = await self.collector.collect(now_ms, position)
        events, self.edges, _ = self.edges.after(seen, now_ms)
        return replace(seen, records=[*seen.records, *events])

    async def close(self) -> None:
        await self.collector.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collector, name)


def scrape(collected: Collected) -> Scrape:
    """Its one scrape."""
    (one,) = (record for record in collected.records if isinstance(record, Scrape))
    return one


def points(collected: Collected) -> dict[str, float | None]:
    """The values of its scrape by series."""
    one = scrape(collected)
    return dict(zip(split(one.series), one.values, strict=True))
