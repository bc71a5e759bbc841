"""What collectors write down: columns of one resource over a span, under the catalogue's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pilothouse.simulate.drivers import Span
from pilothouse.simulate.noise import Floats, clumped, scatter
from schemas.records import Scrape
from schemas.series import identity, join


@dataclass
class Carry:
    """What goes on from one stretch to the next: counters, slow processes, what waits in queues."""

    totals: dict[str, Floats | float] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)
    documents: dict[str, dict[int, int]] = field(default_factory=dict)

    def copy(self) -> Carry:
        """One that a branch may change."""
        return Carry(dict(self.totals), dict(self.slow), dict(self.waiting), dict(self.documents))


@dataclass
class Board:
    """Columns of one resource. Counters go on where `carry` says they stood."""

    resource: str
    system: str
    span: Span
    random: np.random.Generator
    carry: Carry
    attributes: dict[str, str] = field(default_factory=dict)
    columns: dict[str, Floats] = field(default_factory=dict)

    def of(self, **attributes: str) -> Board:
        """The same board, for series with these attributes besides (`__` for a dot)."""
        more = {name.replace("__", "."): value for name, value in attributes.items()}
        return Board(
            self.resource, self.system, self.span, self.random, self.carry, self.attributes | more, self.columns
        )

    def gauge(self, name: str, values: Floats | float) -> None:
        """A level; NaN where it was not measured."""
        self.columns[identity(name, self.attributes)] = np.broadcast_to(np.asarray(values, float), (self.span.size,))

    def total(self, name: str, amounts: Floats | float) -> None:
        """A counter, by what was added over each interval."""
        series = identity(name, self.attributes)
        key = f"{self.resource} {series}"
        added = np.broadcast_to(np.asarray(amounts, float), (self.span.size,))
        values = np.round(self.carry.totals.get(key, 0.0) + np.cumsum(added), 6)
        self.carry.totals[key] = float(values[-1])
        self.columns[series] = values

    def count(self, name: str, per_s: Floats | float, clumps: float = 0.0) -> Floats:
        """A counter of events that come at a rate; gives how many came in each interval."""
        mean = np.broadcast_to(np.asarray(per_s, float), (self.span.size,)) * self.span.dt_s
        came = clumped(self.random, mean, clumps)
        self.total(name, came)
        return came

    def amount(self, name: str, per_s: Floats | float, spread: float) -> None:
        """A counter of time or bytes, whose amounts scatter around a rate."""
        self.total(name, per_s * self.span.dt_s * scatter(self.random, self.span.size, spread))


class Sheet:
    """A board that is finished: scrapes by look."""

    def __init__(self, board: Board, cell: str, start_ms: int) -> None:
        ordered = sorted(board.columns)
        self.resource, self.system = board.resource, board.system
        self._identity: dict[str, Any] = {"cell": cell, "resource": board.resource, "system": board.system}
        self._layout = join(ordered)
        table = np.column_stack([board.columns[one] for one in ordered])
        holes = np.isnan(table)
        rows = table.astype(object) if holes.any() else table
        if holes.any():
            rows[holes] = None
        self._rows: list[list[float | None]] = rows.tolist()
        self._start_ms = start_ms
        self.width = len(ordered)

    def scrape(self, place: int, time_ms: int) -> Scrape:
        """One look."""
        return Scrape(
            **self._identity,
            time_ms=time_ms,
            start_time_ms=self._start_ms,
            series=self._layout,
            values=tuple(self._rows[place]),
        )
