"""Draws an estate: a cell, its tenants with their calendars and characters, its resources.

Everything that a seed decides before time begins is here. Ranges are those of small and middle-sized distributors on a
shared Odoo host; a tenant's numbers are independent of each other unless one follows from another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any

import numpy as np

from schemas.calendar import DAYS, WORKDAYS, Calendar, CutOff, Shift
from schemas.estate import Cell, Estate, Resource, Tenant, Tier

NAMES = ("acme", "borealis", "cascade", "delta", "ember", "fjord", "granite", "harbour", "iris", "juniper")
ZONES = ("Europe/Berlin", "Europe/London", "America/New_York", "Australia/Sydney", "Europe/Warsaw")
PARTNERS = ("blue-parcel", "north-freight", "rapid-post", "edi-hub")
CRONS = (
    ("Mail: Email Queue Manager", 300),
    ("Procurement: run scheduler", 3_600),
    ("EDI: import orders", 900),
    ("Carrier: track parcels", 600),
    ("Inventory: reserve waiting pickings", 300),
)
SEASON_YEARS = (2025, 2026)
LOOK_S = 60.0  # from one look of a collector to the next


@dataclass(frozen=True, slots=True)
class Trade:
    """A way of doing business: its shifts, and the load at each full hour of an open and of a closed day."""

    name: str
    days: tuple[Any, ...]
    opens: int
    closes: int
    open_day: tuple[float, ...]
    closed_day: float


def _hours(opens: int, closes: int, night: float) -> tuple[float, ...]:
    """Work begins and ends over an hour, dips at noon, and is busiest before the middle of the day."""
    middle = (opens + closes) / 2
    out = []
    for hour in range(24):
        inside = opens <= hour < closes
        shape = 1.0 - 0.25 * abs(hour + 0.5 - middle) / max(middle - opens, 1)
        dip = 0.82 if hour == int(middle) else 1.0
        edge = 0.6 if hour in (opens, closes - 1) else 1.0
        near = 0.35 if hour in (opens - 1, closes) else night
        out.append(shape * dip * edge if inside else near)
    return tuple(out)


TRADES = (
    Trade("wholesale", WORKDAYS, 7, 17, _hours(7, 17, 0.04), 0.05),
    Trade("shops", DAYS, 8, 22, _hours(8, 22, 0.08), 0.6),
    Trade("two shifts", DAYS[:6], 5, 22, _hours(5, 22, 0.05), 0.08),
)


@dataclass(frozen=True, slots=True)
class Character:
    """What is a tenant's own. Rates are at a load of 1, a second."""

    tenant: Tenant
    trade: Trade
    calendar: Calendar
    requests_per_s: float
    orders_per_s: float
    query_s: float  # SQL time of a request on a quiet server
    order_query_s: float  # and of an order on its way
    app_s: float
    jobs_per_order: float
    job_s: float
    partners: tuple[str, ...]
    workers: int
    pool: int
    clumps: float
    day_spread: float
    wander: float
    growth_per_week: float
    month_end: float
    rush: float
    order_value: float
    pick_s: float  # median time from reserved to shipped, of open time
    size_bytes: float

    @property
    def name(self) -> str:
        """The tenant's name."""
        return self.tenant.name

    @property
    def busy(self) -> float:
        """Backends that it keeps busy at a load of 1."""
        return self.requests_per_s * self.query_s + self.orders_per_s * self.order_query_s


@dataclass(frozen=True, slots=True)
class Drawn:
    """An estate of one cell, and what a seed has decided of it."""

    seed: int
    cell: str
    tenants: tuple[Character, ...]
    start_ms: int  # when its history begins
    capacity: int  # backends that its PostgreSQL serves at full speed
    cores: int
    memory_bytes: float
    disk_bytes: float
    disk_used: float
    ping_s: float
    skew_ms: int  # of the publisher's clock against time as it happened
    miss: float  # share of looks that fail
    late: float  # share of records that come late

    @property
    def names(self) -> tuple[str, ...]:
        """Tenants' names."""
        return tuple(one.name for one in self.tenants)

    def tenant(self, name: str) -> Character:
        """The tenant of that name."""
        return next(one for one in self.tenants if one.name == name)

    def room(self, *names: str, use: float = 0.7) -> float:
        """By which factor the load of some tenants can grow until the database server is used so much, on a busy day."""
        own = 1.3 * sum(one.busy for one in self.tenants if one.name in names)
        others = 1.3 * sum(one.busy for one in self.tenants if one.name not in names)
        return max((use * self.capacity - others) / own, 1.0)

    def with_calendar(self, name: str, **changes: Any) -> Drawn:
        """The same with a tenant's calendar changed, as somebody declares a campaign or a holiday."""
        tenants = tuple(
            replace(one, calendar=one.calendar.model_copy(update=changes)) if one.name == name else one
            for one in self.tenants
        )
        return replace(self, tenants=tenants)

    def estate(self, interval_s: float = LOOK_S) -> Estate:
        """What Pilothouse is told of it, looked at so often."""
        looked_at = partial(Resource, interval_s=interval_s)
        pg, valkey = f"pg-{self.cell}", f"valkey-{self.cell}"
        shared = (
            looked_at(name=pg, system="postgresql", depends_on=(f"host-{self.cell}",)),
            looked_at(name=valkey, system="redis"),
            looked_at(name=f"log-{self.cell}", system="odoo_log", depends_on=(pg, valkey)),
            looked_at(name=f"web-{self.cell}", system="odoo_health"),
            looked_at(name=f"host-{self.cell}", system="host"),
            looked_at(name=f"tls-{self.cell}", system="tls"),
        )
        odoos = tuple(
            looked_at(name=f"odoo-{one.name}", system="odoo", tenant=one.name, depends_on=(pg, valkey))
            for one in self.tenants
        )
        cell = Cell(name=self.cell, tenants=tuple(one.tenant for one in self.tenants), resources=(*shared, *odoos))
        return Estate(cells=(cell,), calendars=tuple(one.calendar for one in self.tenants))


def draw(seed: int, *, tenants: int | None = None, cell: str = "sim", start: date | None = None) -> Drawn:
    """The estate of a seed. `tenants` and `start` (of its history) are drawn when they are not given."""
    random = np.random.default_rng([seed, 101])
    count = tenants or int(random.integers(3, 6))
    zone = str(random.choice(ZONES))
    names = random.permutation(NAMES)[:count] if count <= len(NAMES) else [f"t{one:03d}" for one in range(count)]
    characters = tuple(_character(random, str(name), zone) for name in names)
    first = start or date(int(random.choice(SEASON_YEARS)), 1, 1) + timedelta(days=int(random.integers(0, 330)))
    peak = sum(one.busy for one in characters)
    capacity = max(4, round(peak / random.uniform(0.3, 0.5)))
    return Drawn(
        seed=seed,
        cell=cell,
        tenants=characters,
        start_ms=int(datetime.combine(first, time(), UTC).timestamp() * 1000),
        capacity=capacity,
        cores=int(random.choice((8, 16, 32))),
        memory_bytes=float(random.choice((32e9, 64e9, 128e9))),
        disk_bytes=float(random.choice((0.5e12, 1e12, 2e12))),
        disk_used=float(random.uniform(0.25, 0.65)),
        ping_s=float(random.uniform(0.0003, 0.0015)),
        skew_ms=int(random.integers(-400, 401)),
        miss=float(random.choice((0.0, 0.002, 0.01))),
        late=float(random.choice((0.0, 0.001, 0.005))),
    )


def _character(random: np.random.Generator, name: str, zone: str) -> Character:
    trade = TRADES[int(random.integers(0, len(TRADES)))]
    calendar = Calendar(
        name=f"of-{name}",
        time_zone=zone if random.random() < 0.8 else str(random.choice(ZONES)),
        shifts=(Shift(days=trade.days, opens=time(trade.opens), closes=time(trade.closes)),),
        holidays=_holidays(),
        cut_offs=(CutOff(at=time(min(trade.closes - 1, int(random.integers(14, 18)))), days=trade.days),),
    )
    requests = float(np.exp(random.uniform(np.log(1.5), np.log(15))))
    orders = requests * float(random.uniform(0.0015, 0.006))
    return Character(
        tenant=Tenant(name=name, tier=Tier(str(random.choice(list(Tier)))), calendar=calendar.name),
        trade=trade,
        calendar=calendar,
        requests_per_s=requests,
        orders_per_s=orders,
        query_s=float(random.uniform(0.02, 0.06)),
        order_query_s=float(random.uniform(0.3, 1.5)),
        app_s=float(random.uniform(0.05, 0.2)),
        jobs_per_order=float(random.uniform(1.0, 3.0)),
        job_s=float(random.uniform(0.5, 3.0)),
        partners=tuple(str(one) for one in random.permutation(PARTNERS)[:2]),
        workers=int(random.integers(4, 13)),
        pool=int(random.integers(8, 24)),
        clumps=float(random.uniform(0.05, 0.2)),
        day_spread=float(random.uniform(0.02, 0.08)),
        wander=float(random.uniform(0.04, 0.12)),
        growth_per_week=float(random.normal(0, 0.01)),
        month_end=float(random.uniform(1.1, 1.5)),
        rush=float(random.uniform(0.05, 0.4)),
        order_value=float(np.exp(random.uniform(np.log(80), np.log(1_500)))),
        pick_s=float(random.uniform(240, 1_200)),
        size_bytes=float(np.exp(random.uniform(np.log(5e9), np.log(80e9)))),
    )


def _holidays() -> tuple[date, ...]:
    fixed = ((1, 1), (5, 1), (12, 25), (12, 26))
    return tuple(date(year, month, day) for year in range(2025, 2029) for month, day in fixed)
