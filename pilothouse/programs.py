"""The programs that make up Pilothouse, each one process: ingest, processors, sinks.

They are told everything by the environment (`settings`) and an estate; here the three layers, which know only the bus,
are put together.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pilothouse.errors import Failing
from pilothouse.settings import NotConfigured, Settings, SettingsError, kafka_options
from schemas.estate import Estate, Reference
from schemas.topics import FLEET, FLEET_STATE

if TYPE_CHECKING:
    from processors.fold import Plan
    from sinks.supervision import Part

# Each program imports its own layer when it runs: a process holds in memory what it needs, and starts as fast.

GROUP = "pilothouse-processors"


def ingest(estate: Estate, settings: Settings, *, host: str = "127.0.0.1", port: int = 0) -> None:
    """Collectors, receivers, spool and publisher, until SIGTERM."""
    from ingest.app import IngestSettings, ReceiverSettings, run_ingest

    configured = IngestSettings(
        spool=settings.data_dir / "ingest" / "spool.db",
        kafka=kafka_options(settings),
        topic_prefix=settings.topic_prefix,
        partitions=settings.partitions,
        host=host,
        port=port,
        receivers={one.name: ReceiverSettings(keys=one.keys) for one in estate.receivers},
    )
    _until_stopped(lambda stop: run_ingest(estate, configured, stop))


def plans(estate: Estate | None, steps: Collection[str] = ()) -> tuple[Plan, Plan]:
    """What a worker folds with, in its two stages; replay uses the same. `steps` are those on request."""
    return plan(estate, steps), fleet_plan(estate)


def plan(estate: Estate | None, steps: Collection[str] = ()) -> Plan:
    """What every partition is folded with. Raises SettingsError for a step that is not there on request."""
    from processors.fold import Plan
    from processors.steps.registry import ON_REQUEST, chosen

    if unknown := [name for name in steps if name not in ON_REQUEST]:
        raise SettingsError(f"PILOTHOUSE_STEPS names {unknown[0]!r}; steps on request are {', '.join(ON_REQUEST)}")
    return replace(Plan.of(chosen(steps), estate), tells_fleet=True)


def fleet_plan(estate: Estate | None) -> Plan:
    """What the incidents of all cells are folded with.

    A partition whose worker was killed is waited for until another has taken it over: hence its longer patience.
    """
    from processors.fold import Plan
    from processors.steps.fleet import FLEET as FLEET_CELL
    from processors.steps.registry import FLEET as FLEET_STEPS

    steps = tuple(FLEET_STEPS.values())
    return Plan(steps, estate, listens=(0,), stray_ms=60_000, inputs=(FLEET,), state=FLEET_STATE, one_cell=FLEET_CELL)


def process(estate: Estate, settings: Settings, instance: str | None = None) -> None:
    """A Faust worker, until SIGTERM. `instance` makes its group membership static."""
    from pilothouse import telemetry
    from processors.agents import Worker
    from processors.agents import run as run_worker

    worker, fleet = (
        Worker(one, kafka_options(settings), settings.topic_prefix) for one in plans(estate, settings.steps)
    )
    home = _private(settings.data_dir / "processors")
    with telemetry.reporting(settings, "process", instance, lambda: telemetry.of_worker(worker.counts())):
        run_worker(worker, settings.topic_prefix + GROUP, str(home), instance, fleet)


def sink(names: list[str], estate: Estate, settings: Settings, instance: str | None = None) -> None:
    """One or more sinks in one process, until SIGTERM. Each fails by itself.

    Raises NotConfigured when none can be made, and Failing when one did not work when it was told to stop.
    """
    from pilothouse import telemetry
    from sinks import registry as sinks
    from sinks import supervision
    from sinks.context import Context

    context = Context(
        kafka=kafka_options(settings),
        estate=estate,
        resolve=resolved,
        now_s=time.time,
        database_url=settings.database_url,
        topic_prefix=settings.topic_prefix,
        otlp_endpoint=settings.otlp_endpoint,
        otlp_headers=settings.otlp_headers,
    )

    parts = {name: supervision.parts_of(sinks.SINKS[name], context) for name in names}
    running = [part for made in parts.values() for part in made]
    _require_one(running)

    async def run_all(stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name, made in parts.items():
                tasks.create_task(sinks.run(made, context.kafka, stop, instance and f"{instance}-{name}"))

    with telemetry.reporting(settings, "sink", instance, lambda: telemetry.of_sinks(running)):
        _until_stopped(run_all)
    if failing := [f"{part.name}: {part.reason}" for part in running if part.reason]:
        raise Failing("stopped while failing: " + "; ".join(failing))


def _require_one(parts: list[Part]) -> None:
    """Raise NotConfigured when not one part can be made: nothing would be done, and nobody would see it."""
    faults = []
    for part in parts:
        try:
            part.make()
        except ValueError as error:
            faults.append(str(error))
    if parts and len(faults) == len(parts):
        raise NotConfigured("; ".join(faults))


def resolved(reference: str | Reference | None, wanted_by: str) -> str:
    """The value that an estate refers to, "" for none. Raises ValueError naming who wants it when it is not there."""
    from ingest.references import ConfigurationError, resolve

    try:
        return "" if reference is None else resolve(reference, wanted_by, os.environ)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def _private(directory: Path) -> Path:
    """A directory that is closed to others, as is what this program writes from now on."""
    os.umask(0o077)
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    return directory


def _until_stopped(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    import uvloop

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await work(stop)

    uvloop.run(run())
