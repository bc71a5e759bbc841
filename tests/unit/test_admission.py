"""Places for series: what is bounded, what keeps its place, what is forgotten, and that all of it is a property of the log."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from processors.admission import FORGET, HOUR, PART, QUANTUM_MS, Admission, Forgotten, Limits, Refused
from processors.fold import PartitionFold, Plan
from processors.steps.registry import chosen
from schemas.calendar import DAY_MS, HOUR_MS, MINUTE_MS
from schemas.codec import Envelope, Received
from schemas.estate import Estate
from schemas.records import Change, Heartbeat, OperationsEvent, Record, Scrape, Signal
from schemas.series import identity, split
from schemas.topics import INPUTS, METRICS, OPERATIONS

T0 = 1_795_230_000_000 // QUANTUM_MS * QUANTUM_MS
ESTATE = Estate.model_validate(
    {
        "cells": [
            {
                "name": "eu1",
                "tenants": [{"name": "acme"}, {"name": "borealis"}],
                "resources": [{"name": "pg", "system": "postgresql"}, {"name": "valkey", "system": "redis"}],
            }
        ]
    }
)
SMALL = Limits(
    resource_series=40, other_series=20, cell_series=100, source_series=80, foreign_resource_series=20, foreign_series=40,
    foreign_source_series=30, foreign_resources=4, foreign_tenants=3, foreign_cells=2, foreign_cell_series=10, foreign_cell_resources=2,
)  # fmt: skip


def scrape(resource: str, names: list[str], at_ms: int = T0, *, cell: str = "eu1", system: str = "otlp") -> Scrape:
    points = dict.fromkeys(names, 1.0)
    return Scrape.of(points, cell=cell, resource=resource, system=system, time_ms=at_ms)


def ids(prefix: str, count: int, metric: str = "shop.requests") -> list[str]:
    return sorted(identity(metric, {"id": f"{prefix}-{number}"}) for number in range(count))


def kept(admission: Admission, record: Record, at_ms: int = T0, source: str = "s") -> list[str]:
    found, _ = admission.admit(at_ms, source, record)
    return split(found.series) if isinstance(found, Scrape) else []


@pytest.fixture
def small() -> Admission:
    return Admission(ESTATE, SMALL)


def test_what_is_within_the_bounds_passes_as_it_is(small: Admission) -> None:
    record = scrape("pg", ids("a", 10))
    assert small.admit(T0, "s", record) == (record, [])
    assert small.admit(T0, "s", record)[0] is record


def test_what_has_a_place_keeps_it_in_a_flood_of_its_own_resource(small: Admission) -> None:
    mine = ids("mine", 5)
    assert kept(small, scrape("app", mine)) == mine
    for wave in range(20):
        assert len(kept(small, scrape("app", ids(f"flood{wave}", 100)), source="bad")) <= 20
        assert kept(small, scrape("app", mine)) == mine


def test_a_flood_takes_nothing_from_declared_resources(small: Admission) -> None:
    for wave in range(20):
        kept(small, scrape(f"flood{wave}", ids("x", 100)), source="bad")
    mine = ids("mine", 40, "postgresql.connection.count")
    assert kept(small, scrape("pg", mine, system="postgresql")) == mine


def test_one_publisher_cannot_fill_what_nobody_declared(small: Admission) -> None:
    for wave in range(3):
        kept(small, scrape(f"flood{wave}", ids("x", 100)), source="bad")
    mine = ids("mine", 10)
    assert kept(small, scrape("shop", mine), source="good") == mine


def test_metrics_of_the_catalogue_come_before_others(small: Admission) -> None:
    others, known = ids("a", 100), ids("z", 20, "postgresql.connection.count")
    assert set(kept(small, scrape("pg", others))) <= set(others)
    assert kept(small, scrape("pg", known)) == known
    both = kept(small, scrape("valkey", [*others, *known]))
    assert set(known) <= set(both)
    assert len(both) == 40


def test_columns_without_a_place_are_left_out_and_the_others_keep_their_values(small: Admission) -> None:
    names = ids("a", 100)
    points: dict[str, float | None] = {name: float(number) for number, name in enumerate(sorted(names))}
    record = Scrape.of(points, cell="eu1", resource="app", system="otlp", time_ms=T0)
    found, _ = small.admit(T0, "s", record)
    assert isinstance(found, Scrape)
    assert len(found.values) == 20
    assert all(points[name] == value for name, value in zip(split(found.series), found.values, strict=True))


def test_it_is_told_what_has_no_place_and_what_that_has_in_common(small: Admission) -> None:
    named = [identity("shop.requests", {"path": f"/{n}", "method": "get"}) for n in range(100)]
    _, (told,) = small.admit(T0, "bad", scrape("app", named))
    assert isinstance(told, Refused)
    assert (told.bound, told.source, told.series, told.followed) == ("admission.series.resource", "bad", 80, 20)
    assert (told.metric, told.of_metric, told.attribute, told.distinct) == ("shop.requests", 80, "path", 80)


def test_resources_beyond_the_bound_are_refused(small: Admission) -> None:
    for number in range(4):
        assert kept(small, scrape(f"r{number}", ["a"]), source="st"[number % 2])
    found, (told,) = small.admit(T0, "u", scrape("r9", ["a"]))
    assert found is None
    assert isinstance(told, Refused)
    assert told.bound == "admission.resources"
    assert kept(small, scrape("pg", ["a"]))


def test_events_need_no_place_of_their_resource(small: Admission) -> None:
    """A lock in a database that nobody declared is told whatever else floods the cell."""
    for number in range(50):
        kept(small, scrape(f"r{number}", ["a"]))
    event = OperationsEvent(
        cell="eu1", resource="pg9", system="postgresql", time_ms=T0, tenant="acme", name="postgresql.lock.blocked"
    )
    assert small.admit(T0, "s", event) == (event, [])


def test_one_publisher_takes_no_more_than_half_of_the_places_for_undeclared_resources(small: Admission) -> None:
    for number in range(50):
        kept(small, scrape(f"r{number}", ["a"]), source="bad")
    assert kept(small, scrape("mine", ["a"]), source="good")


def test_a_silence_passes_whatever_floods_its_cell(small: Admission) -> None:
    for number in range(50):
        kept(small, scrape(f"r{number}", ["a"]))
    silence = OperationsEvent(cell="eu1", resource="eu1", system="pilothouse", time_ms=T0, name="pilothouse.silence")
    assert small.admit(T0, "s", silence)[0] is silence


def test_undeclared_tenants_are_bounded_and_declared_ones_are_not(small: Admission) -> None:
    of = {
        name: identity("redis.queue.length", {"tenant.id": name})
        for name in ("acme", "t1", "t2", "t3", "t4", "borealis")
    }
    assert set(kept(small, scrape("valkey", list(of.values())))) == {one for name, one in of.items() if name != "t4"}
    event = OperationsEvent(
        cell="eu1", resource="pg", system="s", time_ms=T0, tenant="t9", name="postgresql.lock.blocked"
    )
    assert small.admit(T0, "s", event)[0] is None
    assert small.admit(T0, "s", event.model_copy(update={"tenant": "acme"}))[0] is not None


def test_undeclared_cells_are_few_and_small_and_are_told_where_somebody_looks(small: Admission) -> None:
    kept(small, scrape("pg", ["a"]))
    for number in range(2):
        assert len(kept(small, scrape("r", ids("a", 100), cell=f"lost{number}"))) == 10
    found, (told,) = small.admit(T0, "bad", scrape("r", ["a"], cell="lost9"))
    assert found is None
    assert isinstance(told, Refused)
    assert (told.cell, told.bound, told.sample) == ("eu1", "admission.cells", "lost9")
    day = T0 + 40 * DAY_MS
    assert kept(small, scrape("r", ["a"], day, cell="lost9"), day)
    assert small.gone == ["lost0", "lost1"]


def test_changes_and_findings_of_a_known_cell_always_pass(small: Admission) -> None:
    change = Change(
        cell="eu1", time_ms=T0, change_id="c", kind="release", status="succeeded", service="odoo", revision="1", origin="generic",
    )  # fmt: skip
    assert small.admit(T0, "s", change) == (change, [])


def forgotten(told: list[Record]) -> Iterator[Forgotten]:
    return (one for one in told if isinstance(one, Forgotten))


def test_series_that_come_and_go_find_places_for_ever() -> None:
    """Pods: two new series every ten minutes, each gone after half an hour, for a month, with places for two hours of them."""
    small, gone = Admission(ESTATE, replace(SMALL, foreign_resource_series=24, other_series=24)), 0
    for number in range(30 * 144):
        at_ms = T0 + number * QUANTUM_MS
        names = [identity("shop.requests", {"pod": f"{number - age}-{one}"}) for age in range(3) for one in range(2)]
        found, told = small.admit(at_ms, "s", scrape("app", names, at_ms))
        assert isinstance(found, Scrape)
        assert len(split(found.series)) == 6
        gone += sum(len(one.series) for one in forgotten(told))
    assert gone > 2 * 30 * 144 - 100


@pytest.mark.parametrize(("away_days", "stays"), [(3, True), (21, True), (34, True), (36, False)])
def test_a_baseline_outlives_a_holiday_and_not_a_season(away_days: int, stays: bool) -> None:
    admission, told = Admission(ESTATE, replace(SMALL, resource_series=20_000)), list[Record]()
    for hour in range(14 * 24):
        told += admission.admit(T0 + hour * HOUR_MS, "s", scrape("valkey", ids("a", 10)))[1]
    back_ms = T0 + 14 * DAY_MS + away_days * DAY_MS
    told += admission.admit(back_ms, "s", scrape("pg", ids("a", 10)))[1]  # the cell goes on
    told += admission.admit(back_ms + HOUR_MS, "s", scrape("valkey", ids("a", 10)))[1]
    assert bool(list(forgotten(told))) is not stays


def test_under_pressure_what_lived_long_stays_and_what_lived_shortly_goes(small: Admission) -> None:
    old, brief = ids("old", 10), ids("brief", 10)
    for hour in range(7 * 24):
        kept(small, scrape("app", old), T0 + hour * HOUR_MS)
    then_ms = T0 + 7 * DAY_MS
    assert kept(small, scrape("app", [*old, *brief]), then_ms) == sorted([*old, *brief])
    kept(small, scrape("app", ["alive"]), then_ms)
    later_ms = then_ms + 5 * HOUR_MS
    new = ids("new", 10)
    found, told = small.admit(later_ms, "s", scrape("app", new))
    assert isinstance(found, Scrape)
    assert split(found.series) == new
    (gone,) = forgotten(told)
    assert set(gone.series) == set(brief)
    assert kept(small, scrape("app", old), later_ms) == old


def test_a_resource_that_is_away_for_five_weeks_is_forgotten_as_a_whole(small: Admission) -> None:
    kept(small, scrape("app", ["a"]))
    kept(small, scrape("app", ["b"], system="pilothouse"), T0 + 20 * DAY_MS)
    _, told = small.admit(T0 + 36 * DAY_MS, "s", scrape("pg", ["a"]))
    assert [(one.system, one.is_whole, one.is_last) for one in forgotten(told)] == [("otlp", True, False)]
    _, told = small.admit(T0 + 60 * DAY_MS, "s", scrape("pg", ["a"]))
    assert [(one.system, one.is_whole, one.is_last) for one in forgotten(told)] == [("pilothouse", True, True)]


@pytest.mark.parametrize("seed", range(8))
def test_a_restart_at_any_place_decides_the_same(seed: int) -> None:
    """Drawn records of drawn publishers against the bounds; one admission lives on, the other is restored after each record."""
    rng, at_ms = random.Random(seed), T0
    living, restored = Admission(ESTATE, SMALL), Admission(ESTATE, SMALL)
    for _ in range(400):
        at_ms += rng.choice([1_000, MINUTE_MS, QUANTUM_MS, HOUR_MS, 12 * HOUR_MS, rng.choice([MINUTE_MS, 10 * DAY_MS])])
        cell, resource = (
            rng.choice(["eu1", "eu1", "eu1", "lost", "gone", "away"]),
            rng.choice(["pg", "valkey", "a", "b", "c", "d", "e"]),
        )
        metric = rng.choice(["shop.requests", "postgresql.connection.count"])
        record: Record = scrape(
            resource, ids(rng.choice("uvwxyz"), rng.randint(0, 50), metric), at_ms, cell=cell, system=rng.choice("st")
        )
        if rng.random() < 0.2:
            tenant = f"t{rng.randint(0, 6)}"
            record = OperationsEvent(cell=cell, resource=resource, system="s", time_ms=at_ms, tenant=tenant, name="x")
        source = rng.choice(["one", "two", "three"])
        assert living.admit(at_ms, source, record) == restored.admit(at_ms, source, record)
        parts = dict(restored.pack())
        assert parts == dict(living.pack())
        restored = Admission(ESTATE, SMALL)
        keys = list(parts)
        rng.shuffle(keys)
        restored.restore({key: parts[key] for key in keys})
        restored.gone, living.gone = [], []


def test_quanta_are_whole_hours() -> None:
    assert HOUR * QUANTUM_MS == HOUR_MS
    assert FORGET * QUANTUM_MS == 35 * DAY_MS


def test_a_flood_of_series_leaves_the_state_small_and_a_lock_told() -> None:
    """100,000 series from one publisher through every step: bounded, told with who and what, and a lock in the same cell is told."""
    fold = PartitionFold(Plan.of(chosen(()), ESTATE))
    offsets, found, sequence = [0] * len(INPUTS), list[Record](), 0

    def feed(topic: int, message: Received | Heartbeat) -> None:
        found.extend(one.record for one in fold.feed(topic, offsets[topic], message))
        offsets[topic] += 1

    for second in range(20):
        at_ms, sequence = T0 + second * 1_000, sequence + 2
        flood = scrape("pg", ids(str(second), 5_000), at_ms, system="postgresql")
        feed(INPUTS.index(METRICS), Received(Envelope("bad", sequence, at_ms), flood))
        lock = OperationsEvent(
            cell="eu1", resource="pg", system="postgresql", tenant="acme", time_ms=at_ms, name="postgresql.lock.blocked",
            attributes={"postgresql.waiting.count": 4, "postgresql.waiting.max_s": 1.0 + second},
        )  # fmt: skip
        feed(INPUTS.index(OPERATIONS), Received(Envelope("good", sequence + 1, at_ms), lock))
        for topic in fold.plan.listens:
            feed(topic, Heartbeat(publisher="p", time_ms=at_ms + 1))
    assert not fold.failures
    causes = {one.cause: one for one in found if isinstance(one, Signal)}
    assert "postgresql.lock:acme" in causes
    said = " ".join(fact.text for fact in causes["pilothouse.series:pg"].evidence)
    for part in ("shop.requests", "attribute id", "published by bad"):
        assert part in said
    parts = fold.snapshot()
    assert sum(map(len, parts.values())) < 20 * 2**20
    (names,) = (data for key, data in parts.items() if key[:2] == (PART, "eu1") and key[2] == "pg|postgresql")
    assert names.count(b"shop.requests") == Limits().other_series
