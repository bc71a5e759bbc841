"""One SQLite file behind one thread that commits in groups.

A commit that survives a power cut costs an fsync, milliseconds; a row costs microseconds. So the thread takes whatever
has been asked for while the last commit was under way and makes it one transaction. An answer is given only after the
commit, hence what was answered is durable. No timer: the disk's own pace makes the groups.

A full disk must not keep what frees it from doing so. Work that frees space is tried again after the log has been written
back and the reserve (`reserve.py`) has been given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ingest.reserve import Reserve

Answer = TypeVar("Answer")
Work = Callable[[sqlite3.Connection], Answer]

MAX_GROUP = 1000  # pieces of work in one transaction
LOCK_TIMEOUT_S = 1.0
WAL_BYTES = 64 * 2**20  # kept of the log between checkpoints


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    answer: asyncio.Future[Any]
    frees: bool = False
    writes: bool = True


@dataclass(frozen=True, slots=True)
class _Outcome:
    job: _Job
    result: Any = None
    error: Exception | None = None

    @property
    def wants_room(self) -> bool:
        """Whether it would have freed space and found none to do so."""
        return self.job.frees and is_full(self.error)

    def tell(self) -> None:
        if self.job.answer.done():  # whoever asked was cancelled
            return
        if self.error:
            self.job.answer.set_exception(self.error)
        else:
            self.job.answer.set_result(self.result)


Again = Callable[[sqlite3.Connection, Sequence[_Job]], list[_Outcome]]


class GroupCommit:
    """The file at `path`. `setup` runs once on the open connection, outside a transaction."""

    def __init__(self, path: Path, setup: Work[None]) -> None:
        self._path, self._setup = path, setup
        self._reserve = Reserve(path.with_name(f"{path.name}-reserve"))
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name=f"commits of {path.name}", daemon=True)
        self._opened: asyncio.Future[None] = self._loop.create_future()

    async def open(self) -> None:
        """Open the file and run the setup. Raises what SQLite raises."""
        self._thread.start()
        await self._opened

    def run(self, work: Work[Answer], *, frees: bool = False, writes: bool = True) -> asyncio.Future[Answer]:
        """The answer of `work`, once it is durable. What it raises undoes it alone, not its group.

        Work is done in the order of the calls, not of the awaits. Work that `frees` space has the reserve for itself;
        work that does not write (`writes`) is done also where nothing can be written.
        """
        job = _Job(work, self._loop.create_future(), frees, writes)
        self._jobs.put(job)
        return job.answer

    async def close(self) -> None:
        """Finish what was asked for and close the file."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                connection = sqlite3.connect(self._path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
                stack.callback(connection.close)
                self._set_up(connection)
            except Exception as error:  # noqa: BLE001 (handed to whoever opens)
                self._call(self._opened.set_exception, error)
                return
            self._call(self._opened.set_result, None)
            while group := self._next_group():
                self._call(_tell, self._committed(connection, group))

    def _set_up(self, connection: sqlite3.Connection) -> None:
        def work(db: sqlite3.Connection) -> None:
            _prepare(db)
            self._setup(db)

        setup = _Job(work, self._loop.create_future(), frees=True)
        (outcome,) = self._with_room(connection, _alone(connection, [setup]), _alone)
        if outcome.error:
            raise outcome.error
        self._reserve.take()

    def _committed(self, connection: sqlite3.Connection, group: Sequence[_Job]) -> list[_Outcome]:
        outcomes = self._with_room(connection, _commit(connection, group), _commit)
        if any(one.job.frees and not one.error for one in outcomes):
            self._reserve.take()
        return outcomes

    def _with_room(self, connection: sqlite3.Connection, outcomes: list[_Outcome], again: Again) -> list[_Outcome]:
        """What became of the work, after that which frees space has been given what can be given on a full disk."""
        measures: tuple[Callable[[], bool], ...] = (partial(_write_back, connection, self._path), self._reserve.give)
        for measure in measures:
            if any(one.wants_room for one in outcomes) and measure():
                outcomes = [
                    new for one in outcomes for new in (again(connection, [one.job]) if one.wants_room else [one])
                ]
        return outcomes

    def _next_group(self) -> list[_Job]:
        """What there is to do, at least one job; nothing when it is time to close."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP:
                return group
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return group
        if group:
            self._jobs.put(None)  # the group first, then the end
        return group

    def _call(self, function: Callable[[Any], None], argument: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits
            self._loop.call_soon_threadsafe(function, argument)


def is_full(error: BaseException | None) -> bool:
    """Whether SQLite found no room: on the disk, within a quota or within the largest file that is allowed."""
    # A quota or a limit comes as an error of input or output, and so does the log that cannot be begun.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _write_back(connection: sqlite3.Connection, path: Path) -> bool:
    """Write the log back, so that it begins again in the space that it has. Whether there is such space."""
    with contextlib.suppress(sqlite3.Error, OSError):
        is_busy, frames, written = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        return not is_busy and frames == written and path.with_name(f"{path.name}-wal").stat().st_size > 0
    return False


def _alone(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[_Outcome]:
    """Each piece of work without a transaction."""
    (job,) = jobs
    try:
        return [_Outcome(job, job.work(connection))]
    except Exception as error:  # noqa: BLE001 (told to whoever asked, by _Outcome)
        return [_Outcome(job, error=error)]


def _prepare(connection: sqlite3.Connection) -> None:
    # Exclusive: two programs on one spool would send twice; the kernel frees the lock however the program ends.
    for pragma in (
        "auto_vacuum=INCREMENTAL",
        "locking_mode=EXCLUSIVE",
        "journal_mode=WAL",
        "synchronous=FULL",
        f"journal_size_limit={WAL_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _commit(connection: sqlite3.Connection, group: Sequence[_Job]) -> list[_Outcome]:
    try:
        return _together(connection, group)
    except Exception as error:  # noqa: BLE001 (told to whoever asked, by _Outcome)
        if len(group) == 1 and not group[0].writes:
            return _alone(connection, group)
        if len(group) == 1:
            return [_Outcome(group[0], error=error)]
        # One of them is at fault; alone, each answers for itself, still in order.
        return [outcome for job in group for outcome in _commit(connection, [job])]


def _together(connection: sqlite3.Connection, group: Sequence[_Job]) -> list[_Outcome]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        outcomes = [_Outcome(job, job.work(connection)) for job in group]
        connection.execute("COMMIT")
        return outcomes
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _tell(outcomes: Sequence[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.tell()
