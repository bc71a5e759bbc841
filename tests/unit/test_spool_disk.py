"""The spool on disks that are full, read-only or gone: it says so, loses nothing, and drains all the same."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.counts import Count, Counts
from ingest.spool import Row, Spool, SpoolError, SpoolFull
from schemas.records import Scrape

START_MS = 1_760_000_000_000
SIZE_MIB = 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, small enough to be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a file system to fill")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


class Hog:
    """Another program on the same disk, which takes what it gets."""

    def __init__(self, place: Path) -> None:
        self._path = place / "hog"

    def leave(self, free: int) -> None:
        """Take all but so many bytes of what is free."""
        where = os.statvfs(self._path.parent)
        wanted = where.f_bavail * where.f_frsize - free
        with self._path.open("ab", buffering=0) as file:
            for piece in (2**20, 4096):
                while wanted >= piece and file.write(bytes(piece)):
                    wanted -= piece

    def end(self) -> None:
        """Give all of it back."""
        self._path.unlink()


def scrape(number: int, values: int = 2000) -> Scrape:
    points: dict[str, float | None] = {f"metric_{one}": number + one / 3 for one in range(values)}
    return Scrape.of(points, cell="eu1", resource="db", system="postgresql", time_ms=START_MS + number)


def made(place: Path, counts: Counts | None = None) -> Spool:
    return Spool(place / "spool.db", name="ingest", clock=lambda: START_MS, counts=counts)


async def filled(spool: Spool) -> int:
    """How many scrapes went in until the disk was full."""
    for number in range(100_000):
        try:
            await spool.accept([scrape(number)])
        except SpoolFull:
            return number
    raise AssertionError("the disk is too large")


async def drained(spool: Spool, hog: Hog | None = None) -> list[Row]:
    found: list[Row] = []
    rows: list[Row] = []
    while rows := await spool.advance(rows, max_bytes=500_000):
        found += rows
        if hog:
            hog.leave(0)
    return found


async def test_what_was_sent_is_deleted_also_while_the_disk_is_full(disk: Path) -> None:
    spool, counts = made(disk, counts := Counts()), counts
    await spool.open()
    hog = Hog(disk)
    hog.leave(3 * 2**20)
    taken = await filled(spool)
    hog.leave(0)
    assert [row.time_ms - START_MS for row in await drained(spool)] == list(range(taken))
    assert taken > 20
    assert counts[Count.SPOOL_FULL] == 1
    assert await spool.accept([scrape(0)]) == 1  # in the pages that were freed
    await spool.close()
    again = made(disk)
    await again.open()
    assert again.records == 1
    await again.close()


async def test_a_disk_that_stays_full_drains_all_the_same_and_repeats_itself_under_the_same_sequences(
    disk: Path,
) -> None:
    spool = made(disk)
    await spool.open()
    hog = Hog(disk)
    hog.leave(3 * 2**20)
    taken = await filled(spool)
    (disk / "spool.db-reserve").unlink()
    hog.leave(0)
    first = await drained(spool, hog)
    assert [row.time_ms - START_MS for row in first] == list(range(taken))
    assert (spool.records, spool.bytes) == (0, 0)
    await spool.close()
    hog.end()
    again = made(disk)
    await again.open()
    second = await drained(again)
    assert {row.seq for row in second} <= {row.seq for row in first}
    assert await again.accept([scrape(0)]) == 1
    (row,) = await again.advance([], max_bytes=2**30)
    assert row.seq > first[-1].seq
    await again.close()


async def test_a_spool_on_a_full_disk_opens_and_takes_its_reserve_back_once_there_is_room(disk: Path) -> None:
    spool = made(disk)
    await spool.open()
    await spool.accept([scrape(0)])
    await spool.close()
    hog = Hog(disk)
    hog.leave(0)
    spool = made(disk)
    await spool.open()
    rows = await spool.advance([], max_bytes=2**30)
    assert len(rows) == 1
    assert not (disk / "spool.db-reserve").exists()  # it made the room to open in
    hog.end()
    await spool.advance(rows, max_bytes=2**30)
    await spool.close()
    assert (disk / "spool.db-reserve").stat().st_size == 4 * 2**20


async def test_a_disk_that_becomes_read_only_refuses_and_drains(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = made(disk)
    await spool.open()
    await spool.accept([scrape(0)])
    # As the kernel does after a fault: the open file stays, writing fails.
    await spool._file.run(lambda db: db.execute("PRAGMA query_only=1").fetchall())
    for _ in range(2):
        with pytest.raises(SpoolFull, match="is read-only; mount it for writing"):
            await spool.accept([scrape(1)])
    rows = await spool.advance([], max_bytes=2**30)
    assert len(rows) == 1
    assert await spool.advance(rows, max_bytes=2**30) == []
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1
    await spool.close()


def test_a_limit_on_the_size_of_files_refuses_like_a_full_disk(tmp_path: Path) -> None:
    script = f"""
import asyncio, resource, sys
from pathlib import Path
sys.path.insert(0, "tests/unit")
from test_spool_disk import drained, filled, made

async def main():
    spool = made(Path({str(tmp_path)!r}))
    await spool.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    taken = await filled(spool)
    print(taken, len(await drained(spool)))

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    taken, sent = map(int, done.stdout.split())
    assert taken == sent > 5


async def test_a_file_that_is_damaged_while_it_is_open_ends_with_a_remedy(tmp_path: Path) -> None:
    spool = made(tmp_path)
    await spool.open()

    def damaged(_: sqlite3.Connection) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with pytest.raises(SpoolError, match=r"spool\.db.*damaged; move it away"):
        await spool._answered(spool._file.run(damaged))
    await spool.close()


async def test_a_file_that_is_removed_takes_no_more_and_still_sends_what_it_holds(tmp_path: Path) -> None:
    spool = made(tmp_path)
    await spool.open()
    await spool.accept([scrape(0)])
    os.unlink(tmp_path / "spool.db")
    with pytest.raises(SpoolFull, match="was removed or replaced; start again once it has sent"):
        await spool.accept([scrape(1)])
    rows = await spool.advance([], max_bytes=2**30)
    assert len(rows) == 1
    assert await spool.advance(rows, max_bytes=2**30) == []
    await spool.close()


async def test_nobody_else_reads_the_spool_whatever_the_umask_and_whoever_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "ingest"
    before = os.umask(0)
    try:
        spool = made(folder)
        await spool.open()
        await spool.accept([scrape(0)])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
        await spool.close()
    finally:
        os.umask(before)
    assert modes.pop("ingest") == 0o700
    assert {"spool.db", "spool.db-wal", "spool.db-reserve"} <= set(modes)
    assert set(modes.values()) == {0o600}

    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    (folder / "spool.db-wal").touch(0o644)
    spool = made(folder)
    await spool.open()
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await spool.close()


async def test_a_folder_that_others_use_too_keeps_its_rights(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    (tmp_path / "theirs").touch()
    spool = made(tmp_path)
    await spool.open()
    await spool.close()
    assert stat.S_IMODE(os.stat(tmp_path).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(tmp_path / "spool.db").st_mode) == 0o600
