"""Connections of strangers: how many there may be, in all and by address, and how long each may keep us waiting.

aiohttp closes a connection whose next request has not come within the time-out; here are the caps it lacks. Who is over one
costs the connection of that address, or of all, that has waited longest for its next request: a thousand half-open
requests push each other out, and one that is really sent is answered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/problem+json\r\nContent-Length: 0\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers may take of us before they have proved who they are, and after."""

    connections: int = 512
    connections_per_address: int = 64
    header_timeout_s: float = 10.0
    """For the request line and all headers, also of the next request on a connection that is kept."""
    body_timeout_s: float = 10.0
    answer_timeout_s: float = 10.0
    """For the other side to read what it is answered."""
    lingering_s: float = 1.0
    """What a refused sender still sends is read for so long, so that it sees why."""
    header_bytes: int = 4096
    """Of one header, and of the request line."""
    headers: int = 64
    body_bytes: int = 2**20
    """Of a body, as it is sent and as it is when it is inflated."""
    requests: int = 32
    """Read and kept at a time, of senders that have proved who they are."""
    requests_per_key: int = 16
    unproven: int = 32
    """Bodies at a time that have to be read to know who sends them."""
    unproven_per_address: int = 8


class Connections:
    """Makes and counts connections; the factory of a listening socket. `refused` is called for each one that goes."""

    def __init__(self, server: web.Server, limits: Limits, refused: Callable[[], None]) -> None:
        self._server, self._limits, self._refused = server, limits, refused
        self._loop = asyncio.get_running_loop()
        self._by_address: Counter[str] = Counter()
        self._waiting: dict[Connection, None] = {}  # oldest first
        self._open: set[Connection] = set()

    def __call__(self) -> Connection:
        """A connection for the event loop."""
        limits = self._limits
        return Connection(
            self,
            self._server,
            loop=self._loop,
            keepalive_timeout=limits.header_timeout_s,
            lingering_time=limits.lingering_s,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.headers,
            auto_decompress=False,
            access_log=None,
        )

    @property
    def answer_timeout_s(self) -> float:
        """How long the other side may take to read an answer."""
        return self._limits.answer_timeout_s

    def entered(self, connection: Connection) -> None:
        """One is made: it waits for its first request, and may cost another one its place."""
        self._open.add(connection)
        self._waiting[connection] = None
        self._by_address[connection.address] += 1
        if self._by_address[connection.address] > self._limits.connections_per_address:
            self._make_room(connection, connection.address)
        elif len(self._open) > self._limits.connections:
            self._make_room(connection, None)

    def left(self, connection: Connection) -> None:
        """One is gone."""
        if connection in self._open:
            self._open.discard(connection)
            self._waiting.pop(connection, None)
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]

    def begun(self, connection: Connection) -> None:
        """A request has come whole as far as its headers go."""
        self._waiting.pop(connection, None)

    def ended(self, connection: Connection) -> None:
        """It is answered, and the connection waits for its next one."""
        if connection in self._open:
            self._waiting[connection] = None

    def _make_room(self, newcomer: Connection, address: str | None) -> None:
        self._refused()
        waiting = (one for one in self._waiting if address is None or one.address == address)
        oldest = next(waiting, newcomer)
        oldest.refuse() if oldest is newcomer else oldest.drop()
        self.left(oldest)


class Connection(web.RequestHandler):
    """aiohttp's, counted; and errors below HTTP are answered as all others are, and are no tracebacks in the log."""

    __slots__ = ("_connections", "address")

    def __init__(self, connections: Connections, server: web.Server, **more: Any) -> None:
        super().__init__(server, **more)
        self._connections = connections
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The event loop has accepted one."""
        super().connection_made(transport)
        self.address = address_of(transport.get_extra_info("peername"))
        self._connections.entered(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is closed."""
        self._connections.left(self)
        super().connection_lost(exc)

    def begun(self) -> None:
        """A request is being handled."""
        self._connections.begun(self)

    def ended(self) -> None:
        """It has been handled."""
        self._connections.ended(self)

    def refuse(self) -> None:
        """Say that there are too many, and close."""
        if self.transport is not None:
            self.transport.write(REFUSED)
        self.force_close()

    def drop(self) -> None:
        """Close without waiting for the other side."""
        if self.transport is not None:
            self.transport.abort()
        self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; who does not read it is hung up on."""
        try:
            async with asyncio.timeout(self._connections.answer_timeout_s):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self.drop()
            return resp, True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP. What was sent stands neither in it nor in the log: it may hold a key."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was sent in part")
        detail = "the request is no HTTP/1.1, or its headers are too large or too many"
        body = {"type": "about:blank", "title": "Not readable", "status": status, "detail": detail}
        answer = web.Response(status=status, text=json.dumps(body), content_type="application/problem+json")
        answer.force_close()
        return answer


def address_of(peer: Any) -> str:
    """By what a sender is counted: the IPv4 address, or the /64 that one household or server has of IPv6."""
    if not isinstance(peer, tuple) or not peer:
        return "local"
    try:
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except ValueError:
        return str(peer[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
