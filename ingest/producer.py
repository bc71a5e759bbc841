"""Writes batches to Kafka through aiokafka: idempotent, all replicas, one explicit batch a partition at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError

from ingest.rounds import Connect, Lane, TooLarge
from schemas.codec import Wire

log = logging.getLogger(__name__)

TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 2.0
COMPRESSION = "zstd"
ROOM_BYTES = 2**31 - 1  # batches are measured before they come here; the builder must not refuse a message


class UnsentError(Exception):
    """Kafka has not said in time that it has the batch."""


class KafkaProducer:
    """A producer with a deadline on everything. `prefix` stands before every topic's name."""

    def __init__(self, producer: AIOKafkaProducer, prefix: str, timeout_s: float) -> None:
        self._producer, self._prefix, self._timeout_s = producer, prefix, timeout_s

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises UnsentError naming the topic when nobody tells."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return len(await self._producer.partitions_for(self._prefix + topic))
        except TimeoutError:
            raise UnsentError(
                f"topic {self._prefix + topic} is not known to the brokers; make the topics first"
            ) from None

    async def store(self, batches: Mapping[Lane, Sequence[Wire]]) -> dict[Lane, Exception | None]:
        """Write one batch a lane and wait for all."""
        sending: dict[Lane, asyncio.Future[Any]] = {}
        try:
            async with asyncio.timeout(self._timeout_s):
                for lane, batch in batches.items():
                    sending[lane] = await self._producer.send_batch(
                        self._built(batch), self._prefix + lane.topic, partition=lane.partition
                    )
                    sending[lane].add_done_callback(_heard)
                await asyncio.wait(sending.values())
        except TimeoutError:
            log.debug("no answer within %s s", self._timeout_s)
        return {lane: _outcome(sending.get(lane)) for lane in batches}

    async def close(self) -> None:
        """Let go of everything, also when Kafka is away: stop() alone would flush until it is back."""
        try:
            async with asyncio.timeout(2 * CLOSE_TIMEOUT_S):
                await self._end_sending()
                # Nobody waits for what is left, and stop() must not either: whoever sent it takes the next producer.
                self._producer._message_accumulator._batches.clear()
                self._producer._message_accumulator._pending_batches.clear()
                await self._producer.stop()
        except Exception:
            log.exception("a producer does not close")

    async def _end_sending(self) -> None:
        """Take no more batches; requests under way end because their connections do."""
        sending = self._producer._sender.sender_task
        if sending is None:
            return
        sending.cancel()
        for connection in list(self._producer.client._conns.values()):
            connection.close()
        _, pending = await asyncio.wait([sending], timeout=CLOSE_TIMEOUT_S)
        for task in pending:  # it waits for a request that does not end: the second time that is cancelled too
            task.cancel()

    def _built(self, batch: Sequence[Wire]) -> Any:
        builder = self._producer.create_batch()
        for wire in batch:
            builder.append(key=wire.key, value=wire.value, timestamp=wire.timestamp_ms, headers=wire.headers)
        builder.close()
        return builder


def connector(kafka: Mapping[str, Any], prefix: str = "", timeout_s: float = TIMEOUT_S) -> Connect:
    """What makes producers from aiokafka's connection options."""

    async def connect() -> KafkaProducer:
        producer = AIOKafkaProducer(
            **kafka,
            acks="all",
            enable_idempotence=True,
            compression_type=COMPRESSION,
            max_batch_size=ROOM_BYTES,
            request_timeout_ms=int(timeout_s * 1000),
        )
        connected = KafkaProducer(producer, prefix, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await producer.start()
        except BaseException:
            await connected.close()
            raise
        return connected

    return connect


def _heard(sent: asyncio.Future[Any]) -> None:
    """A failure that comes after the deadline is known to nobody, and need not be."""
    if not sent.cancelled():
        sent.exception()


def _outcome(sent: asyncio.Future[Any] | None) -> Exception | None:
    if sent is None or not sent.done():
        return UnsentError("no answer in time")
    error = sent.exception()
    if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
        return TooLarge(repr(error))
    return error if error is None or isinstance(error, Exception) else UnsentError(repr(error))
