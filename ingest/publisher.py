"""Brings what the spool holds to Kafka, and says every second how far it has observed.

It says so to the partitions that hold one of its cells: those that the estate declares, and those of which a record came. What is
told of a cell needs time to go on until it is ended, and what is open in a cell nobody can tell here, for the bus is the only
contact with those who know. So a cell is beaten on for `LINGERS_MS` after it was heard of last, twice the time after which the
last of them (an incident of the fleet) is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

from ingest.counts import Counts
from ingest.rounds import Connect, Rounds
from ingest.spool import Row, Spool, SpoolFull
from schemas.records import DeadLetter

ROUND_BYTES = 4_000_000
HEARTBEAT_S = 1.0
LINGERS_MS = 48 * 3_600_000
DISK_PAUSE_S = 1.0


class Publisher:
    """Drains `spool` through producers that `connect` makes. Any await may be cancelled: the rows stay."""

    def __init__(
        self,
        spool: Spool,
        connect: Connect,
        *,
        counts: Counts | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        cells: Iterable[str] = (),
    ) -> None:
        """`cells` are those of the estate."""
        self._spool, self._heartbeat_s, self._declared = spool, heartbeat_s, frozenset(cells)
        self._rounds = Rounds(connect, source=spool.source, counts=counts, cells=self.beaten, clock=spool.now_ms)

    def beaten(self) -> frozenset[str]:
        """Cells whose partitions are beaten on now."""
        since_ms = self._spool.now_ms() - LINGERS_MS
        return self._declared.union(name for name, seen_ms in self._spool.cells.items() if seen_ms >= since_ms)

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
