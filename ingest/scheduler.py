"""Looks at every target again and again, each in a task of its own, so that a hung one delays nobody.

What a look gave goes to the spool together with the position it ended at. That a target is away, back, or that its
collector is at fault is told as an event at the edge and as `pilothouse.collector.up` at every look; so is what a look
could not read of its target. An edge is remembered in the position, so it is known only once the spool has its event.
Nothing but a full spool leaves a look out: a record that cannot be written is a dead letter, whatever is wrong with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol
from zlib import crc32

from ingest.collector import ERROR, INFO, WARN, Collected, Collector, Target, Unavailable
from ingest.counts import Count, Counts
from ingest.edges import Edges
from ingest.moments import fault
from ingest.oversize import letters
from ingest.readable import name_of, readable
from ingest.spool import SpoolFull
from ingest.threads import HangsError
from schemas.codec import Reason
from schemas.masking import masked
from schemas.records import DeadLetter, OperationsEvent, Record, Scrape
from schemas.series import identity

log = logging.getLogger(__name__)

LONGEST_BACKOFF_S = 60.0
FAILED_RETRY_S = 5.0
CLOSE_TIMEOUT_S = 5.0
MAX_LETTERS_REMEMBERED = 1_000
"""Dead letters of rows that are read at every look, by digest: one that comes again is counted and not written again."""
MAX_GROUPS = 200
"""Groups of one target whose failures are counted one by one."""


class Keeper(Protocol):
    """The part of the spool that is needed here."""

    async def accept(
        self, records: Iterable[Record], *, letters: Iterable[DeadLetter] = (), position: tuple[str, str] | None = None
    ) -> int:
        """Keep all of it or raise SpoolFull."""

    async def position(self, source: str) -> str | None:
        """Where the source goes on."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A target and who looks at it."""

    target: Target
    collector: Collector


@dataclass(frozen=True, slots=True)
class Down:
    """A look that gave nothing: the event that says so, why, and when to look again."""

    event: str
    severity_number: int
    body: str
    retry_after_s: float


class Scheduler:
    """Watches everything until cancelled. `clock` gives Unix ms; intervals run on the event loop's clock."""

    def __init__(
        self, spool: Keeper, watched: Iterable[Watched], *, clock: Callable[[], int], counts: Counts | None = None
    ) -> None:
        counts = counts if counts is not None else Counts()
        self._watches = [_Watch(spool, one, clock, counts) for one in watched]

    async def run(self) -> None:
        """Look until cancelled, then close every collector."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for watch in self._watches:
                    tasks.create_task(watch.run())
        finally:
            await asyncio.gather(*(watch.close() for watch in self._watches))


class _Watch:
    """The looks at one target."""

    def __init__(self, spool: Keeper, watched: Watched, clock: Callable[[], int], counts: Counts) -> None:
        self._spool, self._clock, self._counts = spool, clock, counts
        self._target, self._collector = watched.target, watched.collector
        self._source = f"{self._target.cell.name}/{self._target.resource.name}"
        self._stored: str | None = None
        self._position: str | None = None
        self._edges = Edges(self._target)
        self._told = _Told()
        self._failed: Counter[str] = Counter()
        self._left_out = self._rows_failed = 0
        self._since_ms: int | None = None
        self._failures = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        interval_s = self._target.resource.interval_s
        self._stored = await self._spool.position(self._source)
        self._edges, self._position = Edges.restored(self._target, self._stored)
        due_s = loop.time() + first_look_s(self._source, interval_s)
        while True:
            await asyncio.sleep(due_s - loop.time())
            pause_s = await self._look()
            if pause_s is None:
                due_s, missed = following(due_s, interval_s, loop.time())
                self._counts[Count.TICK_MISSED] += missed
            else:
                due_s = loop.time() + pause_s

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._collector.close()
        except Exception:
            log.exception("a collector does not close", extra={"resource": self._source})

    async def _look(self) -> float | None:
        """One look; the pause until the next if it gave nothing."""
        loop = asyncio.get_running_loop()
        now_ms, begun_s = self._clock(), loop.time()
        self._since_ms = now_ms if self._since_ms is None else self._since_ms
        seen = await self._collected(now_ms)
        duration_s = loop.time() - begun_s
        if isinstance(seen, Collected):
            seen = await self._tell(seen, now_ms, duration_s)
        if isinstance(seen, Down):
            await self._tell_down(seen, now_ms, duration_s)
            self._failures += 1
            return backoff_s(self._failures, seen.retry_after_s)
        self._failures = 0
        return None

    async def _collected(self, now_ms: int) -> Collected | Down:
        timeout_s = self._target.resource.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._collector.collect(now_ms, self._position)
        except Unavailable as away:
            return Down("collector.unavailable", WARN, str(away), away.retry_after_s)
        except HangsError as hangs:
            mend = "See which disk or mount does not answer: processes in state D, the kernel's log"
            return Down("collector.unavailable", WARN, f"{self._target.resource.name}: {hangs}. {mend}", FAILED_RETRY_S)
        except TimeoutError:
            mend = "See whether it is overloaded, or raise the resource's timeout_s"
            body = f"{self._target.resource.name}: no answer within {timeout_s:g} s. {mend}"
            return Down("collector.unavailable", WARN, body, FAILED_RETRY_S)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self._at_fault(error)  # a library that cancels by itself must not end the looks
        except Exception as error:  # noqa: BLE001 (a collector at fault stops nobody else; logged and counted)
            return self._at_fault(error)

    def _at_fault(self, error: BaseException) -> Down:
        log.error("a collector failed", exc_info=error, extra={"resource": self._source})
        self._counts[Count.LOOK_FAILED] += 1
        told = masked(readable(_repr(error), 4_000))
        body = f"{self._target.resource.name}: the collector is at fault: {told}. Report it with the log"
        return Down("collector.failed", ERROR, body, FAILED_RETRY_S)

    async def _tell(self, seen: Collected, now_ms: int, duration_s: float) -> Collected | Down:
        """Keep what a look gave; Down when the collector gave what nobody can read."""
        try:
            events, edges, unheard = self._edges.after(seen, now_ms)
            records, refused = self._sorted_out(seen, now_ms)
            self._count(seen, unheard)
        except Exception as error:  # noqa: BLE001 (what a collector gave may be anything; logged and counted)
            return self._at_fault(error)
        told: list[Record] = [*records, *events]
        told.append(self._own_scrape(now_ms, up=1, duration_s=duration_s, records=len(records)))
        if self._edges.is_down:
            body = f"{self._target.resource.name} answers again"
            told.append(self._event("collector.recovered", INFO, body, now_ms))
        position = seen.position if seen.position is not None else self._position
        if await self._kept(told, refused, edges, position, now_ms):
            self._edges, self._position = edges, position
        return seen

    async def _tell_down(self, down: Down, now_ms: int, duration_s: float) -> None:
        told: list[Record] = [self._own_scrape(now_ms, up=0, duration_s=duration_s, records=0)]
        if not self._edges.is_down:
            told.append(self._event(down.event, down.severity_number, down.body, now_ms))
        edges = self._edges.down()
        if await self._kept(told, [], edges, self._position, now_ms):
            self._edges = edges

    async def _kept(
        self, records: list[Record], refused: list[_Letter], edges: Edges, position: str | None, now_ms: int
    ) -> bool:
        """Whether the spool took it. What it did not take is looked at again, for the position stays."""
        stored = edges.stored(position)
        if stored is None and self._stored is not None:
            stored = ""  # nothing is to be remembered any more
        moved = None if stored is None or stored == self._stored else (self._source, stored)
        dead = [letter for one in refused for letter in one.letters]
        try:
            await self._accepted(records, dead, moved, now_ms)
        except SpoolFull as full:
            self._counts[Count.LOOK_SKIPPED] += 1
            log.debug("a look is left out: %s", full, extra={"resource": self._source})
            return False
        except Exception as error:  # noqa: BLE001 (the look is left out; logged and counted)
            self._at_fault(error)
            return False
        self._stored = stored
        self._told.learn(refused)
        self._counts[Count.RECORD_REFUSED] += len(refused)
        return True

    async def _accepted(
        self, records: list[Record], dead: list[DeadLetter], moved: tuple[str, str] | None, now_ms: int
    ) -> None:
        try:
            await self._spool.accept(records, letters=dead, position=moved)
        except SpoolFull:
            raise
        except Exception:
            # A record that cannot be written must not keep the others; which one it is, is looked for only now.
            fine = [record for record in records if _is_written(record)]
            if len(fine) == len(records):
                raise
            ill = [record for record in records if not _is_written(record)]
            detail = f"a {type(ill[0]).__name__} cannot be written as JSON"
            dead = [*dead, *(one for record in ill for one in self._letters(detail, _bytes(record), now_ms))]
            await self._spool.accept(fine, letters=dead, position=moved)
            self._counts[Count.RECORD_REFUSED] += len(ill)

    def _sorted_out(self, seen: Collected, now_ms: int) -> tuple[list[Record], list[_Letter]]:
        """What may go on, and dead letters of what could not be read or has an impossible time."""
        faults = [(record, _fault(record, now_ms)) for record in seen.records]
        refused = [*seen.refused, *((why, _bytes(record)) for record, why in faults if why)]
        dead = [_Letter(self._letters(why, payload, now_ms)) for why, payload in refused]
        for why, payload in seen.rows:
            digest = sha256(f"{why}\n".encode() + payload).digest()
            again = digest in self._told
            dead.append(_Letter([] if again else self._letters(why, payload, now_ms), digest))
        return [record for record, why in faults if not why], dead

    def _count(self, seen: Collected, unheard: int) -> None:
        for part in seen.tried if seen.tried is not None else seen.faults:
            group = name_of(part)
            if group in self._failed or len(self._failed) < MAX_GROUPS:
                self._failed[group] += part in seen.faults
        self._rows_failed += len(seen.rows)
        self._left_out += seen.left_out + unheard

    def _letters(self, detail: str, payload: bytes, now_ms: int) -> Sequence[DeadLetter]:
        place = f"collector:{self._source}"
        by = self._target.resource.system
        detail = masked(readable(detail, 4_000))
        return letters(payload, reason=Reason.INVALID, detail=detail, topic=place, rejected_by=by, time_ms=now_ms)

    def _own_scrape(self, now_ms: int, *, up: int, duration_s: float, records: int) -> Scrape:
        resource = self._target.resource
        values = {
            "up": up,
            "duration": round(duration_s, 6),
            "records": records,
            "row.failed": self._rows_failed,
            "left_out": self._left_out,
        }
        mine = {"pilothouse.collector": resource.system}
        points: dict[str, float | None] = {
            identity(f"pilothouse.collector.{name}", mine): float(value) for name, value in values.items()
        }
        for group, failed in self._failed.items():
            of_group = {**mine, "pilothouse.collector.group": group}
            points[identity("pilothouse.collector.group.failed", of_group)] = float(failed)
        return Scrape.of(
            points,
            cell=self._target.cell.name,
            resource=resource.name,
            system="pilothouse",
            time_ms=now_ms,
            start_time_ms=self._since_ms,
        )

    def _event(self, name: str, severity_number: int, body: str, now_ms: int) -> OperationsEvent:
        return OperationsEvent(
            **self._target.identity(),
            time_ms=now_ms,
            tenant=self._target.resource.tenant,
            name=name,
            severity_number=severity_number,
            body=masked(readable(body)),
            attributes={"pilothouse.collector": self._target.resource.system},
        )


@dataclass(frozen=True, slots=True)
class _Letter:
    """One thing that was refused, as dead letters; none when it was told before. `digest` is of one that may come again."""

    letters: Sequence[DeadLetter]
    digest: bytes | None = None


class _Told:
    """Digests of the rows that have become dead letters, those told last."""

    def __init__(self) -> None:
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._digests

    def learn(self, refused: Iterable[_Letter]) -> None:
        """Remember what the spool has taken."""
        for one in refused:
            if one.digest is not None:
                self._digests[one.digest] = None
                self._digests.move_to_end(one.digest)
        while len(self._digests) > MAX_LETTERS_REMEMBERED:
            self._digests.popitem(last=False)


def _fault(record: Record, now_ms: int) -> str | None:
    """What is wrong with a record that a collector gave; None if nothing is."""
    if not isinstance(record, Record):
        return f"a collector gave a {type(record).__name__}, which is no record"
    return fault(record, now_ms)


def _is_written(record: Record) -> bool:
    try:
        record.model_dump_json()
    except Exception:  # noqa: BLE001 (pydantic raises its own error, and that of Python, for a text that is no UTF-8)
        return False
    return True


def _bytes(record: object) -> bytes:
    """A refused record for the dead letters: as JSON where it can be written, and readable where it cannot."""
    if isinstance(record, Record):
        try:
            return record.model_dump_json().encode()
        except Exception:  # noqa: BLE001 (as above)
            return json.dumps(record.model_dump(), default=repr).encode()
    return masked(readable(_repr(record))).encode()


def _repr(one: object) -> str:
    try:
        return repr(one)
    except Exception:  # noqa: BLE001 (a repr is anybody's code)
        return f"a {type(one).__name__} that cannot be shown"


def first_look_s(source: str, interval_s: float) -> float:
    """When the first look is due: spread over the interval, the same at every start."""
    return crc32(source.encode()) / 2**32 * interval_s


def following(due_s: float, interval_s: float, now_s: float) -> tuple[float, int]:
    """The next look on the grid of the first one, and how many looks were missed since `due_s`."""
    missed = max(0, math.floor((now_s - due_s) / interval_s))
    return due_s + (missed + 1) * interval_s, missed


def backoff_s(failures: int, retry_after_s: float) -> float:
    """The pause after so many failures in a row: doubling from what the target asks for, at most a minute."""
    return float(min(LONGEST_BACKOFF_S, max(retry_after_s, 0.1) * 2 ** min(failures - 1, 30)))
