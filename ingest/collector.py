"""The shape every collector has.

A collector looks at one target and tells what it saw. It is constructed from a `Target`, asked again and again by the
scheduler, and closed. It keeps its connection between looks, bounds the load it causes, and raises `Unavailable`
with the mend when the target does not answer; anything else it raises is our bug.

    class Redis:
        def __init__(self, target: Target) -> None: ...
        async def collect(self, now_ms: int, position: str | None) -> Collected: ...
        async def close(self) -> None: ...

What it collects it puts into a `Poll` (`poll.py`), in which each group of the look and each of its rows fails alone. What
lasts (a group that cannot be read, a certificate that is refused) it hands over as `Fault` at every look; the scheduler
makes events of their edges (`edges.py`), so a collector remembers nothing of what was told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.codec import explain
from schemas.estate import Cell, Resource
from schemas.records import Record, Scalar, Scrape

INFO, WARN, ERROR = 9, 13, 17
"""Severity numbers of OpenTelemetry's log data model."""

OptionsModel = TypeVar("OptionsModel", bound=BaseModel)


class Unavailable(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """A system that is away. `mend` says what would bring it back; it is asked again after `retry_after_s`."""

    def __init__(self, resource: str, reason: str, mend: str, retry_after_s: float = 5.0) -> None:
        super().__init__(f"{resource}: {reason}. {mend}")
        self.resource, self.reason, self.mend, self.retry_after_s = resource, reason, mend, retry_after_s


@dataclass(frozen=True, slots=True)
class Target:
    """A resource of a cell with its secrets resolved."""

    cell: Cell
    resource: Resource
    url: str = field(repr=False)

    def scrape(self, points: Mapping[str, float | None], time_ms: int, **more: Any) -> Scrape:
        """A scrape of this target from points by series identity."""
        return Scrape.of(dict(points), time_ms=time_ms, **self.identity(), **more)

    def identity(self) -> dict[str, str]:
        """The fields that every record of this target carries."""
        return {"cell": self.cell.name, "resource": self.resource.name, "system": self.resource.system}

    def options(self, model: type[OptionsModel]) -> OptionsModel:
        """The resource's options as the collector's own model; ValueError names the resource and the fault."""
        try:
            return model.model_validate(self.resource.options)
        except ValidationError as error:
            raise ValueError(f"resource {self.resource.name}: options: {explain(error)}") from error


class Options(BaseModel):
    """Base of collectors' options: frozen, refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a part of a target, while it lasts.

    `key` is compared from look to look: another key is another fault, another reason of the same key is not. It is the
    reason where nothing else is given. `begins` and `ends` name the events of its edges.
    """

    reason: str
    mend: str
    attributes: Mapping[str, Scalar] = field(default_factory=dict)
    key: str = ""
    begins: str = "collector.degraded"
    ends: str = "collector.restored"

    @property
    def compared(self) -> str:
        """What tells this fault from another of the same part."""
        return self.key or self.reason


@dataclass(frozen=True, slots=True)
class Collected:
    """What one look gave.

    `position` is where the next look goes on (an offset in a file, a cursor in a table). It is stored in the same
    transaction as the records, so a record is neither lost nor told twice when the process is killed. None keeps the
    position that was there. `refused` are bytes that could not be read, each with the reason; they become dead letters.
    `rows` are the same of what will be read again at the next look: one that comes again becomes no second dead letter.

    `faults` are by the name of the part that they are of. `tried` are the parts that were looked at, and a part that was
    not stays as it was; None says that all were. `left_out` counts what the collector's own bounds kept back.
    """

    records: list[Record] = field(default_factory=list)
    position: str | None = None
    refused: list[tuple[str, bytes]] = field(default_factory=list)
    rows: list[tuple[str, bytes]] = field(default_factory=list)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    tried: Collection[str] | None = None
    left_out: int = 0


class Collector(Protocol):
    """Looks at one target."""

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """One look at `now_ms` (Unix ms UTC), going on from `position`; bounded by the resource's time-out."""

    async def close(self) -> None:
        """Let go of connections; called once, also after a failure."""


@dataclass(frozen=True, slots=True)
class CollectorKind:
    """One registered collector: the estate's `system`, how to make it and the options it takes.

    `schemes` are those that its url may have; without any it takes no url. `needs_tenant`: it reads what is one tenant's.
    """

    system: str
    make: Callable[[Target], Collector]
    options: type[Options] = Options
    schemes: tuple[str, ...] = ()
    needs_tenant: bool = False


def by_system(kinds: Iterable[CollectorKind]) -> dict[str, CollectorKind]:
    """The registry as a look-up."""
    return {kind.system: kind for kind in kinds}
