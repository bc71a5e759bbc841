"""When is evidence enough, over thousands of series and for weeks? A stated rate of false alarms.

A departure of more than `EDGE` scales is an excess. Every series learns from its own past how often excesses begin, how
often one follows another, and how far they go (a power law: Hill 1975), so series that are heavy-tailed, bursty or
autocorrelated when healthy have large probabilities of doing so again. The probability p of an excess becomes an e-value
`K p^(K-1)` (Vovk & Wang 2021, E-values: calibration, combination and applications); the running product of a series'
e-values that begins anew at 1 is an e-detector (Shin, Ramdas & Rinaldo 2024): crossing A takes A scrapes of health on
average. Of many series at once the k strongest are believed when each exceeds series x A / k (e-BH: Wang & Ramdas 2022,
False discovery rate control with e-values), which holds however the series depend on each other.

A stretch of excesses teaches once, its height limited: an incident does not become normal, a habit does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from processors.columns import Arrays

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

EDGE = 3.0  # scales
K = 0.1
LOG_K = np.float32(np.log10(K))
BEGIN_PRIOR = (1.0, 500.0)  # excesses that began, in so many scrapes: what a series is taken for before it is known
FOLLOW_PRIOR = (1.0, 3.0)  # excesses that followed another, of so many
HEIGHT_PRIOR = (2.0, 10.0)  # summed log heights, of so many: a tail exponent of 5
HEIGHT_MAX = 2.3  # log of how far above the edge one stretch may teach
STRETCH_MAX = 30  # excesses of one stretch that teach
COUNT_MAX = 20_000.0  # scrapes after which all counts are halved
EVIDENCE_MAX = 30.0  # log10

ARRAYS: dict[str, Any] = {
    "calm": np.float32,  # scrapes without an excess before them
    "begun": np.float32,  # of these, such with one
    "after": np.float32,  # scrapes after an excess
    "followed": np.float32,  # of these, such with one
    "height": np.float32,  # summed log heights of stretches
    "stretches": np.float32,
    "peak": np.float32,  # of the present stretch, in edges
    "stretch": np.int16,  # excesses in a row
    "evidence": np.float32,  # log10 of the running product
}
HISTORY = ("calm", "begun", "after", "followed", "height", "stretches")


def follow(a: Arrays, height: Floats, excess: Flags | None, judged: Flags) -> None:
    """Take in one scrape: how far each series is off in scales, where that is an excess (None: nowhere), and which can be judged."""
    before = a["evidence"]
    if np.count_nonzero(before):
        before = before.copy()
        np.copyto(a["evidence"], np.maximum(before + LOG_K, 0), where=judged)
    if excess is None and not np.count_nonzero(a["stretch"]):
        a["calm"] += judged
    else:
        in_stretch = a["stretch"] > 0
        a["calm"] += judged & ~in_stretch
        over = judged & in_stretch
        if excess is not None:
            over &= ~excess
            places = np.flatnonzero(judged & excess)
            _excesses(a, places, height[places] / EDGE, before[places])
        if np.count_nonzero(over):
            _ends(a, np.flatnonzero(over))
    full = a["calm"] > COUNT_MAX
    if np.count_nonzero(full):
        for name in HISTORY:
            a[name][full] /= 2


def _excesses(a: Arrays, places: NDArray[np.intp], edges: Floats, before: Floats) -> None:
    has = {name: a[name][places].astype(np.float64) for name in HISTORY}
    stretch = a["stretch"][places]
    following = stretch > 0
    begin = (has["begun"] + BEGIN_PRIOR[0]) / (has["calm"] + BEGIN_PRIOR[1])
    follow = (has["followed"] + FOLLOW_PRIOR[0]) / (has["after"] + FOLLOW_PRIOR[1])
    mean_height = (has["height"] + HEIGHT_PRIOR[0]) / (has["stretches"] + HEIGHT_PRIOR[1])
    log_p = np.log10(np.where(following, follow, begin)) - np.log10(np.maximum(edges, 1.0)) / mean_height
    grown = before + np.log10(K) - (1 - K) * log_p
    a["evidence"][places] = np.minimum(np.maximum(grown, 0), EVIDENCE_MAX)
    teaches = following & (stretch < STRETCH_MAX)
    a["after"][places] += teaches
    a["followed"][places] += teaches
    a["begun"][places] += ~following
    a["peak"][places] = np.maximum(a["peak"][places], edges)
    a["stretch"][places] = np.minimum(stretch + 1, STRETCH_MAX)


def _ends(a: Arrays, places: NDArray[np.intp]) -> None:
    """Stretches of excesses are over."""
    peak = a["peak"][places].astype(np.float64)
    a["after"][places] += a["stretch"][places] < STRETCH_MAX
    a["height"][places] += np.minimum(np.log(np.maximum(peak, 1.0)), HEIGHT_MAX).astype(np.float32)
    a["stretches"][places] += 1
    a["peak"][places] = a["stretch"][places] = 0


def believed(a: Arrays, judged: Flags, scrapes: float) -> Flags:
    """Series whose evidence is enough: at most one false alarm in so many healthy scrapes of all of them together."""
    places = np.flatnonzero(judged & (a["evidence"] > 0))
    out = np.zeros(judged.size, bool)
    if places.size:
        order = places[np.argsort(-a["evidence"][places], kind="stable")]
        needed = np.log10(np.count_nonzero(judged) * scrapes / np.arange(1, order.size + 1))
        enough = np.flatnonzero(a["evidence"][order] >= needed)
        out[order[: enough[-1] + 1 if enough.size else 0]] = True
    return out
