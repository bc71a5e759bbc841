"""What the lines of an Odoo log mean, 16-19: events, logins, counters, and which of them are worth shipping.

Texts differ by version and are matched, not derived from a version number. Pure: entries in, records out; what must be
remembered from one piece to the next is `Memory`. An entry is understood first and counted then, so that one which cannot be
told changes nothing. Patterns are anchored and bounded: what they read was typed by strangers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, ValidationError

from ingest.collector import ERROR, INFO, WARN, Target
from ingest.collectors.odoo_log_bodies import body, exception_type
from ingest.collectors.odoo_log_groups import GROUPS, Group
from ingest.collectors.odoo_log_lines import Entry, Fault, Form, Request, printable
from schemas.bounds import reached
from schemas.masking import masked
from schemas.records import LogBatch, OperationsEvent, Record, Scalar, SecurityEvent
from schemas.series import identity

KILL_MEMORY_MS = 600_000  # the master tells a kill up to three times within seconds; a pid comes back much later
MAX_REMEMBERED = 1_000
MAX_CRONS = 500  # whose runs are counted by name; the others are counted as one
MAX_NAME = 200  # characters of a name in an event or a series
MAX_ACTOR = 255
OTHERS = "(others)"

# What is asked by machines about the machine, or stays open for long, says nothing of what people wait for.
_NO_REQUEST = re.compile(r"^/(?:web/health|websocket|longpolling/|queue_job/runjob)")
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_ID = r"[0-9]{1,10}"
_RETRY = re.compile(r"^[A-Z_]{1,64}, [0-9]{1,9} tries left, try again in ")
_ADDRESS = re.compile(r"^(?:n/a|[0-9A-Fa-f.:]{2,45}(?:%\w{1,16})?)$")
_DATABASE = re.compile(r"^db:(\S{1,128}) ")
_COOLDOWN = re.compile(r"^Login attempt ignored for (\S{1,64}) \(user '")
_FAILURES = re.compile(r"^(\S{1,128}): ([0-9]{1,9}) failures")
_KEY_OF = re.compile(rf"^({_ID})\) from ?(\S{{0,64}})$")
_KILLED = re.compile(rf"^(?P<kind>Worker\w{{0,40}}) \((?P<pid>{_ID})\) timeout after (?P<limit>[0-9]{{1,9}})s")
_LIMIT = re.compile(
    rf"^Worker \((?P<pid>{_ID})\) (?P<limit>CPU time limit|virtual memory limit|max request|max age) \([0-9]{{1,20}}s?\) reached"
)
_SERVER_MEMORY = re.compile(r"^Server memory limit \([0-9]{1,20}\) reached")
_ALIVE = re.compile(rf"^(?:Worker Worker(\w{{1,40}}) \({_ID}\) alive|(Evented Service))")
_WORKER_TYPES = {"HTTP": "http", "Cron": "cron", "JobRunner": "job", "Job": "job"}
_MODULE = re.compile(rf"^Module (?P<name>\S{{1,128}}) loaded in (?P<seconds>{_NUMBER})s, ")
_REQUEUED = re.compile(r"^Re-queued dead job with uuid: (?P<uuid>\S{1,64})")
_JOB = rf"^Job '(?P<name>.+)' \((?P<id>{_ID})\)"
_CRON_FAILED = (
    re.compile(rf"^Call from cron (?P<name>.+) for server action #{_ID} failed in Job #(?P<id>{_ID})"),
    re.compile(rf"{_JOB} (?:server action #{_ID} failed|timed out)"),
)
_CRON_STARTS = (
    re.compile(r"^(?:Manually s|S)tarting job `(?P<name>.+)`"),
    re.compile(rf"{_JOB} (?:starting|started manually)"),
)
_CRON_ENDED = (
    re.compile(rf"^Job done: `(?P<name>.+)` \((?P<seconds>{_NUMBER})s\)"),
    re.compile(r"^Job `(?P<name>.+)` done"),
    re.compile(rf"{_JOB} done in (?P<seconds>{_NUMBER})s"),
    re.compile(
        rf"{_JOB} (?P<how>fully done|partially done|failed) \([^)\n]{{0,200}}duration (?P<seconds>{_NUMBER})s\)"
    ),
)
RARE = ("odoo.log.errors", "odoo.log.retries", "odoo.http.errors")


class Memory(BaseModel):
    """What is carried from one look to the next.

    `counters` by series identity, counting since `since_ms`; `killed` when a pid was told as killed; `failing` the cron
    whose run has failed by pid, until the next starts there, so that a run that fails is told once. `last_ms` is the
    time of the last line, `read_ms` when the log had been read to its end, `form` whether its records are JSON.
    """

    model_config = ConfigDict(extra="ignore")

    since_ms: int
    counters: dict[str, float] = {}
    killed: dict[str, int] = {}
    failing: dict[str, str] = {}
    last_ms: int = 0
    read_ms: int = 0
    form: Form = ""


@dataclass(slots=True)
class _Wait:
    """How long the requests of a tenant took in one look."""

    count: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Row:
    """A log line as it is shipped."""

    entry: Entry
    tenant: str | None
    body: str
    attributes: dict[str, Scalar]


@dataclass(slots=True)
class _Understood:
    """What an entry will change once all of it is understood. Nothing in it can fail any more."""

    counts: list[tuple[str, float]] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)
    groups: list[tuple[str, str, float, str]] = field(default_factory=list)
    """Name of the group, reason, seconds, name of the thing."""
    killed: str | None = None
    failing: tuple[str, str | None] | None = None
    """The pid, and the cron that fails there or None for one that starts."""


class Reading:
    """Folds the entries of one look. `memory` is its own and is changed."""

    def __init__(self, target: Target, memory: Memory, *, ship_all: bool, mask: bool) -> None:
        self.target, self.memory, self.ship_all, self.mask = target, memory, ship_all, mask
        self.events: list[Record] = []
        self.refused: list[tuple[str, bytes]] = []
        """Rows that no batch took, each with the reason: never seen, and no reason to lose the others."""
        self._rows: list[_Row] = []
        self._groups: dict[tuple[str, str | None, str], Group] = {}
        self._waits: dict[str | None, _Wait] = {}
        prefix = "odoo.log.cron.runs{"
        self._crons = {series for series in memory.counters if series.startswith(prefix)}

    @property
    def told(self) -> int:
        """Records and log lines that the look will give so far."""
        return len(self.events) + len(self._rows) + len(self._groups)

    def fold(self, entry: Entry) -> None:
        """Count the entry, tell what it means, and ship it if it is worth it; whole, or not at all if it raises."""
        understood = _Understood()
        self._count(understood, "odoo.log.records", entry, {"odoo.log.level": entry.level})
        if entry.severity_number >= ERROR:
            self._count(understood, "odoo.log.errors", entry)
        request = entry.request
        wall_s = self._request(understood, entry, request) if request is not None else None
        meaning = self._meaning(understood, entry)
        row = None
        if meaning is not None or entry.severity_number >= WARN or self.ship_all:
            text = body(entry, mask=self.mask)
            row = _Row(entry, self._tenant(entry.database), text, meaning or {})
        self._apply(understood, entry, row, wall_s)

    def refuse(self, fault: Fault) -> None:
        """Count a line that was refused."""
        self._add(identity("odoo.log.refused", {"odoo.log.fault": fault}), 1.0)

    def records(self) -> list[Record]:
        """Everything the look gives besides its scrape: log lines first."""
        grouped = (self._grouped(key, group) for key, group in self._groups.items())
        return [*self._batches(self._rows), *self.events, *grouped]

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
        starts = {identity("odoo.log.worker.starts", {"odoo.worker.type": one}): 0.0 for one in ("http", "cron")}
        refused = {identity("odoo.log.refused", {"odoo.log.fault": fault}): 0.0 for fault in Fault}
        return {**never, **starts, **refused, identity("odoo.worker.killed"): 0.0}

    def _apply(self, understood: _Understood, entry: Entry, row: _Row | None, wall_s: float | None) -> None:
        for series, by in understood.counts:
            self._add(series, by)
        for name, reason, seconds, thing in understood.groups:
            self._join(name, entry, reason).add(entry.time_ms, seconds, thing)
        if wall_s is not None:
            wait = self._waits.setdefault(self._tenant(entry.database), _Wait())
            wait.count, wait.total_s = wait.count + 1, wait.total_s + wall_s
            wait.longest_s = max(wait.longest_s, wall_s)
        if understood.killed is not None:
            self.memory.killed[understood.killed] = entry.time_ms
        if understood.failing is not None:
            pid, cron = understood.failing
            self.memory.failing.pop(pid, None)
            if cron is not None:
                self.memory.failing[pid] = cron
        self.events += understood.events
        if row is not None:
            self._rows.append(row)

    # What a line means, by the logger that wrote it; None means nothing in particular.

    def _meaning(self, understood: _Understood, entry: Entry) -> dict[str, Scalar] | None:
        if _RETRY.match(entry.message):
            self._count(understood, "odoo.log.retries", entry)
        if "The Connection Pool Is Full" in entry.message or entry.message.startswith(
            "Connection to the database failed"
        ):
            understood.groups.append(("odoo.pool.full", "", 0.0, ""))
            return {}
        read = next((read for logger, read in _LOGGERS.items() if entry.logger.startswith(logger)), None)
        return read(self, understood, entry) if read else None

    def worker(self, understood: _Understood, entry: Entry) -> dict[str, Scalar] | None:
        """A worker that started, or ended by a limit. Source: odoo/service/server.py."""
        if killed := _KILLED.match(entry.message):
            attributes = {"odoo.worker.kind": killed["kind"], "odoo.worker.limit": f"real time {killed['limit']} s"}
            return self._killed(understood, entry, killed["pid"], attributes)
        if limit := _LIMIT.match(entry.message):
            attributes = {"odoo.worker.limit": limit["limit"]}
            if limit["limit"] == "CPU time limit":
                return self._killed(understood, entry, limit["pid"], attributes)
            # The number in parentheses is the present value, not the limit.
            understood.groups.append(("odoo.worker.recycled", limit["limit"], 0.0, ""))
            return dict(attributes)
        if _SERVER_MEMORY.match(entry.message):
            understood.groups.append(("odoo.worker.recycled", "server memory limit", 0.0, ""))
            return {"odoo.worker.limit": "server memory limit"}
        if started := _ALIVE.match(entry.message):
            kind = "gevent" if started[2] else _WORKER_TYPES.get(started[1], "other")
            # The master's database is not the worker's.
            series = identity("odoo.log.worker.starts", {"odoo.worker.type": kind})
            understood.counts.append((series, 1.0))
            return None if started[2] else {}
        return None

    def _killed(self, understood: _Understood, entry: Entry, pid: str, attributes: dict[str, str]) -> dict[str, Scalar]:
        """The master tells a kill up to three times; the pid in parentheses is who died."""
        told: dict[str, Scalar] = {**attributes, "process.pid": int(pid)}
        if entry.time_ms - self.memory.killed.get(pid, -KILL_MEMORY_MS) >= KILL_MEMORY_MS:
            understood.killed = pid
            understood.counts.append((identity("odoo.worker.killed"), 1.0))
            body = f"Odoo worker {pid} was killed: {attributes['odoo.worker.limit']} reached"
            understood.events.append(self._event("odoo.worker.killed", entry, ERROR, body, told))
        return told

    def cron(self, understood: _Understood, entry: Entry) -> dict[str, Scalar] | None:
        """A scheduled action that starts, failed or ended; a failed run is told once, whichever line says it first."""
        if failed := _first(_CRON_FAILED, entry.message):
            self._cron_failed(understood, entry, failed.groupdict())
            return _cron(failed.groupdict())
        if starts := _first(_CRON_STARTS, entry.message):
            understood.failing = (str(entry.pid), None)
            understood.counts.append((self._runs_of(entry, _name(starts["name"])), 1.0))
            return {}
        ended = _first(_CRON_ENDED, entry.message)
        if ended is None:
            return None
        found = ended.groupdict()
        if found.get("how") == "failed":
            self._cron_failed(understood, entry, found)
        return _cron(found)

    def _cron_failed(self, understood: _Understood, entry: Entry, found: Mapping[str, str | None]) -> None:
        pid = str(entry.pid)
        name = _name(found["name"] or "")
        if self.memory.failing.get(pid) != name:
            body = f"Scheduled action {name!r} failed"
            understood.events.append(self._event("odoo.cron.failed", entry, ERROR, body, _cron(found)))
        understood.failing = (pid, name)

    def _runs_of(self, entry: Entry, name: str) -> str:
        """The series of a cron's runs; of all that are too many, one."""
        attributes = _of(self._tenant(entry.database))
        series = identity("odoo.log.cron.runs", {**attributes, "odoo.cron.name": name})
        if series not in self._crons and len(self._crons) >= MAX_CRONS:
            return identity("odoo.log.cron.runs", {**attributes, "odoo.cron.name": OTHERS})
        self._crons.add(series)
        return series

    def module(self, understood: _Understood, entry: Entry) -> dict[str, Scalar] | None:
        """A module that was installed or upgraded: at a plain start this line is written for none."""
        loaded = _MODULE.match(entry.message)
        if loaded is None:
            return None
        name = _name(loaded["name"])
        understood.groups.append(("odoo.module.loaded", "", float(loaded["seconds"]), name))
        return {"odoo.module.name": name}

    def login(self, understood: _Understood, entry: Entry) -> dict[str, Scalar] | None:
        """Who came in, who did not, and whose key was made."""
        for name, read in (
            ("odoo.login", _logged_in),
            ("odoo.login.cooldown", _cooled_down),
            ("odoo.api_key.generated", _key_made),
        ):
            if found := read(entry.message):
                understood.events.append(self._security(name, entry, found))
                return {}
        return None

    def runner(self, understood: _Understood, entry: Entry) -> dict[str, Scalar] | None:
        """The queue's runner gave a job that nobody ran back to the queue."""
        found = _REQUEUED.match(entry.message)
        if found is None:
            return None
        attributes: dict[str, Scalar] = {"odoo.queue_job.uuid": _name(found["uuid"])}
        body = "A job whose worker died was queued again"
        understood.events.append(self._event("odoo.queue_job.requeued_dead", entry, WARN, body, attributes))
        return attributes

    # Counting and telling.

    def _request(self, understood: _Understood, entry: Entry, request: Request) -> float | None:
        """Count a request; how long it took in s, None where it does not say so or does not matter."""
        if _NO_REQUEST.match(request.path):
            return None
        self._count(
            understood, "odoo.http.requests", entry, {"http.response.status_class": f"{request.status // 100}xx"}
        )
        self._count(understood, "odoo.http.errors", entry, by=float(request.status >= 500))
        if request.wall_s is not None:
            self._count(understood, "odoo.http.request.time", entry, by=request.wall_s)
            self._count(understood, "odoo.sql.queries", entry, by=request.queries or 0)
            self._count(understood, "odoo.sql.time", entry, by=request.sql_s or 0.0)
        return request.wall_s

    def _count(
        self,
        understood: _Understood,
        name: str,
        entry: Entry,
        more: Mapping[str, str] | None = None,
        *,
        by: float = 1.0,
    ) -> None:
        series = identity(name, {**_of(self._tenant(entry.database)), **(more or {})})
        understood.counts.append((series, by))

    def _add(self, series: str, by: float) -> None:
        # Rounded, so that the sum of many times does not depend on how they were cut into looks.
        self.memory.counters[series] = round(self.memory.counters.get(series, 0.0) + by, 6)

    def _tenant(self, database: str | None) -> str | None:
        return self.target.cell.tenant_of_database.get(database) if database else None

    def _join(self, name: str, entry: Entry, reason: str) -> Group:
        return self._groups.setdefault((name, self._tenant(entry.database), reason), Group(entry.time_ms))

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
    ) -> OperationsEvent:
        return OperationsEvent(
            **self.target.identity(),
            time_ms=entry.time_ms,
            tenant=self._tenant(entry.database),
            name=name,
            severity_number=severity_number,
            body=body,
            attributes=dict(attributes),
        )

    def _security(self, name: str, entry: Entry, found: _Login) -> SecurityEvent:
        # RPC logins stand under the database `None`; 17 and 18 name it in the message, 19 nowhere.
        database = found.database or entry.database
        attributes: dict[str, Scalar] = {"db.namespace": masked(_one_line(database))} if database else {}
        return SecurityEvent(
            **self.target.identity(),
            time_ms=entry.time_ms,
            tenant=self._tenant(database),
            name=name,
            severity_number=INFO if found.outcome == "success" else WARN,
            body=_SECURITY_BODIES[name, found.outcome],
            attributes={**attributes, **found.attributes},
            actor=masked(_one_line(found.login.strip("'")))[:MAX_ACTOR],
            source_address=found.address,
            outcome=found.outcome,
        )

    def _batches(self, rows: list[_Row]) -> Iterator[LogBatch]:
        """The rows as one batch; a row that no batch takes is refused, and the others are not."""
        if not rows:
            return
        try:
            yield self._batch(rows)
        except ValidationError:
            if len(rows) == 1:
                why = f"{Fault.FAILED}: no log batch takes this record"
                self.refused.append((why, rows[0].body.encode(errors="replace")))
                return
            yield from self._batches(rows[: len(rows) // 2])
            yield from self._batches(rows[len(rows) // 2 :])

    def _batch(self, rows: list[_Row]) -> LogBatch:
        entries = [row.entry for row in rows]
        names = sorted({name for row in rows for name in row.attributes})
        named = {name for entry in entries for name in (entry.logger, entry.database)}
        shown = {name: masked(name) if name else name for name in named}
        columns: dict[str, tuple[Scalar | None, ...]] = {
            "odoo.logger": tuple(shown[entry.logger] for entry in entries),
            "process.pid": tuple(entry.pid for entry in entries),
            "db.namespace": tuple(shown[entry.database] for entry in entries),
            "exception.type": tuple(exception_type(entry.message) for entry in entries),
        }
        more = {name: tuple(row.attributes.get(name) for row in rows) for name in names}
        return LogBatch(
            **self.target.identity(),
            time_ms=max(entry.time_ms for entry in entries),
            tenants=tuple(row.tenant for row in rows),
            times_ms=tuple(entry.time_ms for entry in entries),
            severity_numbers=tuple(entry.severity_number for entry in entries),
            bodies=tuple(row.body for row in rows),
            attributes=dict(sorted({**more, **columns}.items())),
        )


def trim(memory: Memory) -> None:
    """Forget what no longer matters by the log's own clock, and beyond the bound what is oldest."""
    newest_ms = max(memory.killed.values(), default=0)
    recent = [(pid, time_ms) for pid, time_ms in memory.killed.items() if newest_ms - time_ms < KILL_MEMORY_MS]
    reached("odoo_log.remembered", sum(len(known) > MAX_REMEMBERED for known in (recent, memory.failing)))
    memory.killed = dict(recent[-MAX_REMEMBERED:])
    memory.failing = dict(list(memory.failing.items())[-MAX_REMEMBERED:])


def _of(tenant: str | None) -> dict[str, str]:
    return {"tenant.id": tenant} if tenant else {}


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> re.Match[str] | None:
    return next((match for pattern in patterns if (match := pattern.match(text))), None)


def _name(text: str) -> str:
    """A name as it may be an attribute: on one line, without secrets, bounded."""
    return masked(_one_line(text[: 4 * MAX_NAME]))[:MAX_NAME]


def _one_line(text: str) -> str:
    return printable(text[:65_536]).replace("\n", "\\n").replace("\t", " ")


def _cron(found: Mapping[str, str | None]) -> dict[str, Scalar]:
    """Attributes of a scheduled action; `odoo.cron.duration` in s."""
    attributes: dict[str, Scalar] = {"odoo.cron.name": _name(found["name"] or "")}
    if number := found.get("id"):
        attributes["odoo.cron.id"] = int(number)
    if seconds := found.get("seconds"):
        attributes["odoo.cron.duration"] = float(seconds)
    if how := found.get("how"):
        attributes["odoo.cron.outcome"] = how
    return attributes


# Who came in. A login is whatever somebody typed, with line breaks and with texts that look like the rest of the message; what
# Odoo writes stands before and behind it, so it is cut off there and never searched for inside.


@dataclass(frozen=True, slots=True)
class _Login:
    """What a record about a login says. `address` is None where there was no request."""

    login: str
    outcome: str
    database: str | None = None
    address: str | None = None
    attributes: dict[str, Scalar] = field(default_factory=dict)


def _logged_in(message: str) -> _Login | None:
    outcome = next((outcome for begins, outcome in _OUTCOMES if message.startswith(begins)), None)
    if outcome is None:
        return None
    rest = message.split(" for ", 1)[1]
    database = _DATABASE.match(rest)
    rest = rest[database.end() :] if database else rest
    if not rest.startswith("login:"):
        return None
    login, address = _address(rest.removeprefix("login:"))
    return _Login(login, outcome, database[1] if database else None, address, _lines_of(login))


def _cooled_down(message: str) -> _Login | None:
    begins = _COOLDOWN.match(message)
    login, mark, rest = message[begins.end() :].rpartition("') on ") if begins else ("", "", "")
    failures = _FAILURES.match(rest)
    if begins is None or failures is None or not mark:
        return None
    attributes: dict[str, Scalar] = {"odoo.login.failures": int(failures[2]), **_lines_of(login)}
    return _Login(login, "failure", failures[1], _address_of(begins[1]), attributes)


def _key_made(message: str) -> _Login | None:
    kind, mark, rest = message.partition(" generated: scope: <")
    scope, found, rest = rest.partition("> for '")
    login, ends, rest = rest.rpartition("' (#")
    of = _KEY_OF.match(rest)
    if not (mark and found and ends and of) or len(kind) > MAX_NAME:
        return None
    attributes: dict[str, Scalar] = {"odoo.api_key.scope": _name(scope), "user.id": int(of[1]), **_lines_of(login)}
    return _Login(login, "success", None, _address_of(of[2]), attributes)


def _address(text: str) -> tuple[str, str | None]:
    """What stands before ` from ADDRESS` at the end, and the address; the last one is Odoo's, others were typed."""
    before, mark, address = text.rstrip().rpartition(" from ")
    if mark and _ADDRESS.match(address):
        return before, _address_of(address)
    return text.rstrip().removesuffix(" from"), None


def _address_of(text: str) -> str | None:
    return text if text != "n/a" and _ADDRESS.match(text) else None


def _lines_of(login: str) -> dict[str, Scalar]:
    """A login with line breaks is no mistake in typing: somebody wants to write lines into the log."""
    lines = login.count("\n") + 1
    return {"odoo.login.lines": lines} if lines > 1 else {}


_OUTCOMES = (("Login successful for ", "success"), ("Login failed for ", "failure"))
_SECURITY_BODIES = {
    ("odoo.login", "success"): "A login succeeded",
    ("odoo.login", "failure"): "A login failed",
    ("odoo.login.cooldown", "failure"): "A login was ignored after too many failures",
    ("odoo.api_key.generated", "success"): "An API key was generated",
}
_LOGGERS: dict[str, Callable[[Reading, _Understood, Entry], dict[str, Scalar] | None]] = {
    "odoo.service.server": Reading.worker,
    "odoo.addons.base.models.ir_cron": Reading.cron,
    "odoo.addons.base.models.res_users": Reading.login,
    "odoo.modules.loading": Reading.module,
    "odoo.addons.queue_job.jobrunner.runner": Reading.runner,
}
