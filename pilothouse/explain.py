"""`pilothouse explain`: finds a signal or an incident in the log, or in a file of findings, with what belongs to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from pilothouse import kafka_log
from pilothouse.broker import partitions
from pilothouse.errors import Misuse
from pilothouse.explanation import Measured, Told, UnknownId, answer, holds, whole_id
from schemas.calendar import Calendar
from schemas.codec import Received, decode, rfc3339
from schemas.estate import Estate
from schemas.records import Incident, Record, Scrape, Signal
from schemas.topics import DETECTIONS, INCIDENTS, METRICS

LINE_BYTES_MAX = 32 * 2**20
RECORDS_MAX = 500_000  # of the metrics; more are not read, which is said


class Unreadable(Misuse, ValueError):  # noqa: N818 (it is an answer)
    """A file holds something else than findings; the message says where."""


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
            every = [one async for _, one in _records(reader, [*detections, *incidents], [identity])]
            whole = whole_id(identity, every)
            told, partition = await _told(reader, whole, detections, incidents) if whole else (told, None)
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
    stories = {one.id async for _, one in _records(reader, incidents, [identity]) if holds(one, identity)}
    async for found, one in _records(reader, incidents, stories):
        if isinstance(one, Incident) and one.id in stories:
            told.incidents.setdefault(one.id, []).append(one)
            partition = found if partition is None or one.id == identity else partition
    wanted = told.wanted()
    async for found, one in _records(reader, detections, wanted):
        if isinstance(one, Signal) and one.id in wanted:
            told.signals.setdefault(one.id, []).append(one)
            partition = found
    return told, partition


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
    if not measured.is_wanted:
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


def explain_file(path: Path, identity: str, estate: Estate | None = None) -> dict[str, Any]:
    """The explanation of what a file of JSON lines tells, as `replay --out` and `simulate --out` write it.

    Raises UnknownId, Unreadable, and OSError.
    """
    found = [one for one in _lines(path) if isinstance(one, Signal | Incident)]
    whole = whole_id(identity, found) or identity
    told = Told.of(whole, found)
    if not told.asked and not told.incidents:
        raise UnknownId(f"no signal or incident {identity!r} stands in {path}, which tells of {_counted(found)}")
    measured, (from_ms, to_ms) = Measured(told.series()), told.window()
    for one in _lines(path) if measured.is_wanted else ():
        if isinstance(one, Scrape) and one.cell == told.cell and from_ms <= one.time_ms <= to_ms:
            measured.take(one)
    nothing = measured.is_wanted and not any(measured.points.values())
    notes = [f"{path} holds no metrics around it, so nothing measured is shown"] if nothing else []
    return answer(told, measured, notes, _calendar(estate, told))


def _lines(path: Path) -> Iterator[Record]:
    """The findings and the scrapes of a file; its other lines are passed over."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), 1):
            if len(line) > LINE_BYTES_MAX:
                raise Unreadable(f"{path}, line {number} has more than {LINE_BYTES_MAX} bytes; no record has so many")
            try:
                record = _record(orjson.loads(line)) if line.strip() else None
            except (ValueError, RecursionError) as error:  # pydantic's and orjson's are ValueErrors
                why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
                raise Unreadable(
                    f"{path}, line {number}: {why}; wanted are JSON lines as `replay --out` or `simulate --out` writes"
                ) from error
            if record is not None:
                yield record


def _record(line: Any) -> Record | None:
    if not isinstance(line, dict):
        return None
    if "signal" in line or "detector" in line:
        return Signal.model_validate(line.get("signal", line))
    if "incident" in line or "causes" in line:
        return Incident.model_validate(line.get("incident", line))
    return Scrape.model_validate(line.get("record")) if line.get("type") == Scrape.type else None


def _counted(found: Sequence[Record]) -> str:
    signals = {one.id: f"signal, {one.cause}" for one in found if isinstance(one, Signal)}
    incidents = {one.id: f"incident, {one.title}" for one in found if isinstance(one, Incident)}
    listed = "".join(f"\n  {name}  {what}" for name, what in list((incidents | signals).items())[:10])
    return f"{len(signals)} signals and {len(incidents)} incidents{':' if listed else ''}{listed}"
