"""What a broker says of its topics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
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


async def lag(kafka: Mapping[str, Any], group: str, known: Mapping[str, Iterable[int]]) -> int | None:
    """Records that a group has yet to commit of partitions by topic, all of one of which it has committed nothing.

    None while the group is not known yet.
    """
    places = [TopicPartition(topic, number) for topic, numbers in known.items() for number in numbers]
    client = AIOKafkaAdminClient(**kafka)
    reader = AIOKafkaConsumer(**kafka)
    try:
        await client.start()
        await reader.start()
        committed = await client.list_consumer_group_offsets(group)
        begins, ends = await reader.beginning_offsets(places), await reader.end_offsets(places)
    except KafkaError:
        return None  # a group that has just begun has no coordinator yet
    finally:
        await client.close()
        await reader.stop()
    done = begins | {place: committed[place].offset for place in places if place in committed}
    return sum(int(ends[place] - done[place]) for place in places)
