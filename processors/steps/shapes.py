"""Has this series been like this before? Three scorers that complement each other, and one score an episode.

- *pairs*: distance of the last two values from the nearest pair seen so far,
- *contexts*: the same for a value beside its means over 4 and 16 measurements,
- *level*: mean of the last 12 measurements against that of the last 150.

Values are looked at after the season, which counts as far as it has predicted. What was seen is kept as prototypes: the
nearest is drawn towards what came, something farther than `RADIUS` becomes a prototype in place of the one least used
(adaptive resonance: Carpenter, Grossberg & Rosen 1991, Fuzzy ART).

Every kind of distance has a histogram in thirds of an octave (as in Masson, Rim & Lee 2019, DDSketch), which makes it a
probability: by rank inside what was seen, by a power law with the mean log excess as exponent (Hill 1975) beyond the
98th percentile. No distribution and no unit is assumed. The geometric mean of the three times e is a probability too,
however they depend on each other (Vovk & Wang 2020, Combining p-values via averaging).

One episode, one score: a score is told when it exceeds all of the last stretch, a sixteenth of what was seen. Times are
counted in measurements, so the grain of the series sets the scale. Cost about 2 µs a value, state 1.9 kB a series.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processors.columns import Arrays
from processors.compiled import compiled

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MEMORY = 2_000  # measurements over which location and scale are remembered
SEASON_MIN, SEASON_MEMORY = 24, 3_000  # measurements before the season counts, and over which its errors are remembered
SHORT, MIDDLE = 1 / 4, 1 / 16
LEVEL, USUAL_LEVEL = 1 / 12, 1 / 150
PAIRS, CONTEXTS = 64, 16
RADIUS, DRAW = 0.1, 0.05
FORGET = 0.9995  # of a prototype's use, each measurement
BINS, BINS_AN_OCTAVE, LOWEST = 120, 3.0, -6.0
COUNT_MAX = 16_000  # counts are halved there: what is rare is judged by the last many thousand measurements
NOTHING = 0.1  # a distance below a tenth of the scale is none
TAIL, TAIL_PRIOR = 0.02, 0.5  # share of measurements in the tail; mean log excess (octaves) of one imagined one
UNIT_SEEN = 50  # measurements that fix the unit in which levels are counted
PATIENCE = 0.1  # of a decade: how much stricter a history that is ten times as long is
REST, REST_MAX = 0.06, 1_600.0

_SINGLES = (
    "location", "scale", "unit", "season_error", "plain_error", "season_seen", "level", "usual_level",
    "last", "short", "middle", "peak", "peak_age", "next", "next_age",
)  # fmt: skip
_LOCATION, _SCALE, _UNIT, _SEASON_ERROR, _PLAIN_ERROR, _SEASON_SEEN, _LEVEL, _USUAL_LEVEL = range(8)
_LAST, _SHORT, _MIDDLE, _PEAK, _PEAK_AGE, _NEXT, _NEXT_AGE = range(8, 15)
_KINDS = 3


class Shapes:
    """Prototypes, means and tails of some series."""

    def __init__(self, width: int = 0, arrays: Arrays | None = None) -> None:
        self.arrays: Arrays = arrays or {
            "singles": np.zeros((width, len(_SINGLES))),
            "shapes_seen": np.zeros((width, 2), np.int64),  # measurements ever, and in the tails
            "tails": np.zeros((width, _KINDS, BINS), np.uint16),
            "pairs": np.zeros((width, PAIRS, 2), np.float32),
            "pairs_use": np.zeros((width, PAIRS), np.float32),
            "contexts": np.zeros((width, CONTEXTS, 3), np.float32),
            "contexts_use": np.zeros((width, CONTEXTS), np.float32),
        }

    def grow(self, width: int) -> None:
        """Make room for `width` series."""
        more = width - len(self.arrays["singles"])
        if more:
            added = Shapes(more).arrays
            self.arrays = {name: np.concatenate((array, added[name])) for name, array in self.arrays.items()}

    def score(self, observed: Floats, season: Floats, known: Flags, usual: Floats, measured: Flags) -> Floats:
        """1 - probability of every series' shape, 0 between episodes and where nothing was measured; learns.

        `season` is what the hour usually brings where that is `known`, `usual` the long-run mean.
        """
        surprise = np.zeros(observed.size)
        _score(surprise, observed, season, usual, known, measured, *self.arrays.values())
        return np.maximum(1.0 - math.e * 10.0**-surprise, 0.0)


@compiled
def _score(
    told: Floats, observed: Floats, season: Floats, usual: Floats, known: Flags, measured: Flags,
    singles: Floats, seen: Any, tails: Any, pairs: Any, pairs_use: Any, contexts: Any, contexts_use: Any,
) -> None:  # fmt: skip
    distances = np.zeros(_KINDS)
    for one in range(observed.size):
        if not measured[one]:
            continue
        s, count = singles[one], seen[one, 0]
        value = _after_season(s, observed[one], season[one], usual[one], known[one])
        _distances(distances, s, count, value, pairs[one], pairs_use[one], contexts[one], contexts_use[one])
        surprise = 0.0
        for kind in range(_KINDS):
            surprise += _tail(tails[one, kind], seen[one, 1], distances[kind]) / _KINDS
        seen[one, 0] += 1
        seen[one, 1] += 1
        if seen[one, 1] >= COUNT_MAX:
            seen[one, 1] //= 2
            tails[one] = tails[one] // np.uint16(2)
        surprise -= PATIENCE * math.log10(max(count, 300) / 300)
        told[one] = _one_an_episode(s, count, max(surprise, 0.0))


@compiled
def _after_season(s: Any, observed: float, season: float, usual: float, known: bool) -> float:
    """What is left when the season is taken off, as far as it has predicted better than the long-run mean."""
    if not known:
        return observed
    weight = 0.0
    if s[_SEASON_SEEN] >= SEASON_MIN and s[_PLAIN_ERROR] > 0:
        weight = max(0.0, 1 - s[_SEASON_ERROR] / s[_PLAIN_ERROR]) ** 2
    s[_SEASON_SEEN] += 1
    rate = max(1 / s[_SEASON_SEEN], 1 / SEASON_MEMORY)
    s[_SEASON_ERROR] += rate * (abs(observed - season) - s[_SEASON_ERROR])
    s[_PLAIN_ERROR] += rate * (abs(observed - usual) - s[_PLAIN_ERROR])
    return observed - weight * (season - usual)


@compiled
def _distances(
    distances: Floats, s: Any, count: int, value: float, pairs: Any, pairs_use: Any, contexts: Any, contexts_use: Any
) -> None:
    first = count == 0
    if first:
        s[_LOCATION] = s[_LEVEL] = s[_USUAL_LEVEL] = value
    away = value - s[_LOCATION]
    scaled = away / s[_SCALE] if s[_SCALE] > 0 else 0.0
    rate = max(1 / (count + 1), 1 / MEMORY)
    s[_LOCATION] += rate * away
    s[_SCALE] += rate * (abs(away) - s[_SCALE])
    if count <= UNIT_SEEN or s[_UNIT] == 0:
        s[_UNIT] = s[_SCALE]
    seen_as = math.copysign(math.log1p(abs(scaled)), scaled)  # no tail is so heavy that it hides the rest
    if first:
        s[_LAST] = s[_SHORT] = s[_MIDDLE] = seen_as
    s[_SHORT] += max(SHORT, 1 / (count + 1)) * (seen_as - s[_SHORT])
    s[_MIDDLE] += max(MIDDLE, 1 / (count + 1)) * (seen_as - s[_MIDDLE])
    distances[0] = _novelty(pairs, pairs_use, (seen_as, s[_LAST]))
    distances[1] = _novelty(contexts, contexts_use, (seen_as, s[_SHORT], s[_MIDDLE]))
    s[_LAST] = seen_as
    s[_LEVEL] += max(LEVEL, 1 / (count + 1)) * (value - s[_LEVEL])
    distances[2] = abs(s[_LEVEL] - s[_USUAL_LEVEL]) / s[_UNIT] if s[_UNIT] > 0 else 0.0
    s[_USUAL_LEVEL] += max(USUAL_LEVEL, 1 / (count + 1)) * (value - s[_USUAL_LEVEL])


@compiled
def _novelty(prototypes: Any, use: Any, vector: Any) -> float:
    """Distance from the nearest prototype, which then learns."""
    nearest, least, distance = -1, 0, math.inf
    for place in range(len(use)):
        if use[place] > 0:
            apart = 0.0
            for at in range(len(vector)):
                apart += abs(prototypes[place, at] - vector[at])
            if apart < distance:
                nearest, distance = place, apart
        if use[place] < use[least]:
            least = place
    distance /= len(vector)
    is_new = distance > RADIUS
    place = least if is_new else nearest
    for at in range(len(vector)):
        prototypes[place, at] += (1.0 if is_new else DRAW) * (vector[at] - prototypes[place, at])
    use[place] = 1.0 if is_new else use[place] + 1.0
    for any_place in range(len(use)):
        use[any_place] *= FORGET
    return 0.0 if nearest < 0 else distance


@compiled
def _tail(counts: Any, total: int, distance: float) -> float:
    """-log10 of the probability of at least this distance, which is then counted."""
    octaves = math.log2(max(distance, 1e-12))
    at = (octaves - LOWEST) * BINS_AN_OCTAVE + 1
    place = int(min(max(math.floor(at), 0), BINS - 1))
    surprise = 0.0
    if total > 10 and distance >= NOTHING:
        above, log_excess, edge = 0.0, 0.0, BINS - 1
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
def _one_an_episode(s: Any, count: int, surprise: float) -> float:
    """The surprise where it exceeds all of the last stretch, else 0."""
    s[_PEAK_AGE] += 1
    s[_NEXT_AGE] += 1
    if s[_PEAK_AGE] > min(REST * count, REST_MAX):
        s[_PEAK], s[_PEAK_AGE] = s[_NEXT], s[_NEXT_AGE]
        s[_NEXT] = s[_NEXT_AGE] = 0.0
    if surprise > s[_PEAK]:
        s[_PEAK] = surprise
        s[_PEAK_AGE] = s[_NEXT] = s[_NEXT_AGE] = 0.0
        return surprise
    if surprise > s[_NEXT]:
        s[_NEXT], s[_NEXT_AGE] = surprise, 0.0
    return 0.0
