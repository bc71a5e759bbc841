"""One order for the records of a partition, whoever is read first.

A partition's records stand in several topics that are read side by side, so the order of reading is chance. Here they
are held until every topic's clock has passed them by the grace, and let go in an order that is a property of the
log alone: (`at_ms`, topic, offset). A topic's clock is the lowest of its publishers' heartbeats; a publisher whose
heartbeat the others have passed by `stray_ms` is left out until it catches up.

A record is late when its recorded time lies behind its own topic's clock, less the grace, at the place where it stands
in the log. A late record takes the earliest place that is still open, which again depends on the log alone.
However far one topic is read ahead of another, no more than `waiting_max` records are held, and what was fetched already:
`ahead` then names the topics of which nothing more is to be read until those that hold them up have caught up. Where these have
nothing more to read, because nobody beats for them, the partition stands still and the log keeps what comes.
Source of the idea: MillWheel's low watermarks (Akidau et al. 2013).
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

from pydantic import BaseModel, Field

from schemas.codec import Received
from schemas.records import Heartbeat

WAITING_MAX = 10_000
FORGET_MS = 3_600_000  # a publisher that has been away for longer is forgotten


class Place(NamedTuple):
    """Where an item stands in the order of a partition."""

    at_ms: int
    topic: int
    offset: int


START = Place(-1, -1, -1)


class Clock(BaseModel):
    """The clock of one topic of a partition, as of `next_offset`."""

    next_offset: int | None = Field(None, description="First offset not seen yet; None before the first record.")
    beats: dict[str, int] = Field(default_factory=dict, description="Last heartbeat by publisher, Unix ms.")
    time_ms: int = Field(-1, description="Everything observed before is here; -1: no heartbeat yet.")
    late: dict[int, int] = Field(default_factory=dict, description="at_ms of late records that wait, by offset.")

    def beat(self, heartbeat: Heartbeat, stray_ms: int) -> None:
        """Take in a heartbeat; the clock never goes back."""
        known = self.beats.get(heartbeat.publisher, -1)
        self.beats[heartbeat.publisher] = max(known, heartbeat.time_ms)
        newest = max(self.beats.values())
        self.beats = {name: at for name, at in self.beats.items() if at > newest - FORGET_MS}
        alive = [time_ms for time_ms in self.beats.values() if time_ms > newest - stray_ms]
        self.time_ms = max(self.time_ms, min(alive))

    def strays(self, stray_ms: int) -> list[str]:
        """Publishers that the others have left behind."""
        newest = max(self.beats.values(), default=0)
        return sorted(name for name, time_ms in self.beats.items() if time_ms <= newest - stray_ms)


class Order:
    """Holds the records of one partition until their place is certain."""

    def __init__(self, topics: tuple[int, ...], grace_ms: int, stray_ms: int, waiting_max: int = WAITING_MAX) -> None:
        self.topics, self.grace_ms, self.stray_ms = topics, grace_ms, stray_ms
        self.clocks = [Clock() for _ in range(max(topics) + 1)]
        self.cursor = START
        self.late = 0
        self.waiting_max, self._is_full = waiting_max, False
        self._held: set[int] = set()
        self._held_at_ms = -1
        self._waiting: list[tuple[int, int, int, Received]] = []

    @property
    def horizon_ms(self) -> int:
        """Every item before this is here."""
        return self._held_at_ms if self._held else self._reached_ms()

    def resume(self, cursor: Place, clocks: list[Clock], horizon_ms: int) -> None:
        """Go on from a snapshot. The horizon stays until every topic is read again up to where its clock was taken."""
        self.cursor, self.clocks[: len(clocks)] = cursor, clocks
        self._held = {topic for topic in self.topics if self.clocks[topic].next_offset is not None}
        self._held_at_ms = (
            horizon_ms  # not what the clocks say: the snapshot may have been taken while this one stood still
        )

    def beat(self, topic: int, offset: int, heartbeat: Heartbeat) -> None:
        """Take in a heartbeat. One that was seen before a snapshot is part of the restored clock already."""
        clock = self.clocks[topic]
        self._let_go(topic, offset)
        if clock.next_offset is None or offset >= clock.next_offset:
            clock.beat(heartbeat, self.stray_ms)
            clock.next_offset = offset + 1

    def skip(self, topic: int, offset: int) -> None:
        """Pass over an offset that holds nothing to fold."""
        clock = self.clocks[topic]
        self._let_go(topic, offset)
        clock.next_offset = max(clock.next_offset or 0, offset + 1)

    def begin_anew(self, topic: int) -> None:
        """The topic is another one under the old name: its offsets count from 0 again, and what was told of time holds."""
        self.clocks[topic].next_offset, self.clocks[topic].late = None, {}
        self._held.discard(topic)

    def add(self, topic: int, offset: int, received: Received) -> None:
        """Take in a record; one that was let go before is dropped here."""
        at_ms = self._at(topic, offset, received.envelope.recorded_ms)
        self._let_go(topic, offset)
        if Place(at_ms, topic, offset) > self.cursor:
            heapq.heappush(self._waiting, (at_ms, topic, offset, received))

    def next_at(self) -> int | None:
        """`at_ms` of the next item, None when none waits."""
        return self._waiting[0][0] if self._waiting else None

    def pop(self) -> tuple[Place, Received]:
        """Let go the next item; the caller has seen that it stands before the horizon."""
        at_ms, topic, offset, received = heapq.heappop(self._waiting)
        self.cursor = Place(at_ms, topic, offset)
        self.clocks[topic].late.pop(offset, None)
        return self.cursor, received

    def ahead(self) -> frozenset[int]:
        """Topics of which nothing more is to be read for now: none until too many records wait, or once half are gone."""
        self._is_full = len(self._waiting) > (self.waiting_max // 2 if self._is_full else self.waiting_max)
        if not self._is_full:
            return frozenset()
        slowest = min(self.clocks[topic].time_ms for topic in self.topics)
        wanted = self._held or {topic for topic in self.topics if self.clocks[topic].time_ms == slowest}
        return frozenset(self.topics) - wanted

    def floor(self) -> list[int]:
        """By topic, the first offset that is not folded yet: everything before it may be acknowledged."""
        floors = [0 if topic in self._held else clock.next_offset or 0 for topic, clock in enumerate(self.clocks)]
        for _, topic, offset, _ in self._waiting:
            floors[topic] = min(floors[topic], offset)
        return floors

    def _let_go(self, topic: int, offset: int) -> None:
        if self._held and offset + 1 >= (self.clocks[topic].next_offset or 0):
            self._held.discard(topic)

    def _reached_ms(self) -> int:
        return min(self.clocks[topic].time_ms for topic in self.topics) - self.grace_ms

    def _at(self, topic: int, offset: int, recorded_ms: int) -> int:
        clock = self.clocks[topic]
        if clock.next_offset is not None and offset < clock.next_offset:
            return clock.late.get(offset, recorded_ms)  # Judged when it was first read; the clock has moved on since.
        clock.next_offset = offset + 1
        earliest = clock.time_ms - self.grace_ms
        if recorded_ms >= earliest:
            return recorded_ms
        self.late += 1
        clock.late[offset] = earliest
        return earliest
