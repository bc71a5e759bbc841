"""Keeps Pilothouse's own programs running: starts them, starts those again that end, stops them in reverse.

A program that ends is started again after a pause that doubles from 0.2 s to 10 s and is forgotten after a minute of
health. Programs crash rather than limp (see the processors' watchdog), so this is part of the recovery protocol. Why it
ended is said each time, from its log. What cannot get better by itself is given up: a misconfiguration (exit code 2), and a
program that has never run for a minute and failed five times within seconds of its start. What needs something outside
that is away (exit code 3), or was killed, is started again for as long as it takes.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pilothouse.errors import Misuse
from pilothouse.services.child import Child, Command

log = logging.getLogger(__name__)

LOOK_S = 0.2
QUICK_S, QUICK_MAX = 10.0, 5
MISCONFIGURED, AWAY = 2, 3
PAUSE_S, PAUSE_MAX_S = 0.2, 10.0
HEALTHY_S = 60.0


class GivenUp(Misuse):
    """A program cannot run as it is set up; the message has the end of its log."""


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
        """Start again what ends, until cancelled. Raises GivenUp, in a group, for what cannot get better by itself."""
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
        pause_s, since_s, quick, was_healthy = PAUSE_S, time.monotonic(), 0, False
        while True:
            await asyncio.sleep(LOOK_S)
            lasted_s = time.monotonic() - since_s
            if program.running or program.name in self._resting:
                continue
            if lasted_s > HEALTHY_S:
                pause_s, was_healthy = PAUSE_S, True
            code, words = program.exit_code, program.last_words()
            failed = code is not None and code > 0 and code != AWAY
            quick = quick + 1 if failed and lasted_s < QUICK_S + pause_s and not was_healthy else 0
            if code == MISCONFIGURED or quick >= QUICK_MAX:
                times = "" if code == MISCONFIGURED else f" for the {quick}th time within seconds of its start"
                raise GivenUp(f"{program.name} ended with exit code {code}{times}. The end of {program.log}:\n{words}")
            self.restarts[program.name] += 1
            log.warning(
                "a program ended and is started again",
                extra={
                    "program": program.name,
                    "exit_code": code,
                    "pause_s": pause_s,
                    "log": program.log,
                    "reason": _last(words),
                },
            )
            await asyncio.sleep(pause_s)
            pause_s, since_s = min(2 * pause_s, PAUSE_MAX_S), time.monotonic()
            await program.start()


def _last(words: str) -> str:
    """The line that most often says why: the last one."""
    return next((line.strip() for line in reversed(words.splitlines()) if line.strip()), "(it said nothing)")
