"""What a week usually looks like, by hour and series: shared by the steps that ask "is this usual now?".

A profile holds one mean an hour of the week (168) and series, learned from hourly means with an exponential weight, and
read by linear interpolation between the middles of the hours. An hour of the week that is young is drawn towards the
same hour of the other days of its kind (working days are alike, and days of rest are), and one that was never seen on any of
them is answered by the series' long-run mean. Source: the seasonal-naive and Holt-Winters family (Hyndman & Athanasopoulos,
Forecasting: Principles and Practice, 3rd ed., 8.3), with the season kept as a table so that holes and holidays do no harm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from processors.columns import Arrays, wider
from schemas.calendar import Calendar

HOURS = 168
SHIFTED_DAYS = 35  # until the season has learned a change of clocks
WEEKS_YOUNG = 3  # an hour of the week seen less often than this leans on the same hour of other days
WEIGHT_MIN = 0.15  # weight of a new week once the profile knows several: about six weeks of memory

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Hour = int | NDArray[np.int16]
"""An hour of the week: one for all series, or each its own."""


class Profile:
    """Hourly means of a week for `width` series."""

    def __init__(self, width: int = 0, arrays: Arrays | None = None) -> None:
        self.mean = arrays["mean"] if arrays else np.zeros((HOURS, width), np.float32)
        self.weeks = arrays["weeks"] if arrays else np.zeros((HOURS, width), np.uint8)
        self.sum = arrays["sum"] if arrays else np.zeros(width)
        self.count = arrays["count"] if arrays else np.zeros(width, np.uint32)
        self.long_run = arrays["long_run"] if arrays else np.zeros(width)
        self.kinds: NDArray[np.int8] | None = None  # (7, width): days of the same number are alike; None: all are
        self._read: dict[bytes, tuple[Floats, NDArray[np.intp]]] = {}  # by hour, until an hour is folded in

    def season(self) -> Arrays:
        """The arrays that change once an hour."""
        return {"mean": self.mean, "weeks": self.weeks}

    def present(self) -> Arrays:
        """The arrays that change with every scrape."""
        return {"sum": self.sum, "count": self.count, "long_run": self.long_run}

    def grow(self, width: int) -> None:
        """Make room for `width` series."""
        more = width - self.sum.size
        self._read.clear()
        self.mean = wider(self.mean, more)
        self.weeks = wider(self.weeks, more)
        self.sum, self.count = wider(self.sum, more), wider(self.count, more)
        self.long_run = wider(self.long_run, more)

    def keep(self, stays: Flags) -> None:
        """Let go of the other series."""
        self._read.clear()
        self.mean, self.weeks, self.kinds = self.mean[:, stays], self.weeks[:, stays], None
        self.sum, self.count, self.long_run = self.sum[stays], self.count[stays], self.long_run[stays]

    def expected(self, hour: Hour, into: Floats | float) -> tuple[Floats, Flags]:
        """Usual value by series `into` (0 to 1) the hour of the week, and where the profile knows it."""
        mean, days = self.usual(hour)
        far, also = self.usual(beside(hour, into))
        near = np.where(days > 0, mean, self.long_run)
        slope = np.where(also > 0, far - near, 0.0)
        return near + slope * np.abs(np.subtract(into, 0.5)), days > 0

    def days(self, hour: Hour) -> NDArray[np.intp]:
        """On how many days of its kind the hour was seen, by series."""
        return self.usual(hour)[1]

    def lived(self, hour: Hour) -> Flags:
        """Series that were seen at this time of day on a day of the hour's kind or on a working day."""
        of_its_kind: Flags = self.days(hour) > 0
        if self.kinds is None:
            return of_its_kind
        seen = self.weeks.reshape(7, 24, self.sum.size)[:, np.mod(hour, 24), np.arange(self.sum.size)] > 0
        on_working_days: Flags = np.any(seen & (self.kinds > 0), axis=0)
        return of_its_kind | on_working_days

    def usual(self, hour: Hour) -> tuple[Floats, NDArray[np.intp]]:
        """Mean of an hour of the week by series, and on how many days of its kind it was seen. Hours may be rows of several."""
        key = np.asarray(hour, np.int16).tobytes()
        if key not in self._read:
            series = np.arange(self.sum.size)
            day, of_day = np.divmod(hour, 24)
            seen = self.weeks.reshape(7, 24, series.size)[:, of_day, series].astype(np.intp)
            if self.kinds is not None:
                alike = self.kinds if np.ndim(hour) < 2 else self.kinds[:, None]
                seen *= alike == self.kinds[day, series]
            days = seen > 0
            means = self.mean.reshape(7, 24, series.size)[:, of_day, series] * days
            other_days = np.sum(means, axis=0, dtype=np.float64) / np.maximum(days.sum(axis=0), 1)
            weeks, mean = self.weeks[hour, series].astype(np.float64), self.mean[hour, series]
            young = (weeks * mean + other_days) / (weeks + 1.0)
            self._read[key] = np.where(weeks >= WEEKS_YOUNG, mean, young), seen.sum(axis=0)
        return self._read[key]

    def add(self, values: Floats, measured: Flags | bool) -> None:
        """Take in one scrape of the present hour, in which some series were `measured`, or all (True)."""
        self.sum += values if measured is True else np.where(measured, values, 0.0)
        self.count += measured

    def close(self, hour: Hour, over: Flags | bool = True) -> None:
        """The hour is over, for some series or all: fold its mean into the week."""
        series = np.arange(self.sum.size)
        seen = (self.count > 0) & over
        mean = np.divide(self.sum, self.count, out=np.zeros_like(self.sum), where=seen)
        weeks, before = self.weeks[hour, series], self.mean[hour, series]
        weight = np.maximum(1.0 / (weeks + 1.0), WEIGHT_MIN)
        self.mean[hour, series] = np.where(seen, before + weight * (mean - before), before)
        self.weeks[hour, series] = np.minimum(weeks.astype(np.intp) + seen, 250)
        started = self.long_run != 0
        self.long_run += np.where(seen, np.where(started, 0.02, 1.0) * (mean - self.long_run), 0.0)
        np.copyto(self.sum, 0.0, where=over)
        np.copyto(self.count, 0, where=over)
        self._read.clear()


def beside(hour: Hour, into: Floats | float) -> Hour:
    """The hour whose middle is the other one next to an instant."""
    return np.asarray((hour + np.where(np.greater_equal(into, 0.5), 1, -1)) % HOURS, np.int16)


def is_shifted(calendar: Calendar, time_ms: int) -> bool:
    """Whether the clocks were changed so lately that the season has not learned yet who moved with them and who did not."""
    return calendar.clocks_changed(time_ms, SHIFTED_DAYS)


def hour_of_week(calendar: Calendar, time_ms: int) -> tuple[int, float]:
    """Local hour of the week (Monday 00:00 is 0) and how far into it. A holiday counts as a Sunday."""
    moment = calendar.at(time_ms)
    day = 6 if moment.is_holiday else moment.weekday
    return day * 24 + moment.minute_of_day // 60, (moment.minute_of_day % 60) / 60 + (time_ms % 60_000) / 3_600_000
