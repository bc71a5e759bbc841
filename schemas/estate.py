"""An estate: the cells, tenants and resources that are watched, as people write it in YAML under version control.

Secrets stand only by reference (`env` or `file`), never as a value. `Estate.of` checks everything that can be checked
without a network and says every fault at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationInfo, model_validator

from schemas.calendar import ALWAYS_OPEN, Calendar
from schemas.openslo import AnyDocument
from schemas.records import Name, Role
from schemas.slo import Column, Slo, SloFaults, slos
from schemas.topics import INPUTS
from schemas.written import Written

APART = {"parts": "apart"}
"""Validation context in which the parts of an estate are checked and not whether they fit together (`Estate.faults`)."""
NAMES_SHOWN = 20
"""How many names a message lists; an estate may have thousands."""


class Tier(StrEnum):
    """How much a tenant's standstill costs; service.criticality in OpenTelemetry's words."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


Variable = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern="^[A-Za-z_][A-Za-z0-9_]*$")]

_SECRET_NAMES = frozenset(
    (
        *("password", "passwd", "passphrase", "pass", "pwd", "sslpassword", "secret", "key", "apikey", "accesskey"),
        *("sig", "signature", "auth", "authorization", "credential", "credentials"),
    )
)


def secret_in(url: str) -> str:
    """Where a secret stands in a URL, in words; empty when none is seen. The secret itself is not in the answer.

    Whatever stands before the last @ counts as user and password, because a password may hold any sign by mistake; but
    not what stands behind a host with a port.
    """
    scheme, _, rest = url.partition("://")
    host, colon, more = rest.rpartition("@")[0].partition(":")
    if colon and not set(host) & set("/?#") and not re.match(r"^\d{1,5}(?:[/?#]|$)", more):
        return "a password before its host"
    if scheme.lower() in ("http", "https") and "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        return "credentials before its host"
    for pair in re.split(r"[?&;#]", rest)[1:]:
        name, _, value = pair.partition("=")
        if value and _is_secret_name(name):
            return f"a secret in its parameter {name}"
    return ""


def _is_secret_name(name: str) -> bool:
    last = re.split(r"[._-]", name.lower())[-1]
    return last in _SECRET_NAMES or last.endswith(("token", "secret", "password"))


def _without_secret(url: str | Reference) -> str | Reference:
    if isinstance(url, str) and (where := secret_in(url)):
        raise ValueError(f"the url holds {where}; write url: {{env: NAME}} or url: {{file: PATH}}")
    return url


class Reference(Written):
    """Where a value stands that must not stand here: an environment variable or a file, exactly one of them."""

    env: Variable | None = Field(None, description="Name of an environment variable.")
    file: str | None = Field(None, min_length=1, description="Path of a file; its first line counts.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("a reference names either env or file")
        return self


Url = Annotated[str | Reference, AfterValidator(_without_secret)]


class Tenant(Written):
    """One customer's Odoo, which is one database."""

    name: Name
    database: str = Field("", description="Database name; the tenant's name when left out.")
    tier: Tier = Tier.MEDIUM
    calendar: str = Field("always", description="Name of its business calendar.")
    currency: str = Field("EUR", pattern="^[A-Z]{3}$", description="ISO 4217 code of its books.")

    @property
    def db_namespace(self) -> str:
        """The database that holds the tenant."""
        return self.database or self.name


class Resource(Written):
    """A thing that is observed, and how to reach it."""

    name: Name = Field(description="Unique in its cell; causes name it, as redis.latency:valkey-eu1.")
    system: Name = Field(description="Collector that reads it: postgresql, redis, odoo, odoo_log, host, tls ...")
    url: Url | None = Field(None, description="Where it is; by reference when it holds a password.")
    tenant: Name | None = Field(None, description="Tenant it serves alone; null when the cell shares it.")
    interval_s: float = Field(15.0, gt=0, le=3600, description="Time from one look to the next, s.")
    timeout_s: float = Field(5.0, gt=0, le=300, description="A look that takes longer is given up, s.")
    depends_on: tuple[Name, ...] = Field((), description="Resources of the cell that it needs to work.")
    options: dict[str, Any] = Field(default_factory=dict, description="What the collector takes besides.")


class Cell(Written):
    """A blast radius: one shared platform with its tenants, or one dedicated environment."""

    name: Name
    environment: str = Field("production", description="deployment.environment.name.")
    tenants: tuple[Tenant, ...] = Field(min_length=1)
    resources: tuple[Resource, ...] = ()

    @cached_property
    def tenants_by_name(self) -> dict[str, Tenant]:
        """Tenants by name."""
        return {tenant.name: tenant for tenant in self.tenants}

    @cached_property
    def resources_by_name(self) -> dict[str, Resource]:
        """Resources by name."""
        return {resource.name: resource for resource in self.resources}

    @cached_property
    def tenant_of_database(self) -> dict[str, str]:
        """Tenant's name by database."""
        return {tenant.db_namespace: tenant.name for tenant in self.tenants}

    @property
    def is_dedicated(self) -> bool:
        """Whether one tenant has the cell for itself."""
        return len(self.tenants) == 1


class Route(Written):
    """Where alerts go."""

    name: Name
    url: Url = Field(description="Webhook that takes the alerts.")
    secret: Reference | None = Field(None, description="Key of the Standard Webhooks signature (whsec_...).")
    min_severity: str = Field("warning", pattern="^(info|warning|critical)$")
    cells: tuple[Name, ...] = Field((), description="Only these cells; empty for all.")
    tenants: tuple[Name, ...] = Field((), description="Only these tenants; empty for all.")
    roles: tuple[Role, ...] = Field((), description="Only what concerns one of these roles; empty for all.")
    watchdog: bool = Field(
        False, description="Also forward each cell's heartbeat, to a dead man's switch that notices when it stops."
    )
    allow_private: bool = Field(
        False, description="Its receiver may stand inside: at a loopback, private or link-local address."
    )


class Key(Reference):
    """A key of a receiver: where it stands, who holds it, and what its holder may write.

    What is left out is not restricted: a key without a scope may write what its receiver takes, for all cells and tenants
    of the estate. No key writes what only Pilothouse itself says, nor in the name of a resource that a collector reads
    unless `resources` names it.
    """

    name: Name | None = Field(
        None,
        description="Who holds it. Keys of one name, as while they rotate, share their quota, their part of the spool and "
        "the deliveries that are remembered; the variable's or the file's name when left out.",
    )
    cells: tuple[Name, ...] = Field((), description="Only these cells; empty for all.")
    tenants: tuple[Name, ...] = Field(
        (), description="Only these tenants, and nothing that a whole cell shares; empty for all."
    )
    topics: tuple[Name, ...] = Field((), description="Only these topics, such as events.business.v1; empty for all.")
    resources: tuple[Name, ...] = Field(
        (), description="Only these resources, those that a collector reads among them; empty for all that none reads."
    )
    records_per_minute: int = Field(
        600_000, gt=0, description="Quota: series of scrapes, rows of batches and other records a minute."
    )
    bytes_per_minute: int = Field(64 * 2**20, gt=0, description="Quota: bytes of bodies a minute, as they are sent.")

    @property
    def holder(self) -> str:
        """Who holds it, as logs and quotas name them."""
        return self.name or self.env or (self.file or "").rpartition("/")[2] or "key"

    @property
    def unrestricted(self) -> tuple[str, ...]:
        """What of cells, tenants and topics it does not restrict."""
        return tuple(part for part in ("cells", "tenants", "topics") if not getattr(self, part))

    def faults(self, estate: Estate) -> Iterable[tuple[str, int, str]]:
        """What of its scope is not there, so that a typing error does not lock a sender out or let one in.

        Each as the part, the place in it, and a sentence.
        """
        cells = [cell for cell in estate.cells if not self.cells or cell.name in self.cells]
        known = {
            "cells": {cell.name for cell in estate.cells},
            "tenants": {tenant.name for cell in cells for tenant in cell.tenants},
            "topics": {topic.name for topic in INPUTS},
        }
        for part, names in known.items():
            for at, name in enumerate(getattr(self, part)):
                if name not in names:
                    yield part, at, f"key {self.holder}: {part} names {name!r}; there are {_listed(names)}"


def _as_key(given: Any) -> Any:
    return given.model_dump(exclude_none=True) if type(given) is Reference else given


AnyKey = Annotated[Key, BeforeValidator(_as_key)]
"""A key, also from a bare reference."""


class Receiver(Written):
    """An HTTP receiver that listens for others' events."""

    name: Name = Field(description="Which one: change, github, events ...")
    keys: tuple[AnyKey, ...] = Field(min_length=1, description="Where its keys stand and what each may write.")


class Fault(NamedTuple):
    """What does not fit together: where, in the estate's own words, and a sentence."""

    place: tuple[str | int, ...]
    text: str
    wanted: tuple[str, str] | None = None
    """Kind and name of what is not declared."""


class Faults(ValueError):  # noqa: N818 (it is a list of them)
    """Everything in an estate that does not fit together."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(one.text for one in self.faults))


class Estate(Written):
    """Everything that is watched."""

    cells: tuple[Cell, ...] = Field(min_length=1)
    calendars: tuple[Calendar, ...] = ()
    routes: tuple[Route, ...] = ()
    receivers: tuple[Receiver, ...] = ()
    openslo: tuple[AnyDocument, ...] = Field((), description="OpenSLO v1 documents: what is promised to tenants.")

    @model_validator(mode="after")
    def _whole(self, info: ValidationInfo) -> Self:
        if info.context is not APART and (faults := list(self.faults())):
            raise Faults(faults)
        return self

    @cached_property
    def cells_by_name(self) -> dict[str, Cell]:
        """Cells by name."""
        return {cell.name: cell for cell in self.cells}

    @cached_property
    def calendars_by_name(self) -> dict[str, Calendar]:
        """Calendars by name, `always` among them."""
        return {ALWAYS_OPEN.name: ALWAYS_OPEN} | {calendar.name: calendar for calendar in self.calendars}

    @cached_property
    def slos(self) -> tuple[Slo, ...]:
        """The SLOs of its OpenSLO documents."""
        return slos(self.openslo)

    def calendar_of(self, cell: str, tenant: str | None) -> Calendar:
        """The tenant's calendar; of a cell its first tenant's, and `always` for what nobody declared."""
        known = self.cells_by_name.get(cell)
        if known is None:
            return ALWAYS_OPEN
        one = known.tenants_by_name.get(tenant) if tenant else known.tenants[0]
        return self.calendars_by_name[one.calendar] if one else ALWAYS_OPEN

    def untold_roles(self) -> tuple[Role, ...]:
        """Roles that no route takes, though there are routes: what concerns them alone is told to nobody."""
        if any(not route.roles for route in self.routes):
            return ()
        taken = {role for route in self.routes for role in route.roles}
        return tuple(role for role in Role if role not in taken) if self.routes else ()

    def unscoped_keys(self) -> tuple[str, ...]:
        """What keys of receivers may write without a restriction, a sentence a key."""
        return tuple(
            f"receiver {receiver.name}: key {key.holder} may write all {' and '.join(key.unrestricted)} of the estate"
            for receiver in self.receivers
            for key in receiver.keys
            if key.unrestricted
        )

    def faults(self) -> Iterable[Fault]:
        """What does not fit together, each as a sentence that names the thing, the value and what would be right."""
        for part in ("cells", "receivers", "routes", "calendars"):
            yield from _twice((part,), part.removesuffix("s"), (one.name for one in getattr(self, part)))
        if any(calendar.name == ALWAYS_OPEN.name for calendar in self.calendars):
            yield Fault(("calendars",), f"calendar {ALWAYS_OPEN.name!r} is there already; choose another name")
        yield from self._key_faults()
        for number, cell in enumerate(self.cells):
            place, about = ("cells", number), f"cell {cell.name}: "
            tenants, resources = (*place, "tenants"), (*place, "resources")
            yield from _twice(tenants, f"{about}tenant", (tenant.name for tenant in cell.tenants))
            yield from _twice(tenants, f"{about}database", (tenant.db_namespace for tenant in cell.tenants))
            yield from _twice(resources, f"{about}resource", (resource.name for resource in cell.resources))
            yield from self._cell_faults(cell, place)
        yield from self._route_faults()
        yield from self._slo_faults()

    def _key_faults(self) -> Iterable[Fault]:
        kinds = {"cells": "cell", "tenants": "tenant"}
        for number, receiver in enumerate(self.receivers):
            for at, key in enumerate(receiver.keys):
                for part, place, text in key.faults(self):
                    wanted = (kinds[part], getattr(key, part)[place]) if part in kinds else None
                    yield Fault(
                        ("receivers", number, "keys", at, part, place), f"receiver {receiver.name}: {text}", wanted
                    )

    def _route_faults(self) -> Iterable[Fault]:
        tenants = {tenant.name for cell in self.cells for tenant in cell.tenants}
        for number, route in enumerate(self.routes):
            for kind, names, known in (
                ("cell", route.cells, set(self.cells_by_name)),
                ("tenant", route.tenants, tenants),
            ):
                for at, name in enumerate(names):
                    if name not in known:
                        yield Fault(
                            ("routes", number, f"{kind}s", at),
                            f"route {route.name}: {kind} {name!r} is not declared; declared are {_listed(known)}",
                            (kind, name),
                        )

    def _slo_faults(self) -> Iterable[Fault]:
        try:
            found = self.slos
        except SloFaults as error:
            yield from (Fault(("openslo", number), text) for number, text in error.faults)
            return
        places = {
            one.metadata.name: ("openslo", number) for number, one in enumerate(self.openslo) if one.kind == "SLO"
        }
        for slo in found:
            place = places[slo.name]
            for name in slo.options.cell_names:
                if name not in self.cells_by_name:
                    known = _listed(self.cells_by_name)
                    yield Fault(
                        place, f"SLO {slo.name}: cell {name!r} is not declared; declared are {known}", ("cell", name)
                    )
            if any(isinstance(one.indicator.part, Column) for one in slo.targets):
                yield Fault(
                    place,
                    f"SLO {slo.name}: metricSource type csv is for `pilothouse slo eval`; here it is of type pilothouse",
                )

    def _cell_faults(self, cell: Cell, place: tuple[str | int, ...]) -> Iterable[Fault]:
        for number, tenant in enumerate(cell.tenants):
            if tenant.calendar not in self.calendars_by_name:
                yield Fault(
                    (*place, "tenants", number, "calendar"),
                    f"tenant {tenant.name}: calendar {tenant.calendar!r} is not declared; "
                    f"declared are {_listed(self.calendars_by_name)}",
                    ("calendar", tenant.calendar),
                )
        for number, resource in enumerate(cell.resources):
            where = (*place, "resources", number)
            if resource.tenant and resource.tenant not in cell.tenants_by_name:
                yield Fault(
                    (*where, "tenant"),
                    f"resource {resource.name}: tenant {resource.tenant!r} is not in cell {cell.name}; "
                    f"it has {_listed(cell.tenants_by_name)}",
                    ("tenant", resource.tenant),
                )
            for at, other in enumerate(resource.depends_on):
                if other not in cell.resources_by_name or other == resource.name:
                    yield Fault(
                        (*where, "depends_on", at),
                        f"resource {resource.name}: depends_on {other!r} is no other resource of cell {cell.name}",
                        ("resource", other) if other != resource.name else None,
                    )
        for circle in _circles({one.name: one.depends_on for one in cell.resources}):
            at = next(number for number, one in enumerate(cell.resources) if one.name == circle[0])
            yield Fault(
                (*place, "resources", at, "depends_on"),
                f"cell {cell.name}: {' -> '.join(circle)} depend on each other in a circle; leave one depends_on out",
            )


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
    return (", ".join(found[:NAMES_SHOWN]) or "none") + more


def _twice(place: tuple[str | int, ...], what: str, names: Iterable[str]) -> Iterable[Fault]:
    """A fault for each name that is declared again, at its second place."""
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        places.setdefault(name, []).append(number)
    return (
        Fault((*place, at[1]), f"{what} {name!r} is declared {len(at)} times")
        for name, at in places.items()
        if len(at) > 1
    )


def _circles(needs: Mapping[str, Iterable[str]]) -> Iterable[list[str]]:
    """Circles of names that need each other, each once, from its first name back to it; one alone is none."""
    done: set[str] = set()
    for start in needs:
        way: list[str] = []
        stack = [(start, 0)]
        while stack:
            name, depth = stack.pop()
            del way[depth:]
            if name in way:
                circle = [*way[way.index(name) :], name]
                if len(circle) > 2:
                    yield circle
                continue
            if name in done or name not in needs:
                continue
            way.append(name)
            stack += [(other, depth + 1) for other in needs[name]]
            done.add(name)
