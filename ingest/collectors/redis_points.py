"""What INFO, LATENCY and SLOWLOG of Redis 6-8 and Valkey mean. Pure.

Source: redis.io and valkey.io, INFO, LATENCY LATEST, SLOWLOG GET. Valkey keeps Redis's field names, and gives some a
second one, which is read where the first is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.records import Scalar
from schemas.series import identity

Info = Mapping[str, Any]
Points = dict[str, float | None]

SPIKE_AGE_S = 60
OF_INFO: dict[str, tuple[str, ...]] = {
    "redis.commands": ("total_commands_processed",),
    "redis.client.connected": ("connected_clients",),
    "redis.client.blocked": ("blocked_clients",),
    "redis.client.max": ("maxclients",),
    "redis.client.rejected": ("rejected_connections",),
    "redis.memory.used": ("used_memory",),
    "redis.memory.max": ("maxmemory",),
    "redis.memory.rss": ("used_memory_rss",),
    "redis.memory.fragmentation": ("mem_fragmentation_ratio",),
    "redis.keys.evicted": ("evicted_keys",),
    "redis.keys.expired": ("expired_keys",),
    "redis.keyspace.hits": ("keyspace_hits",),
    "redis.keyspace.misses": ("keyspace_misses",),
    "redis.replication.connected": ("connected_slaves", "connected_replicas"),
    "redis.errors": ("total_error_replies",),
    "redis.uptime": ("uptime_in_seconds",),
}
LENGTH_OF_TYPE = {"list": "LLEN", "stream": "XLEN", "zset": "ZCARD", "set": "SCARD"}

Calls = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Slow:
    """One entry of the slow log, without the command's arguments. `number` grows by one an entry until a restart."""

    number: int
    time_ms: int
    duration_s: float
    command: str
    client: str

    def attributes(self) -> dict[str, Scalar]:
        """What an event says of it."""
        known: dict[str, Scalar] = {"db.operation.name": self.command, "redis.slowlog.duration_s": self.duration_s}
        return {**known, **({"client.address": self.client} if self.client else {})}


def number(info: Info, *names: str) -> float | None:
    """The first of the fields that there is and that is a finite number."""
    value = next((info[name] for name in names if name in info), None)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def server_now_s(info: Info, now_ms: int) -> float:
    """The server's own clock, Unix s; ours where it does not tell (before 6.2)."""
    own_us = number(info, "server_time_usec")
    return now_ms / 1000 if own_us is None else own_us / 1_000_000


def of_info(info: Info, now_ms: int) -> Points:
    """Points of INFO, except those of commands."""
    points: Points = {metric: number(info, *names) for metric, names in OF_INFO.items()}
    points["redis.fork.duration"] = _scaled(number(info, "latest_fork_usec"), 1e-6)
    saved_s = number(info, "rdb_last_save_time")
    points["redis.persistence.rdb.age"] = None if saved_s is None else max(0.0, server_now_s(info, now_ms) - saved_s)
    points["redis.persistence.ok"] = _persistence_ok(info)
    link = info.get("master_link_status", info.get("primary_link_status"))
    if link is not None:
        points["redis.replication.link.up"] = float(link == "up")
    return points | of_keyspace(info)


def of_keyspace(info: Info) -> Points:
    """Keys by logical database; INFO lists only those that hold some."""
    return {
        identity("redis.keys.count", {"db.namespace": name[2:]}): float(value["keys"])
        for name, value in info.items()
        if name.startswith("db") and name[2:].isdigit() and isinstance(value, dict) and "keys" in value
    }


def calls_of(info: Info) -> Calls:
    """Calls and server time, s, of each command since the start, from INFO's commandstats."""
    return {
        name.removeprefix("cmdstat_").replace("|", " ").upper(): (float(value["calls"]), value["usec"] / 1e6)
        for name, value in info.items()
        if name.startswith("cmdstat_") and isinstance(value, dict)
    }


def of_calls(before: Calls | None, now: Calls) -> Points:
    """Mean server time of the calls since the last look; unmeasured where there were none."""
    return {
        identity("redis.command.duration", {"db.operation.name": command}): _mean((before or {}).get(command), sums)
        if before is not None
        else None
        for command, sums in now.items()
    }


def of_latency(latest: Iterable[Sequence[Any]], now_s: float) -> Points:
    """The last spike of each kind of event, 0 when it is older than a minute."""
    return {
        identity("redis.latency.spike.max", {"redis.latency.event": text(event)}): (
            last_ms / 1000 if now_s - time_s <= SPIKE_AGE_S else 0.0
        )
        for event, time_s, last_ms, *_ in latest
    }


def slow_of(entries: Iterable[Mapping[str, Any]]) -> list[Slow]:
    """Entries of SLOWLOG GET, oldest first."""
    return sorted((_slow(entry) for entry in entries), key=lambda slow: slow.number)


def text(value: object) -> str:
    """What the server sent as text, whatever it is."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _slow(entry: Mapping[str, Any]) -> Slow:
    # A name that is no command's could be a customer's data sent by mistake.
    word = text(entry["command"]).split(" ", 1)[0].upper()
    return Slow(
        number=int(entry["id"]),
        time_ms=int(entry["start_time"]) * 1000,
        duration_s=int(entry["duration"]) / 1e6,
        command=word if word.isascii() and word.replace(".", "").replace("_", "").isalpha() else "?",
        client=text(entry.get("client_address", "")).rpartition(":")[0],
    )


def _mean(before: tuple[float, float] | None, now: tuple[float, float]) -> float | None:
    calls, time_s = before or (0.0, 0.0)
    if now[0] < calls:  # CONFIG RESETSTAT
        calls, time_s = 0.0, 0.0
    return (now[1] - time_s) / (now[0] - calls) if now[0] > calls else None


def _persistence_ok(info: Info) -> float | None:
    if "rdb_last_bgsave_status" not in info:
        return None
    states = [info["rdb_last_bgsave_status"]]
    if info.get("aof_enabled"):
        states += [info.get("aof_last_write_status", "ok"), info.get("aof_last_bgrewrite_status", "ok")]
    return float(all(state == "ok" for state in states))


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
