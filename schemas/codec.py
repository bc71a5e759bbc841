"""Bytes to records and back: CloudEvents 1.0 in Kafka's binary mode, JSON body.

Decoding never raises: bad bytes are a value, not an accident. Of a scrape, one bad column costs itself only: the record comes
without it, and what was left out comes beside it as `refused`. Headers are `ce_*`, UTF-8; extensions used are
`partitionkey`, `sequence` and `recordedtime`, and W3C `traceparent`.
Source: CloudEvents 1.0.2, Kafka protocol binding.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson
from pydantic import ValidationError

from schemas.masking import masked, masked_bytes, masked_data
from schemas.records import (
    BusinessBatch,
    Change,
    DeadLetter,
    Heartbeat,
    Incident,
    LogBatch,
    OperationsEvent,
    Record,
    Scrape,
    SecurityEvent,
    Signal,
    SpanBatch,
)
from schemas.series import join, layout, split

Headers = list[tuple[str, bytes]]

RECORD_TYPES: tuple[type[Record], ...] = (
    Scrape,
    LogBatch,
    SpanBatch,
    Change,
    BusinessBatch,
    OperationsEvent,
    SecurityEvent,
    Signal,
    Incident,
)
BY_TYPE: dict[str, type[Record] | type[Heartbeat]] = {
    **{model.type: model for model in RECORD_TYPES},
    Heartbeat.type: Heartbeat,
}
_FAMILIES = {name.rpartition(".v")[0] for name in BY_TYPE}
MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
END_MS = 10_000_000_000_000  # the first instant that no record has, in the year 2286
SOURCE_MAX = 255  # characters
HEADERS_MAX, HEADER_MAX, KEY_MAX = 100, 4_096, 4_096  # of a dead letter: how many, and characters of each
_SEQUENCE = re.compile(rb"[0-9]{1,19}")
SEQUENCE_MAX = 2**63 - 1  # what every JSON reader and database can hold


class Reason(StrEnum):
    """Why a record can never be processed, however often it is tried."""

    INVALID = "invalid"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    OVERSIZED = "oversized"
    FAILED = "failed"
    AHEAD = "ahead"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What travels beside the body.

    `source` and `sequence` name the record for good: a source's sequence only grows, so a second delivery of a
    record is known by a sequence that is not above the last one seen. `recorded_ms` is when it was observed, which
    is the Kafka timestamp.
    """

    source: str
    sequence: int
    recorded_ms: int

    @property
    def id(self) -> str:
        """CloudEvents id, unique within the source."""
        return str(self.sequence)


@dataclass(frozen=True, slots=True)
class Wire:
    """A record as Kafka carries it."""

    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Received:
    """A record that was read, with what travelled beside it."""

    envelope: Envelope
    record: Record
    refused: Rejected | None = None
    """What was left out of the record, for the dead letters: the same record with its bad columns alone."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes we refuse, and why; the shell turns it into a dead letter."""

    reason: Reason
    detail: str
    payload: bytes


def encode(record: Record, envelope: Envelope, traceparent: str | None = None) -> Wire:
    """The Kafka message of a record; its key is the cell."""
    wire = enclose(record.type, record.cell, record.time_ms, record.model_dump_json().encode(), envelope)
    if traceparent:
        wire.headers.append(("traceparent", traceparent.encode()))
    return wire


def enclose(event_type: str, key: str, time_ms: int, body: bytes, envelope: Envelope) -> Wire:
    """The Kafka message of a record whose body is JSON already, as a spool keeps it."""
    return Wire(key.encode(), body, _headers(event_type, envelope, time_ms, key), envelope.recorded_ms)


def encode_heartbeat(beat: Heartbeat, sent_ms: int | None = None) -> Wire:
    """The Kafka message of a heartbeat, which has no key: it is written to partitions by number.

    Its timestamp is what the publisher's clock says as it is sent, `sent_ms`: by that readers tell a clock that went wrong from a
    publisher that tells history or drains what has waited.
    """
    headers: Headers = [("ce_type", Heartbeat.type.encode()), ("ce_source", beat.publisher.encode())]
    return Wire(None, beat.model_dump_json().encode(), headers, max(beat.time_ms, sent_ms or 0))


def decode(
    headers: Iterable[tuple[str, bytes]] | None, value: bytes | None, timestamp_ms: int
) -> Received | Heartbeat | Rejected:
    """The record in a Kafka message, whatever its type. Never raises, whatever the bytes, headers and timestamp are."""
    payload = value or b""
    try:
        return _decoded(dict(headers or ()), payload, timestamp_ms)
    except ValidationError as error:
        return Rejected(Reason.INVALID, explain(error), payload)
    except orjson.JSONDecodeError as error:
        return Rejected(Reason.INVALID, f"the body must be JSON; {error}", payload)
    except Exception as error:  # noqa: BLE001 (others write to the topics as well: whatever they write is a value)
        return Rejected(Reason.INVALID, f"it cannot be read: {type(error).__name__}: {_readable(error)}", payload)


def _decoded(fields: dict[str, bytes], payload: bytes, timestamp_ms: int) -> Received | Heartbeat | Rejected:
    if len(payload) > MAX_PAYLOAD_BYTES:
        return Rejected(Reason.OVERSIZED, f"{len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read", payload)
    event_type = (fields.get("ce_type") or b"").decode(errors="replace")
    model = BY_TYPE.get(event_type)
    if model is None:
        return Rejected(*_unknown(event_type[:HEADER_MAX]), payload)
    # orjson and pydantic one after the other take two thirds of the time of pydantic's own JSON.
    record, refused = _validated(model, orjson.loads(payload))
    if isinstance(record, Heartbeat):
        return record
    source, sequence = fields.get("ce_source") or b"", fields.get("ce_sequence") or b""
    is_number = bool(_SEQUENCE.fullmatch(sequence)) and int(sequence) <= SEQUENCE_MAX
    if not 0 < len(source) <= SOURCE_MAX or not source.decode().isprintable() or not is_number:
        said = f"{source[:100]!r} and {sequence[:100]!r}"
        wanted = f"at most {SOURCE_MAX} printable bytes, and a whole number below 2^63"
        return Rejected(
            Reason.INVALID, f"headers ce_source and ce_sequence name a record: {wanted}; got {said}", payload
        )
    if not 0 <= timestamp_ms < END_MS:
        detail = f"the Kafka timestamp is when it was recorded, Unix ms from 0 to {END_MS - 1}; got {timestamp_ms}"
        return Rejected(Reason.INVALID, detail, payload)
    return Received(Envelope(source.decode(), int(sequence), timestamp_ms), record, refused)


def _validated(model: type[Record] | type[Heartbeat], body: Any) -> tuple[Record | Heartbeat, Rejected | None]:
    """The record of a body and what was left out of it. Raises ValidationError when nothing can be saved."""
    refused = None
    if model is Scrape and isinstance(body, dict) and isinstance(series := body.get("series"), str):
        known = layout(series)  # one look-up for a layout that was seen before
        body["series"] = known.text
        if known.kept is not None:
            body, refused = parted(body)
    try:
        return model.model_validate(body), refused
    except ValidationError as error:
        if refused or not any(item["loc"][:1] == ("values",) and len(item["loc"]) > 1 for item in error.errors()):
            raise
        body, refused = parted(body)
        return model.model_validate(body), refused


def parted(body: Any) -> tuple[Any, Rejected | None]:
    """A scrape's JSON without the columns that can never be read, and those as they came; columns are in order after it.

    A layout and values of different lengths cannot be told apart: such a body comes back as it is, to be refused as a whole.
    So does one of which no column is left.
    """
    known, values = layout(body["series"]), body.get("values")
    if not isinstance(values, list) or len(values) != known.width:
        return body, None
    why = {fault.place: fault.why for fault in known.faults}
    for place, value in enumerate(values):
        if type(value) not in _NUMBERS:
            why.setdefault(place, f"a value is a number or null, not {value!r:.100}")
    places = range(known.width) if known.kept is None else known.kept
    kept = [place for place in places if place not in why]
    if not kept:
        return body, None
    identities = split(known.text)
    rest = _columns(body, identities, kept)
    if not why:
        return rest, None
    said = "; ".join(f"{why[place]} (column {place})" for place in sorted(why)[:5])
    detail = f"{len(why)} of {known.width} columns are left out, the others were read: {said}"
    return rest, Rejected(Reason.INVALID, detail, orjson.dumps(_columns(body, identities, sorted(why))))


_NUMBERS = frozenset({float, int, type(None)})


def _columns(body: dict[str, Any], identities: list[str], places: Iterable[int]) -> dict[str, Any]:
    at = list(places)
    return {**body, "series": join(identities[one] for one in at), "values": [body["values"][one] for one in at]}


def explain(error: ValidationError) -> str:
    """One line a fault: the field, what is wrong, the value."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'record'}: {item['msg']}, got {_readable(item['input'])[:100]!r}"
        for item in error.errors(include_url=False)[:5]
    )


def _readable(value: object) -> str:
    """Its text, encodable; of what cannot be told (a number of 5,000 digits) its type."""
    try:
        return str(value).encode(errors="replace").decode()
    except Exception:  # noqa: BLE001 (it is told all the same)
        return type(value).__name__


def dead_letter(
    rejected: Rejected,
    *,
    rejected_by: str,
    time_ms: int,
    topic: str,
    partition: int = -1,
    offset: int = -1,
    key: bytes | None = None,
    headers: Iterable[tuple[str, bytes]] | None = None,
) -> DeadLetter:
    """The dead letter of refused bytes, with the place they were read from.

    No secret stands in it, in the detail, the key, the headers or the bytes: a secret is masked, and every other byte stays
    as it was. Never raises: what a letter cannot hold is cut, and a time that is none is the nearest that is one.
    """
    texts = {
        _readable(name)[:HEADER_MAX]: (text or b"")[:HEADER_MAX].decode(errors="replace")
        for name, text in list(headers or ())[:HEADERS_MAX]
    }
    return DeadLetter(
        topic=topic,
        partition=partition,
        offset=offset,
        reason=rejected.reason,
        detail=masked(_readable(rejected.detail)[:16_000]),
        key=masked(key[:KEY_MAX].decode(errors="replace")) if key else None,
        headers=masked_data(texts),
        payload=base64.b64encode(masked_bytes(rejected.payload)).decode(),
        time_ms=min(max(0, time_ms), END_MS - 1),
        rejected_by=rejected_by,
    )


def encode_dead_letter(letter: DeadLetter) -> Wire:
    """The Kafka message of a dead letter."""
    headers: Headers = [("ce_type", DeadLetter.type.encode()), ("content-type", b"application/json")]
    key = f"{letter.topic}/{letter.partition}/{letter.offset}".encode()
    return Wire(key, letter.model_dump_json().encode(), headers, letter.time_ms)


def rfc3339(time_ms: int) -> str:
    """Unix ms as RFC 3339 with milliseconds, UTC; what no calendar has is the nearest instant that records have."""
    time_ms = min(max(0, time_ms), END_MS - 1)
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def data_schema(event_type: str) -> str:
    """The `dataschema` URI of a type, as the generated contracts give it."""
    return f"urn:pilothouse:schema:{event_type.removeprefix('com.pilothouse.')}"


def _headers(event_type: str, envelope: Envelope, time_ms: int, key: str) -> Headers:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", envelope.id.encode()),
        ("ce_source", envelope.source.encode()),
        ("ce_type", event_type.encode()),
        ("ce_time", rfc3339(time_ms).encode()),
        ("ce_recordedtime", rfc3339(envelope.recorded_ms).encode()),
        ("ce_sequence", str(envelope.sequence).encode()),
        ("ce_partitionkey", key.encode()),
        ("ce_dataschema", data_schema(event_type).encode()),
        ("content-type", b"application/json"),
    ]


def _unknown(event_type: str) -> tuple[Reason, str]:
    if event_type.rpartition(".v")[0] in _FAMILIES:
        known = ", ".join(sorted(name for name in BY_TYPE if name.startswith(event_type.rpartition(".v")[0])))
        return (
            Reason.UNKNOWN_VERSION,
            f"ce_type {event_type!r} is a version this release does not read; it reads {known}",
        )
    return (
        Reason.UNKNOWN_TYPE,
        f"ce_type {event_type!r} is none of ours; it must be one of {', '.join(sorted(BY_TYPE))}",
    )
