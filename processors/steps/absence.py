"""Something that always happens hardly does any more: silence against the calendar, and what it is the silence of.

For every flow whose standing still is bad (`processors.flows`) two stories are weighed against each other, look by look: events
come at the usual rate of this hour of the tenant's week at the level of the day, or at a tenth of it. The logarithm of their
odds rises with every event that was to be expected and falls with every one that came; it begins anew at 0 (Page's CUSUM), so
it may be looked at as often as one likes. The limit holds a stated number of false alarms: by Lundberg's inequality the sum
climbs to h after an event with probability e^-rh at most, and the flow's events a week are known. With ten weeks of health for
one false alarm, a flow of 40 events an hour is conspicuous after about 13 that did not come (20 minutes), one of 4 after 11.
Real arrivals come in clumps and people begin late, so the limit also grows with the highest healthy sum known of this hour,
those beside it and the same on other working days. Once told, the tenth is replaced by the share that still came, so that a
partial stop goes on until nearly all comes again.

Nothing is expected while the tenant's calendar is closed, in maintenance, in time that was not measured, or of workers for
whom nothing waits. In an hour that was never seen yet, as in a tenant's first week, work must be seen to wait, or shifts must
be declared and two hours be silent. For some weeks after a change of clocks the hours beside count, too, since servers may keep
to UTC.

When orders come again after a silence, shipments and invoices of that time are still missing: nothing is expected there for
as long as the orders were silent, so a stop ends where it began.

Who else moves tells what it is: all workers of a tenant silent is its workers, one channel is its partner or its queue, all
channels for which nothing waits while actions go on is a business that brings nothing.
Sources: Page (1954), Continuous inspection schemes; Lucas (1985), Counted data CUSUMs; Lundberg's inequality as in Asmussen &
Albrecher, Ruin Probabilities, ch. 4; e-detectors: Shin, Ramdas & Rinaldo (2024).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from processors.admission import Forgotten
from processors.evidence import cause_of
from processors.flows import FLOWS, Stream, layout_of
from processors.partners import partner_of
from processors.step import About, Findings, Item, Step, StepConfig
from processors.steps.expected import clock_of
from processors.steps.odds import Odds, weigh
from processors.steps.silences import Clock, State, pack, unpack
from schemas.records import Evidence, Record, Scrape, Severity
from schemas.series import parse
from schemas.words import called

EVENTS_TO_SAY = 2.0  # that were due of the others, before they tell by their silence that they stand, too


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
    def odds(self) -> Odds:
        """The two stories that are weighed."""
        return Odds(self.left, self.caution, self.false_alarm_weeks, self.healthy_factor)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Weigh what came since the last look, and what did not."""
    if isinstance(item.record, Forgotten):
        state.let_go(item.record.series)
        return state, state.episodes.close_others(set(state.causes.values()), item.at_ms)
    scrape: Scrape = item.record
    layout = layout_of(scrape.series)
    if not layout.places or scrape.time_ms <= state.last_ms:
        return state, []
    came, measured = state.changes(scrape, layout, config.streams_max)
    elapsed_ms = scrape.time_ms - state.last_ms if state.last_ms >= 0 else 0
    clock = clock_of(config.odds, config.calendar, state, scrape.time_ms)
    measured &= 0 < elapsed_ms <= config.gap_ms
    weigh(config.odds, state, clock, came, measured, elapsed_ms, config.forget_ms)
    state.last_ms = scrape.time_ms
    return state, _judge(config, state, clock, scrape, elapsed_ms)


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
        return cause_of(flow.cause, owner)
    low_ms = arrays["low_ms"][slot]
    due, came = state.since(scrape.time_ms - low_ms)
    mine = [one.tenant == stream.tenant for one in state.streams] & clock.works & (arrays["seen"] > 0)
    mine[slot] = False
    machine = np.array([FLOWS[one.flow].is_machine for one in state.streams], bool)
    same = np.array([one.flow == stream.flow for one in state.streams], bool)
    moves = mine & (came > 0) & (came >= 0.5 * due)
    is_late = arrays["low_usual"][slot] * config.odds.gain > 2 * clock.limit[slot]
    if not (moves & machine).any():
        others = mine & machine
        is_sure = is_late or not others.any() or due[others].sum() >= EVENTS_TO_SAY
        return cause_of(flow.cause, owner) if is_sure else None
    # While nothing waits, either nobody sends what this channel is for, or nothing happens that would fill any.
    fill = mine & (same | np.array([one.begins for one in state.streams], bool))
    waits_long = 2 * arrays["waited_ms"][slot] > low_ms
    if flow.gate is None or waits_long or (moves & fill).any() or not fill.any():
        alone = _alone(stream, owner)
        # A queue in which nothing waits is not stuck: that nothing comes into it has to be surer.
        is_empty = alone.startswith("queue.") and arrays["waits"][slot] == 0 and not waits_long
        return None if is_empty and not is_late else alone
    return cause_of("process.stopped", owner) if is_late or due[fill].sum() >= EVENTS_TO_SAY else None


def _alone(stream: Stream, owner: str) -> str:
    partner = partner_of(stream.channel) if stream.channel else None
    return cause_of("integration.silent", partner) if partner else cause_of(FLOWS[stream.flow].alone or "", owner)


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


def unit(record: Record) -> str | None:
    """A resource is a unit, when it has a flow that must not stand still."""
    if isinstance(record, Forgotten) or (isinstance(record, Scrape) and layout_of(record.series).places):
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
STEP = Step("absence", Config, (Scrape, Forgotten), unit, State, step, pack, unpack, version=7, about=ABOUT)
