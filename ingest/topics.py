"""Makes the topics of the catalogue in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from schemas.topics import PARTITIONS, TOPICS, Topic

REQUEST_TIMEOUT_MS = 30_000
KNOWN_STEP_S = 0.1


class TopicsError(Exception):
    """The cluster's topics are not what the catalogue says; the message names them and the mend."""


async def ensure_topics(
    kafka: Mapping[str, Any], prefix: str = "", partitions: int = PARTITIONS, replication: int = 1
) -> None:
    """Make what is missing of the catalogue; what is there is left as it is.

    `kafka` are aiokafka's connection options. Raises TopicsError when a topic is there with another partition count,
    for then the records of a cell would not meet in one worker, and KafkaError when the cluster does not answer.
    """
    client = AIOKafkaAdminClient(**kafka, request_timeout_ms=REQUEST_TIMEOUT_MS)
    await client.start()
    try:
        names = {prefix + topic.name for topic in TOPICS}
        there = await _partition_counts(client, names)
        if missing := [topic for topic in TOPICS if prefix + topic.name not in there]:
            await _create(client, missing, prefix, partitions, replication)
            there = await _all_there(client, names)
        if wrong := {name: count for name, count in there.items() if count != partitions}:
            raise TopicsError(_mend(wrong, partitions))
    finally:
        await client.close()


async def _partition_counts(client: AIOKafkaAdminClient, names: set[str]) -> dict[str, int]:
    # Asked by name, an unknown topic would be made by a cluster that makes topics on demand: so only what is listed.
    listed = sorted(names.intersection(await client.list_topics()))
    described = await client.describe_topics(listed) if listed else []
    return {topic["topic"]: len(topic["partitions"]) for topic in described}


async def _all_there(client: AIOKafkaAdminClient, names: set[str]) -> dict[str, int]:
    """The partition counts once a broker knows all topics, which is a moment after they were made."""
    async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
        while names - (there := await _partition_counts(client, names)).keys():  # noqa: ASYNC110 (Kafka tells nobody)
            await asyncio.sleep(KNOWN_STEP_S)
    return there


async def _create(
    client: AIOKafkaAdminClient, topics: Iterable[Topic], prefix: str, partitions: int, replication: int
) -> None:
    new = [NewTopic(prefix + topic.name, partitions, replication, topic_configs=topic.config()) for topic in topics]
    response = await client.create_topics(new, timeout_ms=REQUEST_TIMEOUT_MS)
    for name, code, *detail in response.topic_errors:
        # Another program may make them at the same time.
        if code and for_code(code) is not TopicAlreadyExistsError:
            raise TopicsError(f"topic {name} cannot be made: {for_code(code).__name__} {' '.join(map(str, detail))}")


def _mend(wrong: Mapping[str, int], partitions: int) -> str:
    found = ", ".join(f"{name} has {count}" for name, count in sorted(wrong.items()))
    return (
        f"{found} partitions, but {partitions} are configured; all topics need the same count. Configure the count "
        "that is there, or give these topics another prefix and fill them by replay"
    )
