"""The embedded servers under one data directory, started together and stopped in reverse.

    async with Stack(settings, postgres=["store", "acme"]) as stack:
        stack.settings.database_url, stack.postgres["acme"].url, stack.kafka.restart()

The instances named `store` (and the broker) are the product's own: a URL in the settings takes their place, and they are
not started. Other names are servers to be watched, as the demo's estate has. On disk:

    DATA/lock  services.json  logs/NAME.log[.1-5]
    DATA/kafka  postgres/NAME  valkey/NAME      port, pid.json, data/ and the server's own files
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pilothouse.running import LOCK, SERVICES
from pilothouse.services import users
from pilothouse.services.child import Child, DataDirError
from pilothouse.services.kafka import Kafka
from pilothouse.services.postgres import Postgres
from pilothouse.services.valkey import Valkey
from pilothouse.settings import Settings

STORE = "store"
MARKER = "demo.json"
"""In the directory of a demo."""

ServerSettings = Mapping[str, str]
Instances = Iterable[str] | Mapping[str, ServerSettings]


class Stack:
    """The servers that `settings` leave to us.

    `postgres` and `valkey` name the instances; as a mapping, each name has parameters of postgresql.conf or directives
    of valkey.conf. Embedded: `kafka`, `postgres[name]`, `valkey[name]`. Once up, `settings` has every URL filled in.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        kafka: bool = True,
        postgres: Instances = (STORE,),
        valkey: Instances = (),
        open_kafka: bool = False,
    ) -> None:
        self.settings = settings
        self.data_dir = settings.data_dir
        self.user = users.server_user()
        user = self.user
        logs = self.data_dir / "logs"
        self.kafka = (
            Kafka(self.data_dir / "kafka", logs, settings.cache_dir, settings.kafka_jars_dir, user, is_open=open_kafka)
            if kafka and not settings.kafka
            else None
        )
        self.postgres = {
            name: Postgres(name, self.data_dir / "postgres" / name, logs, parameters, user)
            for name, parameters in _embedded(postgres, settings.database_url)
        }
        self.valkey = {
            name: Valkey(name, self.data_dir / "valkey" / name, logs, directives, user)
            for name, directives in _embedded(valkey, settings.redis_url)
        }
        self._lock: DirectoryLock | None = None

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.down()

    @property
    def children(self) -> list[Child]:
        """Every embedded server, in the order of starting."""
        return [*([self.kafka] if self.kafka else []), *self.postgres.values(), *self.valkey.values()]

    async def up(self) -> None:
        """Start what is not up, in parallel; return when all are healthy. Raises ServiceError, and then none is up."""
        self._make_data_dir()
        if self._lock is None:
            self._lock = DirectoryLock(self.data_dir)
        starts = [asyncio.create_task(child.start()) for child in self.children]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self.down()
            raise
        self.settings = self._filled_in()
        self._write_services()

    async def down(self) -> None:
        """Stop all in reverse and give the data directory free."""
        for child in reversed(self.children):
            await child.stop()
        self._services_file.unlink(missing_ok=True)
        if self._lock:
            self._lock.release()
            self._lock = None

    def _filled_in(self) -> Settings:
        own: dict[str, object] = {}
        if self.kafka:
            own["kafka"] = self.kafka.settings
        if STORE in self.postgres:
            own["database_url"] = self.postgres[STORE].url
        if STORE in self.valkey:
            own["redis_url"] = self.valkey[STORE].url
        return self.settings.model_copy(update=own)

    def _make_data_dir(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            if self._is_ours():
                users.open_the_way(self.data_dir, self.user)
            for name in ("postgres", "valkey"):
                (self.data_dir / name).mkdir(exist_ok=True)
                users.open_the_way(self.data_dir / name, self.user)
        except OSError as error:
            raise DataDirError(
                f"the data directory {self.data_dir} cannot be made: {error.strerror}; choose another with PILOTHOUSE_DATA"
            ) from error

    def _is_ours(self) -> bool:
        """Whether the directory is for nothing else, so that it may be closed to others."""
        found = {path.name for path in self.data_dir.iterdir()}
        return not found or LOCK in found or MARKER in found

    @property
    def _services_file(self) -> Path:
        return self.data_dir / SERVICES

    def _write_services(self) -> None:
        """For other programs on this machine: the URLs, with passwords, readable by us alone."""
        urls = {child.name: child.url for child in self.children}
        if self.settings.kafka:
            urls["kafka"] = self.settings.kafka.written or self.settings.kafka.bootstrap
        users.write(self._services_file, json.dumps(urls, indent=2) + "\n", None)


class DirectoryLock:
    """Holds a data directory for this program; the kernel gives it free when the program ends in any way."""

    def __init__(self, data_dir: Path) -> None:
        descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise DataDirError(
                f"the data directory {data_dir} is in use by process {holder}; "
                "stop that, or choose another directory with PILOTHOUSE_DATA"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        self._file.close()


def _embedded(instances: Instances, external_url: str | None) -> list[tuple[str, ServerSettings]]:
    settings = dict(instances) if isinstance(instances, Mapping) else {name: {} for name in instances}
    return [(name, own) for name, own in settings.items() if not (name == STORE and external_url)]
