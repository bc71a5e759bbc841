"""Evidence that may be looked at as often as one likes: e-values and confidence sequences.

An e-value is a likelihood ratio of "something changed" to "nothing did"; under the latter it exceeds 1/alpha at any time, now
or ever, with probability alpha at most (Ville's inequality). So early looks do not inflate errors, and the mean of several
e-values is an e-value again, however they depend on each other.

Sources: mixture sequential probability ratio test, Robbins (1970), Johari, Pekelis & Walsh (2022), Always valid inference; with
unknown variance the t mixture of Gönen et al. (2005), valid under optional stopping by Hendriksen, de Heide & Grünwald (2021);
counts after Lindon & Malek (2022), Anytime-valid inference for multinomial count data; means of e-values, Vovk & Wang (2021).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_lgamma: Any = np.vectorize(math.lgamma, otypes=[np.float64])


def shift(estimate: Floats, variance: Floats, freedom: Floats, scale: float) -> Floats:
    """Log e-value of a shift of a mean by `estimate`, whose variance is known with `freedom` degrees of freedom.

    A shift that exists is believed to be normal around 0 with standard deviation `scale`.
    """
    square, ratio = estimate * estimate / variance, scale * scale / variance
    inner = np.log1p(square / freedom) - np.log1p(square / (freedom * (1.0 + ratio)))
    evidence: Floats = 0.5 * (freedom + 1.0) * inner - 0.5 * np.log1p(ratio)
    return evidence


def half_width(variance: Floats, freedom: Floats, scale: Floats, alpha: float) -> Floats:
    """Half of the confidence sequence around an estimate: all shifts whose e-value is below 1/alpha."""
    ratio = scale * scale / variance
    bound = np.exp((2.0 * math.log(1.0 / alpha) + np.log1p(ratio)) / (freedom + 1.0))
    room = 1.0 - bound / (1.0 + ratio)
    square = np.divide(freedom * (bound - 1.0), room, out=np.full_like(variance, np.inf), where=room > 0)
    return np.sqrt(square * variance)


def count(events: Floats, expected: Floats, shape: Floats, believed: Floats) -> Floats:
    """Log e-value of a count that differs from what is expected.

    `shape` is 1 over the relative variance of `expected`; a count of another rate is believed to be around `believed`, widely.
    """
    return _log_negative_binomial(events, believed, np.full_like(events, 0.5)) - _log_negative_binomial(
        events, expected, shape
    )


def count_bounds(events: Floats, believed: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Lowest and highest mean whose e-value against an observed count is below 1/alpha."""
    marginal = _log_negative_binomial(events, believed, np.full_like(events, 0.5))
    target = marginal - math.log(1.0 / alpha)
    spread = 12.0 * np.sqrt(events + believed + 10.0) + 40.0
    return _cross(events, np.full_like(events, 1e-12), target), _cross(events, events + spread, target)


def _cross(events: Floats, far: Floats, target: Floats) -> Floats:
    """Mean between the count and `far` at which the Poisson likelihood falls to `target`, by bisection."""
    near = np.maximum(events, 1e-12)
    for _ in range(50):
        middle = 0.5 * (near + far)
        inside = events * np.log(middle) - middle >= target
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    return near


def _log_negative_binomial(events: Floats, mean: Floats, shape: Floats) -> Floats:
    """Up to the factor that depends on the count alone."""
    whole = shape + mean
    constant: Floats = _lgamma(events + shape) - _lgamma(shape)
    return constant + shape * np.log(shape / whole) + events * np.log(np.maximum(mean, 1e-300) / whole)
