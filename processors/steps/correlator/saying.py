"""What is said of a story: its causes, who suffers, how bad it is, what to do, and what is not told by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from processors.episodes import signal_id
from processors.roles import Suspect, concerned
from processors.steps.correlator import quiet
from processors.steps.correlator.config import Config
from processors.steps.correlator.exposure import exposed
from processors.steps.correlator.grouping import explains
from processors.steps.correlator.ranking import CHANCE, Ranked, argue, rank
from processors.steps.correlator.recovery import recovery
from processors.steps.correlator.severity import forecast_ms, impact_of, severity_of
from processors.steps.correlator.state import Node, State, change_text
from processors.steps.correlator.tables import EXPLAINED_BY, Reach, kind_of, known
from schemas.impact import Impact
from schemas.records import Incident, Inhibited, Phase, Recovery, Role, Severity, Signal

SIGNALS = 500
INHIBITED = 100
TITLE, RECOVERING = 16_384, "Recovering: "

Group = list[Node]


class Assessment(NamedTuple):
    """What decides whether there is news: cheap, without the words."""

    members: Group
    ranked: Ranked
    tenants: tuple[str, ...]
    impact: Impact
    forecast_ms: int | None
    """Time until what is only forecast comes true, ms."""
    severity: Severity
    roles: tuple[Role, ...]
    recovery: Recovery | None


def assess(config: Config, state: State, members: Group, at_ms: int, before: Incident | None) -> Assessment:
    """Judge a story as it is now. `before` is how it was last told; what was worst so far stays."""
    ranked = rank(config, state, members)
    tenants = _tenants(config, state, ranked.first.cause, members, before, at_ms)
    impact = impact_of(members, before.impact if before else None)
    ahead_ms = forecast_ms(ranked.first, members, at_ms)
    severity = severity_of(config, members, impact, tenants, ahead_ms)
    if before:
        severity = max(severity, before.severity)
    known = before.roles if before else ()
    roles = concerned(_suspects(config, ranked), impact, severity, config.many_tenants, known)
    over = recovery(ranked.first, members, is_known=before.recovery is not None) if before else None
    return Assessment(members, ranked, tenants, impact, ahead_ms, severity, roles, over)


def _suspects(config: Config, ranked: Ranked) -> Iterable[Suspect]:
    """The first cause, and others that may well be it, with the systems that they name."""
    resources = config.declared.resources_by_name if config.declared else {}
    for view, share in zip(ranked.views, ranked.shares, strict=True):
        if view.root is ranked.first or share >= config.calls:
            cause = view.root.cause
            known = resources.get(cause.partition(":")[2])
            yield Suspect(cause, known.system if known else None)


def compose(config: Config, state: State, view: Assessment, at_ms: int, before: Incident | None) -> Incident:
    """What is to be said of a story now."""
    members, root = view.members, view.ranked.first
    started_ms = min([node.onset_ms for node in members] + ([before.started_ms] if before else []))
    told = root.signals
    ids = {one.signal.id for node in members for one in node.kept}
    suffering = view.tenants if view.forecast_ms is None else ()
    impact = exposed(config, state, suffering, view.impact, before.impact if before else None, at_ms)
    title = told[0].summary if told else _change_title(root, members)
    return Incident(
        cell=config.cell,
        time_ms=at_ms,
        id=before.id if before else signal_id(config.cell, "incident", root.cause, started_ms),
        version=before.version if before else 1,
        phase=Phase.OPEN,
        started_ms=started_ms,
        severity=view.severity,
        title=(RECOVERING + title)[:TITLE] if view.recovery else title,
        causes=argue(config, state, view.ranked),
        tenants=view.tenants,
        roles=view.roles,
        impact=impact,
        signals=tuple(sorted(ids | set(before.signals if before else ()))[:SIGNALS]),
        advice=_advice(root, told),
        inhibited=tuple(_inhibited(config, state, root, members)),
        absorbed=before.absorbed if before else (),
        split_from=before.split_from if before else None,
        flapping=before.flapping if before else False,
        recovery=view.recovery,
    )


def _change_title(root: Node, members: Group) -> str:
    first = min(members, key=lambda node: (node.onset_ms, node.cause))
    done = change_text(root.deed.change).text if root.deed else root.cause
    return f"{done}; since then: {first.signals[0].summary}"


def _advice(root: Node, told: Sequence[Signal]) -> str | None:
    if root.is_change and root.ended_ms is None:
        return f"Roll back {root.cause.partition(':')[2]}, then check that what it stopped goes on."
    return told[0].advice if told else None


def _inhibited(config: Config, state: State, root: Node, members: Group) -> Iterable[Inhibited]:
    """What is not told by itself, and by which causes it is explained: of this story, and of others that are told."""
    told = {story.incident.causes[0].cause for story in state.stories.values()} - {root.cause}
    others: dict[str, list[Node]] = {}
    for node in (state.nodes[cause] for cause in sorted(told) if cause in state.nodes):
        others.setdefault(node.kind, []).append(node)
    rows = [(node, one.signal) for node in members if node is not root for one in node.kept]
    for node, signal in rows[:INHIBITED]:
        parent = state.nodes.get(state.parents.get(node.cause, ""))
        rivals = [one for kind in EXPLAINED_BY.get(node.kind, ()) for one in others.get(kind, ())]
        by = [one.cause for one in (root, parent, *rivals) if one and explains(config, one, node) > CHANCE]
        if by:
            yield Inhibited(signal=signal.id, cause=node.cause, by=tuple(dict.fromkeys(by)))


def _tenants(
    config: Config, state: State, cause: str, members: Group, before: Incident | None, at_ms: int
) -> tuple[str, ...]:
    """Who suffers, by what was seen, worst first; then those whom the cause reaches by the map or the change."""
    counts: dict[str, float] = dict.fromkeys(before.tenants, 0.0) if before and before.causes[0].cause == cause else {}
    for signal in (one.signal for node in members for one in node.kept):
        for tenant in _sufferers(state, cause, signal):
            counts[tenant] = counts.get(tenant, 0.0) + signal.score
    for tenant in _reached(config, state, cause):
        counts.setdefault(tenant, 0.0)
    if not counts:
        counts.update(dict.fromkeys(_needing(config, state, cause), 0.0))
    awake = counts.keys() - quiet.resting(config, at_ms)
    return tuple(sorted(awake, key=lambda tenant: (-counts[tenant], tenant)))


def _sufferers(state: State, first: str, signal: Signal) -> set[str]:
    """Whom a signal says to suffer. Who only causes the load does not.

    Nor does anybody from what looks like load because a lock of that tenant, say, holds its sessions up: who waits for more
    than his own is seen by himself.
    """
    if kind_of(signal.cause) != "tenant.load":
        return {tenant for tenant in (signal.tenant, *signal.tenants) if tenant}
    root = state.nodes.get(first)
    only_looks = root is not None and root.is_limited and state.parents.get(signal.cause) == first
    return set() if only_looks else set(signal.tenants)


def _reached(config: Config, state: State, cause: str) -> Iterable[str]:
    """Tenants that a change was made to, or whose Odoo needs the resource that the cause names or weighs upon."""
    if cause in state.deeds:
        return state.deeds[cause].change.tenants or config.tenants()
    kind, _, culprit = cause.partition(":")
    if len(config.tenants()) == 1 and known(kind).reach is Reach.TENANT:
        return config.tenants()  # what is always some tenant's is the only one's
    node = state.nodes.get(cause)
    resource = min(node.resources, default="") if node and kind == "tenant.load" else culprit
    return [tenant for tenant in config.topology.served_by(resource) if tenant != culprit]


def _needing(config: Config, state: State, cause: str) -> Iterable[str]:
    """Tenants that need the resource over others: they suffer from its trouble though nobody is seen to, not from a forecast."""
    node = state.nodes.get(cause)
    if node is None or node.due_ms is not None:
        return ()
    needing = config.topology.needing(cause.partition(":")[2])
    return sorted(needing.tenants) if needing else ()
