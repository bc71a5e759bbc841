"""What the catalogue says of the series of a resource, in columns: which are rates, which departures are bad, whose they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from processors.step import StepConfig
from processors.steps.hours import Weeks
from schemas.caches import Layouts
from schemas.metrics import Departure, Kind, Metric, describe
from schemas.series import Series, parse, split

Floats = NDArray[np.float64]


@dataclass
class Slots:
    """What is known of each series, in slots that never move; a layout maps its columns to them."""

    identities: list[str] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)
    is_sum: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    is_gauge: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    is_count: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    up: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    down: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    has_bad: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))  # up, down or both
    least: Floats = field(default_factory=lambda: np.zeros(0))  # what can be: times, ages and numbers are not below 0
    has_opinion: bool = False
    floor: Floats = field(default_factory=lambda: np.zeros(0))
    waiting: list[int] = field(default_factory=list)  # slots of what waits for people
    limited: list[tuple[int, int, float]] = field(default_factory=list)  # slot, slot of its limit (-1: fixed), limit
    layouts: Layouts[NDArray[np.intp] | None] = field(default_factory=lambda: Layouts("holder.layouts"))
    _weeks: tuple[StepConfig, Weeks] | None = None

    def weeks(self, config: StepConfig) -> Weeks:
        """The weeks of the series, as the estate of that configuration has them."""
        if self._weeks is None or self._weeks[0] is not config:
            self._weeks = config, Weeks.of([series.tenant for series in self.series], config.calendar)
        return self._weeks[1]

    def columns_of(self, layout: str) -> NDArray[np.intp] | None:
        """Slots of a layout's columns, new series appended; None when they are all slots in order."""
        if layout not in self.layouts:
            self.layouts.keep(layout, layout, self._learn(split(layout)))
        return self.layouts[layout]

    def _learn(self, identities: list[str]) -> NDArray[np.intp] | None:
        new = [one for one in identities if one not in self.index]
        if new:
            width = len(self.identities)
            for known, places in self.layouts.items():
                if places is None:  # that was all slots until now
                    self.layouts[known] = np.arange(width, dtype=np.intp)
            self.extend(new)
        return self._places(identities)

    def _places(self, identities: list[str]) -> NDArray[np.intp] | None:
        return None if identities == self.identities else np.array([self.index[one] for one in identities], np.intp)

    def extend(self, identities: Iterable[str]) -> None:
        """Give slots to new series."""
        for identity in identities:
            self.index[identity] = len(self.identities)
            self.identities.append(identity)
            self.series.append(parse(identity))
        self._describe()

    def without(self, gone: Collection[str]) -> tuple[Slots, NDArray[np.bool_]]:
        """The slots of the other series, in order, and which those were."""
        stays = np.array([one not in gone for one in self.identities], bool)
        slots = Slots()
        slots.extend([one for one in self.identities if one not in gone])
        return slots, stays

    def _describe(self) -> None:
        metrics = [describe(series.name) for series in self.series]
        self.is_sum = np.array([metric.kind is Kind.SUM for metric in metrics], bool)
        self.is_gauge = ~self.is_sum
        self.is_count = np.array([metric.kind is Kind.SUM and metric.unit.startswith("{") for metric in metrics], bool)
        self.up = np.array([metric.bad in (Departure.UP, Departure.BOTH) for metric in metrics], bool)
        self.down = np.array([metric.bad in (Departure.DOWN, Departure.BOTH) for metric in metrics], bool)
        self.has_bad = self.up | self.down
        self.least = np.where(self.up & ~self.down | self.is_sum, 0.0, -np.inf)
        self.has_opinion = any(metric.bad is not Departure.NONE for metric in metrics)
        self.floor = np.array([metric.floor for metric in metrics], float)
        self.waiting = [slot for slot, metric in enumerate(metrics) if metric.waits_for_people]
        self.limited = [one for slot, metric in enumerate(metrics) if (one := self._limit(slot, metric))]
        self._weeks = None

    def _limit(self, slot: int, metric: Metric) -> tuple[int, int, float] | None:
        if isinstance(metric.limit, str):
            place = self.index.get(metric.limit + self.identities[slot].removeprefix(metric.name), -1)
            return (slot, place, np.nan) if place >= 0 else None
        return None if metric.limit is None else (slot, -1, metric.limit)
