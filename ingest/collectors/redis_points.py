"""What INFO, LATENCY and SLOWLOG of Redis 6-8 and Valkey mean. Pure.

Answers are read as the server sent them, field by field: a fork may leave out, rename or garble any of them, and that
costs the field alone.
Source: redis.io and valkey.io, INFO, LATENCY LATEST, SLOWLOG GET. Valkey keeps Redis's field names, and gives some a
second one, which is read where the first is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingest.readable import name_of, readable
from schemas.records import Scalar
from schemas.series import identity

Info = Mapping[str, Any]
Points = dict[str, float | None]

MAX_FIELDS = 20_000
MAX_COMMANDS = 1_000
MAX_DATABASES = 1_000
MAX_EVENTS = 200
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

_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][-+]?[0-9]{1,3})?")
_COMMAND = re.compile(r"[A-Z][A-Z._-]{0,40}")


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


def info_of(reply: object) -> Info:
    """The fields of an answer to INFO: numbers as float, `a=1,b=2` as a mapping, anything else as text."""
    lines = text(reply).splitlines()[:MAX_FIELDS]
    pairs = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {name: _value(value) for name, colon, value in pairs if colon}


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
    found = [
        (name[2:], number(value, "keys"))
        for name, value in info.items()
        if name.startswith("db") and name[2:].isdecimal() and isinstance(value, Mapping)
    ]
    return {identity("redis.keys.count", {"db.namespace": name_of(name)}): keys for name, keys in found[:MAX_DATABASES]}


def calls_of(info: Info) -> Calls:
    """Calls and server time, s, of each command since the start, from INFO's commandstats; only of those that have both."""
    calls: Calls = {}
    for name, value in info.items():
        if name.startswith("cmdstat_") and isinstance(value, Mapping) and len(calls) < MAX_COMMANDS:
            count, time_us = number(value, "calls"), number(value, "usec")
            if count is not None and time_us is not None:
                calls[name_of(name.removeprefix("cmdstat_").replace("|", " ").upper())] = (count, time_us / 1e6)
    return calls


def beyond_bounds(info: Info) -> int:
    """How many commands and databases are left out because a server has more than anybody looks at."""
    commands = sum(name.startswith("cmdstat_") for name in info) - MAX_COMMANDS
    databases = sum(name.startswith("db") and name[2:].isdecimal() for name in info) - MAX_DATABASES
    return max(0, commands) + max(0, databases)


def of_calls(before: Calls | None, now: Calls) -> Points:
    """Mean server time of the calls since the last look; unmeasured where there were none."""
    return {
        identity("redis.command.duration", {"db.operation.name": command}): _mean((before or {}).get(command), sums)
        if before is not None
        else None
        for command, sums in now.items()
    }


def of_latency(entry: Sequence[Any], now_s: float) -> Points:
    """The last spike of one kind of event, 0 when it is older than a minute. Raises on what is no such entry."""
    event, time_s, last_ms, *_ = entry
    recent = now_s - float(time_s) <= SPIKE_AGE_S
    series = identity("redis.latency.spike.max", {"redis.latency.event": name_of(event)})
    return {series: float(last_ms) / 1000 if recent else 0.0}


def slow_of(entry: Sequence[Any]) -> Slow:
    """An entry of SLOWLOG GET. Raises on what is none."""
    number_, time_s, duration_us, words, *more = entry
    # A name that is no command's could be a customer's data sent by mistake.
    word = text(words[0] if isinstance(words, Sequence) and not isinstance(words, str | bytes) else words)
    word = word.split(" ", 1)[0].upper()
    return Slow(
        number=int(number_),
        time_ms=max(0, int(time_s)) * 1000,
        duration_s=int(duration_us) / 1e6,
        command=word if _COMMAND.fullmatch(word) else "?",
        client=name_of(more[0]).rpartition(":")[0] if more else "",
    )


def entry_without_arguments(entry: object) -> bytes:
    """An entry as a dead letter may hold it: what it has besides the command's arguments."""
    if not isinstance(entry, Sequence) or isinstance(entry, str | bytes):
        return f"a {type(entry).__name__}".encode()
    shown = [text(one)[:64] if isinstance(one, int | float) else f"a {type(one).__name__}" for one in entry[:8]]
    return ", ".join(shown).encode()


def text(value: object) -> str:
    """What the server sent as text, whatever it is."""
    return readable(value, 16 * 2**20)


def _value(value: str) -> Any:
    """What stands behind a field's colon."""
    found = _number(value)
    if found is not None:
        return found
    if "=" not in value:
        return value
    pairs = (pair.rpartition("=") for pair in value.split(","))
    return {name: known if (known := _number(one)) is not None else one for name, _, one in pairs}


def _number(value: str) -> float | None:
    if len(value) > 40 or not _NUMBER.fullmatch(value):
        return None
    found = float(value)
    return found if math.isfinite(found) else None


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
