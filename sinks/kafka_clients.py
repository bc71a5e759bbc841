"""Kafka as sinks use it: the clients that they are made of, and what the cluster says of topics and groups.

`Broker` is the seam: the loop and its parts know nothing else of Kafka, so a bus in memory can take its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest

from sinks.sink import Config
from sinks.topic_ids import UNKNOWN, Look, look

log = logging.getLogger(__name__)

METADATA_MAX_AGE_MS = 10_000
"""How soon a topic that was deleted and made anew is given to a member again; aiokafka's own is five minutes."""


RETRY_S = 0.1


class Committed(NamedTuple):
    """A group's offset of a partition, and the id of the topic that it is an offset of; unknown of older releases."""

    offset: int
    topic_id: str = UNKNOWN


class Broker(Protocol):
    """A Kafka. Clients come unstarted and are aiokafka's or behave like them; all methods raise KafkaError."""

    def member(self, config: Config, group: str) -> Any:
        """A consumer of the group that commits only what it is told to."""

    def reader(self) -> Any:
        """A consumer of no group."""

    def producer(self) -> Any:
        """A producer whose sends are acknowledged by all replicas."""

    async def look(self, topics: Collection[str]) -> Look:
        """The cluster's id and the ids of those of the topics that are there."""

    async def committed(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Committed]:
        """What the group has committed of these partitions."""

    async def close(self) -> None:
        """Let go of the connection that answers questions; the next question makes a new one."""


class Kafka:
    """The real one. `options` are the keyword arguments that every aiokafka client takes."""

    def __init__(self, options: Mapping[str, Any], request_timeout_s: float = 10.0) -> None:
        self._options, self._timeout_s = options, request_timeout_s
        self._client: Any = None
        self._has_ids = True

    def member(self, config: Config, group: str) -> Any:
        """A consumer of the group that commits only what it is told to."""
        return AIOKafkaConsumer(
            **self._options,
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
            # The broker answers as soon as there is a record; this is how often an idle sink asks for nothing.
            fetch_max_wait_ms=1_000,
            request_timeout_ms=int(config.request_timeout_s * 1000),
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )

    def reader(self) -> Any:
        """A consumer of no group."""
        return AIOKafkaConsumer(**self._options, auto_offset_reset="earliest", enable_auto_commit=False)

    def producer(self) -> Any:
        """A producer whose sends are acknowledged by all replicas."""
        return AIOKafkaProducer(**self._options, acks="all", max_request_size=8 * 1024 * 1024)

    async def look(self, topics: Collection[str]) -> Look:
        """The cluster's id and the ids of those of the topics that are there; unknown ids of a broker that has none."""
        try:
            async with asyncio.timeout(self._timeout_s):
                client = await self._connected()
                if self._has_ids and (found := await look(client, topics)):
                    return found
        except (KafkaError, TimeoutError):
            await self.close()
            raise
        return await self._look_without_ids(topics)

    async def committed(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Committed]:
        """What the group has committed of these partitions."""
        if not partitions:
            return {}
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    try:
                        return await self._committed(group, partitions)
                    except KafkaError as error:
                        if not error.retriable:
                            raise
                    await asyncio.sleep(RETRY_S)
        except (KafkaError, TimeoutError):
            await self.close()
            raise

    async def _committed(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Committed]:
        wanted: dict[str, list[int]] = {}
        for one in partitions:
            wanted.setdefault(one.topic, []).append(one.partition)
        client = await self._connected()
        coordinator = await client.coordinator_lookup(CoordinationType.GROUP, group)
        answer = await client.send(coordinator, OffsetFetchRequest(group, list(wanted.items())))
        # aiokafka overlooks the answer's own error: a coordinator that is still loading would pass for a group without offsets.
        found = [(topic, *one) for topic, group_of in answer.topics for one in group_of]
        if failed := [code for code in (getattr(answer, "error_code", 0), *(one[4] for one in found)) if code]:
            raise for_code(failed[0])()
        return {
            TopicPartition(topic, number): Committed(offset, metadata or UNKNOWN)
            for topic, number, offset, metadata, _ in found
            if offset >= 0
        }

    async def close(self) -> None:
        """Let go of the connection that answers questions; the next question makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            await ended(client.close(), self._timeout_s)

    async def _connected(self) -> Any:
        if self._client is None:
            client = AIOKafkaClient(**self._options, request_timeout_ms=int(1000 * self._timeout_s))
            self._client = client
            await client.bootstrap()
        return self._client

    async def _look_without_ids(self, topics: Collection[str]) -> Look:
        if self._has_ids:
            log.warning("the broker tells no topic ids; a topic made anew is known only by its end")
            self._has_ids = False
        client = AIOKafkaAdminClient(**self._options, request_timeout_ms=int(1000 * self._timeout_s))
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.start()
                cluster, there = await client.describe_cluster(), await client.list_topics()
            return Look(str(cluster["cluster_id"]), {one: UNKNOWN for one in topics if one in there})
        finally:
            await ended(client.close(), self._timeout_s)


def broker_of(kafka: Mapping[str, Any] | Broker, request_timeout_s: float = 10.0) -> Broker:
    """The broker behind connection arguments; a broker is one already."""
    return Kafka(kafka, request_timeout_s) if isinstance(kafka, Mapping) else kafka


async def ended(closing: Awaitable[None], timeout_s: float) -> None:
    """Close a client; one that cannot say good-bye to its broker is left, one that missed being told is told again."""
    with suppress(KafkaError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            await closing
