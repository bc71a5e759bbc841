"""The store: telemetry, events, findings, and how far each Kafka partition has been written.

Telemetry is narrow: a point is time, series and value; what a series is stands once in `series`. Where TimescaleDB is
installed with its own licence, hypertables, columnstore, continuous aggregates and retention policies do the upkeep;
elsewhere native partitions by day, and functions that the sink calls. Readers see the same views.

Who sees what. A tenant's reader sees rows of that tenant alone; since revision 0006 the table `pilothouse_access` says whose
reader a role is, not a setting. Rows that a cell shares (tenant null), and findings that concern several tenants, name neighbours in their texts: they are for members of
`pilothouse_operator` only. Tables that may carry row security have it (series, business, changes, operations, security,
signals, incidents); telemetry, where COPY, the columnstore and the aggregates refuse it, is reached through
security-barrier views only.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROLES = ("pilothouse_reader", "pilothouse_writer", "pilothouse_operator")

COMMON = [
    # How far Kafka has been written. The rows and these move in one transaction.
    """CREATE TABLE kafka_offsets (
        cluster text, topic text, partition integer, next_offset bigint NOT NULL,
        PRIMARY KEY (cluster, topic, partition)) WITH (fillfactor = 50)""",
    """CREATE TABLE sources (
        cluster text, topic text, partition integer, source text, last_sequence bigint NOT NULL,
        PRIMARY KEY (cluster, topic, partition, source)) WITH (fillfactor = 50)""",
    """CREATE TABLE series (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        cell text NOT NULL, system text NOT NULL, resource text NOT NULL, tenant text,
        name text NOT NULL, attributes jsonb NOT NULL, identity text NOT NULL)""",
    # md5, because an index entry holds at most a third of a page and an identity may be longer.
    "CREATE UNIQUE INDEX series_identity ON series (cell, system, resource, md5(identity))",
    "CREATE INDEX series_name ON series (name, tenant)",
    """CREATE TABLE business (
        time timestamptz NOT NULL, source text NOT NULL, sequence bigint NOT NULL, ordinal integer NOT NULL,
        cell text NOT NULL, system text NOT NULL, resource text NOT NULL, tenant text,
        document_type text NOT NULL, document_id bigint NOT NULL, document_name text, state text NOT NULL,
        order_id bigint, amount double precision, currency text, warehouse text, carrier text, deadline timestamptz)""",
    "CREATE INDEX business_document ON business (cell, tenant, document_type, document_id, time DESC)",
    "CREATE INDEX business_time ON business USING brin (time)",
    """CREATE TABLE changes (
        time timestamptz NOT NULL, source text NOT NULL, sequence bigint NOT NULL, cell text NOT NULL,
        change_id text NOT NULL, kind text NOT NULL, status text NOT NULL, service text NOT NULL,
        revision text NOT NULL, previous_revision text, tenants text[] NOT NULL, author text, approver text,
        environment text, url text, origin text NOT NULL)""",
    """CREATE TABLE operations (
        time timestamptz NOT NULL, source text NOT NULL, sequence bigint NOT NULL, cell text NOT NULL,
        system text NOT NULL, resource text NOT NULL, tenant text, name text NOT NULL,
        severity_number smallint NOT NULL, body text NOT NULL, attributes jsonb NOT NULL)""",
    """CREATE TABLE security (
        LIKE operations, actor text, source_address text, outcome text NOT NULL)""",
    """CREATE TABLE signals (
        time timestamptz NOT NULL, source text NOT NULL, sequence bigint NOT NULL, cell text NOT NULL,
        id text NOT NULL, phase text NOT NULL, detector text NOT NULL, cause text NOT NULL, resource text NOT NULL,
        tenant text, started timestamptz NOT NULL, severity smallint NOT NULL, score double precision NOT NULL,
        summary text NOT NULL, evidence jsonb NOT NULL, tenants text[] NOT NULL, impact jsonb, advice text)""",
    "CREATE INDEX signals_id ON signals (id, time DESC)",
    """CREATE TABLE incidents (
        time timestamptz NOT NULL, source text NOT NULL, sequence bigint NOT NULL, cell text NOT NULL,
        id text NOT NULL, version integer NOT NULL, phase text NOT NULL, started timestamptz NOT NULL,
        severity smallint NOT NULL, title text NOT NULL, causes jsonb NOT NULL, tenants text[] NOT NULL,
        impact jsonb NOT NULL, signals text[] NOT NULL, advice text)""",
    "CREATE INDEX incidents_id ON incidents (id, version DESC)",
    # Letters may be sent twice; the place a record was read from names it.
    """CREATE TABLE dead_letters (
        time timestamptz NOT NULL, topic text NOT NULL, partition integer NOT NULL, "offset" bigint NOT NULL,
        reason text NOT NULL, detail text NOT NULL, key text, headers jsonb NOT NULL, payload bytea NOT NULL,
        rejected_by text NOT NULL, letter text PRIMARY KEY)""",
    *(
        f"CREATE INDEX {table}_time ON {table} (time DESC)"
        for table in ("changes", "operations", "security", "signals", "incidents", "dead_letters")
    ),
]

POINT = "time timestamptz NOT NULL, series_id bigint NOT NULL, value double precision NOT NULL"
LOG = """time timestamptz NOT NULL, source text NOT NULL, sequence bigint NOT NULL, ordinal integer NOT NULL,
    cell text NOT NULL, system text NOT NULL, resource text NOT NULL, tenant text,
    severity_number smallint NOT NULL, body text NOT NULL, attributes jsonb NOT NULL"""
# One row a stored record, of every topic: what was lost or doubled is counted here, and each point finds its way back
# to a Kafka offset by (resource, time). A quarter of a byte a point at 500 points a scrape.
RECORD = """time timestamptz NOT NULL, source text NOT NULL, sequence bigint NOT NULL, type text NOT NULL,
    cell text NOT NULL, system text, resource text, topic text NOT NULL, kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL, rows integer NOT NULL"""
ROLLUP = """time timestamptz NOT NULL, series_id bigint NOT NULL, points bigint NOT NULL,
    total double precision NOT NULL, minimum double precision NOT NULL, maximum double precision NOT NULL"""

INDEXES = [
    "CREATE INDEX metrics_series ON metrics (series_id, time)",
    "CREATE INDEX logs_resource ON logs (cell, resource, time)",
    "CREATE INDEX logs_tenant ON logs (tenant, time)",
]

TIMESCALE = [
    f"CREATE TABLE metrics ({POINT})",
    f"CREATE TABLE logs ({LOG})",
    f"CREATE TABLE records ({RECORD})",
    "SELECT create_hypertable('metrics', by_range('time', INTERVAL '1 day'), create_default_indexes => false)",
    "SELECT create_hypertable('logs', by_range('time', INTERVAL '1 day'), create_default_indexes => false)",
    "SELECT create_hypertable('records', by_range('time', INTERVAL '1 day'))",
    *INDEXES,
    """ALTER TABLE metrics SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'series_id',
        timescaledb.orderby = 'time')""",
    """ALTER TABLE logs SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'cell, resource',
        timescaledb.orderby = 'time')""",
    """ALTER TABLE records SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'source',
        timescaledb.orderby = 'sequence')""",
    "CALL add_columnstore_policy('metrics', after => INTERVAL '2 days')",
    "CALL add_columnstore_policy('logs', after => INTERVAL '2 days')",
    "CALL add_columnstore_policy('records', after => INTERVAL '2 days')",
    """CREATE MATERIALIZED VIEW rollup_1m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
        SELECT time_bucket(INTERVAL '1 minute', time) AS time, series_id, count(*) AS points, sum(value) AS total,
            min(value) AS minimum, max(value) AS maximum
        FROM metrics GROUP BY 1, 2 WITH NO DATA""",
    """CREATE MATERIALIZED VIEW rollup_15m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
        SELECT time_bucket(INTERVAL '15 minutes', time) AS time, series_id, sum(points)::bigint AS points,
            sum(total) AS total, min(minimum) AS minimum, max(maximum) AS maximum
        FROM rollup_1m GROUP BY 1, 2 WITH NO DATA""",
    # Points may come 35 days late. The raw ones are kept longer than the refresh looks back: a refresh over points that
    # are gone would empty the roll-up.
    """SELECT add_continuous_aggregate_policy('rollup_1m', start_offset => INTERVAL '37 days',
        end_offset => INTERVAL '1 minute', schedule_interval => INTERVAL '1 minute')""",
    """SELECT add_continuous_aggregate_policy('rollup_15m', start_offset => INTERVAL '38 days',
        end_offset => INTERVAL '15 minutes', schedule_interval => INTERVAL '5 minutes')""",
    "SELECT add_retention_policy('metrics', INTERVAL '40 days')",
    "SELECT add_retention_policy('logs', INTERVAL '40 days')",
    "SELECT add_retention_policy('records', INTERVAL '40 days')",
    "SELECT add_retention_policy('rollup_1m', INTERVAL '100 days')",
    "SELECT add_retention_policy('rollup_15m', INTERVAL '800 days')",
    # The same names in both stores, so that views and console need not know which it is.
    "CREATE VIEW rolled_1m AS SELECT * FROM rollup_1m",
    "CREATE VIEW rolled_15m AS SELECT * FROM rollup_15m",
]

NATIVE = [
    f"CREATE TABLE metrics ({POINT}) PARTITION BY RANGE (time)",
    f"CREATE TABLE logs ({LOG}) PARTITION BY RANGE (time)",
    f"CREATE TABLE records ({RECORD}) PARTITION BY RANGE (time)",
    f"CREATE TABLE rollup_1m ({ROLLUP}) PARTITION BY RANGE (time)",
    f"CREATE TABLE rollup_15m ({ROLLUP}) PARTITION BY RANGE (time)",
    *INDEXES,
    # Points arrive about in order, so a block range index finds a minute at no cost for the writer.
    *(
        f"CREATE INDEX {table}_time ON {table} USING brin (time) WITH (pages_per_range = 16)"
        for table in ("metrics", "logs", "records", "rollup_1m", "rollup_15m")
    ),
    "CREATE INDEX rollup_1m_series ON rollup_1m (series_id, time)",
    "CREATE INDEX rollup_15m_series ON rollup_15m (series_id, time)",
    # Minutes that got points since they were last rolled up. Rows are only added, never updated: writers do not meet.
    "CREATE TABLE rollup_due (minute timestamptz NOT NULL)",
    "CREATE TABLE rollup_state (rolled_until timestamptz NOT NULL)",
    "INSERT INTO rollup_state VALUES ('epoch')",
    """CREATE FUNCTION pilothouse_add_partitions(parent text, days date[]) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE day date; first date; after date; child text;
    BEGIN
        IF parent NOT IN ('metrics', 'logs', 'records', 'rollup_1m', 'rollup_15m') THEN
            RAISE EXCEPTION '% has no partitions', parent;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtext('pilothouse_add_partitions'));
        FOREACH day IN ARRAY days LOOP
            first := CASE parent WHEN 'rollup_15m' THEN date_trunc('month', day) ELSE day END;
            after := first + CASE parent WHEN 'rollup_15m' THEN INTERVAL '1 month' ELSE INTERVAL '1 day' END;
            child := parent || '_' || to_char(first, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(quote_ident(child)) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', child, parent,
                first::timestamp AT TIME ZONE 'UTC', after::timestamp AT TIME ZONE 'UTC');
        END LOOP;
    END $$""",
    """CREATE FUNCTION pilothouse_drop_partitions(parent text, before date) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE child text; dropped integer := 0;
    BEGIN
        FOR child IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = parent::regclass AND right(c.relname, 8) < to_char(before, 'YYYYMMDD')
        LOOP
            EXECUTE format('DROP TABLE %I', child);
            dropped := dropped + 1;
        END LOOP;
        RETURN dropped;
    END $$""",
    # Rolls up what is due, newest minutes first and at most `most` of them, and returns how many it did. A day's minutes
    # take one scan.
    """CREATE FUNCTION pilothouse_roll_up(until timestamptz, most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE minutes timestamptz[]; quarters timestamptz[]; today timestamptz[]; days date[];
    BEGIN
        WITH due AS (SELECT DISTINCT minute FROM rollup_due WHERE minute < until ORDER BY minute DESC LIMIT most),
            taken AS (DELETE FROM rollup_due USING due WHERE rollup_due.minute = due.minute RETURNING due.minute)
        SELECT array_agg(DISTINCT minute), array_agg(DISTINCT (minute AT TIME ZONE 'UTC')::date)
            INTO minutes, days FROM taken;
        UPDATE rollup_state SET rolled_until = greatest(rolled_until, until);
        IF minutes IS NULL THEN RETURN 0; END IF;
        PERFORM pilothouse_add_partitions('rollup_1m', days), pilothouse_add_partitions('rollup_15m', days);
        DELETE FROM rollup_1m WHERE time = ANY (minutes);
        FOR today IN
            SELECT array_agg(minute ORDER BY minute) FROM unnest(minutes) AS minute GROUP BY date_trunc('day', minute)
        LOOP
            INSERT INTO rollup_1m
            SELECT date_trunc('minute', time), series_id, count(*), sum(value), min(value), max(value) FROM metrics
            WHERE time >= today[1] AND time < today[array_upper(today, 1)] + INTERVAL '1 minute'
                AND date_trunc('minute', time) = ANY (today)
            GROUP BY 1, 2;
        END LOOP;
        SELECT array_agg(DISTINCT date_bin('15 minutes', minute, 'epoch')) INTO quarters FROM unnest(minutes) AS minute;
        DELETE FROM rollup_15m WHERE time = ANY (quarters);
        FOR today IN
            SELECT array_agg(quarter ORDER BY quarter) FROM unnest(quarters) AS quarter
            GROUP BY date_trunc('day', quarter)
        LOOP
            INSERT INTO rollup_15m
            SELECT date_bin('15 minutes', time, 'epoch'), series_id, sum(points), sum(total), min(minimum), max(maximum)
            FROM rollup_1m
            WHERE time >= today[1] AND time < today[array_upper(today, 1)] + INTERVAL '15 minutes'
                AND date_bin('15 minutes', time, 'epoch') = ANY (today)
            GROUP BY 1, 2;
        END LOOP;
        RETURN array_length(minutes, 1);
    END $$""",
    # What is not rolled up yet is counted from the points, so that the newest minute is there at once.
    """CREATE VIEW rolled_1m AS
        SELECT * FROM rollup_1m WHERE time < (SELECT rolled_until FROM rollup_state)
        UNION ALL
        SELECT date_trunc('minute', time), series_id, count(*), sum(value), min(value), max(value)
        FROM metrics WHERE time >= (SELECT rolled_until FROM rollup_state) GROUP BY 1, 2""",
    """CREATE VIEW rolled_15m AS
        SELECT * FROM rollup_15m
        WHERE time < (SELECT date_bin('15 minutes', rolled_until, 'epoch') FROM rollup_state)
        UNION ALL
        SELECT date_bin('15 minutes', time, 'epoch'), series_id, sum(points)::bigint, sum(total), min(minimum),
            max(maximum)
        FROM rolled_1m WHERE time >= (SELECT date_bin('15 minutes', rolled_until, 'epoch') FROM rollup_state)
        GROUP BY 1, 2""",
]

SEES_ALL = "(SELECT pg_has_role('pilothouse_operator', 'MEMBER'))"
MINE = "current_setting('pilothouse.tenant', true)"
SERIES_COLUMNS = "s.cell, s.system, s.resource, s.tenant, s.name, s.attributes, s.id AS series_id"

VIEWS = [
    f"""CREATE VIEW metric_points WITH (security_barrier) AS
        SELECT m.time, {SERIES_COLUMNS}, m.value FROM metrics m JOIN series s ON s.id = m.series_id
        WHERE {SEES_ALL} OR s.tenant = {MINE}""",
    *(
        f"""CREATE VIEW metrics_{grain} WITH (security_barrier) AS
            SELECT r.time, {SERIES_COLUMNS}, r.points, r.total / r.points AS mean, r.minimum, r.maximum
            FROM rolled_{grain} r JOIN series s ON s.id = r.series_id
            WHERE {SEES_ALL} OR s.tenant = {MINE}"""
        for grain in ("1m", "15m")
    ),
    f"""CREATE VIEW log_lines WITH (security_barrier) AS
        SELECT time, cell, system, resource, tenant, severity_number, body, attributes FROM logs
        WHERE {SEES_ALL} OR tenant = {MINE}""",
    # These keep to the row security of whoever asks.
    """CREATE VIEW documents WITH (security_invoker) AS
        SELECT DISTINCT ON (cell, tenant, document_type, document_id) * FROM business
        ORDER BY cell, tenant, document_type, document_id, time DESC, sequence DESC, ordinal DESC""",
    """CREATE VIEW signals_current WITH (security_invoker) AS
        SELECT DISTINCT ON (id) * FROM signals ORDER BY id, time DESC, sequence DESC""",
    """CREATE VIEW incidents_current WITH (security_invoker) AS
        SELECT DISTINCT ON (id) * FROM incidents ORDER BY id, version DESC""",
    # That something is wrong, since when and how badly; titles and causes may name neighbours.
    f"""CREATE VIEW tenant_incidents WITH (security_barrier) AS
        SELECT DISTINCT ON (id) id, version, time, phase, started, severity FROM incidents
        WHERE {MINE} = ANY (tenants) ORDER BY id, version DESC""",
]

SECURED = {
    "series": f"tenant = {MINE}",
    "business": f"tenant = {MINE}",
    "operations": f"tenant = {MINE}",
    "security": f"tenant = {MINE}",
    "changes": f"tenants = ARRAY[{MINE}]",
    # A finding about one tenant may list others that suffer with it.
    "signals": f"tenant = {MINE} AND tenants <@ ARRAY[{MINE}]",
    "incidents": "false",
}
INTERNAL = ("kafka_offsets", "sources", "records", "dead_letters")
READABLE = (
    "metric_points", "metrics_1m", "metrics_15m", "log_lines", "documents", "signals_current", "incidents_current",
    "tenant_incidents",
)  # fmt: skip
UPKEEP = ("pilothouse_add_partitions(text, date[])", "pilothouse_drop_partitions(text, date)",
          "pilothouse_roll_up(timestamptz, integer)")  # fmt: skip


def upgrade() -> None:
    for role in ROLES:
        _run(_make_role(role))
    timescale = _has_timescale()
    _run("CREATE TABLE pilothouse_store (timescaledb boolean NOT NULL)")
    _run(f"INSERT INTO pilothouse_store VALUES ({str(timescale).lower()})")
    for statement in [*COMMON, *(TIMESCALE if timescale else NATIVE), *VIEWS, *_rights(timescale)]:
        _run(statement)


def _run(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement)


def _has_timescale() -> bool:
    """Whether TimescaleDB with its own licence is here, made so where it is installed but not yet created.

    Under the Apache licence it has no columnstore, aggregates or policies: then native partitions serve better.
    """
    bind = op.get_bind()
    # A plain role, as which the store is best owned, may not see this setting; then the extension has to be there already.
    preloaded = bind.exec_driver_sql(
        "SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries'"
    ).scalar_one_or_none()
    created = bind.exec_driver_sql("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'").scalar_one()
    if "timescaledb" not in str(preloaded) and not created:
        return False
    bind.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS timescaledb")
    licence = bind.exec_driver_sql("SELECT current_setting('timescaledb.license', true)").scalar_one()
    return str(licence) == "timescale"


def _make_role(role: str) -> str:
    return f"""DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role} NOLOGIN; END IF;
    EXCEPTION
        WHEN duplicate_object OR unique_violation THEN NULL;
        WHEN insufficient_privilege THEN RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE =
            format('the role {role} is missing and %I may not create it; let an administrator run: {_ROLES_SQL}',
                current_user);
    END $$"""


_ROLES_SQL = " ".join(f"CREATE ROLE {role} NOLOGIN;" for role in ROLES)


def _rights(timescale: bool) -> list[str]:
    tables = [*SECURED, *INTERNAL, "metrics", "logs", *([] if timescale else ["rollup_due", "rollup_state"])]
    return [
        # Whoever owns the store sees all of it, through the views too.
        """DO $$ BEGIN GRANT pilothouse_operator TO CURRENT_USER; EXCEPTION WHEN insufficient_privilege THEN NULL;
        END $$""",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(tables)} TO pilothouse_writer",
        "GRANT SELECT ON pilothouse_store TO pilothouse_writer",
        f"GRANT SELECT ON {', '.join([*SECURED, *READABLE])} TO pilothouse_reader, pilothouse_operator",
        f"GRANT SELECT ON {', '.join(INTERNAL)} TO pilothouse_operator",
        *(statement for table, rule in SECURED.items() for statement in _secured(table, rule)),
        *([] if timescale else _upkeep_rights()),
    ]


def _secured(table: str, rule: str) -> list[str]:
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY tenant ON {table} FOR SELECT TO pilothouse_reader USING ({rule})",
        f"CREATE POLICY operator ON {table} FOR SELECT TO pilothouse_operator USING (true)",
        f"CREATE POLICY writer ON {table} TO pilothouse_writer USING (true) WITH CHECK (true)",
    ]


def _upkeep_rights() -> list[str]:
    return [
        f"{verb} EXECUTE ON FUNCTION {function} {whom}"
        for function in UPKEEP
        for verb, whom in (("REVOKE", "FROM PUBLIC"), ("GRANT", "TO pilothouse_writer"))
    ]
