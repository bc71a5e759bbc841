"""Which documents of a tenant are stuck on their way, what are they worth, and which will miss the next cut-off?

A journey (quotation, order, reservation, picking, shipment, invoice) is a state machine over documents; each document has
a clock that runs while it stays in a state and the calendar is open. A document that stays several times longer than
nearly all before it is late; when more are late than usual, they are delayed. The delayed documents, and the value of the
orders behind them, are the business at stake, with what will miss its shipping cut-off at the present pace.

Nothing is asked of a document that is due another day, and one that has stood for days is parked, not stuck. In an hour of
the day that was never lived only what came since the shift opened is judged; where none is declared, in the first eight hours.
Source: state clocks of process mining (van der Aalst, Process Mining, 2nd ed., ch. 9, "operational support").
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from pydantic import Field

from processors.admission import TENANT, Forgotten
from processors.durations import Durations
from processors.episodes import Episodes
from processors.evidence import cause_of
from processors.pace import Due, Pace, late
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from processors.steps.documents import HOURS, SHIPPED, SHIPS, WAY, Document, Stage, rows
from processors.steps.stakes import impact_of, misses, said
from schemas.bounds import reached
from schemas.calendar import Calendar
from schemas.records import BusinessBatch, Evidence, Record, Severity

PARTS = 16  # of the open documents in a snapshot; only those that changed are written again


class Config(StepConfig):
    """When documents are delayed. Times in states are business time."""

    quantile: float = Field(0.95, gt=0.5, lt=1, description="Share of documents that leave a state in its usual time.")
    times_usual: float = Field(2.0, gt=1, description="A late document stays so many times that long.")
    at_least_ms: int = Field(6_000, gt=0, description="And so long at least, ms.")
    parked_ms: int = Field(172_800_000, gt=0, description="One that stands for longer is parked and not counted, ms.")
    learn: int = Field(30, ge=5, description="Documents that must have left a state before its clock is judged.")
    forget: float = Field(0.999, gt=0, lt=1, description="Weight of what was learned, with every document that leaves.")
    usual_late_ms: float = Field(
        3_600_000, gt=0, description="Time in which the usual number of late ones follows, ms."
    )
    documents: int = Field(3, ge=1, description="So many more late documents than usual in a state are a finding.")
    share: float = Field(0.2, gt=0, le=1, description="And such a share of those that are open in the state.")
    shift_ms: int = Field(28_800_000, gt=0, description="Usual length of a shift where none is declared, ms.")
    look_every_ms: int = Field(2_000, gt=0, description="Clocks are read so often at most, ms of log time.")
    looks: float = Field(0.5, ge=0, description="And after so many looks at the cell, as the estate declares them.")
    documents_max: int = Field(50_000, ge=100, description="Open documents kept a tenant; the oldest go first.")
    ended_ms: int = Field(3_600_000, gt=0, description="So long it is known that a document has ended, ms of log time.")

    @cached_property
    def pause_ms(self) -> int:
        """Time from one reading of the clocks to the next, ms."""
        return max(self.look_every_ms, round(self.looks * self.interval_ms()))


@dataclass
class State:
    """The documents of one tenant. `clock_ms` is its business clock as it stood at `at_ms`."""

    tenant: str = ""
    cell: str = ""
    resource: str = ""
    at_ms: int = -1
    clock_ms: int = 0
    open: dict[str, Document] = field(default_factory=dict)
    """By type and id, in the order in which they came to their state."""
    ended: dict[str, int] = field(default_factory=dict)
    """When those that wait no longer ended: what comes late from before then does not open them again."""
    stages: dict[str, Stage] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    due_ms: int | None = None
    opened_ms: int | None = None
    """What the business clock showed when the present shift opened or the tenant was seen first."""
    worked: bool = True
    entered: int = 0
    forgotten: int = 0
    episodes: Episodes = field(default_factory=Episodes)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Move documents on; a state older than the one known is passed over."""
    if isinstance(item.record, Forgotten):
        return state, []
    batch: BusinessBatch = item.record
    state.cell, state.resource = batch.cell, batch.resource
    state.tenant = next((tenant for tenant in batch.tenants if tenant), state.tenant)
    calendar = config.calendar(state.tenant)
    _move_clock(calendar, state, item.at_ms)
    for row in rows(batch):
        _move(config, calendar, state, *row)
    _forget_ended(config, state)
    if state.due_ms is None:
        state.due_ms = item.at_ms + config.pause_ms
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Read the clocks. While the calendar is closed they stand; what was told before may end, nothing new is told."""
    state.due_ms = at_ms + config.pause_ms if state.open or state.episodes.open else None
    calendar = config.calendar(state.tenant)
    elapsed_ms = _move_clock(calendar, state, at_ms)
    moment, cause = calendar.at(at_ms), _cause(state)
    works = moment.is_open and not moment.maintenance
    if state.opened_ms is None or (works and not state.worked):
        state.opened_ms = state.clock_ms
    state.worked = works
    if not works and cause not in state.episodes.open:
        return state, []
    delayed = _delayed(config, state, calendar, at_ms, elapsed_ms)
    if not delayed or not works:
        return state, [] if delayed else state.episodes.close(cause, at_ms)
    return state, state.episodes.seen(
        key=cause, time_ms=at_ms, tell_every_ms=5_000, **_finding(config, state, calendar, cause, delayed, at_ms)
    )


def _cause(state: State) -> str:
    return cause_of("process.delayed", state.tenant)


def _move_clock(calendar: Calendar, state: State, at_ms: int) -> int:
    """Take the business clock to `at_ms`; gives by how much it went on, ms. In maintenance it stands."""
    runs = state.at_ms >= 0 and not calendar.at(at_ms).maintenance
    elapsed = calendar.business_ms(state.at_ms, at_ms) if runs else 0
    state.at_ms, state.clock_ms = max(at_ms, state.at_ms), state.clock_ms + elapsed
    state.pace.move(state.clock_ms)
    return elapsed


def _clock_at(calendar: Calendar, state: State, time_ms: int) -> int:
    """What the business clock showed at an instant up to now, and will show at one ahead."""
    if time_ms > state.at_ms:
        return state.clock_ms + calendar.business_ms(state.at_ms, time_ms)
    return state.clock_ms - calendar.business_ms(time_ms, state.at_ms)


def _move(config: Config, calendar: Calendar, state: State, key: str, document: Document) -> None:
    known = state.open.get(key)
    if known and (document.since_ms < known.since_ms or document.state == known.state):
        return
    if document.since_ms < state.ended.get(key, -1):
        return
    if known:
        _leave(config, calendar, state, key, known, document.since_ms)
        if document.kind == SHIPS and document.state == SHIPPED:
            state.pace.move(state.clock_ms, 1)
    if document.state in WAY.get(document.kind, ()):
        begun = _clock_at(calendar, state, min(document.since_ms, state.at_ms))
        state.entered += 1
        _enter(config, state, key, document._replace(begun_ms=begun, place=state.entered))
    elif document.kind in WAY:
        state.ended.pop(key, None)
        state.ended[key] = document.since_ms


def _forget_ended(config: Config, state: State) -> None:
    """In the order in which they came, so that the first look at many years keeps no more than the bound."""
    before_ms = state.at_ms - config.ended_ms
    while state.ended:
        key = next(iter(state.ended))
        if state.ended[key] > before_ms and len(state.ended) <= config.documents_max:
            return
        if state.ended[key] > before_ms:
            reached("journeys.documents")
        del state.ended[key]


def _enter(config: Config, state: State, key: str, document: Document) -> None:
    state.open[key] = document
    state.stages.setdefault(document.stage, Stage()).here[key] = document
    if len(state.open) > config.documents_max:
        oldest = next(iter(state.open))
        state.stages[state.open.pop(oldest).stage].here.pop(oldest, None)
        state.forgotten += 1
        reached("journeys.documents")


def _leave(config: Config, calendar: Calendar, state: State, key: str, left: Document, at_ms: int) -> None:
    state.open.pop(key, None)
    stage = state.stages[left.stage]
    stage.here.pop(key, None)
    took_ms = _clock_at(calendar, state, min(at_ms, state.at_ms)) - left.begun_ms
    if calendar.at(at_ms).is_open and took_ms < config.parked_ms:
        # An outage is not the new usual, unless it lasts for a thousand documents.
        stage.durations.add(took_ms, config.forget, weight=0.1 if _cause(state) in state.episodes.open else 1.0)


def limit_ms(config: Config, stage: Stage, load: float = 1.0) -> float | None:
    """Business time after which a document is late in a state, ms; None while too few have left it."""
    if stage.durations.count < config.learn:
        return None
    usual = stage.durations.quantile_ms(config.quantile)
    return max(config.times_usual * usual * max(load, 1.0), config.at_least_ms)


def _delayed(config: Config, state: State, calendar: Calendar, at_ms: int, elapsed_ms: int) -> list[Document]:
    """Late documents beyond the usual number of late ones, the youngest: those that stood there before are not news."""
    today_ends_ms = _next_midnight_ms(calendar, at_ms)
    is_told = _cause(state) in state.episodes.open
    moment = calendar.at(at_ms)
    found: list[Document] = []
    for name in sorted(state.stages):
        stage = state.stages[name]
        limit = limit_ms(config, stage, moment.load)
        if limit is None:
            continue
        oldest, newest = state.clock_ms - config.parked_ms, state.clock_ms - limit
        here = [one for one in stage.here.values() if one.begun_ms > oldest and (one.deadline_ms or 0) < today_ends_ms]
        waits = sorted((one for one in here if one.begun_ms < newest), key=lambda one: -one.begun_ms)
        hour = moment.minute_of_day // 60 + 24 * max(moment.weekday - 4, 0)
        news = waits if stage.by_hour[hour] is not None else _of_this_shift(config, calendar, state, waits)
        more = min(_more_than_usual(config, stage, len(waits), len(here), hour), len(news))
        found += waits[:more]
        if not more and not is_told:
            before = stage.usual_late if stage.usual_late is not None else float(len(waits))
            weight = 1 - math.exp(-elapsed_ms / config.usual_late_ms)
            stage.usual_late = before + weight * (len(waits) - before)
    return found


def _of_this_shift(config: Config, calendar: Calendar, state: State, waits: list[Document]) -> list[Document]:
    """Where an hour has not been lived, what was left over from before it opened may be late as it always is then.

    Without shifts nobody knows who works in that hour, but for the shift in which the tenant was seen first.
    """
    opened_ms = state.opened_ms if state.opened_ms is not None else state.clock_ms
    if not calendar.shifts and state.clock_ms - opened_ms > config.shift_ms:
        return []
    return [one for one in waits if one.begun_ms >= opened_ms]


def _more_than_usual(config: Config, stage: Stage, waits: int, here: int, hour: int) -> int:
    """How many more than usual are late, 0 while they are too few to speak of."""
    stage.turn(hour, 10.0 * config.documents)
    stage.most = max(stage.most, float(waits))
    usual = max(stage.usual_late if stage.usual_late is not None else float(waits), stage.by_hour[hour] or 0.0)
    more = waits - math.ceil(usual)
    return more if more >= max(config.documents, config.share * (here - usual), 3 * math.sqrt(usual)) else 0


def _next_midnight_ms(calendar: Calendar, at_ms: int) -> int:
    day = calendar.at(at_ms).day + timedelta(days=1)
    return round(datetime.combine(day, time(), ZoneInfo(calendar.time_zone)).timestamp() * 1000)


def _finding(
    config: Config, state: State, calendar: Calendar, cause: str, delayed: list[Document], at_ms: int
) -> dict[str, Any]:
    cut_offs = _missing_cut_offs(config, state, calendar, at_ms)
    impact = impact_of(state.tenant, delayed, cut_offs)
    missed = list(misses(state.pace, calendar, impact, at_ms))
    evidence = [*_stuck(config, state, delayed), *missed]
    soon = impact.next_cut_off
    presses = soon is not None and soon.documents >= config.documents and soon.cut_off_ms - at_ms <= 3_600_000
    what = f"{impact.documents} documents of {state.tenant} are stuck, {impact.value:,.0f} {impact.currency or ''} at stake"
    return {
        "cell": state.cell,
        "detector": STEP.name,
        "cause": cause,
        "resource": state.resource,
        "tenant": state.tenant,
        "severity": Severity.CRITICAL if presses else Severity.WARNING,
        "score": min(0.99, 1 - 1 / (1 + impact.documents / config.documents)),
        "summary": f"{what}; {missed[0].text}" if missed else what,
        "evidence": tuple(one.model_copy(update={"time_ms": at_ms}) for one in evidence),
        "tenants": (state.tenant,),
        "impact": impact,
    }


def _missing_cut_offs(
    config: Config, state: State, calendar: Calendar, at_ms: int
) -> list[tuple[int, str | None, Document]]:
    """Cut-off, carrier and document of the pickings that will miss theirs at the present pace."""
    next_ms: dict[str | None, int | None] = {}
    waiting: list[tuple[Due, tuple[int, Document]]] = []
    for name in WAY[SHIPS]:
        stage = state.stages.get(f"{SHIPS},{name}")
        for one in stage.here.values() if stage else ():
            if one.carrier not in next_ms:
                next_ms[one.carrier] = calendar.next_cut_off(at_ms, one.carrier)
            cut_off_ms = next_ms[one.carrier]
            is_parked = state.clock_ms - one.begun_ms >= config.parked_ms
            if cut_off_ms is None or is_parked or (one.deadline_ms or 0) >= _next_midnight_ms(calendar, cut_off_ms):
                continue
            due = Due(_clock_at(calendar, state, cut_off_ms), one.begun_ms, _needs_ms(state, one))
            waiting.append((due, (cut_off_ms, one)))
    found = late(waiting, state.pace.present_per_ms, state.clock_ms)
    return [(cut_off_ms, one.carrier, one) for _, (cut_off_ms, one) in found]


def _needs_ms(state: State, document: Document) -> float:
    """Business time that the rest of its way usually takes."""
    way = WAY[SHIPS][WAY[SHIPS].index(document.state) :]
    stages = [state.stages.get(f"{SHIPS},{name}") for name in way]
    # Who waits for stock may go on at once; only the states that most pass through count.
    times = [stage.durations.quantile_ms(0.5) if stage else 0.0 for stage in stages]
    return max(times[0] - (state.clock_ms - document.begun_ms), 0.0) + math.fsum(times[1:])


def _stuck(config: Config, state: State, delayed: list[Document]) -> Iterable[Evidence]:
    stages: dict[str, list[Document]] = {}
    for one in delayed:
        stages.setdefault(one.stage, []).append(one)
    for name, members in list(stages.items())[:5]:
        oldest = min(members, key=lambda one: one.begun_ms)
        stage, waits_ms = state.stages[name], state.clock_ms - oldest.begun_ms
        usual = stage.durations.quantile_ms(config.quantile)
        late = stage.usual_late or 0.0
        many = round(len(members) + late)
        yield Evidence(
            text=f"{many} {oldest.kind} have stood in {oldest.state} for too long, usually {late:.0f} have",
            unit="{document}",
            value=float(many),
            expected=late,
            window_ms=round(limit_ms(config, stage) or 0),
        )
        yield Evidence(
            text=f"the oldest of them is {oldest.name or '?'}, for {said(waits_ms)} of business time; "
            f"{config.quantile:.0%} leave the state within {said(usual)}",
            unit="s",
            value=waits_ms / 1000,
            expected=usual / 1000,
            window_ms=waits_ms,
        )


def due(state: State) -> int | None:
    """When the clocks are read next."""
    return state.due_ms


def unit(record: Record) -> str | None:
    """A tenant's database is a unit."""
    if isinstance(record, Forgotten) and record.system != TENANT:
        return record.resource
    return record.resource if isinstance(record, BusinessBatch) else None


_ITSELF = ("tenant", "cell", "resource", "at_ms", "clock_ms", "due_ms", "opened_ms", "worked", "entered", "forgotten")


def pack(state: State) -> Parts:
    """Documents in parts by their number, so that most stay as they are while the company is quiet."""
    parts: list[list[list[Any]]] = [[] for _ in range(PARTS)]
    for key, one in state.open.items():
        parts[int(key.rpartition(",")[2]) % PARTS].append([key, *one])
    head = {
        **{name: getattr(state, name) for name in _ITSELF},
        "stages": {
            name: [one.durations.weights, one.durations.unit, one.usual_late, one.by_hour, one.hour, one.most]
            for name, one in state.stages.items()
        },
        "pace": vars(state.pace),
        "episodes": state.episodes.dump(),
    }
    whole = {"": orjson.dumps(head), "ended": orjson.dumps(list(state.ended.items()))}
    return {**whole, **{f"open-{number}": orjson.dumps(part) for number, part in enumerate(parts)}}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    head = orjson.loads(parts[""])
    state = State(**{name: head[name] for name in _ITSELF if name in head})  # version 4 did not know when it opened
    state.pace, state.episodes = Pace(**head["pace"]), Episodes.load(head["episodes"])
    for row in head["stages"].values():
        row[3] += row[3] * (HOURS // len(row[3]) - 1)  # version 4 had one kind of day
    state.stages = {
        name: Stage({}, Durations(weights, unit), *usual) for name, (weights, unit, *usual) in head["stages"].items()
    }
    state.ended = dict(orjson.loads(parts["ended"]))
    rows = [row for name, part in parts.items() if name.startswith("open-") for row in orjson.loads(part)]
    for key, *fields in sorted(rows, key=lambda row: row[-1]):
        document = Document(*fields)
        state.open[key] = state.stages[document.stage].here[key] = document
    return state


ABOUT = About(
    finds=(
        "Business documents that are stuck on their way, what they are worth, and which will miss their shipping "
        "cut-off."
    ),
    method=(
        "Each document has a clock in business time for the state it is in; it is late when nearly all "
        "leave the state far sooner, and a finding when more are late than usual."
    ),
    source=(
        "state clocks of process mining (van der Aalst, Process Mining, 2nd ed., ch. 9); Little's law for the "
        "pace (Hopp & Spearman, Factory Physics)"
    ),
    limits=(
        "A state is judged once enough documents have left it; documents that have stood for days are parked and "
        "not counted."
    ),
)
STEP = Step(
    "journeys",
    Config,
    (BusinessBatch, Forgotten),
    unit,
    State,
    step,
    pack,
    unpack,
    tick=tick,
    due=due,
    version=5,
    about=ABOUT,
)
