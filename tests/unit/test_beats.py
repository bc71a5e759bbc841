"""Who beats where, and by which clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner

from ingest.counts import Count, Counts
from ingest.publisher import LINGERS_MS, Publisher
from ingest.rounds import Lane, partition_of, plan
from ingest.spool import CELLS_MAX, Row, Spool
from ingest.steady_clock import SETTLE_MS, STEP_MS, SteadyClock
from schemas.codec import decode
from schemas.records import Heartbeat, Scrape
from schemas.topics import DEAD_LETTERS, INPUTS, METRICS

T0 = 1_795_230_000_000
HOUR_MS = 3_600_000
COUNTS = {topic.name: 24 for topic in (*INPUTS, DEAD_LETTERS)}


class Time:
    """A wall clock and one that only goes on; the wall clock may jump."""

    def __init__(self) -> None:
        self.steady_ms, self.off_ms = 5_000, T0 - 5_000

    def wall(self) -> int:
        return self.steady_ms + self.off_ms

    def steady(self) -> int:
        return self.steady_ms

    def clock(self) -> SteadyClock:
        return SteadyClock(self.wall, self.steady)


def heartbeat(time_ms: int) -> Row:
    beat = Heartbeat(publisher="p", time_ms=time_ms)
    return Row(0, "", "", beat.type, time_ms, time_ms, beat.model_dump_json().encode())


def scrape(cell: str) -> Scrape:
    return Scrape.of({"m": 1.0}, cell=cell, resource="db", system="postgresql", time_ms=T0)


async def opened(tmp_path: Path, clock: Time | None = None, counts: Counts | None = None) -> Spool:
    spool = Spool(tmp_path / "spool.db", name="ingest", clock=(clock or Time()).wall, counts=counts)
    await spool.open()
    return spool


def unused() -> None:
    raise AssertionError("nothing is sent")


def test_a_heartbeat_goes_to_the_partitions_of_the_cells_in_every_input_topic_and_nowhere_else() -> None:
    cells = ("eu1", "us1")
    lanes = plan([heartbeat(T0)], "p", COUNTS, cells, T0 + 500)
    kafkas = {DefaultPartitioner()(cell.encode(), list(range(24)), list(range(24))) for cell in cells}
    assert lanes.keys() == {Lane(topic.name, number) for topic in INPUTS for number in kafkas}


def test_a_heartbeat_says_how_far_was_observed_and_when_it_was_sent() -> None:
    lanes = plan([heartbeat(T0)], "p", COUNTS, ("eu1",), T0 + HOUR_MS)
    wire = lanes[Lane(METRICS.name, partition_of("eu1", 24))][0][0]
    assert wire.timestamp_ms == T0 + HOUR_MS
    assert decode(wire.headers, wire.value, wire.timestamp_ms) == Heartbeat(publisher="p", time_ms=T0)


async def test_a_record_of_an_unknown_cell_starts_its_beats_also_after_a_restart(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    publisher = Publisher(spool, unused, cells=("eu1",))  # type: ignore[arg-type]
    assert publisher.beaten() == {"eu1"}
    await spool.accept([scrape("new")])
    assert publisher.beaten() == {"eu1", "new"}
    await spool.close()
    again = await opened(tmp_path)
    assert Publisher(again, unused, cells=("eu1",)).beaten() == {"eu1", "new"}  # type: ignore[arg-type]
    await again.close()


async def test_a_cell_that_left_the_estate_is_beaten_on_until_nothing_of_it_can_be_open(tmp_path: Path) -> None:
    clock = Time()
    spool = await opened(tmp_path, clock)
    await spool.accept([scrape("left"), scrape("stays")])
    for _ in range(LINGERS_MS // HOUR_MS + 1):
        assert "left" in Publisher(spool, unused).beaten()  # type: ignore[arg-type]
        clock.off_ms += HOUR_MS
        await spool.accept([scrape("stays")])
    assert Publisher(spool, unused).beaten() == {"stays"}  # type: ignore[arg-type]
    await spool.close()


async def test_the_cells_that_are_known_are_bounded_and_the_one_longest_unheard_of_is_forgotten(tmp_path: Path) -> None:
    clock, counts = Time(), Counts()
    spool = await opened(tmp_path, clock, counts)
    await spool.accept([scrape("first")])
    clock.off_ms += 1_000
    await spool.accept([scrape(f"cell-{number}") for number in range(CELLS_MAX)])
    assert len(spool.cells) == CELLS_MAX
    assert "first" not in spool.cells
    assert counts[Count.CELL_FORGOTTEN] == 1
    await spool.close()


@pytest.mark.parametrize("step_ms", [7 * 24 * HOUR_MS, 10_000, -10_000, -24 * HOUR_MS])
def test_a_jump_of_the_wall_clock_is_not_followed_before_it_has_lasted(step_ms: int) -> None:
    time = Time()
    clock = time.clock()
    before_ms = clock()
    time.off_ms += step_ms
    for second in range(SETTLE_MS // 1_000):
        assert clock() == before_ms + second * 1_000
        time.steady_ms += 1_000
    assert clock() == time.wall()
    assert clock.steps == 1


def test_a_jump_that_is_taken_back_was_never_seen() -> None:
    time = Time()
    clock = time.clock()
    time.off_ms += 7 * 24 * HOUR_MS
    assert clock() == T0
    time.off_ms -= 7 * 24 * HOUR_MS
    time.steady_ms += SETTLE_MS
    assert clock() == T0 + SETTLE_MS


def test_a_clock_that_is_kept_right_by_small_steps_is_followed_at_once() -> None:
    time = Time()
    clock = time.clock()
    for _ in range(100):
        time.steady_ms += 1_000
        time.off_ms += STEP_MS // 2
        assert clock() == time.wall()
    assert clock.steps == 0


def test_a_clock_that_begins_far_behind_what_was_stamped_last_has_to_last_as_well() -> None:
    """A machine whose clock begins in 1970 until the network is there."""
    time = Time()
    time.off_ms = 0
    clock = time.clock()
    clock.resume(T0)
    assert clock() == T0
    time.off_ms = T0
    time.steady_ms += 1_000
    clock()
    time.steady_ms += SETTLE_MS
    assert clock() == time.wall()


async def test_a_spool_that_was_stamped_a_week_ahead_does_not_stand_still_for_a_week(tmp_path: Path) -> None:
    clock = Time()
    clock.off_ms += 7 * 24 * HOUR_MS
    spool = await opened(tmp_path, clock)
    await spool.accept([scrape("eu1")])
    clock.off_ms -= 7 * 24 * HOUR_MS
    await spool.accept([scrape("eu1")])
    rows = await spool.advance((), max_bytes=1_000_000)
    assert [row.recorded_ms - T0 for row in rows] == [7 * 24 * HOUR_MS, 0]
    await spool.close()
