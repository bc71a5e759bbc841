"""Odoo's own log, followed on disk: what workers, crons, logins and requests say, for every database of the server.

Each look reads a bounded piece and gives the lines worth keeping, the events in them and counters by tenant. Counters
and place are one position, stored together with the records: after a kill the same piece gives the same records, and the
counters go on. Lines carry the server's local time without a zone, so the zone is an option.
Source: odoo/netsvc.py and odoo/service/server.py of 16-19, checked on recorded logs of 17-19.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from ingest.collector import WARN, Collected, CollectorKind, Options, Target, Unavailable
from ingest.collectors.odoo_log_events import Memory, Reading, trim
from ingest.collectors.odoo_log_lines import Unread, split
from ingest.collectors.tail import Piece, Place, end_of, read
from schemas.records import OperationsEvent

MAX_TOLD = 5_000  # records and log lines of one look; the rest of the piece is read again at the next


class OdooLogOptions(Options):
    """What the estate may say about an Odoo log."""

    path: str | None = Field(None, description="Path of the log; or write it as url: file:///var/log/odoo/odoo.log.")
    time_zone: str = Field("UTC", description="Zone of the server's clock, as Europe/Brussels.")
    start: Literal["beginning", "end"] = Field("beginning", description="Where to begin in a log never read before.")
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

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """The next piece. Raises Unavailable when the file is not there or closed to us."""
        try:
            # Reading and parsing a piece takes up to a tenth of a second, which the other targets need not wait for.
            return await asyncio.to_thread(self._look, now_ms, position)
        except FileNotFoundError as error:
            mend = f"See that Odoo runs with --logfile={self._path} and that the folder is mounted here"
            raise Unavailable(self._target.resource.name, f"there is no log {self._path}", mend) from error
        except PermissionError as error:
            mend = "Let the user that runs ingest read it, as with setfacl -m u:USER:r"
            raise Unavailable(self._target.resource.name, f"{self._path} is closed to us", mend) from error

    async def close(self) -> None:
        """Nothing is kept open."""

    def _look(self, now_ms: int, position: str | None) -> Collected:
        before = _Position.model_validate_json(position) if position else self._first(now_ms)
        piece = read(self._path, before.place, self._options.max_bytes)
        reading = Reading(self._target, before, ship_all=self._options.ship == "all", mask=self._options.mask)
        refused, used = self._fold(reading, piece, now_ms)
        trim(before)
        scrape = self._target.scrape(reading.points(), now_ms, start_time_ms=before.since_ms)
        records = [*reading.records(), *self._missing(piece, now_ms), scrape]
        after = before.model_copy(update={"place": piece.after(used)})
        return Collected(records, after.model_dump_json(), refused)

    def _first(self, now_ms: int) -> _Position:
        place = end_of(self._path) if self._options.start == "end" else Place()
        return _Position(since_ms=now_ms, place=place)

    def _fold(self, reading: Reading, piece: Piece, now_ms: int) -> tuple[list[tuple[str, bytes]], int]:
        """Fold what is complete; what was refused, and how many bytes are used."""
        settled = now_ms - piece.written_ms >= self._options.settle_ms and piece.data.endswith(b"\n")
        full = len(piece.data) >= self._options.max_bytes
        refused: list[tuple[str, bytes]] = []
        used = 0
        for told in split(piece.data, self._zone, final=piece.whole or (settled and not full), full=full):
            # Between two records only: bytes refused inside a record belong to the same step.
            if told.used > used and reading.told + len(refused) >= MAX_TOLD:
                return refused, used
            if isinstance(told.what, Unread):
                refused.append((f"{self._path}: {told.what.reason}", told.what.data))
            else:
                reading.fold(told.what)
            used = told.used
        return refused, used

    def _missing(self, piece: Piece, now_ms: int) -> list[OperationsEvent]:
        if piece.missing is None:
            return []
        body = f"May be lost: {piece.missing}. Keep one rotated log uncompressed (delaycompress)"
        event = OperationsEvent(
            **self._target.identity(), time_ms=now_ms, name="collector.gap", severity_number=WARN, body=body
        )
        return [event]


def _path(target: Target, options: OdooLogOptions) -> Path:
    """Where the log is; ValueError says how to name it."""
    parts = urlsplit(target.url)
    if options.path:
        return Path(options.path)
    if parts.scheme not in ("", "file") or not parts.path:
        raise ValueError(f"resource {target.resource.name}: url {target.url!r} must be file:///path/of/odoo.log")
    return Path(unquote(parts.path))


KIND = CollectorKind("odoo_log", OdooLog, OdooLogOptions)
