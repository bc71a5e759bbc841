"""How a webhook travels, and what its answer means.

The receiver's name is looked up for each connection, once: the addresses that were judged are those that are connected to, so
a name that leads elsewhere a moment later leads nowhere else. Redirects are not followed, proxies of the environment are not
used (they would look the name up themselves), cookies are not kept, certificates are verified. Of an answer only the
status and the headers are read; a body is let go of with its connection.
Source: Standard Webhooks 1.0; RFC 9110, section 15 (status codes).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from schemas import endpoints
from sinks.backoff import retry_after_s

LookUp = Callable[[str, int, int], list[Any]]
"""What `socket.getaddrinfo` answers for host, port and family. Raises OSError or UnicodeError."""


class Verdict(Enum):
    """What an answer means for the alert."""

    TAKEN = "taken"
    AWAY = "away"
    """Nothing is taken now; the alert waits."""
    MISCONFIGURED = "misconfigured"
    """The receiver or the route is set up wrong, which is no fault of the alert: it waits, too."""
    FAILED = "failed"
    """The receiver lives and fails at this alert, perhaps at others as well."""
    REFUSED = "refused"
    """The receiver does not want this alert."""
    GONE = "gone"
    """The receiver wants no more alerts."""


REFUSED = {400, 409, 413, 422}
AWAY = {408, 425, 429, 502, 503, 504}


def verdict(status: int) -> Verdict:
    """What a status means."""
    if 200 <= status < 300:
        return Verdict.TAKEN
    if status in AWAY:
        return Verdict.AWAY
    if status in REFUSED:
        return Verdict.REFUSED
    if status == 410:
        return Verdict.GONE
    return Verdict.MISCONFIGURED if 300 <= status < 500 else Verdict.FAILED


def remedy(status: int) -> str:
    """What mends the route or its receiver."""
    if status < 400:
        return "Redirects are not followed: write the final url"
    if status in (401, 403, 407):
        return "Check its url and secret: the receiver does not let us in"
    if status in (404, 405):
        return "Check its url: there is no webhook"
    return "Check its url and what its receiver expects"


class Answer(NamedTuple):
    """What a receiver said."""

    status: int
    retry_after_s: float | None


class PrivateAddressError(OSError):
    """The receiver's name leads inside. The text says where to."""


class Undelivered(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """No answer came. The text holds nothing of the url."""

    def __init__(self, reason: str, is_private: bool = False) -> None:
        super().__init__(reason)
        self.is_private = is_private


class Resolver(AbstractResolver):
    """Looks a name up, and gives only addresses that may be connected to.

    In a thread that nobody waits for: a name server that hangs holds up neither the sink nor its end. One look-up at a time.
    """

    def __init__(self, allow_private: bool, look_up: LookUp | None = None) -> None:
        self._allow_private, self._look_up = allow_private, look_up or _look_up
        self._asked: dict[tuple[str, int, int], asyncio.Future[list[Any]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of the host. Raises OSError, a PrivateAddressError when all of them lead inside."""
        found = await asyncio.shield(self._ask(host, port, int(family)))
        results, refused = [], ""
        for kind, _, protocol, _, address in found:
            place = endpoints.literal(address[0].partition("%")[0])
            what = endpoints.inside(place) if place and not self._allow_private else ""
            if place is None or what:
                refused = f"its name leads to {what or 'no address'}"
                continue
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            results.append(
                ResolveResult(hostname=host, host=address[0], port=port, family=kind, proto=protocol, flags=flags)
            )
        if not results:
            raise PrivateAddressError(refused or "its name leads to no address")
        return results

    async def close(self) -> None:
        """Nothing to let go of."""

    def _ask(self, *wanted: Any) -> asyncio.Future[list[Any]]:
        if wanted not in self._asked:
            loop = asyncio.get_running_loop()
            answer = self._asked[wanted] = loop.create_future()
            answer.add_done_callback(lambda _: self._asked.pop(wanted, None))
            threading.Thread(target=self._answer, args=(loop, answer, wanted), daemon=True).start()
        return self._asked[wanted]

    def _answer(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[Any]], wanted: Any) -> None:
        try:
            found, error = self._look_up(*wanted), None
        except (OSError, UnicodeError) as raised:
            found, error = [], raised
        try:
            loop.call_soon_threadsafe(_settle, answer, found, error)
        except RuntimeError:
            return  # the loop has ended meanwhile


def _settle(answer: asyncio.Future[list[Any]], found: list[Any], error: Exception | None) -> None:
    if error is not None:
        answer.set_exception(OSError(0, getattr(error, "strerror", None) or "its name cannot be looked up"))
        answer.exception()  # seen: whoever asked may have given up
    else:
        answer.set_result(found)


def _look_up(host: str, port: int, family: int) -> list[Any]:
    return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)


class Delivery:
    """The way to one receiver."""

    def __init__(self, url: str, allow_private: bool, timeout_s: float, resolver: Resolver | None = None) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._resolver = resolver or Resolver(allow_private)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one webhook. Raises Undelivered."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=self._resolver, use_dns_cache=False),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                return Answer(response.status, retry_after_s(response.headers))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _undelivered(error) from None

    async def close(self) -> None:
        """Let go of the connection."""
        if self._session:
            await self._session.close()


def _undelivered(error: Exception) -> Undelivered:
    """Not in the error's own words: they may hold the url, and a webhook's url is a secret."""
    private = error if isinstance(error, PrivateAddressError) else getattr(error, "os_error", None)
    if isinstance(private, PrivateAddressError):
        return Undelivered(str(private), is_private=True)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Undelivered("its certificate is not trusted")
    what = error.strerror if isinstance(error, OSError) else None
    return Undelivered(f"{type(error).__name__} {what or ''}".strip())
