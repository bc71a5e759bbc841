"""When a receiver that is away is asked again: when it wants to be, else later and later, and not all at once.

What a receiver wants is bounded both ways: it can neither have itself asked at once for ever, nor silence us for days.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

RETRY_AFTER_S_MIN = 1.0
"""A receiver that wants to be asked sooner, or has wanted so in the past, is asked after so long."""
RETRY_AFTER_S_MAX = 3600.0
"""A receiver that wants more is asked all the same."""
HEADER_LETTERS_MAX = 64
"""A longer Retry-After says nothing that could be a number of seconds or a date."""


class Backoff:
    """One receiver's pauses. `clock` counts seconds from anywhere, `draw` gives a number in [0, 1)."""

    def __init__(
        self,
        first_s: float = 1.0,
        most_s: float = 30.0,
        clock: Callable[[], float] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._first_s, self._most_s, self._draw = first_s, most_s, draw
        self.clock = clock or (lambda: asyncio.get_running_loop().time())
        self.failures = 0
        """Failures since the last success."""
        self.failing_since: float | None = None
        self._not_before = 0.0

    def remaining_s(self) -> float:
        """How long it must not be asked yet."""
        return max(0.0, self._not_before - self.clock())

    def failed(self, wanted_s: float | None = None) -> float:
        """Note a failure; the pause that follows, which is what the receiver wants if it says so."""
        pause_s = min(self._most_s, self._first_s * 2.0 ** min(self.failures, 30)) * (0.5 + self._draw() / 2)
        if wanted_s is not None and not math.isnan(wanted_s):
            pause_s = min(max(wanted_s, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX)
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = self.clock()
        self._not_before = self.clock() + pause_s
        return pause_s

    def succeeded(self) -> None:
        """Note that it answers again."""
        self.failures, self.failing_since, self._not_before = 0, None, 0.0

    def failing_s(self) -> float:
        """For how long it has been failing."""
        return 0.0 if self.failing_since is None else self.clock() - self.failing_since


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After, which is a number or a date; a date counts from the answer's own Date. None: nothing that can be read.

    Not bounded yet: `Backoff.failed` is where it is.
    """
    value = headers.get("Retry-After", "").strip()
    if len(value) > HEADER_LETTERS_MAX:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(headers["Date"][:64])).total_seconds())
    except (KeyError, ValueError, TypeError, OverflowError, IndexError):
        return None
