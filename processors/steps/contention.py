"""Is one tenant the noisy neighbour of the others, who suffers from it, and what would limiting it free?

What each tenant takes of a shared server (`processors.demands`) is compared with its own usual, times what has become of the
other tenants' usual: when all rise together, in the morning or because the server is slow for everybody, nobody is the
neighbour. One that has left its own usual by far and holds most of the excess is loud. A loud tenant is a finding when
others fare worse in step with it, or when the shared resource is under pressure; where neither can be measured, when it
takes several times its usual. A load that all bear is nobody's fault.

Sources: antagonist and victim by correlation in time as in CPI2 (Zhang et al. 2013), with the time that requests and jobs
take in place of cycles per instruction; average active sessions as the measure of a database's load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from processors import columns
from processors.demands import (
    DEMANDS,
    FLOORS,
    IS_SUM,
    IS_WORK,
    LESS_WAITS,
    OUTCOME_FLOORS,
    OUTCOMES,
    PRESSURES,
    Columns,
    Floats,
    Layout,
    layout_of,
    shares,
)  # fmt: skip
from processors.episodes import Episodes
from processors.step import Findings, Item, Parts, Step, StepConfig
from schemas.calendar import MINUTE_MS
from schemas.records import Evidence, Phase, Record, Scrape, Severity, Signal

JOURNEYS = "process.delayed:"
WHERE_MAX = 256


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


def _grid(rows: int) -> columns.Arrays:
    return {
        "last": np.full((rows, 0), np.nan),  # raw value, for rates
        "at_ms": np.full((rows, 0), -1.0),
        "now": np.full((rows, 0), np.nan),
        "usual": np.zeros((rows, 0)),
        "spread": np.zeros((rows, 0)),
        "seen": np.zeros((rows, 0), np.uint32),
        "hot": np.zeros((rows, 0), np.int8),
    }


def _beside() -> columns.Arrays:
    return {
        "waiting": np.zeros(0),  # sessions that wait for a lock
        "waited_ms": np.full(0, -1.0),
        "strain": np.zeros(0),  # mean strain and slowness, their variances and what they have in common
        "slow": np.zeros(0),
        "strain_2": np.zeros(0),
        "slow_2": np.zeros(0),
        "both": np.zeros((0, 0)),
    }


Flags = NDArray[np.bool_]


@dataclass
class Pool:
    """What one server, or all of one system of the cell, gives to tenants. Rows are those of the table of demands."""

    grid: columns.Arrays = field(default_factory=lambda: _grid(len(DEMANDS)))
    beside: columns.Arrays = field(default_factory=_beside)
    marks: dict[str, list[int]] = field(default_factory=dict)  # by resource: layout and start of its counters
    last_ms: int = -1


@dataclass
class State:
    """Demands and outcomes of a cell's tenants, which have the same places everywhere."""

    tenants: list[str] = field(default_factory=list)
    pools: dict[str, Pool] = field(default_factory=dict)
    outcomes: columns.Arrays = field(default_factory=lambda: _grid(len(OUTCOMES)))
    pressures: dict[str, tuple[float, int]] = field(default_factory=dict)
    delayed: dict[str, int] = field(default_factory=dict)  # since when a tenant's documents are stuck
    victims: dict[str, list[str]] = field(default_factory=dict)  # those named, by cause
    episodes: Episodes = field(default_factory=Episodes)
    left_out: int = 0
    loads: tuple[int, Floats] | None = None
    where: dict[int, tuple[Columns, Where]] = field(default_factory=dict)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a look at what is shared, at how tenants fare, or that documents are stuck."""
    record = item.record
    if len(config.tenants()) == 1:  # who is alone has no neighbours
        return state, []
    if isinstance(record, Signal):
        _stuck(state, record)
        return state, []
    scrape: Scrape = record
    layout = layout_of(scrape.series)
    for one, share in shares(layout.pressures, scrape):
        if share is not None:
            state.pressures[one.metric] = (share, scrape.time_ms)
    if layout.outcomes.places:
        _fare(config, state, scrape, layout.outcomes)
    found: Findings = []
    for name, own in ((scrape.resource, layout.own), (f"{scrape.system} of all", layout.of_cell)):
        if own.places:
            pool = state.pools.setdefault(name, Pool())
            _take(config, state, pool, scrape, layout, own)
            found += _judge(config, state, name, pool, scrape)
    return state, found


def _stuck(state: State, signal: Signal) -> None:
    if signal.tenant and signal.phase is Phase.RESOLVED:
        state.delayed.pop(signal.tenant, None)
    elif signal.tenant:
        state.delayed[signal.tenant] = signal.started_ms


class Where(NamedTuple):
    """Where the columns of a table stand in a grid of its rows and the cell's tenants, laid out flat."""

    width: int
    known: Flags | None  # None when every tenant has a place
    flat: NDArray[np.intp]
    measured: Flags


def _where(config: Config, state: State, own: Columns, rows: int) -> Where:
    """Remembered by layout; tenants that have come since change it."""
    found = state.where.get(id(own))
    if found is None or found[0] is not own or found[1].width != len(state.tenants):
        if len(state.where) >= WHERE_MAX:
            state.where.clear()
        found = state.where[id(own)] = (own, _find(config, state, own, rows))
    return found[1]


def _find(config: Config, state: State, own: Columns, rows: int) -> Where:
    for tenant in dict.fromkeys(own.tenants):
        if tenant not in state.tenants:
            if len(state.tenants) >= config.tenants_max:
                state.left_out += 1
            else:
                state.tenants.append(tenant)
    index, width = {tenant: place for place, tenant in enumerate(state.tenants)}, len(state.tenants)
    slots = np.array([index.get(tenant, -1) for tenant in own.tenants], np.intp)
    known = slots >= 0
    flat = (np.array(own.rows, np.intp) * width + slots)[known]
    measured = np.bincount(flat, minlength=rows * width).reshape(rows, width) > 0
    return Where(width, None if known.all() else known, flat, measured)


def _grow(arrays: columns.Arrays, width: int) -> None:
    """Make room for tenants that have come."""
    more = width - arrays[next(iter(arrays))].shape[-1]
    if more <= 0:
        return
    for name, array in arrays.items():
        empty: float = {"last": np.nan, "now": np.nan, "at_ms": -1.0, "waited_ms": -1.0}.get(name, 0)
        pads = ((0, more),) if array.ndim == 1 else ((0, more if name == "both" else 0), (0, more))
        arrays[name] = np.pad(array, pads, constant_values=empty)


def _values(where: Where, own: Columns, scrape: Scrape) -> Floats:
    values = own.values(scrape)
    return values if where.known is None else values[where.known]


def _sums(config: Config, state: State, scrape: Scrape, own: Columns, rows: int) -> Floats:
    """Values by row and tenant; NaN where nothing was measured."""
    where = _where(config, state, own, rows)
    sums = np.bincount(where.flat, _values(where, own, scrape), rows * where.width).astype(np.float64)
    sums[~where.measured.reshape(-1)] = np.nan
    return sums.reshape(rows, where.width)


def _fare(config: Config, state: State, scrape: Scrape, own: Columns) -> None:
    """How long each tenant waits now. The longest of several series counts, which is what an oldest age means."""
    where = _where(config, state, own, len(OUTCOMES))
    grid = state.outcomes
    _grow(grid, len(state.tenants))
    values = np.full(grid["now"].shape, np.nan)
    np.fmax.at(values.reshape(-1), where.flat, _values(where, own, scrape))
    measured = ~np.isnan(values)
    if not measured.any():
        return
    fresh = np.isnan(grid["now"]) | (scrape.time_ms - grid["at_ms"] > config.stale_ms)
    grid["now"] = np.where(measured, np.where(fresh, values, 0.5 * (grid["now"] + values)), grid["now"])
    learns = measured & (not state.episodes.open)
    _learn(config, grid, learns, values, grid["usual"], OUTCOME_FLOORS, scrape.time_ms)
    grid["at_ms"][measured] = scrape.time_ms


def _learn(
    config: Config, grid: columns.Arrays, measured: Flags, values: Floats, base: Floats, floors: Floats, time_ms: int
) -> None:
    """Follow the usual and its spread from `base`. What departs from it by far teaches as much as three spreads."""
    seen, usual, spread = grid["seen"], grid["usual"], grid["spread"]
    young = seen < config.learn
    elapsed = np.minimum(time_ms - grid["at_ms"], 10 * config.follow_ms)
    weight = np.where(measured, np.maximum(1 / (seen + 1.0), 1 - np.exp(-elapsed / config.follow_ms)), 0.0)
    error = np.where(measured, values - base, 0.0)
    reach = 3 * spread + 0.1 * floors
    taught = np.minimum(np.maximum(error, -reach), reach)
    if young.any():
        taught = np.where(young, error, taught)
    grid["usual"] = usual + weight * (base - usual + taught)
    # 1.25 mean absolute deviations are a standard deviation of normal noise; the first value says nothing of it.
    grid["spread"] = spread + np.where(seen > 0, weight * (1.25 * np.abs(taught) - spread), 0.0)
    grid["seen"] = seen + measured.astype(np.uint32)


def _take(config: Config, state: State, pool: Pool, scrape: Scrape, layout: Layout, own: Columns) -> None:
    """What each tenant takes now: rates of sums, halfway smoothed, less the sessions that only wait for locks."""
    sums = _sums(config, state, scrape, own, len(DEMANDS))
    _grow(pool.grid, len(state.tenants))
    _grow(pool.beside, len(state.tenants))
    _take_waits(config, state, pool, scrape, layout.waits)
    grid, measured = pool.grid, ~np.isnan(sums)
    mark = [layout.mark, scrape.start_time_ms or 0]
    steady = pool.marks.get(scrape.resource) == mark
    pool.marks[scrape.resource] = mark
    elapsed_s = (scrape.time_ms - grid["at_ms"]) / 1000
    change = sums - grid["last"]
    rated = measured & steady & (change >= 0) & (grid["at_ms"] >= 0) & (elapsed_s > 0) & (elapsed_s <= 3_600)
    now = np.where(IS_SUM, np.where(rated, change / np.maximum(elapsed_s, 1e-3), np.nan), sums)
    now = np.where(LESS_WAITS, np.maximum(now - pool.beside["waiting"], 0.0), now)
    before = grid["now"]
    grid["last"], grid["latest"] = np.where(measured, sums, grid["last"]), now
    grid["fresh"] = ~np.isnan(now)
    grid["now"] = np.where(grid["fresh"], np.where(np.isnan(before), now, 0.5 * (before + now)), before)
    grid["time_ms"] = np.where(measured, float(scrape.time_ms), grid["at_ms"])


def _take_waits(config: Config, state: State, pool: Pool, scrape: Scrape, waits: Columns) -> None:
    if not waits.places:
        return
    waiting = np.fmax(_sums(config, state, scrape, waits, 1)[0], 0.0)
    pool.beside["waiting"] += 0.5 * (waiting - pool.beside["waiting"])
    pool.beside["waited_ms"] = np.where(waiting > 0, float(scrape.time_ms), pool.beside["waited_ms"])


def _judge(config: Config, state: State, name: str, pool: Pool, scrape: Scrape) -> Findings:
    grid, fresh = pool.grid, pool.grid.pop("fresh")
    # Of what a whole cell shares, each look tells of one tenant; the others are as they were last seen.
    known = ~np.isnan(grid["now"]) & (scrape.time_ms - grid["time_ms"] <= config.stale_ms)
    together = np.maximum(_of_the_others(grid["now"], grid["usual"], known), 1.0)
    expected = grid["usual"] * together * _loads(config, state, scrape.time_ms)
    excess = np.where(fresh, np.maximum(grid["now"] - expected, 0.0), 0.0)
    over = fresh & _is_over(config, pool, expected, excess, together, known, scrape.time_ms)
    hot = grid["hot"]
    grid["hot"] = np.where(fresh, np.where(over, np.minimum(hot + 1, 4), np.maximum(hot - 1, 0)), hot).astype(np.int8)
    fares = _slowness(config, state, scrape.time_ms)
    _correlate(config, pool, (excess / FLOORS).max(axis=0), fares.times, scrape.time_ms)
    found = _tell(config, state, name, pool, scrape, Judged(expected, excess, fares)) if hot.any() or over.any() else []
    _learn(config, grid, fresh, grid["now"], np.where(over, grid["usual"], expected), FLOORS, scrape.time_ms)
    grid["at_ms"] = grid.pop("time_ms")
    pool.last_ms = scrape.time_ms
    return found


def _is_over(
    config: Config, pool: Pool, expected: Floats, excess: Floats, together: Floats, known: Flags, time_ms: int
) -> Flags:
    """Which demands are loud now. A demand of time must have grown more, unless one of work has grown with it."""
    grid, beside = pool.grid, pool.beside
    # Who is alone has no neighbours.
    loud: Flags = (known.sum(axis=1, keepdims=True) >= 2) & (grid["seen"] >= config.learn)
    # What is counted at an instant scatters by its root at least (halfway smoothing leaves a third of the variance),
    # and what is measured scatters more when there is more of it.
    scale = np.sqrt((grid["spread"] * together) ** 2 + np.where(IS_SUM, 0.0, expected / 3))
    loud &= (excess > FLOORS) & (excess > config.spreads * scale) & (grid.pop("latest") > expected)
    rise = np.where(known, np.maximum(grid["now"] - grid["usual"], 0.0), 0.0)
    loud &= (grid["now"] > config.times_usual * expected) & (rise >= config.share * rise.sum(axis=1, keepdims=True))
    works = (loud & IS_WORK).any(axis=0)
    waited = (beside["waited_ms"] >= 0) & (time_ms - beside["waited_ms"] < config.after_wait_ms)
    loud &= IS_WORK | works | (grid["now"] > config.times_alone * expected)
    loud &= ~(LESS_WAITS & waited)
    return loud


def _of_the_others(now: Floats, usual: Floats, known: Flags) -> Floats:
    """By demand and tenant what has become of the others' usual, as a factor.

    Of four or more, the one of them that rose most is left out: two may be loud at once.
    """
    now, usual = np.where(known, now, 0.0), np.where(known, usual, 0.0)
    rest_now = now.sum(axis=1, keepdims=True) - now
    rest_usual = usual.sum(axis=1, keepdims=True) - usual
    if now.shape[1] >= 4:
        rise = np.where(known, now - usual, -np.inf)
        first, second = np.argsort(-rise, axis=1, kind="stable")[:, :2].T
        rows, which = np.arange(now.shape[0])[:, None], np.arange(now.shape[1])
        most = np.where(which == first[:, None], second[:, None], first[:, None])
        rest_now, rest_usual = rest_now - now[rows, most], rest_usual - usual[rows, most]
    together: Floats = np.maximum(rest_now + 0.1 * FLOORS, 0.0) / np.maximum(rest_usual + 0.1 * FLOORS, 1e-9)
    return together


def _loads(config: Config, state: State, time_ms: int) -> Floats:
    """By tenant, what its calendar expects in multiples of the usual; calendars know nothing finer than minutes."""
    minute = time_ms // MINUTE_MS
    if state.loads is None or state.loads[0] != minute or state.loads[1].size != len(state.tenants):
        loads = [max(config.calendar(tenant).at(time_ms).load, 1.0) for tenant in state.tenants]
        state.loads = (minute, np.array(loads))
    return state.loads[1]


class Fares(NamedTuple):
    """By outcome and tenant: how many times as long as usual it waits, NaN if unknown, and whether that is felt."""

    times: Floats
    felt: Flags


class Judged(NamedTuple):
    """By demand and tenant: what is to be expected, what is taken beyond it; and how tenants fare."""

    expected: Floats
    excess: Floats
    fares: Fares


def _slowness(config: Config, state: State, time_ms: int) -> Fares:
    grid = state.outcomes
    _grow(grid, len(state.tenants))
    known = (grid["seen"] >= config.learn) & (time_ms - grid["at_ms"] <= config.stale_ms)
    times = np.where(known, (grid["now"] + OUTCOME_FLOORS) / (grid["usual"] + OUTCOME_FLOORS), np.nan)
    more = np.where(known, grid["now"] - grid["usual"], 0.0)
    felt = (grid["now"] > config.slower * grid["usual"]) & (more > np.maximum(OUTCOME_FLOORS, 4 * grid["spread"]))
    return Fares(times, known & felt)


def _correlate(config: Config, pool: Pool, strain: Floats, times: Floats, time_ms: int) -> None:
    """Follow how each tenant's load goes with each other's slowness. While somebody is loud the means stand still."""
    slow = np.log(np.where(np.isnan(times), 1.0, times).max(axis=0))
    beside = pool.beside
    elapsed = time_ms - pool.last_ms if pool.last_ms >= 0 else 0
    weight = 1 - math.exp(-max(elapsed, 0) / config.correlate_ms)
    off_strain, off_slow = strain - beside["strain"], slow - beside["slow"]
    beside["both"] += weight * (np.outer(off_strain, off_slow) - beside["both"])
    beside["strain_2"] += weight * (off_strain**2 - beside["strain_2"])
    beside["slow_2"] += weight * (off_slow**2 - beside["slow_2"])
    if not (pool.grid["hot"] > 0).any():
        beside["strain"] += weight * off_strain
        beside["slow"] += weight * off_slow


def _tell(config: Config, state: State, name: str, pool: Pool, scrape: Scrape, judged: Judged) -> Findings:
    hot = pool.grid["hot"]
    found: Findings = []
    loud = sorted(np.flatnonzero(hot.any(axis=0)).tolist(), key=lambda slot: state.tenants[slot])
    for slot in loud:
        tenant = state.tenants[slot]
        cause = f"tenant.load:{tenant}"
        key = f"{cause} {name}"
        if key not in state.episodes.open and hot[:, slot].max() < config.looks:
            continue
        rows = [int(row) for row in np.argsort(-judged.excess[:, slot] / FLOORS[:, 0], kind="stable") if hot[row, slot]]
        victims = _victims(config, state, pool, judged.fares, slot, key)
        presses = _pressed(state, scrape.time_ms)
        grown = pool.grid["now"][rows[0], slot] > config.times_alone * judged.expected[rows[0], slot]
        # Where nobody else's requests or jobs were ever timed, a load that has multiplied must speak for itself.
        untimed = not (np.delete(state.outcomes["seen"], slot, axis=1) >= config.learn).any()
        if key in state.episodes.open or victims or presses or (untimed and grown):
            state.victims[key] = [one for one, _ in victims]
            finding = _finding(state, pool, scrape, slot, rows, judged, victims, presses)
            found += state.episodes.seen(key=key, cause=cause, tenant=tenant, **finding)
    still = {f"tenant.load:{state.tenants[slot]} {name}" for slot in loud}
    for key in [key for key in state.episodes.open if key.partition(" ")[2] == name and key not in still]:
        state.victims.pop(key, None)
        found += state.episodes.close(key, scrape.time_ms)
    return found


def _victims(config: Config, state: State, pool: Pool, fares: Fares, slot: int, key: str) -> list[tuple[str, str]]:
    """Those who wait longer in step with a tenant's load, worst first, and how they fare. Once named, while they do."""
    times, felt = fares
    beside, named = pool.beside, state.victims.get(key, ())
    scale = np.sqrt(beside["strain_2"][slot] * beside["slow_2"])
    together = np.divide(beside["both"][slot], scale, out=np.zeros_like(scale), where=scale > 0)
    found: list[tuple[float, str, str]] = []
    for other in np.flatnonzero(felt.any(axis=0)):
        tenant = state.tenants[other]
        if other == slot or (tenant not in named and together[other] < config.correlation):
            continue
        row = int(np.nanargmax(np.where(felt[:, other], times[:, other], np.nan)))
        now, usual = state.outcomes["now"][row, other], state.outcomes["usual"][row, other]
        said = OUTCOMES[row].sentence.format(tenant=tenant, now=now, usual=usual)
        found.append((-times[row, other], tenant, f"{said}, in step with that load ({together[other]:.2f})"))
    told = state.episodes.open.get(key)
    for tenant, since_ms in sorted(state.delayed.items()):
        known = {state.tenants[slot], *(one for _, one, _ in found)}
        if told and tenant not in known and since_ms >= told.signal.started_ms:
            found.append((0.0, tenant, f"documents of {tenant} are stuck since then"))
    return [(tenant, said) for _, tenant, said in sorted(found)]


def _pressed(state: State, time_ms: int) -> list[str]:
    """What of the shared is used up, in sentences."""
    told = []
    for one in PRESSURES:
        share, at_ms = state.pressures.get(one.metric, (0.0, -1))
        if at_ms >= 0 and time_ms - at_ms <= 300_000 and share >= one.limit:
            told.append(one.sentence.format(share=share))
    return told


def _finding(
    state: State, pool: Pool, scrape: Scrape, slot: int, rows: list[int], judged: Judged,
    victims: list[tuple[str, str]], presses: list[str],
) -> dict[str, Any]:  # fmt: skip
    tenant, lead = state.tenants[slot], DEMANDS[rows[0]]
    now, expected, freed = pool.grid["now"], judged.expected, float(judged.excess[rows[0], slot])
    texts = []
    for row in rows[:5]:
        total = float(np.nansum(now[row]))
        texts.append(
            f"{tenant} takes {now[row, slot]:.3g} {DEMANDS[row].unit} of {scrape.resource}, to be expected were "
            f"{expected[row, slot]:.3g}; that is {now[row, slot] / max(total, 1e-12):.0%} of all tenants' {total:.3g}"
        )
    suffer = f"; {', '.join(one for one, _ in victims[:5])} suffer" if victims else ""
    total = float(np.nansum(now[rows[0]]))
    keep = max(1, math.ceil(2 * float(expected[rows[0], slot])))
    return {
        "time_ms": scrape.time_ms,
        "cell": scrape.cell,
        "detector": STEP.name,
        "resource": scrape.resource,
        "severity": Severity.CRITICAL if victims else Severity.WARNING,
        "score": min(0.99, 1 - 0.5 * lead.floor / max(freed, lead.floor)),
        "summary": texts[0] + suffer,
        "evidence": tuple(
            Evidence(text=text, time_ms=scrape.time_ms) for text in (*texts, *(said for _, said in victims), *presses)
        )[:20],
        "tenants": tuple(one for one, _ in victims),
        "advice": (
            f"Of {tenant}, {lead.limit.format(keep=keep)}: it would free {freed:.3g} {lead.unit}, "
            f"{freed / max(total, 1e-12):.0%} of what all take."
        ),
    }


def pack(state: State) -> Parts:
    """Pools and outcomes by themselves."""
    more = {
        "tenants": state.tenants,
        "pressures": state.pressures,
        "delayed": state.delayed,
        "victims": state.victims,
        "episodes": state.episodes.dump(),
        "left_out": state.left_out,
    }
    parts = {"": columns.pack(state.outcomes, more)}
    for name, pool in state.pools.items():
        marks = {"marks": pool.marks, "last_ms": pool.last_ms}
        parts[f"pool {name}"] = columns.pack({**pool.grid, **pool.beside}, marks)
    return parts


def unpack(parts: Parts) -> State:
    """What `pack` gave. A pool that was packed with another table of demands begins anew."""
    outcomes, more = columns.unpack(parts[""])
    state = State(
        tenants=more["tenants"],
        outcomes=outcomes,
        pressures={name: (share, at_ms) for name, (share, at_ms) in more["pressures"].items()},
        delayed=more["delayed"],
        victims=more["victims"],
        episodes=Episodes.load(more["episodes"]),
        left_out=more["left_out"],
    )
    for name, part in parts.items():
        if name:
            arrays, marks = columns.unpack(part)
            grid = {one: arrays[one] for one in _grid(0)}
            if grid["now"].shape[0] == len(DEMANDS):
                state.pools[name.removeprefix("pool ")] = Pool(grid, {one: arrays[one] for one in _beside()}, **marks)
    return state


def unit(record: Record) -> str | None:
    """The cell, for looks at what is shared and at how tenants fare, and for documents that are stuck."""
    if isinstance(record, Scrape):
        return "" if layout_of(record.series).is_watched else None
    return "" if isinstance(record, Signal) and record.cause.startswith(JOURNEYS) else None


STEP = Step("contention", Config, (Scrape, Signal), unit, State, step, pack, unpack, version=3)
