"""Budgets in the pipeline: each a situation in an Odoo host, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from processors.step import Item
from processors.steps import burn_rate
from schemas.estate import Estate
from schemas.records import BusinessBatch, Phase, Scrape, Severity
from schemas.series import identity
from tests.support.folding import folded, restarted

T0 = 1_795_262_400_000  # a Saturday noon, UTC
MINUTE = 60_000

CELLS = {
    "cells": [{"name": "eu1", "tenants": [{"name": "acme", "calendar": "dock"}, {"name": "borealis"}]}],
    "calendars": [
        {
            "name": "dock",
            "time_zone": "Europe/Berlin",
            "cut_offs": [{"carrier": "Parcel", "at": "16:00", "days": ["saturday"]}],
        }
    ],
}

REQUESTS = """
apiVersion: openslo/v1
kind: SLO
metadata: {name: requests, annotations: {pilothouse.com/by: tenant, pilothouse.com/journey: order-to-ship}}
spec:
  service: odoo
  budgetingMethod: Occurrences
  timeWindow: [{duration: 30d, isRolling: true}]
  indicator:
    spec:
      ratioMetric:
        counter: true
        bad: {metricSource: {type: pilothouse, spec: {metric: odoo.http.errors}}}
        total: {metricSource: {type: pilothouse, spec: {metric: odoo.http.requests}}}
  objectives: [{displayName: three nines, target: 0.999}]
"""

SHIPPED = """
apiVersion: openslo/v1
kind: SLO
metadata: {name: shipped-today, annotations: {pilothouse.com/by: tenant}}
spec:
  service: warehouse
  budgetingMethod: Occurrences
  indicator:
    spec:
      ratioMetric:
        good:
          metricSource: {type: pilothouse, spec: {document: stock.picking, reaches: done, within: same day}}
        total:
          metricSource: {type: pilothouse, spec: {document: sale.order, reaches: sale, before: cut-off}}
  objectives: [{target: 0.95}]
"""


def estate(*texts: str, **annotations: str) -> Estate:
    documents = [yaml.safe_load(text) for text in texts]
    for one in documents:
        one["metadata"]["annotations"] |= {f"pilothouse.com/{key}": value for key, value in annotations.items()}
    return Estate.model_validate(CELLS | {"openslo": documents})


def run(items: list[Item], declared: Estate, until_ms: int = 0, **more: Any) -> list[Any]:
    step = burn_rate.STEP
    config = step.config(cell="eu1", estate=declared, **more)
    # Every record may be the last before a restart.
    return folded(step, config, items, until_ms=until_ms, between=restarted(step))


def looks(
    requests: dict[str, list[float | None]],
    errors: dict[str, list[float | None]],
    every_ms: int = MINUTE,
    start: int = T0,
) -> list[Item]:
    """Cumulative requests and errors by tenant, a look a minute; a tenant without errors has no such series."""
    items = []
    for number in range(len(next(iter(requests.values())))):
        at_ms = start + number * every_ms
        points = {
            identity(name, {"tenant.id": tenant}): values[number]
            for name, columns in (("odoo.http.requests", requests), ("odoo.http.errors", errors))
            for tenant, values in columns.items()
        }
        record = Scrape.of(points, cell="eu1", resource="odoo-eu1", system="odoo_log", time_ms=at_ms, start_time_ms=T0)
        items.append(Item(at_ms, record))
    return items


def rising(minutes: int, rate: float, since: int = 0) -> list[float | None]:
    return [rate * max(0, minute - since) for minute in range(minutes)]


def test_the_tenant_whose_budget_burns_is_paged_and_no_other() -> None:
    ill = looks({"acme": rising(60, 100), "borealis": rising(60, 100)}, {"acme": rising(60, 5, 30)})
    told = run(ill, estate(REQUESTS))
    assert {one.cause for one in told} == {"slo.burn:requests/acme"}
    page = next(one for one in told if one.severity is Severity.CRITICAL)
    # At the look of minute 35, 0.71 % of all requests so far have failed: more than 6 times 0.1 %.
    assert (page.tenant, page.time_ms) == ("acme", T0 + 36 * MINUTE)
    assert "times as fast as allowed" in told[0].summary
    assert "order-to-ship" in told[0].evidence[-1].text
    assert told[0].evidence[0].series == 'odoo.http.errors{tenant.id="acme"}'


def test_a_burn_is_one_episode_that_ends_when_both_windows_are_fine() -> None:
    errors = [*rising(40, 5, 30), *[45.0] * 400]
    told = run(looks({"acme": rising(440, 100)}, {"acme": errors}), estate(REQUESTS))
    assert (told[0].phase, told[-1].phase) == (Phase.OPEN, Phase.RESOLVED)
    assert len({one.id for one in told}) == 1
    assert {one.severity for one in told} == {Severity.CRITICAL, Severity.WARNING}


def test_a_look_that_measured_nothing_is_not_a_zero() -> None:
    """Nulls where requests were: neither good nor bad; the next look covers the time between."""
    whole = looks({"acme": rising(60, 100)}, {"acme": rising(60, 5)})
    blind = looks(
        {"acme": [value if number % 3 == 0 else None for number, value in enumerate(rising(60, 100))]},
        {"acme": rising(60, 5)},
    )
    ends = [[one.evidence[-1].value for one in run(items, estate(REQUESTS))][-1] for items in (whole, blind)]
    assert ends[0] == pytest.approx(ends[1], rel=0.1)


def test_a_counter_that_fell_was_not_measured_in_between() -> None:
    fallen = [*rising(30, 100), *rising(30, 100)]
    assert run(looks({"acme": fallen}, {"acme": [0.0] * 60}), estate(REQUESTS)) == []


def test_the_first_error_of_a_tenant_counts_from_zero() -> None:
    before = looks({"acme": rising(30, 100)}, {})
    after = looks({"acme": rising(60, 100)[30:]}, {"acme": [100.0] * 30}, start=T0 + 30 * MINUTE)
    assert [one.phase for one in run(before + after, estate(REQUESTS))][:1] == [Phase.OPEN]


def test_unmeasured_time_ends_an_alert_unless_the_slo_freezes_it() -> None:
    ill = looks({"acme": rising(40, 100)}, {"acme": rising(40, 5)})
    plain = run(ill, estate(REQUESTS), until_ms=T0 + 120 * MINUTE)
    frozen = run(ill, estate(REQUESTS, **{"freeze-unmeasured": "true"}), until_ms=T0 + 120 * MINUTE)
    assert plain[-1].phase is not Phase.OPEN
    assert Phase.RESOLVED in {one.phase for one in run(ill, estate(REQUESTS), until_ms=T0 + 5_000 * MINUTE)}
    assert Phase.RESOLVED not in {one.phase for one in frozen}


def test_a_long_gap_is_no_burst_of_its_end() -> None:
    """What failed in six blind hours says nothing of the last hour."""
    calm = looks({"acme": rising(30, 100)}, {"acme": [0.0] * 30})
    late = looks({"acme": [39_000.0 + 100 * k for k in range(30)]}, {"acme": [700.0] * 30}, start=T0 + 390 * MINUTE)
    told = run(calm + late, estate(REQUESTS))
    assert [one for one in told if one.severity is Severity.CRITICAL] == []


def documents(at_ms: int, rows: list[tuple[str, int, str, int | None]]) -> Item:
    width = len(rows)
    nothing = (None,) * width
    record = BusinessBatch(
        cell="eu1", resource="odoo-acme", system="odoo", time_ms=at_ms, tenants=("acme",) * width, times_ms=(at_ms,) * width,
        document_types=tuple(row[0] for row in rows), document_ids=tuple(row[1] for row in rows), document_names=nothing,
        states=tuple(row[2] for row in rows), orders=tuple(row[3] for row in rows), amounts=nothing, currencies=nothing,
        warehouses=nothing, carriers=nothing, deadlines_ms=nothing,
    )  # fmt: skip
    return Item(at_ms, record)


def orders(numbers: range, hour: int) -> Item:
    """Orders confirmed at an hour of the day in Berlin, each with a picking."""
    rows: list[tuple[str, int, str, int | None]] = [("sale.order", number, "sale", number) for number in numbers]
    rows += [("stock.picking", 1_000 + number, "assigned", number) for number in numbers]
    return documents(T0 + (hour - 13) * 60 * MINUTE, rows)


def shipped(numbers: range, hour: int, state: str = "done") -> Item:
    return documents(
        T0 + (hour - 13) * 60 * MINUTE, [("stock.picking", 1_000 + number, state, number) for number in numbers]
    )


NIGHT = T0 + 12 * 60 * MINUTE


def test_orders_before_the_cut_off_that_are_not_shipped_the_same_day_burn_the_budget() -> None:
    told = run([orders(range(20), 14), shipped(range(5), 17)], estate(SHIPPED), until_ms=NIGHT)
    assert [one.cause for one in told][:1] == ["slo.burn:shipped-today/acme"]
    assert "15 of 20 events" in told[0].evidence[-1].text
    assert told[0].started_ms > T0 + 11 * 60 * MINUTE - MINUTE  # midnight in Berlin


def test_orders_that_are_shipped_or_came_after_the_cut_off_or_are_cancelled_burn_nothing() -> None:
    kept = [orders(range(20), 14), shipped(range(20), 17)]
    after = [orders(range(20), 17)]
    void = [orders(range(20), 14), documents(T0 + 70 * MINUTE, [("sale.order", n, "cancel", n) for n in range(20)])]
    for items in (kept, after, void):
        assert run(items, estate(SHIPPED), until_ms=NIGHT) == []


def test_an_order_is_shipped_with_its_last_picking() -> None:
    second: list[tuple[str, int, str, int | None]] = [("stock.picking", 5_000 + n, "assigned", n) for n in range(20)]
    items = [orders(range(20), 14), documents(T0 + 61 * MINUTE, second), shipped(range(20), 17)]
    assert run(items, estate(SHIPPED), until_ms=NIGHT)


def test_history_of_a_busy_cell_is_bounded() -> None:
    """50 tenants, three months: about 30 KB a tenant and objective, however long it runs."""
    tenants = [f"t{number}" for number in range(50)]
    config, state = burn_rate.STEP.config(cell="eu1", estate=estate(REQUESTS)), burn_rate.STEP.fresh()
    sizes = []
    for day in (0, 1, 90):
        counts = {tenant: [100.0 * day + 1] for tenant in tenants}
        (item,) = looks(counts, counts, start=T0 + day * 86_400_000)
        state, _ = burn_rate.STEP.step(config, state, item)
        state, _ = burn_rate.STEP.tick(config, state, item.at_ms + MINUTE)
        sizes.append(sum(map(len, burn_rate.STEP.pack(state).values())))
    assert sizes[1] == pytest.approx(sizes[2], rel=0.05)
    assert sizes[2] < 50 * 40_000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"counter": False}, "write counter: true"),
        ({"metric": "odoo.http.eror"}, "is not in the catalogue"),
        ({"type": "Prometheus"}, "metricSource type 'Prometheus' is not read here"),
        ({"type": "csv"}, "type csv is for `pilothouse slo eval`"),
        ({"cells": "eu9"}, "cell 'eu9' is not declared; declared are eu1"),
    ],
)
def test_an_slo_that_the_estate_cannot_serve_is_refused_with_the_mend(change: dict[str, Any], says: str) -> None:
    document = yaml.safe_load(REQUESTS)
    metric = document["spec"]["indicator"]["spec"]["ratioMetric"]
    metric["counter"] = change.get("counter", True)
    for part in ("bad", "total"):
        source = metric[part]["metricSource"]
        source["type"] = change.get("type", "pilothouse")
        source["spec"] = (
            {"column": part}
            if change.get("type") == "csv"
            else source["spec"] | {key: value for key, value in change.items() if key == "metric"}
        )
    document["metadata"]["annotations"] |= {"pilothouse.com/cells": change.get("cells", "eu1")}
    with pytest.raises(ValidationError, match=says.replace("(", "\\(")):
        Estate.model_validate(CELLS | {"openslo": [document]})


def test_an_slo_that_is_declared_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="SLO 'requests' is declared 2 times"):
        estate(REQUESTS, REQUESTS)


def test_the_example_of_the_docs_is_one() -> None:
    page = (Path(__file__).parent.parent.parent / "docs/slo.md").read_text()
    documents = list(yaml.safe_load_all(page.partition("```yaml")[2].partition("```")[0]))
    assert [one.name for one in Estate.model_validate(CELLS | {"openslo": documents}).slos] == [
        "requests",
        "shipped-today",
    ]
