"""An estate: the cells, tenants and resources that are watched, as people write it in YAML under version control.

Secrets stand only by reference (`env` or `file`), never as a value. `Estate.of` checks everything that can be checked
without a network and says every fault at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from schemas.calendar import ALWAYS_OPEN, Calendar
from schemas.openslo import AnyDocument
from schemas.records import Name, Role
from schemas.slo import Column, Slo, slos
from schemas.topics import INPUTS


class Tier(StrEnum):
    """How much a tenant's standstill costs; service.criticality in OpenTelemetry's words."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Reference(BaseModel):
    """Where a value stands that must not stand here: an environment variable or a file, exactly one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: str | None = Field(None, description="Name of an environment variable.")
    file: str | None = Field(None, description="Path of a file; its first line counts.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("a reference names either env or file")
        return self


class Tenant(BaseModel):
    """One customer's Odoo, which is one database."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    database: str = Field("", description="Database name; the tenant's name when left out.")
    tier: Tier = Tier.MEDIUM
    calendar: str = Field("always", description="Name of its business calendar.")
    currency: str = Field("EUR", pattern="^[A-Z]{3}$", description="ISO 4217 code of its books.")

    @property
    def db_namespace(self) -> str:
        """The database that holds the tenant."""
        return self.database or self.name


class Resource(BaseModel):
    """A thing that is observed, and how to reach it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field(description="Unique in its cell; causes name it, as redis.latency:valkey-eu1.")
    system: Name = Field(description="Collector that reads it: postgresql, redis, odoo, odoo_log, host, tls ...")
    url: str | Reference | None = Field(None, description="Where it is; by reference when it holds a password.")
    tenant: Name | None = Field(None, description="Tenant it serves alone; null when the cell shares it.")
    interval_s: float = Field(15.0, gt=0, le=3600, description="Time from one look to the next, s.")
    timeout_s: float = Field(5.0, gt=0, le=300, description="A look that takes longer is given up, s.")
    depends_on: tuple[Name, ...] = Field((), description="Resources of the cell that it needs to work.")
    options: dict[str, Any] = Field(default_factory=dict, description="What the collector takes besides.")

    @field_validator("url")
    @classmethod
    def _no_password(cls, url: str | Reference | None) -> str | Reference | None:
        if isinstance(url, str) and re.search(r"://[^/@\s:]*+:[^/@\s]++@", url):
            raise ValueError("the url holds a password; write url: {env: NAME} or url: {file: PATH}")
        return url


class Cell(BaseModel):
    """A blast radius: one shared platform with its tenants, or one dedicated environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class Route(BaseModel):
    """Where alerts go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    url: str | Reference = Field(description="Webhook that takes the alerts.")
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

    def faults(self, estate: Estate) -> Iterable[str]:
        """What of its scope is not there, so that a typing error does not lock a sender out or let one in."""
        cells = [cell for cell in estate.cells if not self.cells or cell.name in self.cells]
        known = {
            "cells": {cell.name for cell in estate.cells},
            "tenants": {tenant.name for cell in cells for tenant in cell.tenants},
            "topics": {topic.name for topic in INPUTS},
        }
        for part, names in known.items():
            for name in getattr(self, part):
                if name not in names:
                    yield f"key {self.holder}: {part} names {name!r}; there are {', '.join(sorted(names))}"


def _as_key(given: Any) -> Any:
    return given.model_dump(exclude_none=True) if type(given) is Reference else given


AnyKey = Annotated[Key, BeforeValidator(_as_key)]
"""A key, also from a bare reference."""


class Receiver(BaseModel):
    """An HTTP receiver that listens for others' events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field(description="Which one: change, github, events ...")
    keys: tuple[AnyKey, ...] = Field(min_length=1, description="Where its keys stand and what each may write.")


class Estate(BaseModel):
    """Everything that is watched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cells: tuple[Cell, ...] = Field(min_length=1)
    calendars: tuple[Calendar, ...] = ()
    routes: tuple[Route, ...] = ()
    receivers: tuple[Receiver, ...] = ()
    openslo: tuple[AnyDocument, ...] = Field((), description="OpenSLO v1 documents: what is promised to tenants.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if faults := list(self.faults()):
            raise ValueError("; ".join(faults))
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

    def faults(self) -> Iterable[str]:
        """What does not fit together, each as a sentence that names the thing, the value and what would be right."""
        yield from _twice("cell", (cell.name for cell in self.cells))
        yield from _twice("receiver", (receiver.name for receiver in self.receivers))
        yield from _twice("route", (route.name for route in self.routes))
        yield from _twice("calendar", (calendar.name for calendar in self.calendars))
        for receiver in self.receivers:
            yield from (f"receiver {receiver.name}: {fault}" for key in receiver.keys for fault in key.faults(self))
        for cell in self.cells:
            yield from _twice(f"cell {cell.name}: tenant", (tenant.name for tenant in cell.tenants))
            yield from _twice(f"cell {cell.name}: database", (tenant.db_namespace for tenant in cell.tenants))
            yield from _twice(f"cell {cell.name}: resource", (resource.name for resource in cell.resources))
            yield from self._cell_faults(cell)
        yield from self._slo_faults()

    def _slo_faults(self) -> Iterable[str]:
        try:
            found = self.slos
        except ValueError as error:
            yield str(error)
            return
        for slo in found:
            for name in slo.options.cell_names:
                if name not in self.cells_by_name:
                    yield f"SLO {slo.name}: cell {name!r} is not declared; declared are {', '.join(self.cells_by_name)}"
            if any(isinstance(one.indicator.part, Column) for one in slo.targets):
                yield f"SLO {slo.name}: metricSource type csv is for `pilothouse slo eval`; here it is of type pilothouse"

    def _cell_faults(self, cell: Cell) -> Iterable[str]:
        for tenant in cell.tenants:
            if tenant.calendar not in self.calendars_by_name:
                known = ", ".join(sorted(self.calendars_by_name))
                yield f"tenant {tenant.name}: calendar {tenant.calendar!r} is not declared; declared are {known}"
        for resource in cell.resources:
            if resource.tenant and resource.tenant not in cell.tenants_by_name:
                known = ", ".join(sorted(cell.tenants_by_name))
                yield f"resource {resource.name}: tenant {resource.tenant!r} is not in cell {cell.name}; it has {known}"
            for other in resource.depends_on:
                if other not in cell.resources_by_name or other == resource.name:
                    yield f"resource {resource.name}: depends_on {other!r} is no other resource of cell {cell.name}"


def _twice(what: str, names: Iterable[str]) -> Iterable[str]:
    return (f"{what} {name!r} is declared {count} times" for name, count in Counter(names).items() if count > 1)
