"""The shape every step has: a pure fold over the records of a cell.

`step(config, state, item) -> (state, findings)` and `tick(config, state, at_ms) -> (state, findings)` for silence. A step
reads no clock, socket or environment: what it needs comes in, what it means goes out. The state that is passed in
is given up to the step, which may change it in place. State is kept in units (a resource, a tenant, the cell); a step
names the unit that a record belongs to and never sees another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from schemas.calendar import Calendar
from schemas.estate import Cell, Estate
from schemas.records import Record

C = TypeVar("C", bound="StepConfig")
S = TypeVar("S")

Findings = list[Record]
Parts = dict[str, bytes]


class Item(NamedTuple):
    """A record at its place in the log.

    `at_ms` is the time at which the log holds it for observed (recorded time, later for a late record); items come in
    the order of `at_ms`, and ticks lie on the same axis.
    """

    at_ms: int
    record: Any


class StepConfig(BaseModel):
    """What every step is told: the estate and its cell. Subclasses add their tunables, each with unit and source."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    cell: str = Field(description="The cell whose records are folded.")
    estate: Estate | None = Field(None, description="The estate the cell is declared in; None: nothing is declared.")

    @property
    def declared(self) -> Cell | None:
        """The cell as declared, None when the estate does not know it."""
        return self.estate.cells_by_name.get(self.cell) if self.estate else None

    def calendar(self, tenant: str | None = None) -> Calendar:
        """The calendar of a tenant, or of the cell's first tenant."""
        return (self.estate or _NOWHERE).calendar_of(self.cell, tenant)

    def interval_ms(self, resource: str | None = None) -> float:
        """Declared time from one look at a resource to the next, ms; of a cell the shortest, 0 where nothing is declared."""
        known = self.declared.resources_by_name if self.declared else {}
        if resource in known:
            return known[resource].interval_s * 1000
        return min((one.interval_s for one in known.values()), default=0.0) * 1000

    def tenants(self) -> tuple[str, ...]:
        """Names of the cell's tenants."""
        return tuple(self.declared.tenants_by_name) if self.declared else ()


_NOWHERE = Estate.model_validate({"cells": [{"name": "nowhere", "tenants": [{"name": "nobody"}]}]})


def never(_: Any) -> int | None:
    """For steps that need no ticks."""
    return None


def nothing(_: Any, state: Any, __: int) -> tuple[Any, Findings]:
    """For steps that need no ticks."""
    return state, []


class About(NamedTuple):
    """What a step says of itself, in sentences for people: they stand in explanations and in the docs."""

    finds: str
    method: str
    source: str
    limits: str


@dataclass(frozen=True, slots=True)
class Step(Generic[C, S]):
    """A named pure fold.

    `accepts` are the record types it sees; a step that accepts signals sees those of the steps before it, for the same
    item. `unit` names the unit of state a record belongs to, None to pass it over. `due` says when (log time, ms) a
    state wants its next tick. `pack` gives the state as named parts of bytes, of which only the changed ones are
    written to a snapshot; `unpack` reads them back, also those that version `version - 1` has packed.
    """

    name: str
    config: type[C]
    accepts: tuple[type[Record], ...]
    unit: Callable[[Record], str | None]
    fresh: Callable[[], S]
    step: Callable[[C, S, Item], tuple[S, Findings]]
    pack: Callable[[S], Parts]
    unpack: Callable[[Parts], S]
    tick: Callable[[C, S, int], tuple[S, Findings]] = nothing
    due: Callable[[S], int | None] = never
    version: int = 1
    about: About | None = None


def whole_cell(_: Record) -> str:
    """The unit of steps whose state belongs to the whole cell."""
    return ""


def json_state(model: type[BaseModel]) -> tuple[Callable[[Any], Parts], Callable[[Parts], Any]]:
    """pack and unpack for a state that is one pydantic model."""

    def pack(state: Any) -> Parts:
        return {"": state.model_dump_json().encode()}

    def unpack(parts: Parts) -> Any:
        return model.model_validate_json(parts[""])

    return pack, unpack


def by_name(steps: Iterable[Step[Any, Any]]) -> dict[str, Step[Any, Any]]:
    """The registry as a look-up, in the order in which steps run."""
    return {step.name: step for step in steps}
