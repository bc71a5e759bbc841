"""The flows of one resource: what came of each, what was to be expected, and how silent each has been.

Columns are by stream, so a look is a few vectorised lines however many flows there are. What is learned of the hours of the
week stands by itself (`season`), since it changes once an hour.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from processors import columns
from processors.episodes import Episodes
from processors.flows import FLOW_NAMED, FLOWS, FLOWS_NUMBERED, Layout, Stream, streams_of
from processors.step import Parts
from processors.steps.seasonal import HOURS, Floats
from processors.values import values_of
from schemas.bounds import reached
from schemas.records import Scrape

Flags = NDArray[np.bool_]
CLUMP_PRIOR = 20.0  # events that are held for single ones before clumps are known
RING = 32  # minutes

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
    "spared_ms": np.float64,  # for so long nothing is expected: what is missing did not come further up
    "waits": np.int8,  # 1: work is seen to wait; 0: nothing waits; -1: unknown
    "left": np.float64,  # least that has waited since the last event
}


@dataclass(slots=True)
class Clock:
    """What the calendars say by stream."""

    hour: NDArray[np.intp]
    into: Floats
    works: Flags
    shifted: Flags
    needs_gate: Flags
    edge: Flags  # people do it, and it is closed in the hour beside, towards which this one leans
    declared: Flags
    usual: Floats
    known: Flags
    least: Floats
    limit: Floats


class Season(NamedTuple):
    """What the season says by stream of the present hour and those beside it; holds until an hour is learned.

    `mean` and `known` have a row for each of the hour before, the present one and the one after.
    """

    hour: NDArray[np.intp]
    mean: Floats
    known: Flags
    seen: Flags  # the present hour itself, not only one like it
    beside: Floats  # the less of what the hours beside were seen to bring
    healthy: Floats  # the highest healthy evidence about this time of day
    a_week: Floats  # sum of what the hours of the week bring, a ms


class Places(NamedTuple):
    """Where a layout's columns stand in the state."""

    layout: Layout
    columns: NDArray[np.intp]  # that are counted
    series: NDArray[np.intp]  # of those
    streams: NDArray[np.intp]  # of those, the first at 1
    gates: NDArray[np.intp]  # columns of what waits
    gated: NDArray[np.intp]  # and the streams that it waits for
    leave_some: Flags  # by stream


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
    places: Places | None = None
    clock: tuple[int, Clock] | None = None
    now: Season | None = None

    def changes(self, scrape: Scrape, layout: Layout, streams_max: int) -> tuple[Floats, Flags]:
        """Events by stream since the last look, and which streams were measured. A fall or a new start is a reset."""
        places = self._places(layout, streams_max)
        values = values_of(scrape)[places.columns]
        started = scrape.start_time_ms if scrape.start_time_ms is not None else -1
        change = values - self.last[places.series]
        counted = change >= 0
        if started != self.start_ms:
            counted[:] = False
        # Streams beyond the bound stand at -1: they fall into a place before the first, which is cut off.
        width = len(self.streams) + 1
        came = np.bincount(places.streams, np.where(counted, change, 0.0), width)[1:].astype(np.float64, copy=False)
        measured = np.bincount(places.streams, counted, width)[1:] > 0
        missing = np.isnan(values)
        if np.count_nonzero(missing):
            self.last[places.series[~missing]] = values[~missing]
        else:
            self.last[places.series] = values
        self.start_ms = started
        if layout.gates:
            self._take_gates(places, values_of(scrape), came)
        return came, measured

    def _places(self, layout: Layout, streams_max: int) -> Places:
        if self.places is None or self.places.layout is not layout:
            series = {name: place for place, name in enumerate(self.series)}
            for name in layout.identities:
                series.setdefault(name, len(series))
            streams = {one.name: place for place, one in enumerate(self.streams)}
            for one in layout.streams:
                if one.name not in streams and len(streams) < streams_max:
                    streams[one.name] = len(streams)
                    self.streams.append(one)
            reached("absence.streams", sum(one.name not in streams for one in layout.streams))
            self.series = list(series)
            self._grow()
            self.places = Places(
                layout,
                np.array(layout.places, np.intp),
                np.array([series[name] for name in layout.identities], np.intp),
                np.array([streams.get(layout.streams[of].name, -1) + 1 for of in layout.stream_of], np.intp),
                np.array([place for place, name in layout.gates if name in streams], np.intp),
                np.array([streams[name] for _, name in layout.gates if name in streams], np.intp),
                np.array([FLOWS[one.flow].leaves_some for one in self.streams], bool),
            )
        return self.places

    def _grow(self) -> None:
        self.last = columns.wider(self.last, len(self.series) - self.last.size, np.nan)
        more = len(self.streams) - self.arrays["seen"].size
        if more:
            empty = {"hour": -1, "waits": -1, "left": np.nan}
            self.arrays = {name: columns.wider(one, more, empty.get(name, 0)) for name, one in self.arrays.items()}
            for table in (self.season, self.rings):
                table.update({name: columns.wider(one, more) for name, one in table.items()})
            self.clock = self.now = None

    def let_go(self, gone: Collection[str]) -> None:
        """Series have lost their places: streams that no other series is counted in go with them."""
        stays = np.array([one not in gone for one in self.series], bool)
        if stays.all():
            return
        self.series = [one for one in self.series if one not in gone]
        self.last = self.last[stays]
        names = streams_of(self.series)
        flows = np.array([one.name in names for one in self.streams], bool)
        self.streams = [one for one in self.streams if one.name in names]
        self.arrays, self.season = columns.kept(self.arrays, flows), columns.kept(self.season, flows)
        self.rings = columns.kept(self.rings, flows)
        self.causes = {name: cause for name, cause in self.causes.items() if name in names}
        self.places = self.clock = self.now = None

    def _take_gates(self, places: Places, values: Floats, came: Floats) -> None:
        """Whether work is seen to wait for a stream.

        Some of it may wait for good, as a picking does that lacks its goods. Where that is so, work waits while there is
        more of it than the stream has left lying since it last moved.
        """
        waiting, width, arrays = values[places.gates], len(self.streams), self.arrays
        told = ~np.isnan(waiting)
        now = np.bincount(places.gated, np.where(told, waiting, 0.0), width).astype(np.float64, copy=False)
        now[np.bincount(places.gated, told, width) == 0] = np.nan
        arrays["left"] = np.where(came > 0, now, np.fmin(arrays["left"], now))
        most = np.where(places.leave_some, arrays["left"], 0.0)
        arrays["waits"] = np.where(np.isnan(now), -1, now > most).astype(np.int8)

    def clumps(self) -> Floats:
        """By stream: events that come at once; one until it is known better."""
        arrays = self.arrays
        found: Floats = (arrays["scatter"] + CLUMP_PRIOR) / (arrays["scatter_of"] + CLUMP_PRIOR)
        return np.maximum(found, 1.0)

    def remember(self) -> None:
        """Keep the sums as they stand now, once a minute."""
        self.rings_ms = np.append(self.rings_ms[1:], float(max(self.last_ms, 0)))
        for name, ring in self.rings.items():
            ring[:-1], ring[-1] = ring[1:].copy(), self.arrays[name]

    def since(self, since_ms: float) -> tuple[Floats, Floats]:
        """By stream, what was due and what came since about then."""
        arrays = self.arrays
        place = max(int(np.searchsorted(self.rings_ms, since_ms, side="right")) - 1, 0)
        return arrays["due"] - self.rings["due"][place], arrays["came"] - self.rings["came"][place]


def pack(state: State) -> Parts:
    """The season by itself, since it changes once an hour."""
    more = {
        "series": state.series,
        "streams": [[one.name, FLOWS[one.flow].name, one.tenant] for one in state.streams],
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
    last, rings_ms = arrays.pop("last"), arrays.pop("rings_ms")
    rings = {name: arrays.pop(f"ring_{name}") for name in ("due", "came")}
    named = [(name, _flow_name(flow), tenant) for name, flow, tenant in more["streams"]]
    known = np.array(
        [flow in FLOW_NAMED for _, flow, _ in named], bool
    )  # a row that was taken out takes its flows along
    return State(
        series=more["series"],
        last=last,
        rings=columns.kept(rings, known),
        rings_ms=rings_ms,
        streams=[Stream(name, FLOW_NAMED[flow], tenant) for name, flow, tenant in named if flow in FLOW_NAMED],
        arrays=columns.kept(arrays, known),
        season=columns.kept(season, known),
        causes=more["causes"],
        last_ms=more["last_ms"],
        start_ms=more["start_ms"],
        episodes=Episodes.load(more["episodes"]),
    )


def _flow_name(flow: str | int) -> str:
    """Version 6 knew rows by their number."""
    return FLOWS_NUMBERED[flow] if isinstance(flow, int) else flow
