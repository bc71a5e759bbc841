"""Looks at every target again and again, each in a task of its own, so that a hung one delays nobody.

What a look gave goes to the spool together with the position it ended at. That a target is away, back, or that its
collector is at fault is told as an event at the edge and as `pilothouse.collector.up` at every look.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

from ingest.collector import Collected, Collector, Target, Unavailable
from ingest.counts import Count, Counts
from ingest.moments import fault
from ingest.oversize import letters
from ingest.spool import SpoolFull
from schemas.codec import Reason
from schemas.records import DeadLetter, OperationsEvent, Record, Scrape
from schemas.series import identity

log = logging.getLogger(__name__)

LONGEST_BACKOFF_S = 60.0
FAILED_RETRY_S = 5.0
CLOSE_TIMEOUT_S = 5.0
SEVERITY_INFO, SEVERITY_WARN, SEVERITY_ERROR = 9, 13, 17


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
        self._position: str | None = None
        self._is_up: bool | None = None
        self._failures = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        interval_s = self._target.resource.interval_s
        self._position = await self._spool.position(self._source)
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
        seen = await self._collected(now_ms)
        duration_s = loop.time() - begun_s
        if isinstance(seen, Down):
            await self._tell_down(seen, now_ms, duration_s)
            self._failures += 1
            return backoff_s(self._failures, seen.retry_after_s)
        self._failures = 0
        await self._tell(seen, now_ms, duration_s)
        return None

    async def _collected(self, now_ms: int) -> Collected | Down:
        timeout_s = self._target.resource.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._collector.collect(now_ms, self._position)
        except Unavailable as away:
            return Down("collector.unavailable", SEVERITY_WARN, str(away), away.retry_after_s)
        except TimeoutError:
            mend = "See whether it is overloaded, or raise the resource's timeout_s"
            body = f"{self._target.resource.name}: no answer within {timeout_s:g} s. {mend}"
            return Down("collector.unavailable", SEVERITY_WARN, body, FAILED_RETRY_S)
        except Exception as error:
            log.exception("a collector failed", extra={"resource": self._source})
            self._counts[Count.LOOK_FAILED] += 1
            body = f"{self._target.resource.name}: the collector is at fault: {error!r}. Report it with the log"
            return Down("collector.failed", SEVERITY_ERROR, body, FAILED_RETRY_S)

    async def _tell(self, seen: Collected, now_ms: int, duration_s: float) -> None:
        records, refused = self._sorted_out(seen, now_ms)
        told: list[Record] = [*records, self._own_scrape(now_ms, up=1, duration_s=duration_s, records=len(records))]
        if self._is_up is False:
            body = f"{self._target.resource.name} answers again"
            told.append(self._event("collector.recovered", SEVERITY_INFO, body, now_ms))
        if await self._kept(told, refused, seen.position):
            self._is_up = True
            self._position = seen.position if seen.position is not None else self._position

    async def _tell_down(self, down: Down, now_ms: int, duration_s: float) -> None:
        told: list[Record] = [self._own_scrape(now_ms, up=0, duration_s=duration_s, records=0)]
        if self._is_up is not False:
            told.append(self._event(down.event, down.severity_number, down.body, now_ms))
        if await self._kept(told, [], None):
            self._is_up = False

    async def _kept(self, records: list[Record], refused: list[DeadLetter], position: str | None) -> bool:
        """Whether the spool took it. What it did not take is looked at again, for the position stays."""
        try:
            moved = None if position is None else (self._source, position)
            await self._spool.accept(records, letters=refused, position=moved)
        except SpoolFull as full:
            self._counts[Count.LOOK_SKIPPED] += 1
            log.debug("a look is left out: %s", full, extra={"resource": self._source})
            return False
        self._counts[Count.RECORD_REFUSED] += len(refused)
        return True

    def _sorted_out(self, seen: Collected, now_ms: int) -> tuple[list[Record], list[DeadLetter]]:
        """What may go on, and dead letters of what could not be read or has an impossible time."""
        faults = [(record, fault(record, now_ms)) for record in seen.records]
        refused = [*seen.refused, *((why, record.model_dump_json().encode()) for record, why in faults if why)]
        dead = [letter for detail, payload in refused for letter in self._letters(detail, payload, now_ms)]
        return [record for record, why in faults if not why], dead

    def _letters(self, detail: str, payload: bytes, now_ms: int) -> Sequence[DeadLetter]:
        place = f"collector:{self._source}"
        by = self._target.resource.system
        return letters(payload, reason=Reason.INVALID, detail=detail, topic=place, rejected_by=by, time_ms=now_ms)

    def _own_scrape(self, now_ms: int, *, up: int, duration_s: float, records: int) -> Scrape:
        resource = self._target.resource
        values = {"up": up, "duration": round(duration_s, 6), "records": records}
        attributes = {"pilothouse.collector": resource.system}
        points = {identity(f"pilothouse.collector.{name}", attributes): float(value) for name, value in values.items()}
        cell = self._target.cell.name
        return Scrape.of(dict(points), cell=cell, resource=resource.name, system="pilothouse", time_ms=now_ms)

    def _event(self, name: str, severity_number: int, body: str, now_ms: int) -> OperationsEvent:
        return OperationsEvent(
            **self._target.identity(),
            time_ms=now_ms,
            tenant=self._target.resource.tenant,
            name=name,
            severity_number=severity_number,
            body=body[:16_000],
            attributes={"pilothouse.collector": self._target.resource.system},
        )


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
