"""The values of a scrape as one array, made once for all steps that read it in turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.records import Scrape

Floats = NDArray[np.float64]

_latest: tuple[Scrape | None, Floats] = (None, np.zeros(0))


def values_of(scrape: Scrape) -> Floats:
    """What was measured, NaN where nothing was; not to be written to."""
    global _latest
    known, values = _latest
    if known is not scrape:
        try:
            values = np.fromiter(scrape.values, np.float64, len(scrape.values))
        except TypeError:  # something was not measured
            values = np.array(scrape.values, dtype=np.float64)
        values.flags.writeable = False
        _latest = scrape, values
    return values
