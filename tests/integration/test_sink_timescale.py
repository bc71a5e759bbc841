"""The store against real servers: rows and offsets move together, whatever happens in between."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from pilothouse.services.stack import STORE, Stack
from schemas.codec import Envelope, Wire, encode, encode_heartbeat
from schemas.records import (
    BusinessBatch,
    Change,
    Evidence,
    Heartbeat,
    Incident,
    LogBatch,
    OperationsEvent,
    Phase,
    Record,
    Scrape,
    SecurityEvent,
    Severity,
    Signal,
)
from sinks.consumer import run_sink
from sinks.migrations import migrate
from sinks.sink import Batch, Config, Counts, Refuse, SinkUnavailable
from sinks.timescale import Config as StoreConfig
from sinks.timescale import Timescale

DAY_MS = 86_400_000
NOW_MS = time.time_ns() // 1_000_000
SOURCE = "ingest-0"


@dataclass
class Bus:
    """Two topics of a test's own: records and dead letters."""

    bootstrap: str
    producer: Any
    topic: str
    letters: str
    group: str
    sequences: dict[str, int] = field(default_factory=dict)

    async def put(
        self, record: Record, *, sequence: int | None = None, source: str = SOURCE, partition: int = 0
    ) -> int:
        """Publish, with the source's next sequence unless one is given."""
        if sequence is None:
            sequence = self.sequences[source] = self.sequences.get(source, 0) + 1
        await self.put_wire(encode(record, Envelope(source, sequence, NOW_MS)), partition)
        return sequence

    async def put_wire(self, wire: Wire, partition: int = 0) -> None:
        await self.producer.send_and_wait(
            self.topic, wire.value, wire.key, partition=partition, headers=wire.headers, timestamp_ms=wire.timestamp_ms
        )

    def config(self, **more: Any) -> Config:
        return Config(group=self.group, dead_letters=self.letters, idle_commit_s=0.2, **more)


@pytest.fixture
async def bus(kafka: str) -> AsyncIterator[Bus]:
    name = uuid4().hex[:8]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    topics = [NewTopic(f"records.{name}", 4, 1), NewTopic(f"letters.{name}", 1, 1)]
    await admin.create_topics(topics)
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        yield Bus(kafka, producer, f"records.{name}", f"letters.{name}", f"group.{name}")
    await admin.delete_topics([topic.name for topic in topics])
    await admin.close()


@dataclass
class Store:
    """A migrated database and a connection to look into it."""

    url: str
    connection: Any

    async def all(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(query, *arguments)]

    async def reconnect(self) -> None:
        await self.connection.close()
        self.connection = await asyncpg.connect(self.url)

    async def one(self, query: str, *arguments: Any) -> Any:
        return await self.connection.fetchval(query, *arguments)

    async def until(self, query: str, expected: Any, timeout_s: float = 60) -> None:
        """Wait until the query's value is the expected one."""

        async def is_so() -> bool:
            return bool(await self.one(query) == expected)

        await until(is_so, f"{query} = {expected!r}", timeout_s)


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 60) -> None:
    """Ask again and again; another process makes it true, so there is no event to wait for."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.05)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    await migrate(database_url)
    store = Store(database_url, await asyncpg.connect(database_url))
    yield store
    await store.connection.close()


@asynccontextmanager
async def running(
    bus: Bus, store: Store, sink: Timescale | None = None, config: Config | None = None
) -> AsyncIterator[Counts]:
    """A sink at work; a failure of it fails the test."""
    stop, counts = asyncio.Event(), Counts()
    sink = sink or Timescale(store_config(bus, store))
    kafka = {"bootstrap_servers": bus.bootstrap}
    task = asyncio.create_task(run_sink(sink, kafka, stop, config or bus.config(), counts))
    try:
        yield counts
    finally:
        stop.set()
        await task


def store_config(bus: Bus, store: Store, **more: Any) -> StoreConfig:
    return StoreConfig(store.url, topics=(bus.topic, bus.letters), upkeep_every_s=0, **more)


def scrape(n: int, *, points: int = 3, time_ms: int | None = None, resource: str = "pg-eu1") -> Scrape:
    values: dict[str, float | None] = {f'db.size{{db="{one}",tenant.id="acme"}}': float(n) for one in range(points)}
    where = {"cell": "eu1", "resource": resource, "system": "postgresql"}
    return Scrape.of(values, time_ms=time_ms or NOW_MS + n, **where)


def judged(change: str, verdict: str | None, at_ms: int, **more: Any) -> Signal:
    cause = f"release:odoo@{change}"
    fields: dict[str, Any] = {
        "cell": "eu1", "time_ms": at_ms, "id": f"v-{change}", "phase": Phase.UPDATED, "detector": "difference_in_differences",
        "cause": cause, "resource": "odoo", "started_ms": NOW_MS, "severity": Severity.WARNING, "score": 0.9,
        "summary": f"{cause} is {verdict}", "verdict": verdict,
    }  # fmt: skip
    return Signal(**(fields | more))


async def test_which_changes_regressed_and_who_made_them_is_one_query(bus: Bus, store: Store) -> None:
    for revision in ("2.4.1", "2.5.0"):
        await bus.put(
            Change(
                cell="eu1", time_ms=NOW_MS, change_id=f"c-{revision}", kind="release", status="succeeded", service="odoo",
                revision=revision, author="ada", origin="generic",
            )
        )  # fmt: skip
    await bus.put(judged("2.4.1", "regressed", NOW_MS + 60_000))
    await bus.put(judged("2.4.1", "recovered", NOW_MS + 120_000))
    await bus.put(judged("2.5.0", "fine", NOW_MS + 60_000, tenant="acme", tenants=("acme",)))
    await bus.put(judged("none", None, NOW_MS + 60_000, expected_ms=NOW_MS + 90_000))
    async with running(bus, store):
        await store.until("SELECT count(*) FROM records", 6)
    query = "SELECT change_id, author, verdict, regressed FROM change_verdicts"
    assert await store.all(f"{query} ORDER BY change_id") == [
        ("c-2.4.1", "ada", "recovered", True),
        ("c-2.5.0", "ada", "fine", False),
    ]
    assert await store.all(f"{query} WHERE regressed AND started >= now() - INTERVAL '1 month'") == [
        ("c-2.4.1", "ada", "recovered", True)
    ]
    assert await store.one("SELECT expected - started FROM signals_current WHERE verdict IS NULL") == timedelta(
        seconds=90
    )
    acme = await reader_of(store, "acme")
    assert await seen_by(store, acme, "SELECT cause FROM change_verdicts") == {"release:odoo@2.5.0"}
    assert await seen_by(store, "pilothouse_reader", "SELECT cause FROM change_verdicts") == set()
    await store.connection.execute(f"DROP OWNED BY {acme}; DROP ROLE {acme}")


async def test_a_store_of_before_gets_the_new_columns_and_keeps_its_rows(database_url: str) -> None:
    await migrate(database_url, "0001")
    store = Store(database_url, await asyncpg.connect(database_url))
    await store.connection.execute(
        "INSERT INTO signals VALUES (now(), 's', 1, 'eu1', 'old', 'open', 'locks', 'x:y', 'r', null, now(), 2, 0.5, 't', '[]', '{}');"
        "INSERT INTO incidents VALUES (now(), 's', 2, 'eu1', 'old', 1, 'open', now(), 2, 't', '[]', '{}', '{}', '{}')"
    )
    await migrate(database_url)
    assert await store.all("SELECT id, verdict FROM signals_current") == [("old", None)]
    assert await store.all("SELECT id, roles, flapping, silenced FROM incidents_current") == [("old", [], False, None)]
    await store.connection.close()


async def test_points_logs_documents_and_findings_arrive_with_all_they_say(bus: Bus, store: Store) -> None:
    for record in one_of_each():
        await bus.put(record)
    async with running(bus, store):
        await store.until("SELECT count(*) FROM records", 8)
    assert await store.all("SELECT tenant, name, attributes, value FROM metric_points ORDER BY attributes") == [
        ("acme", "db.size", '{"db": "0", "tenant.id": "acme"}', 1.0),
        ("acme", "db.size", '{"db": "1", "tenant.id": "acme"}', 1.0),
    ]
    assert await store.all("SELECT tenant, body, attributes FROM log_lines ORDER BY body") == [
        ("acme", "one\ufffd", '{"n": 1}'),
        (None, "two", "{}"),
    ]
    assert await store.all("SELECT document_name, state, amount FROM documents") == [("S00042", "sale", 120.5)]
    assert await store.all("SELECT revision, tenants FROM changes") == [("2.4.1", ["acme"])]
    assert await store.all("SELECT name, attributes FROM operations") == [("odoo.worker.killed", '{"pid": 7}')]
    assert await store.all("SELECT actor, outcome FROM security") == [("joe", "failure")]
    assert await store.all("SELECT id, phase, evidence->0->>'text' FROM signals_current") == [("s1", "open", "slow")]
    stories = await store.all("SELECT id, version, causes->0->>'cause', roles FROM incidents_current")
    assert stories == [("i1", 1, "x:y", ["dba"])]
    course = await store.all("SELECT merged_into, silenced->>'reason', inhibited->0->'by' FROM incidents_current")
    assert course == [("i0", "known", '["x:y"]')]
    assert await store.all("SELECT recovery, parts, flapping FROM incidents_current") == [(None, "[]", False)]


def one_of_each(tenant: str = "acme", names: str = "1") -> list[Record]:
    at: dict[str, Any] = {"cell": "eu1", "time_ms": NOW_MS}
    on: dict[str, Any] = {**at, "resource": "odoo", "system": "odoo"}
    batch = {**on, "tenants": (tenant,), "times_ms": (NOW_MS,)}
    logs = {**on, "tenants": (tenant, None), "times_ms": (NOW_MS, NOW_MS)}
    none = dict.fromkeys(("orders", "currencies", "warehouses", "carriers", "deadlines_ms"), (None,))
    finding = {**at, "phase": "open", "started_ms": NOW_MS, "severity": 2, "tenants": (tenant,)}
    evidence = (Evidence(text="slow"),)
    points = {f'db.size{{db="{one}",tenant.id="{tenant}"}}': 1.0 for one in range(2)}
    return [
        Scrape.of({**points, "up": None}, **on),
        LogBatch(**logs, severity_numbers=(9, 17), bodies=("one\x00", "two"), attributes={"n": (1, None)}),
        BusinessBatch(
            **batch,
            **none,
            document_types=("sale.order",),
            document_ids=(42,),
            document_names=("S00042",),
            states=("sale",),
            amounts=(120.5,),
        ),
        Change(
            **at,
            change_id="c1",
            kind="release",
            status="succeeded",
            service="odoo",
            revision="2.4.1",
            tenants=(tenant,),
            origin="generic",
        ),
        OperationsEvent(**on, tenant=tenant, name="odoo.worker.killed", attributes={"pid": 7}),
        SecurityEvent(**on, tenant=tenant, name="login", actor="joe", outcome="failure"),
        Signal(
            **finding,
            id=f"s{names}",
            tenant=tenant,
            detector="d",
            cause="x:y",
            resource="odoo",
            score=0.9,
            summary="s",
            evidence=evidence,
        ),
        Incident(
            **finding,
            id=f"i{names}",
            version=1,
            title="t",
            causes=({"cause": "x:y", "probability": 1.0},),
            roles=("dba",),
            merged_into="i0",
            silenced={"silence": "q1", "author": "ada", "reason": "known", "until_ms": NOW_MS},
            inhibited=({"signal": "s1", "cause": "z:y", "by": ("x:y",)},),
        ),
    ]


async def test_a_kill_between_the_rows_and_the_commit_changes_nothing(bus: Bus, store: Store) -> None:
    class Dying(Timescale):
        """Dies in its second transaction, when the rows are written and the commit is not."""

        async def _insert(self, connection: Any, prepared: Any) -> None:
            await super()._insert(connection, prepared)
            if self.stored.transactions == 1:
                raise RuntimeError("killed")

    for n in range(30):
        await bus.put(scrape(n), partition=n % 4)
    few = bus.config(batch_records_max=10)
    with pytest.raises(RuntimeError, match="killed"):
        async with running(bus, store, Dying(store_config(bus, store)), few):
            await store.until("SELECT count(*) FROM records", 11, timeout_s=3)
    assert await store.one("SELECT count(*) FROM metrics") == 30
    assert await store.one("SELECT sum(next_offset) FROM kafka_offsets") == 10
    async with running(bus, store, config=few):
        await store.until("SELECT sum(next_offset)::int FROM kafka_offsets", 30)
    assert await store.all("SELECT count(*), count(DISTINCT (source, sequence)), sum(rows) FROM records") == [
        (30, 30, 90)
    ]
    assert await store.all("SELECT count(*), count(DISTINCT (time, series_id)) FROM metrics") == [(90, 90)]


async def test_a_connection_lost_in_the_commit_leaves_each_row_once(bus: Bus, store: Store) -> None:
    class CutOff(Timescale):
        """Loses its connection after the commit, before it knows of it."""

        cut = 0

        async def _store(self, connection: Any, batch: Batch, refuse: Refuse) -> None:
            before = dict(self._offsets)
            await super()._store(connection, batch, refuse)
            if self.cut < 2:
                self.cut += 1
                self._offsets = before
                raise SinkUnavailable("timescale", "cut off", "it is tried again", 0.01)

    sink = CutOff(store_config(bus, store))
    async with running(bus, store, sink, bus.config(batch_records_max=4)) as counts:
        for n in range(12):
            await bus.put(scrape(n))
        await store.until("SELECT sum(next_offset)::int FROM kafka_offsets", 12)
        assert (counts.unavailable, counts.out_of_step) == (2, 2)
    assert await store.all("SELECT count(*), count(DISTINCT sequence) FROM records") == [(12, 12)]


async def test_a_record_that_left_the_spool_twice_is_stored_once_and_counted(bus: Bus, store: Store) -> None:
    for sequence in (1, 2, 3, 2, 3, 4):
        await bus.put(scrape(sequence), sequence=sequence)
    await bus.put(scrape(1), sequence=1, source="ingest-1")
    async with running(bus, store) as counts:
        await store.until("SELECT sum(next_offset)::int FROM kafka_offsets", 7)
        assert counts.repeated == 2
    await bus.put(scrape(4), sequence=4)
    async with running(bus, store) as counts:
        await store.until("SELECT sum(next_offset)::int FROM kafka_offsets", 8)
        assert counts.repeated == 1
    rows = await store.all("SELECT source, array_agg(sequence ORDER BY sequence) FROM records GROUP BY 1 ORDER BY 1")
    assert rows == [("ingest-0", [1, 2, 3, 4]), ("ingest-1", [1])]


async def test_two_workers_share_the_partitions_and_hand_them_over(bus: Bus, store: Store) -> None:
    async with running(bus, store) as first:
        for n in range(40):
            await bus.put(scrape(n), partition=n % 4)
        async with running(bus, store) as second:
            for n in range(40, 4_000):
                await bus.put(scrape(n), partition=n % 4)
                if second.written:
                    break
            done = n + 1
            assert second.written
        for more in range(done, done + 40):
            await bus.put(scrape(more), partition=more % 4)
        await store.until("SELECT sum(next_offset)::int FROM kafka_offsets", done + 40)
        assert first.rebalances >= 3
    total = done + 40
    assert await store.all("SELECT count(*), count(DISTINCT sequence) FROM records") == [(total, total)]
    assert await store.one("SELECT count(*) FROM metrics") == 3 * total


async def test_what_cannot_be_read_is_kept_with_its_bytes_and_the_rest_is_stored(bus: Bus, store: Store) -> None:
    await bus.put(scrape(1))
    wire = encode(scrape(2), Envelope(SOURCE, 2, NOW_MS))
    unknown = [
        (name, b"com.pilothouse.metrics.scrape.v9" if name == "ce_type" else text) for name, text in wire.headers
    ]
    await bus.put_wire(Wire(wire.key, wire.value, unknown, wire.timestamp_ms))
    nan = wire.value.replace(b"2.0", b"NaN")
    await bus.put_wire(Wire(wire.key, nan, wire.headers, wire.timestamp_ms))
    await bus.put(scrape(3), sequence=3)
    async with running(bus, store) as counts:
        await store.until("SELECT count(*) FROM dead_letters", 2)
        assert counts.rejected == 2
    letters = await store.all('SELECT "offset", reason, payload, rejected_by FROM dead_letters ORDER BY 1')
    assert letters == [(1, "unknown_version", wire.value, "sink.timescale"), (2, "invalid", nan, "sink.timescale")]
    assert await store.all("SELECT sequence FROM records ORDER BY 1") == [(1,), (3,)]


async def test_rows_that_the_database_refuses_are_found_and_the_rest_is_stored(bus: Bus, store: Store) -> None:
    def batch(document_id: int) -> BusinessBatch:
        columns: dict[str, Any] = {
            "document_ids": (document_id,),
            "states": ("sale",),
            "document_types": ("sale.order",),
        }
        names = "document_names orders amounts currencies warehouses carriers deadlines_ms"
        columns |= dict.fromkeys(names.split(), (None,))
        at = {"cell": "eu1", "resource": "acme", "system": "odoo", "time_ms": NOW_MS}
        return BusinessBatch(**at, tenants=("acme",), times_ms=(NOW_MS,), **columns)

    for document_id in (1, 2, 2**63, 4, 5):  # JSON can say it, a bigint cannot hold it
        await bus.put(batch(document_id))
    bad = scrape(6).model_copy(update={"series": 'no series"', "values": (1.0,)})
    await bus.put(bad)
    async with running(bus, store, config=bus.config(linger_s=1.0)) as counts:  # all in one batch
        await store.until("SELECT count(*) FROM dead_letters", 2)
        assert (counts.rejected, counts.unavailable) == (2, 0)
        assert counts.split > 0
    assert await store.all('SELECT "offset", reason FROM dead_letters ORDER BY 1') == [(2, "failed"), (5, "invalid")]
    assert await store.all("SELECT document_id FROM business ORDER BY 1") == [(1,), (2,), (4,), (5,)]
    assert await store.one("SELECT count(*) FROM records") == 4


async def test_four_weeks_of_the_past_get_their_partitions_and_older_times_go_to_the_dead_letters(
    bus: Bus, store: Store
) -> None:
    for days in (60, 28, 14, 1, 0, -1, -20):
        await bus.put(scrape(days, time_ms=NOW_MS - days * DAY_MS))
    async with running(bus, store):
        await store.until("SELECT count(*) FROM dead_letters", 2)
        await store.until("SELECT count(*) FROM records", 5)
    names = {
        f"metrics_{time.strftime('%Y%m%d', time.gmtime(NOW_MS / 1000 - days * 86_400))}" for days in (28, 14, 1, 0, -1)
    }
    assert names == {name for (name,) in await store.all("SELECT tableoid::regclass::text FROM metrics")}
    details = await store.all("SELECT detail FROM dead_letters")
    assert all("stored is" in detail for (detail,) in details)


async def test_heartbeats_move_the_offsets_without_a_row(bus: Bus, store: Store) -> None:
    for n in range(3):
        await bus.put_wire(encode_heartbeat(Heartbeat(publisher=SOURCE, time_ms=NOW_MS + n)))
    async with running(bus, store) as counts:
        await store.until("SELECT sum(next_offset)::int FROM kafka_offsets", 3)
        assert (counts.heartbeats, counts.records) == (3, 0)


async def test_the_group_shows_what_is_stored(bus: Bus, store: Store) -> None:
    await bus.put(scrape(1), partition=2)
    async with running(bus, store):
        await store.until("SELECT sum(next_offset)::int FROM kafka_offsets", 1)
    admin = AIOKafkaAdminClient(bootstrap_servers=bus.bootstrap)
    await admin.start()
    offsets = await admin.list_consumer_group_offsets(bus.group)
    await admin.close()
    assert offsets[TopicPartition(bus.topic, 2)].offset == 1


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        (lambda url: re.sub("://[^@]*@", "://nobody:x@", url), "Check user and password"),
        (lambda url: url + "_absent", "does not exist"),
        (lambda _: "postgresql://pilothouse:x@127.0.0.1:1/none", "Is the server up"),
    ],
)
async def test_a_wrong_address_or_password_says_the_mend(store: Store, change: Callable[[str], str], mend: str) -> None:
    wrong = change(store.url)
    with pytest.raises(SinkUnavailable, match=mend) as raised:
        await migrate(wrong)
    assert ":x@" not in str(raised.value)


async def test_a_read_only_database_is_waited_for(bus: Bus, store: Store) -> None:
    name = await store.one("SELECT current_database()")
    await store.connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await bus.put(scrape(1))
    async with running(bus, store) as counts:

        async def is_away() -> bool:
            return counts.unavailable > 0

        await until(is_away, "the sink waits")
        await store.connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await store.connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'pilothouse-sink' "
            "AND datname = current_database()"
        )
        await store.until("SELECT count(*) FROM records", 1)


async def test_a_tenant_sees_its_own_rows_alone(bus: Bus, store: Store) -> None:
    shared = Scrape.of({"up": 1.0}, cell="eu1", resource="pg-eu1", system="postgresql", time_ms=NOW_MS)
    for record in [*one_of_each(), *one_of_each("globex", "2"), shared]:
        await bus.put(record)
    async with running(bus, store):
        await store.until("SELECT count(*) FROM records", 17)
    acme, globex = [await reader_of(store, tenant) for tenant in ("acme", "globex")]
    views = {
        "metric_points": "tenant",
        "metrics_1m": "tenant",
        "metrics_15m": "tenant",
        "series": "tenant",
        "log_lines": "tenant",
        "documents": "tenant",
        "business": "tenant",
        "operations": "tenant",
        "security": "tenant",
        "signals_current": "tenant",
        "changes": "array_to_string(tenants, ',')",
    }
    for view, tenant in views.items():
        query = f"SELECT DISTINCT {tenant} FROM {view}"
        everyone = {row for (row,) in await store.all(query)}
        assert {"acme", "globex"} <= everyone, view
        assert await seen_by(store, acme, query) <= {"acme"}, view
        assert await seen_by(store, "pilothouse_reader", query) == set(), view
    assert await seen_by(store, globex, "SELECT tenant FROM metric_points") == {"globex"}
    assert await seen_by(store, acme, "SELECT id FROM incidents_current") == set()
    assert await seen_by(store, acme, "SELECT id FROM tenant_incidents") == {"i1"}
    for table in ("metrics", "logs", "records", "dead_letters"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await seen_by(store, acme, f"SELECT * FROM {table}")
    await store.connection.execute(f"DROP OWNED BY {acme}, {globex}; DROP ROLE {acme}, {globex}")


async def reader_of(store: Store, tenant: str) -> str:
    """A role that may see one tenant of the cell."""
    role = f"{tenant}_{uuid4().hex}"
    await store.connection.execute(f"CREATE ROLE {role} IN ROLE pilothouse_reader")
    await store.connection.execute("INSERT INTO pilothouse_access VALUES ($1::text::regrole, 'eu1', $2)", role, tenant)
    return role


async def seen_by(store: Store, role: str, query: str) -> set[Any]:
    """What a role gets."""
    async with store.connection.transaction():
        await store.connection.execute(f"SET LOCAL ROLE {role}")
        return {row for (row,) in await store.all(query)}


async def test_roll_ups_hold_late_points_too_and_the_newest_minute_is_there_at_once(bus: Bus, store: Store) -> None:
    sink = Timescale(store_config(bus, store))
    minute_ms = 60_000
    start_ms = NOW_MS // (15 * minute_ms) * 15 * minute_ms - 15 * minute_ms
    async with running(bus, store, sink):
        for n in range(15):
            await bus.put(scrape(n, points=1, time_ms=start_ms + n * minute_ms))
        await store.until("SELECT count(*) FROM records", 15)
        assert await rolled(store) == [(1, 15, 105.0, 15)]
        await sink.upkeep.round()
        assert await store.one("SELECT count(*) FROM rollup_1m") == 15
        assert await rolled(store) == [(1, 15, 105.0, 15)]
        await bus.put(scrape(100, points=1, time_ms=start_ms + 1))
        await bus.put(scrape(100, points=1, time_ms=start_ms - 20 * DAY_MS))
        await store.until("SELECT count(*) FROM records", 17)
        await sink.upkeep.round()
    assert await rolled(store) == [(1, 1, 100.0, 1), (1, 16, 205.0, 15)]
    assert await store.one("SELECT count(*) FROM rollup_due") == 0


async def rolled(store: Store) -> list[tuple[Any, ...]]:
    """By quarter of an hour: rows, points, total; and the minutes below it."""
    return await store.all(
        "SELECT count(*), max(q.points)::int, max(q.mean * q.points), (SELECT count(*)::int FROM metrics_1m m "
        "WHERE m.time >= q.time AND m.time < q.time + interval '15 minutes') "
        "FROM metrics_15m q GROUP BY q.time ORDER BY q.time"
    )


async def test_upkeep_makes_days_ahead_and_drops_what_is_too_old(store: Store) -> None:
    sink = Timescale(StoreConfig(store.url, upkeep_every_s=0))
    await sink.upkeep.round()
    days = await store.one("SELECT count(*) FROM pg_inherits WHERE inhparent = 'metrics'::regclass")
    assert days == 3
    later = Timescale(StoreConfig(store.url, upkeep_every_s=0, clock=lambda: NOW_MS + 42 * DAY_MS))
    await store.connection.execute(
        "INSERT INTO dead_letters VALUES (now() - interval '60 days', 't', 0, 0, 'r', 'd', null, '{}', '', 's', 'l')"
    )
    await later.upkeep.round()
    assert later.upkeep.partitions_dropped >= 6
    assert later.upkeep.rows_deleted == 1
    await later.close()


async def test_migrating_twice_and_from_two_workers_at_once_changes_nothing(store: Store) -> None:
    await asyncio.gather(migrate(store.url), migrate(store.url))
    assert await store.all("SELECT timescaledb FROM pilothouse_store") == [(False,)]


async def test_a_writer_that_owns_nothing_can_store_everything(bus: Bus, store: Store) -> None:
    name = f"writer_{uuid4().hex}"
    await store.connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' IN ROLE pilothouse_writer")
    writer = StoreConfig(
        re.sub("://[^@]*@", f"://{name}:secret@", store.url), (bus.topic, bus.letters), upkeep_every_s=0
    )
    try:
        for record in one_of_each():
            await bus.put(record)
        await bus.put_wire(Wire(None, b"?", [("ce_type", b"?")], NOW_MS))
        sink = Timescale(writer)
        async with running(bus, store, sink):
            await store.until("SELECT count(*) FROM records", 8)
            await store.until("SELECT count(*) FROM dead_letters", 1)
            await sink.upkeep.round()
    finally:
        await store.connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_a_connection_that_is_lost_amid_an_operation_costs_no_row(bus: Bus, store: Store) -> None:
    class Torn(Timescale):
        """Leaves its first transaction with an operation under way, so that not even the rollback can be said."""

        left: asyncio.Future[Any] | None = None

        async def _insert(self, connection: Any, prepared: Any) -> None:
            await super()._insert(connection, prepared)
            if self.left is None:
                self.left = asyncio.ensure_future(connection.execute("SELECT pg_sleep(1)"))
                await asyncio.sleep(0)
                raise OSError("torn")

    sink = Torn(store_config(bus, store))
    async with running(bus, store, sink):
        await bus.put(scrape(0))
        await store.until("SELECT count(*) FROM records", 1)
    assert sink.left
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await sink.left
    assert await store.one("SELECT count(*) FROM metrics") == 3


@pytest.mark.parametrize("which", ["kafka", "postgres"])
async def test_a_server_killed_under_load_costs_no_row(bus: Bus, store: Store, stack: Stack, which: str) -> None:
    assert stack.kafka
    server = stack.kafka if which == "kafka" else stack.postgres[STORE]
    sink = Timescale(store_config(bus, store))
    async with running(bus, store, sink, bus.config(batch_records_max=5)):
        for n in range(100):
            await bus.put(scrape(n), partition=n % 4)
        await server.kill()
        await server.start()
        await store.reconnect()
        for n in range(100, 120):
            await bus.put(scrape(n), partition=n % 4)
        await store.until("SELECT sum(next_offset)::int FROM kafka_offsets", 120, timeout_s=120)
    assert await store.all("SELECT count(*), count(DISTINCT sequence), sum(rows) FROM records") == [(120, 120, 360)]
    assert await store.one("SELECT count(*) FROM metrics") == 360
