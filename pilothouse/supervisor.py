"""Keeps Pilothouse's own programs running: starts them, starts those again that end, stops them in reverse.

A program that ends is started again after a pause that doubles from 0.2 s to 10 s and is forgotten after a minute of
health. Programs crash rather than limp (see the processors' watchdog), so this is part of the recovery protocol.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pilothouse.services.child import Child, Command

log = logging.getLogger(__name__)

LOOK_S = 0.2
PAUSE_S, PAUSE_MAX_S = 0.2, 10.0
HEALTHY_S = 60.0


class Program(Child):
    """One verb of ours as a child process, such as `ingest -c DIR`."""

    stop_timeout_s = 15

    def __init__(self, name: str, arguments: Sequence[str], home: Path, logs: Path) -> None:
        super().__init__(name, home, logs)
        self.arguments = list(arguments)

    @property
    def url(self) -> str:
        """Programs that listen do so on their remembered port."""
        return f"http://127.0.0.1:{self.port}"

    async def prepare(self) -> Command:
        """The verb under our own interpreter, with the remembered port where it asks for it."""
        given = [argument.replace("{port}", str(self.port)) for argument in self.arguments]
        return Command([sys.executable, "-m", "pilothouse", *given])

    async def check(self) -> str:
        """A program that runs is let be: it says in its log what it waits for."""
        return "" if self.running else "it has ended"


class Supervisor:
    """Runs programs until told to stop. `restarts` counts by name how often each had to be started again."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = list(programs)
        self.restarts: Counter[str] = Counter()
        self._resting: set[str] = set()

    async def up(self) -> None:
        """Start all, in order."""
        for program in self.programs:
            await program.start()

    async def watch(self) -> None:
        """Start again what ends, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for program in self.programs:
                tasks.create_task(self._keep(program))

    async def rest(self, program: Program) -> None:
        """Stop one and leave it stopped."""
        self._resting.add(program.name)
        await program.stop()

    async def down(self) -> None:
        """Stop all, in reverse."""
        for program in reversed(self.programs):
            await self.rest(program)

    async def _keep(self, program: Program) -> None:
        pause_s, since_s = PAUSE_S, time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            if program.running or program.name in self._resting:
                continue
            if time.monotonic() - since_s > HEALTHY_S:
                pause_s = PAUSE_S
            self.restarts[program.name] += 1
            log.info("starting a program again", extra={"program": program.name, "pause_s": pause_s})
            await asyncio.sleep(pause_s)
            pause_s, since_s = min(2 * pause_s, PAUSE_MAX_S), time.monotonic()
            await program.start()
