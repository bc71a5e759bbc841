"""What Pilothouse says of itself."""

from __future__ import annotations

from schemas.metrics.metric import Departure, Kind, Metric

METRICS = (
    Metric(
        "pilothouse.collector.up",
        Kind.GAUGE,
        "1",
        "1 when the target answered this look, 0 when it did not.",
        title="looks that were answered",
        bad=Departure.DOWN,
        cause="unreachable",
        floor=0.5,
    ),
    Metric("pilothouse.collector.duration", Kind.GAUGE, "s", "Time the look took."),
    Metric("pilothouse.collector.statements", Kind.GAUGE, "{statement}", "Statements that the look asked the target."),
    Metric("pilothouse.collector.records", Kind.GAUGE, "{record}", "Records that the look gave."),
    Metric(
        "pilothouse.collector.group.failed",
        Kind.SUM,
        "{look}",
        "Looks at which one group of what is read failed, by pilothouse.collector.group; collector.degraded has the reason.",
    ),
    Metric(
        "pilothouse.collector.row.failed",
        Kind.SUM,
        "{row}",
        "Rows and entries that could not be read; each becomes a dead letter once, with its bytes.",
    ),
    Metric(
        "pilothouse.collector.left_out",
        Kind.SUM,
        "{item}",
        "Rows, series, events and faults beyond a bound of the collector.",
    ),
    Metric("pilothouse.spool.records", Kind.GAUGE, "{record}", "Records on disk that Kafka has not taken yet."),
    Metric("pilothouse.spool.bytes", Kind.GAUGE, "By", "Their size."),
    Metric(
        "pilothouse.spool.refused",
        Kind.SUM,
        "{record}",
        "Times the spool was full.",
        title="records a full spool refused",
        bad=Departure.UP,
    ),
    Metric(
        "pilothouse.spool.shares.refused",
        Kind.SUM,
        "{request}",
        "Times a source had filled its share of the spool; others were still taken.",
    ),
    Metric("pilothouse.spool.clock.fallbacks", Kind.SUM, "{record}", "Records stamped while the own clock had fallen."),
    Metric("pilothouse.spool.deliveries.forgotten", Kind.SUM, "{delivery}", "Delivery ids forgotten before 24 hours."),
    Metric(
        "pilothouse.spool.cells.forgotten",
        Kind.SUM,
        "{cell}",
        "Cells beyond the bound that is known; their partitions are beaten on when they are heard of again.",
    ),
    Metric(
        "pilothouse.spool.clock.steps",
        Kind.SUM,
        "{step}",
        "Jumps of the wall clock, not followed before they have lasted.",
    ),
    Metric("pilothouse.publisher.records", Kind.SUM, "{record}", "Records that Kafka has stored."),
    Metric("pilothouse.publisher.failures", Kind.SUM, "{attempt}", "Attempts that Kafka did not confirm."),
    Metric("pilothouse.publisher.oversized", Kind.SUM, "{record}", "Records too large for Kafka, as dead letters."),
    Metric("pilothouse.collector.missed", Kind.SUM, "{look}", "Looks left out because the one before took too long."),
    Metric("pilothouse.collector.failures", Kind.SUM, "{look}", "Looks that failed by a fault of the collector."),
    Metric("pilothouse.collector.skipped", Kind.SUM, "{look}", "Looks whose records a full spool did not take."),
    Metric("pilothouse.collector.refused", Kind.SUM, "{record}", "What collectors could not read, as dead letters."),
    Metric("pilothouse.receiver.refused", Kind.SUM, "{request}", "Requests answered with an error."),
    Metric(
        "pilothouse.receiver.unauthenticated",
        Kind.SUM,
        "{request}",
        "Requests of senders that did not prove who they are.",
    ),
    Metric("pilothouse.receiver.forbidden", Kind.SUM, "{request}", "Requests that the sender's key may not make."),
    Metric("pilothouse.receiver.throttled", Kind.SUM, "{request}", "Requests beyond the quota of the sender's key."),
    Metric(
        "pilothouse.receiver.connections.refused",
        Kind.SUM,
        "{connection}",
        "Connections closed because there were too many, in all or of one address.",
    ),
    Metric("pilothouse.receiver.duplicates", Kind.SUM, "{record}", "Deliveries that had been taken before."),
    Metric("pilothouse.worker.records", Kind.SUM, "{record}", "Records folded."),
    Metric("pilothouse.worker.duplicates", Kind.SUM, "{record}", "Records that had been folded before; passed over."),
    Metric(
        "pilothouse.worker.late", Kind.SUM, "{record}", "Records behind their topic's clock, folded where it stood."
    ),
    Metric("pilothouse.worker.rejected", Kind.SUM, "{record}", "Bytes that are no record, as dead letters."),
    Metric(
        "pilothouse.worker.failed",
        Kind.SUM,
        "{failure}",
        "Records, ticks and states on which a step raised; dead letters.",
    ),
    Metric("pilothouse.worker.step_failures", Kind.SUM, "{failure}", "The same by step (pilothouse.step)."),
    Metric(
        "pilothouse.worker.units_afresh",
        Kind.SUM,
        "{unit}",
        "Units that failed again and again, or whose state could not be kept; begun afresh, by step.",
    ),
    Metric(
        "pilothouse.worker.heads_dropped", Kind.SUM, "{snapshot}", "Snapshots that no fold could read; begun afresh."
    ),
    Metric("pilothouse.worker.letters_cut", Kind.SUM, "{record}", "Dead letters that were too large and were cut."),
    Metric(
        "pilothouse.worker.cascades_cut",
        Kind.SUM,
        "{signal}",
        "Findings beyond the bound of what one item may bring about.",
    ),
    Metric(
        "pilothouse.worker.ticks_put_off",
        Kind.SUM,
        "{tick}",
        "Ticks after which a unit wanted another for a time that had come; it gets it a second later.",
    ),
    Metric(
        "pilothouse.worker.open_forgotten", Kind.SUM, "{signal}", "Open findings beyond the bound that is remembered."
    ),
    Metric(
        "pilothouse.worker.refused_ahead",
        Kind.SUM,
        "{record}",
        "Records whose time lies far ahead of their place in the log, as dead letters.",
    ),
    Metric("pilothouse.worker.values_left_out", Kind.SUM, "{value}", "Values of no scale, folded as not measured."),
    Metric(
        "pilothouse.worker.doubted",
        Kind.SUM,
        "{heartbeat}",
        "Heartbeats that did not count because their publisher's clock is off that of the others.",
    ),
    Metric(
        "pilothouse.worker.turned_back",
        Kind.SUM,
        "{leap}",
        "Times a leap that was believed turned out to be a wrong clock.",
    ),
    Metric("pilothouse.worker.units_turned_back", Kind.SUM, "{unit}", "Units of state that went back with it."),
    Metric("pilothouse.worker.expired", Kind.SUM, "{record}", "Records that retention took before they were read."),
    Metric(
        "pilothouse.worker.topics_anew", Kind.SUM, "{topic}", "Topics that were made anew since a partition's snapshot."
    ),
    Metric("pilothouse.worker.signals", Kind.SUM, "{signal}", "Signals told."),
    Metric("pilothouse.worker.incidents", Kind.SUM, "{incident}", "Versions of incidents told."),
    Metric(
        "pilothouse.worker.units_dropped", Kind.SUM, "{unit}", "Units of state that no step could read; begun afresh."
    ),
    Metric("pilothouse.worker.sources_forgotten", Kind.SUM, "{source}", "Sources beyond the bound that is remembered."),
    Metric(
        "pilothouse.bound.reached",
        Kind.SUM,
        "{event}",
        "Times that a bound was reached, by `pilothouse.bound.name`; what each holds, and what happens beyond it, is in Bounds.",
    ),
    Metric("pilothouse.sink.records", Kind.SUM, "{record}", "Records read, heartbeats left out."),
    Metric("pilothouse.sink.heartbeats", Kind.SUM, "{record}", "Heartbeats read."),
    Metric("pilothouse.sink.repeated", Kind.SUM, "{record}", "Records that had been written before; passed over."),
    Metric("pilothouse.sink.rejected", Kind.SUM, "{record}", "Records that can never be written, as dead letters."),
    Metric("pilothouse.sink.written", Kind.SUM, "{record}", "Records written."),
    Metric("pilothouse.sink.writes", Kind.SUM, "{batch}", "Batches written."),
    Metric("pilothouse.sink.unavailable", Kind.SUM, "{attempt}", "Times the sink's system was away."),
    Metric("pilothouse.sink.rebalances", Kind.SUM, "{rebalance}", "Times the group gave partitions anew."),
    Metric(
        "pilothouse.sink.out_of_step", Kind.SUM, "{batch}", "Batches given up because another worker wrote meanwhile."
    ),
    Metric("pilothouse.sink.commits_lost", Kind.SUM, "{batch}", "Commits that came after the group had moved on."),
    Metric("pilothouse.sink.reconnects", Kind.SUM, "{attempt}", "Times Kafka failed and the reader was made anew."),
    Metric("pilothouse.sink.sources_forgotten", Kind.SUM, "{source}", "Sources beyond the bound that is remembered."),
    Metric(
        "pilothouse.sink.letters_cut", Kind.SUM, "{record}", "Dead letters that were too large or unfit, and were cut."
    ),
    Metric(
        "pilothouse.sink.letters_lost", Kind.SUM, "{record}", "Records of which not even a cut letter could be made."
    ),
    Metric("pilothouse.sink.expired", Kind.SUM, "{record}", "Records that retention took before they were read."),
    Metric("pilothouse.sink.topics_anew", Kind.SUM, "{topic}", "Times a topic was found made anew, and begun with."),
    Metric("pilothouse.sink.split", Kind.SUM, "{batch}", "Batches halved to find a record that cannot be written."),
    Metric(
        "pilothouse.sink.gave_up",
        Kind.SUM,
        "{record}",
        "Records on which the sink itself failed again and again, as dead letters.",
    ),
    Metric("pilothouse.sink.failures", Kind.SUM, "{failure}", "Times it ended with an error, to be begun anew."),
    Metric("pilothouse.sink.failing", Kind.GAUGE, "1", "1 while it waits to be begun anew after an error, else 0."),
    Metric("pilothouse.sink.alerts.sent", Kind.SUM, "{alert}", "Alerts that a receiver took."),
    Metric("pilothouse.sink.alerts.failed_tries", Kind.SUM, "{attempt}", "Tries to deliver an alert that failed."),
    Metric("pilothouse.sink.alerts.refused", Kind.SUM, "{alert}", "Alerts that were given up, as dead letters."),
    Metric(
        "pilothouse.sink.alerts.misconfigured",
        Kind.SUM,
        "{attempt}",
        "Tries that failed because the route or its receiver is set up wrong.",
    ),
    Metric(
        "pilothouse.sink.alerts.private",
        Kind.SUM,
        "{attempt}",
        "Tries whose receiver's name led to an address inside, which the route does not allow.",
    ),
    Metric("pilothouse.sink.alerts.stale", Kind.SUM, "{incident}", "Versions of incidents from before the route was."),
    Metric(
        "pilothouse.sink.alerts.forgotten", Kind.SUM, "{incident}", "Incidents beyond the bound that is remembered."
    ),
    Metric("pilothouse.sink.alerts.cut", Kind.SUM, "{alert}", "Alerts that were too large and lost their details."),
    Metric("pilothouse.sink.otlp.sent", Kind.SUM, "{item}", "Points, log records and spans that were acknowledged."),
    Metric("pilothouse.sink.otlp.requests", Kind.SUM, "{request}", "Requests that were sent."),
    Metric("pilothouse.sink.otlp.rejected", Kind.SUM, "{item}", "Acknowledged items that the receiver has dropped."),
    Metric("pilothouse.sink.otlp.refused", Kind.SUM, "{record}", "Records that were given up, as dead letters."),
    Metric("pilothouse.sink.otlp.unavailable", Kind.SUM, "{attempt}", "Requests that the receiver did not take then."),
    Metric(
        "pilothouse.sink.otlp.misconfigured",
        Kind.SUM,
        "{attempt}",
        "Requests that failed because the endpoint is set up wrong.",
    ),
    Metric("pilothouse.sink.otlp.halved", Kind.SUM, "{request}", "Requests that were halved to find a record."),
    Metric(
        "pilothouse.sink.otlp.probes", Kind.SUM, "{request}", "Empty requests to tell a fault of ours from the data's."
    ),
    Metric("pilothouse.sink.otlp.unread", Kind.SUM, "{request}", "Acknowledgements that could not be read further."),
)
