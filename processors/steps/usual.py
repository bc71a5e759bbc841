"""What a time of day usually brings to the series of a resource and how far they stray then: profile and spreads together.

Read once for each quarter of an hour and used at every look in it; when the quarter is over, it is learned from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from processors.columns import Arrays
from processors.steps.hours import Now
from processors.steps.seasonal import Flags, Floats, Profile
from processors.steps.spreads import Spreads


class Usual:
    """The usual of one quarter of an hour; `now` is an instant in it."""

    def __init__(self, profile: Profile, spreads: Spreads, now: Now) -> None:
        self.quarter = now.quarter
        self._near, self._slope, known = profile.line(now.hour, now.into)
        self._bend = spreads.bend(profile, now.quarter)
        self._spread, self._widens = spreads.line(profile, now)
        leap = spreads.leap(profile, now)
        self.leap = leap * leap / 4  # what lies between this quarter and the next may come in either
        self._strays = self._spread > 0  # where it is known how far
        self._always_strays, self.ever_strays = bool(self._strays.all()), bool(self._strays.any())
        self._unknown: Flags | None = None
        if not known.all():
            self._unknown = ~known
            # Nights and rests tell nothing of work: until a working day has had this time of day, nothing is usual at nought.
            self._unlived = ~profile.lived(now.hour) & ~has_level(profile, spreads)
            self._begins = ~profile.weeks.any(axis=0)
        self._count, self._profile, self._spreads = profile.count, profile, spreads

    def expected(self, away: Floats | float) -> Floats:
        """By series, so far `away` from the middle of the hour (in hours)."""
        return self._near + self._slope * away + self._bend

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


def close(arrays: Arrays, profile: Profile, spreads: Spreads, now: Now) -> None:
    """The time is `now`: what was in quarters and hours that are over is learned, by the `quarter` of each series."""
    quarter = arrays["quarter"]
    over = (quarter != now.quarter) & (quarter >= 0)
    if over.any():
        _learn(arrays, profile, spreads, now, over)
    np.copyto(quarter, now.quarter)


def _learn(arrays: Arrays, profile: Profile, spreads: Spreads, now: Now, over: NDArray[np.bool_]) -> None:
    quarter, hour = arrays["quarter"], arrays["quarter"] // 4
    hour_over = over & (hour != now.hour)
    season, known = _season(profile, spreads, now)
    was_known = profile.days(hour) > 0
    spreads.close_quarter(profile, quarter, over)
    if hour_over.any():
        spreads.close_hour(profile, hour, hour_over)
        profile.close(hour, hour_over)
    # What the season has now learned of the present, the offset need not hold as well; what it held while nothing was
    # known of the time of day says nothing of one that is known.
    learned = _season(profile, spreads, now)[0] - season
    arrays["offset"] -= np.where(over, learned, 0.0)
    arrays["offset"][hour_over & known & ~was_known] = 0.0


def _season(profile: Profile, spreads: Spreads, now: Now) -> tuple[Floats, Flags]:
    season, known = profile.expected(now.hour, now.into)
    return season + spreads.bend(profile, now.quarter), known
