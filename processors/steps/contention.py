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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
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
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from schemas.calendar import MINUTE_MS
from schemas.records import Evidence, Phase, Record, Scrape, Severity, Signal

JOURNEYS = "process.delayed:"
STRAINS = ("host.cpu:", "host.pressure:", "storage:", "postgresql.connections:")
"""Causes that say that what is shared has left its usual band."""
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


def _grid(rows: int, width: int = 0) -> columns.Arrays:
    return {
        "last": np.full((rows, width), np.nan),  # raw value, for rates
        "at_ms": np.full((rows, width), -1.0),
        "now": np.full((rows, width), np.nan),
        "usual": np.zeros((rows, width)),
        "spread": np.zeros((rows, width)),
        "seen": np.zeros((rows, width), np.uint32),
        "hot": np.zeros((rows, width), np.int8),
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
_ROWS = [one.name for one in DEMANDS]
LEAST = np.finfo(float).min


class Where(NamedTuple):
    """Where the columns of a table stand in a grid of its rows and the cell's tenants, laid out flat."""

    shape: tuple[int, int]
    known: Flags | None  # None when every tenant has a place
    flat: NDArray[np.intp]
    empty: NDArray[np.intp]  # where no column stands
    twice: bool  # whether two columns stand in one place


Places = dict[int, tuple[Columns, Where]]


@dataclass
class Pool:
    """What one server, or all of one system of the cell, gives to tenants: of the table of demands, the rows it tells of."""

    rows: list[int] = field(default_factory=list)
    grid: columns.Arrays = field(default_factory=lambda: _grid(0))
    beside: columns.Arrays = field(default_factory=_beside)
    marks: dict[str, list[int]] = field(default_factory=dict)  # by resource: layout and start of its counters
    last_ms: int = -1
    where: Places = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.floors, self.is_sum, self.is_work = FLOORS[self.rows], IS_SUM[self.rows], IS_WORK[self.rows]
        self.less_waits = LESS_WAITS[self.rows]
        self.waiting = np.flatnonzero(self.less_waits)

    def admit(self, rows: Iterable[int]) -> None:
        """Make room for demands that were not told of before."""
        wanted = sorted({*self.rows, *rows})
        if wanted == self.rows:
            return
        at = np.searchsorted(wanted, self.rows)
        grid = _grid(len(wanted), self.grid["now"].shape[1])
        for name, array in self.grid.items():
            grid[name][at] = array
        self.rows, self.grid = wanted, grid
        self.__post_init__()


@dataclass
class State:
    """Demands and outcomes of a cell's tenants, which have the same places everywhere."""

    tenants: list[str] = field(default_factory=list)
    pools: dict[str, Pool] = field(default_factory=dict)
    outcomes: columns.Arrays = field(default_factory=lambda: _grid(len(OUTCOMES)))
    pressures: dict[str, tuple[float, int]] = field(default_factory=dict)
    delayed: dict[str, int] = field(default_factory=dict)  # since when a tenant's documents are stuck
    strains: dict[str, str] = field(default_factory=dict)  # what of the shared is unusual, by signal
    victims: dict[str, list[str]] = field(default_factory=dict)  # those named, by cause
    episodes: Episodes = field(default_factory=Episodes)
    left_out: int = 0
    loads: tuple[int, Floats] | None = None
    where: Places = field(default_factory=dict)


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
            pool = state.pools.get(name) or state.pools.setdefault(name, Pool())
            _take(config, state, pool, scrape, layout, own)
            found += _judge(config, state, name, pool, scrape)
    return state, found


def _stuck(state: State, signal: Signal) -> None:
    if signal.cause.startswith(STRAINS):
        state.strains.pop(signal.id, None)
        if signal.phase is not Phase.RESOLVED:
            state.strains[signal.id] = signal.summary
    elif signal.tenant and signal.phase is Phase.RESOLVED:
        state.delayed.pop(signal.tenant, None)
    elif signal.tenant:
        state.delayed[signal.tenant] = signal.started_ms


def _where(config: Config, state: State, places: Places, own: Columns, rows: Sequence[int]) -> Where:
    """Remembered by layout; tenants and rows that have come since change it."""
    found = places.get(id(own))
    if found is None or found[0] is not own or found[1].shape != (len(rows), len(state.tenants)):
        if len(places) >= WHERE_MAX:
            places.clear()
        found = places[id(own)] = (own, _find(config, state, own, rows))
    return found[1]


def _find(config: Config, state: State, own: Columns, rows: Sequence[int]) -> Where:
    for tenant in dict.fromkeys(own.tenants):
        if tenant not in state.tenants:
            if len(state.tenants) >= config.tenants_max:
                state.left_out += 1
            else:
                state.tenants.append(tenant)
    index, width = {tenant: place for place, tenant in enumerate(state.tenants)}, len(state.tenants)
    slots = np.array([index.get(tenant, -1) for tenant in own.tenants], np.intp)
    known = slots >= 0
    flat = (np.searchsorted(rows, own.rows) * width + slots)[known]
    times = np.bincount(flat, minlength=len(rows) * width)
    empty, twice = np.flatnonzero(times == 0), bool((times > 1).any())
    return Where((len(rows), width), None if known.all() else known, flat, empty, twice)


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


def _sums(where: Where, own: Columns, scrape: Scrape) -> Floats:
    """Values by row and tenant; NaN where nothing was measured."""
    rows, width = where.shape
    sums: Floats = np.bincount(where.flat, _values(where, own, scrape), rows * width).astype(float, copy=False)
    sums[where.empty] = np.nan
    return sums.reshape(rows, width)


def _fare(config: Config, state: State, scrape: Scrape, own: Columns) -> None:
    """How long each tenant waits now. The longest of several series counts, which is what an oldest age means."""
    where = _where(config, state, state.where, own, range(len(OUTCOMES)))
    grid = state.outcomes
    _grow(grid, len(state.tenants))
    values = np.full(grid["now"].shape, np.nan)
    if where.twice:
        np.fmax.at(values.reshape(-1), where.flat, _values(where, own, scrape))
    else:
        values.reshape(-1)[where.flat] = _values(where, own, scrape)
    measured = ~np.isnan(values)
    if not measured.any():
        return
    grid["now"][measured & (scrape.time_ms - grid["at_ms"] > config.stale_ms)] = np.nan
    _smooth(grid["now"], values, measured)
    taught = measured if not state.episodes.open else np.zeros_like(measured)
    _learn(config, grid, taught, values, grid["usual"], OUTCOME_FLOORS, scrape.time_ms)
    grid["at_ms"][measured] = scrape.time_ms


def _smooth(now: Floats, values: Floats, measured: Flags) -> None:
    """Halfway from what was to what is; what is where nothing was."""
    middle = 0.5 * (now + values)
    np.copyto(middle, values, where=np.isnan(middle))
    np.copyto(now, middle, where=measured)


def _learn(
    config: Config, grid: columns.Arrays, measured: Flags, values: Floats, base: Floats, floors: Floats, time_ms: int
) -> None:
    """Follow the usual and its spread from `base`. What departs from it by far teaches as much as three spreads."""
    seen, usual, spread = grid["seen"], grid["usual"], grid["spread"]
    elapsed = np.minimum(time_ms - grid["at_ms"], 10 * config.follow_ms)
    weight = np.maximum(1 / (seen + 1.0), 1 - np.exp(elapsed / -config.follow_ms)) * measured
    error = np.where(measured, values - base, 0.0)
    reach = 3 * spread + 0.1 * floors
    taught = np.minimum(np.maximum(error, -reach), reach)
    young = seen < config.learn
    if young.any():
        np.copyto(taught, error, where=young)
    usual += weight * (base - usual + taught)
    # 1.25 mean absolute deviations are a standard deviation of normal noise; the first value says nothing of it.
    spread += (seen > 0) * weight * (1.25 * np.abs(taught) - spread)
    seen += measured


def _take(config: Config, state: State, pool: Pool, scrape: Scrape, layout: Layout, own: Columns) -> None:
    """What each tenant takes now: rates of sums, halfway smoothed, less the sessions that only wait for locks."""
    if id(own) not in pool.where:
        pool.admit(own.rows)
    sums = _sums(_where(config, state, pool.where, own, pool.rows), own, scrape)
    _grow(pool.grid, len(state.tenants))
    _grow(pool.beside, len(state.tenants))
    _take_waits(config, state, pool, scrape, layout.waits)
    grid, measured = pool.grid, ~np.isnan(sums)
    mark = [layout.mark, scrape.start_time_ms or 0]
    steady = pool.marks.get(scrape.resource) == mark
    pool.marks[scrape.resource] = mark
    now = np.where(pool.is_sum, np.nan, sums)
    if steady:
        elapsed_s = (scrape.time_ms - grid["at_ms"]) / 1000
        change = sums - grid["last"]
        rated = pool.is_sum & (change >= 0) & (elapsed_s > 0) & (elapsed_s <= 3_600)
        np.divide(change, elapsed_s, out=now, where=rated)
    if pool.waiting.size:
        now[pool.waiting] = np.maximum(now[pool.waiting] - pool.beside["waiting"], 0.0)
    fresh = ~np.isnan(now)
    _smooth(grid["now"], now, fresh)
    np.copyto(grid["last"], sums, where=measured)
    grid["latest"], grid["fresh"] = now, fresh
    grid["time_ms"] = np.where(measured, float(scrape.time_ms), grid["at_ms"])


def _take_waits(config: Config, state: State, pool: Pool, scrape: Scrape, waits: Columns) -> None:
    if not waits.places:
        return
    waiting = np.fmax(_sums(_where(config, state, state.where, waits, (0,)), waits, scrape)[0], 0.0)
    pool.beside["waiting"] += 0.5 * (waiting - pool.beside["waiting"])
    pool.beside["waited_ms"] = np.where(waiting > 0, float(scrape.time_ms), pool.beside["waited_ms"])


def _judge(config: Config, state: State, name: str, pool: Pool, scrape: Scrape) -> Findings:
    grid, fresh = pool.grid, pool.grid.pop("fresh")
    # Of what a whole cell shares, each look tells of one tenant; the others are as they were last seen.
    known = ~np.isnan(grid["now"]) & (scrape.time_ms - grid["time_ms"] <= config.stale_ms)
    together = np.maximum(_of_the_others(grid["now"], grid["usual"], known, pool.floors), 1.0)
    expected = grid["usual"] * together * _loads(config, state, scrape.time_ms)
    excess = np.where(fresh, np.maximum(grid["now"] - expected, 0.0), 0.0)
    over = fresh & _is_over(config, pool, expected, excess, together, known, scrape.time_ms)
    hot, is_loud = grid["hot"], bool(over.any())
    if has_news := is_loud or bool(hot.any()):
        np.copyto(hot, np.where(over, np.minimum(hot + 1, 4), np.maximum(hot - 1, 0)), where=fresh)
    times = _slowness(config, state, scrape.time_ms)
    _correlate(config, pool, (excess / pool.floors).max(axis=0), times, scrape.time_ms)
    judged = Judged(expected, excess, times)
    found = _tell(config, state, name, pool, scrape, judged) if has_news else []
    base = np.where(over, grid["usual"], expected) if is_loud else expected
    _learn(config, grid, fresh, grid["now"], base, pool.floors, scrape.time_ms)
    grid["at_ms"] = grid.pop("time_ms")
    pool.last_ms = scrape.time_ms
    return found


def _is_over(
    config: Config, pool: Pool, expected: Floats, excess: Floats, together: Floats, known: Flags, time_ms: int
) -> Flags:
    """Which demands are loud now. A demand of time must have grown more, unless one of work has grown with it."""
    grid, beside, now = pool.grid, pool.beside, pool.grid["now"]
    loud: Flags = (excess > pool.floors) & (now > config.times_usual * expected) & (grid.pop("latest") > expected)
    loud &= grid["seen"] >= config.learn
    if not loud.any():
        return loud
    # Who is alone has no neighbours.
    loud &= known.sum(axis=1, keepdims=True) >= 2
    # What is counted at an instant scatters by its root at least (halfway smoothing leaves a third of the variance),
    # and what is measured scatters more when there is more of it.
    loud &= excess > config.spreads * np.sqrt(
        (grid["spread"] * together) ** 2 + np.where(pool.is_sum, 0.0, expected / 3)
    )
    rise = np.where(known, np.maximum(now - grid["usual"], 0.0), 0.0)
    loud &= rise >= config.share * rise.sum(axis=1, keepdims=True)
    works = (loud & pool.is_work).any(axis=0)
    waited = (beside["waited_ms"] >= 0) & (time_ms - beside["waited_ms"] < config.after_wait_ms)
    loud &= pool.is_work | works | (now > config.times_alone * expected)
    loud &= ~(pool.less_waits & waited)
    return loud


def _of_the_others(now: Floats, usual: Floats, known: Flags, floors: Floats) -> Floats:
    """By demand and tenant what has become of the others' usual, as a factor.

    Of four or more, the one of them that rose most is left out: two may be loud at once.
    """
    rise = np.where(known, now - usual, LEAST)
    now, usual = np.where(known, now, 0.0), np.where(known, usual, 0.0)
    all_now, all_usual = now.sum(axis=1, keepdims=True), usual.sum(axis=1, keepdims=True)
    rest_now, rest_usual = all_now - now, all_usual - usual
    if now.shape[1] >= 4:
        rows = np.arange(now.shape[0])
        first = rise.argmax(axis=1)
        rise[rows, first] = -np.inf
        second = rise.argmax(axis=1)
        of_first = [
            (rest[rows, first] - values[rows, second]) for rest, values in ((rest_now, now), (rest_usual, usual))
        ]
        rest_now -= now[rows, first][:, None]
        rest_usual -= usual[rows, first][:, None]
        rest_now[rows, first], rest_usual[rows, first] = of_first
    rest_now += 0.1 * floors
    rest_usual += 0.1 * floors
    together: Floats = np.maximum(rest_now, 0.0) / np.maximum(rest_usual, 1e-9)
    return together


def _loads(config: Config, state: State, time_ms: int) -> Floats:
    """By tenant, what its calendar expects in multiples of the usual; calendars know nothing finer than minutes."""
    minute = time_ms // MINUTE_MS
    if state.loads is None or state.loads[0] != minute or state.loads[1].size != len(state.tenants):
        loads = [max(config.calendar(tenant).at(time_ms).load, 1.0) for tenant in state.tenants]
        state.loads = (minute, np.array(loads))
    return state.loads[1]


class Suffering(NamedTuple):
    """Who suffers, and how that is known."""

    tenant: str
    fact: Evidence


class Judged(NamedTuple):
    """By demand and tenant: what is to be expected, what is taken beyond it; and by outcome and tenant how they fare."""

    expected: Floats
    excess: Floats
    times: Floats


def _slowness(config: Config, state: State, time_ms: int) -> Floats:
    """By outcome and tenant, how many times as long as usual it waits; NaN if unknown."""
    grid = state.outcomes
    _grow(grid, len(state.tenants))
    known = (grid["seen"] >= config.learn) & (time_ms - grid["at_ms"] <= config.stale_ms)
    return np.where(known, (grid["now"] + OUTCOME_FLOORS) / (grid["usual"] + OUTCOME_FLOORS), np.nan)


def _felt(config: Config, state: State, times: Floats) -> Flags:
    """Whether that is felt."""
    now, usual, spread = (state.outcomes[name] for name in ("now", "usual", "spread"))
    felt: Flags = ~np.isnan(times) & (now > config.slower * usual)
    felt &= now - usual > np.maximum(OUTCOME_FLOORS, 4 * spread)
    return felt


def _correlate(config: Config, pool: Pool, strain: Floats, times: Floats, time_ms: int) -> None:
    """Follow how each tenant's load goes with each other's slowness. While somebody is loud the means stand still."""
    slow = np.log(np.where(np.isnan(times), 1.0, times).max(axis=0))
    beside = pool.beside
    elapsed = time_ms - pool.last_ms if pool.last_ms >= 0 else 0
    weight = 1 - math.exp(-max(elapsed, 0) / config.correlate_ms)
    off_strain, off_slow = strain - beside["strain"], slow - beside["slow"]
    beside["both"] += weight * (off_strain[:, None] * off_slow - beside["both"])
    beside["strain_2"] += weight * (off_strain**2 - beside["strain_2"])
    beside["slow_2"] += weight * (off_slow**2 - beside["slow_2"])
    if not (pool.grid["hot"] > 0).any():
        beside["strain"] += weight * off_strain
        beside["slow"] += weight * off_slow


def _tell(config: Config, state: State, name: str, pool: Pool, scrape: Scrape, judged: Judged) -> Findings:
    hot, felt = pool.grid["hot"], _felt(config, state, judged.times)
    found: Findings = []
    loud = sorted(np.flatnonzero(hot.any(axis=0)).tolist(), key=lambda slot: state.tenants[slot])
    for slot in loud:
        tenant = state.tenants[slot]
        cause = f"tenant.load:{tenant}"
        key = f"{cause} {name}"
        if key not in state.episodes.open and hot[:, slot].max() < config.looks:
            continue
        rows = [
            int(row) for row in np.argsort(-judged.excess[:, slot] / pool.floors[:, 0], kind="stable") if hot[row, slot]
        ]
        victims = _victims(config, state, pool, judged.times, felt, slot, key)
        presses = _pressed(state, scrape.time_ms)
        grown = pool.grid["now"][rows[0], slot] > config.times_alone * judged.expected[rows[0], slot]
        # What is unusual of the shared is explained by a load that has multiplied.
        presses += [Evidence(text=one, time_ms=scrape.time_ms) for one in state.strains.values()] if grown else []
        # Where nobody else's requests or jobs were ever timed, such a load must speak for itself.
        untimed = not (np.delete(state.outcomes["seen"], slot, axis=1) >= config.learn).any()
        if key in state.episodes.open or victims or presses or (untimed and grown):
            state.victims[key] = [one.tenant for one in victims]
            finding = _finding(state, pool, scrape, slot, rows, judged, victims, presses)
            found += state.episodes.seen(key=key, cause=cause, tenant=tenant, **finding)
    still = {f"tenant.load:{state.tenants[slot]} {name}" for slot in loud}
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


def _pressed(state: State, time_ms: int) -> list[Evidence]:
    """What of the shared is used up."""
    told = []
    for one in PRESSURES:
        share, at_ms = state.pressures.get(one.metric, (0.0, -1))
        if at_ms >= 0 and time_ms - at_ms <= 300_000 and share >= one.limit:
            text = f"{one.sentence.format(share=share)}; pressed from {one.limit:.0%} on"
            told.append(Evidence(text=text, unit="1", value=share, expected=one.limit, time_ms=at_ms))
    return told


def _finding(
    state: State, pool: Pool, scrape: Scrape, slot: int, rows: list[int], judged: Judged,
    victims: list[Suffering], presses: list[Evidence],
) -> dict[str, Any]:  # fmt: skip
    tenant, lead = state.tenants[slot], DEMANDS[pool.rows[rows[0]]]
    freed = float(judged.excess[rows[0], slot])
    takes = [_takes(pool, judged, scrape, tenant, row, slot) for row in rows[:5]]
    suffer = f"; {', '.join(one.tenant for one in victims[:5])} suffer{'s' * (len(victims) == 1)}" if victims else ""
    total = float(np.nansum(pool.grid["now"][rows[0]]))
    keep = max(1, math.ceil(2 * float(judged.expected[rows[0], slot])))
    return {
        "time_ms": scrape.time_ms,
        "cell": scrape.cell,
        "detector": STEP.name,
        "resource": scrape.resource,
        "severity": Severity.CRITICAL if victims else Severity.WARNING,
        "score": min(0.99, 1 - 0.5 * lead.floor / max(freed, lead.floor)),
        "summary": takes[0].text + suffer,
        "evidence": (*takes, *(one.fact for one in victims), *presses)[:20],
        "tenants": tuple(one.tenant for one in victims),
        "advice": (
            f"Of {tenant}, {lead.limit.format(keep=keep)}: it would free {freed:.3g} {lead.unit}, "
            f"{freed / max(total, 1e-12):.0%} of what all take."
        ),
    }


def _takes(pool: Pool, judged: Judged, scrape: Scrape, tenant: str, row: int, slot: int) -> Evidence:
    """What the tenant takes by one demand, halfway smoothed over the time since the look before."""
    now, expected, usual, spread = (
        float(one[row, slot]) for one in (pool.grid["now"], judged.expected, pool.grid["usual"], pool.grid["spread"])
    )
    all_take, unit = float(np.nansum(pool.grid["now"][row])), DEMANDS[pool.rows[row]].unit
    # As `_is_over` has it: there is more scatter where there is more, and a count scatters by its root at least.
    counted = 0.0 if pool.is_sum[row, 0] else expected / 3
    return Evidence(
        text=f"{tenant} takes {now:.3g} {unit} of {scrape.resource}, to be expected were {expected:.3g}; "
        f"that is {now / max(all_take, 1e-12):.0%} of all tenants' {all_take:.3g}",
        unit=unit,
        value=now,
        expected=expected,
        scale=math.sqrt((spread * expected / usual) ** 2 + counted) if usual else spread,
        window_ms=max(0, scrape.time_ms - round(pool.grid["at_ms"][row, slot])),
        time_ms=scrape.time_ms,
    )


def pack(state: State) -> Parts:
    """Pools and outcomes by themselves."""
    more = {
        "tenants": state.tenants,
        "pressures": state.pressures,
        "delayed": state.delayed,
        "strains": state.strains,
        "victims": state.victims,
        "episodes": state.episodes.dump(),
        "left_out": state.left_out,
    }
    parts = {"": columns.pack(state.outcomes, more)}
    for name, pool in state.pools.items():
        marks = {"rows": [DEMANDS[row].name for row in pool.rows], "marks": pool.marks, "last_ms": pool.last_ms}
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
        strains=more.get("strains", {}),
        victims=more["victims"],
        episodes=Episodes.load(more["episodes"]),
        left_out=more["left_out"],
    )
    for name, part in parts.items():
        if name:
            arrays, marks = columns.unpack(part)
            grid, beside = ({one: arrays[one] for one in names} for names in (_grid(0), _beside()))
            rows = marks.pop("rows", _ROWS)  # version 3 had all rows of the table
            if len(rows) == grid["now"].shape[0] and set(rows) <= set(_ROWS):
                state.pools[name.removeprefix("pool ")] = Pool(
                    [_ROWS.index(one) for one in rows], grid, beside, **marks
                )
    return state


def unit(record: Record) -> str | None:
    """The cell, for looks at what is shared and at how tenants fare, for what is unusual there, and for documents that are stuck."""
    if isinstance(record, Scrape):
        return "" if layout_of(record.series).is_watched else None
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
STEP = Step("contention", Config, (Scrape, Signal), unit, State, step, pack, unpack, version=4, about=ABOUT)
