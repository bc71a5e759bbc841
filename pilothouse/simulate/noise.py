"""Noise as real systems have it: slow wander, heavy tails, counts in clumps, bursts.

Wander is an Ornstein-Uhlenbeck process, exact on any grid (Gillespie 1996), so that a change of the grain does not change
its statistics, and a stretch goes on where the last one ended.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def wander(random: np.random.Generator, dt_s: Floats, spread: float, memory_s: float, start: float | None) -> Floats:
    """A stationary process of standard deviation `spread` that forgets in `memory_s`; `start` None: drawn."""
    keep = np.exp(-dt_s / memory_s)
    kick = random.standard_normal(dt_s.size) * spread * np.sqrt(1 - keep**2)
    value = random.standard_normal() * spread if start is None else start
    out = np.empty(dt_s.size)
    for place, (one, other) in enumerate(zip(keep.tolist(), kick.tolist(), strict=True)):
        value = value * one + other
        out[place] = value
    return out


def scatter(random: np.random.Generator, size: int, spread: float | Floats) -> Floats:
    """Log-normal factors of mean 1."""
    spread = np.asarray(spread)
    return np.exp(random.standard_normal(size) * spread - spread**2 / 2)


def clumped(random: np.random.Generator, mean: Floats, clumps: float) -> Floats:
    """Counts around `mean`, over-dispersed: Poisson with a gamma rate (negative binomial). `clumps` 0: Poisson."""
    if clumps:
        shape = 1 / clumps**2
        mean = mean * random.gamma(shape, 1 / shape, mean.size)
    return random.poisson(np.maximum(mean, 0.0)).astype(float)


def rare(random: np.random.Generator, size: int, probability: float, scale: float) -> Floats:
    """Mostly zero; now and then a Pareto-tailed outlier (index 2.5) of at least `scale`, at most fifty times that."""
    return np.where(random.random(size) < probability, scale * np.minimum(1 + random.pareto(2.5, size), 50.0), 0.0)


def mean_of_few(random: np.random.Generator, mean: Floats, count: Floats, tail: float = 1.0) -> Floats:
    """The mean of `count` log-normal durations around `mean`; NaN where there was none."""
    spread = np.minimum(np.sqrt(np.log1p((np.exp(tail**2) - 1) / np.maximum(count, 1.0))), tail)
    return np.where(count > 0, mean * scatter(random, mean.size, spread), np.nan)
