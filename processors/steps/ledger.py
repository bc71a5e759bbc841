"""What speaks for or against a change (`outcomes`), in columns, so that any moment can be compared with what was before it.

The values of a slot go into batches of a minute, of which the last two dozen that hold anything are kept: their mean is the
past, their scatter the long-run variance, whatever the autocorrelation (batch means; Glynn & Whitt 1991, Flegal & Jones
2010). How far one ten minutes lies from the next while nothing is changed is kept too, by itself and beside the same
series of other tenants: a placebo in time for slow drift. Levels are looked at as log(value + least), counts as rates, so
that effects are ratios. What is rarer than two dozen minutes can show is known by a day's memory, which speaks as long as
the last minutes agree with it (robust meta-analytic priors, Schmidli et al. 2014). Bound: `SLOTS_MAX` series a cell, about
2 KiB each.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from processors import columns
from processors.step import StepConfig
from processors.steps.hours import Weeks
from processors.steps.outcomes import FAILS_OF, Slot, slot_of, speaking
from processors.steps.seasonal import Profile
from processors.values import values_of
from schemas.bounds import reached
from schemas.caches import Layouts
from schemas.calendar import MINUTE_MS
from schemas.metrics import Departure, Kind, describe
from schemas.records import Scrape
from schemas.series import split

BATCHES = 24
WINDOW_BATCHES = 10
SLOTS_MAX, FOREIGN_MAX = 4_000, 2_000  # series; those of resources that nobody declares find no more room than that
CHARACTERS_MAX = 16_000_000  # of the layouts of all resources that are known
GAP_MS = 1_200_000  # longer between two looks is not measured
PAST_MS = 6 * 3_600_000  # older batches say nothing about the time before a change
DRIFT_PRIOR, DRIFT_WINDOWS = 0.05**2, 3.0  # a twentieth in ten minutes, believed as much as half an hour of looking
DRIFT_LEAST = 0.02**2  # nobody is as steady as that
MEMORY_BATCHES, MEMORY_EVENTS = 1_440.0, 2.0  # a day of minutes, which weighs no more than two events
MATTERS_SHARE = 0.02  # failures of so much of what is done matter, however little is done
CLUMPS_PRIOR, CLUMPS_BATCHES = 2.0, 6.0  # failures come in pairs until a few batches say otherwise

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


class Look(NamedTuple):
    """What one scrape adds: for each slot an amount and its weight, and the time of the look before."""

    slots: Places
    amounts: Floats
    weights: Floats
    since_ms: Floats


class Held(NamedTuple):
    """What a layout holds: the places of its columns that speak, their slots, and of these the gauges with their `least`."""

    places: Places
    slots: Places
    at: Places | slice
    """The slots as the cheapest index: new series get slots in a row."""
    is_gauge: NDArray[np.bool_]
    gauges: Places
    least: Floats


class Past(NamedTuple):
    """What was before a moment: mean (of counts: rate a second), weight (looks, or seconds), variance of one unit of weight."""

    mean: Floats
    weight: Floats
    unit_variance: Floats
    batches: Floats


_SLOT_ARRAYS = ("last", "last_ms", "amount", "weight", "window_sum", "window_weight", "before", "before_noise", "drift", "apart", "windows", "filled", "memory_sum", "memory_weight", "hour")  # fmt: skip
_UNSET = {"before_noise": -1.0, "hour": -1.0}  # what is not known of a new slot, where that is not 0
_RING_ARRAYS = ("value", "size", "end_ms")


@dataclass
class Ledger:
    """All slots of a cell."""

    keys: list[tuple[str, str, str | None]] = field(default_factory=list)
    arrays: columns.Arrays = field(default_factory=lambda: {name: np.zeros(0) for name in _SLOT_ARRAYS})
    ring: columns.Arrays = field(default_factory=lambda: {name: np.zeros((BATCHES, 0)) for name in _RING_ARRAYS})
    profile: Profile = field(default_factory=Profile)
    starts_ms: dict[str, int] = field(default_factory=dict)
    minute: int = -1
    slots: list[Slot] = field(default_factory=list)
    _index: dict[tuple[str, str, str | None], int] = field(default_factory=dict)
    _layouts: Layouts[Held] = field(default_factory=lambda: Layouts("holder.layouts", CHARACTERS_MAX))
    is_count: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    least: Floats = field(default_factory=lambda: np.zeros(0))
    settle_ms: Floats = field(default_factory=lambda: np.zeros(0))
    sign: Floats = field(default_factory=lambda: np.zeros(0))
    kin: Places = field(default_factory=lambda: np.zeros(0, np.intp))
    _kinds: dict[str, int] = field(default_factory=dict)
    _served: tuple[Places, Places] | None = None
    _weeks: tuple[StepConfig, Weeks] | None = None

    def __post_init__(self) -> None:
        self._describe(self.keys)

    def look(self, scrape: Scrape, tenant: str | None, *, is_declared: bool = True) -> Look | None:
        """Take in a scrape; None when nothing in it was measured. `tenant` is whom the resource serves alone."""
        held = self._layout(scrape, tenant, is_declared=is_declared)
        if not held.slots.size:
            return None
        arrays, slots, at = self.arrays, held.slots, held.at
        raw, since_ms, before = (
            values_of(scrape)[held.places],
            arrays["last_ms"].take(slots),
            arrays["last"].take(slots),
        )
        elapsed_s = (scrape.time_ms - since_ms) / 1000
        # A scrape that is not newer than the last counts nothing.
        newer = (elapsed_s > 0) & ~np.isnan(raw)
        steady = (since_ms > 0) & (raw >= before) & (elapsed_s <= GAP_MS / 1000)
        counter, started = scrape.resource + scrape.system, -1 if scrape.start_time_ms is None else scrape.start_time_ms
        if self.starts_ms.get(counter, started) != started:
            steady[:] = False
        self.starts_ms[counter] = started
        measured = newer & (steady | held.is_gauge)
        amounts, weights = raw - before, elapsed_s
        if held.gauges.size:
            levels = np.maximum(raw.take(held.gauges), 0.0) + held.least
            amounts[held.gauges], weights[held.gauges] = np.log(levels), 1.0
        if np.count_nonzero(newer) == newer.size:
            arrays["last"][at], arrays["last_ms"][at] = raw, scrape.time_ms
        else:
            arrays["last"][slots[newer]] = raw[newer]
            arrays["last_ms"][slots[newer]] = scrape.time_ms
        number = np.count_nonzero(measured)
        if not number:
            return None
        if number < measured.size:
            at = slots = slots[measured]
            amounts, weights, since_ms = amounts[measured], weights[measured], since_ms[measured]
        arrays["amount"][at] += amounts
        arrays["weight"][at] += weights
        return Look(slots, amounts, weights, since_ms)

    def turn(self, at_ms: int, config: StepConfig) -> None:
        """Close the batch, the ten minutes and the hours that are over at `at_ms`."""
        minute = at_ms // MINUTE_MS
        if minute <= self.minute:
            return
        if self.minute >= 0:
            self._close_batch((self.minute + 1) * MINUTE_MS)
            if minute // WINDOW_BATCHES != self.minute // WINDOW_BATCHES:
                self._close_window()
        self.minute = minute
        self._close_hours(at_ms, config)

    def weeks(self, config: StepConfig) -> Weeks:
        """The week of each slot, by the calendar of the tenant it belongs to."""
        if self._weeks is None or self._weeks[0] is not config:
            self._weeks = config, Weeks.of([slot.tenant for slot in self.slots], config.calendar)
            self.profile.kinds = self._weeks[1].kinds
        return self._weeks[1]

    def past(self, before_ms: int) -> Past:
        """What was before a moment, from whole batches."""
        end_ms, size, value = self.ring["end_ms"], self.ring["size"], self.ring["value"]
        size = np.where((end_ms <= before_ms) & (end_ms > before_ms - PAST_MS), size, 0.0)
        weight, batches = size.sum(0), (size > 0).sum(0).astype(np.float64)
        mean = np.divide((size * value).sum(0), weight, out=np.zeros_like(weight), where=weight > 0)
        scatter = (size * (value - mean) ** 2).sum(0) / np.maximum(batches - 1.0, 1.0)
        more_events, more_weight = self._remembered(mean * weight, weight)
        joined = np.divide(mean * weight + more_events, weight + more_weight, out=mean.copy(), where=more_weight > 0)
        return Past(joined, weight + more_weight, scatter, batches)

    def _remembered(self, events: Floats, weight: Floats) -> tuple[Floats, Floats]:
        """Of counts, events and time that a day's memory adds; nothing where the last minutes contradict it."""
        total, time = self.arrays["memory_sum"], self.arrays["memory_weight"]
        foreseen = np.divide(total * weight, time, out=np.zeros_like(total), where=time > 0)
        agrees = events <= foreseen + 3.0 * np.sqrt(foreseen + foreseen**2 / MEMORY_EVENTS) + 1.0
        believed = np.where(
            self.is_count & (weight > 0) & agrees, MEMORY_EVENTS / np.maximum(total, MEMORY_EVENTS), 0.0
        )
        return total * believed, time * believed

    def expected(self, weeks: Weeks, time_ms: int) -> Floats:
        """What the weeks' profile expects at an instant, in logs; NaN where it does not know."""
        now = weeks.at(time_ms)
        value, known = self.profile.expected(now.hour, now.into)
        logs = np.where(self.is_count, np.log(np.maximum(value, 0.0) + self.least), value)
        return np.where(known, logs, np.nan)

    def drift(self, *, apart: bool) -> Floats:
        """Variance of ten minutes against the ten before, of the logs; `apart`: beside the same series of others."""
        seen = self.arrays["apart" if apart else "drift"]
        return np.maximum((seen + DRIFT_PRIOR * DRIFT_WINDOWS) / (self.arrays["windows"] + DRIFT_WINDOWS), DRIFT_LEAST)

    def matters(self, past: Past) -> Floats:
        """The smallest excess that matters: `least`, and of failures a share of what is done if that is less."""
        # Place 0 gathers what serves nothing that fails.
        serves, fails_of = self._serving()
        done = np.bincount(serves + 1, weights=past.mean, minlength=fails_of.size + 2)[fails_of + 1]
        return np.where(fails_of >= 0, np.minimum(self.least, np.maximum(MATTERS_SHARE * done, 1e-6)), self.least)

    def _close_batch(self, end_ms: int) -> None:
        arrays, ring = self.arrays, self.ring
        full = np.flatnonzero(arrays["weight"] > 0)
        mean = arrays["amount"][full] / arrays["weight"][full]
        row = (arrays["filled"][full] % BATCHES).astype(np.intp)
        ring["value"][row, full], ring["size"][row, full] = mean, arrays["weight"][full]
        ring["end_ms"][row, full] = end_ms
        arrays["filled"][full] += 1
        for name in ("memory_sum", "memory_weight"):
            arrays[name][full] *= 1.0 - 1.0 / MEMORY_BATCHES
        arrays["memory_sum"][full] += np.where(self.is_count, arrays["amount"], 0.0)[full]
        arrays["memory_weight"][full] += np.where(self.is_count, arrays["weight"], 0.0)[full]
        arrays["window_sum"] += arrays["amount"]
        arrays["window_weight"] += arrays["weight"]
        whole = np.zeros(len(self.slots))
        whole[full] = mean
        self.profile.add(whole, arrays["weight"] > 0)
        arrays["amount"][:], arrays["weight"][:] = 0, 0

    def _close_hours(self, at_ms: int, config: StepConfig) -> None:
        if not self.slots:
            return
        now, hour = self.weeks(config).at(at_ms), self.arrays["hour"]
        over = (hour != now.hour) & (hour >= 0)
        if over.any():
            self.profile.close(hour.astype(np.int16), over)
        np.copyto(hour, now.hour)

    def _close_window(self) -> None:
        """Learn how far ten minutes lie from the ten before, beyond what their own noise explains."""
        arrays, past = self.arrays, self.past((self.minute + 1) * MINUTE_MS)
        full = arrays["window_weight"] > 0
        weight = np.where(full, arrays["window_weight"], 1.0)
        mean = arrays["window_sum"] / weight
        now, noise = self.logs(mean, weight), self.noise(past, mean, weight)
        both = full & (arrays["before_noise"] >= 0)
        moved = np.where(both, now - arrays["before"], 0.0)
        noises = np.where(both, noise + arrays["before_noise"], 0.0)
        common, of_common, alone = self._among_kin(moved, noises, both)
        # What is thin, as at night, says little of how steady a series is (weights of DerSimonian & Laird 1986).
        sure = np.where(both, (DRIFT_PRIOR / (DRIFT_PRIOR + noises)) ** 2, 0.0)
        self._learn("drift", moved, noises, sure)
        self._learn("apart", np.where(alone, moved, moved - common), noises + of_common, sure)
        arrays["windows"] += sure
        for name in ("drift", "apart", "windows"):  # a day and a half of memory
            arrays[name] *= np.where(both & (arrays["windows"] > 200), 0.995, 1.0)
        arrays["before"] = np.where(full, now, arrays["before"])
        arrays["before_noise"] = np.where(full, noise, -1.0)
        arrays["window_sum"][:], arrays["window_weight"][:] = 0, 0

    def _learn(self, name: str, moved: Floats, noises: Floats, sure: Floats) -> None:
        """Method of moments: what moves less than its noise counts as well, or noise would be taken for drift."""
        ceiling = 9.0 * (self.drift(apart=name == "apart") + noises)  # one incident does not make everything possible
        self.arrays[name] += sure * (np.minimum(moved * moved, ceiling) - noises)

    def _among_kin(
        self, moved: Floats, noises: Floats, both: NDArray[np.bool_]
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """By slot the mean move of the same series of others, the noise of that, and whether there are none."""
        width = int(self.kin.max()) + 1 if self.kin.size else 0

        def of_others(values: Floats) -> Floats:
            mine = np.where(both, values, 0.0)
            total: Floats = np.bincount(self.kin, weights=mine, minlength=width).astype(np.float64)
            return total[self.kin] - mine

        number = of_others(np.ones_like(moved))
        several = np.maximum(number, 1.0)
        return of_others(moved) / several, of_others(noises) / several**2, number <= 0

    def logs(self, mean: Floats, weight: Floats) -> Floats:
        """Means as logs; of counts half an event is added, so that none has a log too."""
        return np.where(self.is_count, np.log((np.maximum(mean, 0.0) * weight + 0.5) / np.maximum(weight, 1e-9)), mean)

    def noise(self, past: Past, mean: Floats, weight: Floats) -> Floats:
        """Variance of a mean over `weight`, of the logs."""
        events = mean * weight / self.clumps(past) + 0.5
        return np.where(self.is_count, 1.0 / events, self._unit_variance(past) / np.maximum(weight, 1e-9))

    def clumps(self, past: Past) -> Floats:
        """How many events come at once: variance over mean of a count, 1 for single ones."""
        seen = np.divide(past.unit_variance, past.mean, out=np.ones_like(past.mean), where=past.mean > 0)
        batches = np.maximum(past.batches - 1.0, 0.0)
        found = (seen * batches + CLUMPS_PRIOR * CLUMPS_BATCHES) / (batches + CLUMPS_BATCHES)
        return np.where(self.is_count, np.maximum(found, 1.0), 1.0)

    def _unit_variance(self, past: Past) -> Floats:
        # A series that never moved is not known to the last digit: a twentieth, one look in a batch.
        return np.maximum(past.unit_variance, 0.05**2)

    def _layout(self, scrape: Scrape, tenant: str | None, *, is_declared: bool) -> Held:
        key = (scrape.resource, scrape.series)
        known = self._layouts.get(key)
        if known is None:
            every, places = split(scrape.series), speaking(scrape.series)
            keys = [(scrape.resource, every[place], tenant) for place in places]
            wanted = [one for one in keys if one not in self._index]
            new = wanted[: max((SLOTS_MAX if is_declared else FOREIGN_MAX) - len(self.keys), 0)]
            reached("changes.slots", len(wanted) - len(new))
            if new:
                self._extend(new)
            kept = [(place, self._index[one]) for place, one in zip(places, keys, strict=True) if one in self._index]
            known = self._layouts.keep(key, scrape.series, self._held(kept))
        return known

    def _held(self, kept: list[tuple[int, int]]) -> Held:
        """`kept` are places in the layout with their slots."""
        places, slots = (np.array([one[column] for one in kept], np.intp) for column in (0, 1))
        first, width = int(slots[0]) if kept else 0, len(kept)
        in_a_row = bool((slots == np.arange(first, first + width)).all())
        gauges = np.flatnonzero(~self.is_count[slots])
        return Held(
            places,
            slots,
            slice(first, first + width) if in_a_row else slots,
            ~self.is_count[slots],
            gauges,
            self.least[slots[gauges]],
        )

    def _extend(self, keys: list[tuple[str, str, str | None]]) -> None:
        more = len(keys)
        self.keys += keys
        self.arrays = {name: columns.wider(array, more) for name, array in self.arrays.items()}
        for name, unset in _UNSET.items():
            self.arrays[name][-more:] = unset
        self.ring = {name: columns.wider(array, more) for name, array in self.ring.items()}
        self.profile.grow(len(self.keys))
        self._describe(keys)

    def let_go(self, resource: str, series: Collection[str]) -> NDArray[np.bool_] | None:
        """Series of a resource have lost their places; which slots stay, None when all do."""
        gone = set(series)
        stays = np.array([key[0] != resource or key[1] not in gone for key in self.keys], bool)
        if stays.all():
            return None
        self.keys = [key for key, here in zip(self.keys, stays.tolist(), strict=True) if here]
        self.arrays, self.ring = columns.kept(self.arrays, stays), columns.kept(self.ring, stays)
        self.profile.keep(stays)
        empty = np.zeros(0)
        self.slots, self.kin, self.is_count = [], np.zeros(0, np.intp), np.zeros(0, bool)
        self.sign, self.least, self.settle_ms = empty, empty, empty
        self._kinds.clear()
        self._index.clear()
        self._layouts.clear()
        self._describe(self.keys)
        return stays

    def _describe(self, keys: list[tuple[str, str, str | None]]) -> None:
        """What is known of new slots."""
        self._index.update({key: slot for slot, key in enumerate(keys, len(self.slots))})
        new = [slot_of(*key) for key in keys]
        self.slots += new
        self._served = self._weeks = None
        metrics = [describe(slot.series.name) for slot in new]
        kinds = [self._kinds.setdefault(slot.kin, len(self._kinds)) for slot in new]
        self.kin = np.append(self.kin, np.array(kinds, np.intp))
        self.is_count = np.append(self.is_count, np.array([metric.kind is Kind.SUM for metric in metrics], bool))
        self.sign = np.append(self.sign, [-1.0 if metric.bad is Departure.DOWN else 1.0 for metric in metrics])
        self.least = np.append(self.least, [slot.outcome.least for slot in new])
        self.settle_ms = np.append(self.settle_ms, [slot.outcome.settle_s * 1000 for slot in new])

    def _serving(self) -> tuple[Places, Places]:
        """By slot the number of what it does, and of what it is a failure of; -1 for neither."""
        if self._served is None:
            served = {(slot.series.name, slot.tenant) for slot in self.slots if slot.series.name in FAILS_OF.values()}
            places = {key: place for place, key in enumerate(sorted(served, key=str))}
            serves = [places.get((slot.series.name, slot.tenant), -1) for slot in self.slots]
            fails_of = [places.get((FAILS_OF.get(slot.series.name, ""), slot.tenant), -1) for slot in self.slots]
            self._served = np.array(serves, np.intp), np.array(fails_of, np.intp)
        return self._served

    def pack(self) -> dict[str, bytes]:
        """As parts; what changes once a minute and once an hour by itself."""
        more: Any = {"keys": self.keys, "starts_ms": self.starts_ms, "minute": self.minute}
        return {
            "present": columns.pack({**self.arrays, **self.profile.present()}, more),
            "past": columns.pack(self.ring),
            "season": columns.pack(self.profile.season()),
        }

    @classmethod
    def unpack(cls, parts: dict[str, bytes]) -> Ledger:
        """What `pack` gave."""
        present, more = columns.unpack(parts["present"])
        ring, _ = columns.unpack(parts["past"])
        season, _ = columns.unpack(parts["season"])
        return cls(
            keys=[(resource, text, tenant) for resource, text, tenant in more["keys"]],
            arrays={
                name: present.get(name, np.full(len(more["keys"]), _UNSET.get(name, 0.0))) for name in _SLOT_ARRAYS
            },
            ring=ring,
            profile=Profile(arrays={**present, **season}),
            starts_ms=more["starts_ms"],
            minute=more["minute"],
        )
