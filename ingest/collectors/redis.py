"""Looks at one Redis 6-8 or Valkey through one connection.

A PING is timed on the open connection, then one pipeline asks the rest. A server that takes the connection but does not
answer in time is slow, not away: the time waited is its PING, and the rest is unmeasured. Entries of the slow log are told
once, without arguments, also across restarts of the program: the position holds the last one told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import redis.asyncio as client
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ingest.collector import WARN, Collected, CollectorKind, Options, Target, Unavailable
from ingest.collectors.edges import Edges, Fault
from ingest.collectors.redis_points import (
    LENGTH_OF_TYPE,
    Calls,
    Info,
    Points,
    Slow,
    calls_of,
    number,
    of_calls,
    of_info,
    of_latency,
    server_now_s,
    slow_of,
    text,
)
from schemas.records import Name, OperationsEvent, Record
from schemas.series import identity

CLIENT_NAME = "pilothouse"
MAX_SLOW = 128
PING_SHARE = 0.8  # of the resource's time-out; the rest is left for the rest
LOOK_SHARE = 0.95


class Queue(BaseModel):
    """A key that holds work to be done: a list, stream, set or sorted set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(min_length=1, description="Its name.")
    tenant: Name | None = Field(None, description="Tenant whose work it is; null if shared.")

    @property
    def series(self) -> str:
        """The identity of its length."""
        owner = {"tenant.id": self.tenant} if self.tenant else {}
        return identity("redis.queue.length", {"redis.key": self.key, **owner})


class RedisOptions(Options):
    """What may be set for one server."""

    queues: tuple[Queue, ...] = Field((), max_length=200, description="Keys whose length is measured.")


class Seen(BaseModel):
    """What a restart of the program must remember of a run of the server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    start_ms: int = Field(description="Since when the run's counters count, Unix ms UTC.")
    slow: int = Field(description="Number of the last entry of the slow log that was told, -1 before the first.")


@dataclass(frozen=True, slots=True)
class Answers:
    """What the server said after the PING. A part that it refused is None, and why stands in `faults`."""

    info: Info | None
    latency: Sequence[Any] | None
    slow: list[Slow] | None
    lengths: dict[Queue, float | None]
    faults: dict[str, Fault]


class Redis:
    """The connection, and what one look must know of the last."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._queues = target.options(RedisOptions).queues
        self._edges = Edges(target)
        self._client: client.Redis | None = None
        self._connection: client.Connection | None = None  # once the server has taken it, whatever it said then
        self._calls: Calls | None = None
        self._commands = 0.0

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """A look; the position is the run of the server and the last entry of its slow log that was told."""
        timeout_s = self._target.resource.timeout_s
        until = asyncio.get_running_loop().time() + timeout_s * LOOK_SHARE
        try:
            ping_s = await self._ping(timeout_s * PING_SHARE)
            answers = None if ping_s is None else await self._ask(until)
        except (exceptions.RedisError, OSError, ValueError) as error:
            await self._drop()
            raise self._unavailable(error) from error
        except BaseException:
            # A look that was given up leaves an answer on the way; the next one must not take it for its own.
            await self._drop()
            raise
        found: Points = {"redis.ping.duration": timeout_s * PING_SHARE if ping_s is None else ping_s}
        if answers is None:
            return self._silent(found, now_ms)
        return self._told(found, answers, _seen(position), now_ms)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._drop()

    async def _ping(self, timeout_s: float) -> float | None:
        """The round trip, s, or None when the server took the connection and then said nothing in time."""
        try:
            async with asyncio.timeout(timeout_s):
                connected = await self._connected()
                started = perf_counter()
                await connected.ping()
                return perf_counter() - started
        except (TimeoutError, exceptions.TimeoutError):
            taken = self._connection is not None
            await self._drop()
            if not taken:
                raise
            return None

    async def _ask(self, until: float) -> Answers | None:
        """Everything but the PING, or None when it did not come in time."""
        try:
            async with asyncio.timeout_at(until):
                connected = await self._connected()
                asked = [("INFO", "all"), ("LATENCY LATEST",), ("SLOWLOG GET", MAX_SLOW)]
                replies = await _pipeline(connected, [*asked, *(("TYPE", queue.key) for queue in self._queues)])
                return await self._answers(connected, replies)
        except (TimeoutError, exceptions.TimeoutError):
            await self._drop()
            return None

    async def _answers(self, connected: client.Redis, replies: list[Any]) -> Answers:
        faults: dict[str, Fault] = {}
        info, latency, slow, *types = (_granted(*named, faults) for named in zip(self._parts(), replies, strict=True))
        lengths = await self._lengths(connected, types, faults)
        return Answers(info, latency, None if slow is None else slow_of(slow), lengths, faults)

    def _parts(self) -> list[str]:
        return ["INFO", "LATENCY LATEST", "SLOWLOG GET", *(f"queue {queue.key}" for queue in self._queues)]

    async def _lengths(
        self, connected: client.Redis, types: Iterable[bytes | None], faults: dict[str, Fault]
    ) -> dict[Queue, float | None]:
        """Lengths of the declared queues; a key that is not there is an empty queue."""
        kinds = {queue: text(kind) for queue, kind in zip(self._queues, types, strict=True) if kind is not None}
        asked = [(LENGTH_OF_TYPE[kind], queue) for queue, kind in kinds.items() if kind in LENGTH_OF_TYPE]
        for queue, kind in kinds.items():
            if kind not in LENGTH_OF_TYPE and kind != "none":
                faults[f"queue {queue.key}"] = Fault(f"it is a {kind}, which has no length", "Declare a list or stream")
        replies = await _pipeline(connected, [(command, queue.key) for command, queue in asked])
        known = {
            queue: _granted(f"queue {queue.key}", reply, faults)
            for (_, queue), reply in zip(asked, replies, strict=True)
        }
        return {queue: 0.0 if kinds.get(queue) == "none" else known.get(queue) for queue in self._queues}

    def _told(self, found: Points, answers: Answers, seen: Seen | None, now_ms: int) -> Collected:
        found |= {queue.series: length for queue, length in answers.lengths.items()}
        faults = self._edges.told(answers.faults, now_ms)
        if answers.info is None:
            return Collected([self._target.scrape(found, now_ms), *faults])
        run = self._run(answers.info, seen, now_ms)
        found |= of_info(answers.info, now_ms) | self._commands_of(answers.info)
        found |= of_latency(answers.latency or (), server_now_s(answers.info, now_ms))
        news, slow = _news(answers.slow or [], seen, run)
        found["redis.slowlog.count"] = None if answers.slow is None else slow + 1.0
        events = [self._slow_event(one, now_ms) for one in news]
        scrape = self._target.scrape(found, now_ms, start_time_ms=run.start_ms)
        return Collected([scrape, *events, *faults], run.model_copy(update={"slow": slow}).model_dump_json())

    def _silent(self, found: Points, now_ms: int) -> Collected:
        fault = Fault(
            "it took the connection but did not answer in time", "See what holds it up: SLOWLOG GET, LATENCY DOCTOR"
        )
        return Collected([self._target.scrape(found, now_ms), *self._edges.told({"PING": fault}, now_ms, ["PING"])])

    def _run(self, info: Info, seen: Seen | None, now_ms: int) -> Seen:
        """The run of the server. Its counters count since its start, or since we saw them fall (CONFIG RESETSTAT)."""
        before, self._commands = self._commands, number(info, "total_commands_processed") or 0.0
        run_id = str(info.get("run_id", ""))
        if seen is None or seen.run_id != run_id:
            # Uptime comes in whole seconds: worked out anew at each look, the start would jump about.
            uptime_ms = int(1000 * (number(info, "uptime_in_seconds") or 0))
            return Seen(run_id=run_id, start_ms=max(0, now_ms - uptime_ms), slow=-1)
        return seen.model_copy(update={"start_ms": now_ms}) if self._commands < before else seen

    def _commands_of(self, info: Info) -> Points:
        before, self._calls = self._calls, calls_of(info)
        return of_calls(before, self._calls)

    def _slow_event(self, slow: Slow, now_ms: int) -> Record:
        return OperationsEvent(
            **self._target.identity(),
            time_ms=min(slow.time_ms, now_ms),
            tenant=self._target.resource.tenant,
            name="redis.slowlog",
            severity_number=WARN,
            body=f"{slow.command} took {slow.duration_s:.3f} s",
            attributes=slow.attributes(),
        )

    async def _connected(self) -> client.Redis:
        if self._client is None:
            self._client = client.Redis.from_url(
                self._target.url,
                single_connection_client=True,
                client_name=CLIENT_NAME,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                # Time is bounded by the look; asking for these would be errors that servers before 7.2 count.
                socket_timeout=None,
                socket_connect_timeout=None,
                driver_info=None,
                redis_connect_func=self._on_connect,
            )
        return await self._client.initialize()

    async def _on_connect(self, connection: client.Connection) -> None:
        self._connection = connection
        await connection.on_connect()

    def _unavailable(self, error: Exception) -> Unavailable:
        place = self._target.url.rpartition("//")[2].rpartition("@")[2].partition("?")[0]
        reason = str(error).rstrip(".") or f"no answer within {self._target.resource.timeout_s:g} s"
        return Unavailable(self._target.resource.name, f"{place}: {reason}", _mend(error))

    async def _drop(self) -> None:
        """Close without waiting: a server that hangs would not answer a good-bye either."""
        connection, known, self._connection, self._client = self._connection, self._client, None, None
        if connection is not None:
            await connection.disconnect(nowait=True)
        if known is not None:
            await known.aclose()


async def _pipeline(connected: client.Redis, commands: Iterable[Sequence[Any]]) -> list[Any]:
    """Replies in order; an error is a reply too."""
    pipeline = connected.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies


def _granted(part: str, reply: Any, faults: dict[str, Fault]) -> Any:
    """The reply, or None when it is an error, which is then among the faults."""
    if not isinstance(reply, Exception):
        return reply
    faults[part] = Fault(
        str(reply), "Grant it: ACL SETUSER ... +ping +info +latency|latest +slowlog|get, +@read on the queues"
    )
    return None


def _seen(position: str | None) -> Seen | None:
    try:
        return Seen.model_validate_json(position) if position else None
    except ValidationError:
        return None  # written by another release; at worst entries of the slow log are told twice


def _news(entries: list[Slow], seen: Seen | None, run: Seen) -> tuple[list[Slow], int]:
    """Entries not told yet, and the number of the last; of a server never seen before, none is news."""
    last = max([run.slow, *(entry.number for entry in entries)])
    return [entry for entry in entries if seen and entry.number > run.slow], last


def _mend(error: Exception) -> str:
    match error:
        case exceptions.AuthenticationError() | exceptions.AuthenticationWrongNumberOfArgsError():
            return "Check user and password behind the resource's url"
        case exceptions.BusyLoadingError():
            return "It answers once its data set is loaded; INFO persistence says when"
        case exceptions.NoPermissionError():
            return "Grant it: ACL SETUSER ... +ping +info"
        case exceptions.ResponseError() if "NOAUTH" in str(error) or "Authentication" in str(error):
            return "Put user and password behind the resource's url"
        case ValueError():
            return "Its url should read redis://HOST:PORT/DATABASE, rediss:// for TLS, or unix:///PATH"
        case _:
            return "Check that the server runs and that its address can be reached from here"


KIND = CollectorKind("redis", Redis, RedisOptions)
