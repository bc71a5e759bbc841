"""Logs, spans, changes, events, findings and incidents as OTLP items.

What happens is a log record with an event name (OpenTelemetry's events), so that any log store holds releases,
detections and incidents beside the logs they explain. Source: OpenTelemetry's log data model and event conventions.
"""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from schemas.codec import rfc3339
from schemas.records import (
    Change,
    ChangeStatus,
    Evidence,
    Impact,
    Incident,
    LogBatch,
    OperationsEvent,
    Record,
    Severity,
    Signal,
    SpanBatch,
)
from sinks.otlp_encode import INT64_MAX, NS_A_MS, Attributes, Item, Origin, any_value, field, key_values, resource_of

SEVERITIES = {Severity.INFO: 9, Severity.WARNING: 13, Severity.CRITICAL: 18}
"""INFO, WARN and ERROR2, which the log data model gives for syslog's Critical."""

SPAN_KINDS = {
    "internal": Span.SPAN_KIND_INTERNAL,
    "server": Span.SPAN_KIND_SERVER,
    "client": Span.SPAN_KIND_CLIENT,
    "producer": Span.SPAN_KIND_PRODUCER,
    "consumer": Span.SPAN_KIND_CONSUMER,
}


def log_items(batch: LogBatch, origin: Origin, recorded_ms: int) -> list[Item]:
    """One item a log record."""
    rows = zip(batch.times_ms, batch.severity_numbers, batch.bodies, batch.tenants, _rows(batch), strict=True)
    return [
        log_item(origin, tenant, attributes, body=body, time_ms=time_ms, recorded_ms=recorded_ms, severity=severity)
        for time_ms, severity, body, tenant, attributes in rows
    ]


def log_item(
    origin: Origin,
    tenant: str | None,
    attributes: Attributes,
    *,
    body: str,
    time_ms: int,
    recorded_ms: int,
    severity: int,
    event: str = "",
) -> Item:
    """A log record; with `event` an event, whose name older receivers look for among the attributes."""
    record = LogRecord(
        time_unix_nano=time_ms * NS_A_MS,
        observed_time_unix_nano=recorded_ms * NS_A_MS,
        severity_number=severity,  # type: ignore[arg-type]  # the stub wants its enum, which is an int
        body=any_value(body) if body else None,
        attributes=key_values({"event.name": event, **attributes} if event else attributes),
        event_name=event,
    )
    return Item(resource_of(origin, tenant), field(2, record.SerializeToString()), 1)


def span_items(batch: SpanBatch, origin: Origin) -> list[Item]:
    """One item a span. A span happened when it began; it ends its duration later."""
    return [
        Item(resource_of(origin, tenant), field(2, _span(batch, row, attributes)), 1)
        for row, (tenant, attributes) in enumerate(zip(batch.tenants, _rows(batch), strict=True))
    ]


def _span(batch: SpanBatch, row: int, attributes: Attributes) -> bytes:
    start, error = batch.times_ms[row] * NS_A_MS, batch.errors[row]
    span = Span(
        trace_id=bytes.fromhex(batch.trace_ids[row]),
        span_id=bytes.fromhex(batch.span_ids[row]),
        parent_span_id=bytes.fromhex(batch.parent_span_ids[row] or ""),
        name=batch.names[row],
        kind=SPAN_KINDS.get(batch.kinds[row], Span.SPAN_KIND_UNSPECIFIED),
        start_time_unix_nano=start,
        end_time_unix_nano=min(start + round(batch.durations_ms[row] * NS_A_MS), INT64_MAX),
        attributes=key_values(attributes if error is None else {**attributes, "error.type": error}),
        status=None if error is None else Status(code=Status.STATUS_CODE_ERROR),
    )
    encoded: bytes = span.SerializeToString()
    return encoded


def _rows(batch: LogBatch | SpanBatch) -> Iterator[Attributes]:
    """The attributes of each event; what it has not is None."""
    names = list(batch.attributes)
    if not names:
        return iter([{}] * len(batch.times_ms))
    return (dict(zip(names, row, strict=True)) for row in zip(*batch.attributes.values(), strict=True))


def event_item(record: Record, origin: Origin, recorded_ms: int) -> Item:
    """The event that a change, an operations event, a finding or an incident is."""
    match record:
        case Change():
            name, tenant, severity, body, attributes = _change(record)
        case Signal():
            name, tenant, severity, body, attributes = _signal(record)
        case Incident():
            name, tenant, severity, body, attributes = _incident(record)
        case OperationsEvent():
            name, tenant, severity, body = record.name, record.tenant, record.severity_number, record.body
            attributes = record.attributes
        case _:
            raise TypeError(f"{type(record).__name__} is no event")
    return log_item(
        origin,
        tenant,
        attributes,
        body=body,
        time_ms=record.time_ms,
        recorded_ms=recorded_ms,
        severity=severity,
        event=name,
    )


Event = tuple[str, str | None, int, str, Attributes]
"""Name, tenant, severity number, body, attributes."""


def _change(change: Change) -> Event:
    went_wrong = change.status in (ChangeStatus.FAILED, ChangeStatus.ROLLED_BACK)
    body = f"{change.kind} of {change.service} {change.revision} {change.status}"
    attributes: Attributes = {
        "pilothouse.change.id": change.change_id,
        "pilothouse.change.kind": change.kind.value,
        "pilothouse.change.status": change.status.value,
        "pilothouse.change.revision": change.revision,
        "pilothouse.change.previous_revision": change.previous_revision,
        "pilothouse.change.tenants": change.tenants or None,
        "pilothouse.change.author": change.author,
        "pilothouse.change.approver": change.approver,
        "pilothouse.change.origin": change.origin,
        "url.full": change.url,
    }
    return "pilothouse.change", None, 13 if went_wrong else 9, body, attributes


def _signal(signal: Signal) -> Event:
    attributes: Attributes = {
        "pilothouse.signal.id": signal.id,
        "pilothouse.signal.phase": signal.phase.value,
        "pilothouse.signal.detector": signal.detector,
        "pilothouse.signal.cause": signal.cause,
        "pilothouse.signal.score": signal.score,
        "pilothouse.signal.severity": signal.severity.name.lower(),
        "pilothouse.signal.started": rfc3339(signal.started_ms),
        "pilothouse.signal.evidence": _texts(signal.evidence),
        "pilothouse.signal.advice": signal.advice,
        "pilothouse.signal.verdict": signal.verdict,
        "pilothouse.tenants": signal.tenants or None,
        **_impact(signal.impact),
    }
    return "pilothouse.signal", signal.tenant, SEVERITIES[signal.severity], signal.summary, attributes


def _incident(incident: Incident) -> Event:
    top = incident.causes[0]
    attributes: Attributes = {
        "pilothouse.incident.id": incident.id,
        "pilothouse.incident.version": incident.version,
        "pilothouse.incident.phase": incident.phase.value,
        "pilothouse.incident.severity": incident.severity.name.lower(),
        "pilothouse.incident.started": rfc3339(incident.started_ms),
        "pilothouse.incident.cause": top.cause,
        "pilothouse.incident.cause.probability": top.probability,
        "pilothouse.incident.causes": tuple(one.cause for one in incident.causes),
        "pilothouse.incident.evidence": _texts(top.evidence),
        "pilothouse.incident.signals": incident.signals or None,
        "pilothouse.incident.advice": incident.advice,
        "pilothouse.incident.silenced.by": incident.silenced.author if incident.silenced else None,
        "pilothouse.incident.silenced.reason": incident.silenced.reason if incident.silenced else None,
        "pilothouse.incident.roles": incident.roles or None,
        "pilothouse.incident.recovery.since": rfc3339(incident.recovery.since_ms) if incident.recovery else None,
        "pilothouse.incident.recovery.until": rfc3339(incident.recovery.until_ms) if incident.recovery else None,
        "pilothouse.tenants": incident.tenants or None,
        **_impact(incident.impact),
    }
    return "pilothouse.incident", None, SEVERITIES[incident.severity], incident.title, attributes


def _impact(impact: Impact | None) -> Attributes:
    if impact is None:
        return {}
    return {
        "pilothouse.impact.documents": impact.documents,
        "pilothouse.impact.value": impact.value,
        "pilothouse.impact.currency": impact.currency,
        "pilothouse.impact.exposed": impact.exposed or None,
        "pilothouse.impact.exposed.until": rfc3339(impact.exposed_until_ms) if impact.exposed_until_ms else None,
        **_by_cut_off(impact),
    }


def _by_cut_off(impact: Impact) -> Attributes:
    """What will miss the next shipping cut-off."""
    cut_off = impact.next_cut_off
    if cut_off is None:
        return {}
    return {
        "pilothouse.impact.cut_off": rfc3339(cut_off.cut_off_ms),
        "pilothouse.impact.cut_off.carrier": cut_off.carrier,
        "pilothouse.impact.cut_off.documents": cut_off.documents,
        "pilothouse.impact.cut_off.value": cut_off.value,
    }


def _texts(evidence: tuple[Evidence, ...]) -> tuple[str, ...] | None:
    return tuple(one.text for one in evidence) or None
