"""What the baseline knows of the series of one resource, in columns, and how it travels in snapshots."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from processors import columns
from processors.episodes import Episodes
from processors.step import Parts
from processors.steps import alarms
from processors.steps.seasonal import Profile
from processors.steps.slots import Slots
from processors.steps.spreads import Spreads
from processors.steps.usual import Usual

_ARRAYS: dict[str, Any] = {
    "last": np.float64,  # last raw value, for rates
    "last_ms": np.float64,  # when it was measured; -1 never
    "offset": np.float64,  # how far the present lies from the profile
    "noise": np.float64,  # variance of one scrape around its prediction, of late
    "usual_noise": np.float64,  # and what it usually is at such times of day
    "quarter": np.int16,  # of the week, in which the series was last seen; -1 never
    "seen": np.uint32,  # scrapes at the present grain
    "hot": np.int8,  # scrapes in a row beyond the limit
    "alarmed": np.int8,  # beyond the limit and believed, until it is calm again
    **alarms.ARRAYS,
}


@dataclass
class State:
    """All series of one resource."""

    slots: Slots = field(default_factory=Slots)
    profile: Profile = field(default_factory=Profile)
    spreads: Spreads = field(default_factory=Spreads)
    arrays: columns.Arrays = field(default_factory=lambda: {name: np.zeros(0, kind) for name, kind in _ARRAYS.items()})
    last_ms: int = -1
    interval_ms: float = 0.0
    start_ms: int = -1
    odd: int = 0  # intervals in a row that do not fit the grain
    episodes: Episodes = field(default_factory=Episodes)
    usual: Usual | None = None  # of the present quarter of an hour, as read
    abreast: bool = False  # all series were measured at the last scrape
    seen_least: int = 0  # every series has been seen so often at least

    def grow(self) -> None:
        """Make room for series that have come."""
        more = len(self.slots.identities) - self.arrays["last"].size
        if more > 0:
            self.usual, self.abreast, self.seen_least = None, False, 0
            self.arrays = {name: columns.wider(array, more) for name, array in self.arrays.items()}
            self.arrays["last_ms"][-more:] = self.arrays["quarter"][-more:] = -1
            self.profile.grow(len(self.slots.identities))
            self.spreads.grow(len(self.slots.identities))

    def let_go(self, gone: Collection[str]) -> None:
        """Series have lost their places."""
        if self.slots.index.keys().isdisjoint(gone):
            return
        self.slots, stays = self.slots.without(gone)
        self.arrays = columns.kept(self.arrays, stays)
        self.profile.keep(stays)
        self.spreads.keep(stays)
        self.usual, self.abreast, self.seen_least = None, False, 0


def pack(state: State) -> Parts:
    """The season by itself, since it changes once an hour; everything else together."""
    more = {
        "identities": state.slots.identities,
        "last_ms": state.last_ms,
        "interval_ms": state.interval_ms,
        "start_ms": state.start_ms,
        "odd": state.odd,
        "episodes": state.episodes.dump(),
    }
    present = {**state.arrays, **state.profile.present(), **state.spreads.present}
    season = {**state.profile.season(), **state.spreads.season}
    return {"present": columns.pack(present, more), "season": columns.pack(season)}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    arrays, more = columns.unpack(parts["present"])
    season, _ = columns.unpack(parts["season"])
    slots = Slots()
    slots.extend(more["identities"])
    return State(
        slots=slots,
        profile=Profile(arrays={**arrays, **season}),
        spreads=Spreads.of({**arrays, **season}),
        arrays=_known(arrays),
        last_ms=more["last_ms"],
        interval_ms=more["interval_ms"],
        start_ms=more["start_ms"],
        odd=more["odd"],
        episodes=Episodes.load(more["episodes"]),
    )


def _known(arrays: columns.Arrays) -> columns.Arrays:
    """The arrays of a state; what version 1 did not have yet begins anew."""
    width = arrays["last"].size
    begun: columns.Arrays = {"quarter": np.full(width, -1, np.int16), "usual_noise": np.zeros(width)}
    return {name: arrays[name] if name in arrays else begun[name] for name in _ARRAYS}
