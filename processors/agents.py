"""The Faust application: thin, the only file that knows Faust.

One agent reads all input topics with concurrency 1 and hands each batch to its partition's runner. Tables are not
used: state goes through the snapshots of `lineage`. Anything unexpected ends the process, uncommitted, and its
supervisor starts it again. Faust's defaults take a minute to notice a killed worker; the time-outs below take seconds.

Faust's way of a message from its consumer to an agent (two tasks, an event, sensors, an acknowledgement in a set) costs
as much as folding a scrape of 500 points, so here a message of Faust is all that one fetch brought of a
topic's partition, and offsets are acknowledged up to a place instead of one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import faust
import mode.loop
from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import Message as FaustMessage

from processors.fold import PartitionFold, Plan
from processors.lineage import Writer
from processors.runner import Message, Pace, Runner, Turn
from processors.store import Store

log = logging.getLogger(__name__)

STALLED_S = 20.0
LEAVE_S = 5.0
WATCH_EVERY_S = 5.0
GC_THRESHOLD = (50_000, 20, 50)  # a decoded scrape is hundreds of objects that die young without any cycle
BATCH_RECORDS, BATCHES_WAITING = 500, 8
EXIT_ILL = 70  # EX_SOFTWARE of sysexits.h


class Batch(FaustMessage):  # type: ignore[misc] # Faust has no types
    """What one fetch brought of a topic's partition. Its offset is that of its last record.

    It is no `ConsumerMessage`, so Faust neither tracks nor acknowledges it.
    """

    __slots__ = ("records",)

    def __init__(self, place: TP, records: list[Any], generation: int) -> None:
        last = records[-1]
        super().__init__(
            place.topic,
            place.partition,
            last.offset,
            last.timestamp / 1000,
            last.timestamp_type,
            None,
            None,
            None,
            None,
            tp=place,
            generation_id=generation,
        )
        self.records = records


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, in batches."""

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Batch]]:  # noqa: ASYNC109 (Faust's name)
        """One batch for each topic's partition of which a fetch brought something."""
        fetched, _ = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if not self.flow_active:
            await self.perform_seek()  # A rebalance came between: what was fetched is read again.
            return
        for place, records in (fetched or {}).items():
            if records and self.flow_active and generation == self.app.consumer_generation_id:
                yield place, Batch(place, records, generation)

    def acknowledge(self, place: TP, below: int) -> None:
        """Everything before the offset may be committed; Faust commits once a second."""
        if place in self.assignment():
            self._acked[place] = [below]

    def _new_offset(self, tp: TP) -> int | None:
        acknowledged = self._acked[tp]
        return acknowledged[-1] if acknowledged else None

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Between the ends of two batches lie records, not a gap. Real gaps are the runner's to refuse."""

    async def verify_all_partitions_active(self) -> None:
        """Faust's look for partitions that stand still gives way once for each and warns of its own slowness; see `_watch`."""

    def on_buffer_full(self, tp: TP) -> None:
        """A full buffer stops the reading by itself; Faust's way of pausing sleeps for a second."""


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = Consumer


class _App(faust.App):  # type: ignore[misc]
    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)


@dataclass
class Worker:
    """What one process of the group holds: a runner for each partition that is assigned to it."""

    plan: Plan
    kafka: dict[str, Any]
    prefix: str = ""
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        self.store = Store(self.kafka, self.prefix, self.plan.state)
        self.runners: dict[int, Runner] = {}
        self.turn = Turn(time.monotonic)
        self.topics = {f"{self.prefix}{self.plan.inputs[place].name}": place for place in self.plan.listens}
        self.hold = 0
        self.paused: dict[int, frozenset[int]] = {}
        self._counted: Counter[str] = Counter()

    def counts(self) -> Counter[str]:
        """What came in, went out, was refused, since the process began; also in partitions that others have now.

        May be asked from another thread.
        """
        return sum(map(_counts, list(self.runners.values())), self._counted)

    async def on_batch(self, batch: Batch, consumer: Consumer) -> None:
        """Hand the records of a batch to their partition, letting others run now and then."""
        runner = self.runners.get(batch.partition) or await self._take_over(batch.partition, consumer)
        topic = self.topics[batch.topic]
        for record in batch.records:
            if runner is None or self.runners.get(batch.partition) is not runner:
                return  # Revoked meanwhile: the partition's next owner reads the rest again.
            await runner.on_message(
                Message(topic, record.offset, record.key, record.value, record.headers, record.timestamp)
            )
            await self.turn.give_way()
        if runner:
            self._balance(batch.partition, runner.fold.order.ahead(), consumer)

    def forget(self) -> None:
        """All partitions were revoked; those that come back are restored from their snapshots."""
        self.hold += 1
        self._counted = self.counts()
        for runner in self.runners.values():
            runner.abandon()
        self.runners.clear()
        self.paused.clear()

    async def _take_over(self, partition: int, consumer: Consumer) -> Runner | None:
        hold = self.hold
        gc.freeze()  # what is here now stays: collections need not look at it again
        restored, bounds = await self.store.restore(partition, self.topics)
        if hold != self.hold:
            return None
        fold = PartitionFold.restore(self.plan, restored.parts)
        for topic, place in self.topics.items():
            begins, ends = bounds[topic]
            fold.pass_expired(place, begins, ends)
        if fold.counts["expired"]:
            log.warning(
                "partition %d: %d records went by unread, longer ago than they are kept",
                partition,
                fold.counts["expired"],
            )
        if fold.counts["topics_anew"]:
            log.warning("partition %d: %d topics were made anew", partition, fold.counts["topics_anew"])
        writer = Writer(uuid.uuid4().hex, restored.keys)
        consumer.resume_partitions({self._place(partition, topic) for topic in self.topics.values()})

        def acknowledge(topic: int, below: int) -> None:
            consumer.acknowledge(self._place(partition, topic), below)

        self.runners[partition] = Runner(
            partition, fold, writer, self.store, acknowledge, time.monotonic, self.pace, self.turn, _wall_ms
        )
        log.info("took over partition %d at %s", partition, fold.order.cursor)
        return self.runners[partition]

    def _balance(self, partition: int, ahead: frozenset[int], consumer: Consumer) -> None:
        """Read nothing more of topics that are too far ahead of others, until these have caught up."""
        before = self.paused.get(partition, frozenset())
        if ahead != before:
            self.paused[partition] = ahead
            consumer.pause_partitions({self._place(partition, topic) for topic in ahead - before})
            consumer.resume_partitions({self._place(partition, topic) for topic in before - ahead})

    def is_paused(self, place: TopicPartition) -> bool:
        """Whether what waits there is to wait."""
        return self.topics[place.topic] in self.paused.get(place.partition, ())

    def _place(self, partition: int, topic: int) -> TP:
        return TP(f"{self.prefix}{self.plan.inputs[topic].name}", partition)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _counts(runner: Runner) -> Counter[str]:
    return runner.fold.counts.copy() + Counter(late=runner.fold.order.late, doubted=runner.fold.order.doubted)


def application(
    worker: Worker, group: str, data_dir: str, instance: str | None = None, fleet: Worker | None = None
) -> faust.App:
    """The Faust app of a worker, and of the second stage over what the cells of all workers tell the fleet.

    `instance` makes its membership static, so that a restart needs no rebalance.
    """
    workers = [worker, fleet] if fleet else [worker]
    leaving: list[asyncio.Task[None]] = []
    app = _App(
        group,
        broker=f"kafka://{worker.kafka['bootstrap_servers'].replace(',', ';kafka://')}",
        broker_credentials=_credentials(worker.kafka),
        datadir=data_dir,
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=1,  # keeps the co-partitioning assignor: a partition's topics meet in one worker
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=instance,
        consumer_max_fetch_size=4 * 2**20,
        broker_max_poll_records=BATCH_RECORDS,
        broker_commit_interval=1.0,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
        broker_rebalance_timeout=6.0,
        stream_wait_empty=False,
        cython_optimizations=True,
        stream_recovery_delay=0.0,
        stream_buffer_maxsize=BATCHES_WAITING,
    )
    for one, name in zip(workers, ("fold", "fleet"), strict=False):
        _add_agent(app, one, name)

    @app.on_partitions_revoked.connect  # type: ignore[untyped-decorator]
    async def forget(_: Any, revoked: Any, **__: Any) -> None:
        for one in workers:
            one.forget()

    @app.task  # type: ignore[untyped-decorator]
    async def open_store() -> None:
        for one in workers:
            await one.store.start()
        loop = asyncio.get_running_loop()

        def leave() -> None:
            # The loop itself holds a task weakly: one that nobody holds may be gone before it has ended.
            if not leaving:
                leaving.append(loop.create_task(_leave(workers)))

        # Faust takes many seconds to wind down. A snapshot is all that a successor needs, so that is all we wait for.
        loop.add_signal_handler(signal.SIGTERM, leave)

    @app.task  # type: ignore[untyped-decorator]
    async def watch() -> None:
        await _watch(app, workers)

    return app


def _add_agent(app: Any, worker: Worker, name: str) -> None:
    channel = app.topic(*worker.topics, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    @app.agent(channel, concurrency=1, name=name)  # type: ignore[untyped-decorator] # Faust has no types
    async def agent(stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                await worker.on_batch(event.message, app.consumer)
            except asyncio.CancelledError:
                raise
            except BaseException:  # whatever it is: end before Faust commits past it
                log.critical("the worker stops here, uncommitted", exc_info=True)
                os._exit(EXIT_ILL)


def run(worker: Worker, group: str, data_dir: str, instance: str | None = None, fleet: Worker | None = None) -> None:
    """Run a worker, with the fleet's if it is given, until it is told to stop (SIGTERM)."""
    _require_compiled_streams()
    gc.set_threshold(*GC_THRESHOLD)
    mode.loop.use("uvloop")
    app = application(worker, group, data_dir, instance, fleet)
    program = faust.Worker(app, loglevel="WARN", redirect_stdouts=False, quiet=True)
    program.spinner = None  # it draws on the terminal; what there is to say goes to the log
    program.execute_from_commandline()


async def _leave(workers: list[Worker]) -> None:
    """Snapshot what is folded and end. What is read meanwhile is read again by the next worker."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(LEAVE_S):
            await asyncio.gather(*(runner.finish() for one in workers for runner in one.runners.values()))
    os._exit(0)


def _require_compiled_streams() -> None:
    # The pure-Python stream acknowledges skipped events even under noack: records would be lost without a word.
    try:
        import faust._cython.streams  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            "faust-streaming is installed without its compiled streams; install a wheel of it"
        ) from error


def _credentials(kafka: dict[str, Any]) -> Any:
    protocol = kafka.get("security_protocol", "PLAINTEXT")
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka["sasl_plain_username"],
            password=kafka["sasl_plain_password"],
            mechanism=kafka.get("sasl_mechanism", "PLAIN"),
            ssl_context=kafka.get("ssl_context"),
        )
    return faust.SSLCredentials(context=kafka["ssl_context"]) if protocol == "SSL" else None


async def _watch(app: Any, workers: list[Worker]) -> None:
    """End the process when records wait and none is read: a consumer can die without a word."""
    probe = AIOKafkaConsumer(**workers[0].kafka, enable_auto_commit=False)
    await probe.start()
    read, since_s = -1, time.monotonic()
    while not app.should_stop:
        await asyncio.sleep(WATCH_EVERY_S)
        now_read = sum(runner.processed for one in workers for runner in one.runners.values()) + (workers[0].hold << 40)
        if now_read != read:
            read, since_s = now_read, time.monotonic()
        elif time.monotonic() - since_s > STALLED_S and await _is_behind(app, workers, probe):
            log.critical("records wait and none was read for %.0f s; the worker ends to start afresh", STALLED_S)
            os._exit(EXIT_ILL)


async def _is_behind(app: Any, workers: list[Worker], probe: Any) -> bool:
    """Whether a record waits that was not handed to its runner, and that is not left waiting until others have caught up."""
    owner = {topic: worker for worker in workers for topic in worker.topics}
    assigned = [TopicPartition(one.topic, one.partition) for one in app.consumer.assignment()]
    places = [one for one in assigned if not owner[one.topic].is_paused(one)]
    try:
        async with asyncio.timeout(5):
            begins, ends = await probe.beginning_offsets(places), await probe.end_offsets(places)
    except Exception:  # noqa: BLE001 (the broker is away: nothing can be read, which is not the worker's illness)
        return False
    return any(max(begins[place], _next_offset(app, owner[place.topic], place)) < end for place, end in ends.items())


def _next_offset(app: Any, worker: Worker, place: TopicPartition) -> int:
    runner = worker.runners.get(place.partition)
    known = runner.next_offset(worker.topics[place.topic]) if runner else None
    return known if known is not None else app.consumer._read_offset.get(TP(*place)) or 0
