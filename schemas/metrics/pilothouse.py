"""What Pilothouse says of itself."""

from __future__ import annotations

from schemas.metrics.metric import Departure, Kind, Metric

METRICS = (
    Metric(
        "pilothouse.collector.up",
        Kind.GAUGE,
        "1",
        "1 when the target answered this look, 0 when it did not.",
        bad=Departure.DOWN,
        cause="unreachable",
        floor=0.5,
    ),
    Metric("pilothouse.collector.duration", Kind.GAUGE, "s", "Time the look took."),
    Metric("pilothouse.collector.records", Kind.GAUGE, "{record}", "Records that the look gave."),
    Metric("pilothouse.spool.records", Kind.GAUGE, "{record}", "Records on disk that Kafka has not taken yet."),
    Metric("pilothouse.spool.bytes", Kind.GAUGE, "By", "Their size."),
)
