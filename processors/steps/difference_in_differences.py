"""Did a change make it worse? Each release, upgrade, configuration, scaling, certificate or secret is put on trial.

From the moment a change is told, whoever got it is compared with its own past and with the tenants that did not get it (see
`contrast`), on latency, errors, failed jobs and business flow (see `outcomes`). The mean of the series' e-values decides, so
looking early and at many series does not inflate errors. Verdicts:

- regressed: something is worse beyond chance and by more than matters. The signal opens, and strengthens the change as a cause.
- fine: in every group that was measured before, the worst that the evidence allows does not matter. Evidence against the
  change: the signal is told as resolved, severity info, and opens nothing.
- inconclusive: neither, with the time at which it is likely to be known; told like fine. Missing evidence is inconclusive.
- recovered, not_recovered: after a regression, by a roll-back or by itself; recovered resolves the signal.

Trouble of another origin that reaches the same tenants (see `rivals`) takes what it reaches out of the evidence, also when it
is told after the verdict but began before it: then the change is acquitted.

Sources: canary judgement as in Kayenta (Netflix & Google 2018), with the statistics of `contrast` and `always_valid`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field

from processors.admission import Forgotten
from processors.episodes import signal_id
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from processors.steps import proof
from processors.steps.contrast import BATCHES_MIN, Contrast, Margin, Question, Since, contrast, groups_of
from processors.steps.correlator.tables import EXCUSES, kind_of
from processors.steps.ledger import Ledger
from processors.steps.outcomes import speaking
from processors.steps.rivals import Rival, Rivals, reached
from processors.steps.trials import Head, Trial, follows, imagine, returns, takes_back
from processors.steps.verdicts import advice, evidence, row_text, sufferers, summary
from schemas import bounds
from schemas.calendar import MINUTE_MS
from schemas.records import Change, ChangeStatus, Phase, Record, Scrape, Severity, Signal, Verdict

TRIALS_MAX = 16
WARM_MS = 180_000  # caches are cold so long after a restart, and slow things down, though not to a half
AHEAD_S = (60, 120, 300, 600, 900, 1_800, 3_600)
NOTHING_BEFORE = "nothing that could tell was measured before it"


class Config(StepConfig):
    """When a change is believed to have done harm."""

    alpha: float = Field(
        0.01, gt=0, lt=1, description="Harmless changes called regressed, at most, however often looked at."
    )
    margin: float = Field(0.25, gt=0, description="Smallest relative effect on a level, such as latency, that matters.")
    margin_count: float = Field(0.5, gt=0, description="And on a count, such as failures or shipments.")
    fine_after_ms: int = Field(
        300_000, gt=0, description="A change is called fine so long after it at the earliest, ms."
    )
    confirm_ms: int = Field(
        60_000, ge=0, description="Where nobody stands beside, slowness alone waits so long for another cause, ms."
    )
    horizon_ms: int = Field(3_600_000, gt=0, description="What is not known after so long stays inconclusive, ms.")
    give_up_ms: int = Field(21_600_000, gt=0, description="A regression that lasts so long is the new usual, ms.")
    look_every_ms: int = Field(2_000, gt=0, description="Trials are judged so often while young, ms of log time.")
    looks: float = Field(0.5, ge=0, description="But after so many looks at the cell, as the estate declares them.")
    later_every_ms: int = Field(10_000, gt=0, description="And so often when older than two minutes, ms.")
    later_looks: float = Field(1.0, ge=0, description="But after so many looks.")
    tell_every_ms: int = Field(300_000, gt=0, description="An open regression is told again so often at most, ms.")

    def pause_ms(self, *, young: bool) -> int:
        """Time from one judgement to the next."""
        least_ms, looks = (self.look_every_ms, self.looks) if young else (self.later_every_ms, self.later_looks)
        return max(least_ms, round(looks * self.interval_ms()))


@dataclass
class State:
    """What a cell knows of outcomes, and its open trials."""

    ledger: Ledger = field(default_factory=Ledger)
    trials: list[Trial] = field(default_factory=list)
    rivals: Rivals = field(default_factory=Rivals)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a scrape, or put a change on trial."""
    state.ledger.turn(item.at_ms, config)
    if isinstance(item.record, Signal):
        state.rivals.take(item.record, config.declared, item.at_ms)
        return state, []
    if isinstance(item.record, Forgotten):
        stays = state.ledger.let_go(item.record.resource, item.record.series)
        if stays is not None:
            for trial in state.trials:
                trial.keep(stays)
        return state, []
    if isinstance(item.record, Change):
        return state, _change(config, state, item.record, item.at_ms)
    scrape: Scrape = item.record
    known = config.declared.resources_by_name.get(scrape.resource) if config.declared else None
    is_declared = config.estate is None or known is not None
    look = state.ledger.look(scrape, known.tenant if known else None, is_declared=is_declared)
    if look is not None:
        for trial in state.trials:
            trial.add(state.ledger, look)
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Judge the trials that are due."""
    state.ledger.turn(at_ms, config)
    found: Findings = []
    for trial in list(state.trials):
        if trial.head.due_ms <= at_ms:
            young = at_ms - trial.head.since_ms < 2 * MINUTE_MS
            trial.head.due_ms = at_ms + config.pause_ms(young=young)
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
            known.head.change = change
            known.grow(len(state.ledger.slots))
            known.anew(at_ms)
        return []
    found: Findings = []
    for other in list(state.trials):
        if follows(other.head.change, change):
            found += _mended(config, state, other, change, at_ms)
    if any(returns(other.head.change, change) for other in state.trials):
        return found  # a return is judged as the mending of what it takes back
    started_ms = min(change.time_ms, at_ms)
    head = Head(change=change, started_ms=started_ms, since_ms=at_ms, due_ms=at_ms + config.pause_ms(young=True))
    width = len(state.ledger.slots)
    trial = Trial(head, state.ledger.past(started_ms), Since.none(width), Since.none(width))
    state.trials.append(trial)
    while len(state.trials) > TRIALS_MAX:
        why = "too many changes at once to judge it"
        found += _end(config, state, state.trials[0], Verdict.INCONCLUSIVE, why, at_ms)
        bounds.reached("changes.trials")
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
    trial.grow(len(state.ledger.slots))
    trial.anew(at_ms)
    return []


def _judge(config: Config, state: State, trial: Trial, at_ms: int) -> Findings:
    head, age_ms = trial.head, at_ms - trial.head.since_ms
    trial.grow(len(state.ledger.slots))
    rivals = state.rivals.against(head.change, at_ms)
    excused = reached(rivals, state.ledger.slots)
    acquitted = _acquit(config, state, trial, rivals, at_ms) if head.guilty else []
    trial.since.forget(excused)
    trial.lately.forget(excused)
    if head.guilty:
        return acquitted + _judge_again(config, state, trial, at_ms)
    if not head.is_warm and age_ms >= WARM_MS:
        head.is_warm = True
        trial.since.forget(~state.ledger.is_count)
    seen = _contrast(config, state, trial, at_ms)
    if seen is not None and (guilty := proof.worse(seen, config.alpha, cold=not head.is_warm)).size:
        if proof.may_be_shared(seen, guilty):
            head.suspected_ms = head.suspected_ms or at_ms
            if at_ms - head.suspected_ms < config.confirm_ms:
                return acquitted
        head.guilty_ms = at_ms
        trial.lately.forget(np.ones(len(state.ledger.slots), bool))
        head.guilty = proof.slots_behind(state.ledger, seen, guilty)
        head.harm = proof.harm_of(seen, guilty, {})
        return acquitted + _tell(config, state, trial, Verdict.REGRESSED, seen, "", at_ms)
    if seen is not None and age_ms >= config.fine_after_ms and not _missing(config, state, trial, seen):
        return acquitted + _end(config, state, trial, Verdict.FINE, "", at_ms, seen)
    if age_ms >= config.horizon_ms:
        why = _why_not(config, state, trial, seen)
        return acquitted + _end(config, state, trial, Verdict.INCONCLUSIVE, why, at_ms, seen)
    return acquitted


def _acquit(config: Config, state: State, trial: Trial, rivals: list[Rival], at_ms: int) -> Findings:
    """Take a verdict back when other trouble, that had begun before it, reaches all that it rests on.

    A harmful change harms at once as a rule, and may bring about other trouble; what came later may be trouble that was noticed late.
    """
    head = trial.head
    is_late = head.guilty_ms > head.started_ms + config.fine_after_ms
    before = [
        one for one in rivals if one.started_ms <= head.guilty_ms or (is_late and one.may_precede(head.guilty_ms))
    ]
    if head.stage == "mended" or not before or not reached(before, state.ledger.slots)[head.guilty].all():
        return []
    head.guilty, head.harm, head.guilty_ms, head.suspected_ms = [], {}, 0, 0
    why = f"{', '.join(one.cause for one in before)} explains what was seen as well"
    return _tell(config, state, trial, Verdict.INCONCLUSIVE, None, why, at_ms)


def _judge_again(config: Config, state: State, trial: Trial, at_ms: int) -> Findings:
    """Is it still so? Evidence since the last answer, or since the mending, decides."""
    head = trial.head
    seen = _contrast(config, state, trial, at_ms, only=set(head.guilty))
    if at_ms - head.started_ms >= config.give_up_ms:
        why = "it has lasted so long that it counts as usual now"
        return _end(config, state, trial, Verdict.NOT_RECOVERED, why, at_ms, seen)
    if seen is None:
        return []
    lately = _contrast(config, state, trial, at_ms, only=set(head.guilty), since=trial.lately)
    for view in (seen, lately):
        if view is not None and proof.is_over(view, head.harm):
            return _end(config, state, trial, Verdict.RECOVERED, "", at_ms, view)
    if lately is not None:
        trial.lately.forget(proof.still_bad(lately, head.harm))
    if not (bad := proof.worse(seen, config.alpha)).size or at_ms - head.since_ms < config.tell_every_ms:
        return []
    head.harm = proof.harm_of(seen, bad, head.harm)
    head.since_ms = at_ms
    trial.since.forget(np.ones(len(state.ledger.slots), bool))
    verdict = Verdict.NOT_RECOVERED if head.stage == "mended" else Verdict.REGRESSED
    return _tell(config, state, trial, verdict, seen, "", at_ms)


def _missing(config: Config, state: State, trial: Trial, seen: Contrast | None) -> list[str]:
    """Groups of evidence that were there before the change and do not say fine."""
    groups = _groups(config, state, trial)
    return proof.missing(seen, groups, config.margin) if seen is not None else groups


def _groups(config: Config, state: State, trial: Trial) -> list[str]:
    """Groups of evidence that were there before the change."""
    treated = _treated(config, state, trial.head.change)
    return groups_of(state.ledger, treated & (trial.past.batches >= BATCHES_MIN))


def _treated(config: Config, state: State, change: Change) -> Any:
    """Slots of whoever got the change; what nobody has alone got it too."""
    got = set(change.tenants)
    is_partial = bool(got) and not got >= set(config.tenants())
    return np.array(
        [
            (not got or slot.tenant is None or slot.tenant in got)
            and (not slot.outcome.kinds or change.kind in slot.outcome.kinds)
            and not (is_partial and slot.is_borrowed)
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
        state.ledger.weeks(config),
        Margin(config.margin, config.margin_count),
    )


def _outlook(config: Config, state: State, trial: Trial, at_ms: int) -> str:
    """When it is likely to be known: how long evidence like that of the past must be gathered until nothing is missing."""
    if not _groups(config, state, trial):
        return NOTHING_BEFORE
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
    if not _groups(config, state, trial):
        return NOTHING_BEFORE
    return f"not enough evidence on {', '.join(_missing(config, state, trial, seen))}"


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
    rows = proof.worse(seen, config.alpha) if seen is not None and harmful else np.zeros(0, np.intp)
    worst = row_text(state.ledger, seen, int(rows[0])) if rows.size and seen else ""
    tenants = sufferers(state.ledger, seen, rows) or change.tenants or config.tenants()
    also, rivals = _at_that_time(state, trial), state.rivals.against(change, at_ms)
    signal = Signal(
        cell=change.cell,
        time_ms=at_ms,
        id=head.told.id if head.told else signal_id(change.cell, STEP.name, change.change_id, head.started_ms),
        phase=opened if harmful and not over else Phase.RESOLVED,
        detector=STEP.name,
        cause=cause_of(change.kind, f"{change.service}@{change.revision}"),
        resource=change.service,
        tenant=tenants[0] if len(tenants) == 1 else None,
        started_ms=head.started_ms,
        severity=proof.severity(seen, rows) if harmful else Severity.INFO,
        score=proof.certainty(seen, rows),
        summary=summary(change, verdict, worst, why, bool(head.mended_by)),
        evidence=evidence(state.ledger, seen, rows, also, rivals, head.started_ms, at_ms, why),
        tenants=tenants if harmful else (),
        advice=advice(change, bool(head.mended_by)) if harmful else None,
        verdict=verdict,
    )
    head.told = signal
    return [signal]


def _at_that_time(state: State, trial: Trial) -> list[Change]:
    """Other changes within ten minutes, which are on trial, too."""
    others = [one.head for one in state.trials if one is not trial]
    return [one.change for one in others if abs(one.started_ms - trial.head.started_ms) < 10 * MINUTE_MS]


def unit(record: Record) -> str | None:
    """The cell, for changes, scrapes that can tell of one, and signals of other trouble."""
    if isinstance(record, Change):
        return ""
    if isinstance(record, Signal):
        return "" if kind_of(record.cause) in EXCUSES else None
    return "" if isinstance(record, Forgotten) or (isinstance(record, Scrape) and speaking(record.series)) else None


def pack(state: State) -> Parts:
    """The ledger's parts, and one a trial."""
    parts = state.ledger.pack() | {"rivals": state.rivals.model_dump_json().encode()}
    return parts | {f"trial.{trial.head.change.change_id}": trial.pack() for trial in state.trials}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    trials = [Trial.unpack(data) for name, data in parts.items() if name.startswith("trial.")]
    trials.sort(key=lambda one: one.head.started_ms)
    return State(Ledger.unpack(parts), trials, Rivals.model_validate_json(parts.get("rivals", b"{}")))


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
        "change, or is reached by other trouble, is inconclusive."
    ),
)
STEP = Step(
    "difference_in_differences",
    Config,
    (Scrape, Change, Signal, Forgotten),
    unit,
    State,
    step,
    pack,
    unpack,
    tick=tick,
    due=due,
    about=ABOUT,
)
