"""When one tenant is the neighbour of the others, and when a load is nobody's fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from processors import columns
from processors.demands import DEMANDS, OUTCOMES, PRESSURES
from processors.step import Item
from processors.steps import contention
from schemas.metrics import BY_NAME
from schemas.records import Phase, Record, Scrape, Severity, Signal

T0 = 1_795_262_400_000
CALM, LOUD = 30, 8


def series(name: str, tenant: str, **more: str) -> str:
    pairs = ",".join(f'{key}="{value}"' for key, value in sorted({"tenant.id": tenant, **more}.items()))
    return f"{name}{{{pairs}}}"


class Cell:
    """Three tenants on one PostgreSQL, looked at every two seconds."""

    def __init__(self, **config: Any) -> None:
        self.config, self.state = contention.Config(cell="eu1", **config), contention.STEP.fresh()
        self.total = dict.fromkeys(("acme", "borealis", "cascade"), 0.0)
        self.number, self.told = 0, list[Signal]()

    def look(self, busy: Sequence[float], waits_s: Sequence[float] | None = None, **shared: float) -> None:
        at = T0 + self.number * 2_000
        self.number += 1
        if waits_s is not None:
            waits = {series(OUTCOMES[0].metric, one): wait for one, wait in zip(self.total, waits_s, strict=True)}
            self.fold(Scrape.of(dict(waits), cell="eu1", resource="log", system="odoo_log", time_ms=at))
        for tenant, more in zip(self.total, busy, strict=True):
            self.total[tenant] += more * 2
        points = {series("postgresql.active.time", one): total for one, total in self.total.items()}
        points |= {name.replace("__", "."): value for name, value in shared.items()}
        self.fold(Scrape.of(dict(points), cell="eu1", resource="pg", system="postgresql", time_ms=at, start_time_ms=T0))

    def fold(self, record: Record) -> None:
        assert contention.unit(record) == ""
        self.state, found = contention.step(self.config, self.state, Item(record.time_ms, record))
        self.told += [one for one in found if isinstance(one, Signal)]

    def looks(self, times: int, busy: Sequence[float], waits_s: Sequence[float] | None = None, **shared: float) -> None:
        for _ in range(times):
            self.look(busy, waits_s, **shared)


def test_victims_are_named_with_how_they_fare_and_what_limiting_would_free() -> None:
    cell = Cell()
    cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1))
    cell.looks(LOUD, (6.0, 0.3, 0.1), (0.1, 0.6, 0.1))
    first, last = cell.told[0], cell.told[-1]
    assert (first.cause, last.tenants, last.severity) == ("tenant.load:acme", ("borealis",), Severity.CRITICAL)
    assert any("requests of borealis take 0.50 s, usually 0.20 s" in one.text for one in last.evidence)
    assert "it would free 4.35 busy backends" in (last.advice or "")
    assert "CONNECTION LIMIT" in (last.advice or "")


def test_a_heavy_load_that_nobody_feels_is_no_finding() -> None:
    cell = Cell()
    cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1))
    cell.looks(LOUD, (6.0, 0.3, 0.1), (0.1, 0.2, 0.1))
    assert cell.told == []


def test_it_is_one_when_what_is_shared_runs_out() -> None:
    cell = Cell()
    few = {"postgresql__connection__used": 20.0, "postgresql__connection__max": 100.0}
    cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1), **few)
    cell.looks(LOUD, (6.0, 0.3, 0.1), (0.1, 0.2, 0.1), **{**few, "postgresql__connection__used": 85.0})
    assert cell.told[0].severity is Severity.WARNING
    assert cell.told[0].evidence[-1].text == "85% of the connections of pg are used; pressed from 80% on"


def test_it_is_one_when_more_sessions_are_at_work_than_there_are_cpus() -> None:
    cell = Cell()
    idle = {"postgresql__connection__working": 1.0, "postgresql__cpu__count": 2.0}
    cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1), **idle)
    cell.looks(LOUD, (6.0, 0.3, 0.1), (0.1, 0.2, 0.1), **{**idle, "postgresql__connection__working": 3.0})
    assert cell.told == []  # three share two CPUs
    cell.looks(LOUD, (6.0, 0.3, 0.1), (0.1, 0.2, 0.1), **{**idle, "postgresql__connection__working": 7.0})
    assert cell.told[0].evidence[-1].text == "sessions at work are 350% of the CPUs of pg; pressed from 200% on"


def test_another_server_of_that_kind_says_nothing_of_the_pressure_on_this_one() -> None:
    few, many = ({"postgresql__connection__used": used, "postgresql__connection__max": 100.0} for used in (20.0, 85.0))
    other = {name.replace("__", "."): value for name, value in many.items()}
    for system, told in (("postgresql", False), ("pgbouncer", True)):
        cell = Cell()
        cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1), **few)
        for _ in range(LOUD):
            cell.look((6.0, 0.3, 0.1), (0.1, 0.2, 0.1), **few)
            at_ms = T0 + cell.number * 2_000 - 1_000
            cell.fold(Scrape.of(dict(other), cell="eu1", resource="pg-other", system=system, time_ms=at_ms))
        assert bool(cell.told) is told
    assert cell.told[0].evidence[-1].text.startswith("85% of the connections of pg-other are used")


def test_a_load_that_has_multiplied_explains_what_is_unusual_of_the_shared() -> None:
    cell = Cell()
    cell.looks(CALM, (0.2, 2.0, 0.1), (0.1, 0.2, 0.1))
    cell.fold(
        Signal(
            cell="eu1", time_ms=T0 + CALM * 2_000, id="cpu", phase=Phase.OPEN, detector="baseline", cause="host.cpu:host-eu1",
            resource="host-eu1", started_ms=T0 + CALM * 2_000, severity=Severity.WARNING, score=0.7,
            summary="system.cpu.utilization of host-eu1 is 0.6, usually 0.2",
        )
    )  # fmt: skip
    cell.looks(LOUD, (0.2, 4.5, 0.1), (0.1, 0.2, 0.1))  # more, but not so many times as much
    assert cell.told == []
    cell.looks(LOUD, (6.0, 2.0, 0.1), (0.1, 0.2, 0.1))
    assert cell.told[0].cause == "tenant.load:acme"
    assert any("usually 0.2" in one.text for one in cell.told[0].evidence)


def test_who_was_slow_before_is_no_victim() -> None:
    cell = Cell()
    cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1))
    cell.looks(60, (0.2, 0.3, 0.1), (0.1, 0.2, 0.5))
    cell.looks(LOUD, (6.0, 0.3, 0.1), (0.1, 0.8, 0.5))
    assert {one.tenants for one in cell.told} == {("borealis",)}


def test_when_all_rise_together_nobody_is_the_neighbour() -> None:
    cell = Cell()
    cell.looks(CALM, (0.5, 0.4, 0.6), (0.1, 0.2, 0.1))
    cell.looks(LOUD, (4.0, 3.0, 5.0), (0.3, 0.6, 0.3))
    assert cell.told == []


def test_when_what_all_share_is_slow_the_largest_is_not_the_neighbour_of_the_small() -> None:
    cell = Cell()
    cell.looks(CALM, (0.7, 0.01, 0.02), (0.1, 0.2, 0.1))
    cell.looks(LOUD, (8.4, 0.12, 0.24), (0.4, 0.6, 0.3))
    assert cell.told == []
    cell.looks(LOUD, (60.0, 0.12, 0.24), (1.0, 0.9, 0.5))
    assert {one.cause for one in cell.told} == {"tenant.load:acme"}


def test_who_is_alone_has_no_neighbours() -> None:
    cell = Cell()
    cell.total = {"acme": 0.0}
    cell.looks(CALM, (0.2,))
    cell.looks(LOUD, (9.0,))
    assert cell.told == []


def test_jobs_that_starve_the_others_count_though_each_tenant_is_looked_at_by_itself() -> None:
    cell = Cell()
    for number in range(60):
        for place, tenant in enumerate(cell.total):
            jobs = 900.0 if tenant == "acme" and number > 40 else 3.0
            age_s = 300.0 if tenant != "acme" and number > 40 else 2.0
            state = {"odoo.queue_job.state": "pending"}
            points = {
                series("odoo.queue_job.count", tenant, **state): jobs,
                series("odoo.queue_job.age.max", tenant): age_s,
            }
            at = T0 + number * 3_000 + place * 10
            cell.fold(
                Scrape.of(
                    dict(points), cell="eu1", resource=f"odoo-{tenant}", system="odoo", time_ms=at, start_time_ms=T0
                )
            )
    assert {one.cause for one in cell.told} == {"tenant.load:acme"}
    assert set(cell.told[-1].tenants) == {"borealis", "cascade"}
    assert "give its channel a capacity of its own" in (cell.told[-1].advice or "")


def test_time_that_came_in_a_lump_after_a_lock_was_let_go_is_no_load() -> None:
    cell = Cell()
    waiting = {series("postgresql.lock.waiting", "acme"): 0.0}
    cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1), **waiting)
    cell.looks(6, (0.0, 0.3, 0.1), (9.0, 0.6, 0.1), **{next(iter(waiting)): 5.0})
    cell.looks(2, (30.0, 0.3, 0.1), (9.0, 0.6, 0.1), **waiting)
    assert cell.told == []


def test_documents_that_get_stuck_under_the_load_make_a_victim() -> None:
    cell = Cell()
    cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1))
    cell.looks(LOUD, (6.0, 0.3, 0.1), (0.1, 0.6, 0.1))
    at = T0 + cell.number * 2_000
    stuck = Signal(
        cell="eu1", time_ms=at, id="j", phase=Phase.OPEN, detector="journeys", cause="process.delayed:cascade", resource="r",
        tenant="cascade", started_ms=at, severity=Severity.WARNING, score=0.9, summary="stuck",
    )  # fmt: skip
    cell.fold(stuck)
    cell.looks(LOUD, (6.0, 0.3, 0.1), (0.1, 0.6, 0.1))
    assert cell.told[-1].tenants == ("borealis", "cascade")


def test_the_end_is_told_when_the_load_is_over() -> None:
    cell = Cell()
    cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1))
    cell.looks(LOUD, (6.0, 0.3, 0.1), (0.1, 0.6, 0.1))
    cell.looks(LOUD, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1))
    assert [one.phase for one in cell.told if one.phase is not Phase.UPDATED] == [Phase.OPEN, Phase.RESOLVED]
    assert len({one.id for one in cell.told}) == 1


def test_a_restart_of_the_server_is_no_load() -> None:
    cell = Cell()
    cell.looks(CALM, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1))
    cell.total = dict.fromkeys(cell.total, 0.0)
    cell.looks(LOUD, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1))
    assert cell.told == []


def test_tables_read_only_what_the_catalogue_knows() -> None:
    named = {one.metric for one in (*DEMANDS, *OUTCOMES, *PRESSURES)} | {one.of for one in PRESSURES if one.of}
    assert named <= set(BY_NAME)


def test_a_snapshot_that_did_not_know_of_which_resource_a_pressure_told_is_read() -> None:
    cell = Cell()
    cell.looks(1, (0.2, 0.3, 0.1), postgresql__connection__used=20.0, postgresql__connection__max=100.0)
    parts = contention.STEP.pack(cell.state)
    assert contention.STEP.unpack(parts).pressures == cell.state.pressures
    arrays, more = columns.unpack(parts[""])
    more["pressures"] = {"postgresql.connection.used": [0.2, T0]}
    assert contention.STEP.unpack({**parts, "": columns.pack(arrays, more)}).pressures == {}


def test_a_tenant_that_is_first_seen_to_wait_for_a_lock_gets_a_place_like_the_others() -> None:
    cell = Cell()
    cell.looks(3, (0.2, 0.3, 0.1))
    at_ms = T0 + 100_000
    points = {series("postgresql.active.time", one): total + 1 for one, total in cell.total.items()}
    points[series("postgresql.lock.waiting", "dorado")] = 2.0
    cell.fold(Scrape.of(dict(points), cell="eu1", resource="pg", system="postgresql", time_ms=at_ms, start_time_ms=T0))
    assert cell.state.tenants == ["acme", "borealis", "cascade", "dorado"]
    assert cell.state.pools["pg"].beside["waiting"].size == 4


def test_a_look_that_lies_before_the_last_one_teaches_nothing() -> None:
    cell = Cell()
    cell.looks(5, (0.2, 0.3, 0.1), (0.1, 0.2, 0.1))
    earlier = T0 - 40 * 86_400_000
    cell.fold(
        Scrape.of(
            {series(OUTCOMES[0].metric, "acme"): 9.0}, cell="eu1", resource="log", system="odoo_log", time_ms=earlier
        )
    )
    points: dict[str, float | None] = {series("postgresql.active.time", one): 1.0 for one in cell.total}
    cell.fold(Scrape.of(points, cell="eu1", resource="pg", system="postgresql", time_ms=earlier, start_time_ms=T0))
    pool = cell.state.pools["pg"]
    assert all(np.isfinite(pool.grid[name]).all() for name in ("usual", "spread"))
