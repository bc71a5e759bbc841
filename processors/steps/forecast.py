"""When does a series reach its bound? The time to exhaustion with its interval, from evenly spaced values with holes.

Level shifts (a tenant taken on, a clean-up, a purge) are found as differences far beyond the usual ones that last, and taken
out: a step is a step, not a slope. What comes again and again keeps coming, so shifts that recur are drawn again in
the future; single ones are not. What is left follows a local linear trend with a season: level and slope may wander, how
much is weighed over a grid of variances by their likelihood (Bayesian model averaging), so a straight line with noise
and a random walk with drift are both met. Paths are drawn from it, and the times at which they first reach the bound are the
answer.

Sources: local linear trend and its filter, Durbin & Koopman, Time Series Analysis by State Space Methods, 2nd ed., ch. 3.2 and
4.3; variances relative to one scale that is integrated out, ch. 2.10; shifts as interventions, Harvey & Koopman (1992).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PATHS = 400
SHIFT = 6.0  # differences so many robust scales from the usual are shifts
DIFFUSE = 1e4
RUN_MIN = 8  # values that a rise is judged by, at least
LEVEL_SHARES = (0.0, 0.02, 0.1, 0.4, 0.8, 1.0)
SLOPE_SHARES = (0.0, 3e-5, 3e-3)
_GRID = np.array([(share, slope) for share in LEVEL_SHARES for slope in SLOPE_SHARES])
# A variance that is 0 is believed as much as all others together (spike and slab).
_PRIOR = np.array([(1.0 if share == 0 else 0.2) * (1.0 if slope == 0 else 0.5) for share, slope in _GRID])


class Shifts(NamedTuple):
    """A series without its level shifts, as if it had always been at the present level; and the shifts, in order."""

    values: Floats
    sizes: Floats


class Outlook(NamedTuple):
    """Steps until the bound is reached: a tenth, half and nine tenths of the paths are there; inf where they are not.

    `slope` is the present growth a step, recurring shifts included; `widest` has 95 % of the paths.
    """

    low: float
    median: float
    high: float
    slope: float
    shifts: int
    widest: tuple[float, float] = (0.0, math.inf)


class _Filtered(NamedTuple):
    """The end of the series under each model of the grid: weights, scale, level, slope and their covariance."""

    weight: Floats
    scale: Floats
    freedom: float
    level: Floats
    slope: Floats
    covariance: Floats


class Course(NamedTuple):
    """A series without shifts and season, its season from the next step on, its shifts, and where its present rise began."""

    flat: Floats
    season: Floats
    shifts: Floats
    began: int

    @property
    def present(self) -> float:
        """Where it stands: the median of its last three values."""
        return float(np.median(self.flat[~np.isnan(self.flat)][-3:]))

    @property
    def rise(self) -> float:
        """By how much it has risen since it was lowest, steps not counted."""
        return self.present - float(np.nanmin(self.flat))


def course(values: Floats, period: int = 0) -> Course:
    """Take a series (oldest first, NaN where nothing was measured) apart."""
    season = _season(values, period)
    there = season[np.arange(values.size) % season.size]
    flat, sizes = without_shifts(values - there)
    low, last = float(np.nanmin(flat)), flat[~np.isnan(flat)][-3:].max()
    reached = np.flatnonzero(flat <= low + 0.1 * (last - low))
    began = max(0, min(int(reached[-1]) if reached.size else 0, values.size - RUN_MIN))
    return Course(flat, np.roll(season, -(values.size % season.size)), sizes, began)


def time_to(found: Course, bound: float, ahead: int) -> Outlook:
    """Steps until the series reaches `bound`, looking `ahead` steps; judged by its course since its rise began."""
    at_end = _filter(found.flat[found.began :])
    paths = _paths(at_end, ahead, np.random.default_rng(20_260_101))
    paths += found.season[np.arange(ahead) % found.season.size]
    drift = _shift_paths(paths, found.shifts, found.flat.size, np.random.default_rng(20_260_102))
    shares = (0.025, 0.1, 0.5, 0.9, 0.975)
    least, low, median, high, most = np.quantile(_first(paths, bound), shares, method="closest_observation").tolist()
    slope = float(at_end.weight @ at_end.slope) + drift
    return Outlook(low, median, high, slope, int(found.shifts.size), (least, most))


def _first(paths: Floats, bound: float) -> Floats:
    """When each path first reaches the bound, between its steps by a straight line; inf if it does not."""
    reached = paths >= bound
    at, rows = reached.argmax(1), np.arange(paths.shape[0])
    after, before = paths[rows, at], paths[rows, np.maximum(at - 1, 0)]
    back = np.divide(after - bound, after - before, out=np.zeros_like(after), where=(at > 0) & (after > before))
    first: Floats = np.where(reached.any(1), at + 1.0 - back, np.inf)
    return first


def without_shifts(values: Floats) -> Shifts:
    """Take out lasting shifts and lone outliers. A jump at the very end is not believed before the next value."""
    out = values.copy()
    seen = np.flatnonzero(~np.isnan(out))
    if seen.size < 8:
        return Shifts(out, np.zeros(0))
    steps = np.diff(out[seen]) / np.diff(seen)
    usual = float(np.median(steps))
    scale = 1.4826 * float(np.median(np.abs(steps - usual)))
    # Of a series that mostly stands still the middle is 0; then what moves is judged among what moves.
    scale = max(scale, 0.25 * float(np.mean(np.abs(steps - usual))), 1e-9)
    sizes = []
    for place in _lone(np.where(np.abs(steps - usual) > SHIFT * scale, np.sign(steps - usual), 0.0)):
        at, jump = seen[place + 1], float(np.diff(out[seen])[place] - usual)
        before, after = out[seen[max(place - 2, 0) : place + 1]], out[seen[place + 1 : place + 4]]
        lasting = after.size >= 2 and abs(np.median(after) - np.median(before)) > 0.5 * abs(jump)
        if lasting:
            out[:at] += jump
            sizes.append(jump)
        elif abs(jump) > SHIFT * scale:
            out[at] = np.nan
    return Shifts(out, np.array(sizes))


def _lone(signs: Floats) -> list[int]:
    """Places of signs that do not stand in a row of three: one big difference after the other is a slope, not a shift."""
    edges = np.flatnonzero(np.diff(np.concatenate(([2.0], signs, [2.0]))))
    runs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [place for begin, end in runs if signs[begin] and end - begin < 3 for place in range(begin, end)]


def _season(values: Floats, period: int) -> Floats:
    """Mean departure by place in the period from the trend around it; zeros where three periods are not there."""
    if not period or values.size < 3 * period:
        return np.zeros(1)
    filled = np.interp(np.arange(values.size), np.flatnonzero(~np.isnan(values)), values[~np.isnan(values)])
    trend = np.convolve(filled, np.ones(period) / period, "valid")
    begin = period // 2
    departure = values[begin : begin + trend.size] - trend
    place = (begin + np.arange(trend.size)) % period
    season = np.array([_mean(departure[place == one]) for one in range(period)])
    centred: Floats = season - season.mean()
    return centred


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else 0.0


def _filter(values: Floats) -> _Filtered:
    """The Kalman filter of a local linear trend, all models of the grid side by side."""
    share, wander = _GRID[:, 0], _GRID[:, 1]
    noise = 1.0 - share + 1e-9
    width = share.size
    first = float(values[~np.isnan(values)][0])
    level, slope = np.full(width, first), np.zeros(width)
    p_level, p_both, p_slope = np.full(width, DIFFUSE), np.zeros(width), np.full(width, DIFFUSE)
    squares, logs, seen = np.zeros(width), np.zeros(width), 0
    for value in values.tolist():
        level = level + slope
        p_level, p_both, p_slope = p_level + 2 * p_both + p_slope + share, p_both + p_slope, p_slope + wander
        if value != value:
            continue
        spread = p_level + noise
        error, gain, tilt = value - level, p_level / spread, p_both / spread
        seen += 1
        if seen > 2:  # the first two only find where it starts
            squares += error * error / spread
            logs += np.log(spread)
        level, slope = level + gain * error, slope + tilt * error
        p_slope = p_slope - tilt * p_both
        p_level, p_both = p_level * (1 - gain), p_both * (1 - gain)
    freedom = max(seen - 2.0, 1.0)
    scale = np.maximum(squares / freedom, 1e-14)
    likelihood = -0.5 * freedom * np.log(scale) - 0.5 * logs
    weight = _PRIOR * np.exp(likelihood - likelihood.max())
    return _Filtered(weight / weight.sum(), scale, freedom, level, slope, np.stack((p_level, p_both, p_slope)))


def _paths(end: _Filtered, ahead: int, rng: np.random.Generator) -> Floats:
    """Possible futures: a model by its weight, its scale, its state and its noise."""
    model = np.searchsorted(np.cumsum(end.weight), (np.arange(PATHS) + 0.5) / PATHS).clip(0, end.weight.size - 1)
    # Shuffled, so that the model of a path says nothing of its draws.
    model = rng.permutation(model)
    scale = np.sqrt(end.scale[model] * end.freedom / rng.chisquare(end.freedom, PATHS))
    p_level, p_both, p_slope = (part[model] for part in end.covariance)
    z_level, z_slope = rng.standard_normal((2, PATHS))
    root = np.sqrt(np.maximum(p_level, 0.0))
    across = np.divide(p_both, root, out=np.zeros_like(root), where=root > 0)
    level = end.level[model] + scale * root * z_level
    slope = end.slope[model] + scale * (across * z_level + np.sqrt(np.maximum(p_slope - across**2, 0.0)) * z_slope)
    share, wander = _GRID[model, 0], _GRID[model, 1]
    draws = rng.standard_normal((3, PATHS, ahead))
    slopes = slope[:, None] + np.cumsum(draws[0] * (scale * np.sqrt(wander))[:, None], 1)
    levels = level[:, None] + np.cumsum(slopes + draws[1] * (scale * np.sqrt(share))[:, None], 1)
    noisy: Floats = levels + draws[2] * (scale * np.sqrt(1.0 - share))[:, None]
    return noisy


def _shift_paths(paths: Floats, sizes: Floats, count: int, rng: np.random.Generator) -> float:
    """Add shifts that recur, as often and as large as they came; gives what they add a step on average."""
    drift = 0.0
    for side in (sizes[sizes > 0], sizes[sizes < 0]):
        if side.size >= 2:
            chance = side.size / count
            come = rng.random(paths.shape) < chance
            paths += np.cumsum(np.where(come, rng.choice(side, paths.shape), 0.0), 1)
            drift += chance * float(side.mean())
    return drift
