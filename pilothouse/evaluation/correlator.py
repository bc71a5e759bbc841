"""The cost of correlating: CPU of one cell's looks at 10, 100 and 1,000 open signals of mixed kinds.

All signals are open for a minute of log time, and each second a share of them is told again as the steps do it (an
episode every 30 s) or with another strength, so that stories have to be looked at anew; `storm` has every signal arrive
within one second. No server is needed: the step runs as the fold runs it, one cell, ticks when due.
"""

from __future__ import annotations

import random
import time
from typing import Any

from pilothouse.settings import Settings
from processors.step import Item
from processors.steps.correlator import STEP
from schemas.estate import Estate
from schemas.records import Phase, Severity, Signal

T0 = 1_795_262_400_000
SIZES = (10, 100, 1_000)
SECONDS, TOLD_EVERY_S = 60, 30
BY_TENANT = (
    "postgresql.lock", "odoo.workers", "odoo.latency", "odoo.errors", "odoo.cron", "queue.backlog", "queue.failures",
    "queue.stuck", "process.delayed", "process.stopped", "tenant.load",
)  # fmt: skip
BY_RESOURCE = (
    "redis.latency", "redis.memory", "storage", "host.cpu", "host.pressure", "postgresql.connections", "capacity.disk",
    "integration.failures", "integration.silent",
)  # fmt: skip


async def measure(settings: Settings) -> dict[str, Any]:
    """`ms_per_second` of log time and `ms_per_look` by number of open signals, and of a storm of them."""
    del settings  # nothing of it is needed; every benchmark has the same shape
    steady = {size: _steady(size) for size in SIZES}
    small, large = steady[SIZES[1]]["ms_per_second"], steady[SIZES[-1]]["ms_per_second"]
    return {
        "by_open_signals": steady,
        "storm_ms_per_second": {size: _storm(size) for size in SIZES},
        "growth_100_to_1000": round(large / small, 2),
    }


def estate(size: int) -> Estate:
    """A cell with as many tenants as a fleet's largest, a few shared servers, and who needs which of them."""
    tenants = [f"tenant-{number:03}" for number in range(max(size // 20, 1))]
    shared = [{"name": f"shared-{number:02}", "system": "redis"} for number in range(max(size // 50, 1))]
    odoos = [
        {"name": f"odoo-{one}", "system": "odoo", "tenant": one, "depends_on": [shared[place % len(shared)]["name"]]}
        for place, one in enumerate(tenants)
    ]
    cell = {"name": "eu1", "tenants": [{"name": one} for one in tenants], "resources": [*shared, *odoos]}
    return Estate.model_validate({"cells": [cell]})


def signals(size: int, declared: Estate, seed: int = 1) -> list[Signal]:
    """Open signals of mixed kinds, half of tenants, half of shared resources, begun within a minute."""
    rng, cell = random.Random(seed), declared.cells[0]
    tenants = [one.name for one in cell.tenants]
    shared = [one.name for one in cell.resources if one.tenant is None]
    found = []
    for number in range(size):
        tenant = rng.choice(tenants) if number % 2 else None
        kind = rng.choice(BY_TENANT if tenant else BY_RESOURCE)
        resource = f"odoo-{tenant}" if tenant else rng.choice(shared)
        # Several instances of a kind at one place are several causes: partners, disks, channels.
        cause = f"{kind}:{tenant or resource}" + (f"/{number}" if number % 3 == 0 else "")
        at_ms = T0 + rng.randrange(60_000)
        found.append(
            Signal(
                cell="eu1", time_ms=at_ms, id=f"s{number}", phase=Phase.OPEN, detector="bench", cause=cause, resource=resource,
                tenant=tenant, started_ms=at_ms, severity=Severity.WARNING, score=round(rng.uniform(0.6, 0.99), 2),
                summary=f"{cause} is ill", tenants=(tenant,) if tenant else (),
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: one.time_ms)


def _steady(size: int) -> dict[str, float]:
    """Everything is open; each second one signal in thirty is told again."""
    declared = estate(size)
    config, state = STEP.config(cell="eu1", estate=declared), STEP.fresh()
    told = signals(size, declared)
    for one in told:
        state, _ = STEP.step(config, state, Item(one.time_ms, one))
        state, _ = _ticks(config, state, one.time_ms)
    rng, looks = random.Random(2), 0
    began = time.process_time()
    for second in range(SECONDS):
        at_ms = T0 + 60_000 + second * 1_000
        for one in told[second % TOLD_EVERY_S :: TOLD_EVERY_S]:
            again = {"phase": Phase.UPDATED, "time_ms": at_ms, "score": round(rng.uniform(0.6, 0.99), 2)}
            state, _ = STEP.step(config, state, Item(at_ms, one.model_copy(update=again)))
        state, ticks = _ticks(config, state, at_ms + 999)
        looks += ticks
    spent_ms = (time.process_time() - began) * 1000
    return {"ms_per_second": round(spent_ms / SECONDS, 3), "ms_per_look": round(spent_ms / max(looks, 1), 3)}


def _storm(size: int) -> float:
    """All signals arrive within a second: the CPU of that second and the next, a second."""
    declared = estate(size)
    config, state = STEP.config(cell="eu1", estate=declared), STEP.fresh()
    told = signals(size, declared)
    began = time.process_time()
    for number, one in enumerate(told):
        at_ms = T0 + 60_000 + number * 1_000 // len(told)
        state, _ = _ticks(config, state, at_ms)
        state, _ = STEP.step(config, state, Item(at_ms, one))
    _ticks(config, state, T0 + 62_000)
    return round((time.process_time() - began) * 1000 / 2, 3)


def _ticks(config: Any, state: Any, until_ms: int) -> tuple[Any, int]:
    looks = 0
    while (due := STEP.due(state)) is not None and due <= until_ms:
        state, _ = STEP.tick(config, state, due)
        looks += 1
    return state, looks
