"""Looks at one Redis 6-8 or Valkey through one connection.

A PING is timed on the open connection, then one pipeline asks the rest. A server that takes the connection but does not
answer in time is slow, not away: the time waited is its PING, and the rest is unmeasured. Entries of the slow log are told
once, without arguments, also across restarts of the program: the position holds the last one told. Answers are taken as
they come and read here, each field, entry and queue for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import redis.asyncio as client
from pydantic import BaseModel, ConfigDict, Field
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ingest.addresses import Address, address
from ingest.collector import WARN, Collected, CollectorKind, Fault, Options, Target, Unavailable
from ingest.collectors.redis_errors import remedy
from ingest.collectors.redis_points import (
    LENGTH_OF_TYPE,
    MAX_EVENTS,
    Calls,
    Info,
    Slow,
    beyond_bounds,
    calls_of,
    entry_without_arguments,
    info_of,
    number,
    of_calls,
    of_info,
    of_latency,
    server_now_s,
    slow_of,
    text,
)
from ingest.poll import Poll
from ingest.readable import name_of
from schemas.records import Name
from schemas.series import identity

CLIENT_NAME = "pilothouse"
MAX_SLOW = 128
FORM = "redis://HOST:PORT/DATABASE, rediss:// for TLS, or unix:///PATH"
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
        return identity("redis.queue.length", {"redis.key": name_of(self.key), **owner})

    @property
    def part(self) -> str:
        """What its faults are told under."""
        return f"queue {self.key}"


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
    """What the server said after the PING, each the reply or the error that stood in its place."""

    info: Any
    latency: Any
    slow: Any
    types: list[Any]
    lengths: dict[Queue, Any]


class Redis:
    """The connection, and what one look must know of the last."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._queues = target.options(RedisOptions).queues
        self._address = _address(target)
        self._client: client.Redis | None = None
        self._connection: client.Connection | None = None  # once the server has taken it, whatever it said then
        self._calls: Calls | None = None
        self._commands = 0.0
        self._made()  # says what is wrong with the url before anybody looks

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """A look; the position is the run of the server and the last entry of its slow log that was told."""
        timeout_s = self._target.resource.timeout_s
        until = asyncio.get_running_loop().time() + timeout_s * LOOK_SHARE
        try:
            ping_s = await self._ping(timeout_s * PING_SHARE)
            answers = None if ping_s is None else await self._ask(until)
        except BaseException as error:
            # A look that was given up leaves an answer on the way; the next one must not take it for its own.
            await self._drop()
            if isinstance(error, Exception):
                raise self._unavailable(error) from error
            raise
        poll = Poll(self._target, now_ms, explain=_explain)
        poll.gauge("redis.ping.duration", timeout_s * PING_SHARE if ping_s is None else ping_s)
        if answers is None:
            mend = "See what holds it up: SLOWLOG GET, LATENCY DOCTOR"
            poll.fault("PING", Fault("it took the connection but did not answer in time", mend))
            return poll.collected()
        poll.tried.add("PING")
        return self._told(poll, answers, position)

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
        info, latency, slow, *types = replies
        kinds = {queue: text(kind) for queue, kind in zip(self._queues, types, strict=True) if not _is_error(kind)}
        asked = [queue for queue, kind in kinds.items() if kind in LENGTH_OF_TYPE]
        lengths = await _pipeline(connected, [(LENGTH_OF_TYPE[kinds[queue]], queue.key) for queue in asked])
        return Answers(info, latency, slow, types, dict(zip(asked, lengths, strict=True)))

    def _told(self, poll: Poll, answers: Answers, position: str | None) -> Collected:
        self._lengths(poll, answers)
        info: Info = {}
        run: Seen | None = None
        seen = poll.restored(Seen, position)
        with poll.group("INFO"):
            info = info_of(_granted(answers.info))
            run = self._run(info, seen, poll.now_ms)
            poll.left_out += beyond_bounds(info)
            poll.points |= of_info(info, poll.now_ms) | self._commands_of(info)
        self._latency(poll, answers.latency, server_now_s(info, poll.now_ms))
        if run is None:
            return poll.collected()
        run = self._slow(poll, answers.slow, seen, run)
        return poll.collected(run.model_dump_json(), start_time_ms=run.start_ms)

    def _lengths(self, poll: Poll, answers: Answers) -> None:
        """Lengths of the declared queues; a key that is not there is an empty queue."""
        for queue, kind in zip(self._queues, answers.types, strict=True):
            with poll.group(queue.part, instead=lambda queue=queue: {queue.series: None}):  # type: ignore[misc]
                name = text(_granted(kind))
                if name == "none":
                    poll.points[queue.series] = 0.0
                elif name not in LENGTH_OF_TYPE:
                    raise _NoLengthError(name)
                else:
                    poll.points[queue.series] = float(_granted(answers.lengths[queue]))

    def _latency(self, poll: Poll, reply: Any, now_s: float) -> None:
        with poll.group("LATENCY LATEST"):
            entries = _listed(_granted(reply))
            poll.left_out += max(0, len(entries) - MAX_EVENTS)
            for entry in entries[:MAX_EVENTS]:
                with poll.row(entry):
                    poll.points |= of_latency(entry, now_s)

    def _slow(self, poll: Poll, reply: Any, seen: Seen | None, run: Seen) -> Seen:
        """Entries not told yet, and the run with the last one told; of a server never seen before, none is news."""
        last = run.slow
        with poll.group("SLOWLOG GET", instead=lambda: {"redis.slowlog.count": None}):
            found: list[Slow] = []
            for entry in _listed(_granted(reply))[:MAX_SLOW]:
                with poll.row(entry, entry_without_arguments):
                    found.append(slow_of(entry))
            for slow in sorted(found, key=lambda one: one.number):
                if seen is not None and slow.number > run.slow:
                    with poll.row(slow):
                        self._slow_event(poll, slow)
            last = max([run.slow, *(slow.number for slow in found)])
            poll.gauge("redis.slowlog.count", last + 1.0)
        return run.model_copy(update={"slow": last})

    def _run(self, info: Info, seen: Seen | None, now_ms: int) -> Seen:
        """The run of the server. Its counters count since its start, or since we saw them fall (CONFIG RESETSTAT)."""
        before, self._commands = self._commands, number(info, "total_commands_processed") or 0.0
        run_id = name_of(info.get("run_id", ""))
        if seen is None or seen.run_id != run_id:
            # Uptime comes in whole seconds: worked out anew at each look, the start would jump about.
            uptime_ms = int(1000 * max(0.0, number(info, "uptime_in_seconds") or 0.0))
            return Seen(run_id=run_id, start_ms=max(0, now_ms - uptime_ms), slow=-1)
        return seen.model_copy(update={"start_ms": now_ms}) if self._commands < before else seen

    def _commands_of(self, info: Info) -> dict[str, float | None]:
        before, self._calls = self._calls, calls_of(info)
        return of_calls(before, self._calls)

    def _slow_event(self, poll: Poll, slow: Slow) -> None:
        body = f"{slow.command} took {slow.duration_s:.3f} s"
        time_ms = min(slow.time_ms, poll.now_ms)
        poll.event("redis.slowlog", WARN, body, slow.attributes(), time_ms=time_ms)

    def _made(self) -> client.Redis:
        try:
            made = client.Redis.from_url(
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
        except Exception:  # noqa: BLE001 (whatever it is about, it is the url's fault, and it may hold a piece of it)
            raise ValueError(
                f"resource {self._target.resource.name}: an option behind the url's ? cannot be read; it must read {FORM}"
            ) from None
        if self._address.host:
            made.connection_pool.connection_kwargs["host"] = self._address.host
        # What comes is read here, field by field: the library's own reading fails as a whole.
        made.response_callbacks.clear()
        return made

    async def _connected(self) -> client.Redis:
        if self._client is None:
            self._client = self._made()
        return await self._client.initialize()

    async def _on_connect(self, connection: client.Connection) -> None:
        self._connection = connection
        await connection.on_connect()

    def _unavailable(self, error: Exception) -> Unavailable:
        reason = " ".join(str(error).split()).rstrip(".") or f"no answer within {self._target.resource.timeout_s:g} s"
        if not isinstance(error, exceptions.RedisError | OSError):
            reason = f"its answer cannot be read: {type(error).__name__}: {reason}"
        place = self._address.place or self._address.path
        return Unavailable(self._target.resource.name, f"{place}: {reason[:500]}", remedy(error))

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


class _NoLengthError(Exception):
    """A key of a type that has no length."""


def _explain(error: Exception) -> Fault | None:
    match error:
        case _NoLengthError():
            return Fault(f"it is a {error}, which has no length", "Declare a list or stream")
        case exceptions.RedisError():
            return Fault(" ".join(str(error).split())[:500] or type(error).__name__, remedy(error))
        case _:
            kind = type(error).__name__
            return Fault(
                f"its answer is none that Redis gives: {kind}: {str(error)[:300]}",
                "See what listens there, and report its version if it is a Redis or Valkey",
                key=kind,
            )


def _is_error(reply: Any) -> bool:
    return isinstance(reply, Exception)


def _granted(reply: Any) -> Any:
    """The reply; raises it when it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def _listed(reply: Any) -> Sequence[Any]:
    if not isinstance(reply, list):
        raise TypeError(f"a {type(reply).__name__} where a list is due")
    return reply


def _address(target: Target) -> Address:
    whose, is_socket = f"resource {target.resource.name}", target.url.startswith("unix://")
    return address(target.url, whose, FORM, ("redis", "rediss", "unix"), needs_host=not is_socket)


KIND = CollectorKind("redis", Redis, RedisOptions, schemes=("redis", "rediss", "unix"))
