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
    Metric("pilothouse.collector.statements", Kind.GAUGE, "{statement}", "Statements that the look asked the target."),
    Metric("pilothouse.collector.records", Kind.GAUGE, "{record}", "Records that the look gave."),
    Metric("pilothouse.spool.records", Kind.GAUGE, "{record}", "Records on disk that Kafka has not taken yet."),
    Metric("pilothouse.spool.bytes", Kind.GAUGE, "By", "Their size."),
    Metric("pilothouse.spool.refused", Kind.SUM, "{record}", "Times the spool was full.", bad=Departure.UP),
    Metric("pilothouse.spool.clock.fallbacks", Kind.SUM, "{record}", "Records stamped while the own clock had fallen."),
    Metric("pilothouse.spool.deliveries.forgotten", Kind.SUM, "{delivery}", "Delivery ids forgotten before 24 hours."),
    Metric("pilothouse.publisher.records", Kind.SUM, "{record}", "Records that Kafka has stored."),
    Metric("pilothouse.publisher.failures", Kind.SUM, "{attempt}", "Attempts that Kafka did not confirm."),
    Metric("pilothouse.publisher.oversized", Kind.SUM, "{record}", "Records too large for Kafka, as dead letters."),
    Metric("pilothouse.collector.missed", Kind.SUM, "{look}", "Looks left out because the one before took too long."),
    Metric("pilothouse.collector.failures", Kind.SUM, "{look}", "Looks that failed by a fault of the collector."),
    Metric("pilothouse.collector.skipped", Kind.SUM, "{look}", "Looks whose records a full spool did not take."),
    Metric("pilothouse.collector.refused", Kind.SUM, "{record}", "What collectors could not read, as dead letters."),
    Metric("pilothouse.receiver.refused", Kind.SUM, "{request}", "Requests answered with an error."),
    Metric("pilothouse.receiver.duplicates", Kind.SUM, "{record}", "Deliveries that had been taken before."),
)
