"""Four weeks of the company's past, as its collectors would have recorded them, one look every 15 minutes.

Rates and levels follow the same `load` as the live company, so the present continues the past without a step. What an
instant is made of stands in tables, one row a series: `always + lists x load + orders x orders a second`, with the noise
that the live one has. They were calibrated by looking at the running estate with the real collectors for minutes. The host
is left out: nobody knows what this machine did before.

The last hours also hold documents on their way, so that it is known how long a way usually takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.demo.certificate import VALID_FOR
from pilothouse.demo.company import CRON_INTERVAL_S, CRONS, WEEK_MS, Cell, Plan, Tenant, load, queue_of
from pilothouse.demo.estate import DemoEstate, calendars
from pilothouse.demo.seed import ORDERS
from schemas.metrics import Kind, describe
from schemas.records import BusinessBatch, Record, Scrape
from schemas.series import identity, join

GRAIN_MS = 900_000
WEEKS = 4
SEED = 20_261
LOAD_MIN = 0.2  # people look at their lists every five seconds at least, however quiet it is
DAY_SPREAD = 0.03  # no two days are the same

Floats = NDArray[np.float64]
Columns = dict[str, Floats]


NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class Noise(Enum):
    """How values scatter round their mean."""

    NONE = "none"
    COUNT = "count"  # Poisson
    SPREAD = "spread"  # log-normal, with the spread of its logarithm
    WAIT = "wait"  # exponential, as waits are


@dataclass(frozen=True, slots=True)
class Measure:
    """One series of a tenant or server: its mean in the catalogue's unit, of a sum in that unit a second.

    `lists` counts per unit of load, for what grows with people looking; `orders` per order a second.
    """

    name: str
    attributes: Mapping[str, str]
    always: float = 0.0
    lists: float = 0.0
    orders: float = 0.0
    noise: Noise = Noise.NONE
    spread: float = 0.0


def _m(
    name: str,
    always: float = 0.0,
    lists: float = 0.0,
    orders: float = 0.0,
    noise: Noise = Noise.NONE,
    spread: float = 0.0,
    of: Mapping[str, str] = NO_ATTRIBUTES,
) -> Measure:
    return Measure(name, of, always, lists, orders, noise, spread)


def _state(name: str) -> dict[str, str]:
    return {"db.client.connection.state": name}


def _document(kind: str, state: str) -> dict[str, str]:
    return {"erp.document.type": kind, "erp.document.state": state}


def _job(state: str = "", channel: str = "root.carrier") -> dict[str, str]:
    return {"odoo.queue_job.channel": channel} | ({"odoo.queue_job.state": state} if state else {})


COUNT, SPREAD, WAIT = Noise.COUNT, Noise.SPREAD, Noise.WAIT

# Of one tenant's database, as the PostgreSQL collector tells them (with db.namespace).
DATABASE = (
    _m("postgresql.commits", 8.0, 5.7, 9.0, COUNT),
    _m("postgresql.rollbacks", 0.0, 0.0, 0.005, COUNT),
    _m("postgresql.deadlocks"),
    _m("postgresql.active.time", 0.001, 0.019, 0.009, SPREAD, 0.15),
    _m("postgresql.query.time", 0.001, 0.0105, 0.0065, SPREAD, 0.15),
    _m("postgresql.query.count", 10.0, 57.0, 152.0, COUNT),
    _m("postgresql.query.rows", 15.0, 75.0, 150.0, COUNT),
    _m("postgresql.temp.bytes"),
    _m("postgresql.lock.waiting"),
    _m("postgresql.lock.wait.max"),
    _m("postgresql.transaction.age.max", 0.0, 0.0, 0.003, WAIT),
    _m("postgresql.idle_in_transaction.age.max", 0.0, 0.0, 0.0013, WAIT),
    _m("postgresql.connection.count", 7.85, of=_state("idle")),
    _m("postgresql.connection.count", 0.0, 0.01, 0.03, COUNT, of=_state("active")),
    _m("postgresql.connection.count", 0.0, 0.02, 0.14, COUNT, of=_state("idle in transaction")),
)
SERVER = (
    _m("postgresql.connection.max", 77.0),
    _m("postgresql.checkpoint.requested"),
    _m("postgresql.checkpoint.sync.time", 0.0005, 0.0, 0.0002, SPREAD, 0.5),
    _m("postgresql.wal.bytes", 2_000.0, 0.0, 25_000.0, SPREAD, 0.3),
)
CONNECTIONS_OF_A_TENANT = 8.0

# Of one tenant, as the collector of Odoo's tables tells them. At a look every three seconds a state that lasts half a
# second is mostly passed unseen, so not every order was seen in each.
ODOO = (
    _m("odoo.cron.active", float(len(CRONS))),
    _m("odoo.cron.overdue"),
    _m("odoo.cron.delay.max", 0.006, 0.0, 0.0, WAIT),
    *(_m("odoo.cron.runs", 1 / CRON_INTERVAL_S, of={"odoo.cron.name": name}) for name in CRONS),
    _m("odoo.mail.exception"),
    _m("odoo.mail.outgoing.age.max", 24.0, 0.0, 0.0, SPREAD, 0.5),
    _m("odoo.module.changing"),
    _m("odoo.queue_job.age.max", of=_job()),
    _m("odoo.queue_job.count", 0.0, 0.0, 0.02, COUNT, of=_job("enqueued")),
    _m("odoo.queue_job.count", 0.0, 0.0, 0.04, COUNT, of=_job("started")),
    _m("odoo.queue_job.count", of=_job("pending")),
    _m("odoo.queue_job.count", of=_job("failed")),
    _m("odoo.queue_job.dead", of=_job()),
    _m("odoo.queue_job.done", 0.0, 0.0, 1.0, COUNT, of=_job()),
    _m("odoo.queue_job.failed", of=_job()),
    _m("erp.order.value", 0.0, 0.0, 985.0, SPREAD, 0.03),
    _m("erp.document.transitions", 0.0, 0.0, 1.0, COUNT, of=_document("sale.order", "sale")),
    _m("erp.document.transitions", 0.0, 0.0, 0.19, COUNT, of=_document("stock.picking", "confirmed")),
    _m("erp.document.transitions", 0.0, 0.0, 0.23, COUNT, of=_document("stock.picking", "assigned")),
    _m("erp.document.transitions", 0.0, 0.0, 1.0, COUNT, of=_document("stock.picking", "done")),
    _m("erp.document.transitions", 0.0, 0.0, 0.03, COUNT, of=_document("account.move", "draft")),
    _m("erp.document.transitions", 0.0, 0.0, 1.0, COUNT, of=_document("account.move", "posted")),
    _m("erp.document.count", 0.0, 0.0, 0.87, COUNT, of=_document("sale.order", "draft")),
    _m("erp.document.count", 0.0, 0.0, 1.3, COUNT, of=_document("sale.order", "sale")),
    _m("erp.document.count", 0.0, 0.0, 0.6, COUNT, of=_document("stock.picking", "confirmed")),
    _m("erp.document.count", 0.0, 0.0, 0.7, COUNT, of=_document("stock.picking", "assigned")),
    _m("erp.document.count", 0.0, 0.0, 0.08, COUNT, of=_document("account.move", "draft")),
    _m("erp.document.age.max", 0.0, 0.0, 0.32, WAIT, of=_document("sale.order", "draft")),
    _m("erp.document.age.max", 0.0, 0.0, 0.67, WAIT, of=_document("sale.order", "sale")),
    _m("erp.document.age.max", 0.0, 0.0, 0.18, WAIT, of=_document("stock.picking", "confirmed")),
    _m("erp.document.age.max", 0.0, 0.0, 0.21, WAIT, of=_document("stock.picking", "assigned")),
    _m("erp.document.age.max", 0.0, 0.0, 0.004, WAIT, of=_document("account.move", "draft")),
)
SINCE_18 = (_m("odoo.cron.failing"),)

# Of one tenant, as the log tells them.
LOG = (
    _m("odoo.http.requests", 0.0, 5.7, 6.0, COUNT, of={"http.response.status_class": "2xx"}),
    _m("odoo.http.errors"),
    _m("odoo.http.request.time", 0.0, 0.137, 0.165, SPREAD, 0.1),
    _m("odoo.http.request.duration.mean", 0.0255, 0.0, 0.0, SPREAD, 0.2),
    _m("odoo.http.request.duration.max", 0.05, 0.0, 0.0, SPREAD, 0.5),
    _m("odoo.sql.queries", 0.0, 45.0, 131.0, COUNT),
    _m("odoo.sql.time", 0.0, 0.04, 0.05, SPREAD, 0.2),
    _m("odoo.log.records", 0.2, 5.7, 7.0, COUNT, of={"odoo.log.level": "INFO"}),
)
LOG_OF_ALL = (_m("odoo.log.records", 0.35, 0.0, 1.0, COUNT, of={"odoo.log.level": "INFO"}),)

# Of a whole Valkey; `orders` are those of all its tenants.
VALKEY = (
    _m("redis.ping.duration", 0.0008, 0.0, 0.0, SPREAD, 0.8),
    _m("redis.commands", 2.8, 0.0, 9.4, COUNT),
    _m("redis.slowlog.count"),
    _m("redis.errors"),
    _m("redis.client.rejected"),
    _m("redis.keys.evicted"),
    _m("redis.keys.expired", 0.0, 0.0, 0.02, COUNT),
    _m("redis.memory.used", 1.5e6, 0.0, 0.0, SPREAD, 0.01),
    _m("redis.memory.max", 67_108_864.0),
    _m("redis.memory.fragmentation", 4.85, 0.0, 0.0, SPREAD, 0.01),
    _m("redis.persistence.ok", 1.0),
    _m("redis.replication.connected"),
    *(
        _m("redis.command.duration", mean_s, 0.0, 0.0, SPREAD, 0.3, of={"db.operation.name": command})
        for command, mean_s in (
            ("BRPOP", 1.9e-5),
            ("DEL", 5e-6),
            ("EXPIRE", 2.4e-6),
            ("GET", 1.3e-6),
            ("HGET", 8e-7),
            ("HSET", 1.3e-5),
            ("INCR", 1.8e-6),
            ("LPUSH", 1.75e-5),
            ("PING", 1.7e-6),
            ("SET", 1.15e-5),
        )
    ),
)
QUEUE = _m("redis.queue.length", 0.0, 0.0, 0.02, COUNT)

WEB = (
    _m("odoo.health.up", 1.0),
    _m("odoo.health.duration", 0.003, 0.0, 0.0, SPREAD, 0.8),
)
TLS = (
    _m("tls.handshake.success", 1.0),
    _m("tls.handshake.duration", 0.008, 0.0, 0.0, SPREAD, 0.6),
    _m("tls.certificate.host_match", 1.0),
)

# Month end brings short waits for the invoice sequence: on such days somebody waits at one look in thirty.
MONTH_END_WAITS, MONTH_END_WAIT_S = 1 / 30, 0.15

# How long documents stayed in their states, s, at least and at most; they are seen in all of them.
STAYS_S = {
    "sale.order,draft": (0.4, 1.3),
    "stock.picking,confirmed": (0.2, 1.3),
    "stock.picking,assigned": (0.2, 1.6),
    "account.move,draft": (0.02, 0.8),
}
LAST_LOOKS, DOCUMENTS_OF_A_LOOK = 16, 8


def moments(demo: DemoEstate, until_ms: int | None = None) -> Iterator[tuple[int, list[Record]]]:
    """(recorded_ms, records) in the order of time, ending before `until_ms` (now when left out)."""
    until = time.time_ns() // 1_000_000 if until_ms is None else until_ms
    yield from past(demo.plan, [odoo.cell for odoo in demo.odoos.values()], until)


def past(plan: Plan, cells: Sequence[Cell], until_ms: int) -> Iterator[tuple[int, list[Record]]]:
    """The past of these cells; the same arguments give the same past."""
    last_ms = (until_ms - 1) // GRAIN_MS * GRAIN_MS
    times_ms = np.arange(last_ms - WEEKS * WEEK_MS + GRAIN_MS, last_ms + 1, GRAIN_MS, dtype=np.int64)
    maker = _Maker(plan, times_ms, np.random.default_rng(SEED))
    resources = [resource for cell in cells for resource in maker.resources(cell)]
    documents = [one for cell in cells for one in _documents(maker, cell)]
    for place, time_ms in enumerate(times_ms.tolist()):
        records: list[Record] = [resource.scrape(place, time_ms) for resource in resources]
        records += [batch for at_ms, batch in documents if at_ms == time_ms]
        yield time_ms, records


class _Resource:
    """All looks at one resource, as columns."""

    def __init__(self, cell: str, name: str, system: str, columns: Columns, since_ms: int) -> None:
        ordered = sorted(columns)
        self._identity = {"cell": cell, "resource": name, "system": system}
        self._series = join(ordered)
        self._rows: list[list[float]] = np.column_stack([columns[one] for one in ordered]).tolist()
        self._since_ms = since_ms

    def scrape(self, place: int, time_ms: int) -> Scrape:
        """One look."""
        return Scrape(
            **self._identity,
            time_ms=time_ms,
            start_time_ms=self._since_ms,
            series=self._series,
            values=tuple(self._rows[place]),
        )


class _Maker:
    """Makes columns from measures."""

    def __init__(self, plan: Plan, times_ms: NDArray[np.int64], random: np.random.Generator) -> None:
        self.plan, self.times_ms, self.random = plan, times_ms, random
        days = (times_ms // 86_400_000 - times_ms[0] // 86_400_000).astype(int)
        self._of_day = np.exp(random.normal(0, DAY_SPREAD, days.max() + 1))[days]
        self._is_month_end = np.array([calendars(plan)[0].at(at).is_month_end for at in times_ms.tolist()])
        self._loads: dict[str, Floats] = {}

    def load(self, tenant: Tenant) -> Floats:
        """The tenant's load in the middle of each interval."""
        if tenant.name not in self._loads:
            middles = (self.times_ms - GRAIN_MS // 2).tolist()
            self._loads[tenant.name] = np.array([load(self.plan, tenant, at) for at in middles])
        return self._loads[tenant.name]

    def resources(self, cell: Cell) -> Iterator[_Resource]:
        """Every resource of a cell that has a past."""
        since_ms = int(self.times_ms[0]) - GRAIN_MS
        for name, system, columns in self._named(cell):
            yield _Resource(cell.name, name, system, columns, since_ms)

    def _named(self, cell: Cell) -> Iterator[tuple[str, str, Columns]]:
        yield cell.postgres, "postgresql", self._postgres(cell)
        yield cell.valkey, "redis", self._valkey(cell)
        yield f"log-{cell.name}", "odoo_log", self._log(cell)
        yield f"web-{cell.name}", "odoo_health", self._whole(WEB, cell)
        yield (
            f"tls-{cell.name}",
            "tls",
            self._whole(TLS, cell) | {"tls.certificate.validity.remaining": self._valid_s()},
        )
        for tenant in cell.tenants:
            measures = ODOO + SINCE_18 * (tenant.version >= 18)
            yield f"odoo-{tenant.name}", "odoo", self._of(measures, tenant, {})

    def _postgres(self, cell: Cell) -> Columns:
        columns = self._whole(SERVER, cell)
        columns["postgresql.connection.used"] = self._constant(CONNECTIONS_OF_A_TENANT * len(cell.tenants) + 1)
        for tenant in cell.tenants:
            columns |= self._of(DATABASE, tenant, {"db.namespace": tenant.name})
            columns |= self._month_end_waits(tenant)
        return columns

    def _month_end_waits(self, tenant: Tenant) -> Columns:
        waits = self._is_month_end & (self.random.random(self.times_ms.size) < MONTH_END_WAITS)
        named = {"db.namespace": tenant.name, "tenant.id": tenant.name}
        return {
            identity("postgresql.lock.waiting", named): waits.astype(float),
            identity("postgresql.lock.wait.max", named): np.round(
                waits * self.random.exponential(MONTH_END_WAIT_S, waits.size), 4
            ),
        }

    def _valkey(self, cell: Cell) -> Columns:
        columns = self._whole(VALKEY, cell)
        # Of each tenant a worker that waits, the worker's and the people's other connections; and who looks at it.
        columns["redis.client.connected"] = self._constant(3.0 * len(cell.tenants) + 2)
        for tenant in cell.tenants:
            columns |= self._of((QUEUE,), tenant, {"redis.key": queue_of(tenant.name)})
        return columns

    def _log(self, cell: Cell) -> Columns:
        columns = self._whole(LOG_OF_ALL, cell)
        for tenant in cell.tenants:
            columns |= self._of(LOG, tenant, {})
        return columns

    def _valid_s(self) -> Floats:
        now_ms = int(self.times_ms[-1])
        return np.array([VALID_FOR.total_seconds() + (now_ms - at) / 1000 for at in self.times_ms.tolist()], np.float64)

    def _constant(self, value: float) -> Floats:
        return np.full(self.times_ms.size, value)

    def _of(self, measures: Iterable[Measure], tenant: Tenant, more: Mapping[str, str]) -> Columns:
        orders = self.load(tenant) * tenant.orders_per_s
        attributes = {**more, "tenant.id": tenant.name}
        return self._columns(measures, self.load(tenant), orders, attributes)

    def _whole(self, measures: Iterable[Measure], cell: Cell) -> Columns:
        loads = [self.load(tenant) for tenant in cell.tenants]
        orders = [one * tenant.orders_per_s for one, tenant in zip(loads, cell.tenants, strict=True)]
        return self._columns(measures, np.sum(loads, axis=0), np.sum(orders, axis=0), {})

    def _columns(
        self, measures: Iterable[Measure], loads: Floats, orders: Floats, attributes: Mapping[str, str]
    ) -> Columns:
        columns: Columns = {}
        for one in measures:
            lists = one.lists * np.maximum(loads, LOAD_MIN)
            mean = one.always + (lists + one.orders * orders) * self._of_day
            columns[identity(one.name, {**one.attributes, **attributes})] = self._values(one, mean)
        return columns

    def _values(self, measure: Measure, mean: Floats) -> Floats:
        if describe(measure.name).kind is Kind.SUM:
            return self._scattered(measure, mean * (GRAIN_MS / 1000)).cumsum().round(4)
        return self._scattered(measure, mean)

    def _scattered(self, measure: Measure, mean: Floats) -> Floats:
        scatter: dict[Noise, Callable[[], Any]] = {
            Noise.NONE: mean.copy,
            Noise.COUNT: lambda: self.random.poisson(mean).astype(float),
            Noise.SPREAD: lambda: (
                mean * np.exp(self.random.normal(-(measure.spread**2) / 2, measure.spread, mean.size))
            ),
            Noise.WAIT: lambda: self.random.exponential(1.0, mean.size) * mean,
        }
        values: Floats = scatter[measure.noise]()
        return values


def _documents(maker: _Maker, cell: Cell) -> Iterator[tuple[int, BusinessBatch]]:
    """Orders of the last hours on their whole way, told at the look after; they are the last that the databases hold."""
    looks = maker.times_ms[-LAST_LOOKS:].tolist()
    for tenant in cell.tenants:
        first = ORDERS - LAST_LOOKS * DOCUMENTS_OF_A_LOOK + 1
        for number, at_ms in enumerate(looks):
            ids = range(first + number * DOCUMENTS_OF_A_LOOK, first + (number + 1) * DOCUMENTS_OF_A_LOOK)
            rows = [row for one in ids for row in _way(maker, one, at_ms)]
            yield at_ms, _batch(cell.name, tenant, at_ms, sorted(rows, key=lambda row: row[0]))


def _way(maker: _Maker, number: int, told_ms: int) -> list[tuple[int, str, int, str, str]]:
    """(time ms, type, id, name, state) of an order and what follows from it."""

    def stay_ms(state: str) -> int:
        return round(maker.random.uniform(*STAYS_S[state]) * 1000)

    ordered = told_ms - int(maker.random.uniform(30_000, GRAIN_MS))
    sold = ordered + stay_ms("sale.order,draft")
    reserved = sold + stay_ms("stock.picking,confirmed")
    shipped = reserved + stay_ms("stock.picking,assigned")
    invoiced = shipped + 500
    order, picking, invoice = f"S{number:05d}", f"WH/OUT/{number:05d}", f"INV/{number:05d}"
    return [
        (ordered, "sale.order", number, order, "draft"),
        (sold, "sale.order", number, order, "sale"),
        (sold, "stock.picking", number, picking, "confirmed"),
        (reserved, "stock.picking", number, picking, "assigned"),
        (shipped, "stock.picking", number, picking, "done"),
        (invoiced, "account.move", number, invoice, "draft"),
        (invoiced + stay_ms("account.move,draft"), "account.move", number, invoice, "posted"),
    ]


def _batch(cell: str, tenant: Tenant, at_ms: int, rows: list[tuple[int, str, int, str, str]]) -> BusinessBatch:
    count = len(rows)
    return BusinessBatch(
        cell=cell,
        resource=f"odoo-{tenant.name}",
        system="odoo",
        time_ms=at_ms,
        tenants=(tenant.name,) * count,
        times_ms=tuple(row[0] for row in rows),
        document_types=tuple(row[1] for row in rows),
        document_ids=tuple(row[2] for row in rows),
        document_names=tuple(row[3] for row in rows),
        states=tuple(row[4] for row in rows),
        orders=tuple(row[2] if row[1] != "account.move" else None for row in rows),
        amounts=(120.0,) * count,
        currencies=("EUR",) * count,
        warehouses=("Main",) * count,
        carriers=(None,) * count,
        deadlines_ms=(None,) * count,
    )
