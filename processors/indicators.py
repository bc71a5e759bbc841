"""What a record says of a service level: bad and all events by group, for the indicators of the SLOs of a cell.

Counters are read by their rise since the resource's last look. The columns of a group are summed first, so that a series
that appears (the first 5xx of a tenant) counts from 0. A null among them leaves the whole look out: the next one covers
both. A counter that fell, or whose resource began anew, was not measured in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.bounds import reached
from schemas.caches import Layouts
from schemas.records import Scrape
from schemas.series import parse, split
from schemas.slo import Metric, Slo, Target

LOOKS_MAX = 5_000  # resources that are remembered
LAST_MAX = 50_000  # counters that are remembered


class Meter(NamedTuple):
    """One objective of an SLO."""

    key: str
    slo: Slo
    target: Target


class Came(NamedTuple):
    """What a group's events were between two looks (log time, ms)."""

    group: str
    since_ms: int
    bad: float
    total: float
    series: str


class Columns(NamedTuple):
    """Places of a group's columns in a layout."""

    part: tuple[int, ...]
    total: tuple[int, ...]
    series: str


Layout = list[tuple[Meter, dict[str, Columns]]]


@dataclass
class Last:
    """What a group's counters stood at."""

    part: float
    total: float
    at_ms: int


@dataclass
class Look:
    """A resource's last look."""

    start_ms: int
    time_ms: int
    at_ms: int


@dataclass
class Readings:
    """What is remembered of the last looks; what is beyond the bounds is forgotten oldest first, and counts anew."""

    looks: dict[str, Look] = field(default_factory=dict)
    last: dict[str, Last] = field(default_factory=dict)
    forgotten: int = 0

    def bound(self) -> None:
        """Forget what is too much."""
        for known, most in ((self.looks, LOOKS_MAX), (self.last, LAST_MAX)):
            while len(known) > most:
                known.pop(next(iter(known)))
                self.forgotten += 1
                reached("burn_rate.readings")

    def let_go(self, resource: str) -> None:
        """A resource has lost its place."""
        self.looks.pop(resource, None)
        for key in [key for key in self.last if key.split("\x1f")[-2] == resource]:
            del self.last[key]


class Reader:
    """Reads the meters of a cell; knows which columns of a layout matter."""

    def __init__(self, meters: Iterable[Meter]) -> None:
        self.meters = [one for one in meters if isinstance(one.target.indicator.part, Metric)]
        self._layouts: Layouts[Layout] = Layouts("holder.layouts")

    def read(self, readings: Readings, scrape: Scrape, at_ms: int) -> Iterator[tuple[Meter, Came]]:
        """What a scrape adds to each meter. A scrape that is not newer than the last of its resource adds nothing."""
        layout = self._layout(scrape.series)
        if not layout:
            return
        before = readings.looks.get(scrape.resource)
        if before and scrape.time_ms <= before.time_ms:
            return
        start_ms = -1 if scrape.start_time_ms is None else scrape.start_time_ms
        goes_on = before is not None and before.start_ms == start_ms
        for meter, groups in layout:
            for group, columns in groups.items():
                found = (
                    self._rise(readings, meter, group, columns, scrape, at_ms, before if goes_on else None)
                    if meter.target.indicator.counter
                    else _present(meter.target, group, columns, scrape, before.at_ms if before else at_ms)
                )
                if found:
                    yield meter, found
        readings.looks.pop(scrape.resource, None)
        readings.looks[scrape.resource] = Look(start_ms, scrape.time_ms, at_ms)
        readings.bound()

    def _rise(
        self,
        readings: Readings,
        meter: Meter,
        group: str,
        columns: Columns,
        scrape: Scrape,
        at_ms: int,
        before: Look | None,
    ) -> Came | None:
        part, total = _sum(scrape, columns.part), _sum(scrape, columns.total)
        if part is None or total is None:
            return None
        key = f"{meter.key}\x1f{scrape.resource}\x1f{group}"
        last = readings.last.get(key) if before else None
        if last is None and before:
            last = Last(0.0, 0.0, before.at_ms)
        readings.last.pop(key, None)  # so that those longest unheard of stand first
        readings.last[key] = Last(part, total, at_ms)
        if last is None or part < last.part or total < last.total:
            return None
        came, good = total - last.total, part - last.part
        bad = came - good if meter.target.indicator.part_is_good else good
        return Came(group, last.at_ms, bad, came, columns.series)

    def _layout(self, series: str) -> Layout:
        known = self._layouts.get(series)
        if known is None:
            known = self._layouts.keep(series, series, _match(self.meters, split(series)))
        return known


def _match(meters: Iterable[Meter], identities: list[str]) -> Layout:
    found: Layout = []
    for meter in meters:
        indicator, groups = meter.target.indicator, dict[str, Columns]()
        for place, identity in enumerate(identities):
            name, attributes = parsed = parse(identity)
            group = (parsed.tenant or "") if meter.slo.options.by == "tenant" else ""
            if meter.slo.options.by == "tenant" and not group:
                continue
            known = groups.get(group, Columns((), (), ""))
            if _is(indicator.part, name, attributes):
                known = known._replace(part=(*known.part, place), series=identity)
            if indicator.total and _is(indicator.total, name, attributes):
                known = known._replace(total=(*known.total, place), series=known.series or identity)
            groups[group] = known
        whole = {group: columns for group, columns in groups.items() if _is_whole(meter.target, columns)}
        if whole:
            found.append((meter, whole))
    return found


def _is(source: object, name: str, attributes: object) -> bool:
    return isinstance(source, Metric) and source.metric == name and source.takes(attributes)


def _is_whole(target: Target, columns: Columns) -> bool:
    """Whether a look says anything: bad events that never were have no series; good ones that have none are unknown."""
    if target.indicator.kind != "ratio":
        return bool(columns.part)
    return bool(columns.total) and (bool(columns.part) or not target.indicator.part_is_good)


def _sum(scrape: Scrape, places: tuple[int, ...]) -> float | None:
    total = 0.0
    for place in places:
        value = scrape.values[place]
        if value is None:
            return None
        total += value
    return total


def _present(target: Target, group: str, columns: Columns, scrape: Scrape, since_ms: int) -> Came | None:
    """Gauges: every one that was measured is an event, or a count of them since the last look."""
    indicator = target.indicator
    if indicator.kind == "ratio":
        part, total = _sum(scrape, columns.part), _sum(scrape, columns.total)
        if part is None or total is None:
            return None
        return Came(group, since_ms, total - part if indicator.part_is_good else part, total, columns.series)
    values = [value for place in columns.part if (value := scrape.values[place]) is not None]
    if not values:
        return None
    if indicator.kind == "threshold":
        bad = float(sum(not target.is_good(value) for value in values))
    else:
        bad = sum(1 - value if indicator.part_is_good else value for value in values)
    return Came(group, since_ms, bad, float(len(values)), columns.series)
