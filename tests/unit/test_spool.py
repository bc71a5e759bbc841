"""The spool: what it has accepted is there, in order, once, within its bounds."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ingest.counts import Count, Counts
from ingest.spool import RECEIVED, ROW_BYTES, Bounds, Row, ShareFull, Spool, SpoolError, SpoolFull
from schemas.codec import Reason, Rejected, dead_letter
from schemas.records import Heartbeat, LogBatch, Scrape

START_MS = 1_760_000_000_000
ALL = 2**40


class Clock:
    """A clock that the test sets."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


Opener = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Opens the test's spool; again and again the same file."""

    @asynccontextmanager
    async def opened(clock: Clock | None = None, **more: Any) -> AsyncIterator[Spool]:
        spool = Spool(tmp_path / "spool.db", name="ingest", clock=clock or Clock(), **more)
        await spool.open()
        try:
            yield spool
        finally:
            await spool.close()

    return opened


def scrape(number: int = 0, values: int = 1) -> Scrape:
    points: dict[str, float | None] = {f"metric_{one}": float(number) for one in range(values)}
    return Scrape.of(points, cell="eu1", resource="db", system="postgresql", time_ms=START_MS + number)


async def held(spool: Spool) -> list[Row]:
    return await spool.advance([], max_bytes=ALL)


async def test_what_was_accepted_is_there_after_reopening_under_the_same_source(opened: Opener) -> None:
    async with opened() as spool:
        await spool.accept([scrape(1), scrape(2)], position=("eu1/db", "42"))
        before, source = await held(spool), spool.source
    async with opened() as spool:
        assert await held(spool) == before
        assert [row.time_ms for row in before] == [START_MS + 1, START_MS + 2]
        assert await spool.position("eu1/db") == "42"
        assert (spool.source, spool.records) == (source, 2)


async def test_a_wiped_spool_is_a_new_source(opened: Opener, tmp_path: Path) -> None:
    async with opened() as spool:
        source = spool.source
    shutil.rmtree(tmp_path)
    async with opened() as spool:
        assert spool.source.startswith("ingest-")
        assert spool.source != source


async def test_a_sequence_is_never_used_twice_also_when_the_spool_was_empty(opened: Opener) -> None:
    async with opened() as spool:
        await spool.accept([scrape()] * 3)
        assert await spool.advance(await held(spool), max_bytes=ALL) == []
        assert (spool.records, spool.bytes) == (0, 0)
    async with opened() as spool:
        await spool.accept([scrape()])
        assert [row.seq for row in await held(spool)] == [4]


async def test_the_order_of_sequence_is_the_order_of_recorded_time_whatever_the_clock_does(opened: Opener) -> None:
    clock, counts = Clock(), Counts()
    async with opened(clock, counts=counts) as spool:
        for now_ms in (START_MS, START_MS + 50, START_MS - 9_000, START_MS + 60):
            clock.now_ms = now_ms
            await spool.accept([scrape()])
        assert [row.recorded_ms - START_MS for row in await held(spool)] == [0, 50, 50, 60]
        assert counts[Count.CLOCK_FELL] == 1
    clock.now_ms = START_MS
    async with opened(clock) as spool:
        await spool.accept([scrape()])
        assert (await held(spool))[-1].recorded_ms == START_MS + 60


async def test_everything_recorded_before_a_heartbeat_stands_before_it(opened: Opener) -> None:
    async with opened() as spool:
        await asyncio.gather(spool.accept([scrape(1)]), spool.beat(), spool.accept([scrape(2)]))
        types = [row.type for row in await held(spool)]
        assert types == [Scrape.type, Heartbeat.type, Scrape.type]


async def test_idle_hours_leave_one_heartbeat(opened: Opener) -> None:
    clock = Clock()
    async with opened(clock) as spool:
        await spool.accept([scrape()])
        for _ in range(100):
            clock.now_ms += 1000
            await spool.beat()
        rows = await held(spool)
        assert [row.type for row in rows] == [Scrape.type, Heartbeat.type]
        assert rows[-1].recorded_ms == START_MS + 100_000


async def test_a_full_spool_keeps_nothing_of_what_it_refuses_and_still_takes_heartbeats(opened: Opener) -> None:
    counts = Counts()
    async with opened(bounds=Bounds(max_bytes=2_000), counts=counts) as spool:
        accepted = 0
        while spool.bytes + (size := len(scrape().model_dump_json()) + len("eu1") + ROW_BYTES) <= 2_000:
            await spool.accept([scrape()], position=("eu1/db", str(accepted)))
            accepted += 1
        assert spool.bytes == accepted * size
        with pytest.raises(SpoolFull, match="bounded at 5000000 records and 2000 bytes"):
            await spool.accept([scrape()], position=("eu1/db", "refused"))
        await spool.beat()
        assert spool.bytes <= 2_000
        assert counts[Count.SPOOL_FULL] == 1
        assert await spool.position("eu1/db") == str(accepted - 1)
        rows = await held(spool)
        assert len(rows) == accepted + 1
        await spool.advance(rows, max_bytes=ALL)
        assert await spool.accept([scrape()]) == 1


async def test_a_bound_on_records_holds(opened: Opener) -> None:
    async with opened(bounds=Bounds(max_records=3)) as spool:
        with pytest.raises(SpoolFull):
            await spool.accept([scrape()] * 4)
        await spool.accept([scrape()] * 3)
        assert spool.is_full


async def test_a_full_disk_refuses_and_recovers(opened: Opener) -> None:
    async with opened() as spool:
        pages = await spool._file.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await spool._file.run(lambda db: db.execute(f"PRAGMA max_page_count={pages + 4}").fetchall())
        with pytest.raises(SpoolFull, match="make room"):
            await spool.accept([scrape(values=3000)])
        assert await spool.accept([scrape()]) == 1


async def test_a_delivery_is_taken_once_within_a_day(opened: Opener) -> None:
    clock, counts = Clock(), Counts()
    async with opened(clock, counts=counts) as spool:
        assert await spool.accept([scrape(1)], deliveries=["a"]) == 1
    async with opened(clock, counts=counts) as spool:
        assert await spool.accept([scrape(1), scrape(2), scrape(2)], deliveries=["a", "b", "b"]) == 1
        assert counts[Count.DUPLICATE] == 2
        clock.now_ms += 24 * 3_600_000 + 1
        assert await spool.accept([scrape(1)], deliveries=["a"]) == 1
        assert len(await held(spool)) == 3


async def test_remembered_deliveries_are_bounded_and_the_oldest_are_forgotten_first(opened: Opener) -> None:
    counts = Counts()
    async with opened(counts=counts, bounds=Bounds(max_deliveries=10)) as spool:
        for number in range(15):
            await spool.accept([scrape()], deliveries=[str(number)])
        assert counts[Count.DELIVERIES_FORGOTTEN] == 5
        assert await spool.accept([scrape()] * 2, deliveries=["0", "14"]) == 1


async def test_a_refused_delivery_may_come_again(opened: Opener) -> None:
    async with opened(bounds=Bounds(max_records=1)) as spool:
        await spool.accept([scrape()])
        with pytest.raises(SpoolFull):
            await spool.accept([scrape()], deliveries=["a"])
        await spool.advance(await held(spool), max_bytes=ALL)
        assert await spool.accept([scrape()], deliveries=["a"]) == 1


async def test_a_batch_too_large_for_kafka_is_kept_in_parts_that_hold_every_row(opened: Opener) -> None:
    rows = 1000
    batch = LogBatch(
        cell="eu1",
        resource="odoo",
        system="odoo_log",
        time_ms=START_MS + rows - 1,
        tenants=("acme",) * rows,
        times_ms=tuple(START_MS + row for row in range(rows)),
        severity_numbers=(9,) * rows,
        bodies=tuple(f"{row} " + "x" * 3000 for row in range(rows)),
        attributes={"code.function.name": tuple(str(row) for row in range(rows))},
    )
    async with opened() as spool:
        assert await spool.accept([batch]) == 1
        parts = [LogBatch.model_validate_json(row.value) for row in await held(spool)]
        assert [body for part in parts for body in part.bodies] == list(batch.bodies)
        assert [name for part in parts for name in part.attributes["code.function.name"]] == [
            str(row) for row in range(rows)
        ]
        assert all(part.time_ms == max(part.times_ms) for part in parts)
        assert all(len(row.value) < 2**20 for row in await held(spool))


async def test_letters_take_the_place_of_rows_that_kafka_never_takes(opened: Opener) -> None:
    letter = dead_letter(Rejected(Reason.OVERSIZED, "too large", b"x"), rejected_by="t", time_ms=START_MS, topic="t")
    async with opened() as spool:
        await spool.accept([scrape()])
        rows = await spool.advance(await held(spool), letters=[letter], max_bytes=ALL)
        assert [row.topic for row in rows] == ["dead-letters.v1"]
        assert spool.records == 1


async def test_a_round_is_bounded_but_never_empty(opened: Opener) -> None:
    async with opened() as spool:
        await spool.accept([scrape(number, values=50) for number in range(10)])
        assert len(await spool.advance([], max_bytes=1)) == 1
        assert len(await spool.advance([], max_bytes=ALL, max_rows=4)) == 4


async def test_a_cancelled_caller_leaves_the_count_right(opened: Opener) -> None:
    async with opened() as spool:
        task = asyncio.create_task(spool.accept([scrape()]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        rows = await held(spool)
        assert (len(rows), spool.records, spool.bytes) == (1, 1, rows[0].size)


async def test_one_faulty_piece_of_work_does_not_undo_its_group(opened: Opener) -> None:
    async with opened() as spool:
        faulty = spool._file.run(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
        results = await asyncio.gather(
            spool.accept([scrape(1)]), faulty, spool.accept([scrape(2)]), return_exceptions=True
        )
        assert [type(result) for result in results] == [int, sqlite3.OperationalError, int]
        assert len(await held(spool)) == 2


async def test_a_second_program_on_the_same_spool_is_told_so(opened: Opener, tmp_path: Path) -> None:
    async with opened():
        second = Spool(tmp_path / "spool.db", name="ingest", clock=Clock())
        with pytest.raises(SpoolError, match="another program has it open"):
            await second.open()


async def test_a_damaged_file_is_named_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_bytes(b"no database" * 1000)
    with pytest.raises(SpoolError, match=r"spool\.db.*damaged; move it away"):
        await Spool(tmp_path / "spool.db", name="ingest", clock=Clock()).open()


KILLED = """
import asyncio, sys
from pathlib import Path
from ingest.spool import Spool
from schemas.records import Scrape

async def one(spool, worker):
    number = 0
    while True:
        record = Scrape.of({"m": 1.0}, cell=f"worker-{worker}", resource="r", system="s", time_ms=number)
        await spool.accept([record], position=(f"worker-{worker}", str(number)))
        print(worker, number, flush=True)
        number += 1

async def main():
    spool = Spool(Path(sys.argv[1]), name="ingest", clock=lambda: 0)
    await spool.open()
    await asyncio.gather(*(one(spool, worker) for worker in range(8)))

asyncio.run(main())
"""


async def test_what_was_accepted_survives_kill_9(tmp_path: Path) -> None:
    file = tmp_path / "spool.db"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(file), stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    )
    assert child.stdout
    lines = [await child.stdout.readline() for _ in range(2000)]
    child.send_signal(signal.SIGKILL)
    lines += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()
    told = {f"worker-{line.split()[0]}": int(line.split()[1]) for line in map(bytes.decode, lines) if "\n" in line}
    spool = Spool(file, name="ingest", clock=Clock())
    await spool.open()
    rows = await spool.advance([], max_bytes=ALL, max_rows=10**6)
    for worker, last in told.items():
        times_ms = [row.time_ms for row in rows if row.key == worker]
        assert times_ms == list(range(len(times_ms)))
        assert last < len(times_ms) <= last + 2  # at most the one that was not yet told
        assert await spool.position(worker) == str(len(times_ms) - 1)
    await spool.close()


async def flooded(spool: Spool, source: str) -> int:
    """How many records of a source are taken until it is refused."""
    for number in range(10_000):
        try:
            await spool.accept([scrape()], source=source)
        except SpoolFull:
            return number
    raise AssertionError("nothing refuses it")


async def test_a_flood_leaves_room_for_everybody_who_comes_later(opened: Opener) -> None:
    counts = Counts()
    async with opened(bounds=Bounds(max_records=300), counts=counts) as spool:
        assert await flooded(spool, "a") == 200  # twice what is then free
        assert await flooded(spool, "b") == 67
        with pytest.raises(ShareFull, match="a fills its share"):
            await spool.accept([scrape()], source="a")
        assert await spool.accept([scrape()], source="c") == 1
        assert counts[Count.SHARE_FULL] == 3
    async with opened(bounds=Bounds(max_records=300)) as spool:  # who holds what is remembered
        with pytest.raises(ShareFull):
            await spool.accept([scrape()], source="a")
        await spool.advance(await held(spool), max_bytes=ALL)
        assert await flooded(spool, "a") == 200


async def test_shares_count_bytes_too_and_what_is_on_its_way_to_the_disk(opened: Opener) -> None:
    async with opened(bounds=Bounds(max_bytes=90_000)) as spool:
        answers = await asyncio.gather(
            *(spool.accept([scrape()], source="a") for _ in range(1000)), return_exceptions=True
        )
        assert {type(answer) for answer in answers} == {int, ShareFull}
        assert 55_000 < spool.bytes <= 60_000


async def test_what_others_send_leaves_a_reserve_to_collectors(opened: Opener) -> None:
    async with opened(bounds=Bounds(max_records=100, reserved=0.5)) as spool:
        sent = [await flooded(spool, f"{RECEIVED}{number}") for number in range(30)]
        assert sum(sent) == 50
        assert await flooded(spool, "eu1/db") > 30


async def test_a_flood_of_deliveries_makes_the_spool_forget_its_own_first(opened: Opener) -> None:
    async with opened(bounds=Bounds(max_deliveries=10)) as spool:
        await spool.accept([scrape()], deliveries=["quiet"], source="b")
        for number in range(50):
            await spool.accept([scrape()], deliveries=[str(number)], source="a")
        assert await spool.accept([scrape()] * 2, deliveries=["quiet", "0"], source="b") == 1


async def test_a_spool_of_the_version_before_is_read(tmp_path: Path, opened: Opener) -> None:
    db = sqlite3.connect(tmp_path / "spool.db")
    db.executescript(
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID; INSERT INTO meta VALUES ('instance', 'old');"
        "CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key TEXT NOT NULL, "
        "type TEXT NOT NULL, time_ms INTEGER NOT NULL, recorded_ms INTEGER NOT NULL, value BLOB NOT NULL);"
        "CREATE TABLE deliveries (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, seen_ms INTEGER NOT NULL);"
        f"INSERT INTO outbox VALUES (7, 't', 'k', 'x', 1, 1, x'00'); INSERT INTO deliveries VALUES (1, 'a', {START_MS});"
    )
    db.close()
    async with opened() as spool:
        assert (spool.source, spool.records) == ("ingest-old", 1)
        assert [row.seq for row in await held(spool)] == [7]
        assert await spool.accept([scrape()] * 2, deliveries=["a", "b"], source="s") == 1
