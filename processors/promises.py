"""Promises over business documents: what reached one state is owed another by a deadline.

"95 % of the orders confirmed before the cut-off are shipped the same day" is a promise an order: it begins when the order
is confirmed, is kept when its pickings are done, and is broken when its deadline has passed by a margin for what is told
late. A document that is cancelled was promised nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

from processors.indicators import Came, Meter
from schemas.bounds import reached
from schemas.calendar import Calendar
from schemas.openslo import milliseconds
from schemas.records import BusinessBatch
from schemas.slo import Documents

CANCELLED = "cancel"
ENDED = frozenset({"done", CANCELLED, "posted"})


class Promise(BaseModel):
    """One that is neither kept nor broken."""

    group: str
    due_ms: int = Field(description="When it must be kept, Unix ms.")
    waiting: list[int] = Field(default_factory=list, description="Documents that are on their way for it.")
    kept_ms: int | None = Field(None, description="When the first document that keeps it came, Unix ms.")


class Promises(BaseModel):
    """The open promises of a meter, oldest first."""

    open: dict[int, Promise] = Field(default_factory=dict)
    forgotten: int = 0

    def next_due_ms(self) -> int | None:
        """The earliest deadline."""
        return min((one.due_ms for one in self.open.values()), default=None)


class Row(NamedTuple):
    """One event of a batch."""

    kind: str
    number: int
    state: str
    time_ms: int
    tenant: str
    order: int | None
    carrier: str | None
    deadline_ms: int | None


def rows(batch: BusinessBatch) -> Iterator[Row]:
    """The events that belong to a tenant."""
    columns = zip(
        batch.document_types, batch.document_ids, batch.states, batch.times_ms, batch.tenants, batch.orders, batch.carriers,
        batch.deadlines_ms, strict=True,
    )  # fmt: skip
    for kind, number, state, time_ms, tenant, *rest in columns:
        if tenant:
            yield Row(kind, number, state, time_ms, tenant, *rest)


def take(meter: Meter, promises: Promises, row: Row, at_ms: int, calendar: Calendar, most: int) -> Came | None:
    """What an event says of a meter: a promise begins, goes on, is kept, is broken or is void."""
    made, kept = meter.target.indicator.total, meter.target.indicator.part
    assert isinstance(made, Documents)
    assert isinstance(kept, Documents)
    if row.kind == made.document and row.state == CANCELLED:
        promises.open.pop(row.number, None)
        return None
    if row.kind == made.document and row.state == made.reaches and row.number not in promises.open:
        _begin(meter, promises, row, calendar, most)
    number = row.number if kept.document == made.document else row.order
    promise = promises.open.get(number) if number is not None and row.kind == kept.document else None
    if promise is None or number is None:
        return None
    _go_on(promise, row, kept)
    if promise.kept_ms is None or promise.waiting:
        return None
    promises.open.pop(number)
    return _told(promise, at_ms, broken=promise.kept_ms > promise.due_ms)


def broken(promises: Promises, by_ms: int, at_ms: int) -> Iterable[Came]:
    """The promises whose deadline passed before an instant."""
    gone = [number for number, one in promises.open.items() if one.due_ms < by_ms]
    return [_told(promises.open.pop(number), at_ms, broken=True) for number in gone]


def _told(promise: Promise, at_ms: int, *, broken: bool) -> Came:
    return Came(promise.group, at_ms, float(broken), 1.0, "")


def _begin(meter: Meter, promises: Promises, row: Row, calendar: Calendar, most: int) -> None:
    made, kept = meter.target.indicator.total, meter.target.indicator.part
    assert isinstance(made, Documents)
    assert isinstance(kept, Documents)
    if made.before and not _is_before_cut_off(row, calendar):
        return
    due_ms = _due_ms(row, kept, calendar)
    if due_ms is None:
        return
    group = row.tenant if meter.slo.options.by == "tenant" else ""
    promises.open[row.number] = Promise(group=group, due_ms=due_ms)
    if len(promises.open) > most:
        promises.open.pop(next(iter(promises.open)))
        promises.forgotten += 1
        reached("burn_rate.promises")


def _go_on(promise: Promise, row: Row, kept: Documents) -> None:
    if row.state == kept.reaches:
        promise.kept_ms = max(promise.kept_ms or 0, row.time_ms)
    if row.state == kept.reaches or row.state in ENDED:
        promise.waiting = [one for one in promise.waiting if one != row.number]
    elif row.number not in promise.waiting and len(promise.waiting) < 100:
        promise.waiting.append(row.number)


def _is_before_cut_off(row: Row, calendar: Calendar) -> bool:
    carriers = [row.carrier] if row.carrier else sorted({one.carrier for one in calendar.cut_offs})
    found = [at for carrier in carriers if (at := calendar.next_cut_off(row.time_ms, carrier)) is not None]
    return bool(found) and calendar.local(min(found)).date() == calendar.local(row.time_ms).date()


def _due_ms(row: Row, kept: Documents, calendar: Calendar) -> int | None:
    match kept.within:
        case "deadline":
            return row.deadline_ms
        case "same day":
            midnight = datetime.combine(calendar.local(row.time_ms).date() + timedelta(days=1), datetime.min.time())
            return round(midnight.replace(tzinfo=ZoneInfo(calendar.time_zone)).timestamp() * 1000) - 1
        case None:
            return None
        case duration:
            return row.time_ms + milliseconds(duration)
