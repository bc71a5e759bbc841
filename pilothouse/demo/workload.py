"""The demo's Odoo of one cell: a master that forks its processes, as Odoo's prefork server does. It stands in for Odoo.

    python -m pilothouse.demo.workload      the cell as one JSON line on standard input, then commands, one a line

A process for the web, two for each tenant (its people; its workers for jobs and crons), and one for each batch that a
fault has ordered. They are forked before they run anything, so they share the interpreter's pages. Commands:

    {"release": "2.4.1", "quality": "broken", "tenants": ["acme"]}    stop these workers, start the release's
    {"batch": "edi", "tenant": "delta", "strength": 1.0}              start a batch;  {"batch": null, ...} ends them
    {"load": 2.0, "tenant": "acme"}                                   a factor on the calendar's load

Each is answered on standard output with {"pids": {NAME: PID}}. The end of standard input ends everything: nothing
outlives the program that started it, also when that is killed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilothouse.demo import batches, workers
from pilothouse.demo.company import Plan
from pilothouse.demo.odoo_log import INFO, WARNING, OdooLog
from pilothouse.demo.people import People
from pilothouse.demo.web import Web
from pilothouse.demo.workers import Workers

SERVER = "odoo.service.server"
RESPAWN_S = 2.0  # Odoo starts a dead worker again at once; a pause keeps a bad release from filling the disk
LOOK_S = 0.2
STOP_S = 3.0

Run = Callable[["Told"], Awaitable[None]]


class Told:
    """What the master tells a child while it runs."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.hear: Callable[[dict[str, Any]], None] = lambda _: None
        self._rest = b""

    def read(self) -> None:
        """Take in what has come; the end of the pipe is the end of the master."""
        data = os.read(self.pipe, 65_536)
        if not data:
            os._exit(0)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.hear(json.loads(line))


@dataclass(slots=True)
class Process:
    """One child. `run` makes it anew when it has died; `due_s` is when, on the monotonic clock."""

    name: str
    run: Run
    pid: int = 0
    pipe: int = -1
    due_s: float = 0.0
    wanted: bool = True


@dataclass
class Master:
    """Starts children, starts those again that die, and does as it is told."""

    cell: dict[str, Any]
    log: OdooLog
    plan: Plan
    processes: dict[str, Process] = field(default_factory=dict)

    def start(self) -> None:
        """Everything that a healthy cell runs."""
        self.add("web", lambda _: Web(self.cell, self.log).work())
        for tenant in self.cell["tenants"]:
            self.add(f"people/{tenant['name']}", self._people(tenant))
            self.add(f"workers/{tenant['name']}", self._workers(tenant, workers.SOUND))

    def add(self, name: str, run: Run) -> None:
        """A child by this name, in place of the one that has it."""
        self.remove(name)
        self.processes[name] = Process(name, run)
        self._fork(self.processes[name])

    def remove(self, name: str) -> None:
        """End a child and wait for its end."""
        process = self.processes.pop(name, None)
        if process and process.pid:
            _end(process)

    def obey(self, command: dict[str, Any]) -> None:
        """Do one command."""
        if "release" in command:
            self._release(command["release"], command["quality"], command["tenants"])
        elif "batch" in command:
            self._batch(command)
        else:
            self._tell(f"people/{command['tenant']}", command)

    def tend(self, now_s: float) -> None:
        """Notice the dead, and start again those whose time has come."""
        for process in self.processes.values():
            if process.pid and _has_ended(process.pid):
                self.log.write(WARNING, "?", SERVER, f"Worker ({process.pid}) has died, {process.name}")
                _forget(process)
                process.due_s = now_s + RESPAWN_S
            if not process.pid and now_s >= process.due_s:
                self._fork(process)

    def stop(self) -> None:
        """End all."""
        for process in self.processes.values():
            if process.pid:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)
        for name in list(self.processes):
            self.remove(name)

    def pids(self) -> dict[str, int]:
        """Children that live, the master among them."""
        return {"master": os.getpid()} | {one.name: one.pid for one in self.processes.values() if one.pid}

    def _release(self, version: str, quality: str, tenants: list[str]) -> None:
        self.log.write(INFO, "?", SERVER, f"Odoo release {version} for {', '.join(tenants)}")
        for tenant in self.cell["tenants"]:
            if tenant["name"] in tenants:
                self.add(f"workers/{tenant['name']}", self._workers(tenant, quality))

    def _batch(self, command: dict[str, Any]) -> None:
        name = f"batch/{command['tenant']}"
        (tenant,) = [one for one in self.cell["tenants"] if one["name"] == command["tenant"]]
        kind, strength = command["batch"], command.get("strength", 1.0)
        if kind is None:
            self.remove(name)
        else:
            self.add(name, lambda _: batches.run(tenant, kind, strength))

    def _tell(self, name: str, command: dict[str, Any]) -> None:
        process = self.processes.get(name)
        if process and process.pid:
            os.write(process.pipe, json.dumps(command).encode() + b"\n")

    def _people(self, tenant: dict[str, Any]) -> Run:
        async def run(told: Told) -> None:
            people = People(tenant, self.plan, self.cell["valkey_url"], self.log)
            told.hear = lambda command: setattr(people, "faster", command["load"])
            await people.work()

        return run

    def _workers(self, tenant: dict[str, Any], quality: str) -> Run:
        return lambda _: Workers(tenant, self.cell["valkey_url"], self.log, quality).work()

    def _fork(self, process: Process) -> None:
        reading, writing = os.pipe()
        process.pid = os.fork()
        if process.pid:
            os.close(reading)
            process.pipe = writing
            return
        # Only the master holds the other ends, so that its end is the end of every pipe.
        for pipe in (writing, *(one.pipe for one in self.processes.values() if one.pipe >= 0), sys.stdin.fileno()):
            os.close(pipe)
        _be(process.run, Told(reading))


def _be(run: Run, told: Told) -> None:
    """Life of a child."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = 1
    try:
        asyncio.run(_live(run, told))
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        # Nothing of the master's may run on in its copy.
        sys.stderr.flush()
        os._exit(status)


async def _live(run: Run, told: Told) -> None:
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(run(told))
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    loop.add_reader(told.pipe, told.read)
    with suppress(asyncio.CancelledError):
        await work


def _has_ended(pid: int) -> bool:
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    return True


def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    limit_s = time.monotonic() + STOP_S
    while not _has_ended(process.pid):
        if time.monotonic() > limit_s:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.01)
    _forget(process)


def _forget(process: Process) -> None:
    if process.pipe >= 0:
        os.close(process.pipe)
    process.pid, process.pipe = 0, -1


def main() -> None:
    """Run a cell until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cell = json.loads(sys.stdin.readline())
    log = OdooLog(Path(cell["log"]))
    master = Master(cell, log, Plan.of(cell["plan"]))
    log.write(INFO, "?", "odoo", "Stands in for Odoo: a workload of Pilothouse's demo")
    # Objects that live for ever are left where they are, so that children go on sharing their pages.
    gc.collect()
    gc.freeze()
    master.start()
    try:
        _obey_until_end(master)
    finally:
        master.stop()


def _obey_until_end(master: Master) -> None:
    _answer(master)
    stdin = sys.stdin.fileno()
    os.set_blocking(stdin, False)
    rest = b""
    with selectors.DefaultSelector() as ready:
        ready.register(stdin, selectors.EVENT_READ)
        while True:
            if ready.select(LOOK_S):
                data = os.read(stdin, 65_536)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    master.obey(json.loads(line))
                    _answer(master)
            master.tend(time.monotonic())


def _answer(master: Master) -> None:
    sys.stdout.write(json.dumps({"pids": master.pids()}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
