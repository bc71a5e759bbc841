"""The demo's estate on real servers: the business flows, and every fault does what it says and can be undone.

One estate serves all tests of this file, in their order; each leaves it healthy.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import psutil
import pytest

from ingest.collector import Collected, Target
from ingest.collectors.registry import COLLECTORS
from ingest.references import resolve
from pilothouse.demo import faults, history
from pilothouse.demo.company import CELL_OF, CELLS, TENANTS, Plan, queue_of
from pilothouse.demo.estate import DemoEstate, servers
from pilothouse.demo.resp import Valkey
from pilothouse.services.stack import Stack
from pilothouse.settings import from_env
from schemas.records import Scrape
from schemas.series import split

LIMIT_S = 60.0
LOCKED = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A data directory that PostgreSQL's user can reach, also under root."""
    made = Path(tempfile.mkdtemp(prefix="pilothouse-demo-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
async def demo(directory: Path) -> AsyncIterator[DemoEstate]:
    """The estate, up."""
    settings = from_env({"HOME": os.environ["HOME"], "PILOTHOUSE_DATA": str(directory)})
    wanted, plan = servers(), Plan.at(time.time_ns() // 1_000_000)
    async with (
        Stack(settings, kafka=False, postgres=wanted.postgres, valkey=wanted.valkey) as stack,
        DemoEstate(stack, plan) as demo,
    ):
        yield demo


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until a condition holds; the condition of a real server has no other clock than the real one."""
    until_s = time.monotonic() + LIMIT_S
    while not await holds():
        assert time.monotonic() < until_s, f"not within {LIMIT_S} s: {what}"
        await asyncio.sleep(0.1)


async def ask(demo: DemoEstate, tenant: str, query: str, *values: object) -> float:
    """One number from the server of a tenant, from its database."""
    connection = await asyncpg.connect(demo.odoo_of(tenant).postgres.database_url(tenant))
    try:
        return float(await connection.fetchval(query, *values) or 0)
    finally:
        await connection.close()


async def queued(demo: DemoEstate, tenant: str) -> int:
    """Length of a tenant's queue."""
    valkey = Valkey(demo.odoo_of(tenant).valkey.url)
    length = await valkey.call("LLEN", queue_of(tenant))
    valkey.close()
    assert isinstance(length, int)
    return length


async def waiting(demo: DemoEstate, tenant: str) -> float:
    """Backends of a tenant that wait for a lock."""
    return await ask(demo, tenant, LOCKED, tenant)


async def seconds_of_a_ping(demo: DemoEstate, cell: str) -> float:
    """The longest of a few round trips: the first may slip through between two blocks."""
    valkey = Valkey(demo.odoos[cell].valkey.url)
    longest_s = 0.0
    for _ in range(4):
        began_s = time.perf_counter()
        await valkey.call("PING")
        longest_s = max(longest_s, time.perf_counter() - began_s)
    valkey.close()
    return longest_s


@pytest.mark.parametrize("tenant", TENANTS)
async def test_orders_are_sold_shipped_and_invoiced(demo: DemoEstate, tenant: str) -> None:
    invoiced = """SELECT count(*) FROM sale_order o
        JOIN stock_picking p ON p.sale_id = o.id AND p.state = 'done' AND p.carrier_tracking_ref IS NOT NULL
        JOIN account_move i ON i.invoice_origin = o.name AND i.state = 'posted'
        WHERE o.state = 'sale' AND o.delivery_status = 'full' AND o.create_uid = 3
          AND o.create_date > (now() AT TIME ZONE 'UTC') - interval '10 minutes'"""

    async def some() -> bool:
        return await ask(demo, tenant, invoiced) > 0

    await eventually(some, "an order that is invoiced")


async def test_jobs_go_through_valkey_to_workers_and_crons_run(demo: DemoEstate) -> None:
    pids = demo.pids

    async def done() -> bool:
        return await ask(demo, "acme", "SELECT count(*) FROM queue_job WHERE state = 'done'") > 0

    await eventually(done, "a job that is done")
    worker = await ask(demo, "acme", "SELECT max(worker_pid) FROM queue_job WHERE state = 'done'")
    assert worker == pids["eu1/workers/acme"]
    assert await ask(demo, "acme", "SELECT count(*) FROM ir_cron WHERE lastcall > create_date OR active") > 0
    name = f"odoo-{pids['eu1/people/acme']}"
    assert await ask(demo, "acme", "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name) > 0


async def test_the_live_company_has_every_series_of_its_past(demo: DemoEstate) -> None:
    *_, (_, records) = history.past(demo.plan, CELLS, time.time_ns() // 1_000_000)
    past = {one.resource: set(split(one.series)) for one in records if isinstance(one, Scrape)}
    live: dict[str, set[str]] = {}
    for resource, looked in await look_at_everything(demo):
        assert not looked.refused, resource
        scrapes = [one for one in looked.records if isinstance(one, Scrape)]
        live.setdefault(resource, set()).update(*(split(scrape.series) for scrape in scrapes))
    missing = {name: series - live.get(name, set()) for name, series in past.items()}
    assert {name: series for name, series in missing.items() if series} == {}


async def look_at_everything(demo: DemoEstate) -> list[tuple[str, Collected]]:
    """Two looks of every collector of the estate: some things are told from the second on."""
    found: list[tuple[str, Collected]] = []
    for cell in demo.estate.cells:
        for resource in cell.resources:
            url = resolve(resource.url, resource.name, demo.environ)
            collector = COLLECTORS[resource.system].make(Target(cell, resource, url))
            now_ms = time.time_ns() // 1_000_000
            first = await collector.collect(now_ms, None)
            second = await collector.collect(now_ms + 1_000, first.position)
            found += [(resource.name, first), (resource.name, second)]
            await collector.close()
    return found


async def test_a_slow_redis_makes_carriers_jobs_pile_up(demo: DemoEstate) -> None:
    async def piled_up() -> bool:
        return await queued(demo, "acme") >= 3

    async def drained() -> bool:
        return await queued(demo, "acme") == 0

    async with faults.redis_slow(demo):
        assert await seconds_of_a_ping(demo, "eu1") > 0.2
        assert await seconds_of_a_ping(demo, "everest") < 0.2
        await eventually(piled_up, "three jobs in the queue")
    await eventually(drained, "an empty queue")


@pytest.mark.parametrize("fault", [faults.month_end_locks, faults.lock_storm])
async def test_locks_make_others_of_the_tenant_wait(
    demo: DemoEstate, fault: Callable[[DemoEstate], faults.Fault]
) -> None:
    made = fault(demo)
    (tenant,) = made.tenants

    async def several_wait() -> bool:
        return await waiting(demo, tenant) >= 2

    async def nobody_waits() -> bool:
        return await waiting(demo, tenant) == 0

    async with made:
        await eventually(several_wait, "two sessions that wait")
        assert await waiting(demo, "everest") == 0
    await eventually(nobody_waits, "nobody waits")


async def test_a_bad_release_stops_labels_while_the_web_answers(demo: DemoEstate) -> None:
    odoo = demo.odoos["eu1"]

    async def piled_up() -> bool:
        return await queued(demo, "borealis") >= 2

    async def drained() -> bool:
        return await queued(demo, "borealis") == 0

    async with faults.bad_release(demo, None):
        await eventually(piled_up, "two jobs in the queue")
        (resource,) = [one for one in odoo.watched().resources if one.system == "odoo_health"]
        async with aiohttp.ClientSession() as session, session.get(f"{resource.url}/web/health") as response:
            assert await response.json() == {"status": "pass"}
        assert "ImportError: cannot import name 'TokenStore'" in odoo.log.read_text()
    await eventually(drained, "an empty queue")


async def test_an_import_fills_the_server_that_others_share(demo: DemoEstate) -> None:
    """Busy backends of the importing tenant, and the SQL time of its neighbours' requests."""
    active = "SELECT active_time FROM pg_stat_database WHERE datname = 'delta'"
    log = demo.odoos["eu1"].log

    async def busy_backends(seconds: float) -> float:
        began, began_s = await ask(demo, "delta", active), time.perf_counter()
        await asyncio.sleep(seconds)
        return (await ask(demo, "delta", active) - began) / 1000 / (time.perf_counter() - began_s)

    before = await busy_backends(1.5)
    size = log.stat().st_size
    async with faults.noisy_import(demo):

        async def is_busy() -> bool:
            return await busy_backends(1.5) > max(2.0, 10 * before)

        await eventually(is_busy, "ten times the usual, and two busy backends")
    assert re.search(r" acme werkzeug: .* 200 - ", log.read_text()[size:])

    async def is_calm() -> bool:
        return await busy_backends(1.0) < 0.5

    await eventually(is_calm, "half a busy backend at most")


async def test_every_fault_says_what_it_is(demo: DemoEstate) -> None:
    both = [
        *faults.full(demo, None),
        *faults.weak(demo, None),
        *(one for pair in faults.double(demo, None) for one in pair),
    ]
    for fault in both:
        assert re.fullmatch(r"[a-z.]+:[a-z0-9@.-]+", fault.true_cause or "")
        assert set(fault.tenants) <= set(TENANTS)
        assert fault.tenants
    for one, other in faults.double(demo, None):
        assert one.true_cause != other.true_cause
        assert not {(CELL_OF[name].name, name) for name in one.tenants} & {
            (CELL_OF[name].name, name) for name in other.tenants
        }


async def test_the_estate_hides_its_passwords_and_is_whole(demo: DemoEstate) -> None:
    written = demo.estate.model_dump_json()
    for url in demo.environ.values():
        password = urlsplit(url).password
        assert password
        assert password not in written


async def test_nothing_outlives_the_program_that_started_it(demo: DemoEstate) -> None:
    """The last test of the file: closing the pipe is what also a kill of the program would do."""
    pids = list(demo.pids.values())
    assert all(psutil.pid_exists(pid) for pid in pids)
    await demo.stop()
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
