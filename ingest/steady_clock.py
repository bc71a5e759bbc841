"""Wall time that does not jump: what the wall clock says is checked against a clock that only ever goes on.

A clock that leaps takes everything with it that is stamped by it: readers would believe that a week has passed. So a step of the wall
clock is not followed before it has lasted; until then time goes on at its pace. Small steps are followed at once, as NTP slews.
The steady clock counts suspend (CLOCK_BOOTTIME) where the system has one, so a machine that slept has not jumped.
Source: CLOCK_MONOTONIC and CLOCK_BOOTTIME in clock_gettime(2); steps and slews as ntpd knows them (RFC 5905, ch. 11.3).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

STEP_MS = 2_000  # less is how clocks are kept right
SETTLE_MS = 600_000  # a step that has lasted for so long is where the clock belongs
BEHIND_MS = 300_000  # a wall clock that begins so far behind what was stamped last is not believed at once

Read = Callable[[], int]  # ms


def wall_ms() -> int:
    """Unix time in ms, UTC."""
    return time.time_ns() // 1_000_000


def steady_ms() -> int:
    """Time since some moment in ms; it never goes back, and goes on while the machine sleeps where the system can tell."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if boot is None else time.clock_gettime_ns(boot)) // 1_000_000


class SteadyClock:
    """Unix time in ms. `steps` counts how often the wall clock was seen to jump."""

    def __init__(self, wall: Read = wall_ms, steady: Read = steady_ms) -> None:
        self._wall, self._steady = wall, steady
        self._off_ms = wall() - steady()
        self._seen_ms: int | None = None
        self._since_ms = 0
        self.steps = 0

    def __call__(self) -> int:
        """The time now."""
        steady_ms = self._steady()
        self._follow(self._wall() - steady_ms, steady_ms)
        return steady_ms + self._off_ms

    def resume(self, last_ms: int) -> None:
        """What was stamped last before this process: a wall clock that is far behind it has to last as well."""
        steady_ms = self._steady()
        if last_ms - BEHIND_MS > steady_ms + self._off_ms:
            self._off_ms = last_ms - steady_ms

    def _follow(self, off_ms: int, steady_ms: int) -> None:
        if abs(off_ms - self._off_ms) <= STEP_MS:
            self._off_ms, self._seen_ms = off_ms, None
        elif self._seen_ms is None or abs(off_ms - self._seen_ms) > STEP_MS:
            self._seen_ms, self._since_ms = off_ms, steady_ms
            self.steps += 1
            step_s = (off_ms - self._off_ms) / 1000
            log.error("the clock jumped; time goes on at its pace until that has lasted", extra={"step_s": step_s})
        elif steady_ms - self._since_ms >= SETTLE_MS:
            log.error("the clock is followed now", extra={"step_s": (off_ms - self._off_ms) / 1000})
            self._off_ms, self._seen_ms = off_ms, None
