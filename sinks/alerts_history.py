"""The incidents that stood in the log before a route takes up its partitions: they say what it has been told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import TopicPartition

from schemas.codec import Received
from schemas.records import Incident
from sinks.intake import readable, whole
from sinks.kafka_clients import Broker, broker_of, ended

Recall = Callable[[TopicPartition, Incident, bool], None]
"""Takes an incident of a partition; the last argument says whether the route is past it or has yet to read it."""


class History:
    """The incidents that stood in the log before a route takes up its partitions."""

    def __init__(self, kafka: Mapping[str, Any] | Broker, group: str, timeout_s: float) -> None:
        self._broker, self._group, self._timeout_s = broker_of(kafka, timeout_s), group, timeout_s

    async def read(
        self,
        partitions: frozenset[TopicPartition],
        since_ms: int,
        recall: Recall,
        committed: Mapping[TopicPartition, int] | None = None,
    ) -> dict[TopicPartition, int]:
        """Show each incident to `recall`; where the route goes on reading, by partition.

        Where it has committed, it goes on there, and has been told what stands before. Where it never has, it begins
        at `since_ms`. What is `committed` is asked of the group unless it is given. Raises KafkaError or TimeoutError.
        """
        if not partitions:
            return {}
        if committed is None:
            committed = {one: at.offset for one, at in (await self._broker.committed(self._group, partitions)).items()}
        committed = {one: offset for one, offset in committed.items() if one in partitions}
        reader = self._broker.reader()
        try:
            async with asyncio.timeout(self._timeout_s):
                await reader.start()
                reader.assign(list(partitions))
                first = await self._first(reader, partitions, since_ms)
                ends = await reader.end_offsets(list(partitions))
            starts = {one: max(committed.get(one, first[one]), first[one]) for one in partitions}
            stops = {one: starts[one] if one in committed else ends[one] for one in partitions}
            await self._show(reader, first, stops, frozenset(committed), recall)
            return starts
        finally:
            await ended(reader.stop(), self._timeout_s)

    async def _first(
        self, reader: Any, partitions: frozenset[TopicPartition], since_ms: int
    ) -> dict[TopicPartition, int]:
        """The first offset since that time."""
        found = await reader.offsets_for_times(dict.fromkeys(partitions, max(0, since_ms)))
        ends = await reader.end_offsets(list(partitions))
        return {one: found[one].offset if found.get(one) else ends[one] for one in partitions}

    async def _show(
        self,
        reader: Any,
        first: Mapping[TopicPartition, int],
        stops: Mapping[TopicPartition, int],
        committed: frozenset[TopicPartition],
        recall: Recall,
    ) -> None:
        left = {one for one in stops if first[one] < stops[one]}
        # Not assigned anew: aiokafka's fetcher, which then lets go of its fetches, misses being told to stop.
        reader.pause(*(stops.keys() - left))
        for one in left:
            reader.seek(one, first[one])
        while left:
            async with asyncio.timeout(self._timeout_s):
                got = await reader.getmany(timeout_ms=1000)
            for partition, records in got.items():
                for record in records:
                    if record.offset < stops[partition]:
                        _show_one(partition, record, partition in committed, recall)
                if records[-1].offset + 1 >= stops[partition]:
                    left.discard(partition)
                    reader.pause(partition)


def _show_one(partition: TopicPartition, record: Any, is_told: bool, recall: Recall) -> None:
    content = readable(whole(record.headers), record.value or b"", record.timestamp)
    if isinstance(content, Received) and isinstance(content.record, Incident):
        recall(partition, content.record, is_told)
