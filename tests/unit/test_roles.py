"""Whom an incident concerns: by its causes, by what is at stake, and for as long as it goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.roles import BY_CAUSE, Suspect, called_by, concerned
from processors.steps.correlator.tables import KINDS
from schemas.impact import CutOffStake, Impact, Stake
from schemas.metrics import METRICS
from schemas.records import Role, Severity

NOTHING = Impact()
NOT_IN_THE_TABLE = {"anomaly"}


def roles(*suspects: str, impact: Impact = NOTHING, severity: Severity = Severity.WARNING) -> set[str]:
    return {str(one) for one in concerned([Suspect(cause) for cause in suspects], impact, severity, many=3)}


def late(*tenants: str, value: float = 0.0) -> Impact:
    """Two documents of each are delayed."""
    count = len(tenants)
    each = {tenant: Stake(documents=2, value=value / count) for tenant in tenants}
    return Impact(documents=2 * count, value=value, by_tenant=each)


@pytest.mark.parametrize(
    ("cause", "called"),
    [
        ("postgresql.lock:acme", {"dba"}),
        ("anomaly.postgresql.deadlocks:pg-eu1", {"dba"}),
        ("integration.failures:dhl", {"erp_support", "business_operations"}),
        ("storage:host-eu1", {"platform"}),
        ("redis.latency:valkey-eu1", {"platform"}),
        ("odoo.workers:acme", {"platform"}),
        ("release:odoo@2.4.1", {"platform"}),
        ("certificate:tls-eu1", {"platform", "security"}),
        ("secret:postgresql@7", {"platform", "security"}),
        ("process.stopped:acme", {"erp_support", "business_operations"}),
    ],
)
def test_a_cause_calls_those_who_can_mend_it(cause: str, called: set[str]) -> None:
    assert roles(cause) == called


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_cause_that_nobody_has_thought_of_reaches_platform(kind: str, resource: str) -> None:
    assert roles(f"unheard-of.{kind}:{resource}") == {"platform"}
    assert roles(f"{kind}:{resource}")


def test_every_kind_that_is_known_is_somebodys() -> None:
    kinds = {*KINDS, *(metric.cause for metric in METRICS if metric.cause)} - NOT_IN_THE_TABLE
    assert {kind for kind in kinds if called_by(f"{kind}:x") not in BY_CAUSE.values()} == set()
    assert all(call.roles and call.because for call in BY_CAUSE.values())


def test_what_a_database_server_suffers_from_reaches_its_administrator() -> None:
    def called(system: str) -> tuple[Role, ...]:
        return concerned([Suspect("unreachable:x", system)], NOTHING, Severity.WARNING, many=3)

    assert (called("postgresql"), called("redis")) == ((Role.PLATFORM, Role.DBA), (Role.PLATFORM,))


def test_late_documents_reach_those_whom_customers_call_and_money_those_who_ship() -> None:
    assert roles("postgresql.lock:acme", impact=late("acme")) == {"dba", "erp_support"}
    assert roles("postgresql.lock:acme", impact=late("acme", value=900.0)) == {
        "dba",
        "erp_support",
        "business_operations",
    }
    ahead = Impact(by_cut_off=(CutOffStake(documents=4, cut_off_ms=1),))
    assert roles("postgresql.lock:acme", impact=ahead) == {"dba", "business_operations"}


@pytest.mark.parametrize(
    ("tenants", "value", "severity", "is_called"),
    [
        (("a", "b", "c"), 9_000.0, Severity.CRITICAL, True),
        (("a", "b"), 9_000.0, Severity.CRITICAL, False),
        (("a", "b", "c"), 0.0, Severity.CRITICAL, False),
        (("a", "b", "c"), 9_000.0, Severity.WARNING, False),
    ],
)
def test_executives_hear_of_what_is_critical_dear_and_wide(
    tenants: tuple[str, ...], value: float, severity: Severity, is_called: bool
) -> None:
    assert ("executive" in roles("storage:x", impact=late(*tenants, value=value), severity=severity)) is is_called


@given(st.sets(st.sampled_from(Role)), st.sampled_from(sorted(BY_CAUSE)))
def test_a_role_that_was_called_stays_and_all_stand_in_one_order(before: set[Role], kind: str) -> None:
    found = concerned([Suspect(f"{kind}:x")], NOTHING, Severity.INFO, 3, before)
    assert before <= set(found)
    assert list(found) == [role for role in Role if role in found]
