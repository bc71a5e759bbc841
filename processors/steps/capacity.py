"""When does something run out? Time to exhaustion, with its interval, of everything that has a bound.

Of every share of a bound (see `bounds`) the highest value of each minute, hour and day is kept: four hours, two weeks and
twelve weeks of them. Each scale is forecast by itself (see `forecast`), so a leak is seen in hours and slow growth in weeks.
What rises is told when the median of its time to exhaustion is shorter than the time its owner needs, and if

- it has risen already by as much as is left: what has gone on so long has even odds to go on as long again (Gott 1993);
- it is higher than ever before, where it has come and gone before (clean-ups, days, month ends): a sawtooth runs into nothing.

A limit that is moved re-scales the past. State: about 2.6 KiB a share; at most `SHARES_MAX` shares a resource.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from processors import columns
from processors.episodes import Episodes
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from processors.steps.bounds import DAY_S, HOUR_S, NAMES, Bound, Reading, Share, knee, readings
from processors.steps.forecast import Course, Outlook, course, time_to
from schemas.records import Evidence, Record, Scrape, Severity

SHARES_MAX = 256
NORMAL_80 = 2.563  # standard deviations between the ends of a normal distribution's middle 80 %
LAYOUTS_MAX = 256
FULL_LEAST = 5


class Scale(NamedTuple):
    """A grain of the past: its length, how many are kept and looked ahead, the season in it, how often it is judged."""

    name: str
    length: float
    kept: int
    ahead: int
    period: int
    points: int
    every: int


SCALES = (
    Scale("minute", 60.0, 240, 240, 0, 60, 10),
    Scale("hour", HOUR_S, 336, 336, 24, 8, 1),
    Scale("day", DAY_S, 84, 84, 7, 8, 1),
)


class Config(StepConfig):
    """What is told, and what cannot be read from the resources."""

    limits: dict[str, float] = Field(
        default_factory=dict, description="Fixed limits by metric, in its unit, where no series tells."
    )
    workers: dict[str, int] = Field(default_factory=dict, description="Request workers by resource of the Odoo log.")
    leads_s: dict[str, float] = Field(
        default_factory=dict, description="Time an owner needs, by kind, s; else the table's."
    )
    minute_s: float = Field(
        60.0, gt=0, description="Length of the shortest grain, s; the others are 60 and 1,440 of it."
    )
    days_known: float = Field(
        3.0, ge=0, description="Days that must be known before a rise is judged of what follows the work."
    )
    confirm: int = Field(2, ge=1, description="Judgements in a row that open an episode, and that end it.")


@dataclass
class State:
    """The shares of one resource."""

    shares: list[Share] = field(default_factory=list)
    rings: list[Any] = field(default_factory=lambda: [np.full((scale.kept, 0), np.nan, np.float32) for scale in SCALES])
    numbers: list[int] = field(default_factory=lambda: [-1] * len(SCALES))
    peaks: list[list[float]] = field(default_factory=lambda: [[] for _ in SCALES])
    limits: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)  # the limit in whose shares the rings are kept
    totals: list[float] = field(default_factory=list)
    hot: list[list[int]] = field(default_factory=list)
    servers: list[float] = field(default_factory=list)  # most that were busy at once while others waited
    waited: list[list[int]] = field(
        default_factory=list
    )  # looks at which others waited, and at how many of them most were busy
    loads: dict[int, tuple[float, int]] = field(default_factory=dict)  # by slot: sum and number of this minute's
    first_ms: int = -1
    last_ms: int = -1
    start_ms: int = -1
    episodes: Episodes = field(default_factory=Episodes)
    layouts: dict[str, Layout] = field(default_factory=dict)


class Layout(NamedTuple):
    """What of a scrape's values is taken, by slot: shares as they are, pairs of what is used and its limit, and the rest."""

    shares: list[tuple[int, int]]
    pairs: list[tuple[int, int, int]]
    others: list[tuple[int, Reading]]


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a scrape; what has become whole by it is judged."""
    scrape: Scrape = item.record
    if scrape.time_ms <= state.last_ms:
        return state, []
    found = _turn(config, state, scrape)
    started = scrape.start_time_ms if scrape.start_time_ms is not None else -1
    elapsed_s = (
        (scrape.time_ms - state.last_ms) / 1000 if state.last_ms >= 0 and started == state.start_ms else math.inf
    )
    _take(_layout(config, state, scrape), state, scrape.values, elapsed_s)
    if state.first_ms < 0:
        state.first_ms = scrape.time_ms
    state.last_ms, state.start_ms = scrape.time_ms, started
    return state, found


def _take(layout: Layout, state: State, values: tuple[float | None, ...], elapsed_s: float) -> None:
    """Note the highest of this minute. What is used is kept in units of the first limit, see `_past`."""
    peaks, units, limits = state.peaks[0], state.units, state.limits
    for slot, place in layout.shares:
        share = values[place]
        if share is not None and share > peaks[slot]:
            peaks[slot] = share
    for slot, place, limit_place in layout.pairs:
        used, limit = values[place], values[limit_place]
        if used is not None and limit:  # else none is set, or it was not measured
            limits[slot] = limit
            used /= units[slot] or _unit(state, slot, limit)
            if used > peaks[slot]:
                peaks[slot] = used
    for slot, reading in layout.others:
        other = _other(state, slot, reading, values, elapsed_s)
        if other is not None and other > peaks[slot]:
            peaks[slot] = other


def _unit(state: State, slot: int, limit: float) -> float:
    state.units[slot] = limit
    return limit


def _other(
    state: State, slot: int, reading: Reading, values: tuple[float | None, ...], elapsed_s: float
) -> float | None:
    """The share of what is a rate, a load or limited by a number."""
    known = [value for place in reading.used if (value := values[place]) is not None]
    if not known:
        return None
    used, bound = math.fsum(known), reading.of.bound
    limit = _carried(state, slot, reading, used, values) if bound.is_load else reading.fixed
    if not limit:
        return None
    if bound.is_rate:
        before, state.totals[slot] = state.totals[slot], used
        return (used - before) / elapsed_s / limit if used >= before >= 0 and elapsed_s < 1_200 else None
    state.limits[slot] = limit
    used /= state.units[slot] or _unit(state, slot, limit)
    if not bound.is_load:
        return used
    total, count = state.loads.get(slot, (0.0, 0))
    state.loads[slot] = total + used, count + 1
    return None


def _carried(state: State, slot: int, reading: Reading, busy: float, values: tuple[float | None, ...]) -> float | None:
    """The load that the servers carry until waiting is as long as service; None while it is not known how many there are."""
    count = reading.fixed if reading.limit is None else values[reading.limit]
    if reading.waits is not None:
        count = _servers(state, slot, busy, is_waited_for=(values[reading.waits] or 0.0) > 0.0)
    return knee(round(count)) if count and count >= 1 else None


def _servers(state: State, slot: int, busy: float, *, is_waited_for: bool) -> float | None:
    """How many there are: who waits for a full pool sees all of them busy, time and again; else it waits for something else."""
    waited = state.waited[slot]
    if is_waited_for:
        if busy > state.servers[slot]:
            state.servers[slot], waited[1] = busy, 0
        waited[0] += 1
        waited[1] += busy == state.servers[slot]
    looks, full = waited
    return state.servers[slot] if full >= FULL_LEAST and 2 * full >= looks else None


def _turn(config: Config, state: State, scrape: Scrape) -> Findings:
    """Close the grains that are over, shortest first, and judge the scales whose turn it is."""
    found: Findings = []
    factor = config.minute_s / 60.0
    for place, scale in enumerate(SCALES):
        number = int(scrape.time_ms / (scale.length * factor * 1000))
        before, state.numbers[place] = state.numbers[place], number
        if number == before:
            break
        if before < 0 or not state.shares:
            continue
        _close(state, place, before, number)
        if number // scale.every != before // scale.every:
            found += _judge(config, state, place, scrape)
    return found


def _close(state: State, place: int, before: int, number: int) -> None:
    ring, peaks = state.rings[place], state.peaks[place]
    if place == 0:
        for slot, (total, count) in state.loads.items():
            peaks[slot] = total / count
        state.loads.clear()
    kept = ring.shape[0]
    values = np.array(peaks, np.float32)
    ring[before % kept] = np.where(values < 0, np.nan, values)
    for hole in range(before + 1, min(number, before + 1 + kept)):
        ring[hole % kept] = np.nan
    if place + 1 < len(SCALES):
        state.peaks[place + 1] = [max(pair) for pair in zip(state.peaks[place + 1], peaks, strict=True)]
    state.peaks[place] = [-1.0] * len(peaks)


def _judge(config: Config, state: State, place: int, scrape: Scrape) -> Findings:
    found: Findings = []
    moment = config.calendar().at(scrape.time_ms)
    for slot, of in enumerate(state.shares):
        if of.bound.follows_work and (moment.load != 1.0 or moment.maintenance):
            continue
        outlook = _outlook(config, state, place, slot, of.bound)
        hot = state.hot[place]
        hot[slot] = min(hot[slot] + 1, 3 * config.confirm) if outlook else max(hot[slot] - 1, 0)
        if outlook and hot[slot] >= config.confirm:
            found += _tell(config, state, place, slot, outlook, scrape)
        elif not any(grain[slot] for grain in state.hot) and _is_refuted(state, slot, of, scrape.time_ms):
            found += state.episodes.close(of.key, scrape.time_ms)
    return found


def _is_refuted(state: State, slot: int, of: Share, time_ms: int) -> bool:
    """A forecast that was told ends when its time has come in vain, or when there is a quarter more room than it saw."""
    told = state.episodes.open.get(of.key)
    if told is None or told.signal.expected_ms is None or time_ms >= told.signal.expected_ms:
        return True
    share, present = told.signal.evidence[0].value or 0.0, _past(state, 0, slot)
    known = present[~np.isnan(present)]
    return not known.size or 1.0 - float(known[-1]) > 1.25 * (1.0 - share)


def _outlook(config: Config, state: State, place: int, slot: int, bound: Bound) -> Outlook | None:
    """When the share is exhausted as this scale sees it; None when that is none too soon, or not to be believed."""
    scale, factor = SCALES[place], config.minute_s / 60.0
    values = _past(state, place, slot)
    if (
        np.count_nonzero(~np.isnan(values)) < min(scale.points, 8)
        or values.size < scale.points
        or np.isnan(values[-max(3, scale.kept // 8) :]).all()
    ):
        return None
    known_s = (state.last_ms - state.first_ms) / 1000 / factor
    if bound.follows_work and known_s < config.days_known * DAY_S:
        return None
    known = values[~np.isnan(values)]
    now = min(float(np.median(known[-3:])), float(known[-1]))
    if 1.0 - now > now - float(known.min()):
        return None
    seen = course(values, scale.period)
    if 1.0 - seen.present > seen.rise or not _is_new(state, place, slot, seen, values):
        return None
    lead = config.leads_s.get(bound.kind, bound.lead_s) / scale.length
    outlook = time_to(seen, 1.0, scale.ahead)
    return outlook if outlook.median <= min(lead, scale.ahead) and _goes_on(seen, outlook) else None


def _goes_on(seen: Course, outlook: Outlook) -> bool:
    """A rise has even odds to last as long again as it has lasted."""
    return outlook.slope > 0 and outlook.median <= seen.flat.size - seen.began


def _past(state: State, place: int, slot: int) -> Any:
    """Oldest first, as far back as it was measured."""
    ring, number = state.rings[place], state.numbers[place]
    values = np.roll(ring[:, slot], -(number % ring.shape[0])).astype(np.float64)
    if state.limits[slot] > 0:  # of a limit that was moved, the past is told in shares of the new one
        values *= state.units[slot] / state.limits[slot]
    known = np.flatnonzero(~np.isnan(values))
    return values[known[0] :] if known.size else values[:0]


def _is_new(state: State, place: int, slot: int, seen: Course, values: Any) -> bool:
    """Whether it is higher than ever, where it has come and gone before: in its own grain without the season, in longer ones."""
    flat = seen.flat[~np.isnan(seen.flat)]
    day = SCALES[place].period if place == 1 else 0
    top = max(float(np.nanmax(values[-day:])) if day else seen.present, seen.present)
    pasts = [(flat[:-3], seen.present)]
    for other in range(place + 1, len(SCALES)):
        rising = math.ceil((values.size - seen.began) * SCALES[place].length / SCALES[other].length)
        pasts.append((_past(state, other, slot)[: -rising - 1], top))
    # The median of the last values lags behind a steep rise.
    at_top = max(seen.present, float(flat[-1])) >= 0.98 * float(flat.max())
    return at_top and all(now >= np.nanmax(past) for past, now in pasts if _swings(past))


def _swings(past: Any) -> bool:
    """Whether it has fallen through its middle twice."""
    past = past[~np.isnan(past)]
    if past.size < 4:
        return False
    above = past > (past.max() + past.min()) / 2
    return int(np.count_nonzero(above[:-1] & ~above[1:])) >= 2


def _tell(config: Config, state: State, place: int, slot: int, outlook: Outlook, scrape: Scrape) -> Findings:
    of, scale = state.shares[slot], SCALES[place]
    bound, where = of.bound, of.tenant or scrape.resource
    median_s, low_s, high_s = (steps * scale.length for steps in (outlook.median, outlook.low, outlook.high))
    least_s, most_s = (steps * scale.length for steps in outlook.widest)
    what = _named(of.key.partition(" ")[2] or bound.used)
    values = _past(state, place, slot)
    share = round(float(values[~np.isnan(values)][-1]), 4)
    text = (
        f"{what} of {scrape.resource} is {share:.0%} of its limit and exhausted in {duration(median_s)} "
        f"(80 %: {duration(low_s)} to {duration(high_s)}), at {outlook.slope * DAY_S / scale.length:+.1%} a day"
    )
    again = f", {outlook.shifts} steps taken out" if outlook.shifts else ""
    lead_s = config.leads_s.get(bound.kind, bound.lead_s)
    note = (
        f"it is exhausted in {duration(median_s)} and told from {duration(lead_s)} before, which its owner needs; "
        f"95 %: {duration(least_s)} to {duration(most_s)}; judged by its highest values of each {scale.name}{again}"
    )
    critical_s = min(bound.critical_s, lead_s / 4)
    return state.episodes.seen(
        key=of.key,
        time_ms=scrape.time_ms,
        tell_every_ms=round(scale.length * config.minute_s / 60 * 1000 * (60 if place == 0 else 6)),
        cell=scrape.cell,
        detector=STEP.name,
        cause=f"{bound.kind}:{where}",
        resource=scrape.resource,
        tenant=of.tenant,
        severity=Severity.CRITICAL if median_s <= critical_s else Severity.WARNING,
        score=round(min(0.99, 0.5 + 0.5 * math.exp(-median_s / bound.lead_s)), 4),
        summary=text,
        evidence=(
            Evidence(
                text=text,
                unit="1",
                value=share,
                expected=1.0,
                window_ms=round(values.size * scale.length * config.minute_s / 60 * 1000),
                time_ms=scrape.time_ms,
            ),
            Evidence(
                text=note,
                unit="s",
                value=_finite(median_s),
                scale=_finite((high_s - low_s) / NORMAL_80),
                time_ms=scrape.time_ms,
            ),
        ),
        tenants=(of.tenant,) if of.tenant else (),
        advice=bound.advice.format(where=where),
        expected_ms=scrape.time_ms + round(median_s * 1000) if math.isfinite(median_s) else None,
    )


def _named(what: str) -> str:
    """`metric a.b.mountpoint=/data` as `metric (mountpoint /data)`."""
    metric, *attributes = what.split(" ")
    pairs = (one.partition("=") for one in attributes)
    told = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, _, value in pairs)
    return f"{metric} ({told})" if told else metric


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def duration(seconds: float) -> str:
    """In the unit that people would say."""
    if math.isinf(seconds):
        return "more than can be seen"
    for unit, length in (("days", DAY_S), ("h", HOUR_S)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min"


def _layout(config: Config, state: State, scrape: Scrape) -> Layout:
    known = state.layouts.get(scrape.series)
    if known is None:
        if len(state.layouts) >= LAYOUTS_MAX:
            state.layouts.clear()
        every = readings(scrape.series, scrape.resource, config.limits, config.workers)
        _grow(state, [one.of for one in every if one.of not in state.shares])
        places = {share: slot for slot, share in enumerate(state.shares)}
        mine = [(places[one.of], one) for one in every if one.of in places]
        pairs = [one for one in mine if one[1].limit is not None and not one[1].of.bound.is_load]
        known = state.layouts[scrape.series] = Layout(
            [(slot, one.share) for slot, one in mine if one.share is not None],
            [(slot, one.used[0], one.limit) for slot, one in pairs if one.limit is not None],
            [one for one in mine if one[1].share is None and one not in pairs],
        )
    return known


def _grow(state: State, shares: list[Share]) -> None:
    new = shares[: SHARES_MAX - len(state.shares)]
    state.shares += new
    state.rings = [np.pad(ring, ((0, 0), (0, len(new))), constant_values=np.nan) for ring in state.rings]
    state.peaks = [peaks + [-1.0] * len(new) for peaks in state.peaks]
    state.limits += [0.0] * len(new)
    state.units += [0.0] * len(new)
    state.totals += [-1.0] * len(new)
    state.servers += [0.0] * len(new)
    state.waited += [[0, 0] for _ in new]
    state.hot = [(state.hot[place] if state.hot else []) + [0] * len(new) for place in range(len(SCALES))]


def unit(record: Record) -> str | None:
    """A resource is a unit, when something of it can run out."""
    return f"{record.resource}|{record.system}" if isinstance(record, Scrape) and _bounded(record.series) else None


_BOUNDED: dict[str, bool] = {}
_BOUNDED_MAX = 10_000


def _bounded(layout: str) -> bool:
    known = _BOUNDED.get(layout)
    if known is None:
        if len(_BOUNDED) >= _BOUNDED_MAX:
            _BOUNDED.clear()
        known = _BOUNDED[layout] = any(one.partition("{")[0] in NAMES for one in layout.split("\n"))
    return known


def pack(state: State) -> Parts:
    """Each grain by itself, since days change rarely."""
    more = {
        "shares": [tuple(share) for share in state.shares],
        "numbers": state.numbers,
        "peaks": state.peaks,
        "limits": state.limits,
        "units": state.units,
        "totals": state.totals,
        "hot": state.hot,
        "servers": state.servers,
        "waited": state.waited,
        "loads": [(slot, *load) for slot, load in state.loads.items()],
        "times": [state.first_ms, state.last_ms, state.start_ms],
        "episodes": state.episodes.dump(),
    }
    rings = {scale.name: columns.pack({"ring": ring}) for scale, ring in zip(SCALES, state.rings, strict=True)}
    return {"present": columns.pack({}, more), **rings}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    _, more = columns.unpack(parts["present"])
    return State(
        shares=[Share(*one) for one in more["shares"]],
        rings=[columns.unpack(parts[scale.name])[0]["ring"] for scale in SCALES],
        numbers=more["numbers"],
        peaks=more["peaks"],
        limits=more["limits"],
        units=more.get("units", list(more["limits"])),
        totals=more["totals"],
        hot=more["hot"],
        servers=more.get("servers", [0.0] * len(more["shares"])),
        waited=more.get("waited", [[0, 0] for _ in more["shares"]]),
        loads={slot: (total, count) for slot, total, count in more.get("loads", ())},
        first_ms=more["times"][0],
        last_ms=more["times"][1],
        start_ms=more["times"][2],
        episodes=Episodes.load(more["episodes"]),
    )


ABOUT = About(
    finds="Bounded resources that run out, and when: disks, memory, connections, workers, WAL, queues.",
    method=(
        "The highest values of each minute, hour and day are forecast by local linear trends that are averaged by "
        "their likelihood; told when the median is sooner than the time that its owner needs."
    ),
    source=(
        "local linear trend (Durbin & Koopman, Time Series Analysis by State Space Methods); level shifts as "
        "interventions (Harvey & Koopman 1992); even odds to go on as long again (Gott 1993)"
    ),
    limits=(
        "A step that was never seen before is not foreseen; the interval holds 80 % only while growth goes on as "
        "it did."
    ),
)
STEP = Step("capacity", Config, (Scrape,), unit, State, step, pack, unpack, version=2, about=ABOUT)
