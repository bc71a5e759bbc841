"""Keeps the sinks of a process running, each by itself: one that fails is begun anew, and its neighbours do not notice.

A sink ends with an error when it cannot be made (a secret is missing), when its system cannot be prepared, or by a fault
of its own. It is counted and logged with its reason, and begun anew after a pause that grows to a minute. Whether one is
failing is on a metric, and in the exit code when the process is stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.masking import masked
from sinks.backoff import Backoff
from sinks.consumer import run_sink
from sinks.context import Context, SinkKind, Task
from sinks.kafka_clients import Broker
from sinks.sink import Counts, SinkUnavailable
from sinks.stumbles import Stumbles

log = logging.getLogger(__name__)

HEALTHY_S = 60.0
"""A sink that has run for so long is well again."""


@dataclass(slots=True)
class Part:
    """A sink that is kept running. `reason` says why it is not, "" while it is."""

    name: str
    make: Callable[[], Task]
    prepare: Callable[[], Awaitable[None]]
    counts: Counts = field(default_factory=Counts)
    stumbles: Stumbles = field(default_factory=Stumbles)
    reason: str = ""
    sink: Any = None
    """The sink that runs now, or ran last; its own counts begin anew with it."""


def parts_of(kind: SinkKind, context: Context) -> list[Part]:
    """What there is to be run of a kind; nothing of it is made yet."""
    return [Part(name, make, lambda: kind.prepare(context)) for name, make in kind.parts(context).items()]


async def keep_running(
    parts: Sequence[Part],
    kafka: Any | Broker,
    stop: asyncio.Event,
    instance_id: str | None = None,
    backoff: Callable[[], Backoff] = lambda: Backoff(1.0, 60.0),
) -> None:
    """Run all parts until `stop` is set. No part's failure leaves this; what fails still at the end has its reason."""
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(_keep(part, kafka, stop, instance_id, backoff()), name=part.name)


async def _keep(part: Part, kafka: Any, stop: asyncio.Event, instance_id: str | None, backoff: Backoff) -> None:
    while not stop.is_set():
        try:
            await _run(part, kafka, stop, instance_id, backoff)
        except Exception as error:  # noqa: BLE001 (whatever ends one sink must not end the others)
            pause_s = backoff.failed()
            _note(part, error, pause_s)
            await _before(stop, asyncio.sleep(pause_s))


async def _run(part: Part, kafka: Any, stop: asyncio.Event, instance_id: str | None, backoff: Backoff) -> None:
    if not await _before(stop, part.prepare()):
        return
    task = part.make()
    part.sink = task.sink
    config = replace(task.config, instance_id=instance_id)
    running = asyncio.ensure_future(run_sink(task.sink, kafka, stop, config, part.counts, part.stumbles))
    try:
        await asyncio.wait([running], timeout=HEALTHY_S)
        if not running.done():
            _note_well(part)
            backoff.succeeded()
        await running
        _note_well(part)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _before(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Do the work; False when it had to be left because of `stop`."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        for one in (working, stopping):
            one.cancel()
        await asyncio.wait([working, stopping])


def _note(part: Part, error: Exception, pause_s: float) -> None:
    reason = masked(f"{type(error).__name__}: {error}")
    part.counts.failures += 1
    part.counts.failing = 1
    if reason != part.reason:
        where = {"sink": part.name, "reason": reason, "pause_s": round(pause_s, 1)}
        is_told = isinstance(error, ValueError | SinkUnavailable)
        log.error("a sink fails and is begun anew", extra=where, exc_info=None if is_told else error)
    part.reason = reason


def _note_well(part: Part) -> None:
    if part.reason:
        log.info("a sink works again", extra={"sink": part.name, "after": part.reason})
    part.reason, part.counts.failing = "", 0
