"""When a line of a log was written: local time without a zone, other people's JSON times, and the hour that comes twice.

In autumn an hour of local time comes twice, and the text does not say which. A log is written in order, so a time that
would fall back behind the line before, or behind when all of the log had been read, is of the second hour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

MAX_MS = 10_000_000_000_000  # as in records; the year 2286
SLACK_MS = 60_000  # so far lines of several processes may stand out of order
REPEATED_MS = 2 * 3_600_000  # no hour is repeated from further back

_NUMBER = re.compile(r"^[0-9]{9,19}(?:[.,][0-9]{1,9})?$")
# Unix time in s, ms, µs or ns, by how large the number is: the first date of each is in 1973, its last beyond 5000.
_UNITS = ((1e11, 1e-3), (1e14, 1.0), (1e17, 1e3), (1e20, 1e6))


class Impossible(ValueError):  # noqa: N818 (it says what the time is)
    """A time at which no line can have been written."""


@dataclass(slots=True)
class Hours:
    """Reads times in `zone` where they name none themselves. Times are Unix ms UTC.

    `last_ms` is the line before, 0 before the first; `read_ms` is when the log had been read to its end, so whatever
    is read now was written later.
    """

    zone: tzinfo
    last_ms: int = 0
    read_ms: int = 0

    def copy(self) -> Hours:
        """Another one that knows the same."""
        return Hours(self.zone, self.last_ms, self.read_ms)

    def of(self, value: Any) -> int:
        """The time of a text or of a Unix time in s, ms, µs or ns. Raises Impossible with what would be right."""
        if isinstance(value, str):
            return self.of_text(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _checked(_of_number(float(value)), value)
        raise Impossible(f"time: must be a text or a number, got a {type(value).__name__}")

    def of_text(self, text: str) -> int:
        """The time of `2026-11-21 03:00:00,125`, of any other ISO 8601, or of a number. Raises Impossible."""
        if _NUMBER.match(text[:40]):
            return _checked(_of_number(float(text.replace(",", "."))), text)
        try:
            time = datetime.fromisoformat(text[:64].strip().replace(",", "."))
            return _checked(_ms(time) if time.tzinfo else self._local(time), text)
        except (ValueError, OverflowError) as error:
            if isinstance(error, Impossible):
                raise
            raise Impossible(f"time: {text[:40]!r} is none; it must be as 2026-11-21 03:00:00,125") from error

    def _local(self, time: datetime) -> int:
        first, second = (_ms(time.replace(tzinfo=self.zone, fold=fold)) for fold in (0, 1))
        behind_ms = max(self.last_ms, self.read_ms) - first
        return second if second > first and SLACK_MS < behind_ms < REPEATED_MS else first


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _of_number(value: float) -> float:
    scale = next((scale for most, scale in _UNITS if abs(value) < most), 0.0)
    return -1.0 if not scale else value / scale if scale >= 1 else value * 1000


def _checked(time_ms: float, said: object) -> int:
    if not 0 <= time_ms < MAX_MS:
        raise Impossible(f"time: {str(said)[:40]!r} must lie between the years 1970 and 2286")
    return int(time_ms)
