"""Targets that lie, hang and mistype, one a collector: what the contract of every collector is tried with.

A real server cannot be made to say anything, so each lie stands at the transport: a server on loopback that speaks RESP or
HTTP, a connection to PostgreSQL that gives rows, a file, a thread. `LIARS` has one for every registered system; a new
collector declares its own here, and the contract is then tried on it.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ingest.collector import Collector, Target
from ingest.collectors import host
from ingest.collectors.registry import COLLECTORS
from schemas.estate import Cell, Resource, Tenant

CANARY = "hunter2Canary"
CELL = Cell(name="eu1", tenants=(Tenant(name="acme", database="acme"), Tenant(name="borealis")))
LONG = "x" * 70_000
GARBAGE: tuple[Any, ...] = (
    None,
    "",
    " ",
    "to approve",
    "\udcff\udcfe",
    "a\x00b\n\x1b[31m",
    LONG,
    "é" * 300,
    "-1",
    "NaN",
    b"\xff\xfe\x00",
    b"",
    0,
    -1,
    2**31,
    2**63 - 1,
    -(2**63),
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    True,
    Decimal("NaN"),
    Decimal("1e5000"),
    datetime.max.replace(tzinfo=UTC),
    datetime.min,  # noqa: DTZ901 (as a column without a zone gives it)
    timedelta.max,
    [],
    [None],
    ["a", 1],
    {},
    {"a": 1},
    (1, 2),
    object(),
)


@dataclass
class Mood:
    """How the target behaves now."""

    random: random.Random = field(default_factory=lambda: random.Random(0))
    hangs: bool = False

    async def bear(self) -> None:
        """Wait for ever while the target hangs."""
        if self.hangs:
            await asyncio.Event().wait()

    def garbage(self) -> Any:
        return self.random.choice(GARBAGE)


Opened = Callable[[Mood, Path, pytest.MonkeyPatch], Any]


@dataclass(frozen=True)
class Liar:
    """A hostile target. `open` gives its url; `secret` is a url with a password that the collector must never show."""

    open: Opened
    options: dict[str, Any] = field(default_factory=dict)
    secret: str | None = None
    tenant: str | None = "acme"

    def make(self, system: str, url: str, timeout_s: float = 2.0) -> tuple[Target, Collector]:
        """A collector of that url."""
        resource = Resource(
            name=f"{system}-eu1", system=system, tenant=self.tenant, timeout_s=timeout_s, options=self.options
        )
        target = Target(CELL, resource, url)
        return target, COLLECTORS[system].make(target)


# PostgreSQL: rows of whatever the statement asks for


class GarbageRow:
    """A row that has every column, as asyncpg's Record, and garbage in it."""

    def __init__(self, mood: Mood, names: list[str]) -> None:
        self._values = {name: mood.garbage() for name in names}
        self._mood = mood

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def keys(self) -> Iterator[str]:
        return iter(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)


class LyingConnection:
    """As much of asyncpg's connection as the collectors use."""

    def __init__(self, mood: Mood) -> None:
        self._mood, self._closed = mood, False

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        await self._mood.bear()
        self._may_fail()
        names = [*re.findall(r"\bAS (\w+)", sql), "id", "object", "backend_type", "locktype", "state", "table", "kind"]
        return [GarbageRow(self._mood, names) for _ in range(self._mood.random.choice((0, 1, 1, 3)))]

    async def fetchrow(self, sql: str, *arguments: Any) -> Any:
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        await self._mood.bear()
        self._may_fail()
        return self._mood.garbage()

    async def execute(self, sql: str, *arguments: Any) -> str:
        await self._mood.bear()
        return ""

    def get_settings(self) -> Any:
        return type("Settings", (), {"server_encoding": "UTF8"})()

    def is_closed(self) -> bool:
        return self._closed

    def terminate(self) -> None:
        self._closed = True

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (as asyncpg has it)
        self._closed = True

    def _may_fail(self) -> None:
        errors: tuple[Exception, ...] = (
            asyncpg.InsufficientPrivilegeError("permission denied for view x"),
            asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
            asyncpg.CharacterNotInRepertoireError('invalid byte sequence for encoding "UTF8": 0xff'),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            OverflowError("date value out of range"),
            asyncpg.UndefinedTableError(f"relation does not exist in {CANARY}x"),
        )
        if self._mood.random.random() < 0.2:
            raise self._mood.random.choice(errors)


@asynccontextmanager
async def postgresql(mood: Mood, directory: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    async def connect(*arguments: Any, **more: Any) -> LyingConnection:
        await mood.bear()
        return LyingConnection(mood)

    patch.setattr(asyncpg, "connect", connect)
    yield "postgresql://watcher@127.0.0.1:5432/acme"


# Servers on loopback


Answer = Callable[[Mood, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def served(answer: Answer, scheme: str) -> Opened:
    @asynccontextmanager
    async def opened(mood: Mood, directory: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[str]:
        asked: set[asyncio.Task[None]] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(answer(mood, reader, writer))
            asked.add(task)
            await asyncio.wait([task])
            writer.transport.abort()
            asked.discard(task)
            task.cancelled() or task.exception()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        try:
            yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in asked:
                task.cancel()
            await asyncio.sleep(0.01)

    return opened


def resp(mood: Mood, depth: int = 0) -> bytes:
    """A reply that RESP allows, and at times one that it does not."""
    text = str(mood.garbage())[:2_000].encode("utf-8", "surrogateescape").replace(b"\r", b"").replace(b"\n", b" ")
    match mood.random.randrange(12):
        case 0 | 1 | 2 | 3:
            return b"$%d\r\n%s\r\n" % (len(text), text)
        case 4:
            return b":%d\r\n" % mood.random.choice((0, -1, 2**62))
        case 5 | 6 if depth < 4:
            count = mood.random.randrange(5)
            return b"*%d\r\n" % count + b"".join(resp(mood, depth + 1) for _ in range(count))
        case 7:
            words = (
                b"MOVED 1 127.0.0.1:1",
                b"MOVED",
                b"CLUSTERDOWN x",
                b"LOADING x",
                b"NOPERM x",
                b"ERR x",
                b"ASK",
                b"",
            )
            return b"-%s\r\n" % mood.random.choice(words)
        case 8:
            return b"$-1\r\n"
        case 9:
            return b"+%s\r\n" % text
        case 10:
            info = b"".join(
                b"%s:%s\r\n" % (name, str(mood.garbage())[:200].encode("utf-8", "surrogateescape").replace(b"\n", b""))
                for name in (
                    b"run_id",
                    b"total_commands_processed",
                    b"uptime_in_seconds",
                    b"cmdstat_get",
                    b"db0",
                    b"maxmemory",
                )
            )
            return b"$%d\r\n%s\r\n" % (len(info), info)
        case _:
            return mood.random.choice((b"?\r\n", b"*-1\r\n", b"$5\r\nab", b"", b":\xff\r\n"))


async def redis(mood: Mood, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        if not line.startswith(b"*"):
            continue
        words = []
        for _ in range(int(line[1:])):
            length = int((await reader.readline())[1:])
            words.append((await reader.readexactly(length + 2))[:-2].upper())
        await mood.bear()
        writer.write({b"CLIENT": b"+OK\r\n", b"AUTH": b"+OK\r\n", b"PING": b"+PONG\r\n"}.get(words[0]) or resp(mood))


async def http(mood: Mood, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    await mood.bear()
    answers = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 302 Found\r\nLocation: http://u:p@a..b/\r\n\r\n",
        b"HTTP/1.1 999 \xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nno gzip!!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00\xff\xfe",
        b"",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    )
    writer.write(mood.random.choice(answers))
    await writer.drain()


async def tls(mood: Mood, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    await mood.bear()
    writer.write(
        mood.random.choice(
            (b"", b"HTTP/1.1 400\r\n\r\n", b"\x16\x03\x03\x00\x02\xff\xff", b"\x15\x03\x03\x00\x02\x02\x28")
        )
    )
    await writer.drain()


# Files and threads


@asynccontextmanager
async def this_host(mood: Mood, directory: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    def read() -> Any:
        while mood.hangs:
            time.sleep(0.01)
        return mood.random.choice(({"system.cpu.load_average.1m": mood.garbage()}, mood.garbage(), {}))

    patch.setattr(host, "READS", dict.fromkeys(host.READS, read))
    patch.setattr(host, "filesystems", lambda: mood.random.choice(({"a\udcff": ["/\udcff", "/"]}, mood.garbage())))
    yield ""
    mood.hangs = False


@asynccontextmanager
async def odoo_log(mood: Mood, directory: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    path = directory / "odoo.log"
    lines = [
        f"2026-11-29 10:00:0{number % 10},000 {mood.garbage()} INFO {mood.garbage()} odoo: {mood.garbage()}"[:5_000]
        for number in range(50)
    ]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape") + b"\n\xff\xfe\x00\n")
    yield path.as_uri()


@asynccontextmanager
async def odoo_workers(mood: Mood, directory: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    (directory / "net").mkdir(exist_ok=True)
    (directory / "net" / "tcp").write_bytes(f"head\n{mood.garbage()}\n 0: zz\n".encode("utf-8", "surrogateescape"))
    for number in range(1, 5):
        place = directory / str(number)
        place.mkdir(exist_ok=True)
        (place / "stat").write_bytes(f"{number} (odoo) {mood.garbage()}"[:2_000].encode("utf-8", "surrogateescape"))
        (place / "cmdline").write_bytes(b"odoo-bin\0\xff\xfe")
    patch.setitem(LIARS["odoo_workers"].options, "proc", str(directory))
    yield ""


LIARS: dict[str, Liar] = {
    "host": Liar(this_host, tenant=None),
    "odoo": Liar(postgresql, secret="postgresql://u:{secret}@127.0.0.1:1/acme"),
    "odoo_health": Liar(served(http, "http"), secret="http://u:{secret}@127.0.0.1:1/"),
    "odoo_log": Liar(odoo_log),
    "odoo_workers": Liar(odoo_workers),
    "postgresql": Liar(postgresql, {"odoo_is_here": True}, secret="postgresql://u:{secret}@127.0.0.1:1/acme"),
    "redis": Liar(served(redis, "redis"), {"queues": [{"key": "q"}]}, secret="redis://u:{secret}@127.0.0.1:1/0"),
    "tls": Liar(served(tls, "tls"), secret="tls://u:{secret}@127.0.0.1:1"),
}
