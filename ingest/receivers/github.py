"""`POST /v1/changes/github`: deployments of GitHub, told by its `deployment_status` webhook.

A deployment's environment is a cell's name, or the environment that one or more cells have in the estate. Its
`payload` may say more than GitHub knows: `version`, `previous_version`, `service`, `tenants`, `kind`, `approver`.
Source: GitHub REST documentation, webhook events and payloads, `deployment_status`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ingest.receivers.receiver import Received, ReceiverKind, Refused, Request, read_as, unauthorized, unprocessable
from ingest.receivers.signature import Keys, equal
from schemas.estate import Cell, Estate
from schemas.records import Change, ChangeKind, ChangeStatus

EVENT = "deployment_status"
ORIGIN = "github"
STATUSES = {
    "pending": ChangeStatus.STARTED,
    "queued": ChangeStatus.STARTED,
    "in_progress": ChangeStatus.STARTED,
    "success": ChangeStatus.SUCCEEDED,
    "failure": ChangeStatus.FAILED,
    "error": ChangeStatus.FAILED,
}
SILENT_STATES = ("waiting", "inactive")  # nothing has begun, or a newer deployment took its place


class GitHub:
    """Takes deployment statuses for the cells of the estate."""

    def __init__(self, estate: Estate, keys: tuple[str, ...]) -> None:
        Keys(keys)  # refuses keys that are missing or too short
        self._estate, self._keys = estate, keys

    def receive(self, request: Request, now_ms: int) -> Received:
        """One change for every cell of the environment."""
        self._check(request)
        event = request.headers.get("x-github-event", "")
        if event != EVENT:
            return Received(ignored=f"event {event or 'without a name'} is not read; {EVENT} is")
        data = request.json()
        state = _text(data, "deployment_status", "state")
        if state in SILENT_STATES:
            return Received(ignored=f"state {state} changes nothing")
        if state not in STATUSES:
            known = ", ".join([*STATUSES, *SILENT_STATES])
            raise unprocessable("deployment_status.state", state, f"known are {known}")
        delivery = request.headers.get("x-github-delivery")
        cells = self._cells(_text(data, "deployment", "environment"))
        changes = [_change(data, cell, state) for cell in cells]
        return Received([*changes], [f"github:{delivery}:{cell.name}" if delivery else None for cell in cells])

    def _check(self, request: Request) -> None:
        given = request.headers.get("x-hub-signature-256", "")
        right = ["sha256=" + hmac.new(key.encode(), request.body, hashlib.sha256).hexdigest() for key in self._keys]
        if not any(equal(given, one) for one in right):
            raise unauthorized("X-Hub-Signature-256: it must be sha256= and the HMAC of the body with the secret")

    def _cells(self, environment: str) -> list[Cell]:
        """The cell of that name, else all cells of that environment."""
        cells = self._estate.cells
        found = [cell for cell in cells if cell.name == environment] or [
            cell for cell in cells if cell.environment == environment
        ]
        if not found:
            known = sorted({cell.name for cell in cells} | {cell.environment for cell in cells})
            raise unprocessable("deployment.environment", environment, f"cells and environments are {', '.join(known)}")
        return found


def _change(data: Mapping[str, Any], cell: Cell, state: str) -> Change:
    deployment, status = _object(data, "deployment"), _object(data, "deployment_status")
    repository, payload = _object(data, "repository"), _payload(deployment)
    rolled_back = deployment.get("task") == "rollback" and STATUSES[state] is ChangeStatus.SUCCEEDED
    told = {
        "cell": cell.name,
        "time_ms": _time_ms(status),
        "change_id": f"{ORIGIN}:{_text(data, 'repository', 'full_name')}:{deployment.get('id')}",
        "kind": payload.get("kind", ChangeKind.RELEASE),
        "status": ChangeStatus.ROLLED_BACK if rolled_back else STATUSES[state],
        "service": payload.get("service") or repository.get("name"),
        "revision": payload.get("version") or deployment.get("ref") or deployment.get("sha"),
        "previous_revision": payload.get("previous_version"),
        "tenants": payload.get("tenants") or (),
        "author": _login(deployment.get("creator")) or _login(data.get("sender")),
        "approver": payload.get("approver"),
        "environment": cell.environment,
        "url": status.get("log_url") or status.get("target_url") or status.get("environment_url") or None,
        "origin": ORIGIN,
    }
    return read_as(Change, told, "change")


def _payload(deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the deployer added: an object, or the same as text, or anything else, which says nothing."""
    payload = deployment.get("payload")
    if isinstance(payload, str) and payload.startswith("{"):
        try:
            payload = json.loads(payload)
        except ValueError:
            return {}
    return payload if isinstance(payload, dict) else {}


def _time_ms(status: Mapping[str, Any]) -> int:
    text = status.get("updated_at") or status.get("created_at") or ""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        right = "it must be a time as 2025-10-09T08:53:20Z"
        raise unprocessable("deployment_status.updated_at", text, right) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _object(data: Any, name: str) -> Mapping[str, Any]:
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, dict):
        raise Refused(422, "Not understood", f"{name}: a {EVENT} of GitHub has it as an object", field=name)
    return value


def _text(data: Any, name: str, key: str) -> str:
    value = _object(data, name).get(key)
    if not isinstance(value, str) or not value:
        raise unprocessable(f"{name}.{key}", value, "it must be a text")
    return value


def _login(person: object) -> str | None:
    return person.get("login") if isinstance(person, dict) else None


KIND = ReceiverKind("github", "/v1/changes/github", GitHub)
