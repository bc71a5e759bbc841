"""`pilothouse silence`: say that nobody is to be notified of something for a while, see who said so, and take it back.

What is said goes to the operations events of each cell meant, under a source of its own, so that the log holds it like
anything else that happened; what stands there is what is listed.
"""

from __future__ import annotations

import getpass
import re
import time
import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition

from pilothouse import kafka_log
from pilothouse.broker import partitions
from pilothouse.errors import Misuse
from schemas.codec import Envelope, Received, decode, encode, rfc3339
from schemas.records import OperationsEvent
from schemas.silences import EVENT, LONGEST_MS, Silence
from schemas.topics import OPERATIONS

UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}


class SilenceError(Misuse, ValueError):
    """What was asked cannot be done; the message says what would be right."""


class Held(NamedTuple):
    """A silence, and the cell that it is for."""

    cell: str
    silence: Silence

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        one = self.silence
        times = {"from": rfc3339(one.from_ms), "until": rfc3339(one.until_ms)}
        return {
            "id": one.id,
            "cell": self.cell,
            **one.model_dump(include={"cause", "tenant", "author", "reason"}),
            **times,
        }


def now_ms() -> int:
    """The clock of whoever speaks."""
    return int(time.time() * 1000)


def author() -> str:
    """Who is logged in."""
    return getpass.getuser()


def lasts_ms(text: str) -> int:
    """90m, 2h, 3d as ms. Raises SilenceError."""
    fits = re.fullmatch(r"^(\d{1,9}(?:\.\d{1,9})?)([mhd])", text)
    length_ms = round(float(fits[1]) * UNITS_S[fits[2]] * 1000) if fits else 0
    if not 0 < length_ms <= LONGEST_MS:
        raise SilenceError(f"--for {text} is no time; write 90m, 2h or 3d, at most {LONGEST_MS // 86_400_000}d")
    return length_ms


def made(cause: str | None, tenant: str | None, until_ms: int, author: str, reason: str, at_ms: int) -> Silence:
    """A new silence. Raises SilenceError when it cannot be one."""
    try:
        return Silence(
            id=uuid.uuid4().hex[:12], cause=cause, tenant=tenant, from_ms=at_ms, until_ms=until_ms, author=author, reason=reason
        )  # fmt: skip
    except ValueError as error:
        raise SilenceError(str(error)) from None


async def say(kafka: dict[str, Any], held: Iterable[Held], at_ms: int, prefix: str = "") -> None:
    """Put silences, as they are from `at_ms` on, into the log. Raises ConnectionError."""
    topic = prefix + OPERATIONS.name
    await _places(kafka, topic)
    producer = AIOKafkaProducer(**kafka, acks="all")
    await producer.start()
    try:
        for cell, silence in held:
            wire = encode(silence.event(cell, at_ms), Envelope(f"silence/{silence.id}/{cell}", at_ms, at_ms))
            await producer.send_and_wait(
                topic, wire.value, wire.key, headers=wire.headers, timestamp_ms=wire.timestamp_ms
            )
    finally:
        await producer.stop()


async def held(kafka: dict[str, Any], at_ms: int, prefix: str = "") -> list[Held]:
    """The silences that are not over, those that end first first. Raises ConnectionError."""
    places = await _places(kafka, prefix + OPERATIONS.name)
    reader, found = kafka_log.reader(kafka), dict[tuple[str, str], Silence]()
    await reader.start()
    try:
        async for message in kafka_log.read(reader, places):
            if EVENT.encode() not in (message.value or b""):
                continue
            decoded = decode(message.headers, message.value, message.timestamp)
            event = decoded.record if isinstance(decoded, Received) else None
            if isinstance(event, OperationsEvent) and (silence := Silence.of(event)):
                found[event.cell, silence.id] = silence
    finally:
        await reader.stop()
    open_now = (Held(cell, one) for (cell, _), one in found.items() if one.until_ms > at_ms)
    return sorted(open_now, key=lambda one: (one.silence.until_ms, one.cell, one.silence.id))


async def end(kafka: dict[str, Any], identity: str, author: str, at_ms: int, prefix: str = "") -> list[Held]:
    """End a silence now in all of its cells. Raises SilenceError when none that is not over has the id."""
    mine = [one for one in await held(kafka, at_ms, prefix) if one.silence.id == identity]
    if not mine:
        raise SilenceError(f"no silence {identity!r} goes on; `pilothouse silence list` says which do")
    over = [
        Held(cell, one.model_copy(update={"until_ms": at_ms, "reason": f"{one.reason} (ended by {author})"}))
        for cell, one in mine
    ]
    await say(kafka, over, at_ms, prefix)
    return over


def text(found: Iterable[Held]) -> str:
    """For people: one line a silence and cell."""
    lines = [
        f"{one.id}  {cell}  {one.cause or 'any cause'}{f' of {one.tenant}' if one.tenant else ''}  "
        f"until {rfc3339(one.until_ms)}  {one.author}: {one.reason}"
        for cell, one in found
    ]
    return "\n".join(lines) or "nothing is silenced"


async def _places(kafka: dict[str, Any], topic: str) -> list[TopicPartition]:
    known = await partitions(kafka, [topic])
    if topic not in known:
        raise ConnectionError(
            f"topic {topic} is not on the broker yet; start `pilothouse ingest`, which makes the topics"
        )
    return [TopicPartition(topic, number) for number in known[topic]]
