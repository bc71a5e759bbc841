"""The statements, written for the views and columns that a server has rather than for its version number.

Times come back in seconds, sizes in bytes, instants in Unix ms. A column that the server lacks comes back as NULL. Texts that
others wrote (names of databases and users, statements) come back as bytes: each database may have an encoding of its own,
or none at all (SQL_ASCII), and neither the server's conversion nor the driver's may fail on one of them. Nothing is read but
what is in pg_catalog or belongs to the extension: whoever owns the database may put things of the same name beside it.
Sources: PostgreSQL manuals 13-18, chapter The Cumulative Statistics System; pg_stat_statements 1.7-1.12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXTENSION = "pg_stat_statements"
VIEWS = (
    "pg_stat_archiver",
    "pg_stat_bgwriter",
    "pg_stat_checkpointer",
    "pg_stat_database",
    "pg_stat_io",
    "pg_stat_wal",
    "pg_locks",
    EXTENSION,
    f"{EXTENSION}_info",
)
MAX_WAITING = 200
MAX_STATEMENTS = 20_000
MAX_TEXT = 16_384

PROBE = f"""
SELECT c.relname::text AS view, quote_ident(n.nspname) AS schema, array_agg(a.attname::text) AS columns
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relname = ANY($1) AND (n.nspname = 'pg_catalog' OR EXISTS (
  SELECT FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
  JOIN pg_roles r ON r.oid = e.extowner AND r.rolsuper
  WHERE e.extname = '{EXTENSION}' AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid))
GROUP BY 1, 2
"""
# Views and foreign tables of others are not even expanded where the server can be told so (since August 2024).
RESTRICT = "restrict_nonsystem_relation_kind"
GUARD = f"SELECT set_config('{RESTRICT}', 'view, foreign-table', false) WHERE current_setting('{RESTRICT}', true) IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Server:
    """Which views a server has, and their columns. `statements_schema` is where the extension is, quoted.
    `is_sql_ascii` says that the database that we are in has no encoding."""

    columns: Mapping[str, frozenset[str]]
    statements_schema: str | None = None
    is_sql_ascii: bool = False

    def has(self, view: str, column: str | None = None) -> bool:
        """Whether the view, or its column, is there."""
        return view in self.columns and (column is None or column in self.columns[view])

    def column(self, view: str, *names: str, cast: str = "float8") -> str:
        """The first of the names that the view has, or NULL."""
        found = next((f"{view}.{name}" for name in names if self.has(view, name)), "NULL")
        return f"{found}::{cast}"

    def raw(self, expression: str, longest: int | None = None) -> str:
        """A text as the bytes that it is, cut by bytes.

        What is sent to a client is not verified where nothing is converted, which is so from UTF-8 to UTF-8; from SQL_ASCII it is
        verified, but there a conversion to SQL_ASCII is none.
        """
        text = f"({expression})::text"
        octets = f"convert_to({text}, 'SQL_ASCII')" if self.is_sql_ascii else f"textsend({text})"
        return octets if longest is None else f"substr({octets}, 1, {longest})"

    def unix_ms(self, view: str, column: str) -> str:
        """An instant of the view, Unix ms, or NULL."""
        return f"extract(epoch FROM {self.column(view, column, cast='timestamptz')})::float8 * 1000"


PARTS = ("server", "replay", "checkpoints", "wal", "archiver")
"""What is read of the server as a whole in one statement, and part by part when that fails."""


def server(have: Server, parts: Sequence[str] = PARTS) -> str:
    """One row about the server as a whole, of these parts of it."""
    checkpoints = "pg_stat_checkpointer" if have.has("pg_stat_checkpointer") else "pg_stat_bgwriter"
    views = {"checkpoints": checkpoints, "archiver": "pg_stat_archiver"}
    views |= {"wal": "pg_stat_wal"} if have.has("pg_stat_wal") else {}
    columns = {
        "server": f"""
  {have.raw("current_user")} AS role, {have.raw("current_database()")} AS database,
  pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
  current_setting('track_io_timing')::bool AS times_io,
  coalesce(current_setting('track_wal_io_timing', true)::bool, false) AS times_wal_io,
  current_setting('max_connections')::float8 - current_setting('superuser_reserved_connections')::float8
    - coalesce(current_setting('reserved_connections', true)::float8, 0) AS connection_max,
  extract(epoch FROM pg_postmaster_start_time())::float8 * 1000 AS started_ms""",
        "replay": f"pg_is_in_recovery() AS is_standby, {REPLAY_LAG} AS replay_lag_s",
        "checkpoints": f"""
  {have.column(checkpoints, "num_requested", "checkpoints_req")} AS checkpoints_requested,
  {have.column(checkpoints, "num_timed", "checkpoints_timed")} AS checkpoints_timed,
  {have.column(checkpoints, "write_time", "checkpoint_write_time")} / 1000 AS checkpoint_write_s,
  {have.column(checkpoints, "sync_time", "checkpoint_sync_time")} / 1000 AS checkpoint_sync_s,
  {have.unix_ms(checkpoints, "stats_reset")} AS checkpoints_reset_ms""",
        "wal": f"""
  {have.column("pg_stat_wal", "wal_bytes")} AS wal_bytes,
  {have.unix_ms("pg_stat_wal", "stats_reset")} AS wal_reset_ms""",
        "archiver": f"""
  {have.column("pg_stat_archiver", "failed_count")} AS archive_failures,
  extract(epoch FROM clock_timestamp() - pg_stat_archiver.last_archived_time)::float8 AS archive_age_s,
  {have.unix_ms("pg_stat_archiver", "stats_reset")} AS archiver_reset_ms""",
    }
    from_views = ", ".join(views[part] for part in parts if part in views)
    return f"SELECT {', '.join(columns[part] for part in parts)}" + (f"\nFROM {from_views}" if from_views else "")


# A standby that has replayed all it received is level only while it receives: while a walreceiver streams, has heard of its
# sender lately, and knows of no WAL beyond what is replayed. Else nobody knows what there is by now, and the age of the newest
# transaction grows. Whoever may not see the walreceiver cannot tell the two apart: unmeasured.
STALE_S = 60
REPLAY_LAG = f"""
  CASE WHEN NOT pg_is_in_recovery() THEN NULL
    WHEN (SELECT bool_or(status = 'streaming' AND latest_end_lsn <= pg_last_wal_replay_lsn()
        AND last_msg_receipt_time > clock_timestamp() - make_interval(secs => greatest({STALE_S}, (
          SELECT setting::float8 FROM pg_settings WHERE name = 'wal_receiver_timeout') / 1000)))
      FROM pg_stat_wal_receiver) THEN 0
    WHEN NOT pg_has_role('pg_read_all_stats', 'USAGE') THEN NULL
    ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END"""


def databases(have: Server) -> str:
    """One row a database that can be connected to."""

    def column(name: str) -> str:
        return have.column("pg_stat_database", name)

    return f"""
SELECT {have.raw("d.datname")} AS database, age(d.datfrozenxid)::float8 AS wraparound_age,
  {column("xact_commit")} AS commits, {column("xact_rollback")} AS rollbacks, {column("deadlocks")} AS deadlocks,
  {column("blks_read")} AS blocks_read, {column("blks_hit")} AS blocks_hit,
  {column("blk_read_time")} / 1000 AS blocks_read_s, {column("blk_write_time")} / 1000 AS blocks_write_s,
  {column("tup_returned")} AS rows_returned, {column("tup_fetched")} AS rows_fetched,
  {column("tup_inserted")} AS rows_inserted, {column("tup_updated")} AS rows_updated,
  {column("tup_deleted")} AS rows_deleted, {column("temp_bytes")} AS temp_bytes,
  {column("active_time")} / 1000 AS active_s, {have.unix_ms("pg_stat_database", "stats_reset")} AS reset_ms
FROM pg_database d JOIN pg_stat_database ON pg_stat_database.datid = d.oid
WHERE d.datallowconn AND NOT d.datistemplate
"""


# Our own backend is left out: what we do by looking is not the tenant's doing. Sessions that enlarge a relation take turns
# for a moment each: nobody stands in their way, and it is work.
WAITS = "wait_event_type = 'Lock' AND wait_event <> 'extend'"


def activity(have: Server) -> str:
    """One row a database and state of the client backends."""
    return f"""
SELECT {have.raw("datname")} AS database, coalesce(state, 'unknown') AS state, count(*)::float8 AS backends,
  count(*) FILTER (WHERE {WAITS})::float8 AS waiting,
  max(extract(epoch FROM clock_timestamp() - xact_start))::float8 AS transaction_age_s,
  max(extract(epoch FROM clock_timestamp() - state_change)) FILTER (WHERE state LIKE 'idle in transaction%')::float8
    AS idle_in_transaction_age_s,
  array_agg(substr(application_name, 6)::float8) FILTER (WHERE state = 'active' AND application_name ~ '^odoo-[0-9]{{1,9}}$')
    AS odoo_pids,
  (SELECT max(held) FROM (SELECT count(*)::float8 AS held FROM pg_stat_activity
    WHERE application_name ~ '^odoo-[0-9]{{1,9}}$' GROUP BY application_name) AS pools) AS pool_max
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND datname IS NOT NULL AND pid <> pg_backend_pid()
GROUP BY datname, 2
"""


def waits(have: Server) -> str:
    """One row a backend that waits for a heavyweight lock or stands in the way of one; asked only while somebody waits.

    Before 14 PostgreSQL does not say since when a backend waits; the time since its state changed is an upper bound.
    For a row lock the relation stands on the tuple lock that the first in the queue holds.
    """
    since = (
        "min(l.waitstart) FILTER (WHERE NOT l.granted)" if have.has("pg_locks", "waitstart") else "NULL::timestamptz"
    )
    # waitstart is NULL for a moment after a wait has begun.
    instead = "clock_timestamp()" if have.has("pg_locks", "waitstart") else "a.state_change"
    return f"""
WITH locks AS MATERIALIZED (
  SELECT l.pid, {since} AS since, min(l.locktype) FILTER (WHERE NOT l.granted) AS locktype,
    max(l.relation) AS relation, max(l.database) AS database
  FROM pg_locks l WHERE NOT l.granted OR l.locktype = 'tuple' GROUP BY l.pid
), waiting AS MATERIALIZED (
  SELECT a.pid, greatest(0, extract(epoch FROM clock_timestamp() - coalesce(l.since, {instead})))::float8 AS waited_s,
    pg_blocking_pids(a.pid) AS blockers, l.locktype, l.relation, l.database
  FROM pg_stat_activity a LEFT JOIN locks l USING (pid)
  WHERE {WAITS}
  ORDER BY waited_s DESC LIMIT {MAX_WAITING}
)
SELECT a.pid, {have.raw("a.datname")} AS database, {have.raw("a.usename")} AS user_name, {have.raw("a.application_name")} AS application_name,
  a.backend_type, a.state, {have.raw("a.query", MAX_TEXT)} AS query, w.waited_s, w.blockers, w.locktype,
  extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_age_s,
  (SELECT {have.raw("c.relname")} FROM pg_class c, pg_database d WHERE c.oid = w.relation
    AND d.datname = current_database() AND w.database IN (0, d.oid)) AS relation
FROM pg_stat_activity a LEFT JOIN waiting w USING (pid)
WHERE a.pid IN (SELECT pid FROM waiting UNION SELECT unnest(blockers) FROM waiting)
"""


def statements(have: Server) -> str:
    """One row a database: the sums over its statements. The texts stay on disk."""
    reset, evicted = "NULL", "NULL"
    info = f"{have.statements_schema}.{EXTENSION}_info()"
    if have.has(f"{EXTENSION}_info"):
        reset = f"(SELECT extract(epoch FROM stats_reset) * 1000 FROM {info})"
        evicted = f"(SELECT dealloc FROM {info})"
    return f"""
SELECT {have.raw("d.datname")} AS database, sum(s.calls)::float8 AS calls, sum(s.{_time(have)})::float8 / 1000 AS time_s,
  sum(s.rows)::float8 AS rows, sum(s.shared_blks_hit + s.shared_blks_read)::float8 AS blocks,
  {reset}::float8 AS reset_ms, {evicted}::float8 AS evicted
FROM {have.statements_schema}.{EXTENSION}(false) s JOIN pg_database d ON d.oid = s.dbid
{_outer_only(have)}
GROUP BY d.datname
"""


def top_statements(have: Server) -> str:
    """One row a statement and database, without its text."""
    return f"""
SELECT {have.raw("d.datname")} AS database, s.queryid AS id, sum(s.calls)::float8 AS calls,
  sum(s.{_time(have)})::float8 / 1000 AS time_s, sum(s.rows)::float8 AS rows,
  sum(s.shared_blks_read)::float8 AS blocks_read
FROM {have.statements_schema}.{EXTENSION}(false) s JOIN pg_database d ON d.oid = s.dbid
{_outer_only(have)}
GROUP BY d.datname, 2 HAVING s.queryid IS NOT NULL ORDER BY 4 DESC LIMIT {MAX_STATEMENTS}
"""


def statement_texts(have: Server) -> str:
    """Texts of the statements with the ids $1. This reads the file of all texts."""
    return f"""
SELECT DISTINCT ON (queryid) queryid AS id, {have.raw("query", MAX_TEXT)} AS query
FROM {have.statements_schema}.{EXTENSION}(true) WHERE queryid = ANY($1) ORDER BY queryid
"""


IO = """
SELECT backend_type, object, sum(reads)::float8 AS reads, sum(writes)::float8 AS writes,
  sum(read_time)::float8 / 1000 AS read_s, sum(write_time)::float8 / 1000 AS write_s,
  sum(fsync_time)::float8 / 1000 AS fsync_s, extract(epoch FROM max(stats_reset))::float8 * 1000 AS reset_ms
FROM pg_stat_io GROUP BY 1, 2
HAVING coalesce(sum(reads), 0) + coalesce(sum(writes), 0) + coalesce(sum(fsyncs), 0) > 0
"""


# A standby may send on to others; it has no current position to write, but one to which it has replayed. A standby that has
# said nothing for a minute is as far behind as it is silent; one that was level then may be level still, and nobody knows.
# A slot is lost after so much more WAL: NULL where nothing limits it.
def replication(have: Server) -> str:
    """One row a standby, and one a slot."""
    return f"""
WITH here AS (
  SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn
), standby AS (
  SELECT r.*, pg_wal_lsn_diff(here.lsn, r.replay_lsn)::float8 AS behind_bytes,
    extract(epoch FROM clock_timestamp() - r.reply_time)::float8 AS silent_s
  FROM pg_stat_replication r, here WHERE r.state IN ('streaming', 'catchup')
)
SELECT 'standby' AS kind, {have.raw("r.application_name")} AS name, coalesce(host(r.client_addr), 'local') AS address,
  CASE WHEN r.behind_bytes > 0 AND r.silent_s > {STALE_S} THEN greatest(r.silent_s, extract(epoch FROM r.replay_lag)::float8)
    WHEN r.replay_lag IS NOT NULL THEN extract(epoch FROM r.replay_lag)::float8
    WHEN r.behind_bytes <= 0 AND coalesce(r.silent_s, 0) <= {STALE_S} THEN 0 END AS lag_s,
  r.behind_bytes, NULL::float8 AS safe_bytes, {have.raw("s.slot_name")} AS slot
FROM standby r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
UNION ALL
SELECT 'slot', {have.raw("slot_name")}, NULL, NULL, pg_wal_lsn_diff(here.lsn, restart_lsn)::float8,
  greatest(safe_wal_size, 0)::float8, NULL
FROM pg_replication_slots, here
"""


def sizes(have: Server) -> str:
    """One row a database that we may measure."""
    return f"""
SELECT {have.raw("datname")} AS database, pg_database_size(oid)::float8 AS bytes FROM pg_database
WHERE datallowconn AND NOT datistemplate
  AND (has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE'))
"""


def _time(have: Server) -> str:
    return "total_exec_time" if have.has(EXTENSION, "total_exec_time") else "total_time"


def _outer_only(have: Server) -> str:
    """With `track = all` the statements inside functions are listed too; their time is in that of the outer one."""
    return "WHERE s.toplevel" if have.has(EXTENSION, "toplevel") else ""
