"""The demo's company: its clock, its rhythm, its tables, its log and its past."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ingest.collectors.odoo_log_lines import parse
from ingest.receivers.github import GitHub
from ingest.receivers.receiver import Request
from pilothouse.demo import faults, history, odoo_log, schema, seed
from pilothouse.demo.company import CELLS, DAY_MS, HOUR_MS, TENANTS, WEEK_MS, Peak, Plan, Tenant, load
from pilothouse.demo.estate import calendars
from pilothouse.demo.odoo_log import OdooLog
from schemas.estate import Cell as WatchedCell
from schemas.estate import Estate
from schemas.estate import Tenant as WatchedTenant
from schemas.metrics import BY_NAME, Kind
from schemas.records import BusinessBatch, Change, ChangeStatus, Scrape
from schemas.series import parse as parse_series
from schemas.series import split

NOW_MS = 1_795_240_000_000
GOLDEN = Path(__file__).parent.parent / "golden" / "demo"
ACME, EVEREST = TENANTS["acme"], TENANTS["everest"]
KEY = "a key that is long enough to be one"

Past = list[tuple[int, list[Scrape]]]


@pytest.mark.parametrize("hour", range(24))
def test_it_is_mid_morning_whenever_the_demo_begins(hour: int) -> None:
    now_ms = NOW_MS // DAY_MS * DAY_MS + hour * HOUR_MS
    plan = Plan.at(now_ms)
    assert datetime.fromtimestamp(now_ms / 1000, ZoneInfo(plan.time_zone)).hour == 10
    assert all(calendar.at(now_ms).is_open for calendar in calendars(plan))


def test_a_plan_survives_its_way_to_the_workload() -> None:
    plan = Plan.at(NOW_MS, (Peak(NOW_MS, NOW_MS + 1),))
    assert Plan.of(json.loads(json.dumps(plan.data()))) == plan


def test_nights_are_quiet_and_a_campaign_triples_those_in_trade_alone() -> None:
    plan = Plan.at(NOW_MS, (Peak(NOW_MS, NOW_MS + HOUR_MS),))
    assert load(plan, ACME, NOW_MS - 9 * HOUR_MS) < 0.1 * load(plan, ACME, NOW_MS)
    assert load(plan, EVEREST, NOW_MS) == pytest.approx(3 * load(plan, ACME, NOW_MS))
    assert load(plan, EVEREST, NOW_MS + HOUR_MS) == load(plan, ACME, NOW_MS + HOUR_MS)


def test_the_calendar_announces_what_the_workload_will_do() -> None:
    plan = Plan.at(NOW_MS, (Peak(NOW_MS, NOW_MS + HOUR_MS),))
    ordinary, trade = calendars(plan)
    assert (ordinary.at(NOW_MS).load, trade.at(NOW_MS).load) == (1.0, 3.0)
    assert trade.at(NOW_MS - 2 * DAY_MS - WEEK_MS).campaign  # there were some before, too


@pytest.mark.parametrize("version", schema.VERSIONS)
def test_every_column_is_one_that_this_odoo_has(version: int) -> None:
    with (GOLDEN / "columns.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["version"]) == version]
    real = {(row["table"], row["column"]): row["type"] for row in rows}
    recorded = {row["table"] for row in rows}
    # Recorded without the module stock_delivery, which brings these.
    delivery = ("carrier_id", "carrier_tracking_ref", "carrier_price")
    for table in schema.TABLES:
        for name, (kind, _) in schema.columns(table, version).items():
            if table in recorded and name not in delivery:
                assert real.get((table, name)) == kind, f"{table}.{name}"


def test_versions_differ_as_odoo_does() -> None:
    assert "numbercall" in schema.columns("ir_cron", 17)
    assert "failure_count" in schema.columns("ir_cron", 18)
    assert not schema.columns("ir_cron_progress", 17)
    assert "product_uom_id" in schema.columns("sale_order_line", 19)
    assert "group_id" not in schema.columns("stock_picking", 19)


def test_the_log_is_read_as_odoos(tmp_path: Path) -> None:
    log = OdooLog(tmp_path / "odoo.log")
    log.request("acme", odoo_log.path_of(18, "sale.order", "action_confirm"), 200, 12, 0.02, 0.05)
    log.write("ERROR", "?", "odoo.service.server", "no\nTraceback (most recent call last):")
    first, second, _ = (tmp_path / "odoo.log").read_text().splitlines()
    entry = parse(first, UTC)
    assert entry is not None
    assert entry.database == "acme"
    request = entry.request
    assert request is not None
    assert (request.path, request.queries) == ("/web/dataset/call_button/sale.order/action_confirm", 12)
    assert request.sql_s == 0.02
    assert request.wall_s == pytest.approx(0.05)
    assert parse(second, UTC) is not None


@pytest.mark.parametrize(
    ("version", "path"),
    [
        (17, "POST /web/dataset/call_button"),
        (18, "POST /web/dataset/call_button/sale.order/action_confirm"),
        (19, "POST /web/dataset/call_button/sale.order/action_confirm#sale.order.action_confirm"),
    ],
)
def test_buttons_are_called_as_the_version_calls_them(version: int, path: str) -> None:
    assert odoo_log.path_of(version, "sale.order", "action_confirm") == path


def test_a_release_is_told_as_github_would() -> None:
    tenants = tuple(WatchedTenant(name=one.name) for one in CELLS[0].tenants)
    estate = Estate(cells=(WatchedCell(name="eu1", tenants=tenants),))
    now = datetime(2026, 11, 21, 9, tzinfo=UTC)
    body = faults.deployment_status(7, "deploy", "success", "2.4.1", "2.4.0", "eu1", ("acme",), now)
    received = GitHub(estate, (KEY,)).receive(Request(faults.headers(KEY, body), body), NOW_MS)
    (change,) = received.records
    assert isinstance(change, Change)
    assert (change.service, change.revision, change.previous_revision) == ("odoo", "2.4.1", "2.4.0")
    assert (change.status, change.tenants) == (ChangeStatus.SUCCEEDED, ("acme",))


@pytest.fixture(scope="module")
def past() -> Past:
    """Scrapes of two weeks by instant."""
    told = history.past(Plan.at(NOW_MS), CELLS, NOW_MS)
    return [(at_ms, [one for one in records if isinstance(one, Scrape)]) for at_ms, records in told]


def test_the_past_is_two_weeks_in_quarters_of_an_hour_and_ends_before_now(past: Past) -> None:
    times_ms = [at_ms for at_ms, _ in past]
    assert len(times_ms) == 2 * 7 * 96
    assert {later - earlier for earlier, later in pairwise(times_ms)} == {900_000}
    assert NOW_MS - 900_000 <= times_ms[-1] < NOW_MS
    assert len({scrape.resource for scrape in past[0][1]}) == 15


def test_every_series_of_the_past_is_in_the_catalogue_and_counters_never_fall(past: Past) -> None:
    first, last = past[0][1], past[-1][1]
    for earlier, later in zip(first, last, strict=True):
        for place, one in enumerate(split(earlier.series)):
            metric = BY_NAME[parse_series(one).name]
            if metric.kind is Kind.SUM:
                assert (later.values[place] or 0) >= (earlier.values[place] or 0), one


def test_the_past_is_busy_by_day_and_the_same_when_it_is_told_again(past: Past) -> None:
    def orders(at: int, tenant: Tenant) -> float:
        scrapes = [
            next(one for one in past[place][1] if one.resource == f"odoo-{tenant.name}") for place in (at - 1, at)
        ]
        place = split(scrapes[0].series).index(
            f'erp.document.transitions{{erp.document.state="sale",erp.document.type="sale.order",tenant.id="{tenant.name}"}}'
        )
        before, after = (scrape.values[place] or 0.0 for scrape in scrapes)
        return after - before

    by_day, by_night = len(past) - 1, len(past) - 1 - 9 * 4
    expected = load(Plan.at(NOW_MS), ACME, past[by_day][0]) * ACME.orders_per_s * 900
    assert orders(by_day, ACME) == pytest.approx(expected, rel=0.2)
    assert orders(by_night, ACME) < 0.15 * orders(by_day, ACME)
    again = next(iter(history.past(Plan.at(NOW_MS), CELLS, NOW_MS)))
    assert list(again[1]) == past[0][1]


def test_the_last_hours_hold_documents_on_their_way() -> None:
    *_, (_, records) = history.past(Plan.at(NOW_MS), CELLS, NOW_MS)
    batch = next(one for one in records if isinstance(one, BusinessBatch))
    assert set(batch.document_types) == {"sale.order", "stock.picking", "account.move"}
    assert list(batch.times_ms) == sorted(batch.times_ms)
    assert max(batch.times_ms) <= batch.time_ms
    assert max(batch.document_ids) == seed.ORDERS
