"""Signals and changes of a cell become incidents: one story each, with ranked causes and the business at stake.

What can cause what is a table (`EXPLAINS`): a slow Redis can make a queue grow, a growing queue can hold up pickings. A
signal of a kind that can be a root, or a recent change, is a candidate; its weight is its own strength and prior plus
what it explains of the other open signals, as far as time and tenants allow. Candidates that explain one another, and
what they explain, are one incident. Probabilities are the weights' shares. The story is told when it opens, when its
first cause, severity, tenants or impact change, and when all of its signals have ended.

Sources: explanation by a causal graph with onset times as in MicroCause (Meng et al. 2020) and in alert grouping by
topology and time (Google SRE workbook ch. 8); weights add up as a noisy-or is approximated by its first terms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import BaseModel, Field

from processors.episodes import signal_id
from processors.step import Findings, Item, Step, StepConfig, json_state, whole_cell
from schemas.records import Cause, Change, ChangeStatus, Evidence, Impact, Incident, Phase, Severity, Signal

SYMPTOMS = (
    "odoo.latency",
    "odoo.errors",
    "queue.backlog",
    "queue.failures",
    "process.backlog",
    "process.stopped",
    "process.delayed",
)
"""What people feel. A symptom alone is told only after it has lasted."""

EXPLAINS: dict[str, tuple[str, ...]] = {
    "release": ("odoo.workers", "odoo.cron", "odoo.upgrade", "odoo.web", *SYMPTOMS),
    "module_upgrade": ("odoo.workers", "odoo.cron", "odoo.upgrade", "odoo.web", *SYMPTOMS),
    "configuration": ("odoo.workers", "odoo.cron", "redis.latency", "redis.connections", "postgresql.connections", *SYMPTOMS),
    "certificate": ("queue.failures", "queue.backlog", "process.delayed", "odoo.errors"),
    "storage": ("postgresql.lock", "redis.latency", "host.pressure", *SYMPTOMS),
    "tenant.load": (
        "host.cpu", "host.pressure", "storage", "postgresql.lock", "postgresql.connections", "redis.latency", "network",
        *SYMPTOMS,
    ),
    "postgresql.lock": ("tenant.load", "odoo.workers", "postgresql.connections", *SYMPTOMS),
    "postgresql.connections": ("odoo.workers", *SYMPTOMS),
    "redis.memory": ("redis.latency", "redis.persistence", *SYMPTOMS),
    "redis.latency": ("odoo.workers", "redis.connections", *SYMPTOMS),
    "redis.connections": ("queue.backlog", "queue.failures", "process.delayed", "process.stopped"),
    "unreachable": ("odoo.workers", "redis.latency", *SYMPTOMS),
    "odoo.upgrade": ("odoo.cron", "odoo.workers", *SYMPTOMS),
    "odoo.workers": ("odoo.cron", *SYMPTOMS),
    "host.cpu": ("host.pressure", "odoo.latency", "process.delayed"),
    "queue.backlog": ("process.delayed", "process.stopped", "process.backlog"),
}  # fmt: skip
"""Kind of cause to the kinds that it can bring about."""

PRIOR: dict[str, float] = {
    "release": 1.6,
    "module_upgrade": 1.5,
    "configuration": 1.4,
    "certificate": 1.4,
    "storage": 0.6,
    "tenant.load": 1.3,
    "postgresql.lock": 1.4,
    "redis.memory": 1.0,
    "redis.latency": 1.4,
    "unreachable": 1.0,
    "odoo.workers": 1.0,
    "odoo.upgrade": 1.0,
    "postgresql.connections": 0.8,
    "redis.connections": 0.6,
    "host.cpu": 0.5,
}
"""How readily a kind is believed to be the root of a story; what is not here is believed 0.3."""

OWN_TENANT = frozenset({"postgresql.lock", "odoo.workers", "odoo.upgrade", "odoo.cron", "queue.backlog"})
"""Kinds whose effects stay within their tenant."""

TELLING = frozenset(
    {
        "release",
        "module_upgrade",
        "configuration",
        "redis.latency",
        "postgresql.lock",
        "tenant.load",
        "odoo.workers",
        "redis.memory",
        "certificate",
        "unreachable",
        "odoo.upgrade",
    }
)
"""Kinds that open an incident by themselves; the others need a root or time."""


class Config(StepConfig):
    """How signals become stories."""

    settle_ms: int = Field(500, ge=0, description="A story is told so long after its first signal, ms, to gather.")
    patience_ms: int = Field(60_000, gt=0, description="A lone symptom is told after so long, ms.")
    quiet_ms: int = Field(10_000, gt=0, description="A story ends so long after its last signal, ms.")
    look_every_ms: int = Field(500, gt=0, description="How often stories are looked at, ms of log time.")
    tell_every_ms: int = Field(10_000, gt=0, description="Lesser news of a story is told so often at most, ms.")
    change_ms: int = Field(1_800_000, gt=0, description="A change is a candidate for so long, ms.")
    change_fades_ms: int = Field(600_000, gt=0, description="And loses weight in this time (to 1/e), ms.")
    tolerance_ms: int = Field(20_000, gt=0, description="An effect may seem to begin so long before its cause, ms.")
    signals_max: int = Field(2_000, ge=10, description="Open signals kept a cell; the oldest go first.")


class Story(BaseModel):
    """An incident as it was last told."""

    incident: Incident
    members: list[str]


class State(BaseModel):
    """Open signals, recent changes and open stories of a cell."""

    signals: dict[str, Signal] = Field(default_factory=dict)
    first_ms: dict[str, int] = Field(default_factory=dict, description="Log time at which each signal came.")
    ended_ms: dict[str, int] = Field(default_factory=dict, description="Log time at which ended signals ended.")
    changes: dict[str, Change] = Field(default_factory=dict)
    stories: dict[str, Story] = Field(default_factory=dict)
    due_ms: int | None = None


class Candidate(NamedTuple):
    """A signal or change that may be the cause of others."""

    cause: str
    kind: str
    onset_ms: int
    weight: float
    tenants: frozenset[str]
    evidence: tuple[Evidence, ...]
    signal: Signal | None


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a signal or a change; stories are told by the tick, so that their order does not depend on detail."""
    record = item.record
    if isinstance(record, Change):
        _change(config, state, record)
        return state, []
    if record.phase is Phase.RESOLVED:
        if record.id in state.signals:
            state.ended_ms.setdefault(record.id, item.at_ms)
    else:
        state.first_ms.setdefault(record.id, item.at_ms)
        state.signals[record.id] = record
        state.ended_ms.pop(record.id, None)
        _bound(config, state)
    if state.due_ms is None:
        state.due_ms = item.at_ms + config.look_every_ms
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Look at the signals as a whole and tell what has changed."""
    found = _end(config, state, at_ms)
    _forget(config, state, at_ms)
    for members in _groups(config, state):
        found += _tell(config, state, members, at_ms)
    state.due_ms = at_ms + config.look_every_ms if state.signals or state.stories else None
    return state, found


def kind_of(cause: str) -> str:
    """KIND of KIND:RESOURCE."""
    return cause.partition(":")[0]


def _change(config: Config, state: State, change: Change) -> None:
    if change.status is ChangeStatus.ROLLED_BACK or _is_return(state, change):
        return  # it ends a story rather than beginning one
    known = state.changes.get(change.change_id)
    if known is None or known.status is ChangeStatus.STARTED:
        first = known.time_ms if known else change.time_ms
        state.changes[change.change_id] = change.model_copy(update={"time_ms": first})
    if len(state.changes) > 200:
        state.changes.pop(next(iter(state.changes)))


def _is_return(state: State, change: Change) -> bool:
    """Whether it goes back to what a known change of the same service came from."""
    return any(
        one.previous_revision == change.revision and one.service == change.service and one.change_id != change.change_id
        for one in state.changes.values()
    )


def _bound(config: Config, state: State) -> None:
    while len(state.signals) > config.signals_max:
        _drop(state, next(iter(state.signals)))


def _drop(state: State, identity: str) -> None:
    state.signals.pop(identity, None)
    state.first_ms.pop(identity, None)
    state.ended_ms.pop(identity, None)


def _forget(config: Config, state: State, at_ms: int) -> None:
    """Let go of what has ended and of old changes; a story keeps its signals to its end, so that its causes stay."""
    kept = {member for story in state.stories.values() for member in story.members}
    for identity, ended in list(state.ended_ms.items()):
        if ended <= at_ms - config.quiet_ms and identity not in kept:
            _drop(state, identity)
    for name, change in list(state.changes.items()):
        if change.time_ms < at_ms - config.change_ms:
            state.changes.pop(name)


def _explains(config: Config, cause: Candidate, effect: Signal) -> float:
    """How well a candidate explains a signal, 0 to 1."""
    if kind_of(effect.cause) not in EXPLAINS.get(cause.kind, ()) or effect.cause == cause.cause:
        return 0.0
    if cause.kind in OWN_TENANT and effect.tenant and effect.tenant not in cause.tenants:
        return 0.0
    if cause.signal is None and cause.tenants and effect.tenant and effect.tenant not in cause.tenants:
        return 0.0
    lead_ms = effect.started_ms - cause.onset_ms
    if lead_ms < -config.tolerance_ms:
        return 0.0
    return 1.0 if cause.signal is not None else math.exp(-max(lead_ms, 0) / config.change_fades_ms)


def _candidates(state: State) -> list[Candidate]:
    own = [
        Candidate(
            cause=signal.cause,
            kind=kind_of(signal.cause),
            onset_ms=signal.started_ms,
            weight=PRIOR.get(kind_of(signal.cause), 0.3) * signal.score,
            tenants=frozenset(filter(None, (signal.tenant, *signal.tenants))),
            evidence=signal.evidence,
            signal=signal,
        )
        for signal in state.signals.values()
    ]
    return own + [_change_candidate(change) for change in state.changes.values()]


def _change_candidate(change: Change) -> Candidate:
    who = f" by {change.author}" if change.author else ""
    text = f"{change.kind} of {change.service} to {change.revision}{who}: {change.status}"
    return Candidate(
        cause=f"{change.kind}:{change.service}@{change.revision}",
        kind=change.kind,
        onset_ms=change.time_ms,
        weight=0.0,
        tenants=frozenset(change.tenants),
        evidence=(Evidence(text=text, time_ms=change.time_ms),),
        signal=None,
    )


def _groups(config: Config, state: State) -> list[list[Signal]]:
    """Signals that belong to one story: each joins the candidates that explain it best, and those what explains them."""
    signals = list(state.signals.values())
    candidates = _candidates(state)
    leader: dict[str, str] = {signal.id: signal.id for signal in signals}

    def head(identity: str) -> str:
        while leader[identity] != identity:
            identity = leader[identity]
        return identity

    by_change: dict[str, str] = {}
    same: dict[str, str] = {}
    for signal in signals:
        if signal.cause in same:
            leader[head(signal.id)] = head(same[signal.cause])
        same.setdefault(signal.cause, signal.id)
        best = _best(config, candidates, signal)
        if best is None:
            continue
        other = best.signal.id if best.signal else by_change.setdefault(best.cause, signal.id)
        leader[head(signal.id)] = head(other)
    groups: dict[str, list[Signal]] = {}
    for signal in signals:
        groups.setdefault(head(signal.id), []).append(signal)
    return list(groups.values())


def _best(config: Config, candidates: list[Candidate], effect: Signal) -> Candidate | None:
    def strength(one: Candidate) -> float:
        prior = PRIOR.get(one.kind, 0.3)
        near = 1.2 if effect.tenant and effect.tenant in one.tenants else 1.0
        return (
            _explains(config, one, effect) * prior * near * (1.0 if one.signal is None else 0.5 + one.signal.score / 2)
        )

    best = max(candidates, key=strength, default=None)
    return best if best and strength(best) > 0 else None


def rank(config: Config, state: State, members: list[Signal]) -> list[Cause]:
    """The causes of a story, most probable first; their probabilities add up to 1."""
    weights: dict[str, float] = {}
    facts: dict[str, list[Evidence]] = {}
    inside = {signal.id for signal in members}
    for one in sorted(_candidates(state), key=lambda one: -(one.signal is not None and one.signal.advice is not None)):
        if one.signal is not None and one.signal.id not in inside:
            continue
        explained = sum(_explains(config, one, other) * (0.3 + 0.7 * other.score) for other in members)
        if one.signal is None and explained == 0:
            continue
        if one.kind in SYMPTOMS and one.kind not in EXPLAINS:
            explained = 0.0
        weight = one.weight + PRIOR.get(one.kind, 0.3) * explained
        weights[one.cause] = max(weights.get(one.cause, 0.0), weight)
        facts.setdefault(one.cause, []).extend(one.evidence)
    _discount_effects(config, state, members, weights)
    total = sum(weights.values()) or 1.0
    ordered = sorted(weights, key=lambda cause: (-weights[cause], cause))
    return [
        Cause(cause=cause, probability=round(weights[cause] / total, 4), evidence=tuple(facts[cause][:8]))
        for cause in ordered[:10]
    ]


def _discount_effects(config: Config, state: State, members: list[Signal], weights: dict[str, float]) -> None:
    """What is itself explained by a candidate of the story is less likely to be its root."""
    inside = {signal.id for signal in members}
    for one in _candidates(state):
        if one.cause not in weights or (one.signal is not None and one.signal.id not in inside):
            continue
        for other in members:
            if other.cause in weights and _explains(config, one, other) > 0.3 and not _mutual(config, one, other):
                weights[other.cause] *= 0.5


def _mutual(config: Config, one: Candidate, other: Signal) -> bool:
    """Whether both could explain each other: then the one that was first, or stronger, is left to its weight."""
    if one.signal is None:
        return False
    back = Candidate(
        other.cause,
        kind_of(other.cause),
        other.started_ms,
        0.0,
        frozenset(filter(None, (other.tenant, *other.tenants))),
        (),
        other,
    )
    return _explains(config, back, one.signal) > 0.3


def _tell(config: Config, state: State, members: list[Signal], at_ms: int) -> Findings:
    story = _story_of(state, members)
    if story is None and not _worth_telling(config, state, members, at_ms):
        return []
    incident = _incident(config, state, members, at_ms, story.incident if story else None)
    ids = [signal.id for signal in members]
    if story is None:
        state.stories[incident.id] = Story(incident=incident, members=ids)
        return [incident]
    story.members = list(dict.fromkeys([*story.members, *ids]))[-500:]
    if not _is_news(config, story.incident, incident, at_ms):
        return []
    story.incident = incident.model_copy(update={"version": story.incident.version + 1, "phase": Phase.UPDATED})
    return [story.incident]


def _story_of(state: State, members: list[Signal]) -> Story | None:
    ids = {signal.id for signal in members}
    fitting = [story for story in state.stories.values() if ids.intersection(story.members)]
    return min(fitting, key=lambda story: (story.incident.started_ms, story.incident.id), default=None)


def _worth_telling(config: Config, state: State, members: list[Signal], at_ms: int) -> bool:
    live = [signal for signal in members if signal.id not in state.ended_ms]
    first = min(state.first_ms[signal.id] for signal in members)
    if not live or at_ms - first < config.settle_ms:
        return False
    kinds = {kind_of(signal.cause) for signal in live}
    if kinds & TELLING:
        return True
    explained_by_change = any(
        _explains(config, _change_candidate(change), one) > 0.3 for change in state.changes.values() for one in live
    )
    return (explained_by_change and len(live) > 1) or at_ms - first >= config.patience_ms


def _incident(config: Config, state: State, members: list[Signal], at_ms: int, before: Incident | None) -> Incident:
    causes = rank(config, state, members)
    tenants = _tenants(config, state, causes[0].cause, members, before)
    impact = _impact(members, before)
    severity = max([signal.severity for signal in members] + ([before.severity] if before else []))
    if impact.documents >= 5 and severity is Severity.WARNING:
        severity = Severity.CRITICAL
    started = min([signal.started_ms for signal in members] + ([before.started_ms] if before else []))
    top = causes[0]
    told = [one for one in members if one.cause == top.cause]
    # A step that knows the kind of trouble says more than a number out of its band.
    lead = max(told, key=lambda one: (one.advice is not None, one.score, one.id), default=None)
    return Incident(
        cell=members[0].cell,
        time_ms=at_ms,
        id=before.id if before else signal_id(members[0].cell, "incident", top.cause, started),
        version=before.version if before else 1,
        phase=Phase.OPEN,
        started_ms=started,
        severity=severity,
        title=lead.summary if lead else f"{top.evidence[0].text}; since then: {members[0].summary}",
        causes=tuple(causes),
        tenants=tenants,
        impact=impact,
        signals=tuple(sorted({signal.id for signal in members} | set(before.signals if before else ()))),
        advice=_advice(top, lead),
    )


def _advice(top: Cause, lead: Signal | None) -> str | None:
    if kind_of(top.cause) in ("release", "module_upgrade", "configuration"):
        return f"Roll back {top.cause.partition(':')[2]}, then check that what it stopped goes on."
    return lead.advice if lead else None


def _tenants(
    config: Config, state: State, cause: str, members: Sequence[Signal], before: Incident | None
) -> tuple[str, ...]:
    """Who suffers, by what was seen, worst first; then those whom the cause reaches by the map or the change."""
    counts: dict[str, float] = dict.fromkeys(before.tenants, 0.0) if before and before.causes[0].cause == cause else {}
    for signal in members:
        # Who only causes the load does not suffer from it.
        sufferers = (
            signal.tenants if kind_of(signal.cause) == "tenant.load" else filter(None, (signal.tenant, *signal.tenants))
        )
        for tenant in set(sufferers):
            counts[tenant] = counts.get(tenant, 0.0) + signal.score
    for tenant in _reached(config, state, cause, members):
        counts.setdefault(tenant, 0.0)
    return tuple(sorted(counts, key=lambda tenant: (-counts[tenant], tenant)))


def _reached(config: Config, state: State, cause: str, members: Iterable[Signal]) -> Iterable[str]:
    """Tenants that a change was made to, or whose Odoo needs the resource that the cause names or weighs upon."""
    for change in state.changes.values():
        if _change_candidate(change).cause == cause:
            return change.tenants or config.tenants()
    declared, (kind, _, culprit) = config.declared, cause.partition(":")
    if declared is None:
        return ()
    burdened = (one.resource for one in members if one.cause == cause)
    resource = next(burdened, "") if kind == "tenant.load" else culprit
    needing = [one.tenant for one in declared.resources if one.tenant and resource in one.depends_on]
    return [tenant for tenant in needing if tenant != culprit]


def _impact(members: Iterable[Signal], before: Incident | None) -> Impact:
    """Sum over the tenants of what is at stake now, or the worst so far, whichever is more."""
    now = [signal.impact for signal in members if signal.impact]
    joined = Impact.joined(now)
    return before.impact if before and before.impact.documents >= joined.documents else joined


def _is_news(config: Config, before: Incident, after: Incident, at_ms: int) -> bool:
    if before.causes[0].cause != after.causes[0].cause or after.severity > before.severity:
        return True
    if at_ms - before.time_ms < config.tell_every_ms:
        return False
    grown = after.impact.documents > 1.2 * before.impact.documents
    return grown or set(after.tenants) != set(before.tenants)


def _end(config: Config, state: State, at_ms: int) -> Findings:
    """End the stories all of whose signals have ended a while ago."""
    found: Findings = []
    for identity, story in list(state.stories.items()):
        if any(_goes_on(config, state, member, at_ms) for member in story.members):
            continue
        last = story.incident
        found.append(last.model_copy(update={"phase": Phase.RESOLVED, "time_ms": at_ms, "version": last.version + 1}))
        state.stories.pop(identity)
    return found


def _goes_on(config: Config, state: State, identity: str, at_ms: int) -> bool:
    return identity in state.signals and state.ended_ms.get(identity, at_ms) > at_ms - config.quiet_ms


def due(state: State) -> int | None:
    """When the signals are looked at next."""
    return state.due_ms


_pack, _unpack = json_state(State)
STEP = Step("correlator", Config, (Signal, Change), whole_cell, State, step, _pack, _unpack, tick=tick, due=due)
