"""Has this series been like this before? For series of which nobody has an opinion; runs where it is asked for.

Every value is held against all that its series has been, in three ways (see `novelty`, which has the methods and their
sources), and the probability of so rare a shape is told once an episode. An episode ends when the shape is usual again.
Of a cumulative series the rate a second is looked at. Findings are informative: they say that something has never been so,
not that it is bad.

`pilothouse detect` scores files by `score`, many scrapes at a time; one at a time gives the same. State is 2,000 bytes
a series and its identity, the hours of the week included; cost about 0.6 µs a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from processors import columns
from processors.admission import Forgotten
from processors.episodes import Episodes
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from processors.steps.baseline import unit
from processors.steps.seasonal import hour_of_week
from processors.steps.slots import Slots
from schemas.calendar import MINUTE_MS, Calendar
from schemas.metrics import Kind, describe
from schemas.records import Evidence, Scrape, Severity
from schemas.words import amounts, called

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

QUARTER_MS = 15 * MINUTE_MS  # no hour of any time zone turns within one
USUAL_AGAIN = 1.0  # decades: one value in ten is as rare


class Config(StepConfig):
    """How rare is worth telling."""

    told: float = Field(0.99, gt=0, lt=1, description="Score (1 - probability of the shape) that is told.")


@dataclass
class State:
    """All series of one resource."""

    slots: Slots = field(default_factory=Slots)
    arrays: columns.Arrays = field(default_factory=dict)
    last_ms: int = -1
    start_ms: int = -1
    episodes: Episodes = field(default_factory=Episodes)

    def grow(self) -> None:
        """Make room for series that have come."""
        from processors.steps import novelty

        width = len(self.slots.identities)
        have = len(self.arrays["long"]) if self.arrays else 0
        if width > have or not self.arrays:
            added = {name: np.zeros((width - have, *shape), kind) for name, (kind, shape) in novelty.ARRAYS.items()}
            self.arrays = {name: np.concatenate((self.arrays.get(name, new[:0]), new)) for name, new in added.items()}


def score(calendar: Calendar, state: State, times_ms: Times, values: Floats, restarted: NDArray[np.bool_]) -> Floats:
    """1 - probability of each value's shape by row and series, 0 between episodes and where nothing was measured; learns.

    Rows are oldest first, each later than all before; a value is NaN where nothing was measured, and values of cumulative
    series become rates a second. `restarted` says of each row whether cumulative series began anew.
    """
    from processors.steps import novelty  # compiled, which costs time and memory where nobody asks for it

    state.grow()
    told = np.zeros(values.shape)
    hours = _hours(calendar, times_ms)
    novelty.surprises(told, values, times_ms, hours, restarted, state.slots.is_sum, *state.arrays.values())
    return np.maximum(1.0 - math.e * 10.0**-told, 0.0)


def _hours(calendar: Calendar, times_ms: Times) -> NDArray[np.int64]:
    quarters, places = np.unique(times_ms // QUARTER_MS, return_inverse=True)
    return np.array([hour_of_week(calendar, at * QUARTER_MS)[0] for at in quarters.tolist()], np.int64)[places]


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Score one scrape and learn from it. A scrape not newer than the last is passed over."""
    if isinstance(item.record, Forgotten):
        return state, _let_go(state, item.record, item.at_ms)
    scrape: Scrape = item.record
    if scrape.time_ms <= state.last_ms:
        return state, []
    places = state.slots.columns_of(scrape.series)
    raw = np.array(scrape.values, dtype=np.float64)
    values = raw if places is None else np.full(len(state.slots.identities), np.nan)
    if places is not None:
        values[places] = raw
    started = scrape.start_time_ms if scrape.start_time_ms is not None else -1
    scores = score(
        config.calendar(), state, np.array([scrape.time_ms]), values[None, :], np.array([started != state.start_ms])
    )[0]
    before_ms, state.last_ms, state.start_ms = state.last_ms, scrape.time_ms, started
    return state, _tell(config, state, scrape, before_ms, values, scores)


def _let_go(state: State, gone: Forgotten, at_ms: int) -> Findings:
    if state.slots.index.keys().isdisjoint(gone.series):
        return []
    state.slots, stays = state.slots.without(gone.series)
    state.arrays = {name: array[stays] for name, array in state.arrays.items()}
    return state.episodes.close_others(set(state.slots.index), at_ms)


def _tell(config: Config, state: State, scrape: Scrape, before_ms: int, values: Floats, scores: Floats) -> Findings:
    found: Findings = []
    slots = state.slots
    for slot in np.flatnonzero(scores > config.told).tolist():
        series, value = slots.series[slot], float(values[slot])
        metric = describe(series.name)
        text = f"{called(series)} of {series.tenant or scrape.resource} at {amounts(series.name, value)[0]}: not like this before"
        fact = Evidence(
            text=text,
            series=slots.identities[slot],
            unit=metric.observed_unit,
            value=value,
            time_ms=scrape.time_ms,
            window_ms=scrape.time_ms - before_ms if metric.kind is Kind.SUM else None,
        )
        found += state.episodes.seen(
            key=slots.identities[slot],
            time_ms=scrape.time_ms,
            cell=scrape.cell,
            detector=STEP.name,
            cause=cause_of(metric.cause or "anomaly." + series.name, series.tenant or scrape.resource),
            resource=scrape.resource,
            tenant=series.tenant,
            severity=Severity.INFO,
            score=float(scores[slot]),
            summary=text,
            evidence=(fact,),
        )
    if state.episodes.open:
        found += state.episodes.close_others(_unusual(state), scrape.time_ms)
    return found


def _unusual(state: State) -> set[str]:
    from processors.steps.novelty import present

    surprise = present(state.arrays)
    return {key for key in state.episodes.open if surprise[state.slots.index[key]] >= USUAL_AGAIN}


def pack(state: State) -> Parts:
    """The hours of the week by themselves, since they change once an hour; everything else together."""
    week = {name: array for name, array in state.arrays.items() if name in ("mean", "weeks")}
    rest = {name: array for name, array in state.arrays.items() if name not in week}
    more: dict[str, Any] = {
        "identities": state.slots.identities,
        "last_ms": state.last_ms,
        "start_ms": state.start_ms,
        "episodes": state.episodes.dump(),
    }
    return {"present": columns.pack(rest, more), "week": columns.pack(week)}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    rest, more = columns.unpack(parts["present"])
    slots = Slots()
    slots.extend(more["identities"])
    arrays = {**rest, **columns.unpack(parts["week"])[0]}
    if arrays:
        from processors.steps import novelty

        arrays = {name: arrays[name] for name in novelty.ARRAYS}
    return State(slots, arrays, more["last_ms"], more["start_ms"], Episodes.load(more["episodes"]))


ABOUT = About(
    finds="A shape that a series has never had: a value, a succession or a level that is rare in all it has been.",
    method=(
        "Each value is held against prototypes of pairs and of values beside their means, and the level against the usual "
        "level, after what the hour of the week usually brings; the distances become probabilities by their own history, "
        "and the most improbable of an episode is told."
    ),
    source=(
        "prototypes by adaptive resonance (Carpenter, Grossberg & Rosen 1991), tails by Hill (1975), probabilities "
        "averaged (Vovk & Wang 2020)"
    ),
    limits=(
        "It says that something has never been so, not that it is bad; of a series without much past, little can be rare, and "
        "what returns soon after it was told is not told again."
    ),
)
STEP = Step("shapes", Config, (Scrape, Forgotten), unit, State, step, pack, unpack, about=ABOUT)
