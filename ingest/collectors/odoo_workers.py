"""Looks at Odoo's processes and its HTTP socket in /proc of the host it runs on, 16-19: who is there, who is busy, who waits.

A prefork HTTP worker takes one connection, answers, closes it. So every connection on the port that a process has taken is a
busy worker, and what the kernel has accepted and nobody has taken yet waits for one: the queue before the workers, seen
from outside and without any right but to read /proc. Cron workers run at a niceness of 10, and the gevent
process has its word in the command line; so they are told apart also without `setproctitle`.

Any user of the host names his processes as he likes, so what /proc says is read as foreign text: an entry that cannot be read
or understood costs itself and is counted. A worker that starts and ends between two looks is not seen here; the log tells it.

Source: odoo/service/server.py (PreforkServer, WorkerHTTP, WorkerCron); Linux, proc(5); net/ipv4/tcp_ipv4.c, where the
rx_queue of a listening socket is the length of its accept queue and a connection not yet accepted has no inode.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from ingest.collector import Collected, CollectorKind, Options, Target, Unavailable
from ingest.threads import HangsError, Threads
from schemas.series import identity

Points = dict[str, float | None]

PROGRAMS = frozenset({"odoo", "odoo-bin", "odoo.py", "openerp-server"})
TITLE = re.compile(r"^odoo: Worker(HTTP|Cron|Job)")
TYPES = ("http", "cron", "gevent")
CRON_NICENESS = 10
ESTABLISHED, CLOSE_WAIT, LISTEN = 0x01, 0x08, 0x0A
FILES = re.compile(r"^Max open files[ \t]{1,64}([0-9]{1,19})[ \t]", re.MULTILINE)
MAX_COMMAND_BYTES = 65_536
READ_SHARE = 0.8  # of the resource's time-out


class OdooWorkersOptions(Options):
    """What the estate may say about the Odoo server on this host."""

    http_port: int = Field(8069, ge=1, le=65535, description="Port of the workers (http_port).")
    gevent_port: int = Field(8072, ge=1, le=65535, description="Port of the gevent process (gevent_port).")
    command: str = Field("", description="What its command line holds, where several Odoo servers share a host.")
    proc: str = Field("/proc", description="Where the host's /proc is mounted.")


class Process(NamedTuple):
    """One process as /proc tells it. `started` with `pid` names it for good: pids come again."""

    pid: int
    parent: int
    niceness: int
    started: int
    command: tuple[str, ...]

    @property
    def is_odoo(self) -> bool:
        """Whether its command line is Odoo's."""
        names = (Path(word).name for word in self.command[:4])
        return bool(self.command) and (bool(TITLE.match(self.command[0])) or not PROGRAMS.isdisjoint(names))

    @property
    def type(self) -> str:
        """Which of Odoo's processes a child of its master is."""
        title = TITLE.match(" ".join(self.command))
        if title:
            return "cron" if title[1] == "Cron" else "http" if title[1] == "HTTP" else "job"
        if "gevent" in self.command:
            return "gevent"
        return "cron" if self.niceness >= CRON_NICENESS else "http"


class Port(NamedTuple):
    """Connections of a port: taken by a process, and waiting to be."""

    taken: int
    waiting: int
    listens: bool
    unreadable: int = 0
    """Lines that are none of /proc/net/tcp."""


class Seen(NamedTuple):
    """The processes of a look, and how many entries could not be read or understood; one that has ended is none."""

    processes: list[Process]
    unreadable: int


class OdooWorkers:
    """Remembers the workers it has seen, to count those that have started."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._options = target.options(OdooWorkersOptions)
        self._threads = Threads("odoo_workers", target.resource.timeout_s * READ_SHARE)
        self._known: set[tuple[int, int]] | None = None
        self._started: Counter[str] = Counter()
        self._since_ms = 0

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """One look. Raises Unavailable when no Odoo server runs there, or when /proc is not there."""
        try:
            seen, http, gevent = await self._threads.run("proc", self._look)
        except HangsError as error:
            mend = "See which process the kernel holds: state D, the kernel's log"
            raise Unavailable(self._target.resource.name, f"{self._options.proc}: {error}", mend) from error
        except OSError as error:
            why = f"{self._options.proc} cannot be read: {error.strerror or type(error).__name__}"
            mend = "Mount the host's /proc there, or say with the option proc where it is"
            raise Unavailable(self._target.resource.name, why, mend) from error
        workers = self._workers([one for one in seen.processes if one.command])
        if not workers and not http.listens:
            raise Unavailable(
                self._target.resource.name,
                f"no Odoo server in {self._options.proc} and nobody listens on port {self._options.http_port}",
                "See that Odoo runs on this host, and the options http_port, command and proc",
            )
        if self._known is None:
            self._since_ms = now_ms
        points = self._points(workers, http, gevent)
        points[self._series("odoo.worker.unreadable")] = float(seen.unreadable + http.unreadable)
        return Collected([self._target.scrape(points, now_ms, start_time_ms=self._since_ms)])

    async def close(self) -> None:
        """Nothing is held between looks."""

    def _look(self) -> tuple[Seen, Port, Port]:
        return (_processes(Path(self._options.proc)), *self._ports())

    def _points(self, workers: list[Process], http: Port, gevent: Port) -> Points:
        now = {(one.pid, one.started) for one in workers}
        new = [one for one in workers if self._known is not None and (one.pid, one.started) not in self._known]
        self._known = now
        self._started.update(one.type for one in new)
        points: Points = {}
        types = sorted({*TYPES, *(one.type for one in workers)})
        for kind in types:
            mine = [one.pid for one in workers if one.type == kind]
            points[self._series("odoo.worker.count", kind)] = float(len(mine))
            points[self._series("odoo.worker.started", kind)] = float(self._started[kind])
            open_files, limit = self._files(mine)
            points[self._series("odoo.worker.files", kind)] = open_files
            points[self._series("odoo.worker.files.max", kind)] = limit
        points[self._series("odoo.worker.busy", "http")] = float(http.taken)
        points[self._series("odoo.worker.waiting", "http")] = float(http.waiting)
        points[self._series("odoo.websocket.connections")] = float(gevent.taken)
        return points

    def _series(self, name: str, kind: str | None = None) -> str:
        tenant = self._target.resource.tenant
        attributes = {"tenant.id": tenant} if tenant else {}
        return identity(name, attributes | ({"odoo.worker.type": kind} if kind else {}))

    def _workers(self, processes: list[Process]) -> list[Process]:
        """Children of the masters: an Odoo process whose parent is none."""
        odoo = {one.pid: one for one in processes if one.is_odoo}
        masters = {
            one.pid
            for one in odoo.values()
            if one.parent not in odoo and self._options.command in " ".join(one.command)
        }
        return [one for one in processes if one.parent in masters]

    def _ports(self) -> tuple[Port, Port]:
        lines = [line for name in ("tcp", "tcp6") for line in _lines(Path(self._options.proc) / "net" / name)]
        return port(lines, self._options.http_port), port(lines, self._options.gevent_port)

    def _files(self, pids: Iterable[int]) -> tuple[float | None, float | None]:
        """Most open files of one of them, and what one may have; unmeasured where they belong to somebody else."""
        most: float | None = None
        limit: float | None = None
        for pid in pids:
            place = Path(self._options.proc) / str(pid)
            try:
                count = float(sum(1 for _ in (place / "fd").iterdir()))
                found = FILES.search((place / "limits").read_bytes().decode(errors="replace"))
            except OSError:  # gone meanwhile, or closed to us
                continue
            if found and (most is None or count > most):
                most, limit = count, float(found[1])
        return most, limit


def port(lines: Iterable[str], number: int) -> Port:
    """Connections of a port from the lines of /proc/net/tcp. A line that is none costs itself and is counted."""
    taken = waiting = unreadable = 0
    listens = False
    for fields in map(str.split, lines):
        try:
            if int(fields[1].rpartition(":")[2], 16) != number:
                continue
            state, queue, inode = int(fields[3], 16), int(fields[4].partition(":")[2], 16), int(fields[9])
        except (ValueError, IndexError):
            unreadable += 1
            continue
        if state == LISTEN:
            listens, waiting = True, waiting + queue
        elif state in (ESTABLISHED, CLOSE_WAIT) and inode:
            taken += 1
    return Port(taken, waiting, listens, unreadable)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode(errors="replace").splitlines()[1:]
    except OSError:  # a kernel without IPv6
        return []


def _processes(proc: Path) -> Seen:
    processes: list[Process] = []
    unreadable = 0
    for name in os.listdir(proc):
        if not (name.isascii() and name.isdecimal()):
            continue
        try:
            processes.append(_process(proc / name))
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        except (OSError, ValueError, IndexError):
            unreadable += 1
    return Seen(processes, unreadable)


def _process(place: Path) -> Process:
    """Raises OSError, ValueError or IndexError when an entry is not as proc(5) has it."""
    stat = (place / "stat").read_bytes().decode(errors="replace")
    with (place / "cmdline").open("rb") as file:
        command = file.read(MAX_COMMAND_BYTES)
    # The name stands in parentheses and may hold anything, other parentheses among it.
    fields = stat.rpartition(")")[2].split()
    words = tuple(word.decode(errors="replace") for word in command.split(b"\0") if word)
    return Process(int(place.name), int(fields[1]), int(fields[16]), int(fields[19]), words)


KIND = CollectorKind("odoo_workers", OdooWorkers, OdooWorkersOptions)
