"""Times as people and files write them: RFC 3339, or a number whose size says whether it counts s, ms, µs or ns.

A number is taken for what makes it a plausible time: seconds up to the year 2103 (0 included: files may count from their
begin), milliseconds, microseconds and nanoseconds between 1990 and 2103. `20261025` is a date that nobody means as
seconds of August 1970. What is neither is refused with what it would be and what would be right.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

SECONDS_MAX = 4.2e9
"""2103, later than which no telemetry is."""
EARLIEST_S = 6.3e8
"""1990, earlier than which no milliseconds are."""
UNITS = ((1.0, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns"))
RIGHT = "write RFC 3339, such as 2026-11-20T08:00:00Z, or Unix seconds"

_NUMBER = re.compile(r"^[+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d{1,3})?|^[+-]?(?:inf|infinity|nan)", re.IGNORECASE)
_DATE = re.compile(r"(19[7-9]\d|20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")


def instant(text: str) -> int:
    """A time with its zone, or a number, as Unix ms. Raises ValueError naming the text and what would be right."""
    return round(1_000 * seconds(text))


def seconds(text: str, *, needs_zone: bool = True) -> float:
    """The same in Unix seconds. Unless `needs_zone`, what names no zone is UTC."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        if is_date(text):
            if needs_zone:
                raise ValueError(f"{text!r} is a date without a zone, or Unix seconds of 1970; {RIGHT}")
            return datetime(int(text[:4]), int(text[4:6]), int(text[6:]), tzinfo=UTC).timestamp()
        return scaled(float(text), text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is no instant; {RIGHT}") from None
    if moment.tzinfo is None:
        if needs_zone:
            raise ValueError(f"{text!r} names no time zone; {RIGHT}")
        moment = moment.replace(tzinfo=UTC)
    try:
        found = moment.timestamp()
    except (OverflowError, ValueError):
        raise ValueError(f"{text!r} is out of the range of times; {RIGHT}") from None
    if not 0 <= found < SECONDS_MAX:
        raise ValueError(f"{text!r} is not between 1970 and 2103; {RIGHT}")
    return found


def is_date(text: str) -> bool:
    """Whether eight digits are a date such as 20261025."""
    if not _DATE.fullmatch(text):
        return False
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


def scaled(number: float, text: str) -> float:
    """Unix seconds from a number of s, ms, µs or ns, by its size. Raises ValueError."""
    unit = unit_of(number)
    if unit is None:
        raise ValueError(f"{text[:80]!r} is {_what(number)}; {RIGHT}")
    return number / unit


def unit_of(number: float) -> float | None:
    """How many of the number's units make a second; None when it is no plausible time."""
    if 0 <= number < SECONDS_MAX:
        return 1.0
    return next((unit for unit, _ in UNITS[1:] if EARLIEST_S * unit <= number < SECONDS_MAX * unit), None)


def _what(number: float) -> str:
    if number != number:
        return "no time"
    if number < 0:
        return "before 1970"
    return "no time between 1970 and 2103 in s, nor between 1990 and 2103 in ms, µs or ns"
