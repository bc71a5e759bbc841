"""The whole of Pilothouse as processes on embedded servers, in a directory of its own, to be killed and asked.

The source is an Odoo log: lines are appended, ingest follows the file, and every line must be in the store exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from pilothouse import replay as replaying
from pilothouse.estate_files import load
from pilothouse.programs import plan
from pilothouse.services.stack import STORE, Stack
from pilothouse.settings import Settings
from pilothouse.supervisor import Program, Supervisor
from pilothouse.whole import environment, make_topics, our_programs
from schemas.estate import Estate

ESTATE = """
cells:
  - name: eu1
    tenants: [{{name: acme}}, {{name: borealis}}]
    resources:
      - {{name: odoo-eu1, system: odoo_log, url: "file://{log}", interval_s: 0.5, options: {{ship: all}}}}
      - {{name: valkey-eu1, system: redis, url: "{redis}", interval_s: 0.5}}
"""


@dataclass
class House:
    """A running Pilothouse."""

    stack: Stack
    supervisor: Supervisor
    estate: Estate
    log: Path
    written: int = 0

    def program(self, name: str) -> Program:
        return next(one for one in self.supervisor.programs if one.name == f"program/{name}")

    def append(self, lines: int) -> None:
        """Write so many more lines to the Odoo log; the last one is cut in two writes, as a busy server does."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
        with self.log.open("a") as file:
            for _ in range(lines):
                tenant = ("acme", "borealis")[self.written % 2]
                file.write(f"{now} 4711 WARNING {tenant} odoo.addons.sale: ")
                file.flush() if self.written % 100 == 99 else None
                file.write(f"event number {self.written}\n")
                self.written += 1

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        url = self.stack.settings.database_url
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def stored(self) -> tuple[int, int]:
        """(rows, distinct lines) of the Odoo log in the store."""
        query = "SELECT count(*), count(DISTINCT body) FROM logs WHERE body LIKE 'event number %'"
        with contextlib.suppress(asyncpg.UndefinedTableError, OSError):
            row = (await self.fetch(query))[0]
            return row[0], row[1]
        return 0, 0

    async def all_stored(self, timeout_s: float) -> tuple[int, int]:
        """Wait until every written line is in the store; gives what is there in the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (await self.stored())[1] < self.written:  # noqa: ASYNC110 (a store has no event to wait for)
                    await asyncio.sleep(0.3)
        return await self.stored()

    async def replayed(self, since_ms: int, until_ms: int) -> replaying.Result:
        assert self.stack.settings.kafka
        kafka = self.stack.settings.kafka.aiokafka_options()
        return await replaying.replay(kafka, plan(self.estate), replaying.Window(since_ms, until_ms), compare=True)

    async def next_stored(self, timeout_s: float) -> float:
        """Append a line and give the seconds until a line newer than now is in the store."""
        began, (_, before) = time.monotonic(), await self.stored()
        async with asyncio.timeout(timeout_s):
            while (await self.stored())[1] <= before:
                self.append(1)
                await asyncio.sleep(0.1)
        return time.monotonic() - began


@asynccontextmanager
async def house(settings: Settings, directory: Path) -> AsyncIterator[House]:
    """Start everything; `settings` give caches, `directory` is made."""
    await asyncio.to_thread(directory.mkdir, mode=0o711, exist_ok=True)
    own = settings.model_copy(update={"data_dir": directory, "kafka": None, "database_url": None, "partitions": 4})
    async with Stack(own, postgres=[STORE], valkey=["eu1"]) as stack:
        log, config = directory / "odoo.log", directory / "estate"
        log.touch()
        config.mkdir(exist_ok=True)
        (config / "estate.yaml").write_text(ESTATE.format(log=log, redis=stack.valkey["eu1"].url))
        before = dict(os.environ)
        os.environ.update(environment(stack.settings))
        await make_topics(stack.settings)
        supervisor = Supervisor(our_programs(load(config), config, stack.settings))
        watch = asyncio.create_task(supervisor.watch())
        try:
            await supervisor.up()
            yield House(stack, supervisor, load(config), log)
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            await supervisor.down()
            os.environ.clear()
            os.environ.update(before)
