"""Kafka as the processors use it beside Faust: a producer for findings and snapshots, a reader for restore.

The producer is aiokafka's own: one send is a future, so a partition's findings are awaited together before the snapshot
that covers them. A stuck send ends the worker, uncommitted; its successor reads the same records again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from processors.lineage import Entry, Restored, restore
from schemas.codec import Wire
from schemas.topics import STATE, Topic

READ_TIMEOUT_S = 60.0
SEND_TIMEOUT_S = 30.0


class Store:
    """The bus of all partitions of a worker. `kafka` are aiokafka's connection arguments, `prefix` precedes topics.

    Snapshots stand on `state`.
    """

    def __init__(self, kafka: dict[str, Any], prefix: str = "", state: Topic = STATE) -> None:
        self._kafka, self._prefix, self._state = kafka, prefix, prefix + state.name
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect; acks=all and idempotent, so that a retry neither loses nor doubles."""
        self._producer = AIOKafkaProducer(
            **self._kafka,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            max_batch_size=2**20,  # a snapshot is megabytes; batches of aiokafka's 16 KB take a round trip each
            compression_type="lz4",
            max_request_size=4 * 2**20,
        )
        await self._producer.start()

    async def stop(self) -> None:
        """Disconnect; what is not acknowledged by then will be sent again by the next worker."""
        if self._producer:
            async with asyncio.timeout(10):
                await self._producer.stop()

    async def send(self, topic: str, partition: int | None, wire: Wire) -> asyncio.Future[object]:
        """Send a record; the future is done when all replicas have it."""
        return await self._send(
            self._prefix + topic,
            partition=partition,
            key=wire.key,
            value=wire.value,
            headers=wire.headers,
            timestamp_ms=wire.timestamp_ms,
        )

    async def send_state(self, partition: int, entry: Entry) -> asyncio.Future[object]:
        """Send a record of the state topic."""
        return await self._send(self._state, partition=partition, key=entry.key, value=entry.value)

    async def restore(self, partition: int, topics: Collection[str]) -> tuple[Restored, dict[str, tuple[int, int]]]:
        """The best snapshot of a partition, read from the beginning of the state topic to its present end.

        With it, of the partition in each of `topics`, the first offset that is left and the one after the last: retention may
        have let go of what comes after the snapshot, and a topic made anew does not reach to where it was taken.
        """
        place = TopicPartition(self._state, partition)
        inputs = [TopicPartition(topic, partition) for topic in topics]
        reader = AIOKafkaConsumer(
            **self._kafka, enable_auto_commit=False, auto_offset_reset="earliest", max_partition_fetch_bytes=4 * 2**20
        )
        await reader.start()
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                restored = restore(await _read_to_end(reader, place))
                begins, ends = await reader.beginning_offsets(inputs), await reader.end_offsets(inputs)
                return restored, {one.topic: (begins[one], ends[one]) for one in inputs}
        finally:
            await reader.stop()

    async def _send(self, topic: str, **record: Any) -> asyncio.Future[object]:
        if self._producer is None:
            raise RuntimeError("Store.start() comes first")
        async with asyncio.timeout(SEND_TIMEOUT_S):
            sent: asyncio.Future[object] = await self._producer.send(topic, **record)
            return sent


async def _read_to_end(reader: AIOKafkaConsumer, place: TopicPartition) -> list[tuple[bytes, bytes | None]]:
    reader.assign([place])
    end = (await reader.end_offsets([place]))[place]
    reader.seek(place, 0)
    entries: list[tuple[bytes, bytes | None]] = []
    while await reader.position(place) < end:
        for messages in (await reader.getmany(timeout_ms=500)).values():
            entries += [(message.key, message.value) for message in messages]
    return entries
