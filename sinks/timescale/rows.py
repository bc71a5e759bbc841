"""Records as rows: which table, which columns, in which order. Pure; scrapes are apart, as they need their series' ids.

PostgreSQL's text and jsonb refuse the character U+0000, which logs and users' file names do hold, and lone surrogates: both
are replaced by U+FFFD here, in every text. NaN and infinity, which jsonb refuses, become null.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from json import dumps
from typing import Any

import orjson
from pydantic import BaseModel

from schemas.codec import Reason, Rejected, rfc3339
from schemas.records import (
    BusinessBatch,
    Change,
    Columns,
    DeadLetter,
    Incident,
    LogBatch,
    OperationsEvent,
    Scrape,
    SecurityEvent,
    Signal,
)
from sinks.sink import Message

Row = tuple[Any, ...]

PAST_DAYS = 35
FUTURE_DAYS = 2
DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REFUSED = re.compile("[\x00\ud800-\udfff]")

# In the order in which the functions below fill them.
COLUMNS: dict[str, list[str]] = {
    table: columns.split()
    for table, columns in {
        "records": "time source sequence type cell system resource topic kafka_partition kafka_offset rows",
        "logs": "time source sequence ordinal cell system resource tenant severity_number body attributes",
        "business": (
            "time source sequence ordinal cell system resource tenant document_type document_id document_name state "
            "order_id amount currency warehouse carrier deadline"
        ),
        "changes": (
            "time source sequence cell change_id kind status service revision previous_revision tenants author "
            "approver environment url origin"
        ),
        "operations": "time source sequence cell system resource tenant name severity_number body attributes",
        "security": (
            "time source sequence cell system resource tenant name severity_number body attributes actor "
            "source_address outcome"
        ),
        "signals": (
            "time source sequence cell id phase detector cause resource tenant started severity score summary evidence "
            "tenants impact advice verdict expected"
        ),
        "incidents": (
            "time source sequence cell id version phase started severity title causes tenants impact signals advice "
            "roles merged_into split_from flapping silenced recovery inhibited parts"
        ),
        "dead_letters": "time topic partition offset reason detail key headers payload rejected_by letter",
    }.items()
}


@dataclass(slots=True)
class Rows:
    """Rows by table, and the scrapes whose points are still to be laid out."""

    tables: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in COLUMNS})
    scrapes: list[tuple[Message, Scrape]] = field(default_factory=list)


def add(rows: Rows, message: Message, now_ms: int) -> Rejected | None:
    """Add the rows of one message; what cannot be stored comes back, to be put to the dead letters.

    A record outside the window is refused as a whole. Of log lines, those outside are left out; the letter has them.
    """
    try:
        return _add(rows, message, now_ms)
    except (ArithmeticError, ValueError, TypeError) as error:
        # A value that passes the record's own checks, and that no column can hold.
        why = f"it cannot be laid out as rows: {type(error).__name__}: {error}"
        return Rejected(Reason.FAILED, why, message.payload)


def _add(rows: Rows, message: Message, now_ms: int) -> Rejected | None:
    record = message.content.record
    if not isinstance(record, Scrape) and type(record) not in _TABLES:
        return Rejected(Reason.INVALID, f"ce_type {record.type!r} is not kept by this store", message.payload)
    if not within(record.time_ms, now_ms):
        return _refused(message, f"its time is {rfc3339(record.time_ms)}", now_ms)
    if isinstance(record, Scrape):
        rows.scrapes.append((message, record))
        return None
    table, made = _TABLES[type(record)](record, _head(message))
    kept = made
    if isinstance(record, LogBatch):
        kept = [row for row, time_ms in zip(made, record.times_ms, strict=True) if within(time_ms, now_ms)]
    rows.tables[table].extend(kept)
    rows.tables["records"].append(ledger(message, len(kept)))
    if len(kept) < len(made):
        return _refused(
            message, f"{len(made) - len(kept)} of {len(made)} log lines are left out by their times", now_ms
        )
    return None


def ledger(message: Message, count: int) -> Row:
    """The row of `records` that says that this record is stored, as how many rows."""
    record = message.content.record
    system, resource = clean(getattr(record, "system", None)), clean(getattr(record, "resource", None))
    place = (message.topic, message.partition, message.offset)
    return (*_head(message), record.type, clean(record.cell), system, resource, *place, count)


def letter_row(letter: DeadLetter) -> Row:
    """A dead letter as a row, named by who refused what, read from where.

    The place alone would not do: there may be none, and a topic made anew counts its places from 0 again.
    """
    payload = _bytes(letter.payload)
    place_and_bytes = f"{letter.topic}/{letter.partition}/{letter.offset} {letter.time_ms}".encode() + b"\0" + payload
    name = f"{letter.rejected_by[:200]} {hashlib.sha256(place_and_bytes).hexdigest()}"
    place = (letter.topic, letter.partition, letter.offset)
    texts = (letter.reason, letter.detail, letter.key)
    row: Row = (moment(letter.time_ms), *place, *texts, json(letter.headers), payload, letter.rejected_by, name)
    return tuple(map(clean, row))


def _bytes(payload: str) -> bytes:
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError:
        return payload.encode()  # not one of our letters; what it holds is kept as it is


def within(time_ms: int, now_ms: int) -> bool:
    """Whether a time lies in the window that is stored: 35 days back, 2 days ahead."""
    return now_ms - PAST_DAYS * DAY_MS <= time_ms <= now_ms + FUTURE_DAYS * DAY_MS


def moment(time_ms: int | None) -> Any:
    """Unix ms as a datetime, exactly; None stays None."""
    return None if time_ms is None else _EPOCH + timedelta(milliseconds=time_ms)


def clean(value: Any) -> Any:
    """The value with what PostgreSQL's text refuses replaced in all the strings it holds."""
    if isinstance(value, str):
        if value.isascii():
            return value.replace("\x00", "\ufffd") if "\x00" in value else value
        return _REFUSED.sub("\ufffd", value)
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(clean, value))
    return value


def json(value: Any) -> str:
    """The value as text for a jsonb column."""
    try:
        return orjson.dumps(clean(value), default=_plain).decode()
    except orjson.JSONEncodeError:  # an integer of more than 64 bits, which jsonb holds
        return dumps(_finite(clean(value)), default=_plain)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, tuple | list) else value


def _plain(value: BaseModel) -> Any:
    return clean(value.model_dump(mode="json"))


def _refused(message: Message, why: str, now_ms: int) -> Rejected:
    span = f"stored is {rfc3339(now_ms - PAST_DAYS * DAY_MS)} to {rfc3339(now_ms + FUTURE_DAYS * DAY_MS)}"
    return Rejected(Reason.INVALID, f"{why}; {span}", message.payload)


def _head(message: Message) -> Row:
    envelope = message.content.envelope
    return moment(message.content.record.time_ms), clean(envelope.source), envelope.sequence


def _logs(record: LogBatch, head: Row) -> tuple[str, list[Row]]:
    attributes = _by_event(record.attributes, len(record.times_ms))
    where = clean((record.cell, record.system, record.resource))
    columns = (record.times_ms, record.tenants, record.severity_numbers, record.bodies, attributes)
    return "logs", [
        (moment(time_ms), *head[1:], ordinal, *where, clean(tenant), severity, clean(body), json(more))
        for ordinal, (time_ms, tenant, severity, body, more) in enumerate(zip(*columns, strict=True))
    ]


def _by_event(attributes: Columns, count: int) -> list[dict[str, Any]]:
    """Columns of attributes as one dictionary an event; a value that is null is not there."""
    events: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, column in attributes.items():
        for event, value in zip(events, column, strict=True):
            if value is not None:
                event[name] = value
    return events


def _business(record: BusinessBatch, head: Row) -> tuple[str, list[Row]]:
    where = clean((record.cell, record.system, record.resource))
    columns = (
        record.tenants, record.document_types, record.document_ids, record.document_names, record.states,
        record.orders, record.amounts, record.currencies, record.warehouses, record.carriers,
        map(moment, record.deadlines_ms),
    )  # fmt: skip
    return "business", [
        (moment(time_ms), *head[1:], ordinal, *where, *clean(event))
        for ordinal, (time_ms, event) in enumerate(zip(record.times_ms, zip(*columns, strict=True), strict=True))
    ]


def _change(record: Change, head: Row) -> tuple[str, list[Row]]:
    what = (record.change_id, str(record.kind), str(record.status), record.service, record.revision)
    who = (list(record.tenants), record.author, record.approver, record.environment, record.url, record.origin)
    return "changes", [clean((*head, record.cell, *what, record.previous_revision, *who))]


def _operations(record: OperationsEvent, head: Row) -> tuple[str, list[Row]]:
    where = (record.cell, record.system, record.resource, record.tenant)
    what = (record.name, record.severity_number, record.body, json(record.attributes))
    return "operations", [clean((*head, *where, *what))]


def _security(record: SecurityEvent, head: Row) -> tuple[str, list[Row]]:
    _, (row,) = _operations(record, head)
    return "security", [clean((*row, record.actor, record.source_address, record.outcome))]


def _signal(record: Signal, head: Row) -> tuple[str, list[Row]]:
    what = (record.id, str(record.phase), record.detector, record.cause, record.resource, record.tenant)
    weight = (moment(record.started_ms), int(record.severity), record.score, record.summary, json(record.evidence))
    judged = (str(record.verdict) if record.verdict else None, moment(record.expected_ms))
    return "signals", [
        clean(
            (*head, record.cell, *what, *weight, list(record.tenants), _json_of(record.impact), record.advice, *judged)
        ),
    ]


def _incident(record: Incident, head: Row) -> tuple[str, list[Row]]:
    what = (record.id, record.version, str(record.phase), moment(record.started_ms), int(record.severity))
    story = (record.title, json(record.causes), list(record.tenants), json(record.impact), list(record.signals))
    roles = [role.value for role in record.roles]
    others = (record.merged_into, record.split_from, record.flapping, _json_of(record.silenced))
    course = (_json_of(record.recovery), json(record.inhibited), json(record.parts))
    return "incidents", [clean((*head, record.cell, *what, *story, record.advice, roles, *others, *course))]


def _json_of(value: BaseModel | None) -> str | None:
    return None if value is None else json(value)


_TABLES: dict[type, Callable[[Any, Row], tuple[str, Sequence[Row]]]] = {
    LogBatch: _logs,
    BusinessBatch: _business,
    Change: _change,
    OperationsEvent: _operations,
    SecurityEvent: _security,
    Signal: _signal,
    Incident: _incident,
}
