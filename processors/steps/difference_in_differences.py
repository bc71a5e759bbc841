"""Did a change make it worse? Each release, upgrade, configuration, scaling, certificate or secret is put on trial.

From the moment a change is told, whoever got it is compared with its own past and with the tenants that did not get it (see
`contrast`), on latency, errors, failed jobs and business flow (see `outcomes`). The mean of the series' e-values decides, so
looking early and at many series does not inflate errors. Verdicts:

- regressed: something is worse beyond chance and by more than matters. The signal opens, and strengthens the change as a cause.
- fine: in every group that was measured before, the worst that the evidence allows does not matter. Evidence against the
  change: the signal is told as resolved, severity info, and opens nothing.
- inconclusive: neither, with the time at which it is likely to be known; told like fine. Missing evidence is inconclusive.
- recovered, not_recovered: after a regression, by a roll-back or by itself; recovered resolves the signal.

Sources: canary judgement as in Kayenta (Netflix & Google 2018), with the statistics of `contrast` and `always_valid`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field

from processors.episodes import signal_id
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from processors.steps.contrast import BATCHES_MIN, Contrast, Margin, Question, Since, contrast, groups_of
from processors.steps.outcomes import Ledger, speaks
from processors.steps.trials import Head, Trial, follows, imagine, returns, takes_back
from processors.steps.verdicts import advice, evidence, row_text, sufferers, summary
from schemas.calendar import MINUTE_MS
from schemas.records import Change, ChangeStatus, Phase, Record, Scrape, Severity, Signal, Verdict

TRIALS_MAX = 16
AHEAD_S = (60, 120, 300, 600, 900, 1_800, 3_600)


class Config(StepConfig):
    """When a change is believed to have done harm."""

    alpha: float = Field(
        0.005, gt=0, lt=1, description="Harmless changes called regressed, at most, however often looked at."
    )
    margin: float = Field(0.25, gt=0, description="Smallest relative effect on a level, such as latency, that matters.")
    margin_count: float = Field(0.5, gt=0, description="And on a count, such as failures or shipments.")
    fine_after_ms: int = Field(
        300_000, gt=0, description="A change is called fine so long after it at the earliest, ms."
    )
    horizon_ms: int = Field(3_600_000, gt=0, description="What is not known after so long stays inconclusive, ms.")
    give_up_ms: int = Field(21_600_000, gt=0, description="A regression that lasts so long is the new usual, ms.")
    look_every_ms: int = Field(2_000, gt=0, description="Trials are judged so often while young, ms of log time.")
    later_every_ms: int = Field(10_000, gt=0, description="And so often when older than two minutes, ms.")
    tell_every_ms: int = Field(300_000, gt=0, description="An open regression is told again so often at most, ms.")


@dataclass
class State:
    """What a cell knows of outcomes, and its open trials."""

    ledger: Ledger = field(default_factory=Ledger)
    trials: list[Trial] = field(default_factory=list)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a scrape, or put a change on trial."""
    state.ledger.turn(item.at_ms, config.calendar())
    if isinstance(item.record, Change):
        return state, _change(config, state, item.record, item.at_ms)
    scrape: Scrape = item.record
    known = config.declared.resources_by_name.get(scrape.resource) if config.declared else None
    look = state.ledger.look(scrape, known.tenant if known else None)
    if look is not None:
        for trial in state.trials:
            trial.add(state.ledger, look)
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Judge the trials that are due."""
    state.ledger.turn(at_ms, config.calendar())
    found: Findings = []
    for trial in list(state.trials):
        if trial.head.due_ms <= at_ms:
            young = at_ms - trial.head.since_ms < 2 * MINUTE_MS
            trial.head.due_ms = at_ms + (config.look_every_ms if young else config.later_every_ms)
            found += _judge(config, state, trial, at_ms)
    return state, found


def due(state: State) -> int | None:
    """When a trial is judged next."""
    return min((trial.head.due_ms for trial in state.trials), default=None)


def _change(config: Config, state: State, change: Change, at_ms: int) -> Findings:
    known = next((one for one in state.trials if one.head.change.change_id == change.change_id), None)
    if change.status is ChangeStatus.ROLLED_BACK:
        taken_back = [known] if known else [one for one in state.trials if takes_back(one.head.change, change)]
        return [told for one in taken_back for told in _mended(config, state, one, change, at_ms)]
    if known:
        if known.head.stage == "change" and not known.head.guilty and known.head.change.status is not change.status:
            known.head.change, known.head.since_ms = change, at_ms
            known.since = Since.none(len(state.ledger.slots))
        return []
    found: Findings = []
    for other in list(state.trials):
        if follows(other.head.change, change):
            found += _mended(config, state, other, change, at_ms)
    if any(returns(other.head.change, change) for other in state.trials):
        return found  # a return is judged as the mending of what it takes back
    started_ms = min(change.time_ms, at_ms)
    head = Head(change=change, started_ms=started_ms, since_ms=at_ms, due_ms=at_ms + config.look_every_ms)
    trial = Trial(head, state.ledger.past(started_ms), Since.none(len(state.ledger.slots)))
    state.trials.append(trial)
    while len(state.trials) > TRIALS_MAX:
        found += _end(
            config, state, state.trials[0], Verdict.INCONCLUSIVE, "too many changes at once to judge it", at_ms
        )
    return found + _tell(config, state, trial, Verdict.INCONCLUSIVE, None, _outlook(config, state, trial, at_ms), at_ms)


def _mended(config: Config, state: State, trial: Trial, change: Change, at_ms: int) -> Findings:
    """Somebody rolled back or forward: what regressed is judged anew, against the time before the change."""
    if trial.head.stage == "mended" and trial.head.mended_by == change.change_id + change.status:
        return []
    back = change.status is ChangeStatus.ROLLED_BACK or returns(trial.head.change, change)
    if not trial.head.guilty:
        text = "rolled back" if back else f"followed by {change.revision}"
        return _end(config, state, trial, Verdict.INCONCLUSIVE, f"{text} before there was enough evidence", at_ms)
    trial.head.stage, trial.head.mended_by = "mended", change.change_id + change.status
    trial.head.since_ms, trial.since = at_ms, Since.none(len(state.ledger.slots))
    return []


def _judge(config: Config, state: State, trial: Trial, at_ms: int) -> Findings:
    trial.grow(len(state.ledger.slots))
    if trial.head.guilty:
        return _judge_again(config, state, trial, at_ms)
    seen = _contrast(config, state, trial, at_ms)
    if seen is not None and (guilty := _regressed(config, seen)).size:
        trial.head.guilty = [int(seen.slot[row]) for row in guilty if seen.slot[row] >= 0] or _members(
            state, seen, guilty
        )
        trial.head.harm = _harm(seen, guilty)
        return _tell(config, state, trial, Verdict.REGRESSED, seen, "", at_ms)
    age_ms = at_ms - trial.head.since_ms
    if seen is not None and age_ms >= config.fine_after_ms and not _missing(config, state, trial, seen):
        return _end(config, state, trial, Verdict.FINE, "", at_ms, seen)
    if age_ms >= config.horizon_ms:
        return _end(config, state, trial, Verdict.INCONCLUSIVE, _why_not(config, state, trial, seen), at_ms, seen)
    return []


def _judge_again(config: Config, state: State, trial: Trial, at_ms: int) -> Findings:
    """Is it still so? Evidence since the last answer, or since the mending, decides."""
    head = trial.head
    seen = _contrast(config, state, trial, at_ms, only=set(head.guilty))
    if at_ms - head.started_ms >= config.give_up_ms:
        return _end(
            config,
            state,
            trial,
            Verdict.NOT_RECOVERED,
            "it has lasted so long that it counts as usual now",
            at_ms,
            seen,
        )
    if seen is None:
        return []
    if _over(trial, seen):
        return _end(config, state, trial, Verdict.RECOVERED, "", at_ms, seen)
    if not _regressed(config, seen).size or at_ms - head.since_ms < config.tell_every_ms:
        return []
    trial.since, head.since_ms = Since.none(len(state.ledger.slots)), at_ms
    verdict = Verdict.NOT_RECOVERED if head.stage == "mended" else Verdict.REGRESSED
    return _tell(config, state, trial, verdict, seen, "", at_ms)


def _regressed(config: Config, seen: Contrast) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Rows that are worse, most evident first. The mean of e-values decides, so each row answers for all of them."""
    threshold = math.log(len(seen.metric) / config.alpha)
    rows = np.flatnonzero(seen.worse & (seen.log_e >= threshold))
    return rows[np.argsort(-seen.log_e[rows], kind="stable")]


def _members(state: State, seen: Contrast, rows: Any) -> list[int]:
    """Slots behind rows that speak of a metric as a whole."""
    names = {seen.metric[row] for row in rows}
    return [int(slot) for slot in seen.slot if slot >= 0 and state.ledger.slots[slot].series.name in names]


def _harm(seen: Contrast, rows: Any) -> dict[str, float]:
    excess = np.where(seen.is_count, (seen.observed - seen.expected) * seen.sign, seen.shift)
    harm: dict[str, float] = {}
    for row in rows:
        harm[seen.metric[row]] = max(harm.get(seen.metric[row], 0.0), float(excess[row]))
    return harm


def _over(trial: Trial, seen: Contrast) -> bool:
    """Whether nothing that matters is left, or nine tenths of the harm are gone."""
    harm = np.array([trial.head.harm.get(metric, 0.0) for metric in seen.metric])
    events = np.where(seen.is_count, seen.observed * seen.weight, 0.0)
    most = (events + 3.0 + 2.0 * np.sqrt(events)) / np.maximum(seen.weight, 1e-9)
    rare = seen.is_count & (seen.sign > 0) & (most <= seen.expected + 0.1 * harm)
    gone = seen.fine | (~seen.is_count & (seen.high <= 0.1 * harm)) | rare
    pooled = seen.slot < 0
    return bool(gone[pooled].all() and not (seen.worse & (seen.log_e > 0))[~pooled].any())


def _missing(config: Config, state: State, trial: Trial, seen: Contrast) -> list[str]:
    """Groups of evidence that were there before and do not say fine; what looks bad is missing to its proof too."""
    treated = _treated(config, state, trial.head.change)
    pooled = seen.slot < 0
    doubtful = (seen.shift >= math.log1p(config.margin)) & (pooled | (seen.log_e > 0)) & ~seen.fine
    good = {seen.group[row] for row in np.flatnonzero(pooled & seen.fine)}
    bad = {seen.group[row] for row in np.flatnonzero(doubtful)}
    return [
        group
        for group in groups_of(state.ledger, treated & (trial.past.batches >= BATCHES_MIN))
        if group not in good or group in bad
    ]


def _treated(config: Config, state: State, change: Change) -> Any:
    """Slots of whoever got the change; what nobody has alone got it too."""
    got = set(change.tenants)
    return np.array(
        [
            (not got or slot.tenant is None or slot.tenant in got)
            and (not slot.outcome.kinds or change.kind in slot.outcome.kinds)
            for slot in state.ledger.slots
        ],
        bool,
    )


def _contrast(
    config: Config, state: State, trial: Trial, at_ms: int, only: set[int] | None = None, since: Since | None = None
) -> Contrast | None:
    treated = _treated(config, state, trial.head.change)
    # Who got another change meanwhile cannot stand beside this one.
    changed = {name for one in state.trials for name in one.head.change.tenants or config.tenants()}
    beside = np.array([slot.tenant is not None and slot.tenant not in changed for slot in state.ledger.slots], bool)
    if not trial.head.change.tenants:
        beside[:] = False
    if only is not None:
        treated &= np.isin(np.arange(treated.size), list(only))
    # Whether it is over is asked again and again, so each answer must be surer.
    alpha = 0.1 if only is None else 0.02
    ask = Question(treated, beside, trial.head.started_ms, trial.head.since_ms, max(at_ms, trial.head.since_ms), alpha)
    return contrast(
        state.ledger,
        trial.past,
        since or trial.since,
        ask,
        config.calendar(),
        Margin(config.margin, config.margin_count),
    )


def _outlook(config: Config, state: State, trial: Trial, at_ms: int) -> str:
    """When it is likely to be known: how long evidence like that of the past must be gathered until nothing is missing."""
    if not (_treated(config, state, trial.head.change) & (trial.past.batches >= BATCHES_MIN)).any():
        return "nothing that could tell was measured before it"
    for ahead_s in AHEAD_S:
        after_s = max(ahead_s, config.fine_after_ms // 1000)
        since = imagine(state.ledger, trial.past, after_s)
        seen = _contrast(config, state, trial, at_ms + after_s * 1000, since=since)
        if seen is not None and not _missing(config, state, trial, seen):
            return (
                f"a large effect is known at once, a harmless one about {math.ceil(after_s / 60)} min after the change"
            )
    return (
        f"traffic is too thin to call it fine within {config.horizon_ms // MINUTE_MS} min; a large effect is still seen"
    )


def _why_not(config: Config, state: State, trial: Trial, seen: Contrast | None) -> str:
    groups = groups_of(state.ledger, _treated(config, state, trial.head.change) & (trial.past.batches >= BATCHES_MIN))
    if not groups:
        return "nothing that could tell was measured before it"
    missing = _missing(config, state, trial, seen) if seen is not None else groups
    return f"not enough evidence on {', '.join(missing)}"


def _end(
    config: Config, state: State, trial: Trial, verdict: Verdict, why: str, at_ms: int, seen: Contrast | None = None
) -> Findings:
    state.trials.remove(trial)
    return _tell(config, state, trial, verdict, seen, why, at_ms, over=True)


def _tell(
    config: Config,
    state: State,
    trial: Trial,
    verdict: Verdict,
    seen: Contrast | None,
    why: str,
    at_ms: int,
    *,
    over: bool = False,
) -> Findings:
    head, change = trial.head, trial.head.change
    harmful = verdict in (Verdict.REGRESSED, Verdict.NOT_RECOVERED)
    was_open = head.told is not None and head.told.phase is not Phase.RESOLVED
    opened = Phase.UPDATED if was_open else Phase.OPEN
    rows = _regressed(config, seen) if seen is not None and harmful else np.zeros(0, np.intp)
    also = [
        one.head.change
        for one in state.trials
        if one is not trial and abs(one.head.started_ms - head.started_ms) < 10 * MINUTE_MS
    ]
    tenants = sufferers(state.ledger, seen, rows) or change.tenants or config.tenants()
    signal = Signal(
        cell=change.cell,
        time_ms=at_ms,
        id=head.told.id if head.told else signal_id(change.cell, STEP.name, change.change_id, head.started_ms),
        phase=opened if harmful and not over else Phase.RESOLVED,
        detector=STEP.name,
        cause=f"{change.kind}:{change.service}@{change.revision}",
        resource=change.service,
        tenant=tenants[0] if len(tenants) == 1 else None,
        started_ms=head.started_ms,
        severity=_severity(seen, rows) if harmful else Severity.INFO,
        score=float(min(0.9999, max(0.0, 1.0 - math.exp(-max(seen.log_e[rows].max(), 0.0)))))
        if rows.size and seen
        else 0.0,
        summary=summary(
            change,
            verdict,
            row_text(state.ledger, seen, int(rows[0])) if rows.size and seen else "",
            why,
            bool(head.mended_by),
        ),
        evidence=evidence(state.ledger, seen, rows, also, head.started_ms, at_ms, why),
        tenants=tenants if harmful else (),
        advice=advice(change, bool(head.mended_by)) if harmful else None,
        verdict=verdict,
    )
    head.told = signal
    return [signal]


def _severity(seen: Contrast | None, rows: Any) -> Severity:
    stops = seen is not None and any(
        seen.group[row] in ("jobs", "flow") or seen.shift[row] >= math.log(3.0) for row in rows
    )
    return Severity.CRITICAL if stops else Severity.WARNING


def unit(record: Record) -> str | None:
    """The cell, for changes and scrapes that can tell of one."""
    if isinstance(record, Change):
        return ""
    return "" if isinstance(record, Scrape) and _tells(record.series) else None


_TELLS: dict[str, bool] = {}
_TELLS_MAX = 10_000


def _tells(layout: str) -> bool:
    known = _TELLS.get(layout)
    if known is None:
        if len(_TELLS) >= _TELLS_MAX:
            _TELLS.clear()
        known = _TELLS[layout] = any(map(speaks, layout.split("\n")))
    return known


def pack(state: State) -> Parts:
    """The ledger's parts, and one a trial."""
    parts = state.ledger.pack()
    return parts | {f"trial.{trial.head.change.change_id}": trial.pack() for trial in state.trials}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    trials = [Trial.unpack(data) for name, data in parts.items() if name.startswith("trial.")]
    trials.sort(key=lambda one: one.head.started_ms)
    return State(Ledger.unpack(parts), trials)


ABOUT = About(
    finds=(
        "Whether a release, upgrade, configuration, scaling, certificate or secret made something worse, and "
        "whether taking it back helped."
    ),
    method=(
        "Whoever got the change is compared with its own past and with the tenants that did not get it; e-values "
        "keep the rate of false verdicts however often it is looked at."
    ),
    source=(
        "difference in differences (Card & Krueger 1994; Bertrand, Duflo & Mullainathan 2004); canary judgement as "
        "in Kayenta (2018); always-valid inference (Johari, Pekelis & Walsh 2022)"
    ),
    limits=(
        "A change that all tenants got at once is compared with the past alone; what was not measured before the "
        "change is inconclusive."
    ),
)
STEP = Step(
    "difference_in_differences",
    Config,
    (Scrape, Change),
    unit,
    State,
    step,
    pack,
    unpack,
    tick=tick,
    due=due,
    about=ABOUT,
)
