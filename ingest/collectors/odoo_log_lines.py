"""Bytes of an Odoo log to its records: plain (`netsvc.py`, 16-19) and JSON (ODOO_LOGGING_JSON, one object a line).

A record is a line with Odoo's prefix and the lines without one below it, such as a traceback. The last record of a piece
is told only when it is sure that no more lines belong to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from typing import Any

import orjson

from ingest.collector import ERROR, INFO, WARN

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_PREFIX = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d{3}) (\d+) ([A-Z]+) (\S+) ([^\s:]+): ?(.*)", re.DOTALL)
# The counters are queries, their time and the rest, s; dashes when the request had none. A fourth word names the cursor
# where a replica is configured.
_REQUEST = re.compile(
    r'\S+ - - \[[^\]]*\] "(?:(?P<method>[A-Z]+) )?(?P<path>\S*).*?" (?P<status>\d{3}) \S+'
    r"(?: (?P<queries>\d+|-) (?P<sql>[\d.]+|-) (?P<rest>[\d.]+|-)(?: (?:ro|rw|ro->rw|-))?)?\s*"
)
_NO_DATABASE = {"?", "None", "-", ""}
_LEVELS = {
    "DEBUG": 5,
    "INFO": INFO,
    "RUNBOT": INFO,
    "WARNING": WARN,
    "WARN": WARN,
    "ERROR": ERROR,
    "CRITICAL": 21,
    "FATAL": 21,
}
# Names under which JSON formatters write the fields, first one found wins.
_JSON_FIELDS = {
    "time": ("asctime", "timestamp", "time", "created"),
    "pid": ("pid", "process"),
    "level": ("levelname", "level", "severity"),
    "database": ("dbname", "db", "database"),
    "logger": ("name", "logger"),
    "message": ("message", "msg"),
    "exception": ("exc_info", "stack_info"),
    "performance": ("perf_info",),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What werkzeug's line tells. Times in s; None where the line has no counters."""

    path: str
    status: int
    queries: int | None
    sql_s: float | None
    wall_s: float | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the log, the lines below it in `message`. `database` is None for `?` and `None`."""

    time_ms: int
    pid: int | None
    level: str
    database: str | None
    logger: str
    message: str

    @property
    def severity_number(self) -> int:
        """OpenTelemetry's number of the level."""
        return _LEVELS.get(self.level, 0)

    @property
    def request(self) -> Request | None:
        """The HTTP request that the record is about."""
        return _request(self.message) if self.logger == "werkzeug" else None


@dataclass(frozen=True, slots=True)
class Unread:
    """Bytes that are no part of any record, and why."""

    reason: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """A record, or bytes that are none, and how many bytes of the piece are used once it is told."""

    what: Entry | Unread
    used: int


def split(data: bytes, zone: tzinfo, *, final: bool, full: bool) -> Iterator[Told]:
    """The records of `data`, which begins where a record begins, in order.

    `final`: nothing will follow that belongs to it, so the last record is told, and half a line is a line. `full`: more
    is to be read than fits, so a record that fills the whole piece is told in parts. Neither: the last record waits.
    """
    cut = data.rfind(b"\n") + 1
    if final or (full and not cut):
        cut = len(data)
    records = _Records(zone)
    yield from records.read(data[:cut])
    next_begins = parse(data[cut:].decode(errors="replace"), zone) is not None
    if final or next_begins or (full and not records.told):
        yield from records.close()


class _Records:
    """Joins lines to records."""

    def __init__(self, zone: tzinfo) -> None:
        self.zone, self.used, self.told = zone, 0, False
        self.open: Entry | None = None
        self.below: list[str] = []
        self.unread: list[Unread] = []

    def read(self, data: bytes) -> Iterator[Told]:
        """The records that are complete because another one follows."""
        for line in data.splitlines(keepends=True) if b"\r" not in data else _lines(data):
            yield from self._line(line.rstrip(b"\r\n"))
            self.used += len(line)
            if self.open is None:
                yield from self.close()

    def close(self) -> Iterator[Told]:
        """Tell the record that was open, then the bytes in it that could not be read."""
        entry, below, unread = self.open, self.below, self.unread
        self.open, self.below, self.unread = None, [], []
        if entry is not None:
            message = "\n".join([entry.message, *below]).rstrip()
            unread = [replace(entry, message=message), *unread]  # type: ignore[list-item]
        self.told = self.told or bool(unread)
        yield from (Told(one, self.used) for one in unread)

    def _line(self, line: bytes) -> Iterator[Told]:
        text, fault = _decode(line)
        entry = parse(text, self.zone)
        if entry is not None or (fault and _PREFIX.match(text)):
            yield from self.close()
            self.open = None if fault else entry
        elif self.open is not None and not fault:
            self.below.append(text)
        elif text.strip() and not fault:
            fault = "a line of no record: it has no Odoo prefix and none stands above it"
        if fault:
            self.unread.append(Unread(fault, line))


def _lines(data: bytes) -> list[bytes]:
    """Lines by the line feed alone: a carriage return inside a message ends nothing."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]] + ([data[data.rfind(b"\n") + 1 :]])


def _decode(line: bytes) -> tuple[str, str | None]:
    """The text, and what is wrong with the bytes; what cannot be read is replaced."""
    try:
        return line.decode(), None
    except UnicodeDecodeError as error:
        return line.decode(errors="replace"), f"not UTF-8 at byte {error.start}"


def parse(line: str, zone: tzinfo) -> Entry | None:
    """The record that begins with this line; None for a line that begins none."""
    if line.startswith("{"):
        return _from_json(line, zone)
    text = _COLOUR.sub("", line) if "\x1b" in line else line
    match = _PREFIX.fullmatch(text)
    if match is None:
        return None
    time, pid, level, database, logger, message = match.groups()
    time_ms = _time_ms(time, zone)
    if time_ms is None:
        return None
    return Entry(time_ms, int(pid), level, _database(database), logger, message)


def _from_json(line: str, zone: tzinfo) -> Entry | None:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    fields = {name: _first(found, keys) for name, keys in _JSON_FIELDS.items()}
    time_ms = _time_ms(fields["time"], zone)
    if time_ms is None or fields["message"] is None:
        return None
    message = " ".join(str(fields[name]) for name in ("message", "performance") if fields[name])
    if fields["exception"]:
        message = f"{message}\n{fields['exception']}"
    pid = fields["pid"] if isinstance(fields["pid"], int) else None
    level = str(fields["level"] or "").upper()
    return Entry(time_ms, pid, level, _database(fields["database"]), str(fields["logger"] or ""), message)


def _first(found: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((found[key] for key in keys if found.get(key) is not None), None)


def _database(name: Any) -> str | None:
    return None if name is None or name in _NO_DATABASE else str(name)


def _time_ms(value: Any, zone: tzinfo) -> int | None:
    """Unix ms of a text, in `zone` where it names none itself, or of Unix seconds."""
    if isinstance(value, (int, float)):
        return int(value * 1000)
    try:
        time = datetime.fromisoformat(str(value).replace(",", "."))
    except ValueError:
        return None
    return round((time if time.tzinfo else time.replace(tzinfo=zone)).timestamp() * 1000)


def _request(message: str) -> Request | None:
    match = _REQUEST.fullmatch(message)
    if match is None:
        return None
    queries, sql_s, rest_s = (_number(match[name]) for name in ("queries", "sql", "rest"))
    wall_s = None if sql_s is None or rest_s is None else sql_s + rest_s
    return Request(match["path"], int(match["status"]), None if queries is None else int(queries), sql_s, wall_s)


def _number(text: str | None) -> float | None:
    return None if text in (None, "-") else float(text)
