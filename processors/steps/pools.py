"""What tenants take of each shared thing and how they fare, in columns, and how that travels in snapshots.

Demands and outcomes are rows (`processors.demands`), the cell's tenants are columns, which have the same places everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from processors import columns
from processors.demands import DEMANDS, FLOORS, IS_SUM, IS_WORK, LESS_WAITS, OUTCOMES, Columns, Floats
from processors.episodes import Episodes
from processors.step import Parts
from processors.values import values_of
from schemas.bounds import reached
from schemas.records import Scrape

WHERE_MAX = 256


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
_OUTCOMES = [one.metric for one in OUTCOMES]
OUTCOMES_NUMBERED = ("odoo.http.request.duration.mean", "odoo.queue_job.age.max")
"""Outcomes as they stood when state knew them by their number."""


class Where(NamedTuple):
    """Where the columns of a table stand in a grid of its rows and the cell's tenants, laid out flat."""

    shape: tuple[int, int]
    known: Flags | None  # None when every tenant has a place
    flat: NDArray[np.intp]
    empty: NDArray[np.intp]  # where no column stands
    twice: bool  # whether two columns stand in one place
    column: NDArray[np.intp] | None  # of the scrape, by row and tenant, when each has one


Places = dict[int, tuple[Columns, Where]]


@dataclass
class Pool:
    """What one server, or all of one system of the cell, gives to tenants: of the table of demands, the rows it tells of."""

    rows: list[int] = field(default_factory=list)
    grid: columns.Arrays = field(default_factory=lambda: _grid(0))
    beside: columns.Arrays = field(default_factory=_beside)
    marks: dict[str, list[int]] = field(default_factory=dict)  # by resource: layout and start of its counters
    last_ms: int = -1
    whole: tuple[int, ...] = ()
    """Shape of the grid when all of it was measured at the last look and has a rate; of another shape it is not."""
    where: Places = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.floors, self.tenths = FLOORS[self.rows], 0.1 * FLOORS[self.rows]
        self.is_sum, self.is_work = IS_SUM[self.rows], IS_WORK[self.rows]
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
    pressures: dict[str, tuple[str, dict[str, tuple[float, int]]]] = field(default_factory=dict)
    """By resource its system and, by metric, the share that is used and when that was measured, Unix ms."""
    delayed: dict[str, int] = field(default_factory=dict)  # since when a tenant's documents are stuck
    strains: dict[str, str] = field(default_factory=dict)  # what of the shared is unusual, by signal
    victims: dict[str, list[str]] = field(default_factory=dict)  # those named, by cause
    episodes: Episodes = field(default_factory=Episodes)
    left_out: int = 0
    loads: tuple[int, int, Floats | None] | None = None
    where: Places = field(default_factory=dict)


def let_go(
    state: State, tenants: Collection[str] = (), pools: Collection[str] = (), resources: Collection[str] = ()
) -> None:
    """Tenants, pools and what was measured of resources have lost their places."""
    for name in pools:
        state.pools.pop(name, None)
    for name in resources:
        state.pressures.pop(name, None)
        for pool in state.pools.values():
            pool.marks.pop(name, None)
    stays = np.array([one not in tenants for one in state.tenants], bool)
    if stays.all():
        return
    width = stays.size
    state.tenants = [one for one in state.tenants if one not in tenants]
    state.delayed = {tenant: since_ms for tenant, since_ms in state.delayed.items() if tenant not in tenants}
    state.where, state.loads = {}, None
    grow(state.outcomes, width)
    state.outcomes = columns.kept(state.outcomes, stays)
    for pool in state.pools.values():
        grow(pool.grid, width)
        grow(pool.beside, width)
        pool.grid = columns.kept(pool.grid, stays)
        pool.beside = columns.kept({**pool.beside, "both": pool.beside["both"][stays]}, stays)
        pool.where, pool.whole = {}, ()


class Followed(NamedTuple):
    """How many tenants are followed, and who is declared: others find no more than half of the room."""

    most: int
    declared: frozenset[str]

    def has_room(self, tenant: str, here: int) -> bool:
        """Whether one more is."""
        return here < (self.most if not self.declared or tenant in self.declared else self.most // 2)


def places_of(tenants_max: Followed, state: State, places: Places, own: Columns, rows: Sequence[int]) -> Where:
    """Remembered by layout; tenants and rows that have come since change it."""
    found = places.get(id(own))
    if found is None or found[0] is not own or found[1].shape != (len(rows), len(state.tenants)):
        if len(places) >= WHERE_MAX:
            reached("holder.layouts")
            places.clear()
        found = places[id(own)] = (own, _find(tenants_max, state, own, rows))
    return found[1]


def _find(tenants_max: Followed, state: State, own: Columns, rows: Sequence[int]) -> Where:
    for tenant in dict.fromkeys(own.tenants):
        if tenant not in state.tenants:
            if not tenants_max.has_room(tenant, len(state.tenants)):
                state.left_out += 1
                reached("contention.tenants")
            else:
                state.tenants.append(tenant)
    index, width = {tenant: place for place, tenant in enumerate(state.tenants)}, len(state.tenants)
    slots = np.array([index.get(tenant, -1) for tenant in own.tenants], np.intp)
    known = slots >= 0
    flat = (np.searchsorted(rows, own.rows) * width + slots)[known]
    times = np.bincount(flat, minlength=len(rows) * width)
    empty, twice = np.flatnonzero(times == 0), bool((times > 1).any())
    shape, column = (len(rows), width), None
    if known.all() and not empty.size and not twice:
        column = np.array(own.places, np.intp)[np.argsort(flat)].reshape(shape)
    return Where(shape, None if known.all() else known, flat, empty, twice, column)


def grow(arrays: columns.Arrays, width: int) -> None:
    """Make room for tenants that have come."""
    more = width - next(iter(arrays.values())).shape[-1]
    if more <= 0:
        return
    for name, array in arrays.items():
        empty: float = {"last": np.nan, "now": np.nan, "at_ms": -1.0, "waited_ms": -1.0}.get(name, 0)
        if name == "both":  # its rows are tenants, too
            array = columns.wider(array.T, more).T
        arrays[name] = columns.wider(array, more, empty)


def values_at(where: Where, own: Columns, scrape: Scrape) -> Floats:
    values = own.values(scrape)
    return values if where.known is None else values[where.known]


def sums_at(where: Where, own: Columns, scrape: Scrape) -> Floats:
    """Values by row and tenant; NaN where nothing was measured."""
    if where.column is not None:
        return values_of(scrape)[where.column]
    rows, width = where.shape
    sums: Floats = np.bincount(where.flat, values_at(where, own, scrape), rows * width).astype(float, copy=False)
    if where.empty.size:
        sums[where.empty] = np.nan
    return sums.reshape(rows, width)


def pack(state: State) -> Parts:
    """Pools and outcomes by themselves."""
    more = {
        "tenants": state.tenants,
        "outcomes": _OUTCOMES,
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
        outcomes=_outcomes_of(outcomes, more.get("outcomes", OUTCOMES_NUMBERED)),
        pressures={
            resource: (system, {metric: (share, at_ms) for metric, (share, at_ms) in measured.items()})
            for resource, (system, measured) in more["pressures"].items()
            if isinstance(measured, dict)  # version 4 did not know of which resource they told
        },
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


def _outcomes_of(packed: columns.Arrays, names: Sequence[str]) -> columns.Arrays:
    """Rows in the order of the table; an outcome that was not there yet begins anew, one that was taken out is left out."""
    made = _grid(len(OUTCOMES), packed["now"].shape[1])
    for name, array in packed.items():
        for row, outcome in enumerate(names):
            if outcome in _OUTCOMES:
                made[name][_OUTCOMES.index(outcome)] = array[row]
    return made
