"""Episodes: one finding, told when it opens, when it changes and when it ends, under one id.

The id is made of the cell, the step, the key and the time at which it opened, so the same input gives the same id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from processors.evidence import NAME_MAX, name_of
from schemas.records import Phase, Record, Severity, Signal


@dataclass(slots=True)
class Open:
    """An episode that has not ended, as it was last told."""

    signal: Signal
    seen_ms: int


class Episodes:
    """The open episodes of one unit of a step, by key."""

    def __init__(self, open_by_key: dict[str, Open] | None = None) -> None:
        self.open = {} if open_by_key is None else open_by_key

    def seen(self, *, key: str, time_ms: int, tell_every_ms: int = 30_000, **fields: Any) -> list[Record]:
        """The condition holds at `time_ms`: opens the episode, or tells it again when it got worse or time has passed.

        `fields` are those of the signal. Worse means more tenants, a higher severity or another cause.
        """
        fields = _fitted(fields)
        if self.is_old(key, time_ms, fields["severity"], fields["cause"], fields.get("tenants", ()), tell_every_ms):
            return []
        known = self.open.get(key)
        if known is None:
            identity = signal_id(fields["cell"], fields["detector"], key, time_ms)
            signal = Signal(id=identity, phase=Phase.OPEN, time_ms=time_ms, started_ms=time_ms, **fields)
            self.open[key] = Open(signal=signal, seen_ms=time_ms)
            return [signal]
        known.seen_ms, last = time_ms, known.signal
        known.signal = Signal(id=last.id, phase=Phase.UPDATED, time_ms=time_ms, started_ms=last.started_ms, **fields)
        return [known.signal]

    def is_old(
        self,
        key: str,
        time_ms: int,
        severity: Severity,
        cause: str,
        tenants: Collection[str] = (),
        tell_every_ms: int = 30_000,
    ) -> bool:
        """The condition holds at `time_ms`: whether that is no news, so that nobody need compose a signal for `seen`."""
        known = self.open.get(key)
        if known is None:
            return False
        last = known.signal
        if severity > last.severity or cause != last.cause or not set(last.tenants).issuperset(tenants):
            return False
        if time_ms - last.time_ms >= tell_every_ms:
            return False
        known.seen_ms = time_ms
        return True

    def all_old(self, time_ms: int, tell_every_ms: int = 30_000) -> bool:
        """All that is open holds at `time_ms` as it was last told: whether that is no news of any."""
        if any(time_ms - one.signal.time_ms >= tell_every_ms for one in self.open.values()):
            return False
        for one in self.open.values():
            one.seen_ms = time_ms
        return True

    def close(self, key: str, time_ms: int) -> list[Record]:
        """The condition is over; nothing when it was not open."""
        known = self.open.pop(key, None)
        if known is None:
            return []
        return [
            known.signal.model_copy(update={"phase": Phase.RESOLVED, "time_ms": max(time_ms, known.signal.time_ms)})
        ]

    def close_others(self, still: set[str], time_ms: int) -> list[Record]:
        """Close every episode whose key is not in `still`."""
        return [told for key in list(self.open) if key not in still for told in self.close(key, time_ms)]

    def close_unseen(self, before_ms: int, time_ms: int) -> list[Record]:
        """Close every episode that was not seen since `before_ms`."""
        gone = [key for key, one in self.open.items() if one.seen_ms < before_ms]
        return [told for key in gone for told in self.close(key, time_ms)]

    def dump(self) -> dict[str, Any]:
        """As JSON says it."""
        data: dict[str, Any] = _OPEN.dump_python(self.open, mode="json")
        return data

    @classmethod
    def load(cls, data: dict[str, Any]) -> Episodes:
        """What `dump` gave."""
        return cls(_OPEN.validate_python(data))


def _fitted(fields: dict[str, Any]) -> dict[str, Any]:
    """Names that others have given, as a record may hold them."""
    names = ("cause", "resource", "tenant")
    if all(_is_name(fields.get(name)) for name in names) and all(map(_is_name, fields.get("tenants", ()))):
        return fields
    fitted = {name: name_of(fields[name]) for name in names if fields.get(name) is not None}
    return {**fields, **fitted, "tenants": tuple(map(name_of, fields.get("tenants", ())))}


def _is_name(text: str | None) -> bool:
    return text is None or (0 < len(text) <= NAME_MAX and text.isprintable() and " " not in text)


_OPEN = TypeAdapter(dict[str, Open])


def signal_id(*parts: object) -> str:
    """A short id of its parts: the same parts, the same id."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=10).hexdigest()
