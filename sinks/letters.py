"""To the dead letters: what a sink cannot read or can never store, whole if it fits, else its beginning.

Anybody may write to Kafka, so what is refused may be anything: a letter that cannot be made or that Kafka does not take
is made smaller and plainer, and at last of the place alone. Only a Kafka that is away holds a sink up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, RecordTooLargeError

from schemas.codec import Rejected, Wire, dead_letter, encode_dead_letter
from schemas.masking import masked
from sinks.kafka_clients import Broker, ended
from sinks.sink import Config, Counts

log = logging.getLogger(__name__)

TRUNCATED_BYTES = 512 * 1024
"""What is kept of a payload that is too large for the dead letters' topic."""
HEADER_BYTES, HEADERS = 1024, 32
"""What is kept of headers then."""
TIME_MS_MAX = 10_000_000_000_000 - 1
TOO_LARGE = (MessageSizeTooLargeError, RecordTooLargeError)


def now_ms() -> int:
    """The clock that stands in for a time that no record can have."""
    return time.time_ns() // 1_000_000


class Letters:
    """Sends dead letters, one producer for all; a producer that failed is made anew."""

    def __init__(
        self, sink: str, broker: Broker, config: Config, counts: Counts, clock: Callable[[], int] = now_ms
    ) -> None:
        self._sink, self._broker, self._config, self._counts, self._clock = sink, broker, config, counts, clock
        self._producer: Any = None

    async def send(
        self, rejected: Rejected, time_ms: int, key: bytes | None, headers: Iterable[tuple[str, bytes]], place: Any
    ) -> None:
        """Return when the letter is in Kafka. Raises KafkaTimeoutError, and then the record comes again."""
        self._counts.rejected += 1
        if not 0 <= time_ms <= TIME_MS_MAX:
            rejected = replace(rejected, detail=f"{rejected.detail} (its Kafka timestamp is {time_ms})")
            time_ms = self._clock()
        rejected = replace(rejected, detail=masked(rejected.detail))
        more = {
            "rejected_by": f"sink.{self._sink}",
            "time_ms": time_ms,
            "key": key,
            "headers": [(name, text or b"") for name, text in headers or ()],
            **place,
        }
        for number, (one, parts) in enumerate(_forms(rejected, more)):
            try:
                wire = encode_dead_letter(dead_letter(one, **parts))
                await self._put(wire)
            except (ValueError, *TOO_LARGE):
                continue
            self._counts.letters_cut += number > 0
            return
        self._counts.letters_lost += 1
        log.error("no dead letter could be made of a record", extra={"sink": self._sink, **place})

    async def _put(self, wire: Wire) -> None:
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                producer = await self._ready()
                # Under the time of the refusal: Kafka does not take a record's own when it lies ahead, and lets go of it
                # at once when it lies far back.
                await producer.send_and_wait(
                    self._config.topic_prefix + self._config.dead_letters,
                    wire.value,
                    wire.key,
                    headers=wire.headers,
                )
        except TOO_LARGE:
            raise
        except (KafkaError, TimeoutError) as error:
            await self.close()
            raise KafkaTimeoutError(f"no dead letter could be sent: {error!r}") from error

    async def _ready(self) -> Any:
        if self._producer is None:
            self._producer = self._broker.producer()
            await self._producer.start()
        return self._producer

    async def close(self) -> None:
        """Let go of the producer; the next letter makes a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await ended(producer.stop(), self._config.request_timeout_s)


def _forms(rejected: Rejected, more: Mapping[str, Any]) -> Iterator[tuple[Rejected, dict[str, Any]]]:
    """The letter as it should be, then its beginning, then the place alone."""
    yield rejected, dict(more)
    headers = [(name[:HEADER_BYTES], text[:HEADER_BYTES]) for name, text in more["headers"][:HEADERS]]
    key = more["key"] and more["key"][:HEADER_BYTES]
    size = len(rejected.payload)
    detail = f"{_plain(rejected.detail)} (the first {min(size, TRUNCATED_BYTES)} of {size} bytes are kept)"
    yield (
        Rejected(rejected.reason, detail, rejected.payload[:TRUNCATED_BYTES]),
        {**more, "headers": _named(headers), "key": key},
    )
    yield (
        Rejected(rejected.reason, f"{_plain(rejected.detail)} (none of {size} bytes are kept)", b""),
        {**more, "headers": [], "key": None},
    )


def _named(headers: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return [(_plain(name), text) for name, text in headers]


def _plain(text: str) -> str:
    """A text that JSON and UTF-8 can hold."""
    return text[:4_000].encode("utf-8", "replace").decode()
