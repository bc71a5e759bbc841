"""How far a series usually strays from its profile at this time of day, and how it moves within an hour.

For each hour of a working day and of a day of rest there is a variance of what the expectation left, and for each quarter of
an hour how far the series lies from the line between hourly means: the minutes in which a shift begins are neither like
the hour before nor like the one after. Both are learned over days of the same kind, with exponential weights. A time of
day that was seen on few days leans on the variance of all hours, by as much as one day counts.

Volatility is the usual one of that time of day multiplied by how lively the last while was against it, at least once. Source:
Andersen & Bollerslev (1997), Intraday periodicity and volatility persistence in financial markets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from processors.columns import Arrays, kept, wider
from processors.steps.seasonal import Profile

KINDS = 2
HOURS, QUARTERS = 24 * KINDS, 96 * KINDS
WEIGHT_MIN = 0.1  # of a new day: two weeks of working days
POOLED_MIN = 0.01  # of a new hour in the variance of all: four days

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SEASON: dict[str, tuple[int, Any]] = {"spread": (HOURS, np.float32), "bend": (QUARTERS, np.float32)}
PRESENT: dict[str, Any] = {
    "pooled": np.float64,  # variance over all hours
    "squares": np.float64,  # of what was left in the present hour, summed
    "lean": np.float64,  # what was left in the present quarter, summed
    "leans": np.uint16,
    "noughts": np.uint16,  # looks of the present hour that found nothing
}


class Spreads:
    """Variances and bends of some series. The profile says on how many days an hour was seen, and which days are alike."""

    def __init__(self, season: Arrays | None = None, present: Arrays | None = None) -> None:
        self.season = season or {name: np.zeros((rows, 0), kind) for name, (rows, kind) in SEASON.items()}
        self.present = present or {name: np.zeros(0, kind) for name, kind in PRESENT.items()}

    @classmethod
    def of(cls, arrays: Arrays) -> Spreads:
        """As they were packed among other arrays. Version 1 knew one spread and the noise, which then hold for all hours."""
        if "bend" in arrays:
            none = np.zeros(arrays["last"].size, np.uint16)  # version 2 did not count noughts
            return cls({name: arrays[name] for name in SEASON}, {name: arrays.get(name, none) for name in PRESENT})
        spreads = cls()
        spreads.grow(arrays["last"].size)
        spreads.season["spread"][:] = spreads.present["pooled"][:] = arrays["spread"] + arrays["noise"]
        return spreads

    @property
    def pooled(self) -> Floats:
        """Variance over all hours that are over; 0 of what never stirred."""
        pooled: Floats = self.present["pooled"]
        return pooled

    def grow(self, width: int) -> None:
        """Make room for `width` series."""
        more = width - self.present["pooled"].size
        self.season = {name: wider(array, more) for name, array in self.season.items()}
        self.present = {name: wider(array, more) for name, array in self.present.items()}

    def keep(self, stays: Flags) -> None:
        """Let go of the other series."""
        self.season, self.present = kept(self.season, stays), kept(self.present, stays)

    def bend(self, profile: Profile, quarter: NDArray[np.int16]) -> Floats:
        """How far the series lies from the line between hourly means in this quarter of an hour; or in each row of several."""
        bends: Floats = self.season["bend"][_quarter(profile, quarter), _series(profile)].astype(np.float64)
        return bends

    def add(self, observed: Floats, left: Floats, measured: Flags | bool) -> None:
        """Take in one scrape and what the expectation left of it; some series were `measured`, or all (True); 0 left of others."""
        self.present["squares"] += left * left
        self.present["lean"] += left
        self.present["leans"] += measured
        self.present["noughts"] += (observed == 0) & measured

    def close_quarter(self, profile: Profile, quarter: NDArray[np.int16], over: Flags) -> None:
        """A quarter of an hour is over for some series: learn its bend, where the hour has been seen before."""
        here, leans = self.present, self.present["leans"]
        days = profile.days(quarter // 4)
        learned = over & (leans > 0) & (days > 0)
        place = _quarter(profile, quarter), _series(profile)
        mean = np.divide(here["lean"], leans, out=np.zeros(leans.size), where=learned)
        self.season["bend"][place] += np.maximum(1.0 / (days + 1.0), WEIGHT_MIN) * mean
        np.copyto(here["lean"], 0.0, where=over)
        np.copyto(leans, 0, where=over)

    def close_hour(self, profile: Profile, hour: NDArray[np.int16], over: Flags) -> None:
        """An hour is over for some series: learn its variance. Comes before the profile closes it."""
        here, count = self.present, profile.count
        seen = over & (count > 0)
        mean = np.divide(here["squares"], count, out=np.zeros(count.size), where=seen)
        place = _hour(profile, hour), _series(profile)
        weight = np.where(seen, np.maximum(1.0 / (profile.days(hour) + 1.0), WEIGHT_MIN), 0.0)
        self.season["spread"][place] += weight * (mean - self.season["spread"][place])
        hours = profile.weeks.sum(axis=0, dtype=np.int64)
        here["pooled"] += np.where(seen, np.maximum(1.0 / (hours + 1.0), POOLED_MIN) * (mean - here["pooled"]), 0.0)
        np.copyto(here["squares"], 0.0, where=over)
        np.copyto(here["noughts"], 0, where=over)

    def variance(self, profile: Profile, hour: NDArray[np.int16], days: NDArray[np.intp]) -> Floats:
        """Usual variance in hours that were seen on so many days; 0 where nothing is known."""
        own = self.season["spread"][_hour(profile, hour), _series(profile)]
        return np.where(days > 0, (days * own + self.present["pooled"]) / (days + 1.0), 0.0)


def _series(profile: Profile) -> NDArray[np.intp]:
    return np.arange(profile.sum.size)


def _kind(profile: Profile, day: Any) -> Any:
    return 0 if profile.kinds is None else profile.kinds[day, _series(profile)].astype(np.intp)


def _hour(profile: Profile, hour: Any) -> Any:
    return _kind(profile, hour // 24) * 24 + hour % 24


def _quarter(profile: Profile, quarter: Any) -> Any:
    return _kind(profile, quarter // 96) * 96 + quarter % 96
