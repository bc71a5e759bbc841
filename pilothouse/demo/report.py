"""What the demo saw, set against what was done: the figures of `--report`.

An incident belongs to a fault when it opens in the fault's cell between the injection and a while after the healing. What
belongs to none is a false alarm. All times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.records import Incident, Phase, Signal

AFTER_S = 20.0


@dataclass
class Done:
    """A fault that was injected, or a peak that was to be expected."""

    name: str
    cell: str
    cause: str | None
    tenants: tuple[str, ...]
    injected_s: float
    healed_s: float = 0.0

    def covers(self, seen_s: float, ended_s: float | None = None) -> bool:
        """Whether something seen then may be its doing."""
        return self.injected_s <= seen_s <= (self.healed_s or seen_s) + AFTER_S


@dataclass
class Seen:
    """Incidents and signals in the order in which they arrived, with the Unix second of arrival."""

    incidents: list[tuple[float, Incident]] = field(default_factory=list)
    signals: list[tuple[float, Signal]] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    def of(self, fault: Done) -> list[tuple[float, Incident]]:
        """Tellings of the incidents that belong to a fault."""
        began = [one.id for at_s, one in self.incidents if opens(one) and one.cell == fault.cell and fault.covers(at_s)]
        mine = [(at_s, one) for at_s, one in self.incidents if one.id in began]
        right = [pair for pair in mine if pair[1].causes[0].cause == fault.cause]
        wanted = {one.id for _, one in right} or {one.id for _, one in mine[:1]}
        return [pair for pair in mine if pair[1].id in wanted]


def opens(incident: Incident) -> bool:
    """Whether it is told for the first time, or again after it was over: the same trouble soon after is one incident."""
    return incident.phase is Phase.OPEN


def build(faults: Sequence[Done], peaks: Sequence[Done], seen: Seen, stored: dict[str, int]) -> dict[str, Any]:
    """The report. `stored` has records_in, points_in, lost and duplicates."""
    explained = {one.id for fault in faults for _, one in _belonging(fault, seen)}
    opened = [(at_s, one) for at_s, one in seen.incidents if opens(one)]
    return {
        "faults": [_fault(fault, seen) for fault in faults],
        "peaks": [
            {"name": peak.name, "signals": [one.id for at_s, one in opened if _in_peak(peak, at_s, one)]}
            for peak in peaks
        ],
        "false_alarms": sorted({one.id for _, one in opened} - explained),
        **stored,
        "latency_s": {"p50": _quantile(seen.latencies_s, 0.5), "p99": _quantile(seen.latencies_s, 0.99)},
    }


def _belonging(fault: Done, seen: Seen) -> list[tuple[float, Incident]]:
    return [(at_s, one) for at_s, one in seen.incidents if opens(one) and one.cell == fault.cell and fault.covers(at_s)]


def _in_peak(peak: Done, at_s: float, incident: Incident) -> bool:
    return incident.cell == peak.cell and peak.injected_s <= at_s <= peak.healed_s


def _fault(fault: Done, seen: Seen) -> dict[str, Any]:
    told = seen.of(fault)
    mine = [
        (at_s, one) for at_s, one in told if fault.covers(at_s)
    ]  # the story may have been open for an earlier fault
    right = [at_s for at_s, one in mine if one.causes[0].cause == fault.cause]
    last = next((one for _, one in reversed(mine) if one.phase != "resolved"), told[-1][1] if told else None)
    detected = right[0] if right else (mine[0][0] if mine else None)
    return {
        "name": fault.name,
        "injected_at": round(fault.injected_s, 3),
        "detected_at": round(detected, 3) if detected else None,
        "true_cause": fault.cause,
        "named_cause": last.causes[0].cause if last else None,
        "tenants": list(last.tenants) if last else [],
        "expected_tenants": list(fault.tenants),
        "impact": {
            "documents": last.impact.documents if last else 0,
            "value": last.impact.value if last else 0.0,
            "currency": last.impact.currency if last else None,
            "exposed": last.impact.exposed if last else 0,
        },
        "signals": list(last.signals) if last else [],
        "incident": last.id if last else None,
    }


def _quantile(values: Sequence[float], share: float) -> float | None:
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3)


def is_good(report: dict[str, Any]) -> bool:
    """Every fault named as it was, nothing else told, the peaks silent, nothing lost or doubled."""
    named = all(fault["named_cause"] == fault["true_cause"] for fault in report["faults"])
    silent = not report["false_alarms"] and not any(peak["signals"] for peak in report["peaks"])
    return named and silent and not report["lost"] and not report["duplicates"]
