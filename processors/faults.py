"""What the fold says of itself: a step that fails again and again in a cell is told like any other trouble.

The fold guards every step: what it raises on costs that item alone. Nobody would see that a part of the detection is blind, so the fold
hands each failure to the step below, which is part of every plan. It opens an episode when a step has failed several times within
an hour or has begun afresh, and ends it when the step has not failed for a while.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from processors.episodes import Episodes, Open
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig, json_state, whole_cell
from schemas.bounds import reached
from schemas.calendar import HOUR_MS
from schemas.masking import masked
from schemas.records import Evidence, Record, Severity, Text

STEPS_MAX = 100  # that are remembered of a cell
FAILURES_KEPT = 20  # of each step
TEXT_MAX = 300


class Fault(Record):
    """A step failed. It is made by the fold and stands on no topic."""

    type: ClassVar[str] = "com.pilothouse.internal.fault.v1"

    step: str = Field(description="The step that failed.")
    unit: str = Field(description="The unit of its state.")
    what: str = Field(description="What it failed at: a record, a tick, its state.")
    error: Text = Field(description="What was raised, in words.")
    is_afresh: bool = Field(False, description="Whether the unit was begun afresh.")


class Config(StepConfig):
    """When a failing step is told."""

    failures: int = Field(3, ge=1, description="So many failures of a step within an hour are told.")
    over_ms: int = Field(600_000, gt=0, description="A step that has not failed for so long is well again, ms.")


class Mark(BaseModel):
    """What is remembered of a step."""

    times_ms: list[int] = Field(default_factory=list, description="Its latest failures, log time, ms.")
    afresh: int = Field(0, description="Units begun afresh since it was last well.")
    last: str = Field("", description="What it raised last.")


class State(BaseModel):
    """Steps that have failed lately, and what is told of them."""

    marks: dict[str, Mark] = Field(default_factory=dict)
    open: dict[str, Open] = Field(default_factory=dict)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a failure."""
    fault: Fault = item.record
    if fault.step not in state.marks and len(state.marks) >= STEPS_MAX:
        reached("faults.steps")
        return state, []
    mark = state.marks.setdefault(fault.step, Mark())
    mark.times_ms = [*(one for one in mark.times_ms if one > item.at_ms - HOUR_MS), item.at_ms][-FAILURES_KEPT:]
    mark.afresh += fault.is_afresh
    mark.last = f"on {fault.what}: {fault.error}"
    if not mark.afresh and len(mark.times_ms) < config.failures:
        return state, []
    return state, _tell(config, state, fault, mark, item.at_ms)


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """End what has not failed for a while."""
    found: Findings = []
    episodes = Episodes(state.open)
    for name, mark in sorted(state.marks.items()):
        if mark.times_ms[-1] + config.over_ms <= at_ms:
            found += episodes.close(name, at_ms)
            del state.marks[name]
    return state, found


def due(state: State) -> int | None:
    """When the next of them may be well again; `over_ms` is not at hand, and a tick too early does nothing."""
    return min((mark.times_ms[-1] + OVER_MS for mark in state.marks.values()), default=None)


OVER_MS: int = Config.model_fields["over_ms"].default


def _tell(config: Config, state: State, fault: Fault, mark: Mark, at_ms: int) -> Findings:
    often = f"{len(mark.times_ms)} failures within the last hour"
    lost = f"; {mark.afresh} units of its state were begun afresh and learn anew" if mark.afresh else ""
    text = f"step {fault.step} of {config.cell}: {often}{lost}"
    facts = (
        Evidence(
            text=f"{text}; the last one {masked(mark.last)[:TEXT_MAX]}",
            unit="{failure}",
            value=float(len(mark.times_ms)),
            expected=0.0,
            window_ms=HOUR_MS,
            time_ms=at_ms,
        ),
    )
    return Episodes(state.open).seen(
        key=fault.step,
        time_ms=at_ms,
        cell=config.cell,
        detector=STEP.name,
        cause=cause_of("pilothouse.step", config.cell),
        resource=config.cell,
        severity=Severity.WARNING,
        score=0.99,
        summary=f"Pilothouse itself is at fault: {text}; what this step finds may be missing",
        evidence=facts,
        advice=(
            "Read the traceback in the worker's log and the dead letters of reason failed, and report both: this is a fault of "
            "Pilothouse. The other steps go on."
        ),
    )


_pack, _unpack = json_state(State)
ABOUT = About(
    finds="Steps of Pilothouse itself that fail again and again in a cell, so that what they find is missing.",
    method="Every exception of a step is counted; several within an hour, or state that had to be begun afresh, are told.",
    source="self-monitoring as in the Prometheus operator's rules (PrometheusRuleFailures)",
    limits="A step that is wrong without raising is not seen.",
)
STEP = Step("faults", Config, (Fault,), whole_cell, State, step, _pack, _unpack, tick=tick, due=due, about=ABOUT)
