"""Reading what others' programs send: every field may be missing, of another type or in another spelling.

What cannot be understood says nothing (None), for a field that is not needed must not cost the delivery. Whoever needs one
refuses by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

Value = TypeVar("Value")

NAME_CHARACTERS, TEXT_CHARACTERS, URL_CHARACTERS = 255, 1000, 2000
SECONDS, MILLISECONDS = 10**9, 10**12  # from 2001 on a Unix time has ten digits, or thirteen
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_BLANKS = re.compile(r"\s+")


def text(value: object, most: int = TEXT_CHARACTERS) -> str | None:
    """A text or a number as one line of text; None for anything else and for nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = int(value) if value.is_integer() and abs(value) < 2**53 else value
    return _CONTROLS.sub(" ", str(value)[: 4 * most]).strip()[:most] or None


def name(value: object) -> str | None:
    """As `text`, without blanks, as records want names."""
    said = text(value, NAME_CHARACTERS)
    return _BLANKS.sub("-", said) if said else None


def names(value: object) -> list[str]:
    """A list of names, or one, or several in one text with commas between them."""
    if isinstance(value, str):
        value = value.split(",")[:1000]
    if not isinstance(value, list):
        value = [value]
    return [one for one in map(name, value[:1000]) if one]


def one_of(value: object, known: Mapping[str, Value]) -> Value | None:
    """What is known under the value, in any case and with any blanks around it; None when nothing is."""
    said = text(value, NAME_CHARACTERS)
    if said is None:
        return None
    return known.get(said) or {key.casefold(): one for key, one in known.items()}.get(said.casefold())


def url(value: object) -> str | None:
    """An address that a browser may open; None for anything else, such as javascript:."""
    said = text(value, URL_CHARACTERS)
    return said if said and said.lower().startswith(("https://", "http://")) and " " not in said else None


def time_ms(value: object) -> int | None:
    """RFC 3339 or Unix time in s or ms as Unix ms; None for anything else."""
    said = text(value, 64)
    if said is None:
        return None
    try:
        if re.fullmatch(r"\d{10,13}(\.\d{1,9})?", said):
            number = float(said)
            return int(number * 1000 if number < MILLISECONDS else number)
        moment = datetime.fromisoformat(said)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def first(values: Iterable[Value | None]) -> Value | None:
    """The first that says something."""
    return next((one for one in values if one is not None), None)


def fields(value: Any) -> Mapping[str, Any]:
    """The value when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
