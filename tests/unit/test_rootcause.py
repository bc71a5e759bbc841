"""Root cause over a service map: examples that explain, and what must hold for any map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.rootcause.diagnosis import Case, Diagnosis, diagnose
from processors.rootcause.service_map import Calls, Settings, Symptom, Traffic, chance

CHAIN = {"web": ["orders"], "orders": ["stock"], "stock": []}
SHARED = {"web": ["orders", "search"], "orders": ["database"], "search": ["database"], "database": []}
OWN_S = 0.05  # what a request takes in each service by itself
BINS, SPAN, BEFORE = 240, 6, 2


def traffic(
    callees: Mapping[str, list[str]],
    *,
    seed: int = 0,
    bins: int = BINS,
    slower: Mapping[str, float] | None = None,
    failing: Mapping[str, float] | None = None,
    surge: float = 1.0,
    healthy: int = 0,
) -> tuple[Calls, Traffic]:
    """What a company of synchronous services does; the fault begins after the `healthy` first bins.

    `slower` is in seconds a request, `failing` a share of the requests; callers wait for and fail with their callees.
    """
    rng = np.random.default_rng(seed)
    calls = Calls.of(callees, callees)
    ill = np.arange(bins) >= healthy
    entry = rng.poisson(300 * np.where(ill, surge, 1.0)).astype(float)
    requests: dict[str, np.ndarray] = {}

    def arriving(name: str) -> np.ndarray:
        if name not in requests:
            callers = [one for one, called in callees.items() if name in called]
            requests[name] = sum((arriving(one) for one in callers), np.zeros(bins)) if callers else entry
        return requests[name]

    per_request: dict[str, np.ndarray] = {}
    share: dict[str, np.ndarray] = {}

    def settle(name: str) -> None:
        for callee in callees[name]:
            if callee not in per_request:
                settle(callee)
        own = OWN_S * rng.lognormal(0, 0.05, bins) + ill * (slower or {}).get(name, 0.0)
        per_request[name] = own + sum((per_request[one] for one in callees[name]), np.zeros(bins))
        alone = rng.binomial(arriving(name).astype(int), 0.001 + ill * (failing or {}).get(name, 0.0)) / arriving(name)
        share[name] = np.clip(alone + sum((share[one] for one in callees[name]), np.zeros(bins)), 0, 1)

    for name in callees:
        if name not in per_request:
            settle(name)
    columns = [
        (arriving(name), arriving(name) * per_request[name], arriving(name) * share[name]) for name in calls.names
    ]
    return calls, Traffic(*(np.column_stack(kind) for kind in zip(*columns, strict=True)))


def ask(
    callees: Mapping[str, list[str]], symptom: Symptom = "latency", target: str | None = "web", **fault
) -> Diagnosis:  # type: ignore[no-untyped-def]
    calls, normal = traffic(callees, seed=1)
    _, span = traffic(callees, seed=2, bins=SPAN, healthy=BEFORE, **fault)
    return diagnose(Case(calls, normal, span, BEFORE, symptom, target), Settings())


def first(diagnosis: Diagnosis) -> str:
    return diagnosis.ranked[0].name


def test_the_end_of_a_slow_chain_is_the_root_and_its_callers_suffer() -> None:
    diagnosis = ask(CHAIN, slower={"stock": 0.1})
    assert first(diagnosis) == "stock"
    assert diagnosis.ranked[0].probability > 0.9
    assert diagnosis.affected == ("orders", "web")


def test_the_middle_of_a_chain_is_the_root_when_its_callee_is_well() -> None:
    diagnosis = ask(CHAIN, slower={"orders": 0.1})
    assert first(diagnosis) == "orders"
    assert diagnosis.affected == ("web",)


def test_a_dependency_that_two_services_share_explains_both() -> None:
    diagnosis = ask(SHARED, slower={"database": 0.05})
    assert first(diagnosis) == "database"
    assert "orders" in diagnosis.ranked[0].evidence[-1].text
    assert "search" in diagnosis.ranked[0].evidence[-1].text


def test_failures_are_followed_to_where_they_begin() -> None:
    assert first(ask(CHAIN, "availability", failing={"stock": 0.05})) == "stock"
    assert first(ask(CHAIN, "availability", failing={"web": 0.05})) == "web"


def test_two_faults_at_once_are_both_named() -> None:
    diagnosis = ask(SHARED, slower={"orders": 0.1, "search": 0.05})
    assert [one.name for one in diagnosis.ranked[:2]] == ["orders", "search"]
    assert diagnosis.ranked[1].probability > 0.2


def test_a_surge_of_the_clients_is_no_fault_of_a_service() -> None:
    assert not ask(CHAIN, surge=3.0).ranked


def test_calls_that_nobody_made_before_are_booked_to_the_caller() -> None:
    """A loop that asks the stock ten times an order costs time in the stock, but the fault is the caller's."""
    calls, normal = traffic(CHAIN, seed=1)
    _, span = traffic(CHAIN, seed=2, bins=SPAN)
    orders, stock = calls.names.index("orders"), calls.names.index("stock")
    more = Traffic(*(column.copy() for column in span))
    extra_s = 9 * span.seconds[BEFORE:, stock]
    more.requests[BEFORE:, stock] *= 10
    more.seconds[BEFORE:, stock] *= 10
    more.seconds[BEFORE:, [orders, calls.names.index("web")]] += extra_s[:, None]
    diagnosis = diagnose(Case(calls, normal, more, BEFORE, "latency", "web"), Settings())
    assert first(diagnosis) == "orders"


def test_what_the_target_does_not_depend_on_is_no_candidate() -> None:
    apart = {**CHAIN, "reports": []}
    assert not ask(apart, slower={"reports": 1.0}).ranked
    assert first(ask(apart, target="reports", slower={"reports": 1.0})) == "reports"


def test_a_level_that_has_moved_since_the_normal_period_is_not_the_fault() -> None:
    """The database is slower than in the normal period, but has been so before the symptom came."""
    calls, normal = traffic(SHARED, seed=1)
    _, span = traffic(SHARED, seed=2, bins=SPAN, healthy=BEFORE, slower={"search": 0.05})
    database = calls.names.index("database")
    span.seconds[:, database] *= 3
    diagnosis = diagnose(Case(calls, normal, span, BEFORE, "latency", "web"), Settings())
    assert first(diagnosis) == "search"


def test_healthy_spans_are_answered_as_seldom_as_stated() -> None:
    calls, normal = traffic(SHARED, seed=1)
    answered = 0
    for seed in range(150):
        _, span = traffic(SHARED, seed=100 + seed, bins=SPAN)
        answered += bool(diagnose(Case(calls, normal, span, BEFORE, "latency", "web"), Settings()).ranked)
    assert answered <= 150 * Settings().false_alarms * 3


def test_holes_do_not_frighten() -> None:
    calls, normal = traffic(CHAIN, seed=1)
    _, span = traffic(CHAIN, seed=2, bins=SPAN, healthy=BEFORE, slower={"stock": 0.1})
    for table in (normal, span):
        for column in table:
            column[3] = np.nan
    assert first(diagnose(Case(calls, normal, span, BEFORE, "latency", "web"), Settings())) == "stock"


def test_a_normal_period_that_is_too_short_is_said() -> None:
    calls, normal = traffic(CHAIN, bins=10)
    _, span = traffic(CHAIN, bins=SPAN)
    with pytest.raises(ValueError, match="has 10 bins; at least 25 are needed"):
        diagnose(Case(calls, normal, span, BEFORE, "latency", "web"), Settings())


maps = st.integers(2, 7).flatmap(
    lambda size: st.tuples(
        *(
            st.sets(st.integers(place + 1, size - 1), max_size=3) if place < size - 1 else st.just(set())
            for place in range(size)
        )
    )
)


def named(edges: tuple[set[int], ...]) -> dict[str, list[str]]:
    return {f"s{place}": [f"s{callee}" for callee in sorted(called)] for place, called in enumerate(edges)}


@settings(max_examples=40)
@given(maps, st.integers(0, 6), st.integers(0, 2**16))
def test_probabilities_add_up_and_the_names_and_order_of_services_are_irrelevant(
    edges: tuple[set[int], ...], ill: int, seed: int
) -> None:
    callees = named(edges)
    root = f"s{ill % len(callees)}"
    calls, normal = traffic(callees, seed=seed)
    _, span = traffic(callees, seed=seed + 1, bins=SPAN, healthy=BEFORE, slower={root: 0.2})
    diagnosis = diagnose(Case(calls, normal, span, BEFORE, "latency"), Settings())
    assert first(diagnosis) == root
    assert sum(one.probability for one in diagnosis.ranked) == pytest.approx(1)

    turned = {name: f"z{len(callees) - place}" for place, name in enumerate(calls.names)}
    other = Calls.of(
        turned.values(), {turned[name]: [turned[one] for one in called] for name, called in callees.items()}
    )
    moved = [calls.names.index(name) for new in other.names for name, said in turned.items() if said == new]
    again = diagnose(
        Case(other, Traffic(*(c[:, moved] for c in normal)), Traffic(*(c[:, moved] for c in span)), BEFORE, "latency"),
        Settings(),
    )
    assert [one.name for one in again.ranked] == [turned[one.name] for one in diagnosis.ranked]
    assert [one.probability for one in again.ranked] == pytest.approx([one.probability for one in diagnosis.ranked])


@settings(max_examples=20)
@given(maps, st.integers(0, 2**16), st.sampled_from([1e-3, 60.0, 1e3]))
def test_the_unit_of_time_is_irrelevant(edges: tuple[set[int], ...], seed: int, factor: float) -> None:
    callees = named(edges)
    calls, normal = traffic(callees, seed=seed)
    _, span = traffic(callees, seed=seed + 1, bins=SPAN, healthy=BEFORE, slower={"s0": 0.1})

    def scaled(one: Traffic) -> Traffic:
        return one._replace(seconds=one.seconds * factor)

    plain = diagnose(Case(calls, normal, span, BEFORE, "latency"), Settings())
    other = diagnose(Case(calls, scaled(normal), scaled(span), BEFORE, "latency"), Settings())
    assert [one.name for one in other.ranked] == [one.name for one in plain.ranked]
    assert [one.probability for one in other.ranked] == pytest.approx([one.probability for one in plain.ranked])


@pytest.mark.parametrize(("draw", "exact"), [("pareto", 1e-4), ("exponential", 1e-4)])
def test_beyond_what_was_seen_the_chance_follows_the_tail(draw: str, exact: float) -> None:
    rng = np.random.default_rng(3)
    healthy = rng.pareto(3.0, 5_000) + 1 if draw == "pareto" else rng.exponential(1.0, 5_000) + 1
    far = exact ** (-1 / 3) if draw == "pareto" else 1 - np.log(exact)
    within, beyond = chance(np.array([np.quantile(healthy, 0.5), far]), healthy, 0.1)
    assert within == pytest.approx(0.5, rel=0.01)
    assert exact / 3 < beyond < exact * 3
