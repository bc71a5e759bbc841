"""Stories that explain the correlator: what is told of hand-made signals, as one incident a story."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.step import Item
from processors.steps import watchdog
from processors.steps.correlator import STEP, grouping, quiet
from processors.steps.correlator.state import State
from processors.steps.correlator.tables import EXPLAINS, KINDS
from schemas.estate import Estate
from schemas.impact import CutOffStake, Impact, Stake
from schemas.records import Change, Evidence, Incident, Phase, Role, Scrape, Severity, Signal, Verdict
from schemas.silences import LONGEST_MS, Silence
from tests.support.folding import folded, restarted

T0 = 1_795_262_400_000  # 2026-11-21T12:00:00Z
DAY_MS = 86_400_000

ESTATE = Estate.model_validate(
    {
        "cells": [
            {
                "name": "eu1",
                "tenants": [
                    {"name": "acme", "tier": "critical", "calendar": "kept"},
                    {"name": "borealis", "tier": "low"},
                    {"name": "cascade"},
                ],
                "resources": [
                    {"name": "host-eu1", "system": "host"},
                    {"name": "pg-eu1", "system": "postgresql"},
                    {"name": "valkey-eu1", "system": "redis"},
                    {"name": "valkey-old", "system": "redis"},
                    {"name": "odoo-acme", "system": "odoo", "tenant": "acme", "depends_on": ["pg-eu1", "valkey-eu1"]},
                    {"name": "odoo-borealis", "system": "odoo", "tenant": "borealis", "depends_on": ["pg-eu1", "valkey-eu1"]},
                    {"name": "odoo-cascade", "system": "odoo", "tenant": "cascade", "depends_on": ["pg-eu1", "valkey-old"]},
                ],
            }
        ],
        "calendars": [
            {
                "name": "kept",
                "cut_offs": [{"carrier": "DHL", "at": "16:00", "days": ["saturday"]}],
                "maintenance": [{"name": "upgrade", "starts": "2026-11-21T14:00:00Z", "ends": "2026-11-21T15:00:00Z"}],
            }
        ],
    }
)  # fmt: skip
MAINTENANCE_S, MAINTAINED_S = 7_200, 10_800


def signal(cause: str, at_s: float, end_s: float | None = None, **more: Any) -> list[Item]:
    """A signal that opens at `at_s` and ends at `end_s`; its tenant is the cause's, when that is one."""
    place = cause.partition(":")[2]
    tenant = more.pop("tenant", place if place in ("acme", "borealis", "cascade") else None)
    at = T0 + round(at_s * 1000)
    fields: dict[str, Any] = {
        "id": f"{cause}-{at_s:g}", "detector": "test", "resource": more.pop("resource", place), "tenant": tenant,
        "started_ms": at, "severity": Severity.WARNING, "score": 0.9, "summary": f"{cause} is ill",
    } | more  # fmt: skip
    told = Signal(cell="eu1", time_ms=at, phase=Phase.OPEN, cause=cause, **fields)
    found = [Item(at, told)]
    if end_s is not None:
        end = T0 + round(end_s * 1000)
        found.append(Item(end, told.model_copy(update={"phase": Phase.RESOLVED, "time_ms": end})))
    return found


def change(
    revision: str, at_s: float, previous: str | None = None, *, kind: str = "release", **more: Any
) -> list[Item]:
    at = T0 + round(at_s * 1000)
    fields = {"status": "succeeded", "service": "odoo", "origin": "github"} | more
    made = Change(
        cell="eu1", time_ms=at, change_id=f"c-{revision}-{at_s}", kind=kind, revision=revision, previous_revision=previous,
        **fields,
    )  # fmt: skip
    return [Item(at, made)]


def fold(*items: Iterable[Item], until_s: float = 60, restart_every: int = 0, **more: Any) -> list[Incident]:
    """All items in the order of time, with the ticks between them; the state may go through a snapshot now and then."""
    ordered = sorted((one for part in items for one in part), key=lambda item: item.at_ms)
    config, numbers, snapshot = STEP.config(cell="eu1", estate=ESTATE, **more), itertools.count(), restarted(STEP)

    def between(state: Any) -> Any:
        return snapshot(state) if restart_every and next(numbers) % restart_every == 0 else state

    told = folded(STEP, config, ordered, until_ms=T0 + round(until_s * 1000), between=between)
    return [one for one in told if isinstance(one, Incident)]


def last(told: list[Incident]) -> dict[str, Incident]:
    """The last telling of each incident."""
    return {one.id: one for one in told}


def only(told: list[Incident]) -> Incident:
    """The last telling of the one incident that there is."""
    (found,) = last(told).values()
    return found


def top(incident: Incident) -> str:
    return incident.causes[0].cause


def against(incident: Incident, cause: str) -> str:
    return " / ".join(fact.text for one in incident.causes if one.cause == cause for fact in one.against)


def evidence(incident: Incident) -> str:
    return " / ".join(fact.text for fact in incident.causes[0].evidence)


# The tables.


def waiting(tenant: str, at_s: float, **count: float | None) -> list[Item]:
    """A look at a tenant's Odoo: how many documents wait, by TYPE__STATE with underscores for the dots of the type."""
    points = {}
    for name, value in count.items():
        kind, _, state = name.partition("__")
        labels = f'erp.document.state="{state}",erp.document.type="{kind.replace("_", ".")}",tenant.id="{tenant}"'
        points[f"erp.document.count{{{labels}}}"] = value
    at = T0 + round(at_s * 1000)
    return [Item(at, Scrape.of(points, cell="eu1", resource=f"odoo-{tenant}", system="odoo", time_ms=at))]


def test_what_explains_is_known_and_no_kind_explains_itself() -> None:
    assert all(cause in KINDS for cause in EXPLAINS)
    assert all(cause not in effects for cause, effects in EXPLAINS.items())
    assert all(kind.because for kind in KINDS.values())


# Scenarios.


def test_what_is_on_its_way_at_those_who_suffer_is_told_with_their_next_cut_off() -> None:
    slow = signal("redis.latency:valkey-eu1", 10)
    ways = {
        "stock_picking__confirmed": 4.0,
        "stock_picking__assigned": 7.0,
        "sale_order__sale": 3.0,
        "sale_order__draft": 90.0,
    }
    counted = (
        *waiting("acme", 0, **ways),
        *waiting("borealis", 5, stock_picking__assigned=2.0),
        *waiting("cascade", 5, **ways),
    )
    impact = only(fold(slow, counted, restart_every=3)).impact
    assert (impact.documents, impact.exposed, impact.exposed_by_tenant) == (0, 16, {"acme": 14, "borealis": 2})
    assert impact.exposed_by_type == {"sale.order": 3, "stock.picking": 13}
    assert impact.exposed_until_ms == T0 + 4 * 3_600_000


def test_the_most_that_was_on_its_way_is_told_and_what_was_not_counted_is_not_nought() -> None:
    slow = signal("redis.latency:valkey-eu1", 10)
    more = signal("queue.backlog:acme", 100)
    first = waiting("acme", 0, stock_picking__assigned=7.0)
    for counted, exposed in ((5.0, 7), (9.0, 9), (None, 7)):
        told = fold(slow, more, first, waiting("acme", 60, stock_picking__assigned=counted), until_s=180)
        assert only(told).impact.exposed == exposed
    old = waiting("acme", -3_700, stock_picking__assigned=7.0)
    assert only(fold(slow, old)).impact.exposed == 0


def test_nothing_is_exposed_to_a_forecast() -> None:
    due_ms = T0 + 9 * DAY_MS
    disk = signal("capacity.disk:host-eu1", 10, expected_ms=due_ms, tenants=("acme",))
    told = only(fold(disk, waiting("acme", 0, stock_picking__assigned=7.0)))
    assert (told.tenants, told.impact.exposed) == (("acme",), 0)


def test_s3_an_expired_certificate_is_joined_by_the_partners_failures() -> None:
    told = fold(
        signal("certificate:tls-eu1", 0, started_ms=T0 - 5 * DAY_MS, expected_ms=T0 + 600_000),
        signal("integration.failures:dhl", 610, tenant="acme"),
        signal("queue.failures:acme", 615),
        until_s=700,
    )
    assert top(only(told)) == "certificate:tls-eu1"
    assert told[0].time_ms < T0 + 5_000  # it was told days ahead, and stays one story


def test_a_certificate_that_has_not_expired_yet_explains_no_failure() -> None:
    told = fold(
        signal("certificate:tls-eu1", 0, expected_ms=T0 + 5 * DAY_MS),
        signal("integration.failures:dhl", 10, tenant="acme"),
    )
    assert {top(one) for one in told} == {"certificate:tls-eu1", "integration.failures:dhl"}


def test_s6_slow_writes_below_redis_and_retries_are_one_early_story_of_storage() -> None:
    told = fold(
        signal("storage:pg-eu1", 0),
        signal("redis.memory:valkey-eu1", 5),
        signal("integration.failures:dhl", 8, tenant="acme"),
        until_s=30,
    )
    assert top(only(told)) == "storage:pg-eu1"
    assert only(told).time_ms < T0 + 20_000
    assert "CPU of host-eu1 is green" in evidence(only(told))


def test_s7_a_carriers_failures_are_the_releases_and_its_rollback_ends_them() -> None:
    told = fold(
        change("2.4.1", 0, previous="2.4.0", tenants=("acme",), service="carrier-dhl"),
        signal("integration.failures:dhl", 60, 400, tenant="acme"),
        signal(
            "release:carrier-dhl@2.4.1",
            120,
            410,
            tenant="acme",
            verdict="regressed",
            summary="failed labels 0.4 % to 31 %",
        ),
        change("2.4.0", 380, previous="2.4.1", status="rolled_back", service="carrier-dhl"),
        until_s=600,
    )
    assert {top(one) for one in told if one.time_ms > T0 + 121_000} == {"release:carrier-dhl@2.4.1"}
    done = only(told)
    assert done.phase is Phase.RESOLVED
    assert "it was taken back, and all that it had brought about ended within" in evidence(done)


def test_s13_a_drift_outside_of_git_is_the_named_cause() -> None:
    told = fold(
        change("drift-7f3a", 0, kind="configuration", service="odoo-acme", tenants=("acme",), origin="argocd"),
        signal("odoo.errors:acme", 30),
        signal("odoo.workers:acme", 40),
        until_s=60,
    )
    assert top(only(told)) == "configuration:odoo-acme@drift-7f3a"


def test_s14_a_disk_that_will_be_full_is_told_before_and_is_graver_when_near() -> None:
    def told(days: int) -> Incident:
        return only(
            fold(signal("capacity.disk:host-eu1", 0, expected_ms=T0 + days * DAY_MS, severity=Severity.CRITICAL))
        )

    assert told(30).severity is Severity.INFO
    assert told(9).severity is Severity.WARNING
    assert top(told(9)) == "capacity.disk:host-eu1"


def test_a_forecast_rises_as_its_time_comes_nearer() -> None:
    told = fold(signal("capacity.disk:host-eu1", 0, expected_ms=T0 + 15 * DAY_MS), until_s=2 * 86_400)
    assert [one.severity for one in told] == [Severity.INFO, Severity.WARNING]
    assert told[1].time_ms == pytest.approx(T0 + DAY_MS, abs=1_000)


def test_what_is_seen_and_what_is_foreseen_of_one_resource_are_one_story_in_either_order() -> None:
    def joined(seen_s: float, foreseen_s: float) -> list[Incident]:
        return fold(
            signal("postgresql.connections:pg-eu1", seen_s),
            signal("capacity.connections:pg-eu1", foreseen_s, expected_ms=T0 + DAY_MS),
            until_s=7_400,
        )

    for told in (joined(0, 7_200), joined(7_200, 0)):
        assert len({one.id for one in told}) == 1
        assert top(told[-1]) == "capacity.connections:pg-eu1"


# Causes with what speaks for and against them.


def test_a_change_is_doubted_when_its_tenants_are_not_the_only_ones_or_the_trouble_was_first() -> None:
    told = fold(
        signal("odoo.latency:acme", -60),
        change("2.4.1", -20, tenants=("acme",)),
        signal("integration.failures:dhl", 10, tenant=None, tenants=("acme", "borealis")),
        signal("odoo.errors:acme", 12),
        signal("odoo.workers:acme", 13),
        until_s=60,
    )
    said = against(only(told[-1:]), "release:odoo@2.4.1")
    assert "tenants without the change suffer as well: borealis" in said


def test_a_release_that_was_judged_fine_is_believed_less() -> None:
    story = [change("2.4.1", 0), signal("odoo.workers:acme", 10), signal("odoo.errors:acme", 12)]
    verdict = signal(
        "release:odoo@2.4.1", 20, severity=Severity.INFO, verdict="fine", summary="errors and latency as before"
    )
    blamed = fold(*story)[-1]
    cleared = fold(*story, verdict)[-1]
    assert top(blamed) == "release:odoo@2.4.1"
    assert top(cleared) == "odoo.workers:acme"


def test_a_change_that_is_acquitted_hands_its_story_to_what_excused_it() -> None:
    release = "release:odoo@2.4.1"
    blamed = signal(release, 400, id="verdict", tenants=("acme", "borealis"), verdict="regressed", advice="roll back")
    slow, disk = signal("odoo.latency:acme", 410), signal("storage:host-eu1", 800, resource="host-eu1")
    freed = [
        Item(T0 + 810_000, item.record.model_copy(update={"phase": Phase.RESOLVED, "time_ms": T0 + 810_000, "verdict": Verdict.INCONCLUSIVE}))
        for item in blamed
        if isinstance(item.record, Signal)
    ]  # fmt: skip
    told = fold(change("2.4.1", 0), blamed, slow, disk, freed, until_s=1_000)
    assert told[0].causes[0].cause == release
    assert only(told).causes[0].cause == "storage:host-eu1"
    assert "roll back" not in str(only(told).advice)
    guilty = fold(change("2.4.1", 0), blamed, slow, disk, until_s=1_000)
    assert last(guilty)[told[0].id].causes[0].cause == release


def test_what_a_neighbour_cannot_be_seen_in_is_said_against_it() -> None:
    told = fold(signal("tenant.load:borealis", 0, resource="pg-eu1", tenants=("acme",)), signal("odoo.latency:acme", 2))
    assert "CPU of host-eu1 is green" in against(only(told), "tenant.load:borealis")


def test_a_resource_explains_only_what_needs_it() -> None:
    told = fold(
        signal("redis.latency:valkey-old", 0), signal("odoo.workers:acme", 2), signal("odoo.workers:cascade", 3)
    )
    assert {top(one): one.tenants for one in last(told).values()} == {
        "redis.latency:valkey-old": ("cascade",),
        "odoo.workers:acme": ("acme",),
    }


def test_probabilities_add_up_to_one() -> None:
    told = fold(signal("redis.latency:valkey-eu1", 0), *(signal(f"queue.backlog:{t}", 2) for t in ("acme", "borealis")))
    assert sum(one.probability for one in told[-1].causes) == pytest.approx(1.0)


def test_an_old_release_still_is_the_cause_of_what_it_began() -> None:
    """The change is forgotten as a candidate for new trouble, not as the cause of a story that goes on."""
    told = fold(
        change("2.4.1", 0), signal("odoo.workers:acme", 10), signal("odoo.workers:borealis", 3_000),
        signal("process.stopped:acme", 3_000), until_s=3_200,
    )  # fmt: skip
    stories = {one.tenants: top(one) for one in last(told).values()}
    assert "release:odoo@2.4.1" in stories.values()
    assert stories[("borealis",)] == "odoo.workers:borealis"


# Whom they concern.


def test_a_story_that_grows_calls_more_roles_and_lets_none_go() -> None:
    told = fold(
        signal("postgresql.lock:acme", 0, 100),
        signal("process.delayed:acme", 30, 90, impact=impact(4, 900.0)),
        until_s=200,
    )
    assert told[0].roles == (Role.DBA,)
    assert told[-1].phase is Phase.RESOLVED
    assert told[-1].roles == (Role.DBA, Role.ERP_SUPPORT, Role.BUSINESS_OPERATIONS)
    assert all(set(one.roles) <= set(after.roles) for one, after in itertools.pairwise(told))


def test_who_was_told_of_a_cause_that_turned_out_wrong_is_told_how_it_ends() -> None:
    told = fold(signal("postgresql.lock:acme", 0, 60), signal("storage:host-eu1", 40, 60, started_ms=T0), until_s=200)
    assert (top(told[0]), top(told[-1])) == ("postgresql.lock:acme", "storage:host-eu1")
    assert told[-1].roles == (Role.PLATFORM, Role.DBA)


def test_a_server_that_the_estate_calls_a_database_calls_its_administrator() -> None:
    assert only(fold(signal("unreachable:pg-eu1", 0))).roles == (Role.PLATFORM, Role.DBA)
    assert only(fold(signal("unreachable:valkey-eu1", 0))).roles == (Role.PLATFORM,)


# Silences.


def silence(at_s: float, until_s: float, cause: str | None, tenant: str | None = None, name: str = "s1") -> list[Item]:
    at, until = (T0 + round(1000 * one) for one in (at_s, until_s))
    made = Silence(
        id=name, cause=cause, tenant=tenant, from_ms=at, until_ms=until, author="ada", reason="month end, known"
    )
    return [Item(at, made.event("eu1", at))]


def marks(told: list[Incident]) -> list[tuple[Phase, str | None]]:
    return [(one.phase, one.silenced.silence if one.silenced else None) for one in told]


@pytest.mark.parametrize("restart_every", [0, 1])
def test_a_silenced_story_is_told_and_says_so_and_is_told_anew_when_the_silence_is_over(restart_every: int) -> None:
    told = fold(
        silence(0, 60, "postgresql.lock:acme"),
        signal("postgresql.lock:acme", 5, 100),
        until_s=200,
        restart_every=restart_every,
    )
    assert marks(told) == [(Phase.OPEN, "s1"), (Phase.UPDATED, None), (Phase.RESOLVED, None)]
    assert [one.version for one in told] == [1, 2, 3]
    assert told[0].silenced
    assert (told[0].silenced.author, told[0].silenced.reason) == ("ada", "month end, known")
    assert told[1].time_ms == T0 + 60_000


def test_a_silence_without_end_ends_at_the_cap_wherever_it_is_read() -> None:
    forever = Silence(id="s1", cause="release", from_ms=T0, until_ms=9_999_999_999_999, author="ada", reason="known")
    event = forever.event("eu1", T0)
    heard = Silence.of(event)
    assert heard
    assert heard.until_ms == T0 + LONGEST_MS
    # An event from a clock far ahead holds from when it is heard.
    ahead = Silence.of(event.model_copy(update={"time_ms": 9_000_000_000_000}))
    assert ahead
    state = State()
    quiet.silence(STEP.config(cell="eu1"), state, ahead, T0)
    assert state.silences["s1"].until_ms == T0 + LONGEST_MS
    # A state of a version that knew no cap.
    state.silences = {"s1": forever}
    assert quiet.hush(state, [], T0 + LONGEST_MS - 1) == []
    assert list(state.silences) == ["s1"]
    quiet.hush(state, [], T0 + LONGEST_MS)
    assert not state.silences


def test_a_silence_that_comes_later_or_is_ended_early_holds_from_then_and_until_then() -> None:
    told = fold(
        signal("postgresql.lock:acme", 0, 100),
        silence(20, 3_600, "postgresql.lock"),
        silence(50, 50, "postgresql.lock"),
        until_s=200,
    )
    assert marks(told) == [(Phase.OPEN, None), (Phase.UPDATED, "s1"), (Phase.UPDATED, None), (Phase.RESOLVED, None)]
    assert [(one.time_ms - T0) // 10_000 for one in told[1:3]] == [2, 5]  # at the next look


@pytest.mark.parametrize(
    ("cause", "tenant", "holds"),
    [
        ("postgresql.lock:acme", None, True),
        ("postgresql.lock", None, True),
        ("postgresql.lock", "acme", True),
        (None, "acme", True),
        ("postgresql.lock:borealis", None, False),
        ("postgresql", None, False),
        (None, "borealis", False),
    ],
)
def test_a_silence_holds_for_the_cause_and_the_tenant_that_it_names(
    cause: str | None, tenant: str | None, holds: bool
) -> None:
    told = only(fold(silence(0, 600, cause, tenant), signal("postgresql.lock:acme", 5)))
    assert (told.silenced is not None) is holds


def test_a_silence_of_one_tenant_does_not_hold_for_what_another_suffers_from_too() -> None:
    told = only(fold(silence(0, 600, None, "acme"), signal("redis.latency:valkey-eu1", 5)))
    assert (set(told.tenants) > {"acme"}, told.silenced) == (True, None)


# Stories that split and merge.


def test_two_stories_that_turn_out_to_be_one_are_merged_and_say_so() -> None:
    told = fold(
        signal("odoo.workers:acme", 0),
        signal("odoo.workers:borealis", 5),
        signal("redis.latency:valkey-eu1", 8, started_ms=T0),
    )
    first, second = (one for one in told if one.phase is Phase.OPEN)
    kept, absorbed = last(told)[first.id], last(told)[second.id]
    assert (absorbed.phase, absorbed.merged_into) == (Phase.RESOLVED, kept.id)
    assert kept.absorbed == (absorbed.id,)
    assert top(kept) == "redis.latency:valkey-eu1"
    assert set(kept.signals) >= set(absorbed.signals)
    assert set(kept.roles) >= set(absorbed.roles)


def test_a_story_splits_when_two_independent_causes_turn_out() -> None:
    verdict = signal("release:odoo@2.4.1", 30, verdict="fine", summary="as before and as elsewhere")
    told = fold(change("2.4.1", 0), signal("odoo.workers:acme", 10), signal("odoo.workers:borealis", 11), verdict)
    stories = last(told)
    assert {top(one) for one in stories.values()} == {"odoo.workers:acme", "odoo.workers:borealis"}
    (part,) = (one for one in stories.values() if one.split_from)
    assert part.split_from in stories


def test_a_signal_does_not_change_hands_for_a_cause_that_is_as_good() -> None:
    told = fold(
        signal("redis.latency:valkey-eu1", 0),
        signal("queue.backlog:acme", 2),
        signal("redis.memory:valkey-old", 20),
        until_s=60,
    )
    assert {top(one) for one in told} == {"redis.latency:valkey-eu1", "redis.memory:valkey-old"}
    assert [top(one) for one in last(told).values() if "queue.backlog:acme-2" in one.signals] == [
        "redis.latency:valkey-eu1"
    ]


# How grave it is.


def impact(documents: int, value: float = 0.0, tenant: str = "acme", ahead: int = 0) -> Impact:
    stakes = (CutOffStake(documents=ahead, cut_off_ms=T0 + 3_600_000),) if ahead else ()
    return Impact(
        documents=documents, value=value, by_cut_off=stakes, by_tenant={tenant: Stake(documents=documents, value=value)}
    )


@pytest.mark.parametrize(
    ("tenant", "stake", "severity"),
    [
        ("acme", impact(4), Severity.CRITICAL),
        ("borealis", impact(4, tenant="borealis"), Severity.WARNING),
        ("borealis", impact(30, tenant="borealis"), Severity.CRITICAL),
        ("borealis", impact(4, 250_000.0, "borealis"), Severity.CRITICAL),
        ("acme", impact(1, ahead=40), Severity.CRITICAL),
    ],
)
def test_severity_follows_documents_and_value_in_terms_of_the_tenants_tier(
    tenant: str, stake: Impact, severity: Severity
) -> None:
    told = fold(signal("redis.latency:valkey-eu1", 0), signal(f"process.delayed:{tenant}", 2, impact=stake))
    assert told[-1].severity is severity


def test_what_misses_a_cut_off_weighs_as_much_as_its_own_tenant_does() -> None:
    ahead = impact(1, tenant="borealis", ahead=4)
    for tenant, severity in (("borealis", Severity.WARNING), ("acme", Severity.CRITICAL)):
        stake = ahead.model_copy(update={"missing_by_tenant": {tenant: Stake(documents=4)}})
        told = fold(
            signal("redis.latency:valkey-eu1", 0),
            signal("process.delayed:borealis", 1, impact=stake),
            signal("queue.backlog:acme", 2),
        )
        assert told[-1].severity is severity
        assert "acme" in told[-1].tenants


def test_a_busy_server_that_nobody_suffers_from_is_a_warning_at_most() -> None:
    told = fold(signal("redis.memory:valkey-eu1", 0, severity=Severity.CRITICAL))
    assert only(told).severity is Severity.WARNING


def test_documents_of_a_tenant_are_counted_once_however_many_signals_tell_of_them() -> None:
    told = fold(
        signal("odoo.workers:acme", 0),
        signal("process.delayed:acme", 1, impact=impact(7)),
        signal("process.stopped:acme", 1, impact=impact(5)),
        signal("process.delayed:borealis", 1, impact=impact(2, tenant="borealis")),
        signal("redis.latency:valkey-eu1", 2, started_ms=T0),
    )
    assert last(told)[told[-1].id].impact.documents == 9


# Quiet.


def test_what_a_told_root_explains_is_not_told_by_itself_and_it_is_kept_who_inhibited_it() -> None:
    told = fold(
        signal("redis.latency:valkey-eu1", 0),
        signal("unreachable:pg-eu1", 1),
        signal("queue.backlog:acme", 2),
        until_s=120,
    )
    assert "queue.backlog:acme" not in {top(one) for one in told}
    inhibited = {one.cause: one.by for story in last(told).values() for one in story.inhibited}
    assert set(inhibited["queue.backlog:acme"]) >= {"redis.latency:valkey-eu1", "unreachable:pg-eu1"}


def test_what_one_source_inhibited_is_inhibited_by_the_other_when_that_ends() -> None:
    told = fold(
        signal("redis.latency:valkey-eu1", 0, 100),
        signal("unreachable:pg-eu1", 1),
        signal("queue.backlog:acme", 2),
        until_s=400,
    )
    assert "queue.backlog:acme" not in {top(one) for one in told}


def test_a_story_that_comes_back_soon_is_the_same_incident() -> None:
    told = fold(signal("redis.latency:valkey-eu1", 0, 20), signal("redis.latency:valkey-eu1", 100, 120), until_s=200)
    assert [one.phase for one in told] == [Phase.OPEN, Phase.RESOLVED, Phase.OPEN, Phase.RESOLVED]
    assert len(last(told)) == 1
    assert [one.version for one in told] == [1, 2, 3, 4]


def test_a_root_that_is_noticed_minutes_after_its_effects_takes_their_story_over() -> None:
    told = fold(
        signal("host.cpu:host-eu1", 0),
        signal("tenant.load:borealis", 420, tenants=("acme",), resource="pg-eu1"),
        signal("anomaly.postgresql.rollbacks:borealis", 500, tenant="borealis"),
        until_s=600,
    )
    assert top(told[0]) == "host.cpu:host-eu1"
    assert top(only(told)) == "tenant.load:borealis"
    assert only(told).started_ms == T0


def test_a_load_that_begins_after_a_fault_was_over_neither_explains_it_nor_comes_from_it() -> None:
    load = {"tenants": ("acme",), "resource": "pg-eu1", "tenant": "borealis"}
    fault = (signal("redis.latency:valkey-eu1", 0, 60), signal("queue.backlog:acme", 30, 80))
    told = fold(*fault, signal("tenant.load:borealis", 180, **load), until_s=240)
    assert [top(one) for one in last(told).values()] == ["redis.latency:valkey-eu1", "tenant.load:borealis"]
    told = fold(*fault, signal("tenant.load:borealis", 100, **load), until_s=240)
    assert len(last(told)) == 2
    # What piled up meanwhile is worked off at once, and seen at the next look.
    told = fold(*fault, signal("tenant.load:borealis", 80, **load), until_s=240)
    assert top(only(told)) == "redis.latency:valkey-eu1"


def test_who_seemed_to_suffer_from_sessions_behind_a_lock_does_not_suffer_from_the_lock() -> None:
    lock = signal("postgresql.lock:acme", 0, resource="pg-eu1")
    seems = signal("tenant.load:acme", 20, tenants=("borealis",), resource="pg-eu1")
    assert only(fold(lock, seems)).tenants == ("acme",)
    assert set(only(fold(lock, seems, signal("odoo.latency:borealis", 30), until_s=400)).tenants) == {
        "acme",
        "borealis",
    }


def test_workers_of_a_cell_of_one_tenant_are_that_tenants() -> None:
    alone = Estate.model_validate({"cells": [{"name": "eu1", "tenants": [{"name": "acme"}]}]})
    gone = signal("odoo.workers:workers-eu1", 0)
    config = STEP.config(cell="eu1", estate=alone)
    told = [one for one in folded(STEP, config, gone, until_ms=T0 + 60_000) if isinstance(one, Incident)]
    assert only(told).tenants == ("acme",)
    assert only(fold(gone)).tenants == ()


def test_who_runs_on_a_machine_whose_disk_is_slow_suffers_though_nobody_is_seen_to() -> None:
    cell = ESTATE.model_dump(mode="json")["cells"][0]
    cell["resources"][1]["depends_on"] = ["host-eu1"]
    config = STEP.config(cell="eu1", estate=Estate.model_validate({"cells": [cell | {"tenants": [{"name": "acme"}, {"name": "borealis"}, {"name": "cascade"}]}]}))  # fmt: skip

    def tenants(*items: Item) -> tuple[str, ...]:
        told = folded(STEP, config, items, until_ms=T0 + 60_000)
        return only([one for one in told if isinstance(one, Incident)]).tenants

    assert tenants(*signal("storage:host-eu1", 0)) == ("acme", "borealis", "cascade")
    assert tenants(*signal("capacity.disk:host-eu1", 0, expected_ms=T0 + DAY_MS)) == ()


def test_a_partner_takes_over_the_queues_of_tenants_that_have_not_named_it_yet() -> None:
    """Silence is seen of busy tenants first; a queue of another that has a cause of its own keeps it."""
    silent = signal("integration.silent:edi-hub", 300, tenant="acme", tenants=("acme",))
    named = signal("integration.silent:edi-hub", 1_200, tenant="borealis", tenants=("borealis",))
    queues = [signal("queue.backlog:acme", 100), signal("queue.backlog:borealis", 110)]
    told = fold(silent, named, *queues, until_s=1_300)
    assert top(only(told)) == "integration.silent:edi-hub"
    own = fold(silent, *queues, signal("postgresql.lock:borealis", 100), until_s=1_000)
    assert {top(one) for one in last(own).values() if one.merged_into is None} == {
        "integration.silent:edi-hub", "postgresql.lock:borealis"
    }  # fmt: skip


def test_what_stopped_soon_after_a_change_is_its_doing_however_late_that_is_noticed() -> None:
    """How long nothing came is in the evidence; a change to others explains it no better for that."""
    missing = Evidence(text="no pickings for 23 minutes", time_ms=T0 + 1_500_000, window_ms=1_380_000)
    stopped = signal("process.stopped:acme", 1_500, evidence=(missing,))
    ours = change("2.41", 60, status="succeeded", tenants=("acme",))
    assert top(only(fold(ours, stopped, until_s=1_600))) == "release:odoo@2.41"
    others = change("2.41", 60, status="succeeded", tenants=("borealis",))
    assert top(only(fold(others, stopped, until_s=1_600))) == "process.stopped:acme"


def test_what_is_missed_takes_over_what_it_brought_about_however_late_that_is_noticed() -> None:
    """What came after it had ceased is its doing; what had begun long before is not."""
    missing = Evidence(text="no pickings for 40 minutes", time_ms=T0 + 2_400_000, window_ms=2_400_000)
    stopped = signal("process.stopped:acme", 2_400, evidence=(missing,))
    assert top(only(fold(signal("process.delayed:acme", 800), stopped, until_s=2_500))) == "process.stopped:acme"
    assert len(last(fold(signal("process.delayed:acme", -1_300), stopped, until_s=2_500))) == 2


def test_workers_of_several_tenants_that_die_after_a_change_to_all_are_its_one_story() -> None:
    """For one tenant alone the change is hardly believed after so long; for all of them at once nothing else is."""
    dead = [signal(f"odoo.workers:{name}", 600 + place) for place, name in enumerate(("acme", "borealis", "cascade"))]
    scaled = change("4", 0, kind="scaling")
    assert top(only(fold(scaled, *dead, until_s=700))) == "scaling:odoo@4"
    assert len(last(fold(*dead, until_s=700))) == 3


def test_what_several_tenants_show_at_once_is_one_story_though_nothing_explains_it() -> None:
    waiting = [signal(f"queue.backlog:{one}", at) for one, at in (("acme", 0), ("borealis", 40), ("cascade", 200))]
    assert set(only(fold(*waiting, until_s=400)).tenants) == {"acme", "borealis", "cascade"}
    apart = fold(signal("queue.backlog:acme", 0), signal("queue.backlog:borealis", 900), until_s=1_000)
    assert len(last(apart)) == 2


def test_what_a_closed_story_left_behind_opens_it_again() -> None:
    told = fold(
        signal("redis.latency:valkey-eu1", 0, 300),
        signal("queue.backlog:acme", 60, 320),
        signal("queue.backlog:acme", 700),
        signal("odoo.latency:borealis", 720),
        until_s=800,
    )
    assert [one.phase for one in told if one.phase is not Phase.UPDATED] == [Phase.OPEN, Phase.RESOLVED, Phase.OPEN]
    assert top(only(told)) == "redis.latency:valkey-eu1"


def test_what_comes_back_under_a_change_is_no_longer_the_closed_storys() -> None:
    queues = [signal(f"queue.backlog:{one}", at, at + 60) for one in ("acme", "borealis") for at in (30, 280)]
    told = fold(signal("redis.latency:valkey-eu1", 0, 80), *queues, change("2.4.1", 260), until_s=400)
    first, second = last(told).values()
    assert (top(first), top(second)) == ("redis.latency:valkey-eu1", "release:odoo@2.4.1")
    assert second.started_ms >= T0 + 260_000
    assert [one.phase for one in told if one.id == first.id][-1] is Phase.RESOLVED


def backlog(*seen: tuple[float, float], end_s: float | None = None) -> list[Item]:
    """A queue of which so many jobs waited at so many seconds; usually two do."""

    def fact(jobs: float) -> tuple[Evidence, ...]:
        return (
            Evidence(text=f"{jobs:g} wait", series='odoo.queue_job.count{tenant.id="acme"}', value=jobs, expected=2.0),
        )

    (first, *ended) = signal("queue.backlog:acme", seen[0][0], end_s, evidence=fact(seen[0][1]))
    more = [
        Item(at, first.record.model_copy(update={"phase": Phase.UPDATED, "time_ms": at, "evidence": fact(jobs)}))
        for at, jobs in ((T0 + round(at_s * 1000), jobs) for at_s, jobs in seen[1:])
    ]
    return [first, *more, *ended]


def test_a_story_whose_cause_is_over_says_when_what_it_left_behind_will_be_worked_off() -> None:
    workers = signal("odoo.workers:acme", 0, 100)
    told = fold(workers, backlog((20, 30), (90, 102), (130, 102), (150, 62), (170, 42), end_s=200), until_s=300)
    recovering = [one for one in told if one.recovery]
    first = recovering[0].recovery
    assert first
    # Sixty of the hundred and two are still more than usual after twenty seconds in which forty went.
    assert (first.since_ms, first.until_ms, first.left) == (T0 + 100_000, T0 + 180_000, ("queue.backlog:acme",))
    assert recovering[0].title == "Recovering: odoo.workers:acme is ill"
    ended = only(told)
    assert (ended.phase, ended.recovery, ended.title) == (Phase.RESOLVED, None, "odoo.workers:acme is ill")


@pytest.mark.parametrize(
    ("end_s", "jobs"), [(None, 10.0), (100.0, 200.0)], ids=["the cause goes on", "what waits gets more"]
)
def test_nothing_recovers_while_the_cause_goes_on_or_more_waits_than_ever(end_s: float | None, jobs: float) -> None:
    told = fold(signal("odoo.workers:acme", 0, end_s), backlog((20, 30), (90, 102), (150, jobs)), until_s=300)
    assert not any(one.recovery for one in told)


def test_a_story_that_comes_back_later_is_another() -> None:
    told = fold(signal("redis.latency:valkey-eu1", 0, 20), signal("redis.latency:valkey-eu1", 2_000), until_s=2_100)
    assert len(last(told)) == 2


def test_a_story_that_flaps_is_told_now_and_then_until_it_calms_down() -> None:
    waves = [signal("redis.latency:valkey-eu1", 60 * number, 60 * number + 20) for number in range(40)]
    told = fold(*waves, until_s=40 * 60 + 3_600)
    assert len(last(told)) == 1
    calm = [one for one in told if one.time_ms > T0 + 40 * 60_000]
    assert len(told) - len(calm) <= 16  # not 80: three comings and goings, then once in five minutes
    assert any(one.flapping and "came and went" in evidence(one) for one in told)
    assert told[-1].phase is Phase.RESOLVED
    assert sum(1 for one in calm if one.phase is Phase.RESOLVED) == 1


def test_newer_changes_of_state_weigh_more_than_older_ones() -> None:
    config = STEP.config(cell="eu1")
    slot = config.flap_slot_ms
    assert quiet.rate(config, [T0], T0) == pytest.approx(6.0)
    assert quiet.rate(config, [T0 - 19 * slot], T0) == pytest.approx(4.0)
    assert quiet.rate(config, [T0 - age * slot for age in range(20)], T0) == pytest.approx(100.0)
    assert quiet.rate(config, [T0 - 20 * slot], T0) == 0.0


def test_nothing_is_told_of_a_tenant_in_maintenance() -> None:
    told = fold(
        signal("odoo.workers:acme", MAINTENANCE_S + 60, MAINTENANCE_S + 600),
        signal("odoo.workers:borealis", MAINTENANCE_S + 60, MAINTENANCE_S + 600),
        until_s=MAINTAINED_S + 600,
    )
    assert {one.tenants for one in told} == {("borealis",)}


def test_what_outlives_a_maintenance_is_told_at_its_end() -> None:
    told = fold(signal("odoo.workers:acme", MAINTENANCE_S + 60), until_s=MAINTAINED_S + 600)
    assert only(told).time_ms == pytest.approx(T0 + MAINTAINED_S * 1000, abs=1_500)


def test_a_story_that_ends_in_a_maintenance_is_told_to_have_ended_after_it() -> None:
    told = fold(signal("odoo.workers:acme", MAINTENANCE_S - 60, MAINTENANCE_S + 300), until_s=MAINTAINED_S + 600)
    assert [one.phase for one in told] == [Phase.OPEN, Phase.RESOLVED]
    assert told[1].time_ms >= T0 + MAINTAINED_S * 1000


def test_a_shared_server_is_told_of_while_one_of_its_tenants_is_in_maintenance() -> None:
    told = fold(signal("redis.latency:valkey-eu1", MAINTENANCE_S + 60), until_s=MAINTENANCE_S + 120)
    assert only(told).tenants == ("borealis",)


# Any order, any restart.

KINDS_DRAWN = ("redis.latency:valkey-eu1", "unreachable:pg-eu1", "storage:pg-eu1", "release:odoo@2.4.1")
FELT_DRAWN = ("odoo.workers", "queue.backlog", "process.delayed", "postgresql.lock", "slo.burn")


@st.composite
def stories(draw: st.DrawFn) -> list[Item]:
    """Roots and symptoms that come and go, often at the same moment, with a release and its verdict among them."""
    items: list[Item] = []
    causes = st.sampled_from(
        [*KINDS_DRAWN, *(f"{kind}:{tenant}" for kind in FELT_DRAWN for tenant in ("acme", "borealis", "cascade"))]
    )
    for cause in draw(st.lists(causes, min_size=1, max_size=14)):
        begin = draw(st.integers(0, 80)) * 2
        lasts = draw(st.sampled_from([None, 4, 20, 90]))
        fine = cause.startswith("release") and draw(st.booleans())
        more = {"verdict": "fine"} if fine else {}
        items += signal(cause, begin, begin + lasts if lasts else None, **more)
    if draw(st.booleans()):
        items += change("2.4.1", draw(st.integers(0, 60)) * 2, previous="2.4.0")
    return items


@settings(max_examples=60)
@given(stories(), st.integers(0, 2**16))
def test_the_order_within_a_moment_and_restarts_change_nothing(items: list[Item], seed: int) -> None:
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    once = _first_of_each(items)
    again = sorted(_first_of_each(shuffled), key=lambda item: (item.at_ms, seed % 2))
    expected = [one.model_dump_json() for one in fold(once, until_s=400)]
    assert [one.model_dump_json() for one in fold(again, until_s=400)] == expected
    assert [one.model_dump_json() for one in fold(once, until_s=400, restart_every=1 + seed % 3)] == expected


def _first_of_each(items: list[Item]) -> list[Item]:
    """One telling a signal and moment: at one moment a step tells of an episode once."""
    found: dict[Any, Item] = {}
    for item in sorted(items, key=lambda one: one.record.model_dump_json()):
        identity = item.record.id if isinstance(item.record, Signal) else item.record.change_id
        found.setdefault((item.at_ms, identity), item)
    kept = set(map(id, found.values()))
    return [item for item in items if id(item) in kept]


def test_state_is_bounded_by_what_is_configured() -> None:
    config, state = STEP.config(cell="eu1", signals_max=50), STEP.fresh()
    for number in range(200):
        (item,) = signal(f"redis.latency:r{number}", number)
        state, _ = STEP.step(config, state, item)
    assert (len(state.kept), state.forgotten) == (50, 150)
    assert set(state.nodes) == {one.signal.cause for one in state.kept.values()}


def test_links_are_made_once_and_not_at_every_look() -> None:
    """The cost of a look is that of what has changed."""
    config, state = STEP.config(cell="eu1", estate=ESTATE), STEP.fresh()
    for item in (*signal("redis.latency:valkey-eu1", 0), *signal("queue.backlog:acme", 1)):
        state, _ = STEP.step(config, state, item)
    grouping.refresh(config, state)
    assert state.parents == {"queue.backlog:acme": "redis.latency:valkey-eu1"}
    assert not state.moved


def test_a_state_of_version_1_is_read() -> None:
    (item,) = signal("redis.latency:valkey-eu1", 0)
    (told,) = fold([item], until_s=5)
    story = {"incident": told.model_dump(mode="json"), "members": [item.record.id]}
    old = {
        "signals": {item.record.id: item.record.model_dump(mode="json")}, "first_ms": {item.record.id: T0}, "ended_ms": {},
        "changes": {}, "stories": {told.id: story}, "due_ms": T0 + 1_000,
    }  # fmt: skip
    state = STEP.unpack({"": orjson.dumps(old)})
    assert state.stories[told.id].members == ["redis.latency:valkey-eu1"]
    _, found = STEP.tick(STEP.config(cell="eu1", estate=ESTATE), state, T0 + 1_000)
    assert found == []


def test_the_watchdog_is_told_at_fixed_instants_and_is_no_trouble() -> None:
    config, state, told = watchdog.STEP.config(cell="eu1"), watchdog.STEP.fresh(), []
    first = Scrape.of({"host.cpu": 0.1}, cell="eu1", resource="host-eu1", system="host", time_ms=T0 + 7_000)
    state, _ = watchdog.STEP.step(config, state, Item(T0 + 7_000, first))
    while (due := watchdog.STEP.due(state)) and due <= T0 + 2_400_000:
        state, found = watchdog.STEP.tick(config, state, due)
        told += found
    assert [one.time_ms for one in told] == [T0 + 600_000 * number for number in range(1, 5)]
    assert {one.id for one in told} == {told[0].id}
    assert fold([Item(one.time_ms, one) for one in told], until_s=3_000) == []
