"""The demo's estate: real PostgreSQL and Valkey servers, and processes that stand in for Odoo on them.

There is no Odoo here. The databases carry Odoo's tables and columns, the processes work on them with Odoo's transactions
and locks and write Odoo's log, so everything that Pilothouse reads is as a real Odoo would give it.

    async with Stack(settings, postgres={STORE: {}, **servers.postgres}, valkey=servers.valkey) as stack:
        async with DemoEstate(stack, Plan.at(now_ms)) as demo:
            demo.estate, demo.environ      what to watch, and the variables that hold the URLs with their passwords

On disk, beside the servers: DATA/odoo/CELL/odoo.log, web.pem, web.key, ca.pem, stderr.log.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import psutil

from pilothouse.demo import certificate, levels, schema, seed
from pilothouse.demo.company import (
    CARRIERS,
    CELL_OF,
    CELLS,
    CRON_INTERVAL_S,
    CRONS,
    ORDINARY,
    TRADE,
    Cell,
    Peak,
    Plan,
    Tenant,
    queue_of,
)
from pilothouse.services.child import free_port
from pilothouse.services.postgres import Postgres
from pilothouse.services.stack import Stack
from pilothouse.services.valkey import Valkey
from schemas.calendar import DAYS, MINUTE_MS, Calendar, Campaign, CutOff, Shift
from schemas.estate import Cell as WatchedCell
from schemas.estate import Estate, Reference, Resource, Tier
from schemas.estate import Tenant as WatchedTenant

WATCHER, FINANCE = "pilothouse", "finance_batch"
ANSWER_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 8.0
OBSERVED_POSTGRES = {"max_connections": "80", "shared_buffers": "24MB", "log_lock_waits": "on"}
# DEBUG SLEEP is how a fault makes it slow; the latency monitor and the slow log are how people see it.
OBSERVED_VALKEY = {
    "enable-debug-command": "local",
    "latency-monitor-threshold": "50",
    "slowlog-log-slower-than": "10000",
}


@dataclass(frozen=True, slots=True)
class Servers:
    """What a Stack has to start for the estate, by name, each with its settings."""

    postgres: Mapping[str, Mapping[str, str]]
    valkey: Mapping[str, Mapping[str, str]]


def servers() -> Servers:
    """The estate's servers, with new passwords."""
    return Servers(
        {cell.postgres: OBSERVED_POSTGRES for cell in CELLS},
        {cell.valkey: OBSERVED_VALKEY | {"requirepass": secrets.token_urlsafe(16)} for cell in CELLS},
    )


class DemoEstate:
    """The estate while it runs. The stack must be up and have `servers()`; it is left up at the end."""

    def __init__(self, stack: Stack, plan: Plan) -> None:
        self.plan = plan
        self.odoos = {cell.name: Odoo(cell, stack, plan) for cell in CELLS}
        self._postgres = [stack.postgres[cell.postgres] for cell in CELLS]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Make the databases anew and start every process of the workload."""
        try:
            async with asyncio.TaskGroup() as starts:
                for odoo in self.odoos.values():
                    starts.create_task(odoo.start())
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End every process of the workload; before the start there is none."""
        await asyncio.gather(*(odoo.stop() for odoo in self.odoos.values()))

    def odoo_of(self, tenant: str) -> Odoo:
        """The Odoo that serves a tenant."""
        return self.odoos[CELL_OF[tenant].name]

    def announce(self, peaks: Iterable[Peak]) -> None:
        """Plan campaigns to come, before the start."""
        self.plan = replace(self.plan, peaks=(*self.plan.peaks, *peaks))
        for odoo in self.odoos.values():
            odoo.plan = self.plan

    @property
    def estate(self) -> Estate:
        """What is to be watched; before the start without the ports at which it will be."""
        return Estate(
            cells=tuple(odoo.watched() for odoo in self.odoos.values()),
            calendars=calendars(self.plan),
            openslo=levels.documents(),
        )

    @property
    def environ(self) -> dict[str, str]:
        """Variables that the estate refers to: URLs with passwords."""
        return {name: url for odoo in self.odoos.values() for name, url in odoo.secrets().items()}

    @property
    def pids(self) -> dict[str, int]:
        """Every process of the workload, as CELL/ROLE or CELL/ROLE/TENANT."""
        return {f"{name}/{role}": pid for name, odoo in self.odoos.items() for role, pid in odoo.pids.items()}


@dataclass
class Odoo:
    """What stands in for the Odoo of one cell: its databases, and the processes on them."""

    cell: Cell
    stack: Stack
    plan: Plan
    pids: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    cpus: int = field(default_factory=lambda: os.cpu_count() or 1)
    ports: tuple[int, int] = (0, 0)
    _process: asyncio.subprocess.Process | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def postgres(self) -> Postgres:
        """The server with the tenants' databases."""
        return self.stack.postgres[self.cell.postgres]

    @property
    def valkey(self) -> Valkey:
        """The server with sessions and queues."""
        return self.stack.valkey[self.cell.valkey]

    @property
    def home(self) -> Path:
        """Directory of its log and certificate."""
        return self.stack.data_dir / "odoo" / self.cell.name

    @property
    def log(self) -> Path:
        """The log that all of its processes write."""
        return self.home / "odoo.log"

    def url(self, role: str, database: str) -> str:
        """How a role reaches a database."""
        return f"postgresql://{role}:{self.passwords[role]}@127.0.0.1:{self.postgres.port}/{database}"

    async def start(self) -> None:
        """Make the databases anew and start the processes; returns when they run."""
        await asyncio.to_thread(self._make_home)
        await _make_databases(self)
        if len(self.cell.tenants) > 1 and pin_to_one_cpu(self.postgres.pid):
            self.cpus = 1
        await self._spawn()

    async def stop(self) -> None:
        """End the processes; one that does not end is killed."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def command(self, **command: Any) -> None:
        """Have the master do something; see `pilothouse.demo.workload`."""
        async with self._turn:
            await self._send(command)

    async def _spawn(self) -> None:
        self.ports = (http := free_port(), free_port(http))
        with (self.home / "stderr.log").open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pilothouse.demo.workload",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                # Ctrl-C is for us; we end children in order.
                start_new_session=True,
            )
        await self._send(self._orders())

    async def _send(self, line: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError(f"the Odoo of {self.cell.name} does not run; start() it first")
        process.stdin.write(json.dumps(line).encode() + b"\n")
        await process.stdin.drain()
        answer = await asyncio.wait_for(process.stdout.readline(), ANSWER_TIMEOUT_S)
        if not answer:
            errors = (self.home / "stderr.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the Odoo of {self.cell.name} has ended. Its last words:\n{errors}")
        self.pids = json.loads(answer)["pids"]

    def _orders(self) -> dict[str, Any]:
        """All that the processes need to know; it travels over a pipe, because of the passwords."""
        return {
            "log": str(self.log),
            "plan": self.plan.data(),
            "valkey_url": self.valkey.url,
            "http_port": self.ports[0],
            "https_port": self.ports[1],
            "certificate": str(self.home / "web.pem"),
            "key": str(self.home / "web.key"),
            "tenants": [
                {
                    "name": tenant.name,
                    "version": tenant.version,
                    "url": self.url(tenant.name, tenant.name),
                    "finance_url": self.url(FINANCE, tenant.name),
                }
                for tenant in self.cell.tenants
            ],
        }

    def _make_home(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        self.home.chmod(0o700)
        certificate.write(self.home, host_of(self.cell))

    def secrets(self) -> dict[str, str]:
        """Variables with the URLs that hold passwords."""
        own = {
            _variable(self.cell.postgres): self.url(WATCHER, "postgres"),
            _variable(self.cell.valkey): self.valkey.url,
        }
        # A tenant owns its database: who reads it may read nothing else.
        return own | {_variable(f"odoo-{one.name}"): self.url(_reader(one.name), one.name) for one in self.cell.tenants}

    def watched(self) -> WatchedCell:
        """The cell as Pilothouse is told of it."""
        return WatchedCell(
            name=self.cell.name,
            tenants=tuple(_watched_tenant(tenant) for tenant in self.cell.tenants),
            resources=(*self._infrastructure(), *(self._odoo(tenant) for tenant in self.cell.tenants)),
        )

    def _infrastructure(self) -> tuple[Resource, ...]:
        name, (http, https) = self.cell.name, self.ports
        queues = [{"key": queue_of(tenant.name), "tenant": tenant.name} for tenant in self.cell.tenants]
        here = (self.cell.postgres, self.cell.valkey)
        return (
            _resource(
                self.cell.postgres,
                "postgresql",
                2,
                url=Reference(env=_variable(self.cell.postgres)),
                options={"cpus": self.cpus},
            ),
            _resource(
                self.cell.valkey,
                "redis",
                2,
                url=Reference(env=_variable(self.cell.valkey)),
                options={"queues": queues},
            ),
            _resource(f"log-{name}", "odoo_log", 2, url=self.log.as_uri(), depends_on=here),
            _resource(f"web-{name}", "odoo_health", 3, url=f"http://127.0.0.1:{http}"),
            _resource(f"host-{name}", "host", 5),
            _resource(
                f"tls-{name}",
                "tls",
                10,
                url=f"https://127.0.0.1:{https}",
                options={"server_name": host_of(self.cell), "ca_file": str(self.home / "ca.pem")},
            ),
        )

    def _odoo(self, tenant: Tenant) -> Resource:
        name = f"odoo-{tenant.name}"
        needs = (self.cell.postgres, self.cell.valkey)
        return _resource(name, "odoo", 3, url=Reference(env=_variable(name)), tenant=tenant.name, depends_on=needs)


def _resource(name: str, system: str, interval_s: float, **more: Any) -> Resource:
    return Resource(name=name, system=system, interval_s=interval_s, timeout_s=max(2.0, interval_s), **more)


def _variable(resource: str) -> str:
    return f"PILOTHOUSE_DEMO_{resource.replace('-', '_').upper()}_URL"


def _watched_tenant(tenant: Tenant) -> WatchedTenant:
    return WatchedTenant(name=tenant.name, tier=Tier(tenant.tier), calendar=tenant.calendar)


def host_of(cell: Cell) -> str:
    """Name under which partners reach a cell; of a domain that nobody has."""
    return f"{cell.name}.demo.example"


def calendars(plan: Plan) -> tuple[Calendar, ...]:
    """The business calendars: ordinary companies, and those in trade, which have campaigns."""
    common: dict[str, Any] = {
        "time_zone": plan.time_zone,
        "shifts": (Shift(days=DAYS, opens=time(6), closes=time(22)),),
        "cut_offs": (CutOff(at=time(16), days=DAYS),),
        "month_end_days": 2,
    }
    campaigns = tuple(
        Campaign(
            name="flash sale",
            # A calendar knows nothing finer than minutes.
            starts=_minute(peak.starts_ms // MINUTE_MS),
            ends=_minute(-(-peak.ends_ms // MINUTE_MS)),
            load=peak.load,
        )
        for peak in plan.peaks
    )
    return Calendar(name=ORDINARY, **common), Calendar(name=TRADE, campaigns=campaigns, **common)


def _minute(number: int) -> datetime:
    return datetime.fromtimestamp(number * MINUTE_MS // 1000, UTC)


def pin_to_one_cpu(pid: int) -> bool:
    """Give a PostgreSQL one CPU: a neighbour can fill it then, and the machine stays usable. Whether the system can."""
    with suppress(AttributeError, psutil.Error, OSError):
        process = psutil.Process(pid)
        last = [max(process.cpu_affinity() or [0])]
        process.cpu_affinity(last)
        for one in process.children():
            with suppress(psutil.Error):
                one.cpu_affinity(last)
        return True
    return False


async def _make_databases(odoo: Odoo) -> None:
    """The server's roles, and a new database for each tenant."""
    connection = await asyncpg.connect(odoo.postgres.url)
    tenants = [tenant.name for tenant in odoo.cell.tenants]
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        for tenant in tenants:
            await connection.execute(f"DROP DATABASE IF EXISTS {tenant} WITH (FORCE)")
        for role in (WATCHER, FINANCE, *tenants, *map(_reader, tenants)):
            odoo.passwords[role] = secrets.token_urlsafe(16)
            await _make_role(connection, role, odoo.passwords[role])
        await connection.execute(f"GRANT pg_monitor TO {WATCHER}; GRANT {', '.join(tenants)} TO {FINANCE}")
        await connection.execute("SELECT pg_stat_statements_reset()")
        for tenant in tenants:
            await connection.execute(f"CREATE DATABASE {tenant} OWNER {tenant}")
    finally:
        await connection.close()
    await asyncio.gather(*(_fill(odoo, tenant) for tenant in odoo.cell.tenants))


def _reader(tenant: str) -> str:
    return f"{tenant}_reader"


async def _make_role(connection: Any, role: str, password: str) -> None:
    exists = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
    await connection.execute(f"{'ALTER' if exists else 'CREATE'} ROLE {role} LOGIN PASSWORD '{password}'")


async def _fill(odoo: Odoo, tenant: Tenant) -> None:
    """Tables and a company that has been in business for a while, owned by the tenant, readable by its reader."""
    connection = await asyncpg.connect(odoo.postgres.database_url(tenant.name))
    crons = seed.Crons(CRONS, CRON_INTERVAL_S)
    try:
        await connection.execute(
            f"SET ROLE {tenant.name};"
            + schema.ddl(tenant.version)
            + seed.seed(tenant.version, datetime.now(UTC).year, tenant.name, crons, CARRIERS)
            + f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {_reader(tenant.name)};"
        )
    finally:
        await connection.close()
