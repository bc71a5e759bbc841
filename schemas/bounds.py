"""Every bound of the product, and how often each was reached since the process began.

What grows with what others send has a bound; a row says what is bounded, where the number stands, and what happens beyond
it. `reached` counts, `counts` reads: nothing that is decided depends on these numbers, they are there to be told
(`pilothouse.bound.reached`, by name), so they are no part of any state and begin anew with the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

METRIC, NAME = "pilothouse.bound.reached", "pilothouse.bound.name"


class Bound(NamedTuple):
    """One row. `where` is the constant or field that holds the number, as MODULE.NAME; `beyond` is what happens there."""

    name: str
    where: str
    holds: str
    beyond: str


_ANEW = "The oldest half is forgotten and read anew when it comes again."

BOUNDS: tuple[Bound, ...] = (
    Bound("cache.series", "schemas.series.SERIES_BYTES", "Series identities that are kept parsed, in bytes.", _ANEW),
    Bound(
        "cache.readings",
        "schemas.caches.READINGS_BYTES",
        "What one step reads off the layouts seen lately, in bytes.",
        _ANEW,
    ),
    Bound(
        "holder.layouts",
        "schemas.caches.Layouts.CHARACTERS_MAX",
        "Characters of the layouts that one unit of state knows.",
        "They are forgotten, and read anew.",
    ),
    Bound("cache.names", "schemas.caches.NAMES_BYTES", "What one step makes of names seen lately, in bytes.", _ANEW),
    Bound("cache.layouts", "schemas.series.LAYOUTS_BYTES", "Layouts that are known to be whole, in bytes.", _ANEW),
)
BY_NAME: Mapping[str, Bound] = {bound.name: bound for bound in BOUNDS}

_reached: Counter[str] = Counter(dict.fromkeys(BY_NAME, 0))


def reached(name: str, times: int = 1) -> None:
    """A bound was reached so many times. Raises KeyError for a bound that has no row."""
    if name not in BY_NAME:
        raise KeyError(
            f"bound {name!r} has no row in schemas/bounds.py; add one that says where it stands and what happens"
        )
    _reached[name] += times


def counts() -> dict[str, int]:
    """How often each bound was reached since the process began. May be asked from another thread."""
    return {name: count for name, count in dict(_reached).items() if count}
