"""`pilothouse explain`: finds a signal or an incident in the log, with what belongs to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeGuard

from aiokafka import AIOKafkaConsumer, TopicPartition

from pilothouse import kafka_log
from pilothouse.broker import partitions
from pilothouse.explanation import Measured, Told, answer
from schemas.calendar import Calendar
from schemas.codec import Received, decode, rfc3339
from schemas.estate import Estate
from schemas.records import Incident, Record, Scrape, Signal
from schemas.topics import DETECTIONS, INCIDENTS, METRICS

RECORDS_MAX = 500_000  # of the metrics; more are not read, which is said


class UnknownId(LookupError):  # noqa: N818 (it is an answer)
    """No telling of such an id stands in the log; the message says what is known."""


async def explain(
    kafka: dict[str, Any], identity: str, estate: Estate | None = None, prefix: str = ""
) -> dict[str, Any]:
    """The explanation of a signal or incident. Raises UnknownId, and ConnectionError when the broker is away."""
    names = [prefix + topic.name for topic in (DETECTIONS, INCIDENTS, METRICS)]
    known = await partitions(kafka, names)
    if names[0] not in known:
        raise ConnectionError(f"topic {names[0]} is not on the broker; is PILOTHOUSE_KAFKA the right one?")
    detections, incidents, metrics = ([TopicPartition(name, one) for one in known.get(name, [])] for name in names)
    reader = kafka_log.reader(kafka)
    await reader.start()
    try:
        told, partition = await _told(reader, identity, detections, incidents)
        if partition is None:
            since = [at for place in (*detections, *incidents) if (at := await kafka_log.begins_ms(reader, place))]
            raise UnknownId(_unknown(identity, min(since, default=None)))
        place = next((one for one in metrics if one.partition == partition), None)
        measured, notes = await _measured(reader, told, place)
    finally:
        await reader.stop()
    return answer(told, measured, notes, _calendar(estate, told))


async def _told(
    reader: AIOKafkaConsumer, identity: str, detections: list[TopicPartition], incidents: list[TopicPartition]
) -> tuple[Told, int | None]:
    """Every telling of the id, of the incidents that hold it, and of the signals that an incident joins."""
    told, partition = Told(identity), None
    stories = {one.id async for _, one in _records(reader, incidents, [identity]) if _holds(one, identity)}
    async for found, one in _records(reader, incidents, stories):
        if isinstance(one, Incident) and one.id in stories:
            told.incidents.setdefault(one.id, []).append(one)
            partition = found if partition is None or one.id == identity else partition
    wanted = {identity} | {signal for one in told.incidents.get(identity, ()) for signal in one.signals}
    async for found, one in _records(reader, detections, wanted):
        if isinstance(one, Signal) and one.id in wanted:
            told.signals.setdefault(one.id, []).append(one)
            partition = found
    return told, partition


def _holds(one: Record, identity: str) -> TypeGuard[Incident]:
    """Whether an incident is asked for, or joins, inhibits or contains what is."""
    return isinstance(one, Incident) and (
        identity in (one.id, *one.signals)
        or any(other.signal == identity for other in one.inhibited)
        or any(part.incident == identity for part in one.parts)
    )


async def _records(
    reader: AIOKafkaConsumer, places: list[TopicPartition], words: Iterable[str]
) -> AsyncIterator[tuple[int, Record]]:
    """Partition and record of every message that holds one of the words. Each record once, however often it stands."""
    needles, seen = [word.encode() for word in words], set[bytes]()
    async for message in kafka_log.read(reader, places if needles else []):
        if not message.value or message.value in seen or not any(needle in message.value for needle in needles):
            continue
        seen.add(message.value)
        decoded = decode(message.headers, message.value, message.timestamp)
        if isinstance(decoded, Received):
            yield message.partition, decoded.record


async def _measured(reader: AIOKafkaConsumer, told: Told, place: TopicPartition | None) -> tuple[Measured, list[str]]:
    """The values around the episode, and what is missing of them."""
    measured, (from_ms, to_ms) = Measured(told.series()), told.window()
    if place is None:
        return measured, ["the metrics' topic is not on the broker, so nothing measured is shown"]
    if not measured.points:
        return measured, ["its evidence names no series, so nothing measured is shown"]
    notes = []
    oldest = await kafka_log.begins_ms(reader, place)
    if oldest is not None and oldest > from_ms:
        gone = "all" if oldest > to_ms else "a part"
        notes.append(
            f"the log has dropped {gone} of the metrics around it: it begins at {rfc3339(oldest)}, "
            f"wanted is {rfc3339(from_ms)} to {rfc3339(to_ms)}"
        )
    count = 0
    async for message in kafka_log.read(reader, [place], from_ms):
        if message.timestamp > to_ms:
            break
        count += 1
        if count > RECORDS_MAX:
            notes.append(
                f"only the first {RECORDS_MAX} records of metrics are shown, up to {rfc3339(message.timestamp)}"
            )
            break
        decoded = decode(message.headers, message.value, message.timestamp)
        if isinstance(decoded, Received) and isinstance(decoded.record, Scrape) and decoded.record.cell == told.cell:
            measured.take(decoded.record)
    return measured, notes


def _calendar(estate: Estate | None, told: Told) -> Calendar | None:
    if estate is None:
        return None
    last = told.asked[-1] if told.asked else None
    own = (last.tenant, *last.tenants) if isinstance(last, Signal) else last.tenants if last else ()
    return estate.calendar_of(told.cell, next((one for one in own if one), None))


def _unknown(identity: str, since_ms: int | None) -> str:
    reach = f"which goes back to {rfc3339(since_ms)}" if since_ms else "of which nothing was dropped yet"
    return (
        f"no signal or incident {identity!r} stands in the log, {reach}; "
        f"`pilothouse topics tail {DETECTIONS.name} --from-start -o json` lists what does"
    )
