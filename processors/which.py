"""Flags by series, tenant or stream that mostly are all true: `True` stands for all of them, and costs nothing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Which = Flags | Literal[True]


def which(flags: Flags) -> Which:
    """The same, told shortly."""
    return True if np.count_nonzero(flags) == flags.size else flags


def both(one: Which, other: Which) -> Which:
    """Where both hold."""
    if one is True or other is True:
        return other if one is True else one
    return one & other


def present(values: Floats) -> Which:
    """Where something was measured."""
    missing = np.isnan(values)
    return ~missing if np.count_nonzero(missing) else True


def only(there: Which, values: Floats | float) -> Any:
    """The values there, 0 elsewhere; may be `values` themselves."""
    return values if there is True else np.where(there, values, 0.0)
