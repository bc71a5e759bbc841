"""What the PostgreSQL collector asks of each version, and what it makes of the rows."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ingest.collectors.postgresql import locks, points, queries
from ingest.collectors.postgresql.points import Databases
from ingest.collectors.postgresql.queries import Server
from ingest.collectors.postgresql.statements import MAX_TEXTS, MAX_TOLD, Evictions, Interval, Texts
from tests.support.golden import GOLDEN

# Columns of the views as PostgreSQL has them: 15 and 18 read from servers, the others after the manuals' release notes.
RECORDED = json.loads((GOLDEN / "postgresql" / "columns.json").read_text())
VERSIONS = ("13", "14", "15", "16", "17", "18")
ASKED = (queries.server, queries.databases, queries.waits, queries.statements, queries.top_statements)

UP_TO_16 = "pg_stat_bgwriter.checkpoint_write_time::float8 / 1000"
FROM_17 = "pg_stat_checkpointer.write_time::float8 / 1000"


def server(version: str) -> Server:
    columns = {view: frozenset(names.split()) for view, names in RECORDED[version].items()}
    return Server(columns, "public")


@pytest.mark.parametrize("version", VERSIONS)
def test_no_version_is_asked_for_a_column_that_it_lacks(version: str) -> None:
    have = server(version)
    for question in ASKED:
        for view, column in re.findall(r"\b(pg_stat_(?!statements)\w+|pg_locks)\.(\w+)", question(have)):
            assert have.has(view, column), f"{question.__name__} asks {version} for {view}.{column}"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("13", UP_TO_16),
        ("16", UP_TO_16),
        ("17", FROM_17),
        ("18", FROM_17),
    ],
)
def test_checkpoints_are_read_where_the_version_keeps_them(version: str, expected: str) -> None:
    assert f"{expected} AS checkpoint_write_s" in queries.server(server(version))


def test_what_13_lacks_is_null_or_taken_from_elsewhere() -> None:
    have = server("13")
    assert "NULL::float8 AS wal_bytes" in queries.server(have)
    assert "NULL::float8 / 1000 AS active_s" in queries.databases(have)
    assert "a.state_change" in queries.waits(have)
    assert "toplevel" not in queries.statements(have)
    assert "s.toplevel" in queries.statements(server("14"))


def test_statements_of_an_extension_never_updated_are_read_by_their_old_name() -> None:
    have = Server({queries.EXTENSION: frozenset({"total_time", "calls"})}, '"Stats"')
    assert "sum(s.total_time)" in queries.statements(have)
    assert '"Stats".pg_stat_statements(false)' in queries.statements(have)


# Rows to points


def standby(name: str = "dr1", lag_s: float | None = 0.0, behind_bytes: float = 0.0, slot: str | None = None) -> Any:
    known = {"kind": "standby", "name": name, "address": "10.0.0.2", "lag_s": lag_s}
    return {**known, "behind_bytes": behind_bytes, "safe_bytes": None, "slot": slot}


LAG = "postgresql.replication.lag"


def test_a_standbys_lag_is_told_as_it_was_measured() -> None:
    lags = [points.of_standbys([standby(lag_s=lag_s)]) for lag_s in (0.0, None, 3.0)]
    series = f'{LAG}{{client.address="10.0.0.2",postgresql.standby.name="dr1"}}'
    assert [lag[series] for lag in lags] == [0.0, None, 3.0]


def test_standbys_of_one_name_are_told_apart_by_their_slots() -> None:
    found = points.of_standbys([standby(lag_s=1.0, slot="a"), standby(lag_s=2.0, slot="b"), standby("dr2", slot="c")])
    of_lag = {series: value for series, value in found.items() if series.startswith(f"{LAG}{{")}
    twin = f'{LAG}{{client.address="10.0.0.2",postgresql.replication.slot="%s",postgresql.standby.name="dr1"}}'
    assert of_lag == {
        twin % "a": 1.0,
        twin % "b": 2.0,
        f'{LAG}{{client.address="10.0.0.2",postgresql.standby.name="dr2"}}': 0.0,
    }
    assert found["postgresql.replication.standbys"] == 3


@pytest.mark.parametrize(
    ("lags", "told"), [((1.0, 7.0), 7.0), ((7.0, 1.0), 7.0), ((None, 1.0), None), ((1.0, None), None)]
)
def test_of_standbys_that_nothing_tells_apart_the_worst_is_told(lags: Any, told: float | None) -> None:
    found = points.of_standbys([standby(lag_s=lag_s) for lag_s in lags])
    assert found[f'{LAG}{{client.address="10.0.0.2",postgresql.standby.name="dr1"}}'] == told
    assert found["postgresql.replication.standbys"] == 2


def test_states_of_a_database_are_taken_together() -> None:
    rows = [activity("active", waiting=2.0, transaction_age_s=3.0), activity("idle in transaction", waiting=0.0)]
    found = points.of_activity(Databases({"a": "acme"}, ["a"]), rows)
    assert found['postgresql.lock.waiting{db.namespace="a",tenant.id="acme"}'] == 2
    assert found['postgresql.transaction.age.max{db.namespace="a",tenant.id="acme"}'] == 3


def test_who_waits_for_a_lock_or_idles_is_not_at_work() -> None:
    rows = [activity("active", backends=5.0, waiting=2.0), activity("idle", backends=7.0, waiting=0.0)]
    assert points.of_activity(Databases({}, ["a"]), rows)["postgresql.connection.working"] == 3
    assert points.without_activity(Databases({}, ["a"]))["postgresql.connection.working"] is None


def activity(state: str, **more: float) -> dict[str, Any]:
    row = {
        "database": "a",
        "state": state,
        "backends": 1.0,
        "transaction_age_s": None,
        "odoo_pids": None,
        "pool_max": None,
    }
    return {**row, "idle_in_transaction_age_s": None, **more}


def test_times_that_the_server_does_not_take_are_unmeasured() -> None:
    (row,) = [dict.fromkeys([*points.OF_DATABASE.values(), *points.OF_DATABASE_TIMED.values()], 1.0)]
    found = points.of_database(Databases({}, ["a"]), {**row, "database": "a"}, times_io=False)
    assert found['postgresql.blocks.read.time{db.namespace="a"}'] is None
    assert found['postgresql.blocks.read{db.namespace="a"}'] == 1.0


def test_everything_counts_since_the_latest_start_or_reset() -> None:
    rows: list[points.Row] = [
        {"started_ms": 1_000.0, "wal_reset_ms": None},
        {"reset_ms": 3_000.0},
        {"reset_ms": 2_000.0},
    ]
    assert points.start_ms(rows, now_ms=9_000) == 3_000
    assert points.start_ms(rows, now_ms=2_500) == 2_500  # the server's clock is ahead of ours


# Lock trees


def waiter(pid: int, *blockers: int, waited_s: float = 1.0, query: str = "UPDATE t SET a = 1") -> dict[str, Any]:
    return backend(pid) | {"waited_s": waited_s, "blockers": list(blockers), "query": query, "locktype": "tuple"}


def backend(pid: int) -> dict[str, Any]:
    names = ("waited_s", "blockers", "locktype", "relation", "state", "transaction_age_s")
    known = {"pid": pid, "database": "a", "user_name": "odoo", "application_name": f"odoo-{pid}", "query": "SELECT 1"}
    return dict.fromkeys(names) | known | {"backend_type": "client backend"}


def test_a_chain_has_one_root_and_everybody_behind_it() -> None:
    (tree,), _ = locks.trees([backend(1), waiter(2, 1), waiter(3, 2, waited_s=9.0), waiter(4, 2, 3)], 0.5)
    assert tree.pid == 1
    assert [row["pid"] for row in tree.waiters] == [3, 2, 4]
    assert locks.attributes(tree)["postgresql.waiting.max_s"] == 9.0


def test_two_holders_of_a_shared_lock_are_two_roots() -> None:
    found, _ = locks.trees([backend(1), backend(2), waiter(3, 1, 2)], 0.5)
    assert [tree.pid for tree in found] == [1, 2]


def test_a_circle_is_told_once_until_the_server_breaks_it() -> None:
    (tree,), _ = locks.trees([waiter(7, 8), waiter(8, 7)], 0.5)
    assert (tree.pid, len(tree.waiters)) == (7, 2)


def test_a_prepared_transaction_is_a_blocker_without_a_backend() -> None:
    (tree,), _ = locks.trees([waiter(3, 0)], 0.5)
    told = locks.attributes(tree)
    assert told["postgresql.blocker.pid"] == 0
    assert told["postgresql.blocker.state"] == "prepared transaction"
    assert tree.database == "a"
    assert locks.sentence(tree).startswith("a prepared transaction in a holds a lock for which 1 backend waits")


def test_a_tree_in_which_nobody_waited_long_is_not_told() -> None:
    assert not locks.trees([backend(1), waiter(2, 1, waited_s=0.4)], 0.5)[0]
    assert not locks.trees([backend(1), waiter(2)], 0.5)[0]  # its blocker left between two glances


def test_at_most_so_many_trees_are_told_worst_first() -> None:
    rows = [row for pid in range(0, 200, 2) for row in (backend(pid + 1), waiter(pid + 2, pid + 1, waited_s=pid + 1.0))]
    found, beyond = locks.trees(rows, 0.5)
    assert (len(found), beyond) == (locks.MAX_TREES, 100 - locks.MAX_TREES)
    assert found[0].longest_s == 199.0


@pytest.mark.parametrize(
    ("query", "table"),
    [
        ('UPDATE "stock_quant" SET a = 1', "stock_quant"),
        ("DELETE FROM public.sale_order WHERE id = 1", "public.sale_order"),
        ("LOCK TABLE account_move IN EXCLUSIVE MODE", "account_move"),
        ("SELECT 1 FROM a FOR UPDATE", None),
    ],
)
def test_a_waiters_statement_may_name_the_table(query: str, table: str | None) -> None:
    (tree,), _ = locks.trees([backend(1), waiter(2, 1, query=query)], 0.5)
    assert locks.attributes(tree).get("postgresql.lock.relation") == table


# Statements


def statement(one: int, time_s: float, calls: float = 1.0, database: str = "a") -> dict[str, Any]:
    return {"database": database, "id": one, "calls": calls, "time_s": time_s, "rows": 0.0, "blocks_read": 0.0}


def test_only_what_an_interval_added_is_its_cost() -> None:
    interval = Interval()
    assert interval.costliest([statement(1, 100.0)], 10, 0) == (0.0, [])
    length_s, costs = interval.costliest([statement(1, 101.0, 3.0), statement(2, 3.0)], 10, 60_000)
    assert length_s == 60.0
    assert [(cost.id, cost.sums.time_s, cost.sums.calls, cost.share) for cost in costs] == [
        (2, 3, 1, 0.75),
        (1, 1, 2, 0.25),
    ]


def test_a_statement_thrown_out_and_taken_in_again_counts_from_zero() -> None:
    interval = Interval()
    interval.costliest([statement(1, 100.0, calls=50.0)], 10, 0)
    _, costs = interval.costliest([statement(1, 2.0, calls=4.0)], 10, 60_000)
    assert [cost.sums.calls for cost in costs] == [4.0]


def test_each_database_has_its_costliest_and_all_of_them_a_bound() -> None:
    interval = Interval()
    interval.costliest([], 10, 0)
    rows = [statement(one, 1.0 + one, database=name) for one in range(5) for name in map(str, range(100))]
    _, costs = interval.costliest(rows, 2, 60_000)
    assert len(costs) == MAX_TOLD
    assert {cost.id for cost in costs} == {4}
    assert max(sum(cost.database == name for cost in costs) for name in map(str, range(100))) <= 2


def test_texts_are_asked_for_once_and_the_oldest_forgotten() -> None:
    texts = Texts()
    texts.learn({1: "one", 2: "two"})
    assert texts.missing([1, 3, 3]) == [3]
    texts.get(1)
    texts.learn({1000 + one: "x" for one in range(MAX_TEXTS - 1)})
    assert (texts.get(1), texts.get(2)) == ("one", None)


def test_sums_do_not_fall_when_entries_are_thrown_out() -> None:
    evictions = Evictions()
    looks = [sums(100.0, evicted=0.0), sums(90.0, evicted=3.0), sums(95.0, evicted=3.0)]
    assert [evictions.mended([look], ["calls"])[0]["calls"] for look in looks] == [100.0, 100.0, 105.0]


def test_a_reset_of_the_sums_is_shown() -> None:
    evictions = Evictions()
    looks = [sums(100.0, evicted=0.0), sums(90.0, evicted=1.0), sums(2.0, evicted=0.0, reset_ms=5.0)]
    assert [evictions.mended([look], ["calls"])[0]["calls"] for look in looks] == [100.0, 100.0, 2.0]


def test_before_14_a_fall_stays_a_fall() -> None:
    evictions = Evictions()
    looks = [sums(100.0, evicted=None, reset_ms=None), sums(90.0, evicted=None, reset_ms=None)]
    assert [evictions.mended([look], ["calls"])[0]["calls"] for look in looks] == [100.0, 90.0]


def sums(calls: float, evicted: float | None, reset_ms: float | None = 1.0) -> dict[str, Any]:
    return {"database": "a", "calls": calls, "evicted": evicted, "reset_ms": reset_ms}
