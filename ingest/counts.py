"""What ingest counts: every bound that is reached and everything that is refused. Names are the catalogue's."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Count(StrEnum):
    """A cumulative metric of ingest's own; meaning and unit stand in the catalogue."""

    SPOOL_FULL = "pilothouse.spool.refused"
    SHARE_FULL = "pilothouse.spool.shares.refused"
    CLOCK_FELL = "pilothouse.spool.clock.fallbacks"
    DELIVERIES_FORGOTTEN = "pilothouse.spool.deliveries.forgotten"
    CELL_FORGOTTEN = "pilothouse.spool.cells.forgotten"
    SENT = "pilothouse.publisher.records"
    ROUND_FAILED = "pilothouse.publisher.failures"
    OVERSIZED = "pilothouse.publisher.oversized"
    TICK_MISSED = "pilothouse.collector.missed"
    LOOK_FAILED = "pilothouse.collector.failures"
    LOOK_SKIPPED = "pilothouse.collector.skipped"
    RECORD_REFUSED = "pilothouse.collector.refused"
    REQUEST_REFUSED = "pilothouse.receiver.refused"
    UNAUTHENTICATED = "pilothouse.receiver.unauthenticated"
    FORBIDDEN = "pilothouse.receiver.forbidden"
    THROTTLED = "pilothouse.receiver.throttled"
    CONNECTION_REFUSED = "pilothouse.receiver.connections.refused"
    DUPLICATE = "pilothouse.receiver.duplicates"


Counts = Counter[Count]
