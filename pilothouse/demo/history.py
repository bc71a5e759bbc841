"""Two weeks of the company's past, as its collectors would have recorded them, one look every 15 minutes.

Rates and levels follow the same `load` as the live company, so the present continues the past without a step. What an
instant is made of stands in the tables of `measures`. The host is left out: nobody knows what this machine did before.

The last hours also hold documents on their way, so that it is known how long a way usually takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.demo.certificate import VALID_FOR
from pilothouse.demo.company import PAST_WEEKS, WEEK_MS, Cell, Plan, Tenant, load, queue_of
from pilothouse.demo.estate import DemoEstate, calendars
from pilothouse.demo.measures import (
    CONNECTIONS_OF_A_TENANT,
    DATABASE,
    LOG,
    LOG_OF_ALL,
    ODOO,
    QUEUE,
    SERVER,
    SINCE_18,
    TLS,
    VALKEY,
    WEB,
    Measure,
    Noise,
)
from pilothouse.demo.seed import ORDERS
from schemas.metrics import Kind, describe
from schemas.records import BusinessBatch, Record, Scrape
from schemas.series import identity, join

GRAIN_MS = 900_000
SEED = 20_261
LOAD_MIN = 0.2  # people look at their lists every five seconds at least, however quiet it is
DAY_SPREAD = 0.03  # no two days are the same

Floats = NDArray[np.float64]
Columns = dict[str, Floats]

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


def last_look(until_ms: int) -> int:
    """When the past was looked at last, Unix ms, if it ends before `until_ms`."""
    return (until_ms - 1) // GRAIN_MS * GRAIN_MS


def moments(demo: DemoEstate, until_ms: int) -> Iterator[tuple[int, list[Record]]]:
    """(recorded_ms, records) in the order of time, ending before `until_ms`."""
    yield from past(demo.plan, [odoo.cell for odoo in demo.odoos.values()], until_ms)


def past(plan: Plan, cells: Sequence[Cell], until_ms: int) -> Iterator[tuple[int, list[Record]]]:
    """The past of these cells; the same arguments give the same past."""
    last_ms = last_look(until_ms)
    times_ms = np.arange(last_ms - PAST_WEEKS * WEEK_MS + GRAIN_MS, last_ms + 1, GRAIN_MS, dtype=np.int64)
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
