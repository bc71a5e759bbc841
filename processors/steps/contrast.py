"""How far those who got a change have moved beside those who did not: difference in differences, in logs.

Each series is compared with its own past, less what the week's profile expects to move, less what the same series of the
tenants without the change has moved. The common shock is shrunk by how noisy the controls are and by how far the series
wanders anyhow (empirical Bayes, after James & Stein 1961), so a lone quiet control does not drown the effect and a
shock that hits all is nobody's fault. Without controls the series' own wandering takes their place.

Sources: difference in differences, Card & Krueger (1994); why its errors need long-run variances and placebos, Bertrand,
Duflo & Mullainathan (2004). Evidence by `always_valid`, so every moment may be looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from processors import columns
from processors.steps import always_valid
from processors.steps.hours import Weeks
from processors.steps.ledger import BATCHES, Floats, Ledger, Past
from processors.steps.outcomes import GROUPS
from schemas.calendar import HOUR_MS, MINUTE_MS

Mask = NDArray[np.bool_]
DOUBLING = math.log(2.0)  # effects that are looked for are of the order of a doubling
BATCHES_MIN = 2
HARMLESS_TIMES = 5.0  # an effect is fine up to so many times what matters once it is evident
SMALL = math.log(1.25)  # the interval is narrowest for effects of the order of what matters


@dataclass
class Since:
    """What came after a moment, by slot: amount and weight as in a batch, looks that brought something."""

    amount: Floats
    weight: Floats
    hits: Floats

    @classmethod
    def none(cls, width: int) -> Since:
        """Nothing yet."""
        return cls(np.zeros(width), np.zeros(width), np.zeros(width))

    def grown(self, more: int) -> Since:
        """With room for more slots."""
        return Since(*(columns.wider(one, more) for one in vars(self).values()))

    def kept(self, stays: Mask) -> Since:
        """Of some slots."""
        return Since(*(one[stays] for one in vars(self).values()))

    def forget(self, slots: Mask | NDArray[np.intp]) -> None:
        """As if nothing had come of these."""
        for column in vars(self).values():
            column[slots] = 0.0


class Margin(NamedTuple):
    """Smallest relative effects that matter, of a level and of a count."""

    of_level: float
    of_count: float


class Question(NamedTuple):
    """Who got the change, who may stand beside them, and when."""

    treated: Mask
    controls: Mask
    started_ms: int
    since_ms: int
    at_ms: int
    alpha: float


class Contrast(NamedTuple):
    """One row a treated series, then one a `pool` over all of them (`slot` -1).

    `shift` is the effect as a log ratio, bad if positive; `low` and `high` enclose it but for alpha. `observed` and `expected` are in
    the metric's unit (of a count: a second).
    """

    slot: NDArray[np.intp]
    metric: list[str]
    pool: list[str]
    group: list[str]
    is_count: Mask
    sign: Floats
    shift: Floats
    low: Floats
    high: Floats
    log_e: Floats
    observed: Floats
    expected: Floats
    weight: Floats
    fine: Mask
    worse: Mask
    controls: tuple[str, ...]
    questions: int
    """Rows that are not another once more: a pool of one is its only member."""
    alpha: float
    """How rarely `low` and `high` may fail to enclose the effect."""


class _Rows(NamedTuple):
    """What is known of each row before it is judged."""

    shift: Floats
    noise: Floats
    own: Floats
    common: Floats
    freedom: Floats
    weight: Floats
    events: Floats
    foreseen: Floats
    clumps: Floats
    least: Floats
    matters: Floats
    sign: Floats
    is_count: Mask
    hits: Floats
    reference: Floats

    @property
    def variance(self) -> Floats:
        """Of the shift."""
        return self.noise + self.own + self.common

    @property
    def doubt(self) -> Floats:
        """About what was to be expected, relative."""
        return np.maximum(self.own + self.common, 1e-9)


def contrast(ledger: Ledger, past: Past, since: Since, ask: Question, weeks: Weeks, margin: Margin) -> Contrast | None:
    """Compare; None when nothing of those who got the change was measured both before and after."""
    known = (since.weight > 0) & (past.batches >= BATCHES_MIN)
    treated = np.flatnonzero(known & ask.treated)
    if treated.size == 0:
        return None
    season, unsure = _season(ledger, weeks, ask)
    mean = since.amount / np.where(since.weight > 0, since.weight, 1.0)
    then = ledger.logs(past.mean, past.weight)
    moved = np.where(known, _moved(ledger, since, mean, then + season), 0.0)
    noise, before = ledger.noise(past, mean, since.weight), ledger.noise(past, past.mean, past.weight)
    apart_ms = (ask.at_ms - ask.since_ms) / 2 + BATCHES * MINUTE_MS / 2
    stretch = min(max(apart_ms / (10 * MINUTE_MS), 0.5), 6.0)
    shock = _shock(ledger, moved, noise + before, known & ask.controls, stretch)
    reference = then + season + shock.size
    foreseen = np.exp(np.where(ledger.is_count, reference, 0.0)) * since.weight
    # However far the others have fallen, no level is to be expected below nought.
    below = np.where(ledger.is_count | ~known, 0.0, np.maximum(np.log(ledger.least) - reference, 0.0))
    rows = _Rows(
        shift=moved - shock.size - below,
        noise=noise,
        own=before + shock.own,
        common=shock.common + unsure,
        freedom=np.maximum(past.batches - 1.0, 1.0),
        weight=since.weight,
        events=since.amount,
        foreseen=foreseen,
        clumps=ledger.clumps(past),
        least=ledger.least,
        matters=ledger.matters(past),
        sign=ledger.sign,
        is_count=ledger.is_count,
        hits=since.hits,
        reference=reference + below,
    )
    own = _Rows._make(column[treated] for column in rows)
    members = [ledger.slots[slot].pool for slot in treated]
    pooled, names = _pool(own, members)
    joined = _Rows._make(np.concatenate(pair) for pair in zip(own, pooled, strict=True))
    one_of = {ledger.slots[slot].pool: ledger.slots[slot] for slot in treated}
    several = sum(members.count(name) > 1 for name in names)
    about = _About(
        slot=np.concatenate((treated, np.full(len(names), -1))).astype(np.intp),
        metric=[one_of[name].series.name for name in (*members, *names)],
        pool=[*members, *names],
        group=[one_of[name].outcome.group for name in (*members, *names)],
        controls=_names(ledger, known & ask.controls, treated),
        questions=len(members) + several,
    )
    return _judge(joined, about, margin, ask.alpha)


class _About(NamedTuple):
    """What each row is of, and what it stands beside."""

    slot: NDArray[np.intp]
    metric: list[str]
    pool: list[str]
    group: list[str]
    controls: tuple[str, ...]
    questions: int


def _moved(ledger: Ledger, since: Since, mean: Floats, usual: Floats) -> Floats:
    """How far each series lies from its own usual, in logs; half an event on both sides keeps short counts near 0."""
    foreseen = np.exp(np.where(ledger.is_count, usual, 0.0)) * since.weight
    counted = np.log((np.where(ledger.is_count, since.amount, 0.0) + 0.5) / (foreseen + 0.5))
    return np.where(ledger.is_count, counted, mean - usual)


def _season(ledger: Ledger, weeks: Weeks, ask: Question) -> tuple[Floats, Floats]:
    """How far the profile expects the time after to lie from the time before, in logs, and the variance of that.

    A profile of hours does not say what comes within one: in the hour in which a shift begins, twice as much may come in its first half.
    Where the profile rises or falls to the hours beside, it may be wrong by about as much as it moves in half an hour.
    """
    middle = (ask.since_ms + ask.at_ms) // 2
    before = ask.started_ms - BATCHES * MINUTE_MS // 2
    after, then = (_around(ledger, weeks, time_ms) for time_ms in (middle, before))
    return np.nan_to_num(after[1] - then[1]), _steepness(after) ** 2 + _steepness(then) ** 2


def _around(ledger: Ledger, weeks: Weeks, time_ms: int) -> Floats:
    return np.array([ledger.expected(weeks, time_ms + by) for by in (-HOUR_MS // 2, 0, HOUR_MS // 2)])


def _steepness(levels: Floats) -> Floats:
    steepness: Floats = np.nan_to_num(np.abs(np.diff(levels, axis=0)).mean(axis=0))
    return steepness


class _Shock(NamedTuple):
    """What all have moved, by slot; the doubt about it that is common to all series, and what each may have moved by itself."""

    size: Floats
    common: Floats
    own: Floats


def _shock(ledger: Ledger, moved: Floats, variance: Floats, controls: Mask, stretch: float) -> _Shock:
    wander, apart = ledger.drift(apart=False) * stretch, ledger.drift(apart=True) * stretch
    width = int(ledger.kin.max()) + 1
    precision = np.where(controls, 1.0 / (variance + apart), 0.0)
    total = np.bincount(ledger.kin, weights=precision, minlength=width)[ledger.kin]
    drawn = np.bincount(ledger.kin, weights=precision * moved, minlength=width)[ledger.kin]
    has = total > 0
    seen = np.divide(drawn, total, out=np.zeros_like(moved), where=has)
    noise = np.divide(1.0, total, out=np.ones_like(moved), where=has)
    spread = np.where(has, np.maximum(wander, seen * seen - noise), wander)
    share = np.where(has, spread / (spread + noise), 0.0)
    return _Shock(share * seen, (1.0 - share) * spread, np.where(has, apart, 0.0))


def _pool(rows: _Rows, pools: list[str]) -> tuple[_Rows, list[str]]:
    """One row a pool: counts added up, levels weighted by their precision."""
    names = list(dict.fromkeys(pools))
    member = np.array([names.index(name) for name in pools], np.intp)
    width = len(names)

    def total(values: Floats) -> Floats:
        added: Floats = np.bincount(member, weights=values, minlength=width).astype(np.float64)
        return added

    precision = 1.0 / (rows.noise + rows.own)
    number, count = total(np.ones_like(rows.weight)), total(rows.is_count.astype(float)) > 0
    weighted = total(rows.shift * precision) / total(precision)
    foreseen, events = total(rows.foreseen), total(rows.events)
    whole = np.maximum(foreseen, 1e-300)
    weight = total(rows.weight) / number
    came, safe = np.where(count, events, 0.0), np.where(count, foreseen, 0.0)
    return _Rows(
        shift=np.where(count, np.log((came + 0.5) / (safe + 0.5)), weighted),
        noise=np.where(count, total(rows.clumps) / number / (came + 0.5), 1.0 / total(precision)),
        own=np.where(count, total(rows.own * rows.foreseen**2) / whole**2, 0.0),
        # What is in doubt about all members alike does not average out.
        common=np.where(count, total(rows.common * rows.foreseen) / whole, total(rows.common) / number),
        freedom=total(rows.freedom) / number,
        weight=weight,
        events=events,
        foreseen=foreseen,
        clumps=total(rows.clumps) / number,
        least=total(rows.least) / number,
        matters=total(rows.matters) / number,
        sign=total(rows.sign) / number,
        is_count=count,
        hits=total(rows.hits),
        reference=total(rows.reference * precision) / total(precision),
    ), names


def _judge(rows: _Rows, about: _About, margin: Margin, alpha: float) -> Contrast:
    count = rows.is_count
    matters = np.where(count, margin.of_count, margin.of_level)
    limit = np.log1p(matters)
    events, foreseen = rows.events / rows.clumps, rows.foreseen / rows.clumps
    more = 2.0 * foreseen + rows.least * rows.weight / rows.clumps
    believed = np.where(rows.sign > 0, more, 0.25 * foreseen)
    doubt = rows.doubt
    by_shift = always_valid.shift(rows.shift, rows.variance, rows.freedom, DOUBLING)
    by_count = always_valid.count(np.where(count, events, 0.0), np.where(count, foreseen, 1.0), 1.0 / doubt, np.where(count, believed, 1.0))  # fmt: skip
    half = always_valid.half_width(rows.variance, rows.freedom, np.where(count, DOUBLING, SMALL), alpha)
    shift = rows.shift * rows.sign
    rate = np.where(count, rows.foreseen / np.where(count, rows.weight, 1.0), 0.0)
    worst = _worst_excess(rows, np.where(count, events, 0.0), np.where(count, believed, 1.0), rate, alpha)
    # Of what is seldom done, a tenth that fails is as long not excluded as it takes to see several.
    harmless = np.minimum(rows.least, HARMLESS_TIMES * rows.matters)
    by_rate = count & (worst <= np.maximum(harmless, matters * rate))
    observed = np.where(
        count, rows.events / np.maximum(rows.weight, 1e-9), np.exp(rows.reference + rows.shift) - rows.least
    )
    expected = np.where(count, rate, np.exp(rows.reference) - rows.least)
    excess = (observed - expected) * rows.sign
    enough = np.where(
        count,
        np.where(rows.sign > 0, (rows.hits >= 3) & (rows.events - rows.foreseen >= 2.5), rows.foreseen >= 10),
        rows.hits >= 3,
    )
    return Contrast(
        **about._asdict(),
        is_count=count,
        sign=rows.sign,
        shift=shift,
        low=shift - half,
        high=shift + half,
        log_e=np.where(count, by_count, by_shift),
        observed=observed,
        expected=expected,
        weight=rows.weight,
        fine=(shift + half <= limit) | by_rate | (~count & (half <= limit) & (excess <= 0)),
        alpha=alpha,
        worse=enough & (shift >= limit) & (excess >= rows.matters),
    )


def _worst_excess(rows: _Rows, events: Floats, believed: Floats, rate: Floats, alpha: float) -> Floats:
    """The most by which the rate may be worse than expected: both intervals joined (MOVER; Zou & Donner 2008)."""
    low, high = always_valid.count_bounds(events, np.maximum(believed, 1e-6), alpha)
    each = rows.clumps / np.maximum(rows.weight, 1e-9)
    from_count = np.where(rows.sign > 0, high - events, events - low) * each
    from_past = 2.0 * rate * np.sqrt(rows.doubt)
    return (events * each - rate) * rows.sign + np.hypot(from_count, from_past)


def _names(ledger: Ledger, controls: Mask, treated: NDArray[np.intp]) -> tuple[str, ...]:
    """Tenants that stood beside at least one treated series."""
    kin = set(ledger.kin[treated])
    found = {ledger.slots[slot].tenant for slot in np.flatnonzero(controls) if ledger.kin[slot] in kin}
    return tuple(sorted(name for name in found if name))


def groups_of(ledger: Ledger, mask: Mask) -> list[str]:
    """Groups of evidence that some slot of the mask belongs to, in their order."""
    found = {ledger.slots[slot].outcome.group for slot in np.flatnonzero(mask)}
    return [group for group in GROUPS if group in found]
