"""Odoo's own log, followed on disk: what workers, crons, logins and requests say, for every database of the server.

Each look reads a bounded piece and gives the lines worth keeping, the events in them and counters by tenant. Counters
and place are one position, stored together with the records: after a kill the same piece gives the same records, and the
counters go on. Lines carry the server's local time without a zone, so the zone is an option.

A line costs itself alone. One that cannot be read, understood or told is refused with its bytes (without what may not leave
the host) and counted by what is wrong with it; the place moves on, and only a full spool or a log that cannot be opened
stops a look. Strangers write into this log: what that means for logins stands in `odoo_log_lines`.

Source: odoo/netsvc.py and odoo/service/server.py of 16-19, checked on recorded logs of 17-19.
"""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, field_validator

from ingest.collector import WARN, Collected, CollectorKind, Options, Target, Unavailable
from ingest.collectors.odoo_log_bodies import shippable_bytes
from ingest.collectors.odoo_log_events import Memory, Reading, trim
from ingest.collectors.odoo_log_hours import Hours
from ingest.collectors.odoo_log_lines import Entry, Fault, Form, Habit, Told, Unread, split
from ingest.collectors.tail import NotAFile, Piece, Place, end_of, read
from ingest.moments import AHEAD_MS, BEHIND_MS
from ingest.threads import HangsError, Threads
from schemas.masking import masked
from schemas.records import OperationsEvent, Scrape

log = logging.getLogger(__name__)

MAX_RECORDS = 20_000  # of the log in one look, so that it ends in time however large a piece may be
MAX_TOLD = 5_000  # records and log lines of one look; the rest of the piece is read again at the next
READ_SHARE = 0.8  # of the resource's time-out
LETTER_BYTES = 600_000  # of old records in one dead letter
MAX_SERIES = 10_000  # of one scrape; a cell with very many tenants gives several


class OdooLogOptions(Options):
    """What the estate may say about an Odoo log."""

    path: str | None = Field(None, description="Path of the log; or write it as url: file:///var/log/odoo/odoo.log.")
    time_zone: str = Field("UTC", description="Zone of the server's clock, as Europe/Brussels.")
    start: Literal["beginning", "end"] = Field("beginning", description="Where to begin in a log never read before.")
    format: Literal["auto", "plain", "json"] = Field(
        "auto",
        description="json: each line is an object (ODOO_LOGGING_JSON); plain: JSON below a record belongs to it.",
    )
    ship: Literal["notable", "all"] = Field("notable", description="all: plain INFO lines and requests, too.")
    mask: bool = Field(True, description="Whether addresses and logins in bodies are masked.")
    max_bytes: int = Field(1_048_576, ge=4_096, le=16_777_216, description="Most bytes read in one look.")
    settle_ms: int = Field(1_000, ge=0, description="How long the last record waits for more lines, ms.")

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{name!r} is no time zone; write it as Europe/Brussels") from error
        return name


class _Position(Memory):
    """Everything that is stored between looks."""

    place: Place = Place()


class OdooLog:
    """Follows one log file."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._options = target.options(OdooLogOptions)
        self._path = _path(target, self._options)
        self._zone = ZoneInfo(self._options.time_zone)
        self._threads = Threads("odoo_log", target.resource.timeout_s * READ_SHARE)
        self._form: Form = "" if self._options.format == "auto" else self._options.format

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """The next piece. Raises Unavailable when the file is not there or closed to us."""
        try:
            # Reading and parsing a piece takes up to a tenth of a second, which the other targets need not wait for; and a
            # mount that does not answer holds a thread for as long as it likes, but never a second one.
            return await self._threads.run("log", lambda: self._look(now_ms, position))
        except HangsError as error:
            mend = "See which mount does not answer: processes in state D, the kernel's log"
            raise Unavailable(self._target.resource.name, f"{self._path}: {error}", mend) from error
        except OSError as error:
            reason, mend = _away(self._path, error)
            raise Unavailable(self._target.resource.name, reason, mend) from error

    async def close(self) -> None:
        """Nothing is kept open."""

    def _look(self, now_ms: int, position: str | None) -> Collected:
        before, gaps = self._before(now_ms, position)
        piece = read(self._path, before.place, self._options.max_bytes)
        reading = Reading(self._target, before, ship_all=self._options.ship == "all", mask=self._options.mask)
        habit = Habit(self._hours(before), self._form or before.form, fixed=bool(self._form))
        refused, used = self._fold(reading, habit, piece, now_ms)
        trim(before)
        before.last_ms, before.form = habit.hours.last_ms, habit.form
        if not piece.behind and used == len(piece.data):
            before.read_ms = now_ms
        gaps += (
            [f"May be lost: {piece.missing}. Keep one rotated log uncompressed (delaycompress)"]
            if piece.missing
            else []
        )
        points = {**reading.points(), "odoo.log.unread": float(piece.behind + len(piece.data) - used)}
        records = [*reading.records(), *self._gaps(gaps, now_ms), *self._scrapes(points, now_ms, before.since_ms)]
        after = before.model_copy(update={"place": piece.after(used)})
        return Collected(records, after.model_dump_json(), [*refused, *reading.refused])

    def _before(self, now_ms: int, position: str | None) -> tuple[_Position, list[str]]:
        """What was stored, and what is to be said of it. A position that cannot be read must not stop the log for ever."""
        if not position:
            return self._first(now_ms), []
        try:
            return _Position.model_validate_json(position), []
        except ValidationError:
            gap = f"The stored position cannot be read, so {self._path} is read anew from its {self._options.start}"
            return self._first(now_ms), [gap]

    def _first(self, now_ms: int) -> _Position:
        place = end_of(self._path) if self._options.start == "end" else Place()
        return _Position(since_ms=now_ms, place=place)

    def _hours(self, before: _Position) -> Hours:
        return Hours(self._zone, before.last_ms, before.read_ms)

    def _fold(self, reading: Reading, habit: Habit, piece: Piece, now_ms: int) -> tuple[list[tuple[str, bytes]], int]:
        """Fold what is complete; what was refused, and how many bytes are used."""
        # A file written in the future was written by a clock that was wrong, and waiting for it would be for ever.
        age_ms = now_ms - piece.written_ms
        settled = (age_ms >= self._options.settle_ms or age_ms < -AHEAD_MS) and piece.data.endswith(b"\n")
        full = len(piece.data) >= self._options.max_bytes
        refused = _Refused(str(self._path), mask=self._options.mask)
        used = 0
        told_of = split(piece.data, habit, final=piece.whole or (settled and not full), full=full)
        for records, told in enumerate(told_of):
            # Between two records only: bytes refused inside a record belong to the same step.
            if told.used > used and (reading.told + len(refused.letters) >= MAX_TOLD or records >= MAX_RECORDS):
                return refused.letters, used
            unread = told.what if isinstance(told.what, Unread) else self._understand(reading, told, told.what, now_ms)
            if unread is not None:
                reading.refuse(unread.fault)
                refused.add(unread)
            used = told.used
        return refused.letters, max(used, habit.blank)

    def _understand(self, reading: Reading, told: Told, entry: Entry, now_ms: int) -> Unread | None:
        """Fold the record; what is wrong with it, None if nothing is."""
        if entry.time_ms > now_ms + AHEAD_MS:
            return Unread(Fault.TIME, "its time lies more than 5 minutes ahead of the clock here", told.data)
        if entry.time_ms < now_ms - BEHIND_MS:
            return Unread(Fault.OLD, "written more than 35 days ago", told.data)
        try:
            reading.fold(entry)
        except Exception as error:  # noqa: BLE001 (a record that nobody foresaw must not stop the log for ever)
            kind = type(error).__name__
            # The error's text may hold the line's, so only its place is told.
            places = traceback.extract_tb(error.__traceback__)
            where = f"{places[-1].filename}:{places[-1].lineno}"
            log.error(
                "a log record is not understood",
                extra={"resource": self._target.resource.name, "error": kind, "at": where},
            )
            return Unread(Fault.FAILED, f"{kind} at {where}; report it", told.data)
        return None

    def _scrapes(self, points: dict[str, float | None], now_ms: int, since_ms: int) -> Iterator[Scrape]:
        names = sorted(points)
        for start in range(0, len(names), MAX_SERIES):
            part = {name: points[name] for name in names[start : start + MAX_SERIES]}
            yield self._target.scrape(part, now_ms, start_time_ms=since_ms)

    def _gaps(self, bodies: list[str], now_ms: int) -> list[OperationsEvent]:
        return [
            OperationsEvent(
                **self._target.identity(), time_ms=now_ms, name="collector.gap", severity_number=WARN, body=body
            )
            for body in bodies
        ]


class _Refused:
    """What a look refused. Old records one after the other are one letter: a log of years is not thousands of them."""

    def __init__(self, path: str, *, mask: bool) -> None:
        self.letters: list[tuple[str, bytes]] = []
        self._path, self._mask = path, mask
        self._last: Fault | None = None

    def add(self, unread: Unread) -> None:
        """One more, without what may not leave."""
        data = shippable_bytes(unread.data, mask=self._mask)
        if unread.fault is Fault.OLD and self._last is Fault.OLD and len(self.letters[-1][1]) < LETTER_BYTES:
            reason, before = self.letters[-1]
            self.letters[-1] = (reason, before + b"\n" + data)
        else:
            self.letters.append((f"{self._path}: {unread.fault}: {unread.reason}", data))
        self._last = unread.fault


def _away(path: Path, error: OSError) -> tuple[str, str]:
    """Why the log cannot be read, and what would mend it."""
    if isinstance(error, NotAFile):
        return str(error), "Let Odoo write to a file with --logfile, and name that file"
    match error.errno:
        case errno.ENOENT | None:
            mend = f"See that Odoo runs with --logfile={path} and that the folder is mounted here"
            return f"there is no log {path}", mend
        case errno.EACCES | errno.EPERM:
            return f"{path} is closed to us", "Let the user that runs ingest read it, as with setfacl -m u:USER:r"
        case errno.ELOOP:
            return f"{path} is a link that leads back to itself", "Let it lead to Odoo's log"
        case errno.ENOTDIR:
            return f"{path} is below something that is no folder", "Write the path of Odoo's log"
        case _:
            why = error.strerror or type(error).__name__
            return f"{path} cannot be read: {why}", "See whether its disk or mount is in order"


def _path(target: Target, options: OdooLogOptions) -> Path:
    """Where the log is; ValueError says how to name it."""
    wanted_by = f"resource {target.resource.name}"
    parts = urlsplit(target.url)
    if not options.path and (parts.scheme not in ("", "file") or not parts.path):
        raise ValueError(f"{wanted_by}: url {masked(target.url)!r} must be file:///path/of/odoo.log")
    path = options.path or unquote(parts.path)
    if "\0" in path:
        raise ValueError(f"{wanted_by}: the path {path!r} must not hold a NUL; write it as file:///path/of/odoo.log")
    return Path(path)


KIND = CollectorKind("odoo_log", OdooLog, OdooLogOptions, schemes=("file",))
