"""One unit of a step's state, which an exception leaves as it was.

A step changes its state in place, so a state on which it raised is half changed. Here the last packed form of the unit is kept, with
the items that were folded since: what was before is that form, folded up to there again. A fold is deterministic, so these are the
bytes of a unit that never saw the item, whenever its last packed form was taken. The items kept are bounded by the size of the packed
form, so that packing again costs a small share of the folding. Source of the idea: a checkpoint and a redo log (Gray & Reuter 1993,
Transaction Processing, ch. 9-11).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from processors.evidence import dated
from processors.step import Findings, Item, Parts, Step, StepConfig

ROOM_BYTES = 256 * 1024  # of items kept at least, before the unit is packed again
ITEM_BYTES, VALUE_BYTES, EVENT_BYTES = (
    1_000,
    32,
    400,
)  # roughly, of a record, of a value of a scrape and of an event of a batch
FAILURES_MAX = 3
"""So many items in a row on which a unit's step raised, or so many ticks: then the unit begins afresh."""

TICK_AGAIN_MS = 10_000  # a tick that failed is tried again so much later, log time
TICK_AT_ONCE_MS = 1_000  # and one that leaves its unit wanting another for a time that has come


class Runs(NamedTuple):
    """How often a unit has failed in a row, on items and on ticks, and before when (log time, ms) it gets no tick."""

    items: int = 0
    ticks: int = 0
    not_before_ms: int = 0


NO_RUNS = Runs()


class Unit:
    """The state of one unit, and when it wants its next tick. `parts` are what a snapshot has of it.

    Whatever the step raises comes out of the constructor, `fold`, `tick` and `pack`; `put_back` then undoes the call.
    """

    __slots__ = ("_done", "_packed", "_room", "config", "due_ms", "runs", "state", "step")

    def __init__(self, step: Step[Any, Any], config: StepConfig, parts: Parts | None = None) -> None:
        self.step, self.config = step, config
        self.runs = NO_RUNS
        self._packed: Parts = parts or {}
        self._done: list[Item | int] = []
        self._room = _room(self._packed)
        self.state: Any = self._unpacked()
        self.due_ms = _due(step, self.state)

    def fold(self, item: Item) -> Findings:
        """One record."""
        state, found = self.step.step(self.config, self.state, item)
        due_ms = _due(self.step, state)
        if found:
            found = dated(self.config, found)
        self.state, self.due_ms = state, due_ms
        if self.runs.items:
            self.runs = self.runs._replace(items=0)
        self._done.append(item)
        self._room -= _weight(item.record)
        return found

    def tick(self, at_ms: int) -> Findings:
        """Time has come."""
        state, found = self.step.tick(self.config, self.state, at_ms)
        due_ms = _due(self.step, state)
        if found:
            found = dated(self.config, found)
        self.state, self.due_ms = state, due_ms
        if self.runs.ticks:
            self.runs = self.runs._replace(ticks=0)
        self._done.append(at_ms)
        self._room -= ITEM_BYTES
        return found

    def is_full(self) -> bool:
        """Whether so much was folded since it was packed that it is to be packed again."""
        return self._room < 0

    def pack(self) -> Parts:
        """The state as named parts, which are also what `put_back` goes back to from now on."""
        if self._done or not self._packed:
            self._packed = dict(self.step.pack(self.state))
            self._done.clear()
            self._room = _room(self._packed)
        return self._packed

    def put_back(self) -> None:
        """The state as it was before the call that raised."""
        state = self._unpacked()
        for done in self._done:
            if isinstance(done, Item):
                state, _ = self.step.step(self.config, state, done)
            else:
                state, _ = self.step.tick(self.config, state, done)
        self.due_ms = _due(self.step, state)
        self.state = state
        self.pack()  # the next failure need not fold all this again

    def _unpacked(self) -> Any:
        return self.step.unpack(self._packed) if self._packed else self.step.fresh()


def _due(step: Step[Any, Any], state: Any) -> int | None:
    due_ms = step.due(state)
    return None if due_ms is None else int(due_ms)


def _room(packed: Parts) -> int:
    return max(ROOM_BYTES, sum(map(len, packed.values())))


def _weight(record: Any) -> int:
    values = getattr(record, "values", None)
    if values is not None:
        return ITEM_BYTES + VALUE_BYTES * len(values)
    return ITEM_BYTES + EVENT_BYTES * len(getattr(record, "times_ms", ()))
