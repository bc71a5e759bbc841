"""A signal that always fires: who no longer hears it knows that the pipeline itself is ill.

Each cell tells it at fixed instants of log time, so it speaks only while ingest publishes, Kafka keeps and a worker folds.
It is no trouble and opens no incident; a route that asks for it forwards each telling to a dead man's switch.
Source: the always-firing `Watchdog` alert of the Prometheus operator's rules, and dead man's switches behind Alertmanager.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from processors.episodes import signal_id
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig, json_state, whole_cell
from schemas.records import Evidence, OperationsEvent, Phase, Scrape, Severity, Signal


class Config(StepConfig):
    """How often it is told."""

    every_ms: int = Field(600_000, gt=0, description="Time from one telling to the next, ms of log time.")


class State(BaseModel):
    """Since when the cell is heard of, and when the next telling is due."""

    started_ms: int | None = None
    due_ms: int | None = None
    is_told: bool = False
    records: int = Field(0, description="Looks and events that were folded since it was last told.")


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """The first record of a cell winds it up."""
    if state.started_ms is None:
        state.started_ms = item.at_ms
        state.due_ms = _next(config, item.at_ms)
    state.records += 1
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Tell that all is well so far."""
    started_ms = at_ms if state.started_ms is None else state.started_ms
    lately_ms = min(config.every_ms, at_ms - started_ms)
    folded = Evidence(
        text=f"{state.records} looks and events of {config.cell} were folded in the last {lately_ms / 1000:.0f} s",
        unit="{record}",
        value=float(state.records),
        window_ms=lately_ms,
        time_ms=at_ms,
    )
    told = Signal(
        cell=config.cell,
        time_ms=at_ms,
        id=signal_id(config.cell, STEP.name, started_ms),
        phase=Phase.UPDATED if state.is_told else Phase.OPEN,
        detector=STEP.name,
        cause=cause_of("pilothouse.watchdog", config.cell),
        resource=config.cell,
        started_ms=started_ms,
        severity=Severity.INFO,
        score=0.0,
        summary=f"what happens in {config.cell} is collected and folded; told every {config.every_ms // 1000} s of log time",
        evidence=(folded,),
    )
    state.is_told, state.due_ms, state.records = True, _next(config, at_ms), 0
    return state, [told]


def _next(config: Config, at_ms: int) -> int:
    return (at_ms // config.every_ms + 1) * config.every_ms


def due(state: State) -> int | None:
    """When the next telling is due."""
    return state.due_ms


_pack, _unpack = json_state(State)
ABOUT = About(
    finds="Nothing: it always speaks, so that its silence tells that collecting or folding has stopped.",
    method=(
        "Told at fixed instants of log time, with the number of records since the last telling; a route forwards "
        "it to a dead man's switch."
    ),
    source="the always-firing Watchdog alert of the Prometheus operator",
    limits="It says that records come, not that all of them do.",
)
STEP = Step(
    "watchdog",
    Config,
    (Scrape, OperationsEvent),
    whole_cell,
    State,
    step,
    _pack,
    _unpack,
    tick=tick,
    due=due,
    about=ABOUT,
)
