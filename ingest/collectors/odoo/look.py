"""One look at one database: what its groups read from and write to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from pydantic import Field

from ingest.collector import Fault, Options, Target
from ingest.collectors.odoo.memory import Memory
from ingest.collectors.odoo.schema import Schema
from ingest.poll import Poll

MAX_COUNTERS = 2_000
"""Series of one group; a channel or cron that comes later is not counted, but is itself counted as left out."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


class OdooOptions(Options):
    """What the estate may say about an Odoo database."""

    cron_grace_s: float = Field(60.0, ge=0, description="How far past nextcall a scheduled action is overdue, s.")
    overlap_s: float = Field(
        120.0, ge=120, description="How late a transaction may commit, s; limit_time_real or more."
    )
    statement_timeout_ms: int = Field(2_000, ge=100, description="Longest a statement of ours may run, ms.")
    db_schema: str = Field("public", min_length=1, max_length=63, description="Schema in which Odoo's tables are.")


class Look(Poll):
    """Ages are by `server_ms`, the clock of the database server, which wrote the times. `oldest_ms` is since when its
    oldest open transaction runs that the role can see."""

    def __init__(
        self,
        target: Target,
        options: OdooOptions,
        connection: asyncpg.Connection,
        memory: Memory,
        now_ms: int,
        explain: Callable[[Exception], Fault | None],
        is_fatal: Callable[[Exception], bool],
    ) -> None:
        super().__init__(target, now_ms, explain=explain, is_fatal=is_fatal)
        self.options, self.connection, self.memory = options, connection, memory
        self.schema = Schema({})
        self.server_ms = now_ms
        self.oldest_ms: int | None = None

    @property
    def server_time(self) -> datetime:
        """The server's clock as Odoo's columns have it: UTC without a zone."""
        return naive(self.server_ms * 1_000)

    def ours(self, server_ms: int) -> int:
        """A time of the server by our own clock: one that runs an hour ahead must not tell of what is yet to come."""
        skew_ms = self.server_ms - self.now_ms
        return server_ms if abs(skew_ms) < 2_000 else server_ms - skew_ms

    def age_s(self, since_ms: int | None) -> float:
        """Time since then, s; 0 when nothing waits or it lies ahead."""
        return 0.0 if since_ms is None else max(self.server_ms - since_ms, 0) / 1_000

    def series(self, name: str, attributes: Mapping[str, object] | None = None) -> str:
        """Identity of a series of this tenant."""
        return super().series(name, {"tenant.id": self.target.resource.tenant, **(attributes or {})})

    def count(self, name: str, by: float, attributes: Mapping[str, object] | None = None) -> None:
        """Add to a counter of the group; by 0 to let it begin."""
        counters = self.memory.counters.setdefault(self.name, {})
        series = self.series(name, attributes)
        if series in counters or len(counters) < MAX_COUNTERS:
            counters[series] = round(counters.get(series, 0.0) + by, 6)
        else:
            self.left_out += 1

    @contextmanager
    def unchanged_unless_read(self) -> Iterator[None]:
        """Puts the memory back when the block raises: what was not told must be told at the next look."""
        before = self.memory.model_copy()
        counters = {group: dict(series) for group, series in before.counters.items()}
        documents = dict(before.documents)
        try:
            yield
        except BaseException:
            for name in Memory.model_fields:
                setattr(self.memory, name, getattr(before, name))
            self.memory.counters, self.memory.documents = counters, documents
            raise


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

    def refused(self, schema: Schema) -> Fault | None:
        """Why one of its tables is not read though it is there."""
        for table, columns in self.needs.items():
            if why := schema.refused.get(table):
                mend = f"Put a plain table in the place of {table}, owned as Odoo made it, and see who changed it"
                return Fault(f"{table} is not read: {why}", mend, key=f"refused {table}")
            wrong = {name: kind for name, kind in schema.mistyped.get(table, {}).items() if name in columns}
            if wrong:
                told = ", ".join(f"{table}.{name} is {kind}" for name, kind in sorted(wrong.items()))
                return Fault(f"{told}, which Odoo does not make", "See who changed the column", key=told)
        return None


def naive(microseconds: int) -> datetime:
    """Unix us as asyncpg wants a timestamp without a zone."""
    return _EPOCH + timedelta(microseconds=microseconds)


def number(value: Any) -> float | None:
    """A finite number or None."""
    return float(value) if value is not None and abs(float(value)) < 1e18 else None
