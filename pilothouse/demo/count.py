"""Counts what was handed over and what the store holds: lost and duplicates, by source and sequence.

What was handed over stands in the input topics (and, until Kafka has it, in the spool). What the store holds is one
row a record in its ledger.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from pilothouse.broker import partitions
from schemas.records import DeadLetter, Heartbeat
from schemas.topics import INPUTS

OTHERS = (Heartbeat.type.encode(), DeadLetter.type.encode())

SETTLE_TIMEOUT_S = 30.0

Named = tuple[str, int]


async def count(kafka: dict[str, Any], prefix: str, database_url: str, spool: Path) -> dict[str, int]:
    """`records_in`, `points_in`, `lost` and `duplicates`; waits until the store has caught up, a while at most."""
    handed_over = await _handed_over(kafka, [prefix + topic.name for topic in INPUTS])
    stored: Counter[Named] = Counter()
    points = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            while True:
                stored, points = await _stored(database_url)
                if handed_over <= stored.keys():
                    break
                await asyncio.sleep(1)
    return {
        "records_in": len(handed_over),
        "points_in": points,
        "lost": len(handed_over - stored.keys()) + await asyncio.to_thread(_in_spool, spool),
        "duplicates": sum(rows - 1 for rows in stored.values()),
    }


async def _handed_over(kafka: dict[str, Any], topics: Sequence[str]) -> set[Named]:
    known = await partitions(kafka, topics)
    reader = AIOKafkaConsumer(**kafka, enable_auto_commit=False, auto_offset_reset="earliest")
    await reader.start()
    try:
        places = [TopicPartition(topic, number) for topic, numbers in known.items() for number in numbers]
        reader.assign(places)
        ends = await reader.end_offsets(places)
        for place in places:
            reader.seek(place, 0)
        found: set[Named] = set()
        while any([await reader.position(place) < ends[place] for place in places]):
            for messages in (await reader.getmany(timeout_ms=1_000)).values():
                found.update(named for message in messages if (named := _named(message)))
        return found
    finally:
        await reader.stop()


def _named(message: Any) -> Named | None:
    headers = dict(message.headers)
    if headers.get("ce_type") in OTHERS or "ce_sequence" not in headers:
        return None
    return headers["ce_source"].decode(), int(headers["ce_sequence"])


async def _stored(database_url: str) -> tuple[Counter[Named], int]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT source, sequence, count(*) AS rows FROM records GROUP BY 1, 2")
        stored = Counter({(row["source"], row["sequence"]): row["rows"] for row in rows})
        return stored, await connection.fetchval("SELECT count(*) FROM metrics")
    finally:
        await connection.close()


def _in_spool(spool: Path) -> int:
    if not spool.exists():
        return 0
    with closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True)) as db:
        found: int = db.execute("SELECT count(*) FROM outbox WHERE type != ?", (Heartbeat.type,)).fetchone()[0]
        return found
