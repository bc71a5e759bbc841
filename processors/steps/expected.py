"""What is usual of each flow just now: what the tenants' calendars say, and what this hour of the week has taught.

Read once a minute. Hours that are over go into the season; a silence that was told is no new usual, unless it comes every week.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from processors.columns import Arrays
from processors.flows import FLOWS
from processors.steps.odds import Odds
from processors.steps.seasonal import HOURS, Floats, hour_of_week, is_shifted
from processors.steps.silences import Clock, Flags, Season, State
from schemas.calendar import HOUR_MS, MINUTE_MS, Calendar

WEEK_WEIGHT = 0.15  # of a new week, once several are known

CalendarOf = Callable[[str | None], Calendar]
"""The calendar of a tenant."""


def clock_of(odds: Odds, calendar_of: CalendarOf, state: State, time_ms: int) -> Clock:
    """What calendars and the season say by stream; they are read once a minute."""
    minute = time_ms // MINUTE_MS
    if state.clock is None or state.clock[0] != minute:
        at = _read_calendars(calendar_of, state, minute * MINUTE_MS)
        _turn_hours(odds, state, at)
        state.remember()
        state.clock = (minute, _with_season(odds, state, at))
    return state.clock[1]


def _read_calendars(calendar_of: CalendarOf, state: State, time_ms: int) -> Clock:
    told: dict[str | None, tuple[int, float, bool, bool, bool, bool, bool]] = {}
    for tenant in {one.tenant for one in state.streams}:
        calendar = calendar_of(tenant)
        moment = calendar.at(time_ms)
        hour, into = hour_of_week(calendar, time_ms)
        shifted = is_shifted(calendar, time_ms)
        # The middle of the hour beside, towards which this one leans.
        beside = calendar.at(round(time_ms + HOUR_MS * (1.5 - into if into >= 0.5 else -0.5 - into)))
        is_open, is_calm, has_shifts = moment.is_open, not moment.maintenance, bool(calendar.shifts)
        told[tenant] = (hour, into, is_open, is_calm, shifted, has_shifts, beside.is_open)
    rows = [(*told[one.tenant], FLOWS[one.flow]) for one in state.streams]
    nothing = np.zeros(len(rows))
    return Clock(
        hour=np.array([row[0] for row in rows], np.intp),
        into=np.array([row[1] for row in rows], np.float64),
        works=np.array([row[3] and (row[2] or row[-1].around_the_clock) for row in rows], bool),
        shifted=np.array([row[4] for row in rows], bool),
        needs_gate=np.array([row[-1].needs_gate for row in rows], bool),
        edge=np.array([not row[6] and not row[-1].is_machine for row in rows], bool),
        declared=np.array([row[5] or row[-1].around_the_clock for row in rows], bool),
        usual=nothing,
        known=nothing > 0,
        least=nothing,
        limit=nothing,
    )


def _turn_hours(odds: Odds, state: State, clock: Clock) -> None:
    """Fold the hours that are over into the season. A silence that was told is no new usual, unless it comes every week.

    Whether evidence that still grows was healthy is known when it has fallen or the day has closed: until then it waits
    for a later hour. A flow that stops slowly would else run after a limit that it raises itself.
    """
    arrays, season, hour = state.arrays, state.season, clock.hour
    over = (arrays["hour"] != hour) & (arrays["hour"] >= 0)
    arrays["hour"][arrays["hour"] < 0] = hour[arrays["hour"] < 0]
    if not over.any():
        return
    state.now = None
    at, which = arrays["hour"][over].astype(np.intp), np.flatnonzero(over)
    enough = arrays["hour_ms"][over] >= HOUR_MS / 6
    weeks, told = season["weeks"][at, which], arrays["told"][over] > 0
    rate = np.divide(arrays["hour_sum"][over], arrays["hour_ms"][over], out=np.zeros(which.size), where=enough)
    weight = np.where(enough, np.maximum(1 / (weeks + 1.0), WEEK_WEIGHT) * np.where(told, 0.3, 1.0), 0.0)
    season["mean"][at, which] += (weight * (rate - season["mean"][at, which])).astype(np.float32)
    # The longest silence of the hour, in what is now known to be usual in it: a day that begins late has one, too.
    before = season["healthy"][at, which]
    worst = odds.gain * np.maximum(rate, season["mean"][at, which]) * arrays["worst_ms"][over]
    worst = np.maximum(worst, arrays["worst"][over])
    limit = odds.enough(odds.least(state, _a_week(season))[over], before)
    worst = np.where(told, np.minimum(worst, 2 * limit), worst)
    was_known, is_known = (_is_known(season["weeks"], one, which) for one in (at, hour[over]))
    goes_on = (arrays["missed"][over] > arrays["worst"][over] / 2) & ~told & clock.works[over] & was_known
    worst = np.where(goes_on, 0.0, worst)
    kept = np.where(enough & ~goes_on, 0.8, 1.0) * before
    season["healthy"][at, which] = np.maximum(kept, np.where(enough, worst, 0.0)).astype(np.float32)
    season["weeks"][at, which] = np.minimum(weeks + (enough & ~told), 250).astype(np.uint8)
    arrays["longest"][over] = np.maximum(arrays["longest"][over] * 0.99, worst)
    arrays["worst"][which[~goes_on]] = 0.0
    # What was to be expected in an hour never seen was a guess: where it is known the evidence begins anew.
    for name in ("missed", "low_ms", "low_usual", "low_came", "silent_ms"):
        arrays[name][which[is_known & ~was_known & ~told]] = 0.0
    for name in ("hour_sum", "hour_ms", "worst_ms"):
        arrays[name][over] = 0.0
    arrays["hour"][over] = hour[over]


def _is_known(weeks: NDArray[np.uint8], hour: NDArray[np.intp], which: NDArray[np.intp]) -> Flags:
    """Whether the hour was seen before; until a working day's was, the same of another working day."""
    days = _working_days(hour)
    known: Flags = (weeks[hour, which] > 0) | (hour < 120) & (weeks[days, which] > 0).any(axis=0)
    return known


def _with_season(odds: Odds, state: State, clock: Clock) -> Clock:
    """By stream: the usual rate a ms, whether the hour is known, and the evidence that is enough.

    Of an hour its whole is known, not how people begin and leave in it: at its edges no more is counted on than the hour
    beside brings, which is nothing of what people do where the calendar has it closed, and in its middle its mean.
    """
    now = state.now
    if now is None or not np.array_equal(now.hour, clock.hour):
        now = state.now = _season(state.season, clock.hour)
    later, which = (clock.into >= 0.5).astype(np.intp) * 2, np.arange(clock.hour.size)
    mean, known = now.mean[1], now.known[1]
    there = np.where(now.known[later, which], now.mean[later, which], np.where(clock.edge, 0.0, mean))
    usual = np.minimum(mean, mean + (there - mean) * 2 * np.abs(clock.into - 0.5))
    shifted = clock.shifted & now.seen
    if shifted.any():
        usual = np.where(shifted, np.minimum(usual, now.beside), usual)
    least = odds.least(state, now.a_week)
    limit = odds.enough(least, np.where(known, now.healthy, state.arrays["longest"]))
    return replace(clock, usual=usual, known=known, least=least, limit=limit)


def _season(season: Arrays, hour: NDArray[np.intp]) -> Season:
    which = np.arange(hour.size)
    hours = ((hour - 1) % HOURS, hour, (hour + 1) % HOURS)
    before, _, after = hours
    read = [_mean(season, one, which) for one in hours]
    near = [season["healthy"][one, which] for one in hours]
    # Working days begin and end alike: what was healthy on one of them is so on the others.
    alike = np.where(hour < 120, season["healthy"][_working_days(hour), which].max(axis=0), 0.0)
    return Season(
        hour=hour,
        mean=np.stack([mean for mean, _ in read]),
        known=np.stack([known for _, known in read]),
        seen=season["weeks"][hour, which] > 0,
        beside=np.minimum(season["mean"][before, which], season["mean"][after, which]),
        healthy=np.max([*near, alike], axis=0).astype(np.float64),
        a_week=_a_week(season),
    )


def _a_week(season: Arrays) -> Floats:
    """By stream, the sum of what the hours of the week bring, a ms."""
    means: Floats = season["mean"].sum(axis=0, dtype=np.float64)
    return means


def _mean(season: Arrays, hour: NDArray[np.intp], which: NDArray[np.intp]) -> tuple[Floats, Flags]:
    """By stream, what the hour brings and whether that is known. Until a working day's was seen, the least of the others' is."""
    known = season["weeks"][hour, which] > 0
    mean = season["mean"][hour, which].astype(np.float64)
    if known.all():
        return mean, known
    days = _working_days(hour)
    seen = season["weeks"][days, which] > 0
    stands_in = ~known & (hour < 120) & seen.any(axis=0)
    least = np.where(seen, season["mean"][days, which], np.inf).min(axis=0)
    return np.where(stands_in, least, mean), known | stands_in


def _working_days(hour: NDArray[np.intp]) -> NDArray[np.intp]:
    """The same hour of the five working days, one a row."""
    days: NDArray[np.intp] = np.arange(5)[:, None] * 24 + (hour % 24)[None, :]
    return days
