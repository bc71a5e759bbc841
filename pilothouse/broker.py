"""What a broker says of its topics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
