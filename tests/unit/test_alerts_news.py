"""What of an incident is worth telling a route."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.estate import Route
from schemas.impact import CutOffStake, Stake
from schemas.records import Cause, Evidence, Impact, Incident, Part, Phase, Recovery, Role, Severity, Signal, Silenced
from sinks.alerts_news import Heartbeat, Notification, Told, body, concerns, due, flush, fold, is_heartbeat
from tests.support.golden import GOLDEN, agrees

START_MS = 1_793_000_000_000
MIN_MS = 60_000
ROUTE = Route(name="on-call", url="https://alerts.example/hook")


def incident(
    version: int = 1,
    phase: Phase = Phase.OPEN,
    *,
    at_s: float = 0,
    severity: Severity = Severity.WARNING,
    cause: str = "redis.latency:valkey-eu1",
    tenants: tuple[str, ...] = ("acme",),
    documents: int = 0,
    roles: tuple[Role, ...] = (),
) -> Incident:
    return Incident(
        cell="eu1",
        time_ms=START_MS + int(1000 * at_s),
        id="inc-1",
        version=version,
        phase=phase,
        started_ms=START_MS,
        severity=severity,
        title="Redis valkey-eu1 answers slowly since 12:00",
        causes=(Cause(cause=cause, probability=0.8),),
        tenants=tenants,
        impact=Impact(documents=documents),
        roles=roles,
    )


def story(*versions: Incident, route: Route = ROUTE) -> list[tuple[Phase, int]]:
    """Phase and version of all that is told of an incident."""
    told, news = Told(), []
    for one in versions:
        told, more = fold(route, MIN_MS, told, one)
        news += more
    return [(one.phase, one.incident.version) for one in news]


def test_an_incident_is_told_when_it_opens_and_when_it_is_over() -> None:
    assert story(incident(), incident(2, Phase.RESOLVED)) == [(Phase.OPEN, 1), (Phase.RESOLVED, 2)]


def test_a_version_that_was_seen_is_not_told_again() -> None:
    assert story(incident(), incident(), incident(2, Phase.RESOLVED), incident(), incident(2, Phase.RESOLVED)) == [
        (Phase.OPEN, 1),
        (Phase.RESOLVED, 2),
    ]


def test_the_end_of_what_was_never_told_is_no_news() -> None:
    assert story(incident(1, severity=Severity.INFO), incident(2, Phase.RESOLVED, severity=Severity.INFO)) == []


def test_what_grows_into_a_routes_severity_opens_there() -> None:
    assert story(incident(1, severity=Severity.INFO), incident(2, Phase.UPDATED), incident(3, Phase.RESOLVED)) == [
        (Phase.OPEN, 2),
        (Phase.RESOLVED, 3),
    ]


def test_a_rise_in_severity_is_told_at_once() -> None:
    worse = incident(2, Phase.UPDATED, at_s=1, severity=Severity.CRITICAL)
    assert story(incident(), worse) == [(Phase.OPEN, 1), (Phase.UPDATED, 2)]


@pytest.mark.parametrize(
    "change", [{"cause": "postgresql.lock:acme"}, {"tenants": ("acme", "bolt")}, {"severity": Severity.INFO}]
)
def test_other_changes_are_told_once_in_a_while(change: dict[str, object]) -> None:
    late = incident(2, Phase.UPDATED, at_s=61, **change)  # type: ignore[arg-type]
    assert story(incident(), late) == [(Phase.OPEN, 1), (Phase.UPDATED, 2)]


def test_that_the_cause_is_over_and_the_rest_recovers_is_told() -> None:
    over = Recovery(since_ms=START_MS, until_ms=START_MS + 600_000, left=("queue.backlog:acme",))
    recovering = incident(2, Phase.UPDATED, at_s=600).model_copy(update={"recovery": over})
    assert story(incident(), recovering) == [(Phase.OPEN, 1), (Phase.UPDATED, 2)]
    data = orjson.loads(body(Notification(Phase.UPDATED, recovering)))["data"]
    assert data["recovery"]["left"] == ["queue.backlog:acme"]
    assert data["recovery"]["until"] > data["recovery"]["since"]


def test_growing_impact_alone_is_no_news() -> None:
    assert story(incident(), incident(2, Phase.UPDATED, at_s=61, documents=40)) == [(Phase.OPEN, 1)]


def test_the_newest_of_hasty_news_is_told_when_it_is_due() -> None:
    told, _ = fold(ROUTE, MIN_MS, Told(), incident())
    for version, cause in ((2, "postgresql.lock:acme"), (3, "release:odoo@2.4.1")):
        told, news = fold(ROUTE, MIN_MS, told, incident(version, Phase.UPDATED, at_s=version, cause=cause))
        assert news == []
    assert due(MIN_MS, told) == START_MS + MIN_MS
    assert flush(MIN_MS, told, START_MS + MIN_MS - 1) == (told, [])
    told, news = flush(MIN_MS, told, START_MS + MIN_MS)
    assert [(one.phase, one.incident.version) for one in news] == [(Phase.UPDATED, 3)]
    assert flush(MIN_MS, told, START_MS + 10 * MIN_MS)[1] == []


def test_held_news_that_has_become_untrue_is_dropped() -> None:
    hasty = incident(2, Phase.UPDATED, at_s=1, cause="postgresql.lock:acme")
    back = incident(3, Phase.UPDATED, at_s=2)
    assert story(incident(), hasty, back, incident(4, Phase.RESOLVED, at_s=200)) == [
        (Phase.OPEN, 1),
        (Phase.RESOLVED, 4),
    ]


def test_the_end_is_told_at_once_and_takes_the_place_of_held_news() -> None:
    hasty = incident(2, Phase.UPDATED, at_s=1, cause="postgresql.lock:acme")
    assert story(incident(), hasty, incident(3, Phase.RESOLVED, at_s=2)) == [(Phase.OPEN, 1), (Phase.RESOLVED, 3)]


versions = st.lists(
    st.builds(
        dict,
        phase=st.sampled_from([Phase.UPDATED, Phase.UPDATED, Phase.RESOLVED]),
        at_s=st.integers(0, 90),
        severity=st.sampled_from(Severity),
        cause=st.sampled_from(["a:x", "b:y"]),
    ),
    max_size=12,
)


@given(versions, st.data())
def test_updates_keep_their_distance_and_ends_follow_openings(
    steps: list[dict[str, object]], data: st.DataObject
) -> None:
    told, news, at_s = Told(), [], 0
    for version, step in enumerate(steps, 1):
        at_s += int(str(step["at_s"]))
        told, more = fold(ROUTE, MIN_MS, told, incident(version, **{**step, "at_s": at_s}))  # type: ignore[arg-type]
        news += more
    opened = False
    for one in news:
        assert opened == (one.phase is not Phase.OPEN)
        opened = one.phase is not Phase.RESOLVED
    ids = [one.id for one in news]
    assert len(ids) == len(set(ids))


def test_a_route_hears_only_of_what_concerns_it() -> None:
    one = incident(severity=Severity.WARNING, tenants=("acme",))
    assert concerns(ROUTE, one)
    assert not concerns(Route(name="r", url="https://x", min_severity="critical"), one)
    assert concerns(Route(name="r", url="https://x", cells=("eu1",), tenants=("bolt", "acme")), one)
    assert not concerns(Route(name="r", url="https://x", cells=("eu2",)), one)
    assert not concerns(Route(name="r", url="https://x", tenants=("bolt",)), one)


def test_a_story_of_the_fleet_reaches_the_routes_of_the_cells_that_it_touches() -> None:
    parts = tuple(Part(cell=cell, incident=f"inc-{cell}", phase=Phase.OPEN) for cell in ("eu1", "us1"))
    one = incident().model_copy(update={"cell": "fleet", "parts": parts})
    hears = [cell for cell in ("eu1", "us1", "eu2") if concerns(Route(name="r", url="https://x", cells=(cell,)), one)]
    assert hears == ["eu1", "us1"]


MARK = Silenced(silence="s1", author="ada", reason="month end", until_ms=START_MS + 600_000)


def hushed(one: Incident) -> Incident:
    return one.model_copy(update={"silenced": MARK})


def test_of_what_is_silenced_nothing_is_told_until_the_silence_is_over() -> None:
    quiet = [hushed(incident()), hushed(incident(2, Phase.UPDATED, at_s=90, severity=Severity.CRITICAL))]
    assert story(*quiet, hushed(incident(3, Phase.RESOLVED, at_s=99))) == []
    assert story(*quiet, incident(3, Phase.UPDATED, at_s=99)) == [(Phase.OPEN, 3)]


def test_what_was_told_before_its_silence_is_told_to_be_over_within_it() -> None:
    worse = hushed(incident(2, Phase.UPDATED, at_s=90, severity=Severity.CRITICAL))
    assert story(incident(), worse, hushed(incident(3, Phase.RESOLVED))) == [(Phase.OPEN, 1), (Phase.RESOLVED, 3)]


def test_after_a_silence_what_has_changed_within_it_is_told() -> None:
    worse = hushed(incident(2, Phase.UPDATED, at_s=90, severity=Severity.CRITICAL))
    after = incident(3, Phase.UPDATED, at_s=99, severity=Severity.CRITICAL)
    assert story(incident(), worse, after) == [(Phase.OPEN, 1), (Phase.UPDATED, 3)]
    assert story(incident(), hushed(incident(2, Phase.UPDATED)), incident(3, Phase.UPDATED)) == [(Phase.OPEN, 1)]


DBA = Route(name="dba", url="https://x", roles=(Role.DBA,))


def test_a_route_of_a_role_hears_of_what_concerns_it_and_of_what_nobody_has_judged() -> None:
    assert concerns(DBA, incident(roles=(Role.PLATFORM, Role.DBA)))
    assert not concerns(DBA, incident(roles=(Role.PLATFORM,)))
    assert concerns(DBA, incident(roles=()))
    assert concerns(ROUTE, incident(roles=(Role.PLATFORM,)))


def test_an_incident_opens_at_a_role_once_it_concerns_it() -> None:
    ours = incident(2, Phase.UPDATED, at_s=1, roles=(Role.PLATFORM, Role.DBA))
    over = incident(3, Phase.RESOLVED, roles=(Role.PLATFORM, Role.DBA))
    assert story(incident(roles=(Role.PLATFORM,)), ours, over, route=DBA) == [(Phase.OPEN, 2), (Phase.RESOLVED, 3)]


def test_who_was_told_of_an_opening_is_told_of_the_end_whatever_roles_it_has_by_then() -> None:
    other = incident(2, Phase.UPDATED, at_s=90, roles=(Role.PLATFORM,), cause="a:x")
    over = incident(3, Phase.RESOLVED, at_s=99, roles=(Role.PLATFORM,))
    assert [phase for phase, _ in story(incident(roles=(Role.DBA,)), other, over, route=DBA)] == [*Phase]


def test_a_new_role_is_told_at_once_to_those_who_pass_alerts_on() -> None:
    wider = incident(2, Phase.UPDATED, at_s=1, roles=(Role.PLATFORM, Role.EXECUTIVE))
    assert story(incident(roles=(Role.PLATFORM,)), wider) == [(Phase.OPEN, 1), (Phase.UPDATED, 2)]


def test_an_id_names_incident_and_version_and_holds_no_full_stop() -> None:
    odd = incident(7).model_copy(update={"id": "eu1/a.b%2E"})
    assert Notification(Phase.UPDATED, odd).id == "eu1%2Fa%2Eb%252E-7"


@pytest.mark.parametrize("phase", Phase)
def test_the_body_is_as_documented(phase: Phase) -> None:
    """The golden files are what docs show to those who write receivers."""
    full = Incident(
        cell="eu1",
        time_ms=START_MS + 45_000,
        id="2f6c0a51b7d94e38",
        version=3,
        phase=phase,
        started_ms=START_MS + 10_000,
        severity=Severity.CRITICAL,
        title="PostgreSQL pg-eu1: a month-end posting of acme holds locks, 14 sessions wait",
        causes=(
            Cause(
                cause="postgresql.lock:acme",
                probability=0.86,
                evidence=(Evidence(text="14 sessions wait for one transaction, usually 0", value=14.0, expected=0.0),),
            ),
            Cause(
                cause="redis.latency:valkey-eu1",
                probability=0.14,
                against=(Evidence(text="PING answers in 0.3 ms, as usual"),),
            ),
        ),
        tenants=("acme", "bolt"),
        roles=(Role.DBA, Role.ERP_SUPPORT, Role.BUSINESS_OPERATIONS),
        impact=Impact(
            documents=37,
            by_type={"sale.order": 37},
            value=48210.5,
            currency="EUR",
            names=("S00042", "S00043"),
            by_tenant={"acme": Stake(documents=37, value=48210.5)},
            by_warehouse={"acme/Main": Stake(documents=37, value=48210.5)},
            by_carrier={"DHL": Stake(documents=12, value=9100.0)},
            by_cut_off=(CutOffStake(documents=9, value=7000.0, cut_off_ms=1_795_276_800_000, carrier="DHL"),),
            exposed=61,
            exposed_by_type={"sale.order": 20, "stock.picking": 41},
            exposed_by_tenant={"acme": 61},
            exposed_until_ms=1_795_276_800_000,
        ),
        signals=("9b1d", "c04e"),
        advice="Ask acme's accountant, or end session 4711.",
    )
    written = body(Notification(phase, full))
    agrees(
        orjson.dumps(orjson.loads(written), option=orjson.OPT_INDENT_2).decode() + "\n",
        GOLDEN / "alerts" / f"{phase}.json",
    )


def test_a_heartbeat_is_for_routes_that_asked_for_it() -> None:
    told = Signal(
        cell="eu1", time_ms=7, id="w1", phase=Phase.UPDATED, detector="watchdog", cause="pilothouse.watchdog:eu1",
        resource="eu1", started_ms=1, severity=Severity.INFO, score=0.0, summary="all is well",
    )  # fmt: skip
    asked = Route(name="dead-man", url="https://switch.example/x", watchdog=True)
    assert is_heartbeat(asked, told)
    assert not is_heartbeat(Route(name="ops", url="https://ops.example/x"), told)
    assert not is_heartbeat(asked.model_copy(update={"cells": ("us1",)}), told)
    assert not is_heartbeat(asked, told.model_copy(update={"cause": "redis.latency:valkey-eu1"}))
    beat = Heartbeat(told)
    assert beat.id == "w1-7"
    assert orjson.loads(body(beat))["type"] == "watchdog"
