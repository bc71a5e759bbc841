"""The server around the receivers: reads bodies within bounds, keeps the records, answers.

| answer | when |
|---|---|
| 202 | the records are on disk |
| 200 | nothing new: delivered before, or an event that is not read |
| 400, 401, 408, 413, 422 | the sender must mend something; problem+json names it |
| 503 with Retry-After | the spool is full, or too many requests at a time: send it again |

Source of the errors' form: RFC 9457. `/healthz` says that the process lives, `/readyz` that it takes records.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from ingest.counts import Count, Counts
from ingest.moments import fault
from ingest.receivers.receiver import Received, Receiver, Refused, Request
from ingest.spool import Spool, SpoolFull
from schemas.records import Record

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 2**20
MAX_REQUESTS = 32  # read and kept at a time; each may hold a body
BODY_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 3.0

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
    ) -> None:
        self._spool, self._clock = spool, clock
        self._host, self._port = host, port
        self._counts = counts if counts is not None else Counts()
        self._busy = 0
        self._runner = web.AppRunner(self._app(receivers), access_log=None, shutdown_timeout=STOP_TIMEOUT_S)

    async def start(self) -> None:
        """Listen. Raises OSError naming the address when it is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Answer what is under way, then close."""
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._runner.addresses[0][1]
        return port

    def _app(self, receivers: Mapping[str, Receiver]) -> web.Application:
        app = web.Application(middlewares=[self._problems], client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._readiness)
        for path, receiver in receivers.items():
            app.router.add_post(path, self._handler(receiver))
        return app

    def _handler(self, receiver: Receiver) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if self._busy >= MAX_REQUESTS:
                raise SpoolFull(f"{MAX_REQUESTS} requests are under way", retry_after_s=1)
            self._busy += 1
            try:
                return await self._take(receiver, request)
            finally:
                self._busy -= 1

        return handle

    async def _take(self, receiver: Receiver, request: web.Request) -> web.Response:
        body = await _body(request)
        now_ms = self._clock()
        headers = {name.lower(): _clean(value) for name, value in request.headers.items()}
        received = receiver.receive(Request(headers, body), now_ms)
        if received.ignored:
            return web.json_response({"accepted": 0, "ignored": received.ignored})
        for record in received.records:
            _check_time(record, now_ms)
        return await self._keep(received)

    async def _keep(self, received: Received) -> web.Response:
        deliveries = [_clean(delivery) if delivery else None for delivery in received.deliveries]
        new = await self._spool.accept(received.records, deliveries=deliveries)
        answer = {"accepted": new, "duplicates": len(received.records) - new}
        return web.json_response(answer, status=202 if new else 200)

    @web.middleware
    async def _problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            answer = _problem(refused.status, refused.title, refused.detail, **refused.more)
        except SpoolFull as full:
            answer = _problem(503, "Try again later", str(full))
            answer.headers["Retry-After"] = f"{full.retry_after_s:.0f}"
        except web.HTTPException as error:
            answer = _http_problem(error, request)
        except Exception:
            log.exception("a receiver failed", extra={"path": request.path})
            answer = _problem(500, "Our mistake", "the request was not taken; the log of ingest says why")
        self._counts[Count.REQUEST_REFUSED] += 1
        return answer

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readiness(self, _: web.Request) -> web.Response:
        """Kafka may be away: what is taken waits on disk. Only a full spool is not ready."""
        state = {"records": self._spool.records, "bytes": self._spool.bytes}
        if self._spool.is_full:
            return web.json_response({"status": "full", **state}, status=503)
        return web.json_response({"status": "ready", **state})


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Refused(408, "Too slow", f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None


def _check_time(record: Record, now_ms: int) -> None:
    if wrong := fault(record, now_ms):
        raise Refused(422, "Not understood", wrong, field="time_ms", value=str(record.time_ms))


def _clean(text: str) -> str:
    """Without what no database takes: bytes that are no UTF-8."""
    return text.encode(errors="replace").decode()


def _problem(status: int, title: str, detail: str, **more: Any) -> web.Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return web.json_response(body, status=status, content_type="application/problem+json")


def _http_problem(error: web.HTTPException, request: web.Request) -> web.Response:
    details = {
        404: f"nothing is received at {request.path}; see which receivers are configured",
        405: f"{request.method} is not taken at {request.path}; send POST",
        413: f"the body is larger than {MAX_BODY_BYTES} bytes (1 MiB); send it in parts",
    }
    return _problem(error.status, error.reason, details.get(error.status, error.reason))
