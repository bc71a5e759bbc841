"""What the consumer group gave a worker, and until when it may commit for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from aiokafka import ConsumerRebalanceListener, TopicPartition

from sinks.sink import Counts


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """`epoch` grows with every change; a batch of another epoch is not ours to write."""

    def __init__(self, settle_s: float, counts: Counts) -> None:
        self.epoch = 0
        self.partitions: frozenset[TopicPartition] = frozenset()
        self.is_assigned = False
        """Whether the group has spoken; not between the loss of partitions and what is given instead."""
        self.changed = asyncio.Event()
        self.writing = asyncio.Lock()
        self._settle_s, self._counts = settle_s, counts
        self._settling = 0

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Wait a little for the write under way, which belongs to the epoch before."""
        self._settling = self.epoch
        self._change(frozenset(), is_assigned=False)
        try:
            # Heartbeats still flow while this waits, so the write under way can end and commit under its own membership.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settle_s), self.writing:
                    pass
        finally:
            self._settling = 0

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Take note. Nothing slow here: aiokafka sends no heartbeat meanwhile; the loop opens the sink when it sees this."""
        self._change(frozenset(assigned), is_assigned=True)
        self._counts.rebalances += 1

    def may_commit(self, epoch: int) -> bool:
        """Whether offsets of that epoch are still ours to commit: a later commit would undo the next owner's."""
        return epoch in (self.epoch, self._settling)

    def _change(self, partitions: frozenset[TopicPartition], *, is_assigned: bool) -> None:
        self.epoch += 1
        self.partitions, self.is_assigned = partitions, is_assigned
        self.changed.set()
