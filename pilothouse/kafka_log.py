"""What stands in the log now, read from a place or from a time on, without a group and without committing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

READ_TIMEOUT_MS = 5_000
FETCH_TIMEOUT_S = 60


def reader(kafka: dict[str, Any]) -> AIOKafkaConsumer:
    """A consumer of nobody's group; to be started and stopped."""
    return AIOKafkaConsumer(
        **kafka, enable_auto_commit=False, auto_offset_reset="earliest", max_partition_fetch_bytes=4 * 2**20
    )


async def read(
    reader: AIOKafkaConsumer, places: list[TopicPartition], since_ms: int | None = None
) -> AsyncIterator[Any]:
    """Everything that stands in these partitions now, the topics side by side so that little has to wait.

    With `since_ms` (Unix ms), from the first message that was recorded then or later.
    """
    if not places:
        return
    reader.assign(places)
    ends = await reader.end_offsets(places)
    starts = await reader.beginning_offsets(places)
    if since_ms is not None:
        found = await reader.offsets_for_times(dict.fromkeys(places, since_ms))
        starts = {place: found[place].offset if found.get(place) else ends[place] for place in places}
    for place in places:
        reader.seek(place, starts[place])
    left = {place for place in places if starts[place] < ends[place]}
    while left:
        async with asyncio.timeout(FETCH_TIMEOUT_S):
            batch = await reader.getmany(timeout_ms=READ_TIMEOUT_MS, max_records=2_000)
        for place, messages in batch.items():
            for message in messages:
                if message.offset < ends[place]:
                    yield message
        left = {place for place in left if await reader.position(place) < ends[place]}


async def begins_ms(reader: AIOKafkaConsumer, place: TopicPartition) -> int | None:
    """When the oldest message that is still there was recorded, Unix ms; None when nothing was ever dropped."""
    start = (await reader.beginning_offsets([place]))[place]
    if start == 0:
        return None
    async for message in read(reader, [place]):
        return int(message.timestamp)
    return None
