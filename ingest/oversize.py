"""Records too large for Kafka: batches are told in parts, the rest becomes dead letters that hold every byte but those of secrets."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.codec import Reason, Rejected, dead_letter
from schemas.masking import masked_bytes
from schemas.records import Batch, DeadLetter, Record

# A broker takes 1 MiB a batch by default, compressed; what does not compress must fit as well.
MAX_BODY_BYTES = 900_000
LETTER_BYTES = 600_000  # base64 makes 800,000 of it


def parts(record: Record) -> Iterator[tuple[Record, bytes]]:
    """The record with its JSON body; a batch whose body is too large as several, in order."""
    body = record.model_dump_json().encode()
    if len(body) <= MAX_BODY_BYTES or not isinstance(record, Batch) or len(record.times_ms) < 2:
        yield record, body
        return
    middle = len(record.times_ms) // 2
    yield from parts(_rows(record, slice(None, middle)))
    yield from parts(_rows(record, slice(middle, None)))


def letters(
    payload: bytes, *, reason: Reason, detail: str, topic: str, rejected_by: str, time_ms: int
) -> list[DeadLetter]:
    """Dead letters that hold all of the payload, each small enough for Kafka; the detail says which part it is."""
    payload = masked_bytes(payload)  # before it is cut: half a secret is not known for one
    total = len(payload)
    starts = range(0, total, LETTER_BYTES) if total > LETTER_BYTES else (0,)
    return [
        dead_letter(
            Rejected(reason, detail + _part(start, total), payload[start : start + LETTER_BYTES]),
            rejected_by=rejected_by,
            time_ms=time_ms,
            topic=topic,
        )
        for start in starts
    ]


def _part(start: int, total: int) -> str:
    return f"; bytes {start} to {min(start + LETTER_BYTES, total)} of {total}" if total > LETTER_BYTES else ""


def _rows(batch: Batch, rows: slice) -> Batch:
    columns: dict[str, object] = {name: value[rows] for name, value in batch if isinstance(value, tuple)}
    if attributes := getattr(batch, "attributes", None):
        columns["attributes"] = {name: column[rows] for name, column in attributes.items()}
    return batch.model_copy(update={**columns, "time_ms": max(batch.times_ms[rows])})
