"""Does a service burn its error budget so fast that somebody must act, and when will it be gone?

For every SLO of the estate, and for every tenant where it says so, good and bad events are counted from series or from
business documents; each minute of log time the budgets are judged by the workbook's rules: a page is critical, a ticket
a warning. Events count when they become known, because a window that was judged is not judged again. No data is neither
good nor bad: windows hold what there is, an alert opens only on news, and an SLO may freeze alerts over unmeasured time.
A burning budget is a symptom: what burns it is told by others.

Sources: see `processors.budgets` and `schemas.burn_rates`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from pydantic import Field, TypeAdapter

from processors import columns, promises
from processors.admission import TENANT, Forgotten
from processors.budgets import Counts, Flags, Late, Terms, Track, doubt, group_counts
from processors.episodes import Episodes, signal_id
from processors.evidence import cause_of
from processors.indicators import Came, Last, Look, Meter, Reader, Readings
from processors.promises import Promises
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from processors.steps.burning import Judged, evidence, rate, what_is_left
from schemas.bounds import reached
from schemas.burn_rates import PAGE, TICKET, WORKBOOK
from schemas.openslo import BudgetingMethod
from schemas.records import BusinessBatch, Record, Scrape, Severity
from schemas.slo import Column, Indicator, Period, Slo, Target

CHUNK_ROWS = 60  # of a ring, in one part of a snapshot
_RULES = [f"{rule.severity} {rule.long_ms}" for rule in WORKBOOK]
RULES_NUMBERED = ("page 3600000", "page 21600000", "ticket 86400000", "ticket 259200000")
"""Rules of the workbook as they stood when state knew them by their number."""
SEVERITY = {PAGE: Severity.CRITICAL, TICKET: Severity.WARNING}


class Config(StepConfig):
    """How budgets are counted."""

    step_ms: int = Field(60_000, gt=0, description="Budgets are judged so often, ms of log time.")
    moves: int = Field(288, ge=1, description="Long windows move so often at least while they pass.")
    gap_ms: int = Field(600_000, gt=0, description="A longer time between two looks is unmeasured, ms.")
    tell_every_ms: int = Field(300_000, gt=0, description="A burning budget is told again so often, ms.")
    margin_ms: int = Field(300_000, ge=0, description="A promise is broken so long after its deadline, ms.")
    promises_max: int = Field(50_000, ge=100, description="Open promises of an SLO; the oldest go first.")
    groups_max: int = Field(2_000, ge=1, description="Tenants of an SLO; more are not counted.")


@dataclass
class Budget:
    """One objective: its counts, and what came for them since the last step."""

    track: Track
    late: list[Late] = field(default_factory=list)


@dataclass
class Setup:
    """What a configuration makes of the state's keys; not part of a snapshot."""

    config: Config
    meters: dict[str, Meter]
    reader: Reader


@dataclass
class State:
    """All SLOs of a cell."""

    groups: dict[str, list[str]] = field(default_factory=dict)  # by SLO
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)  # resource and series, by SLO and group
    readings: Readings = field(default_factory=Readings)
    budgets: dict[str, Budget] = field(default_factory=dict)
    promises: dict[str, Promises] = field(default_factory=dict)
    due_ms: int | None = None
    episodes: Episodes = field(default_factory=Episodes)
    setup: Setup | None = None


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Count what a scrape or a batch of documents says."""
    setup = _setup(config, state)
    if not setup.meters:
        return state, []
    if isinstance(item.record, Forgotten):
        if item.record.is_last and item.record.system != TENANT:
            state.readings.let_go(item.record.resource)
    elif isinstance(item.record, Scrape):
        for meter, came in setup.reader.read(state.readings, item.record, item.at_ms):
            _count(config, state, meter, came, item)
    else:
        _take_documents(config, state, setup, item)
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Judge every budget at the end of a step."""
    setup = _setup(config, state)
    for key, open_promises in state.promises.items():
        if key in setup.meters:
            for came in promises.broken(open_promises, at_ms - config.margin_ms, at_ms):
                _add(config, state, setup.meters[key], came, at_ms)
    judged: dict[str, list[Judged]] = {}
    for key, budget in state.budgets.items():
        if key in setup.meters and budget.track.step < at_ms // config.step_ms:
            verdict, meter = budget.track.advance_to(at_ms // config.step_ms, budget.late), setup.meters[key]
            budget.late = []
            judged.setdefault(meter.slo.name, []).append(Judged(meter, budget.track, verdict))
    found = [told for name, objectives in judged.items() for told in _tell(config, state, name, objectives, at_ms)]
    declared = {meter.slo.name for meter in setup.meters.values()}
    undeclared = [key for key in state.episodes.open if key.partition("\x1f")[0] not in declared]
    found += [told for key in undeclared for told in state.episodes.close(key, at_ms)]
    state.due_ms = _step_end(config, at_ms) if state.episodes.open else _deadline(config, state, at_ms)
    return state, found


def _setup(config: Config, state: State) -> Setup:
    if state.setup is None or state.setup.config is not config:
        slos = [slo for slo in (config.estate.slos if config.estate else ()) if slo.options.covers(config.cell)]
        meters = {one.key: one for slo in slos for one in _meters(slo)}
        state.setup = Setup(config, meters, Reader(meters.values()))
        for key, meter in meters.items():
            _budget(config, state, meter).track.terms = _terms(config, meter)
            if meter.target.indicator.kind == "promise":
                state.promises.setdefault(key, Promises())
        # What is counted differently now begins anew.
        state.budgets = {key: one for key, one in state.budgets.items() if key in meters}
        state.promises = {key: one for key, one in state.promises.items() if key in meters}
    return state.setup


def _meters(slo: Slo) -> Iterable[Meter]:
    for number, target in enumerate(slo.targets):
        counted = target.model_dump_json(exclude={"name", "target"}), slo.period.model_dump_json(), slo.options.by
        yield Meter(f"{slo.name}\x1f{number}\x1f{signal_id(*counted)}", slo, target)


def _terms(config: Config, meter: Meter) -> Terms:
    options = meter.slo.options
    return Terms(
        meter.target,
        meter.slo.period,
        config.step_ms,
        moves=config.moves,
        chance=options.low_traffic_chance,
        freezes=options.freeze_unmeasured,
    )


def _budget(config: Config, state: State, meter: Meter) -> Budget:
    known = state.budgets.get(meter.key)
    if known is None:
        groups = len(state.groups.setdefault(meter.slo.name, []))
        known = state.budgets[meter.key] = Budget(Track(_terms(config, meter), groups))
    return known


def _take_documents(config: Config, state: State, setup: Setup, item: Item) -> None:
    if not state.promises:
        return
    for row in promises.rows(item.record):
        calendar = config.calendar(row.tenant)
        for key, open_promises in state.promises.items():
            came = promises.take(setup.meters[key], open_promises, row, item.at_ms, calendar, config.promises_max)
            if came:
                _count(config, state, setup.meters[key], came, item)
    if state.due_ms is None:
        state.due_ms = _deadline(config, state, item.at_ms)


def _count(config: Config, state: State, meter: Meter, came: Came, item: Item) -> None:
    if _add(config, state, meter, came, item.at_ms):
        state.seen[f"{meter.slo.name}\x1f{came.group}"] = (item.record.resource, came.series)
        state.due_ms = min(state.due_ms or 2**62, _step_end(config, item.at_ms))


def _add(config: Config, state: State, meter: Meter, came: Came, at_ms: int) -> bool:
    groups = state.groups[meter.slo.name]
    if came.group not in groups:
        is_declared = config.declared is None or came.group in ("", *config.tenants())
        if len(groups) >= (config.groups_max if is_declared else config.groups_max // 2):
            reached("burn_rate.groups")
            return False
        groups.append(came.group)
    budget, group, elapsed_ms = state.budgets[meter.key], groups.index(came.group), at_ms - came.since_ms
    counts = group_counts(came.bad, came.total, elapsed_ms if elapsed_ms <= config.gap_ms else 0)
    budget.track.grow(len(groups))
    budget.track.add(group, counts)
    if elapsed_ms > config.gap_ms:
        budget.late.append(Late(group, came.since_ms, at_ms, counts))
    return True


def _tell(config: Config, state: State, name: str, objectives: list[Judged], at_ms: int) -> Findings:
    found: Findings = []
    for number, group in enumerate(state.groups[name]):
        key = f"{name}\x1f{group}"
        burning = [one for one in objectives if one.broken(number)]
        if not burning:
            found += state.episodes.close(key, at_ms)
            continue
        fields = _signal(state, name, group, number, burning, at_ms)
        if fields is None:
            continue  # frozen over unmeasured time: it stays open, and there is nothing to say
        found += state.episodes.seen(
            key=key, time_ms=at_ms, tell_every_ms=config.tell_every_ms, cell=config.cell, detector=STEP.name, **fields
        )
    return found


def _signal(
    state: State, name: str, group: str, number: int, burning: list[Judged], at_ms: int
) -> dict[str, Any] | None:
    first = burning[0]
    rule = first.broken(number)[0]
    burn = rate(first, rule.long_ms, number)
    if math.isnan(burn):
        return None
    whose, (resource, series) = f" of {group}" if group else "", state.seen.get(f"{name}\x1f{group}", (name, ""))
    held, slo = first.verdict.sums[rule.long_ms][-1], first.meter.slo
    return {
        "cause": cause_of("slo.burn", f"{name}/{group}" if group else name),
        "resource": resource,
        "tenant": group or None,
        "tenants": (group,) if group else (),
        "severity": max(SEVERITY[rule.severity] for one in burning for rule in one.broken(number)),
        "score": float(np.clip(1 - doubt(held, first.meter.target.budget)[number], 0, 0.99)),
        "summary": f"{slo.title}{whose} burns its error budget {burn:.1f} times as fast as allowed; "
        f"{what_is_left(first.track, burn, number)}",
        "evidence": tuple(evidence(burning, number, series, at_ms))[:20],
    }


def _step_end(config: Config, at_ms: int) -> int:
    return (at_ms // config.step_ms + 1) * config.step_ms


def _deadline(config: Config, state: State, at_ms: int) -> int | None:
    """The end of the step in which the next promise is broken."""
    dues = [due for one in state.promises.values() if (due := one.next_due_ms()) is not None]
    return max(_step_end(config, min(dues) + config.margin_ms), at_ms + 1) if dues else None


def due(state: State) -> int | None:
    """When budgets are judged next."""
    return state.due_ms


def unit(record: Record) -> str | None:
    """The cell: an SLO sums over its resources."""
    return "" if isinstance(record, Scrape | BusinessBatch | Forgotten) else None


_LAST, _LOOKS = TypeAdapter(dict[str, Last]), TypeAdapter(dict[str, Look])


def pack(state: State) -> Parts:
    """Names, readings and counts apart from history, of which only the present chunk changes; nothing without SLOs."""
    if not state.budgets:
        return {}
    names = {"groups": state.groups, "seen": state.seen, "last": list(state.readings.last)}
    last = list(state.readings.last.values())
    counted = {"part": np.array([one.part for one in last]), "total": np.array([one.total for one in last])}
    counted["at_ms"] = np.array([one.at_ms for one in last], np.int64)
    more = {
        "looks": _LOOKS.dump_python(state.readings.looks),
        "forgotten": state.readings.forgotten,
        "due_ms": state.due_ms,
        "late": {
            key: [[*one[:3], one.counts.tolist()] for one in budget.late] for key, budget in state.budgets.items()
        },
    }
    raw = {f"raw\x1f{key}": budget.track.raw for key, budget in state.budgets.items()}
    parts = {
        "names": orjson.dumps(names),
        "counted": columns.pack(counted | raw, more),
        "episodes": orjson.dumps(state.episodes.dump()),
    }
    for key, budget in state.budgets.items():
        track = budget.track
        small = {name: array for name, array in track.small().items() if name != "raw"}
        parts[f"track\x1f{key}"] = columns.pack(small, [track.step, track.period_ms, _RULES])
        for grain, ring in track.rings.items():
            for number in range(-(-len(ring) // CHUNK_ROWS)):
                rows = ring[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS]
                parts[f"ring\x1f{key}\x1e{grain}\x1e{number}"] = columns.pack({"rows": rows})
    return parts | {f"promises\x1f{key}": one.model_dump_json().encode() for key, one in state.promises.items()}


def unpack(parts: Parts) -> State:
    """What `pack` gave; terms come with the configuration."""
    names, (counted, more) = orjson.loads(parts["names"]), columns.unpack(parts["counted"])
    numbers = zip(counted["part"].tolist(), counted["total"].tolist(), counted["at_ms"].tolist(), strict=True)
    last = {key: Last(*one) for key, one in zip(names["last"], numbers, strict=True)}
    state = State(
        groups=names["groups"],
        seen={key: (resource, series) for key, (resource, series) in names["seen"].items()},
        readings=Readings(_LOOKS.validate_python(more["looks"]), last, more["forgotten"]),
        promises={
            name.partition("\x1f")[2]: Promises.model_validate_json(data)
            for name, data in parts.items()
            if name.startswith("promises\x1f")
        },
        due_ms=more["due_ms"],
        episodes=Episodes.load(orjson.loads(parts["episodes"])),
    )
    rings = _unpack_rings(parts)
    for key, late in more["late"].items():
        small, (last_step, period_ms, *rules) = columns.unpack(parts[f"track\x1f{key}"])
        small["legs"] = _legs_of(small["legs"], rules[0] if rules else RULES_NUMBERED)
        track = Track.restored(_TERMS, small | {"raw": counted[f"raw\x1f{key}"]}, rings[key], last_step, period_ms)
        state.budgets[key] = Budget(
            track, [Late(group, since, until, np.array(rows, np.int64)) for group, since, until, rows in late]
        )
    return state


def _legs_of(packed: Flags, rules: Sequence[str]) -> Flags:
    """Rows in the order of the workbook; a rule that was not there yet holds for nobody."""
    legs = np.zeros((len(_RULES), packed.shape[1]), bool)
    for row, rule in enumerate(rules):
        if rule in _RULES:
            legs[_RULES.index(rule)] = packed[row]
    return legs


def _unpack_rings(parts: Parts) -> dict[str, dict[int, Counts]]:
    chunks: dict[str, dict[int, dict[int, Counts]]] = {}
    for name, data in parts.items():
        kind, _, rest = name.partition("\x1f")
        if kind == "ring":
            key, grain, number = rest.split("\x1e")
            chunks.setdefault(key, {}).setdefault(int(grain), {})[int(number)] = columns.unpack(data)[0]["rows"]
    return {
        key: {grain: np.concatenate([rows[number] for number in sorted(rows)]) for grain, rows in grains.items()}
        for key, grains in chunks.items()
    }


_ANY = Indicator(kind="raw", part=Column(column=""))
_TERMS = Terms(Target(name="", target=0.0, method=BudgetingMethod.OCCURRENCES, indicator=_ANY), Period())

ABOUT = About(
    finds=(
        "A service level objective whose error budget burns so fast that somebody must act, and when it will be gone."
    ),
    method=(
        "Good and bad events are counted over a short and a long window; both must burn faster than the rule's "
        "factor. A gap counts neither as good nor as bad."
    ),
    source="The Site Reliability Workbook (2018), chapter 5: multiwindow, multi-burn-rate alerts",
    limits=(
        "It says that a promise is in danger, not why; with few events one failure may be a page, unless the "
        "objective has a rule for low traffic."
    ),
)
STEP = Step(
    "burn_rate",
    Config,
    (Scrape, BusinessBatch, Forgotten),
    unit,
    State,
    step,
    pack,
    unpack,
    tick=tick,
    due=due,
    about=ABOUT,
)
