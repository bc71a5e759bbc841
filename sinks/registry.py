"""Every sink that `pilothouse sink NAME` can run. A new sink is a file beside this one and a line here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from sinks import alerts, otlp
from sinks.consumer import run_sink
from sinks.context import Context, Task

log = logging.getLogger(__name__)

SINKS: Mapping[str, Callable[[Context], list[Task]]] = {
    "alerts": alerts.make,
    "otlp": otlp.make,
}


async def run(name: str, context: Context, stop: asyncio.Event, instance_id: str | None = None) -> None:
    """Run a sink until `stop` is set. Raises ValueError when it cannot be made as configured, and what it raises."""
    tasks = SINKS[name](context)
    if not tasks:
        log.warning("sink has nothing to do", extra={"sink": name})
        await stop.wait()
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            config = replace(task.config, instance_id=instance_id)
            group.create_task(run_sink(task.sink, context.kafka, stop, config), name=task.sink.name)
