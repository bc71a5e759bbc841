"""The scheduler on a clock that jumps: no test waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest

from ingest.collector import Collected, Fault, Target, Unavailable
from ingest.counts import Count, Counts
from ingest.scheduler import Scheduler, Watched, backoff_s, first_look_s, following
from ingest.spool import SpoolFull
from schemas import metrics
from schemas.estate import Cell, Resource, Tenant
from schemas.records import DeadLetter, OperationsEvent, Record, Scrape

START_MS = 1_760_000_000_000
INTERVAL_S = 10.0


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when nothing is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            assert timeout is not None, "everything waits for ever"
            self.now_s += timeout
            return select(0)

        selector.select = jump

    def time(self) -> float:
        return self.now_s


class Kept:
    """A spool that is a list."""

    def __init__(self) -> None:
        self.looks: list[tuple[list[Record], list[DeadLetter], tuple[str, str] | None]] = []
        self.positions: dict[str, str] = {}
        self.full = False

    async def accept(
        self, records: Iterable[Record], *, letters: Iterable[DeadLetter] = (), position: tuple[str, str] | None = None
    ) -> int:
        if self.full:
            raise SpoolFull("full")
        self.looks.append((list(records), list(letters), position))
        self.positions.update([position] if position else [])
        return len(self.looks[-1][0])

    async def position(self, source: str) -> str | None:
        return self.positions.get(source)

    def events(self) -> list[tuple[str, str]]:
        told = [record for records, _, _ in self.looks for record in records]
        return [(record.name, record.body) for record in told if isinstance(record, OperationsEvent)]

    def ups(self, resource: str = "db") -> list[float | None]:
        return [
            record.values[record.series.split("\n").index('pilothouse.collector.up{pilothouse.collector="thing"}')]
            for records, _, _ in self.looks
            for record in records
            if isinstance(record, Scrape) and record.resource == resource and record.system == "pilothouse"
        ]


Look = Callable[[int, str | None], Coroutine[Any, Any, Collected]]


class Thing:
    """A collector that does what the test says."""

    def __init__(self, look: Look) -> None:
        self.look, self.closed, self.at_s = look, False, list[float]()

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        self.at_s.append(asyncio.get_running_loop().time())
        return await self.look(now_ms, position)

    async def close(self) -> None:
        self.closed = True


def target(name: str = "db", **more: Any) -> Target:
    resource = Resource(name=name, system="thing", interval_s=INTERVAL_S, timeout_s=2, **more)
    return Target(Cell(name="eu1", tenants=(Tenant(name="acme"),), resources=(resource,)), resource, "")


def run(kept: Kept, things: dict[str, Thing], for_s: float, counts: Counts | None = None) -> None:
    """Let the scheduler run for so many seconds of the loop's clock."""
    loop = JumpingLoop()

    async def bounded() -> None:
        watched = [Watched(target(name), thing) for name, thing in things.items()]
        clock = lambda: START_MS + int(loop.now_s * 1000)  # noqa: E731
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(for_s):
                await Scheduler(kept, watched, clock=clock, counts=counts).run()

    try:
        loop.run_until_complete(bounded())
    finally:
        loop.close()


async def fine(now_ms: int, position: str | None) -> Collected:
    return Collected([scrape(now_ms)])


async def hung(now_ms: int, position: str | None) -> Collected:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def scrape(time_ms: int) -> Scrape:
    return Scrape.of({"a": 1.0}, cell="eu1", resource="db", system="thing", time_ms=time_ms)


def test_looks_keep_to_the_grid_of_the_first_one() -> None:
    async def slow(now_ms: int, position: str | None) -> Collected:
        await asyncio.sleep(1.5)
        return Collected()

    thing, first_s = Thing(slow), first_look_s("eu1/db", INTERVAL_S)
    run(Kept(), {"db": thing}, for_s=first_s + 35)
    assert thing.at_s == pytest.approx([first_s, first_s + 10, first_s + 20, first_s + 30])
    assert thing.closed


def test_first_looks_are_spread_over_the_interval_and_the_same_at_every_start() -> None:
    firsts = sorted(first_look_s(f"eu1/resource-{number}", 60) for number in range(600))
    assert firsts == sorted(first_look_s(f"eu1/resource-{number}", 60) for number in range(600))
    fullest = max(sum(start <= first < start + 6 for first in firsts) for start in range(0, 60, 6))
    assert fullest < 90  # 60 would be even


def test_ticks_that_were_missed_are_skipped_and_counted() -> None:
    assert following(due_s=100, interval_s=10, now_s=101) == (110, 0)
    assert following(due_s=100, interval_s=10, now_s=125) == (130, 2)


def test_a_hung_target_delays_nobody() -> None:
    kept, well, stuck = Kept(), Thing(fine), Thing(hung)
    run(kept, {"db": well, "stuck": stuck}, for_s=100)
    assert len(well.at_s) == 10
    assert set(kept.ups("db")) == {1.0}
    assert set(kept.ups("stuck")) == {0.0}
    assert kept.events() == [
        (
            "collector.unavailable",
            "stuck: no answer within 2 s. See whether it is overloaded, or raise the resource's timeout_s",
        )
    ]


def test_away_and_back_are_told_once_each_with_the_mend() -> None:
    answers = iter([True, False, False, True, True])

    async def sometimes(now_ms: int, position: str | None) -> Collected:
        if next(answers, True):
            return Collected()
        raise Unavailable("db", "connection refused", "Start it", retry_after_s=3)

    kept = Kept()
    run(kept, {"db": Thing(sometimes)}, for_s=40)
    assert kept.events() == [
        ("collector.unavailable", "db: connection refused. Start it"),
        ("collector.recovered", "db answers again"),
    ]
    assert kept.ups()[:5] == [1, 0, 0, 1, 1]


def test_the_pause_doubles_up_to_a_minute() -> None:
    assert [backoff_s(failures, 5) for failures in (1, 2, 3, 4, 5, 50)] == [5, 10, 20, 40, 60, 60]


def test_a_collector_at_fault_stops_no_other() -> None:
    async def faulty(now_ms: int, position: str | None) -> Collected:
        raise KeyError("colour")

    kept, well, counts = Kept(), Thing(fine), Counts()
    run(kept, {"db": well, "faulty": Thing(faulty)}, for_s=50, counts=counts)
    assert len(well.at_s) == 5
    assert [name for name, _ in kept.events()] == ["collector.failed"]
    assert counts[Count.LOOK_FAILED] >= 3


def test_the_position_is_kept_with_its_records_and_handed_to_the_next_look() -> None:
    positions: list[str | None] = []

    async def reading(now_ms: int, position: str | None) -> Collected:
        positions.append(position)
        return Collected([scrape(now_ms)], position=str(len(positions)) if len(positions) != 2 else None)

    kept = Kept()
    kept.positions["eu1/db"] = "before"
    run(kept, {"db": Thing(reading)}, for_s=40)
    assert positions[:4] == ["before", "1", "1", "3"]
    assert [position for _, _, position in kept.looks][:3] == [("eu1/db", "1"), None, ("eu1/db", "3")]


def test_a_full_spool_leaves_the_look_out_and_the_position_where_it_was() -> None:
    kept, counts = Kept(), Counts()
    kept.full = True
    positions: list[str | None] = []

    async def reading(now_ms: int, position: str | None) -> Collected:
        positions.append(position)
        return Collected(position="next")

    run(kept, {"db": Thing(reading)}, for_s=40, counts=counts)
    assert set(positions) == {None}
    assert counts[Count.LOOK_SKIPPED] == len(positions)


def test_unreadable_bytes_and_impossible_times_become_dead_letters() -> None:
    async def odd(now_ms: int, position: str | None) -> Collected:
        times_ms = (now_ms, now_ms + 6 * 60_000, now_ms - 36 * 86_400_000)
        return Collected([scrape(time_ms) for time_ms in times_ms], refused=[("no JSON", b"\xff{")])

    kept, counts = Kept(), Counts()
    run(kept, {"db": Thing(odd)}, for_s=9.9, counts=counts)
    records, dead, _ = kept.looks[0]
    assert [record.system for record in records if isinstance(record, Scrape)] == ["thing", "pilothouse"]
    assert [letter.detail.split(" (")[0] for letter in dead] == [
        "no JSON",
        f"time_ms: {records[0].time_ms + 6 * 60_000}",
        f"time_ms: {records[0].time_ms - 36 * 86_400_000}",
    ]
    assert {letter.topic for letter in dead} == {"collector:eu1/db"}
    assert counts[Count.RECORD_REFUSED] == 3


def test_what_is_counted_stands_in_the_catalogue() -> None:
    assert {count.value for count in Count} <= set(metrics.BY_NAME)


def faulty(*parts: str) -> Look:
    async def look(now_ms: int, position: str | None) -> Collected:
        return Collected([scrape(now_ms)], position or "p", faults={part: Fault("broken", "mend it") for part in parts})

    return look


def test_a_fault_is_told_when_it_begins_and_when_it_ends_also_over_a_restart() -> None:
    kept = Kept()
    run(kept, {"db": Thing(faulty("a", "b"))}, for_s=30)
    run(kept, {"db": Thing(faulty("b"))}, for_s=30)
    run(kept, {"db": Thing(faulty())}, for_s=30)
    told = [(name, body.split(": ")[1]) for name, body in kept.events()]
    assert told == [
        ("collector.degraded", "a"),
        ("collector.degraded", "b"),
        ("collector.restored", "a"),
        ("collector.restored", "b"),
    ]
    assert kept.positions["eu1/db"] == "p"  # nothing is to be remembered any more


def test_a_fault_that_a_full_spool_refused_is_told_by_the_next_look() -> None:
    kept, looks = Kept(), 0

    async def look(now_ms: int, position: str | None) -> Collected:
        nonlocal looks
        looks += 1
        kept.full = looks <= 2
        return await faulty("a")(now_ms, position)

    run(kept, {"db": Thing(look)}, for_s=50)
    assert [name for name, _ in kept.events()] == ["collector.degraded"]


def test_that_a_target_is_down_is_remembered_over_a_restart() -> None:
    async def down(now_ms: int, position: str | None) -> Collected:
        raise Unavailable("db", "refused", "Start it")

    kept = Kept()
    kept.positions["eu1/db"] = "mine"
    positions: list[str | None] = []

    async def back(now_ms: int, position: str | None) -> Collected:
        positions.append(position)
        return Collected([scrape(now_ms)])

    run(kept, {"db": Thing(down)}, for_s=30)
    run(kept, {"db": Thing(down)}, for_s=30)
    run(kept, {"db": Thing(back)}, for_s=30)
    assert [name for name, _ in kept.events()] == ["collector.unavailable", "collector.recovered"]
    assert set(positions) == {"mine"}


def test_a_library_that_cancels_by_itself_does_not_end_the_looks() -> None:
    async def cancelled(now_ms: int, position: str | None) -> Collected:
        raise asyncio.CancelledError

    kept, thing = Kept(), Thing(cancelled)
    run(kept, {"db": thing}, for_s=60)
    assert len(thing.at_s) > 2
    assert [name for name, _ in kept.events()] == ["collector.failed"]


def test_failed_groups_are_counted_by_name_and_rows_once_a_letter() -> None:
    async def look(now_ms: int, position: str | None) -> Collected:
        faults = {"a": Fault("broken", "mend it")}
        return Collected([scrape(now_ms)], rows=[("ill", b"{}")], faults=faults, tried={"a", "b"}, left_out=3)

    kept = Kept()
    run(kept, {"db": Thing(look)}, for_s=39)
    own = [
        one for records, _, _ in kept.looks for one in records if isinstance(one, Scrape) and one.system == "pilothouse"
    ]
    last = dict(zip(own[-1].series.split("\n"), own[-1].values, strict=True))
    looks = len(own)
    mine = 'pilothouse.collector="thing"'
    assert last[f'pilothouse.collector.group.failed{{{mine},pilothouse.collector.group="a"}}'] == looks
    assert last[f'pilothouse.collector.group.failed{{{mine},pilothouse.collector.group="b"}}'] == 0
    assert last[f"pilothouse.collector.row.failed{{{mine}}}"] == looks
    assert last[f"pilothouse.collector.left_out{{{mine}}}"] == 3 * looks
    assert [len(dead) for _, dead, _ in kept.looks] == [1] + [0] * (looks - 1)
    assert {metric.rpartition("{")[0] for metric in last if "{" in metric} <= set(metrics.BY_NAME)
