"""`POST /v1/changes`: a change as any delivery tool can tell it.

The body is a `Change` (schemas.records) without `origin`, as JSON. Signed with Standard Webhooks, or with a bearer
token; `webhook-id` names the delivery, so that a sender may try again. A number where a text is due, another case of a known
word, one tenant instead of a list and null for what is not known are understood.

    {"cell": "eu1", "change_id": "release-241", "kind": "release", "status": "started", "service": "odoo",
     "revision": "2.4.1", "time_ms": 1760000000000}
"""

from __future__ import annotations

from typing import Any

from ingest.receivers import foreign
from ingest.receivers.admission import GENERIC, Scope
from ingest.receivers.receiver import Received, ReceiverKind, Request, read_as
from ingest.receivers.refusals import Refused, unprocessable
from ingest.receivers.signature import StandardWebhooks
from schemas.records import Change, ChangeKind, ChangeStatus

WORDS = {
    "kind": {one.value: one.value for one in ChangeKind},
    "status": {one.value: one.value for one in ChangeStatus},
}


def read(request: Request, scope: Scope, now_ms: int) -> Received:
    """One change; its `time_ms` is now when the sender leaves it out."""
    data = request.json()
    if not isinstance(data, dict):
        raise Refused(422, "Not understood", "body: a change is a JSON object")
    change = read_as(Change, _understood(data, scope, now_ms))
    if change.url and not foreign.url(change.url):
        raise unprocessable("url", change.url, "it must begin with https:// or http://")
    return Received([change], [request.headers.get("webhook-id") or None])


def _understood(data: dict[str, Any], scope: Scope, now_ms: int) -> dict[str, Any]:
    said = {name: _as_text(name, value) for name, value in data.items() if value is not None}
    for name, known in WORDS.items():
        if found := foreign.one_of(said.get(name), known):
            said[name] = found
    if found := foreign.one_of(said.get("cell"), {cell.name: cell.name for cell in scope.cells}):
        said["cell"] = found
    if isinstance(said.get("tenants"), str):
        said["tenants"] = [said["tenants"]]
    return {"time_ms": now_ms, "origin": GENERIC, **said}


def _as_text(name: str, value: Any) -> Any:
    """Numbers as texts, where the record has a text: 241 is a revision."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return foreign.text(value) if is_number and name != "time_ms" else value


KIND = ReceiverKind("change", "/v1/changes", StandardWebhooks, read)
Changes = KIND.make
