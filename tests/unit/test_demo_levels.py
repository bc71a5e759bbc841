"""The promises of the demo's company: a long fault burns the budget and its incident shows it, a short one and health do not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pilothouse.demo import history, levels
from pilothouse.demo.company import CELLS, DAY_MS, Plan
from pilothouse.demo.estate import calendars
from processors.fold import CellFold
from processors.fold import Plan as FoldPlan
from processors.step import Findings, Item
from processors.steps import burn_rate, correlator, locks
from schemas.estate import Cell, Estate, Tenant
from schemas.records import Incident, OperationsEvent, Record, Scrape, Signal
from schemas.series import split

NOW_MS = 1_795_240_000_000
SHARED = CELLS[0]
PLAN = Plan.at(NOW_MS)
ESTATE = Estate(
    cells=(Cell(name=SHARED.name, tenants=tuple(Tenant(name=one.name, calendar=one.calendar) for one in SHARED.tenants)),),
    calendars=calendars(PLAN),
    openslo=levels.documents(),
)  # fmt: skip
REQUESTS, ERRORS = 'odoo.http.requests{http.response.status_class="2xx"', 'odoo.http.errors{tenant.id="acme"'
LOOK_MS = 2_000


class Company:
    """The shared cell with three days behind it, whose acme may answer with errors while a lock is held."""

    def __init__(self) -> None:
        steps = (locks.STEP, burn_rate.STEP, correlator.STEP)
        self.fold, self.found = CellFold(FoldPlan(steps, ESTATE), SHARED.name), Findings()
        for at_ms, records in history.past(PLAN, (SHARED,), NOW_MS):
            if at_ms > NOW_MS - 3 * DAY_MS:
                for record in records:
                    self._take(record, at_ms)
                    if isinstance(record, Scrape) and record.system == "odoo_log":
                        self.log = record
        self.now_ms = NOW_MS

    def _take(self, record: Record, at_ms: int) -> None:
        self.found += self.fold.tick(at_ms)
        self.found += self.fold.fold(Item(at_ms, record))

    def live(self, seconds: int, *, ill: bool = False) -> Company:
        """So many seconds; while ill, every request of acme fails, and sessions of it wait for a lock."""
        for _ in range(seconds * 1_000 // LOOK_MS):
            self.now_ms += LOOK_MS
            for record in self._look(ill=ill):
                self._take(record, self.now_ms)
        return self

    def _look(self, *, ill: bool) -> Iterator[Record]:
        values = []
        for name, value in zip(split(self.log.series), self.log.values, strict=True):
            rises = 20.0 if name.startswith("odoo.http.requests") else 0.0
            values.append((value or 0.0) + (20.0 if ill and name.startswith(ERRORS) else rises))
        self.log = self.log.model_copy(update={"values": tuple(values), "time_ms": self.now_ms})
        yield self.log
        if ill:
            attributes = {"postgresql.waiting.count": 4, "postgresql.waiting.max_s": 8.0, "postgresql.blocker.pid": 7}
            yield OperationsEvent(
                cell=SHARED.name, time_ms=self.now_ms, resource=SHARED.postgres, system="postgresql", tenant="acme",
                name=locks.BLOCKED, attributes=attributes,
            )  # fmt: skip

    @property
    def burning(self) -> list[Signal]:
        """What was told of budgets."""
        return [one for one in self.found if isinstance(one, Signal) and one.cause.startswith("slo.burn")]


@pytest.fixture(scope="module")
def past() -> Company:
    return Company()


def test_both_promises_are_declared_for_each_tenant() -> None:
    assert [(one.name, one.options.by) for one in ESTATE.slos] == [
        ("web-answers", "tenant"),
        ("shipped-the-same-day", "tenant"),
    ]


def test_health_and_half_a_minute_of_errors_page_nobody_and_minutes_of_them_stand_in_the_incident_of_their_cause(
    past: Company,
) -> None:
    assert past.live(300).live(24, ill=True).live(180).burning == []
    (told, *_) = past.live(240, ill=True).burning
    assert (told.cause, told.tenants, told.severity.name) == ("slo.burn:web-answers/acme", ("acme",), "CRITICAL")
    assert "The web answers without an error of acme burns its error budget" in told.summary
    last = next(one for one in reversed(past.found) if isinstance(one, Incident))
    assert last.causes[0].cause == "postgresql.lock:acme"
    assert told.id in (*last.signals, *(one.signal for one in last.inhibited))
