"""The topic catalogue: what is on the bus, who owns it, how long it is kept.

All topics of a version have the same partition count, because the cell is the key of all of them: infrastructure,
deploy and business events of a cell meet in one worker. Changing the count is a new version, filled by replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel

from schemas.records import (
    BusinessBatch,
    Change,
    DeadLetter,
    Incident,
    LogBatch,
    OperationsEvent,
    Record,
    Scrape,
    SecurityEvent,
    Signal,
    SpanBatch,
)

PARTITIONS = 24


class Classification(StrEnum):
    """Who may read a topic."""

    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"


@dataclass(frozen=True, slots=True)
class Topic:
    """One governed topic.

    `key` is what the Kafka key holds. `compacted` topics keep the last record of a key for ever; the others keep
    everything for `retention_days`.
    """

    name: str
    model: type[BaseModel] | None
    description: str
    owner: str
    classification: Classification
    retention_days: int
    key: str = "cell"
    compacted: bool = False

    def config(self) -> dict[str, str]:
        """Kafka's own topic settings."""
        if self.compacted:
            # A revoked worker's late write must still be told from its successor's: compaction outwaits any session.
            return {"cleanup.policy": "compact", "min.compaction.lag.ms": "600000", "segment.ms": "3600000"}
        return {"cleanup.policy": "delete", "retention.ms": str(self.retention_days * 86_400_000)}


METRICS = Topic(
    "telemetry.metrics.v1", Scrape, "Scrapes: one resource at one instant.", "platform", Classification.INTERNAL, 35
)
LOGS = Topic("telemetry.logs.v1", LogBatch, "Log records in columns.", "platform", Classification.CONFIDENTIAL, 14)
SPANS = Topic("telemetry.spans.v1", SpanBatch, "Finished spans in columns.", "platform", Classification.CONFIDENTIAL, 7)
CHANGES = Topic(
    "events.change.v1",
    Change,
    "Releases, upgrades, configuration and the like.",
    "delivery",
    Classification.INTERNAL,
    400,
)
BUSINESS = Topic(
    "events.business.v1",
    BusinessBatch,
    "States that orders, pickings and invoices reach.",
    "business-operations",
    Classification.CONFIDENTIAL,
    35,
)
OPERATIONS = Topic(
    "events.operations.v1",
    OperationsEvent,
    "Workers killed, crons off, targets away.",
    "platform",
    Classification.INTERNAL,
    90,
)
SECURITY = Topic(
    "events.security.v1", SecurityEvent, "Logins, privileges, access.", "security", Classification.CONFIDENTIAL, 400
)
DETECTIONS = Topic(
    "signals.detections.v1", Signal, "Findings of single steps.", "platform", Classification.CONFIDENTIAL, 400
)
INCIDENTS = Topic(
    "signals.incidents.v1", Incident, "Findings joined into stories.", "platform", Classification.CONFIDENTIAL, 400
)
FLEET = Topic(
    "fleet.incidents.v1",
    Incident,
    "Every cell's incidents once more, in one partition, for the stories that cells share; internal.",
    "platform",
    Classification.CONFIDENTIAL,
    35,
    key="fleet",
)
DEAD_LETTERS = Topic(
    "dead-letters.v1",
    DeadLetter,
    "Records that cannot be processed, with their bytes.",
    "platform",
    Classification.CONFIDENTIAL,
    90,
    key="topic/partition/offset",
)
STATE = Topic(
    "state.folds.v1",
    None,
    "Snapshots of the processors' state; internal, no contract.",
    "platform",
    Classification.INTERNAL,
    0,
    key="cell, unit, slot",
    compacted=True,
)

FLEET_STATE = Topic(
    "state.fleet.v1",
    None,
    "Snapshots of the state of what cells share; internal, no contract.",
    "platform",
    Classification.INTERNAL,
    0,
    key="cell, unit, slot",
    compacted=True,
)

INPUTS = (METRICS, LOGS, SPANS, CHANGES, BUSINESS, OPERATIONS, SECURITY)
SIGNALS = (DETECTIONS, INCIDENTS)
TOPICS = (*INPUTS, FLEET, *SIGNALS, DEAD_LETTERS, STATE, FLEET_STATE)
BY_NAME = {topic.name: topic for topic in TOPICS}
BY_MODEL = {topic.model: topic for topic in TOPICS if topic.model and topic is not FLEET}


def topic_of(record: Record) -> Topic:
    """The topic that a record belongs to."""
    return BY_MODEL[type(record)]
