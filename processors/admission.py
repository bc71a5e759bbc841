"""Which series, resources and cells get a place in the state: bounds that hold whatever others send.

State grows with what is sent: each series costs a week of hours in several steps. So every series of a scrape needs a place before
a step sees it, and places are bounded by resource, by cell and by whoever publishes; what has a place keeps it, so a flood
takes nothing from those that were there. What an estate declares has room that nobody else can take. Columns without a place
are left out of the record that steps get, counted, and told (see `steps.cardinality`).

A place is given up when its series has been away for long, measured by how long it lived: four times that, an hour at least and
five weeks at most, so that a baseline outlives a holiday of three weeks and pods that come and go make room for the next ones.
That happens when room is needed, or when more are gone than there are; after five weeks in any case.

Everything here is a property of the log: times are those of its records in steps of ten minutes, and the places are part of the
snapshot. A scrape of a known layout costs two look-ups.
Source of the idea: per-tenant and per-metric limits on active series (Cortex and Mimir, `max_global_series_per_user`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field

from processors import columns
from schemas.bounds import reached
from schemas.caches import Layouts
from schemas.calendar import DAY_MS, HOUR_MS
from schemas.estate import Cell, Estate
from schemas.metrics import BY_NAME
from schemas.records import BusinessBatch, Observation, Record, Scrape
from schemas.series import layout, parse, split

QUANTUM_MS = 600_000  # times are kept so coarsely, so that what goes on changes a snapshot once in ten minutes
HOUR, FORGET = HOUR_MS // QUANTUM_MS, 35 * DAY_MS // QUANTUM_MS
LIVED_TIMES = 4  # a series may be away so many times as long as it lived
CHURN_MIN = 200  # so few that are gone are not worth the work
SYSTEMS_MAX = 8  # kinds of system under the name of one declared resource
SAMPLED_MAX = 2_000  # series without a place that are looked at to tell what they have in common
OWN_SYSTEM, TENANT = "pilothouse", "pilothouse.tenant"
"""Systems of what is told of a cell itself, and of a tenant as if it were a resource."""

PART = "admission"

Quanta = NDArray[np.int32]
Place = tuple[str, str]
"""Resource and system."""


@dataclass(frozen=True)
class Limits:
    """How many places there are. `foreign` is what the estate does not declare; of an estate that is not given, all is declared.

    `other_series` are those of a resource of which the catalogue of metrics knows nothing, and detection little.
    """

    resource_series: int = 20_000
    cell_series: int = 100_000
    source_series: int = 50_000
    cell_resources: int = 2_000
    tenants: int = 2_000
    other_series: int = 5_000
    foreign_resource_series: int = 5_000
    foreign_series: int = 20_000
    foreign_source_series: int = 10_000
    foreign_resources: int = 500
    foreign_tenants: int = 200
    cells: int = 1_000
    foreign_cells: int = 20
    foreign_cell_series: int = 2_000
    foreign_cell_resources: int = 50
    sources: int = 1_000


LIMITS = Limits()


class Forgotten(Observation):
    """Series of a resource that have lost their places, or all of the resource. It is made here and stands on no topic."""

    type: ClassVar[str] = "com.pilothouse.internal.forgotten.v1"

    series: tuple[str, ...] = Field(description="Identities of the series; those of a resource that is gone as well.")
    is_whole: bool = Field(False, description="Whether the resource is gone as a whole.")
    is_last: bool = Field(
        False, description="And under every system that it was known by, so that its state goes with it."
    )


class Refused(Observation):
    """A record that was not, or not in full, handed to the steps. It is made here and stands on no topic."""

    type: ClassVar[str] = "com.pilothouse.internal.refused.v1"

    bound: str = Field(description="Name of the bound that was reached.")
    source: str = Field(description="Who publishes it.")
    series: int = Field(0, description="Columns that were left out.")
    followed: int = Field(0, description="Series of the resource that have a place.")
    metric: str | None = Field(None, description="Metric that most of them are of.")
    of_metric: int = Field(0, description="How many of them.")
    attribute: str | None = Field(None, description="Attribute of that metric with the most values.")
    distinct: int = Field(0, description="How many values it has among them.")
    sample: str | None = Field(None, description="One of those values.")


class Offender(NamedTuple):
    """What columns without a place have in common."""

    metric: str
    of_metric: int
    attribute: str | None
    distinct: int
    sample: str | None


class Refusal(NamedTuple):
    """Columns of a layout without a place."""

    bound: str
    series: int
    offender: Offender


@dataclass(slots=True)
class _Mask:
    """What of a layout has a place: columns, and the layout of those; None when that is all of it."""

    slots: NDArray[np.intp]
    columns: tuple[int, ...] | None
    text: str
    seen: int
    source: str
    version: int
    refusal: Refusal | None


@dataclass(slots=True)
class _Resource:
    """The places of one resource."""

    is_declared: bool
    begun_by: int
    begun: int
    seen: int
    swept: int = -1
    identities: list[str] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    first: Quanta = field(default_factory=lambda: np.zeros(0, np.int32))
    last: Quanta = field(default_factory=lambda: np.zeros(0, np.int32))
    source: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    masks: Layouts[_Mask] = field(default_factory=lambda: Layouts("holder.layouts"))
    packed: tuple[Any, bytes] | None = None
    changed: int = 0
    others: int = 0  # series of metrics that the catalogue does not know

    def idle(self, now: int) -> NDArray[np.bool_]:
        """Series that have been away for too long."""
        limit: Quanta = np.clip((self.last - self.first) * LIVED_TIMES, HOUR, FORGET)
        idle: NDArray[np.bool_] = now - self.last > limit
        return idle

    def is_idle(self, now: int) -> bool:
        """The same of the whole resource."""
        return now - self.seen > min(max((self.seen - self.begun) * LIVED_TIMES, HOUR), FORGET)

    def pack(self) -> bytes:
        """As one part; the same bytes while nothing has changed."""
        key = (self.changed, self.seen, self.swept, self.is_declared)
        if self.packed is None or self.packed[0] != key:
            more = [self.begun_by, self.begun, self.seen, self.swept, self.identities]
            arrays: columns.Arrays = {"first": self.first, "last": self.last, "source": self.source}
            self.packed = key, columns.pack(arrays, more)
        return self.packed[1]

    @classmethod
    def unpack(cls, data: bytes, *, is_declared: bool) -> _Resource:
        """What `pack` gave."""
        arrays, (begun_by, begun, seen, swept, identities) = columns.unpack(data)
        index = {one: slot for slot, one in enumerate(identities)}
        places = arrays["first"], arrays["last"], arrays["source"]
        others = sum(map(_is_other, identities))
        return cls(is_declared, begun_by, begun, seen, swept, identities, index, *places, others=others)


@dataclass
class _Cell:
    """The places of one cell. Counts follow from its resources."""

    declared: Cell | None
    is_foreign: bool
    resources: dict[Place, _Resource] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    tenants: dict[str, int] = field(default_factory=dict)  # that nobody declared, and when they were last seen
    swept: int = -1
    hour: int = -1
    version: int = 0
    series: int = 0
    foreign_series: int = 0
    by_source: Counter[int] = field(default_factory=Counter)
    foreign_by_source: Counter[int] = field(default_factory=Counter)

    def count(self, known: _Resource, sources: Iterable[int], sign: int) -> None:
        """Take in series of a resource that have come or gone."""
        for source in sources:
            self.series += sign
            self.by_source[source] += sign
            if not known.is_declared:
                self.foreign_series += sign
                self.foreign_by_source[source] += sign


Told = list[Record]


class Admission:
    """The places of a partition."""

    def __init__(self, estate: Estate | None = None, limits: Limits | None = None) -> None:
        self._estate, self.limits = estate, limits or LIMITS
        self._cells: dict[str, _Cell] = {}
        self.gone: list[str] = []
        """Cells that have lost their place since this was last looked at."""

    def admit(self, at_ms: int, source: str, record: Record) -> tuple[Record | None, Told]:
        """What steps get of a record, and what they are told besides: what was refused, and what has lost its place."""
        now = at_ms // QUANTUM_MS
        cell = self._cells.get(record.cell)
        if cell is None:
            cell = self._begin_cell(record.cell, now)
            if cell is None:
                return None, self._tell_cell(source, record)
        if not isinstance(record, Observation):
            return record, []
        told = self._turn(cell, record, now) if now // HOUR != cell.hour else []
        if not self._is_known_tenant(cell, record, now, told):
            return None, [*told, self._refused(record, source, "admission.tenants")]
        if not isinstance(record, Scrape | BusinessBatch):
            return record, told  # what is told of events is kept by tenant, of spans by service
        known = cell.resources.get((record.resource, record.system))
        if known is None:
            known = self._begin(cell, record, source, now, told)
            if known is None:
                return None, [*told, self._refused(record, source, "admission.resources")]
        if known.seen < now:
            known.seen = now
        if isinstance(record, BusinessBatch):
            return record, told
        mask = known.masks.get(record.series)
        if mask is None or (mask.refusal and self._may_have_changed(cell, known, mask, source, now)):
            mask = self._read(cell, known, record, source, now, told)
        elif mask.seen < now:
            mask.seen = now
            _touch(known, mask.slots, now)
        if mask.refusal:
            told.append(self._left_out(record, source, known, mask.refusal))
        if mask.columns is None:
            return record, told
        if not mask.columns:
            return None, told
        values = record.values
        kept = {"series": mask.text, "values": tuple([values[one] for one in mask.columns])}
        return record.model_copy(update=kept), told

    def pack(self) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """As named parts: (admission, cell, "") and (admission, cell, resource and system)."""
        for name, cell in self._cells.items():
            head = {"sources": list(cell.sources), "tenants": cell.tenants, "swept": cell.swept, "hour": cell.hour}
            yield (PART, name, ""), orjson.dumps(head)
            for place, known in cell.resources.items():
                yield (PART, name, "|".join(place)), known.pack()

    def restore(self, parts: Mapping[tuple[str, ...], bytes]) -> None:
        """What `pack` gave, among other parts."""
        mine = {key[1:]: data for key, data in parts.items() if len(key) == 3 and key[0] == PART}
        for (name, place), data in mine.items():
            cell = self._cells.get(name) or self._cells.setdefault(name, self._cell(name))
            if not place:
                head = orjson.loads(data)
                cell.sources = {one: number for number, one in enumerate(head["sources"])}
                cell.tenants, cell.swept, cell.hour = head["tenants"], head["swept"], head["hour"]
                continue
            resource, _, system = place.rpartition("|")
            is_declared = self._is_declared(cell, resource)
            known = cell.resources[resource, system] = _Resource.unpack(data, is_declared=is_declared)
            cell.count(known, known.source.tolist(), 1)

    # Cells.

    def _cell(self, name: str) -> _Cell:
        declared = self._estate.cells_by_name.get(name) if self._estate else None
        return _Cell(declared, is_foreign=self._estate is not None and declared is None)

    def _begin_cell(self, name: str, now: int) -> _Cell | None:
        cell = self._cell(name)
        if cell.declared is None:
            others = [other for other, one in self._cells.items() if one.declared is None]
            if len(others) >= (self.limits.foreign_cells if cell.is_foreign else self.limits.cells):
                for other in others:
                    if all(one.is_idle(now) for one in self._cells[other].resources.values()):
                        del self._cells[other]
                        self.gone.append(other)
                if len(others) == sum(one.declared is None for one in self._cells.values()):
                    reached("admission.cells")
                    return None
        self._cells[name] = cell
        return cell

    def _tell_cell(self, source: str, record: Record) -> Told:
        """A cell that has no place cannot tell of itself; the first of those that have does."""
        named = sorted(self._cells, key=lambda name: (self._cells[name].declared is None, name))
        if not named:
            return []
        of = Refused(
            cell=named[0],
            time_ms=record.time_ms,
            resource=named[0],
            system=OWN_SYSTEM,
            bound="admission.cells",
            source=source,
            sample=record.cell,
        )
        return [of]

    # Resources.

    def _is_declared(self, cell: _Cell, resource: str) -> bool:
        if self._estate is None:
            return True
        if cell.declared is None:
            return False
        # What Pilothouse says of a cell, its silences among it, comes under the cell's own name.
        return resource in cell.declared.resources_by_name or resource == cell.declared.name

    def _begin(self, cell: _Cell, record: Observation, source: str, now: int, told: Told) -> _Resource | None:
        is_declared, number = self._is_declared(cell, record.resource), self._number(cell, source)
        if not self._has_room(cell, record, number, is_declared=is_declared):
            if cell.swept != now:
                cell.swept = now
                told += self._forget_resources(cell, record.cell, lambda one: not one.is_declared and one.is_idle(now))
            if not self._has_room(cell, record, number, is_declared=is_declared):
                return None
        known = cell.resources[record.resource, record.system] = _Resource(is_declared, number, now, now)
        return known

    def _has_room(self, cell: _Cell, record: Observation, source: int, *, is_declared: bool) -> bool:
        """Of what nobody declares, one publisher finds no more than half of the room."""
        limits = self.limits
        if not is_declared:
            most = limits.foreign_cell_resources if cell.is_foreign else limits.foreign_resources
            foreign = [known.begun_by for known in cell.resources.values() if not known.is_declared]
            return len(foreign) < most and foreign.count(source) < (most + 1) // 2
        if self._estate is None:
            return len(cell.resources) < limits.cell_resources
        systems = sum(resource == record.resource for resource, _ in cell.resources)
        return systems < SYSTEMS_MAX

    def _forget_resources(self, cell: _Cell, name: str, is_gone: Callable[[_Resource], bool]) -> Told:
        told: Told = []
        for place in sorted(place for place, known in cell.resources.items() if is_gone(known)):
            known = cell.resources.pop(place)
            cell.count(known, known.source.tolist(), -1)
            cell.version += 1
            is_last = not any(resource == place[0] for resource, _ in cell.resources)
            told.append(_forgotten(name, place, known.seen, known.identities, is_whole=True, is_last=is_last))
        return told

    # Tenants.

    def _is_known_tenant(self, cell: _Cell, record: Observation, now: int, told: Told) -> bool:
        """Whether the tenant of an event has a place, or gets one."""
        tenant: str | None = getattr(record, "tenant", None)
        if not self._has_tenant(cell, tenant, now):
            if cell.swept != now:
                cell.swept = now
                told += self._forget_tenants(cell, record.cell, now)
            if not self._has_tenant(cell, tenant, now):
                return False
        if tenant in cell.tenants:
            cell.tenants[tenant] = now
        return True

    def _has_tenant(self, cell: _Cell, tenant: str | None, now: int) -> bool:
        """The same of a series: its tenant is there as long as the series is."""
        if tenant is None or tenant in cell.tenants or (cell.declared and tenant in cell.declared.tenants_by_name):
            return True
        most = self.limits.tenants if self._estate is None else self.limits.foreign_tenants
        if len(cell.tenants) >= most:
            return False
        cell.tenants[tenant] = now
        return True

    # Series.

    def _may_have_changed(self, cell: _Cell, known: _Resource, mask: _Mask, source: str, now: int) -> bool:
        return mask.version != cell.version or mask.source != source or known.swept != now

    def _read(self, cell: _Cell, known: _Resource, scrape: Scrape, source: str, now: int, told: Told) -> _Mask:
        """Give places to the series of a layout, as far as there are any."""
        identities = split(scrape.series)
        bad = {fault.place for fault in layout(scrape.series).faults}
        refused, bound = self._place(cell, known, identities, bad, source, now)
        if refused and known.swept != now:
            known.swept = now
            told += self._make_room(cell, known, scrape, bound, now)
            refused, bound = self._place(cell, known, identities, bad, source, now)
        without = bad.union(refused)
        kept = [place for place in range(len(identities)) if place not in without]
        slots = np.array([known.index[identities[place]] for place in kept], np.intp)
        _touch(known, slots, now)
        mask = _Mask(
            slots,
            tuple(kept) if without or not kept else None,
            "\n".join(identities[place] for place in kept) if without else scrape.series,
            now,
            source,
            cell.version,
            Refusal(bound, len(refused), offender([identities[place] for place in refused])) if refused else None,
        )
        return known.masks.keep(scrape.series, scrape.series, mask)

    def _place(
        self, cell: _Cell, known: _Resource, identities: list[str], bad: set[int], source: str, now: int
    ) -> tuple[list[int], str]:
        """Columns that get no place, and by which bound; new series are placed in the order of the layout."""
        new = [place for place, one in enumerate(identities) if place not in bad and one not in known.index]
        if not new:
            return [], ""
        refused = [place for place in new if not self._has_tenant(cell, parse(identities[place]).tenant, now)]
        strangers = set(refused)
        new = [place for place in new if place not in strangers]
        number = self._number(cell, source)
        room, bound = self._room(cell, known, number)
        placed = _first(new, room, max(self.limits.other_series - known.others, 0), identities)
        if len(placed) < len(new):
            here = set(placed)
            refused += [place for place in new if place not in here]
            bound = bound if len(placed) == room else "admission.series.resource"
        else:
            bound = "admission.tenants"
        if placed:
            _add(known, [identities[place] for place in placed], number, now)
            cell.count(known, [number] * len(placed), 1)
            cell.version += 1
        return sorted(refused), bound

    def _number(self, cell: _Cell, source: str) -> int:
        """The number of a publisher; those beyond the bound are counted together."""
        if source not in cell.sources and len(cell.sources) < self.limits.sources:
            cell.sources[source] = len(cell.sources)
        return cell.sources.get(source, -1)

    def _room(self, cell: _Cell, known: _Resource, source: int) -> tuple[int, str]:
        """How many more series the resource may have, and what bounds it."""
        limits, here = self.limits, len(known.identities)
        most = limits.resource_series if known.is_declared else limits.foreign_resource_series
        rooms = [
            (most - here, "admission.series.resource"),
            (limits.cell_series - cell.series, "admission.series.cell"),
            (limits.source_series - cell.by_source[source], "admission.series.source"),
        ]
        if not known.is_declared:
            foreign = limits.foreign_cell_series if cell.is_foreign else limits.foreign_series
            rooms.append((foreign - cell.foreign_series, "admission.series.cell"))
            rooms.append((limits.foreign_source_series - cell.foreign_by_source[source], "admission.series.source"))
        room, bound = min(rooms)
        return max(room, 0), bound

    def _make_room(self, cell: _Cell, known: _Resource, scrape: Scrape, bound: str, now: int) -> Told:
        """Take the places of series that have been away for too long: of the resource, or of all when the cell is full."""
        told = self._forget_series(cell, scrape.cell, (scrape.resource, scrape.system), known.idle(now))
        if bound != "admission.series.resource" and cell.swept != now:
            cell.swept = now
            told += self._forget_resources(cell, scrape.cell, lambda one: not one.is_declared and one.is_idle(now))
            for place in sorted(cell.resources):
                told += self._forget_series(cell, scrape.cell, place, cell.resources[place].idle(now))
            told += self._forget_tenants(cell, scrape.cell, now)
        return told

    def _forget_series(self, cell: _Cell, name: str, place: Place, gone: NDArray[np.bool_]) -> Told:
        if not np.count_nonzero(gone):
            return []
        known = cell.resources[place]
        lost = [known.identities[slot] for slot in np.flatnonzero(gone).tolist()]
        cell.count(known, known.source[gone].tolist(), -1)
        cell.version += 1
        stays = ~gone
        known.identities = [known.identities[slot] for slot in np.flatnonzero(stays).tolist()]
        known.index = {one: slot for slot, one in enumerate(known.identities)}
        known.first, known.last, known.source = known.first[stays], known.last[stays], known.source[stays]
        known.others = sum(map(_is_other, known.identities))
        known.masks.clear()
        known.changed += 1
        return [_forgotten(name, place, known.seen, lost, is_whole=False)]

    def _forget_tenants(self, cell: _Cell, name: str, now: int) -> Told:
        """Tenants that no estate declares, of which no series is left and no event has come for an hour."""
        if not cell.tenants:
            return []
        here = {parse(one).tenant for known in cell.resources.values() for one in known.identities}
        gone = sorted(tenant for tenant, at in cell.tenants.items() if tenant not in here and now - at > HOUR)
        for tenant in gone:
            del cell.tenants[tenant]
            cell.version += 1
        return [
            _forgotten(name, (tenant, TENANT), now, [], is_whole=True, is_last=True)
            for tenant in gone
            if _is_name(tenant)
        ]

    def _turn(self, cell: _Cell, record: Observation, now: int) -> Told:
        """Once an hour: forget what has been away for five weeks, and what is gone where that is the larger part."""
        cell.hour = now // HOUR
        told = self._forget_resources(cell, record.cell, lambda one: now - one.seen > FORGET)
        for place in sorted(cell.resources):
            known = cell.resources[place]
            idle = known.idle(now)
            many = int(np.count_nonzero(idle))
            if many > max(CHURN_MIN, len(known.identities) - many):
                told += self._forget_series(cell, record.cell, place, idle)
            elif many:
                told += self._forget_series(cell, record.cell, place, now - known.last > FORGET)
        if 2 * len(cell.tenants) > self.limits.foreign_tenants:
            told += self._forget_tenants(cell, record.cell, now)
        return told

    # What is told.

    def _refused(self, record: Observation, source: str, bound: str) -> Refused:
        reached(bound)
        series = len(record.values) if isinstance(record, Scrape) else 0
        return Refused(
            cell=record.cell,
            time_ms=record.time_ms,
            resource=record.resource,
            system=record.system,
            bound=bound,
            source=source,
            series=series,
        )

    def _left_out(self, scrape: Scrape, source: str, known: _Resource, refusal: Refusal) -> Refused:
        reached(refusal.bound, refusal.series)
        return Refused(
            cell=scrape.cell,
            time_ms=scrape.time_ms,
            resource=scrape.resource,
            system=scrape.system,
            bound=refusal.bound,
            source=source,
            series=refusal.series,
            followed=len(known.identities),
            **refusal.offender._asdict(),
        )


def _is_name(text: str) -> bool:
    """Whether a record may be named so; tenants of series may be called anything."""
    return 0 < len(text) <= 255 and not any(one.isspace() or one < " " for one in text)


def offender(identities: list[str]) -> Offender:
    """The metric that most of these series are of, and its attribute with the most values."""
    names = Counter(one.partition("{")[0] for one in identities)
    metric = min(names, key=lambda one: (-names[one], one))
    values: dict[str, set[str]] = {}
    for one in [one for one in identities if one.partition("{")[0] == metric][:SAMPLED_MAX]:
        for name, value in parse(one).attributes.items():
            values.setdefault(name, set()).add(value)
    if not values:
        return Offender(metric, names[metric], None, 0, None)
    attribute = min(values, key=lambda name: (-len(values[name]), name))
    return Offender(metric, names[metric], attribute, len(values[attribute]), min(values[attribute]))


def _is_other(identity: str) -> bool:
    return identity.partition("{")[0] not in BY_NAME


def _first(new: list[int], room: int, others: int, identities: list[str]) -> list[int]:
    """The first of the columns for which there is room, those of the catalogue's metrics before others; in their order."""
    strange = [place for place in new if _is_other(identities[place])]
    if len(new) <= room and len(strange) <= others:
        return new
    aside = set(strange)
    named = [place for place in new if place not in aside][:room]
    return sorted(named + strange[: min(others, room - len(named))])


def _touch(known: _Resource, slots: NDArray[np.intp], now: int) -> None:
    if slots.size and int(known.last[slots].min()) < now:
        known.last[slots] = now
        known.changed += 1


def _add(known: _Resource, identities: list[str], source: int, now: int) -> None:
    more = len(identities)
    for one in identities:
        known.index[one] = len(known.identities)
        known.identities.append(one)
    known.others += sum(map(_is_other, identities))
    known.first = columns.wider(known.first, more, now)
    known.last = columns.wider(known.last, more, now)
    known.source = columns.wider(known.source, more, source)
    known.changed += 1


def _forgotten(
    cell: str, place: Place, seen: int, series: list[str], *, is_whole: bool, is_last: bool = False
) -> Forgotten:
    resource, system = place
    return Forgotten(
        cell=cell,
        time_ms=max(seen, 0) * QUANTUM_MS,
        resource=resource,
        system=system,
        series=tuple(series),
        is_whole=is_whole,
        is_last=is_last,
    )
