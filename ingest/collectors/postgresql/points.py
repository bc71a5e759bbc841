"""Rows of the views to points by series identity. Pure: what a row means stands here, how it was read does not.

A tenant's database without a row in a view that lists only what is there (backends, statements) is a measured zero.
What was not measured is None, so that the layout of a server's scrapes stays the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from ingest.readable import name_of
from schemas.series import identity

Row = Mapping[str, Any]
Points = dict[str, float | None]

STATES = ("active", "idle", "idle in transaction", "idle in transaction (aborted)")

OF_SERVER = {
    "postgresql.connection.max": "connection_max",
    "postgresql.checkpoint.requested": "checkpoints_requested",
    "postgresql.checkpoint.timed": "checkpoints_timed",
    "postgresql.checkpoint.write.time": "checkpoint_write_s",
    "postgresql.checkpoint.sync.time": "checkpoint_sync_s",
    "postgresql.wal.bytes": "wal_bytes",
    "postgresql.archive.failures": "archive_failures",
    "postgresql.archive.age": "archive_age_s",
}
OF_DATABASE = {
    "postgresql.commits": "commits",
    "postgresql.rollbacks": "rollbacks",
    "postgresql.deadlocks": "deadlocks",
    "postgresql.blocks.read": "blocks_read",
    "postgresql.blocks.hit": "blocks_hit",
    "postgresql.rows.returned": "rows_returned",
    "postgresql.rows.fetched": "rows_fetched",
    "postgresql.rows.inserted": "rows_inserted",
    "postgresql.rows.updated": "rows_updated",
    "postgresql.rows.deleted": "rows_deleted",
    "postgresql.temp.bytes": "temp_bytes",
    "postgresql.active.time": "active_s",
    "postgresql.database.wraparound.age": "wraparound_age",
}
OF_DATABASE_TIMED = {"postgresql.blocks.read.time": "blocks_read_s", "postgresql.blocks.write.time": "blocks_write_s"}
OF_ACTIVITY = {
    "postgresql.lock.waiting": "waiting",
    "postgresql.transaction.age.max": "transaction_age_s",
    "postgresql.idle_in_transaction.age.max": "idle_in_transaction_age_s",
}
OF_STATEMENTS = {
    "postgresql.query.count": "calls",
    "postgresql.query.time": "time_s",
    "postgresql.query.rows": "rows",
    "postgresql.query.blocks": "blocks",
}
OF_IO = {"postgresql.io.reads": "reads", "postgresql.io.writes": "writes"}
OF_IO_TIMED = {
    "postgresql.io.read.time": "read_s",
    "postgresql.io.write.time": "write_s",
    "postgresql.io.fsync.time": "fsync_s",
}


@lru_cache(maxsize=65_536)
def _series(metric: str, database: str, tenant: str | None, more: tuple[tuple[str, str], ...] = ()) -> str:
    owner = {"tenant.id": tenant} if tenant else {}
    return identity(metric, {"db.namespace": name_of(database), **owner, **dict(more)})


class Databases:
    """The databases that a server has, and whose they are."""

    def __init__(self, tenant_of_database: Mapping[str, str], names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._tenant_of = tenant_of_database

    def tenant(self, database: str | None) -> str | None:
        """The tenant whose database it is; None for one that nobody declared."""
        return self._tenant_of.get(database) if database else None

    def series(self, metric: str, database: str, **more: str) -> str:
        """The identity of a database's series; `more` are attributes, `__` in their names stands for a dot."""
        extra = tuple((name.replace("__", "."), value) for name, value in more.items())
        return _series(metric, database, self.tenant(database), extra)

    def columns(self, metrics: Mapping[str, str], row: Row, database: str, measured: bool = True) -> Points:
        """The points of one database's row."""
        return {self.series(metric, database): row[key] if measured else None for metric, key in metrics.items()}

    def every(self, metrics: Iterable[str], value: float | None) -> Points:
        """The same value for all databases."""
        return {self.series(metric, database): value for metric in metrics for database in self.names}


def of_server(row: Row) -> Points:
    """Points of the server as a whole, of the parts of it that were read; its replay lag only if it is a standby."""
    points: Points = {metric: row.get(key) for metric, key in OF_SERVER.items()}
    return {**points, "postgresql.replay.lag": row.get("replay_lag_s")} if row.get("is_standby") else points


def of_database(databases: Databases, row: Row, times_io: bool) -> Points:
    """Points of a row of pg_stat_database. Without track_io_timing its times stand at 0 and mean nothing."""
    return {
        **databases.columns(OF_DATABASE, row, row["database"]),
        **databases.columns(OF_DATABASE_TIMED, row, row["database"], measured=times_io),
    }


def of_activity(databases: Databases, rows: Iterable[Row]) -> Points:
    """Points of the client backends, without our own in those of its database."""
    rows = list(rows)
    points = databases.every([*OF_ACTIVITY, "postgresql.lock.wait.max"], 0.0)
    for state in STATES:
        points |= {_connections(databases, database, state): 0.0 for database in databases.names}
    for row in rows:
        state = _connections(databases, row["database"], row["state"])
        points[state] = (points.get(state) or 0.0) + row["backends"]
    for metric, key in OF_ACTIVITY.items():
        for row in rows:
            series = databases.series(metric, row["database"])
            points[series] = _together(metric, points.get(series) or 0.0, row[key] or 0.0)
    pools = [row["pool_max"] for row in rows if row["pool_max"] is not None]
    return {
        **points,
        "postgresql.connection.used": 1 + sum(row["backends"] for row in rows),
        "postgresql.connection.working": sum(
            row["backends"] - row["waiting"] for row in rows if row["state"] == "active"
        ),
        "postgresql.connection.pool.max": max(pools, default=0.0),
    }


def without_activity(databases: Databases) -> Points:
    """The same, when the server does not let us see other users' backends."""
    points = databases.every([*OF_ACTIVITY, "postgresql.lock.wait.max"], None)
    for state in STATES:
        points |= {_connections(databases, database, state): None for database in databases.names}
    whole = ("postgresql.connection.used", "postgresql.connection.working", "postgresql.connection.pool.max")
    return points | dict.fromkeys(whole)


def of_waits(databases: Databases, rows: Iterable[Row]) -> Points:
    """The longest wait by database; only of databases in which somebody waits."""
    points: Points = {}
    for row in rows:
        if row["waited_s"] is not None and row["database"]:
            series = databases.series("postgresql.lock.wait.max", row["database"])
            points[series] = max(points.get(series) or 0.0, row["waited_s"])
    return points


def of_orphans(databases: Databases, rows: Iterable[Row], alive: Iterable[int]) -> Points:
    """Backends that work for an Odoo process which is not among the living."""
    points = databases.every(["postgresql.orphans"], 0.0)
    living = frozenset(alive)
    for row in rows:
        dead = [pid for pid in row["odoo_pids"] or () if int(pid) not in living]
        if dead:
            points[databases.series("postgresql.orphans", row["database"])] = float(len(dead))
    return points


def of_io(row: Row, times_io: bool, times_wal_io: bool) -> Points:
    """Points of a row of pg_stat_io by backend type and object; what cannot happen (NULL) has no series."""
    timed = times_wal_io if row["object"] == "wal" else times_io
    place = {"postgresql.backend.type": name_of(row["backend_type"]), "postgresql.io.object": name_of(row["object"])}
    return {
        **{identity(name, place): row[key] for name, key in OF_IO.items() if row[key] is not None},
        **{identity(name, place): row[key] if timed else None for name, key in OF_IO_TIMED.items()},
    }


def of_slot(row: Row) -> Points:
    """Points of a replication slot."""
    slot = {"postgresql.replication.slot": name_of(row["name"])}
    is_limited = row["behind_bytes"] is not None and row["safe_bytes"] is not None
    return {
        identity("postgresql.replication.slot.retained", slot): row["behind_bytes"],
        identity("postgresql.replication.slot.limit", slot): row["behind_bytes"] + row["safe_bytes"]
        if is_limited
        else None,
    }


def of_standbys(rows: Iterable[Row]) -> Points:
    """Points of the standbys, and how many there are.

    Two with one name at one address are told apart by their slots; where that is not enough, the worst of them is told, and
    an unmeasured lag is the worst: a value must never hide that another standby is lost.
    """
    rows = list(rows)
    twins = Counter((row["name"], row["address"]) for row in rows)
    points: Points = {"postgresql.replication.standbys": float(len(rows))}
    for row in rows:
        standby = {"postgresql.standby.name": name_of(row["name"]), "client.address": name_of(row["address"])}
        if twins[row["name"], row["address"]] > 1 and row["slot"]:
            standby["postgresql.replication.slot"] = name_of(row["slot"])
        for metric, value in (
            ("postgresql.replication.lag", row["lag_s"]),
            ("postgresql.replication.lag.bytes", row["behind_bytes"]),
        ):
            series = identity(metric, standby)
            points[series] = _worst(points[series], value) if series in points else value
    return points


def of_size(databases: Databases, row: Row) -> Points:
    """The size of a database that we may measure."""
    return {databases.series("postgresql.database.size", row["database"]): row["bytes"]}


def start_ms(rows: Iterable[Row], now_ms: int) -> int:
    """Since when everything cumulative has counted without a break: the latest start or reset of all that was read.

    After a clean restart PostgreSQL goes on from its saved counters, so a value may hold more than was counted since.
    Differences between two values of one start are right; a value divided by the time since is not.
    """
    moments = [row[key] for row in rows for key in row.keys() if key.endswith(("reset_ms", "started_ms"))]  # noqa: SIM118 (asyncpg's Record iterates values)
    return int(max(0, min(now_ms, max((moment for moment in moments if moment is not None), default=0))))


def _connections(databases: Databases, database: str, state: str) -> str:
    return databases.series("postgresql.connection.count", database, db__client__connection__state=state)


def _worst(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def _together(metric: str, one: float, other: float) -> float:
    return one + other if metric == "postgresql.lock.waiting" else max(one, other)
