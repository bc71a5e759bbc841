"""Every sink that `pilothouse sink NAME` can run. A new sink is a file beside this one and a line here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sinks import alerts, otlp, timescale
from sinks.consumer import run_sink
from sinks.context import Context, Task
from sinks.sink import Config

log = logging.getLogger(__name__)


def _timescale(context: Context) -> list[Task]:
    if not context.database_url:
        raise ValueError("timescale: no database; set PILOTHOUSE_DATABASE_URL to postgresql://user@host:5432/database")
    sink = timescale.Timescale(timescale.Config(context.database_url))
    return [Task(sink, Config(topic_prefix=context.topic_prefix))]


SINKS: Mapping[str, Callable[[Context], list[Task]]] = {
    "alerts": alerts.make,
    "otlp": otlp.make,
    "timescale": _timescale,
}
"""Each makes its tasks, or raises ValueError that says how it should be configured."""


async def run(
    tasks: Sequence[Task], kafka: Mapping[str, Any], stop: asyncio.Event, instance_id: str | None = None
) -> None:
    """Run a sink's tasks until `stop` is set; `instance_id` is a name that survives a restart. Raises what they raise."""
    if not tasks:
        log.warning("the sink has nothing to do: the estate declares no routes")
        await stop.wait()
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            config = replace(task.config, instance_id=instance_id)
            group.create_task(run_sink(task.sink, kafka, stop, config, task.counts), name=task.sink.name)
