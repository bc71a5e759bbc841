"""A partition's records folded through the steps: the whole core, without a clock, a socket or Kafka.

The shell (`agents.py`, replay, tests) feeds what it reads and gets findings back. The same log gives the same findings
in the same order, whatever the interleaving of its topics, however often it is read again from an earlier offset.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel

from processors import faults
from processors.admission import LIMITS, Admission, Forgotten, Limits
from processors.faults import Fault
from processors.order import LEAP_MS, WAITING_MAX, Clock, Order, Place
from processors.sanity import AHEAD_MS, sane
from processors.step import Findings, Item, Parts, Step, StepConfig
from processors.units import FAILURES_MAX, NO_RUNS, TICK_AGAIN_MS, TICK_AT_ONCE_MS, Runs, Unit
from schemas.bounds import reached
from schemas.codec import Envelope, Received
from schemas.estate import Estate
from schemas.records import Heartbeat, Incident, Phase, Record, Signal
from schemas.topics import INPUTS, STATE, Topic

Settings = Mapping[str, Mapping[str, Any]]
UnitKey = tuple[str, str]

SOURCES_MAX = 10_000
PIECE_ITEMS = 4
CASCADE_MAX = 10_000  # findings of one item, with those that they bring about
OPEN_MAX = 5_000  # findings of a cell that are known to be open
ERROR_MAX = 2_000  # characters of what was raised
KEPT, BEFORE = "kept", "before"
BELIEVED_MS = 7_200_000  # so long after a leap of log time the state from before it is kept
FAILURES_WAITING_MAX = 10_000  # that wait to be buried; a fold without a shell (replay) keeps no more


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
    limits: Limits = LIMITS

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
    def every(self) -> tuple[Step[Any, Any], ...]:
        """The steps, and the one that tells of the others' failures."""
        return (*self.steps, faults.STEP)

    @cached_property
    def by_name(self) -> dict[str, Step[Any, Any]]:
        """Steps by name, in the order in which they run."""
        return {step.name: step for step in self.every}

    def config(self, step: Step[Any, Any], cell: str) -> StepConfig:
        """The step's configuration for a cell."""
        config: StepConfig = step.config(cell=cell, estate=self.estate, **self.settings.get(step.name, {}))
        return config


class Failure(NamedTuple):
    """What a step raised: our bug. It costs what it was raised on, and the others go on.

    `what` says on what: a record, a tick, its state. `place` and `envelope` are those of the record that was folded, `record` what
    the step was given, which may be another step's finding; None of a tick.
    """

    at_ms: int
    cell: str
    step: str
    unit: str
    what: str
    error: Exception
    is_afresh: bool
    record: Record | None = None
    place: Place | None = None
    envelope: Envelope | None = None


class Refused(NamedTuple):
    """A record that no step gets, and why; it goes to the dead letters."""

    place: Place
    received: Received
    why: str


class _Head(BaseModel):
    """What a snapshot holds of the partition itself."""

    cursor: tuple[int, int, int]
    horizon_ms: int
    clocks: list[Clock]
    sequences: dict[str, int]
    last_ms: int
    in_ms: int
    versions: dict[str, int]
    ticked_ms: int = -1
    era: int = 0
    horizon_era: int = 0
    before_ms: int = -1
    after_ms: int = -1


class _Kept(BaseModel):
    """What a snapshot holds of a cell besides its units."""

    runs: list[tuple[str, str, int, int, int]] = []
    open: list[tuple[str, str, str, str]] = []
    faults: list[Fault] = []


class CellFold:
    """The steps of one cell with their units of state.

    Whatever a step raises costs the item it was raised on, for this step and unit alone: the unit is put back to what it was
    before, the others and what they found go on. A unit that fails again and again begins afresh, and so does one that cannot be
    packed, restored or put back; what it had open is then ended. All of it is counted, kept in `failures` for the dead letters, and
    told by the step of `faults`.
    """

    def __init__(self, plan: Plan, cell: str, counts: Counter[str] | None = None) -> None:
        self.name, self._plan = cell, plan
        self.counts: Counter[str] = Counter() if counts is None else counts
        self.failures: list[Failure] = []
        self.units: dict[UnitKey, Unit] = {}
        self._configs = {step.name: plan.config(step, cell) for step in plan.every}
        self._due: dict[UnitKey, int] = {}
        self._alarms: list[tuple[int, UnitKey]] = []
        self._steps_of: dict[type[Record], tuple[Step[Any, Any], ...]] = {}
        self._open: dict[str, tuple[UnitKey, Record]] = {}
        self._faults: list[Fault] = []
        self._ended: list[Record] = []
        self._at_ms = 0

    def fold(self, item: Item) -> Findings:
        """One record through every step that accepts it, and what they find through those that accept that."""
        self._at_ms = item.at_ms
        found = self._told_late(item.at_ms) if self._faults or self._ended else []
        for step in self._accepting(type(item.record)):
            found += self._step(step, item)
        return self._spread(item.at_ms, found)

    def let_go(self, item: Item) -> Findings:
        """What was told of a resource has lost its place: every step lets go of it, and of a resource that is gone its units."""
        gone: Forgotten = item.record
        found, ended = self.fold(item), Findings()
        for step in self._accepting(Forgotten) if gone.is_whole else ():
            unit = step.unit(gone)
            if unit and (gone.is_last or unit != gone.resource):  # some steps know a resource under all of its systems
                ended += self._begin_afresh((step.name, unit), item.at_ms)
        return found + self._spread(item.at_ms, ended)

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

    def parts(self) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """The state as named parts: (cell, step, unit, part), and (cell, "kept") where there is something besides."""
        for key in list(self.units):
            for name, data in self._packed(key).items():
                yield (self.name, *key, name), data
        kept = self._kept()
        if kept.runs or kept.open or kept.faults:
            yield (self.name, KEPT), kept.model_dump_json().encode()

    def restore(self, key: UnitKey, parts: Parts, not_before_ms: int = 0) -> bool:
        """Put back a unit as a snapshot had it; False where it cannot be, so that it begins afresh."""
        step = self._plan.by_name[key[0]]
        try:
            unit = Unit(step, self._configs[step.name], parts)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a step raises costs its unit alone, and the worker starts)
            self._fail(key, "its state in a snapshot", error, None, 0, is_afresh=True)
            self._faults.append(self._fault(self.failures[-1]))
            return False
        self.units[key] = unit
        self._set_alarm(key, unit, not_before_ms)
        return True

    def restore_kept(self, data: bytes, not_before_ms: int = 0) -> None:
        """Put back what a snapshot has of the cell besides its units, once these are there."""
        kept = _Kept.model_validate_json(data)
        for step, name, items, ticks, wait_ms in kept.runs:
            if unit := self.units.get((step, name)):
                unit.runs = Runs(items, ticks, wait_ms)
                self._set_alarm((step, name), unit, not_before_ms)
        for step, name, kind, body in kept.open:
            record = (Signal if kind == Signal.type else Incident).model_validate_json(body)
            self._open[record.id] = (step, name), record
            if (step, name) not in self.units:
                self._ended += self._end((step, name), record.time_ms)
        self._faults = [*kept.faults, *self._faults]

    def end_all(self, at_ms: int, but: Collection[str] = ()) -> Findings:
        """Everything that is open and not among the ids `but`, as resolved: its state is given up."""
        return [_resolved(record, at_ms) for name, (_, record) in self._open.items() if name not in but]

    @property
    def open(self) -> Collection[str]:
        """Ids of the findings that are open."""
        return self._open.keys()

    def _accepting(self, kind: type[Record]) -> tuple[Step[Any, Any], ...]:
        known = self._steps_of.get(kind)
        if known is None:
            known = self._steps_of[kind] = tuple(step for step in self._plan.every if kind in step.accepts)
        return known

    def _step(self, step: Step[Any, Any], item: Item) -> Findings:
        key = (step.name, "")
        try:
            name = step.unit(item.record)
            if name is None:
                return []
            key = (step.name, name)
            unit = self.units.get(key)
            if unit is None and isinstance(item.record, Forgotten):
                return []
            if unit is None:
                unit = self.units[key] = Unit(step, self._configs[step.name])
            found = unit.fold(item)
        except MemoryError:
            raise  # the machine's trouble and not the item's: end here, uncommitted
        except Exception as error:  # noqa: BLE001 (whatever a step raises must not stop the others)
            return self._failed(key, "a record", error, item.record, item.at_ms)
        if unit.is_full():
            self._packed(key)
        self._set_alarm(key, unit)
        if found:
            self._remember(key, found)
        return found

    def _tick(self, key: UnitKey, at_ms: int) -> Findings:
        self._at_ms = at_ms
        self._due.pop(key, None)
        unit = self.units[key]
        try:
            found = unit.tick(at_ms)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a step raises must not stop the others)
            found = self._failed(key, "a tick", error, None, at_ms)
        else:
            self._put_off(unit, at_ms)
            if unit.is_full():
                self._packed(key)
            if found:
                self._remember(key, found)
        if known := self.units.get(key):
            self._set_alarm(key, known, not_before=at_ms + 1)
        return self._spread(at_ms, found)

    def _put_off(self, unit: Unit, at_ms: int) -> None:
        """A unit that wants another tick for a time that has come already gets it a second later: it may want one for ever."""
        not_before_ms = 0
        if unit.due_ms is not None and unit.due_ms <= at_ms:
            not_before_ms = at_ms + TICK_AT_ONCE_MS
            self.counts["ticks_put_off"] += 1
        if unit.runs.not_before_ms != not_before_ms:
            unit.runs = unit.runs._replace(not_before_ms=not_before_ms)

    def _spread(self, at_ms: int, found: Findings) -> Findings:
        """Findings are folded in turn by the steps that accept them; what those find comes after."""
        told: Findings = []
        waiting = deque(found)
        while waiting:
            if len(told) >= CASCADE_MAX:
                self.counts["cascades_cut"] += len(waiting)
                break
            record = waiting.popleft()
            told.append(record)
            for step in self._accepting(type(record)):
                waiting += self._step(step, Item(at_ms, record))
        return told

    def _failed(self, key: UnitKey, what: str, error: Exception, record: Record | None, at_ms: int) -> Findings:
        """Put the unit back, or begin it afresh; what is told of it."""
        unit, is_afresh = self.units.get(key), False
        if unit is not None:
            runs = _one_more(unit.runs, is_tick=record is None, at_ms=at_ms)
            is_afresh = max(runs.items, runs.ticks) >= FAILURES_MAX or not self._is_put_back(unit)
            unit.runs = runs
            self._set_alarm(key, unit)
        self._fail(key, what, error, record, at_ms, is_afresh=is_afresh)
        ended = self._begin_afresh(key, at_ms) if is_afresh else []
        if key[0] == faults.STEP.name:
            return ended
        return ended + self._step(faults.STEP, Item(at_ms, self._fault(self.failures[-1])))

    def _is_put_back(self, unit: Unit) -> bool:
        try:
            unit.put_back()
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 (then it begins afresh; what was raised first is what is told)
            return False
        return True

    def _begin_afresh(self, key: UnitKey, at_ms: int) -> Findings:
        """Forget the unit: the next record makes it anew. What it had open is ended."""
        self.units.pop(key, None)
        self._due.pop(key, None)
        return self._end(key, at_ms)

    def _end(self, key: UnitKey, at_ms: int) -> Findings:
        gone = [name for name, (of, _) in self._open.items() if of == key]
        return [_resolved(self._open.pop(name)[1], at_ms) for name in gone]

    def _packed(self, key: UnitKey) -> Parts:
        """The parts of a unit; none where it cannot be packed, and begins afresh."""
        try:
            return self.units[key].pack()
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a step raises costs its unit alone)
            self._fail(key, "packing its state", error, None, self._at_ms, is_afresh=True)
            self._faults.append(self._fault(self.failures[-1]))
            self._ended += self._begin_afresh(key, self._at_ms)
            return {}

    def _fail(
        self, key: UnitKey, what: str, error: Exception, record: Record | None, at_ms: int, *, is_afresh: bool
    ) -> None:
        self.counts[f"failed_{key[0]}"] += 1
        if is_afresh:
            self.counts[f"afresh_{key[0]}"] += 1
        self.failures.append(Failure(at_ms, self.name, *key, what, error, is_afresh, record))

    def _fault(self, failure: Failure) -> Fault:
        error = f"{type(failure.error).__name__}: {_text(failure.error)}"
        return Fault(
            cell=self.name,
            time_ms=max(0, failure.at_ms),
            step=failure.step,
            unit=failure.unit,
            what=failure.what,
            error=error[:ERROR_MAX],
            is_afresh=failure.is_afresh,
        )

    def _told_late(self, at_ms: int) -> Findings:
        """What could not be told when it happened: as a unit was restored or packed."""
        late, self._faults = self._faults, []
        ended, self._ended = self._ended, []
        found: Findings = [_resolved(one, at_ms) for one in ended]
        for fault in late:
            found += self._step(faults.STEP, Item(at_ms, fault.model_copy(update={"time_ms": at_ms})))
        return found

    def _remember(self, key: UnitKey, found: Findings) -> None:
        """Know what is open, to end it should its unit be given up."""
        for record in found:
            if not isinstance(record, Signal | Incident):
                continue
            if record.phase is Phase.RESOLVED:
                self._open.pop(record.id, None)
            else:
                self._open[record.id] = key, record
                if len(self._open) > OPEN_MAX:
                    self._open.pop(next(iter(self._open)))
                    self.counts["open_forgotten"] += 1

    def _kept(self) -> _Kept:
        runs = [(*key, *unit.runs) for key, unit in self.units.items() if unit.runs != NO_RUNS]
        opened = [(*key, record.type, record.model_dump_json()) for key, record in self._open.values()]
        opened += [("", "", record.type, record.model_dump_json()) for record in self._ended]
        return _Kept(runs=runs, open=opened, faults=self._faults)

    def _set_alarm(self, key: UnitKey, unit: Unit, not_before: int = 0) -> None:
        due = unit.due_ms
        if due is None:
            self._due.pop(key, None)
            return
        due = max(due, not_before, unit.runs.not_before_ms)
        if self._due.get(key) != due:
            self._due[key] = due
            heapq.heappush(self._alarms, (due, key))


def _one_more(runs: Runs, *, is_tick: bool, at_ms: int) -> Runs:
    if is_tick:
        return Runs(runs.items, runs.ticks + 1, at_ms + TICK_AGAIN_MS)
    return runs._replace(items=runs.items + 1)


def _resolved(record: Record, at_ms: int) -> Record:
    update: dict[str, Any] = {"phase": Phase.RESOLVED, "time_ms": max(at_ms, record.time_ms)}
    if isinstance(record, Incident):
        update["version"] = record.version + 1
    return record.model_copy(update=update)


def _text(error: Exception) -> str:
    try:
        return str(error).encode(errors="replace").decode()
    except Exception:  # noqa: BLE001 (an exception that cannot be told is told by its type)
        return ""


class PartitionFold:
    """One partition: its order, its cells, its place in the log."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.order = Order(plan.listens, plan.grace_ms, plan.stray_ms, plan.waiting_max)
        self.cells: dict[str, CellFold] = {}
        self.admission = Admission(plan.estate, plan.limits)
        self.counts: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.refused: list[Refused] = []
        self._sequences: dict[str, int] = {}
        self._last_ms, self._in_ms = -1, 0xFFFFF
        self._ticked_ms = -1
        self._before: dict[tuple[str, ...], bytes] = {}
        self._before_ms, self._after_ms = -1, -1

    def feed(
        self, topic: int, offset: int, message: Received | Heartbeat | None, sent_ms: int | None = None
    ) -> list[Finding]:
        """Take in one message (None: bytes that were refused) and give what has become certain by it.

        `topic` is the index in the catalogue's inputs, `sent_ms` the Kafka timestamp of a heartbeat.
        """
        return [finding for piece in self.pieces(topic, offset, message, sent_ms) for finding in piece]

    def pieces(
        self, topic: int, offset: int, message: Received | Heartbeat | None, sent_ms: int | None = None
    ) -> Iterator[list[Finding]]:
        """The same, a few records at a time: one heartbeat may make thousands certain, and others want to run."""
        if isinstance(message, Received):
            self.order.add(topic, offset, message)
        elif message is None:
            self.order.skip(topic, offset)
        else:
            self.order.beat(topic, offset, message, sent_ms)
            yield from self._advance()
        while self.order.refused:
            place, received = self.order.refused.pop()
            self._refuse(place, received, "it was recorded by a clock that is far ahead of the others'")

    def _advance(self) -> Iterator[list[Finding]]:
        """Fold everything before the horizon, records and ticks in their order; a tick comes before records of its ms."""
        found: list[Finding] = []
        horizon, items = self.order.horizon, 0
        while True:
            at, due = self.order.next_at(), self._next_due()
            era, until_ms = horizon if at is None else min(horizon, at)
            if due is not None and era == self.order.era and due <= until_ms:
                self._keep_before(due)
                self._tick(due, found)
            elif era > self.order.era:
                self._turn_back(found)
            elif at is not None and at < horizon:
                self._keep_before(at[1])
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
            era=self.order.era,
            horizon_era=self.order.horizon[0],
            versions={step.name: step.version for step in self.plan.every},
            ticked_ms=self._ticked_ms,
            before_ms=self._before_ms,
            after_ms=self._after_ms,
        )
        yield ("head",), head.model_dump_json().encode()
        for key, data in self._before.items():
            yield (BEFORE, *key), data
        yield from self.admission.pack()
        for cell in self.cells.values():
            yield from cell.parts()
            self._collect(cell)

    @classmethod
    def restore(cls, plan: Plan, parts: Mapping[tuple[str, ...], bytes]) -> PartitionFold:
        """The fold as it was when `parts` were taken; a fresh one when there are none.

        State of a step that is no longer there, or of a version that it cannot read, is left out: that step starts
        afresh, which is counted. So does a unit whose state cannot be read, and everything when the head cannot.
        """
        fold = cls(plan)
        if ("head",) not in parts:
            return fold
        try:
            head = _Head.model_validate(orjson.loads(parts["head",]))
        except ValueError as error:
            fold.counts["heads_dropped"] += 1
            fold.failures.append(Failure(0, "", "fold", "", "the head of a snapshot", error, True))
            return fold
        fold.order.resume(Place(*head.cursor), head.clocks, head.horizon_ms, head.era, head.horizon_era)
        fold._sequences, fold._last_ms, fold._in_ms = head.sequences, head.last_ms, head.in_ms
        fold._ticked_ms = head.ticked_ms
        fold._before_ms, fold._after_ms = head.before_ms, head.after_ms
        fold._before = {key[1:]: data for key, data in parts.items() if len(key) > 1 and key[0] == BEFORE}
        fold._restore_cells({key: data for key, data in parts.items() if key[0] != BEFORE}, head.versions)
        return fold

    def _restore_cells(self, parts: Mapping[tuple[str, ...], bytes], versions: Mapping[str, int]) -> None:
        self.admission = Admission(self.plan.estate, self.plan.limits)
        self.admission.restore(parts)
        for (cell, step, unit), unit_parts in _by_unit(parts).items():
            self._restore_unit(cell, step, unit, unit_parts, versions)
        for key, data in parts.items():
            if len(key) == 2 and key[1] == KEPT:
                self._restore_kept(key[0], data)

    def _keep_before(self, at_ms: int) -> None:
        """Keep the state from before log time makes a leap, as long as that may turn out to be a wrong clock's doing."""
        now_ms = max(self.order.cursor.at_ms, self._ticked_ms)
        is_far = 0 <= now_ms < at_ms - LEAP_MS and self.order.has_leapt(now_ms, at_ms)
        if is_far and not (self._before and now_ms < self._before_ms + LEAP_MS):
            self._before = {key: data for cell in self.cells.values() for key, data in cell.parts()}
            self._before |= self.admission.pack()
            self._before_ms, self._after_ms = now_ms, at_ms
        elif self._before and at_ms > self._after_ms + BELIEVED_MS:
            self._before = {}

    def _turn_back(self, found: list[Finding]) -> None:
        """A clock that was believed was wrong: go on from before its leap, or afresh, and end what was told since."""
        self.counts["turned_back"] += 1
        at_ms = self.order.begin_era()
        before, cells = self._before if self._before_ms <= at_ms else {}, self.cells
        self.cells, self._before, self._ticked_ms = {}, {}, -1
        self._restore_cells(before, {step.name: step.version for step in self.plan.every})
        for cell in cells.values():
            again = self._cell(cell.name)
            self._tell(again, at_ms, cell.end_all(at_ms, again.open), found)
            self.counts["units_turned_back"] += len(cell.units)

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
        # What was ticked last is not ticked again at the same instant.
        if not self._cell(cell).restore((step, unit), parts, self._ticked_ms + 1):
            self.counts["units_dropped"] += 1
        self._collect(self._cell(cell))

    def _restore_kept(self, cell: str, data: bytes) -> None:
        try:
            self._cell(cell).restore_kept(data, self._ticked_ms + 1)
        except ValueError as error:
            self.counts["units_dropped"] += 1
            self.failures.append(Failure(0, cell, "fold", "", "what is kept of a cell", error, True))

    def _next_due(self) -> int | None:
        return min((at for cell in self.cells.values() if (at := cell.next_due()) is not None), default=None)

    def _tick(self, due: int, found: list[Finding]) -> None:
        self._ticked_ms = at_ms = max(due, self.order.cursor.at_ms)
        for cell in list(self.cells.values()):
            self._tell(cell, at_ms, cell.tick(at_ms), found)
            if cell.failures:
                self._collect(cell)

    def _record(self, place: Place, received: Received, found: list[Finding]) -> None:
        if not self._is_new(place.topic, received.envelope):
            return
        record = self._sane(place, received)
        if record is not None and not self.plan.one_cell:
            record = self._admit(place, received, record, found)
        if record is None:
            return
        cell = self._cell(self.plan.one_cell or record.cell)
        self._tell(cell, place.at_ms, cell.fold(Item(place.at_ms, record)), found)
        if cell.failures:
            self._collect(cell, place, received.envelope)

    def _admit(self, place: Place, received: Received, record: Record, found: list[Finding]) -> Record | None:
        """What steps get of a record; they are told first what has no place, and what has lost its."""
        at_ms, envelope = place.at_ms, received.envelope
        try:
            admitted, told = self.admission.admit(at_ms, envelope.source, record)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever is at fault must not stop the partition)
            self.counts["failed"] += 1
            if len(self.failures) < FAILURES_WAITING_MAX:
                what = Failure(at_ms, record.cell, "admission", "", "a record", error, False, record, place, envelope)
                self.failures.append(what)
            return None
        for one in told:
            cell, item = self._cell(one.cell), Item(at_ms, one)
            self._tell(cell, at_ms, cell.let_go(item) if isinstance(one, Forgotten) else cell.fold(item), found)
            if cell.failures:
                self._collect(cell, place, envelope)
        while self.admission.gone:
            name = self.admission.gone.pop()
            if cell_gone := self.cells.pop(name, None):
                self._tell(cell_gone, at_ms, cell_gone.end_all(at_ms), found)
        return admitted

    def _sane(self, place: Place, received: Received) -> Record | None:
        """The record as steps get it; None of one that is refused."""
        ahead_ms = received.record.time_ms - place.at_ms
        if ahead_ms > AHEAD_MS:
            self._refuse(place, received, f"its time_ms is {ahead_ms / 1000:.0f} s ahead of when it was recorded")
            return None
        record, odd = sane(received.record)
        if odd:
            self.counts["values_left_out"] += odd
        return record

    def _refuse(self, place: Place, received: Received, why: str) -> None:
        self.counts["refused_ahead"] += 1
        if len(self.refused) < FAILURES_WAITING_MAX:
            self.refused.append(Refused(place, received, why))

    def _collect(self, cell: CellFold, place: Place | None = None, envelope: Envelope | None = None) -> None:
        """Take over what has failed in a cell, bounded: what is beyond is counted and told, but is no dead letter."""
        for failure in cell.failures:
            self.counts["failed"] += 1
            if len(self.failures) < FAILURES_WAITING_MAX:
                self.failures.append(failure._replace(place=place, envelope=envelope))
        cell.failures.clear()

    def _is_new(self, topic: int, envelope: Envelope) -> bool:
        key = f"{topic} {envelope.source}"
        if envelope.sequence <= self._sequences.get(key, -1):
            self.counts["duplicates"] += 1
            return False
        if key not in self._sequences and len(self._sequences) >= SOURCES_MAX:
            self._sequences.pop(next(iter(self._sequences)))
            self.counts["sources_forgotten"] += 1
            reached("fold.sources")
        self._sequences[key] = envelope.sequence
        self.counts["records"] += 1
        return True

    def _cell(self, name: str) -> CellFold:
        cell = self.cells.get(name)
        if cell is None:
            cell = self.cells[name] = CellFold(self.plan, name, self.counts)
        return cell

    def _tell(self, cell: CellFold, at_ms: int, records: Iterable[Record], found: list[Finding]) -> None:
        for record in records:
            # A number that only grows, with log time as a rule, and survives a rebuilt state: sinks skip what is not above it.
            sequence = max((self._last_ms << 20) + self._in_ms + 1, at_ms << 20)
            self._last_ms, self._in_ms = sequence >> 20, sequence & 0xFFFFF
            found.append(Finding(Envelope(f"processors/{cell.name}", sequence, at_ms), record))
            self.counts["signals" if isinstance(record, Signal) else "incidents"] += 1


def _by_unit(parts: Mapping[tuple[str, ...], bytes]) -> dict[tuple[str, str, str], Parts]:
    units: dict[tuple[str, str, str], Parts] = {}
    for key, data in parts.items():
        if len(key) == 4:
            cell, step, unit, name = key
            units.setdefault((cell, step, unit), {})[name] = data
    return units
