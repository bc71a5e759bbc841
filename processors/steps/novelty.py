"""Has this series been like this before? Compiled loops over rows and series, for the step `shapes`.

Three distances that complement each other:
- *pairs*: of the last two values from the nearest pair seen so far,
- *contexts*: the same for a value beside its means over 8 and 32 measurements,
- *level*: mean of the last 12 measurements against that of the last 150.

Values are looked at after the hour of the week, which counts as far as it has predicted. What was seen is kept as
prototypes: the nearest is drawn towards what came, something farther than `RADIUS` becomes a prototype in place of the one
least used (adaptive resonance: Carpenter, Grossberg & Rosen 1991, Fuzzy ART).

Every kind of distance has a histogram in thirds of an octave (as in Masson, Rim & Lee 2019, DDSketch), which makes it a
probability: by rank inside what was seen, by a power law with the mean log excess as exponent (Hill 1975) beyond the
98th percentile. No distribution and no unit is assumed. The geometric mean of the three times e is a probability too,
however they depend on each other (Vovk & Wang 2020, Combining p-values via averaging). The three see one event some
measurements apart, so each fades over `HOLD` measurements instead of being gone at once.

One episode, one score: a score is told when it exceeds all of the last stretch, a sixteenth of what was seen. Times are
counted in measurements, so the grain of the series sets the scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processors.columns import Arrays
from processors.compiled import compiled
from processors.steps.seasonal import HOURS, WEEKS_YOUNG, WEIGHT_MIN

Floats = NDArray[np.float64]

MEMORY = 2_000  # measurements over which location and scale are remembered
SEASON_MIN, SEASON_MEMORY = 24, 3_000  # measurements before the season counts, and over which its errors are remembered
LONG_RUN = 0.02  # weight of an hour in the long-run mean
SHORT, MIDDLE = 1 / 8, 1 / 32
LEVEL, USUAL_LEVEL = 1 / 12, 1 / 150
HOLD = math.exp(-1 / 6)
PAIRS, CONTEXTS = 64, 16
RADIUS, DRAW = 0.1, 0.05
GRID = 1 / 1024  # of what prototypes hold: a hundredth of the radius
FORGET = -math.log2(0.9995)  # of a prototype's use, octaves a measurement
COUNT_MAX = 16_000  # counts are halved there: what is rare is judged by the last many thousand measurements
NOTHING = 0.1  # a distance below a tenth of the scale is none
BINS_AN_OCTAVE, LOWEST = 3.0, math.log2(NOTHING)
BEGINS = (0, 26, 52, 152)  # of each kind's histogram: eight octaves hold any logarithm's distance, 33 a level's
TAIL, TAIL_PRIOR = 0.02, 0.5  # share of measurements in the tail; mean log excess (octaves) of one imagined one
UNIT_SEEN = 50  # measurements that fix the unit in which levels are counted
PATIENCE = 0.2  # of a decade: how much stricter a history that is ten times as long is
REST, REST_MAX = 0.06, 1_600.0
HUGE = 1e150  # the square of more is no number

KINDS = 3
_COUNT, _IN_TAILS, _LOCATION, _SCALE, _UNIT, _LEVEL, _USUAL_LEVEL, _RAW, _RAW_MS = range(9)
_SEASON_ERROR, _PLAIN_ERROR, _SEASON_SEEN, _HOUR, _SUM, _IN_HOUR, _LONG_RUN, _HOURS, _USUAL = range(9, 18)
LONG = 18
_LAST, _SHORT, _MIDDLE, _PEAK, _PEAK_AGE, _NEXT, _NEXT_AGE, _HELD = range(8)
BRIEF = _HELD + KINDS

ARRAYS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "long": (np.float64, (LONG,)),
    "brief": (np.float32, (BRIEF,)),
    "mean": (np.float32, (HOURS,)),
    "weeks": (np.uint8, (HOURS,)),
    "tails": (np.uint16, (BEGINS[-1],)),
    "pairs": (np.int16, (PAIRS, 2)),
    "pairs_use": (np.float32, (PAIRS,)),
    "contexts": (np.int16, (CONTEXTS, 3)),
    "contexts_use": (np.float32, (CONTEXTS,)),
}
"""Type and shape of what is kept of one series; the first axis of each array is the series. All zeros to begin with."""


def present(arrays: Arrays) -> Floats:
    """How rare the shape of each series is now, in decades, whether it was told or not."""
    held: Floats = arrays["brief"][:, _HELD:].mean(axis=1, dtype=np.float64)
    return held


@compiled
def surprises(
    told: Any, values: Any, times_ms: Any, hours: Any, restarted: Any, is_sum: Any,
    long: Any, brief: Any, mean: Any, weeks: Any, tails: Any, pairs: Any, pairs_use: Any, contexts: Any, contexts_use: Any,
) -> None:  # fmt: skip
    """Write into `told` -log10 of the probability of each value's shape, 0 between episodes; learn.

    `values`, `told` by row (oldest first) and series, NaN where nothing was measured; values of cumulative series become
    rates a second. `hours` of the week and whether cumulative series began anew (`restarted`) by row.
    """
    distances = np.zeros(KINDS)
    for row in range(len(values)):
        for one in range(values.shape[1]):
            s, b = long[one], brief[one]
            observed = values[row, one]
            if is_sum[one]:
                observed = values[row, one] = _rate(s, observed, times_ms[row], restarted[row])
            if math.isnan(observed):
                continue
            value = _after_season(s, mean[one], weeks[one], min(max(observed, -HUGE), HUGE), hours[row])
            _distances(distances, s, b, value, pairs[one], pairs_use[one], contexts[one], contexts_use[one])
            surprise = 0.0
            for kind in range(KINDS):
                now = _tail(tails[one, BEGINS[kind] : BEGINS[kind + 1]], s[_IN_TAILS], distances[kind])
                b[_HELD + kind] = max(b[_HELD + kind] * HOLD, now)
                surprise += b[_HELD + kind] / KINDS
            s[_COUNT] += 1
            s[_IN_TAILS] += 1
            if s[_IN_TAILS] >= COUNT_MAX:
                s[_IN_TAILS] //= 2
                tails[one] = tails[one] // np.uint16(2)
            surprise -= PATIENCE * math.log10(max(s[_COUNT], 300) / 300)
            told[row, one] = _one_an_episode(b, s[_COUNT], surprise)


@compiled
def _rate(s: Any, raw: float, time_ms: int, restarted: bool) -> float:
    """Growth of a counter by second; NaN after a fall, a new start, or nothing before it."""
    if math.isnan(raw):
        return raw
    rate = math.nan
    if s[_RAW_MS] > 0 and raw >= s[_RAW] and not restarted:
        rate = (raw - s[_RAW]) / (time_ms - s[_RAW_MS]) * 1_000
    s[_RAW], s[_RAW_MS] = raw, time_ms
    return rate


@compiled
def _after_season(s: Any, mean: Any, weeks: Any, observed: float, hour: int) -> float:
    """What is left when the hour of the week is taken off, as far as it has predicted better than the long-run mean."""
    if s[_HOURS] == 0 and s[_IN_HOUR] == 0:
        s[_HOUR], s[_USUAL] = hour, math.nan
    if s[_HOUR] != hour:
        _turn_the_hour(s, mean, weeks, hour)
    s[_SUM] += observed
    s[_IN_HOUR] += 1
    usual = s[_USUAL]
    if math.isnan(usual):
        return observed
    weight = 0.0
    if s[_SEASON_SEEN] >= SEASON_MIN and s[_PLAIN_ERROR] > 0:
        weight = max(0.0, 1 - s[_SEASON_ERROR] / s[_PLAIN_ERROR]) ** 2
    s[_SEASON_SEEN] += 1
    rate = max(1 / s[_SEASON_SEEN], 1 / SEASON_MEMORY)
    s[_SEASON_ERROR] += rate * (abs(observed - usual) - s[_SEASON_ERROR])
    s[_PLAIN_ERROR] += rate * (abs(observed - s[_LONG_RUN]) - s[_PLAIN_ERROR])
    left: float = observed - weight * (usual - s[_LONG_RUN])
    return left


@compiled
def _turn_the_hour(s: Any, mean: Any, weeks: Any, hour: int) -> None:
    """Fold the hour that is over into the week, and look up what the new one usually brings (see `seasonal`)."""
    before = int(s[_HOUR])
    was = s[_SUM] / s[_IN_HOUR]
    mean[before] += max(1 / (weeks[before] + 1), WEIGHT_MIN) * (was - mean[before])
    weeks[before] = min(weeks[before] + 1, 250)
    s[_HOURS] += 1
    s[_LONG_RUN] += (LONG_RUN if s[_HOURS] > 1 else 1.0) * (was - s[_LONG_RUN])
    s[_HOUR], s[_SUM], s[_IN_HOUR] = hour, 0.0, 0.0
    day, days = 0.0, 0
    for same in range(hour % 24, HOURS, 24):
        if weeks[same] > 0:
            day += mean[same]
            days += 1
    if days == 0:
        s[_USUAL] = math.nan
    elif weeks[hour] >= WEEKS_YOUNG:
        s[_USUAL] = mean[hour]
    else:
        s[_USUAL] = (weeks[hour] * mean[hour] + day / days) / (weeks[hour] + 1)


@compiled
def _distances(
    distances: Floats, s: Any, b: Any, value: float, pairs: Any, pairs_use: Any, contexts: Any, contexts_use: Any
) -> None:
    count = s[_COUNT]
    if count == 0:
        s[_LOCATION] = s[_LEVEL] = s[_USUAL_LEVEL] = value
    away = value - s[_LOCATION]
    scaled = away / s[_SCALE] if s[_SCALE] > 0 else 0.0
    rate = max(1 / (count + 1), 1 / MEMORY)
    s[_LOCATION] += rate * away
    s[_SCALE] += rate * (abs(away) - s[_SCALE])
    if count <= UNIT_SEEN or s[_UNIT] == 0:
        s[_UNIT] = s[_SCALE]
    seen_as = math.copysign(math.log1p(abs(scaled)), scaled)  # no tail is so heavy that it hides the rest
    seen_as = min(max(seen_as, -31.0), 31.0)
    if count == 0:
        b[_LAST] = b[_SHORT] = b[_MIDDLE] = seen_as
    b[_SHORT] += max(SHORT, 1 / (count + 1)) * (seen_as - b[_SHORT])
    b[_MIDDLE] += max(MIDDLE, 1 / (count + 1)) * (seen_as - b[_MIDDLE])
    now = FORGET * count
    distances[0] = _novelty(pairs, pairs_use, now, (seen_as, np.float64(b[_LAST])))
    beside = (seen_as, np.float64(b[_SHORT]), np.float64(b[_MIDDLE]))
    distances[1] = _novelty(contexts, contexts_use, now, beside)
    b[_LAST] = seen_as
    s[_LEVEL] += max(LEVEL, 1 / (count + 1)) * (value - s[_LEVEL])
    distances[2] = abs(s[_LEVEL] - s[_USUAL_LEVEL]) / s[_UNIT] if s[_UNIT] > 0 else 0.0
    s[_USUAL_LEVEL] += max(USUAL_LEVEL, 1 / (count + 1)) * (value - s[_USUAL_LEVEL])


@compiled
def _novelty(prototypes: Any, use: Any, now: float, vector: Any) -> float:
    """Distance from the nearest prototype, which then learns.

    `use` is in octaves, and what was used at `now` counts by as much more as has been forgotten since the beginning: 0
    is a free place.
    """
    nearest, least, distance = -1, 0, math.inf
    for place in range(len(use)):
        if use[place] > 0:
            apart = 0.0
            for at in range(len(vector)):
                apart += abs(prototypes[place, at] * GRID - vector[at])
            if apart < distance:
                nearest, distance = place, apart
        if use[place] < use[least]:
            least = place
    distance /= len(vector)
    is_new = distance > RADIUS
    place = least if is_new else nearest
    for at in range(len(vector)):
        drawn = (1.0 if is_new else DRAW) * (vector[at] / GRID - prototypes[place, at])
        prototypes[place, at] += round(drawn)
    use[place] = now + 1.0 if is_new else now + 1.0 + math.log2(2.0 ** (use[place] - now - 1.0) + 1.0)
    return 0.0 if nearest < 0 else distance


@compiled
def _tail(counts: Any, total: float, distance: float) -> float:
    """-log10 of the probability of at least this distance, which is then counted."""
    octaves = math.log2(max(distance, 1e-12))
    at = (octaves - LOWEST) * BINS_AN_OCTAVE + 1
    last = len(counts) - 1
    place = int(min(max(math.floor(at), 0), last))
    surprise = 0.0
    if total > 10 and distance >= NOTHING:
        above, log_excess, edge = 0.0, 0.0, last
        while edge > 0 and above + counts[edge] < TAIL * total:
            above += counts[edge]
            log_excess += counts[edge] * (edge - 0.5)
            edge -= 1
        beyond = octaves - (LOWEST + edge / BINS_AN_OCTAVE)
        if beyond > 0:
            mean_excess = ((log_excess - above * edge) / BINS_AN_OCTAVE + TAIL_PRIOR) / (above + 1)
            surprise = -math.log10((above + 1) / (total + 1)) + beyond / mean_excess * math.log10(2.0)
        else:
            for higher in range(place + 1, edge + 1):
                above += counts[higher]
            above += counts[place] * (1 - min(max(at - place, 0.0), 1.0))
            surprise = -math.log10((above + 1) / (total + 2))
    counts[place] += 1
    return surprise


@compiled
def _one_an_episode(b: Any, count: float, surprise: float) -> float:
    """The surprise where it exceeds all of the last stretch, else 0."""
    b[_PEAK_AGE] += 1
    b[_NEXT_AGE] += 1
    if b[_PEAK_AGE] > min(REST * count, REST_MAX):
        b[_PEAK], b[_PEAK_AGE] = b[_NEXT], b[_NEXT_AGE]
        b[_NEXT] = b[_NEXT_AGE] = 0.0
    if surprise > b[_PEAK]:
        b[_PEAK] = surprise
        b[_PEAK_AGE] = b[_NEXT] = b[_NEXT_AGE] = 0.0
        return surprise
    if surprise > b[_NEXT]:
        b[_NEXT], b[_NEXT_AGE] = surprise, 0.0
    return 0.0
