"""Incidents of several cells with one cause that they share become one story of the fleet.

Cells share what they do not own: a release that is rolled out to all of them, a partner (carrier, EDI, marketplace), a
provider. Each cell sees only its own trouble with it; that two of them have the same first cause within a window is no
accident any more. The story names the cells, points to their incidents, adds up what is at stake, and ends when fewer
than two of them go on. A release is believed the more, the more cells have it; a partner that fails in several cells is
ill itself, which no cell alone can tell from its own network.

This step runs in a fold of its own, whose records are the incidents of all cells. An incident whose first cause turns out
to be another leaves the story.
Source: two sizes of correlation, a cell's own and the fleet's; cross-cluster grouping as in Google SRE workbook ch. 8.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from processors.episodes import signal_id
from processors.roles import Suspect, concerned
from processors.step import About, Findings, Item, Step, StepConfig, json_state
from processors.steps.correlator.tables import kind_of
from schemas.bounds import reached
from schemas.impact import Impact
from schemas.records import Cause, Evidence, Incident, Part, Phase, Record, Silenced

FLEET = "fleet"
"""What stands for the cell in a story of several."""

SHARED = {
    "release": "the same revision is rolled out to several cells",
    "module_upgrade": "the same module is upgraded in several cells",
    "configuration": "the same configuration is applied to several cells",
    "secret": "the same secret is rotated for several cells",
    "integration.failures": "a partner serves several cells",
    "integration.silent": "a partner serves several cells",
}
"""Kinds whose resource is the same thing in every cell, and why."""


class Config(StepConfig):
    """When several cells' trouble is one story."""

    window_ms: int = Field(1_800_000, gt=0, description="Incidents that begin within so long may be one story, ms.")
    cells: int = Field(2, ge=2, description="So many cells with the same first cause are a story of the fleet.")
    many_tenants: int = Field(
        3,
        ge=1,
        description="So many tenants whose documents wait, with money in it and critical, are told to executives.",
    )
    tell_every_ms: int = Field(30_000, gt=0, description="Lesser news is told so often at most, ms.")
    settle_ms: int = Field(500, gt=0, description="A story is looked at so long after news of a part of it, ms.")
    forget_ms: int = Field(
        86_400_000, gt=0, description="An incident of which nothing is heard is forgotten after so long, ms."
    )
    incidents_max: int = Field(10_000, ge=2, description="Open incidents kept; those longest unheard of go first.")


class Thing(BaseModel):
    """The open incidents around one shared thing, by cell and id, and the story as it was last told."""

    open: dict[str, Incident] = Field(default_factory=dict)
    told: Incident | None = None
    due_ms: int | None = None


class State(BaseModel):
    """Everything of a fleet."""

    things: dict[str, Thing] = Field(default_factory=dict, description="By the cause that is shared.")
    where: dict[str, str] = Field(default_factory=dict, description="The cause under which an incident is kept.")


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in an incident; stories are told by the tick, so that the order within a moment does not matter."""
    incident: Incident = item.record
    key, cause = f"{incident.cell} {incident.id}", incident.causes[0].cause
    before = state.where.get(key)
    known = state.things[before].open[key] if before else None
    if known and incident.version <= known.version:
        return state, []
    if before:
        _leave(config, state, key, item.at_ms)
    if incident.phase is not Phase.RESOLVED and kind_of(cause) in SHARED:
        state.things.setdefault(cause, Thing()).open[key] = incident
        state.where[key] = cause
        _wake(state.things[cause], item.at_ms + config.settle_ms)
    while len(state.where) > config.incidents_max:
        reached("fleet.incidents")
        _leave(config, state, min(state.where, key=lambda one: (_at(state, one).time_ms, one)), item.at_ms)
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Open, go on with or end the stories that are due."""
    found: Findings = []
    for cause, thing in sorted(state.things.items()):
        if thing.due_ms is None or thing.due_ms > at_ms:
            continue
        for key in [key for key, one in thing.open.items() if one.time_ms <= at_ms - config.forget_ms]:
            _leave(config, state, key, at_ms)
        found += _look(config, cause, thing, at_ms)
        if not thing.open and thing.told is None:
            del state.things[cause]
    return state, found


def due(state: State) -> int | None:
    """When a story is looked at next."""
    return min((one.due_ms for one in state.things.values() if one.due_ms is not None), default=None)


def _at(state: State, key: str) -> Incident:
    return state.things[state.where[key]].open[key]


def _leave(config: Config, state: State, key: str, at_ms: int) -> None:
    thing = state.things[state.where.pop(key)]
    del thing.open[key]
    _wake(thing, at_ms + config.settle_ms)


def _wake(thing: Thing, at_ms: int) -> None:
    thing.due_ms = at_ms if thing.due_ms is None else min(thing.due_ms, at_ms)


def _look(config: Config, cause: str, thing: Thing, at_ms: int) -> Findings:
    thing.due_ms = min((one.time_ms + config.forget_ms for one in thing.open.values()), default=None)
    together = _together(config, thing)
    if len({one.cell for one in together}) < config.cells:
        return _end(thing, at_ms)
    after = _story(config, cause, thing, together, at_ms)
    if thing.told is None:
        thing.told = after
        return [after]
    if not _is_news(thing.told, after):
        return []
    if after.severity <= thing.told.severity and at_ms - thing.told.time_ms < config.tell_every_ms:
        _wake(thing, thing.told.time_ms + config.tell_every_ms)
        return []
    thing.told = after.model_copy(update={"version": thing.told.version + 1, "phase": Phase.UPDATED})
    return [thing.told]


def _together(config: Config, thing: Thing) -> list[Incident]:
    """Those that began within the window before the last one to begin; what is in the story stays in it."""
    if not thing.open:
        return []
    told = {(one.cell, one.incident) for one in thing.told.parts} if thing.told else set()
    since_ms = max(one.started_ms for one in thing.open.values()) - config.window_ms
    near = (one for one in thing.open.values() if one.started_ms >= since_ms or (one.cell, one.id) in told)
    return sorted(near, key=lambda one: (one.started_ms, one.cell, one.id))


def _end(thing: Thing, at_ms: int) -> Findings:
    if thing.told is None:
        return []
    last, thing.told = thing.told, None
    update = {"phase": Phase.RESOLVED, "time_ms": at_ms, "version": last.version + 1, "parts": _parts(thing, last, [])}
    return [last.model_copy(update=update)]


def _parts(thing: Thing, before: Incident | None, together: list[Incident]) -> tuple[Part, ...]:
    """Those of now, and those that were part of it and are over."""
    now = {(one.cell, one.id): Part(cell=one.cell, incident=one.id, phase=one.phase) for one in together}
    for one in before.parts if before else ():
        known = thing.open.get(f"{one.cell} {one.incident}")
        phase = known.phase if known else Phase.RESOLVED
        now.setdefault((one.cell, one.incident), one.model_copy(update={"phase": phase}))
    return tuple(now[key] for key in sorted(now))[:1_000]


def _story(config: Config, cause: str, thing: Thing, together: list[Incident], at_ms: int) -> Incident:
    cells, before = list(dict.fromkeys(one.cell for one in together)), thing.told
    kind, _, what = cause.partition(":")
    started_ms = min([one.started_ms for one in together] + ([before.started_ms] if before else []))
    impact, severity = Impact.joined([one.impact for one in together]), max(one.severity for one in together)
    known = [*(role for one in together for role in one.roles), *(before.roles if before else ())]
    return Incident(
        cell=FLEET,
        time_ms=at_ms,
        id=before.id if before else signal_id(FLEET, cause, started_ms),
        version=before.version if before else 1,
        phase=Phase.OPEN,
        started_ms=started_ms,
        severity=severity,
        title=f"{what}: the same trouble ({kind}) in {len(cells)} cells: {', '.join(cells[:10])}",
        causes=_causes(cause, cells, together),
        tenants=tuple(sorted({f"{one.cell}/{tenant}" for one in together for tenant in one.tenants})[:1_000]),
        roles=concerned([Suspect(cause)], impact, severity, config.many_tenants, known),
        impact=impact,
        advice=next((one.advice for one in together if one.advice), None),
        silenced=_silenced(together),
        parts=_parts(thing, before, together),
    )


def _silenced(together: list[Incident]) -> Silenced | None:
    """Silenced when it is in all of its cells, until it is no longer in one."""
    marks = [one.silenced for one in together if one.silenced]
    return min(marks, key=lambda one: (one.until_ms, one.silence)) if len(marks) == len(together) else None


def _causes(cause: str, cells: list[str], together: list[Incident]) -> tuple[Cause, ...]:
    """The shared cause, unless each cell's trouble had causes of its own: cells are taken for independent witnesses."""
    alone = 1.0
    for cell in cells:
        alone *= 1.0 - max(one.causes[0].probability for one in together if one.cell == cell)
    texts = [f"{one.cell}: {one.title}" for one in together[:8]]
    spread_s = (max(one.started_ms for one in together) - min(one.started_ms for one in together)) / 1000
    facts = [Evidence(text=f"{SHARED[kind_of(cause)]}; it began in {len(cells)} within {spread_s:.0f} s")]
    facts += [Evidence(text=text[:2_000]) for text in texts]
    against = sorted({fact.text for one in together for fact in one.causes[0].against})
    shared = Cause(
        cause=cause,
        probability=round(1.0 - alone, 4),
        evidence=tuple(facts),
        against=tuple(Evidence(text=text) for text in against[:10]),
    )
    if shared.probability >= 1.0:
        return (shared,)
    return (shared, Cause(cause=f"coincidence:{FLEET}", probability=round(1.0 - shared.probability, 4)))


def _is_news(before: Incident, after: Incident) -> bool:
    return (
        after.severity > before.severity
        or set(after.parts) != set(before.parts)
        or after.roles != before.roles
        or after.silenced != before.silenced
        or after.impact.documents > 1.2 * before.impact.documents
    )


def _is_of_a_cell(record: Record) -> str | None:
    return "" if isinstance(record, Incident) and record.cell != FLEET else None


_pack, _unpack = json_state(State)
ABOUT = About(
    finds="Incidents of several cells that share one cause: a release, a carrier, a provider.",
    method=(
        "Incidents of at least two cells are joined while their first cause is the same shared thing and they began "
        "within one window."
    ),
    source="grouping across clusters, The Site Reliability Workbook (2018), chapter 8",
    limits="Cells must name the cause alike; one cell alone is no story of the fleet.",
)
STEP = Step("fleet", Config, (Incident,), _is_of_a_cell, State, step, _pack, _unpack, tick=tick, due=due, about=ABOUT)
