"""Conditions of a target that last: told once when they begin and once when they end, not at every look.

What was told is remembered in the target's position, in the same transaction as the events that told it. So an edge that
the spool did not keep is told at the next look, and a restart of the program neither repeats nor forgets one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, ValidationError

from ingest.collector import INFO, WARN, Collected, Fault, Target
from ingest.readable import readable
from schemas.masking import masked
from schemas.records import OperationsEvent, Scalar

MAX_PARTS = 500
"""Faulty parts of one target that are told one by one; the others are counted."""
MAX_TEXT = 2_000
_HEAD = '{"edges":1,'


class Known(BaseModel):
    """A fault that was told."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    reason: str
    ends: str


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    edges: int = 1
    down: bool = False
    faults: dict[str, Known] = {}
    has_position: bool = False


@dataclass(frozen=True, slots=True)
class Edges:
    """What was told of one target: whether it is down, and the fault of each part."""

    target: Target
    is_down: bool = False
    known: Mapping[str, Known] = field(default_factory=dict)

    def after(self, seen: Collected, now_ms: int) -> tuple[list[OperationsEvent], Edges, int]:
        """Events of this look, what is known after them, and how many faults had no room."""
        faults = dict(list(seen.faults.items())[:MAX_PARTS])
        tried = None if seen.tried is None else {*seen.tried, *faults}
        untried = {part: one for part, one in self.known.items() if tried is not None and part not in tried}
        new = {part: one for part, one in faults.items() if _differs(one, self.known.get(part))}
        over = {part: one for part, one in self.known.items() if part not in faults and part not in untried}
        now = {
            part: Known(key=_short(one.compared), reason=_short(one.reason), ends=one.ends)
            for part, one in faults.items()
        }
        events = [
            *(
                self._event(one.begins, WARN, part, one.reason, one.mend, one.attributes, now_ms)
                for part, one in new.items()
            ),
            *(self._event(one.ends, INFO, part, one.reason, "It is over", {}, now_ms) for part, one in over.items()),
        ]
        return events, replace(self, known={**untried, **now}, is_down=False), len(seen.faults) - len(faults)

    def down(self) -> Edges:
        """The same, once it was told that the target is away."""
        return replace(self, is_down=True)

    def stored(self, position: str | None) -> str | None:
        """The position together with what was told; the position alone while there is nothing to remember."""
        if not self.is_down and not self.known:
            return position
        head = _Stored(down=self.is_down, faults=dict(self.known), has_position=position is not None)
        return f"{head.model_dump_json()}\n{position or ''}"

    @classmethod
    def restored(cls, target: Target, stored: str | None) -> tuple[Edges, str | None]:
        """What was told and the position, from what was stored; a position of an earlier release is one alone."""
        if not stored or not stored.startswith(_HEAD):
            return cls(target), stored or None
        head, _, position = stored.partition("\n")
        try:
            known = _Stored.model_validate_json(head)
        except ValidationError:
            return cls(target), position or None
        return cls(target, known.down, known.faults), position if known.has_position else None

    def _event(
        self, name: str, severity: int, part: str, reason: str, outlook: str, more: Mapping[str, Scalar], now_ms: int
    ) -> OperationsEvent:
        attributes = {"pilothouse.collector.part": part, **more}
        return OperationsEvent(
            **self.target.identity(),
            time_ms=now_ms,
            tenant=self.target.resource.tenant,
            name=name,
            severity_number=severity,
            body=masked(readable(f"{self.target.resource.name}: {part}: {reason}. {outlook}.")),
            attributes={
                key: masked(readable(value)) if isinstance(value, str) else value for key, value in attributes.items()
            },
        )


def _differs(fault: Fault, known: Known | None) -> bool:
    return known is None or known.key != _short(fault.compared)


def _short(text: str) -> str:
    return masked(readable(text, MAX_TEXT))
