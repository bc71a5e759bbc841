"""Is one tenant the noisy neighbour of the others, who suffers from it, and what would limiting it free?

What each tenant takes of a shared server (`processors.demands`) is compared with its own usual, times what has become of the
other tenants' usual: when all rise together, in the morning or because the server is slow for everybody, nobody is the
neighbour. One that has left its own usual by far and holds most of the excess is loud. A loud tenant is a finding when
others fare worse in step with it, or when the shared resource is under pressure; where neither can be measured, or what is
shared has left its usual band, when it takes several times its usual. A load that all bear is nobody's fault.

Sources: antagonist and victim by correlation in time as in CPI2 (Zhang et al. 2013), with the time that requests and jobs
take in place of cycles per instruction; average active sessions as the measure of a database's load.
"""

from __future__ import annotations

import math
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from pydantic import Field

from processors.admission import TENANT, Forgotten
from processors.demands import (
    OUTCOME_FLOORS,
    OUTCOMES,
    Columns,
    Floats,
    Layout,
    layout_of,
    shares,
)  # fmt: skip
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig
from processors.steps.following import Following, learn, of_the_others, rates, rise_of_all_others, smooth
from processors.steps.neighbours import Judged, Suffering, finding, pressed
from processors.steps.pools import (
    Flags,
    Followed,
    Pool,
    State,
    grow,
    let_go,
    pack,
    places_of,
    sums_at,
    unpack,
    values_at,
)
from processors.which import Which, only, present
from schemas.calendar import MINUTE_MS
from schemas.records import Evidence, Phase, Record, Scrape, Signal

JOURNEYS = "process.delayed:"
STRAINS = ("host.cpu:", "host.pressure:", "storage:", "postgresql.connections:")
"""Causes that say that what is shared has left its usual band."""
TENTHS = 0.1 * OUTCOME_FLOORS


TOLD_TEACHES = 0.1
"""Share of what a told load teaches: it ends when it is less, not when one is used to it; a lasting one is usual after hours."""


class Config(StepConfig):
    """When a tenant is loud, and when others suffer from it."""

    times_usual: float = Field(1.5, gt=1, description="A loud tenant takes so many times what is to be expected of it.")
    times_alone: float = Field(
        3.0, gt=1, description="So many where only times grew, or nobody's suffering is measured."
    )
    spreads: float = Field(6.0, gt=0, description="And so many of its own spreads more.")
    share: float = Field(0.4, gt=0, le=1, description="And so large a share of what all tenants take more than usual.")
    looks: int = Field(2, ge=1, description="For so many looks in a row.")
    after_wait_ms: int = Field(10_000, ge=0, description="So long after a lock wait its sessions are not judged, ms.")
    slower: float = Field(1.5, gt=1, description="A victim waits so many times as long as usual.")
    correlation: float = Field(0.5, gt=0, lt=1, description="And its waiting goes with the load so closely.")
    correlate_ms: float = Field(600_000, gt=0, description="Time over which that is looked at, ms.")
    follow_ms: float = Field(1_800_000, gt=0, description="Time in which the usual follows a lasting change, ms.")
    learn: int = Field(6, ge=2, description="Looks before a tenant is judged.")
    stale_ms: int = Field(3_600_000, gt=0, description="What was measured longer ago says nothing, ms.")
    tenants_max: int = Field(500, ge=2, description="Tenants that are followed; others are left out.")

    @cached_property
    def followed(self) -> Followed:
        """Which tenants are."""
        return Followed(self.tenants_max, frozenset(self.tenants()))

    @cached_property
    def following(self) -> Following:
        """How the usual is followed."""
        return Following(self.follow_ms, self.learn)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a look at what is shared, at how tenants fare, or that documents are stuck."""
    record = item.record
    if len(config.tenants()) == 1:  # who is alone has no neighbours
        return state, []
    if isinstance(record, Signal):
        _stuck(state, record)
        return state, []
    if isinstance(record, Forgotten):
        return state, _let_go(state, record, item.at_ms)
    scrape: Scrape = record
    layout = layout_of(scrape.series)
    for one, share in shares(layout.pressures, scrape):
        if share is not None:
            _, measured = state.pressures.setdefault(scrape.resource, (scrape.system, {}))
            measured[one.metric] = (share, scrape.time_ms)
    if layout.outcomes.places:
        _fare(config, state, scrape, layout.outcomes)
    found: Findings = []
    for name, own in ((scrape.resource, layout.own), (f"{scrape.system} of all", layout.of_cell)):
        if own.places:
            pool = state.pools.get(name) or state.pools.setdefault(name, Pool())
            taken = _take(config, state, pool, scrape, layout, own)
            found += _judge(config, state, name, pool, scrape, taken)
    return state, found


def _let_go(state: State, gone: Forgotten, at_ms: int) -> Findings:
    """A tenant is gone, or a server; what was told of them is over."""
    if not gone.is_last:
        return []
    if gone.system == TENANT:
        let_go(state, tenants=(gone.resource,))
        over = [key for key in state.episodes.open if key.startswith(f"tenant.load:{gone.resource} ")]
    else:
        let_go(state, pools=(gone.resource,), resources=(gone.resource,))
        over = [key for key in state.episodes.open if key.partition(" ")[2] == gone.resource]
    for key in over:
        state.victims.pop(key, None)
    return [told for key in over for told in state.episodes.close(key, at_ms)]


def _stuck(state: State, signal: Signal) -> None:
    if signal.cause.startswith(STRAINS):
        state.strains.pop(signal.id, None)
        if signal.phase is not Phase.RESOLVED:
            state.strains[signal.id] = signal.summary
    elif signal.tenant and signal.phase is Phase.RESOLVED:
        state.delayed.pop(signal.tenant, None)
    elif signal.tenant:
        state.delayed[signal.tenant] = signal.started_ms


def _fare(config: Config, state: State, scrape: Scrape, own: Columns) -> None:
    """How long each tenant waits now. The longest of several series counts, which is what an oldest age means."""
    where = places_of(config.followed, state, state.where, own, range(len(OUTCOMES)))
    grid = state.outcomes
    grow(grid, len(state.tenants))
    if where.twice:
        values = np.full(where.shape, np.nan)
        np.fmax.at(values.reshape(-1), where.flat, values_at(where, own, scrape))
    else:
        values = sums_at(where, own, scrape)
    measured = present(values)
    if measured is not True and not np.count_nonzero(measured):
        return
    stale = scrape.time_ms - grid["at_ms"] > config.stale_ms
    if np.count_nonzero(stale):
        grid["now"][measured & stale] = np.nan
    smooth(grid["now"], values, measured)
    taught = measured if not state.episodes.open else np.zeros(where.shape, bool)
    learn(config.following, grid, taught, values, grid["usual"], TENTHS, scrape.time_ms - grid["at_ms"])
    np.copyto(grid["at_ms"], scrape.time_ms, where=measured)


class Taken(NamedTuple):
    """What a look showed of a pool, by demand and tenant."""

    latest: Floats  # not smoothed
    fresh: Which  # where it is known
    at_ms: Floats | float  # when it was measured last
    elapsed_ms: Floats | float  # since it was measured before


def _take(config: Config, state: State, pool: Pool, scrape: Scrape, layout: Layout, own: Columns) -> Taken:
    """What each tenant takes now: rates of sums, halfway smoothed, less the sessions that only wait for locks."""
    if layout.waits.places:  # whoever is only seen to wait gets a place first, or what is taken has one column less
        places_of(config.followed, state, state.where, layout.waits, (0,))
    if id(own) not in pool.where:
        pool.admit(own.rows)
    sums = sums_at(places_of(config.followed, state, pool.where, own, pool.rows), own, scrape)
    if sums.shape != pool.whole:
        grow(pool.grid, len(state.tenants))
        grow(pool.beside, len(state.tenants))
    _take_waits(config, state, pool, scrape, layout.waits)
    grid, measured, was_whole = pool.grid, present(sums), pool.whole == sums.shape
    mark = [layout.mark, scrape.start_time_ms or 0]
    steady = pool.marks.get(scrape.resource) == mark
    pool.marks[scrape.resource] = mark
    elapsed_ms = float(scrape.time_ms - pool.last_ms) if was_whole else scrape.time_ms - grid["at_ms"]
    latest = np.where(pool.is_sum, rates(sums - grid["last"], elapsed_ms / 1000) if steady else np.nan, sums)
    if pool.waiting.size:
        latest[pool.waiting] = np.maximum(latest[pool.waiting] - pool.beside["waiting"], 0.0)
    fresh = present(latest)
    smooth(grid["now"], latest, fresh)
    np.copyto(grid["last"], sums, where=measured)
    pool.whole = ()
    if measured is True and (was_whole or fresh is True or not np.count_nonzero(np.isnan(grid["now"]))):
        pool.whole = sums.shape
    at_ms = float(scrape.time_ms) if measured is True else np.where(measured, float(scrape.time_ms), grid["at_ms"])
    return Taken(latest, fresh, at_ms, elapsed_ms)


def _take_waits(config: Config, state: State, pool: Pool, scrape: Scrape, waits: Columns) -> None:
    if not waits.places:
        return
    waiting = np.fmax(sums_at(places_of(config.followed, state, state.where, waits, (0,)), waits, scrape)[0], 0.0)
    pool.beside["waiting"] += 0.5 * (waiting - pool.beside["waiting"])
    np.copyto(pool.beside["waited_ms"], scrape.time_ms, where=waiting > 0)


def _judge(config: Config, state: State, name: str, pool: Pool, scrape: Scrape, taken: Taken) -> Findings:
    grid, fresh, usual, now = pool.grid, taken.fresh, pool.grid["usual"], pool.grid["now"]
    # Of what a whole cell shares, each look tells of one tenant; the others are as they were last seen.
    known: Which = True
    if not pool.whole:
        known = ~np.isnan(now) & (scrape.time_ms - taken.at_ms <= config.stale_ms)
    together = np.maximum(of_the_others(now, usual, known, pool.tenths), 1.0)
    expected = usual * together
    if (loads := _loads(config, state, scrape.time_ms)) is not None:
        expected *= loads
    excess = only(fresh, np.maximum(now - expected, 0.0))
    over = _is_over(config, pool, taken, Against(expected, excess, together, known), scrape.time_ms)
    hot, is_loud = grid["hot"], bool(np.count_nonzero(over))
    was_hot = bool(np.count_nonzero(hot))
    if is_loud or was_hot:
        np.copyto(hot, np.where(over, np.minimum(hot + 1, 4), np.maximum(hot - 1, 0)), where=fresh)
    times = _slowness(config, state, scrape.time_ms)
    _correlate(config, state, pool, np.maximum.reduce(excess / pool.floors), times, scrape.time_ms)
    found = _tell(config, state, name, pool, scrape, Judged(expected, excess, times)) if is_loud or was_hot else []
    base = np.where(over, usual, expected) if is_loud else expected
    told = (
        [f"{cause_of('tenant.load', tenant)} {name}" in state.episodes.open for tenant in state.tenants]
        if is_loud
        else []
    )
    share = np.where(over & np.array(told, bool), TOLD_TEACHES, 1.0) if any(told) else None
    learn(config.following, grid, fresh, now, base, pool.tenths, taken.elapsed_ms, share)
    grid["at_ms"][:] = taken.at_ms
    pool.last_ms = scrape.time_ms
    return found


class Against(NamedTuple):
    """What a pool is held against, by demand and tenant: what is to be expected, what is taken beyond it, and the others."""

    expected: Floats
    excess: Floats
    together: Floats  # what has become of the others' usual, as a factor
    known: Which


def _is_over(config: Config, pool: Pool, taken: Taken, against: Against, time_ms: int) -> Flags:
    """Which demands are loud now. A demand of time must have grown more, unless one of work has grown with it."""
    grid, beside, now = pool.grid, pool.beside, pool.grid["now"]
    expected, excess, together, known = against
    loud: Flags = excess > pool.floors
    if not np.count_nonzero(loud):
        return loud
    loud &= (now > config.times_usual * expected) & (taken.latest > expected) & (grid["seen"] >= config.learn)
    if taken.fresh is not True:
        loud &= taken.fresh
    if not np.count_nonzero(loud):
        return loud
    # What is counted at an instant scatters by its root at least (halfway smoothing leaves a third of the variance),
    # and what is measured scatters more when there is more of it.
    loud &= excess > config.spreads * np.sqrt(
        (grid["spread"] * together) ** 2 + np.where(pool.is_sum, 0.0, expected / 3)
    )
    # Who is alone has no neighbours.
    loud &= now.shape[1] >= 2 if known is True else np.add.reduce(known, 1, keepdims=True) >= 2
    if not np.count_nonzero(loud):
        return loud
    rise = only(known, np.maximum(now - grid["usual"], 0.0))
    loud &= rise >= config.share * rise.sum(axis=1, keepdims=True)
    works = (loud & pool.is_work).any(axis=0)
    waited = (beside["waited_ms"] >= 0) & (time_ms - beside["waited_ms"] < config.after_wait_ms)
    shared = grid["usual"] * rise_of_all_others(now, grid["usual"], known, pool.floors)
    loud &= pool.is_work | works | (now > config.times_alone * np.maximum(expected, shared))
    loud &= ~(pool.less_waits & waited)
    return loud


def _loads(config: Config, state: State, time_ms: int) -> Floats | None:
    """By tenant, what its calendar expects in multiples of the usual, None when it is that; read once a minute."""
    minute = time_ms // MINUTE_MS
    if state.loads is None or state.loads[:2] != (minute, len(state.tenants)):
        loads = np.array([max(config.calendar(tenant).at(time_ms).load, 1.0) for tenant in state.tenants], np.float64)
        state.loads = minute, len(state.tenants), loads if (loads != 1.0).any() else None
    return state.loads[2]


def _slowness(config: Config, state: State, time_ms: int) -> Floats:
    """By outcome and tenant, how many times as long as usual it waits; NaN if unknown."""
    grid = state.outcomes
    grow(grid, len(state.tenants))
    if not np.count_nonzero(grid["seen"]):
        return np.full(grid["seen"].shape, np.nan)
    known = (grid["seen"] >= config.learn) & (time_ms - grid["at_ms"] <= config.stale_ms)
    return np.where(known, (grid["now"] + OUTCOME_FLOORS) / (grid["usual"] + OUTCOME_FLOORS), np.nan)


def _felt(config: Config, state: State, times: Floats) -> Flags:
    """Whether that is felt."""
    now, usual, spread = (state.outcomes[name] for name in ("now", "usual", "spread"))
    felt: Flags = ~np.isnan(times) & (now > config.slower * usual)
    felt &= now - usual > np.maximum(OUTCOME_FLOORS, 4 * spread)
    return felt


def _correlate(config: Config, state: State, pool: Pool, strain: Floats, times: Floats, time_ms: int) -> None:
    """Follow how each tenant's load goes with each other's slowness. While somebody is loud the means stand still."""
    beside, is_calm = pool.beside, not np.count_nonzero(pool.grid["hot"])
    elapsed = time_ms - pool.last_ms if pool.last_ms >= 0 else 0
    weight = 1 - math.exp(-max(elapsed, 0) / config.correlate_ms)
    off_strain = strain - beside["strain"]
    beside["strain_2"] += weight * (off_strain**2 - beside["strain_2"])
    if is_calm:
        beside["strain"] += weight * off_strain
    if not np.count_nonzero(state.outcomes["seen"]):
        return  # nobody's waiting was ever measured
    slow = np.log(np.maximum.reduce(np.where(np.isnan(times), 1.0, times)))
    off_slow = slow - beside["slow"]
    beside["both"] += weight * (off_strain[:, None] * off_slow - beside["both"])
    beside["slow_2"] += weight * (off_slow**2 - beside["slow_2"])
    if is_calm:
        beside["slow"] += weight * off_slow


def _tell(config: Config, state: State, name: str, pool: Pool, scrape: Scrape, judged: Judged) -> Findings:
    hot, felt = pool.grid["hot"], _felt(config, state, judged.times)
    found: Findings = []
    loud = sorted(np.flatnonzero(hot.any(axis=0)).tolist(), key=lambda slot: state.tenants[slot])
    for slot in loud:
        tenant = state.tenants[slot]
        cause = cause_of("tenant.load", tenant)
        key = f"{cause} {name}"
        if key not in state.episodes.open and hot[:, slot].max() < config.looks:
            continue
        rows = [
            int(row) for row in np.argsort(-judged.excess[:, slot] / pool.floors[:, 0], kind="stable") if hot[row, slot]
        ]
        victims = _victims(config, state, pool, judged.times, felt, slot, key)
        presses = pressed(state, scrape)
        grown = pool.grid["now"][rows[0], slot] > config.times_alone * judged.expected[rows[0], slot]
        # What is unusual of the shared is explained by a load that has multiplied.
        presses += [Evidence(text=one, time_ms=scrape.time_ms) for one in state.strains.values()] if grown else []
        # Where nobody else's requests or jobs were ever timed, such a load must speak for itself.
        untimed = not (np.delete(state.outcomes["seen"], slot, axis=1) >= config.learn).any()
        if key in state.episodes.open or victims or presses or (untimed and grown):
            state.victims[key] = [one.tenant for one in victims]
            told_of = finding(state, pool, scrape, slot, rows, judged, victims, presses)
            found += state.episodes.seen(key=key, cause=cause, tenant=tenant, detector=STEP.name, **told_of)
    still = {f"{cause_of('tenant.load', state.tenants[slot])} {name}" for slot in loud}
    for key in [key for key in state.episodes.open if key.partition(" ")[2] == name and key not in still]:
        state.victims.pop(key, None)
        found += state.episodes.close(key, scrape.time_ms)
    return found


def _victims(
    config: Config, state: State, pool: Pool, times: Floats, felt: Flags, slot: int, key: str
) -> list[Suffering]:
    """Those who wait longer in step with a tenant's load, worst first, and how they fare. Once named, while they do."""
    beside, named = pool.beside, state.victims.get(key, ())
    scale = np.sqrt(beside["strain_2"][slot] * beside["slow_2"])
    together = np.divide(beside["both"][slot], scale, out=np.zeros_like(scale), where=scale > 0)
    found: list[tuple[float, str, Evidence]] = []
    for other in np.flatnonzero(felt.any(axis=0)):
        tenant = state.tenants[other]
        if other == slot or (tenant not in named and together[other] < config.correlation):
            continue
        row = int(np.nanargmax(np.where(felt[:, other], times[:, other], np.nan)))
        now, usual = state.outcomes["now"][row, other], state.outcomes["usual"][row, other]
        said = OUTCOMES[row].sentence.format(tenant=tenant, now=now, usual=usual)
        fact = Evidence(
            text=f"{said}, in step with that load (correlation {together[other]:.2f})",
            unit="s",
            value=float(now),
            expected=float(usual),
            scale=float(state.outcomes["spread"][row, other]),
            time_ms=round(state.outcomes["at_ms"][row, other]),
        )
        found.append((-times[row, other], tenant, fact))
    told = state.episodes.open.get(key)
    for tenant, since_ms in sorted(state.delayed.items()):
        known = {state.tenants[slot], *(one for _, one, _ in found)}
        if told and tenant not in known and since_ms >= told.signal.started_ms:
            fact = Evidence(text=f"documents of {tenant} are stuck since then", time_ms=since_ms)
            found.append((0.0, tenant, fact))
    return [Suffering(tenant, fact) for _, tenant, fact in sorted(found, key=itemgetter(0, 1))]


def unit(record: Record) -> str | None:
    """The cell, for looks at what is shared and at how tenants fare, for what is unusual there, and for documents that are stuck."""
    if isinstance(record, Scrape | Forgotten):
        return "" if isinstance(record, Forgotten) or layout_of(record.series).is_watched else None
    return "" if isinstance(record, Signal) and record.cause.startswith((JOURNEYS, *STRAINS)) else None


ABOUT = About(
    finds=(
        "A tenant that takes far more of what is shared than it usually does, while others suffer in step or the "
        "shared resource is under pressure."
    ),
    method=(
        "Each tenant's share of statements, connections, blocks, jobs and requests is compared with its own usual "
        "times what has become of the others' usual; victims are those whose waiting correlates with its load."
    ),
    source="antagonists and victims by correlation in time, CPI2 (Zhang et al. 2013); average active sessions",
    limits="Needs two tenants and a look at each; a load that all bear alike is nobody's fault.",
)
STEP = Step("contention", Config, (Scrape, Signal, Forgotten), unit, State, step, pack, unpack, version=6, about=ABOUT)
