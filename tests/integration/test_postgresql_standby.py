"""A real standby beside a real primary: its lag while it receives, and while it receives nothing."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from ingest.collector import Target
from ingest.collectors.postgresql import Postgresql
from pilothouse.services.child import free_port
from pilothouse.services.postgres import Postgres
from pilothouse.services.stack import STORE, Stack
from schemas.estate import Cell, Resource, Tenant
from tests.support.collected import Observer, points

NOW_MS = 1_795_000_000_000
PATIENCE_S = 60
LAG = "postgresql.replay.lag"


@asynccontextmanager
async def standby(primary: Postgres, slot: str) -> AsyncIterator[str]:
    """A standby of that primary; gives its url."""
    home = Path(tempfile.mkdtemp(prefix="pilothouse-standby-"))
    os.chmod(home, 0o711)
    programs, data, port = primary._programs(), home / "data", free_port()
    backup = [
        programs / "pg_basebackup",
        "-D",
        data,
        "-d",
        primary.url,
        "-R",
        "-X",
        "stream",
        "-c",
        "fast",
        "-C",
        "-S",
        slot,
    ]
    made = await asyncio.create_subprocess_exec(*map(str, backup))
    assert await made.wait() == 0
    user = primary.user.name if primary.user else None
    if user:
        entry = pwd.getpwnam(user)
        for path in (home, data, *data.rglob("*")):
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    (data / "pilothouse.conf").write_text(
        f"port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
    )
    server = await asyncio.create_subprocess_exec(
        str(programs / "postgres"), "-D", str(data), user=user, stderr=asyncio.subprocess.DEVNULL
    )
    url = primary.url.replace(f":{primary.port}/", f":{port}/")
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(OSError, asyncpg.PostgresError):
                    await (await asyncpg.connect(url)).close()
                    break
                await asyncio.sleep(0.1)
        yield url
    finally:
        server.send_signal(signal.SIGQUIT)
        await server.wait()
        shutil.rmtree(home)


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[Observer]:
    resource = Resource(name="pg", system="postgresql")
    target = Target(Cell(name="eu1", tenants=(Tenant(name="acme"),)), resource, url)
    one = Observer(target, Postgresql(target))
    yield one
    await one.close()


async def until(one: Observer, series: str, wanted: object) -> dict[str, float | None]:
    """Look until the series is as wanted."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = points(await one.collect(NOW_MS, None))
            value = found.get(series)
            if value == wanted or (callable(wanted) and wanted(value)):
                return found
            await asyncio.sleep(0.1)


async def test_a_standby_that_receives_nothing_is_not_level(stack: Stack) -> None:
    primary = stack.postgres[STORE]
    admin = await asyncpg.connect(primary.url)
    try:
        async with standby(primary, "dr1") as url, watched(url) as there, watched(primary.url) as here:
            await admin.execute("CREATE TABLE replayed AS SELECT generate_series(1, 10)")
            await until(there, LAG, 0.0)
            found = await until(here, "postgresql.replication.standbys", 1.0)
            assert any(series.startswith("postgresql.replication.lag{") for series in found)
            on_standby = await asyncpg.connect(url)
            await on_standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            await on_standby.execute("SELECT pg_reload_conf()")
            await on_standby.close()
            await admin.execute("DROP TABLE replayed")
            # It has replayed all that it received, and receives no more.
            grown = await until(there, LAG, lambda value: (value or 0) > 0)
            further = await until(there, LAG, lambda value: (value or 0) > (grown[LAG] or 0))
            assert further[LAG]
            await until(here, "postgresql.replication.standbys", 0.0)
    finally:
        await admin.execute("DROP TABLE IF EXISTS replayed")
        with suppress(asyncpg.PostgresError):
            await admin.execute("SELECT pg_drop_replication_slot('dr1')")
        await admin.close()
