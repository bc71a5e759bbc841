"""Is a number unusual for this series, this hour and this phase of the business calendar?

Every series of a scrape is compared with its seasonal profile plus a slowly followed offset; the distance is measured in
its own scale: what it usually strays at this time of day, as much more as it has been livelier of late (see `spreads`) and, for
counts, the Poisson noise that any count has over so short a time. What lies beyond the limit in the direction that the
catalogue calls bad, by more than the departure that can matter, twice in a row, opens an episode; the series of one
cause make one signal. Learning is winsorized, so an incident does not become the new normal.

A time of day that was never seen may bring several times the level so far, and after nothing anything: a series without
a past has no usual morning. While a declared window closes a business nothing is judged, nor right after it, when what
was held up is made good.

Sources: seasonal profile, see `seasonal`; exponentially weighted mean and variance after West (1979); winsorized
updating after Gelper, Fried & Croux (2010), Robust forecasting with exponential and Holt-Winters smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from processors import columns
from processors.episodes import Episodes
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from processors.steps import alarms
from processors.steps.hours import Now
from processors.steps.seasonal import Floats, Profile
from processors.steps.slots import Slots
from processors.steps.spreads import Spreads
from schemas.metrics import Kind, describe
from schemas.records import Evidence, Record, Scrape, Severity
from schemas.series import Series
from schemas.words import amounts, called

GRAIN_CHANGE = 3.0
GRAIN_RUN = 3
WEEK_MS = 604_800_000
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


_ARRAYS: dict[str, Any] = {
    "last": np.float64,  # last raw value, for rates
    "last_ms": np.float64,  # when it was measured; -1 never
    "offset": np.float64,  # how far the present lies from the profile
    "noise": np.float64,  # variance of one scrape around its prediction, of late
    "usual_noise": np.float64,  # and what it usually is at such times of day
    "quarter": np.int16,  # of the week, in which the series was last seen; -1 never
    "seen": np.uint32,  # scrapes at the present grain
    "hot": np.int8,  # scrapes in a row beyond the limit
    "alarmed": np.int8,  # beyond the limit and believed, until it is calm again
    **alarms.ARRAYS,
}


@dataclass
class State:
    """All series of one resource."""

    slots: Slots = field(default_factory=Slots)
    profile: Profile = field(default_factory=Profile)
    spreads: Spreads = field(default_factory=Spreads)
    arrays: columns.Arrays = field(default_factory=lambda: {name: np.zeros(0, kind) for name, kind in _ARRAYS.items()})
    last_ms: int = -1
    interval_ms: float = 0.0
    start_ms: int = -1
    odd: int = 0  # intervals in a row that do not fit the grain
    episodes: Episodes = field(default_factory=Episodes)

    def grow(self) -> None:
        """Make room for series that have come."""
        more = len(self.slots.identities) - self.arrays["last"].size
        if more > 0:
            self.arrays = {name: np.pad(array, (0, more)) for name, array in self.arrays.items()}
            self.arrays["last_ms"][-more:] = self.arrays["quarter"][-more:] = -1
            self.profile.grow(len(self.slots.identities))
            self.spreads.grow(len(self.slots.identities))


class Look(NamedTuple):
    """What one scrape showed, by slot."""

    observed: Floats
    measured: NDArray[np.bool_]
    fresh: NDArray[np.bool_] | None  # never seen at this time of day, neither before nor long enough now; None: none is
    expected: Floats
    usual_noise: Floats
    scale: Floats
    distance: Floats


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Compare one scrape with the usual and learn from it.

    A scrape not newer than the last is passed over. Of a cumulative series the rate a second is looked at; a fall or
    a new start is a reset, and its interval is not measured.
    """
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
    now = _now(config, state, scrape.time_ms)
    observed, measured = _rates(config, state, values, scrape)
    season, known = _season(state, now)
    expected = season + state.arrays["offset"]
    usual_noise = state.spreads.variance(state.profile, now)
    error = observed - expected
    fresh = None if known.all() else ~known & (state.profile.count < config.warm_up)
    scale = _scale(state, error, expected, usual_noise, fresh, state.spreads.leap(state.profile, now))
    load = state.slots.weeks(config).load(scrape.time_ms)
    if load is not None:
        error = _within(error, expected, load)
    distance = np.where(measured, error / scale, 0.0)
    return Look(observed, measured, fresh, expected, usual_noise, scale, distance)


def _values(state: State, scrape: Scrape) -> Floats:
    raw = np.array(scrape.values, dtype=np.float64)
    places = state.slots.columns_of(scrape.series)
    state.grow()
    if places is None:
        return raw
    values = np.full(len(state.slots.identities), np.nan)
    values[places] = raw
    return values


def _now(config: Config, state: State, time_ms: int) -> Now:
    """Where the series stand in their weeks; quarters and hours that are over have been learned from."""
    arrays = state.arrays
    weeks = state.slots.weeks(config)
    state.profile.kinds = weeks.kinds
    now = weeks.at(time_ms)
    over = (arrays["quarter"] != now.quarter) & (arrays["quarter"] >= 0)
    if over.any():
        _close(state, now, over)
    np.copyto(arrays["quarter"], now.quarter)
    return now


def _close(state: State, now: Now, over: NDArray[np.bool_]) -> None:
    """Quarters and hours are over for some series: what was in them is learned."""
    arrays, profile, spreads = state.arrays, state.profile, state.spreads
    quarter, hour = arrays["quarter"], arrays["quarter"] // 4
    hour_over = over & (hour != now.hour)
    season, known = _season(state, now)
    was_known = profile.days(hour) > 0
    spreads.close_quarter(profile, quarter, over)
    if hour_over.any():
        spreads.close_hour(profile, hour, hour_over)
        profile.close(hour, hour_over)
    # What the season has now learned of the present, the offset need not hold as well; what it held while nothing was
    # known of the time of day says nothing of one that is known.
    learned = _season(state, now)[0] - season
    arrays["offset"] -= np.where(over, learned, 0.0)
    arrays["offset"][hour_over & known & ~was_known] = 0.0


def _season(state: State, now: Now) -> tuple[Floats, NDArray[np.bool_]]:
    """What the time of day usually brings, by series, and where that is known."""
    season, known = state.profile.expected(now.hour, now.into)
    return season + state.spreads.bend(state.profile, now.quarter), known


def _rates(config: Config, state: State, values: Floats, scrape: Scrape) -> tuple[Floats, NDArray[np.bool_]]:
    """What was observed (rates of sums), and where it was measured at all."""
    arrays, slots = state.arrays, state.slots
    measured = ~np.isnan(values)
    elapsed_s = (scrape.time_ms - arrays["last_ms"]) / 1000
    change = values - arrays["last"]
    limit_s = config.gap_factor * state.interval_ms / 1000 if state.interval_ms else np.inf
    started = scrape.start_time_ms if scrape.start_time_ms is not None else -1
    steady = (arrays["last_ms"] >= 0) & (change >= 0) & (elapsed_s < limit_s) & (started == state.start_ms)
    rated = measured & (~slots.is_sum | steady)
    observed = np.where(slots.is_sum, np.divide(change, elapsed_s, out=np.zeros_like(values), where=rated), values)
    np.copyto(arrays["last"], values, where=measured)
    arrays["last_ms"][measured] = scrape.time_ms
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
        state.arrays["seen"][:] = 0
        state.interval_ms, state.odd = interval, 0


def _scale(
    state: State, error: Floats, expected: Floats, usual_noise: Floats, fresh: NDArray[np.bool_] | None, leap: Floats
) -> Floats:
    """How far from its expectation each series strays while it is healthy, now."""
    noise, of_late = state.arrays["noise"], state.arrays["usual_noise"]
    livelier = np.maximum(np.divide(noise, of_late, out=np.ones(noise.size), where=of_late > 0), 1.0)
    # What lies between one quarter of an hour and the next may come in either.
    variance = np.where(usual_noise > 0, usual_noise * livelier + leap * leap / 4, noise)
    if fresh is not None:
        pooled = state.spreads.pooled
        wide = (UNSEEN * (np.abs(state.profile.long_run) + np.sqrt(pooled))) ** 2
        held = (pooled == 0) & (error < 0)  # a level that never stirred may rise in the morning, not fall
        np.maximum(variance, wide, out=variance, where=fresh & ~held)
    poisson = np.maximum(expected, 0.0) * (1000.0 / max(state.interval_ms, 1.0))
    np.maximum(variance, poisson, out=variance, where=state.slots.is_count)
    scale: Floats = np.sqrt(variance) + 1e-9 + np.abs(expected) * 1e-3
    return scale


def _within(error: Floats, expected: Floats, load: Floats) -> Floats:
    """Distance from the stretch between the usual and the load that the calendar expects; none while it is closed."""
    room = np.abs(expected) * (np.maximum(load, 1.0) * 1.5 - 1.0)
    return np.where(np.isnan(load), 0.0, np.sign(error) * np.maximum(np.abs(error) - room, 0.0))


def _judge(config: Config, state: State, scrape: Scrape, seen: Look) -> Findings:
    arrays, slots = state.arrays, state.slots
    if not slots.has_opinion:
        return []
    observed, expected, distance = seen.observed, seen.expected, seen.distance
    error = observed - expected
    judged = seen.measured & (slots.up | slots.down) & (arrays["seen"] >= config.warm_up) & (state.odd == 0)
    if seen.fresh is not None:
        judged &= ~seen.fresh | _has_level(state)
    excess = judged & (np.abs(distance) > alarms.EDGE) & (np.abs(error) >= slots.floor)
    excess &= np.where(distance > 0, slots.up, slots.down)
    _spare(slots, observed, error, excess)
    alarms.follow(arrays, distance, excess, judged)
    beyond = excess & (np.abs(distance) > config.limit)
    if not beyond.any() and not arrays["hot"].any():
        return []
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
    cool = {_cause(slots.series[slot], scrape.resource)[0] for slot in np.flatnonzero(arrays["hot"] > 0)}
    return found + state.episodes.close_others(cool, scrape.time_ms)


def _spare(slots: Slots, observed: Floats, error: Floats, excess: NDArray[np.bool_]) -> None:
    """A rise of what has a limit is no trouble while more is left than it has taken: what it will come to is a forecast's."""
    for slot, place, fixed in slots.limited:
        limit = observed[place] if place >= 0 else fixed
        if excess[slot] and limit > 0 and 0 < error[slot] < limit - observed[slot]:
            excess[slot] = False


def _cause(series: Series, resource: str) -> tuple[str, str | None]:
    metric = describe(series.name)
    tenant = series.tenant
    return f"{metric.cause or 'anomaly.' + series.name}:{tenant or resource}", tenant


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
    arrays = state.arrays
    observed, measured, expected, scale = look.observed, look.measured, look.expected, look.scale
    load = state.slots.weeks(config).load(state.last_ms)
    if load is not None:
        measured = measured & (load == 1.0)  # a campaign or a holiday teaches nothing about ordinary days
    error = np.where(measured, observed - expected, 0.0)
    young = arrays["seen"] < config.warm_up
    if look.fresh is not None:  # nothing is known of this time of day: what comes is followed
        young |= look.fresh & ~_has_level(state)
    # A departure teaches as much as three scales: an incident pulls the usual a little, a lasting change in the end.
    error = np.where(young, error, np.clip(error, -3 * scale, 3 * scale))
    seen = arrays["seen"] + measured
    weight = np.where(measured, np.maximum(1.0 / (seen + 1.0), 1.0 / config.memory), 0.0)
    first = measured & (state.profile.long_run == 0) & (state.profile.count == 0) & (arrays["seen"] == 0)
    follow = 1.0 - np.exp(-state.interval_ms / 1000 / config.follow_s) if state.interval_ms else 0.5
    rate = np.where(young & (arrays["seen"] < 5), np.maximum(weight, follow), follow)
    if look.fresh is not None:
        rate = np.where(look.fresh, np.maximum(1.0 / (state.profile.count + 1.0), follow), rate)
    arrays["offset"] += np.where(measured, np.where(first, 1.0, rate) * error, 0.0)
    square = np.where(first, 0.0, error * error)
    usual_noise = np.where(look.usual_noise > 0, look.usual_noise, square)
    arrays["noise"] += weight * (square - arrays["noise"])
    arrays["usual_noise"] += weight * (usual_noise - arrays["usual_noise"])
    np.copyto(arrays["seen"], seen.astype(np.uint32))
    state.spreads.add(np.where(first, 0.0, error), measured)
    state.profile.add(np.where(young, observed, expected + error), measured)


def _has_level(state: State) -> NDArray[np.bool_]:
    """Series that keep clear of zero, so that multiples of their level mean something."""
    level = state.profile.long_run
    return level * level > state.spreads.pooled


def pack(state: State) -> Parts:
    """The season by itself, since it changes once an hour; everything else together."""
    more = {
        "identities": state.slots.identities,
        "last_ms": state.last_ms,
        "interval_ms": state.interval_ms,
        "start_ms": state.start_ms,
        "odd": state.odd,
        "episodes": state.episodes.dump(),
    }
    present = {**state.arrays, **state.profile.present(), **state.spreads.present}
    season = {**state.profile.season(), **state.spreads.season}
    return {"present": columns.pack(present, more), "season": columns.pack(season)}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    arrays, more = columns.unpack(parts["present"])
    season, _ = columns.unpack(parts["season"])
    slots = Slots()
    slots.extend(more["identities"])
    return State(
        slots=slots,
        profile=Profile(arrays={**arrays, **season}),
        spreads=Spreads.of({**arrays, **season}),
        arrays=_known(arrays),
        last_ms=more["last_ms"],
        interval_ms=more["interval_ms"],
        start_ms=more["start_ms"],
        odd=more["odd"],
        episodes=Episodes.load(more["episodes"]),
    )


def _known(arrays: columns.Arrays) -> columns.Arrays:
    """The arrays of a state; what version 1 did not have yet begins anew."""
    width = arrays["last"].size
    begun: columns.Arrays = {"quarter": np.full(width, -1, np.int16), "usual_noise": np.zeros(width)}
    return {name: arrays[name] if name in arrays else begun[name] for name in _ARRAYS}


def unit(record: Record) -> str | None:
    """A resource is a unit; Pilothouse's own scrapes of it are another."""
    return f"{record.resource}|{record.system}" if isinstance(record, Scrape) else None


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
STEP = Step("baseline", Config, (Scrape,), unit, State, step, pack, unpack, about=ABOUT, version=2)
