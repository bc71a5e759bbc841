"""Odoo's tables, read from a real PostgreSQL that holds the columns and rows recorded on running 17, 18 and 19."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from ingest.collector import Collected, Target, Unavailable
from ingest.collectors.odoo import Odoo, memory
from ingest.collectors.odoo.look import naive
from ingest.collectors.odoo.memory import Documents, Known
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.records import BusinessBatch, OperationsEvent
from schemas.series import parse
from tests.support.collected import Observer, points
from tests.support.golden import GOLDEN, agrees, told

VERSIONS = ("17.0", "18.0", "19.0")
NOW_MS = 1_795_233_600_000  # 2026-11-21 04:00 UTC, some minutes after the recordings
MINUTE_MS = 60_000
CELL = Cell(name="eu1", tenants=(Tenant(name="acme", currency="EUR"),))


class Company:
    """A tenant's database and a collector that watches it, with a clock of the server that the test moves."""

    def __init__(self, url: str, connection: asyncpg.Connection) -> None:
        self.url, self.connection = url, connection
        self.server_ms = NOW_MS
        self.watchers: list[Observer] = []
        self.collector = self.watched_by(url)
        self.position: str | None = None

    def watched_by(self, url: str, **options: object) -> Observer:
        async def clock(connection: asyncpg.Connection) -> int:
            return self.server_ms

        resource = Resource(name="odoo-acme", system="odoo", tenant="acme", options=options)
        target = Target(CELL, resource, url)
        self.watchers.append(Observer(target, Odoo(target, clock)))
        return self.watchers[-1]

    async def look(self) -> Collected:
        """A look whose records and position are stored."""
        collected = await self.collector.collect(self.server_ms, self.position)
        self.position = collected.position
        return collected

    async def later(self, ms: int = MINUTE_MS) -> Collected:
        """A look some time later."""
        self.server_ms += ms
        return await self.look()

    async def run(self, statement: str, *args: Any) -> None:
        await self.connection.execute(statement, *args)

    async def load(self, version: str) -> None:
        """The recorded tables, with their types, and rows."""
        folder = GOLDEN / "odoo" / version
        with (folder / "columns.csv").open() as file:
            for table, columns in groupby(csv.DictReader(file), key=lambda row: row["table"]):
                types = ", ".join(f'"{one["column"]}" {one["type"]}' for one in columns)
                await self.run(f"CREATE TABLE {table} ({types})")
        for path in folder.glob("*.csv"):
            if path.stem != "columns":
                columns = first_line(path).split(",")
                await self.connection.copy_to_table(path.stem, source=path, columns=columns, format="csv", header=True)


def first_line(path: Path) -> str:
    return path.read_text().split("\n", 1)[0]


@pytest.fixture
async def company(database_url: str) -> AsyncIterator[Company]:
    """A database of a superuser, watched by a role that may read what is there and what comes."""
    connection = await asyncpg.connect(database_url)
    watcher = f"watcher_{uuid4().hex[:8]}"
    await connection.execute(f"CREATE ROLE {watcher} LOGIN PASSWORD 'secret'")
    await connection.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {watcher}")
    company = Company(as_role(database_url, watcher), connection)
    yield company
    for one in company.watchers:
        await one.close()
    await connection.execute(f"DROP OWNED BY {watcher}; DROP ROLE {watcher}")
    await connection.close()


@pytest.fixture
async def acme(company: Company) -> Company:
    """Odoo 18's tables without rows, looked at once."""
    await company.load("18.0")
    for path in (GOLDEN / "odoo" / "18.0").glob("*.csv"):
        if path.stem not in ("columns", "queue_job_channel"):
            await company.run(f"TRUNCATE {path.stem}")
    await company.look()
    return company


def point(collected: Collected, name: str, attributes: dict[str, str] | None = None) -> float | None:
    """The one value of this name with these attributes among its own."""
    wanted = [f'{key}="{value}"' for key, value in (attributes or {}).items()]
    named = {series: value for series, value in points(collected).items() if series.startswith(f"{name}{{")}
    found = [value for series, value in named.items() if all(one in series for one in wanted)]
    assert len(found) == 1, f"{name} {wanted} is there {len(found)} times among {sorted(named)}"
    return found[0]


def events(collected: Collected) -> list[OperationsEvent]:
    return [record for record in collected.records if isinstance(record, OperationsEvent)]


def documents(collected: Collected) -> list[tuple[str, int, str]]:
    batches = [record for record in collected.records if isinstance(record, BusinessBatch)]
    return [
        row for batch in batches for row in zip(batch.document_types, batch.document_ids, batch.states, strict=True)
    ]


ORDER = """INSERT INTO sale_order (id, name, company_id, partner_id, partner_invoice_id, partner_shipping_id, state, date_order,
             picking_policy, create_date, write_date, amount_total, delivery_status)
           VALUES ($1::int, 'S' || $1::int, 1, 1, 1, 1, $2, $3, 'direct', $3, $3, 100, 'pending')"""


def at(company: Company, ms: int = 0) -> Any:
    """The server's time as Odoo writes it."""
    return memory_time(company.server_ms + ms)


def memory_time(ms: int) -> Any:
    return naive(ms * 1_000)


@pytest.mark.parametrize("version", VERSIONS)
async def test_recorded_tables_are_told_as_in_their_golden_file(company: Company, version: str) -> None:
    await company.load(version)
    collected = await company.look()
    agrees(told(collected.records), GOLDEN / "odoo" / version / "first.told")
    assert {parse(series).name for series in points(collected)} <= set(BY_NAME)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_second_look_at_the_same_rows_tells_nothing_new(company: Company, version: str) -> None:
    await company.load(version)
    first, second = await company.look(), await company.look()
    assert documents(first)
    assert (documents(second), events(second)) == ([], [])
    assert points(second) == points(first)


async def test_a_database_that_has_nothing_of_odoo_gives_an_empty_scrape(company: Company) -> None:
    collected = await company.look()
    assert [(type(record).__name__, len(getattr(record, "values", ()))) for record in collected.records] == [
        ("Scrape", 0)
    ]


async def test_a_look_that_was_not_stored_is_told_again(acme: Company) -> None:
    await acme.run(ORDER, 1, "sale", at(acme))
    lost = await acme.collector.collect(NOW_MS, acme.position)
    again = await acme.collector.collect(NOW_MS, acme.position)
    assert documents(lost) == documents(again) == [("sale.order", 1, "sale")]
    assert again.position == lost.position


async def test_each_state_is_told_once_however_often_the_row_is_written(acme: Company) -> None:
    await acme.run(ORDER, 1, "draft", at(acme))
    seen = [documents(await acme.later())]
    for state in ("draft", "sale", "sale", "sale"):
        await acme.run("UPDATE sale_order SET state = $1, write_date = $2", state, at(acme))
        seen.append(documents(await acme.later(10 * MINUTE_MS)))
    assert seen == [[("sale.order", 1, "draft")], [], [("sale.order", 1, "sale")], [], []]


async def test_a_state_that_comes_back_is_told_again(acme: Company) -> None:
    seen = []
    await acme.run(ORDER, 1, "draft", at(acme))
    for state in ("draft", "sale", "cancel", "draft"):
        await acme.run("UPDATE sale_order SET state = $1, write_date = $2", state, at(acme))
        seen += [state for _, _, state in documents(await acme.later(1_000))]
    assert seen == ["draft", "sale", "cancel", "draft"]


async def test_a_transaction_that_commits_late_is_told(acme: Company) -> None:
    await acme.run(ORDER, 1, "sale", at(acme))
    await acme.later()
    await acme.run(ORDER, 2, "sale", at(acme, -90_000))
    assert documents(await acme.later(1_000)) == [("sale.order", 2, "sale")]


async def test_a_transaction_longer_than_the_overlap_is_told_when_it_commits(acme: Company, database_url: str) -> None:
    posting = await asyncpg.connect(database_url)
    transaction = posting.transaction()
    await transaction.start()
    began_ms = int(await posting.fetchval("SELECT (extract(epoch FROM now()) * 1000)::bigint"))
    acme.server_ms = began_ms
    await posting.execute(ORDER, 1, "sale", memory_time(began_ms))
    for number in (2, 3):
        await acme.run(ORDER, number, "sale", at(acme, 300_000))
        await acme.later(300_000)
    await transaction.commit()
    assert documents(await acme.later(300_000)) == [("sale.order", 1, "sale")]
    await posting.close()


async def test_a_write_date_ahead_of_the_clock_hides_nothing(acme: Company) -> None:
    await acme.run(ORDER, 1, "sale", at(acme, 86_400_000))
    await acme.later()
    await acme.run(ORDER, 2, "sale", at(acme))
    assert documents(await acme.later()) == [("sale.order", 2, "sale")]


async def test_a_bulk_write_is_told_in_parts_and_each_document_once(
    acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.collectors.odoo.documents.MAX_TOLD", 10)
    monkeypatch.setattr(memory, "MAX_WINDOW", 25)
    monkeypatch.setattr(memory, "MAX_SETTLED", 5)
    for number in range(1, 101):
        await acme.run(ORDER, number, "sale", at(acme))
    seen = [documents(await acme.later(1_000)) for _ in range(14)]
    assert [len(look) for look in seen] == [10] * 10 + [0] * 4
    assert sorted(number for look in seen for _, number, _ in look) == list(range(1, 101))


async def test_reached_states_and_their_value_are_counted_from_the_first_look_on(acme: Company) -> None:
    for number in (1, 2):
        await acme.run(ORDER, number, "sale", at(acme))
    first = await acme.later()
    await acme.run("UPDATE sale_order SET state = 'cancel', write_date = $1 WHERE id = 1", at(acme))
    second = await acme.later()
    sale = {"erp.document.type": "sale.order", "erp.document.state": "sale"}
    assert [point(one, "erp.document.transitions", sale) for one in (first, second)] == [2, 2]
    assert point(second, "erp.document.transitions", {**sale, "erp.document.state": "cancel"}) == 1
    assert point(second, "erp.order.value") == 200


async def test_the_backlog_of_a_first_look_is_told_but_not_counted(company: Company) -> None:
    await company.load("18.0")
    collected = await company.look()
    told_states = {(kind, state) for kind, _, state in documents(collected)}
    assert ("stock.picking", "assigned") in told_states
    assert ("stock.picking", "done") not in told_states
    transitions = [value for name, value in points(collected).items() if name.startswith("erp.document.transitions")]
    assert set(transitions) == {0}


async def test_a_picking_has_warehouse_carrier_and_the_value_of_its_order(acme: Company) -> None:
    await acme.run("CREATE TABLE stock_picking_type (id int, warehouse_id int)")
    await acme.run("CREATE TABLE stock_warehouse (id int, name varchar)")
    await acme.run("CREATE TABLE delivery_carrier (id int, name jsonb)")
    await acme.run("ALTER TABLE stock_picking ADD COLUMN carrier_id int")
    await acme.run("INSERT INTO stock_picking_type VALUES (2, 7)")
    await acme.run("INSERT INTO stock_warehouse VALUES (7, 'Antwerp')")
    await acme.run("""INSERT INTO delivery_carrier VALUES (3, '{"en_US": "Parcel", "fr_FR": "Colis"}')""")
    await acme.run(ORDER, 1, "sale", at(acme))
    await acme.run("UPDATE sale_order SET currency_rate = 0.5, warehouse_id = 7")
    await acme.run(
        """INSERT INTO stock_picking (id, name, state, sale_id, picking_type_id, carrier_id, location_id, location_dest_id,
             move_type, create_date, write_date, date_done, date_deadline)
           VALUES (9, 'WH/OUT/9', 'done', 1, 2, 3, 1, 1, 'direct', $1, $1, $2, $3)""",
        at(acme),
        at(acme, 5_000),
        at(acme, 60_000),
    )
    collected = await acme.later(11 * MINUTE_MS)  # the tables are new, so the schema has to be probed again
    picking = next(
        r for r in collected.records if isinstance(r, BusinessBatch) and r.document_types[0] == "stock.picking"
    )
    assert (picking.document_names, picking.states, picking.times_ms) == (("WH/OUT/9",), ("done",), (NOW_MS + 5_000,))
    assert (picking.warehouses, picking.carriers, picking.orders) == (("Antwerp",), ("Parcel",), (1,))
    assert (picking.amounts, picking.currencies) == ((200.0,), ("EUR",))
    assert picking.deadlines_ms == (NOW_MS + 60_000,)


async def test_an_invoice_finds_its_order_by_name(acme: Company) -> None:
    await acme.run(ORDER, 1, "sale", at(acme))
    await acme.run(
        """INSERT INTO account_move (id, name, state, move_type, invoice_origin, journal_id, currency_id, date, auto_post,
             amount_total_signed, create_date, write_date, invoice_date_due)
           VALUES (5, 'INV/5', 'posted', 'out_invoice', 'S1, S2', 1, 1, '2026-11-21', 'no', 99.5, $1, $1, '2999-01-01')""",
        at(acme),
    )
    collected = await acme.later()
    batches = {r.document_types[0]: r for r in collected.records if isinstance(r, BusinessBatch)}
    invoice = batches["account.move"]
    assert (invoice.orders, invoice.amounts, invoice.deadlines_ms) == ((1,), (99.5,), (None,))


CRON = """INSERT INTO ir_cron (id, cron_name, ir_actions_server_id, user_id, interval_number, interval_type, active, nextcall,
            lastcall, failure_count) VALUES (1, 'EDI', 1, 1, 5, 'minutes', true, $1, $2, 0)"""


async def test_runs_are_counted_when_lastcall_moves_on(acme: Company) -> None:
    await acme.run(CRON, at(acme), None)
    found = [point(await acme.later(), "odoo.cron.runs", {"odoo.cron.name": "EDI"})]
    for moved_ms in (1_000, 1_000, 2_000):
        await acme.run("UPDATE ir_cron SET lastcall = $1", memory_time(NOW_MS + moved_ms))
        found.append(point(await acme.later(), "odoo.cron.runs", {"odoo.cron.name": "EDI"}))
    assert found == [0, 1, 1, 2]


async def test_an_overdue_cron_is_measured_by_the_servers_clock(acme: Company) -> None:
    await acme.run(CRON, at(acme, 30_000), None)
    on_time, late = await acme.later(MINUTE_MS), await acme.later(5 * MINUTE_MS)
    assert [point(one, "odoo.cron.delay.max") for one in (on_time, late)] == [30, 330]
    assert [point(one, "odoo.cron.overdue") for one in (on_time, late)] == [0, 1]


async def test_a_cron_that_odoo_switches_off_after_failures_is_told(acme: Company) -> None:
    await acme.run(CRON, at(acme), None)
    await acme.later()
    await acme.run("UPDATE ir_cron SET failure_count = 4")
    failing = await acme.later()
    await acme.run("UPDATE ir_cron SET active = false, failure_count = 0")
    off = await acme.later()
    assert [(event.name, event.attributes["odoo.cron.failures"]) for event in events(failing)] == [
        ("odoo.cron.failing", 4)
    ]
    assert [event.name for event in events(off)] == ["odoo.cron.deactivated"]
    assert events(off)[0].tenant == "acme"
    assert events(await acme.later()) == []


async def test_a_cron_that_a_person_switches_off_is_no_failure(acme: Company) -> None:
    await acme.run(CRON, at(acme), None)
    await acme.later()
    await acme.run("UPDATE ir_cron SET active = false")
    assert [(event.name, event.severity_number) for event in events(await acme.later())] == [
        ("odoo.cron.switched_off", 9)
    ]


PROGRESS = "INSERT INTO ir_cron_progress (id, cron_id, done, remaining, timed_out_counter) VALUES ($1, 1, $2, $3, $4)"


async def test_a_cron_that_ran_and_did_nothing_or_was_killed_is_told_once(acme: Company) -> None:
    await acme.run(
        "CREATE TABLE ir_cron_progress (id int, cron_id int, done int, remaining int, timed_out_counter int)"
    )
    acme.collector = acme.watched_by(acme.url)
    await acme.run(CRON, at(acme), None)
    looks = [await acme.later()]
    works, idle, under_way, after_a_kill, has_nothing_to_do = (5, 20, 0), (0, 20, 0), (0, 0, 1), (0, 0, 2), (0, 0, 0)
    for number, run in enumerate((works, idle, under_way, after_a_kill, has_nothing_to_do), 1):
        await acme.run(PROGRESS, number, *run)
        looks += [await acme.later(), await acme.later()]
    assert [event.name for one in looks for event in events(one)] == ["odoo.cron.idle", "odoo.cron.killed"]


JOB = """INSERT INTO queue_job (id, uuid, channel, state, model_name, method_name, date_created, date_enqueued, date_started)
         VALUES ($1::int, $1::int::text, 'root', $2, 'edi.exchange', 'send', $3, $3, $3)"""


async def test_waiting_jobs_are_counted_and_the_oldest_has_an_age(acme: Company) -> None:
    await acme.run(JOB, 1, "pending", at(acme, -300_000))
    await acme.run(JOB, 2, "pending", at(acme, -900_000))
    await acme.run("UPDATE queue_job SET eta = $1 WHERE id = 2", at(acme, 3_600_000))
    collected = await acme.look()
    pending = {"odoo.queue_job.channel": "root", "odoo.queue_job.state": "pending"}
    assert point(collected, "odoo.queue_job.count", pending) == 2
    assert point(collected, "odoo.queue_job.age.max") == 300  # the other one is meant for later


async def test_done_jobs_are_counted_once_though_they_are_purged(acme: Company) -> None:
    found = []
    for number in range(1, 6):
        await acme.run(JOB, number, "done", at(acme))
        await acme.run("UPDATE queue_job SET date_done = $1 WHERE id = $2", at(acme, 500), number)
        found.append(point(await acme.later(), "odoo.queue_job.done"))
    await acme.run("DELETE FROM queue_job")
    found.append(point(await acme.later(), "odoo.queue_job.done"))
    found.append(point(await acme.later(60 * MINUTE_MS), "odoo.queue_job.done"))
    assert found == [1, 2, 3, 4, 5, 5, 5]


async def test_failed_jobs_are_told_by_their_kind_and_again_when_they_fail_again(acme: Company) -> None:
    for number in (1, 2):
        await acme.run(JOB, number, "failed", at(acme))
    await acme.run("UPDATE queue_job SET exc_name = 'requests.HTTPError', args = '[\"secret\"]'")
    first, quiet = await acme.later(), await acme.later()
    await acme.run("UPDATE queue_job SET date_started = $1 WHERE id = 1", at(acme))
    again = await acme.later()
    assert [point(one, "odoo.queue_job.failed") for one in (first, quiet, again)] == [2, 2, 3]
    assert [(event.name, event.attributes) for event in events(first)] == [
        (
            "odoo.queue_job.failed",
            {
                "odoo.model": "edi.exchange",
                "odoo.method": "send",
                "exception.type": "requests.HTTPError",
                "odoo.queue_job.channel": "root",
                "odoo.queue_job.count": 2,
            },
        )
    ]
    assert (len(events(quiet)), len(events(again))) == (0, 1)


async def test_a_job_is_dead_when_nobody_holds_its_lock(acme: Company, database_url: str) -> None:
    await acme.run(JOB, 1, "started", at(acme, -30_000))
    await acme.run("INSERT INTO queue_job_lock (id, queue_job_id) VALUES (1, 1)")
    worker = await asyncpg.connect(database_url)
    transaction = worker.transaction()
    await transaction.start()
    await worker.execute("SELECT FROM queue_job_lock WHERE id = 1 FOR UPDATE")
    running = await acme.look()
    await transaction.rollback()
    await worker.close()
    killed = await acme.look()
    assert [point(one, "odoo.queue_job.dead") for one in (running, killed)] == [0, 1]


async def test_a_job_locked_within_a_savepoint_is_alive(acme: Company, database_url: str) -> None:
    await acme.run(JOB, 1, "started", at(acme, -30_000))
    await acme.run("INSERT INTO queue_job_lock (id, queue_job_id) VALUES (1, 1)")
    worker = await asyncpg.connect(database_url)
    async with worker.transaction():
        async with worker.transaction():
            await worker.execute("SELECT FROM queue_job_lock WHERE id = 1 FOR UPDATE")
        assert point(await acme.look(), "odoo.queue_job.dead") == 0
    await worker.close()


async def test_refused_mails_are_told_when_there_are_more(acme: Company) -> None:
    mail = "INSERT INTO mail_mail (id, mail_message_id, state, create_date) VALUES ($1, 1, $2, $3)"
    await acme.run(mail, 1, "outgoing", at(acme, -600_000))
    await acme.run(mail, 2, "exception", at(acme))
    first, second = await acme.later(0), await acme.later(0)
    assert point(first, "odoo.mail.outgoing.age.max") == 600
    assert point(first, "odoo.mail.exception") == 1
    assert [[event.name for event in events(one)] for one in (first, second)] == [["odoo.mail.exception"], []]


async def test_modules_that_change_are_told_when_it_begins_and_when_it_ends(acme: Company) -> None:
    await acme.run("INSERT INTO ir_module_module (id, name, state) VALUES (1, 'sale', 'to upgrade')")
    begun = await acme.later()
    await acme.run("UPDATE ir_module_module SET state = 'installed'")
    ended = await acme.later()
    assert [point(one, "odoo.module.changing") for one in (begun, ended)] == [1, 0]
    assert [event.severity_number for one in (begun, ended) for event in events(one)] == [13, 9]


async def test_a_column_that_goes_away_between_looks_costs_its_part_alone(acme: Company) -> None:
    await acme.run(ORDER, 1, "sale", at(acme))
    await acme.run("ALTER TABLE sale_order DROP COLUMN commitment_date, DROP COLUMN warehouse_id")
    collected = await acme.later()
    assert documents(collected) == [("sale.order", 1, "sale")]
    assert events(collected) == []


async def test_a_table_that_goes_away_between_looks_costs_its_group_alone(acme: Company) -> None:
    await acme.run("DROP TABLE queue_job")
    collected = await acme.later()
    assert not [name for name in points(collected) if name.startswith("odoo.queue_job")]
    assert point(collected, "odoo.cron.active") == 0
    assert events(collected) == []


@pytest.fixture
async def reader(acme: Company) -> AsyncIterator[str]:
    """A role of this test that may read nothing yet."""
    role = f"reader_{uuid4().hex[:8]}"
    await acme.run(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    yield role
    await acme.collector.close()
    await acme.run(f"DROP OWNED BY {role}")
    await acme.run(f"DROP ROLE {role}")


def as_role(url: str, role: str, password: str = "secret") -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.hostname}:{parts.port}"))


async def test_a_missing_grant_is_told_with_the_mend_and_costs_its_group_alone(acme: Company, reader: str) -> None:
    await acme.run(
        f"GRANT SELECT ON ir_cron, queue_job, queue_job_lock, mail_mail, sale_order, account_move TO {reader}"
    )
    acme.collector = acme.watched_by(as_role(acme.url, reader))
    first, second = await acme.look(), await acme.look()
    told_parts = {event.attributes["pilothouse.collector.part"]: event.body for event in events(first)}
    assert set(told_parts) == {"modules", "stock.picking"}
    assert f"GRANT SELECT ON stock_picking TO {reader}" in told_parts["stock.picking"]
    assert point(first, "odoo.cron.active") == 0
    assert not [name for name in points(first) if "stock.picking" in name]
    assert events(second) == []


async def test_a_role_that_may_only_read_sees_dead_jobs(acme: Company, reader: str) -> None:
    await acme.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")
    await acme.run(JOB, 1, "started", at(acme, -30_000))
    await acme.run("INSERT INTO queue_job_lock (id, queue_job_id) VALUES (1, 1)")
    acme.collector = acme.watched_by(as_role(acme.url, reader))
    collected = await acme.look()
    assert point(collected, "odoo.queue_job.dead") == 1
    assert events(collected) == []


async def test_a_query_that_takes_too_long_is_told_and_costs_its_group_alone(acme: Company) -> None:
    await acme.run(
        "INSERT INTO ir_cron (id, active, nextcall, ir_actions_server_id, user_id, interval_number, interval_type)"
        " SELECT n, true, now(), 1, 1, 1, 'days' FROM generate_series(1, 400) AS n"
    )
    await acme.run(
        "CREATE TABLE ir_cron_progress (id int, cron_id int, done int, remaining int, timed_out_counter int)"
    )
    await acme.run("INSERT INTO ir_cron_progress SELECT n, 0, 0, 0, 0 FROM generate_series(1, 200000) AS n")
    acme.collector = acme.watched_by(acme.url, statement_timeout_ms=100)
    collected = await acme.look()
    assert [event.body for event in events(collected)] == [
        "odoo-acme: crons: a query takes longer than 100 ms. "
        "Make an index on write_date, look less often, or raise statement_timeout_ms."
    ]
    assert not [name for name in points(collected) if name.startswith("odoo.cron")]
    assert point(collected, "odoo.module.changing") == 0


async def test_nothing_can_be_written_through_the_collectors_connection(acme: Company) -> None:
    connection = acme.collector._connection
    assert connection is not None
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await connection.execute("DELETE FROM public.sale_order")


def another_port(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{parts.hostname}:1"))


def another_database(url: str) -> str:
    return f"{url.rpartition('/')[0]}/nobody"


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        (another_port, "See that PostgreSQL runs there"),
        (another_database, "See the database name in the resource's url"),
    ],
)
async def test_a_database_that_is_away_is_unavailable_with_the_mend(
    company: Company, change: Callable[[str], str], mend: str
) -> None:
    with pytest.raises(Unavailable, match=mend):
        await company.watched_by(change(company.url)).collect(NOW_MS, None)


async def test_a_wrong_password_is_unavailable_with_the_mend_and_not_shown(acme: Company, reader: str) -> None:
    with pytest.raises(Unavailable, match="See the user and the password") as raised:
        await acme.watched_by(as_role(acme.url, reader, "wrong")).collect(NOW_MS, None)
    assert "wrong" not in str(raised.value)


async def test_a_killed_connection_is_made_anew(acme: Company) -> None:
    await acme.run(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'pilothouse'"
    )
    with suppress(Unavailable):  # or it is known already that the connection is gone
        await acme.later()
    assert point(await acme.later(), "odoo.cron.active") == 0


async def test_without_a_tenant_the_resource_is_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match="tenant is missing; name the one whose database it is"):
        Odoo(Target(CELL, Resource(name="odoo-x", system="odoo"), "postgresql://127.0.0.1/x"))


def test_documents_come_back_as_they_were_packed() -> None:
    documents = Documents(1_000, 8, {5: Known("sale", 2_500), 3: Known("draft", 400), 9: Known("sale", 1_000)})
    stored = json.loads(documents.pack().model_dump_json())
    back = Documents.unpack(memory.Packed.model_validate(stored))
    assert back.known == {5: Known("sale", 2_500), 3: Known("draft", 0), 9: Known("sale", 1_000)}
    assert list(back.known) == [5, 3, 9]
    assert list(back.window) == [5, 9]
