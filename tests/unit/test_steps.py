"""Examples that explain the steps: each is a situation in an Odoo host, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from processors.step import Item, Step
from processors.steps import baseline, contention, correlator, locks
from schemas.estate import Estate
from schemas.records import Change, Incident, OperationsEvent, Phase, Scrape, Severity, Signal
from tests.support.folding import folded

T0 = 1_795_262_400_000  # a Saturday noon, UTC

ESTATE = Estate.model_validate(
    {
        "cells": [
            {
                "name": "eu1",
                "tenants": [{"name": "acme", "calendar": "days"}, {"name": "borealis", "calendar": "days"}],
                "resources": [
                    {"name": "valkey-eu1", "system": "redis"},
                    {"name": "odoo-acme", "system": "odoo", "tenant": "acme", "depends_on": ["valkey-eu1"]},
                    {"name": "odoo-borealis", "system": "odoo", "tenant": "borealis"},
                ],
            }
        ],
        "calendars": [
            {
                "name": "days",
                "shifts": [{"days": ["saturday"], "opens": "06:00", "closes": "22:00"}],
                "campaigns": [
                    {"name": "sale", "starts": "2026-11-21T12:10:00Z", "ends": "2026-11-21T12:12:00Z", "load": 3}
                ],
            }
        ],
    }
)


def config(step: Step[Any, Any], **more: Any) -> Any:
    return step.config(cell="eu1", estate=ESTATE, **more)


def run(step: Step[Any, Any], items: Iterable[Item], *, until_ms: int = 0, **more: Any) -> list[Any]:
    """Fold items and the ticks between them; gives what is told."""
    return folded(step, config(step, **more), items, until_ms=until_ms)


def scrapes(values: Sequence[float | None], name: str, system: str = "redis", **more: Any) -> list[Item]:
    """One value every two seconds."""
    out = []
    for number, value in enumerate(values):
        at = T0 + number * 2_000
        out.append(
            Item(at, Scrape.of({name: value}, cell="eu1", resource="valkey-eu1", system=system, time_ms=at, **more))
        )
    return out


PING = "redis.ping.duration"
CALM = [0.001, 0.0012, 0.0009, 0.0011] * 10


def test_a_slow_redis_is_told_once_and_its_end() -> None:
    told = run(baseline.STEP, scrapes([*CALM, 0.5, 0.5, 0.5, *CALM], PING))
    assert [(one.phase, one.cause) for one in told] == [
        (Phase.OPEN, "redis.latency:valkey-eu1"),
        (Phase.RESOLVED, "redis.latency:valkey-eu1"),
    ]
    assert told[0].id == told[1].id


def test_what_was_never_at_nought_has_a_level_however_it_stirs() -> None:
    stirring = [0.0004, 0.0003, 0.003, 0.0004, 0.0002, 0.0005] * 10
    assert [one.phase for one in run(baseline.STEP, scrapes([*stirring, 0.3, 0.3, 0.3], PING))] == [Phase.OPEN]
    at_rest = [0.0, 0.0, 4.0, 0.0, 0.0, 1.0] * 10
    assert run(baseline.STEP, scrapes([*at_rest, 300.0, 300.0, 300.0], PING)) == []


def test_a_single_odd_value_is_no_episode() -> None:
    assert run(baseline.STEP, scrapes([*CALM, 0.5, *CALM], PING)) == []


def test_a_departure_that_matters_to_nobody_is_no_episode() -> None:
    """Ten times the usual, but below the floor of 20 ms."""
    assert run(baseline.STEP, scrapes([*CALM, 0.01, 0.01, 0.01, 0.01], PING)) == []


@pytest.mark.parametrize(("level", "causes"), [(0.47, set()), (0.8, {"storage.full:valkey-eu1"})])
def test_what_has_a_limit_is_unusual_once_less_is_left_than_it_has_taken(level: float, causes: set[str]) -> None:
    usual = [0.38 + 0.001 * (number % 3) for number in range(40)]
    name = 'system.filesystem.utilization{system.filesystem.mountpoint="/"}'
    told = run(baseline.STEP, scrapes([*usual, *[level] * 5], name, "host"))
    assert {one.cause for one in told} == causes


@pytest.mark.parametrize(("limit", "causes"), [(1000.0, set()), (200.0, {"postgresql.connections:pg"})])
def test_a_limit_is_read_beside_what_it_limits(limit: float, causes: set[str]) -> None:
    items = []
    for number, used in enumerate([60.0 + number % 3 for number in range(40)] + [160.0] * 5):
        at = T0 + number * 2_000
        points: dict[str, float | None] = {"postgresql.connection.used": used, "postgresql.connection.max": limit}
        scrape = Scrape.of(points, cell="eu1", resource="pg", system="postgresql", time_ms=at)
        items.append(Item(at, scrape))
    assert {one.cause for one in run(baseline.STEP, items)} == causes


def test_a_gap_is_not_a_zero() -> None:
    """One that is usually 1 and must not fall: not measured is neither a fall nor a lesson."""
    assert run(baseline.STEP, scrapes([*[1.0] * 40, *[None] * 30, *[1.0] * 5], "redis.persistence.ok")) == []
    assert run(baseline.STEP, scrapes([*[1.0] * 40, *[0.0] * 3], "redis.persistence.ok"))


def test_a_value_that_was_not_measured_once_does_not_hide_what_comes_after_it() -> None:
    told = run(baseline.STEP, scrapes([*CALM, None, *CALM, 0.5, 0.5, 0.5], PING))
    assert [one.cause for one in told] == ["redis.latency:valkey-eu1"]


def test_a_level_without_a_past_is_no_news_when_the_hour_turns() -> None:
    # In the hour that ends the profile learns what until then only the offset knew.
    assert run(baseline.STEP, scrapes([1.0] * 4_000, "pilothouse.collector.up", "pilothouse")) == []


def test_a_counter_that_falls_is_a_reset_and_no_rate() -> None:
    counter = [float(number * 10) for number in range(40)]
    assert run(baseline.STEP, scrapes([*counter, *counter], "redis.errors")) == []


def test_a_scrape_of_last_year_changes_nothing() -> None:
    old = Scrape.of({PING: 9.0}, cell="eu1", resource="valkey-eu1", system="redis", time_ms=T0 - 31_536_000_000)
    items = [*scrapes(CALM, PING), Item(T0 + 80_000, old), Item(T0 + 80_000, old), Item(T0 + 80_000, old)]
    assert run(baseline.STEP, items) == []


def blocked(number: int, count: int, longest_s: float) -> Item:
    at = T0 + number * 2_000
    attributes = {
        "postgresql.waiting.count": count,
        "postgresql.waiting.max_s": longest_s,
        "postgresql.blocker.pid": 4711,
        "user.name": "finance",
        "db.query.text": "UPDATE account_move SET state = ?",
    }
    return Item(
        at,
        OperationsEvent(
            cell="eu1", time_ms=at, resource="pg", system="postgresql", tenant="acme", name=locks.BLOCKED,
            attributes=attributes,
        ),
    )  # fmt: skip


def test_a_lock_names_the_blocker_its_statement_and_its_tenant() -> None:
    told = run(locks.STEP, [blocked(number, 4, 2.0 * number) for number in range(4)], until_ms=T0 + 60_000)
    assert [(one.phase, one.cause) for one in told] == [
        (Phase.OPEN, "postgresql.lock:acme"),
        (Phase.RESOLVED, "postgresql.lock:acme"),
    ]
    said = " ".join(one.text for one in told[0].evidence)
    assert "user finance" in said
    assert "UPDATE account_move" in said
    assert "pg_terminate_backend(4711)" in (told[0].advice or "")


def test_a_short_wait_is_no_finding() -> None:
    assert run(locks.STEP, [blocked(0, 1, 0.6)], until_ms=T0 + 60_000) == []


def loads(acme: Sequence[float], borealis: Sequence[float], start: int = 0) -> list[Item]:
    """Busy backends of two tenants at each look, as the cumulative counters say it."""
    out, total = [], {"acme": 0.0, "borealis": 0.0}
    for number, pair in enumerate(zip(acme, borealis, strict=True), start):
        for tenant, busy in zip(total, pair, strict=True):
            total[tenant] += busy * 2
        at = T0 + number * 2_000
        points = {f'postgresql.active.time{{tenant.id="{tenant}"}}': seconds for tenant, seconds in total.items()}
        scrape = Scrape.of(dict(points), cell="eu1", resource="pg", system="postgresql", time_ms=at, start_time_ms=T0)
        out.append(Item(at, scrape))
    return out


def test_a_neighbour_that_takes_the_server_is_named() -> None:
    told = run(contention.STEP, loads([0.2] * 30 + [6.0] * 5, [0.3] * 35))
    assert {one.cause for one in told} == {"tenant.load:acme"}


def test_load_that_all_tenants_share_is_nobodys_fault() -> None:
    assert run(contention.STEP, loads([0.2] * 30 + [2.0] * 5, [0.3] * 30 + [3.0] * 5)) == []


def signal(cause: str, at_s: float, phase: Phase = Phase.OPEN, tenant: str | None = None, **more: Any) -> Item:
    at = T0 + round(at_s * 1000)
    told = Signal(
        cell="eu1", time_ms=at, id=f"s-{cause}", phase=phase, detector="test", cause=cause, resource="r", tenant=tenant,
        started_ms=at, severity=Severity.WARNING, score=0.9, summary=f"{cause} is ill", **more,
    )  # fmt: skip
    return Item(at, told)


def change(revision: str, at_s: float, status: str = "succeeded", previous: str | None = None) -> Item:
    at = T0 + round(at_s * 1000)
    made = Change(
        cell="eu1", time_ms=at, change_id=f"c-{revision}-{at_s}", kind="release", status=status, service="odoo", revision=revision,
        previous_revision=previous, tenants=("acme",), origin="github",
    )  # fmt: skip
    return Item(at, made)


def incidents(items: list[Item], until_s: float = 30) -> list[Incident]:
    return [
        one for one in run(correlator.STEP, items, until_ms=T0 + round(until_s * 1000)) if isinstance(one, Incident)
    ]


def test_a_slow_redis_explains_the_queue_and_the_pickings() -> None:
    told = incidents(
        [
            signal("redis.latency:valkey-eu1", 1),
            signal("queue.backlog:acme", 2, tenant="acme"),
            signal("process.delayed:acme", 3, tenant="acme"),
        ]
    )
    assert {one.id for one in told} == {told[0].id}
    causes = told[-1].causes
    assert causes[0].cause == "redis.latency:valkey-eu1"
    assert sum(one.probability for one in causes) == pytest.approx(1, abs=0.001)
    assert told[-1].tenants == ("acme",)


def test_dead_workers_after_a_release_are_the_releases_doing() -> None:
    told = incidents([change("2.4.1", 0), signal("odoo.workers:acme", 10, tenant="acme")])
    assert told[-1].causes[0].cause == "release:odoo@2.4.1"
    assert "Roll back odoo@2.4.1" in (told[-1].advice or "")


def test_a_release_to_others_explains_nothing_here() -> None:
    told = incidents([change("2.4.1", 0), signal("odoo.workers:borealis", 10, tenant="borealis")])
    assert told[-1].causes[0].cause == "odoo.workers:borealis"


def test_rolling_back_is_no_new_suspect() -> None:
    items = [
        change("2.4.1", 0, previous="2.4.0"),
        signal("odoo.workers:acme", 10, tenant="acme"),
        change("2.4.0", 20, "started", previous="2.4.1"),
        change("2.4.0", 21, "rolled_back", previous="2.4.1"),
    ]
    assert {one.causes[0].cause for one in incidents(items)} == {"release:odoo@2.4.1"}


def test_a_lock_of_one_tenant_explains_nothing_of_another() -> None:
    told = incidents(
        [signal("postgresql.lock:acme", 1, tenant="acme"), signal("odoo.workers:borealis", 2, tenant="borealis")]
    )
    assert {one.causes[0].cause for one in told} == {"postgresql.lock:acme", "odoo.workers:borealis"}


def test_a_lone_symptom_is_told_only_when_it_lasts() -> None:
    assert incidents([signal("odoo.latency:acme", 1, tenant="acme")], until_s=20) == []
    assert incidents([signal("odoo.latency:acme", 1, tenant="acme")], until_s=120)


def test_a_story_ends_when_all_of_it_has_ended() -> None:
    told = incidents(
        [
            signal("redis.latency:valkey-eu1", 1),
            signal("queue.backlog:acme", 2, tenant="acme"),
            signal("redis.latency:valkey-eu1", 10, Phase.RESOLVED),
            signal("queue.backlog:acme", 14, Phase.RESOLVED, tenant="acme"),
        ],
        until_s=60,
    )
    assert [one.phase for one in told][-1] is Phase.RESOLVED
    assert told[-1].causes[0].cause == "redis.latency:valkey-eu1"
    assert told[-1].time_ms >= T0 + 24_000
    assert [one.version for one in told] == list(range(1, len(told) + 1))


def test_who_shares_the_server_with_a_noisy_neighbour_is_named_and_the_neighbour_is_not() -> None:
    at = signal("tenant.load:borealis", 1, tenant="borealis")
    told = incidents([Item(at.at_ms, at.record.model_copy(update={"resource": "valkey-eu1"}))])
    assert told[-1].tenants == ("acme",)
