"""The workers of one tenant in one process: it runs jobs that it takes from Valkey, and scheduled actions.

A carrier's job asks Valkey for what the connector keeps there (token, quota, addresses), one thing after the other, so a
slow Valkey makes slow labels. Release 2.4.1 is a bad one: `broken` ends at start with a traceback, `limping` (its weak
form) dies on some of its jobs.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

from pilothouse.demo.business import CLOCK, NOW
from pilothouse.demo.company import CRON_INTERVAL_S, queue_of
from pilothouse.demo.erp import AWAY, Cursor, Erp, Spent
from pilothouse.demo.odoo_log import CRON, ERROR, INFO, JOB_RUNNER, WARNING, OdooLog, cron_ends, cron_starts
from pilothouse.demo.resp import Valkey
from pilothouse.demo.seed import STOCK_LOCATION

CONNECTIONS = 2
TAKE_S = 2  # a worker waits so long for a job before it looks round
CARRIER_S = (0.02, 0.06)  # between these, the carrier's own time for a label
LIMPING = 2  # a limping release dies on one of so many jobs
CRON_LOOK_S = 1.0
PAUSE_S = 1.0
LOW_STOCK = 1000

LOCK = "SELECT id FROM queue_job_lock WHERE queue_job_id = (SELECT id FROM queue_job WHERE uuid = $1) FOR UPDATE"
SOUND, LIMPS, BROKEN = "sound", "limping", "broken"
TRACEBACK = """Failed to load server-wide module `carrier_connector`. 
Traceback (most recent call last):
  File "/opt/odoo/odoo/service/server.py", line 1360, in load_server_wide_modules
  File "/opt/odoo/addons/carrier_connector/__init__.py", line 3, in <module>
ImportError: cannot import name 'TokenStore' from 'carrier_connector.tokens'"""  # noqa: W291 (Odoo's own blank)


class Workers:
    """The job worker and the cron worker of one tenant."""

    def __init__(self, tenant: dict[str, Any], valkey_url: str, log: OdooLog, release: str) -> None:
        self.erp = Erp(tenant, valkey_url, log, CONNECTIONS)
        self._release = release
        self._queue = queue_of(tenant["name"])
        # Waiting for a job blocks its connection.
        self._taking = Valkey(valkey_url)

    async def work(self) -> None:
        """Until cancelled. Ends the process when the release is a bad one."""
        if self._release == BROKEN:
            self.erp.log.write(ERROR, "?", "odoo.service.server", TRACEBACK)
            raise SystemExit(1)
        await self.erp.open()
        try:
            await self._recover()
            async with asyncio.TaskGroup() as workers:
                workers.create_task(self._again(self._take, 0.0))
                workers.create_task(self._again(self._run_due_cron, CRON_LOOK_S))
        finally:
            await self.erp.close()

    async def _again(self, work: Any, pause_s: float) -> None:
        while True:
            try:
                await work()
            except AWAY as error:
                self.erp.log.write(WARNING, "?", JOB_RUNNER, f"{type(error).__name__}: {error}")
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _recover(self) -> None:
        """Jobs that a dead worker has left are handed over again, as OCA's runner does with jobs without a lock."""
        rows = await self.erp.transact(_waiting_jobs, Spent())
        waiting = await self.erp.valkey.call("LRANGE", self._queue, 0, -1)
        known = (
            {one.decode() for one in waiting or () if isinstance(one, bytes)} if isinstance(waiting, list) else set()
        )
        for row in rows:
            if row["state"] == "started":
                self.erp.log.write(WARNING, "?", JOB_RUNNER, f"Re-queued dead job with uuid: {row['uuid']}")
            if row["uuid"] not in known:
                await self.erp.valkey.call("LPUSH", self._queue, row["uuid"])

    async def _take(self) -> None:
        found = await self._taking.call("BRPOP", self._queue, TAKE_S)
        if isinstance(found, list) and isinstance(found[1], bytes):
            await self._run(found[1].decode())

    async def _run(self, uuid: str) -> None:
        """One job, as the request that it is in Odoo."""
        began_s, spent = time.perf_counter(), Spent()
        self.erp.log.write(INFO, "?", JOB_RUNNER, f"asking Odoo to run job {uuid} on db {self.erp.database}")
        await self.erp.transact(lambda cursor: _start(cursor, uuid), spent)
        if self._release == LIMPS and not random.randrange(LIMPING):
            self.erp.log.write(ERROR, self.erp.database, JOB_RUNNER, TRACEBACK)
            os._exit(1)
        await self.erp.transact(lambda cursor: self._print_label(cursor, uuid), spent)
        path = f"GET /queue_job/runjob?db={self.erp.database}&job_uuid={uuid}"
        self.erp.log.request(self.erp.database, path, 200, spent.statements, spent.sql_s, time.perf_counter() - began_s)

    async def _print_label(self, cursor: Cursor, uuid: str) -> None:
        """The job itself. Its lock row is held to the end: that is how others see that it is alive."""
        began_s = time.perf_counter()
        await cursor.rows(LOCK, uuid)
        await self._ask_carrier()
        await _finish(cursor, uuid, time.perf_counter() - began_s)

    async def _ask_carrier(self) -> None:
        database, ask = self.erp.database, self.erp.valkey.call
        await ask("SET", f"carrier:{database}:lock", os.getpid(), "EX", 30)
        await ask("GET", f"carrier:{database}:token")
        await ask("INCR", f"carrier:{database}:quota:{int(time.time()) // 60}")
        await ask("EXPIRE", f"carrier:{database}:quota:{int(time.time()) // 60}", 120)
        await ask("HGET", f"carrier:{database}:addresses", random.randint(1, 200))
        await asyncio.sleep(random.uniform(*CARRIER_S))
        await ask("HSET", f"carrier:{database}:labels", random.randint(1, 200), "printed")
        await ask("DEL", f"carrier:{database}:lock")

    async def _run_due_cron(self) -> None:
        due = await self.erp.transact(_due_cron, Spent())
        while due is not None:
            await self._run_cron(due["id"], due["cron_name"])
            due = await self.erp.transact(_due_cron, Spent())

    async def _run_cron(self, number: int, name: str) -> None:
        began_s = time.perf_counter()
        version, database = self.erp.version, self.erp.database
        self.erp.log.write(INFO, database, CRON, cron_starts(version, name, number))
        if version >= 18:
            await self.erp.transact(lambda cursor: _begin_progress(cursor, number), Spent())
        done = await self.erp.transact(lambda cursor: _cron_work(cursor, number), Spent())
        await self.erp.transact(lambda cursor: _reschedule(cursor, number, done), Spent())
        ended = cron_ends(version, name, number, done, time.perf_counter() - began_s)
        self.erp.log.write(INFO, database, CRON, ended)


async def _waiting_jobs(cursor: Cursor) -> list[Any]:
    return await cursor.rows(
        "SELECT uuid, state FROM queue_job WHERE state IN ('pending', 'enqueued', 'started') ORDER BY id"
    )


async def _start(cursor: Cursor, uuid: str) -> None:
    await cursor.rows(
        """INSERT INTO queue_job_lock (queue_job_id) SELECT id FROM queue_job job WHERE uuid = $1
        AND NOT EXISTS (SELECT FROM queue_job_lock WHERE queue_job_id = job.id)""",
        uuid,
    )
    await cursor.rows(
        f"UPDATE queue_job SET state = 'started', date_started = {CLOCK}, worker_pid = $2 WHERE uuid = $1",
        uuid,
        os.getpid(),
    )


async def _finish(cursor: Cursor, uuid: str, duration_s: float) -> None:
    job = await cursor.value("SELECT func_string FROM queue_job WHERE uuid = $1", uuid)
    picking = int(job.partition("(")[2].partition(",")[0])
    await cursor.rows(
        f"""UPDATE stock_picking SET carrier_tracking_ref = 'T' || $1, carrier_price = 7.5, write_uid = 4, write_date = {NOW}
        WHERE id = $2""",
        uuid[:8].upper(),
        picking,
    )
    await cursor.rows(
        f"""UPDATE queue_job SET state = 'done', date_done = {CLOCK}, exec_time = $2, result = 'label printed'
        WHERE uuid = $1""",
        uuid,
        duration_s,
    )


async def _due_cron(cursor: Cursor) -> Any:
    order = "failure_count, priority, id" if cursor.version >= 18 else "priority, id"
    rows = await cursor.rows(
        f"""SELECT id, cron_name FROM ir_cron WHERE active AND nextcall <= {NOW} ORDER BY {order} LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED"""
    )
    return rows[0] if rows else None


async def _begin_progress(cursor: Cursor, number: int) -> None:
    await cursor.rows(
        f"""INSERT INTO ir_cron_progress (cron_id, remaining, done, timed_out_counter, create_uid, write_uid, create_date,
          write_date) VALUES ($1, 0, 0, 1, 2, 2, {NOW}, {NOW})""",
        number,
    )


async def _cron_work(cursor: Cursor, number: int) -> int:
    """What a scheduled action has to do: the first sends mails, the others refill stock. How many records were done."""
    if number == 1:
        return len(await cursor.rows("DELETE FROM mail_mail WHERE state = 'outgoing' AND auto_delete RETURNING id"))
    filled = await cursor.rows(
        f"""UPDATE stock_quant SET quantity = quantity + 10000, write_date = {NOW}
        WHERE location_id = {STOCK_LOCATION} AND quantity - reserved_quantity < {LOW_STOCK} RETURNING id"""
    )
    return len(filled)


async def _reschedule(cursor: Cursor, number: int, done: int) -> None:
    """The next call lies in the future, however many were missed."""
    if cursor.version >= 18:
        await cursor.rows(
            f"UPDATE ir_cron_progress SET done = $2, timed_out_counter = 0, write_date = {NOW} WHERE cron_id = $1 "
            "AND timed_out_counter > 0",
            number,
            done,
        )
    healthy = ", failure_count = 0, first_failure_date = NULL" if cursor.version >= 18 else ""
    await cursor.rows(
        f"""UPDATE ir_cron SET lastcall = {NOW}, nextcall = nextcall + interval '{CRON_INTERVAL_S} s'
          * greatest(1, ceil(extract(epoch FROM {NOW} - nextcall) / {CRON_INTERVAL_S})){healthy} WHERE id = $1""",
        number,
    )
