"""Something that always happens does not: silence against the calendar.

For every cumulative count whose fall is bad (jobs done, crons run, pickings shipped) the events that were to be expected
since the last one are summed from its usual rate at this hour. With Poisson arrivals, expecting n and seeing none has
probability e^-n. Real arrivals come in clumps, so the limit also grows with the longest healthy silence seen before.
Nothing is expected while the tenant's calendar is closed; time that was not measured expects nothing either.
Source: the dead man's switch with a rate, as the exponential inter-arrival test in any text on Poisson processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from processors import columns
from processors.episodes import Episodes
from processors.step import Findings, Item, Parts, Step, StepConfig
from processors.steps.seasonal import Profile, hour_of_week
from schemas.metrics import Departure, Kind, describe
from schemas.records import Evidence, Record, Scrape, Severity
from schemas.series import parse, split

OUTCOMES = frozenset({"done", "sale", "posted", "purchase"})


class Config(StepConfig):
    """When silence is too long."""

    expected: float = Field(10.0, gt=0, description="Expected events that did not come; e^-10 is one in 20,000.")
    healthy_factor: float = Field(2.5, gt=1, description="And so many times the longest healthy silence.")
    silent_ms: int = Field(8_000, gt=0, description="And so long at least, ms.")
    caution: float = Field(0.8, gt=0, le=1, description="Share of the usual rate that is counted on.")
    gap_ms: int = Field(1_200_000, gt=0, description="Longer without a look is not measured, ms.")
    learn: int = Field(20, ge=1, description="Looks before a series is judged.")


_ARRAYS = {
    "last": np.float64,
    "recent": np.float64,  # rate of the last minutes, a second
    "expected": np.float64,  # events expected since the last one
    "healthy": np.float64,  # longest healthy silence, in expected events; decays
    "silent_ms": np.float64,
    "seen": np.uint32,
}


@dataclass
class State:
    """The counts of one resource that must not stand still."""

    identities: list[str] = field(default_factory=list)
    arrays: columns.Arrays = field(default_factory=lambda: {name: np.zeros(0, kind) for name, kind in _ARRAYS.items()})
    profile: Profile = field(default_factory=Profile)
    last_ms: int = -1
    start_ms: int = -1
    hour: int = -1
    episodes: Episodes = field(default_factory=Episodes)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Count what came since the last look, or what did not."""
    scrape: Scrape = item.record
    places = _places(scrape.series)
    if not places or scrape.time_ms <= state.last_ms:
        return state, []
    values = _take(state, scrape, places)
    elapsed_ms = scrape.time_ms - state.last_ms if state.last_ms >= 0 else 0
    started = scrape.start_time_ms if scrape.start_time_ms is not None else -1
    change = np.where(started == state.start_ms, values - state.arrays["last"], np.nan)
    measured = ~np.isnan(change) & (change >= 0) & (0 < elapsed_ms <= config.gap_ms) & (state.arrays["seen"] > 0)
    _count(config, state, np.where(measured, change, 0.0), measured, elapsed_ms, scrape.time_ms)
    np.copyto(state.arrays["last"], values, where=~np.isnan(values))
    state.arrays["seen"] += ~np.isnan(values)
    state.last_ms, state.start_ms = scrape.time_ms, started
    return state, _judge(config, state, scrape)


def _take(state: State, scrape: Scrape, places: list[tuple[int, str]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    index = {identity: slot for slot, identity in enumerate(state.identities)}
    new = [identity for _, identity in places if identity not in index]
    if new:
        state.identities += new
        state.arrays = {name: np.pad(array, (0, len(new))) for name, array in state.arrays.items()}
        state.profile.grow(len(state.identities))
        index = {identity: slot for slot, identity in enumerate(state.identities)}
    values = np.full(len(state.identities), np.nan)
    for place, identity in places:
        value = scrape.values[place]
        values[index[identity]] = np.nan if value is None else value
    return values


def _count(
    config: Config,
    state: State,
    change: np.ndarray[tuple[int], np.dtype[np.float64]],
    measured: np.ndarray[tuple[int], np.dtype[np.bool_]],
    elapsed_ms: int,
    time_ms: int,
) -> None:
    arrays = state.arrays
    hour, into = hour_of_week(config.calendar(), time_ms)
    if state.hour >= 0 and hour != state.hour:
        state.profile.close(state.hour)
    state.hour = hour
    if not elapsed_ms:
        return
    usual, known = state.profile.expected(hour, into)
    rate = change * 1000 / elapsed_ms
    counted_on = np.where(known, np.minimum(usual, arrays["recent"]), arrays["recent"]) * config.caution
    came = measured & (change > 0)
    # A look that brings something ends the silence; how long it was, in expected events, is what health allows.
    arrays["healthy"] = np.where(came, np.maximum(arrays["healthy"] * 0.999, arrays["expected"]), arrays["healthy"])
    silent = measured & ~came
    arrays["expected"] = np.where(came, 0.0, arrays["expected"] + np.where(silent, counted_on * elapsed_ms / 1000, 0.0))
    arrays["silent_ms"] = np.where(came, 0.0, arrays["silent_ms"] + np.where(silent, elapsed_ms, 0.0))
    quiet = arrays["expected"] > config.expected / 2
    weight = 1.0 - np.exp(-elapsed_ms / 120_000)
    weight = np.where(arrays["recent"] == 0, 1.0, weight)
    arrays["recent"] += np.where(measured & ~quiet, weight * (rate - arrays["recent"]), 0.0)
    state.profile.add(rate, measured & ~quiet)


def _judge(config: Config, state: State, scrape: Scrape) -> Findings:
    arrays = state.arrays
    limit = np.maximum(config.expected, config.healthy_factor * arrays["healthy"])
    over = (arrays["expected"] > limit) & (arrays["silent_ms"] >= config.silent_ms) & (arrays["seen"] >= config.learn)
    causes: dict[tuple[str, str | None], list[int]] = {}
    for slot in np.flatnonzero(over):
        series = parse(state.identities[slot])
        moment = config.calendar(series.tenant).at(scrape.time_ms)
        if moment.is_open and not moment.maintenance:
            cause = f"{describe(series.name).cause or 'silence'}:{series.tenant or scrape.resource}"
            causes.setdefault((cause, series.tenant), []).append(int(slot))
    found: Findings = []
    for (cause, tenant), slots in causes.items():
        evidence = tuple(_evidence(state, slot, scrape.time_ms) for slot in slots[:5])
        found += state.episodes.seen(
            key=cause,
            time_ms=scrape.time_ms,
            cell=scrape.cell,
            detector=STEP.name,
            cause=cause,
            resource=scrape.resource,
            tenant=tenant,
            severity=Severity.WARNING,
            score=float(1 - np.exp(-np.max(arrays["expected"][slots]) / 2)),
            summary=evidence[0].text,
            evidence=evidence,
            tenants=(tenant,) if tenant else (),
        )
    return found + state.episodes.close_others({cause for cause, _ in causes}, scrape.time_ms)


def _evidence(state: State, slot: int, time_ms: int) -> Evidence:
    series = parse(state.identities[slot])
    what = ", ".join(value for name, value in sorted(series.attributes.items()) if name != "tenant.id")
    silent_s, missed = state.arrays["silent_ms"][slot] / 1000, state.arrays["expected"][slot]
    return Evidence(
        text=f"no {series.name} ({what}) for {silent_s:.0f} s where at least {missed:.0f} were to be expected",
        series=state.identities[slot],
        value=0.0,
        expected=float(missed),
        time_ms=time_ms,
    )


_PLACES: dict[str, list[tuple[int, str]]] = {}
_PLACES_MAX = 1_000


def _places(layout: str) -> list[tuple[int, str]]:
    """Columns of a layout whose standing still would be bad."""
    known = _PLACES.get(layout)
    if known is None:
        if len(_PLACES) >= _PLACES_MAX:
            _PLACES.clear()
        known = _PLACES[layout] = [(place, one) for place, one in enumerate(split(layout)) if _must_move(one)]
    return known


def _must_move(identity: str) -> bool:
    metric = describe(identity.partition("{")[0])
    if metric.kind is not Kind.SUM or metric.bad is not Departure.DOWN:
        return False
    # A document may pass through a state between two looks; only where its way ends must it be seen.
    state = parse(identity).attributes.get("erp.document.state")
    return state is None or state in OUTCOMES


def pack(state: State) -> Parts:
    """The season by itself, since it changes once an hour."""
    more = {
        "identities": state.identities,
        "last_ms": state.last_ms,
        "start_ms": state.start_ms,
        "hour": state.hour,
        "episodes": state.episodes.dump(),
    }
    present = columns.pack({**state.arrays, **state.profile.present()}, more)
    return {"present": present, "season": columns.pack(state.profile.season())}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    arrays, more = columns.unpack(parts["present"])
    season, _ = columns.unpack(parts["season"])
    return State(
        identities=more["identities"],
        arrays={name: arrays[name] for name in _ARRAYS},
        profile=Profile(arrays={**arrays, **season}),
        last_ms=more["last_ms"],
        start_ms=more["start_ms"],
        hour=more["hour"],
        episodes=Episodes.load(more["episodes"]),
    )


def unit(record: Record) -> str | None:
    """A resource is a unit, when it has a count that must not stand still."""
    return f"{record.resource}|{record.system}" if isinstance(record, Scrape) and _places(record.series) else None


STEP = Step("absence", Config, (Scrape,), unit, State, step, pack, unpack)
