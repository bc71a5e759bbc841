"""Brings what the spool holds to Kafka, and says every second how far it has observed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from ingest.counts import Counts
from ingest.rounds import Connect, Rounds
from ingest.spool import Row, Spool, SpoolFull
from schemas.records import DeadLetter

ROUND_BYTES = 4_000_000
HEARTBEAT_S = 0.5
DISK_PAUSE_S = 1.0


class Publisher:
    """Drains `spool` through producers that `connect` makes. Any await may be cancelled: the rows stay."""

    def __init__(
        self, spool: Spool, connect: Connect, *, counts: Counts | None = None, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._spool, self._heartbeat_s = spool, heartbeat_s
        self._rounds = Rounds(connect, source=spool.source, counts=counts)

    async def run(self) -> None:
        """Send and beat until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                tasks.create_task(self._drain())
        finally:
            await self._rounds.close()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            # On a full disk there is no heartbeat: the time that readers see stands still, which is true.
            with contextlib.suppress(SpoolFull):
                await self._spool.beat()
            due_s = max(due_s + self._heartbeat_s, loop.time())
            await asyncio.sleep(due_s - loop.time())

    async def _drain(self) -> None:
        sent: Sequence[Row] = ()
        refused: list[DeadLetter] = []
        while True:
            sent = await self._next(sent, refused)
            if sent:
                refused = await self._rounds.send(sent)
            else:
                refused = []
                await self._spool.filled.wait()

    async def _next(self, sent: Sequence[Row], refused: Sequence[DeadLetter]) -> Sequence[Row]:
        while True:
            try:
                return await self._spool.advance(sent, letters=refused, max_bytes=ROUND_BYTES)
            except SpoolFull:
                await asyncio.sleep(DISK_PAUSE_S)
