"""Odoo's `GET /web/health`, 16-19: liveness of one web process, told every look and as an event at the edge.

It says nothing of workers, crons, Redis or the tenant's database, which is why it stands beside the other collectors. No
answer is a measurement, too: up is 0, not unmeasured. `database` asks 17-19 to try PostgreSQL as well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import aiohttp
from pydantic import Field

from ingest.collector import ERROR, INFO, Collected, CollectorKind, Options, Target
from schemas.records import OperationsEvent, Record
from schemas.series import identity

UP, DOWN = "up", "down"


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
        if not target.url.startswith(("http://", "https://")):
            raise ValueError(f"resource {target.resource.name}: url {target.url!r} must be https://HOST or http://HOST")
        query = "?db_server_status=1" if options.database else ""
        self._target, self._url = target, target.url.rstrip("/") + options.path + query
        self._session: aiohttp.ClientSession | None = None

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """One question. Never raises Unavailable: that nobody answers is the finding."""
        answer = await self._ask()
        tenant = self._target.resource.tenant
        attributes = {"tenant.id": tenant} if tenant else {}
        points = {
            identity("odoo.health.up", attributes): float(answer.is_up),
            identity("odoo.health.duration", attributes): answer.duration_s,
        }
        records: list[Record] = [self._target.scrape(points, now_ms)]
        state = UP if answer.is_up else DOWN
        # The first look tells only bad news.
        if state != (position or UP):
            records.append(self._edge(answer, now_ms))
        return Collected(records, state)

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
            async with self._session.get(self._url, allow_redirects=False) as response:
                await response.content.read(4_096)
                status = response.status
        except TimeoutError:
            return _Answer(False, None, f"no answer within {timeout_s:g} s")
        except aiohttp.ClientError as error:
            return _Answer(False, None, f"no answer: {error}")
        return _Answer(status == 200, time.perf_counter() - begun_s, f"HTTP {status}")

    def _edge(self, answer: _Answer, now_ms: int) -> OperationsEvent:
        state = UP if answer.is_up else DOWN
        return OperationsEvent(
            **self._target.identity(),
            time_ms=now_ms,
            tenant=self._target.resource.tenant,
            name=f"odoo.health.{state}",
            severity_number=INFO if answer.is_up else ERROR,
            body=f"{self._url}: {answer.why}",
        )


KIND = CollectorKind("odoo_health", OdooHealth, OdooHealthOptions)
