"""`POST /v1/events`: records of any input topic, from integrations that watch for themselves.

A CloudEvents 1.0 JSON batch (a list), a single event, or just `{"type", "data"}`; `type` is a record's CloudEvents
type, `data` the record. `source` and `id` name the event, so that a sender may try again; without them `webhook-id`
names the request. All events of a request are taken, or none. Authenticated as changes are.
"""

from __future__ import annotations

from typing import Any

from ingest.receivers.admission import Scope
from ingest.receivers.receiver import Received, ReceiverKind, Request, delivery_id, read_as
from ingest.receivers.refusals import Refused, unprocessable
from ingest.receivers.signature import StandardWebhooks
from schemas.records import Record
from schemas.topics import INPUTS

MAX_EVENTS = 1000
MODELS: dict[str, type[Record]] = {
    topic.model.type: topic.model for topic in INPUTS if topic.model and issubclass(topic.model, Record)
}


def read(request: Request, scope: Scope, now_ms: int) -> Received:
    """The events in their order."""
    data = request.json()
    events = data if isinstance(data, list) else [data]
    if not 0 < len(events) <= MAX_EVENTS:
        raise Refused(422, "Not understood", f"body: {len(events)} events; a request has 1 to {MAX_EVENTS}")
    delivered = request.headers.get("webhook-id")
    records = [_record(event, f"events.{number}") for number, event in enumerate(events)]
    ids = [_id(event, delivered, number) for number, event in enumerate(events)]
    return Received(records, ids, places=[f"events.{number}.data." for number in range(len(events))])


def _record(event: Any, where: str) -> Record:
    if not isinstance(event, dict):
        raise unprocessable(where, event, "an event is a JSON object with type and data")
    model = MODELS.get(str(event.get("type"))[:255])
    if model is None:
        raise unprocessable(f"{where}.type", event.get("type"), f"known are {', '.join(sorted(MODELS))}")
    return read_as(model, event.get("data"), f"{where}.data")


def _id(event: dict[str, Any], delivered: str | None, number: int) -> str | None:
    source, identifier = event.get("source"), event.get("id")
    if source not in (None, "") and identifier not in (None, ""):
        return delivery_id("event", source, identifier)
    return delivery_id("request", delivered, number) if delivered else None


KIND = ReceiverKind("events", "/v1/events", StandardWebhooks, read)
Events = KIND.make
