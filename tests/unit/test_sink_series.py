"""A flood of series does not fill the store: new ones come in a burst and an hour, and points of those that are there go on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from schemas.records import Scrape
from sinks.timescale.allowance import Allowance, Rate
from sinks.timescale.copy_format import points
from sinks.timescale.series_index import NOT_ADDED, SeriesIndex


class Store:
    """The table of series, in memory, behind the two statements of the index."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, ...], int] = {}

    async def fetch(self, _: str, *of: Any) -> list[dict[str, Any]]:
        place, identities = of[:3], of[3]
        return [{"identity": one, "id": self.rows[*place, one]} for one in identities if (*place, one) in self.rows]

    async def execute(self, statement: str, *of: Any) -> None:
        assert re.search("INSERT INTO series", statement)
        for identity in of[3]:
            self.rows.setdefault((*of[:3], identity), len(self.rows))


def scrape(resource: str, prefix: str, count: int) -> Scrape:
    names = {f'm{{id="{prefix}{number:05}"}}': 1.0 for number in range(count)}
    return Scrape.of(dict(names), cell="eu1", resource=resource, system="otlp", time_ms=1)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_flood_of_series_does_not_fill_the_store() -> None:
    store, clock = Store(), Clock()
    index = SeriesIndex(allowance=Allowance(clock, Rate(100, 60), Rate(250, 600)))
    mine = await index.ids(store, scrape("pg", "mine", 50))
    assert (mine >= 0).all()
    for wave in range(20):
        await index.ids(store, scrape("bad", f"{wave}-", 1_000))
    assert len(store.rows) == 150
    assert ((await index.ids(store, scrape("pg", "mine", 50))) == mine).all()
    more = await index.ids(store, scrape("pg", "more", 10))
    assert (more >= 0).all()
    clock.now_s += 600.0
    later = await index.ids(store, scrape("bad", "later", 1_000))
    assert (later >= 0).sum() == 10


async def test_what_could_not_be_added_is_added_when_there_is_room_again() -> None:
    store, clock = Store(), Clock()
    index = SeriesIndex(allowance=Allowance(clock, Rate(10, 3_600), Rate(100, 3_600)))
    record = scrape("pg", "a", 20)
    ids = await index.ids(store, record)
    assert (ids == NOT_ADDED).sum() == 10
    assert points(1_000_000_000_000, ids, record.values)[1] == 10
    clock.now_s += 10.0
    assert ((await index.ids(store, record)) >= 0).all()


@pytest.mark.parametrize("wanted", [0, 1, 10, 11])
def test_an_allowance_is_never_overdrawn(wanted: int) -> None:
    allowance = Allowance(Clock(), Rate(10, 60), Rate(100, 60))
    assert allowance.take("c", "r", wanted) == min(wanted, 10)
    assert allowance.take("c", "r", 100) == 10 - min(wanted, 10)
