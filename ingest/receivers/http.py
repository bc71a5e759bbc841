"""The server around the receivers: reads bodies within bounds, keeps the records, answers.

| answer | when |
|---|---|
| 202 | the records are on disk |
| 200 | nothing new: delivered before, or an event that is not read |
| 400, 401, 403, 408, 413, 415, 422 | the sender must mend something; problem+json names it |
| 429 with Retry-After | the sender's quota is used up |
| 503 with Retry-After | the spool or the sender's share of it is full, or too many requests at a time: send it again |

Who sends is checked first, as far as headers prove it; only then is the body read, and what it holds looked at.
Source of the errors' form: RFC 9457. `/healthz` says that the process lives, `/readyz` that it takes records.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiohttp import HttpVersion11, web

from ingest.counts import Count, Counts
from ingest.receivers.admission import check_times
from ingest.receivers.connections import Connection, Connections, Limits, address_of
from ingest.receivers.inflate import inflated
from ingest.receivers.quota import Quota
from ingest.receivers.receiver import Received, Receiver, Request
from ingest.receivers.refusals import Refused, shown
from ingest.receivers.signature import Holder
from ingest.spool import RECEIVED, Spool, SpoolError, SpoolFull
from schemas.masking import masked_data
from schemas.records import Batch, Record, Scrape

log = logging.getLogger(__name__)

LIMITS = Limits()
MAX_BODY_BYTES = LIMITS.body_bytes
MAX_REQUESTS = LIMITS.requests
STOP_TIMEOUT_S = 3.0
SAID_AGAIN_S = 60.0
SINGLE = (
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-github-delivery",
    "x-github-event",
    "x-hub-signature-256",
)
"""Headers that decide something: two of one name are read differently by whoever stands in between."""
COUNTED = {401: Count.UNAUTHENTICATED, 403: Count.FORBIDDEN, 429: Count.THROTTLED}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Serves `receivers` by path on `host` and `port` (0: any free one). `clock` gives Unix ms."""

    def __init__(
        self,
        receivers: Mapping[str, Receiver],
        spool: Spool,
        *,
        clock: Callable[[], int],
        host: str = "127.0.0.1",
        port: int = 0,
        counts: Counts | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self._spool, self._clock, self._limits = spool, clock, limits
        self._host, self._port = host, port
        self._counts = counts if counts is not None else Counts()
        self._proven: Counter[str] = Counter()
        self._unproven: Counter[str] = Counter()
        self._quotas: dict[tuple[str, str], Quota] = {}
        self._said_s: dict[tuple[str, str, int], float] = {}
        self._runner = web.AppRunner(self._app(receivers), access_log=None, shutdown_timeout=STOP_TIMEOUT_S)
        self._listening: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError naming the address when it is taken."""
        await self._runner.setup()
        assert self._runner.server is not None
        connections = Connections(self._runner.server, self._limits, self._connection_refused)
        self._listening = await asyncio.get_running_loop().create_server(connections, self._host, self._port)

    async def stop(self) -> None:
        """Answer what is under way, then close."""
        if self._listening:
            self._listening.close()
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._listening is not None
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    def _app(self, receivers: Mapping[str, Receiver]) -> web.Application:
        app = web.Application(middlewares=[self._problems], client_max_size=self._limits.body_bytes)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._readiness)
        for path, receiver in receivers.items():
            app.router.add_post(path, self._handler(receiver), expect_handler=_later)
        return app

    def _handler(self, receiver: Receiver) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            now_ms, headers = self._clock(), _headers(request)
            holder = receiver.screen(headers, now_ms)
            if holder:
                self._check_quota(receiver, holder)
            address = address_of(request.transport.get_extra_info("peername")) if request.transport else ""
            limits = self._limits
            with (
                _place(self._proven, holder.name, limits.requests, limits.requests_per_key)
                if holder
                else _place(self._unproven, address, limits.unproven, limits.unproven_per_address)
            ):
                return await self._take(receiver, request, headers)

        return handle

    async def _take(self, receiver: Receiver, request: web.Request, headers: Mapping[str, str]) -> web.Response:
        sent = await _body(request, self._limits)
        read = Request(headers, inflated(sent, headers.get("content-encoding", ""), self._limits.body_bytes))
        now_ms = self._clock()
        holder = receiver.prove(read, now_ms)
        quota = self._check_quota(receiver, holder)
        quota.charge(_now_s(), size=len(sent))
        try:
            received = receiver.read(read, now_ms, holder)
            check_times(received.records, received.places, now_ms)
        except Refused as refused:
            self._say_refused(receiver, holder, refused)
            raise
        quota.charge(_now_s(), records=max(1, sum(map(_weight, received.records))))
        if received.ignored:
            return web.json_response({"accepted": 0, "ignored": received.ignored})
        return await self._keep(received, f"{RECEIVED}{receiver.name}/{holder.name}")

    def _check_quota(self, receiver: Receiver, holder: Holder) -> Quota:
        """The account of the key's holder at this receiver. Raises Refused (429) when it is overdrawn."""
        key, now_s = holder.key, _now_s()
        quota = self._quotas.setdefault(
            (receiver.name, holder.name), Quota(key.records_per_minute, key.bytes_per_minute, now_s)
        )
        if wait_s := quota.wait_s(now_s):
            said = f"the quota of {key.records_per_minute} records and {key.bytes_per_minute} bytes a minute is used up"
            refused = Refused(429, "Too much", f"{said}; send less, or let the key have more", retry_after_s=wait_s)
            self._say_refused(receiver, holder, refused)
            raise refused
        return quota

    def _say_refused(self, receiver: Receiver, holder: Holder, refused: Refused) -> None:
        """Tell operators of a known sender that does what it may not, at most once a minute."""
        which, now_s = (receiver.name, holder.name, refused.status), _now_s()
        if refused.status in COUNTED and now_s - self._said_s.get(which, -SAID_AGAIN_S) >= SAID_AGAIN_S:
            self._said_s[which] = now_s
            more = {"receiver": receiver.name, "key": holder.name, "status": refused.status}
            log.warning("a sender is refused: %s", refused.detail, extra=more)

    async def _keep(self, received: Received, source: str) -> web.Response:
        new = await self._spool.accept(received.records, deliveries=received.deliveries, source=source)
        answer = {"accepted": new, "duplicates": len(received.records) - new}
        return web.json_response(answer, status=202 if new else 200)

    @web.middleware
    async def _problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.begun()
        try:
            return await self._answered(request, handler)
        finally:
            if isinstance(connection, Connection):
                connection.ended()

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            answer = _problem(refused.status, refused.title, refused.detail, **refused.more)
            if wait_s := refused.more.get("retry_after_s"):
                answer.headers["Retry-After"] = str(wait_s)
            if counted := COUNTED.get(refused.status):
                self._counts[counted] += 1
        except SpoolFull as full:
            log.debug("a request is put off: %s", full)
            answer = _problem(503, "Try again later", "records wait here for Kafka or the disk; send it again later")
            answer.headers["Retry-After"] = f"{full.retry_after_s:.0f}"
        except SpoolError as error:
            log.critical("%s", error)
            answer = _problem(503, "Try again later", "records cannot be kept; the log of ingest says why")
            answer.headers["Retry-After"] = "60"
        except web.HTTPException as error:
            answer = _http_problem(error, request)
        except web.RequestPayloadError:
            answer = _problem(400, "Not readable", "the body did not arrive as its headers say")
        except ConnectionError:
            raise
        except Exception:
            log.exception("a receiver failed", extra={"path": shown(request.path)})
            answer = _problem(500, "Our mistake", "the request was not taken; the log of ingest says why")
        self._counts[Count.REQUEST_REFUSED] += 1
        if answer.status == 401 or not request.content.is_eof():
            answer.force_close()  # strangers keep no connection, and what is still to come is not worth reading
        return answer

    def _connection_refused(self) -> None:
        self._counts[Count.CONNECTION_REFUSED] += 1

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readiness(self, _: web.Request) -> web.Response:
        """Kafka may be away: what is taken waits on disk. Only a full spool is not ready."""
        if self._spool.is_full:
            return web.json_response({"status": "full"}, status=503)
        return web.json_response({"status": "ready"})


@contextmanager
def _place(busy: Counter[str], who: str, most: int, most_of_one: int) -> Iterator[None]:
    """One of so many places, of which one key or address has but a part. Raises SpoolFull."""
    if busy.total() >= most or busy[who] >= most_of_one:
        raise SpoolFull("too many requests are under way", retry_after_s=1)
    busy[who] += 1
    try:
        yield
    finally:
        busy[who] -= 1
        if not busy[who]:
            del busy[who]


async def _later(_: web.Request) -> None:
    """Who asks whether to go on with the body is told so once its headers have passed."""


async def _body(request: web.Request, limits: Limits) -> bytes:
    too_large = Refused(413, "Request Entity Too Large", f"the body is larger than {limits.body_bytes} bytes (1 MiB); send it in parts")  # fmt: skip
    if (request.content_length or 0) > limits.body_bytes:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself is still to come
    found = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for piece in request.content.iter_any():
                found += piece
                if len(found) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise Refused(408, "Too slow", f"the body did not arrive within {limits.body_timeout_s:g} s") from None
    return bytes(found)


def _headers(request: web.Request) -> dict[str, str]:
    for name in SINGLE:
        if len(request.headers.getall(name, ())) > 1:
            raise Refused(400, "Not readable", f"{name}: it was sent more than once; send it once")
    return {name.lower(): _clean(value) for name, value in request.headers.items()}


def _weight(record: Record) -> int:
    """What a record is against a quota: its series, or its rows."""
    if isinstance(record, Scrape):
        return max(1, len(record.values))
    return max(1, len(record.times_ms)) if isinstance(record, Batch) else 1


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _clean(text: str) -> str:
    """Without what no database takes: bytes that are no UTF-8."""
    return text.encode(errors="replace").decode()


def _problem(status: int, title: str, detail: str, **more: Any) -> web.Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return web.json_response(masked_data(body), status=status, content_type="application/problem+json")


def _http_problem(error: web.HTTPException, request: web.Request) -> web.Response:
    path = shown(request.path)
    details = {
        404: f"nothing is received at {path}; see which receivers are configured",
        405: f"{request.method} is not taken at {path}; send POST",
    }
    answer = _problem(error.status, error.reason, details.get(error.status, error.reason))
    if allowed := error.headers.get("Allow"):
        answer.headers["Allow"] = allowed
    return answer
