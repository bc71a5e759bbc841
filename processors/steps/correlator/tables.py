"""What is known before anything is seen: which kinds of trouble there are, and which brings about which.

Data with reasons. A kind that is not here is a symptom that nothing explains and that is believed 0.3 of a root.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Reach(Enum):
    """Whom a kind of trouble can reach."""

    TENANT = "only the tenants that it names"
    PARTNER = "the tenants that it names, and others that may work with the same partner"
    NEEDING = "what needs the resource, directly or not"
    MACHINE = "what shares the machine below the resource"
    CELL = "anything of the cell"


class Urgency(Enum):
    """How soon a kind is told when nothing explains it."""

    ROOT = "at once: it is a cause that somebody can act on"
    FINDING = "after a while in which its cause may turn up; its detector has waited already"
    SYMPTOM = "only when it lasts"


class Kind(NamedTuple):
    """A kind of cause. `prior` is how readily it is believed to be the root of a story."""

    prior: float
    reach: Reach
    urgency: Urgency
    because: str


UNKNOWN = Kind(0.3, Reach.NEEDING, Urgency.SYMPTOM, "nothing is known of it")

KINDS: dict[str, Kind] = {
    # Changes: most outages follow one (Google SRE book, ch. 8: about 70 % are due to changes in a live system).
    "release": Kind(1.6, Reach.TENANT, Urgency.ROOT, "most outages follow a release"),
    "module_upgrade": Kind(1.5, Reach.TENANT, Urgency.ROOT, "it changes code and tables at once"),
    "configuration": Kind(1.4, Reach.TENANT, Urgency.ROOT, "small, often outside of any test"),
    "secret": Kind(1.4, Reach.TENANT, Urgency.ROOT, "what was not told the new one is locked out"),
    "scaling": Kind(1.2, Reach.TENANT, Urgency.ROOT, "what was sized for before is not now"),
    "certificate": Kind(1.4, Reach.NEEDING, Urgency.ROOT, "who checks it refuses from one second to the next"),
    # Neighbours, locks and shared servers.
    "tenant.load": Kind(1.3, Reach.MACHINE, Urgency.ROOT, "one takes what all share"),
    "postgresql.lock": Kind(1.4, Reach.TENANT, Urgency.ROOT, "a database is one tenant's, and so are its locks"),
    "postgresql.connections": Kind(0.8, Reach.NEEDING, Urgency.FINDING, "mostly full because what holds them is slow"),
    "postgresql.replication": Kind(0.6, Reach.NEEDING, Urgency.SYMPTOM, "follows load and storage"),
    "postgresql.archiver": Kind(0.6, Reach.NEEDING, Urgency.SYMPTOM, "follows storage and network"),
    "redis.latency": Kind(1.4, Reach.NEEDING, Urgency.ROOT, "one thread serves everybody"),
    "redis.memory": Kind(1.0, Reach.NEEDING, Urgency.ROOT, "evictions and forks hurt all of its users"),
    "redis.connections": Kind(0.6, Reach.NEEDING, Urgency.SYMPTOM, "clients come again when answers are slow"),
    "redis.persistence": Kind(0.6, Reach.NEEDING, Urgency.SYMPTOM, "follows storage and memory"),
    "redis.replication": Kind(0.5, Reach.NEEDING, Urgency.SYMPTOM, "follows memory and network"),
    "unreachable": Kind(1.0, Reach.NEEDING, Urgency.ROOT, "nothing that needs it works"),
    # The machine below.
    "storage": Kind(0.6, Reach.MACHINE, Urgency.SYMPTOM, "slow writes are as often load as illness"),
    "storage.full": Kind(1.4, Reach.MACHINE, Urgency.ROOT, "databases stop on a full disk"),
    "network": Kind(0.8, Reach.MACHINE, Urgency.SYMPTOM, "lost packets are seen by everybody, and often short"),
    "host.cpu": Kind(0.5, Reach.MACHINE, Urgency.SYMPTOM, "a busy CPU is somebody's work"),
    "host.memory": Kind(0.8, Reach.MACHINE, Urgency.SYMPTOM, "swapping slows all on the host"),
    "host.pressure": Kind(0.3, Reach.MACHINE, Urgency.SYMPTOM, "says that something waits, not for whom"),
    # What Pilothouse cannot follow: nobody's trouble but that of who looks at what is left out.
    "pilothouse.series": Kind(0.3, Reach.TENANT, Urgency.FINDING, "what is left out explains nothing of what is seen"),
    "pilothouse.publisher": Kind(0.3, Reach.TENANT, Urgency.FINDING, "what is left out explains nothing of what is seen"),
    "pilothouse.resources": Kind(0.3, Reach.TENANT, Urgency.FINDING, "what is left out explains nothing of what is seen"),
    "pilothouse.tenants": Kind(0.3, Reach.TENANT, Urgency.FINDING, "what is left out explains nothing of what is seen"),
    "pilothouse.cells": Kind(0.3, Reach.TENANT, Urgency.FINDING, "what is left out explains nothing of what is seen"),
    # What calls show of any service.
    "service.fault": Kind(1.0, Reach.NEEDING, Urgency.FINDING, "its callers wait for it, its callees do not explain it"),
    # What runs out. Owned forecasts: told early, and causes only once their time has come.
    "capacity.disk": Kind(0.9, Reach.MACHINE, Urgency.FINDING, "a forecast until it is full"),
    "capacity.memory": Kind(0.8, Reach.MACHINE, Urgency.FINDING, "a forecast until it is full"),
    "capacity.io": Kind(0.7, Reach.MACHINE, Urgency.FINDING, "a saturated disk makes all of it wait"),
    "capacity.connections": Kind(0.8, Reach.NEEDING, Urgency.FINDING, "a forecast until none is left"),
    "capacity.workers": Kind(0.8, Reach.NEEDING, Urgency.FINDING, "queueing makes waits long before all are busy"),
    "capacity.files": Kind(0.8, Reach.NEEDING, Urgency.FINDING, "without a free handle nothing is opened or accepted"),
    "capacity.wal": Kind(0.8, Reach.MACHINE, Urgency.FINDING, "a slot or an archiver that holds it fills the disk"),
    "capacity.transactions": Kind(0.8, Reach.NEEDING, Urgency.FINDING, "at the wraparound PostgreSQL takes no more writes"),
    "capacity.queue": Kind(0.6, Reach.NEEDING, Urgency.FINDING, "more comes than is done"),
    # Odoo and the business: nearer to what people feel, so rarely the root.
    "odoo.upgrade": Kind(1.0, Reach.TENANT, Urgency.ROOT, "a database in upgrade serves nobody"),
    "odoo.workers": Kind(1.0, Reach.TENANT, Urgency.ROOT, "dead workers stop what runs in the background"),
    "odoo.web": Kind(0.5, Reach.TENANT, Urgency.SYMPTOM, "the web answers badly when something below does"),
    "odoo.cron": Kind(0.5, Reach.TENANT, Urgency.FINDING, "an action that was switched off or does nothing"),
    "queue.stuck": Kind(0.6, Reach.TENANT, Urgency.FINDING, "one dead job can hold a channel"),
    "queue.backlog": Kind(0.3, Reach.TENANT, Urgency.SYMPTOM, "grows because what serves it is slow"),
    "integration.failures": Kind(0.6, Reach.PARTNER, Urgency.FINDING, "a partner may be ill all by itself"),
    "integration.silent": Kind(0.6, Reach.PARTNER, Urgency.FINDING, "a partner may have stopped sending"),
    "process.stopped": Kind(0.3, Reach.TENANT, Urgency.FINDING, "nothing leaves at all"),
    "process.delayed": Kind(0.3, Reach.TENANT, Urgency.SYMPTOM, "it waits for something"),
    "anomaly": Kind(0.3, Reach.NEEDING, Urgency.SYMPTOM, "a number out of its band that nobody has given a meaning"),
    "pilothouse.step": Kind(1.0, Reach.CELL, Urgency.ROOT, "a part of the detection is blind, and nothing else says so"),
    "slo.burn": Kind(0.2, Reach.TENANT, Urgency.FINDING, "what users feel; its windows have waited already"),
}  # fmt: skip

CHANGES = frozenset({"release", "module_upgrade", "configuration", "scaling", "certificate", "secret"})
"""Kinds of change; a certificate is also seen by itself."""

ABSENCES = frozenset({"process.stopped", "integration.silent", "odoo.cron", "odoo.workers", "odoo.web", "queue.stuck"})
"""Kinds told by what did not come: they began when it ceased to, not when that was too long."""

EXCUSES = frozenset(
    {"redis.latency", "redis.memory", "storage", "storage.full", "network", "postgresql.lock", "tenant.load"}
)
"""What may be the matter instead of a change: of what is shared, and not brought about by new code as a rule.

What may be its doing, such as a busy CPU, is no excuse. A change that was found guilty and then acquitted is their effect.
"""

FELT = (
    "odoo.latency", "odoo.errors", "queue.backlog", "queue.failures", "queue.stuck", "process.backlog",
    "process.stopped", "process.delayed", "integration.failures", "integration.silent", "mail", "slo.burn", "service.fault",
    "anomaly", "capacity.workers", "capacity.queue",
)  # fmt: skip
"""What people, partners and business flows feel of whatever is the matter."""

LINGERS = frozenset(FELT) | ABSENCES
"""What may begin long after its cause is over: work that has piled up is done later, and what did not come is missed later."""

_DEPLOYED = ("odoo.workers", "odoo.cron", "odoo.upgrade", "odoo.web", *FELT)
_SHARED_ILL = ("odoo.workers", "odoo.cron", "odoo.web", *FELT)
_WORK = ("process.delayed", "process.stopped", "process.backlog", "queue.failures", "mail", "slo.burn")

EXPLAINS: dict[str, tuple[str, ...]] = {
    # New code: workers die, actions fail, requests slow down.
    "release": _DEPLOYED,
    "module_upgrade": _DEPLOYED,
    # Limits, pools, addresses: also what servers do.
    "configuration": (
        "odoo.workers", "odoo.cron", "odoo.web", "unreachable", "redis.latency", "redis.memory", "redis.connections",
        "postgresql.connections", *FELT,
    ),
    # Too few of something, or so many that what they share is full.
    "scaling": ("odoo.workers", "odoo.web", "postgresql.connections", "redis.connections", "host.cpu", "host.memory", *FELT),
    # Who was not told is refused.
    "secret": ("unreachable", "odoo.errors", "odoo.web", "odoo.cron", "odoo.workers", *FELT),
    # Partners' clients refuse the connection; people's browsers too.
    "certificate": (
        "integration.failures", "integration.silent", "queue.failures", "queue.backlog", "queue.stuck", "process.delayed",
        "odoo.errors", "odoo.web", "unreachable", "slo.burn",
    ),
    # Waiting for the disk: commits, forks and append-only files, swap, and with them all above.
    "storage": (
        "capacity.connections",
        "postgresql.lock", "postgresql.replication", "postgresql.archiver", "postgresql.connections", "redis.latency",
        "redis.memory", "redis.persistence", "host.pressure", "host.cpu", "odoo.cron", "odoo.workers", *FELT,
    ),
    "storage.full": (
        "unreachable", "postgresql.archiver", "postgresql.replication", "redis.persistence", "storage", "odoo.workers",
        "odoo.cron", *FELT,
    ),
    "network": ("unreachable", "redis.latency", "postgresql.replication", "redis.replication", "odoo.workers", *FELT),
    "host.cpu": ("host.pressure", "odoo.latency", "capacity.workers", "process.delayed", "slo.burn"),
    "host.memory": ("host.pressure", "storage", "redis.latency", "redis.memory", "odoo.workers", *FELT),
    # What one takes, all others miss, on the server and on its host.
    "tenant.load": (
        "host.cpu", "host.pressure", "host.memory", "storage", "postgresql.lock", "postgresql.connections", "redis.latency",
        "network", "capacity.io", "capacity.connections", *FELT,
    ),
    # Sessions pile up behind the lock: they look like load, hold workers and connections.
    "postgresql.lock": ("tenant.load", "odoo.workers", "odoo.cron", "postgresql.connections", "capacity.connections", *FELT),
    "postgresql.connections": ("odoo.workers", "odoo.cron", *FELT),
    "service.fault": tuple(kind for kind in FELT if kind != "service.fault"),
    "redis.memory": ("redis.latency", "redis.persistence", "redis.replication", *FELT),
    "redis.latency": ("odoo.workers", "redis.connections", "tenant.load", *FELT),
    "redis.connections": ("queue.backlog", "queue.failures", "process.delayed", "process.stopped"),
    "redis.persistence": ("redis.latency", "redis.memory"),
    "unreachable": (*_SHARED_ILL, "redis.latency", "redis.connections", "postgresql.replication"),
    "capacity.disk": ("storage.full", "storage", "unreachable", "postgresql.archiver", "redis.persistence", *FELT),
    "capacity.wal": ("storage.full", "capacity.disk", "postgresql.archiver", "postgresql.replication"),
    "capacity.memory": ("host.memory", "redis.memory", "redis.latency", "odoo.workers", *FELT),
    "capacity.io": ("storage", "host.pressure", "postgresql.replication", "redis.persistence", *FELT),
    "capacity.connections": ("postgresql.connections", "redis.connections", "odoo.workers", *FELT),
    "capacity.workers": ("odoo.latency", "odoo.errors", "queue.backlog", "queue.stuck", "process.delayed", "slo.burn"),
    "capacity.files": ("unreachable", "odoo.workers", *FELT),
    "capacity.transactions": ("unreachable", "odoo.web", *FELT),
    "capacity.queue": ("queue.backlog", "process.delayed", "slo.burn"),
    "odoo.upgrade": _SHARED_ILL,
    "odoo.workers": ("odoo.cron", "tenant.load", *FELT),
    # Where nobody comes, nothing is ordered, and what orders fill stays empty.
    "odoo.web": ("process.stopped", "integration.silent", "slo.burn"),
    "odoo.cron": ("queue.backlog", "queue.stuck", "integration.silent", *_WORK),
    "queue.stuck": ("queue.backlog", "integration.silent", "tenant.load", *_WORK),
    "queue.backlog": ("process.delayed", "process.stopped", "process.backlog", "slo.burn"),
    # A partner that refuses leaves its jobs lying, which look like load, and what waits for them.
    "integration.failures": ("queue.backlog", "queue.stuck", "tenant.load", *_WORK),
    "integration.silent": ("queue.backlog", "queue.stuck", "tenant.load", *_WORK),
    "process.stopped": ("process.delayed", "process.backlog", "slo.burn"),
    "process.delayed": ("slo.burn",),
}  # fmt: skip
"""Kind of cause to the kinds that it can bring about, directly or through others."""


class Sign(NamedTuple):
    """A kind that would be seen on a system of the cell, and what its absence says of a cause."""

    kind: str
    system: str
    speaks_for: bool
    text: str


ABSENT: dict[str, tuple[Sign, ...]] = {
    "storage": (Sign("host.cpu", "host", True, "CPU of {} is green: they wait, they do not compute"),),
    "postgresql.lock": (Sign("host.cpu", "host", True, "CPU of {} is green: they wait, they do not compute"),),
    "capacity.workers": (Sign("host.cpu", "host", True, "CPU of {} is green: they wait, they do not compute"),),
    "tenant.load": (Sign("host.cpu", "host", False, "CPU of {} is green"),),
    "host.pressure": (Sign("host.cpu", "host", False, "CPU of {} is green"),),
}
"""What is conspicuous by its absence. It is said, and weighs nothing: a sign may come late."""


COMES_TRUE: dict[str, frozenset[str]] = {
    "capacity.disk": frozenset({"storage.full"}),
    "capacity.wal": frozenset({"storage.full", "capacity.disk"}),
    "capacity.memory": frozenset({"redis.memory", "host.memory"}),
    "capacity.connections": frozenset({"postgresql.connections", "redis.connections"}),
    "capacity.io": frozenset({"storage"}),
    "capacity.queue": frozenset({"queue.backlog"}),
}
"""Forecast to what the same resource shows by itself as it comes true: one thing, whichever is seen first."""


def kind_of(cause: str) -> str:
    """KIND of KIND:RESOURCE; every anomaly.METRIC is one kind."""
    kind = cause.partition(":")[0]
    return "anomaly" if kind.startswith("anomaly.") else kind


def known(kind: str) -> Kind:
    """What is known of a kind."""
    return KINDS.get(kind, UNKNOWN)


def _reversed(table: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    effects = sorted({effect for found in table.values() for effect in found})
    order = sorted(table, key=lambda cause: (-known(cause).prior, cause))
    return {effect: tuple(cause for cause in order if effect in table[cause]) for effect in effects}


SUSPECTED = EXPLAINS | {kind: (*EXPLAINS[kind], *sorted(CHANGES)) for kind in sorted(EXCUSES)}
"""Kind of cause to the kinds that may be its effects, acquitted changes among them."""

EXPLAINED_BY = _reversed(SUSPECTED)
"""Kind of effect to the kinds that can bring it about, the most readily believed first."""

EXPLAINS_SET = {cause: frozenset(found) for cause, found in EXPLAINS.items()}
