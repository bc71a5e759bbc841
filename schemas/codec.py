"""Bytes to records and back: CloudEvents 1.0 in Kafka's binary mode, JSON body.

Decoding never raises: bad bytes are a value, not an accident. Headers are `ce_*`, UTF-8; extensions used are
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

import orjson
from pydantic import ValidationError

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
    record = model.model_validate(orjson.loads(payload))
    if isinstance(record, Heartbeat):
        return record
    source, sequence = fields.get("ce_source") or b"", fields.get("ce_sequence") or b""
    is_number = bool(_SEQUENCE.fullmatch(sequence)) and int(sequence) <= SEQUENCE_MAX
    if not 0 < len(source) <= SOURCE_MAX or not is_number:
        said = f"{source[:100]!r} and {sequence[:100]!r}"
        wanted = f"at most {SOURCE_MAX} bytes, and a whole number below 2^63"
        return Rejected(
            Reason.INVALID, f"headers ce_source and ce_sequence name a record: {wanted}; got {said}", payload
        )
    if not 0 <= timestamp_ms < END_MS:
        detail = f"the Kafka timestamp is when it was recorded, Unix ms from 0 to {END_MS - 1}; got {timestamp_ms}"
        return Rejected(Reason.INVALID, detail, payload)
    return Received(Envelope(source.decode(), int(sequence), timestamp_ms), record)


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

    Never raises: what a letter cannot hold is cut, and a time that is none is the nearest that is one.
    """
    return DeadLetter(
        topic=topic,
        partition=partition,
        offset=offset,
        reason=rejected.reason,
        detail=_readable(rejected.detail)[:16_000],
        key=key[:KEY_MAX].decode(errors="replace") if key else None,
        headers={
            _readable(name)[:HEADER_MAX]: (text or b"")[:HEADER_MAX].decode(errors="replace")
            for name, text in list(headers or ())[:HEADERS_MAX]
        },
        payload=base64.b64encode(rejected.payload).decode(),
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
