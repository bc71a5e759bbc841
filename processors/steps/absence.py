"""Something that always happens hardly does any more: silence against the calendar, and what it is the silence of.

For every flow whose standing still is bad (`processors.flows`) two stories are weighed against each other, look by look: events
come at the usual rate of this hour of the tenant's week at the level of the day, or at a tenth of it. The logarithm of their
odds rises with every event that was to be expected and falls with every one that came; it begins anew at 0 (Page's CUSUM), so
it may be looked at as often as one likes. The limit holds a stated number of false alarms: by Lundberg's inequality the sum
climbs to h after an event with probability e^-rh at most, and the flow's events a week are known. With ten weeks of health for
one false alarm, a flow of 40 events an hour is conspicuous after about 13 that did not come (20 minutes), one of 4 after 11.
Real arrivals come in clumps and people begin late, so the limit also grows with the highest healthy sum known of this hour,
those beside it and the same on other working days.

Nothing is expected while the tenant's calendar is closed, in maintenance, in time that was not measured, or of workers for
whom nothing waits. In an hour that was never seen yet, as in a tenant's first week, work must be seen to wait, or shifts must
be declared and two hours be silent. For some weeks after a change of clocks the hours beside count, too, since servers may keep
to UTC.

Who else moves tells what it is: all workers of a tenant silent is its workers, one channel is its partner or its queue, all
channels for which nothing waits while actions go on is a business that brings nothing.
Sources: Page (1954), Continuous inspection schemes; Lucas (1985), Counted data CUSUMs; Lundberg's inequality as in Asmussen &
Albrecher, Ruin Probabilities, ch. 4; e-detectors: Shin, Ramdas & Rinaldo (2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from schemas.words import called

Flags = NDArray[np.bool_]
HOUR_MS = 3_600_000
SHIFTED_DAYS = 35  # until the season has learned a change of clocks
WEEK_WEIGHT = 0.15  # of a new week, once several are known
CLUMP_LOOKS, CLUMP_PRIOR = (
    200,
    20.0,
)  # looks over which clumps are remembered; events that are held for single ones before
CLUMP_DUE_MAX = 20.0
LEVEL_MS, LEVEL_LOOKS = 120_000, 20  # over which the level of the day is remembered, whichever is longer
USUAL_MIN = 0.001  # events that were usual; what came instead of fewer tells no level
RING = 32  # minutes
EVENTS_TO_SAY = 2.0  # that were due of the others, before they tell by their silence that they stand, too
EVENTS_MIN = 1_000.0  # a flow that has fewer a week is held for one that has so many


class Config(StepConfig):
    """When silence is too long."""

    left: float = Field(0.1, gt=0, lt=1, description="Share of the usual rate that is left when a flow has stopped.")
    false_alarm_weeks: float = Field(
        10.0,
        gt=0,
        description="Weeks of health of a resource, all its flows together, in which one alarm may be false.",
    )
    healthy_factor: float = Field(
        1.5, gt=1, description="The evidence is so many times the highest that health has had."
    )
    silent_ms: int = Field(8_000, gt=0, description="Nothing has come for so long at least, ms.")
    sparse_ms: int = Field(300_000, gt=0, description="Or hardly anything for so long at least, ms.")
    unknown_ms: int = Field(7_200_000, gt=0, description="And so long in an hour of the week never seen before, ms.")
    caution: float = Field(0.8, gt=0, le=1, description="Share of the usual rate that is counted on.")
    gap_ms: int = Field(1_200_000, gt=0, description="Longer without a look is not measured, ms.")
    learn: int = Field(20, ge=1, description="Looks that brought something before a flow is judged.")
    forget_ms: int = Field(604_800_000, gt=0, description="A flow that was silent for so long is no more, ms.")
    streams_max: int = Field(5_000, ge=1, description="Flows followed a resource; others are left out.")

    @cached_property
    def gain(self) -> float:
        """Evidence of one usual event that did not come."""
        return self.caution * (1 - self.left)

    @cached_property
    def loss(self) -> float:
        """Evidence that one event takes away."""
        return -math.log(self.left)

    @cached_property
    def exponent(self) -> float:
        """Lundberg's: the root of `gain` r = 1 - `left`^r, beyond which the sum of a healthy flow is exponentially rare."""
        root = 1.0 / self.gain
        for _ in range(50):
            root = (1 - self.left**root) / self.gain
        return root


_SEASON = {"mean": np.float32, "healthy": np.float32, "weeks": np.uint8}
_PRESENT: dict[str, Any] = {
    "missed": np.float64,  # evidence that the flow has stopped, log odds
    "low_ms": np.float64,  # since that began to rise: time, what was to be expected and what came
    "low_usual": np.float64,
    "low_came": np.float64,
    "silent_ms": np.float64,  # since the last event
    "waited_ms": np.float64,  # since work was last not seen to wait
    "due": np.float64,  # sums of all that was to be expected, and of what came
    "came": np.float64,
    "arrivals": np.float64,  # decayed: events, what was usual, and time, at looks that brought something
    "usual": np.float64,
    "time_ms": np.float64,
    "since_usual": np.float64,  # what was usual since the last event, and the time
    "since_ms": np.float64,
    "scatter": np.float64,  # decayed: squared distances of counts from what was to be expected, and that
    "scatter_of": np.float64,
    "longest": np.float64,  # highest healthy evidence of all hours
    "worst": np.float64,  # the same of the present hour, and its longest silence
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
    rings: columns.Arrays = field(default_factory=lambda: {name: np.zeros((RING, 0)) for name in ("due", "came")})
    rings_ms: Floats = field(default_factory=lambda: np.full(RING, -1.0))
    """Sums of the last minutes that were looked at, the oldest first, and when they were taken."""
    causes: dict[str, str] = field(default_factory=dict)  # of the streams that are told, by name
    last_ms: int = -1
    start_ms: int = -1
    episodes: Episodes = field(default_factory=Episodes)
    places: tuple[Layout, Any, Any] | None = None
    clock: tuple[int, Clock] | None = None


@dataclass(slots=True)
class Clock:
    """What the calendars say by stream."""

    hour: NDArray[np.intp]
    into: Floats
    works: Flags
    shifted: Flags
    needs_gate: Flags
    declared: Flags
    usual: Floats
    known: Flags
    least: Floats
    limit: Floats


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Weigh what came since the last look, and what did not."""
    scrape: Scrape = item.record
    layout = layout_of(scrape.series)
    if not layout.places or scrape.time_ms <= state.last_ms:
        return state, []
    came, measured = _changes(config, state, scrape, layout)
    elapsed_ms = scrape.time_ms - state.last_ms if state.last_ms >= 0 else 0
    clock = _clock(config, state, scrape.time_ms)
    _count(config, state, clock, came, measured & (0 < elapsed_ms <= config.gap_ms), elapsed_ms)
    state.last_ms = scrape.time_ms
    return state, _judge(config, state, clock, scrape, elapsed_ms)


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
        for table in (state.season, state.rings):
            table.update({name: np.pad(one, ((0, 0), (0, more))) for name, one in table.items()})
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
    """What calendars and the season say by stream; they are read once a minute."""
    minute = time_ms // MINUTE_MS
    if state.clock is None or state.clock[0] != minute:
        at = _read_calendars(config, state, minute * MINUTE_MS)
        _turn_hours(config, state, at.hour)
        state.rings_ms = np.append(state.rings_ms[1:], float(max(state.last_ms, 0)))
        for name, ring in state.rings.items():
            ring[:-1], ring[-1] = ring[1:].copy(), state.arrays[name]
        state.clock = (minute, _with_season(config, state, at))
    return state.clock[1]


def _read_calendars(config: Config, state: State, time_ms: int) -> Clock:
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
    nothing = np.zeros(len(rows))
    return Clock(
        hour=np.array([row[0] for row in rows], np.intp),
        into=np.array([row[1] for row in rows]),
        works=np.array([row[3] and (row[2] or row[6].around_the_clock) for row in rows], bool),
        shifted=np.array([row[4] for row in rows], bool),
        needs_gate=np.array([row[6].needs_gate for row in rows], bool),
        declared=np.array([row[5] or row[6].around_the_clock for row in rows], bool),
        usual=nothing,
        known=nothing > 0,
        least=nothing,
        limit=nothing,
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
    worst = config.gain * np.maximum(rate, season["mean"][at, which]) * arrays["worst_ms"][over]
    worst = np.maximum(worst, arrays["worst"][over])
    limit = np.maximum(_least(config, state)[over], config.healthy_factor * before)
    worst = np.where(told, np.minimum(worst, 2 * limit), worst)
    kept = np.where(enough, 0.8, 1.0) * before
    season["healthy"][at, which] = np.maximum(kept, np.where(enough, worst, 0.0)).astype(np.float32)
    season["weeks"][at, which] = np.minimum(weeks + (enough & ~told), 250).astype(np.uint8)
    arrays["longest"][over] = np.maximum(arrays["longest"][over] * 0.99, worst)
    for name in ("hour_sum", "hour_ms", "worst", "worst_ms"):
        arrays[name][over] = 0.0
    arrays["hour"][over] = hour[over]


def _least(config: Config, state: State) -> Floats:
    """By stream: the evidence that a Poisson flow of so many events a week, in clumps, reaches as seldom as is wanted."""
    a_week = np.maximum(state.season["mean"].sum(axis=0, dtype=np.float64) * HOUR_MS, EVENTS_MIN)
    limit: Floats = np.log(config.false_alarm_weeks * a_week * len(state.streams)) / config.exponent
    return limit * _clump(state.arrays)


def _with_season(config: Config, state: State, clock: Clock) -> Clock:
    """By stream: the usual rate a ms, whether the hour is known, and the evidence that is enough.

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
    healthy = np.max([*near, alike], axis=0).astype(np.float64)
    if clock.shifted.any():
        least = np.minimum(season["mean"][before, which], season["mean"][after, which])
        usual = np.where(clock.shifted, np.minimum(usual, least), usual)
    if not known.all():
        seen = season["weeks"][days, which] > 0
        stands_in = ~known & (hour < 120) & seen.any(axis=0)
        least = np.where(seen, season["mean"][days, which], np.inf).min(axis=0)
        usual = np.where(stands_in, least, usual)
        known |= stands_in
    enough = _least(config, state)
    healthy = np.where(known, healthy, state.arrays["longest"])
    limit = np.maximum(enough, config.healthy_factor * healthy)
    return replace(clock, usual=usual, known=known, least=enough, limit=limit)


def _count(config: Config, state: State, clock: Clock, came: Floats, measured: Flags, elapsed_ms: int) -> None:
    """Add up what speaks for a stop and what against it; learn how busy the day is while nothing does."""
    arrays = state.arrays
    # What came between two looks came in open time only if both were in it.
    works, arrays["worked"] = clock.works & (arrays["worked"] > 0), clock.works.astype(np.int8)
    if not elapsed_ms:
        return
    something = measured & (came > 0)
    # What is usual is learned whenever it is open; what waited at both looks was to be expected between them.
    awaited = ~clock.needs_gate | (arrays["waited_ms"] > 0) & (arrays["waits"] == 1)
    open_ms = np.where(measured & works, float(elapsed_ms), 0.0)
    looked = measured & works & awaited
    looked_ms = np.where(looked, float(elapsed_ms), 0.0)
    level = np.divide(arrays["arrivals"], arrays["usual"], out=np.ones_like(came), where=arrays["usual"] > USUAL_MIN)
    recent = np.divide(arrays["arrivals"], arrays["time_ms"], out=np.zeros_like(came), where=arrays["time_ms"] > 0)
    rate = np.where(clock.known, clock.usual * np.minimum(level, 1.0), recent)
    due, told = rate * looked_ms, arrays["told"] > 0
    events = np.where(measured, came, 0.0)
    arrays["due"] += due
    arrays["came"] += np.where(looked, came, 0.0)
    arrays["waited_ms"] = np.where(arrays["waits"] == 1, arrays["waited_ms"] + elapsed_ms, 0.0)
    rise = config.gain * due - config.loss * events
    # Bounded, so that the end is seen within a few events.
    most = 1.25 * np.where(told, clock.least, clock.limit)
    missed = arrays["missed"] = np.clip(arrays["missed"] + rise, 0.0, most)
    low = missed > 0
    for name, more in (("low_ms", looked_ms), ("low_usual", config.caution * due), ("low_came", events)):
        arrays[name] = np.where(low, arrays[name] + more, 0.0)
    silent_ms = arrays["silent_ms"] + looked_ms
    is_open = open_ms > 0
    _learn_hour(arrays, events, open_ms, np.where(something | ~looked, 0.0, silent_ms))
    _learn_level(arrays, clock, events, open_ms, is_open & something & (missed <= most / 4))
    _learn_clumps(
        config,
        arrays,
        np.where(looked & clock.known & (missed <= most / 2), clock.usual * level * elapsed_ms, 0.0),
        events,
    )
    arrays["silent_ms"] = np.where(something, 0.0, silent_ms)
    # When people come to work the clock begins at nought; a silence that was told goes on until enough comes.
    for name in ("missed", "low_ms", "low_usual", "low_came", "silent_ms", "since_usual"):
        arrays[name][~works & ~told] = 0.0
    gone = arrays["silent_ms"] > config.forget_ms
    arrays["told"][(missed < clock.least / 2) | gone] = 0
    arrays["seen"] = np.where(gone, 0, arrays["seen"] + something).astype(np.uint32)


def _learn_hour(arrays: columns.Arrays, events: Floats, open_ms: Floats, silent_ms: Floats) -> None:
    """What the present hour brings, and its longest silence while something was to be expected."""
    arrays["hour_sum"] += np.where(open_ms > 0, events, 0.0)
    arrays["hour_ms"] += open_ms
    arrays["worst"] = np.maximum(arrays["worst"], arrays["missed"])
    within = np.minimum(silent_ms, arrays["hour_ms"])  # what was silent before belongs to the hours before
    arrays["worst_ms"] = np.maximum(arrays["worst_ms"], within)


def _learn_level(arrays: columns.Arrays, clock: Clock, events: Floats, open_ms: Floats, teaches: Flags) -> None:
    """The level of the day: that of the last twenty looks that brought something, two minutes at least.

    Rare looks bring hundreds of events, and twenty of them are half a day, in which the level has changed: an hour that has
    twenty clumps of events is enough. An hour that is not known yet says nothing of the level.
    """
    arrays["since_usual"] += clock.usual * open_ms
    arrays["since_ms"] += open_ms
    since_ms, usual = arrays["since_ms"], np.where(clock.known, arrays["since_usual"], events)
    enough = np.minimum(since_ms / HOUR_MS, events / (LEVEL_LOOKS * _clump(arrays)))
    keep = np.where(teaches, np.exp(-np.minimum(since_ms / LEVEL_MS, np.maximum(1 / LEVEL_LOOKS, enough))), 1.0)
    for name, more in (("arrivals", events), ("usual", usual), ("time_ms", since_ms)):
        arrays[name] = arrays[name] * keep + np.where(teaches, more, 0.0)
    for name in ("since_usual", "since_ms"):
        arrays[name][events > 0] = 0.0


def _learn_clumps(config: Config, arrays: columns.Arrays, due: Floats, events: Floats) -> None:
    """How many events come at once: the variance of counts over their mean, without that of a rate that wanders.

    Only looks at which few were due tell: the more, the more it is the rate that scatters.
    """
    counts = (due > 0) & (due <= CLUMP_DUE_MAX)
    scatter = (events - due) ** 2 - ((1 - config.caution) * due) ** 2
    for name, more in (("scatter", scatter), ("scatter_of", due)):
        arrays[name] = arrays[name] * np.where(counts, 1 - 1 / CLUMP_LOOKS, 1.0) + np.where(counts, more, 0.0)


def _clump(arrays: columns.Arrays) -> Floats:
    """Events that come at once; one until it is known better."""
    found: Floats = (arrays["scatter"] + CLUMP_PRIOR) / (arrays["scatter_of"] + CLUMP_PRIOR)
    return np.maximum(found, 1.0)


def _judge(config: Config, state: State, clock: Clock, scrape: Scrape, elapsed_ms: int) -> Findings:
    arrays = state.arrays
    suspect = (arrays["missed"] >= clock.limit) & clock.works & (arrays["told"] == 0)
    if suspect.any():
        # Few in one look may be a look that came late: two have to agree.
        long = np.where(arrays["low_came"] > 0, max(config.sparse_ms, elapsed_ms + 1), config.silent_ms)
        patient = clock.known | (arrays["waits"] == 1) | (clock.declared & (arrays["silent_ms"] >= config.unknown_ms))
        suspect &= (arrays["low_ms"] >= long) & patient & (arrays["seen"] >= config.learn)
        for slot in np.flatnonzero(suspect).tolist():
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
    low_ms = arrays["low_ms"][slot]
    due, came = _since(state, scrape.time_ms - low_ms)
    mine = [one.tenant == stream.tenant for one in state.streams] & clock.works & (arrays["seen"] > 0)
    mine[slot] = False
    machine = np.array([FLOWS[one.flow].is_machine for one in state.streams])
    same = np.array([one.flow == stream.flow for one in state.streams])
    moves = mine & (came > 0) & (came >= 0.5 * due)
    is_late = arrays["low_usual"][slot] * config.gain > 2 * clock.limit[slot]
    if not (moves & machine).any():
        others = mine & machine
        is_sure = is_late or not others.any() or due[others].sum() >= EVENTS_TO_SAY
        return f"{flow.cause}:{owner}" if is_sure else None
    # While nothing waits, either nobody sends what this channel is for, or nothing happens that would fill any.
    fill = mine & (same | np.array([one.begins for one in state.streams]))
    if flow.gate is None or 2 * arrays["waited_ms"][slot] > low_ms or (moves & fill).any() or not fill.any():
        return _alone(stream, owner)
    return f"process.stopped:{owner}" if is_late or due[fill].sum() >= EVENTS_TO_SAY else None


def _since(state: State, since_ms: float) -> tuple[Floats, Floats]:
    """By stream, what was due and what came since about then."""
    arrays = state.arrays
    place = max(int(np.searchsorted(state.rings_ms, since_ms, side="right")) - 1, 0)
    return arrays["due"] - state.rings["due"][place], arrays["came"] - state.rings["came"][place]


def _alone(stream: Stream, owner: str) -> str:
    partner = partner_of(stream.channel) if stream.channel else None
    return f"integration.silent:{partner}" if partner else f"{FLOWS[stream.flow].alone}:{owner}"


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
    low_s, usual, came = arrays["low_ms"][slot] / 1000, arrays["low_usual"][slot], arrays["low_came"][slot]
    waits = " and work is seen to wait" if arrays["waits"][slot] == 1 else ""
    return Evidence(
        text=f"{f'only {came:.0f}' if came else 'no'} {called(series)} "
        f"of {stream.tenant or 'the resource'} in {low_s:.0f} s where at least {usual:.0f} were to be expected{waits}",
        series=stream.name,
        unit="{event}",
        value=float(came),
        expected=float(usual),
        scale=float(np.sqrt(usual)),
        time_ms=time_ms,
        window_ms=round(arrays["low_ms"][slot]),
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
    rings = {f"ring_{name}": ring for name, ring in state.rings.items()}
    present = {"last": state.last, **state.arrays, **rings, "rings_ms": state.rings_ms}
    return {"present": columns.pack(present, more), "season": columns.pack(state.season)}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    arrays, more = columns.unpack(parts["present"])
    season, _ = columns.unpack(parts["season"])
    return State(
        series=more["series"],
        last=arrays.pop("last"),
        rings={name: arrays.pop(f"ring_{name}") for name in ("due", "came")},
        rings_ms=arrays.pop("rings_ms"),
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
        "The usual rate of this hour of the week, at the level of the day, is weighed against a tenth of it, look by "
        "look; a stop is told when the evidence is more than health brings once in ten weeks, and by far more than the "
        "highest healthy evidence of the hour."
    ),
    source="Page (1954), Continuous inspection schemes; Lucas (1985), Counted data CUSUMs",
    limits=(
        "A flow that brings a few events a day is silent for hours before that can be known; nothing is expected "
        "while the calendar is closed or nothing was measured."
    ),
)
# Version 3 kept silences in other words, which cannot be weighed: it starts afresh.
STEP = Step("absence", Config, (Scrape,), unit, State, step, pack, unpack, version=5, about=ABOUT)
