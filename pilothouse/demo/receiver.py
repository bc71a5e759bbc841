"""The demo's on-call tool: a webhook that verifies what it gets, as any receiver of Standard Webhooks would."""

from __future__ import annotations

import base64
import secrets
import time
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

ALERTS_MAX = 10_000


class Receiver:
    """Listens on loopback while it is entered. `alerts` are (Unix s of arrival, body), each webhook-id once."""

    def __init__(self) -> None:
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self.alerts: list[tuple[float, dict[str, Any]]] = []
        self.refused = 0
        self._known: set[str] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where alerts are sent to."""
        return f"http://127.0.0.1:{self._port}/alerts"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/alerts", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        try:
            body = Webhook(self.secret).verify(await request.text(), dict(request.headers))
        except WebhookVerificationError:
            self.refused += 1
            return web.Response(status=401)
        known = request.headers["webhook-id"]
        if known not in self._known and len(self.alerts) < ALERTS_MAX:
            self._known.add(known)
            self.alerts.append((time.time(), body))
        return web.Response(status=204)
