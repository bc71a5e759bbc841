"""`POST /v1/changes/github`: deployments of GitHub, told by its `deployment_status` webhook.

A deployment's environment is a cell's name, or the environment that one or more cells have in the estate. Its
`payload` may say more than GitHub knows: `version`, `previous_version`, `service`, `tenants`, `kind`, `approver`. Needed are
the state and the environment; what else is missing or of another type says nothing.

The signature covers the body alone, neither the delivery's id nor a time. So a delivery is known by its body, and one
older than what is remembered (24 hours) is refused: who caught one cannot bring it again.
Source: GitHub REST documentation, webhook events and payloads, `deployment_status`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from ingest.receivers import foreign
from ingest.receivers.admission import Scope
from ingest.receivers.receiver import Received, ReceiverKind, Request, read_as
from ingest.receivers.refusals import Refused, forbidden, shown, unprocessable
from ingest.receivers.signature import GitHubSignature
from ingest.spool import DELIVERY_MS
from schemas.codec import rfc3339
from schemas.estate import Cell
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
KINDS = {kind.value: kind for kind in ChangeKind}
FORM = "payload="


def read(request: Request, scope: Scope, now_ms: int) -> Received:
    """One change for every cell of the environment that the key may write."""
    event = request.headers.get("x-github-event", "")
    if event != EVENT:
        return Received(ignored=f"event {shown(event) or 'without a name'} is not read; {EVENT} is")
    data = request.json(_json_text(request), mends=True)
    state = (foreign.text(_object(data, EVENT).get("state")) or "").casefold()
    if state in SILENT_STATES:
        return Received(ignored=f"state {state} changes nothing")
    if state not in STATUSES:
        known = ", ".join([*STATUSES, *SILENT_STATES])
        raise unprocessable(f"{EVENT}.state", _object(data, EVENT).get("state"), f"known are {known}")
    time_ms = _time_ms(data, now_ms)
    cells = _cells(scope, _object(data, "deployment").get("environment"))
    digest = hashlib.sha256(request.body).hexdigest()
    changes = [_change(data, cell, STATUSES[state], scope, time_ms) for cell in cells]
    return Received([*changes], [f"{digest}:{cell.name}" for cell in cells])


def _json_text(request: Request) -> str:
    """The JSON of either content type that GitHub sends."""
    text = request.text()
    return unquote_plus(text.removeprefix(FORM)) if text.startswith(FORM) else text


def _cells(scope: Scope, environment: object) -> list[Cell]:
    """The cell of that name, else all cells of that environment, in any case."""
    said = foreign.text(environment)
    if said is None:
        raise unprocessable("deployment.environment", environment, "it must name a cell or an environment")
    found = (
        [cell for cell in scope.cells if cell.name == said]
        or [cell for cell in scope.cells if cell.environment == said]
        or [cell for cell in scope.cells if cell.name.casefold() == said.casefold()]
        or [cell for cell in scope.cells if cell.environment.casefold() == said.casefold()]
    )
    if not found:
        known = ", ".join(sorted({cell.name for cell in scope.cells} | {cell.environment for cell in scope.cells}))
        if scope.key.cells:
            raise forbidden("deployment.environment", said, f"is not in the scope of this key; it may write {known}")
        raise unprocessable("deployment.environment", said, f"cells and environments are {known}")
    return found


def _change(data: Mapping[str, Any], cell: Cell, status: ChangeStatus, scope: Scope, time_ms: int) -> Change:
    deployment, repository = _object(data, "deployment"), foreign.fields(data.get("repository"))
    payload, told_by = _payload(deployment), foreign.fields(data.get(EVENT))
    rolled_back = deployment.get("task") == "rollback" and status is ChangeStatus.SUCCEEDED
    revisions = (payload.get("version"), deployment.get("ref"), deployment.get("sha"), deployment.get("id"))
    urls = (told_by.get("log_url"), told_by.get("target_url"), told_by.get("environment_url"))
    people = (deployment.get("creator"), data.get("sender"))
    said = {
        "cell": cell.name,
        "time_ms": time_ms,
        "change_id": foreign.name(f"{ORIGIN}:{_repository(repository)}:{foreign.name(deployment.get('id'))}"),
        "kind": foreign.one_of(payload.get("kind"), KINDS) or ChangeKind.RELEASE,
        "status": ChangeStatus.ROLLED_BACK if rolled_back else status,
        "service": foreign.first(map(foreign.name, (payload.get("service"), repository.get("name")))) or "unknown",
        "revision": foreign.first(map(foreign.name, revisions)) or "unknown",
        "previous_revision": foreign.name(payload.get("previous_version")),
        "tenants": _tenants(payload.get("tenants"), scope),
        "author": foreign.first(foreign.text(foreign.fields(person).get("login")) for person in people),
        "approver": foreign.text(payload.get("approver")),
        "environment": cell.environment,
        "url": foreign.first(map(foreign.url, urls)),
        "origin": ORIGIN,
    }
    return read_as(Change, said, "change")


def _tenants(value: object, scope: Scope) -> list[str]:
    """Those that the estate knows, as it writes them; those of another spelling or of nowhere are left out."""
    known = {name: name for name in sorted(scope.tenants)}
    return [one for name in foreign.names(value) if (one := foreign.one_of(name, known))]


def _payload(deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the deployer added: an object, or the same as text, or anything else, which says nothing."""
    payload = deployment.get("payload")
    if isinstance(payload, str) and payload.lstrip().startswith("{"):
        try:
            payload = Request({}, payload.encode()).json(mends=True)
        except (Refused, UnicodeError):
            return {}
    return foreign.fields(payload)


def _time_ms(data: Mapping[str, Any], now_ms: int) -> int:
    """When it was said, now where nothing says so. Raises Refused where a second delivery could no longer be known."""
    told_by, deployment = foreign.fields(data.get(EVENT)), foreign.fields(data.get("deployment"))
    times = (one.get(name) for one in (told_by, deployment) for name in ("updated_at", "created_at"))
    time_ms = foreign.first(map(foreign.time_ms, times))
    if time_ms is None:
        return now_ms
    if time_ms <= now_ms - DELIVERY_MS:
        right = (
            f"it must be within 24 hours of {rfc3339(now_ms)}, for an older delivery cannot be told from a repeated one"
        )
        raise unprocessable(f"{EVENT}.updated_at", rfc3339(max(0, time_ms)), right)
    return time_ms


def _object(data: Any, name: str) -> Mapping[str, Any]:
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, dict):
        raise Refused(422, "Not understood", f"{name}: a {EVENT} of GitHub has it as an object", field=name)
    return value


def _repository(repository: Mapping[str, Any]) -> str:
    return foreign.first(map(foreign.name, (repository.get("full_name"), repository.get("name")))) or "unknown"


KIND = ReceiverKind("github", "/v1/changes/github", GitHubSignature, read)
GitHub = KIND.make
