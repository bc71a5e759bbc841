"""Estates that have lived for weeks: folded once, kept as moments, from which runs branch off.

A history is three weeks of looks every quarter of an hour, as a backfill brings them; before a moment the last hour is
looked at every minute. In every third estate the clocks change on the Sunday before the week in which runs take place.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np

from pilothouse.simulate.drawing import SEASON_YEARS, Drawn, draw
from pilothouse.simulate.drivers import Drivers, Span
from pilothouse.simulate.running import Cell, Moment, Settings

HISTORY_DAYS = 21
COARSE_MS = 900_000
FINE_MS = 60_000
SETTLE_MS = 3_600_000
DOCUMENTS_MS = 129_600_000  # of its past, documents are told of the last day and a half

# Moments of the week after the history: days after its Monday, local time. The first one is not settled finely.
BARE = "bare"  # before any document was told, for stories of days that documents have no part in
MIDNIGHT, BUSY, AFTERNOON, NIGHT = "midnight", "busy", "afternoon", "night"
MOMENTS = {BUSY: (1, time(9, 30)), AFTERNOON: (2, time(13, 30)), NIGHT: (3, time(1))}


class Lived:
    """An estate and its moments; each is made when it is first asked for, in the order of time."""

    def __init__(self, seed: int, settings: Settings | None = None, monday: date | None = None) -> None:
        """The week after its history begins on `monday`; drawn when it is not given."""
        self.monday, self.drawn = (monday, _before(seed, monday)) if monday else _week_of(seed)
        self.settings = settings
        self._moments: dict[str, Moment] = {}

    def at(self, name: str) -> Moment:
        """The cell as it is known at a moment of the week."""
        if name not in self._moments:
            before = self._learned
            if name in self._moments:
                return self._moments[name]
            for other in MOMENTS:
                self._moments.setdefault(other, before := self._settled(before, other))
                if other == name:
                    break
        return self._moments[name]

    def local_ms(self, days: int, at: time) -> int:
        """An instant of the week, Unix ms."""
        zone = ZoneInfo(self.drawn.tenants[0].calendar.time_zone)
        return round(datetime.combine(self.monday + timedelta(days=days), at, zone).timestamp() * 1000)

    @cached_property
    def _learned(self) -> Moment:
        cell = Cell(self.drawn, self.settings, slowly=True)
        until_ms = self.local_ms(0, time())
        with_documents_ms = until_ms - DOCUMENTS_MS
        cell.run(Drivers(Span.of(self.drawn.start_ms, with_documents_ms, COARSE_MS)), 1, documents=False)
        self._moments[BARE] = cell.moment()
        cell.run(Drivers(Span.of(cell.at_ms, until_ms, COARSE_MS)), 2)
        self._moments[MIDNIGHT] = moment = cell.moment()
        return moment

    def _settled(self, before: Moment, name: str) -> Moment:
        at_ms = self.local_ms(*MOMENTS[name])
        cell = Cell.at(before, self.settings, slowly=True)
        place = 3 + list(MOMENTS).index(name) * 2
        cell.run(Drivers(Span.of(cell.at_ms, at_ms - SETTLE_MS, COARSE_MS)), place)
        cell = Cell.at(cell.moment(), self.settings)
        cell.run(Drivers(Span.of(cell.at_ms, at_ms, FINE_MS)), place + 1)
        return cell.moment()


def _week_of(seed: int) -> tuple[date, Drawn]:
    random = np.random.default_rng([seed, 103])
    zone = ZoneInfo(draw(seed).tenants[0].calendar.time_zone)
    while True:
        first = date(int(random.choice(SEASON_YEARS)), 1, 1) + timedelta(days=int(random.integers(0, 364)))
        monday = first + timedelta(days=-first.weekday() % 7)
        if seed % 3 == 0 and _offset(zone, monday) == _offset(zone, monday - timedelta(days=2)):
            continue
        drawn = _before(seed, monday)
        week = {monday + timedelta(days=days) for days in range(5)}
        if not week & set(drawn.tenants[0].calendar.holidays):
            return monday, drawn


def _before(seed: int, monday: date) -> Drawn:
    return draw(seed, start=monday - timedelta(days=HISTORY_DAYS))


def _offset(zone: ZoneInfo, day: date) -> timedelta | None:
    return datetime.combine(day, time(12), UTC).astimezone(zone).utcoffset()
