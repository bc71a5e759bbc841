"""What every signal's evidence owes, whichever step raised it: when it was seen, and what the business calendar said then."""

from __future__ import annotations

from processors.step import Findings, StepConfig
from schemas.records import Evidence, Signal


def dated(config: StepConfig, found: Findings) -> Findings:
    """The findings, each fact of a signal with its time and the phase of the tenant's calendar."""
    return [_signal(config, one) if isinstance(one, Signal) and one.evidence else one for one in found]


def _signal(config: StepConfig, signal: Signal) -> Signal:
    return signal.model_copy(update={"evidence": tuple(_fact(config, signal, fact) for fact in signal.evidence)})


def _fact(config: StepConfig, signal: Signal, fact: Evidence) -> Evidence:
    time_ms = signal.time_ms if fact.time_ms is None else fact.time_ms
    phase = fact.phase or config.calendar(signal.tenant).at(time_ms).phase
    return fact.model_copy(update={"time_ms": time_ms, "phase": phase})
