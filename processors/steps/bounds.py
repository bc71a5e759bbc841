"""What can run out: pairs of a series and its limit, and how much time its owner needs to make room.

Everything is looked at as a share of its limit. Workers run out by queueing, not by CPU: with c workers and an offered load
of a (busy workers on average), the share is a over the load at which a request waits as long as it is served (Erlang C;
Erlang 1917, Kleinrock, Queueing Systems vol. 1, ch. 3.5). Leads are what it takes to order, to approve or to move.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from schemas.series import Series, identity, parse, split

HOUR_S, DAY_S = 3_600.0, 86_400.0


class Bound(NamedTuple):
    """One kind of exhaustion.

    `used` over `limit` is the share, unless the series `share` tells it by itself; `limit` is a series of the same attributes, or
    a number; empty where it must be configured. `is_rate` looks at the growth of `used` a second; `is_load` at the mean of what
    are busy servers, out of as many as `limit` says, or as were busy at once while something stood in `waits`.
    `follows_work` is what rises and falls with the day, so days must be known before a rise is judged.
    """

    kind: str
    used: str
    limit: str | float
    lead_s: float
    critical_s: float
    advice: str
    share: str = ""
    is_rate: bool = False
    follows_work: bool = False
    is_load: bool = False
    waits: str = ""

    @property
    def name(self) -> str:
        """By which state knows the row, so that rows may be added, moved and taken out."""
        return f"{self.kind} {self.share or self.used}"


BOUNDS = (
    Bound(
        "capacity.disk", "system.filesystem.usage", "system.filesystem.limit", 14 * DAY_S, 2 * DAY_S,
        "Make room on {where} or enlarge it; see what grew last: databases, write-ahead log, file store, logs, backups.",
        share="system.filesystem.utilization",
    ),
    Bound(
        "capacity.memory", "redis.memory.used", "redis.memory.max", 2 * DAY_S, 4 * HOUR_S,
        "Raise maxmemory of {where} or find what no longer expires: MEMORY STATS, keys without a time to live.",
    ),
    Bound(
        "capacity.memory", "", "", 2 * DAY_S, 4 * HOUR_S, "Find what leaks on {where}, and lower the workers' memory limits until it is mended.",
        share="system.memory.utilization", follows_work=True,
    ),
    Bound(
        "capacity.connections", "postgresql.connection.used", "postgresql.connection.max", DAY_S, 2 * HOUR_S,
        "Find who keeps connections of {where} open (idle in transaction, pools that grow), or put a pooler in front.", follows_work=True,
    ),
    Bound(
        "capacity.connections", "redis.client.connected", "redis.client.max", DAY_S, 2 * HOUR_S,
        "Find who keeps connections of {where} open (CLIENT LIST), or raise maxclients.", follows_work=True,
    ),
    Bound(
        "capacity.wal", "postgresql.replication.slot.retained", "postgresql.replication.slot.limit", 2 * DAY_S, 4 * HOUR_S,
        "Bring the reader of the slot on {where} back, or drop the slot: write-ahead log is kept for it.",
    ),
    Bound(
        "capacity.transactions", "postgresql.database.wraparound.age", 2.0**31 - 3e6, 30 * DAY_S, 7 * DAY_S,
        "Let VACUUM freeze {where}: see long transactions, prepared ones, slots and autovacuum's limits.",
    ),
    Bound(
        "capacity.io", "system.disk.io_time", 1.0, 7 * DAY_S, DAY_S, "Move load away from the disk of {where} or give it a faster one.",
        is_rate=True, follows_work=True,
    ),
    Bound(
        "capacity.workers", "odoo.http.request.time", "", 7 * DAY_S, DAY_S,
        "Give {where} more workers, or move long requests to jobs: waiting grows as fast as service before CPU shows it.",
        is_rate=True, follows_work=True,
    ),
    Bound(
        "capacity.disk", "system.filesystem.inodes.usage", "system.filesystem.inodes.limit", 14 * DAY_S, 2 * DAY_S,
        "Inodes of {where} run out before its bytes: find what makes so many small files (sessions, file store, mail, caches).",
    ),
    Bound(
        "capacity.files", "system.file_handle.usage", "system.file_handle.limit", 2 * DAY_S, 4 * HOUR_S,
        "Find who keeps files and sockets of {where} open, or raise fs.file-max.", follows_work=True,
    ),
    Bound(
        "capacity.files", "odoo.worker.files", "odoo.worker.files.max", DAY_S, 2 * HOUR_S,
        "Find what Odoo's processes on {where} keep open (sockets of the gevent process, files), or raise LimitNOFILE.", follows_work=True,
    ),
    Bound(
        "capacity.connections", "postgresql.connection.pool.max", 64.0, DAY_S, 2 * HOUR_S,
        "One process of Odoo on {where} holds nearly db_maxconn connections: find what keeps cursors open, or raise it.", follows_work=True,
    ),
    Bound(
        "capacity.connections", "pgbouncer.server.active", "pgbouncer.server.max", 7 * DAY_S, DAY_S,
        "Raise pool_size of {where}, or shorten the transactions that hold its connections.", follows_work=True, is_load=True,
    ),
    Bound(
        "capacity.workers", "odoo.worker.busy", "odoo.worker.count", 7 * DAY_S, DAY_S,
        "Give {where} more workers, or move long requests to jobs: waiting grows as fast as service before CPU shows it.",
        follows_work=True, is_load=True,
    ),
    Bound(
        "capacity.queue", "odoo.queue_job.count", "", 7 * DAY_S, DAY_S,
        "Raise the capacity of the job channel of {where}, or spread what fills it: as much comes as it can do.",
        follows_work=True, is_load=True, waits="pending",
    ),
)  # fmt: skip


BOUND_NAMED = {bound.name: place for place, bound in enumerate(BOUNDS)}
BOUNDS_NUMBERED = (
    "capacity.disk system.filesystem.utilization",
    "capacity.memory redis.memory.used",
    "capacity.memory system.memory.utilization",
    "capacity.connections postgresql.connection.used",
    "capacity.connections redis.client.connected",
    "capacity.wal postgresql.replication.slot.retained",
    "capacity.transactions postgresql.database.wraparound.age",
    "capacity.io system.disk.io_time",
    "capacity.workers odoo.http.request.time",
    "capacity.disk system.filesystem.inodes.usage",
    "capacity.files system.file_handle.usage",
    "capacity.files odoo.worker.files",
    "capacity.connections postgresql.connection.pool.max",
    "capacity.connections pgbouncer.server.active",
    "capacity.workers odoo.worker.busy",
    "capacity.queue odoo.queue_job.count",
)
"""Rows as they stood when state knew them by their number."""

NAMES = frozenset(bound.share or bound.used for bound in BOUNDS)


class Share(NamedTuple):
    """One thing that can run out: its row in the table, which one it is, and whose."""

    row: int
    key: str
    tenant: str | None

    @property
    def bound(self) -> Bound:
        """Its row."""
        return BOUNDS[self.row]


class Reading(NamedTuple):
    """How a share is read from the values of a layout: places of what is used (added up), of the limit, of the share.

    `waits` is where it is seen that something waits: then all servers are busy, and so it is known how many there are.
    """

    of: Share
    used: tuple[int, ...]
    limit: int | None
    fixed: float | None
    share: int | None
    waits: int | None = None


def readings(layout: str, resource: str, limits: Mapping[str, float], workers: Mapping[str, int]) -> list[Reading]:
    """Everything in a layout that can run out."""
    identities = split(layout)
    every, index = [parse(one) for one in identities], {one: place for place, one in enumerate(identities)}
    names = {series.name for series in every}
    found = []
    for row, bound in enumerate(BOUNDS):
        metric = bound.share or bound.used
        if metric not in names:
            continue
        if metric == _REQUEST_TIME:
            used = tuple(place for place, series in enumerate(every) if series.name == metric)
            if resource in workers:
                found.append(Reading(Share(row, bound.kind, None), used, None, knee(workers[resource]), None))
            continue
        for place, series in enumerate(every):
            if series.name == metric:
                found += _reading(row, place, series, index, limits)
    return found


_REQUEST_TIME = "odoo.http.request.time"
_STATE = "odoo.queue_job.state"


def _reading(
    row: int, place: int, series: Series, index: Mapping[str, int], limits: Mapping[str, float]
) -> list[Reading]:
    bound = BOUNDS[row]
    if bound.waits:
        return _queue(row, place, series, index)
    share = _share(row, series)
    if bound.share:
        return [Reading(share, (), None, None, place)]
    fixed = limits.get(bound.used, bound.limit)
    if isinstance(fixed, float):
        return [Reading(share, (place,), None, fixed, None)]
    other = index.get(identity(fixed, series.attributes))
    return [] if other is None else [Reading(share, (place,), other, None, None)]


def _queue(row: int, place: int, series: Series, index: Mapping[str, int]) -> list[Reading]:
    """Jobs that run are busy servers of their channel; how many there can be shows while others wait."""
    if series.attributes.get(_STATE) != "started":
        return []
    waits = index.get(identity(series.name, {**series.attributes, _STATE: BOUNDS[row].waits}))
    return [] if waits is None else [Reading(_share(row, series), (place,), None, None, None, waits)]


def keys_of(identity: str) -> set[str]:
    """Keys of the shares that a series is what is used of."""
    series = parse(identity)
    return {_share(row, series).key for row, bound in enumerate(BOUNDS) if series.name == (bound.share or bound.used)}


def _share(row: int, series: Series) -> Share:
    where = ",".join(f"{name}={value}" for name, value in sorted(series.attributes.items()))
    return Share(row, f"{BOUNDS[row].kind} {series.name} {where}".strip(), series.tenant)


def erlang_c(workers: int, load: float) -> float:
    """Probability that a request must wait, of `workers` with an offered `load` (Erlangs) below their number."""
    blocked = 1.0
    for number in range(1, workers + 1):
        blocked = load * blocked / (number + load * blocked)
    use = load / workers
    return blocked / (1.0 - use + use * blocked)


@lru_cache(maxsize=1_000)
def knee(workers: int) -> float:
    """The load at which the mean wait is as long as the mean service: C(c, a) = c - a."""
    low, high = 0.0, float(workers)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if erlang_c(workers, middle) < workers - middle else (low, middle)
    return low
