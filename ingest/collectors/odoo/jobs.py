"""The OCA job queue: `queue_job`.

Done jobs are purged, so throughput is counted by `date_done` as they appear and never from row counts.

A job runs as long as its worker holds a lock on the row in `queue_job_lock`. The runner tries that with FOR UPDATE SKIP
LOCKED, which a role that may only read cannot. But the row's `xmax` is the transaction that locked it last, and every role
may ask whether that one is still in progress: if it is not, nobody runs the job. (`pg_locks` would not do: a savepoint
that was released leaves no lock on its own id there.)
Source: queue_job 16-19, jobrunner/runner.py (dead jobs); PostgreSQL manual, 5.6 System Columns and 9.27.8.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from ingest.collector import ERROR
from ingest.collectors.odoo.look import Group, Look, naive
from ingest.collectors.odoo.memory import Jobs
from ingest.collectors.odoo.schema import Schema, epoch_ms

STATES = ("wait_dependencies", "pending", "enqueued", "started", "failed")  # done and cancelled ones wait for a purge
MAX_CHANNELS = 200
MAX_FAILED = 2_000  # newest failed jobs that are remembered
MAX_EVENTS = 50
MAX_ROWS = 2_000
DEAD_AFTER_S = 10  # as the runner has it: a job just handed out may not have been begun


def _counts(schema: Schema) -> str:
    begun = (
        f"coalesce({_time(schema, 'date_started')}, {_time(schema, 'date_enqueued')}, {_time(schema, 'date_created')})"
    )
    waits = f"greatest({_time(schema, 'date_created')}, {_time(schema, 'eta')})"
    return f"""
    SELECT {_channel(schema)} AS channel, {schema.text("queue_job", "state")} AS state, count(*) AS jobs,
           {epoch_ms(f"min({waits}) FILTER (WHERE d.eta IS NULL OR d.eta <= $1)")} AS since_ms,
           {epoch_ms(f"min({begun}) FILTER (WHERE d.state = 'started')")} AS begun_ms
    FROM {schema.table("queue_job")} d WHERE d.state NOT IN ('done', 'cancelled') GROUP BY 1, 2 LIMIT {MAX_ROWS}
"""


def _done(schema: Schema) -> str:
    return f"""
    SELECT {_channel(schema)} AS channel, count(*) FILTER (WHERE d.date_done <= $2) AS settled, count(*) AS jobs
    FROM {schema.table("queue_job")} d WHERE d.state = 'done' AND d.date_done > $1 GROUP BY 1 LIMIT {MAX_CHANNELS + 1}
"""


def _failed(schema: Schema) -> str:
    begun = (
        f"coalesce({_time(schema, 'date_started')}, {_time(schema, 'date_enqueued')}, {_time(schema, 'date_created')})"
    )
    names = (f"{schema.text('queue_job', name)} AS {name}" for name in ("model_name", "method_name", "exc_name"))
    return f"""
    SELECT d.id, {_channel(schema)} AS channel, {", ".join(names)}, coalesce({epoch_ms(begun)}, 0) AS begun_ms
    FROM {schema.table("queue_job")} d WHERE d.state = 'failed' ORDER BY d.id DESC LIMIT {MAX_FAILED}
"""


# xmax has 32 bits; `next` tells the other half. One that is just ahead of our snapshot was taken this moment.
def _dead(schema: Schema) -> str:
    begun = (
        f"coalesce({_time(schema, 'date_enqueued')}, {_time(schema, 'date_started')}, {_time(schema, 'date_created')})"
    )
    return f"""
    WITH clock AS (SELECT next, next & 4294967295 AS low, next - (next & 4294967295) AS era
                   FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next) AS snapshot),
         held AS (SELECT queue_job_id, xmax::text::bigint AS xid FROM {schema.table("queue_job_lock")}),
         lock AS (SELECT queue_job_id, xid - low BETWEEN 0 AND 1000000 AS is_new,
                         CASE WHEN xid < low THEN era + xid ELSE era + xid - 4294967296 END AS full_xid
                  FROM held, clock)
    SELECT {_channel(schema)} AS channel, count(*) AS jobs
    FROM {schema.table("queue_job")} d JOIN lock l ON l.queue_job_id = d.id
    WHERE d.state IN ('enqueued', 'started') AND {begun} < $1
      AND NOT l.is_new
      AND CASE WHEN l.full_xid < 3 THEN NULL ELSE pg_xact_status(l.full_xid::text::xid8) END
          IS DISTINCT FROM 'in progress'
    GROUP BY 1 LIMIT {MAX_CHANNELS + 1}
"""


def _channel(schema: Schema) -> str:
    return f"coalesce({schema.text('queue_job', 'channel')}, 'root')"


def _time(schema: Schema, column: str) -> str:
    return schema.time("queue_job", column)


async def look(look: Look) -> None:
    """Depth, age, done and failed by channel, and newly failed jobs as events."""
    memory = look.memory.jobs or Jobs(floor_us=look.server_ms * 1_000)
    floor_us = max(memory.floor_us, int((look.server_ms - look.options.overlap_s * 1_000) * 1_000))
    counts = await look.connection.fetch(_counts(look.schema), look.server_time)
    done = await look.connection.fetch(_done(look.schema), naive(memory.floor_us), naive(floor_us))
    failed = await look.connection.fetch(_failed(look.schema))
    every = sorted({row["channel"] for row in (*counts, *done)} | set(await _declared(look)))
    channels = every[:MAX_CHANNELS]
    look.left_out += len(every) - len(channels)
    _depth(look, counts, channels)
    _throughput(look, memory, done, channels)
    _failures(look, memory, failed, channels)
    look.memory.jobs = Jobs(
        floor_us=floor_us,
        base=dict(Counter(memory.base) + Counter({row["channel"]: row["settled"] for row in done})),
        failed={row["id"]: row["begun_ms"] for row in failed},
    )


async def look_for_dead(look: Look) -> None:
    """Jobs said to run that nobody runs."""
    before = look.server_time - timedelta(seconds=DEAD_AFTER_S)
    dead = {row["channel"]: row["jobs"] for row in await look.connection.fetch(_dead(look.schema), before)}
    for channel in sorted({*dead, *await _declared(look)})[:MAX_CHANNELS]:
        look.gauge("odoo.queue_job.dead", dead.get(channel, 0), _of(channel))


async def _declared(look: Look) -> list[str]:
    """Channels that there are, also those in which nothing waits: nobody waiting is a 0, not a gap."""
    if not look.schema.has("queue_job_channel", "id", "complete_name"):
        return ["root"]
    name = look.schema.text("queue_job_channel", "complete_name")
    table = look.schema.table("queue_job_channel")
    rows = await look.connection.fetch(f"SELECT {name} AS name FROM {table} d ORDER BY d.id LIMIT {MAX_CHANNELS}")
    return [row["name"] for row in rows if row["name"]]


def _depth(look: Look, counts: list[Any], channels: list[str]) -> None:
    jobs = {(row["channel"], row["state"]): row["jobs"] for row in counts}
    waiting = [row for row in counts if row["state"] in ("pending", "enqueued") and row["since_ms"] is not None]
    for channel in channels:
        for state in STATES:
            look.gauge("odoo.queue_job.count", jobs.get((channel, state), 0), _of(channel, state))
        since_ms = min((row["since_ms"] for row in waiting if row["channel"] == channel), default=None)
        look.gauge("odoo.queue_job.age.max", look.age_s(since_ms), _of(channel))
        begun_ms = next(
            (row["begun_ms"] for row in counts if (row["channel"], row["state"]) == (channel, "started")), None
        )
        look.gauge("odoo.queue_job.started.age.max", look.age_s(begun_ms), _of(channel))


def _throughput(look: Look, memory: Jobs, done: list[Any], channels: list[str]) -> None:
    """What settled before, and all that is above the floor: late commits are counted, none is counted twice."""
    recent = {row["channel"]: row["jobs"] for row in done}
    for channel in channels:
        total = memory.base.get(channel, 0) + recent.get(channel, 0)
        series = look.series("odoo.queue_job.done", _of(channel))
        before = look.memory.counters.get(look.name, {}).get(series, 0.0)
        # A purge of jobs done a moment ago must not look like a restart of the counter.
        look.count("odoo.queue_job.done", max(total - before, 0.0), _of(channel))


def _failures(look: Look, memory: Jobs, failed: list[Any], channels: list[str]) -> None:
    """A job counts again when it was begun again. Those found at the first look failed before we counted."""
    for channel in channels:
        look.count("odoo.queue_job.failed", 0, _of(channel))
    if look.memory.jobs is None:
        return
    new = [row for row in failed if memory.failed.get(row["id"]) != row["begun_ms"]]
    for row in new:
        look.count("odoo.queue_job.failed", 1, _of(row["channel"]))
    alike: Counter[tuple[str, ...]] = Counter(
        (row["channel"], row["model_name"], row["method_name"], row["exc_name"]) for row in new
    )
    look.left_out += max(0, len(alike) - MAX_EVENTS)
    for (channel, model, method, exception), jobs in alike.most_common(MAX_EVENTS):
        attributes = {"odoo.model": model, "odoo.method": method, "exception.type": exception}
        known = {name: value for name, value in attributes.items() if value}
        body = f"{jobs} jobs of {model}.{method} failed with {exception or 'no exception told'}"
        more = {"odoo.queue_job.channel": channel, "odoo.queue_job.count": jobs}
        look.event("odoo.queue_job.failed", ERROR, body, {**known, **more})


def _of(channel: str, state: str | None = None) -> dict[str, str]:
    attributes = {"odoo.queue_job.channel": channel}
    return {**attributes, "odoo.queue_job.state": state} if state else attributes


_NEEDS = ("id", "state", "channel", "date_created", "date_enqueued", "date_started")
GROUP = Group("jobs", {"queue_job": (*_NEEDS, "date_done", "eta", "model_name", "method_name", "exc_name")}, look)
DEAD = Group("dead jobs", {"queue_job": _NEEDS, "queue_job_lock": ("queue_job_id",)}, look_for_dead)
