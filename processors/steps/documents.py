"""Business documents on their way: the states in which they wait, and what is known of those that stand in one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from processors.durations import Durations
from schemas.records import BusinessBatch

WAY = {
    "sale.order": ("sale",),
    "stock.picking": ("waiting", "confirmed", "assigned"),
    "account.move": ("draft",),
}
"""States in which a document waits for something, in their order."""
SHIPS, SHIPPED = "stock.picking", "done"
HOURS = 72  # of a working day, of a Saturday and of a Sunday


class Document(NamedTuple):
    """An open document. `begun_ms` is when its state began by the business clock, `place` the order in which they came."""

    kind: str
    state: str
    since_ms: int
    name: str | None
    order: int | None
    amount: float | None
    currency: str | None
    warehouse: str | None
    carrier: str | None
    deadline_ms: int | None
    begun_ms: int = 0
    place: int = 0

    @property
    def stage(self) -> str:
        """Type and state in one."""
        return f"{self.kind},{self.state}"


@dataclass
class Stage:
    """The documents that stand in one state, how long they usually do, and how many are late however well all goes."""

    here: dict[str, Document] = field(default_factory=dict)
    durations: Durations = field(default_factory=Durations)
    usual_late: float | None = None
    by_hour: list[float | None] = field(default_factory=lambda: [None] * HOURS)
    """Most that were late at each hour of working days, Saturdays and Sundays: what was left over in the evening is late in
    the morning. None of an hour that has not been lived."""
    hour: int = -1
    most: float = 0.0
    """Most that were late in the present hour."""

    def turn(self, hour: int, most_more: float) -> None:
        """The hour is over: what was usual in it moves a third of the way, by `most_more` at most; the first time it is all."""
        if hour != self.hour and self.hour >= 0:
            usual = self.by_hour[self.hour]
            news = self.most if usual is None else usual + (min(self.most, 2 * usual + most_more) - usual) / 3
            self.by_hour[self.hour], self.most = news, 0.0
        self.hour = hour


def rows(batch: BusinessBatch) -> Iterable[tuple[str, Document]]:
    """The documents of a batch by type and id; their clocks have not begun."""
    columns = zip(
        batch.document_types, batch.document_ids, batch.states, batch.times_ms, batch.document_names, batch.orders,
        batch.amounts, batch.currencies, batch.warehouses, batch.carriers, batch.deadlines_ms, strict=True,
    )  # fmt: skip
    for kind, number, *rest in columns:
        yield f"{kind},{number}", Document(kind, *rest)
