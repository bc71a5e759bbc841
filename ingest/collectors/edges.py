"""Conditions of a target that last: told once when they begin and once when they end, not at every look."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ingest.collector import INFO, WARN, Target
from schemas.records import OperationsEvent, Record, Scalar


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a part of a target. `reason` is compared: another reason is another fault."""

    reason: str
    mend: str
    attributes: Mapping[str, Scalar] = field(default_factory=dict)


class Edges:
    """Turns the faults of each look into events at their edges. A restart of the program tells what lasts again."""

    def __init__(self, target: Target, begins: str = "collector.degraded", ends: str = "collector.restored") -> None:
        self._target, self._begins, self._ends = target, begins, ends
        self._known: dict[str, Fault] = {}

    @property
    def open(self) -> frozenset[str]:
        """The parts that were at fault at the last look."""
        return frozenset(self._known)

    def told(self, faults: Mapping[str, Fault], now_ms: int, tried: Collection[str] | None = None) -> list[Record]:
        """Events of this look, from the faults by the name of the part they are of.

        A part that was not tried this time stays as it was known; without `tried`, all were.
        """
        known = self._known
        untried = {part: fault for part, fault in known.items() if tried is not None and part not in tried}
        self._known = {**untried, **faults}
        new = {part: fault for part, fault in faults.items() if _differs(fault, known.get(part))}
        over = {part: fault for part, fault in known.items() if part not in self._known}
        return [
            *(self._event(self._begins, WARN, part, fault, fault.mend, now_ms) for part, fault in new.items()),
            *(self._event(self._ends, INFO, part, fault, "It is over", now_ms) for part, fault in over.items()),
        ]

    def _event(self, name: str, severity: int, part: str, fault: Fault, outlook: str, now_ms: int) -> Record:
        return OperationsEvent(
            **self._target.identity(),
            time_ms=now_ms,
            tenant=self._target.resource.tenant,
            name=name,
            severity_number=severity,
            body=f"{self._target.resource.name}: {part}: {fault.reason}. {outlook}."[:16_000],
            attributes={"pilothouse.collector.part": part, **fault.attributes},
        )


def _differs(fault: Fault, known: Fault | None) -> bool:
    return known is None or known.reason != fault.reason
