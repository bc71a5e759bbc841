"""Who may do what in the store: attackers of every role against a real PostgreSQL, and the whole matrix from its catalogue."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from sinks.migrations import migrate
from sinks.migrations.apply import LOCK
from sinks.sink import SinkUnavailable
from sinks.timescale import Config as StoreConfig
from sinks.timescale import Timescale
from sinks.timescale.upkeep import LOCK as UPKEEP_LOCK
from sinks.timescale.upkeep import PASSED_OVER_MAX

CELLS, TENANTS = ("eu1", "us1"), ("acme", "globex")
"""Each cell has a tenant of each name: four customers who know nothing of each other."""


@dataclass
class Store:
    """A migrated store, its owner's connection, and login roles of a test alone."""

    url: str
    owner: Any
    roles: list[str] = field(default_factory=list)

    async def role(self, name: str, *groups: str, options: str = "") -> str:
        """A login role, member of these groups."""
        role = f"{name}_{uuid4().hex[:12]}"
        await self.owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' {options}")
        self.roles.append(role)
        for group in groups:
            await self.owner.execute(f"GRANT {group} TO {role}")
        return role

    async def tenant(self, cell: str, tenant: str) -> str:
        """A reader who is to see one tenant."""
        role = await self.role(f"{cell}_{tenant}", "pilothouse_reader")
        await self.owner.execute(f"INSERT INTO pilothouse_access VALUES ('{role}', $1, $2)", cell, tenant)
        return role

    def as_role(self, role: str) -> Any:
        return asyncpg.connect(re.sub("://[^@]*@", f"://{role}:secret@", self.url))


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    await migrate(database_url)
    store = Store(database_url, await asyncpg.connect(database_url))
    try:
        yield store
    finally:
        for role in reversed(store.roles):
            await store.owner.execute(f"DROP OWNED BY {role} CASCADE")
            await store.owner.execute(f"DROP ROLE {role}")
        await store.owner.close()


# The writer wants to become superuser.

# Runs whatever the store's function does to the table that it believes to be its own.
TRAP = """
    CREATE FUNCTION pg_temp.climb() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN EXECUTE 'ALTER ROLE {role} SUPERUSER'; RETURN NULL; END $$"""
SHADOWS = {
    "rollup_due": "CREATE TEMP TABLE rollup_due (minute timestamptz)",
    "rollup_state": "CREATE TEMP TABLE rollup_state (rolled_until timestamptz)",
    "rollup_1m": "CREATE TEMP TABLE rollup_1m (time timestamptz, series_id bigint, points bigint, total float8, minimum float8, "
    "maximum float8)",
    "metrics": "CREATE TEMP TABLE metrics (time timestamptz, series_id bigint, value float8)",
    "pilothouse_store": "CREATE TEMP TABLE pilothouse_store (timescaledb boolean)",
}


@pytest.mark.parametrize("shadow", SHADOWS)
async def test_no_temporary_object_of_the_writer_stands_in_for_one_of_the_store(store: Store, shadow: str) -> None:
    role = await store.role("writer", "pilothouse_writer")
    connection = await store.as_role(role)
    try:
        await connection.execute(TRAP.format(role=role))
        await connection.execute(SHADOWS[shadow])
        await connection.execute(f"INSERT INTO pg_temp.{shadow} DEFAULT VALUES")
        await connection.execute(
            f"CREATE TRIGGER climb BEFORE INSERT OR UPDATE OR DELETE ON pg_temp.{shadow} FOR EACH STATEMENT "
            "EXECUTE FUNCTION pg_temp.climb()"
        )
        await connection.execute(
            "INSERT INTO public.rollup_due VALUES (date_trunc('minute', now() - interval '1 hour'))"
        )
        await connection.execute("SELECT public.pilothouse_add_partitions('metrics', ARRAY[current_date])")
        assert await connection.fetchval("SELECT public.pilothouse_roll_up(now(), 10)") == 1
        await connection.execute("SELECT public.pilothouse_drop_partitions('metrics', current_date)")
        assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    finally:
        await connection.close()


async def test_the_writer_can_shadow_neither_functions_nor_operators_nor_types(store: Store) -> None:
    role = await store.role("writer", "pilothouse_writer")
    connection = await store.as_role(role)
    try:
        for statement in (
            "CREATE FUNCTION public.to_char(date, text) RETURNS text LANGUAGE sql AS $$ SELECT '' $$",
            "CREATE OPERATOR public.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = textcat)",
            "CREATE DOMAIN public.date AS text",
            "CREATE TABLE public.mine ()",
            "CREATE SCHEMA mine",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        # What it may make are temporary ones, which are not searched for functions, and last for types.
        await connection.execute("CREATE DOMAIN pg_temp.date AS text CHECK (false)")
        await connection.execute(
            "CREATE FUNCTION pg_temp.to_char(date, text) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$"
        )
        await connection.execute("SET search_path = pg_temp, public")
        await connection.execute(
            "SELECT public.pilothouse_add_partitions('metrics', ARRAY[current_date::pg_catalog.date])"
        )
        name = await store.owner.fetchval("SELECT 'metrics_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
        assert await store.owner.fetchval("SELECT to_regclass($1) IS NOT NULL", name)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "call",
    [
        "pilothouse_add_partitions('series', ARRAY[current_date])",
        "pilothouse_add_partitions(NULL, ARRAY[current_date])",
        "pilothouse_add_partitions('metrics; DROP TABLE series', ARRAY[current_date])",
        "pilothouse_add_partitions('metrics', ARRAY['infinity'::date])",
        "pilothouse_add_partitions('metrics', ARRAY['-infinity'::date])",
        "pilothouse_add_partitions('metrics', ARRAY[NULL::date])",
        "pilothouse_add_partitions('metrics', array_fill(current_date, ARRAY[1001]))",
        "pilothouse_drop_partitions('pg_temp.metrics', 'infinity')",
        "pilothouse_drop_partitions('parents', 'infinity')",
        "pilothouse_drop_partitions('pilothouse_access', 'infinity')",
        "pilothouse_drop_partitions(NULL, 'infinity')",
        "pilothouse_roll_up('infinity', 10)",
        "pilothouse_roll_up(NULL, 10)",
        "pilothouse_roll_up(now(), NULL)",
        "pilothouse_roll_up(now(), -1)",
    ],
)
async def test_an_argument_that_is_none_of_ours_is_refused_as_such(store: Store, call: str) -> None:
    connection = await store.as_role(await store.role("writer", "pilothouse_writer"))
    try:
        # A family of its own, whose child is called as a table of the store's is.
        await connection.execute("CREATE TEMP TABLE parents (time timestamptz) PARTITION BY RANGE (time)")
        await connection.execute(
            "CREATE TEMP TABLE series PARTITION OF pg_temp.parents FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')"
        )
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await connection.execute(f"SELECT public.{call}")
    finally:
        await connection.close()
    assert await store.owner.fetchval("SELECT to_regclass('public.series') IS NOT NULL")


async def test_only_partitions_that_the_store_made_are_dropped(store: Store) -> None:
    await store.owner.execute("CREATE SCHEMA elsewhere")
    for name in ("elsewhere.metrics_19990101", "public.metrics_kept", "public.metrics_19990103"):
        day = "199901" + {"1": "01", "t": "02", "3": "03"}[name[-1]]
        await store.owner.execute(
            f"CREATE TABLE {name} PARTITION OF metrics FOR VALUES FROM ('{day}') TO ('{day} 23:00')"
        )
    assert await store.owner.fetchval("SELECT pilothouse_drop_partitions('metrics', '2000-01-01')") == 1
    left = await store.owner.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'metrics'::regclass"
    )
    assert {row[0] for row in left} == {"elsewhere.metrics_19990101", "metrics_kept"}


async def test_a_store_in_a_schema_with_a_strange_name_works(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    database = await connection.fetchval("SELECT current_database()")
    strange = """it's "ours"; @name % {0} """
    quoted = '"' + strange.replace('"', '""') + '"'
    await connection.execute(f"CREATE SCHEMA {quoted}")
    await connection.execute(f"ALTER DATABASE {database} SET search_path = {quoted}")
    await connection.close()
    await migrate(database_url)
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO rollup_due VALUES ('2026-01-01')")
    assert await connection.fetchval("SELECT pilothouse_roll_up('2026-01-02', 10)") == 1
    assert await connection.fetchval("SELECT pilothouse_drop_partitions('rollup_1m', '2026-01-02')") == 1
    await connection.close()


async def test_values_whose_sum_overflows_do_not_end_the_roll_up(store: Store) -> None:
    await store.owner.execute("SELECT pilothouse_add_partitions('metrics', ARRAY['2026-01-01'::date])")
    await store.owner.execute(
        "INSERT INTO metrics SELECT '2026-01-01 12:00', 1, value FROM unnest(ARRAY[1.7e308, 1.7e308]) AS value"
    )
    await store.owner.execute("INSERT INTO rollup_due VALUES ('2026-01-01 12:00')")
    assert await store.owner.fetchval("SELECT count(*) FROM rolled_15m") == 1
    assert await store.owner.fetchval("SELECT pilothouse_roll_up('2026-01-02', 10)") == 1
    assert await store.owner.fetchval("SELECT maximum FROM rolled_15m") == 1.7e308


# A reader wants to make the store stand still.


async def test_no_lock_that_a_reader_can_hold_stops_migrations_partitions_or_upkeep(store: Store) -> None:
    reader = await store.as_role(await store.tenant("eu1", "acme"))
    sink = Timescale(StoreConfig(store.url, upkeep_every_s=0))
    try:
        for key in (str(LOCK), str(UPKEEP_LOCK), "hashtext('pilothouse_add_partitions')"):
            await reader.execute(f"SELECT pg_advisory_lock({key})")
        async with asyncio.timeout(20):
            await migrate(store.url)
            await store.owner.execute("SELECT pilothouse_add_partitions('metrics', ARRAY[current_date])")
            for _ in range(PASSED_OVER_MAX + 1):
                await sink.upkeep.round()
        assert sink.upkeep.rounds == 1
    finally:
        await sink.close()
        await reader.close()


async def test_two_roll_ups_at_once_are_one(store: Store) -> None:
    await store.owner.execute("INSERT INTO rollup_due VALUES ('2026-01-01')")
    second = await asyncpg.connect(store.url)
    async with store.owner.transaction():
        assert await store.owner.fetchval("SELECT pilothouse_roll_up('2026-01-02', 10)") == 1
        assert await second.fetchval("SELECT pilothouse_roll_up('2026-01-02', 10)") == 0
    await second.close()


async def test_a_partition_that_a_reader_looks_at_is_dropped_later_and_holds_up_nobody(store: Store) -> None:
    await store.owner.execute("SELECT pilothouse_add_partitions('metrics', ARRAY['2000-01-01'::date])")
    reader = await store.as_role(await store.tenant("eu1", "acme"))
    try:
        async with reader.transaction():
            await reader.fetch("SELECT * FROM metric_points")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await store.owner.execute("SELECT pilothouse_drop_partitions('metrics', '2001-01-01')")
        assert await store.owner.fetchval("SELECT pilothouse_drop_partitions('metrics', '2001-01-01')") == 1
    finally:
        await reader.close()


# What the catalogue says.


async def test_every_function_with_its_owners_rights_is_safe_to_call_and_called_by_nobody_unnamed(store: Store) -> None:
    functions = await store.owner.fetch("""
        SELECT p.oid::regprocedure::text AS name, p.proconfig AS settings, p.prosrc AS body,
            EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) WHERE grantee = 0) AS is_public
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema')
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')""")
    assert len(functions) >= 3
    for one in functions:
        (path,) = (setting for setting in one["settings"] or () if setting.startswith("search_path="))
        assert path.partition("=")[2].split(", ") == ["pg_catalog", "public", "pg_temp"], one["name"]
        assert not one["is_public"], one["name"]
        dynamic = re.findall(r"EXECUTE (?!format\('[^%']*(?:%[IL][^%']*)*')[^\n]*", one["body"])
        assert not dynamic, (one["name"], dynamic)


READERS_SEE = {
    "series", "business", "operations", "security", "changes", "signals", "incidents", "metric_points", "metrics_1m", "metrics_15m",
    "log_lines", "documents", "signals_current", "incidents_current", "tenant_incidents", "change_verdicts", "pilothouse_mine",
}  # fmt: skip
OPERATORS_SEE = READERS_SEE | {"kafka_offsets", "sources", "records", "dead_letters", "pilothouse_access"}
WRITES = {"SELECT", "INSERT", "UPDATE", "DELETE"}
WRITTEN = {
    "kafka_offsets", "sources", "records", "dead_letters", "series", "business", "operations", "security", "changes", "signals",
    "incidents", "metrics", "logs", "rollup_due", "rollup_state",
}  # fmt: skip
CALLED = {
    "pilothouse_add_partitions(text,date[])",
    "pilothouse_drop_partitions(text,date)",
    "pilothouse_roll_up(timestamp with time zone,integer)",
}
"""Whoever adds an object and grants it says so here, and it passes the test below; what is not here is granted to nobody."""


def allowed(kind: str, name: str) -> set[tuple[str, str]]:
    """Who may do what to the object, as (role, privilege)."""
    rights = set()
    if kind == "relation":
        rights |= {("pilothouse_reader", "SELECT")} if name in READERS_SEE else set()
        rights |= {("pilothouse_operator", "SELECT")} if name in OPERATORS_SEE else set()
        rights |= {("pilothouse_writer", right) for right in WRITES} if name in WRITTEN else set()
        rights |= {("pilothouse_writer", "SELECT")} if name in ("pilothouse_store", "pilothouse_schema") else set()
    if kind == "function" and name in CALLED:
        rights = {("pilothouse_writer", "EXECUTE")}
    if kind == "schema" and name == "public":
        rights = {("public", "USAGE")}
    return rights


GRANTS = """
    WITH ours AS (SELECT oid, nspname, nspacl, nspowner FROM pg_namespace
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
    objects AS (
        SELECT 'relation' AS kind, c.oid::regclass::text AS name, coalesce(c.relacl, acldefault(
            CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner)) AS acl, c.relowner AS owner
        FROM pg_class c JOIN ours ON ours.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        UNION ALL
        SELECT 'relation', c.oid::regclass::text, a.attacl, c.relowner
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN ours ON ours.oid = c.relnamespace WHERE a.attacl IS NOT NULL
        UNION ALL
        SELECT 'function', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
        FROM pg_proc p JOIN ours ON ours.oid = p.pronamespace
        UNION ALL
        SELECT 'schema', nspname, coalesce(nspacl, acldefault('n', nspowner)), nspowner FROM ours)
    SELECT kind, name, (SELECT array_agg(DISTINCT (coalesce(r.rolname, 'public') || ' ' || one.privilege_type))
        FROM aclexplode(acl) one LEFT JOIN pg_roles r ON r.oid = one.grantee WHERE one.grantee <> owner) AS rights
    FROM objects"""


async def test_nobody_has_a_right_to_any_object_that_is_not_on_the_list(store: Store) -> None:
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for kind, name, rights in await store.owner.fetch(GRANTS):
        pairs = {(role, right) for role, _, right in (one.rpartition(" ") for one in rights or ())}
        found.setdefault((kind, name), set()).update(pairs)
    assert len(found) > 30
    unlike = {one: rights ^ allowed(*one) for one, rights in found.items() if rights != allowed(*one)}
    assert not unlike


async def test_no_login_role_writes_anywhere_or_becomes_another(store: Store) -> None:
    tenant = await store.tenant("eu1", "acme")
    other = await store.tenant("us1", "acme")
    unmapped = await store.role("unmapped", "pilothouse_reader")
    stranger = await store.role("stranger")
    operator = await store.role("operator", "pilothouse_operator")
    relations = [row[0] for row in await store.owner.fetch(
        "SELECT c.oid FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')"
    )]  # fmt: skip
    for role, relation in product((tenant, unmapped, stranger, operator), relations):
        rights = "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
        assert not await store.owner.fetchval("SELECT has_table_privilege($1, $2::oid, $3)", role, relation, rights)
    connection = await store.as_role(tenant)
    try:
        for statement in (
            f"SET ROLE {other}",
            "SET ROLE pilothouse_operator",
            "SET ROLE pilothouse_writer",
            f"SET SESSION AUTHORIZATION {other}",
            f"GRANT {other} TO {tenant}",
            f"GRANT pilothouse_operator TO {tenant}",
            f"INSERT INTO pilothouse_access VALUES ('{tenant}', 'us1', 'acme')",
            "SELECT * FROM pilothouse_access",
            "SET row_security = off; SELECT * FROM series",
            "ALTER TABLE series DISABLE ROW LEVEL SECURITY",
            "CREATE POLICY mine ON series USING (true)",
            "ALTER VIEW metric_points SET (security_barrier = off)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
            await connection.execute("RESET ALL")
    finally:
        await connection.close()


# Who sees what.


async def fill(store: Store) -> None:
    """A row of each tenant, of each cell alone, and of what concerns several, in every table; each says whose it is."""
    owner = store.owner
    await owner.execute(
        "SELECT pilothouse_add_partitions('metrics', ARRAY[current_date]), pilothouse_add_partitions('logs', ARRAY[current_date])"
    )
    for number, (cell, tenant) in enumerate(
        [*product(CELLS, TENANTS), *((cell, None) for cell in CELLS), ("fleet", "eu1/acme")]
    ):
        mark = f"«{cell}/{tenant}»"
        tenants = [tenant] if tenant else list(TENANTS)
        await owner.execute(
            "INSERT INTO series (cell, system, resource, tenant, name, attributes, identity) VALUES ($1, 's', $3, $2, 'up', '{}', $3)",
            cell, tenant, mark,
        )  # fmt: skip
        await owner.execute("INSERT INTO metrics SELECT now(), id, 1 FROM series WHERE identity = $1", mark)
        await owner.execute("INSERT INTO rollup_due VALUES (date_trunc('minute', now()))")
        await owner.execute(
            "INSERT INTO logs VALUES (now(), 's', 1, $3, $1, 's', 'r', $2, 9, $4, '{}')", cell, tenant, number, mark
        )
        await owner.execute(
            "INSERT INTO business VALUES (now(), 's', 1, $3, $1, 's', 'r', $2, 'sale.order', 1, $4, 'sale')",
            cell,
            tenant,
            number,
            mark,
        )
        await owner.execute(
            "INSERT INTO operations VALUES (now(), 's', 1, $1, 's', 'r', $2, 'n', 9, $3, '{}')", cell, tenant, mark
        )
        await owner.execute(
            "INSERT INTO security VALUES (now(), 's', 1, $1, 's', 'r', $2, 'n', 9, $3, '{}', 'a', 'b', 'failure')",
            cell,
            tenant,
            mark,
        )
        await owner.execute(
            "INSERT INTO changes VALUES (now() - interval '1 hour', 's', 1, $1, 'c', 'release', 'done', 'odoo', $3, null, $2, 'a', 'a', null, null, 'o')",
            cell, tenants, mark,
        )  # fmt: skip
        await owner.execute(
            "INSERT INTO signals (time, source, sequence, cell, id, phase, detector, cause, resource, tenant, started, severity, score, summary, "
            "evidence, tenants, verdict) VALUES (now(), 's', 1, $1, $4, 'open', 'd', 'release:odoo@' || $4, 'r', $2, now(), 13, 1, $4, '{}', $3, 'regressed')",
            cell, tenant, tenants, mark,
        )  # fmt: skip
        await owner.execute(
            "INSERT INTO incidents (time, source, sequence, cell, id, version, phase, started, severity, title, causes, tenants, impact, signals) "
            "VALUES (now(), 's', 1, $1, $3, 1, 'open', now(), 13, $3, '{}', $2, '{}', '{}')", cell, tenants, mark,
        )  # fmt: skip
        await owner.execute(
            "INSERT INTO dead_letters VALUES (now(), 't', 0, 0, 'r', $1, null, '{}', '', 's', $1)", mark
        )
    # A finding that names a neighbour besides.
    await owner.execute(
        "INSERT INTO signals (time, source, sequence, cell, id, phase, detector, cause, resource, tenant, started, severity, score, summary, evidence, "
        "tenants) VALUES (now(), 's', 1, 'eu1', '«both»', 'open', 'd', 'c', 'r', 'acme', now(), 13, 1, '«both»', '{}', ARRAY['acme', 'globex'])"
    )
    await owner.execute(
        "INSERT INTO changes VALUES (now(), 's', 1, 'eu1', 'c', 'k', 's', 's', '«nobody»', null, '{}', null, null, null, null, 'o')"
    )
    await owner.execute(
        "INSERT INTO changes VALUES (now(), 's', 1, 'eu1', 'c', 'k', 's', 's', '«null»', null, ARRAY[NULL], null, null, null, null, 'o')"
    )


async def seen(connection: Any) -> dict[str, set[str]]:
    """The marks that a connection gets to see, by every relation that it may read, found in the catalogue."""
    relations = await connection.fetch(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') "
        "AND has_table_privilege(oid, 'SELECT') AND NOT relispartition"
    )
    marks = {}
    for (relation,) in relations:
        rows = await connection.fetch(f"SELECT to_jsonb(one)::text FROM {relation} AS one")
        marks[relation] = {mark for (row,) in rows for mark in re.findall("«[^»]*»", row)}
    return marks


async def test_each_tenant_of_each_cell_sees_its_own_and_nobody_elses_in_every_relation(store: Store) -> None:
    await fill(store)
    for rolled_up in (False, True):
        if rolled_up:
            await store.owner.execute("SELECT pilothouse_roll_up(now() + interval '2 minutes', 100)")
        for cell, tenant in product(CELLS, TENANTS):
            connection = await store.as_role(await store.tenant(cell, tenant))
            marks = await seen(connection)
            await connection.close()
            assert set(marks) == READERS_SEE
            # tenant_incidents says that there is an incident of the cell, by its id, to each tenant that it names.
            assert marks.pop("tenant_incidents") == {f"«{cell}/{tenant}»", f"«{cell}/None»"}
            assert {relation for relation, found in marks.items() if not found} == {
                "incidents",
                "incidents_current",
                "pilothouse_mine",
            }
            assert {mark for found in marks.values() for mark in found} == {f"«{cell}/{tenant}»"}


async def test_who_is_mapped_to_nobody_sees_nothing_whatever_he_sets(store: Store) -> None:
    await fill(store)
    connection = await store.as_role(await store.role("unmapped", "pilothouse_reader"))
    try:
        for statement in (
            "SELECT 1",
            "SET pilothouse.tenant = 'acme'",
            "SET pilothouse.cell = 'eu1'",
            "SET ROLE pilothouse_reader",
            "SET application_name = 'pilothouse_operator'",
        ):
            await connection.execute(statement)
            assert not any((await seen(connection)).values()), statement
    finally:
        await connection.close()


async def test_the_operator_sees_all(store: Store) -> None:
    await fill(store)
    connection = await store.as_role(await store.role("operator", "pilothouse_operator"))
    marks = await seen(connection)
    await connection.close()
    everybody = {f"«{cell}/{tenant}»" for cell, tenant in product(CELLS, [*TENANTS, None])} | {"«fleet/eu1/acme»"}
    for relation in (
        "metric_points",
        "metrics_1m",
        "metrics_15m",
        "log_lines",
        "documents",
        "signals_current",
        "incidents_current",
        "dead_letters",
    ):
        assert everybody <= marks[relation], relation


async def test_a_trusted_application_acts_for_a_tenant_through_its_role_and_only_for_those_it_was_granted(
    store: Store,
) -> None:
    await fill(store)
    acme, globex = await store.tenant("eu1", "acme"), await store.tenant("us1", "globex")
    console = await store.role("console", options="NOINHERIT")
    await store.owner.execute(f"GRANT pilothouse_reader TO {console}")
    await store.owner.execute(f"GRANT {acme} TO {console} WITH INHERIT FALSE, SET TRUE")
    connection = await store.as_role(console)
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {acme}")
            assert {row[0] for row in await connection.fetch("SELECT body FROM log_lines")} == {"«eu1/acme»"}
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"SET ROLE {globex}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT body FROM log_lines")  # by itself it may not even ask
    finally:
        await connection.close()


async def test_an_operators_session_that_becomes_a_tenants_sees_what_the_tenant_sees(store: Store) -> None:
    await fill(store)
    acme = await store.tenant("eu1", "acme")
    operator = await store.role("operator", "pilothouse_operator", acme)
    connection = await store.as_role(operator)
    try:
        assert len(await connection.fetch("SELECT body FROM log_lines")) > 4
        await connection.execute(f"SET ROLE {acme}")
        assert {row[0] for row in await connection.fetch("SELECT body FROM log_lines")} == {"«eu1/acme»"}
    finally:
        await connection.close()


async def test_a_role_of_several_tenants_sees_what_concerns_them_alone(store: Store) -> None:
    await fill(store)
    both = await store.tenant("eu1", "acme")
    await store.owner.execute(f"INSERT INTO pilothouse_access VALUES ('{both}', 'eu1', 'globex')")
    connection = await store.as_role(both)
    marks = await seen(connection)
    await connection.close()
    assert marks["log_lines"] == {"«eu1/acme»", "«eu1/globex»"}
    assert marks["signals_current"] == {"«eu1/acme»", "«eu1/globex»", "«both»"}
    assert marks["changes"] == {"«eu1/acme»", "«eu1/globex»", "«eu1/None»"}


async def test_a_role_that_is_made_again_under_its_old_name_starts_with_nothing(store: Store) -> None:
    await fill(store)
    role = await store.tenant("eu1", "acme")
    await store.owner.execute(
        f"DROP OWNED BY {role}; DROP ROLE {role}; CREATE ROLE {role} LOGIN PASSWORD 'secret' IN ROLE pilothouse_reader"
    )
    connection = await store.as_role(role)
    assert not any((await seen(connection)).values())
    await connection.close()


@pytest.mark.parametrize("role", ["pilothouse_reader", "pilothouse_operator", "pilothouse_writer", "-"])
async def test_what_all_readers_share_is_mapped_to_nobody(store: Store, role: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await store.owner.execute(f"INSERT INTO pilothouse_access VALUES ('{role}', 'eu1', 'acme')")


# How a store gets there.


async def test_a_store_of_the_release_before_is_mended_by_the_upgrade(database_url: str) -> None:
    await migrate(database_url, "0004")
    store = Store(database_url, await asyncpg.connect(database_url))
    await store.owner.execute("SELECT pilothouse_add_partitions('metrics', ARRAY[current_date])")
    await migrate(database_url)
    await test_every_function_with_its_owners_rights_is_safe_to_call_and_called_by_nobody_unnamed(store)
    await test_nobody_has_a_right_to_any_object_that_is_not_on_the_list(store)
    await store.owner.close()


async def test_a_store_that_a_plain_role_owns_keeps_the_same_rules(store: Store) -> None:
    """On somebody else's server the owner is no superuser; the roles were made by an administrator."""
    owner = await store.role("owner")
    database = f"plain_{uuid4().hex}"
    await store.owner.execute(f"CREATE DATABASE {database} OWNER {owner}")
    acme = await store.role("acme", "pilothouse_reader")
    url = re.sub("/[^/]*$", f"/{database}", re.sub("://[^@]*@", f"://{owner}:secret@", store.url))
    try:
        await migrate(url)
        plain = Store(url, await asyncpg.connect(url))
        await fill(plain)
        await plain.owner.execute(f"INSERT INTO pilothouse_access VALUES ('{acme}', 'eu1', 'acme')")
        await plain.owner.execute("SELECT pilothouse_roll_up(now() + interval '2 minutes', 100)")
        connection = await plain.as_role(acme)
        marks = await seen(connection)
        assert marks["metrics_1m"] == marks["log_lines"] == marks["series"] == {"«eu1/acme»"}
        await connection.close()
        await plain.owner.close()
    finally:
        await store.owner.execute(f"DROP DATABASE {database} WITH (FORCE)")


async def test_a_writer_finds_that_there_is_nothing_to_migrate_and_a_reader_may_not_know(store: Store) -> None:
    def url(role: str) -> str:
        return re.sub("://[^@]*@", f"://{role}:secret@", store.url)

    await migrate(url(await store.role("writer", "pilothouse_writer")))
    with pytest.raises(SinkUnavailable, match="lacks a right"):
        await migrate(url(await store.tenant("eu1", "acme")))
