"""Topics of one test on the real broker, and sinks that read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupCoordinatorNotAvailableError

from schemas.codec import Envelope, encode
from schemas.records import DeadLetter, Record
from schemas.topics import DEAD_LETTERS, Topic, topic_of
from sinks.consumer import run_sink
from sinks.sink import Config, Counts, Sink

TIMEOUT_S = 60.0


async def until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Return when the condition holds; TimeoutError when it does not come about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (a condition of any kind has no event)
            await asyncio.sleep(0.01)


class Bus:
    """Topics named after ours, of this test alone, one partition each."""

    def __init__(self, bootstrap: str, *topics: Topic) -> None:
        self.kafka = {"bootstrap_servers": bootstrap}
        self.prefix = f"t{uuid4().hex[:8]}."
        self._topics = (*topics, DEAD_LETTERS)
        self._sequence = 0
        self._producer: Any = AIOKafkaProducer(**self.kafka)

    async def __aenter__(self) -> Self:
        client = AIOKafkaAdminClient(**self.kafka)
        await client.start()
        await client.create_topics([NewTopic(self.name(topic), 1, 1) for topic in self._topics])
        await client.close()
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    def name(self, topic: Topic) -> str:
        """The topic's name in this test."""
        return self.prefix + topic.name

    async def put(self, *records: Record, recorded_ms: int | None = None) -> None:
        """Publish records, each under the next sequence; recorded when they happened unless told otherwise."""
        for record in records:
            self._sequence += 1
            envelope = Envelope("test", self._sequence, record.time_ms if recorded_ms is None else recorded_ms)
            wire = encode(record, envelope)
            await self._send(self.name(topic_of(record)), wire.value, wire.headers, wire.timestamp_ms)

    async def put_bytes(self, topic: Topic, value: bytes, event_type: str) -> None:
        """Publish any bytes."""
        await self._send(self.name(topic), value, [("ce_type", event_type.encode())], int(1000 * time.time()))

    async def _send(self, topic: str, value: bytes, headers: Any, timestamp_ms: int) -> None:
        await self._producer.send_and_wait(
            topic, value, b"eu1", partition=0, headers=headers, timestamp_ms=timestamp_ms
        )

    async def letters(self) -> list[DeadLetter]:
        """All dead letters so far."""
        place = TopicPartition(self.name(DEAD_LETTERS), 0)
        reader = AIOKafkaConsumer(**self.kafka, auto_offset_reset="earliest")
        await reader.start()
        try:
            reader.assign([place])
            reader.seek(place, 0)
            end, letters = (await reader.end_offsets([place]))[place], []
            while len(letters) < end:
                letters += [DeadLetter.model_validate_json((await reader.getone()).value)]
            return letters
        finally:
            await reader.stop()

    async def committed(self, group: str, topic: Topic) -> int:
        """The group's offset; -1 while it has none."""
        client = AIOKafkaAdminClient(**self.kafka)
        await client.start()
        try:
            offsets = await client.list_consumer_group_offsets(group)
        except GroupCoordinatorNotAvailableError:
            return -1  # a fresh broker makes the topic of the offsets when the first group comes
        finally:
            await client.close()
        place = offsets.get(TopicPartition(self.name(topic), 0))
        return int(place.offset) if place else -1

    async def committed_up_to(self, group: str, topic: Topic, offset: int) -> None:
        """Return when the group has committed the offset."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self.committed(group, topic) < offset:  # noqa: ASYNC110 (the broker has no event for it)
                await asyncio.sleep(0.02)

    def start(self, sink: Sink, group: str, stop: asyncio.Event, counts: Counts, **config: Any) -> asyncio.Task[None]:
        """The sink, reading this test's topics. Cancelling the task kills it: nothing is finished, nothing committed."""
        settings = Config(group=group, topic_prefix=self.prefix, **config)
        return asyncio.create_task(run_sink(sink, self.kafka, stop, settings, counts))

    @asynccontextmanager
    async def running(self, sink: Sink, group: str, **config: Any) -> AsyncIterator[Counts]:
        """The same until left, and then it is stopped as an operator does."""
        stop, counts = asyncio.Event(), Counts()
        task = self.start(sink, group, stop, counts, **config)
        try:
            yield counts
        finally:
            stop.set()
            await task
