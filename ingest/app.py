"""Ingest as a whole: an estate's collectors and receivers, the spool, and the publisher to Kafka.

    settings = IngestSettings(spool=Path("/var/lib/pilothouse/ingest.db"), kafka={"bootstrap_servers": "kafka:9092"})
    await run_ingest(estate, settings, stop)

Kafka may be away when it starts and while it runs: the spool fills, and is sent in order afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ingest.collector import Target
from ingest.collectors.registry import COLLECTORS
from ingest.counts import Counts
from ingest.producer import connector
from ingest.publisher import Publisher
from ingest.receivers.http import Server
from ingest.receivers.receiver import Receiver
from ingest.receivers.registry import RECEIVERS
from ingest.receivers.signature import Holder
from ingest.references import ConfigurationError, resolve
from ingest.rounds import Connect, Producer
from ingest.scheduler import Scheduler, Watched
from ingest.spool import Bounds, Clock, Spool, SpoolError, SpoolFull
from ingest.steady_clock import SteadyClock
from ingest.topics import ensure_topics
from schemas import bounds as limits
from schemas.estate import AnyKey, Cell, Estate, Resource
from schemas.records import DeadLetter, Name, Observation, Record, Scrape
from schemas.series import identity
from schemas.topics import PARTITIONS

log = logging.getLogger(__name__)

DRAIN_S = 5.0
OWN_SCRAPE_S = 15.0
RESERVED = 0.25  # of the spool, that what others send leaves to the collectors


class ReceiverSettings(BaseModel):
    """One receiver that listens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[AnyKey, ...] = Field(min_length=1, description="Where its keys stand and what each may write.")


class IngestSettings(BaseModel):
    """What ingest takes besides the estate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field("ingest", description="Name of this publisher, stable over restarts.")
    spool: Path = Field(description="File of the spool.")
    spool_max_bytes: int = Field(Bounds().max_bytes, gt=0, description="Payload the spool holds at most, bytes.")
    spool_max_records: int = Field(Bounds().max_records, gt=0, description="Records the spool holds at most.")
    kafka: dict[str, Any] = Field(description="aiokafka's connection options.", repr=False)
    topic_prefix: str = Field("", description="Stands before every topic's name.")
    make_topics: bool = Field(True, description="Whether missing topics are made.")
    partitions: int = Field(PARTITIONS, gt=0, description="Partitions of every topic that is made.")
    replication: int = Field(1, gt=0, description="Replicas of every topic that is made.")
    host: str = Field("127.0.0.1", description="Address the receivers listen on.")
    port: int = Field(0, ge=0, le=65535, description="Port the receivers listen on; 0 for any free one.")
    receivers: dict[str, ReceiverSettings] = Field(default_factory=dict, description="Receivers by name.")
    cell: Name | None = Field(None, description="Cell that ingest's own metrics belong to; the estate's first.")


async def run_ingest(
    estate: Estate,
    settings: IngestSettings,
    stop: asyncio.Event,
    *,
    clock: Clock | None = None,
    environ: Mapping[str, str] = os.environ,
    started: Callable[[Server, Spool], None] = lambda server, spool: None,
) -> None:
    """Watch and receive until `stop` is set; then stop looking, send what is left for up to 5 s, and close.

    `started` is told when everything runs. Raises ConfigurationError with every fault at once, SpoolError, OSError
    when the port is taken, and whatever else is our bug.
    """
    # Away or back is said once by rounds.py; aiokafka says it for every partition of every attempt.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    steady, counts = SteadyClock(), Counts()
    clock = clock or steady
    watched, receivers = configured(estate, settings, environ)
    bounds = Bounds(
        max_bytes=settings.spool_max_bytes,
        max_records=settings.spool_max_records,
        reserved=RESERVED if watched else 0.0,
    )
    spool = Spool(settings.spool, name=settings.name, clock=clock, counts=counts, bounds=bounds)
    server = Server(receivers, spool, clock=clock, host=settings.host, port=settings.port, counts=counts)
    await spool.open()
    steady.resume(spool.recorded_ms)
    try:
        await server.start()
        async with (
            running(
                Publisher(spool, connecting(settings), counts=counts, cells=[cell.name for cell in estate.cells]).run()
            ),
            _drained(spool),
            running(Scheduler(ByResource(spool), watched, clock=clock, counts=counts).run()),
            running(_tell_own(spool, settings.cell or estate.cells[0].name, settings.name, clock, counts, steady)),
            _stopped(server),
        ):
            started(server, spool)
            await stop.wait()
    except BaseExceptionGroup as errors:
        if found := errors.subgroup(SpoolError):  # of several the first: they are about one file
            raise _first(found) from None
        raise
    finally:
        await server.stop()
        await spool.close()


class ByResource:
    """The spool as collectors see it: what they keep counts for the resource that they read."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    async def accept(
        self, records: Iterable[Record], *, letters: Iterable[DeadLetter] = (), position: tuple[str, str] | None = None
    ) -> int:
        """As the spool's. Raises SpoolFull also when the resource has filled its share."""
        several = list(records)
        of = next((f"{one.cell}/{one.resource}" for one in several if isinstance(one, Observation)), "")
        return await self._spool.accept(several, letters=letters, position=position, source=of)

    async def position(self, source: str) -> str | None:
        """Where the source goes on."""
        return await self._spool.position(source)


def configured(
    estate: Estate, settings: IngestSettings, environ: Mapping[str, str]
) -> tuple[list[Watched], dict[str, Receiver]]:
    """Collectors of the estate and receivers by path, made but not started. Raises ConfigurationError."""
    faults: list[str] = []
    watched, receivers = [], {}
    for cell, resource in _resources(estate):
        with _noted(faults):
            watched.append(_watched(cell, resource, environ))
    for name, receiver in settings.receivers.items():
        with _noted(faults):
            kind = RECEIVERS.get(name)
            if kind is None:
                raise ConfigurationError(f"receiver {name!r} is unknown; known are {', '.join(sorted(RECEIVERS))}")
            receivers[kind.path] = _receiver(name, receiver, estate, environ)
    if faults:
        raise ConfigurationError("\n".join(faults))
    return watched, receivers


def connecting(settings: IngestSettings) -> Connect:
    """What makes producers; before the first one, the topics that are missing."""
    connect = connector(settings.kafka, settings.topic_prefix)
    made = not settings.make_topics

    async def connect_to_topics() -> Producer:
        nonlocal made
        if not made:
            await ensure_topics(settings.kafka, settings.topic_prefix, settings.partitions, settings.replication)
            made = True
        return await connect()

    return connect_to_topics


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    """Runs a coroutine beside the block. Cancelled at its end; when it fails, the block is cancelled and it raises."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        yield
        task.cancel()


def now_ms() -> int:
    """Unix time in ms, UTC."""
    return time.time_ns() // 1_000_000


def _resources(estate: Estate) -> Iterator[tuple[Cell, Resource]]:
    return ((cell, resource) for cell in estate.cells for resource in cell.resources)


def _watched(cell: Cell, resource: Resource, environ: Mapping[str, str]) -> Watched:
    wanted_by = f"resource {resource.name} of cell {cell.name}"
    kind = COLLECTORS.get(resource.system)
    if kind is None:
        known = ", ".join(sorted(COLLECTORS))
        raise ConfigurationError(f"{wanted_by}: nobody collects from system {resource.system!r}; known are {known}")
    target = Target(cell, resource, resolve(resource.url, f"{wanted_by}: url", environ))
    try:
        return Watched(target, kind.make(target))
    except ValueError as error:
        raise ConfigurationError(f"cell {cell.name}: {error}") from error


def _receiver(name: str, settings: ReceiverSettings, estate: Estate, environ: Mapping[str, str]) -> Receiver:
    holders = [Holder(resolve(key, f"receiver {name}: key", environ), key) for key in settings.keys]
    try:
        return RECEIVERS[name].make(estate, holders)
    except ValueError as error:
        raise ConfigurationError(f"receiver {name}: {error}") from error


def _first(errors: BaseExceptionGroup[SpoolError]) -> SpoolError:
    one: BaseException = errors
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    assert isinstance(one, SpoolError)
    return one


@contextlib.contextmanager
def _noted(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        faults.append(str(error))


@asynccontextmanager
async def _drained(spool: Spool) -> AsyncIterator[None]:
    """At the end, wait until Kafka has what the spool holds, but no longer than it is worth: it stays on disk."""
    yield
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            await spool.emptied.wait()
    if spool.records:
        log.warning("records wait on disk for the next start", extra={"records": spool.records})


@asynccontextmanager
async def _stopped(server: Server) -> AsyncIterator[None]:
    """At the end, take no more requests before the spool is drained."""
    try:
        yield
    finally:
        await server.stop()


async def _tell_own(spool: Spool, cell: str, name: str, clock: Clock, counts: Counts, steady: SteadyClock) -> None:
    """What ingest counts, as a scrape of its own."""
    start_ms = clock()
    while True:
        await asyncio.sleep(OWN_SCRAPE_S)
        points: dict[str, float | None] = {str(count): float(value) for count, value in counts.items()}
        points["pilothouse.spool.clock.steps"] = float(steady.steps)
        points |= {identity(limits.METRIC, {limits.NAME: bound}): float(n) for bound, n in limits.counts().items()}
        points |= {"pilothouse.spool.records": float(spool.records), "pilothouse.spool.bytes": float(spool.bytes)}
        told = Scrape.of(points, cell=cell, resource=name, system="pilothouse", time_ms=clock(), start_time_ms=start_ms)
        with contextlib.suppress(SpoolFull):
            await spool.accept([told])
