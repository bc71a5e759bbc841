"""What speaks for or against a change: which metrics, how much of each matters, and for which kinds of change.

A series that can tell of a change has a slot. What came of it is kept in the `ledger`.
"""

from __future__ import annotations

from typing import NamedTuple

from schemas.caches import NAMES_BYTES, READINGS_BYTES, cached
from schemas.records import ChangeKind
from schemas.series import Series, identity, parse, split


class Outcome(NamedTuple):
    """What a metric says of a change.

    `least` is the smallest departure that matters (in its unit, of a sum: a second). `settle_s` is how long a restart may
    disturb it. `kinds` are the changes that it speaks for, empty for all.
    """

    group: str
    least: float
    settle_s: float = 0.0
    kinds: frozenset[ChangeKind] = frozenset()


_TLS = frozenset({ChangeKind.CERTIFICATE, ChangeKind.SECRET, ChangeKind.CONFIGURATION})

OUTCOMES: dict[str, Outcome] = {
    "odoo.http.request.duration.mean": Outcome("latency", 0.05, 60),
    "odoo.health.duration": Outcome("latency", 0.1, 60),
    "redis.ping.duration": Outcome("latency", 0.01, 30),
    "odoo.http.errors": Outcome("errors", 0.02),
    "odoo.log.errors": Outcome("errors", 0.05),
    "odoo.log.retries": Outcome("errors", 0.05),
    "odoo.health.up": Outcome("errors", 0.25, 60),
    "redis.errors": Outcome("errors", 0.5),
    "postgresql.deadlocks": Outcome("errors", 0.01),
    "tls.handshake.success": Outcome("errors", 0.25, 0, _TLS),
    "odoo.worker.killed": Outcome("jobs", 0.01),
    "odoo.queue_job.failed": Outcome("jobs", 0.02),
    "odoo.queue_job.dead": Outcome("jobs", 1.0, 60),
    "odoo.cron.failing": Outcome("jobs", 1.0, 30),
    "odoo.cron.overdue": Outcome("jobs", 2.0, 120),
    "redis.client.rejected": Outcome("jobs", 0.05),
    "odoo.queue_job.done": Outcome("flow", 0.02, 60),
    "odoo.queue_job.age.max": Outcome("flow", 30.0, 60),
    "erp.document.transitions": Outcome("flow", 0.01, 60),
    "odoo.http.requests": Outcome("flow", 0.1, 60),
}
"""Which direction is bad stands in the catalogue."""

GROUPS = ("latency", "errors", "jobs", "flow")
ENDS = frozenset({None, "done", "sale", "posted", "purchase", "assigned"})
FAILS_OF = {
    "odoo.http.errors": "odoo.http.requests",
    "odoo.log.errors": "odoo.http.requests",
    "odoo.queue_job.failed": "odoo.queue_job.done",
}
"""What fails, to what of it is done."""
SERVED = frozenset({None, "2xx"})


class Slot(NamedTuple):
    """One series that can speak for a change."""

    resource: str
    series: Series
    outcome: Outcome
    tenant: str | None
    kin: str

    @property
    def pool(self) -> str:
        """What is added up over all that got a change: a metric, of documents by the state that they reach."""
        names = ("erp.document.type", "erp.document.state")
        return identity(
            self.series.name, {one: self.series.attributes[one] for one in names if one in self.series.attributes}
        )

    @property
    def is_borrowed(self) -> bool:
        """Whether it is of a server that all share: what some got alone does not show there."""
        return self.tenant is None and self.series.name.startswith(("redis.", "postgresql."))

    @property
    def name(self) -> str:
        """The series as evidence names it."""
        return identity(self.series.name, dict(self.series.attributes))


def speaks(series: str) -> bool:
    """Whether a series can tell of a change. Of documents only the states in which their way ends, of requests those served."""
    if series.partition("{")[0] not in OUTCOMES:
        return False
    of = parse(series).attributes.get
    return of("erp.document.state") in ENDS and of("http.response.status_class") in SERVED


@cached("cache.readings", READINGS_BYTES)
def speaking(layout: str) -> tuple[int, ...]:
    """Places of the series of a layout that can tell of a change."""
    return tuple(place for place, one in enumerate(split(layout)) if speaks(one))


@cached("cache.names", NAMES_BYTES)
def _kin(text: str) -> str:
    """What the same series of other tenants has in common with it."""
    name, attributes = parse(text)
    return identity(name, {key: value for key, value in attributes.items() if key != "tenant.id"})


def slot_of(resource: str, text: str, tenant: str | None) -> Slot:
    """The slot of a series that a resource tells; `tenant` is whom the resource serves alone."""
    series = parse(text)
    return Slot(resource, series, OUTCOMES[series.name], series.tenant or tenant, _kin(text))
