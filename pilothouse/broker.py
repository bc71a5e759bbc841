"""What a broker says of its topics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError


async def partitions(kafka: Mapping[str, Any], topics: Iterable[str]) -> dict[str, list[int]]:
    """Partitions by topic; a topic that is not there is left out. Raises ConnectionError when nobody answers."""
    client = AIOKafkaAdminClient(**kafka)
    try:
        await client.start()
        try:
            described = await client.describe_topics(list(topics))
        finally:
            await client.close()
    except KafkaError as error:
        where = kafka.get("bootstrap_servers")
        raise ConnectionError(
            f"no broker answers at {where} ({error}); is PILOTHOUSE_KAFKA right and the broker up?"
        ) from error
    return {
        topic["topic"]: sorted(one["partition"] for one in topic["partitions"])
        for topic in described
        if not topic["error_code"]
    }


async def lag(kafka: Mapping[str, Any], group: str) -> int | None:
    """Records that a group has yet to commit, over its partitions; None while it has committed nothing."""
    client = AIOKafkaAdminClient(**kafka)
    reader = AIOKafkaConsumer(**kafka)
    try:
        await client.start()
        await reader.start()
        committed = await client.list_consumer_group_offsets(group)
        ends = await reader.end_offsets(list(committed))
    except KafkaError:
        return None  # a group that has just begun has no coordinator yet
    finally:
        await client.close()
        await reader.stop()
    return sum(end - committed[place].offset for place, end in ends.items()) if committed else None
