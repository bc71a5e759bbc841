"""The demo's company, as data: its cells, its tenants, their rhythm of the day. It stands in for a host of real Odoos.

One truth for two users: the live workload asks `load` how busy it has to be, and the invented past asks it how busy it
was, so that the present continues the past. Nothing here needs more than the standard library, because every process of
the workload imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
PAST_WEEKS = 2
EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday; Monday is 0
MORNING_HOUR = 10
PEAK_LOAD = 3.0

# Share of the mid-morning's orders at each full hour; between them the load changes evenly. 16:00 is the cut-off.
DAY = (
    *(0.03, 0.03, 0.03, 0.03, 0.05, 0.12, 0.35, 0.62, 0.86, 0.98, 1.00, 1.00),
    *(0.86, 0.82, 0.92, 1.00, 0.82, 0.60, 0.46, 0.36, 0.26, 0.16, 0.07, 0.04),
)
WEEK = (1.05, 1.0, 1.0, 1.0, 1.02, 0.95, 0.93)  # from Monday; the company works seven days


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer. `version` is the Odoo whose columns it has; `orders_per_s` its sales at a load of 1."""

    name: str
    version: int
    orders_per_s: float
    tier: str
    calendar: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One platform: a PostgreSQL, a Valkey and an Odoo that its tenants share."""

    name: str
    tenants: tuple[Tenant, ...]

    @property
    def postgres(self) -> str:
        """Name of its PostgreSQL."""
        return f"pg-{self.name}"

    @property
    def valkey(self) -> str:
        """Name of its Valkey."""
        return f"valkey-{self.name}"


ORDINARY, TRADE = "distribution", "trade"

CELLS = (
    Cell(
        "eu1",
        (
            Tenant("acme", 18, 0.90, "critical", ORDINARY),
            Tenant("borealis", 17, 0.70, "high", TRADE),
            Tenant("cascade", 19, 0.80, "medium", ORDINARY),
            Tenant("delta", 18, 0.60, "medium", ORDINARY),
        ),
    ),
    Cell("everest", (Tenant("everest", 19, 0.80, "critical", TRADE),)),
)
TENANTS = {tenant.name: tenant for cell in CELLS for tenant in cell.tenants}
CELL_OF = {tenant.name: cell for cell in CELLS for tenant in cell.tenants}

CRONS = (
    "Mail: Email Queue Manager",
    "Procurement: run scheduler",
    "EDI: import orders",
    "Carrier: track parcels",
    "Sales: send order confirmations",
    "Inventory: reserve waiting pickings",
)
CRON_INTERVAL_S = 60
CARRIERS = ("Blue Parcel", "North Freight", "Rapid Post")


def queue_of(tenant: str) -> str:
    """Key of the list through which jobs for carriers are handed to workers."""
    return f"queue:{tenant}:carrier"


@dataclass(frozen=True, slots=True)
class Peak:
    """A campaign that the company expects; Unix ms, the end excluded."""

    starts_ms: int
    ends_ms: int
    load: float = PEAK_LOAD


@dataclass(frozen=True, slots=True)
class Plan:
    """What is fixed before the demo begins: the company's clock and its campaigns.

    `offset_h` is its hours ahead of UTC, chosen so that it is mid-morning whenever the demo is run.
    """

    offset_h: int
    peaks: tuple[Peak, ...] = ()

    @classmethod
    def at(cls, now_ms: int, peaks: tuple[Peak, ...] = ()) -> Self:
        """The plan of a demo that begins now with these peaks to come; the weeks before had some, too."""
        offset_h = (MORNING_HOUR - now_ms // HOUR_MS % 24 + 12) % 24 - 12
        # On another weekday than today's, so that what is usual at this hour is not taught by a campaign.
        starts = [now_ms // HOUR_MS * HOUR_MS - weeks * WEEK_MS - 2 * DAY_MS for weeks in range(1, PAST_WEEKS)]
        return cls(offset_h, (*(Peak(start, start + HOUR_MS) for start in starts), *peaks))

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The plan that `data` gave."""
        return cls(data["offset_h"], tuple(Peak(**peak) for peak in data["peaks"]))

    def data(self) -> dict[str, Any]:
        """The plan as JSON takes it."""
        return asdict(self)

    @property
    def time_zone(self) -> str:
        """The company's zone by its IANA name, whose sign is turned round."""
        return f"Etc/GMT{-self.offset_h:+d}" if self.offset_h else "Etc/GMT"

    def is_peak(self, time_ms: int) -> bool:
        """Whether a campaign is running."""
        return any(peak.starts_ms <= time_ms < peak.ends_ms for peak in self.peaks)


def load(plan: Plan, tenant: Tenant, time_ms: int) -> float:
    """How busy the tenant is at an instant (Unix ms), as a multiple of an ordinary mid-morning."""
    usual = _of_day(plan, time_ms)
    if tenant.calendar != TRADE:
        return usual
    return usual * max((peak.load for peak in plan.peaks if peak.starts_ms <= time_ms < peak.ends_ms), default=1.0)


def _of_day(plan: Plan, time_ms: int) -> float:
    local_ms = time_ms + plan.offset_h * HOUR_MS
    hour, into_ms = divmod(local_ms % DAY_MS, HOUR_MS)
    here, there = DAY[hour], DAY[(hour + 1) % 24]
    weekday = (local_ms // DAY_MS + EPOCH_WEEKDAY) % 7
    return (here + (there - here) * into_ms / HOUR_MS) * WEEK[weekday]
