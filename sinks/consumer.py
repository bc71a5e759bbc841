"""The loop every sink shares: read topics, hand over batches, commit only what the sink has written.

A sink (see `sink`) says where it stands (`open`), and writes (`write`). The loop does the rest: group membership, batches
of what is new (`intake`), dead letters (`letters`), back-off while the sink's system is away, offsets.

Delivery is at least once: a batch whose commit did not arrive comes again. A sink that keeps offsets beside its rows
returns them from `open`, which makes it exactly once: its offsets lead, the group's only show the lag.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from schemas.codec import Rejected
from sinks import kafka_clients
from sinks.intake import Intake
from sinks.letters import Letters
from sinks.sink import Assignment, Batch, Config, Counts, Message, OutOfStep, Sequences, Sink, SinkUnavailable

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

SLICE = 100
"""Records that are taken from the fetched ones at a time, so that a batch ends near its bound of bytes."""


async def run_sink(
    sink: Sink,
    kafka: Mapping[str, Any],
    stop: asyncio.Event,
    config: Config | None = None,
    counts: Counts | None = None,
) -> None:
    """Feed the sink until `stop` is set; the write under way is finished and committed first.

    `kafka` are the keyword arguments that every aiokafka client takes. A broker that is away is waited for. Raises
    what `write` raises, SinkUnavailable and OutOfStep aside.
    """
    worker = _Worker(sink, kafka, stop, config or Config(), counts or Counts())
    try:
        await worker.run()
    finally:
        await sink.close()


class _Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """What the group gave us. `epoch` grows with every change; a batch of another epoch is not ours to write."""

    def __init__(self, settle_s: float, counts: Counts) -> None:
        self.epoch = 0
        self.partitions: frozenset[TopicPartition] = frozenset()
        self.changed = asyncio.Event()
        self.writing = asyncio.Lock()
        self._settle_s, self._counts = settle_s, counts

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._change(frozenset())
        # Heartbeats still flow while this waits, so the write under way can end and commit under its own membership.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settle_s), self.writing:
                pass

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        # Nothing slow here: aiokafka sends no heartbeat meanwhile. The loop opens the sink when it sees the new epoch.
        self._change(frozenset(assigned))
        self._counts.rebalances += 1

    def _change(self, partitions: frozenset[TopicPartition]) -> None:
        self.epoch += 1
        self.partitions = partitions
        self.changed.set()


class _Worker:
    def __init__(
        self, sink: Sink, kafka: Mapping[str, Any], stop: asyncio.Event, config: Config, counts: Counts
    ) -> None:
        self.sink, self.kafka, self.stop, self.config, self.counts = sink, kafka, stop, config, counts
        self.letters = Letters(sink.name, kafka, config, counts)
        self.sequences: Sequences = {}
        self.cluster_id = ""
        self._away = ""

    async def run(self) -> None:
        try:
            while not self.stop.is_set():
                await self._until_kafka_fails()
        finally:
            await self.letters.close()

    async def _until_kafka_fails(self) -> None:
        try:
            self.cluster_id = self.cluster_id or await kafka_clients.cluster_id(self.kafka, self.config)
            await self._read()
        except (KafkaError, _StalledError, TimeoutError) as error:
            self.counts.reconnects += 1
            self.note_away(f"Kafka: {error!r}")
            await self.pause(1.0)

    async def _read(self) -> None:
        membership = _Membership(self.config.settle_s, self.counts)
        prefix = self.config.topic_prefix
        group = self.config.group or f"{prefix}pilothouse-sink-{self.sink.name}"
        consumer = kafka_clients.consumer(self.kafka, self.config, group)
        consumer.subscribe([prefix + topic for topic in self.sink.topics], listener=membership)
        try:
            await consumer.start()
            await _Reader(self, consumer, membership).run()
        finally:
            await kafka_clients.ended(consumer.stop(), self.config.request_timeout_s)

    def note_away(self, reason: str) -> None:
        """Log once when something goes away."""
        if not self._away:
            log.warning("sink waits", extra={"sink": self.sink.name, "reason": reason})
        self._away = reason

    def note_back(self) -> None:
        """Log once when it is back."""
        if self._away:
            log.info("sink goes on", extra={"sink": self.sink.name, "after": self._away})
        self._away = ""

    async def pause(self, seconds: float, *wakers: asyncio.Event) -> None:
        """Sleep, unless told to stop or woken."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.stop, *wakers)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()


class _StalledError(Exception):
    """There is more to read, but the reader gets nothing."""


class _Reader:
    """One consumer's life, from its start to the first failure of Kafka."""

    def __init__(self, worker: _Worker, consumer: Any, membership: _Membership) -> None:
        self.worker, self.consumer, self.membership = worker, consumer, membership
        self.sink, self.config, self.counts, self.stop = worker.sink, worker.config, worker.counts, worker.stop
        self.opened_epoch = 0
        self.intake = Intake(worker.sequences, worker.letters, worker.config, worker.counts)
        self._clock = asyncio.get_running_loop().time
        self._committed_at = self._arrived_at = self._clock()
        self._leads = False  # the sink's own offsets lead; the group's only show the lag
        self._shown_at = float("-inf")
        self._writing: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Read and decode one batch while the one before it is written."""
        try:
            while not self.stop.is_set():
                if self._writing and self._writing.done():
                    await self._written()
                if self.opened_epoch != self.membership.epoch and self.membership.partitions:
                    await self._written()
                    await self._open()
                fetched = await self._fetch()
                if self.opened_epoch == self.membership.epoch:
                    await self._take(fetched)
            await self._written()
        finally:
            if self._writing:
                self._writing.cancel()
                await asyncio.wait([self._writing])

    async def _written(self) -> bool:
        """Wait for the write under way and tell whether it was done or given up; what it raised is raised here."""
        if not self._writing:
            return True
        await asyncio.wait([self._writing])
        writing, self._writing = self._writing, None
        return writing.result()

    async def _open(self) -> None:
        """Ask the sink where it stands and go there."""
        epoch = self.membership.epoch
        assignment = Assignment(self.worker.cluster_id, self.membership.partitions)
        opened = await self._until_available(lambda: self.sink.open(assignment), epoch)
        if opened is None or self.membership.epoch != epoch:
            return
        for partition, offset in opened.offsets.items():
            self.consumer.seek(partition, offset)
        self._leads = bool(opened.offsets) and opened.stored
        self.intake.anew(opened.sequences)
        self.opened_epoch = epoch

    async def _fetch(self) -> list[Any]:
        """The next records, in the order of their partitions, within the bounds of a batch."""
        fetched: list[Any] = []
        room, deadline = self.config.batch_bytes_max, self._clock() + self.config.linger_s
        timeout_ms = 200
        while room > 0 and len(fetched) < self.config.batch_records_max and not self.stop.is_set():
            wanted = min(SLICE, self.config.batch_records_max - len(fetched))
            got = await self.consumer.getmany(timeout_ms=timeout_ms, max_records=wanted)
            for records in got.values():
                fetched.extend(records)
                room -= sum(len(record.value or b"") for record in records)
            timeout_ms = max(0, int(1000 * (deadline - self._clock()))) if fetched else 0
            if not timeout_ms and not got:
                break
        return fetched

    async def _take(self, fetched: list[Any]) -> None:
        if not fetched:
            await self._check_progress()
        else:
            self._arrived_at = self._clock()
        batch = await self.intake.batch(fetched)
        due = self._clock() - self._committed_at >= self.config.idle_commit_s
        if not (batch.messages or batch.letters or (self.intake.has_passed and due)):
            return
        # A batch never overtakes one that was given up: that one is read again, and this one after it.
        if await self._written():
            self.intake.under_way(batch)
            self._writing = asyncio.create_task(self._deliver(batch))

    async def _refuse(self, message: Message, rejected: Rejected) -> None:
        place = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
        await self.worker.letters.send(rejected, message.timestamp_ms, message.key, message.headers, place)

    async def _deliver(self, batch: Batch) -> bool:
        """Write and commit, or give it up: to the partitions' next owner, or to a fresh start of the sink."""

        async def write_and_commit() -> bool:
            await self.sink.write(batch, self._refuse)
            self._delivered(batch)
            await self._commit(batch)
            return True

        try:
            return await self._until_available(write_and_commit, self.opened_epoch) or False
        except OutOfStep:
            self.counts.out_of_step += 1
            self.opened_epoch = 0
            return False

    def _delivered(self, batch: Batch) -> None:
        self._committed_at = self._clock()
        self.counts.writes += 1
        self.counts.written += len(batch.messages) + len(batch.letters)
        self.intake.written(batch)

    async def _commit(self, batch: Batch) -> None:
        if self._leads and self._clock() - self._shown_at < self.config.show_every_s:
            return
        self._shown_at = self._clock()
        try:
            async with asyncio.timeout(self.config.request_timeout_s):
                await self.consumer.commit(dict(batch.next_offsets))
        except (CommitFailedError, IllegalStateError):
            # The group has moved on: the partitions' next owner starts at the offset before.
            self.counts.commits_lost += 1

    async def _until_available(self, work: Callable[[], Awaitable[Answer]], epoch: int) -> Answer | None:
        """Do the work as soon as the sink's system allows; None when the partitions are gone or we shall stop."""
        backoff_s = 0.0
        while not self.stop.is_set() or not backoff_s:
            async with self.membership.writing:
                if self.membership.epoch != epoch:
                    return None
                try:
                    answer = await work()
                except SinkUnavailable as error:
                    away = error
                else:
                    self.worker.note_back()
                    return answer
            self.counts.unavailable += 1
            self.worker.note_away(str(away))
            backoff_s = min(self.config.backoff_s_max, max(away.retry_after_s, 2 * backoff_s))
            await self._wait(backoff_s, epoch)
        return None

    async def _wait(self, seconds: float, epoch: int) -> None:
        """Pause, unless the partitions are taken away."""
        self.membership.changed.clear()
        if self.membership.epoch == epoch:
            await self.worker.pause(seconds, self.membership.changed)

    async def _check_progress(self) -> None:
        if self._clock() - self._arrived_at < self.config.stall_s or not self.membership.partitions:
            return
        self._arrived_at = self._clock()
        ends = await self.consumer.end_offsets(list(self.membership.partitions))
        for partition, end in ends.items():
            position = await self.consumer.position(partition)
            if position < end:
                raise _StalledError(f"{partition.topic}/{partition.partition} stands at {position}, its end is {end}")
