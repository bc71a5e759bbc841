"""Something that always happens does not: silence against the calendar, and what it is the silence of.

For every flow whose standing still is bad (`processors.flows`) the events that were to be expected since the last one are
summed from its usual rate at this hour of the tenant's week and the level of the day. With Poisson arrivals, expecting n and
seeing none has probability e^-n. Real arrivals come in clumps and people begin late, so the limit also grows with the longest
healthy silence known of this hour and those beside it. Nothing is expected while the tenant's calendar is closed, in
maintenance, in time that was not measured, or of workers for whom nothing waits. In an hour that was never seen yet, as in
a tenant's first week, work must be seen to wait, or shifts must be declared and two hours be silent. For some weeks after a change of clocks
the hours beside count, too, since servers may keep to UTC.

Who else moves tells what it is: all workers of a tenant silent is its workers, one channel is its partner or its queue.
Source: the dead man's switch with a rate, as the exponential inter-arrival test in any text on Poisson processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from processors import columns
from processors.episodes import Episodes
from processors.flows import FLOWS, Layout, Stream, layout_of
from processors.partners import partner_of
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from processors.steps.seasonal import HOURS, Floats, hour_of_week
from schemas.calendar import DAY_MS, MINUTE_MS
from schemas.records import Evidence, Record, Scrape, Severity
from schemas.series import parse

Flags = NDArray[np.bool_]
HOUR_MS = 3_600_000
SHIFTED_DAYS = 35  # until the season has learned a change of clocks
WEEK_WEIGHT = 0.15  # of a new week, once several are known


class Config(StepConfig):
    """When silence is too long."""

    expected: float = Field(10.0, gt=0, description="Expected events that did not come; e^-10 is one in 20,000.")
    healthy_factor: float = Field(2.5, gt=1, description="And so many times the longest healthy silence.")
    silent_ms: int = Field(8_000, gt=0, description="And so long at least, ms.")
    unknown_ms: int = Field(7_200_000, gt=0, description="And so long in an hour of the week never seen before, ms.")
    caution: float = Field(0.8, gt=0, le=1, description="Share of the usual rate that is counted on.")
    gap_ms: int = Field(1_200_000, gt=0, description="Longer without a look is not measured, ms.")
    learn: int = Field(20, ge=1, description="Looks that brought something before a flow is judged.")
    forget_ms: int = Field(604_800_000, gt=0, description="A flow that was silent for so long is no more, ms.")
    streams_max: int = Field(5_000, ge=1, description="Flows followed a resource; others are left out.")


_SEASON = {"mean": np.float32, "healthy": np.float32, "weeks": np.uint8}
_PRESENT: dict[str, Any] = {
    "missed": np.float64,  # events expected since the last one
    "silent_ms": np.float64,
    "arrivals": np.float64,  # decayed: events, what was usual, and time, at looks that brought something
    "usual": np.float64,
    "time_ms": np.float64,
    "since_usual": np.float64,  # what was usual since the last event
    "longest": np.float64,  # longest healthy silence of all hours, in expected events
    "worst": np.float64,  # most that was missed in the present hour, and its longest silence
    "worst_ms": np.float64,
    "hour_sum": np.float64,
    "hour_ms": np.float64,
    "hour": np.int16,
    "seen": np.uint32,
    "told": np.int8,
    "worked": np.int8,  # whether the calendar was open at the last look
    "waits": np.int8,  # 1: work is seen to wait; 0: nothing waits; -1: unknown
}


@dataclass
class State:
    """The flows of one resource. `last` is by series, the other arrays by stream, the season by hour of the week."""

    series: list[str] = field(default_factory=list)
    last: Floats = field(default_factory=lambda: np.zeros(0))
    streams: list[Stream] = field(default_factory=list)
    arrays: columns.Arrays = field(default_factory=lambda: {name: np.zeros(0, kind) for name, kind in _PRESENT.items()})
    season: columns.Arrays = field(
        default_factory=lambda: {name: np.zeros((HOURS, 0), kind) for name, kind in _SEASON.items()}
    )
    causes: dict[str, str] = field(default_factory=dict)  # of the streams that are told, by name
    last_ms: int = -1
    start_ms: int = -1
    episodes: Episodes = field(default_factory=Episodes)
    places: tuple[Layout, Any, Any] | None = None
    clock: tuple[int, int, Any] | None = None


@dataclass(slots=True)
class Clock:
    """What the calendars say by stream."""

    hour: NDArray[np.intp]
    into: Floats
    works: Flags
    shifted: Flags
    needs_gate: Flags
    declared: Flags


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Count what came since the last look, or what did not."""
    scrape: Scrape = item.record
    layout = layout_of(scrape.series)
    if not layout.places or scrape.time_ms <= state.last_ms:
        return state, []
    came, measured = _changes(config, state, scrape, layout)
    elapsed_ms = scrape.time_ms - state.last_ms if state.last_ms >= 0 else 0
    clock = _clock(config, state, scrape.time_ms)
    _turn_hours(config, state, clock.hour)
    _count(config, state, clock, came, measured & (0 < elapsed_ms <= config.gap_ms), elapsed_ms)
    state.last_ms = scrape.time_ms
    return state, _judge(config, state, clock, scrape)


def _changes(config: Config, state: State, scrape: Scrape, layout: Layout) -> tuple[Floats, Flags]:
    """Events by stream since the last look, and which streams were measured. A fall or a new start is a reset."""
    series_at, stream_at = _places(config, state, layout)
    values = layout.values(scrape)
    started = scrape.start_time_ms if scrape.start_time_ms is not None else -1
    change = values - state.last[series_at]
    counted = (change >= 0) & (started == state.start_ms)
    # Streams beyond the bound stand at -1: they fall into a place before the first, which is cut off.
    width = len(state.streams) + 1
    came = np.bincount(stream_at + 1, np.where(counted, change, 0.0), width)[1:].astype(np.float64)
    measured = np.bincount(stream_at + 1, counted, width)[1:] > 0
    known = ~np.isnan(values)
    state.last[series_at[known]] = values[known]
    state.start_ms = started
    _take_gates(state, scrape, layout)
    return came, measured


def _places(config: Config, state: State, layout: Layout) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    if state.places is None or state.places[0] is not layout:
        series = {name: place for place, name in enumerate(state.series)}
        for name in layout.identities:
            series.setdefault(name, len(series))
        streams = {one.name: place for place, one in enumerate(state.streams)}
        for one in layout.streams:
            if one.name not in streams and len(streams) < config.streams_max:
                streams[one.name] = len(streams)
                state.streams.append(one)
        state.series = list(series)
        _grow(state)
        places = [
            (series[name], streams.get(layout.streams[of].name, 0))
            for name, of in zip(layout.identities, layout.stream_of, strict=True)
        ]
        at = np.array(places, np.intp)
        state.places = (layout, at[:, 0], at[:, 1])
    return state.places[1], state.places[2]


def _grow(state: State) -> None:
    state.last = np.pad(state.last, (0, len(state.series) - state.last.size), constant_values=np.nan)
    more = len(state.streams) - state.arrays["seen"].size
    if more:
        empty = {"hour": -1, "waits": -1}
        state.arrays = {
            name: np.pad(one, (0, more), constant_values=empty.get(name, 0)) for name, one in state.arrays.items()
        }
        state.season = {name: np.pad(one, ((0, 0), (0, more))) for name, one in state.season.items()}
        state.clock = None


def _take_gates(state: State, scrape: Scrape, layout: Layout) -> None:
    """Whether work is seen to wait for a stream."""
    waits: dict[str, float] = {}
    for place, name in layout.gates:
        value = scrape.values[place]
        if value is not None:
            waits[name] = waits.get(name, 0.0) + value
    if layout.gates:
        state.arrays["waits"][:] = [-1 if one.name not in waits else waits[one.name] > 0 for one in state.streams]


def _clock(config: Config, state: State, time_ms: int) -> Clock:
    """Hours of the week and open time by stream; calendars know nothing finer than minutes."""
    minute = time_ms // MINUTE_MS
    if state.clock is None or state.clock[0] != minute:
        state.clock = (minute, 0, _read_clock(config, state, time_ms))
    clock: Clock = state.clock[2]
    return clock


def _read_clock(config: Config, state: State, time_ms: int) -> Clock:
    told: dict[str | None, tuple[int, float, bool, bool, bool, bool]] = {}
    for tenant in {one.tenant for one in state.streams}:
        calendar = config.calendar(tenant)
        moment = calendar.at(time_ms)
        hour, into = hour_of_week(calendar, time_ms)
        shifted = (
            calendar.local(time_ms).utcoffset() != calendar.local(max(time_ms - SHIFTED_DAYS * DAY_MS, 0)).utcoffset()
        )
        told[tenant] = (hour, into, moment.is_open, not moment.maintenance, shifted, bool(calendar.shifts))
    rows = [(*told[one.tenant], FLOWS[one.flow]) for one in state.streams]
    return Clock(
        hour=np.array([row[0] for row in rows], np.intp),
        into=np.array([row[1] for row in rows]),
        works=np.array([row[3] and (row[2] or row[6].around_the_clock) for row in rows], bool),
        shifted=np.array([row[4] for row in rows], bool),
        needs_gate=np.array([row[6].needs_gate for row in rows], bool),
        declared=np.array([row[5] or row[6].around_the_clock for row in rows], bool),
    )


def _turn_hours(config: Config, state: State, hour: NDArray[np.intp]) -> None:
    """Fold the hours that are over into the season. A silence that was told is no new usual, unless it comes every week."""
    arrays, season = state.arrays, state.season
    over = (arrays["hour"] != hour) & (arrays["hour"] >= 0)
    arrays["hour"][arrays["hour"] < 0] = hour[arrays["hour"] < 0]
    if not over.any():
        return
    at, which = arrays["hour"][over].astype(np.intp), np.flatnonzero(over)
    enough = arrays["hour_ms"][over] >= HOUR_MS / 6
    weeks, told = season["weeks"][at, which], arrays["told"][over] > 0
    rate = np.divide(arrays["hour_sum"][over], arrays["hour_ms"][over], out=np.zeros(which.size), where=enough)
    weight = np.where(enough, np.maximum(1 / (weeks + 1.0), WEEK_WEIGHT) * np.where(told, 0.3, 1.0), 0.0)
    season["mean"][at, which] += (weight * (rate - season["mean"][at, which])).astype(np.float32)
    # The longest silence of the hour, in what is now known to be usual in it: a day that begins late has one, too.
    before = season["healthy"][at, which]
    worst = config.caution * np.maximum(rate, season["mean"][at, which]) * arrays["worst_ms"][over]
    worst = np.maximum(worst, arrays["worst"][over])
    limit = np.maximum(config.expected, config.healthy_factor * before)
    worst = np.where(told, np.minimum(worst, 2 * limit), worst)
    kept = np.where(enough, 0.8, 1.0) * before
    season["healthy"][at, which] = np.maximum(kept, np.where(enough, worst, 0.0)).astype(np.float32)
    season["weeks"][at, which] = np.minimum(weeks + (enough & ~told), 250).astype(np.uint8)
    arrays["longest"][over] = np.maximum(arrays["longest"][over] * 0.99, worst)
    for name in ("hour_sum", "hour_ms", "worst", "worst_ms"):
        arrays[name][over] = 0.0
    arrays["hour"][over] = hour[over]


def _expectation(state: State, clock: Clock) -> tuple[Floats, Floats, Flags]:
    """By stream: the usual rate a ms, the longest healthy silence of about this hour, and whether the hour is known.

    Until a working day's hour was seen on its own day, other working days speak for it.
    """
    season, which = state.season, np.arange(len(state.streams))
    hour, before, after = clock.hour, (clock.hour - 1) % HOURS, (clock.hour + 1) % HOURS
    known = season["weeks"][hour, which] > 0
    mean = season["mean"][hour, which].astype(np.float64)
    beside = np.where(clock.into >= 0.5, after, before)
    there = np.where(season["weeks"][beside, which] > 0, season["mean"][beside, which], mean)
    usual = np.minimum(mean, mean + (there - mean) * np.abs(clock.into - 0.5))
    days = np.arange(5)[:, None] * 24 + (hour % 24)[None, :]
    near = [season["healthy"][one, which] for one in (hour, before, after)]
    # Working days begin and end alike: what was healthy on one of them is so on the others.
    alike = np.where(hour < 120, season["healthy"][days, which].max(axis=0), 0.0)
    healthy = np.max([*near, alike], axis=0)
    if clock.shifted.any():
        least = np.minimum(season["mean"][before, which], season["mean"][after, which])
        usual = np.where(clock.shifted, np.minimum(usual, least), usual)
    if not known.all():
        seen = season["weeks"][days, which] > 0
        stands_in = ~known & (hour < 120) & seen.any(axis=0)
        least = np.where(seen, season["mean"][days, which], np.inf).min(axis=0)
        usual = np.where(stands_in, least, usual)
        known |= stands_in
    return usual, healthy.astype(np.float64), known


def _count(config: Config, state: State, clock: Clock, came: Floats, measured: Flags, elapsed_ms: int) -> None:
    """Follow what was to be expected; an event ends the silence."""
    arrays = state.arrays
    # What came between two looks came in open time only if both were in it.
    works, arrays["worked"] = clock.works & (arrays["worked"] > 0), clock.works.astype(np.int8)
    if not elapsed_ms:
        return
    usual, _, known = _expectation(state, clock)
    something = measured & (came > 0)
    looked = measured & works & ~(clock.needs_gate & (arrays["waits"] != 1))
    ordinary = usual * elapsed_ms
    arrays["since_usual"] += np.where(looked & known, ordinary, 0.0)
    arrays["silent_ms"] += np.where(looked, elapsed_ms, 0.0)
    level = np.divide(arrays["arrivals"], arrays["usual"], out=np.ones_like(usual), where=arrays["usual"] > 0)
    recent = np.divide(arrays["arrivals"], arrays["time_ms"], out=np.zeros_like(usual), where=arrays["time_ms"] > 0)
    rate = np.where(known, usual * np.minimum(level, 1.0), recent)
    arrays["missed"] += np.where(looked & ~something, config.caution * rate * elapsed_ms, 0.0)
    arrays["hour_sum"] += np.where(looked, came, 0.0)
    arrays["hour_ms"] += np.where(looked, elapsed_ms, 0.0)
    arrays["worst"] = np.maximum(arrays["worst"], arrays["missed"])
    within = np.minimum(arrays["silent_ms"], arrays["hour_ms"])  # what was silent before belongs to the hours before
    arrays["worst_ms"] = np.maximum(arrays["worst_ms"], np.where(looked, within, 0.0))
    # The level of the day is that of the last twenty events or two minutes, whichever is longer.
    keep = np.where(something, 1 - np.minimum(1 - np.exp(-arrays["silent_ms"] / 120_000), 1 / 20), 1.0)
    arrays["arrivals"] = arrays["arrivals"] * keep + np.where(something, came, 0.0)
    arrays["usual"] = arrays["usual"] * keep + np.where(something, arrays["since_usual"], 0.0)
    arrays["time_ms"] = arrays["time_ms"] * keep + np.where(something, arrays["silent_ms"], 0.0)
    # When people come to work the clock begins at nought; a silence that was told goes on until something comes.
    closed = ~works & (arrays["told"] == 0)
    for name in ("missed", "silent_ms", "since_usual"):
        arrays[name][something | closed] = 0.0
    gone = arrays["silent_ms"] > config.forget_ms
    arrays["told"][something | gone] = 0
    arrays["seen"] = np.where(gone, 0, arrays["seen"] + something).astype(np.uint32)


def _judge(config: Config, state: State, clock: Clock, scrape: Scrape) -> Findings:
    arrays = state.arrays
    suspect = (arrays["missed"] > config.expected) & (arrays["silent_ms"] >= config.silent_ms) & clock.works
    if suspect.any():
        _, healthy, known = _expectation(state, clock)
        longest = config.healthy_factor * np.where(known, healthy, arrays["longest"])
        patient = known | (arrays["waits"] == 1) | (clock.declared & (arrays["silent_ms"] >= config.unknown_ms))
        suspect &= (arrays["missed"] > longest) & patient & (arrays["seen"] >= config.learn)
        for slot in np.flatnonzero(suspect & (arrays["told"] == 0)).tolist():
            cause = _cause(config, state, clock, slot, scrape)
            if cause:
                state.causes[state.streams[slot].name] = cause
                arrays["told"][slot] = 1
    if not state.causes:
        return []
    told = {state.streams[slot].name: slot for slot in np.flatnonzero(arrays["told"]).tolist()}
    state.causes = {name: cause for name, cause in state.causes.items() if name in told}
    causes: dict[str, list[int]] = {}
    for name in sorted(state.causes):
        causes.setdefault(state.causes[name], []).append(told[name])
    found: Findings = []
    for cause, slots in causes.items():
        found += state.episodes.seen(key=cause, time_ms=scrape.time_ms, **_finding(state, scrape, cause, slots))
    return found + state.episodes.close_others(set(causes), scrape.time_ms)


def _cause(config: Config, state: State, clock: Clock, slot: int, scrape: Scrape) -> str | None:
    """What the silence of a stream is the silence of; None until the others have had time to say whether they move."""
    stream, arrays = state.streams[slot], state.arrays
    flow = FLOWS[stream.flow]
    owner = stream.tenant or scrape.resource
    if flow.alone is None:
        return f"{flow.cause}:{owner}"
    others = [
        place
        for place, one in enumerate(state.streams)
        if place != slot and one.tenant == stream.tenant and FLOWS[one.flow].is_machine
        if clock.works[place] and arrays["seen"][place]
    ]
    silent_ms = arrays["silent_ms"][slot]
    # Who moves has been heard since, and is not missed itself.
    if any(arrays["silent_ms"][place] < 0.5 * silent_ms and arrays["missed"][place] < 3 for place in others):
        partner = partner_of(stream.channel) if stream.channel else None
        return f"integration.silent:{partner}" if partner else f"{flow.alone}:{owner}"
    heard = not others or sum(arrays["missed"][place] for place in others) >= 1
    return f"{flow.cause}:{owner}" if heard or arrays["missed"][slot] > 2 * config.expected else None


def _finding(state: State, scrape: Scrape, cause: str, slots: list[int]) -> dict[str, Any]:
    tenant = state.streams[slots[0]].tenant
    worst = sorted(slots, key=lambda slot: (-state.arrays["missed"][slot], state.streams[slot].name))[:5]
    evidence = tuple(_evidence(state, slot, scrape.time_ms) for slot in worst)
    return {
        "cell": scrape.cell,
        "detector": STEP.name,
        "cause": cause,
        "resource": scrape.resource,
        "tenant": tenant,
        "severity": Severity.WARNING,
        "score": float(min(1 - np.exp(-state.arrays["missed"][worst[0]] / 2), 0.999)),
        "summary": evidence[0].text,
        "evidence": evidence,
        "tenants": (tenant,) if tenant else (),
    }


def _evidence(state: State, slot: int, time_ms: int) -> Evidence:
    stream, arrays = state.streams[slot], state.arrays
    series = parse(stream.name)
    what = ", ".join(value for name, value in sorted(series.attributes.items()) if name != "tenant.id")
    silent_s, missed = arrays["silent_ms"][slot] / 1000, arrays["missed"][slot]
    waits = " and work is seen to wait" if arrays["waits"][slot] == 1 else ""
    return Evidence(
        text=f"no {series.name}{f' ({what})' if what else ''} of {stream.tenant or 'the resource'} for {silent_s:.0f} s "
        f"where at least {missed:.0f} were to be expected{waits}",
        series=stream.name,
        unit="{event}",
        value=0.0,
        expected=float(missed),
        scale=float(np.sqrt(missed)),
        window_ms=round(arrays["silent_ms"][slot]),
        time_ms=time_ms,
    )


def pack(state: State) -> Parts:
    """The season by itself, since it changes once an hour."""
    more = {
        "series": state.series,
        "streams": [list(one) for one in state.streams],
        "causes": state.causes,
        "last_ms": state.last_ms,
        "start_ms": state.start_ms,
        "episodes": state.episodes.dump(),
    }
    return {"present": columns.pack({"last": state.last, **state.arrays}, more), "season": columns.pack(state.season)}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    arrays, more = columns.unpack(parts["present"])
    season, _ = columns.unpack(parts["season"])
    return State(
        series=more["series"],
        last=arrays.pop("last"),
        streams=[Stream(*one) for one in more["streams"]],
        arrays=arrays,
        season=season,
        causes=more["causes"],
        last_ms=more["last_ms"],
        start_ms=more["start_ms"],
        episodes=Episodes.load(more["episodes"]),
    )


def unit(record: Record) -> str | None:
    """A resource is a unit, when it has a flow that must not stand still."""
    if isinstance(record, Scrape) and layout_of(record.series).places:
        return f"{record.resource}|{record.system}"
    return None


ABOUT = About(
    finds=(
        "Activity that always comes at this hour and does not: workers, jobs, scheduled actions, documents, partners."
    ),
    method=(
        "The events that were to be expected since the last one are summed from the usual rate of this hour of "
        "the week; silence is told when so many are missing that health hardly ever would, and by far more than in "
        "the longest healthy silence of the hour."
    ),
    source="exponential inter-arrival test of a Poisson process, as a dead man's switch with a rate",
    limits=(
        "A flow that brings a few events a day is silent for hours before that can be known; nothing is expected "
        "while the calendar is closed or nothing was measured."
    ),
)
STEP = Step("absence", Config, (Scrape,), unit, State, step, pack, unpack, version=3, about=ABOUT)
