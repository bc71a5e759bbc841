"""To the dead letters: what a sink cannot read or can never store, whole if it fits, else its beginning."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from schemas.codec import Rejected, dead_letter, encode_dead_letter
from sinks.kafka_clients import ended
from sinks.sink import Config, Counts

TRUNCATED_BYTES = 512 * 1024
"""What is kept of a payload that is too large for the dead letters' topic."""


class Letters:
    """Sends dead letters, one producer for all; a producer that failed is made anew."""

    def __init__(self, sink: str, kafka: Mapping[str, Any], config: Config, counts: Counts) -> None:
        self._sink, self._kafka, self._config, self._counts = sink, kafka, config, counts
        self._producer: Any = None

    async def send(
        self, rejected: Rejected, time_ms: int, key: bytes | None, headers: Iterable[tuple[str, bytes]], place: Any
    ) -> None:
        """Return when the letter is in Kafka. Raises KafkaTimeoutError, and then the record comes again."""
        self._counts.rejected += 1
        more = {"rejected_by": f"sink.{self._sink}", "time_ms": time_ms, "key": key, "headers": headers, **place}
        try:
            await self._put(dead_letter(rejected, **more))
        except MessageSizeTooLargeError:
            self._counts.letters_cut += 1
            detail = f"{rejected.detail} (the first {TRUNCATED_BYTES} of {len(rejected.payload)} bytes are kept)"
            cut = Rejected(rejected.reason, detail, rejected.payload[:TRUNCATED_BYTES])
            await self._put(dead_letter(cut, **more))

    async def _put(self, letter: Any) -> None:
        wire = encode_dead_letter(letter)
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                producer = await self._ready()
                await producer.send_and_wait(
                    self._config.topic_prefix + self._config.dead_letters,
                    wire.value,
                    wire.key,
                    headers=wire.headers,
                    timestamp_ms=wire.timestamp_ms,
                )
        except MessageSizeTooLargeError:
            raise
        except (KafkaError, TimeoutError) as error:
            await self.close()
            raise KafkaTimeoutError(f"no dead letter could be sent: {error!r}") from error

    async def _ready(self) -> Any:
        if self._producer is None:
            self._producer = AIOKafkaProducer(**self._kafka, acks="all", max_request_size=8 * 1024 * 1024)
            await self._producer.start()
        return self._producer

    async def close(self) -> None:
        """Let go of the producer; the next letter makes a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await ended(producer.stop(), self._config.request_timeout_s)
