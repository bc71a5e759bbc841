"""Business time: what a tenant's calendar says of an instant.

A calendar knows a time zone, shifts, holidays, shipping cut-offs, month end, campaigns and maintenance. All answers
are pure functions of an instant; daylight saving follows the IANA time zone database that the lock file pins.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Self
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, Field, field_validator, model_validator

from schemas.written import Written, known_zone

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MINUTE_MS = 60_000
LINGERS_MS = 3_600_000


class Day(StrEnum):
    """Day of the week, as in an iCalendar rule but in whole words."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


DAYS = tuple(Day)
WORKDAYS = DAYS[:5]


class Shift(Written):
    """Hours in which people work. A shift that closes at or before it opens runs over midnight."""

    days: tuple[Day, ...] = Field(WORKDAYS, min_length=1, description="Days on which the shift begins.")
    opens: time = Field(description="Local time at which it begins.")
    closes: time = Field(description="Local time at which it ends.")


class CutOff(Written):
    """When a carrier takes the last parcel of a day."""

    carrier: str = Field("*", description="Carrier's name; * for all.")
    at: time = Field(description="Local time.")
    days: tuple[Day, ...] = Field(WORKDAYS, min_length=1)


class Window(Written):
    """A stretch of time with a name."""

    name: str
    starts: AwareDatetime
    ends: AwareDatetime

    @model_validator(mode="after")
    def _ends_later(self) -> Self:
        if self.ends <= self.starts:
            raise ValueError(f"{self.name}: ends {self.ends.isoformat()} is not after starts {self.starts.isoformat()}")
        return self

    def covers(self, time_ms: int) -> bool:
        """Whether the instant lies in the window, its end excluded."""
        return _ms(self.starts) <= time_ms < _ms(self.ends)

    def lingers(self, time_ms: int) -> bool:
        """Whether the instant lies in the window or in what it leaves behind: as long again, at most an hour."""
        starts, ends = _ms(self.starts), _ms(self.ends)
        return starts <= time_ms < ends + min(ends - starts, LINGERS_MS)


class Campaign(Window):
    """A peak that the business expects."""

    load: float = Field(1.0, gt=0, description="Expected load as a multiple of the usual at that time.")


class Moment(NamedTuple):
    """What a calendar says of an instant."""

    day: date
    weekday: int
    minute_of_day: int
    is_open: bool
    is_holiday: bool
    is_month_end: bool
    campaign: str | None
    load: float
    maintenance: str | None

    @property
    def phase(self) -> str:
        """The calendar phase in a word, the rarest first."""
        if self.maintenance:
            return "maintenance"
        if self.campaign:
            return "campaign"
        if self.is_holiday:
            return "holiday"
        if self.is_month_end:
            return "month end"
        return "open" if self.is_open else "closed"


class Calendar(Written):
    """The business calendar of a tenant."""

    name: str = Field(min_length=1)
    time_zone: str = Field("UTC", description="IANA name, such as Europe/Berlin.")
    shifts: tuple[Shift, ...] = Field((), description="When people work; empty means always.")
    holidays: tuple[date, ...] = Field((), description="Local dates on which nobody works.")
    cut_offs: tuple[CutOff, ...] = Field((), description="Shipping cut-offs.")
    month_end_days: int = Field(2, ge=0, le=10, description="Last and first days of a month that are month end.")
    campaigns: tuple[Campaign, ...] = ()
    maintenance: tuple[Window, ...] = ()

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        return known_zone(name)

    def at(self, time_ms: int) -> Moment:
        """What the calendar says of an instant (Unix ms UTC)."""
        return _moment(_Key(self), time_ms // MINUTE_MS)

    def local(self, time_ms: int) -> datetime:
        """The instant in local time."""
        return datetime.fromtimestamp(time_ms / 1000, ZoneInfo(self.time_zone))

    def clocks_changed(self, time_ms: int, days: int) -> bool:
        """Whether the clocks were changed within the last days."""
        return _clocks_changed(_Key(self), time_ms // MINUTE_MS, days)

    def rests(self, time_ms: int) -> bool:
        """Whether it is a holiday, or since the last one nobody has worked for an hour yet."""
        today, key = self.local(time_ms).date(), _Key(self)
        if today in self.holidays:
            return True
        for back in range(1, 8):
            day = today - timedelta(days=back)
            if day in self.holidays:
                over_ms = _ms(datetime.combine(day + timedelta(days=1), time(), ZoneInfo(self.time_zone)))
                return self.business_ms(over_ms, time_ms) < LINGERS_MS
            if _open_spans(key, day):
                return False
        return False

    def business_load(self, time_ms: int) -> float:
        """Load that is expected, as a multiple of the usual, right to the minute; NaN while a holiday or a window closes it.

        Right after a holiday, a window or a campaign what it held up is made good.
        """
        return _business_load(_Key(self), time_ms // MINUTE_MS)

    def is_open(self, local: datetime) -> bool:
        """Whether a shift covers a local time."""
        if not self.shifts:
            return local.date() not in self.holidays
        return any(self._covers(shift, local, back) for shift in self.shifts for back in (0, 1))

    def next_cut_off(self, time_ms: int, carrier: str | None = None) -> int | None:
        """The next shipping cut-off at or after an instant, Unix ms; None when there is none within ten days."""
        local = self.local(time_ms)
        found = [
            at
            for ahead in range(11)
            for cut_off in self.cut_offs
            if cut_off.carrier in ("*", carrier) and (at := self._cut_off(cut_off, local, ahead)) >= time_ms
        ]
        return min((at for at in found if at < 2**62), default=None)

    def first_cut_off(self, time_ms: int) -> int | None:
        """The earliest of the next cut-offs of all carriers, Unix ms, right to the minute; None when there is none."""
        return _first_cut_off(_Key(self), time_ms // MINUTE_MS)

    def business_ms(self, from_ms: int, to_ms: int) -> int:
        """Open time between two instants, ms; at most 35 days are looked at. Adjoining stretches add up exactly."""
        if to_ms <= from_ms:
            return 0
        first = max(from_ms, to_ms - 35 * DAY_MS)
        total, done = 0, first
        day, last = self.local(first).date() - timedelta(days=1), self.local(to_ms).date()
        while day <= last:
            for opens, closes in _open_spans(_Key(self), day):
                begin, end = max(opens, done), min(closes, to_ms)
                if end > begin:
                    total, done = total + end - begin, end
            day += timedelta(days=1)
        return total

    def _covers(self, shift: Shift, local: datetime, back: int) -> bool:
        began = local.date() - timedelta(days=back)
        if DAYS[began.weekday()] not in shift.days or began in self.holidays:
            return False
        over_midnight = shift.closes <= shift.opens
        if back:
            return over_midnight and local.time() < shift.closes
        return local.time() >= shift.opens and (over_midnight or local.time() < shift.closes)

    def _cut_off(self, cut_off: CutOff, local: datetime, ahead: int) -> int:
        day = local.date() + timedelta(days=ahead)
        if DAYS[day.weekday()] not in cut_off.days or day in self.holidays:
            return 2**62
        return _ms(datetime.combine(day, cut_off.at, ZoneInfo(self.time_zone)))


ALWAYS_OPEN = Calendar(name="always")


class _Key:
    """A calendar by identity, so that the cache need not hash its fields for every scrape."""

    def __init__(self, calendar: Calendar) -> None:
        self.calendar = calendar

    def __hash__(self) -> int:
        return id(self.calendar)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.calendar is self.calendar


@lru_cache(maxsize=65_536)
def _moment(key: _Key, minute: int) -> Moment:
    calendar, time_ms = key.calendar, minute * MINUTE_MS
    local = calendar.local(time_ms)
    campaign = next((one for one in calendar.campaigns if one.covers(time_ms)), None)
    return Moment(
        day=local.date(),
        weekday=local.weekday(),
        minute_of_day=local.hour * 60 + local.minute,
        is_open=calendar.is_open(local),
        is_holiday=local.date() in calendar.holidays,
        is_month_end=_is_month_end(local.date(), calendar.month_end_days),
        campaign=campaign.name if campaign else None,
        load=campaign.load if campaign else 1.0,
        maintenance=next((one.name for one in calendar.maintenance if one.covers(time_ms)), None),
    )


@lru_cache(maxsize=16_384)
def _clocks_changed(key: _Key, minute: int, days: int) -> bool:
    calendar, time_ms = key.calendar, minute * MINUTE_MS
    before_ms = max(time_ms - days * DAY_MS, 0)
    return calendar.local(time_ms).utcoffset() != calendar.local(before_ms).utcoffset()


@lru_cache(maxsize=16_384)
def _business_load(key: _Key, minute: int) -> float:
    calendar, time_ms = key.calendar, minute * MINUTE_MS
    if calendar.rests(time_ms) or any(one.lingers(time_ms) for one in calendar.maintenance):
        return math.nan
    return max((one.load for one in calendar.campaigns if one.lingers(time_ms)), default=1.0)


@lru_cache(maxsize=16_384)
def _first_cut_off(key: _Key, minute: int) -> int | None:
    calendar = key.calendar
    carriers = sorted({one.carrier for one in calendar.cut_offs})
    found = [calendar.next_cut_off(minute * MINUTE_MS, one) for one in carriers]
    return min((one for one in found if one is not None), default=None)


@lru_cache(maxsize=16_384)
def _open_spans(key: _Key, day: date) -> tuple[tuple[int, int], ...]:
    """Stretches of open time that begin on a local day, in their order; they may overlap."""
    calendar = key.calendar
    if day in calendar.holidays:
        return ()
    zone, after = ZoneInfo(calendar.time_zone), day + timedelta(days=1)
    if not calendar.shifts:
        return ((_ms(datetime.combine(day, time(), zone)), _ms(datetime.combine(after, time(), zone))),)
    today = [shift for shift in calendar.shifts if DAYS[day.weekday()] in shift.days]
    spans = [
        (
            _ms(datetime.combine(day, shift.opens, zone)),
            _ms(datetime.combine(after if shift.closes <= shift.opens else day, shift.closes, zone)),
        )
        for shift in today
    ]
    return tuple(sorted(spans))


def _is_month_end(day: date, days: int) -> bool:
    last = (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    return day.day <= days // 2 or (last - day).days < days - days // 2


def _ms(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)
