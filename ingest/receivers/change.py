"""`POST /v1/changes`: a change as any delivery tool can tell it.

The body is a `Change` (schemas.records) without `origin`, as JSON. Signed with Standard Webhooks, or with a bearer
token; `webhook-id` names the delivery, so that a sender may try again.

    {"cell": "eu1", "change_id": "release-241", "kind": "release", "status": "started", "service": "odoo",
     "revision": "2.4.1", "time_ms": 1760000000000}
"""

from __future__ import annotations

from typing import Any

from ingest.receivers.receiver import Received, ReceiverKind, Refused, Request, known_cell, read_as
from ingest.receivers.signature import Keys
from schemas.estate import Estate
from schemas.records import Change

ORIGIN = "generic"


class Changes:
    """Takes changes for the cells of the estate."""

    def __init__(self, estate: Estate, keys: tuple[str, ...]) -> None:
        self._estate, self._keys = estate, Keys(keys)

    def receive(self, request: Request, now_ms: int) -> Received:
        """One change; its `time_ms` is now when the sender leaves it out."""
        self._keys.check(request, now_ms)
        data = request.json()
        if not isinstance(data, dict):
            raise Refused(422, "Not understood", "body: a change is a JSON object")
        change = read_as(Change, _completed(data, now_ms))
        known_cell(self._estate, change.cell)
        identifier = request.headers.get("webhook-id")
        return Received([change], [f"change:{identifier}" if identifier else None])


def _completed(data: dict[str, Any], now_ms: int) -> dict[str, Any]:
    return {"time_ms": now_ms, "origin": ORIGIN, **data}


KIND = ReceiverKind("change", "/v1/changes", Changes)
