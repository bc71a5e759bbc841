"""A partition's records folded through the steps: the whole core, without a clock, a socket or Kafka.

The shell (`agents.py`, replay, tests) feeds what it reads and gets findings back. The same log gives the same findings
in the same order, whatever the interleaving of its topics, however often it is read again from an earlier offset.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel

from processors.evidence import dated
from processors.order import WAITING_MAX, Clock, Order, Place
from processors.step import Findings, Item, Parts, Step, StepConfig
from schemas.codec import Envelope, Received
from schemas.estate import Estate
from schemas.records import Heartbeat, Record, Signal
from schemas.topics import INPUTS, STATE, Topic

Settings = Mapping[str, Mapping[str, Any]]
UnitKey = tuple[str, str]

SOURCES_MAX = 10_000
PIECE_ITEMS = 4


class Finding(NamedTuple):
    """A signal or incident with its envelope: deterministic, so a second telling is known as one."""

    envelope: Envelope
    record: Record


@dataclass(frozen=True)
class Plan:
    """What a partition is folded with. `settings` are tunables by step; all times in ms.

    `inputs` are the topics of a partition, and `listens` the places in it of those that some step accepts; the others are
    not read. Snapshots stand on `state`. What is found of incidents goes to the fleet as well when it `tells_fleet`; the fold
    of the fleet takes the records of all cells for those of `one_cell`.
    """

    steps: tuple[Step[Any, Any], ...]
    estate: Estate | None = None
    settings: Settings = field(default_factory=dict)
    listens: tuple[int, ...] = tuple(range(len(INPUTS)))
    grace_ms: int = 2_000
    stray_ms: int = 10_000
    waiting_max: int = WAITING_MAX
    inputs: tuple[Topic, ...] = INPUTS
    state: Topic = STATE
    tells_fleet: bool = False
    one_cell: str | None = None

    @classmethod
    def of(
        cls, steps: Iterable[Step[Any, Any]], estate: Estate | None = None, settings: Settings | None = None
    ) -> Plan:
        """The plan of some steps, which reads what they accept."""
        chosen = tuple(steps)
        accepted = {kind for step in chosen for kind in step.accepts}
        listens = tuple(place for place, topic in enumerate(INPUTS) if topic.model in accepted)
        return cls(chosen, estate, settings or {}, listens)

    @cached_property
    def by_name(self) -> dict[str, Step[Any, Any]]:
        """Steps by name, in the order in which they run."""
        return {step.name: step for step in self.steps}

    def config(self, step: Step[Any, Any], cell: str) -> StepConfig:
        """The step's configuration for a cell."""
        config: StepConfig = step.config(cell=cell, estate=self.estate, **self.settings.get(step.name, {}))
        return config


class Failure(NamedTuple):
    """A record on which a step raised: our bug. The record goes to the dead letters, the others go on."""

    place: Place
    received: Received
    error: Exception


class _Head(BaseModel):
    """What a snapshot holds of the partition itself."""

    cursor: tuple[int, int, int]
    horizon_ms: int
    clocks: list[Clock]
    sequences: dict[str, int]
    last_ms: int
    in_ms: int
    versions: dict[str, int]


class CellFold:
    """The steps of one cell with their units of state."""

    def __init__(self, plan: Plan, cell: str) -> None:
        self.name, self._plan = cell, plan
        self._configs = {step.name: plan.config(step, cell) for step in plan.steps}
        self.units: dict[UnitKey, Any] = {}
        self._due: dict[UnitKey, int] = {}
        self._alarms: list[tuple[int, UnitKey]] = []
        self._steps_of: dict[type[Record], tuple[Step[Any, Any], ...]] = {}

    def fold(self, item: Item) -> Findings:
        """One record through every step that accepts it, and what they find through those that accept that."""
        found: Findings = []
        for step in self._accepting(type(item.record)):
            found += self._step(step, item)
        return self._spread(item.at_ms, found)

    def tick(self, at_ms: int) -> Findings:
        """Wake the units that are due at `at_ms`."""
        found: Findings = []
        while self._alarms and self._alarms[0][0] <= at_ms:
            due, key = heapq.heappop(self._alarms)
            if self._due.get(key) == due:
                found += self._tick(key, at_ms)
        return found

    def next_due(self) -> int | None:
        """When the next unit wants a tick (log time, ms)."""
        while self._alarms and self._due.get(self._alarms[0][1]) != self._alarms[0][0]:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    def restore(self, key: UnitKey, parts: Parts) -> None:
        """Put back a unit as a snapshot had it."""
        step = self._plan.by_name[key[0]]
        self.units[key] = step.unpack(parts)
        self._set_alarm(key, step)

    def _accepting(self, kind: type[Record]) -> tuple[Step[Any, Any], ...]:
        known = self._steps_of.get(kind)
        if known is None:
            known = self._steps_of[kind] = tuple(step for step in self._plan.steps if kind in step.accepts)
        return known

    def _step(self, step: Step[Any, Any], item: Item) -> Findings:
        unit = step.unit(item.record)
        if unit is None:
            return []
        key = (step.name, unit)
        state = self.units.get(key)
        if state is None:
            state = step.fresh()
        config = self._configs[step.name]
        self.units[key], found = step.step(config, state, item)
        self._set_alarm(key, step)
        return dated(config, found) if found else found

    def _tick(self, key: UnitKey, at_ms: int) -> Findings:
        step = self._plan.by_name[key[0]]
        config = self._configs[step.name]
        self.units[key], found = step.tick(config, self.units[key], at_ms)
        self._due.pop(key, None)
        self._set_alarm(key, step, not_before=at_ms + 1)
        return self._spread(at_ms, dated(config, found) if found else found)

    def _spread(self, at_ms: int, found: Findings) -> Findings:
        """Findings are folded in turn by the steps that accept them; what those find comes after."""
        told: Findings = []
        waiting = list(found)
        while waiting:
            record = waiting.pop(0)
            told.append(record)
            for step in self._accepting(type(record)):
                waiting += self._step(step, Item(at_ms, record))
        return told

    def _set_alarm(self, key: UnitKey, step: Step[Any, Any], not_before: int = 0) -> None:
        due = step.due(self.units[key])
        if due is None:
            self._due.pop(key, None)
            return
        due = max(due, not_before)
        if self._due.get(key) != due:
            self._due[key] = due
            heapq.heappush(self._alarms, (due, key))


class PartitionFold:
    """One partition: its order, its cells, its place in the log."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.order = Order(plan.listens, plan.grace_ms, plan.stray_ms, plan.waiting_max)
        self.cells: dict[str, CellFold] = {}
        self.counts: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self._sequences: dict[str, int] = {}
        self._last_ms, self._in_ms = -1, 0

    def feed(self, topic: int, offset: int, message: Received | Heartbeat | None) -> list[Finding]:
        """Take in one message (None: bytes that were refused) and give what has become certain by it.

        `topic` is the index in the catalogue's inputs.
        """
        return [finding for piece in self.pieces(topic, offset, message) for finding in piece]

    def pieces(self, topic: int, offset: int, message: Received | Heartbeat | None) -> Iterator[list[Finding]]:
        """The same, a few records at a time: one heartbeat may make thousands certain, and others want to run."""
        if isinstance(message, Received):
            self.order.add(topic, offset, message)
        elif message is None:
            self.order.skip(topic, offset)
        else:
            self.order.beat(topic, offset, message)
            yield from self._advance()

    def _advance(self) -> Iterator[list[Finding]]:
        """Fold everything before the horizon, records and ticks in their order; a tick comes before records of its ms."""
        found: list[Finding] = []
        horizon, items = self.order.horizon_ms, 0
        while True:
            at, due = self.order.next_at(), self._next_due()
            if due is not None and due <= min(horizon, horizon if at is None else at):
                self._tick(due, found)
            elif at is not None and at < horizon:
                self._record(*self.order.pop(), found)
            else:
                break
            items += 1
            if items % PIECE_ITEMS == 0:
                yield found
                found = []
        yield found

    def snapshot(self) -> dict[tuple[str, ...], bytes]:
        """The whole state as named parts: ("head",) and (cell, step, unit, part)."""
        return dict(self.parts())

    def parts(self) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """The same, part by part; nothing may be folded before the last."""
        head = _Head(
            cursor=self.order.cursor,
            horizon_ms=self.order.horizon_ms,
            clocks=self.order.clocks,
            sequences=self._sequences,
            last_ms=self._last_ms,
            in_ms=self._in_ms,
            versions={step.name: step.version for step in self.plan.steps},
        )
        yield ("head",), head.model_dump_json().encode()
        for cell in self.cells.values():
            for (step, unit), state in cell.units.items():
                for name, data in self.plan.by_name[step].pack(state).items():
                    yield (cell.name, step, unit, name), data

    @classmethod
    def restore(cls, plan: Plan, parts: Mapping[tuple[str, ...], bytes]) -> PartitionFold:
        """The fold as it was when `parts` were taken; a fresh one when there are none.

        State of a step that is no longer there, or of a version that it cannot read, is left out: that step starts
        afresh, which is counted.
        """
        fold = cls(plan)
        if ("head",) not in parts:
            return fold
        head = _Head.model_validate(orjson.loads(parts["head",]))
        fold.order.resume(Place(*head.cursor), head.clocks, head.horizon_ms)
        fold._sequences, fold._last_ms, fold._in_ms = head.sequences, head.last_ms, head.in_ms
        for (cell, step, unit), unit_parts in _by_unit(parts).items():
            fold._restore_unit(cell, step, unit, unit_parts, head.versions)
        return fold

    def pass_expired(self, topic: int, begins: int, ends: int | None = None) -> None:
        """What the log let go of while nobody read it is passed over and counted: it is read by nobody any more.

        A log that `ends` before where we stand is another one: its topic was made anew, and is read from its beginning.
        """
        expected = self.order.clocks[topic].next_offset
        if expected is not None and ends is not None and ends < expected:
            self.counts["topics_anew"] += 1
            self.order.begin_anew(topic)
        elif expected is not None and begins > expected:
            self.counts["expired"] += begins - expected
            self.order.skip(topic, begins - 1)

    def _restore_unit(self, cell: str, step: str, unit: str, parts: Parts, versions: Mapping[str, int]) -> None:
        known = self.plan.by_name.get(step)
        if known is None or not known.version - 1 <= versions.get(step, 0) <= known.version:
            self.counts["units_dropped"] += 1
            return
        self._cell(cell).restore((step, unit), parts)

    def _next_due(self) -> int | None:
        return min((at for cell in self.cells.values() if (at := cell.next_due()) is not None), default=None)

    def _tick(self, due: int, found: list[Finding]) -> None:
        at_ms = max(due, self.order.cursor.at_ms)
        for cell in list(self.cells.values()):
            self._tell(cell, at_ms, cell.tick(at_ms), found)

    def _record(self, place: Place, received: Received, found: list[Finding]) -> None:
        if not self._is_new(place.topic, received.envelope):
            return
        cell = self._cell(self.plan.one_cell or received.record.cell)
        try:
            self._tell(cell, place.at_ms, cell.fold(Item(place.at_ms, received.record)), found)
        except Exception as error:  # noqa: BLE001 (whatever a step raises must not stop the partition)
            self.failures.append(Failure(place, received, error))
            self.counts["failed"] += 1

    def _is_new(self, topic: int, envelope: Envelope) -> bool:
        key = f"{topic} {envelope.source}"
        if envelope.sequence <= self._sequences.get(key, -1):
            self.counts["duplicates"] += 1
            return False
        if key not in self._sequences and len(self._sequences) >= SOURCES_MAX:
            self._sequences.pop(next(iter(self._sequences)))
            self.counts["sources_forgotten"] += 1
        self._sequences[key] = envelope.sequence
        self.counts["records"] += 1
        return True

    def _cell(self, name: str) -> CellFold:
        cell = self.cells.get(name)
        if cell is None:
            cell = self.cells[name] = CellFold(self.plan, name)
        return cell

    def _tell(self, cell: CellFold, at_ms: int, records: Iterable[Record], found: list[Finding]) -> None:
        for record in records:
            # A number that only grows with log time and survives a rebuilt state: sinks skip what is not above it.
            self._in_ms = self._in_ms + 1 if at_ms == self._last_ms else 0
            self._last_ms = at_ms
            sequence = (at_ms << 20) + self._in_ms
            found.append(Finding(Envelope(f"processors/{cell.name}", sequence, at_ms), record))
            self.counts["signals" if isinstance(record, Signal) else "incidents"] += 1


def _by_unit(parts: Mapping[tuple[str, ...], bytes]) -> dict[tuple[str, str, str], Parts]:
    units: dict[tuple[str, str, str], Parts] = {}
    for key, data in parts.items():
        if len(key) == 4:
            cell, step, unit, name = key
            units.setdefault((cell, step, unit), {})[name] = data
    return units
