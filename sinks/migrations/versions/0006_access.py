"""Who sees what hangs on the role that asks, and the store's own functions can be misled by nobody.

Whom a login role may see stands in `pilothouse_access`: a role, a cell, a tenant. Two cells may have tenants of one name, so
both count. What a session sets (`pilothouse.tenant`, which was asked before) has no meaning any more.

    CREATE ROLE acme_reports LOGIN PASSWORD '…' IN ROLE pilothouse_reader;
    INSERT INTO pilothouse_access VALUES ('acme_reports', 'eu1', 'acme');

It is `current_user` that counts, with the roles whose rights it has by inheritance, as for every other right in PostgreSQL.
`session_user` would let a trusted application that has become a tenant's role (SET ROLE) go on seeing what it saw before. Nobody can
become a role that was not granted to him, and a role that is dropped and made again under its old name starts with nothing.

A SECURITY DEFINER function searches `pg_catalog` first and `pg_temp` last, so that no temporary object of the caller stands in for
one of ours. It names our tables with their schema, takes only the tables that it is for, and nobody but the writer may call
it. What keeps two callers apart is a lock on a table that readers have no right to, not an advisory lock, which anybody
can hold.
Source: PostgreSQL documentation, CREATE FUNCTION, "Writing SECURITY DEFINER Functions Safely"; CVE-2007-2138, CVE-2018-1058.
"""

from __future__ import annotations

import re

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SEES_ALL = "(SELECT pg_has_role('pilothouse_operator', 'USAGE'))"
"""The operator, and whoever has its rights without asking for them."""

# In the statements `@schema` is the store's schema, quoted, and `@name` the same as a string.
ACCESS = (
    # regrole is the role itself, not its name. The roles of all readers map to nobody: that would show a tenant to every other.
    """CREATE TABLE @schema.pilothouse_access (
        role regrole NOT NULL CHECK (role::text NOT IN ('-', 'pilothouse_reader', 'pilothouse_writer', 'pilothouse_operator')),
        cell text NOT NULL CHECK (cell <> ''), tenant text NOT NULL CHECK (tenant <> ''),
        PRIMARY KEY (role, cell, tenant))""",
    "REVOKE ALL ON @schema.pilothouse_access FROM PUBLIC, pilothouse_reader, pilothouse_writer, pilothouse_operator",
    # In a view current_user is whoever asks, while the table is read by the right of the store's owner.
    """CREATE VIEW @schema.pilothouse_mine WITH (security_barrier) AS
        SELECT DISTINCT cell, tenant FROM @schema.pilothouse_access WHERE pg_has_role(role, 'USAGE')""",
    "GRANT SELECT ON @schema.pilothouse_mine TO pilothouse_reader, pilothouse_operator",
    "GRANT SELECT ON @schema.pilothouse_access TO pilothouse_operator",
    # A writer sees that there is nothing to migrate, so that a sink need not run as the owner.
    "GRANT SELECT ON @schema.pilothouse_schema TO pilothouse_writer",
    # Whoever may make objects here could put one in front of those that others use. Without the right to revoke it is a warning.
    "REVOKE CREATE ON SCHEMA @schema FROM PUBLIC",
)

MINE = "({0}cell, {0}tenant) IN (SELECT cell, tenant FROM @schema.pilothouse_mine)"
OURS = "ARRAY(SELECT m.tenant FROM @schema.pilothouse_mine m WHERE m.cell = {0}.cell)"
"""The tenants of the row's cell that whoever asks may see. An array of none, or with a null in it, is never within it."""

RULES = {
    **{table: MINE.format("") for table in ("series", "business", "operations", "security")},
    "changes": f"tenants <> '{{}}' AND tenants <@ {OURS.format('changes')}",
    # A finding about one tenant may list others that suffer with it.
    "signals": f"{MINE.format('')} AND tenants <@ {OURS.format('signals')}",
    "incidents": "false",
}

SERIES = "s.cell, s.system, s.resource, s.tenant, s.name, s.attributes, s.id AS series_id"
VIEWS = (
    f"""CREATE OR REPLACE VIEW @schema.metric_points WITH (security_barrier) AS
        SELECT m.time, {SERIES}, m.value FROM @schema.metrics m JOIN @schema.series s ON s.id = m.series_id
        WHERE {SEES_ALL} OR {MINE.format("s.")}""",
    *(
        f"""CREATE OR REPLACE VIEW @schema.metrics_{grain} WITH (security_barrier) AS
            SELECT r.time, {SERIES}, r.points, r.total / r.points AS mean, r.minimum, r.maximum
            FROM @schema.rolled_{grain} r JOIN @schema.series s ON s.id = r.series_id
            WHERE {SEES_ALL} OR {MINE.format("s.")}"""
        for grain in ("1m", "15m")
    ),
    f"""CREATE OR REPLACE VIEW @schema.log_lines WITH (security_barrier) AS
        SELECT time, cell, system, resource, tenant, severity_number, body, attributes FROM @schema.logs
        WHERE {SEES_ALL} OR {MINE.format("")}""",
    # That something is wrong, since when and how badly; titles and causes may name neighbours.
    f"""CREATE OR REPLACE VIEW @schema.tenant_incidents WITH (security_barrier) AS
        SELECT DISTINCT ON (id) id, version, time, phase, started, severity FROM @schema.incidents
        WHERE tenants && {OURS.format("incidents")} ORDER BY id, version DESC""",
)

HARDENED = "SECURITY DEFINER SET search_path = pg_catalog, @schema, pg_temp SET lock_timeout = '5s'"
PARTITIONED = "'metrics', 'logs', 'records', 'rollup_1m', 'rollup_15m'"
TOTAL = "sum(greatest(least(value, 1e290), -1e290))"
"""Two of the largest values there are would overflow their sum, and one such minute would end the roll-up for good."""

NATIVE = (
    f"""CREATE OR REPLACE FUNCTION @schema.pilothouse_add_partitions(parent text, days date[]) RETURNS void
        LANGUAGE plpgsql {HARDENED} AS $$
    DECLARE day date; first date; after date; child text;
    BEGIN
        IF parent IS NULL OR parent NOT IN ({PARTITIONED}) THEN
            RAISE EXCEPTION '% has no partitions', parent USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF cardinality(days) > 1000 THEN
            RAISE EXCEPTION '% days are too many at once; at most 1000', cardinality(days)
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        LOCK TABLE @schema.pilothouse_store IN SHARE ROW EXCLUSIVE MODE;
        FOREACH day IN ARRAY days LOOP
            IF day IS NULL OR day NOT BETWEEN DATE '1970-01-01' AND DATE '2199-12-31' THEN
                RAISE EXCEPTION 'the day % has no partition; days are of 1970 to 2199', day
                    USING ERRCODE = 'invalid_parameter_value';
            END IF;
            first := CASE parent WHEN 'rollup_15m' THEN date_trunc('month', day) ELSE day END;
            after := first + CASE parent WHEN 'rollup_15m' THEN INTERVAL '1 month' ELSE INTERVAL '1 day' END;
            child := parent || '_' || to_char(first, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(format('%I.%I', @name, child)) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I.%I PARTITION OF %I.%I FOR VALUES FROM (%L) TO (%L)',
                @name, child, @name, parent, first::timestamp AT TIME ZONE 'UTC', after::timestamp AT TIME ZONE 'UTC');
        END LOOP;
    END $$""",
    # Only what the function above has made, and only in our schema.
    f"""CREATE OR REPLACE FUNCTION @schema.pilothouse_drop_partitions(parent text, before date) RETURNS integer
        LANGUAGE plpgsql {HARDENED} AS $$
    DECLARE child text; dropped integer := 0;
    BEGIN
        IF parent IS NULL OR parent NOT IN ({PARTITIONED}) THEN
            RAISE EXCEPTION '% has no partitions', parent USING ERRCODE = 'invalid_parameter_value';
        END IF;
        LOCK TABLE @schema.pilothouse_store IN SHARE ROW EXCLUSIVE MODE;
        FOR child IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = to_regclass(format('%I.%I', @name, parent))
                AND c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = @name)
                AND c.relname ~ ('^' || parent || '_[0-9]{{8}}$') AND right(c.relname, 8) < to_char(before, 'YYYYMMDD')
        LOOP
            EXECUTE format('DROP TABLE %I.%I', @name, child);
            dropped := dropped + 1;
        END LOOP;
        RETURN dropped;
    END $$""",
    # As before: what is due, newest minutes first and at most `most` of them. While another does it there is nothing to do.
    f"""CREATE OR REPLACE FUNCTION @schema.pilothouse_roll_up(until timestamptz, most integer) RETURNS integer
        LANGUAGE plpgsql {HARDENED} AS $$
    DECLARE minutes timestamptz[]; quarters timestamptz[]; today timestamptz[]; days date[];
    BEGIN
        IF until IS NULL OR NOT isfinite(until) OR most IS NULL OR most < 0 THEN
            RAISE EXCEPTION 'cannot roll up % minutes until %', most, until USING ERRCODE = 'invalid_parameter_value';
        END IF;
        BEGIN
            LOCK TABLE @schema.rollup_state IN SHARE ROW EXCLUSIVE MODE NOWAIT;
        EXCEPTION WHEN lock_not_available THEN RETURN 0;
        END;
        WITH due AS (SELECT DISTINCT minute FROM @schema.rollup_due WHERE minute < until ORDER BY minute DESC LIMIT most),
            taken AS (DELETE FROM @schema.rollup_due AS d USING due WHERE d.minute = due.minute RETURNING due.minute)
        SELECT array_agg(DISTINCT minute), array_agg(DISTINCT (minute AT TIME ZONE 'UTC')::date)
            INTO minutes, days FROM taken;
        UPDATE @schema.rollup_state SET rolled_until = greatest(rolled_until, until);
        IF minutes IS NULL THEN RETURN 0; END IF;
        PERFORM @schema.pilothouse_add_partitions('rollup_1m', days), @schema.pilothouse_add_partitions('rollup_15m', days);
        DELETE FROM @schema.rollup_1m WHERE time = ANY (minutes);
        FOR today IN
            SELECT array_agg(minute ORDER BY minute) FROM unnest(minutes) AS minute GROUP BY date_trunc('day', minute)
        LOOP
            INSERT INTO @schema.rollup_1m
            SELECT date_trunc('minute', time), series_id, count(*), {TOTAL}, min(value), max(value) FROM @schema.metrics
            WHERE time >= today[1] AND time < today[array_upper(today, 1)] + INTERVAL '1 minute'
                AND date_trunc('minute', time) = ANY (today)
            GROUP BY 1, 2;
        END LOOP;
        SELECT array_agg(DISTINCT date_bin('15 minutes', minute, 'epoch')) INTO quarters FROM unnest(minutes) AS minute;
        DELETE FROM @schema.rollup_15m WHERE time = ANY (quarters);
        FOR today IN
            SELECT array_agg(quarter ORDER BY quarter) FROM unnest(quarters) AS quarter
            GROUP BY date_trunc('day', quarter)
        LOOP
            INSERT INTO @schema.rollup_15m
            SELECT date_bin('15 minutes', time, 'epoch'), series_id, sum(points), sum(total), min(minimum), max(maximum)
            FROM @schema.rollup_1m
            WHERE time >= today[1] AND time < today[array_upper(today, 1)] + INTERVAL '15 minutes'
                AND date_bin('15 minutes', time, 'epoch') = ANY (today)
            GROUP BY 1, 2;
        END LOOP;
        RETURN array_length(minutes, 1);
    END $$""",
    *(
        f"REVOKE ALL ON FUNCTION @schema.{function} FROM PUBLIC, pilothouse_reader, pilothouse_operator"
        for function in (
            "pilothouse_add_partitions(text, date[])",
            "pilothouse_drop_partitions(text, date)",
            "pilothouse_roll_up(timestamptz, integer)",
        )
    ),
    f"""CREATE OR REPLACE VIEW @schema.rolled_1m AS
        SELECT * FROM @schema.rollup_1m WHERE time < (SELECT rolled_until FROM @schema.rollup_state)
        UNION ALL
        SELECT date_trunc('minute', time), series_id, count(*), {TOTAL}, min(value), max(value)
        FROM @schema.metrics WHERE time >= (SELECT rolled_until FROM @schema.rollup_state) GROUP BY 1, 2""",
)


def upgrade() -> None:
    """The table of who sees what, views and policies that ask it, and functions that only do what they are for."""
    bind = op.get_bind()
    schema = str(bind.exec_driver_sql(_SCHEMA).scalar_one())
    timescale = bind.exec_driver_sql("SELECT timescaledb FROM pilothouse_store").scalar_one()
    policies = tuple(f"ALTER POLICY tenant ON @schema.{table} USING ({rule})" for table, rule in RULES.items())
    for statement in [*ACCESS, *VIEWS, *policies, *(() if timescale else NATIVE)]:
        bind.exec_driver_sql(_named(statement, schema))


# The schema that the store was made in, whatever this session's search path is.
_SCHEMA = """SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass('pilothouse_store')"""


def _named(statement: str, schema: str) -> str:
    # In one pass: a schema's name may hold anything.
    quoted = {"@schema": _identifier(schema), "@name": _literal(schema)}
    return re.sub("@schema|@name", lambda found: quoted[found[0]], statement)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
