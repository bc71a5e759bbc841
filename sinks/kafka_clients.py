"""The aiokafka clients of a sink: how they are made, and how they are let go of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from sinks.sink import Config


def consumer(kafka: Mapping[str, Any], config: Config, group: str) -> Any:
    """A member of the group that commits only what it is told to."""
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


async def cluster_id(kafka: Mapping[str, Any], config: Config) -> str:
    """Name of the cluster within which offsets mean something."""
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
