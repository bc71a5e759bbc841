"""One look at one database: what its groups read from and write to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from pydantic import Field

from ingest.collector import Options, Target
from ingest.collectors.odoo.memory import Memory
from ingest.collectors.odoo.schema import Schema
from schemas.records import OperationsEvent, Record, Scalar
from schemas.series import identity

MAX_COUNTERS = 2_000  # series of one group; a channel or cron that comes later is not counted
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


class OdooOptions(Options):
    """What the estate may say about an Odoo database."""

    cron_grace_s: float = Field(60.0, ge=0, description="How far past nextcall a scheduled action is overdue, s.")
    overlap_s: float = Field(
        120.0, ge=120, description="How late a transaction may commit, s; limit_time_real or more."
    )
    statement_timeout_ms: int = Field(2_000, ge=100, description="Longest a statement of ours may run, ms.")


@dataclass(slots=True)
class Look:
    """Ages are by `server_ms`, the clock of the database server, which wrote the times. `oldest_ms` is since when its
    oldest open transaction runs that the role can see."""

    target: Target
    options: OdooOptions
    connection: asyncpg.Connection
    schema: Schema
    memory: Memory
    now_ms: int
    server_ms: int
    oldest_ms: int | None = None
    group: str = ""
    points: dict[str, float | None] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    @property
    def server_time(self) -> datetime:
        """The server's clock as Odoo's columns have it: UTC without a zone."""
        return naive(self.server_ms * 1_000)

    def age_s(self, since_ms: int | None) -> float:
        """Time since then, s; 0 when nothing waits or it lies ahead."""
        return 0.0 if since_ms is None else max(self.server_ms - since_ms, 0) / 1_000

    def series(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """Identity of a series of this tenant."""
        tenant = self.target.resource.tenant
        return identity(name, {**({"tenant.id": tenant} if tenant else {}), **(attributes or {})})

    def gauge(self, name: str, value: float | None, attributes: Mapping[str, str] | None = None) -> None:
        """A point of this look."""
        self.points[self.series(name, attributes)] = value

    def count(self, name: str, by: float, attributes: Mapping[str, str] | None = None) -> None:
        """Add to a counter of the group; by 0 to let it begin."""
        counters = self.memory.counters.setdefault(self.group, {})
        series = self.series(name, attributes)
        if series in counters or len(counters) < MAX_COUNTERS:
            counters[series] = round(counters.get(series, 0.0) + by, 6)

    def event(self, name: str, severity_number: int, body: str, attributes: Mapping[str, Scalar]) -> None:
        """Something that happened between the last look and this one."""
        self.records.append(
            OperationsEvent(
                **self.target.identity(),
                time_ms=self.now_ms,
                tenant=self.target.resource.tenant,
                name=name,
                severity_number=severity_number,
                body=body,
                attributes=dict(attributes),
            )
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Tables that are read together. Without one of the needed columns the group is absent."""

    name: str
    needs: Mapping[str, tuple[str, ...]]
    look: Callable[[Look], Awaitable[None]]

    def is_there(self, schema: Schema) -> bool:
        """Whether everything that it needs can be read."""
        return all(schema.has(table, *columns) for table, columns in self.needs.items())

    def closed(self, schema: Schema) -> list[str]:
        """Tables that would have to be opened to us."""
        return [table for table, columns in self.needs.items() if schema.hides(table, *columns)]


def naive(microseconds: int) -> datetime:
    """Unix us as asyncpg wants a timestamp without a zone."""
    return _EPOCH + timedelta(microseconds=microseconds)


def number(value: Any) -> float | None:
    """A finite number or None."""
    return float(value) if value is not None and abs(float(value)) < 1e18 else None
