"""What tenants take of what they share, how they fare, and when what they share is under pressure: tables, one row a source.

A demand is what one tenant takes of a server: backends, connections, blocks, jobs, requests. Some measure time, which grows
for everybody when the server is slow; some measure work, which does not and therefore speaks more clearly against a
tenant. An outcome is how long a tenant's own people or jobs wait. A new collector adds a row here and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from processors.values import values_of
from schemas.caches import READINGS_BYTES, cached
from schemas.metrics import Kind, describe
from schemas.records import Scrape
from schemas.series import Series, parse, split

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


class Demand(NamedTuple):
    """One row: `floor` is the smallest excess of `unit` that can trouble others; `limit` says how to take it back."""

    name: str
    metric: str
    unit: str
    floor: float
    limit: str
    is_work: bool = False
    only: tuple[str, frozenset[str]] | None = None
    """An attribute and the values of it that count; the others' series are left out."""
    less_waits: bool = False
    """Sessions that wait for a lock count in it, though they take nothing."""
    whole_cell: bool = False
    """Shared by all resources of the cell of that system, not by the tenants of one resource."""


_SESSIONS = "limit its sessions (ALTER DATABASE ... CONNECTION LIMIT {keep}) or run its batch with fewer workers"
_STATEMENTS = "find the statement in pg_stat_statements, and run it in smaller parts or outside business hours"
_JOBS = "give its channel a capacity of its own (ODOO_QUEUE_JOB_CHANNELS=...:{keep})"
_REQUESTS = "limit its requests at the ingress (rate limit of its router) to {keep} at a time"
_ACTIVE = ("db.client.connection.state", frozenset({"active"}))
_WAITING = ("odoo.queue_job.state", frozenset({"pending", "enqueued", "started"}))

DEMANDS: tuple[Demand, ...] = (
    Demand("statements", "postgresql.active.time", "busy backends", 1.0, _SESSIONS, less_waits=True),
    Demand("statement time", "postgresql.query.time", "busy backends", 1.0, _SESSIONS, less_waits=True),
    Demand("sessions at work", "postgresql.connection.count", "backends at work", 2.0, _SESSIONS, only=_ACTIVE, less_waits=True),
    Demand("connections", "postgresql.connection.count", "connections", 10.0, _SESSIONS),
    Demand("queries", "postgresql.query.count", "statements/s", 200.0, _STATEMENTS, is_work=True),
    Demand("rows", "postgresql.query.rows", "rows/s", 5_000.0, _STATEMENTS, is_work=True),
    Demand("blocks", "postgresql.query.blocks", "blocks/s", 10_000.0, _STATEMENTS, is_work=True),
    Demand("block reads", "postgresql.blocks.read", "blocks/s", 2_000.0, _STATEMENTS, is_work=True),
    Demand("read waits", "postgresql.blocks.read.time", "backends waiting for reads", 0.5, _STATEMENTS),
    Demand("write waits", "postgresql.blocks.write.time", "backends waiting for writes", 0.5, _STATEMENTS),
    Demand("temporary files", "postgresql.temp.bytes", "B/s", 10e6, _STATEMENTS, is_work=True),
    Demand("queue", "redis.queue.length", "jobs waiting", 50.0, _JOBS, is_work=True),
    Demand("jobs", "odoo.queue_job.count", "jobs waiting", 50.0, _JOBS, is_work=True, only=_WAITING, whole_cell=True),
    Demand("request time", "odoo.http.request.time", "busy HTTP workers", 1.0, _REQUESTS),
    Demand("requests", "odoo.http.requests", "requests/s", 10.0, _REQUESTS, is_work=True),
)  # fmt: skip


class Outcome(NamedTuple):
    """How a tenant fares: the largest of its series counts. `floor` is the smallest growth that anybody feels."""

    metric: str
    sentence: str
    floor: float


OUTCOMES: tuple[Outcome, ...] = (
    Outcome("odoo.http.request.duration.mean", "requests of {tenant} take {now:.2f} s, usually {usual:.2f} s", 0.02),
    Outcome("odoo.queue_job.age.max", "the oldest job of {tenant} waits {now:.0f} s, usually {usual:.0f} s", 20.0),
)

WAITS = "postgresql.lock.waiting"


class Pressure(NamedTuple):
    """A shared resource is under pressure while `metric`, as a share of `of` where there is one, is above `limit`."""

    metric: str
    of: str | None
    limit: float
    sentence: str


PRESSURES: tuple[Pressure, ...] = (
    Pressure("postgresql.connection.used", "postgresql.connection.max", 0.8, "{share:.0%} of the connections of {resource} are used"),
    Pressure("postgresql.connection.working", "postgresql.cpu.count", 2.0, "sessions at work are {share:.0%} of the CPUs of {resource}"),
    Pressure("redis.client.connected", "redis.client.max", 0.8, "{share:.0%} of the connections of {resource} are used"),
    Pressure("system.cpu.utilization", None, 0.9, "the CPUs of {resource} are {share:.0%} busy"),
    Pressure("system.cpu.iowait", None, 0.3, "the CPUs of {resource} wait for disks {share:.0%} of the time"),
)  # fmt: skip

FLOORS = np.array([one.floor for one in DEMANDS])[:, None]
IS_SUM = np.array([describe(one.metric).kind is Kind.SUM for one in DEMANDS])[:, None]
IS_WORK = np.array([one.is_work for one in DEMANDS])[:, None]
LESS_WAITS = np.array([one.less_waits for one in DEMANDS])[:, None]
OUTCOME_FLOORS = np.array([one.floor for one in OUTCOMES])[:, None]


@dataclass(slots=True)
class Columns:
    """Columns of a layout that one table reads, and for each the row of the table and the tenant."""

    places: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    _at: Places | None = None

    def add(self, place: int, row: int, tenant: str) -> None:
        """One more column."""
        self.places.append(place)
        self.rows.append(row)
        self.tenants.append(tenant)

    def values(self, scrape: Scrape) -> Floats:
        """What the scrape has there; NaN where it was not measured."""
        if self._at is None:
            self._at = np.array(self.places, np.intp)
        return values_of(scrape)[self._at]


@dataclass(slots=True)
class Layout:
    """What a layout holds of each table."""

    mark: int
    own: Columns = field(default_factory=Columns)
    of_cell: Columns = field(default_factory=Columns)
    waits: Columns = field(default_factory=Columns)
    outcomes: Columns = field(default_factory=Columns)
    pressures: list[tuple[Pressure, int, int | None]] = field(default_factory=list)

    @property
    def is_watched(self) -> bool:
        """Whether anything of it is read at all."""
        return bool(self.own.places or self.of_cell.places or self.outcomes.places or self.pressures)


_ROWS: dict[str, list[int]] = {}
for _row, _demand in enumerate(DEMANDS):
    _ROWS.setdefault(_demand.metric, []).append(_row)
_OUTCOME = {one.metric: row for row, one in enumerate(OUTCOMES)}
_NAMES = (*_ROWS, *_OUTCOME, WAITS, *(one.metric for one in PRESSURES))


@cached("cache.readings", READINGS_BYTES)
def layout_of(series: str) -> Layout:
    """What a layout holds; remembered for the next scrape of it."""
    return _read(series)


def _read(text: str) -> Layout:
    layout, identities = Layout(crc32(text.encode())), split(text)
    for place, identity in enumerate(identities):
        if not identity.startswith(_NAMES):
            continue
        series = parse(identity)
        if series.tenant:
            _take(layout, place, series, series.tenant)
    where = {identity: place for place, identity in enumerate(identities)}
    for pressure in PRESSURES:
        if pressure.metric in where and (pressure.of is None or pressure.of in where):
            layout.pressures.append((pressure, where[pressure.metric], where[pressure.of] if pressure.of else None))
    return layout


def _take(layout: Layout, place: int, series: Series, tenant: str) -> None:
    for row in _ROWS.get(series.name, ()):
        demand = DEMANDS[row]
        if demand.only is None or series.attributes.get(demand.only[0]) in demand.only[1]:
            (layout.of_cell if demand.whole_cell else layout.own).add(place, row, tenant)
    if series.name in _OUTCOME:
        layout.outcomes.add(place, _OUTCOME[series.name], tenant)
    if series.name == WAITS:
        layout.waits.add(place, 0, tenant)


def shares(pressure: Iterable[tuple[Pressure, int, int | None]], scrape: Scrape) -> Iterable[tuple[Pressure, Any]]:
    """Each pressure of a layout as a share, None where it was not measured."""
    for one, place, of in pressure:
        value, whole = scrape.values[place], 1.0 if of is None else scrape.values[of]
        yield one, value / whole if value is not None and whole else None
