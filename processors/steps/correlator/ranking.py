"""How probable is each candidate as the root of a story, and what speaks for and against it?

Single-fault diagnosis by Bayes' rule: the posterior of a root is its prior times the probability that it would have
brought about each signal of the story (itself for certain, what it explains likely, the rest only by chance). Signals of
one kind are much alike, so n of them count as n / (1 + (n - 1) r) independent ones. All candidates add up to 1.

Sources: Shrink (Kandula et al. 2005) and Sherlock (Bahl et al. 2007) for roots ranked over a dependency graph with noise;
Kish (1965), Survey Sampling, for the design effect of correlated observations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from processors.steps.correlator.config import Config
from processors.steps.correlator.grouping import explains, prior, row
from processors.steps.correlator.state import Node, State, change_text
from processors.steps.correlator.tables import ABSENT, EXPLAINS_SET
from schemas.records import Cause, Evidence, Verdict

CANDIDATES = 12
"""So many nodes of a story are weighed as its root: those that others are linked to, then the most readily believed."""
CAUSES = 10
EVIDENCE = 12
CHANCE = 0.05
"""What is explained no better is said to be unexplained."""
DOUBTS = (Verdict.FINE, Verdict.INCONCLUSIVE, Verdict.NOT_RECOVERED)


class View(NamedTuple):
    """A story as a candidate sees it."""

    root: Node
    members: Sequence[Node]
    explained: Sequence[float]
    """How well it explains each of them."""

    @property
    def does(self) -> list[Node]:
        """What it explains."""
        return [one for one, much in zip(self.members, self.explained, strict=True) if much > CHANCE]

    @property
    def does_not(self) -> list[Node]:
        """What it does not explain, itself left aside."""
        pairs = zip(self.members, self.explained, strict=True)
        return [one for one, much in pairs if much <= CHANCE and one is not self.root]


class Ranked(NamedTuple):
    """The candidates of a story, most probable first, and their probabilities, which add up to 1."""

    views: list[View]
    shares: list[float]

    @property
    def first(self) -> Node:
        """The most probable root."""
        return self.views[0].root


def rank(config: Config, state: State, members: Sequence[Node]) -> Ranked:
    """Weigh what may be the root of a story."""
    candidates = _candidates(config, state, members)
    views = _views(config, state, candidates, members)
    kinds: dict[str, list[int]] = {}
    for place, one in enumerate(members):
        kinds.setdefault(one.kind, []).append(place)
    logs = {view.root.cause: _log_weight(config, view, kinds) for view in views}
    ordered = sorted(views, key=lambda view: (-logs[view.root.cause], view.root.cause))[:CAUSES]
    top = logs[ordered[0].root.cause]
    weights = [math.exp(logs[view.root.cause] - top) for view in ordered]
    shares = [round(weight / math.fsum(weights), 4) for weight in weights]
    shares[0] = round(1.0 - math.fsum(shares[1:]), 4)
    return Ranked(ordered, shares)


def argue(config: Config, state: State, ranked: Ranked) -> tuple[Cause, ...]:
    """The same with what speaks for and against each."""
    return tuple(
        Cause(
            cause=view.root.cause,
            probability=share,
            evidence=tuple(_for(config, state, view))[:EVIDENCE],
            against=tuple(_against(config, state, view, ranked.views))[:EVIDENCE],
        )
        for view, share in zip(ranked.views, ranked.shares, strict=True)
    )


def _candidates(config: Config, state: State, members: Sequence[Node]) -> list[Node]:
    """Nodes of the story, and the changes that explain something of it."""
    followers: dict[str, int] = {}
    for one in members:
        parent = state.parents.get(one.cause)
        if parent:
            followers[parent] = followers.get(parent, 0) + 1
    order = sorted(members, key=lambda one: (-followers.get(one.cause, 0), -prior(config, one), one.cause))
    found = order[:CANDIDATES]
    changes = (node for node in (state.nodes[cause] for cause in state.deeds) if not node.is_member)
    return found + [one for one in changes if any(row(config, state, one, members))]


def _views(config: Config, state: State, candidates: Sequence[Node], members: Sequence[Node]) -> list[View]:
    """What each explains: directly, or through what a signal is linked to."""
    parents = [state.nodes.get(state.parents.get(one.cause, "")) for one in members]
    place = {one.cause: number for number, one in enumerate(members)}
    through = [
        (number, place[parent.cause], row(config, state, parent, (one,))[0], parent)
        for number, (one, parent) in enumerate(zip(members, parents, strict=True))
        if parent and parent.cause in place
    ]
    views = []
    for root in candidates:
        directly = row(config, state, root, members)
        explained = directly.copy()
        for number, above, link, parent in through:
            if link * directly[above] > explained[number] and parent is not root:
                explained[number] = link * directly[above]
        views.append(View(root, members, explained))
    return views


def _log_weight(config: Config, view: View, kinds: Mapping[str, Sequence[int]]) -> float:
    """Logarithm of prior times likelihood. `kinds` are the places of the members of each kind."""
    root, members, leak, direct = view.root, view.members, config.leak, config.direct
    vigour = 0.5 + root.score / 2 if root.is_member else 1.0
    logs = [math.log(direct * much if direct * much > leak else leak) for much in view.explained]
    likelihood = 0.0
    for places in kinds.values():
        weights = [(0.3 + 0.7 * members[one].score) * logs[one] for one in places if members[one] is not root]
        likelihood += math.fsum(weights) / (1.0 + max(len(weights) - 1, 0) * config.kinship)
    return math.log(prior(config, root) * vigour) + likelihood


def _for(config: Config, state: State, view: View) -> Iterable[Evidence]:
    """What was done, what was seen of it, what it explains."""
    root = view.root
    explained = [one for one in view.does if one.cause != root.cause]
    if root.deed:
        yield change_text(root.deed.change)
    for signal in root.signals[:3]:
        yield from signal.evidence[:5] or (Evidence(text=signal.summary, time_ms=signal.started_ms),)
    if explained:
        others = sum(one.cause != root.cause for one in view.members)
        yield Evidence(text=f"it explains {len(explained)} of {others} other signals: {_names(explained)}")
        lead_s = (min(one.onset_ms for one in explained) - root.onset_ms) / 1000
        if lead_s >= 0:
            yield Evidence(text=f"it began {lead_s:.0f} s before the first of them", time_ms=root.onset_ms)
    yield from _absent(config, state, root, speaks_for=True)


def _against(config: Config, state: State, view: View, views: Sequence[View]) -> Iterable[Evidence]:
    """What does not fit: what it cannot explain, what began before it, who suffers without it, what explains it."""
    root = view.root
    if root.deed and root.deed.verdict and root.verdict in DOUBTS:
        yield Evidence(text=root.deed.verdict.summary, time_ms=root.deed.verdict.time_ms)
    yield from _too_early(view)
    yield from _taken_back(view)
    yield from _without(view)
    if left := view.does_not:
        yield Evidence(text=f"it does not explain {_names(left)}")
    if above := [one.root for one in views if one.root is not root and explains(config, one.root, root) > CHANCE]:
        yield Evidence(text=f"it could itself be brought about by {_names(above)}")
    yield from _absent(config, state, root, speaks_for=False)


def _taken_back(view: View) -> Iterable[Evidence]:
    undone_ms = view.root.deed.undone_ms if view.root.deed else None
    late = [one for one in view.does_not if undone_ms is not None and one.onset_ms > undone_ms]
    if late:
        yield Evidence(text=f"it was taken back, and {_names(late)} began after that", time_ms=undone_ms)


def _too_early(view: View) -> Iterable[Evidence]:
    root, able = view.root, EXPLAINS_SET.get(view.root.kind, frozenset())
    early = [one for one in view.members if one is not root and one.kind in able and one.onset_ms < root.onset_ms]
    for one in sorted(early, key=lambda one: (one.onset_ms, one.cause))[:3]:
        what = "the change" if root.is_change else "it"
        text = f"{one.cause} began {(root.onset_ms - one.onset_ms) / 1000:.0f} s before {what}"
        yield Evidence(text=text, time_ms=one.onset_ms)


def _without(view: View) -> Iterable[Evidence]:
    """Tenants that a change was not made to, and that suffer the same."""
    root, able = view.root, EXPLAINS_SET.get(view.root.kind, frozenset())
    if root.is_change and root.tenants:
        others = {tenant for one in view.members if one.kind in able for tenant in one.felt - root.tenants}
        if others:
            yield Evidence(text=f"tenants without the change suffer as well: {', '.join(sorted(others)[:5])}")


def _absent(config: Config, state: State, root: Node, *, speaks_for: bool) -> Iterable[Evidence]:
    """Signs that are declared to be watched, and are not there."""
    for sign in ABSENT.get(root.kind, ()):
        if sign.speaks_for is not speaks_for:
            continue
        watched = config.topology.systems.get(sign.system, [])
        green = [one for one in watched if not {f"{sign.kind}:{one}", f"unreachable:{one}"} & state.nodes.keys()]
        if watched and green == watched:
            yield Evidence(text=sign.text.format(", ".join(green[:3])))


def _names(nodes: Sequence[Node]) -> str:
    names = [one.cause for one in sorted(nodes, key=lambda one: (one.onset_ms, one.cause))]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
