"""The servers that another program of ours runs on this machine, found by its data directory.

`pilothouse up` and `pilothouse demo` write down where their servers are (`services.json`, for their own user alone) and hold a
lock while they run. A command beside them that the environment tells nothing of a broker or a store takes theirs.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pilothouse.settings import Settings, kafka_of

SERVICES, LOCK, STORE = "services.json", "lock", "store"
DEMO = "demo"
"""The demo's data directory, in the default one."""


def with_running(settings: Settings) -> Settings:
    """The settings, with what is not set taken from servers that run on this machine."""
    for directory in (settings.data_dir, settings.data_dir / DEMO):
        if is_held(directory) and (found := services(directory)):
            return _filled(settings, found, directory)
    return settings


def services(directory: Path) -> Mapping[str, str]:
    """Addresses by name, as the program that runs them wrote them down; empty when nothing can be read."""
    with suppress(OSError, ValueError):
        found = json.loads((directory / SERVICES).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {str(name): str(url) for name, url in found.items()}
    return {}


def is_held(directory: Path) -> bool:
    """Whether a program runs servers in a data directory now."""
    with suppress(OSError), (directory / LOCK).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _filled(settings: Settings, found: Mapping[str, str], directory: Path) -> Settings:
    own: dict[str, object] = {}
    if settings.kafka is None and "kafka" in found:
        own["kafka"] = kafka_of(found["kafka"], {})
    if settings.database_url is None and f"postgres/{STORE}" in found:
        own["database_url"] = found[f"postgres/{STORE}"]
    if settings.redis_url is None and f"valkey/{STORE}" in found:
        own["redis_url"] = found[f"valkey/{STORE}"]
    return settings.model_copy(update={**own, "data_dir": directory})
