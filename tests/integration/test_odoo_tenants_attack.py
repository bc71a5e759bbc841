"""A tenant that owns its database tries to run code as the collector, to hang it, and to break its looks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from ingest.collector import Collected, Target
from ingest.collectors.odoo import Odoo
from schemas.estate import Cell, Resource, Tenant
from schemas.records import BusinessBatch, OperationsEvent
from tests.support.collected import Observer, points

NOW_MS = 1_795_233_600_000
CELL = Cell(name="eu1", tenants=(Tenant(name="acme", currency="EUR"),))
TABLES = """
    CREATE TABLE ir_cron (id int, cron_name varchar, active bool, nextcall timestamp, lastcall timestamp, failure_count int);
    CREATE TABLE mail_mail (id int, state varchar, create_date timestamp);
    CREATE TABLE ir_module_module (id int, name varchar, state varchar);
    CREATE TABLE sale_order (id int, name varchar, state varchar, company_id int, create_date timestamp, write_date timestamp,
        date_order timestamp, amount_total numeric, currency_rate numeric, delivery_status varchar);
    INSERT INTO ir_cron VALUES (1, 'EDI', true, '2026-11-21 04:00', NULL, 0);
"""
SPY = """
    CREATE TABLE spied (who text);
    GRANT INSERT ON spied TO PUBLIC;
    CREATE FUNCTION spy() RETURNS int LANGUAGE plpgsql VOLATILE AS
        $$ BEGIN RAISE NOTICE 'ran as %', current_user; RETURN 1; END $$;
    CREATE FUNCTION spy_fixed(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RAISE NOTICE 'ran as %', current_user; RETURN 1; END $$;
    CREATE FUNCTION spy_text(text, text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RAISE NOTICE 'ran as %', current_user; RETURN true; END $$;
"""


class Tenancy:
    """A database owned by a tenant, who is no superuser, and the collector's role in it."""

    def __init__(self, owner: asyncpg.Connection, url: str, position: str | None = None) -> None:
        self.owner, self.url, self.position = owner, url, position
        self.notices: list[str] = []
        self.now_ms = NOW_MS
        resource = Resource(name="odoo-acme", system="odoo", tenant="acme", options={"statement_timeout_ms": 1_000})
        target = Target(CELL, resource, url)
        self.odoo = Odoo(target, self.clock)
        self.collector = Observer(target, self.odoo)

    async def clock(self, connection: asyncpg.Connection) -> int:
        connection.add_log_listener(self._noticed)
        return self.now_ms

    def _noticed(self, connection: object, message: object) -> None:
        self.notices.append(str(message))

    async def look(self) -> Collected:
        collected = await self.collector.collect(self.now_ms, self.position)
        self.position = collected.position
        return collected


@pytest.fixture
async def tenancy(database_url: str) -> AsyncIterator[Tenancy]:
    admin = await asyncpg.connect(database_url)
    tag = uuid4().hex[:8]
    tenant, reader = f"tenant_{tag}", f"reader_{tag}"
    parts = urlsplit(database_url)
    urls = [
        urlunsplit(parts._replace(netloc=f"{role}:secret@{parts.hostname}:{parts.port}")) for role in (tenant, reader)
    ]
    database = parts.path[1:]
    await admin.execute(f"CREATE ROLE {tenant} LOGIN PASSWORD 'secret'; CREATE ROLE {reader} LOGIN PASSWORD 'secret'")
    await admin.execute(f"ALTER DATABASE {database} OWNER TO {tenant}; ALTER SCHEMA public OWNER TO {tenant}")
    owner = await asyncpg.connect(urls[0])
    await owner.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {reader}")
    await owner.execute(TABLES + SPY)
    one = Tenancy(owner, urls[1])
    await one.look()
    yield one
    await one.collector.close()
    await owner.close()
    await admin.execute(f"ALTER DATABASE {database} OWNER TO postgres; ALTER SCHEMA public OWNER TO postgres")
    await admin.execute(f"DROP OWNED BY {reader}, {tenant}; DROP ROLE {reader}; DROP ROLE {tenant}")
    await admin.close()


def degraded(collected: Collected) -> dict[str, str]:
    events = [record for record in collected.records if isinstance(record, OperationsEvent)]
    return {
        str(event.attributes["pilothouse.collector.part"]): event.body
        for event in events
        if event.name == "collector.degraded"
    }


def crons_are_read(collected: Collected) -> bool:
    return points(collected).get('odoo.cron.active{tenant.id="acme"}') == 1


AS_A_VIEW = """
    ALTER TABLE sale_order RENAME TO orders;
    CREATE VIEW sale_order AS SELECT id + spy() - 1 AS id, name, state, company_id, create_date, write_date, date_order,
        amount_total, currency_rate, delivery_status FROM orders;
"""
ROW = "INSERT INTO sale_order (id, name, state, write_date, create_date) VALUES (1, 'S1', 'sale', now(), now());"
ATTACKS = {
    "view": (ROW + AS_A_VIEW, "it is a view"),
    "materialised view": (
        "ALTER TABLE sale_order RENAME TO orders; CREATE MATERIALIZED VIEW sale_order AS SELECT * FROM orders;",
        "it is a materialised view",
    ),
    "policy": (
        ROW
        + """ALTER TABLE sale_order ENABLE ROW LEVEL SECURITY;
             CREATE POLICY spies ON sale_order USING (spy() = 1);""",
        "row security is on",
    ),
    "index expression": (ROW + "CREATE INDEX ON sale_order ((name || spy_fixed(1)));", "the function spy_fixed"),
    "index predicate": (ROW + "CREATE INDEX ON sale_order (name) WHERE spy_fixed(1) = id;", "the function spy_fixed"),
    "statistics": (
        ROW + "CREATE STATISTICS st ON (id + spy_fixed(1)), name FROM sale_order;",
        "the function spy_fixed",
    ),
    "operator in an index": (
        ROW
        + """CREATE OPERATOR public.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = spy_text);
             CREATE INDEX ON sale_order ((name || ('a'::text OPERATOR(public.===) 'b'::text)::text));""",
        "belongs to it",
    ),
    "partition key": (
        """DROP TABLE sale_order;
           CREATE TABLE sale_order (id int, name varchar, state varchar, create_date timestamp, write_date timestamp,
             amount_total numeric) PARTITION BY LIST ((id + spy_fixed(1)));""",
        "the function spy_fixed",
    ),
    "type of its own": (
        """CREATE TYPE public.mood AS ENUM ('sale', 'draft');
           ALTER TABLE sale_order ALTER COLUMN state TYPE public.mood USING state::public.mood;""",
        "sale_order.state is a type of its own",
    ),
    "domain": (
        """CREATE DOMAIN public.word AS varchar CHECK (spy() = 1);
           ALTER TABLE sale_order ALTER COLUMN state TYPE public.word;""",
        "sale_order.state is a type of its own",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_nothing_of_the_tenants_runs_and_it_is_told(tenancy: Tenancy, name: str) -> None:
    attack, reason = ATTACKS[name]
    await tenancy.owner.execute(attack)
    tenancy.notices.clear()
    collected = await tenancy.look()
    assert tenancy.notices == []
    assert reason in degraded(collected)["sale.order"]
    assert crons_are_read(collected)


@pytest.mark.parametrize("name", ["view", "policy", "index expression", "index predicate", "statistics"])
async def test_whoever_reads_the_table_plainly_runs_the_tenants_code(tenancy: Tenancy, name: str) -> None:
    await tenancy.owner.execute(ATTACKS[name][0])
    heard: list[str] = []
    victim = await asyncpg.connect(tenancy.url)
    victim.add_log_listener(lambda connection, message: heard.append(str(message)))
    await victim.fetch("SELECT id, name FROM public.sale_order WHERE name = 'S1'")
    await victim.close()
    assert heard
    assert all("ran as reader_" in message for message in heard)


UNSEEN = {
    "operators and functions of the names that are used": """
        CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = spy_text);
        CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = unknown, FUNCTION = spy_text);
        CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT spy()::text $$;
        CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT clock_timestamp() + spy() * interval '1 h' $$;
        CREATE FUNCTION public.left(varchar, int) RETURNS text LANGUAGE sql AS $$ SELECT spy()::text $$;
        CREATE FUNCTION public.epoch(text) RETURNS text LANGUAGE sql AS $$ SELECT spy()::text $$;
    """,
    "a check": "ALTER TABLE sale_order ADD CONSTRAINT c CHECK (spy_fixed(1) = 1)",
    "an heir": "CREATE TABLE more_orders () INHERITS (sale_order); INSERT INTO more_orders SELECT * FROM ONLY sale_order;",
    "settings of the database": "SET LOCAL x.y = 'z'",
}


@pytest.mark.parametrize("name", UNSEEN)
async def test_what_stands_beside_the_tables_is_not_looked_at(tenancy: Tenancy, name: str) -> None:
    await tenancy.owner.execute(ROW)
    if name == "operators and functions of the names that are used":
        for statement in UNSEEN[name].strip().removesuffix(";").split(";"):
            try:
                await tenancy.owner.execute(statement)
            except asyncpg.PostgresError:
                continue  # not every server takes each of them
    elif name == "settings of the database":
        database = urlsplit(tenancy.url).path[1:]
        for setting in (
            "search_path = public",
            "constraint_exclusion = on",
            "row_security = on",
            "timezone = 'Asia/Tokyo'",
        ):
            await tenancy.owner.execute(f"ALTER DATABASE {database} SET {setting}")
        await tenancy.owner.execute("ALTER TABLE sale_order ADD CONSTRAINT c CHECK (spy_fixed(1) = 1)")
        await tenancy.odoo.close()
    else:
        await tenancy.owner.execute(UNSEEN[name])
    tenancy.notices.clear()
    tenancy.now_ms += 3_600_000
    collected = await tenancy.look()
    assert tenancy.notices == []
    assert ("heirs" in degraded(collected)) == (name == "an heir")
    batches = [record for record in collected.records if isinstance(record, BusinessBatch)]
    assert [batch.document_ids for batch in batches] == [(1,)]


async def test_a_table_that_becomes_a_view_between_the_probe_and_the_query_is_not_read(
    tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tenancy.owner.execute(ROW)
    begin = Odoo._read

    async def read(one: Odoo, look: object, group: object) -> None:
        if getattr(group, "name", "") == "sale.order":
            await tenancy.owner.execute(AS_A_VIEW)
        await begin(one, look, group)  # type: ignore[arg-type]

    monkeypatch.setattr(Odoo, "_read", read)
    tenancy.notices.clear()
    collected = await tenancy.look()
    assert tenancy.notices == []
    assert "sale.order" in degraded(collected)
    assert crons_are_read(collected)


async def test_a_function_that_got_in_could_not_write(tenancy: Tenancy) -> None:
    connection = tenancy.odoo._connection
    assert connection is not None
    await connection.execute(tenancy.odoo._begin_sql)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await connection.execute("INSERT INTO public.spied VALUES (current_user)")
    await connection.execute("ROLLBACK")


ORDER = """INSERT INTO sale_order (id, name, state, company_id, create_date, write_date, date_order, amount_total, currency_rate)
           VALUES ($1, $2, $3, $4, $5::timestamp, $6::timestamp, $5::timestamp, $7::numeric, $8::numeric)"""
FINE = ("S1", "sale", 1, "2026-11-21 03:59", "2026-11-21 03:59:30", "100", "1")


def order(**more: object) -> list[object]:
    names = ("name", "state", "company_id", "create_date", "write_date", "amount_total", "currency_rate")
    return list((dict(zip(names, FINE, strict=True)) | more).values())


async def insert(tenancy: Tenancy, number: int, **more: object) -> None:
    values = [value if isinstance(value, int | type(None)) else str(value) for value in order(**more)]
    sql = ORDER
    for place, value in reversed(list(enumerate([number, *values], 1))):
        literal = (
            "NULL" if value is None else str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
        )
        sql = sql.replace(f"${place}", literal)
    await tenancy.owner.execute(sql)


ILL = {
    "a state with a blank": ({"state": "to approve"}, "to_approve"),
    "infinite creation": ({"create_date": "infinity"}, "sale"),
    "minus infinity": ({"create_date": "-infinity"}, "sale"),
    "amount is no number": ({"amount_total": "NaN"}, "sale"),
    "amount is infinite": ({"amount_total": "Infinity"}, "sale"),
    "amount beyond a float": ({"amount_total": "1" + "0" * 400}, "sale"),
    "a rate of nothing": ({"currency_rate": "0"}, "sale"),
    "a rate near nothing": ({"currency_rate": "0." + "0" * 400 + "1"}, "sale"),
    "everything missing": (
        {"name": None, "company_id": None, "create_date": None, "amount_total": None, "currency_rate": None},
        "sale",
    ),
    "a name of a megabyte": ({"name": "x" * 1_000_000}, "sale"),
    "control characters": ({"name": "a\x01\nb", "state": "a\x01b"}, "a\x01b"),
    "written in the year 9999": ({"write_date": "9999-01-01"}, "sale"),
    "of the stone age": ({"create_date": "4000-01-01 BC", "write_date": "2026-11-21 03:59:30"}, "sale"),
}


@pytest.mark.parametrize("name", ILL)
async def test_an_ill_document_costs_nothing_else(tenancy: Tenancy, name: str) -> None:
    values, state = ILL[name]
    await insert(tenancy, 1, **values)
    await insert(tenancy, 2)
    collected = await tenancy.look()
    batches = [record for record in collected.records if isinstance(record, BusinessBatch)]
    told = {pair for batch in batches for pair in zip(batch.document_ids, batch.states, strict=True)}
    assert (2, "sale") in told
    assert (1, state) in told or collected.rows
    assert crons_are_read(collected)
    assert not {"sale.order", "crons", "mails"} & degraded(collected).keys()


async def test_an_infinite_write_date_is_a_dead_letter_and_hides_nobody(tenancy: Tenancy) -> None:
    await insert(tenancy, 1, write_date="infinity")
    await insert(tenancy, 2)
    first = await tenancy.look()
    await insert(tenancy, 3, write_date="2026-11-21 04:00:00")
    second = await tenancy.look()
    told = [
        record.document_ids
        for collected in (first, second)
        for record in collected.records
        if isinstance(record, BusinessBatch)
    ]
    assert told == [(2,), (3,)]
    assert "write_date is infinite" in first.rows[0][0]
    assert b'"id":1' in first.rows[0][1].replace(b" ", b"")
    assert first.rows == second.rows  # the scheduler writes it once


async def test_infinity_in_a_cron_a_mail_or_a_job_costs_itself(tenancy: Tenancy) -> None:
    await tenancy.owner.execute("""
        INSERT INTO ir_cron VALUES (2, 'far', true, 'infinity', '-infinity', 0), (3, NULL, NULL, NULL, NULL, NULL);
        INSERT INTO mail_mail VALUES (1, 'outgoing', '-infinity'), (2, 'outgoing', '2026-11-21 03:59:00'), (3, NULL, NULL);
        INSERT INTO ir_module_module VALUES (1, NULL, 'to upgrade');
    """)
    collected = await tenancy.look()
    found = points(collected)
    assert found['odoo.cron.active{tenant.id="acme"}'] == 2
    assert found['odoo.mail.outgoing.age.max{tenant.id="acme"}'] == 60
    assert found['odoo.module.changing{tenant.id="acme"}'] == 1
    assert degraded(collected) == {}


async def test_values_of_two_currencies_are_never_added(tenancy: Tenancy) -> None:
    await tenancy.owner.execute("""
        CREATE TABLE res_company (id int, currency_id int); CREATE TABLE res_currency (id int, name varchar);
        INSERT INTO res_company VALUES (1, 1), (2, 2), (3, 9); INSERT INTO res_currency VALUES (1, 'EUR'), (2, 'CHF');
    """)
    for number, company in ((1, 1), (2, 2), (3, 2), (4, 3)):
        await insert(tenancy, number, company_id=company)
    collected = await tenancy.look()
    values = {series: value for series, value in points(collected).items() if series.startswith("erp.order.value")}
    assert values == {
        'erp.order.value{erp.currency="EUR",tenant.id="acme"}': 100,
        'erp.order.value{erp.currency="CHF",tenant.id="acme"}': 200,
    }
    (batch,) = [record for record in collected.records if isinstance(record, BusinessBatch)]
    assert list(zip(batch.document_ids, batch.amounts, batch.currencies, strict=True)) == [
        (1, 100.0, "EUR"),
        (2, 100.0, "CHF"),
        (3, 100.0, "CHF"),
        (4, None, None),
    ]


async def test_companies_whose_currencies_are_closed_to_us_have_no_values(tenancy: Tenancy) -> None:
    for number, company in ((1, 1), (2, 2)):
        await insert(tenancy, number, company_id=company)
    collected = await tenancy.look()
    (batch,) = [record for record in collected.records if isinstance(record, BusinessBatch)]
    assert batch.amounts == (None, None)
    assert "GRANT SELECT ON res_company, res_currency" in degraded(collected)["currencies"]


async def test_a_grant_that_comes_is_seen_at_the_next_look(tenancy: Tenancy) -> None:
    reader = urlsplit(tenancy.url).username
    await tenancy.owner.execute(f"REVOKE SELECT ON ir_cron FROM {reader}")
    without = await tenancy.look()
    await tenancy.owner.execute(f"GRANT SELECT ON ir_cron TO {reader}")
    tenancy.now_ms += 15_000
    granted = await tenancy.look()
    assert "GRANT SELECT ON ir_cron" in degraded(without)["crons"]
    assert (crons_are_read(without), crons_are_read(granted)) == (False, True)


async def test_a_clock_that_is_wrong_is_told_and_tells_no_future(tenancy: Tenancy) -> None:
    tenancy.now_ms = NOW_MS + 7_200_000  # the server's; ours is two hours behind
    await insert(tenancy, 1, write_date="2026-11-21 06:00:00", create_date="2026-11-21 06:00:00")
    collected = await tenancy.collector.collect(NOW_MS, tenancy.position)
    (batch,) = [record for record in collected.records if isinstance(record, BusinessBatch)]
    assert batch.times_ms == (NOW_MS,)
    assert "7200 s ahead of ours" in degraded(collected)["clock"]


async def test_a_cron_that_came_and_ran_between_two_looks_is_counted(tenancy: Tenancy) -> None:
    await tenancy.owner.execute(
        "INSERT INTO ir_cron VALUES (7, 'new', true, '2026-11-21 04:05', '2026-11-21 04:00', 0)"
    )
    collected = await tenancy.look()
    assert points(collected)['odoo.cron.runs{odoo.cron.name="new",tenant.id="acme"}'] == 1


async def test_a_role_that_may_too_much_is_told(tenancy: Tenancy, database_url: str) -> None:
    reader = urlsplit(tenancy.url).username
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"GRANT pg_monitor TO {reader}")
    collected = await tenancy.look()
    await admin.close()
    assert "is a member of pg_monitor" in degraded(collected)["role"]


@pytest.mark.parametrize("position", ["garbage", "{}", "[]", '{"since_ms": "x"}', "\x00", '{"since_ms":1,"new":2}'])
async def test_a_position_that_cannot_be_read_begins_afresh_and_is_told(tenancy: Tenancy, position: str) -> None:
    tenancy.position = position
    collected = await tenancy.look()
    assert crons_are_read(collected)
    assert "position" in degraded(collected)
    assert not degraded(await tenancy.look())
