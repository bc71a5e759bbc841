"""Simulated records through the real fold: the same plan, order, heartbeats and steps as in a worker.

What a cell has been is folded once and kept as a snapshot, as a worker would write it; each run goes on from there. Looks
are a little apart, the publisher's clock is a little off, some looks fail, some records come late, some come twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pilothouse.simulate.board import Carry, Sheet
from pilothouse.simulate.cell import World
from pilothouse.simulate.documents import TOLD_MS
from pilothouse.simulate.drawing import LOOK_S, Drawn
from pilothouse.simulate.drivers import Drivers, Span
from processors.fold import Finding, PartitionFold, Plan
from processors.steps.registry import chosen
from schemas.codec import Envelope, Received
from schemas.records import BusinessBatch, Heartbeat, Record
from schemas.topics import INPUTS, topic_of

PUBLISHER, CUT_OFF = "simulate", "simulate-cut-off"
TOPIC = {topic.name: place for place, topic in enumerate(INPUTS)}
TWICE = 0.002
LOOK_MS = round(LOOK_S * 1000)  # looks are stamped up to half of it before the end of what they tell of
TOLD_AT_MS = 4_000_000_000_000  # all of it is told at one instant, later than all that is simulated
SLOWLY_S = 300.0  # of histories and stories of days, looked at every five or fifteen minutes

Settings = Mapping[str, Mapping[str, Any]]
Timed = tuple[int, Record]


@dataclass
class Position:
    """Where a publisher stands in the partition."""

    offsets: list[int] = field(default_factory=lambda: [0] * len(INPUTS))
    sequence: int = 0
    held: list[Timed] = field(default_factory=list)

    def copy(self) -> Position:
        """One that a branch may change."""
        return Position(list(self.offsets), self.sequence, list(self.held))


@dataclass(frozen=True)
class Moment:
    """A cell as it is known to the steps at an instant; runs branch off from it."""

    drawn: Drawn
    at_ms: int
    parts: Mapping[tuple[str, ...], bytes]
    position: Position
    carry: Carry


class Cell:
    """One cell through the fold. `settings` are candidate tunables by step."""

    def __init__(self, drawn: Drawn, settings: Settings | None = None, *, slowly: bool = False) -> None:
        self.drawn, self.at_ms = drawn, drawn.start_ms
        estate = drawn.estate(SLOWLY_S) if slowly else drawn.estate()
        self.plan = Plan.of(chosen(settings or {}), estate, settings)
        self.fold = PartitionFold(self.plan)
        self.position, self.carry = Position(), Carry()
        self.points = self.records = 0
        self.log: list[tuple[int, Record]] | None = None
        self.systems: frozenset[str] = frozenset()  # the only ones looked at; empty for all
        self.world: World | None = None  # as it really was over the last span
        self.besides: frozenset[str] = frozenset()  # looked at besides, which no history knows

    @classmethod
    def at(
        cls, moment: Moment, settings: Settings | None = None, drawn: Drawn | None = None, *, slowly: bool = False
    ) -> Cell:
        """Go on from a moment; `drawn` has what was declared since. `slowly`: the looks are far apart."""
        cell = cls(drawn or moment.drawn, settings, slowly=slowly)
        cell.fold = PartitionFold.restore(cell.plan, moment.parts)
        cell.at_ms, cell.position, cell.carry = moment.at_ms, moment.position.copy(), moment.carry.copy()
        return cell

    def moment(self) -> Moment:
        """The present, as a worker would snapshot it."""
        return Moment(self.drawn, self.at_ms, self.fold.snapshot(), self.position.copy(), self.carry.copy())

    def run(self, drivers: Drivers, seed: int, more: Iterable[Timed] = (), *, documents: bool = True) -> list[Finding]:
        """Live through a span; `more` are records of its own (changes, events), by when they are recorded."""
        return self.publish(drivers.span, self.draw(drivers, seed, more, documents=documents), seed)

    def draw(
        self, drivers: Drivers, seed: int, more: Iterable[Timed] = (), *, documents: bool = True
    ) -> list[list[Timed]]:
        """What is recorded over a span, by look."""
        self.world = world = World(self.drawn, drivers, self.carry, seed, self.drawn.start_ms)
        sheets = [one for one in world.sheets(self.besides) if not self.systems or one.system in self.systems]
        random = np.random.default_rng([self.drawn.seed, seed, 13])
        looks = _looks(world, sheets, more, random, documents=documents)
        return [sorted(one, key=lambda pair: pair[0]) for one in looks]

    def publish(self, span: Span, looks: list[list[Timed]], seed: int) -> list[Finding]:
        """Through the fold. Raises RuntimeError when a step failed."""
        random = np.random.default_rng([self.drawn.seed, seed, 29])
        found: list[Finding] = []
        for time_ms, records in zip(span.times_ms.tolist(), looks, strict=True):
            found += self._publish(time_ms, records, random)
        self.at_ms = int(span.times_ms[-1])
        # A snapshot holds nothing that still waits for the grace to pass; a worker would read it again.
        found += self._beat(self.at_ms + self.plan.grace_ms + 1)
        if self.fold.failures:
            failure = self.fold.failures[0]
            raise RuntimeError(f"step {failure.step} failed on {failure.record or failure.what}") from failure.error
        return found

    def _publish(self, time_ms: int, records: list[Timed], random: np.random.Generator) -> list[Finding]:
        """One interval. What another publisher was cut off with comes behind the rest: no publisher ever goes back itself."""
        late, self.position.held = self.position.held, []
        for recorded_ms, record in records:
            if self.log is not None:
                self.log.append((recorded_ms, record))
            is_late = random.random() < self.drawn.late
            if is_late and isinstance(record, BusinessBatch) and recorded_ms + TOLD_MS < time_ms:
                # Documents are read every minute, however far apart the looks are: late by one reading.
                self._put(recorded_ms + TOLD_MS, record, source=CUT_OFF)
            elif is_late:
                self.position.held.append((recorded_ms, record))
            else:
                self._put(recorded_ms, record, twice=random.random() < TWICE)
        for recorded_ms, record in late:
            self._put(recorded_ms, record, source=CUT_OFF)
        return self._beat(time_ms)

    def _beat(self, time_ms: int) -> list[Finding]:
        found: list[Finding] = []
        for topic in self.plan.listens:
            offset = self.position.offsets[topic]
            self.position.offsets[topic] += 1
            found += self.fold.feed(topic, offset, Heartbeat(publisher=PUBLISHER, time_ms=time_ms), TOLD_AT_MS)
        return found

    def _put(self, recorded_ms: int, record: Record, *, source: str = PUBLISHER, twice: bool = False) -> None:
        self.records += 1
        self.points += len(getattr(record, "values", ()))
        self.position.sequence += 1
        topic = TOPIC[topic_of(record).name]
        received = Received(Envelope(source, self.position.sequence, recorded_ms), record)
        for _ in range(1 + twice):
            if topic in self.plan.listens:
                self.fold.feed(topic, self.position.offsets[topic], received)
                self.position.offsets[topic] += 1


def _looks(
    world: World, sheets: list[Sheet], more: Iterable[Timed], random: np.random.Generator, *, documents: bool
) -> list[list[Timed]]:
    """By look, what is recorded in the interval that it ends."""
    span, drawn = world.span, world.drawn
    times = span.times_ms.tolist()
    looks: list[list[Timed]] = [[] for _ in times]
    # Each resource is looked at at its own moment, as long before the end of an interval however long that is: a look that
    # came the earlier the coarser the interval would have the first finer one tell of a minute as if it were many.
    shortest_ms = min(int(span.dt_s.min() * 1000), LOOK_MS)
    moments = np.random.default_rng([drawn.seed, 17]).integers(shortest_ms // 10, max(shortest_ms // 2, 2), len(sheets))
    fails = random.random((len(times), len(sheets))) < drawn.miss
    for place, time_ms in enumerate(times):
        for number, sheet in enumerate(sheets):
            if not fails[place, number]:
                at_ms = time_ms - int(moments[number])
                looks[place].append((at_ms, sheet.scrape(place, at_ms + drawn.skew_ms)))
    own = list(more)
    if documents:
        batches = (batch for tenant in world.tenants for batch in tenant.documents.batches(drawn.cell, span))
        # What was reached within a minute is read at its end.
        own += [(min((batch.time_ms // TOLD_MS + 1) * TOLD_MS, times[-1]), batch) for batch in batches]
    edges = np.asarray(times)
    for at_ms, record in own:
        place = int(np.searchsorted(edges, at_ms, side="left"))
        if place < len(looks):
            looks[place].append((at_ms, record))
    return looks
