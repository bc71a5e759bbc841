"""What is known of a resource's shares: the highest of each minute, hour and day, in rings of a fixed length.

What is used is kept in units of the first limit that was seen, so a limit that is moved re-scales the past. State: about
2.6 KiB a share; at most `SHARES_MAX` shares a resource.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from processors import columns
from processors.episodes import Episodes
from processors.step import Parts
from processors.steps.bounds import BOUND_NAMED, BOUNDS_NUMBERED, DAY_S, HOUR_S, Reading, Share, knee
from schemas.bounds import reached
from schemas.caches import Layouts

SHARES_MAX = 256
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


SCALES_NUMBERED = ("minute", "hour", "day")
"""Scales as they stood when state knew them by their number."""


class Layout(NamedTuple):
    """What of a scrape's values is taken, by slot: shares as they are, pairs of what is used and its limit, and the rest."""

    shares: list[tuple[int, int]]
    pairs: list[tuple[int, int, int]]
    others: list[tuple[int, Reading]]


@dataclass
class State:
    """The shares of one resource; lists are by slot, and by scale before that."""

    shares: list[Share] = field(default_factory=list)
    rings: list[Any] = field(default_factory=lambda: [np.full((scale.kept, 0), np.nan, np.float32) for scale in SCALES])
    numbers: list[int] = field(default_factory=lambda: [-1] * len(SCALES))
    peaks: list[list[float]] = field(default_factory=lambda: [[] for _ in SCALES])
    limits: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)  # the limit in whose shares the rings are kept
    totals: list[float] = field(default_factory=list)
    hot: list[list[int]] = field(default_factory=list)  # by scale: judgements in a row at which it was running out
    servers: list[float] = field(default_factory=list)  # most that were busy at once while others waited
    waited: list[list[int]] = field(default_factory=list)  # looks at which others waited, at how many most were busy
    loads: dict[int, tuple[float, int]] = field(default_factory=dict)  # by slot: sum and number of this minute's
    first_ms: int = -1
    last_ms: int = -1
    start_ms: int = -1
    episodes: Episodes = field(default_factory=Episodes)
    layouts: Layouts[Layout] = field(default_factory=lambda: Layouts("holder.layouts"))

    def take(self, layout: Layout, values: tuple[float | None, ...], elapsed_s: float) -> None:
        """Note the highest of this minute. What is used is kept in units of the first limit, see `past`."""
        peaks, units, limits = self.peaks[0], self.units, self.limits
        for slot, place in layout.shares:
            share = values[place]
            if share is not None and share > peaks[slot]:
                peaks[slot] = share
        for slot, place, limit_place in layout.pairs:
            used, limit = values[place], values[limit_place]
            if used is not None and limit:  # else none is set, or it was not measured
                limits[slot] = limit
                used /= units[slot] or self._unit(slot, limit)
                if used > peaks[slot]:
                    peaks[slot] = used
        for slot, reading in layout.others:
            other = self._other(slot, reading, values, elapsed_s)
            if other is not None and other > peaks[slot]:
                peaks[slot] = other

    def _unit(self, slot: int, limit: float) -> float:
        self.units[slot] = limit
        return limit

    def _other(self, slot: int, reading: Reading, values: tuple[float | None, ...], elapsed_s: float) -> float | None:
        """The share of what is a rate, a load or limited by a number."""
        known = [value for place in reading.used if (value := values[place]) is not None]
        if not known:
            return None
        used, bound = math.fsum(known), reading.of.bound
        limit = self._carried(slot, reading, used, values) if bound.is_load else reading.fixed
        if not limit:
            return None
        if bound.is_rate:
            before, self.totals[slot] = self.totals[slot], used
            return (used - before) / elapsed_s / limit if used >= before >= 0 and elapsed_s < 1_200 else None
        self.limits[slot] = limit
        used /= self.units[slot] or self._unit(slot, limit)
        if not bound.is_load:
            return used
        total, count = self.loads.get(slot, (0.0, 0))
        self.loads[slot] = total + used, count + 1
        return None

    def _carried(self, slot: int, reading: Reading, busy: float, values: tuple[float | None, ...]) -> float | None:
        """The load that the servers carry until waiting is as long as service; None while it is not known how many there are."""
        count = reading.fixed if reading.limit is None else values[reading.limit]
        if reading.waits is not None:
            count = self._servers(slot, busy, is_waited_for=(values[reading.waits] or 0.0) > 0.0)
        return knee(round(count)) if count and count >= 1 else None

    def _servers(self, slot: int, busy: float, *, is_waited_for: bool) -> float | None:
        """How many there are: who waits for a full pool sees all of them busy, time and again; else it waits for something else."""
        waited = self.waited[slot]
        if is_waited_for:
            if busy > self.servers[slot]:
                self.servers[slot], waited[1] = busy, 0
            waited[0] += 1
            waited[1] += busy == self.servers[slot]
        looks, full = waited
        return self.servers[slot] if full >= FULL_LEAST and 2 * full >= looks else None

    def close(self, place: int, before: int, number: int) -> None:
        """A grain is over: its highest values go into the ring and to the next longer grain. Grains in between are holes."""
        ring, peaks = self.rings[place], self.peaks[place]
        if place == 0:
            for slot, (total, count) in self.loads.items():
                peaks[slot] = total / count
            self.loads.clear()
        kept = ring.shape[0]
        values = np.array(peaks, np.float32)
        ring[before % kept] = np.where(values < 0, np.nan, values)
        for hole in range(before + 1, min(number, before + 1 + kept)):
            ring[hole % kept] = np.nan
        if place + 1 < len(SCALES):
            self.peaks[place + 1] = [max(pair) for pair in zip(self.peaks[place + 1], peaks, strict=True)]
        self.peaks[place] = [-1.0] * len(peaks)

    def past(self, place: int, slot: int) -> Any:
        """Oldest first, as far back as it was measured."""
        ring, number = self.rings[place], self.numbers[place]
        values = np.roll(ring[:, slot], -(number % ring.shape[0])).astype(np.float64)
        if self.limits[slot] > 0:  # of a limit that was moved, the past is told in shares of the new one
            values *= self.units[slot] / self.limits[slot]
        known = np.flatnonzero(~np.isnan(values))
        return values[known[0] :] if known.size else values[:0]

    def let_go(self, gone: Collection[str]) -> None:
        """Shares with these keys have lost what is used of them."""
        stays = [slot for slot, one in enumerate(self.shares) if one.key not in gone]
        if len(stays) == len(self.shares):
            return
        slots, places = {slot: place for place, slot in enumerate(stays)}, np.array(stays, np.intp)
        self.shares = [self.shares[slot] for slot in stays]
        self.rings = [ring[:, places] for ring in self.rings]
        self.peaks = [[peaks[slot] for slot in stays] for peaks in self.peaks]
        self.limits, self.units = [self.limits[slot] for slot in stays], [self.units[slot] for slot in stays]
        self.totals, self.servers = [self.totals[slot] for slot in stays], [self.servers[slot] for slot in stays]
        self.waited = [self.waited[slot] for slot in stays]
        self.hot = [[hot[slot] for slot in stays] for hot in self.hot]
        self.loads = {slots[slot]: load for slot, load in self.loads.items() if slot in slots}
        self.layouts.clear()

    def grow(self, shares: list[Share]) -> None:
        """Follow more shares, within the bound."""
        new = shares[: SHARES_MAX - len(self.shares)]
        reached("capacity.shares", len(shares) - len(new))
        self.shares += new
        self.rings = [columns.wider(ring, len(new), np.nan) for ring in self.rings]
        self.peaks = [peaks + [-1.0] * len(new) for peaks in self.peaks]
        self.limits += [0.0] * len(new)
        self.units += [0.0] * len(new)
        self.totals += [-1.0] * len(new)
        self.servers += [0.0] * len(new)
        self.waited += [[0, 0] for _ in new]
        self.hot = [(self.hot[place] if self.hot else []) + [0] * len(new) for place in range(len(SCALES))]


def pack(state: State) -> Parts:
    """Each grain by itself, since days change rarely."""
    more = {
        "shares": [[one.bound.name, one.key, one.tenant] for one in state.shares],
        "numbers": _by_scale(state.numbers),
        "peaks": _by_scale(state.peaks),
        "limits": state.limits,
        "units": state.units,
        "totals": state.totals,
        "hot": _by_scale(state.hot),
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
    width = len(more["shares"])
    named = [(_bound_name(bound), key, tenant) for bound, key, tenant in more["shares"]]
    state = State(
        # What belongs to a row that was taken out stands at row 0 until it is let go of below.
        shares=[Share(BOUND_NAMED.get(bound, 0), key, tenant) for bound, key, tenant in named],
        rings=[_ring(parts, scale, width) for scale in SCALES],
        numbers=_of_scales(more["numbers"], lambda: -1),
        peaks=_of_scales(more["peaks"], lambda: [-1.0] * width),
        limits=more["limits"],
        units=more.get("units", list(more["limits"])),
        totals=more["totals"],
        hot=_of_scales(more["hot"], lambda: [0] * width) if more["hot"] else [],
        servers=more.get("servers", [0.0] * width),
        waited=more.get("waited", [[0, 0] for _ in range(width)]),
        loads={slot: (total, count) for slot, total, count in more.get("loads", ())},
        first_ms=more["times"][0],
        last_ms=more["times"][1],
        start_ms=more["times"][2],
        episodes=Episodes.load(more["episodes"]),
    )
    state.let_go({key for bound, key, _ in named if bound not in BOUND_NAMED})
    return state


def _bound_name(bound: str | int) -> str:
    """Version 2 knew rows by their number."""
    return BOUNDS_NUMBERED[bound] if isinstance(bound, int) else bound


def _by_scale(values: Sequence[Any]) -> dict[str, Any]:
    return {scale.name: value for scale, value in zip(SCALES, values, strict=False)}


def _of_scales(packed: Any, begun: Callable[[], Any]) -> list[Any]:
    """By scale; one that was not there yet begins anew. Version 2 knew scales by their number."""
    values = packed if isinstance(packed, dict) else dict(zip(SCALES_NUMBERED, packed, strict=False))
    return [values[scale.name] if scale.name in values else begun() for scale in SCALES]


def _ring(parts: Parts, scale: Scale, width: int) -> Any:
    """Of another length it begins anew."""
    ring = columns.unpack(parts[scale.name])[0]["ring"] if scale.name in parts else np.zeros((0, width))
    return ring if ring.shape == (scale.kept, width) else np.full((scale.kept, width), np.nan, np.float32)
