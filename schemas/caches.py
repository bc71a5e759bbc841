"""What was worked out for a text that others have sent, kept within a stated number of bytes.

A cache that is bounded by its entries holds what anybody likes to send: two thousand layouts of four megabytes are eight
gigabytes. Here an entry weighs what it holds. There are two generations: what is asked for lives on in the young one, and when
that is half of the bound, the old one goes. So nothing is done on a hit but a look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from sys import getsizeof
from typing import Any, Final, Generic, TypeVar

from schemas.bounds import reached

V = TypeVar("V")
Weigh = Callable[[str, Any], int]

ENTRY_BYTES = 200
READINGS_BYTES = 32 * 2**20  # of what one reader has read off layouts
NAMES_BYTES = 4 * 2**20  # of what one reader has made of names
_NOTHING: Final[Any] = object()


def like_its_key(text: str, _: Any) -> int:
    """Weight of an entry whose value is small beside its text, which may be that of other caches as well."""
    return getsizeof(text) + ENTRY_BYTES


class Cache(Generic[V]):
    """A pure function of one text, with its answers. `bound` names the row of `schemas.bounds` that is counted."""

    __wrapped__: Callable[[str], V]

    def __init__(self, function: Callable[[str], V], bound: str, bytes_max: int, weigh: Weigh = like_its_key) -> None:
        self._function, self.bound, self.bytes_max, self._weigh = function, bound, bytes_max, weigh
        self._young: dict[str, V] = {}
        self._old: dict[str, V] = {}
        self._young_bytes = 0
        update_wrapper(self, function)

    def __call__(self, text: str) -> V:
        """The answer for a text; what the function raises is not kept."""
        known: V = self._young.get(text, _NOTHING)
        return self._other(text) if known is _NOTHING else known

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def clear(self) -> None:
        """Forget everything."""
        self._young, self._old, self._young_bytes = {}, {}, 0

    def _other(self, text: str) -> V:
        value: V = self._old.get(text, _NOTHING)
        if value is _NOTHING:
            value = self._function(text)
        weight = self._weigh(text, value)
        if weight > self.bytes_max // 2:
            reached(self.bound)
            return value
        if self._young_bytes + weight > self.bytes_max // 2:
            if self._old:
                reached(self.bound)
            self._young, self._old, self._young_bytes = {}, self._young, 0
        self._young[text] = value
        self._young_bytes += weight
        return value


def cached(bound: str, bytes_max: int, weigh: Weigh = like_its_key) -> Callable[[Callable[[str], V]], Cache[V]]:
    """Decorator: keep what a pure function of one text answers, within so many bytes."""

    def made(function: Callable[[str], V]) -> Cache[V]:
        return Cache(function, bound, bytes_max, weigh)

    return made


class Layouts(dict[Any, V]):
    """What one holder of state knows of the layouts it has seen, by their text (or a tuple with it), within a number of characters.

    When it is full it begins anew: a holder has few layouts as a rule, and what is forgotten is only worked out again.
    """

    CHARACTERS_MAX = 1_000_000

    def __init__(self, bound: str, characters_max: int = CHARACTERS_MAX) -> None:
        super().__init__()
        self._bound, self._characters_max, self._characters = bound, characters_max, 0

    def keep(self, key: Any, text: str, value: V) -> V:
        """Remember the value for a key, of which `text` is the large part."""
        if self and self._characters + len(text) > self._characters_max:
            reached(self._bound)
            self.clear()
        if key not in self:
            self._characters += len(text) + ENTRY_BYTES
        self[key] = value
        return value

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._characters = 0
