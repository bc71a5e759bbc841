"""Error budgets and their burn rates, over cumulative counts: the core of the step `burn_rate` and of `slo eval`.

Time is cut in steps (a minute). Of every group (a tenant) is known how many bad and all events, and how much measured
time, had come by the end of each step. A window's counts are those that began at or after its begin and were known by
its end; what a young series has not seen yet is not missed, and no events are no verdict, as in Prometheus. Counts are
whole numbers (millionths of an event), so their sums are exact, whatever the order.

History is kept in rings, one a grain: windows of up to six hours move by a step, longer ones by a 288th of themselves
(1 d: 5 min, 3 d: 15 min, 30 d: 2.5 h), so a group takes about 30 KB however busy it is. `slo eval` moves all windows by
a step.

Sources: the burn-rate rules see `schemas.burn_rates`; few events: a window's bad share is above the limit beyond chance
by the Chernoff-Hoeffding bound, n KL(k/n, limit) >= ln(1/chance) (Hoeffding 1963, theorem 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from processors.columns import Arrays, wider
from schemas.burn_rates import SEVERITIES, WORKBOOK, BurnRate
from schemas.openslo import BudgetingMethod
from schemas.slo import Period, Target

Counts = NDArray[np.int64]  # (..., 3, groups): bad, total, measured ms
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


EVENT = 1_000_000  # an event in counts
BAD, TOTAL, MEASURED = 0, 1, 2
SMALL = ("raw", "stepped", "counted", "slice_from", "period_from", "legs")  # arrays of a track
MEASURED_SHARE = 0.5  # less of a short window than this is unmeasured


class Late(NamedTuple):
    """Counts over a long time: they belong only to windows that hold all of it."""

    group: int
    since_ms: int
    until_ms: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Terms:
    """What a budget is judged by. `moves` is how often a long window moves at least while it passes."""

    target: Target
    period: Period
    step_ms: int = 60_000
    offset_ms: int = 0  # time at which step 0 ends, Unix ms
    moves: int = 288
    chance: float | None = None
    freezes: bool = False
    rules: tuple[BurnRate, ...] = WORKBOOK

    @property
    def budget(self) -> float:
        """Share of events that may be bad."""
        return self.target.budget

    def time_ms(self, step: int) -> int:
        """When a step ends, Unix ms."""
        return step * self.step_ms + self.offset_ms

    def lengths_ms(self) -> list[int]:
        """All windows, the period of a rolling budget among them."""
        burn = {length for rule in self.rules for length in (rule.short_ms, rule.long_ms)}
        return sorted(burn | ({self.period.length_ms} if self.period.start is None else set()))

    def grain(self, length_ms: int) -> int:
        """By how many steps a window moves."""
        return max(1, length_ms // (self.moves * self.step_ms))

    def places(self, length_ms: int) -> int:
        """How many grains a window is long, at least one."""
        return max(1, length_ms // (self.grain(length_ms) * self.step_ms))


@dataclass
class Burning:
    """The verdict at some steps: by severity where it burns, by window what it held."""

    alerts: dict[str, Flags]
    legs: Flags  # (steps, rules, groups)
    sums: dict[int, Counts]


class Track:
    """The budget of one objective, for its groups."""

    def __init__(self, terms: Terms, groups: int = 0, block: int = 1) -> None:
        self.terms, self.step = terms, -1
        self._rings: dict[int, Counts] = {}
        for length in terms.lengths_ms():
            grain, rows = terms.grain(length), terms.places(length) + block // terms.grain(length) + 2
            if grain not in self._rings or len(self._rings[grain]) < rows:
                self._rings[grain] = np.zeros((rows, 3, groups), np.int64)
        # Counted so far: now, by the last step, in events of the budgeting method, and before the slice that is open.
        self.raw = np.zeros((3, groups), np.int64)
        self.stepped = np.zeros((3, groups), np.int64)
        self.counted = np.zeros((3, groups), np.int64)
        self.slice_from = np.zeros((3, groups), np.int64)
        self.period_from, self.period_ms = np.zeros((3, groups), np.int64), -1
        self.legs = np.zeros((len(terms.rules), groups), bool)

    def grow(self, groups: int) -> None:
        """Make room for so many groups."""
        more = groups - self.raw.shape[-1]
        if more > 0:
            for name in SMALL:
                setattr(self, name, wider(getattr(self, name), more))
            self._rings = {grain: wider(ring, more) for grain, ring in self._rings.items()}

    def add(self, group: int, counts: Counts) -> None:
        """Count for a group what came since the last step."""
        self.raw[:, group] += counts

    def advance_to(self, step: int, late: Iterable[Late] = ()) -> Burning:
        """Go on to a step, judged by what `add` has counted; between it and the last one nothing came."""
        first = step if self.step < 0 else max(self.step + 1, step - self._rows_max())
        steps = np.arange(first, step + 1)
        reached = np.repeat(self.stepped[None], steps.size, 0)
        reached[-1] = self.raw
        return self.advance(steps, reached, reached, late)

    def advance(self, steps: Counts, reached: Counts, began: Counts, late: Iterable[Late] = ()) -> Burning:
        """Go on over consecutive steps.

        By each step, `reached` counts what was known at its end and `began` what had begun before it.
        """
        self.raw, self.stepped = reached[-1].copy(), reached[-1].copy()
        if self.terms.target.method is not BudgetingMethod.OCCURRENCES:
            reached = began = self._slices(steps, reached)
            late = ()
        self._write(steps, began)
        for one in late:
            self._backdate(one, int(steps[-1]))
        self._begin_period(steps, began)
        self.step, self.counted = int(steps[-1]), reached[-1].copy()
        return self._judge(steps, reached)

    def in_period(self) -> Counts:
        """What the budget's period holds now: (bad, total, measured ms) by group."""
        if self.terms.period.start is not None:
            return self.counted - self.period_from
        held: Counts = (self.counted - self._base(np.array([self.step]), self.terms.period.length_ms))[0]
        return held

    def left(self) -> Floats:
        """Share of the period's budget that is left, by group; below 0 when it is overspent, NaN without events."""
        held = self.in_period()
        with np.errstate(divide="ignore", invalid="ignore"):
            spent: Floats = held[BAD] / (held[TOTAL] * self.terms.budget)
        return 1 - np.where(held[TOTAL] > 0, spent, np.nan)

    def small(self) -> Arrays:
        """What changes with every step, without the history."""
        return {name: getattr(self, name) for name in SMALL}

    @property
    def rings(self) -> dict[int, Counts]:
        """The history by grain, in steps."""
        return self._rings

    @classmethod
    def restored(cls, terms: Terms, small: Arrays, rings: dict[int, Counts], step: int, period_ms: int) -> Track:
        """The track that gave these."""
        track = cls(terms)
        for name in SMALL:
            setattr(track, name, small[name])
        track._rings, track.step, track.period_ms = rings, step, period_ms
        return track

    def _rows_max(self) -> int:
        return max(grain * (len(ring) - 2) for grain, ring in self._rings.items())

    def _write(self, steps: Counts, began: Counts) -> None:
        for grain, ring in self._rings.items():
            on = steps % grain == 0
            rows = steps[on] // grain
            fresh = rows > rows[-1] - len(ring) if rows.size else on[:0]
            ring[rows[fresh] % len(ring)] = began[on][fresh]

    def _backdate(self, late: Late, step: int) -> None:
        for grain, ring in self._rings.items():
            length = grain * self.terms.step_ms
            last = min(-(-late.until_ms // length), step // grain + (step % grain > 0))
            first = max(late.since_ms // length + 1, step // grain - len(ring) + 2)
            if first < last:
                ring[np.arange(first, last) % len(ring), :, late.group] += late.counts

    def _base(self, steps: Counts, length_ms: int) -> Counts:
        grain = self.terms.grain(length_ms)
        ring = self._rings[grain]
        base: Counts = ring[(steps // grain - self.terms.places(length_ms)) % len(ring)]
        return base

    def _slices(self, steps: Counts, reached: Counts) -> Counts:
        """Slices of time as events: good or bad as a whole, or bad by their share of bad events. Empty ones are none."""
        target, counted = self.terms.target, np.repeat(self.counted[None], steps.size, 0)
        counted[:, MEASURED] = reached[:, MEASURED]
        ends = np.flatnonzero(steps * self.terms.step_ms % target.slice_ms == 0)
        if ends.size:
            held = np.diff(reached[ends], axis=0, prepend=self.slice_from[None])
            self.slice_from = reached[ends[-1]].copy()
            any_event = held[:, TOTAL] > 0
            share = np.divide(held[:, BAD], held[:, TOTAL], out=np.zeros(any_event.shape), where=any_event)
            if target.method is BudgetingMethod.TIMESLICES:
                share = np.where(share > round(1 - target.slice_target, 12), 1.0, 0.0)
            after = np.searchsorted(ends, np.arange(steps.size), side="right")
            for place, events in ((BAD, np.rint(share * EVENT)), (TOTAL, any_event * EVENT)):
                sums = np.concatenate((np.zeros((1, share.shape[1])), np.cumsum(events, 0))).astype(np.int64)
                counted[:, place] += sums[after]
        return counted

    def _begin_period(self, steps: Counts, began: Counts) -> None:
        start_ms = self.terms.period.begin(self.terms.time_ms(int(steps[-1])))
        if start_ms is not None and start_ms != self.period_ms:
            place = int(np.searchsorted(steps * self.terms.step_ms + self.terms.offset_ms, start_ms))
            if self.period_ms >= 0 or place > 0:
                self.period_from = began[min(place, steps.size - 1)].copy()
            self.period_ms = start_ms

    def _judge(self, steps: Counts, reached: Counts) -> Burning:
        terms = self.terms
        lengths = sorted({length for rule in terms.rules for length in (rule.short_ms, rule.long_ms)})
        sums = {length: reached - self._base(steps, length) for length in lengths}
        legs = _legs(terms, sums)
        if terms.freezes:
            known = np.stack([_is_measured(sums[rule.short_ms], rule.short_ms) for rule in terms.rules], axis=1)
            legs = _held(legs, known, self.legs)
        self.legs = legs[-1].copy()
        alerts: dict[str, Flags] = {
            severity: np.any(legs[:, [rule.severity == severity for rule in terms.rules]], axis=1)
            for severity in SEVERITIES
        }
        return Burning(alerts, legs, sums)


def limit(terms: Terms, rule: BurnRate) -> float:
    """Share of bad events above which a window burns by a rule."""
    return rule.factor(terms.period.length_ms) * terms.budget


def ratio(sums: Counts, length_ms: float | Floats = 1_000) -> Floats:
    """Share of bad events in a window, or in each of several, NaN where there were none.

    It is one rate a second over the other, as Prometheus rounds them: a share that stands just at a limit falls alike.
    """
    rates = sums[..., :MEASURED, :] / EVENT * (1000 / length_ms)
    bad, total = rates[..., BAD, :], rates[..., TOTAL, :]
    share: Floats = np.divide(bad, total, out=np.full(total.shape, np.nan), where=total > 0)
    return share


def doubt(sums: Counts, share: float) -> Floats:
    """Upper bound of the probability of so many bad events if a share of all were bad; 1 where there are not more."""
    events, seen = sums[..., TOTAL, :] / EVENT, ratio(sums)
    above = seen > share
    with np.errstate(divide="ignore", invalid="ignore"):
        good = np.where(seen < 1, (1 - seen) * np.log((1 - seen) / (1 - share)), 0.0)
        distance = seen * np.log(seen / share) + good
    return np.where(above, np.exp(-events * np.where(above, distance, 0.0)), 1.0)


def exhaustion_ms(left: float, burn: float, period_ms: int) -> int | None:
    """How long the budget that is left lasts at a burn rate, ms; 0 when it is gone, None when nothing burns."""
    if math.isnan(left) or math.isnan(burn) or (burn <= 0 < left):
        return None
    return 0 if left <= 0 else round(left * period_ms / burn)


def intervals(flags: Flags, steps: Counts, so_far: list[list[int]]) -> None:
    """Add runs of steps that burn to [[first, last], ...], joining the last one when it goes on."""
    burning = steps[flags]
    if not burning.size:
        return
    cuts = np.flatnonzero(np.diff(burning) > 1) + 1
    for run in np.split(burning, cuts):
        if so_far and int(run[0]) == so_far[-1][1] + 1:
            so_far[-1][1] = int(run[-1])
        else:
            so_far.append([int(run[0]), int(run[-1])])


def _legs(terms: Terms, sums: dict[int, Counts]) -> Flags:
    """By step, rule and group, whether it burns."""
    limits = [limit(terms, rule) for rule in terms.rules]
    place = {length: number for number, length in enumerate(sums)}
    lengths = np.array(list(sums), np.float64)[:, None, None, None]
    shares = ratio(np.stack(list(sums.values())), lengths)
    short = shares[[place[rule.short_ms] for rule in terms.rules]]
    long = shares[[place[rule.long_ms] for rule in terms.rules]]
    burns: Flags = np.minimum(short, long) > np.array(limits)[:, None, None]
    if terms.chance is not None:
        for rule, share, leg in zip(terms.rules, limits, burns, strict=True):
            if share < 1 and leg.any():
                leg &= doubt(sums[rule.long_ms], share) <= terms.chance
    return burns.swapaxes(0, 1)


def _is_measured(sums: Counts, length_ms: int) -> Flags:
    measured: Flags = sums[..., MEASURED, :] >= MEASURED_SHARE * length_ms
    return measured


def _held(now: Flags, known: Flags, before: Flags) -> Flags:
    """Where it is unknown, the last known verdict."""
    places = np.where(known, np.arange(1, len(now) + 1)[:, None, None], 0)
    last = np.maximum.accumulate(places, axis=0)
    every: Flags = np.concatenate((before[None], now))
    held: Flags = np.take_along_axis(every, last, axis=0)
    return held


def group_counts(bad: float, total: float, measured_ms: float) -> Counts:
    """Counts of a group."""
    counts: Counts = np.rint(np.array([bad * EVENT, total * EVENT, measured_ms])).astype(np.int64)
    return counts
