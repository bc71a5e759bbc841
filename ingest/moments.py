"""Which times a record may have: what clocks and formats get wrong must not move the windows of the readers."""

from __future__ import annotations

from schemas.codec import rfc3339
from schemas.records import Record

AHEAD_MS = 5 * 60_000
BEHIND_MS = 35 * 86_400_000


def fault(record: Record, now_ms: int) -> str | None:
    """What is wrong with the record's time as seen at `now_ms`; None if nothing is."""
    if record.time_ms > now_ms + AHEAD_MS:
        return _told(record, now_ms, "at most 5 minutes ahead")
    if record.time_ms < now_ms - BEHIND_MS:
        return _told(record, now_ms, "at most 35 days back")
    return None


def _told(record: Record, now_ms: int, right: str) -> str:
    return f"time_ms: {record.time_ms} ({rfc3339(record.time_ms)}) must be {right} of {rfc3339(now_ms)}"
