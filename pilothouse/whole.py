"""Everything on one machine: embedded servers for what is not named, and our programs under a supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from ingest.topics import ensure_topics
from pilothouse.services.stack import STORE, Stack
from pilothouse.settings import Settings
from pilothouse.supervisor import Program, Supervisor
from schemas.estate import Estate

log = logging.getLogger(__name__)


def environment(settings: Settings) -> dict[str, str]:
    """The variables that tell our programs what `settings` says; set by whoever starts them."""
    told = {
        "PILOTHOUSE_DATA": str(settings.data_dir),
        "PILOTHOUSE_CACHE": str(settings.cache_dir),
        "PILOTHOUSE_TOPIC_PREFIX": settings.topic_prefix,
        "PILOTHOUSE_PARTITIONS": str(settings.partitions),
        "PILOTHOUSE_STEPS": ",".join(settings.steps),
        "PILOTHOUSE_DATABASE_URL": settings.database_url or "",
        "PILOTHOUSE_REDIS_URL": settings.redis_url or "",
        "PILOTHOUSE_OTLP_ENDPOINT": settings.otlp_endpoint or "",
    }
    # A broker with credentials came from the environment and stays there as it was written.
    if settings.kafka and not os.environ.get("PILOTHOUSE_KAFKA"):
        told["PILOTHOUSE_KAFKA"] = settings.kafka.written or settings.kafka.bootstrap
    return told


def our_programs(estate: Estate, config: Path, settings: Settings) -> list[Program]:
    """Ingest, one worker and the sinks that have somewhere to write to."""
    logs = settings.data_dir / "logs"
    sinks = [
        *(["timescale"] if settings.database_url else []),
        *(["otlp"] if settings.otlp_endpoint else []),
        *(["alerts"] if estate.routes else []),
    ]
    given = ["-c", str(config)]
    verbs = {
        "process": ["process", *given, "--instance", "worker-0"],
        "sink": ["sink", *sinks, *given, "--instance", "sink-0"],
        "ingest": ["ingest", *given, "--port", "{port}"],
    }
    if not sinks:
        verbs.pop("sink")
    return [
        Program(f"program/{name}", verb, settings.data_dir / "programs" / name, logs) for name, verb in verbs.items()
    ]


async def make_topics(settings: Settings) -> None:
    """The catalogue on our own broker, before anybody asks for it. Elsewhere ingest makes what is missing."""
    if settings.kafka:
        await ensure_topics(settings.kafka.aiokafka_options(), settings.topic_prefix, settings.partitions)


async def up(estate: Estate, config: Path, settings: Settings) -> None:
    """Run until SIGTERM or Ctrl-C. Raises GivenUp when a program cannot run as it is set up."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Stack(settings, postgres=[STORE]) as stack:
        os.environ.update(environment(stack.settings))
        await make_topics(stack.settings)
        supervisor = Supervisor(our_programs(estate, config, stack.settings))
        await supervisor.up()
        for program in supervisor.programs:
            sys.stdout.write(f"{program.name} runs as pid {program.pid}, its log is {program.log}\n")
        sys.stdout.flush()
        stopped, watch = asyncio.create_task(stop.wait()), asyncio.create_task(supervisor.watch())
        try:
            await asyncio.wait({stopped, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = watch.exception() if watch.done() and not watch.cancelled() else None
            stopped.cancel()
            watch.cancel()
            await asyncio.gather(stopped, watch, return_exceptions=True)
            await supervisor.down()
        if ended is not None:
            raise ended
