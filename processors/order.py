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

**Clocks that are wrong.** A heartbeat carries two instants: how far its publisher has observed, and (its Kafka timestamp) what
the publisher's clock said as it was sent. How far one has observed may leap for good reasons: history is told, a spool is drained.
A clock may not. A heartbeat whose clock is off that of the topic by more than `LEAP_MS` is in doubt: it moves nothing until it was
sustained by further ones, and each heartbeat of another publisher that keeps to the topic's clock speaks against it. After an
outage nobody speaks against it, and it is believed after `SUSTAINED`. What is recorded by a clock in doubt waits with it, and is
refused once the clock is put right or was spoken against for long.

Where a wrong clock was believed, because nobody was there to contradict, or stands in a snapshot, it comes back: its publisher itself
beats in the gap over which it had leapt, or others do and nobody upholds it. Then the time of the topic turns back, and a new era
begins: everything of the era before is folded first, and what was learned from a time that never was is given up (`fold.py`).
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import NamedTuple

from pydantic import BaseModel, Field

from schemas.bounds import reached
from schemas.codec import Received
from schemas.records import Heartbeat, Scrape

WAITING_MAX = 10_000
WAITING_BYTES = 256 * 2**20  # of what waits, roughly; a wide scrape is megabytes
VALUE_BYTES, WIDE = 32, 2_000  # of a value; columns from which a scrape's layout is taken for one of its own
FORGET_MS = 3_600_000  # a publisher that has been away for longer is forgotten
LEAP_MS = 300_000  # no clock goes wrong by less without being put right by itself
SUSTAINED = 5  # further heartbeats after which a leap is believed when nobody speaks against it
RETURNED = 10  # heartbeats after which it is taken back by those who had said it
OUTLIVED = 60  # and by others, when it is upheld by nobody; also: so many against it refuse a clock
REFORMED = 600  # heartbeats in a row, none against them, after which a clock that was refused is believed
PUBLISHERS_MAX, DOUBTS_MAX = 1_000, 100  # of a topic's partition
LEAPS_MAX = 20  # that are remembered of a topic's partition
AHEAD_MAX = 1_000  # records of a topic's partition that wait although they were recorded by a clock in doubt


class Place(NamedTuple):
    """Where an item stands in the order of a partition."""

    at_ms: int
    topic: int
    offset: int


START = Place(-1, -1, -1)


class Doubt(BaseModel):
    """A publisher whose clock is off that of the topic."""

    said_ms: int = Field(description="What its clock said last, Unix ms.")
    run: int = Field(0, description="Its heartbeats since another publisher has spoken against it.")
    against: int = Field(0, description="Heartbeats that have spoken against it.")

    @property
    def is_refused(self) -> bool:
        """Whether others have kept to the topic's clock for long meanwhile."""
        return self.against >= OUTLIVED


class Clock(BaseModel):
    """The clock of one topic of a partition, as of `next_offset`."""

    next_offset: int | None = Field(None, description="First offset not seen yet; None before the first record.")
    beats: dict[str, int] = Field(default_factory=dict, description="Last heartbeat by publisher, Unix ms.")
    time_ms: int = Field(-1, description="Everything observed before is here; -1: no heartbeat yet.")
    late: dict[int, int] = Field(default_factory=dict, description="at_ms of late records that wait, by offset.")
    said_ms: int = Field(-1, description="The latest that a believed clock has said, Unix ms.")
    upheld: list[str] | None = Field(None, description="Publishers whose last heartbeat keeps to it; None: not known.")
    doubts: dict[str, Doubt] = Field(default_factory=dict, description="Clocks that do not, by publisher.")
    turns: list[int] = Field(default_factory=list, description="Offsets at which the time has turned back.")
    leaps: list[tuple[int, int]] = Field(
        default_factory=list, description="Leaps that were believed: from, to, Unix ms."
    )
    turned_ms: list[int] = Field(default_factory=list, description="And to when, Unix ms.")
    refused: list[int] = Field(default_factory=list, description="Offsets of records refused before they were passed.")

    def beat(self, heartbeat: Heartbeat, stray_ms: int, sent_ms: int | None = None) -> bool:
        """Take in a heartbeat; the clock never goes back, except for a new era. Whether the heartbeat counted."""
        self._know_voices()
        name, said_ms = heartbeat.publisher, max(heartbeat.time_ms, sent_ms or 0)
        if self.said_ms >= 0 and abs(said_ms - self.said_ms) > LEAP_MS:
            if not self._is_sustained(name, said_ms):
                return False
            if said_ms < self.said_ms:
                self._turn_back(heartbeat, said_ms)
                return True
            self.leaps = [*self.leaps, (self.said_ms, said_ms)][-LEAPS_MAX:]
        self.said_ms = max(self.said_ms, said_ms)
        self._agree(name)
        known = self.beats.get(name, -1)
        self.beats[name] = max(known, heartbeat.time_ms)
        newest = max(self.beats.values())
        self.beats = {name: at for name, at in self.beats.items() if at > newest - FORGET_MS}
        if len(self.beats) > PUBLISHERS_MAX:
            reached("order.publishers")
            del self.beats[min(self.beats, key=lambda one: (self.beats[one], one))]
        alive = [time_ms for time_ms in self.beats.values() if time_ms > newest - stray_ms]
        self.time_ms = max(self.time_ms, min(alive))
        return True

    def is_ahead(self, recorded_ms: int) -> bool:
        """Whether what was recorded then can only have been recorded by a wrong clock, or after an outage."""
        return 0 <= self.said_ms < recorded_ms - LEAP_MS

    def doubt(self, name: str, said_ms: int) -> Doubt | None:
        """The doubt about a publisher, None beyond the bound of what is remembered."""
        if name not in self.doubts and len(self.doubts) >= DOUBTS_MAX:
            reached("order.doubts")
            return None
        return self.doubts.setdefault(name, Doubt(said_ms=said_ms))

    def era(self, offset: int) -> int:
        """How often the time had turned back when the offset was written."""
        return sum(turned <= offset for turned in self.turns)

    def strays(self, stray_ms: int) -> list[str]:
        """Publishers that the others have left behind."""
        newest = max(self.beats.values(), default=0)
        return sorted(name for name, time_ms in self.beats.items() if time_ms <= newest - stray_ms)

    def _know_voices(self) -> None:
        """A snapshot of the version before knows heartbeats alone."""
        if self.said_ms < 0 and self.time_ms >= 0:
            self.said_ms = max([self.time_ms, *self.beats.values()])
        if self.upheld is None:
            self.upheld = sorted(name for name, at in self.beats.items() if at >= self.said_ms - LEAP_MS)

    def _is_sustained(self, name: str, said_ms: int) -> bool:
        """Count a heartbeat in doubt; whether it is believed by now."""
        assert self.upheld is not None
        if name in self.upheld:
            self.upheld.remove(name)
        doubt = self.doubt(name, said_ms)
        if doubt is None:
            return False
        doubt.run = doubt.run + 1 if said_ms >= doubt.said_ms else 1
        doubt.said_ms = said_ms
        if doubt.is_refused:
            return doubt.run > REFORMED
        if said_ms > self.said_ms:
            return doubt.run > SUSTAINED
        return doubt.run > (OUTLIVED if self.upheld else RETURNED)

    def _agree(self, name: str) -> None:
        assert self.upheld is not None
        self.doubts.pop(name, None)
        if name not in self.upheld:
            self.upheld = [*self.upheld, name][-PUBLISHERS_MAX:]
        for doubt in self.doubts.values():
            doubt.run = 0
            doubt.against += 1

    def _turn_back(self, heartbeat: Heartbeat, said_ms: int) -> None:
        name, time_ms = heartbeat.publisher, heartbeat.time_ms
        self.beats, self.time_ms, self.said_ms = {name: time_ms}, time_ms, said_ms
        self.upheld, self.doubts = [name], {}
        self.turns.append((self.next_offset or 1) - 1)
        self.turned_ms.append(time_ms)


class Order:
    """Holds the records of one partition until their place is certain."""

    def __init__(self, topics: tuple[int, ...], grace_ms: int, stray_ms: int, waiting_max: int = WAITING_MAX) -> None:
        self.topics, self.grace_ms, self.stray_ms = topics, grace_ms, stray_ms
        self.clocks = [Clock() for _ in range(max(topics) + 1)]
        self.cursor = START
        self.late = 0
        self.waiting_max, self._is_full = waiting_max, False
        self._held: set[int] = set()
        self._held_at = (0, -1)
        self._waiting: list[tuple[int, int, int, int, Received]] = []
        self.era = 0
        """That of the cursor."""
        self.doubted = 0
        """Heartbeats that did not count because their clock was in doubt."""
        self.refused: list[tuple[Place, Received]] = []
        """Records that wrong clocks have recorded; for the dead letters."""
        self._ahead: Counter[tuple[int, str]] = Counter()
        self._alone: Counter[int] = Counter()

    @property
    def horizon(self) -> tuple[int, int]:
        """Every item before this is here: an era, and an instant in it."""
        return self._held_at if self._held else self._reached()

    @property
    def horizon_ms(self) -> int:
        """The instant of the horizon."""
        return self.horizon[1]

    def folded(self) -> tuple[int, ...]:
        """How far this is, comparable with others of the same log, also across eras."""
        return ((self.era << 50) + self.cursor.at_ms, self.cursor.topic, self.cursor.offset, sum(self.floor()))

    def has_leapt(self, since_ms: int, until_ms: int) -> bool:
        """Whether clocks have leapt over log time between two instants, rather than told history that has gaps."""
        leaps = self.clocks[self.topics[0]].leaps
        return any(before_ms < until_ms and since_ms < after_ms for before_ms, after_ms in leaps)

    def begin_era(self) -> int:
        """Everything of the era before is folded; from when on (log time, ms) the new one goes."""
        begins_ms = min(self.clocks[topic].turned_ms[self.era] for topic in self.topics)
        self.era, self.cursor = self.era + 1, START
        return begins_ms

    def resume(self, cursor: Place, clocks: list[Clock], horizon_ms: int, era: int = 0, held_era: int = 0) -> None:
        """Go on from a snapshot. The horizon stays until every topic is read again up to where its clock was taken."""
        self.cursor, self.era, self.clocks[: len(clocks)] = cursor, era, clocks
        for topic in self.topics:
            clock = self.clocks[topic]
            if clock.next_offset is None:  # a topic that was not read before begins in the present era
                clock.turns, clock.turned_ms = [-1] * held_era, [0] * held_era
        self._held = {topic for topic in self.topics if self.clocks[topic].next_offset is not None}
        # Not what the clocks say: the snapshot may have been taken while this one stood still.
        self._held_at = (held_era, horizon_ms)

    def beat(self, topic: int, offset: int, heartbeat: Heartbeat, sent_ms: int | None = None) -> None:
        """Take in a heartbeat, which its publisher sent at `sent_ms` of its own clock.

        One that was seen before a snapshot is part of the restored clock already.
        """
        clock = self.clocks[topic]
        self._let_go(topic, offset)
        if clock.next_offset is None or offset >= clock.next_offset:
            clock.next_offset = offset + 1
            if not clock.beat(heartbeat, self.stray_ms, sent_ms):
                self.doubted += 1
                return
            if self._ahead:
                self._refuse_ahead(topic, heartbeat.publisher)
            self._follow(topic, offset)

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
        clock, recorded_ms = self.clocks[topic], received.envelope.recorded_ms
        is_new = clock.next_offset is None or offset >= clock.next_offset
        at_ms = self._at(topic, offset, recorded_ms)
        self._let_go(topic, offset)
        if clock.is_ahead(recorded_ms) and self._is_refused(topic, offset, received, is_new=is_new):
            return
        era = clock.era(offset)
        if (era, at_ms, topic, offset) > (self.era, *self.cursor):
            heapq.heappush(self._waiting, (era, at_ms, topic, offset, received))

    def next_at(self) -> tuple[int, int] | None:
        """Era and `at_ms` of the next item, None when none waits."""
        return self._waiting[0][:2] if self._waiting else None

    def pop(self) -> tuple[Place, Received]:
        """Let go the next item; the caller has seen that it stands before the horizon."""
        _, at_ms, topic, offset, received = heapq.heappop(self._waiting)
        self.cursor = Place(at_ms, topic, offset)
        self.clocks[topic].late.pop(offset, None)
        return self.cursor, received

    def ahead(self) -> frozenset[int]:
        """Topics of which nothing more is to be read for now: none until too many records wait, or once half are gone."""
        part = 2 if self._is_full else 1
        self._is_full = len(self._waiting) > self.waiting_max // part or self._size() > WAITING_BYTES // part
        if not self._is_full:
            return frozenset()
        slowest = min(self._stands(topic) for topic in self.topics)
        wanted = self._held or {topic for topic in self.topics if self._stands(topic) == slowest}
        return frozenset(self.topics) - wanted

    def _size(self) -> int:
        """Bytes of the scrapes that wait, roughly; layouts that are not wide are mostly shared."""
        scrapes = (item[-1].record for item in self._waiting if isinstance(item[-1].record, Scrape))
        return sum(
            VALUE_BYTES * len(one.values) + (len(one.series) if len(one.values) > WIDE else 0) for one in scrapes
        )

    def floor(self) -> list[int]:
        """By topic, the first offset that is not folded yet: everything before it may be acknowledged."""
        floors = [0 if topic in self._held else clock.next_offset or 0 for topic, clock in enumerate(self.clocks)]
        for _, _, topic, offset, _ in self._waiting:
            floors[topic] = min(floors[topic], offset)
        for clock, floor in zip(self.clocks, floors, strict=True):
            if clock.refused:
                clock.refused = [offset for offset in clock.refused if offset >= floor]
        return floors

    def _let_go(self, topic: int, offset: int) -> None:
        if self._held and offset + 1 >= (self.clocks[topic].next_offset or 0):
            self._held.discard(topic)

    def _follow(self, topic: int, offset: int) -> None:
        """A topic that has not seen the leap of the others has nothing to take back: it follows them when they wait for it.

        Publishers write the same heartbeats to all topics, so this is for topics that were lost and made anew.
        """
        clock = self.clocks[topic]
        if len(clock.turns) == max(len(self.clocks[one].turns) for one in self.topics):
            self._alone[topic] = 0
            return
        self._alone[topic] += 1
        if self._alone[topic] > REFORMED:
            clock.turns.append(offset)
            clock.turned_ms.append(clock.time_ms)

    def _reached(self) -> tuple[int, int]:
        era, time_ms = min(self._stands(topic) for topic in self.topics)
        return era, time_ms - self.grace_ms

    def _stands(self, topic: int) -> tuple[int, int]:
        clock = self.clocks[topic]
        return len(clock.turns), clock.time_ms

    def _is_refused(self, topic: int, offset: int, received: Received, *, is_new: bool) -> bool:
        """Whether a record of a clock in doubt is refused at once; else it waits with its clock."""
        clock, source = self.clocks[topic], received.envelope.source
        if not is_new and offset in clock.refused:
            return True  # It is in the dead letters already.
        self._ahead[topic, source] += 1
        if not is_new:
            return False
        doubt = clock.doubt(source, received.envelope.recorded_ms)
        if doubt is None or doubt.is_refused or self._many_ahead(topic) > AHEAD_MAX:
            self._refuse(topic, offset, received)
            return True
        return False

    def _many_ahead(self, topic: int) -> int:
        """How many records of doubtful clocks wait; counted anew when there seem to be too many."""
        known = sum(count for (of, _), count in self._ahead.items() if of == topic)
        if known <= AHEAD_MAX:
            return known
        clock = self.clocks[topic]
        present = len(clock.turns)
        waiting = [
            received.envelope
            for era, _, of, _, received in self._waiting
            if of == topic and era == present and clock.is_ahead(received.envelope.recorded_ms)
        ]
        for key in [key for key in self._ahead if key[0] == topic]:
            del self._ahead[key]
        self._ahead.update((topic, one.source) for one in waiting)
        return len(waiting) + 1

    def _refuse_ahead(self, topic: int, publisher: str) -> None:
        """A publisher keeps to the topic's clock: what it has recorded beyond is refused, and what others have that are refused."""
        clock = self.clocks[topic]
        known = [source for of, source in self._ahead if of == topic]
        gone = {one for one in known if one == publisher or ((doubt := clock.doubts.get(one)) and doubt.is_refused)}
        if not gone:
            return
        for source in gone:
            del self._ahead[topic, source]
        kept, present = [], len(clock.turns)
        for entry in self._waiting:
            era, _, of, offset, received = entry
            envelope = received.envelope
            # What waits in an era that is over is folded with it, whatever is read first.
            is_doubtful = of == topic and era == present and clock.is_ahead(envelope.recorded_ms)
            if is_doubtful and envelope.source in gone:
                self._refuse(topic, offset, received)
            else:
                kept.append(entry)
        self._waiting = kept
        heapq.heapify(self._waiting)

    def _refuse(self, topic: int, offset: int, received: Received) -> None:
        self.clocks[topic].refused.append(offset)
        self.refused.append((Place(received.envelope.recorded_ms, topic, offset), received))

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
