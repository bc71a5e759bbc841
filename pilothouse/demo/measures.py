"""What an instant of the company is made of, one row a series: `always + lists x load + orders x orders a second`, and its noise.

Calibrated by looking at the running estate with the real collectors for minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from pilothouse.demo.company import CRON_INTERVAL_S, CRONS

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
    _m("erp.order.value", 0.0, 0.0, 985.0, SPREAD, 0.03, of={"erp.currency": "EUR"}),
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
