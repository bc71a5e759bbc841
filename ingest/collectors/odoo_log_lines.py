"""Bytes of an Odoo log to its records: plain (`netsvc.py`, 16-19) and JSON (ODOO_LOGGING_JSON, one object a line).

A record is a line with Odoo's prefix and the lines without one below it, such as a traceback. The last record of a piece
is told only when it is sure that no more lines belong to it. A line that cannot be read costs itself: it is refused, with
what is wrong and its bytes, and the next one is read.

What a stranger types as his name is written raw, with its line breaks. The lines behind such a break are part of the name,
whatever they look like, until the one that ends the record as Odoo ends it. A name that holds a whole such ending, a break
and a whole line cannot be told from two records; in JSON logs breaks are escaped, so nothing can be forged there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from enum import StrEnum
from typing import Any, Literal

import orjson

from ingest.collector import ERROR, INFO, WARN
from ingest.collectors.odoo_log_hours import Hours, Impossible

MAX_PID_DIGITS = 10
MAX_DATABASE = 128  # PostgreSQL's names have 63 bytes
MAX_LOGGER = 255
MAX_NAME_LINES = 200  # of a name with line breaks; beyond them it is a record whose end was lost
JSON_RUN = 3  # so many JSON records one after the other below a plain one: the log has turned to JSON
_NULS_KEPT = 1_024
_UTF16_SHARE = 3  # every third byte is NUL, or more

_COLOUR = re.compile(r"\x1b\[[0-9;]*+m")
_PREFIX = re.compile(
    r"^([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}[,.][0-9]{3}) ([0-9]++) ([A-Z]++) (\S++) ([^\s:]++): ?"
)
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_REQUEST = re.compile(r'^\S{1,255} - - \[[^\]]{0,64}\] "(?:([A-Z]{1,32}) )?')
# The counters are queries, their time and the rest, s; dashes when the request had none. A fourth word names the cursor
# where a replica is configured.
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_ANSWER = re.compile(
    rf"^([0-9]{{3}}) \S{{1,32}}(?: ([0-9]{{1,9}}|-) ({_NUMBER}|-) ({_NUMBER}|-)(?: (?:ro|rw|ro->rw|-))?)?\s{{0,8}}$"
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
_LEVEL_OF_NUMBER = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}
OTHER_LEVEL = "OTHER"
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
_ADDRESS = r"(?:n/a|[0-9A-Fa-f.:]{2,45}(?:%\w{1,16})?)"
# Records that quote what strangers type: the logger's beginning, how the message begins, and how its last line ends.
_QUOTING = (
    ("odoo.addons.base.models.res_users", re.compile(r"^Login (?:successful|failed) for "), re.compile(rf" from(?: {_ADDRESS})?$")),
    (
        "odoo.addons.base.models.res_users",
        re.compile(r"^Login attempt ignored for \S{1,64} \(user '"),
        re.compile(r"'\) on \S{1,128}: [0-9]{1,9} failures since last success"),
    ),
    ("odoo.addons.base.models.res_users", re.compile(r"^[^<>\n]{1,100} generated: scope: <"), re.compile(rf"' \(#[0-9]{{1,10}}\) from(?: {_ADDRESS})?$")),
    ("odoo.addons.auth_signup", re.compile(r"^Password reset attempt for <"), re.compile(rf"> from(?: {_ADDRESS})?$")),
)  # fmt: skip

Form = Literal["", "plain", "json"]


class Fault(StrEnum):
    """Why a line was refused, in a word."""

    ENCODING = "encoding"
    NO_RECORD = "no_record"
    TIME = "time"
    FIELD = "field"
    OLD = "old"
    FAILED = "failed"


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
    is_json: bool = False

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

    fault: Fault
    reason: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """A record, or bytes that are none, how many bytes of the piece are used once it is told, and the record's bytes."""

    what: Entry | Unread
    used: int
    data: bytes = b""


@dataclass(slots=True)
class Habit:
    """What a log is known for from one piece to the next: how its times are read and whether its records are JSON."""

    hours: Hours
    form: Form = ""
    fixed: bool = False
    """The operator has said the form; it is not learned."""
    blank: int = 0
    """Bytes of the last piece up to which there is nothing that anybody waits for: blank lines tell nothing and are passed."""


def split(data: bytes, habit: Habit, *, final: bool, full: bool) -> Iterator[Told]:
    """The records of `data`, which begins where a record begins, in order. `habit` is changed.

    `final`: nothing will follow that belongs to it, so the last record is told, and half a line is a line. `full`: more
    is to be read than fits, so a record that fills the whole piece is told in parts. Neither: the last record waits.
    """
    cut = data.rfind(b"\n") + 1
    if final or (full and not cut):
        cut = len(data)
    records = _Records(habit)
    habit.blank = 0
    yield from records.read(data[:cut])
    if records.open is None and not records.held:
        habit.blank = records.used
    if final or records.ends_before(data[cut:]) or (full and not records.told):
        yield from records.close_all()


@dataclass(slots=True)
class _Open:
    """A record whose lines are still being read. One that was refused gathers its lines, too."""

    what: Entry | Unread
    lines: list[bytes]
    below: list[str] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        return isinstance(self.what, Entry) and not self.what.is_json

    def told(self) -> Iterator[tuple[Entry | Unread, bytes]]:
        """The record, then the bytes in it that could not be read."""
        data = b"".join(self.lines).rstrip(b"\r\n")
        if isinstance(self.what, Entry):
            yield replace(self.what, message="\n".join([self.what.message, *self.below]).rstrip()), data
        else:
            yield replace(self.what, data=data), data
        yield from ((one, one.data) for one in self.unread)

    def end_of_quote(self) -> re.Pattern[str] | None:
        """How the record will end if it quotes a name whose lines go on; None once it has ended, or if it quotes none."""
        if not self.is_plain or not isinstance(self.what, Entry):
            return None
        last = self.below[-1] if self.below else self.what.message
        return next(
            (
                end
                for logger, begin, end in _QUOTING
                if self.what.logger.startswith(logger)
                and begin.match(self.what.message[:512])
                and not end.search(last.rstrip()[-1_024:])
            ),
            None,
        )


class _Records:
    """Joins lines to records."""

    def __init__(self, habit: Habit) -> None:
        self.habit, self.used, self.told = habit, 0, False
        self.open: _Open | None = None
        self.held: list[bytes] = []
        """Lines that begin records by their looks, and are none if what comes later says so."""
        self.quote: re.Pattern[str] | None = None
        """They are held because a quoted name goes on until this; None: because they are JSON below a plain record."""
        self.releasing = False
        """Lines that were held once are not held again for a name, or each would be read as often as there are lines."""

    def read(self, data: bytes) -> Iterator[Told]:
        """The records that are complete because another one follows."""
        for line in data.splitlines(keepends=True) if b"\r" not in data else _lines(data):
            yield from self._held(line) if self.held else self._line(line)
            self.used += len(line)

    def close_all(self) -> Iterator[Told]:
        """Tell all that is left: what ended within a name is no name, JSON below a plain record is part of it."""
        while self.held:
            yield from self._release() if self.quote else self._keep_held()
        yield from self.close()

    def close(self) -> Iterator[Told]:
        """Tell the record that was open, then the bytes in it that could not be read."""
        if self.open is None:
            return
        done, self.open = self.open, None
        self.told = True
        yield from (Told(what, self.used, data) for what, data in done.told())

    def ends_before(self, rest: bytes) -> bool:
        """Whether the half line that follows begins another record."""
        if self.held or (self.open and self.open.end_of_quote()):
            return False
        found = _parse(rest.decode(errors="replace"), self.habit.hours.copy())
        return isinstance(found, Entry) and not (found.is_json and self._is_doubtful(found))

    def _line(self, raw: bytes) -> Iterator[Told]:
        line = raw.rstrip(b"\r\n")
        if not line:
            self._below(raw, "")
            return
        text, fault, line = _decode(line)
        found = _parse(text, self.habit.hours)
        unread = Unread(Fault.ENCODING, fault, line) if fault else None
        if found is None:
            yield from self._no_beginning(raw, text, unread)
        elif quote := self.open.end_of_quote() if self.open and not self.releasing else None:
            self.quote = quote
            yield from self._held(raw)
        elif text.startswith("{") and self._is_doubtful(found):
            yield from self._doubtful(raw, text, found)
        else:
            yield from self.close()
            self._begin(unread or found, raw)

    def _begin(self, found: Entry | Unread, raw: bytes) -> None:
        self.open = _Open(found, [raw])
        if isinstance(found, Entry):
            self.habit.hours.last_ms = found.time_ms
            if not self.habit.fixed:
                self.habit.form = "json" if found.is_json or self.habit.form == "json" else "plain"

    def _no_beginning(self, raw: bytes, text: str, unread: Unread | None) -> Iterator[Told]:
        """A line below the open record, or one of no record; what is refused gathers all that follows."""
        if self.open is not None and isinstance(self.open.what, Entry) and unread:
            self.open.unread.append(unread)
        elif self.open is not None:
            self._below(raw, text)
        elif unread:
            self.open = _Open(unread, [unread.data + b"\n"])
        elif text.strip():
            reason = "a line of no record: it has no Odoo prefix and none stands above it"
            self.open = _Open(Unread(Fault.NO_RECORD, reason, b""), [raw])
        yield from ()

    def _below(self, raw: bytes, text: str) -> None:
        if self.open is not None:
            self.open.lines.append(raw)
            self.open.below.append(text)

    def _is_doubtful(self, found: Entry | Unread) -> bool:
        """Whether a JSON line may be something printed below a plain record."""
        if self.habit.form == "json":
            return self.open is not None and self.open.is_plain and not _is_whole(found)
        return self.habit.form == "plain" or (self.open is not None and self.open.is_plain)

    def _doubtful(self, raw: bytes, text: str, found: Entry | Unread) -> Iterator[Told]:
        """JSON in a plain log: held, since many such lines mean that the log has turned to JSON, or part of the record."""
        if _is_whole(found) and not self.habit.fixed:
            self.held.append(raw)
        else:
            yield from self._no_beginning(raw, text, None)

    def _held(self, raw: bytes) -> Iterator[Told]:
        """One more line behind those that are held."""
        text, fault, _ = _decode(raw.rstrip(b"\r\n"))
        if self.quote is not None:
            self.held.append(raw)
            if self.quote.search(text.rstrip()[-1_024:]):
                self._join()
            elif len(self.held) > MAX_NAME_LINES:
                # What was held is read again as records, `used` stands where this line begins.
                yield from self._release(including=raw)
            return
        if not fault and text.startswith("{") and _is_whole(_parse(text, self.habit.hours.copy())):
            self.held.append(raw)
            if len(self.held) >= JSON_RUN:
                self.habit.form = "json"
                yield from self._release(including=raw)
            return
        yield from self._keep_held()
        yield from self._line(raw)

    def _join(self) -> None:
        """The lines that were held are part of the open record."""
        held, self.held, self.quote = self.held, [], None
        for raw in held:
            self._below(raw, _decode(raw.rstrip(b"\r\n"))[0])

    def _keep_held(self) -> Iterator[Told]:
        """JSON that was held is no record: it belongs to the plain one above, or to none."""
        if self.open is None:
            reason = "JSON objects in a plain log, and no record stands above them"
            self.open = _Open(Unread(Fault.NO_RECORD, reason, b""), [])
        self._join()
        yield from ()

    def _release(self, including: bytes = b"") -> Iterator[Told]:
        """The lines that were held are records. `including` is the last of them if it is not counted as used yet."""
        held, self.held, self.quote = self.held, [], None
        self.used -= sum(map(len, held)) - len(including)
        self.releasing = True
        yield from self.close()
        for raw in held:
            yield from self._held(raw) if self.held else self._line(raw)
            self.used += len(raw)
        self.used -= len(including)
        self.releasing = False


def _lines(data: bytes) -> list[bytes]:
    """Lines by the line feed alone: a carriage return inside a message ends nothing."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]] + ([data[data.rfind(b"\n") + 1 :]])


def _decode(line: bytes) -> tuple[str, str, bytes]:
    """The text, what is wrong with the bytes ("" if nothing), and the bytes that are worth keeping.

    NULs at the beginning are what a crash of the machine leaves, a mark of the byte order what an editor leaves.
    """
    kept = line
    if b"\0" in line:
        if line.count(0) * _UTF16_SHARE >= len(line) and line.strip(b"\0"):
            nuls = len(line) - len(line.lstrip(b"\0"))
            if line.count(0) - nuls > nuls:
                return "", "NUL bytes between the characters, as UTF-16 has them; let Odoo write UTF-8", line
        kept = line.lstrip(b"\0")
        if not kept:
            return "", f"{len(line)} NUL bytes, as a crash of the machine leaves them", line[:_NULS_KEPT]
    kept = kept.removeprefix(b"\xef\xbb\xbf")
    try:
        return kept.decode(), "", line
    except UnicodeDecodeError as error:
        return kept.decode(errors="replace"), f"not UTF-8 at byte {error.start}", line


def parse(line: str, zone: tzinfo) -> Entry | None:
    """The record that begins with this line; None for a line that begins none or cannot be read."""
    found = _parse(line, Hours(zone))
    return found if isinstance(found, Entry) else None


def printable(text: str) -> str:
    """The text without characters that steer a terminal or that a database refuses."""
    return text if text.isprintable() else _COLOUR.sub("", text).translate(_CONTROLS)


def _parse(line: str, hours: Hours) -> Entry | Unread | None:
    """The record that begins with this line, what is wrong with it, or None if it begins none."""
    try:
        return _from_json(line, hours) if line.startswith("{") else _from_plain(line, hours)
    except Impossible as error:
        return Unread(Fault.TIME, str(error), b"")
    except ValueError as error:
        return Unread(Fault.FIELD, str(error), b"")


def _from_plain(line: str, hours: Hours) -> Entry | None:
    text = _COLOUR.sub("", line) if "\x1b" in line[:256] else line
    match = _PREFIX.match(text)
    if match is None:
        return None
    time, pid, level, database, logger = match.groups()
    return Entry(
        hours.of_text(time), _pid(pid), _level(level), _database(database), _logger(logger), text[match.end() :]
    )


def _from_json(line: str, hours: Hours) -> Entry | None:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    fields = {name: _first(found, keys) for name, keys in _JSON_FIELDS.items()}
    if fields["time"] is None or fields["message"] is None:
        return None
    message = " ".join(_text(fields[name]) for name in ("message", "performance") if fields[name])
    if fields["exception"]:
        message = f"{message}\n{_text(fields['exception'])}"
    return Entry(
        hours.of(fields["time"]),
        _pid(fields["pid"]),
        _level(fields["level"]),
        _database(fields["database"]),
        _logger(fields["logger"]),
        message,
        is_json=True,
    )


def _is_whole(found: Entry | Unread | None) -> bool:
    """Whether a record has all that Odoo's JSON formatter writes."""
    return isinstance(found, Entry) and bool(found.logger) and found.pid is not None and found.level != OTHER_LEVEL


def _first(found: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((found[key] for key in keys if found.get(key) is not None), None)


# Conversions of foreign values. They raise ValueError naming the field and what would be right.


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "\n".join(value)
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:  # what it can read it cannot always write
        raise ValueError("message: is nested too deeply") from error


def _pid(value: Any) -> int | None:
    if value is None:
        return None
    digits = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not digits.isdecimal() or not digits.isascii() or len(digits) > MAX_PID_DIGITS:
        shown = f"{len(digits)} digits" if digits.isdecimal() else f"a {type(value).__name__}"
        raise ValueError(f"pid: must be a number of at most {MAX_PID_DIGITS} digits, got {shown}")
    return int(digits)


def _level(value: Any) -> str:
    """One of the levels that Odoo knows, or OTHER: whoever writes lines must not make series without end."""
    if isinstance(value, int):
        return _LEVEL_OF_NUMBER.get(value, OTHER_LEVEL)
    level = value.upper() if isinstance(value, str) else ""
    return level if level in _LEVELS else OTHER_LEVEL


def _database(value: Any) -> str | None:
    name = _named("database", value, MAX_DATABASE)
    return None if name in _NO_DATABASE else name


def _logger(value: Any) -> str:
    return _named("logger", value, MAX_LOGGER)


def _named(what: str, value: Any, most: int) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{what}: must be a text, got a {type(value).__name__}")
    if len(value) > most:
        raise ValueError(f"{what}: must have at most {most} characters, got {len(value)}")
    return printable(value)


def _request(message: str) -> Request | None:
    head = _REQUEST.match(message)
    asked, mark, answer = message.rpartition('" ')
    found = _ANSWER.match(answer)
    if head is None or not mark or found is None or len(asked) < head.end():
        return None
    status, queries, sql, rest = found.groups()
    path = asked[head.end() :].split(None, 1)
    sql_s, rest_s = _seconds(sql), _seconds(rest)
    wall_s = None if sql_s is None or rest_s is None else sql_s + rest_s
    return Request(
        path[0] if path else "", int(status), None if queries in (None, "-") else int(queries), sql_s, wall_s
    )


def _seconds(text: str | None) -> float | None:
    return None if text in (None, "-") else float(text)
