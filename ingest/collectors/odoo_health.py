"""Odoo's `GET /web/health`, 16-19: liveness of one web process, told every look and as an event at the edge.

It says nothing of workers, crons, Redis or the tenant's database, which is why it stands beside the other collectors. No
answer is a measurement, too: up is 0, not unmeasured. `database` asks 17-19 to try PostgreSQL as well.
"""

from __future__ import annotations

import time
from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from pydantic import Field
from yarl import URL

from ingest.addresses import address
from ingest.collector import ERROR, INFO, Collected, CollectorKind, Options, Target
from ingest.poll import Poll

UP, DOWN = "up", "down"
FORM = "https://HOST or http://HOST"


class OdooHealthOptions(Options):
    """What the estate may say about a health check."""

    path: str = Field("/web/health", pattern="^/", description="Path that is asked.")
    database: bool = Field(False, description="Ask for db_server_status, which 17-19 know.")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of asking. `duration_s` is None when there was no answer at all."""

    is_up: bool
    duration_s: float | None
    why: str


class OdooHealth:
    """Asks one URL."""

    def __init__(self, target: Target) -> None:
        options = target.options(OdooHealthOptions)
        one = address(target.url, f"resource {target.resource.name}", FORM, ("http", "https"))
        query = "?db_server_status=1" if options.database else ""
        path = quote(one.path.rstrip("/")) + quote(options.path, safe="/?&=%:@+,;~") + query
        self._target = target
        # What is asked and what is told are two: user and password are in neither text.
        self._shown = f"{one.scheme}://{one.place}{path}"
        self._url = URL(f"{one.scheme}://{one.place}{path}", encoded=True)
        login = b64encode(f"{one.user}:{one.password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"} if one.user or one.password else {}
        self._session: aiohttp.ClientSession | None = None

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """One question. Never raises Unavailable: that nobody answers is the finding."""
        answer = await self._ask()
        poll = Poll(self._target, now_ms)
        attributes = {"tenant.id": self._target.resource.tenant}
        poll.gauge("odoo.health.up", answer.is_up, attributes)
        poll.gauge("odoo.health.duration", answer.duration_s, attributes)
        state = UP if answer.is_up else DOWN
        # The first look tells only bad news; a position that is neither is as good as none.
        if state != (position if position in (UP, DOWN) else UP):
            severity = INFO if answer.is_up else ERROR
            poll.event(f"odoo.health.{state}", severity, f"{self._shown}: {answer.why}", {})
        return poll.collected(state)

    async def close(self) -> None:
        """Close the connection that is kept between looks."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self) -> _Answer:
        # A little less than the scheduler grants, so that a time-out is told as down and not as a look that failed.
        timeout_s = self._target.resource.timeout_s * 0.9
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s))
        begun_s = time.perf_counter()
        try:
            async with self._session.get(self._url, allow_redirects=False, headers=self._headers) as response:
                await response.content.read(4_096)
                status = response.status
        except TimeoutError:
            return _Answer(False, None, f"no answer within {timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A ValueError is an answer, a host name or a redirection that the library cannot read.
            told = " ".join(str(error).split())[:500]
            return _Answer(False, None, f"no answer: {told or type(error).__name__}")
        return _Answer(status == 200, time.perf_counter() - begun_s, f"HTTP {status}")


KIND = CollectorKind("odoo_health", OdooHealth, OdooHealthOptions, schemes=("https", "http"))
