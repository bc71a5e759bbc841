"""The loop every sink shares: read topics, hand over batches, commit only what the sink has written.

A sink says where it stands (`open`), and writes (`write`). The loop does the rest: group membership, decoding, dead
letters, records that were delivered before, back-off while the sink's system is away, offsets.

    class Printer:
        name, topics = "printer", ("signals.incidents.v1",)
        async def open(self, assignment): return Opened()
        async def write(self, batch, refuse): print(len(batch.messages))
        async def close(self): ...

    await run_sink(Printer(), {"bootstrap_servers": "kafka:9092"}, stop)

Delivery is at least once: a batch whose commit did not arrive comes again. A sink that keeps offsets beside its rows
returns them from `open`, which makes it exactly once: its offsets lead, the group's only show the lag.

    Exception
    ├── SinkUnavailable      the sink's system is away: the same batch again, after a pause
    ├── OutOfStep            someone else has written these partitions: the sink is opened anew
    └── anything else        our bug: the loop ends, uncommitted
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
)
from pydantic import ValidationError

from schemas import topics as catalogue
from schemas.codec import (
    Headers,
    Received,
    Rejected,
    dead_letter,
    decode,
    encode_dead_letter,
    explain,
)
from schemas.records import DeadLetter, Heartbeat

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

HEARTBEAT = Heartbeat.type.encode()
TRUNCATED_BYTES = 512 * 1024
"""What is kept of a payload that is too large for the dead letters' topic."""

SLICE = 100
"""Records that are taken from the fetched ones at a time, so that a batch ends near its bound of bytes."""
YIELD_EVERY = 4
"""Records that are decoded before the write under way gets its turn."""

Sequences = dict[tuple[TopicPartition, str], int]
"""The last sequence that was written, by topic partition and source."""


class SinkUnavailable(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """The sink's system is away. `mend` says what would bring it back; the batch is tried again."""

    def __init__(self, sink: str, reason: str, mend: str, retry_after_s: float = 1.0) -> None:
        super().__init__(f"{sink}: {reason}. {mend}")
        self.reason, self.mend, self.retry_after_s = reason, mend, retry_after_s


class OutOfStep(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """Another worker has written these partitions meanwhile. Nothing was written; the sink is opened anew."""


@dataclass(frozen=True, slots=True)
class Message:
    """One Kafka record as the sink sees it; `payload` are its bytes, for a dead letter."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    headers: Headers
    payload: bytes
    content: Received


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order of their partitions, each seen for the first time.

    `next_offsets` is where reading goes on once the batch is written: it also passes heartbeats, refused and
    repeated records, so a batch may move offsets and hold no message. `sequences` are the last ones it brings.
    """

    messages: Sequence[Message]
    next_offsets: Mapping[TopicPartition, int]
    sequences: Mapping[tuple[TopicPartition, str], int]
    letters: Sequence[DeadLetter] = ()
    """What a sink that reads the dead letters gets; they have no sequence and may come twice."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The partitions that the group gave this worker. Offsets mean something within one `cluster_id` only."""

    cluster_id: str
    partitions: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class Opened:
    """Where the sink stands: offsets of all its partitions, or of none, and then the group's offsets count.

    `stored` says that the sink keeps these offsets beside its rows: the group's are then for show, and may lag.
    """

    offsets: Mapping[TopicPartition, int] = field(default_factory=dict)
    sequences: Mapping[tuple[TopicPartition, str], int] = field(default_factory=dict)
    stored: bool = True


Refuse = Callable[[Message, Rejected], Awaitable[None]]
"""Puts a message that can never be stored to the dead letters; it is there when this returns."""


class Sink(Protocol):
    """One outside system that records go to."""

    name: str
    topics: Sequence[str]

    async def open(self, assignment: Assignment) -> Opened:
        """Take these partitions and no others; called after each rebalance. May raise SinkUnavailable."""

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        """Write all of the batch, or raise and have written nothing that a second try would double."""

    async def close(self) -> None:
        """Let go of connections; called once, also after a failure."""


@dataclass(frozen=True, slots=True)
class Config:
    """How a sink reads. The bounds hold for one worker."""

    group: str = ""
    """Consumer group; empty: `pilothouse-sink-NAME`, after the prefix."""
    instance_id: str | None = None
    """A name that survives a restart (`sink-0`): the restarted worker takes its partitions at once, with no rebalance."""
    dead_letters: str = catalogue.DEAD_LETTERS.name
    topic_prefix: str = ""
    """Precedes the names of all topics, so that several Pilothouses can share a broker."""
    batch_records_max: int = 2_000
    batch_bytes_max: int = 4 * 1024 * 1024
    """Small enough that the next batch is decoded while this one is written, large enough that commits are rare."""
    linger_s: float = 0.0
    """How long a batch may wait to be filled."""
    idle_commit_s: float = 5.0
    """Heartbeats alone are committed this often."""
    show_every_s: float = 1.0
    """How often the group is told of offsets that the sink keeps itself."""
    fetch_bytes_max: int = 16 * 1024 * 1024
    session_timeout_s: float = 6.0
    heartbeat_interval_s: float = 2.0
    settle_s: float = 4.0
    """How long a rebalance waits for the write under way."""
    backoff_s_max: float = 30.0
    request_timeout_s: float = 10.0
    stall_s: float = 20.0
    """A reader that has got nothing for so long although there is more is made anew."""
    sources_max: int = 100_000
    """Sources whose last sequence is remembered; beyond it the oldest is forgotten and counted."""


@dataclass(slots=True)
class Counts:
    """What came in, went out, was refused. Only ever grows."""

    records: int = 0
    heartbeats: int = 0
    repeated: int = 0
    rejected: int = 0
    written: int = 0
    writes: int = 0
    unavailable: int = 0
    rebalances: int = 0
    out_of_step: int = 0
    commits_lost: int = 0
    reconnects: int = 0
    sources_forgotten: int = 0
    letters_cut: int = 0


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
        self.letters = _Letters(sink.name, kafka, config, counts)
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
            self.cluster_id = self.cluster_id or await _cluster_id(self.kafka, self.config)
            await self._read()
        except (KafkaError, _StalledError, TimeoutError) as error:
            self.counts.reconnects += 1
            self.note_away(f"Kafka: {error!r}")
            await self.pause(1.0)

    async def _read(self) -> None:
        membership = _Membership(self.config.settle_s, self.counts)
        prefix = self.config.topic_prefix
        group = self.config.group or f"{prefix}pilothouse-sink-{self.sink.name}"
        consumer = _consumer(self.kafka, self.config, group)
        consumer.subscribe([prefix + topic for topic in self.sink.topics], listener=membership)
        try:
            await consumer.start()
            await _Reader(self, consumer, membership).run()
        finally:
            await ended(consumer.stop(), self.config.request_timeout_s)

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
        self.sequences = worker.sequences
        self._clock = asyncio.get_running_loop().time
        self._committed_at = self._arrived_at = self._clock()
        self._idle: dict[TopicPartition, int] = {}
        self._leads = False  # the sink's own offsets lead; the group's only show the lag
        self._shown_at = float("-inf")
        self._coming: Mapping[tuple[TopicPartition, str], int] = {}
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
        self.sequences.update(opened.sequences)
        self._idle, self._coming = {}, {}
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
        batch = await self._batch(fetched)
        due = self._clock() - self._committed_at >= self.config.idle_commit_s
        if not (batch.messages or batch.letters or (self._idle and due)):
            return
        # A batch never overtakes one that was given up: that one is read again, and this one after it.
        if await self._written():
            self._idle, self._coming = {}, batch.sequences
            self._writing = asyncio.create_task(self._deliver(batch))

    async def _batch(self, fetched: list[Any]) -> Batch:
        messages: list[Message] = []
        letters: list[DeadLetter] = []
        sequences: Sequences = {}
        for number, record in enumerate(fetched):
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            partition = TopicPartition(record.topic, record.partition)
            self._idle[partition] = record.offset + 1
            if record.topic == self.config.topic_prefix + self.config.dead_letters:
                letters.extend(self._letter(record))
                continue
            message = await self._decoded(record)
            if message and self._is_new(partition, message.content, sequences):
                messages.append(message)
        return Batch(messages, dict(self._idle), sequences, letters)

    def _letter(self, record: Any) -> list[DeadLetter]:
        self.counts.records += 1
        try:
            return [DeadLetter.model_validate_json(record.value or b"")]
        except ValidationError as error:
            # It stays in its topic. A letter about a letter would be read as a letter again, without end.
            log.warning("dead letter cannot be read", extra={"offset": record.offset, "detail": explain(error)})
            self.counts.rejected += 1
            return []

    async def _decoded(self, record: Any) -> Message | None:
        """The message, or None for a heartbeat and for bytes that are in the dead letters now."""
        # The header tells a heartbeat; its body needs no parsing.
        if ("ce_type", HEARTBEAT) in record.headers:
            self.counts.heartbeats += 1
            return None
        self.counts.records += 1
        payload, headers = record.value or b"", list(record.headers)
        content = decode(headers, payload, record.timestamp)
        if isinstance(content, Received):
            place = (record.topic, record.partition, record.offset, record.timestamp)
            return Message(*place, record.key, headers, payload, content)
        if isinstance(content, Rejected):
            await self._refuse_record(record, content)
        return None

    def _is_new(self, partition: TopicPartition, received: Received, sequences: Sequences) -> bool:
        # A record that left the spool twice comes back at a new offset, but with the sequence it had.
        origin, sequence = (partition, received.envelope.source), received.envelope.sequence
        written = self._coming.get(origin, self.sequences.get(origin, -1))
        if sequence <= sequences.get(origin, written):
            self.counts.repeated += 1
            return False
        sequences[origin] = sequence
        return True

    async def _refuse_record(self, record: Any, rejected: Rejected) -> None:
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        await self.worker.letters.send(rejected, record.timestamp, record.key, record.headers, place)

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
        for origin, sequence in batch.sequences.items():
            self.sequences.pop(origin, None)
            self.sequences[origin] = sequence
        while len(self.sequences) > self.config.sources_max:
            del self.sequences[next(iter(self.sequences))]
            self.counts.sources_forgotten += 1

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


class _Letters:
    """Sends dead letters, one producer for all; a producer that failed is made anew."""

    def __init__(self, sink: str, kafka: Mapping[str, Any], config: Config, counts: Counts) -> None:
        self._sink, self._kafka, self._config, self._counts = sink, kafka, config, counts
        self._producer: Any = None

    async def send(
        self, rejected: Rejected, time_ms: int, key: bytes | None, headers: Iterable[tuple[str, bytes]], place: Any
    ) -> None:
        """Return when the letter is in Kafka. Raises KafkaTimeoutError, and then the record comes again."""
        self._counts.rejected += 1
        more = {"rejected_by": f"sink.{self._sink}", "time_ms": time_ms, "key": key, "headers": headers, **place}
        try:
            await self._put(dead_letter(rejected, **more))
        except MessageSizeTooLargeError:
            self._counts.letters_cut += 1
            detail = f"{rejected.detail} (the first {TRUNCATED_BYTES} of {len(rejected.payload)} bytes are kept)"
            cut = Rejected(rejected.reason, detail, rejected.payload[:TRUNCATED_BYTES])
            await self._put(dead_letter(cut, **more))

    async def _put(self, letter: Any) -> None:
        wire = encode_dead_letter(letter)
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                producer = await self._ready()
                await producer.send_and_wait(
                    self._config.topic_prefix + self._config.dead_letters,
                    wire.value,
                    wire.key,
                    headers=wire.headers,
                    timestamp_ms=wire.timestamp_ms,
                )
        except MessageSizeTooLargeError:
            raise
        except (KafkaError, TimeoutError) as error:
            await self.close()
            raise KafkaTimeoutError(f"no dead letter could be sent: {error!r}") from error

    async def _ready(self) -> Any:
        if self._producer is None:
            self._producer = AIOKafkaProducer(**self._kafka, acks="all", max_request_size=8 * 1024 * 1024)
            await self._producer.start()
        return self._producer

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await ended(producer.stop(), self._config.request_timeout_s)


def _consumer(kafka: Mapping[str, Any], config: Config, group: str) -> Any:
    return AIOKafkaConsumer(
        **kafka,
        group_id=group,
        group_instance_id=config.instance_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        # Range gives equal partitions of our topics to one worker: rows of a cell come from one writer.
        partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=int(config.session_timeout_s * 1000),
        heartbeat_interval_ms=int(config.heartbeat_interval_s * 1000),
        rebalance_timeout_ms=int(config.session_timeout_s * 1000),
        fetch_max_bytes=config.fetch_bytes_max,
        max_partition_fetch_bytes=min(config.fetch_bytes_max, 4 * 1024 * 1024),
        fetch_max_wait_ms=200,
        request_timeout_ms=int(config.request_timeout_s * 1000),
    )


async def _cluster_id(kafka: Mapping[str, Any], config: Config) -> str:
    client = AIOKafkaAdminClient(**kafka, request_timeout_ms=int(config.request_timeout_s * 1000))
    try:
        await client.start()
        return str((await client.describe_cluster())["cluster_id"])
    finally:
        await ended(client.close(), config.request_timeout_s)


async def ended(closing: Awaitable[None], timeout_s: float) -> None:
    """Close a client; one that cannot say good-bye to its broker is left, one that missed being told is told again."""
    with suppress(KafkaError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            await closing
