"""How busy a healthy tenant is: its day, its week, its holidays and campaigns in local time, and chance.

Load is a multiple of a usual mid-morning. Chance has three sizes: a day as a whole is better or worse, hours wander, and
what is counted scatters (that is left to whoever counts).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from pilothouse.simulate.drawing import Character
from pilothouse.simulate.noise import Floats
from schemas.calendar import DAY_MS, DAYS, Calendar

HOUR_MS = 3_600_000
WEEK_MS = 7 * DAY_MS
HOLIDAY_LOAD = 0.06

Times = NDArray[np.int64]


def expected_load(one: Character, times_ms: Times, origin_ms: int) -> Floats:
    """What the business brings at these instants, without chance. Growth counts from `origin_ms`."""
    local_ms = times_ms + _offset_ms(one.calendar.time_zone, times_ms)
    weekday = (local_ms // DAY_MS + 3) % 7
    hour = (local_ms % DAY_MS) / HOUR_MS
    day = np.interp(hour, np.arange(25), [*one.trade.open_day, one.trade.open_day[0]])
    works = np.array([name in one.trade.days for name in DAYS])[weekday]
    load = np.where(works, day, day * one.trade.closed_day)
    load *= 1 + one.rush * np.exp(-(((hour - _cut_off_hour(one.calendar) + 0.6) / 0.5) ** 2)) * works
    moments = _by_hour(one.calendar, times_ms)
    load *= np.where(moments["holiday"], HOLIDAY_LOAD, 1.0) * np.where(moments["month_end"], one.month_end, 1.0)
    load *= 1 + one.growth_per_week * (times_ms - origin_ms) / WEEK_MS
    return np.maximum(load, 0.01) * _campaigns(one.calendar, times_ms)


def day_factor(one: Character, times_ms: Times, seed: int) -> Floats:
    """How good each local day is; the same for every stretch that touches it."""
    days = (times_ms + _offset_ms(one.calendar.time_zone, times_ms)) // DAY_MS
    name = sum(one.name.encode())
    of_day = {
        day: np.exp(np.random.default_rng([seed, name, day]).normal(0, one.day_spread))
        for day in np.unique(days).tolist()
    }
    return np.array([of_day[day] for day in days.tolist()])


def open_hours(calendar: Calendar, times_ms: Times) -> Floats:
    """Share of the people who are at work: they come and go over half an hour around the shift's hours."""
    around = [times_ms + minutes * 60_000 for minutes in (-15, -10, -5, 0, 5, 10, 15)]
    shares = [_at(calendar, one, 300_000, lambda at: float(calendar.at(at).is_open)) for one in around]
    mean: Floats = np.mean(shares, axis=0)
    return mean


def _by_hour(calendar: Calendar, times_ms: Times) -> dict[str, NDArray[np.bool_]]:
    return {
        "holiday": _at(calendar, times_ms, HOUR_MS, lambda at: float(calendar.at(at).is_holiday)) > 0,
        "month_end": _at(calendar, times_ms, HOUR_MS, lambda at: float(calendar.at(at).is_month_end)) > 0,
    }


def _at(calendar: Calendar, times_ms: Times, grain_ms: int, say: Callable[[int], float]) -> Floats:
    places, back = np.unique(times_ms // grain_ms, return_inverse=True)
    return np.array([say(int(place) * grain_ms) for place in places])[back]


def _offset_ms(zone: str, times_ms: Times) -> Times:
    info = ZoneInfo(zone)

    def offset(hour: int) -> int:
        delta = datetime.fromtimestamp(hour * 3_600, UTC).astimezone(info).utcoffset()
        assert delta is not None
        return round(delta.total_seconds() * 1000)

    hours, back = np.unique(times_ms // HOUR_MS, return_inverse=True)
    offsets: Times = np.array([offset(int(hour)) for hour in hours], np.int64)[back]
    return offsets


def _cut_off_hour(calendar: Calendar) -> float:
    return calendar.cut_offs[0].at.hour + calendar.cut_offs[0].at.minute / 60 if calendar.cut_offs else 16.0


def _campaigns(calendar: Calendar, times_ms: Times) -> Floats:
    """A campaign rises and falls over some minutes; what was declared of it is only nearly right, see `families`."""
    factor = np.ones(times_ms.size)
    for one in calendar.campaigns:
        starts, ends = one.starts.timestamp() * 1000, one.ends.timestamp() * 1000
        inside = np.clip((times_ms - starts) / 600_000, 0, 1) * np.clip((ends - times_ms) / 600_000, 0, 1)
        factor += (one.load - 1) * inside
    return factor
