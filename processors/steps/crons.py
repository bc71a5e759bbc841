"""Scheduled actions that were switched off by failures, fail or do nothing again and again: nobody sees it, the table looks clean.

Odoo 18 and 19 switch an action off after failures and reset its failure count, so only the edge tells; 16 and 17 advance
`lastcall` on failure as on success, so only the log tells. A run that was killed, or ended with work left and none done, moves it on, too:
both count as failures. An action that was switched off without failures was switched off
by a person. The finding ends when the action is seen to run again, or, of one that fails, to run without failing.
That all actions of a database stand is silence (`absence`), that they are late is in their delay.
Source: odoo/addons/base/models/ir_cron.py of 16-19, seen on running 17-19.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, Field

from processors.admission import TENANT, Forgotten
from processors.episodes import Episodes, Open
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig, json_state
from schemas.bounds import reached
from schemas.caches import READINGS_BYTES, cached
from schemas.records import Evidence, OperationsEvent, Record, Scrape, Severity
from schemas.series import parse, split

RUNS = "odoo.cron.runs"
SWITCHED_OFF, BY_FAILURES = "odoo.cron.switched_off", "odoo.cron.deactivated"
NAME_MAX = 1_000  # characters of an action's name
IDLE = "odoo.cron.idle"
EVENTS = frozenset({SWITCHED_OFF, BY_FAILURES, IDLE, "odoo.cron.failing", "odoo.cron.failed", "odoo.cron.killed"})


class Config(StepConfig):
    """When a scheduled action is given up on."""

    failures: int = Field(3, ge=1, description="Failures in a row that are a finding.")
    successes: int = Field(2, ge=1, description="Runs that did not fail before it counts as well again.")
    recent_ms: int = Field(
        86_400_000, gt=0, description="Failures so long before it was switched off are its reason, ms."
    )
    forget_ms: int = Field(604_800_000, gt=0, description="What was not heard of for so long is forgotten, ms.")
    crons_max: int = Field(200, ge=1, description="Failing actions remembered a tenant; the oldest go first.")


class Cron(BaseModel):
    """A scheduled action that has failed or was switched off."""

    failures: int = 0
    first_ms: int
    last_ms: int
    is_off: bool = False
    is_idle: bool = Field(False, description="Its last run did nothing, though work waited for it.")
    body: str = ""
    runs: float | None = Field(None, description="The run counter as it was first seen since then.")
    more_runs: float = Field(0.0, description="Runs since then.")


class State(BaseModel):
    """The tenant's scheduled actions that are not well, by name."""

    tenant: str = ""
    crons: dict[str, Cron] = Field(default_factory=dict)
    open: dict[str, Open] = Field(default_factory=dict)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in what happened to an action, or see which of them run again."""
    record = item.record
    if isinstance(record, Forgotten):
        return state, []
    if isinstance(record, OperationsEvent):
        _happened(config, state, record)
    elif not state.crons:
        return state, []
    else:
        _run(config, state, record)
    return state, _judge(config, state, record)


def _happened(config: Config, state: State, event: OperationsEvent) -> None:
    name = str(event.attributes.get("odoo.cron.name", "?"))[:NAME_MAX]
    state.tenant = event.tenant or state.tenant
    known = state.crons.get(name)
    if event.name == SWITCHED_OFF and (known is None or event.time_ms - known.last_ms > config.recent_ms):
        return
    if known is None:
        if len(state.crons) >= config.crons_max:
            state.crons.pop(next(iter(state.crons)))
            reached("crons.actions")
        known = state.crons[name] = Cron(first_ms=event.time_ms, last_ms=event.time_ms)
    known.last_ms, known.body, known.is_idle = event.time_ms, event.body, event.name == IDLE
    # The log tells each failure, the table the number in a row.
    told = event.attributes.get("odoo.cron.failures")
    is_off = event.name in (SWITCHED_OFF, BY_FAILURES)
    known.failures = max(known.failures, int(told)) if isinstance(told, int) else known.failures + (not is_off)
    if is_off:
        known.is_off, known.runs, known.more_runs = True, None, 0.0


def _run(config: Config, state: State, scrape: Scrape) -> None:
    for place, name in _columns(scrape.series).runs:
        known, runs = state.crons.get(name), scrape.values[place]
        if known is None or runs is None:
            continue
        if known.runs is None or runs < known.runs:
            known.runs = runs
        known.more_runs += runs - known.runs
        known.runs = runs
        well = known.more_runs >= 1 if known.is_off else known.more_runs - known.failures >= config.successes
        if well:
            state.crons.pop(name)
    for name in [name for name, one in state.crons.items() if scrape.time_ms - one.last_ms > config.forget_ms]:
        state.crons.pop(name)


def _judge(config: Config, state: State, record: OperationsEvent | Scrape) -> Findings:
    episodes, cause = Episodes(state.open), cause_of("odoo.cron", state.tenant)
    ill = [(name, one) for name, one in state.crons.items() if one.is_off or one.failures >= config.failures]
    if not ill:
        return episodes.close(cause, record.time_ms)
    texts = [_sentence(name, one) for name, one in ill]
    return episodes.seen(
        key=cause,
        time_ms=record.time_ms,
        cell=record.cell,
        detector=STEP.name,
        cause=cause,
        resource=record.resource,
        tenant=state.tenant,
        severity=Severity.WARNING,
        score=0.95,
        summary=texts[0] + (f", and {len(texts) - 1} more" if len(texts) > 1 else ""),
        evidence=tuple(
            Evidence(
                text=text,
                unit="{failure}",
                value=float(one.failures),
                expected=0.0,
                window_ms=max(0, one.last_ms - one.first_ms),  # events come in the order of the log, not of their times
                time_ms=one.last_ms,
            )
            for text, (_, one) in zip(texts[:10], ill[:10], strict=True)
        ),
        tenants=(state.tenant,),
        advice="See its last traceback in the log, mend it, then switch it on again in Settings > Scheduled Actions.",
    )


def _sentence(name: str, cron: Cron) -> str:
    if cron.is_off:
        return cron.body or f"Scheduled action {name!r} was switched off after failures; it runs no more"
    if cron.is_idle:
        return f"Scheduled action {name!r} has run {cron.failures} times and done nothing, though work waits for it"
    return f"Scheduled action {name!r} has failed {cron.failures} times without a success between"


class Columns(NamedTuple):
    """Whose layout it is, and the places of its run counters with their actions' names."""

    tenant: str | None
    runs: list[tuple[int, str]]


@cached("cache.readings", READINGS_BYTES)
def _columns(layout: str) -> Columns:
    found = [(place, parse(one)) for place, one in enumerate(split(layout)) if one.startswith(RUNS)]
    names = [(place, series.attributes.get("odoo.cron.name", "?")) for place, series in found]
    return Columns(found[0][1].tenant if found else None, names)


def unit(record: Record) -> str | None:
    """A tenant, by its name; looks at its tables know it by their series."""
    if isinstance(record, Forgotten):
        return record.resource if record.system == TENANT else None
    if isinstance(record, OperationsEvent):
        return record.tenant if record.name in EVENTS else None
    return _columns(record.series).tenant if isinstance(record, Scrape) else None


_pack, _unpack = json_state(State)
ABOUT = About(
    finds="Scheduled actions that were switched off by failures, or fail, are killed or do nothing again and again.",
    method=(
        "Failures in a row are counted from the log and from Odoo's own table; being switched off without a "
        "recent failure is a person's doing and is not told."
    ),
    source="odoo/addons/base/models/ir_cron.py of Odoo 16 to 19",
    limits=(
        "Before Odoo 18 an action that runs and does nothing is not seen here, but by what it no longer brings (absence); "
        "later only if it reports its progress."
    ),
)
STEP = Step("crons", Config, (OperationsEvent, Scrape, Forgotten), unit, State, step, _pack, _unpack, about=ABOUT)
