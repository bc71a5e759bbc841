"""How many series a resource and a cell may add to the store: a burst, and so many an hour after that.

What a series is stays in the store for as long as any of its points, so one key could fill it within seconds. A total would
be used up by pods that come and go; a rate lets those go on for ever. Source: the token bucket (RFC 2697).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

HOUR_S = 3_600.0
OWNERS_MAX = 10_000  # resources and cells that are remembered; the one longest unused begins anew with a burst


@dataclass(frozen=True)
class Rate:
    """A burst, and how much of it comes back in an hour."""

    burst: int
    an_hour: int


OF_RESOURCE, OF_CELL = Rate(20_000, 2_000), Rate(200_000, 20_000)


@dataclass
class _Bucket:
    left: float
    at_s: float


class Allowance:
    """New series of resources and cells."""

    def __init__(self, clock: Callable[[], float], of_resource: Rate = OF_RESOURCE, of_cell: Rate = OF_CELL) -> None:
        self._clock, self._of_resource, self._of_cell = clock, of_resource, of_cell
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def take(self, cell: str, resource: Hashable, wanted: int) -> int:
        """How many of so many new series may be added."""
        if not wanted:
            return 0
        buckets = self._bucket(cell, self._of_cell), self._bucket((cell, resource), self._of_resource)
        given = min(wanted, *(int(one.left) for one in buckets))
        for one in buckets:
            one.left -= given
        return given

    def _bucket(self, owner: Hashable, rate: Rate) -> _Bucket:
        now_s = self._clock()
        known = self._buckets.get(owner)
        if known is None:
            known = self._buckets[owner] = _Bucket(rate.burst, now_s)
            if len(self._buckets) > OWNERS_MAX:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(owner)
        known.left = min(known.left + (now_s - known.at_s) * rate.an_hour / HOUR_S, float(rate.burst))
        known.at_s = now_s
        return known
