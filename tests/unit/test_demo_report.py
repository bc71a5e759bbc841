"""What the demo's report makes of faults and of what was told."""

from __future__ import annotations

from typing import Any

from pilothouse.demo.report import Done, Seen, build, is_good
from schemas.records import Cause, Incident, Phase, Severity

LOCK = "postgresql.lock:acme"
STORED: dict[str, Any] = {"records_in": 1, "points_in": 1, "lost": 0, "duplicates": 0}


def told(at_s: float, phase: Phase, version: int, name: str = "one", cause: str = LOCK) -> tuple[float, Incident]:
    return at_s, Incident(
        cell="eu1",
        time_ms=round(at_s * 1000),
        id=name,
        version=version,
        phase=phase,
        started_ms=0,
        severity=Severity.WARNING,
        title="t",
        causes=(Cause(cause=cause, probability=1.0),),
        tenants=("acme",),
    )


def fault(injected_s: float) -> Done:
    return Done("S2", "eu1", LOCK, ("acme",), injected_s, injected_s + 20)


def test_a_story_that_opens_again_is_seen_when_it_opens_again() -> None:
    seen = Seen([told(105, Phase.OPEN, 1), told(140, Phase.RESOLVED, 2), told(207, Phase.OPEN, 3)])
    report = build([fault(100), fault(200)], [], seen, STORED)
    assert [one["detected_at"] - one["injected_at"] for one in report["faults"]] == [5, 7]
    assert is_good(report)


def test_what_opens_outside_every_fault_is_a_false_alarm() -> None:
    report = build([fault(100)], [], Seen([told(105, Phase.OPEN, 1), told(300, Phase.OPEN, 1, "two")]), STORED)
    assert report["false_alarms"] == ["two"]
    assert not is_good(report)


def test_another_cause_is_seen_but_not_named_right() -> None:
    report = build([fault(100)], [], Seen([told(105, Phase.OPEN, 1, cause="host.cpu:h")]), STORED)
    assert (report["faults"][0]["detected_at"], report["faults"][0]["named_cause"]) == (105, "host.cpu:h")
    assert not is_good(report)
