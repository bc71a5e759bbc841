"""Where each series stands in its week, and what its calendar expects there.

By the clock, the shifts and the holidays of the tenant it belongs to. Tenants of one server may live in several time zones, change their clocks on different Sundays and rest on different days;
each of them has its own week. What nobody has alone follows the cell's first tenant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from processors.steps.seasonal import hour_of_week
from schemas.calendar import DAYS, MINUTE_MS, WORKDAYS, Calendar

Places = NDArray[np.int16]
Floats = NDArray[np.float64]
CLOCK_DAYS = 2  # after a change of clocks: what waits on Monday may have waited since Saturday


class Now(NamedTuple):
    """An instant by series: quarter of the week, hour of the week, and how far into that hour (0 to 1).

    `loose` is by how many quarters of an hour the day may be ahead of its clock or behind: what began before the clocks
    were changed is an hour older or younger than on other days.
    """

    quarter: Places
    hour: Places
    into: Floats | float
    loose: Places


class Weeks:
    """The weeks of some series; `calendar_of` has for each of them a place in `calendars`."""

    @classmethod
    def of(cls, owners: Sequence[str | None], calendar_of: Callable[[str | None], Calendar]) -> Weeks:
        """Those of series that belong to these tenants; `calendar_of` knows a tenant's calendar."""
        places: dict[str | None, int] = {}
        calendar_at = np.array([places.setdefault(owner, len(places)) for owner in owners], np.intp)
        return cls([calendar_of(owner) for owner in places], calendar_at)

    def __init__(self, calendars: Sequence[Calendar], calendar_of: NDArray[np.intp]) -> None:
        self._of_tenants, self._calendar_of = list(calendars), calendar_of
        clocks = [(one.time_zone, one.holidays, _open_days(one)) for one in calendars]
        distinct = list(dict.fromkeys(clocks))
        self._calendars = [calendars[clocks.index(clock)] for clock in distinct]
        self._clock_of = np.array([distinct.index(clock) for clock in clocks], np.intp)[calendar_of]
        # Days on which one works are alike, and so are those on which one rests.
        kinds = np.array([_open_days(one) for one in self._calendars], np.int8).reshape(-1, len(DAYS))
        self.kinds = kinds[self._clock_of].T
        self._read: tuple[int, Floats | float] = (-1, 0.0)  # a minute, and how far into the hour it begins, by series
        self._last: tuple[tuple[int, ...], Places, Places, Places] | None = None
        self._load: tuple[int, Floats | None] = (-1, None)  # by minute: calendars say nothing finer

    def at(self, time_ms: int) -> Now:
        """Where each series stands; the same `quarter` while none is over."""
        minute, rest_ms = divmod(time_ms, MINUTE_MS)
        if self._last is None or self._read[0] != minute:
            self._read = minute, self._turn(minute * MINUTE_MS)
        assert self._last
        _, quarter, hour, loose = self._last
        return Now(quarter, hour, self._read[1] + rest_ms / 3_600_000, loose)

    def _turn(self, time_ms: int) -> Floats | float:
        read = [hour_of_week(one, time_ms) for one in self._calendars]
        key = tuple(hour * 4 + int(into * 4) for hour, into in read)
        if self._last is None or self._last[0] != key:
            quarter = np.array(key, np.int16)[self._clock_of]
            loose = np.array([1 + 3 * one.clocks_changed(time_ms, CLOCK_DAYS) for one in self._calendars], np.int16)
            self._last = key, quarter, quarter // 4, loose[self._clock_of]
        into = read[0][1] if read else 0.0
        same = all(other == into for _, other in read)
        return into if same else np.array([other for _, other in read], np.float64)[self._clock_of]

    def load(self, time_ms: int) -> Floats | None:
        """Expected load by series, NaN of what is closed; None where all calendars expect the usual."""
        minute = time_ms // MINUTE_MS
        if self._load[0] != minute:
            loads = [one.business_load(time_ms) for one in self._of_tenants]
            usual = all(load == 1.0 for load in loads)
            self._load = minute, None if usual else np.array(loads, np.float64)[self._calendar_of]
        return self._load[1]


def _open_days(calendar: Calendar) -> tuple[bool, ...]:
    """Days of the week on which a shift begins; of a calendar without shifts the workdays, by which most of the world lives."""
    days = {day for shift in calendar.shifts for day in shift.days} if calendar.shifts else set(WORKDAYS)
    return tuple(day in days for day in DAYS)
