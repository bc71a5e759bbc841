"""What a key may write: its scope in the estate, and what no key may write.

Reserved are the names under which Pilothouse itself speaks (`pilothouse.*`, `collector.*`): who could write those could silence
alerts or say that a collector is well. What a collector reads is written by the collector, not by a stranger who names
the same resource. To a key whose cells are restricted a foreign cell and one that is not there look the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from ingest.moments import AHEAD_MS, fault
from ingest.receivers.refusals import Refused, forbidden, shown, unprocessable
from schemas.codec import rfc3339
from schemas.estate import Cell, Estate, Key
from schemas.records import Batch, Change, Observation, OperationsEvent, Record, Scrape
from schemas.series import Series, parse, split
from schemas.topics import topic_of

OURS = ("pilothouse",)
"""First parts of names of events, metrics, attributes, systems and resources that only Pilothouse says."""
OUR_EVENTS = (*OURS, "collector")
TENANT, DATABASE = "tenant.id", "db.namespace"
GENERIC = "generic"
CLAIMED = ("estate", "github")
"""Origins of changes that belong to one interface each."""


_LIKE = str.maketrans(
    {
        **dict.fromkeys("iıӏіїιӀǀ|1ߊ", "l"),
        **dict.fromkeys("0оοօσഠо", "o"),
        "р": "p",
        "ρ": "p",
        "т": "t",
        "τ": "t",
        "һ": "h",
        "հ": "h",
        "υ": "u",
        "ս": "u",
        "ц": "u",
        "ѕ": "s",
        "ꜱ": "s",
        "е": "e",
        "є": "e",
        "ε": "e",
        "ҽ": "e",
        "с": "c",
        "ϲ": "c",
        "ᴄ": "c",
        "г": "r",
        "ᴏ": "o",
        "ᴛ": "t",
        "ʟ": "l",
        "ᴘ": "p",
        "ʜ": "h",
        **dict.fromkeys("。·‧∙⋅・", "."),
    }
)
"""Letters of other alphabets, and digits, that look like those of the names that are ours, and dots that look like a dot."""


class Claim(NamedTuple):
    """A tenant that a record speaks of; None for what the whole cell shares."""

    where: str
    tenant: str | None


class Scope:
    """What the holder of a key may write into an estate."""

    def __init__(self, estate: Estate, key: Key) -> None:
        self.estate, self.key = estate, key

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that it may write."""
        return tuple(cell for cell in self.estate.cells if not self.key.cells or cell.name in self.key.cells)

    @cached_property
    def tenants(self) -> frozenset[str]:
        """The tenants that it may write."""
        known = frozenset(tenant.name for cell in self.cells for tenant in cell.tenants)
        return known & set(self.key.tenants) if self.key.tenants else known

    @cached_property
    def _cells_by_name(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in self.cells}

    def cell(self, name: str, where: str = "cell") -> Cell:
        """The cell of that name. Raises Refused when it is not there, or not for this key."""
        if found := self._cells_by_name.get(name):
            return found
        known = ", ".join(sorted(self._cells_by_name))
        if self.key.cells:
            raise forbidden(where, name, f"is not in the scope of this key; it may write {known}")
        raise unprocessable(where, name, f"cells of this estate are {known}")

    def admit(self, records: Sequence[Record], places: Sequence[str], receiver: str) -> None:
        """Refuse all of a request when the key may not write one of its records, which stand at `places`. Raises Refused."""
        for record, place in zip(records, places, strict=True):
            self._admit(record, place, receiver)

    def _admit(self, record: Record, place: str, receiver: str) -> None:
        cell = self.cell(record.cell, f"{place}cell")
        topic = topic_of(record).name
        if self.key.topics and topic not in self.key.topics:
            right = f"is not in the scope of this key; it may write {', '.join(self.key.topics)}"
            raise forbidden(f"{place}topic", topic, right)
        series = _series(record, place)
        _check_reserved(record, series, place, receiver)
        if isinstance(record, Observation):
            self._check_resource(record, cell, place)
        for claim in _claims(record, series, cell, place):
            self._check_tenant(claim)

    def _check_resource(self, record: Observation, cell: Cell, place: str) -> None:
        allowed = self.key.resources
        if record.resource in allowed:
            return
        if allowed:
            right = f"is not in the scope of this key; it may write {', '.join(allowed)}"
            raise forbidden(f"{place}resource", record.resource, right)
        collected = cell.resources_by_name.get(record.resource)
        speaks_about = isinstance(record, OperationsEvent) and collected and record.system != collected.system
        if collected and not speaks_about:
            right = f"is read by a collector of cell {cell.name}; name another, or let the key's resources name it"
            raise forbidden(f"{place}resource", record.resource, right)

    def _check_tenant(self, claim: Claim) -> None:
        if claim.tenant in self.tenants or (claim.tenant is None and not self.key.tenants):
            return
        known = ", ".join(sorted(self.tenants))
        if not self.key.tenants:
            raise unprocessable(claim.where, claim.tenant, f"tenants of the estate are {known}")
        said = "the whole cell" if claim.tenant is None else claim.tenant
        raise forbidden(claim.where, said, f"is not in the scope of this key; it may write {known}")


def is_reserved(name: str, firsts: tuple[str, ...] = OURS) -> bool:
    """Whether a name begins with a part under which only Pilothouse speaks, or with one that looks like it to a person."""
    return _skeleton(name).partition(".")[0] in {_skeleton(one) for one in firsts}


@lru_cache(maxsize=4_096)
def _skeleton(name: str) -> str:
    """What a name looks like: without marks and what is not seen, each letter as the one that it resembles.

    Source of the idea: Unicode Technical Standard 39, section 4, confusable detection; here for the letters of our own names.
    """
    if name.isascii():
        seen = name
    else:
        decomposed = unicodedata.normalize("NFKD", name)
        seen = "".join(one for one in decomposed if unicodedata.category(one) not in ("Mn", "Me", "Cf"))
    return seen.strip().casefold().translate(_LIKE)


def _check_reserved(record: Record, series: Iterable[Series], place: str, receiver: str) -> None:
    for where, name in _names(record, series):
        if is_reserved(name, OUR_EVENTS if where == "name" else OURS):
            raise forbidden(f"{place}{where}", name, "is a name under which only Pilothouse speaks; choose another")
    if isinstance(record, Change):
        origin = record.origin.casefold()
        claimed = origin if origin in CLAIMED else record.change_id.partition(":")[0].casefold()
        if claimed in CLAIMED and claimed != receiver:
            where = "origin" if origin in CLAIMED else "change_id"
            raise forbidden(
                f"{place}{where}", claimed, f"belongs to another interface; leave it out or write {GENERIC}"
            )


def _names(record: Record, series: Iterable[Series]) -> Iterator[tuple[str, str]]:
    if isinstance(record, Observation):
        yield "system", record.system
        yield "resource", record.resource
    if isinstance(record, OperationsEvent):
        yield "name", record.name
    if isinstance(record, Change):
        yield "service", record.service
        yield "origin", record.origin
    for name in getattr(record, "attributes", {}):
        yield "attributes", name
    for one in series:
        yield "series", one.name
        yield from (("series", name) for name in one.attributes)


def _claims(record: Record, series: Iterable[Series], cell: Cell, place: str) -> Iterator[Claim]:
    if isinstance(record, Scrape):
        yield from _once(f"{place}series", (t for one in series for t in _of_attributes(one.attributes, cell)))
    elif isinstance(record, Batch):
        yield from _once(f"{place}tenants", record.tenants)
    elif isinstance(record, Change):
        yield from _once(f"{place}tenants", record.tenants or (None,))
    elif isinstance(record, OperationsEvent):
        yield Claim(f"{place}tenant", record.tenant)
    attributes = getattr(record, "attributes", {})
    for name in (TENANT, DATABASE):
        column = attributes.get(name, ())
        values = {str(one) for one in (column if isinstance(column, tuple) else (column,)) if one is not None}
        tenants = (
            values
            if name == TENANT
            else {cell.tenant_of_database[one] for one in values & set(cell.tenant_of_database)}
        )
        yield from _once(f"{place}attributes.{name}", tenants)


def _once(where: str, tenants: Iterable[str | None]) -> Iterator[Claim]:
    return (Claim(where, one) for one in sorted(set(tenants), key=lambda one: (one is None, one or "")))


def _of_attributes(attributes: Mapping[str, str], cell: Cell) -> set[str | None]:
    """Both of the ways in which a series may name a tenant, or None when it names none."""
    named = {attributes.get(TENANT), cell.tenant_of_database.get(attributes.get(DATABASE, ""))}
    return (named - {None}) or {None}


def _series(record: Record, place: str) -> list[Series]:
    """What a scrape measures. Read without the shared cache, which a stranger could fill."""
    if not isinstance(record, Scrape):
        return []
    try:
        return [parse.__wrapped__(one) for one in split(record.series)]
    except ValueError as error:
        raise Refused(422, "Not understood", f"{place}series: {shown(error)}", field=f"{place}series") from None


def check_times(records: Sequence[Record], places: Sequence[str], now_ms: int) -> None:
    """Refuse a request with a time that would move the readers' windows. Raises Refused."""
    for record, place in zip(records, places, strict=True):
        _check_times(record, place, now_ms)


def _check_times(record: Record, place: str, now_ms: int) -> None:
    wrong = fault(record, now_ms)
    if wrong:
        raise Refused(422, "Not understood", wrong, field=f"{place}time_ms", value=str(record.time_ms))
    newest = max(getattr(record, "times_ms", ()), default=0)
    since = getattr(record, "start_time_ms", None) or 0
    for name, time_ms in (("times_ms", newest), ("start_time_ms", since)):
        if time_ms > now_ms + AHEAD_MS:
            right = f"it must be at most 5 minutes ahead of {rfc3339(now_ms)}"
            raise unprocessable(f"{place}{name}", f"{time_ms} ({rfc3339(time_ms)})", right)
