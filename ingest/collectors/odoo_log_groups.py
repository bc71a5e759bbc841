"""Like things of one look at an Odoo log that are told as one event: workers recycled, modules loaded, no connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ingest.collector import ERROR, INFO
from schemas.records import Scalar

MAX_NAMES = 50  # of modules in one event

Told = tuple[int, str, dict[str, Scalar]]
"""Severity number, body and attributes of an event."""


@dataclass(slots=True)
class Group:
    """Like things of one look, told as one event."""

    time_ms: int
    count: int = 0
    seconds: float = 0.0
    names: list[str] = field(default_factory=list)

    def add(self, time_ms: int, seconds: float, name: str) -> None:
        """One more; beyond the bound it is counted without its name."""
        self.time_ms = max(self.time_ms, time_ms)
        self.count, self.seconds = self.count + 1, self.seconds + seconds
        if name and len(self.names) < MAX_NAMES:
            self.names.append(name)


def _recycled(reason: str, group: Group) -> Told:
    attributes: dict[str, Scalar] = {"odoo.worker.limit": reason, "odoo.worker.count": group.count}
    return INFO, f"{group.count} Odoo workers were recycled: {reason} reached", attributes


def _modules(reason: str, group: Group) -> Told:
    names = ",".join(group.names)
    attributes: dict[str, Scalar] = {"odoo.module.count": group.count, "odoo.module.names": names}
    attributes["odoo.module.duration"] = round(group.seconds, 3)
    return INFO, f"{group.count} modules were installed or upgraded: {names[:200]}", attributes


def _pool_full(reason: str, group: Group) -> Told:
    return ERROR, f"No database connection was to be had, {group.count} times", {"odoo.pool.count": group.count}


GROUPS: dict[str, Callable[[str, Group], Told]] = {
    "odoo.worker.recycled": _recycled,
    "odoo.module.loaded": _modules,
    "odoo.pool.full": _pool_full,
}
"""By the event's name, what is said of a group and its reason."""
