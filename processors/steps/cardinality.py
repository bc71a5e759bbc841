"""Who sends more than is followed? Series, resources, tenants and cells without a place, and what they have in common.

The fold gives places to what is sent, within bounds (see `processors.admission`); what has no place is left out of the
detection, which nobody would notice. So it is told, with the resource, the metric, the attribute that has the most values, and
the publisher: who finds an id, an address or a time among an attribute's values has found the mistake.
Source: cardinality analysis as in Prometheus (`/api/v1/status/tsdb`) and Mimir, which name metrics and labels by their values.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from processors.admission import Refused
from processors.episodes import Episodes, Open
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig, json_state, whole_cell
from schemas.bounds import reached
from schemas.masking import masked
from schemas.records import Evidence, Severity

CAUSES_MAX = 100  # of a cell, that are told at once
SOURCES_MAX = 5  # of one cause, that are named


KIND = {
    "admission.series.resource": "pilothouse.series",
    "admission.series.source": "pilothouse.publisher",
    "admission.series.cell": "pilothouse.series",
    "admission.resources": "pilothouse.resources",
    "admission.tenants": "pilothouse.tenants",
    "admission.cells": "pilothouse.cells",
}


class Config(StepConfig):
    """How it is told."""

    quiet_ms: int = Field(1_800_000, gt=0, description="It is over when nothing was left out for so long, ms.")
    tell_every_ms: int = Field(900_000, gt=0, description="It is told again so often at most, ms.")


class Without(BaseModel):
    """What has no place, by cause."""

    since_ms: int
    last_ms: int
    records: int = 0
    sources: dict[str, int] = Field(default_factory=dict, description="Records by publisher.")


class State(BaseModel):
    """What has no place in a cell at present."""

    without: dict[str, Without] = Field(default_factory=dict)
    open: dict[str, Open] = Field(default_factory=dict)
    due_ms: int | None = None


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in that something was left out."""
    refused: Refused = item.record
    cause = _cause(refused)
    if cause not in state.without and len(state.without) >= CAUSES_MAX:
        reached("cardinality.causes")
        return state, []
    known = state.without.setdefault(cause, Without(since_ms=item.at_ms, last_ms=item.at_ms))
    known.last_ms, known.records = item.at_ms, known.records + 1
    if refused.source in known.sources or len(known.sources) < SOURCES_MAX:
        known.sources[refused.source] = known.sources.get(refused.source, 0) + 1
    _set_due(config, state)
    episodes = Episodes(state.open)
    if episodes.is_old(cause, item.at_ms, Severity.WARNING, cause, (), config.tell_every_ms):
        return state, []
    facts = _evidence(refused, known, item.at_ms)
    found = episodes.seen(
        key=cause,
        time_ms=item.at_ms,
        tell_every_ms=config.tell_every_ms,
        cell=refused.cell,
        detector=STEP.name,
        cause=cause,
        resource=refused.resource,
        severity=Severity.WARNING,
        score=0.99,
        summary=facts[0].text,
        evidence=facts,
        advice=_advice(refused, known),
    )
    return state, found


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """End what was not left out for a while."""
    over = [cause for cause, known in state.without.items() if known.last_ms + config.quiet_ms <= at_ms]
    for cause in over:
        del state.without[cause]
    found = [told for cause in over for told in Episodes(state.open).close(cause, at_ms)]
    _set_due(config, state)
    return state, found


def due(state: State) -> int | None:
    """When the first of them may be over."""
    return state.due_ms


def _set_due(config: Config, state: State) -> None:
    state.due_ms = min((one.last_ms + config.quiet_ms for one in state.without.values()), default=None)


def _cause(refused: Refused) -> str:
    """One for each bound of a resource, a publisher or the cell, however many records reach it."""
    whose = {"admission.series.resource": refused.resource, "admission.series.source": refused.source}
    return cause_of(KIND[refused.bound], whose.get(refused.bound, refused.cell))


_BOUNDS = {
    "admission.series.resource": "as many as one resource may have",
    "admission.series.cell": "the cell has as many as it may have",
    "admission.series.source": "the publisher has as many as it may have",
    "admission.tenants": "the cell has as many undeclared tenants as it may have",
}


def _evidence(refused: Refused, known: Without, at_ms: int) -> tuple[Evidence, ...]:
    facts = [_what(refused, at_ms - known.since_ms, at_ms)]
    if refused.metric:
        most = f"{refused.of_metric:,} of them are of {refused.metric}"
        if refused.attribute:
            sample = masked(refused.sample or "")[:100]
            most += (
                f", whose attribute {refused.attribute} has at least {refused.distinct:,} values, such as {sample!r}"
            )
        facts.append(Evidence(text=most, unit="{value}", value=float(refused.distinct), expected=0.0, time_ms=at_ms))
    named = sorted(known.sources.items(), key=lambda pair: (-pair[1], pair[0]))
    said = ", ".join(f"{source} ({count} records)" for source, count in named)
    facts.append(Evidence(text=f"published by {said}", time_ms=at_ms))
    return tuple(facts)


def _what(refused: Refused, window_ms: int, at_ms: int) -> Evidence:
    if refused.bound == "admission.cells":
        text = f"cell {masked(refused.sample or '?')} is not declared, and no more undeclared cells are followed"
        return Evidence(text=text, unit="{cell}", value=1.0, expected=0.0, window_ms=window_ms, time_ms=at_ms)
    if refused.bound == "admission.resources":
        text = (
            f"{refused.resource} ({refused.system}) is not followed: no more undeclared resources are in {refused.cell}"
        )
        return Evidence(text=text, unit="{resource}", value=1.0, expected=0.0, window_ms=window_ms, time_ms=at_ms)
    if not refused.series:
        text = f"events of an undeclared tenant are not followed: {_BOUNDS.get(refused.bound, refused.bound)}"
        return Evidence(text=text, unit="{tenant}", value=1.0, expected=0.0, window_ms=window_ms, time_ms=at_ms)
    text = (
        f"{refused.series:,} series of {refused.resource} are not followed, {refused.followed:,} are: "
        f"{_BOUNDS.get(refused.bound, refused.bound)}"
    )
    return Evidence(
        text=text, unit="{series}", value=float(refused.series), expected=0.0, window_ms=window_ms, time_ms=at_ms
    )


def _advice(refused: Refused, known: Without) -> str:
    whom = max(known.sources, key=lambda source: (known.sources[source], source), default=refused.source)
    if refused.bound in ("admission.cells", "admission.resources", "admission.tenants"):
        return f"Declare it in the estate if it is wanted; if not, find why {whom} sends it, and take its key away."
    what = f"attribute {refused.attribute} of {refused.metric}" if refused.attribute else f"what {whom} sends"
    return (
        f"Look at {what}: an id, an address or a time among its values makes a series of each. Leave it out at {whom}."
    )


_pack, _unpack = json_state(State)
ABOUT = About(
    finds="Resources, tenants and cells that send more series than are followed, and which attribute makes them so many.",
    method=(
        "Every series needs a place, bounded by resource, cell and publisher; what has none is left out, and told with the metric "
        "and the attribute that has the most values."
    ),
    source="cardinality analysis as in Prometheus and Grafana Mimir; limits on active series by tenant",
    limits="It says what has no place; whether what has one is of use, nobody knows.",
)
STEP = Step("cardinality", Config, (Refused,), whole_cell, State, step, _pack, _unpack, tick=tick, due=due, about=ABOUT)
