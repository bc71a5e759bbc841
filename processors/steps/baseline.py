"""Is a number unusual for this series, this hour and this phase of the business calendar?

Every series of a scrape is compared with its seasonal profile plus a slowly followed offset; the distance is measured in
its own scale: what it usually strays at this time of day, as much more as it has been livelier of late (see `spreads`) and, for
counts, the Poisson noise that any count has over so short a time. What lies beyond the limit in the direction that the
catalogue calls bad, by more than the departure that can matter, twice in a row, opens an episode; the series of one
cause make one signal. Learning is winsorized, so an incident does not become the new normal; while it is told, what the
series strays is hardly learned at all, so it ends when the number is back, or has been elsewhere for half a day.

A time of day that was never seen may bring several times the level so far, and after nothing anything: a series without
a past has no usual morning, and one that was only seen at rest no usual work. In an hour of the week never lived, what
waits for people may grow until their shift opens. While a declared window closes a business nothing is judged, nor right
after it, when what was held up is made good.

Sources: seasonal profile, see `seasonal`; exponentially weighted mean and variance after West (1979); winsorized
updating after Gelper, Fried & Croux (2010), Robust forecasting with exponential and Holt-Winters smoothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from processors.admission import Forgotten
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig
from processors.steps import alarms
from processors.steps.hours import Now
from processors.steps.levels import State, pack, unpack
from processors.steps.seasonal import Floats
from processors.steps.slots import Slots
from processors.steps.usual import Usual, close, has_level
from processors.values import values_of
from processors.which import Which, only, present
from schemas.metrics import Kind, describe
from schemas.records import Evidence, Record, Scrape, Severity
from schemas.series import Series
from schemas.words import amounts, called

GRAIN_CHANGE = 3.0
GRAIN_RUN = 3
WEEK_MS = 604_800_000
TOLD = 0.1  # of the rate at which the level is followed: how fast what is told becomes what the series strays
UNSEEN = 3.0  # levels: what a time of day that was never seen may bring, as one scale


class Config(StepConfig):
    """How far from the usual is too far."""

    limit: float = Field(7.0, gt=0, description="Distance that is abnormal, in scales of the series.")
    warm_up: int = Field(24, ge=2, description="Scrapes at a new series or grain that teach and are not judged.")
    follow_s: float = Field(7_200.0, gt=0, description="Time in which the offset follows a lasting change, s.")
    memory: int = Field(60, ge=5, description="Scrapes over which the noise is remembered.")
    run: int = Field(2, ge=1, description="Scrapes in a row beyond the limit that open an episode.")
    false_alarm_weeks: float = Field(
        10.0,
        gt=0,
        description="Weeks of health of a resource, all its series together, in which one alarm may be false.",
    )
    gap_factor: float = Field(8.0, gt=1, description="A hole of so many intervals is no measurement of a rate.")


class Look(NamedTuple):
    """What one scrape showed, by slot."""

    observed: Floats
    measured: Which
    fresh: NDArray[np.bool_] | None  # never seen at this time of day, neither before nor long enough now; None: none is
    expected: Floats
    error: Floats
    usual_noise: Floats
    scale: Floats
    distance: Floats
    height: Floats  # distance in either direction
    is_near: bool  # nothing is as far from the usual as an excess, or about to
    load: Floats | None


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Compare one scrape with the usual and learn from it.

    A scrape not newer than the last is passed over. Of a cumulative series the rate a second is looked at; a fall or
    a new start is a reset, and its interval is not measured.
    """
    if isinstance(item.record, Forgotten):
        state.let_go(item.record.series)
        return state, state.episodes.close_others(_hot(state, item.record.resource), item.at_ms)
    scrape: Scrape = item.record
    if scrape.time_ms <= state.last_ms:
        return state, []
    seen = _compare_all(config, state, scrape)
    found = _judge(config, state, scrape, seen)
    state.last_ms = scrape.time_ms
    _learn(config, state, seen)
    return state, found


def _compare_all(config: Config, state: State, scrape: Scrape) -> Look:
    values = _values(state, scrape)
    now, usual = _now(config, state, scrape.time_ms)
    observed, measured = _rates(config, state, values, scrape)
    middle: Any = abs(now.into - 0.5)
    season, offset = usual.expected(middle), state.arrays["offset"]
    np.maximum(offset, state.slots.least - season, out=offset)
    expected = season + offset
    usual_noise = usual.variance(middle)
    error = observed - expected
    fresh = usual.fresh(config.warm_up)
    scale = _scale(state, error, expected, usual_noise, fresh, usual)
    load = state.slots.weeks(config).load(scrape.time_ms)
    beyond = error if load is None else _within(error, expected, state.slots.floor, load)
    distance = only(measured, beyond / scale)
    height = np.abs(distance)
    is_near = not np.count_nonzero(height > 0.99 * alarms.EDGE)
    if state.seen_least < config.memory:
        state.seen_least = int(state.arrays["seen"].min(initial=config.memory))
    return Look(observed, measured, fresh, expected, error, usual_noise, scale, distance, height, is_near, load)


def _values(state: State, scrape: Scrape) -> Floats:
    raw = values_of(scrape)
    places = state.slots.columns_of(scrape.series)
    state.grow()
    if places is None:
        return raw
    values = np.full(len(state.slots.identities), np.nan)
    values[places] = raw
    return values


def _now(config: Config, state: State, time_ms: int) -> tuple[Now, Usual]:
    """Where the series stand in their weeks, and what is usual there; what is over has been learned from."""
    weeks = state.slots.weeks(config)
    now = weeks.at(time_ms)
    if state.usual is None or state.usual.quarter is not now.quarter:
        state.profile.kinds = weeks.kinds
        around = state.usual.around if state.usual else None
        around = close(state.arrays, state.profile, state.spreads, now, around)
        state.usual = Usual(state.profile, state.spreads, now, around)
    return now, state.usual


def _rates(config: Config, state: State, values: Floats, scrape: Scrape) -> tuple[Floats, Which]:
    """What was observed (rates of sums), and where it was measured at all."""
    arrays, slots = state.arrays, state.slots
    told = present(values)
    last_ms: Any = float(state.last_ms) if state.abreast else arrays["last_ms"]
    elapsed_s = (scrape.time_ms - last_ms) / 1000
    change = values - arrays["last"]
    limit_s = config.gap_factor * state.interval_ms / 1000 if state.interval_ms else np.inf
    started = scrape.start_time_ms if scrape.start_time_ms is not None else -1
    steady: Any = (last_ms >= 0) & (elapsed_s < limit_s) & (started == state.start_ms)
    unsteady = slots.is_sum & (change < 0 if steady is True else ~((change >= 0) & steady))
    observed = np.where(slots.is_sum, change / elapsed_s, values)
    rated = told
    if told is not True or np.count_nonzero(unsteady):
        rated = ~unsteady & told
        np.copyto(observed, 0.0, where=slots.is_sum & ~rated)
    np.copyto(arrays["last"], values, where=told)
    np.copyto(arrays["last_ms"], scrape.time_ms, where=told)
    state.abreast = told is True
    _follow_grain(state, scrape.time_ms)
    state.start_ms = started
    return observed, rated


def _follow_grain(state: State, time_ms: int) -> None:
    """A scrape interval that changes for good changes the noise: it is learned anew. A single hole does not."""
    if state.last_ms < 0:
        return
    interval = float(time_ms - state.last_ms)
    if state.interval_ms and state.interval_ms / GRAIN_CHANGE < interval < state.interval_ms * GRAIN_CHANGE:
        state.odd = 0
        state.interval_ms += 0.1 * (interval - state.interval_ms)
        return
    state.odd += 1
    if not state.interval_ms or state.odd >= GRAIN_RUN:
        state.arrays["seen"][:] = state.seen_least = 0
        state.interval_ms, state.odd = interval, 0


def _scale(
    state: State, error: Floats, expected: Floats, usual_noise: Floats, fresh: NDArray[np.bool_] | None, usual: Usual
) -> Floats:
    """How far from its expectation each series strays while it is healthy, now."""
    variance = _variance(state, usual_noise, usual)
    if fresh is not None:
        pooled = state.spreads.pooled
        wide = (UNSEEN * (np.abs(state.profile.long_run) + np.sqrt(pooled))) ** 2
        held = (pooled == 0) & (error < 0)  # a level that never stirred may rise in the morning, not fall
        np.maximum(variance, wide, out=variance, where=fresh & ~held)
    poisson = np.maximum(expected, 0.0) * (1000.0 / max(state.interval_ms, 1.0))
    poisson *= state.slots.is_count
    np.maximum(variance, poisson, out=variance)
    scale: Floats = np.sqrt(variance, out=variance)
    scale += 1e-9
    scale += np.abs(expected) * 1e-3
    return scale


def _variance(state: State, usual_noise: Floats, usual: Usual) -> Floats:
    noise, of_late = state.arrays["noise"], state.arrays["usual_noise"]
    if not usual.ever_strays:
        return noise.copy()
    livelier = np.maximum(noise / np.where(of_late > 0, of_late, np.inf), 1.0)
    variance: Floats = usual_noise * livelier + usual.leap
    return usual.or_else(variance, noise)


def _within(error: Floats, expected: Floats, floor: Floats, load: Floats) -> Floats:
    """Distance from the stretch between the usual and the load that the calendar expects; none while it is closed.

    What may stray by a floor in vain on an ordinary day may by as many as the load brings: most of a peak waits where
    usually nothing does.
    """
    room = (np.abs(expected) + floor) * (np.maximum(load, 1.0) * 1.5 - 1.0)
    return np.where(np.isnan(load), 0.0, np.sign(error) * np.maximum(np.abs(error) - room, 0.0))


def _judge(config: Config, state: State, scrape: Scrape, seen: Look) -> Findings:
    arrays, slots = state.arrays, state.slots
    if not slots.has_opinion:
        return []
    distance, judged = seen.distance, _judged(config, state, seen)
    # What is told goes on while half of what opens it lasts: what hovers at a limit is one episode.
    part: Any = np.where(arrays["alarmed"] > 0, 0.5, 1.0) if np.count_nonzero(arrays["alarmed"]) else 1.0
    excess = _excess(config, state, scrape.time_ms, seen, judged, part)
    alarms.follow(arrays, seen.height, excess, judged)
    beyond = None if excess is None else excess & (seen.height > config.limit * part)
    if (beyond is None or not np.count_nonzero(beyond)) and not np.count_nonzero(arrays["hot"]):
        return []
    beyond = np.zeros_like(judged) if beyond is None else beyond
    arrays["hot"][:] = np.where(beyond, np.minimum(arrays["hot"] + 1, config.run + 1), np.maximum(arrays["hot"] - 1, 0))
    scrapes = config.false_alarm_weeks * WEEK_MS / max(state.interval_ms, 1.0)
    believed = (arrays["alarmed"] > 0) | alarms.believed(arrays, judged, scrapes)
    arrays["alarmed"][:] = (arrays["hot"] >= config.run) & believed
    hot = np.flatnonzero(arrays["alarmed"] * beyond)
    causes: dict[tuple[str, str | None], list[int]] = {}
    for slot in hot:
        causes.setdefault(_cause(slots.series[slot], scrape.resource), []).append(int(slot))
    found: Findings = []
    for (cause, tenant), members in causes.items():
        evidence = tuple(_evidence(state, slot, scrape, seen) for slot in _worst(members, distance))
        worst = float(np.max(np.abs(distance[members])))
        found += state.episodes.seen(
            key=cause,
            time_ms=scrape.time_ms,
            cell=scrape.cell,
            detector=STEP.name,
            cause=cause,
            resource=scrape.resource,
            tenant=tenant,
            severity=Severity.WARNING,
            score=float(1.0 - 1.0 / (1.0 + worst / config.limit)),
            summary=evidence[0].text,
            evidence=evidence,
        )
    return found + state.episodes.close_others(_hot(state, scrape.resource), scrape.time_ms)


def _hot(state: State, resource: str) -> set[str]:
    """Causes of which some series is beyond the limit, or was until lately."""
    return {_cause(state.slots.series[slot], resource)[0] for slot in np.flatnonzero(state.arrays["hot"] > 0)}


def _excess(
    config: Config, state: State, time_ms: int, seen: Look, judged: NDArray[np.bool_], part: Floats | float
) -> NDArray[np.bool_] | None:
    """Where the departure is large and bad; None: nowhere. `part` of the floor is large enough."""
    if seen.is_near:
        return None
    slots = state.slots
    excess = judged & (seen.height > alarms.EDGE)
    if not np.count_nonzero(excess):
        return None
    excess &= (np.abs(seen.error) >= slots.floor * part) & np.where(seen.distance > 0, slots.up, slots.down)
    _spare(slots, seen.observed, seen.error, excess)
    _let_wait(config, state, time_ms, excess)
    return excess if np.count_nonzero(excess) else None


def _judged(config: Config, state: State, seen: Look) -> NDArray[np.bool_]:
    """Series of which enough is known, and of which a departure would be bad; not to be written to."""
    judged = state.slots.has_bad
    if seen.measured is not True:
        judged = judged & seen.measured
    if state.seen_least < config.warm_up:
        judged = judged & (state.arrays["seen"] >= config.warm_up)
    if seen.fresh is not None:
        judged = judged & (~seen.fresh | has_level(state.profile, state.spreads))
    return judged if state.odd == 0 else np.zeros_like(judged)


def _spare(slots: Slots, observed: Floats, error: Floats, excess: NDArray[np.bool_]) -> None:
    """A rise of what has a limit is no trouble while more is left than it has taken: what it will come to is a forecast's."""
    for slot, place, fixed in slots.limited:
        limit = observed[place] if place >= 0 else fixed
        if excess[slot] and limit > 0 and 0 < error[slot] < limit - observed[slot]:
            excess[slot] = False


def _let_wait(config: Config, state: State, time_ms: int, excess: NDArray[np.bool_]) -> None:
    """In an hour of the week never lived, what waits for people grows in peace while no shift is open.

    On the first Sunday it has waited for longer than ever before. What is told already goes on.
    """
    assert state.usual
    for slot in state.slots.waiting:
        lived = state.profile.weeks[state.usual.quarter[slot] // 4, slot]
        if excess[slot] and not lived and not state.arrays["alarmed"][slot]:
            excess[slot] = config.calendar(state.slots.series[slot].tenant).at(time_ms).is_open


def _cause(series: Series, resource: str) -> tuple[str, str | None]:
    metric = describe(series.name)
    tenant = series.tenant
    return cause_of(metric.cause or f"anomaly.{series.name}", tenant or resource), tenant


def _worst(members: list[int], distance: Floats) -> list[int]:
    return sorted(members, key=lambda slot: -abs(distance[slot]))[:5]


def _evidence(state: State, slot: int, scrape: Scrape, seen: Look) -> Evidence:
    series, value, usual = state.slots.series[slot], float(seen.observed[slot]), float(seen.expected[slot])
    metric = describe(series.name)
    now, usually = amounts(series.name, value, usual)
    return Evidence(
        text=f"{called(series)} of {series.tenant or scrape.resource} at {now}, usually {usually} at this hour",
        series=state.slots.identities[slot],
        unit=metric.observed_unit,
        value=value,
        expected=usual,
        time_ms=scrape.time_ms,
        scale=float(seen.scale[slot]),
        window_ms=round(state.interval_ms) if metric.kind is Kind.SUM else None,
    )


def _learn(config: Config, state: State, look: Look) -> None:
    arrays, measured, fresh = state.arrays, look.measured, look.fresh
    if look.load is not None:
        measured = measured & (look.load == 1.0)  # a campaign or a holiday teaches nothing about ordinary days
    young = arrays["seen"] < config.warm_up if state.seen_least < config.warm_up else None
    if fresh is not None:  # nothing is known of this time of day: what comes is followed
        unsure = fresh & ~has_level(state.profile, state.spreads)
        young = unsure if young is None else young | unsure
    error = whole = only(measured, look.error)
    if not look.is_near or look.load is not None:
        # A departure teaches as much as three scales: an incident pulls the usual a little, a lasting change in the end.
        reach = 3 * look.scale
        error = np.minimum(np.maximum(whole, -reach), reach)
        if young is not None:
            error = np.where(young, whole, error)
    weight: Any = 1.0 / config.memory
    if state.seen_least + 2 < config.memory:
        weight = np.maximum(1.0 / ((arrays["seen"] + measured) + 1.0), weight)
    follow = 1.0 - np.exp(-state.interval_ms / 1000 / config.follow_s) if state.interval_ms else 0.5
    rate = follow
    if young is not None and state.seen_least < 5:
        rate = np.where(young & (arrays["seen"] < 5), np.maximum(weight, follow), follow)
    if fresh is not None:
        rate = np.where(fresh, np.maximum(1.0 / (state.profile.count + 1.0), follow), rate)
    lesson, left = rate * error, error
    if state.seen_least == 0:
        first = (arrays["seen"] == 0) & (state.profile.long_run == 0) & (state.profile.count == 0)
        lesson, left = np.where(first, error, lesson), np.where(first, 0.0, error)
    arrays["offset"] += lesson
    square = left * left
    weight, strayed = only(measured, weight), left
    if np.count_nonzero(arrays["alarmed"]):
        is_told = arrays["alarmed"] > 0
        weight = np.where(is_told, np.minimum(weight, TOLD * follow), weight)
        strayed = np.where(is_told, np.clip(left, -look.scale, look.scale), left)
    arrays["noise"] += weight * (square - arrays["noise"])
    usual_noise = square if state.usual is None else state.usual.or_else(look.usual_noise, square)
    arrays["usual_noise"] += weight * (usual_noise - arrays["usual_noise"])
    arrays["seen"] += measured
    state.spreads.add(look.observed, strayed, measured)
    taught = look.expected + error
    state.profile.add(taught if young is None else np.where(young, look.observed, taught), measured)


def unit(record: Record) -> str | None:
    """A resource is a unit; Pilothouse's own scrapes of it are another."""
    return f"{record.resource}|{record.system}" if isinstance(record, Scrape | Forgotten) else None


ABOUT = About(
    finds="A number that is unusual for its series, this hour of the week and this phase of the business calendar.",
    method=(
        "Each value is compared with the seasonal profile of its series plus a slowly followed offset, in scales "
        "of what it strays at this time of day; an alarm needs looks beyond the limit in a row, in the direction that the catalogue "
        "calls bad, and more evidence than the stated rate of false alarms allows, over all series of a resource."
    ),
    source=(
        "exponentially weighted mean and variance (West 1979), winsorized updating (Gelper, Fried & Croux 2010), "
        "intraday volatility (Andersen & Bollerslev 1997), e-values and e-detectors (Vovk & Wang 2021; Shin, Ramdas & Rinaldo 2024)"
    ),
    limits=(
        "At a time of day that a series has not lived through it tells only what is many times its level; what rises "
        "more slowly than its offset follows is left to capacity."
    ),
)
STEP = Step("baseline", Config, (Scrape, Forgotten), unit, State, step, pack, unpack, about=ABOUT, version=3)
