"""Whether a flow goes on or has stopped: two stories weighed against each other, look by look, and how much is enough.

The evidence is the logarithm of their odds, begun anew at 0 (Page's CUSUM): it rises with every event that was to be expected
and falls with every one that came. By Lundberg's inequality the sum of a healthy flow climbs to h after an event with
probability e^-rh at most, so the limit holds a stated number of false alarms. While nothing speaks for a stop it is learned how
busy the day is and in what clumps events come. Sources: see `absence`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from processors import columns
from processors.steps.seasonal import Floats
from processors.steps.silences import Clock, Flags, State
from processors.which import Which, both, only, which
from schemas.calendar import HOUR_MS

LEFT_MAX = 0.5  # of a silence: with more nothing would end it
CLUMP_LOOKS = 200  # over which clumps are remembered
CLUMP_DUE_MAX = 20.0
LEVEL_MS, LEVEL_LOOKS = 120_000, 20  # over which the level of the day is remembered, whichever is longer
USUAL_MIN = 0.001  # events that were usual; what came instead of fewer tells no level
EVENTS_MIN = 1_000.0  # a flow that has fewer a week is held for one that has so many


@dataclass(frozen=True)
class Odds:
    """The two stories: events come at the usual rate, of which a share is counted on (`caution`), or a share is `left`."""

    left: float
    caution: float
    false_alarm_weeks: float
    healthy_factor: float

    @cached_property
    def gain(self) -> float:
        """Evidence of one usual event that did not come."""
        return self.caution * (1 - self.left)

    @cached_property
    def loss(self) -> float:
        """Evidence that one event takes away."""
        return -math.log(self.left)

    def since_told(self, arrays: columns.Arrays, told: Flags) -> tuple[Floats, Floats]:
        """`gain` and `loss` by stream: of a silence that was told, the share that came during it is what is left."""
        share = (arrays["low_came"] + 0.5) / (arrays["low_usual"] / self.caution + 1.0)
        left = np.where(told, np.minimum(np.maximum(share, self.left), LEFT_MAX), self.left)
        return self.caution * (1 - left), -np.log(left)

    @cached_property
    def exponent(self) -> float:
        """Lundberg's: the root of `gain` r = 1 - `left`^r, beyond which the sum of a healthy flow is exponentially rare."""
        root = 1.0 / self.gain
        for _ in range(50):
            root = (1 - self.left**root) / self.gain
        return root

    def least(self, state: State, means: Floats) -> Floats:
        """By stream: the evidence that a Poisson flow of so many events a week, in clumps, reaches as seldom as is wanted.

        `means` are the sums of what the hours of the week bring, a ms.
        """
        a_week = np.maximum(means * HOUR_MS, EVENTS_MIN)
        limit: Floats = np.log(self.false_alarm_weeks * a_week * len(state.streams)) / self.exponent
        return limit * state.clumps()

    def enough(self, least: Floats, healthy: Floats) -> Floats:
        """By stream: the evidence that is told, also after the highest that health has had."""
        limit: Floats = np.maximum(least, self.healthy_factor * healthy)
        return limit


def weigh(
    odds: Odds, state: State, clock: Clock, came: Floats, measured: Flags, elapsed_ms: int, forget_ms: int
) -> None:
    """Add up what speaks for a stop and what against it; learn how busy the day is while nothing does."""
    arrays = state.arrays
    # What came between two looks came in open time only if both were in it.
    works, now = which(clock.works & (arrays["worked"] > 0)), clock.works
    np.copyto(arrays["worked"], now)
    if not elapsed_ms:
        return
    something = measured & (came > 0)
    seen = which(measured)
    # What is usual is learned whenever it is open; what waited at both looks was to be expected between them.
    is_open = both(seen, works)
    looked = both(is_open, _awaited(arrays, clock))
    if np.count_nonzero(arrays["spared_ms"]):
        arrays["spared_ms"] = np.maximum(arrays["spared_ms"] - elapsed_ms, 0.0)
    open_ms, looked_ms = (only(flags, float(elapsed_ms)) for flags in (is_open, looked))
    level = _level(arrays)
    due = _rate(arrays, clock, level) * looked_ms
    told = arrays["told"] > 0 if np.count_nonzero(arrays["told"]) else None
    events = only(seen, came)
    arrays["due"] += due
    arrays["came"] += only(looked, came)
    if np.count_nonzero(waits := arrays["waits"] == 1) or np.count_nonzero(arrays["waited_ms"]):
        arrays["waited_ms"] = np.where(waits, arrays["waited_ms"] + elapsed_ms, 0.0)
    # Bounded, so that the end is seen within a few events.
    most = 1.25 * clock.limit
    gain: Floats | float = odds.gain
    loss: Floats | float = odds.loss
    if told is not None:
        most = np.where(told, 1.15 * clock.least, most)
        gain, loss = odds.since_told(arrays, told)
    missed = arrays["missed"] + (gain * due - loss * events)
    missed = arrays["missed"] = np.minimum(np.maximum(missed, 0.0), most)
    low, was_low_ms = missed > 0, arrays["low_ms"]
    for name, more in (("low_ms", looked_ms), ("low_usual", odds.caution * due), ("low_came", events)):
        arrays[name] = np.where(low, arrays[name] + more, 0.0)
    silent_ms = arrays["silent_ms"] + looked_ms
    arrays["silent_ms"] = np.where(something, 0.0, silent_ms)
    _learn_hour(arrays, only(is_open, events), open_ms, only(looked, arrays["silent_ms"]))
    teaches = something & (missed <= most / 4)
    _learn_level(state, clock, events, open_ms, something, teaches if is_open is True else teaches & is_open)
    if np.count_nonzero(clock.known):
        calm = both(looked, clock.known & ~clock.edge & (missed <= most / 2))
        _learn_clumps(odds, arrays, only(calm, clock.usual * level * elapsed_ms), events)
    # When people come to work the clock begins at nought; a silence that was told goes on until enough comes.
    if works is not True:
        begins = ~works if told is None else ~works & ~told
        for name in ("missed", "low_ms", "low_usual", "low_came", "silent_ms", "since_usual"):
            arrays[name][begins] = 0.0
    gone = arrays["silent_ms"] > forget_ms
    arrays["seen"] += something
    arrays["seen"][gone] = 0
    if told is not None:
        arrays["told"][(missed < clock.least / 2) | gone] = 0
        for slot in np.flatnonzero(told & (arrays["told"] == 0) & ~gone).tolist():
            _spare_what_follows(state, slot, was_low_ms)


def _awaited(arrays: columns.Arrays, clock: Clock) -> Which:
    """The streams of which something is to be expected now: nothing of what is spared, nor where nothing waits that has to."""
    awaited: Which = True
    if np.count_nonzero(clock.needs_gate):
        awaited = ~clock.needs_gate | (arrays["waited_ms"] > 0) & (arrays["waits"] == 1)
    return both(awaited, arrays["spared_ms"] <= 0) if np.count_nonzero(arrays["spared_ms"]) else awaited


def _spare_what_follows(state: State, slot: int, low_ms: Floats) -> None:
    """A flow has come back. What it did not bring is missing further down the way for as long: a hole that travels."""
    arrays, back = state.arrays, state.streams[slot]
    hole_ms = low_ms[slot]
    for other, stream in enumerate(state.streams):
        if stream.tenant != back.tenant or not stream.follows(back) or low_ms[other] > hole_ms:
            continue
        arrays["spared_ms"][other] = max(arrays["spared_ms"][other], hole_ms)
        arrays["told"][other] = 0
        arrays["missed"][other] = 0.0


def _level(arrays: columns.Arrays) -> Floats:
    """How busy the day is: events in those that were usual."""
    usual: Floats = arrays["usual"]
    return np.divide(arrays["arrivals"], usual, out=np.ones_like(usual), where=usual > USUAL_MIN)


def _rate(arrays: columns.Arrays, clock: Clock, level: Floats) -> Floats:
    """Events a ms that are to be expected: on a quiet day fewer; of an hour not known yet as many as came of late."""
    known = np.count_nonzero(clock.known)
    foreseen: Floats = clock.usual * np.minimum(level, 1.0)
    if known == level.size:
        return foreseen
    time_ms = arrays["time_ms"]
    recent = np.divide(arrays["arrivals"], time_ms, out=np.zeros_like(level), where=time_ms > 0)
    return np.where(clock.known, foreseen, recent) if known else recent


def _learn_hour(arrays: columns.Arrays, events: Floats, open_ms: Floats | float, silent_ms: Floats) -> None:
    """What the present hour brings, and its longest silence while something was to be expected."""
    arrays["hour_sum"] += events
    arrays["hour_ms"] += open_ms
    arrays["worst"] = np.maximum(arrays["worst"], arrays["missed"])
    within = np.minimum(silent_ms, arrays["hour_ms"])  # what was silent before belongs to the hours before
    arrays["worst_ms"] = np.maximum(arrays["worst_ms"], within)


def _learn_level(
    state: State, clock: Clock, events: Floats, open_ms: Floats | float, something: Flags, teaches: Flags
) -> None:
    """The level of the day: that of the last twenty looks that brought something, two minutes at least.

    Rare looks bring hundreds of events, and twenty of them are half a day, in which the level has changed: an hour that has
    twenty clumps of events is enough. An hour that is not known yet says nothing of the level.
    """
    arrays = state.arrays
    arrays["since_usual"] += clock.usual * open_ms
    arrays["since_ms"] += open_ms
    if np.count_nonzero(teaches):
        since_ms, usual = arrays["since_ms"], np.where(clock.known, arrays["since_usual"], events)
        enough = np.minimum(since_ms / HOUR_MS, events / (LEVEL_LOOKS * state.clumps()))
        keep = np.exp(-np.minimum(since_ms / LEVEL_MS, np.maximum(1 / LEVEL_LOOKS, enough)))
        for name, more in (("arrivals", events), ("usual", usual), ("time_ms", since_ms)):
            np.copyto(arrays[name], arrays[name] * keep + more, where=teaches)
    for name in ("since_usual", "since_ms"):
        np.copyto(arrays[name], 0.0, where=something)


def _learn_clumps(odds: Odds, arrays: columns.Arrays, due: Floats, events: Floats) -> None:
    """How many events come at once: the variance of counts over their mean, without that of a rate that wanders.

    Only looks at which few were due tell: the more, the more it is the rate that scatters. As people come and leave, less is
    counted on than comes, which is no clump either.
    """
    counts = (due > 0) & (due <= CLUMP_DUE_MAX)
    if not np.count_nonzero(counts):
        return
    scatter = (events - due) ** 2 - ((1 - odds.caution) * due) ** 2
    for name, more in (("scatter", scatter), ("scatter_of", due)):
        np.copyto(arrays[name], arrays[name] * (1 - 1 / CLUMP_LOOKS) + more, where=counts)
