"""The faults of the demo: each does the real thing to the real servers, and undoes it.

    fault = faults.redis_slow(demo)
    async with fault: ...          or   await fault.inject(); ...; await fault.heal()

Every one says what it is, what a perfect diagnosis would name, and who suffers. `weak` ones have about a third of the
strength; `double` ones come in pairs whose causes and victims have nothing in common.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import aiohttp

from pilothouse.demo import batches, workers
from pilothouse.demo.company import CELLS, TRADE, Cell
from pilothouse.demo.estate import DemoEstate, Odoo
from pilothouse.demo.resp import Valkey

SHARED, DEDICATED = CELLS
WEAK = 1 / 3
BLOCK_S = 0.5  # of Valkey at a time
RELEASE, RELEASE_BEFORE = "2.4.1", "2.4.0"
REPOSITORY = "example/odoo"
POST_TIMEOUT_S = FELT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where GitHub would tell of deployments, and the key it signs them with."""

    url: str
    secret: str


@dataclass(kw_only=True)
class Fault(ABC):
    """One fault. `true_cause` is KIND:RESOURCE, None of what is no fault; `tenants` are those that suffer."""

    name: str
    sentence: str
    true_cause: str | None
    tenants: tuple[str, ...]
    cell: str
    is_weak: bool = False

    @abstractmethod
    async def inject(self) -> None:
        """Begin; returns when the server feels it."""

    @abstractmethod
    async def heal(self) -> None:
        """Undo; does nothing if it was not begun."""

    async def __aenter__(self) -> Self:
        await self.inject()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.heal()


@dataclass(kw_only=True)
class SlowRedis(Fault):
    """Blocks the whole server again and again, as a huge KEYS, a swapping host or a stalled fork would."""

    url: str
    block_s: float
    _blocking: asyncio.Task[None] | None = None

    async def inject(self) -> None:
        """Begin; from now on one command of each client gets through between two blocks."""
        self._blocking = asyncio.create_task(self._block())
        watch = Valkey(self.url)
        async with asyncio.timeout(FELT_TIMEOUT_S):
            while await _seconds_of_a_ping(watch) < self.block_s / 4:
                pass
        watch.close()

    async def heal(self) -> None:
        """Let it go; the block that is on runs out."""
        if self._blocking:
            self._blocking.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await self._blocking
            self._blocking = None

    async def _block(self) -> None:
        valkey = Valkey(self.url)
        while True:
            # What others have sent meanwhile is answered between two of these, one command each.
            await valkey.call("DEBUG", "SLEEP", f"{self.block_s:.3f}")


@dataclass(kw_only=True)
class Batch(Fault):
    """Heavy work of one tenant, in a process of its own beside its people."""

    odoo: Odoo
    tenant: str
    kind: str
    strength: float

    async def inject(self) -> None:
        """Start the process."""
        await self.odoo.command(batch=self.kind, tenant=self.tenant, strength=self.strength)

    async def heal(self) -> None:
        """End it; PostgreSQL rolls back what it had begun."""
        await self.odoo.command(batch=None, tenant=self.tenant)


@dataclass(kw_only=True)
class BadRelease(Fault):
    """Deploys a release whose workers die, while the web goes on answering; GitHub tells of it as it would."""

    odoo: Odoo
    quality: str
    webhook: Webhook | None
    _deployment: int = field(default=0)

    async def inject(self) -> None:
        """Deploy it."""
        await self._deploy("deploy", RELEASE, RELEASE_BEFORE, self.quality)

    async def heal(self) -> None:
        """Roll back, with workers that catch up on what was left lying."""
        if self._deployment:
            await self._deploy("rollback", RELEASE_BEFORE, RELEASE, workers.SOUND)
            self._deployment = 0

    async def _deploy(self, task: str, version: str, before: str, quality: str) -> None:
        self._deployment = uuid4().int % 10**9
        tell = self._tell(task, version, before)
        await tell("in_progress")
        await self.odoo.command(release=version, quality=quality, tenants=list(self.tenants))
        await tell("success")

    def _tell(self, task: str, version: str, before: str) -> Callable[[str], Any]:
        async def tell(state: str) -> None:
            if self.webhook:
                body = deployment_status(
                    self._deployment, task, state, version, before, self.cell, self.tenants, datetime.now(UTC)
                )
                await post(self.webhook, body)

        return tell


@dataclass(kw_only=True)
class ExpectedPeak(Fault):
    """Nothing is done: the calendar has announced a campaign, and customers come. Nobody should be called."""

    async def inject(self) -> None:
        """The campaign begins by itself, at the time that the plan says."""

    async def heal(self) -> None:
        """It ends by itself."""


def redis_slow(demo: DemoEstate, cell: Cell = SHARED, strength: float = 1.0) -> Fault:
    """S1: the Redis of a cell answers slowly."""
    block_s = BLOCK_S * strength
    return SlowRedis(
        name="redis slow",
        sentence=f"{cell.valkey} is blocked for {block_s:.2f} s again and again; jobs for carriers wait for it",
        true_cause=f"redis.latency:{cell.valkey}",
        tenants=_tenants(cell),
        cell=cell.name,
        is_weak=strength < 1,
        url=demo.odoos[cell.name].valkey.url,
        block_s=block_s,
    )


def month_end_locks(demo: DemoEstate, tenant: str = "acme", strength: float = 1.0) -> Fault:
    """S2: a posting run of the finance people holds rows that everybody needs."""
    return _batch(
        demo,
        tenant,
        batches.POSTING,
        strength,
        "month-end locks",
        f"a month-end posting of {tenant} holds the invoice sequence and all open orders in one long transaction",
        f"postgresql.lock:{tenant}",
    )


def bad_release(
    demo: DemoEstate, webhook: Webhook | None, cell: Cell = SHARED, tenants: tuple[str, ...] = (), strength: float = 1.0
) -> Fault:
    """S4: a release after which workers die while the web answers. To all tenants of the cell unless some are named."""
    given = tenants or _tenants(cell)
    how = "end as they start" if strength >= 1 else "die on every second job"
    return BadRelease(
        name="bad release",
        sentence=f"odoo {RELEASE} is deployed to {', '.join(given)}: job and cron workers {how}, the web answers",
        true_cause=f"release:odoo@{RELEASE}",
        tenants=given,
        cell=cell.name,
        is_weak=strength < 1,
        odoo=demo.odoos[cell.name],
        quality=workers.BROKEN if strength >= 1 else workers.LIMPS,
        webhook=webhook,
    )


def noisy_import(demo: DemoEstate, tenant: str = "delta", strength: float = 1.0) -> Fault:
    """S5: one tenant's EDI import fills the database server that four share."""
    fault = _batch(
        demo,
        tenant,
        batches.EDI,
        strength,
        "noisy neighbour",
        f"an EDI import of {tenant} writes and joins on {batches.EDI_SESSIONS} connections without measure",
        f"tenant.load:{tenant}",
    )
    if not fault.is_weak:
        fault.tenants = _tenants(demo.odoo_of(tenant).cell)
    return fault


def lock_storm(demo: DemoEstate, tenant: str = "cascade", strength: float = 1.0) -> Fault:
    """S10: an inventory count locks hot stock rows in many short turns."""
    return _batch(
        demo,
        tenant,
        batches.STORM,
        strength,
        "lock storm",
        f"an inventory count of {tenant} locks the stock of all products in turns of {batches.STORM_HELD_S:.2f} s",
        f"postgresql.lock:{tenant}",
    )


def expected_peak(demo: DemoEstate) -> Fault:
    """S12: a campaign that the calendar knows."""
    tenants = tuple(one.name for cell in CELLS for one in cell.tenants if one.calendar == TRADE)
    return ExpectedPeak(
        name="expected peak",
        sentence=f"the flash sale that the calendar announced brings {', '.join(tenants)} three times the orders",
        true_cause=None,
        tenants=tenants,
        cell="",
    )


def full(demo: DemoEstate, webhook: Webhook | None) -> list[Fault]:
    """Every fault at full strength, in the order of the demo."""
    return [
        redis_slow(demo),
        month_end_locks(demo),
        bad_release(demo, webhook),
        noisy_import(demo),
        lock_storm(demo),
    ]


def weak(demo: DemoEstate, webhook: Webhook | None) -> list[Fault]:
    """Every fault in its weak form."""
    return [
        redis_slow(demo, strength=WEAK),
        month_end_locks(demo, strength=WEAK),
        bad_release(demo, webhook, strength=WEAK),
        noisy_import(demo, strength=WEAK),
        lock_storm(demo, strength=WEAK),
    ]


def double(demo: DemoEstate, webhook: Webhook | None) -> list[tuple[Fault, Fault]]:
    """Pairs that come at once: in two cells, or of two tenants of one cell."""
    return [
        (redis_slow(demo, DEDICATED), month_end_locks(demo, "acme")),
        (bad_release(demo, webhook, DEDICATED), lock_storm(demo, "cascade")),
        (month_end_locks(demo, "borealis"), lock_storm(demo, "cascade")),
        (redis_slow(demo), month_end_locks(demo, "everest")),
        (noisy_import(demo), bad_release(demo, webhook, DEDICATED)),
    ]


def _batch(demo: DemoEstate, tenant: str, kind: str, strength: float, name: str, sentence: str, cause: str) -> Fault:
    odoo = demo.odoo_of(tenant)
    return Batch(
        name=name,
        sentence=sentence,
        true_cause=cause,
        tenants=(tenant,),
        cell=odoo.cell.name,
        is_weak=strength < 1,
        odoo=odoo,
        tenant=tenant,
        kind=kind,
        strength=strength,
    )


async def _seconds_of_a_ping(valkey: Valkey) -> float:
    began_s = time.perf_counter()
    await valkey.call("PING")
    return time.perf_counter() - began_s


def _tenants(cell: Cell) -> tuple[str, ...]:
    return tuple(tenant.name for tenant in cell.tenants)


def deployment_status(
    number: int,
    task: str,
    state: str,
    version: str,
    before: str,
    environment: str,
    tenants: tuple[str, ...],
    now: datetime,
) -> bytes:
    """The body of GitHub's webhook of that name."""
    time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    person = {"login": "release-manager"}
    payload = {"version": version, "previous_version": before, "service": "odoo", "tenants": tenants}
    deployment = {
        "id": number,
        "ref": f"v{version}",
        "sha": hashlib.sha1(version.encode(), usedforsecurity=False).hexdigest(),
        "task": task,
        "environment": environment,
        "payload": payload,
        "creator": person,
        "created_at": time,
    }
    status = {"id": number, "state": state, "environment": environment, "created_at": time, "updated_at": time}
    body = {
        "action": "created",
        "deployment_status": status,
        "deployment": deployment,
        "repository": {"name": "odoo", "full_name": REPOSITORY},
        "sender": person,
    }
    return json.dumps(body).encode()


def headers(secret: str, body: bytes) -> dict[str, str]:
    """GitHub's headers of a delivery, its signature among them."""
    return {
        "content-type": "application/json",
        "x-github-event": "deployment_status",
        "x-github-delivery": str(uuid4()),
        "x-hub-signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }


async def post(webhook: Webhook, body: bytes) -> None:
    """Deliver a body as GitHub does, signed. Raises aiohttp.ClientError when it is not taken."""
    timeout = aiohttp.ClientTimeout(total=POST_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:
        await session.post(webhook.url, data=body, headers=headers(webhook.secret, body))
