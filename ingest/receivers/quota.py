"""How much a sender may write in a time: an account that fills evenly and holds a minute's worth.

A request is taken while there is a record's and a byte's worth, and charged with what it turned out to be, so one large request
passes and is waited for afterwards. Pure: the time comes in. Source: the token bucket of RFC 2697, in its form with debt.
"""

from __future__ import annotations

import math

MINUTE_S = 60.0


class Quota:
    """Accounts of records and of bytes, each filling with so many a minute."""

    __slots__ = ("_at_s", "_left", "_rates")

    def __init__(self, records_per_minute: int, bytes_per_minute: int, now_s: float) -> None:
        self._rates = (records_per_minute / MINUTE_S, bytes_per_minute / MINUTE_S)
        self._left = [float(records_per_minute), float(bytes_per_minute)]
        self._at_s = now_s

    def wait_s(self, now_s: float) -> int:
        """Whole seconds until the next request is taken; 0 now."""
        self._fill(now_s)
        pairs = zip(self._left, self._rates, strict=True)
        return max(math.ceil((1 - left) / rate) if left < 1 else 0 for left, rate in pairs)

    def charge(self, now_s: float, *, records: int = 0, size: int = 0) -> None:
        """Take from the accounts what a request was."""
        self._fill(now_s)
        self._left[0] -= records
        self._left[1] -= size

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        self._left = [
            min(rate * MINUTE_S, left + rate * passed_s) for left, rate in zip(self._left, self._rates, strict=True)
        ]
