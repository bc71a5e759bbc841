"""Which signals belong to one story: each is linked to the cause that explains it best, and what is linked is a group.

How well a candidate explains a signal is a product: the table says whether its kind can, the estate whether it reaches
there, tenants how much of it, and time whether it came before and not too long before. A link is kept until another
candidate is clearly better, so that stories do not change hands with every number. Links are looked at only where a node
has come, gone or changed its shape.

Sources: explanation by a dependency graph and onset times as in Sherlock (Bahl et al. 2007) and MicroCause (Meng et al.
2020); grouping by topology and time, Google SRE workbook ch. 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

from processors.steps.correlator.config import Config
from processors.steps.correlator.state import Node, State
from processors.steps.correlator.tables import (
    ABSENCES,
    CHANGES,
    COMES_TRUE,
    EXCUSES,
    EXPLAINED_BY,
    EXPLAINS_SET,
    LINGERS,
    Reach,
    Urgency,
    known,
)
from processors.steps.correlator.topology import Needing
from schemas.records import Verdict

RIVALS = 4
"""Candidates of one kind and tenant that are compared for a signal: those that began last before it."""
MANY = 24
"""From so many moved candidates on it is cheaper to look at their effects than at each pair."""
OWN = 0.5
"""A change must be believed so much of what the signal is as a root of its own: an old release explains little."""

NEAR = 1.2
"""What names a tenant that feels the effect is believed so many times as much."""

PERHAPS = 0.5
"""A tenant may work with a partner that others have found silent, or not: nobody has declared it."""

AHEAD_MS = 30 * 86_400_000
"""What comes true may be seen so long before it is foreseen, and what is missed so long after it ceased."""

GUILTY = (Verdict.REGRESSED, Verdict.NOT_RECOVERED, Verdict.RECOVERED)
"""A change stays guilty of what began under it, also when it has been mended."""


def explains(config: Config, cause: Node, effect: Node) -> float:
    """How well a candidate explains a signal, 0 to 1, priors left aside."""
    if effect.is_acquitted and cause.kind in EXCUSES:
        return _share(cause, effect) * _lasted(cause, effect)
    if effect.kind not in EXPLAINS_SET.get(cause.kind, ()) or cause is effect:
        return 0.0
    share = _share(cause, effect)
    if not share or not _may_reach(config, cause, effect):
        return 0.0
    return share * _in_time(config, cause, effect)


def row(config: Config, state: State, cause: Node, effects: Iterable[Node]) -> list[float]:
    """How well a candidate explains each of several signals; remembered as long as neither changes its shape."""
    known = state.rows.setdefault(cause.form, {})
    found = []
    for effect in effects:
        much = known.get(effect.form)
        if much is None:
            much = known[effect.form] = explains(config, cause, effect)
        found.append(much)
    return found


def refresh(config: Config, state: State) -> None:
    """Link anew what has moved since the last look, and what that may explain."""
    gone_or_new, state.moved = state.moved, set()
    moved = sorted(gone_or_new)
    candidates = [state.nodes[cause] for cause in moved if cause in state.nodes]
    for cause in moved:
        if cause not in state.nodes:
            state.parents.pop(cause, None)
    afresh = {node.cause for node in candidates}
    # Whom a moved node has explained so far may have to look for another.
    afresh |= {effect for effect, parent in state.parents.items() if parent in gone_or_new}
    if len(candidates) > MANY:
        afresh.update(effect.cause for one in candidates for effect in state.index.effects(one))
    else:
        _offer(config, state, candidates, afresh)
    for cause in sorted(afresh):
        _link(config, state, cause)


def groups(config: Config, state: State) -> list[list[Node]]:
    """Members of each story that is or may become one, every group and its members in a fixed order."""
    leader: dict[str, str] = {cause: cause for cause, node in state.nodes.items() if node.is_member or node.is_change}

    def head(cause: str) -> str:
        while leader[cause] != cause:
            leader[cause] = leader[leader[cause]]
            cause = leader[cause]
        return cause

    for effect, parent in state.parents.items():
        if effect not in state.muted and parent not in state.muted and effect in leader and parent in leader:
            leader[head(effect)] = head(parent)
    for one, other in _alike(config, state):
        leader[head(other)] = head(one)
    found: dict[str, list[Node]] = {}
    for cause in sorted(leader):
        node = state.nodes[cause]
        if node.is_member and cause not in state.muted:
            found.setdefault(head(cause), []).append(node)
    return sorted(found.values(), key=lambda members: members[0].cause)


def _alike(config: Config, state: State) -> Iterable[tuple[str, str]]:
    """Pairs of what nothing explains and is no root, of one kind or one tenant, and began at about the same time.

    They have something in common, though nobody knows what: one story, as in grouping of alerts by likeness and time.
    Roots are, too, when one change could have brought about each of them, though it is hardly believed for one alone.
    """
    loose = [
        node
        for node in state.nodes.values()
        if node.is_member
        and node.cause not in state.parents
        and node.cause not in state.muted
        and node.due_ms is None
        and not node.is_change
    ]
    latest: dict[str, Node] = {}
    for node in sorted(loose, key=lambda one: (one.onset_ms, one.cause)):
        for key in _likeness(config, state, node):
            known = latest.get(key)
            if known and node.onset_ms - known.onset_ms <= config.together_ms:
                yield known.cause, node.cause
            latest[key] = node


def _likeness(config: Config, state: State, node: Node) -> list[str]:
    """What it may have in common with others."""
    if node.known.urgency is not Urgency.ROOT:
        return [f"kind {node.kind}", *(f"tenant {tenant}" for tenant in sorted(node.felt))]
    changes = (state.nodes[cause] for cause in sorted(state.deeds))
    blamed = (one for one in changes if one.verdict is not Verdict.FINE)
    return [f"kind {node.kind} of {one.cause}" for one in blamed if row(config, state, one, (node,))[0] > config.leak]


def strength(config: Config, cause: Node, effect: Node) -> float:
    """How much a candidate is believed to have brought about a signal: what it explains, times how readily it is believed."""
    explained = explains(config, cause, effect)
    if not explained:
        return 0.0
    near = 1.0 if effect.felt.isdisjoint(cause.tenants) else NEAR
    return explained * prior(config, cause) * near


def prior(config: Config, node: Node) -> float:
    """How readily a node is believed to be a root, by its kind and by what was judged of it."""
    if node.verdict in GUILTY:
        return node.known.prior * config.regressed
    return node.known.prior * (config.fine if node.verdict is Verdict.FINE else 1.0)


def _lasted(cause: Node, effect: Node) -> float:
    """Whether a rival went on when a change was acquitted of what it had been found guilty of."""
    assert effect.deed
    assert effect.deed.verdict
    at_ms = effect.deed.verdict.time_ms
    return float(cause.is_member and cause.onset_ms <= at_ms and (cause.over_ms is None or cause.over_ms >= at_ms))


def _share(cause: Node, effect: Node) -> float:
    """Share of those who feel the effect whom the cause can reach by what it names."""
    is_partner = cause.known.reach is Reach.PARTNER and bool(cause.tenants)
    if not effect.felt or not (cause.is_limited or is_partner):
        return 1.0
    named = len(effect.felt & cause.tenants) / len(effect.felt)
    return named + PERHAPS * (1.0 - named) if is_partner else named


def _may_reach(config: Config, cause: Node, effect: Node) -> bool:
    """Whether the effect lies where the cause's resource is needed."""
    if not cause.is_mapped:
        cause.reached, cause.is_mapped = _reached(config, cause), True
    if cause.reached is None or effect.known.reach is Reach.MACHINE:
        return True
    for one in cause.reached:
        if not effect.felt.isdisjoint(one.tenants) or not effect.resources.isdisjoint(one.resources):
            return True
    return False


def _reached(config: Config, cause: Node) -> tuple[Needing, ...] | None:
    reach = cause.known.reach
    if reach in (Reach.CELL, Reach.TENANT, Reach.PARTNER) or cause.is_change:
        return None
    named = frozenset() if cause.kind == "tenant.load" else frozenset({cause.cause.partition(":")[2]})
    found = [config.topology.needing(place, reach) for place in sorted(cause.resources | named)]
    # Of a resource that nobody has declared, or whose dependants nobody has, anything may be the effect.
    known = tuple(one for one in found if one is not None)
    return known if len(known) == len(found) else None


def _in_time(config: Config, cause: Node, effect: Node) -> float:
    """1 for an effect that follows at once; less the longer after its cause, or before it, it began."""
    if effect.kind in COMES_TRUE.get(cause.kind, ()) and effect.resources <= cause.resources:
        return 1.0 if cause.ended_ms is None and effect.over_ms is None else 0.0
    # Either may have gone on for a look before it was seen.
    if effect.over_ms is not None and cause.since_ms > effect.over_ms + 2 * _look_ms(config, cause, effect):
        return 0.0
    lead_ms = effect.onset_ms - cause.began_ms
    after_ms = effect.onset_ms - cause.ended_ms if cause.ended_ms is not None else 0
    if _is_too_late(config, cause, effect, after_ms):
        return 0.0
    if lead_ms < 0:
        # When a change was made, or when something runs out, is known; of a fault only when it was noticed.
        known = cause.is_change or cause.began_ms > cause.onset_ms
        scale, most = (
            (max(config.tolerance_ms, 1), config.tolerance_ms) if known else (config.notice_ms, config.notice_max_ms)
        )
        if not known and cause.since_ms <= effect.onset_ms:
            lead_ms = max(lead_ms, -most)  # however late it was missed, it had ceased before
        return math.exp(lead_ms / scale) if lead_ms >= -most else 0.0
    left = math.exp(-after_ms / config.aftermath_ms) if after_ms > 0 else 1.0
    if cause.is_change and cause.verdict not in GUILTY:
        lead_ms = max(effect.since_ms - cause.began_ms, 0)
        return left * math.exp(-lead_ms / config.change_fades_ms) if lead_ms <= config.change_ms else 0.0
    return left / (1.0 + lead_ms / config.fades_ms)


def _is_too_late(config: Config, cause: Node, effect: Node, after_ms: float) -> bool:
    """Whether it began so long after the cause was over that it does not come from it."""
    if after_ms > config.aftermath_max_ms:
        return True
    if after_ms <= config.catch_up_ms or effect.kind in LINGERS or cause.is_change:
        return False
    return after_ms > config.catch_up_ms + _look_ms(config, cause, effect)


def _look_ms(config: Config, cause: Node, effect: Node) -> float:
    """Time between two looks at the one of both that is looked at less often, ms."""
    resources = cause.resources | effect.resources
    return max((config.interval_ms(one) for one in resources), default=config.interval_ms())


def _offer(config: Config, state: State, candidates: Iterable[Node], afresh: set[str]) -> None:
    """Let a few moved candidates take over what they explain clearly better than what it is linked to."""
    for candidate in candidates:
        for effect in state.index.effects(candidate):
            if effect.cause in afresh:
                continue
            held = state.nodes.get(state.parents.get(effect.cause, ""))
            offered = _offered(config, candidate, effect)
            if offered and (held is None or offered > config.sticky * strength(config, held, effect)):
                state.parents[effect.cause] = candidate.cause


def _offered(config: Config, candidate: Node, effect: Node) -> float:
    found = strength(config, candidate, effect)
    if candidate.is_change and found < OWN * prior(config, effect):
        return 0.0
    return found


def _link(config: Config, state: State, cause: str) -> None:
    """Find the best explanation of a node among all candidates; the present one is kept unless another is clearly better."""
    node = state.nodes[cause]
    held = state.nodes.get(state.parents.get(cause, ""))
    held_strength = _offered(config, held, node) if held else 0.0
    best, most = "", 0.0
    for kind in EXPLAINED_BY.get(node.kind, ()) if node.is_member else ():
        if NEAR * known(kind).prior * (config.regressed if kind in CHANGES else 1.0) < most:
            continue  # none of this kind can be believed more
        is_seen_late = kind in ABSENCES or node.kind in COMES_TRUE.get(kind, ()) or node.is_acquitted
        ahead_ms = AHEAD_MS if is_seen_late else config.notice_max_ms
        for nearest in state.index.causes(kind, node, ahead_ms):
            for found, candidate in islice(_accepted(config, nearest, node), RIVALS):
                if found > most or (found == most and candidate < best):
                    best, most = candidate, found
    if held and held_strength and most <= config.sticky * held_strength:
        return
    if best:
        state.parents[cause] = best
    else:
        state.parents.pop(cause, None)


def _accepted(config: Config, candidates: Iterable[Node], effect: Node) -> Iterable[tuple[float, str]]:
    for candidate in candidates:
        if found := _offered(config, candidate, effect):
            yield found, candidate.cause
