"""What tenants take or how they fare, by row and tenant, followed look by look: the present, the usual and its spread.

And what has become of the others' usual, by which each tenant is judged. See `contention`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from processors import columns
from processors.which import Floats, Which, only

RATED_S = 3_600  # longer between two looks at a counter tells no rate
LEAST = np.finfo(float).min
LEAST_REST = np.array([[[0.0]], [[1e-9]]])  # of what the others take, and of their usual


class Following(NamedTuple):
    """How the usual is followed."""

    time_ms: float  # in which it follows a lasting change
    looks: int  # before a tenant is judged


def rates(change: Floats, elapsed_s: Floats | float) -> Floats:
    """By second; NaN where a counter fell, or was not looked at for an hour."""
    found = np.full_like(change, np.nan)
    if not isinstance(elapsed_s, float):
        return np.divide(change, elapsed_s, out=found, where=(change >= 0) & (elapsed_s > 0) & (elapsed_s <= RATED_S))
    if 0 < elapsed_s <= RATED_S:
        np.divide(change, elapsed_s, out=found)
        found[change < 0] = np.nan
    return found


def smooth(now: Floats, values: Floats, measured: Which) -> None:
    """Halfway from what was to what is; what is where nothing was."""
    middle = 0.5 * (now + values)
    new = np.isnan(middle)
    if np.count_nonzero(new):
        np.copyto(middle, values, where=new)
    np.copyto(now, middle, where=measured)


def learn(
    follow: Following,
    grid: columns.Arrays,
    measured: Which,
    values: Floats,
    base: Floats,
    tenths: Floats,
    elapsed_ms: Floats | float,
    share: Floats | None = None,
) -> None:
    """Follow the usual and its spread from `base`. What departs from it by far teaches as much as three spreads.

    `tenths` are those of the floors; `share` is how much of that is learned, None for all.
    """
    seen, usual, spread = grid["seen"], grid["usual"], grid["spread"]
    elapsed_ms = np.clip(elapsed_ms, 0, 10 * follow.time_ms)  # what lies before the last look teaches nothing
    weight = np.maximum(1 / (seen + 1.0), 1 - np.exp(elapsed_ms / -follow.time_ms))
    if measured is not True:
        weight *= measured
    if share is not None:
        weight *= share
    error = only(measured, values - base)
    reach = 3 * spread + tenths
    taught = np.minimum(np.maximum(error, -reach), reach)
    young, has_spread = seen < follow.looks, weight
    if np.count_nonzero(young):
        np.copyto(taught, error, where=young)
        has_spread = (seen > 0) * weight
    usual += weight * (base - usual + taught)
    # 1.25 mean absolute deviations are a standard deviation of normal noise; the first value says nothing of it.
    spread += has_spread * (1.25 * np.abs(taught) - spread)
    seen += measured


def of_the_others(now: Floats, usual: Floats, known: Which, tenths: Floats) -> Floats:
    """By demand and tenant what has become of the others' usual, as a factor.

    Of four or more, the one of them that rose most is left out: two may be loud at once.
    """
    rise = now - usual
    if known is not True and np.count_nonzero(known) < known.size:
        rise = np.where(known, rise, LEAST)
        now, usual = np.where(known, now, 0.0), np.where(known, usual, 0.0)
    both = np.array((now, usual))
    rest = np.add.reduce(both, 2, keepdims=True) - both
    rows, width = now.shape
    if width >= 4:
        starts, of_both = _places(rows, width)
        first = starts + rise.argmax(axis=1)
        rise.put(first, -np.inf)
        second = starts + rise.argmax(axis=1)
        first, second = first + of_both, second + of_both
        of_first = rest.take(first) - both.take(second)
        rest -= both.take(first)[:, :, None]
        rest.put(first, of_first)
    rest += tenths
    rest_now, rest_usual = np.maximum(rest, LEAST_REST)
    together: Floats = rest_now / rest_usual
    return together


def rise_of_all_others(now: Floats, usual: Floats, known: Which, floors: Floats) -> Floats:
    """The same of time, hardly damped and with none left out: slow storage makes the time of all grow alike.

    So the one that takes most of it is no neighbour for being the largest, however little the others take.
    """
    now, usual = only(known, now), only(known, usual)
    rest_now, rest_usual = now.sum(axis=1, keepdims=True) - now, usual.sum(axis=1, keepdims=True) - usual
    rise: Floats = (rest_now + 0.01 * floors) / (rest_usual + 0.01 * floors)
    return rise


@lru_cache(maxsize=256)
def _places(rows: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where rows begin in a grid, and grids in two of them."""
    return np.arange(0, rows * width, width), np.array([[0], [rows * width]])
