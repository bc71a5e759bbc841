"""`POST /v1/events`: records of any input topic, from integrations that watch for themselves.

A CloudEvents 1.0 JSON batch (a list), a single event, or just `{"type", "data"}`; `type` is a record's CloudEvents
type, `data` the record. `source` and `id` name the event, so that a sender may try again; without them `webhook-id`
names the request. All events of a request are taken, or none. Authenticated as changes are.
"""

from __future__ import annotations

from typing import Any

from ingest.receivers.receiver import (
    Received,
    ReceiverKind,
    Refused,
    Request,
    known_cell,
    read_as,
    unprocessable,
)
from ingest.receivers.signature import Keys
from schemas.estate import Estate
from schemas.records import Record
from schemas.topics import INPUTS

MAX_EVENTS = 1000
MODELS: dict[str, type[Record]] = {
    topic.model.type: topic.model for topic in INPUTS if topic.model and issubclass(topic.model, Record)
}


class Events:
    """Takes events for the cells of the estate."""

    def __init__(self, estate: Estate, keys: tuple[str, ...]) -> None:
        self._estate, self._keys = estate, Keys(keys)

    def receive(self, request: Request, now_ms: int) -> Received:
        """The events in their order."""
        self._keys.check(request, now_ms)
        data = request.json()
        events = data if isinstance(data, list) else [data]
        if not 0 < len(events) <= MAX_EVENTS:
            raise Refused(422, "Not understood", f"body: {len(events)} events; a request has 1 to {MAX_EVENTS}")
        delivered = request.headers.get("webhook-id")
        records = [self._record(event, f"events.{number}") for number, event in enumerate(events)]
        return Received(records, [_id(event, delivered, number) for number, event in enumerate(events)])

    def _record(self, event: Any, where: str) -> Record:
        if not isinstance(event, dict):
            raise unprocessable(where, event, "an event is a JSON object with type and data")
        model = MODELS.get(str(event.get("type")))
        if model is None:
            raise unprocessable(f"{where}.type", event.get("type"), f"known are {', '.join(sorted(MODELS))}")
        record = read_as(model, event.get("data"), f"{where}.data")
        known_cell(self._estate, record.cell, f"{where}.data.cell")
        return record


def _id(event: dict[str, Any], delivered: str | None, number: int) -> str | None:
    if event.get("source") and event.get("id"):
        return f"event:{event['source']}:{event['id']}"
    return f"events:{delivered}:{number}" if delivered else None


KIND = ReceiverKind("events", "/v1/events", Events)
