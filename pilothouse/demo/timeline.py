"""When what happens in the demo: pure planning, in seconds after the first live record.

Baselines need a minute of the present before the first fault: weeks of quarter hours teach what is usual, not how
much two seconds scatter.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.errors import Misuse

LEARN_S = 58.0
FAULT_S = 24.0
REST_S = 17.0
TAIL_S = 6.0
STRETCH_S = 20.0

ORDER = ("S1", "S10", "S12", "S2", "S5", "S4")
SETS = ("all", "weak", "double", "none")


@dataclass(frozen=True, slots=True)
class Slot:
    """Begin and end of one thing, seconds after the first live record."""

    starts_s: float
    ends_s: float


class TimelineError(Misuse, ValueError):
    """A demo that cannot be laid out as asked."""


def chosen(scenario: str) -> tuple[str, ...]:
    """Names of single scenarios. Raises TimelineError naming what is unknown."""
    names = tuple(name.strip().upper() for name in scenario.split(","))
    if unknown := [name for name in names if name not in ORDER]:
        known = ", ".join((*SETS, *ORDER))
        raise TimelineError(f"scenario {unknown[0]!r} is unknown; known are {known}")
    return names


def slots(count: int, seconds: float) -> list[Slot]:
    """Lay `count` things out over `seconds`; 0 takes as long as it needs. Raises TimelineError when they do not fit."""
    needed = LEARN_S + count * (FAULT_S + REST_S) - REST_S + TAIL_S if count else 0.0
    if seconds and needed > seconds:
        raise TimelineError(f"{count} scenarios take {needed:.0f} s; --for {seconds:.0f} is too short for them")
    spare_s = max(seconds - needed, 0.0) / max(count, 1) if seconds else 0.0
    step_s = FAULT_S + REST_S + min(spare_s, STRETCH_S)
    return [Slot(LEARN_S + number * step_s, LEARN_S + number * step_s + FAULT_S) for number in range(count)]
