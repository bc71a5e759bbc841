"""How fast work leaves, now and usually, in events per business time; and who will therefore miss a cut-off.

The present pace is a rate over the time in which usually ten leave (a minute to an hour), the usual pace one over weeks.
Both run on a business clock, which stands still while the calendar is closed. Work leaves in the order of its cut-off, then
of its age: what stands further back than the pace will reach until its cut-off, or needs longer by itself, is late.
Source: Little's law as the finite-queue forecast (Hopp & Spearman, Factory Physics, 3rd ed., ch. 7 and 15).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")

USUAL_MS = 40 * 3_600_000.0
PRESENT_MIN_MS, PRESENT_MAX_MS, PRESENT_EVENTS = 60_000.0, 3_600_000.0, 10


@dataclass
class Pace:
    """Exponentially forgotten counts on a business clock (ms). `*_seen_ms` is the time that each remembers."""

    at_ms: int = -1
    usual: float = 0.0
    usual_seen_ms: float = 0.0
    present: float = 0.0
    present_seen_ms: float = 0.0

    def move(self, clock_ms: int, left: int = 0) -> None:
        """The business clock has come so far, and so many have left."""
        elapsed = max(clock_ms - self.at_ms, 0) if self.at_ms >= 0 else 0
        self.at_ms = max(clock_ms, self.at_ms)
        self.present, self.present_seen_ms = _forget(self.present, self.present_seen_ms, elapsed, self.horizon_ms)
        self.usual, self.usual_seen_ms = _forget(self.usual, self.usual_seen_ms, elapsed, USUAL_MS)
        self.present, self.usual = self.present + left, self.usual + left

    @property
    def horizon_ms(self) -> float:
        """Over how long the present pace is taken."""
        usual = self.usual_per_ms
        return min(max(PRESENT_EVENTS / usual, PRESENT_MIN_MS), PRESENT_MAX_MS) if usual else PRESENT_MAX_MS

    @property
    def usual_per_ms(self) -> float:
        """Events a ms of business time over the last weeks."""
        return self.usual / max(self.usual_seen_ms, PRESENT_MIN_MS)

    @property
    def present_per_ms(self) -> float:
        """Events a ms of business time just now."""
        return self.present / max(self.present_seen_ms, PRESENT_MIN_MS)


def _forget(count: float, seen_ms: float, elapsed_ms: float, horizon_ms: float) -> tuple[float, float]:
    """A count and the time it remembers, after some more time."""
    keep = math.exp(-elapsed_ms / horizon_ms)
    return count * keep, seen_ms * keep + horizon_ms * (1 - keep)


class Due(NamedTuple):
    """Work that is to leave by a cut-off. All times on the business clock, ms."""

    cut_off_ms: int
    since_ms: int
    needs_ms: float


def late(waiting: Iterable[tuple[Due, T]], pace_per_ms: float, clock_ms: int) -> Sequence[tuple[Due, T]]:
    """Those that will not have left by their cut-off at this pace."""
    line = sorted(waiting, key=lambda one: (one[0].cut_off_ms, one[0].since_ms))
    return [
        (due, work)
        for place, (due, work) in enumerate(line, 1)
        if place > pace_per_ms * (due.cut_off_ms - clock_ms) or due.needs_ms > due.cut_off_ms - clock_ms
    ]
