"""Records as Kafka has them into batches as a sink wants them: decoded, in order, each seen once.

Heartbeats, repeated records and those that cannot be read move the offsets and are no message. What was written is known
by its source and sequence, because a record that left the spool twice comes back at a new offset.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from aiokafka import TopicPartition
from pydantic import ValidationError

from schemas.bounds import reached
from schemas.codec import Headers, Reason, Received, Rejected, decode, explain
from schemas.records import DeadLetter, Heartbeat
from sinks.letters import Letters
from sinks.sink import Batch, Config, Counts, Message, Sequences

log = logging.getLogger(__name__)

HEARTBEAT = Heartbeat.type.encode()
YIELD_EVERY = 4
"""Records that are decoded before the write under way gets its turn."""
SEQUENCE_MAX = 2**63 - 1
SOURCE_LENGTH_MAX = 255


class Intake:
    """Makes one batch while the one before it is written. `sequences` are what was written, and are kept up to date."""

    def __init__(self, sequences: Sequences, letters: Letters, config: Config, counts: Counts) -> None:
        self.sequences = sequences
        self._letters, self._config, self._counts = letters, config, counts
        self._next: dict[TopicPartition, int] = {}
        self._expected: dict[TopicPartition, int] = {}
        self._coming: Mapping[tuple[TopicPartition, str], int] = {}

    @property
    def has_passed(self) -> bool:
        """Whether records were taken in that no batch under way covers."""
        return bool(self._next)

    def anew(
        self,
        written: Mapping[tuple[TopicPartition, str], int],
        places: Mapping[TopicPartition, int],
        moved: Mapping[TopicPartition, int],
    ) -> None:
        """Begin where the sink says it stands, and at these offsets; those that `moved` are yet to be stored."""
        self.sequences.update(written)
        self._next, self._coming, self._expected = dict(moved), {}, dict(places)

    def holes(self, fetched: list[Any]) -> dict[TopicPartition, tuple[int, int]]:
        """Where a partition does not go on as it should: the first offset that was expected, and the one found instead."""
        expected = dict(self._expected)
        holes: dict[TopicPartition, tuple[int, int]] = {}
        for record in fetched:
            partition = TopicPartition(record.topic, record.partition)
            due = expected.get(partition, record.offset)
            if record.offset != due:
                holes.setdefault(partition, (due, record.offset))
            expected[partition] = record.offset + 1
        return holes

    def partitions(self) -> frozenset[TopicPartition]:
        """Those that are read."""
        return frozenset(self._expected)

    def skip_to(self, partition: TopicPartition, begin: int) -> int:
        """Pass what the log does not hold any more, which begins at `begin`; how many records that are."""
        expected = self._expected.get(partition, begin)
        if begin > expected:
            self._next[partition] = self._expected[partition] = begin
        return max(0, begin - expected)

    def under_way(self, batch: Batch) -> None:
        """The batch is being written: what it brings is not new any more."""
        self._next, self._coming = {}, batch.sequences

    def written(self, batch: Batch) -> None:
        """Remember the last sequences, within the bound."""
        for origin, sequence in batch.sequences.items():
            self.sequences.pop(origin, None)
            self.sequences[origin] = sequence
        while len(self.sequences) > self._config.sources_max:
            del self.sequences[next(iter(self.sequences))]
            self._counts.sources_forgotten += 1
            reached("sink.sources")

    async def batch(self, fetched: list[Any]) -> Batch:
        """The messages of what was fetched; the offsets pass all that came since the batch under way."""
        messages: list[Message] = []
        letters: list[DeadLetter] = []
        sequences: Sequences = {}
        for number, record in enumerate(fetched):
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            partition = TopicPartition(record.topic, record.partition)
            self._next[partition] = self._expected[partition] = record.offset + 1
            if record.topic == self._config.topic_prefix + self._config.dead_letters:
                letters.extend(self._letter(record))
                continue
            message = await self._decoded(record)
            if message and self._is_new(partition, message.content, sequences):
                messages.append(message)
                if message.content.refused:
                    await self._refuse(record, message.content.refused)
        return Batch(messages, dict(self._next), sequences, letters)

    def _letter(self, record: Any) -> list[DeadLetter]:
        self._counts.records += 1
        try:
            return [DeadLetter.model_validate_json(record.value or b"")]
        except ValidationError as error:
            # It stays in its topic. A letter about a letter would be read as a letter again, without end.
            log.warning("dead letter cannot be read", extra={"offset": record.offset, "detail": explain(error)})
            self._counts.rejected += 1
            return []

    async def _decoded(self, record: Any) -> Message | None:
        """The message, or None for a heartbeat and for bytes that are in the dead letters now."""
        # The header tells a heartbeat; its body needs no parsing.
        if ("ce_type", HEARTBEAT) in record.headers:
            self._counts.heartbeats += 1
            return None
        self._counts.records += 1
        payload, headers = record.value or b"", whole(record.headers)
        content = readable(headers, payload, record.timestamp)
        if isinstance(content, Received):
            place = (record.topic, record.partition, record.offset, record.timestamp)
            return Message(*place, record.key, headers, payload, content)
        if isinstance(content, Rejected):
            await self._refuse(record, content)
        return None

    def _is_new(self, partition: TopicPartition, received: Received, sequences: Sequences) -> bool:
        origin, sequence = (partition, received.envelope.source), received.envelope.sequence
        written = self._coming.get(origin, self.sequences.get(origin, -1))
        if sequence <= sequences.get(origin, written):
            self._counts.repeated += 1
            return False
        sequences[origin] = sequence
        return True

    async def _refuse(self, record: Any, rejected: Rejected) -> None:
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        await self._letters.send(rejected, record.timestamp, record.key, record.headers, place)


def whole(headers: Iterable[tuple[str, bytes | None]]) -> Headers:
    """Headers with their values; Kafka's may have none."""
    return [(name, text or b"") for name, text in headers]


def readable(headers: Headers, payload: bytes, timestamp_ms: int) -> Received | Heartbeat | Rejected:
    """The record as sinks may rely on it: its sequence fits a bigint, its source any index.

    Whatever decoding raises is the record's fault: anybody may write to Kafka.
    """
    try:
        content = decode(headers, payload, timestamp_ms)
    except Exception as error:  # noqa: BLE001 (one record must not end a sink)
        return Rejected(Reason.INVALID, f"it cannot be decoded: {type(error).__name__}: {error}", payload)
    if not isinstance(content, Received):
        return content
    envelope = content.envelope
    if not 0 <= envelope.sequence <= SEQUENCE_MAX:
        detail = f"ce_sequence is {str(envelope.sequence)[:40]}; it must lie between 0 and {SEQUENCE_MAX}"
        return Rejected(Reason.INVALID, detail, payload)
    source = name_of(envelope.source)
    return content if source == envelope.source else replace(content, envelope=replace(envelope, source=source))


def name_of(source: str) -> str:
    """The source under a name that every system can hold and index, different for different sources."""
    if len(source) <= SOURCE_LENGTH_MAX and source.isprintable():
        return source
    digest = hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()[:32]
    return "".join(one if one.isprintable() else "\ufffd" for one in source[: SOURCE_LENGTH_MAX - 33]) + f"#{digest}"
