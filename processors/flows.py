"""What must not stand still: counts whose silence is a failure, one row a source, and where a layout holds them.

A flow is the sum of the series that agree in the attributes it is told apart by: requests of all status classes are one, jobs
are one a channel. `gate` is the gauge of what waits for it: while nothing waits, nothing is to be expected of a worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.caches import NAMES_BYTES, READINGS_BYTES, cached
from schemas.series import Series, identity, parse, split

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Only = tuple[str, frozenset[str]]

OUTCOMES = frozenset({"done", "sale", "posted", "purchase"})
BEGINS = frozenset({"sale", "purchase"})
WAY = (frozenset({"draft"}), BEGINS, frozenset({"assigned"}), frozenset({"done"}), frozenset({"posted"}))
"""States that documents reach one after the other."""


class Gate(NamedTuple):
    """What waits: series of `metric` with `only`, and the attributes by which they belong to a flow."""

    metric: str
    only: Only
    by: tuple[str, ...]


class Flow(NamedTuple):
    """One row. `cause` is the kind of cause that its silence speaks for, `alone` when others of the tenant move on.

    State knows a row by its `name`, so rows may be added, moved and taken out.
    """

    name: str
    metric: str
    cause: str
    by: tuple[str, ...] = ()
    only: Only | None = None
    kinds: frozenset[str] = frozenset()
    """Types of the documents that it counts; empty for all."""
    alone: str | None = None
    is_machine: bool = False
    """Workers do it, so others of the tenant's workers say whether it is alone."""
    around_the_clock: bool = False
    """It goes on while the calendar is closed."""
    gate: Gate | None = None
    needs_gate: bool = False
    """It is only to be expected while something is seen to wait; otherwise that only helps in unknown hours."""
    leaves_some: bool = False
    """Some of what waits may wait for good, so only more than was left lying is seen to wait."""


_KIND, _STATE, _CHANNEL = "erp.document.type", "erp.document.state", "odoo.queue_job.channel"
_JOBS = Gate(
    "odoo.queue_job.count", ("odoo.queue_job.state", frozenset({"pending", "enqueued", "started"})), (_CHANNEL,)
)
_TO_RESERVE = Gate("erp.document.count", (_STATE, frozenset({"confirmed"})), (_KIND,))

FLOWS: tuple[Flow, ...] = (
    Flow("jobs", "odoo.queue_job.done", "odoo.workers", (_CHANNEL,), alone="queue.stuck", is_machine=True, gate=_JOBS),
    Flow("actions", "odoo.cron.runs", "odoo.workers", alone="odoo.cron", is_machine=True, around_the_clock=True),
    # A document may pass through a state between two looks; where its way ends it must be seen.
    Flow("documents", "erp.document.transitions", "process.stopped", (_KIND, _STATE), only=(_STATE, OUTCOMES)),
    Flow(
        "reservations", "erp.document.transitions", "process.stopped", (_KIND,), only=(_STATE, frozenset({"assigned"})), gate=_TO_RESERVE,
        needs_gate=True, leaves_some=True,
    ),
    Flow("requests", "odoo.http.requests", "odoo.web"),
    # Of a shop that sells little, what is ordered is seen sooner in its carts than in what is still confirmed of them.
    Flow(
        "carts", "erp.document.transitions", "process.stopped", (_KIND,), only=(_STATE, frozenset({"draft"})),
        kinds=frozenset({"sale.order"}),
    ),
)  # fmt: skip


FLOW_NAMED = {flow.name: place for place, flow in enumerate(FLOWS)}
FLOWS_NUMBERED = ("jobs", "actions", "documents", "reservations", "requests", "carts")
"""Rows as they stood when state knew them by their number."""


class Stream(NamedTuple):
    """One flow of one tenant, and its name as a series identity. `flow` is its row, in this process."""

    name: str
    flow: int
    tenant: str | None

    @property
    def begins(self) -> bool:
        """Whether it counts what the business begins with: orders."""
        return parse(self.name).attributes.get(_STATE) in BEGINS

    def follows(self, other: Stream) -> bool:
        """Whether what it counts happens to documents later than what the other counts."""
        mine, before = _place_on_way(self.name), _place_on_way(other.name)
        return mine is not None and before is not None and mine > before

    @property
    def channel(self) -> str | None:
        """The queue channel whose jobs it counts."""
        return parse(self.name).attributes.get(_CHANNEL)


@cached("cache.names", NAMES_BYTES)
def _place_on_way(name: str) -> int | None:
    state = parse(name).attributes.get(_STATE)
    return next((place for place, states in enumerate(WAY) if state in states), None)


@dataclass(slots=True)
class Layout:
    """The columns of a layout that are counted, the stream of each, and the columns that gate a stream."""

    identities: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    stream_of: list[int] = field(default_factory=list)
    gates: list[tuple[int, str]] = field(default_factory=list)


_BY_METRIC: dict[str, list[int]] = {}
for _place, _flow in enumerate(FLOWS):
    _BY_METRIC.setdefault(_flow.metric, []).append(_place)
_GATES = {flow.gate.metric for flow in FLOWS if flow.gate}
_NAMES = (*_BY_METRIC, *_GATES)


@cached("cache.readings", READINGS_BYTES)
def layout_of(series: str) -> Layout:
    """What a layout holds; remembered for the next scrape of it."""
    return _read(series)


def _read(text: str) -> Layout:
    layout, index = Layout(), dict[str, int]()
    for place, one in enumerate(split(text)):
        if not one.startswith(_NAMES):
            continue
        series = parse(one)
        for stream in _streams(series):
            if stream.name not in index:
                index[stream.name] = len(layout.streams)
                layout.streams.append(stream)
            layout.identities.append(one)
            layout.places.append(place)
            layout.stream_of.append(index[stream.name])
        layout.gates += [(place, name) for name in _gated(series)]
    return layout


def streams_of(identities: Iterable[str]) -> set[str]:
    """Names of the streams that series are counted in."""
    return {stream.name for one in identities if one.startswith(_NAMES) for stream in _streams(parse(one))}


def _streams(series: Series) -> list[Stream]:
    return [
        Stream(_named(row, series), row, series.tenant)
        for row in _BY_METRIC.get(series.name, ())
        if _is(FLOWS[row].only, series) and (not FLOWS[row].kinds or series.attributes.get(_KIND) in FLOWS[row].kinds)
    ]


def _gated(series: Series) -> list[str]:
    return [
        _named(row, series)
        for row, flow in enumerate(FLOWS)
        if flow.gate and flow.gate.metric == series.name and _is(flow.gate.only, series)
    ]


def _named(row: int, series: Series) -> str:
    """Name of the stream: the metric with what tells its flows apart. A gate has the same by its own attributes."""
    flow = FLOWS[row]
    told = {name: series.attributes[name] for name in (*flow.by, "tenant.id") if name in series.attributes}
    if flow.only and len(flow.only[1]) == 1:
        told[flow.only[0]] = next(iter(flow.only[1]))
    return identity(flow.metric, told)


def _is(only: Only | None, series: Series) -> bool:
    return only is None or series.attributes.get(only[0]) in only[1]
