"""Work that is done on several processes, with the same outcome whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Work = TypeVar("Work")
Done = TypeVar("Done")


def side_by_side(function: Callable[[Work], Done], work: Iterable[Work], processes: int) -> Iterable[Done]:
    """What the function gives of each, in their order."""
    if processes == 1:
        yield from map(function, work)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(function, work)
