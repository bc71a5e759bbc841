"""The store as a registered sink: made from the settings, its database migrated before it begins."""

from __future__ import annotations

from sinks.context import Context, SinkKind, Task
from sinks.migrations import migrate
from sinks.sink import Config as LoopConfig
from sinks.timescale.sink import TOPICS, Config, Timescale
from sinks.timescale.trouble import NAME


def _task(context: Context) -> Task:
    if not context.database_url:
        raise ValueError("timescale: no database; set PILOTHOUSE_DATABASE_URL to postgresql://user@host:5432/database")
    return Task(Timescale(Config(context.database_url)), LoopConfig(topic_prefix=context.topic_prefix))


async def _prepare(context: Context) -> None:
    if context.database_url:
        await migrate(context.database_url)


KIND = SinkKind(NAME, TOPICS, lambda context: {NAME: lambda: _task(context)}, _prepare, exactly_once=True)
