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
from pilothouse.simulate.drawing import Drawn
from pilothouse.simulate.drivers import Drivers
from processors.fold import Finding, PartitionFold, Plan
from processors.steps.registry import STEPS
from schemas.codec import Envelope, Received
from schemas.records import Heartbeat, Record
from schemas.topics import INPUTS, topic_of

PUBLISHER = "simulate"
TOPIC = {topic.name: place for place, topic in enumerate(INPUTS)}
TWICE = 0.002
# Looks are a minute apart here, so that stories are looked at every few seconds and document clocks twice a minute.
PACE: dict[str, dict[str, Any]] = {"correlator": {"look_every_ms": 5_000}, "journeys": {"look_every_ms": 30_000}}

Settings = Mapping[str, Mapping[str, Any]]
Timed = tuple[int, Record]


@dataclass
class Position:
    """Where a publisher stands in the partition."""

    offsets: list[int] = field(default_factory=lambda: [0] * len(INPUTS))
    sequence: int = 0
    held: list[tuple[int, Received]] = field(default_factory=list)

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

    def __init__(self, drawn: Drawn, settings: Settings | None = None) -> None:
        self.drawn, self.at_ms = drawn, drawn.start_ms
        self.plan = Plan.of(STEPS.values(), drawn.estate, _settings(settings or {}))
        self.fold = PartitionFold(self.plan)
        self.position, self.carry = Position(), Carry()
        self.points = self.records = 0
        self.log: list[tuple[int, Record]] | None = None
        self.systems: frozenset[str] = frozenset()  # the only ones looked at; empty for all

    @classmethod
    def at(cls, moment: Moment, settings: Settings | None = None, drawn: Drawn | None = None) -> Cell:
        """Go on from a moment; `drawn` has what was declared since."""
        cell = cls(drawn or moment.drawn, settings)
        cell.fold = PartitionFold.restore(cell.plan, moment.parts)
        cell.at_ms, cell.position, cell.carry = moment.at_ms, moment.position.copy(), moment.carry.copy()
        return cell

    def moment(self) -> Moment:
        """The present, as a worker would snapshot it."""
        return Moment(self.drawn, self.at_ms, self.fold.snapshot(), self.position.copy(), self.carry.copy())

    def run(self, drivers: Drivers, seed: int, more: Iterable[Timed] = (), *, documents: bool = True) -> list[Finding]:
        """Live through a span; `more` are records of its own (changes, events), by when they are recorded."""
        random = np.random.default_rng([self.drawn.seed, seed, 13])
        world = World(self.drawn, drivers, self.carry, seed, self.drawn.start_ms)
        sheets = [one for one in world.sheets() if not self.systems or one.system in self.systems]
        told = _looks(world, sheets, more, random, documents=documents)
        looks = [sorted(one, key=lambda pair: pair[0]) for one in told]
        found: list[Finding] = []
        for time_ms, records in zip(drivers.span.times_ms.tolist(), looks, strict=True):
            found += self._publish(time_ms, records, random)
        self.at_ms = int(drivers.span.times_ms[-1])
        if self.fold.failures:
            raise RuntimeError(f"a step failed on {self.fold.failures[0].received.record}") from self.fold.failures[
                0
            ].error
        return found

    def _publish(self, time_ms: int, records: list[Timed], random: np.random.Generator) -> list[Finding]:
        late, self.position.held = self.position.held, []
        for recorded_ms, record in records:
            self.position.sequence += 1
            if self.log is not None:
                self.log.append((recorded_ms, record))
            received = Received(Envelope(PUBLISHER, self.position.sequence, recorded_ms), record)
            topic = TOPIC[topic_of(record).name]
            if random.random() < self.drawn.late:
                self.position.held.append((topic, received))
                continue
            self._put(topic, received)
            if random.random() < TWICE:
                self._put(topic, received)
        for topic, received in late:
            self._put(topic, received)
        found: list[Finding] = []
        for topic in self.plan.listens:
            offset = self.position.offsets[topic]
            self.position.offsets[topic] += 1
            found += self.fold.feed(topic, offset, Heartbeat(publisher=PUBLISHER, time_ms=time_ms))
        return found

    def _put(self, topic: int, received: Received) -> None:
        self.records += 1
        self.points += len(getattr(received.record, "values", ()))
        if topic in self.plan.listens:
            self.fold.feed(topic, self.position.offsets[topic], received)
            self.position.offsets[topic] += 1


def _settings(candidate: Settings) -> Settings:
    """The candidate's on top of what the simulation changes: how often clocks are read, which costs and decides nothing."""
    names = {*PACE, *candidate}
    return {name: {**PACE.get(name, {}), **candidate.get(name, {})} for name in names if name in STEPS}


def _looks(
    world: World, sheets: list[Sheet], more: Iterable[Timed], random: np.random.Generator, *, documents: bool
) -> list[list[Timed]]:
    """By look, what is recorded in the interval that it ends."""
    span, drawn = world.span, world.drawn
    times = span.times_ms.tolist()
    looks: list[list[Timed]] = [[] for _ in times]
    # Each resource is looked at at its own moment of the interval; what was recorded is by the publisher's clock.
    shortest_ms = int(span.dt_s.min() * 1000)
    moments = np.random.default_rng([drawn.seed, 17]).integers(shortest_ms // 10, max(shortest_ms // 2, 2), len(sheets))
    fails = random.random((len(times), len(sheets))) < drawn.miss
    for place, time_ms in enumerate(times):
        for number, sheet in enumerate(sheets):
            if not fails[place, number]:
                at_ms = time_ms - int(moments[number])
                looks[place].append((at_ms, sheet.scrape(place, at_ms + drawn.skew_ms)))
    if documents:
        for tenant in world.tenants:
            for place, batch in enumerate(tenant.documents.batches(drawn.cell, span)):
                if batch is not None:
                    looks[place].append((times[place] - 1_000, batch))
    edges = np.asarray(times)
    for at_ms, record in more:
        place = int(np.searchsorted(edges, at_ms, side="left"))
        if place < len(looks):
            looks[place].append((at_ms, record))
    return looks
