"""What a time of day usually brings to the series of a resource and how far they stray then: profile and spreads together.

Read once for each quarter of an hour and used at every look in it; when the quarter is over, it is learned from.
"""

from __future__ import annotations

import numpy as np

from processors.columns import Arrays
from processors.steps.hours import Now, Places
from processors.steps.seasonal import HOURS, Flags, Floats, Profile
from processors.steps.spreads import Spreads

WEEK = 4 * HOURS
BESIDE = np.arange(-2, 3, dtype=np.int16)[:, None]
BEFORE_AND_AFTER = np.arange(-1, 2, dtype=np.int16)[:, None]


class Around:
    """An hour and the two on either side, a row each, by series: what they bring and how far series stray in them.

    Holds until an hour is learned.
    """

    def __init__(self, profile: Profile, spreads: Spreads, hour: Places) -> None:
        hours = (hour + BESIDE) % HOURS
        mean, days = profile.usual(hours)
        known, inner = days > 0, slice(1, 4)
        self.hour, self._known, self._series = hour, known[inner], np.arange(hour.size)
        self._near = np.where(known, mean, profile.long_run)[inner]
        # What it grows by towards the hour before, and towards the one after.
        self._slope = np.stack(
            [np.where(known[far], mean[far] - self._near, 0.0) for far in (slice(0, 3), slice(2, 5))]
        )
        self.variance = spreads.variance(profile, hours[inner], days[inner])

    @property
    def known(self) -> Flags:
        """Series of which the hour was seen."""
        known: Flags = self._known[1]
        return known

    def reaches(self, hour: Places) -> bool:
        """Whether an hour of each series is the one or beside it."""
        return not np.count_nonzero(abs((hour - self.hour + 1) % HOURS - 1) > 1)

    def line(self, quarters: Places) -> tuple[Floats, Floats, Flags]:
        """What an hour brings in its middle and what it grows by towards the hour beside; which hours are known.

        By quarters of the week, which may be rows of several.
        """
        place = ((quarters // 4 - self.hour + 1) % HOURS, self._series)
        return self._near[place], self._slope[(quarters % 4 >= 2).astype(np.intp), *place], self._known[place]


class Usual:
    """The usual of one quarter of an hour; `now` is an instant in it, `around` its hour where that is read already."""

    def __init__(self, profile: Profile, spreads: Spreads, now: Now, around: Around | None = None) -> None:
        self.quarter = now.quarter
        self.around = around or Around(profile, spreads, now.hour)
        # This quarter between the one before and the one after; on a day on which the clocks were changed, those an hour away.
        quarters = (now.quarter + BEFORE_AND_AFTER * now.loose) % WEEK
        near, slope, _ = self.around.line(quarters)
        bend, part = spreads.bend(profile, quarters), quarters % 4
        self._near, self._slope, self._bend = near[1], slope[1], bend[1]
        before, self._spread, after = self.around.variance
        beside = np.where(part[1] >= 2, after, before)
        self._widens = np.where((self._spread > 0) & (beside > 0), beside - self._spread, 0.0)
        # What lies between this quarter and the farther one may come in either: nobody comes to the minute.
        leap = np.abs(np.diff(near + slope * (np.abs(part - 1.5) / 4) + bend, axis=0)).max(axis=0)
        self.leap = leap * leap / 4
        self._strays = self._spread > 0  # where it is known how far
        self._always_strays, self.ever_strays = bool(self._strays.all()), bool(self._strays.any())
        self._unknown: Flags | None = None
        if not self.around.known.all():
            self._unknown = ~self.around.known
            # Nights and rests tell nothing of work: until a working day has had this time of day, nothing is usual at nought.
            self._unlived = ~profile.lived(now.hour) & ~has_level(profile, spreads)
            self._begins = ~profile.weeks.any(axis=0)
        self._count, self._profile, self._spreads = profile.count, profile, spreads

    def expected(self, away: Floats | float) -> Floats:
        """By series, so far `away` from the middle of the hour (in hours)."""
        usual: Floats = self._near + self._slope * away + self._bend
        return usual

    def variance(self, away: Floats | float) -> Floats:
        """Around that; 0 where nothing is known of this time of day."""
        between: Floats = self._spread + self._widens * away
        return between

    def or_else(self, known: Floats, unknown: Floats) -> Floats:
        """What is `known` where it is known how far series stray now, and the other where it is not."""
        if not self.ever_strays:
            return unknown
        return known if self._always_strays else np.where(self._strays, known, unknown)

    def fresh(self, enough: int) -> Flags | None:
        """Series that were never seen at this time of day, neither before nor `enough` now; None: none is.

        Of a series without a level nothing is enough as long as no working day has had this time of day.
        """
        if self._unknown is None:
            return None
        unlived = self._unlived & ~(self._begins & self._has_level_now()) if self._unlived.any() else self._unlived
        fresh = self._unknown & (unlived | (self._count < enough))
        if not np.count_nonzero(fresh):
            self._unknown = None  # counts only grow until the hour is over
            return None
        return fresh

    def _has_level_now(self) -> Flags:
        """Series that keep clear of zero in the present hour, or were never there: all that is known in the first one."""
        present = self._spreads.present
        clear: Flags = (self._profile.sum**2 > present["squares"] * self._count) | (present["noughts"] == 0)
        return clear


def has_level(profile: Profile, spreads: Spreads) -> Flags:
    """Series that keep clear of zero, so that multiples of their level mean something."""
    flags: Flags = profile.long_run * profile.long_run > spreads.pooled
    return flags


def close(arrays: Arrays, profile: Profile, spreads: Spreads, now: Now, around: Around | None) -> Around | None:
    """The time is `now`: what was in quarters and hours that are over is learned, by the `quarter` of each series.

    `around` is what was known around the hour of before; given is what still holds of it, or what is known now.
    """
    quarter = arrays["quarter"]
    over = (quarter != now.quarter) & (quarter >= 0)
    hour_over = over & (quarter // 4 != now.hour)
    if np.count_nonzero(hour_over):
        if around is None or not around.reaches(now.hour):
            around = Around(profile, spreads, now.hour)
        around = _close_hours(arrays, profile, spreads, now, around, (over, hour_over))
    elif np.count_nonzero(over):
        spreads.close_quarter(profile, quarter, over)
    np.copyto(quarter, now.quarter)
    return around


def _close_hours(
    arrays: Arrays, profile: Profile, spreads: Spreads, now: Now, around: Around, over: tuple[Flags, Flags]
) -> Around:
    """`over` is of which series the quarter, and of which the hour; gives what is around the present one now."""
    quarter, hour = arrays["quarter"], arrays["quarter"] // 4
    quarter_over, hour_over = over
    season, known = _season(around, profile, spreads, now)
    was_known = profile.days(hour) > 0
    spreads.close_quarter(profile, quarter, quarter_over)
    spreads.close_hour(profile, hour, hour_over)
    profile.close(hour, hour_over)
    # What the season has now learned of the present, the offset need not hold as well; what it held while nothing was
    # known of the time of day says nothing of one that is known.
    around = Around(profile, spreads, now.hour)
    learned = _season(around, profile, spreads, now)[0] - season
    arrays["offset"] -= np.where(quarter_over, learned, 0.0)
    arrays["offset"][hour_over & known & ~was_known] = 0.0
    return around


def _season(around: Around, profile: Profile, spreads: Spreads, now: Now) -> tuple[Floats, Flags]:
    near, slope, known = around.line(now.quarter)
    return near + slope * np.abs(np.subtract(now.into, 0.5)) + spreads.bend(profile, now.quarter), known
