"""What a week usually looks like, by hour and series: shared by the steps that ask "is this usual now?".

A profile holds one mean an hour of the week (168) and series, learned from hourly means with an exponential weight, and
read by linear interpolation between the middles of the hours. An hour of the week that is young is drawn towards the
same hour of the other days, and one that was never seen on any day is answered by the series' long-run mean. Source: the seasonal-naive and Holt-Winters family (Hyndman & Athanasopoulos, Forecasting: Principles and
Practice, 3rd ed., 8.3), with the season kept as a table so that holes and holidays do no harm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from processors.columns import Arrays
from schemas.calendar import Calendar

HOURS = 168
WEEKS_YOUNG = 3  # an hour of the week seen less often than this leans on the same hour of other days
WEIGHT_MIN = 0.15  # weight of a new week once the profile knows several: about six weeks of memory

Floats = NDArray[np.float64]


class Profile:
    """Hourly means of a week for `width` series."""

    def __init__(self, width: int = 0, arrays: Arrays | None = None) -> None:
        self.mean = arrays["mean"] if arrays else np.zeros((HOURS, width), np.float32)
        self.weeks = arrays["weeks"] if arrays else np.zeros((HOURS, width), np.uint8)
        self.sum = arrays["sum"] if arrays else np.zeros(width)
        self.count = arrays["count"] if arrays else np.zeros(width, np.uint32)
        self.long_run = arrays["long_run"] if arrays else np.zeros(width)
        self.spread = arrays["spread"] if arrays else np.zeros(width)
        self._read: dict[int, tuple[Floats, NDArray[np.bool_]]] = {}  # by hour, until an hour is folded in

    def season(self) -> Arrays:
        """The arrays that change once an hour."""
        return {"mean": self.mean, "weeks": self.weeks}

    def present(self) -> Arrays:
        """The arrays that change with every scrape."""
        return {"sum": self.sum, "count": self.count, "long_run": self.long_run, "spread": self.spread}

    def grow(self, width: int) -> None:
        """Make room for `width` series."""
        more = width - self.sum.size
        self._read.clear()
        self.mean = np.pad(self.mean, ((0, 0), (0, more)))
        self.weeks = np.pad(self.weeks, ((0, 0), (0, more)))
        self.sum, self.count = np.pad(self.sum, (0, more)), np.pad(self.count, (0, more))
        self.long_run, self.spread = np.pad(self.long_run, (0, more)), np.pad(self.spread, (0, more))

    def expected(self, hour: int, into: float) -> tuple[Floats, NDArray[np.bool_]]:
        """Usual value by series `into` (0 to 1) the hour of the week, and where the profile knows it."""
        other = (hour + (1 if into >= 0.5 else -1)) % HOURS
        near, known = self.usual(hour)
        far, also = self.usual(other)
        near = np.where(known, near, self.long_run)
        return near + np.where(also, far - near, 0.0) * abs(into - 0.5), known

    def usual(self, hour: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Mean of an hour of the week by series, and where it or the same hour of another day is known."""
        if hour not in self._read:
            weeks = self.weeks[hour].astype(np.float64)
            days = self.weeks[hour % 24 :: 24] > 0
            of_days = np.count_nonzero(days, axis=0)
            day = np.sum(self.mean[hour % 24 :: 24] * days, axis=0, dtype=np.float64) / np.maximum(of_days, 1)
            young = (weeks * self.mean[hour] + day) / (weeks + 1.0)
            self._read[hour] = np.where(weeks >= WEEKS_YOUNG, self.mean[hour], young), of_days > 0
        return self._read[hour]

    def add(self, values: Floats, measured: NDArray[np.bool_]) -> None:
        """Take in one scrape of the present hour."""
        self.sum += np.where(measured, values, 0.0)
        self.count += measured

    def close(self, hour: int) -> None:
        """The hour is over: fold its mean into the week, and its distance from the usual into the spread."""
        seen = self.count > 0
        mean = np.divide(self.sum, self.count, out=np.zeros_like(self.sum), where=seen)
        weeks = self.weeks[hour]
        weight = np.maximum(1.0 / (weeks + 1.0), WEIGHT_MIN)
        error = np.where(weeks > 0, mean - self.mean[hour], 0.0)
        self.spread += np.where(seen & (weeks > 0), 0.05 * (error * error - self.spread), 0.0)
        row = self.mean[hour] + weight * (mean - self.mean[hour])
        self.mean[hour] = np.where(seen, row, self.mean[hour])
        self.weeks[hour] = np.minimum(weeks + seen, 250)
        started = self.long_run != 0
        self.long_run += np.where(seen, np.where(started, 0.02, 1.0) * (mean - self.long_run), 0.0)
        self.sum[:], self.count[:] = 0, 0
        self._read.clear()


def hour_of_week(calendar: Calendar, time_ms: int) -> tuple[int, float]:
    """Local hour of the week (Monday 00:00 is 0) and how far into it. A holiday counts as a Sunday."""
    moment = calendar.at(time_ms)
    day = 6 if moment.is_holiday else moment.weekday
    return day * 24 + moment.minute_of_day // 60, (moment.minute_of_day % 60) / 60 + (time_ms % 60_000) / 3_600_000
