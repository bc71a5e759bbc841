"""What of an incident is worth telling, and in which words. Pure: what a route was told follows from the log alone.

A route is told when an incident opens, when its severity rises or it comes to concern another role, and when it is over;
in between when its first cause, its severity or its tenants have changed, or its cause is over and the rest recovers, at most once
in `min_update_ms` of the incidents' own time. News that comes sooner is held: the newest of it is due when that time has passed,
unless it has become untrue again. Of what is silenced nothing is told but the end of what was told before; once the silence is
over, what goes on is told as it is then.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson

from schemas.codec import rfc3339
from schemas.estate import Route
from schemas.records import Cause, Incident, Phase, Role, Severity, Signal
from schemas.shown import shown_impact, shown_recovery

BODY_BYTES_MAX = 256 * 1024
"""A larger body goes out without its details: receivers refuse large ones, and the alert counts more than its evidence."""
IDENTITY_LETTERS_MAX = 200
"""A longer webhook-id is replaced by its digest: headers have bounds."""
ITEMS_KEPT, LETTERS_KEPT = 20, 500
"""Of a body that is cut: entries of each list, and letters of each text."""

WATCHDOG = "pilothouse.watchdog:"
TYPES = {Phase.OPEN: "incident.open", Phase.UPDATED: "incident.updated", Phase.RESOLVED: "incident.resolved"}


class Notification(NamedTuple):
    """One thing to tell a route of an incident."""

    phase: Phase
    incident: Incident

    @property
    def id(self) -> str:
        """The same at every delivery, so that a receiver knows a second one: incident and version.

        Without a full stop, which separates the parts that are signed.
        """
        return f"{_named(self.incident.id)}-{self.incident.version}"


class Heartbeat(NamedTuple):
    """A cell's pipeline says that it works; for routes that asked for it."""

    signal: Signal

    @property
    def id(self) -> str:
        """The same at every delivery: the cell's heartbeat and its time."""
        return f"{_named(self.signal.id)}-{self.signal.time_ms}"


def _named(identity: str) -> str:
    quoted = quote(identity, safe="").replace(".", "%2E")
    return quoted if len(quoted) <= IDENTITY_LETTERS_MAX else hashlib.sha256(identity.encode()).hexdigest()


def is_heartbeat(route: Route, signal: Signal) -> bool:
    """Whether a signal is a heartbeat that the route asked for."""
    return route.watchdog and signal.cause.startswith(WATCHDOG) and (not route.cells or signal.cell in route.cells)


class Known(NamedTuple):
    """What a route was last told of an incident, and when (in the incident's time)."""

    told_ms: int
    phase: Phase
    severity: Severity
    cause: str
    tenants: frozenset[str]
    roles: frozenset[Role]
    is_recovering: bool


@dataclass(frozen=True, slots=True)
class Told:
    """A route's knowledge of one incident. `held` is news that waits; `version` is the last one that was looked at."""

    version: int = 0
    known: Known | None = None
    held: Incident | None = None


def concerns(route: Route, incident: Incident) -> bool:
    """Whether the route wants to hear of such incidents. One of the fleet concerns who hears of a cell that it touches."""
    if incident.severity < Severity[route.min_severity.upper()]:
        return False
    touched = {incident.cell, *(part.cell for part in incident.parts)}
    if route.cells and touched.isdisjoint(route.cells):
        return False
    # Who alone could say whom it concerns has not: better told to all than to nobody.
    if route.roles and incident.roles and frozenset(route.roles).isdisjoint(incident.roles):
        return False
    return not route.tenants or not frozenset(route.tenants).isdisjoint(incident.tenants)


def decide(known: Known | None, incident: Incident) -> Notification | None:
    """What this version of an incident tells somebody who knows that; None when it is no news."""
    is_over = incident.phase is Phase.RESOLVED
    if known is None or known.phase is Phase.RESOLVED:
        return None if is_over else Notification(Phase.OPEN, incident)
    if is_over:
        return Notification(Phase.RESOLVED, incident)
    is_same = _known(incident, known.told_ms)[2:] == known[2:]
    return None if is_same else Notification(Phase.UPDATED, incident)


def fold(route: Route, min_update_ms: int, told: Told, incident: Incident) -> tuple[Told, list[Notification]]:
    """Look at one version of an incident: what is known afterwards, and what has to be told, in this order."""
    if incident.version <= told.version:
        return told, []
    told, news = flush(min_update_ms, told, incident.time_ms)
    told = replace(told, version=incident.version, held=None)
    if incident.silenced and not (told.known and incident.phase is Phase.RESOLVED):
        return told, news
    if told.known is None and not concerns(route, incident):
        return told, news
    notification = decide(told.known, incident)
    if notification is None:
        return told, news
    if told.known and _can_wait(told.known, notification) and incident.time_ms < told.known.told_ms + min_update_ms:
        return replace(told, held=incident), news
    return replace(told, known=_known(incident, incident.time_ms)), [*news, notification]


def flush(min_update_ms: int, told: Told, time_ms: int) -> tuple[Told, list[Notification]]:
    """What is held and due at a time."""
    due_ms = due(min_update_ms, told)
    if told.held is None or due_ms is None or due_ms > time_ms:
        return told, []
    return replace(told, known=_known(told.held, due_ms), held=None), [Notification(Phase.UPDATED, told.held)]


def due(min_update_ms: int, told: Told) -> int | None:
    """When what is held is to be told, Unix ms; None when nothing is."""
    return told.known.told_ms + min_update_ms if told.held and told.known else None


def _can_wait(known: Known, notification: Notification) -> bool:
    incident = notification.incident
    is_greater = incident.severity > known.severity or not known.roles.issuperset(incident.roles)
    return notification.phase is Phase.UPDATED and not is_greater


def _known(incident: Incident, told_ms: int) -> Known:
    who = frozenset(incident.tenants), frozenset(incident.roles)
    return Known(
        told_ms, incident.phase, incident.severity, incident.causes[0].cause, *who, incident.recovery is not None
    )


def body(notification: Notification | Heartbeat) -> bytes:
    """The JSON of a notification: the same bytes at every delivery."""
    return content(notification).data


class Content(NamedTuple):
    """A body, and whether details were left out of it."""

    data: bytes
    is_cut: bool


def content(notification: Notification | Heartbeat) -> Content:
    """The body of a notification, at most BODY_BYTES_MAX."""
    whole = _whole(notification)
    if len(data := orjson.dumps(whole)) <= BODY_BYTES_MAX:
        return Content(data, False)
    data = orjson.dumps(_cut(whole) | {"cut": True})
    if len(data) > BODY_BYTES_MAX:
        kept = {name: whole["data"].get(name) for name in ("id", "cell", "version", "severity", "title")}
        data = orjson.dumps(whole | {"data": _cut(kept), "cut": True})
    return Content(data, True)


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LETTERS_KEPT]
    if isinstance(value, list | tuple):
        return [_cut(one) for one in value[:ITEMS_KEPT]]
    return {name: _cut(one) for name, one in value.items()} if isinstance(value, dict) else value


def _whole(notification: Notification | Heartbeat) -> dict[str, Any]:
    if isinstance(notification, Heartbeat):
        signal = notification.signal
        data = {"id": signal.id, "cell": signal.cell, "title": signal.summary}
        return {"type": "watchdog", "timestamp": rfc3339(signal.time_ms), "data": data}
    incident = notification.incident
    return {"type": TYPES[notification.phase], "timestamp": rfc3339(incident.time_ms), "data": _data(incident)}


def _data(incident: Incident) -> dict[str, Any]:
    whole = incident.model_dump(mode="json", exclude={"time_ms", "started_ms", "phase", "severity", "causes"})
    return {
        **whole,
        "severity": incident.severity.name.lower(),
        "started": rfc3339(incident.started_ms),
        "causes": [_cause(cause) for cause in incident.causes],
        "impact": shown_impact(incident.impact),
        "recovery": shown_recovery(incident.recovery),
    }


def _cause(cause: Cause) -> dict[str, Any]:
    kind, _, resource = cause.cause.partition(":")
    return {
        "cause": cause.cause,
        "kind": kind,
        "resource": resource,
        "probability": cause.probability,
        "evidence": [one.text for one in cause.evidence],
        "against": [one.text for one in cause.against],
    }
