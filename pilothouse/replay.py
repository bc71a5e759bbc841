"""A window of the log through the steps again, isolated: the same records must give the same signals.

The log is folded from its beginning, because state depends on all of it, and what falls into the window is told. With
`compare`, the live signals of the window are read and set against it byte for byte, each told once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from pilothouse import kafka_log
from pilothouse.broker import partitions
from processors.fold import PartitionFold, Plan
from schemas.codec import Rejected, decode, encode
from schemas.topics import INPUTS, SIGNALS


class Window(NamedTuple):
    """Recorded time, Unix ms; the end excluded."""

    from_ms: int
    to_ms: int


@dataclass
class Result:
    """What the replay told, and how it compares with what was told live."""

    window: Window
    told: list[bytes] = field(default_factory=list)
    live: list[bytes] | None = None
    records: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> list[bytes]:
        """Told live, not by the replay."""
        return [] if self.live is None else [one for one in self.live if one not in set(self.told)]

    @property
    def extra(self) -> list[bytes]:
        """Told by the replay, not live."""
        return [] if self.live is None else [one for one in self.told if one not in set(self.live)]

    @property
    def differs(self) -> bool:
        """Whether the replay and the live run disagree."""
        return bool(self.missing or self.extra)

    def summary(self) -> dict[str, Any]:
        """For machines."""
        answer: dict[str, Any] = {"signals": len(self.told), "records": self.records, "counts": dict(self.counts)}
        if self.live is not None:
            answer |= {"live": len(self.live), "missing": len(self.missing), "extra": len(self.extra)}
            answer["differences"] = [one.decode() for one in (*self.missing[:10], *self.extra[:10])]
        return answer

    def text(self) -> str:
        """For people."""
        line = f"{self.records} records folded, {len(self.told)} signals and incidents in the window"
        if self.live is None:
            return line
        verdict = f"{len(self.missing)} missing, {len(self.extra)} extra" if self.differs else "the same byte for byte"
        return f"{line}; live told {len(self.live)}: {verdict}"


async def replay(
    kafka: dict[str, Any], plans: Sequence[Plan], window: Window, prefix: str = "", *, compare: bool = False
) -> Result:
    """Fold the log of every partition up to the window's end, with each plan that which it reads.

    The fleet's plan reads what the cells told it live. Raises ValueError when the window is empty.
    """
    if window.to_ms <= window.from_ms:
        raise ValueError(f"the window ends at {window.to_ms} ms, not after its begin at {window.from_ms} ms")
    known = await partitions(kafka, [prefix + topic.name for topic in (*INPUTS, *SIGNALS)])
    first = prefix + INPUTS[0].name
    if first not in known:
        raise ConnectionError(f"topic {first} is not on the broker; is PILOTHOUSE_KAFKA the right one?")
    reader = kafka_log.reader(kafka)
    await reader.start()
    try:
        result = Result(window)
        for plan in plans:
            for partition in known[first]:
                await _fold(reader, plan, partition, prefix, result)
        if compare:
            places = [
                TopicPartition(prefix + topic.name, one) for topic in SIGNALS for one in known[prefix + topic.name]
            ]
            result.live = await _live(reader, places, window)
        return result
    finally:
        await reader.stop()


async def _fold(reader: AIOKafkaConsumer, plan: Plan, partition: int, prefix: str, result: Result) -> None:
    fold = PartitionFold(plan)
    topics = {prefix + plan.inputs[place].name: place for place in plan.listens}
    async for message in kafka_log.read(reader, [TopicPartition(name, partition) for name in topics]):
        result.records += 1
        decoded = decode(message.headers, message.value, message.timestamp)
        readable = None if isinstance(decoded, Rejected) else decoded
        for found in fold.feed(topics[message.topic], message.offset, readable, message.timestamp):
            if result.window.from_ms <= found.envelope.recorded_ms < result.window.to_ms:
                result.told.append(encode(found.record, found.envelope).value)
        if fold.order.horizon_ms >= result.window.to_ms:
            break
    result.counts += fold.counts + Counter(late=fold.order.late, doubted=fold.order.doubted)


async def _live(reader: AIOKafkaConsumer, places: list[TopicPartition], window: Window) -> list[bytes]:
    told: dict[bytes, None] = {}
    async for message in kafka_log.read(reader, places):
        if window.from_ms <= message.timestamp < window.to_ms:
            told[message.value] = None
    return list(told)
