"""Live records of a topic, for people and for pipes."""

from __future__ import annotations

import json
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from pilothouse.broker import partitions
from pilothouse.terminal import clean
from schemas.codec import Received, decode, rfc3339
from schemas.masking import masked_data
from schemas.records import Heartbeat


async def tail(kafka: dict[str, Any], topic: str, as_json: bool, count: int | None, from_start: bool) -> None:
    """Print records until `count` are told or the reader goes away. Heartbeats are passed over."""
    known = await partitions(kafka, [topic])
    if topic not in known:
        raise ConnectionError(
            f"topic {topic} is not on the broker yet; start `pilothouse ingest`, which makes the topics"
        )
    consumer = AIOKafkaConsumer(
        **kafka, enable_auto_commit=False, auto_offset_reset="earliest" if from_start else "latest"
    )
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in known[topic]]
        consumer.assign(places)
        if from_start:
            for place in places:
                consumer.seek(place, 0)
        told = 0
        async for message in consumer:
            decoded = decode(message.headers, message.value, message.timestamp)
            if message.value and not isinstance(decoded, Heartbeat):
                sys.stdout.write(_line(message, decoded, as_json))
                sys.stdout.flush()
                told += 1
            if count and told >= count:
                return
    finally:
        await consumer.stop()


def _as_json(value: bytes) -> str:
    """In ASCII, which is the same to a machine and harmless to a terminal; what is no JSON without what a terminal obeys."""
    try:
        return json.dumps(masked_data(json.loads(value)), separators=(",", ":"))
    except (ValueError, RecursionError):
        return clean(value.decode(errors="replace"))


def _line(message: Any, decoded: Any, as_json: bool) -> str:
    if as_json or not isinstance(decoded, Received):
        return _as_json(message.value) + "\n"
    record = decoded.record
    what = next(
        (text for name in ("title", "summary", "body", "name") if (text := getattr(record, name, ""))),
        type(record).__name__,
    )
    where = getattr(record, "resource", "") or getattr(record, "id", "")
    return clean(f"{rfc3339(record.time_ms)} {record.cell} {where} {getattr(record, 'phase', '')} {what}") + "\n"
