"""When does something run out? Time to exhaustion, with its interval, of everything that has a bound.

Of every share of a bound (see `bounds`) the highest value of each minute, hour and day is kept: four hours, two weeks and
twelve weeks of them. Each scale is forecast by itself (see `forecast`), so a leak is seen in hours and slow growth in weeks.
What rises is told when the median of its time to exhaustion is shorter than the time its owner needs, and if

- it has risen already by as much as is left: what has gone on so long has even odds to go on as long again (Gott 1993);
- it is higher than ever before, where it has come and gone before (clean-ups, days, month ends): a sawtooth runs into nothing.

A limit that is moved re-scales the past (see `shares`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import Field

from processors.admission import Forgotten
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig
from processors.steps.bounds import DAY_S, HOUR_S, NAMES, Bound, Share, keys_of, readings
from processors.steps.forecast import Course, Outlook, course, time_to
from processors.steps.shares import SCALES, Layout, State, pack, unpack
from schemas.caches import READINGS_BYTES, cached
from schemas.records import Evidence, Record, Scrape, Severity

NORMAL_80 = 2.563  # standard deviations between the ends of a normal distribution's middle 80 %


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

    def lead_s(self, bound: Bound) -> float:
        """Time that its owner needs, s."""
        return self.leads_s.get(bound.kind, bound.lead_s)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a scrape; what has become whole by it is judged."""
    if isinstance(item.record, Forgotten):
        state.let_go({key for one in item.record.series for key in keys_of(one)})
        return state, state.episodes.close_others({one.key for one in state.shares}, item.at_ms)
    scrape: Scrape = item.record
    if scrape.time_ms <= state.last_ms:
        return state, []
    found = _turn(config, state, scrape)
    started = scrape.start_time_ms if scrape.start_time_ms is not None else -1
    elapsed_s = (
        (scrape.time_ms - state.last_ms) / 1000 if state.last_ms >= 0 and started == state.start_ms else math.inf
    )
    state.take(_layout(config, state, scrape), scrape.values, elapsed_s)
    if state.first_ms < 0:
        state.first_ms = scrape.time_ms
    state.last_ms, state.start_ms = scrape.time_ms, started
    return state, found


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
        state.close(place, before, number)
        if number // scale.every != before // scale.every:
            found += _judge(config, state, place, scrape)
    return found


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
    share, present = told.signal.evidence[0].value or 0.0, state.past(0, slot)
    known = present[~np.isnan(present)]
    return not known.size or 1.0 - float(known[-1]) > 1.25 * (1.0 - share)


def _outlook(config: Config, state: State, place: int, slot: int, bound: Bound) -> Outlook | None:
    """When the share is exhausted as this scale sees it; None when that is none too soon, or not to be believed."""
    scale, factor = SCALES[place], config.minute_s / 60.0
    values = state.past(place, slot)
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
    lead = config.lead_s(bound) / scale.length
    outlook = time_to(seen, 1.0, scale.ahead)
    return outlook if outlook.median <= min(lead, scale.ahead) and _goes_on(seen, outlook) else None


def _goes_on(seen: Course, outlook: Outlook) -> bool:
    """A rise has even odds to last as long again as it has lasted."""
    return outlook.slope > 0 and outlook.median <= seen.flat.size - seen.began


def _is_new(state: State, place: int, slot: int, seen: Course, values: Any) -> bool:
    """Whether it is higher than ever, where it has come and gone before: in its own grain without the season, in longer ones."""
    flat = seen.flat[~np.isnan(seen.flat)]
    day = SCALES[place].period if place == 1 else 0
    top = max(float(np.nanmax(values[-day:])) if day else seen.present, seen.present)
    pasts = [(flat[:-3], seen.present)]
    for other in range(place + 1, len(SCALES)):
        rising = math.ceil((values.size - seen.began) * SCALES[place].length / SCALES[other].length)
        pasts.append((state.past(other, slot)[: -rising - 1], top))
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
    median_s = outlook.median * scale.length
    critical_s = min(bound.critical_s, config.lead_s(bound) / 4)
    evidence = _evidence(config, state, place, slot, outlook, scrape)
    return state.episodes.seen(
        key=of.key,
        time_ms=scrape.time_ms,
        tell_every_ms=round(scale.length * config.minute_s / 60 * 1000 * (60 if place == 0 else 6)),
        cell=scrape.cell,
        detector=STEP.name,
        cause=cause_of(bound.kind, where),
        resource=scrape.resource,
        tenant=of.tenant,
        severity=Severity.CRITICAL if median_s <= critical_s else Severity.WARNING,
        score=round(min(0.99, 0.5 + 0.5 * math.exp(-median_s / bound.lead_s)), 4),
        summary=evidence[0].text,
        evidence=evidence,
        tenants=(of.tenant,) if of.tenant else (),
        advice=bound.advice.format(where=where),
        expected_ms=scrape.time_ms + round(median_s * 1000) if math.isfinite(median_s) else None,
    )


def _evidence(
    config: Config, state: State, place: int, slot: int, outlook: Outlook, scrape: Scrape
) -> tuple[Evidence, Evidence]:
    """How full it is and when it is exhausted; how sure that is, and why it is told now."""
    of, scale = state.shares[slot], SCALES[place]
    median_s, low_s, high_s = (steps * scale.length for steps in (outlook.median, outlook.low, outlook.high))
    least_s, most_s = (steps * scale.length for steps in outlook.widest)
    what = _named(of.key.partition(" ")[2] or of.bound.used)
    values = state.past(place, slot)
    share = round(float(values[~np.isnan(values)][-1]), 4)
    text = (
        f"{what} of {scrape.resource} is {share:.0%} of its limit and exhausted in {duration(median_s)} "
        f"(80 %: {duration(low_s)} to {duration(high_s)}), at {outlook.slope * DAY_S / scale.length:+.1%} a day"
    )
    again = f", {outlook.shifts} steps taken out" if outlook.shifts else ""
    lead = duration(config.lead_s(of.bound))
    note = (
        f"it is exhausted in {duration(median_s)} and told from {lead} before, which its owner needs; "
        f"95 %: {duration(least_s)} to {duration(most_s)}; judged by its highest values of each {scale.name}{again}"
    )
    window_ms = round(values.size * scale.length * config.minute_s / 60 * 1000)
    spread = _finite((high_s - low_s) / NORMAL_80)
    return (
        Evidence(text=text, unit="1", value=share, expected=1.0, window_ms=window_ms, time_ms=scrape.time_ms),
        Evidence(text=note, unit="s", value=_finite(median_s), scale=spread, time_ms=scrape.time_ms),
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
        every = readings(scrape.series, scrape.resource, config.limits, config.workers)
        state.grow([one.of for one in every if one.of not in state.shares])
        places = {share: slot for slot, share in enumerate(state.shares)}
        mine = [(places[one.of], one) for one in every if one.of in places]
        pairs = [one for one in mine if one[1].limit is not None and not one[1].of.bound.is_load]
        known = Layout(
            [(slot, one.share) for slot, one in mine if one.share is not None],
            [(slot, one.used[0], one.limit) for slot, one in pairs if one.limit is not None],
            [one for one in mine if one[1].share is None and one not in pairs],
        )
        state.layouts.keep(scrape.series, scrape.series, known)
    return known


def unit(record: Record) -> str | None:
    """A resource is a unit, when something of it can run out."""
    if isinstance(record, Forgotten) or (isinstance(record, Scrape) and _bounded(record.series)):
        return f"{record.resource}|{record.system}"
    return None


@cached("cache.readings", READINGS_BYTES)
def _bounded(layout: str) -> bool:
    return any(one.partition("{")[0] in NAMES for one in layout.split("\n"))


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
STEP = Step("capacity", Config, (Scrape, Forgotten), unit, State, step, pack, unpack, version=3, about=ABOUT)
