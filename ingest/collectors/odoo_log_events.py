"""What the lines of an Odoo log mean, 16-19: events, logins, counters, and which of them are worth shipping.

Texts differ by version and are matched, not derived from a version number. Pure: entries in, records out; what must be
remembered from one piece to the next is `Memory`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from ingest.collector import ERROR, INFO, WARN, Target
from ingest.collectors.odoo_log_bodies import body, exception_type
from ingest.collectors.odoo_log_groups import GROUPS, Group
from ingest.collectors.odoo_log_lines import Entry, Request
from schemas.records import LogBatch, OperationsEvent, Record, Scalar, SecurityEvent
from schemas.series import identity

KILL_MEMORY_MS = 600_000  # the master tells a kill up to three times within seconds; a pid comes back much later
MAX_REMEMBERED = 1_000

# What is asked by machines about the machine, or stays open for long, says nothing of what people wait for.
_NO_REQUEST = re.compile(r"/(?:web/health|websocket|longpolling/|queue_job/runjob)")
_RETRY = re.compile(r"[A-Z_]+, \d+ tries left, try again in ")
_LOGGED_IN = re.compile(
    r"Login (?P<how>successful|failed) for (?:db:(?P<db>\S+) )?login:(?P<login>.*) from (?P<ip>\S+)"
)
_COOLDOWN = re.compile(
    r"Login attempt ignored for (?P<ip>\S+) \(user (?P<login>.+)\) on (?P<db>\S+): (?P<failures>\d+) failures"
)
_API_KEY = re.compile(
    r"(?P<kind>.+) generated: scope: <(?P<scope>.*?)> for '(?P<login>.*)' \(#(?P<id>\d+)\) from (?P<ip>\S+)"
)
_KILLED = re.compile(r"(?P<kind>Worker\w*) \((?P<pid>\d+)\) timeout after (?P<limit>\d+)s")
_LIMIT = re.compile(
    r"Worker \((?P<pid>\d+)\) (?P<limit>CPU time limit|virtual memory limit|max request|max age) \((?P<value>\d+)s?\) reached"
)
_SERVER_MEMORY = re.compile(r"Server memory limit \((?P<value>\d+)\) reached")
_MODULE = re.compile(r"Module (?P<name>\S+) loaded in (?P<seconds>[\d.]+)s, ")
_REQUEUED = re.compile(r"Re-queued dead job with uuid: (?P<uuid>\S+)")
_CRON_FAILED = (
    re.compile(r"Call from cron (?P<name>.+) for server action #\d+ failed in Job #(?P<id>\d+)"),
    re.compile(r"Job '(?P<name>.+)' \((?P<id>\d+)\) (?:server action #\d+ failed|timed out)"),
)
_CRON_STARTS = re.compile(r"(?:Manually s|S)tarting job `|Job '.+' \(\d+\) starting")
_CRON_ENDED = (
    re.compile(r"Job done: `(?P<name>.+)` \((?P<seconds>[\d.]+)s\)"),
    re.compile(r"Job `(?P<name>.+)` done"),
    re.compile(r"Job '(?P<name>.+)' \((?P<id>\d+)\) done in (?P<seconds>[\d.]+)s"),
    re.compile(
        r"Job '(?P<name>.+)' \((?P<id>\d+)\) (?P<how>fully done|partially done|failed) \(.*duration (?P<seconds>[\d.]+)s\)"
    ),
)
RARE = ("odoo.log.errors", "odoo.log.retries", "odoo.http.errors")


class Memory(BaseModel):
    """What is carried from one look to the next.

    `counters` by series identity, counting since `since_ms`; `killed` when a pid was told as killed; `failing` the cron
    whose run has failed by pid, until the next starts there, so that a run that fails is told once.
    """

    model_config = ConfigDict(extra="forbid")

    since_ms: int
    counters: dict[str, float] = {}
    killed: dict[str, int] = {}
    failing: dict[str, str] = {}


@dataclass(slots=True)
class _Wait:
    """How long the requests of a tenant took in one look."""

    count: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0


class Reading:
    """Folds the entries of one look. `memory` is its own and is changed."""

    def __init__(self, target: Target, memory: Memory, *, ship_all: bool, mask: bool) -> None:
        self.target, self.memory, self.ship_all, self.mask = target, memory, ship_all, mask
        self.events: list[Record] = []
        self._logs: list[tuple[Entry, dict[str, Scalar]]] = []
        self._groups: dict[tuple[str, str | None, str], Group] = {}
        self._waits: dict[str | None, _Wait] = {}

    @property
    def told(self) -> int:
        """Records and log lines that the look will give so far."""
        return len(self.events) + len(self._logs) + len(self._groups)

    def fold(self, entry: Entry) -> None:
        """Count the entry, tell what it means, and ship it if it is worth it."""
        self._add("odoo.log.records", entry, {"odoo.log.level": entry.level})
        if entry.severity_number >= ERROR:
            self._add("odoo.log.errors", entry)
        request = entry.request
        if request is not None:
            self._request(entry, request)
        meaning = self._meaning(entry)
        if meaning is not None or entry.severity_number >= WARN or self.ship_all:
            self._logs.append((entry, meaning or {}))

    def records(self) -> list[Record]:
        """Everything the look gives besides its scrape: log lines first."""
        batch = [self._batch()] if self._logs else []
        return [*batch, *self.events, *(self._grouped(key, group) for key, group in self._groups.items())]

    def points(self) -> dict[str, float | None]:
        """The counters, and of this look's requests the mean and the longest time."""
        points: dict[str, float | None] = {**self._none_yet(), **self.memory.counters}
        for tenant, wait in self._waits.items():
            attributes = _of(tenant)
            points[identity("odoo.http.request.duration.mean", attributes)] = wait.total_s / wait.count
            points[identity("odoo.http.request.duration.max", attributes)] = wait.longest_s
        return points

    def _none_yet(self) -> dict[str, float]:
        """What has not happened is a measured zero: its first time must be seen as a rise, not as a new series."""
        tenants = (None, *self.target.cell.tenants_by_name)
        never = {identity(name, _of(tenant)): 0.0 for name in RARE for tenant in tenants}
        return {**never, identity("odoo.worker.killed"): 0.0}

    # What a line means, by the logger that wrote it; None means nothing in particular.

    def _meaning(self, entry: Entry) -> dict[str, Scalar] | None:
        if _RETRY.match(entry.message):
            self._add("odoo.log.retries", entry)
        if "The Connection Pool Is Full" in entry.message or entry.message.startswith(
            "Connection to the database failed"
        ):
            self._group("odoo.pool.full", entry).count += 1
            return {}
        read = next((read for logger, read in _LOGGERS.items() if entry.logger.startswith(logger)), None)
        return read(self, entry) if read else None

    def worker(self, entry: Entry) -> dict[str, Scalar] | None:
        """A worker ended by a limit. Source: odoo/service/server.py."""
        if killed := _KILLED.match(entry.message):
            attributes = {"odoo.worker.kind": killed["kind"], "odoo.worker.limit": f"real time {killed['limit']} s"}
            return self._killed(entry, killed["pid"], attributes)
        if limit := _LIMIT.match(entry.message):
            attributes = {"odoo.worker.limit": limit["limit"]}
            if limit["limit"] == "CPU time limit":
                return self._killed(entry, limit["pid"], attributes)
            # The number in parentheses is the present value, not the limit.
            self._group("odoo.worker.recycled", entry, limit["limit"]).count += 1
            return attributes
        if _SERVER_MEMORY.match(entry.message):
            self._group("odoo.worker.recycled", entry, "server memory limit").count += 1
            return {"odoo.worker.limit": "server memory limit"}
        return {} if entry.message.startswith("Worker ") and entry.message.endswith(" alive") else None

    def _killed(self, entry: Entry, pid: str, attributes: dict[str, str]) -> dict[str, Scalar]:
        """The master tells a kill up to three times; the pid in parentheses is who died."""
        told: dict[str, Scalar] = {**attributes, "process.pid": int(pid)}
        if entry.time_ms - self.memory.killed.get(pid, -KILL_MEMORY_MS) >= KILL_MEMORY_MS:
            self.memory.killed[pid] = entry.time_ms
            self._add("odoo.worker.killed", None)
            body = f"Odoo worker {pid} was killed: {attributes['odoo.worker.limit']} reached"
            self._event("odoo.worker.killed", entry, ERROR, body, told)
        return told

    def cron(self, entry: Entry) -> dict[str, Scalar] | None:
        """A scheduled action that failed or ended; a failed run is told once, whichever line says it first."""
        if failed := _first(_CRON_FAILED, entry.message):
            self._cron_failed(entry, failed.groupdict())
            return _cron(failed.groupdict())
        if _CRON_STARTS.match(entry.message):
            self.memory.failing.pop(str(entry.pid), None)
            return {}
        ended = _first(_CRON_ENDED, entry.message)
        if ended is None:
            return None
        found = ended.groupdict()
        if found.get("how") == "failed":
            self._cron_failed(entry, found)
        return _cron(found)

    def _cron_failed(self, entry: Entry, found: Mapping[str, str | None]) -> None:
        pid = str(entry.pid)
        name = found["name"] or ""
        if self.memory.failing.get(pid) != name:
            body = f"Scheduled action {name!r} failed"
            self._event("odoo.cron.failed", entry, ERROR, body, _cron(found))
        self.memory.failing[pid] = name

    def module(self, entry: Entry) -> dict[str, Scalar] | None:
        """A module that was installed or upgraded: at a plain start this line is written for none."""
        loaded = _MODULE.match(entry.message)
        if loaded is None:
            return None
        group = self._group("odoo.module.loaded", entry)
        group.count, group.seconds = group.count + 1, group.seconds + float(loaded["seconds"])
        group.names.append(loaded["name"])
        return {"odoo.module.name": loaded["name"]}

    def login(self, entry: Entry) -> dict[str, Scalar] | None:
        """Who came in, who did not, and whose key was made."""
        if found := _LOGGED_IN.fullmatch(entry.message):
            outcome = "success" if found["how"] == "successful" else "failure"
            self._security("odoo.login", entry, found.groupdict(), outcome, {})
            return {}
        if found := _COOLDOWN.match(entry.message):
            failures = int(found["failures"])
            attributes: dict[str, Scalar] = {"odoo.login.failures": failures}
            self._security("odoo.login.cooldown", entry, found.groupdict(), "failure", attributes)
            return {}
        if found := _API_KEY.fullmatch(entry.message):
            attributes = {"odoo.api_key.scope": found["scope"], "user.id": int(found["id"])}
            self._security("odoo.api_key.generated", entry, found.groupdict(), "success", attributes)
            return {}
        return None

    def runner(self, entry: Entry) -> dict[str, Scalar] | None:
        """The queue's runner gave a job that nobody ran back to the queue."""
        found = _REQUEUED.match(entry.message)
        if found is None:
            return None
        attributes: dict[str, Scalar] = {"odoo.queue_job.uuid": found["uuid"]}
        self._event("odoo.queue_job.requeued_dead", entry, WARN, "A job whose worker died was queued again", attributes)
        return attributes

    # Counting and telling.

    def _request(self, entry: Entry, request: Request) -> None:
        if _NO_REQUEST.match(request.path):
            return
        self._add("odoo.http.requests", entry, {"http.response.status_class": f"{request.status // 100}xx"})
        self._add("odoo.http.errors", entry, by=float(request.status >= 500))
        if request.wall_s is None:
            return
        self._add("odoo.http.request.time", entry, by=request.wall_s)
        self._add("odoo.sql.queries", entry, by=request.queries or 0)
        self._add("odoo.sql.time", entry, by=request.sql_s or 0.0)
        wait = self._waits.setdefault(self._tenant(entry.database), _Wait())
        wait.count, wait.total_s = wait.count + 1, wait.total_s + request.wall_s
        wait.longest_s = max(wait.longest_s, request.wall_s)

    def _add(self, name: str, entry: Entry | None, more: Mapping[str, str] | None = None, *, by: float = 1.0) -> None:
        attributes = _of(self._tenant(entry.database) if entry else None)
        series = identity(name, {**attributes, **(more or {})})
        # Rounded, so that the sum of many times does not depend on how they were cut into looks.
        self.memory.counters[series] = round(self.memory.counters.get(series, 0.0) + by, 6)

    def _tenant(self, database: str | None) -> str | None:
        return self.target.cell.tenant_of_database.get(database) if database else None

    def _group(self, name: str, entry: Entry, reason: str = "") -> Group:
        key = (name, self._tenant(entry.database), reason)
        group = self._groups.setdefault(key, Group(entry.time_ms))
        group.time_ms = max(group.time_ms, entry.time_ms)
        return group

    def _grouped(self, key: tuple[str, str | None, str], group: Group) -> OperationsEvent:
        name, tenant, reason = key
        severity_number, body, attributes = GROUPS[name](reason, group)
        return OperationsEvent(
            **self.target.identity(),
            time_ms=group.time_ms,
            tenant=tenant,
            name=name,
            severity_number=severity_number,
            body=body,
            attributes=attributes,
        )

    def _event(
        self, name: str, entry: Entry, severity_number: int, body: str, attributes: Mapping[str, Scalar]
    ) -> None:
        self.events.append(
            OperationsEvent(
                **self.target.identity(),
                time_ms=entry.time_ms,
                tenant=self._tenant(entry.database),
                name=name,
                severity_number=severity_number,
                body=body,
                attributes=dict(attributes),
            )
        )

    def _security(
        self, name: str, entry: Entry, found: Mapping[str, Any], outcome: str, attributes: dict[str, Scalar]
    ) -> None:
        # RPC logins stand under the database `None`; 17 and 18 name it in the message, 19 nowhere.
        database = found.get("db") or entry.database
        address = found["ip"]
        self.events.append(
            SecurityEvent(
                **self.target.identity(),
                time_ms=entry.time_ms,
                tenant=self._tenant(database),
                name=name,
                severity_number=INFO if outcome == "success" else WARN,
                body=_SECURITY_BODIES[name, outcome],
                attributes={**({"db.namespace": database} if database else {}), **attributes},
                actor=found["login"].strip("'"),
                source_address=None if address == "n/a" else address,
                outcome=outcome,
            )
        )

    def _batch(self) -> LogBatch:
        entries = [entry for entry, _ in self._logs]
        names = sorted({name for _, attributes in self._logs for name in attributes})
        columns: dict[str, tuple[Scalar | None, ...]] = {
            "odoo.logger": tuple(entry.logger for entry in entries),
            "process.pid": tuple(entry.pid for entry in entries),
            "db.namespace": tuple(entry.database for entry in entries),
            "exception.type": tuple(exception_type(entry.message) for entry in entries),
        }
        more = {name: tuple(attributes.get(name) for _, attributes in self._logs) for name in names}
        return LogBatch(
            **self.target.identity(),
            time_ms=max(entry.time_ms for entry in entries),
            tenants=tuple(self._tenant(entry.database) for entry in entries),
            times_ms=tuple(entry.time_ms for entry in entries),
            severity_numbers=tuple(entry.severity_number for entry in entries),
            bodies=tuple(body(entry, mask=self.mask) for entry in entries),
            attributes=dict(sorted({**more, **columns}.items())),
        )


def trim(memory: Memory) -> None:
    """Forget what no longer matters by the log's own clock, and beyond the bound what is oldest."""
    newest_ms = max(memory.killed.values(), default=0)
    recent = [(pid, time_ms) for pid, time_ms in memory.killed.items() if newest_ms - time_ms < KILL_MEMORY_MS]
    memory.killed = dict(recent[-MAX_REMEMBERED:])
    memory.failing = dict(list(memory.failing.items())[-MAX_REMEMBERED:])


def _of(tenant: str | None) -> dict[str, str]:
    return {"tenant.id": tenant} if tenant else {}


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> re.Match[str] | None:
    return next((match for pattern in patterns if (match := pattern.match(text))), None)


def _cron(found: Mapping[str, str | None]) -> dict[str, Scalar]:
    """Attributes of a scheduled action; `odoo.cron.duration` in s."""
    attributes: dict[str, Scalar] = {"odoo.cron.name": found["name"] or ""}
    if number := found.get("id"):
        attributes["odoo.cron.id"] = int(number)
    if seconds := found.get("seconds"):
        attributes["odoo.cron.duration"] = float(seconds)
    if how := found.get("how"):
        attributes["odoo.cron.outcome"] = how
    return attributes


_SECURITY_BODIES = {
    ("odoo.login", "success"): "A login succeeded",
    ("odoo.login", "failure"): "A login failed",
    ("odoo.login.cooldown", "failure"): "A login was ignored after too many failures",
    ("odoo.api_key.generated", "success"): "An API key was generated",
}
_LOGGERS: dict[str, Callable[[Reading, Entry], dict[str, Scalar] | None]] = {
    "odoo.service.server": Reading.worker,
    "odoo.addons.base.models.ir_cron": Reading.cron,
    "odoo.addons.base.models.res_users": Reading.login,
    "odoo.modules.loading": Reading.module,
    "odoo.addons.queue_job.jobrunner.runner": Reading.runner,
}
