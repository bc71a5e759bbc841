"""What a cell's correlator remembers: open signals by cause, recent changes, open and lately closed stories.

Signals of one cause are one node: it is nodes that explain one another. What can be made anew from the signals is not
packed: nodes, and the index by which a candidate finds what it may explain without looking at everything.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

from processors.evidence import cause_of as named
from processors.step import Parts
from processors.steps.correlator.tables import (
    ABSENCES,
    CHANGES,
    EXPLAINED_BY,
    EXPLAINS,
    SUSPECTED,
    Kind,
    Reach,
    kind_of,
    known,
)
from processors.steps.correlator.topology import Needing
from schemas.records import Change, Evidence, Incident, Signal, Verdict
from schemas.silences import Silence

ANYBODY = "*"
SHARED = ""
LAST = "\uffff"


class High(NamedTuple):
    """The highest that something has been, and when."""

    value: float
    time_ms: int


class Kept(BaseModel):
    """A signal as it was last told."""

    signal: Signal
    first_ms: int
    """Log time at which it came, or at which the maintenance it came in was over."""
    ended_ms: int | None = None
    highs: dict[str, High] = {}
    """Of how much waits, by series."""


class Deed(BaseModel):
    """A change, and when it was taken back."""

    change: Change
    undone_ms: int | None = None
    verdict: Signal | None = None

    @property
    def cause(self) -> str:
        """As causes name it."""
        return cause_of(self.change)


class OpenWork(BaseModel):
    """Documents that wait for their next step at one resource, counted at `at_ms`: by tenant, by type."""

    at_ms: int
    tenants: dict[str, dict[str, int]]


class Story(BaseModel):
    """An incident as it was last told."""

    incident: Incident
    members: list[str]
    """Causes of the nodes it joins."""
    turns: list[int] = []
    """Log times at which its trouble came and went, oldest first; bounded by the flap history."""
    is_on: bool = True
    has_news: bool = False
    """News that is too small to be told at once waits."""


@dataclass(slots=True, eq=False)
class Node:
    """Everything that is known of one cause: signals, a change, or both."""

    cause: str
    kind: str
    known: Kind
    kept: tuple[Kept, ...]
    deed: Deed | None
    onset_ms: int
    """When it was first noticed, or done."""
    since_ms: int
    """From when on it may have gone on: what did not come was missed before that was noticed."""
    began_ms: int
    """From when on it brings anything about: a forecast does not before it comes true."""
    ended_ms: int | None
    """When it stopped to bring anything about; None while it goes on."""
    over_ms: int | None
    """Log time at which the last of its signals ended; None while one goes on."""
    first_ms: int
    """Log time at which the first of its signals that go on came."""
    due_ms: int | None
    """When a forecast comes true."""
    score: float
    tenants: frozenset[str]
    """Whom it names: as a cause it may be limited to them."""
    felt: frozenset[str]
    """Where it is felt: as an effect it lies with them."""
    resources: frozenset[str]
    verdict: Verdict | None
    is_member: bool
    """Whether it is trouble itself; a change that nobody calls bad is only a candidate."""
    is_change: bool
    """Whether somebody did it."""
    is_limited: bool
    """Whether it reaches only the tenants that it names."""
    revision: int = 0
    form: int = 0
    """The revision that gave it its shape."""
    reached: tuple[Needing, ...] | None = None
    """What it can reach by the estate's map, once it is looked up; None: anything of the cell."""
    is_mapped: bool = False

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Its signals, the strongest first; one that advises says more than a number out of its band."""
        order = sorted(self.kept, key=lambda one: (one.signal.advice is None, -one.signal.score, one.signal.id))
        return tuple(one.signal for one in order)

    @property
    def is_acquitted(self) -> bool:
        """Whether it is a change that was found guilty, until something else was found that explains it."""
        return self.is_member and self.is_change and self.verdict is Verdict.INCONCLUSIVE and self.over_ms is not None

    def shape(self) -> tuple[Any, ...]:
        """What decides whom it explains; a new shape means that links are looked at again."""
        return (
            self.onset_ms,
            self.since_ms,
            self.began_ms,
            self.ended_ms,
            self.over_ms,
            self.tenants,
            self.felt,
            self.resources,
            self.verdict,
            self.is_change,
        )


def cause_of(change: Change) -> str:
    """KIND:SERVICE@REVISION."""
    return named(change.kind, f"{change.service}@{change.revision}")


def verdict_of(signal: Signal) -> Verdict | None:
    """What a judge of changes says of one; None when the signal is no verdict."""
    if kind_of(signal.cause) not in CHANGES or "@" not in signal.cause:
        return None
    return signal.verdict or Verdict.REGRESSED


@dataclass
class State:
    """Everything of one cell. `nodes` and `index` follow from the rest."""

    kept: dict[str, Kept] = field(default_factory=dict)
    deeds: dict[str, Deed] = field(default_factory=dict)
    """By cause."""
    stories: dict[str, Story] = field(default_factory=dict)
    closed: dict[str, Story] = field(default_factory=dict)
    """By first cause; may reopen."""
    parents: dict[str, str] = field(default_factory=dict)
    """Cause to the cause that explains it best."""
    moved: set[str] = field(default_factory=set)
    """Causes whose node has another shape since the last look, or is gone."""
    muted: set[str] = field(default_factory=set)
    """Causes of which nothing is told: all their tenants are in maintenance."""
    due_ms: int | None = None
    silences: dict[str, Silence] = field(default_factory=dict)
    """By id; those that are not over."""
    forgotten: int = 0
    """Signals that were let go of because there were too many."""
    open: dict[str, OpenWork] = field(default_factory=dict)
    """By resource, the documents that are on their way."""
    nodes: dict[str, Node] = field(default_factory=dict)
    ids: dict[str, set[str]] = field(default_factory=dict)
    """Signals by cause."""
    index: Index = field(default_factory=lambda: Index())
    looked_at: dict[str, Any] = field(default_factory=dict)
    """What each group was made of at the last look."""
    rows: dict[int, dict[int, float]] = field(default_factory=dict)
    """By form of a cause and of an effect, how well it explains it; made anew where it was let go of."""
    revisions: int = 0

    def renew(self, cause: str) -> None:
        """Make the node of a cause anew from its signals and its change."""
        before = self.nodes.pop(cause, None)
        if before:
            self.index.drop(before)
        after = _node(cause, [self.kept[one] for one in sorted(self.ids.get(cause, ()))], self.deeds.get(cause))
        if after:
            self.revisions += 1
            after.revision = self.revisions
            after.form = before.form if before and before.shape() == after.shape() else self.revisions
            self.nodes[cause] = after
            self.index.add(after)
        if (before and before.shape()) != (after and after.shape()):
            self.moved.add(cause)

    def keep(self, one: Kept) -> None:
        """Take in a signal as it is now."""
        known_before = self.kept.get(one.signal.id)
        if known_before and known_before.signal.cause != one.signal.cause:
            self.drop(one.signal.id)
        self.kept[one.signal.id] = one
        self.ids.setdefault(one.signal.cause, set()).add(one.signal.id)
        self.renew(one.signal.cause)

    def drop(self, identity: str) -> None:
        """Forget a signal."""
        gone = self.kept.pop(identity)
        self.ids[gone.signal.cause].discard(identity)
        if not self.ids[gone.signal.cause]:
            del self.ids[gone.signal.cause]
        self.renew(gone.signal.cause)


class Index:
    """Nodes by kind and tenant: who may explain what, without looking at everything."""

    def __init__(self) -> None:
        self._causes: dict[tuple[str, str], list[Node]] = {}
        """In the order in which they began."""
        self._effects: dict[tuple[str, str], dict[str, Node]] = {}

    def add(self, node: Node) -> None:
        """Take in a node."""
        for key in self._places_as_cause(node):
            insort(self._causes.setdefault(key, []), node, key=_begin)
        for key in self._places_as_effect(node):
            self._effects.setdefault(key, {})[node.cause] = node

    def drop(self, node: Node) -> None:
        """Forget a node."""
        for key in self._places_as_cause(node):
            self._causes[key].remove(node)
        for key in self._places_as_effect(node):
            del self._effects[key][node.cause]

    def causes(self, kind: str, effect: Node, tolerance_ms: int) -> Iterator[Iterator[Node]]:
        """Nodes of a kind that may have brought about another: for each tenant, the one that began last first."""
        tenants = (SHARED, *effect.felt) if effect.felt else (ANYBODY,)
        before = (effect.onset_ms + tolerance_ms, LAST)
        for tenant in tenants:
            if found := self._causes.get((kind, tenant)):
                yield (found[place] for place in range(bisect_right(found, before, key=_begin) - 1, -1, -1))

    def effects(self, node: Node) -> Iterator[Node]:
        """Nodes that this one may explain, as far as kinds and tenants go; a node may come several times."""
        tenants = (SHARED, *node.tenants) if node.is_limited else (ANYBODY,)
        for kind in SUSPECTED.get(node.kind, ()):
            for tenant in tenants:
                yield from self._effects.get((kind, tenant), {}).values()

    def _places_as_cause(self, node: Node) -> Iterator[tuple[str, str]]:
        if node.kind in EXPLAINS:
            yield node.kind, ANYBODY
            for tenant in node.tenants if node.is_limited else (SHARED,):
                yield node.kind, tenant

    def _places_as_effect(self, node: Node) -> Iterator[tuple[str, str]]:
        if node.is_member and node.kind in EXPLAINED_BY:
            yield node.kind, ANYBODY
            for tenant in node.felt or (SHARED,):
                yield node.kind, tenant


def _begin(node: Node) -> tuple[int, str]:
    return node.onset_ms, node.cause


def _node(cause: str, kept: list[Kept], deed: Deed | None) -> Node | None:
    if not kept and deed is None:
        return None
    kind = kind_of(cause)
    live = [one for one in kept if one.ended_ms is None]
    told = [one.signal for one in live or kept]
    ends = [one.ended_ms for one in kept if one.ended_ms is not None]
    over_ms = None if live else max(ends, default=None)
    due = [one.expected_ms for one in told if one.expected_ms is not None]
    done = [deed.change.time_ms] if deed else []
    # What comes back while its story goes on is the same trouble, which began with its first signal.
    onsets = [one.signal.started_ms for one in kept] + done
    tenants = _named(told, deed)
    return Node(
        cause=cause,
        kind=kind,
        known=known(kind),
        kept=tuple(kept),
        deed=deed,
        onset_ms=min(onsets),
        since_ms=min([*onsets, *_missed(kind, kept)]),
        began_ms=min([max(one.signal.started_ms, one.signal.expected_ms or 0) for one in kept] + done),
        # What a change has brought about goes on for a while after it was taken back.
        ended_ms=over_ms if deed is None or kept else deed.undone_ms,
        over_ms=over_ms,
        first_ms=min((one.first_ms for one in live), default=0),
        due_ms=min(due) if due and len(due) == len(told) else None,
        score=max((one.score for one in told), default=1.0),
        tenants=tenants,
        felt=frozenset(name for one in told for name in ((one.tenant,) if one.tenant else one.tenants)),
        resources=frozenset(one.resource for one in told),
        verdict=_judged(told, deed),
        is_member=bool(kept),
        is_change=deed is not None,
        is_limited=known(kind).reach is Reach.TENANT and bool(tenants),
    )


def _named(told: list[Signal], deed: Deed | None) -> frozenset[str]:
    """Tenants that a cause names; none of a change to all of the cell."""
    if deed and not deed.change.tenants:
        return frozenset()
    names = {name for one in told for name in (one.tenant, *one.tenants) if name}
    return frozenset(names | set(deed.change.tenants if deed else ()))


def _missed(kind: str, kept: list[Kept]) -> Iterator[int]:
    """Times since which something did not come."""
    for fact in (fact for one in kept for fact in one.signal.evidence if kind in ABSENCES):
        if fact.time_ms is not None and fact.window_ms is not None:
            yield fact.time_ms - fact.window_ms


def _judged(told: list[Signal], deed: Deed | None) -> Verdict | None:
    """The last verdict: that of a change is told also when nothing is open because of it."""
    if deed and deed.verdict:
        return verdict_of(deed.verdict)
    verdicts = [verdict for one in told if (verdict := verdict_of(one))]
    return verdicts[-1] if verdicts else None


def change_text(change: Change) -> Evidence:
    """What was done, by whom."""
    who = f" by {change.author}" if change.author else ""
    text = f"{change.kind} of {change.service} to {change.revision}{who}: {change.status}"
    return Evidence(text=text, time_ms=change.time_ms)


_KEPT = TypeAdapter(dict[str, Kept])
_DEEDS = TypeAdapter(dict[str, Deed])
_STORIES = TypeAdapter(dict[str, Story])
_OPEN = TypeAdapter(dict[str, OpenWork])
_REST: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


def pack(state: State) -> Parts:
    """Signals, changes and stories by themselves, since they change at different times."""
    rest = {
        "parents": dict(sorted(state.parents.items())),
        "moved": sorted(state.moved),
        "muted": sorted(state.muted),
        "due_ms": state.due_ms,
        "forgotten": state.forgotten,
        "silences": {name: one.model_dump() for name, one in sorted(state.silences.items())},
    }
    return {
        "signals": _KEPT.dump_json(dict(sorted(state.kept.items()))),
        "changes": _DEEDS.dump_json(dict(sorted(state.deeds.items()))),
        "stories": _STORIES.dump_json(dict(sorted(state.stories.items()))),
        "closed": _STORIES.dump_json(dict(sorted(state.closed.items()))),
        "open": _OPEN.dump_json(dict(sorted(state.open.items()))),
        "": _REST.dump_json(rest),
    }


def unpack(parts: Parts) -> State:
    """What `pack` gave, also of version 1."""
    if "signals" not in parts:
        return _from_version_1(parts)
    rest = _REST.validate_json(parts[""])
    state = State(
        kept=_KEPT.validate_json(parts["signals"]),
        deeds=_DEEDS.validate_json(parts["changes"]),
        stories=_STORIES.validate_json(parts["stories"]),
        closed=_STORIES.validate_json(parts["closed"]),
        open=_OPEN.validate_json(parts.get("open", b"{}")),
        parents=rest["parents"],
        muted=set(rest["muted"]),
        due_ms=rest["due_ms"],
        forgotten=rest["forgotten"],
        silences={name: Silence.model_validate(one) for name, one in rest.get("silences", {}).items()},
    )
    _renew_all(state)
    state.moved = set(rest["moved"])
    return state


def _renew_all(state: State) -> None:
    for identity, one in state.kept.items():
        state.ids.setdefault(one.signal.cause, set()).add(identity)
    for cause in sorted({*state.ids, *state.deeds}):
        state.renew(cause)


class _Version1(BaseModel):
    signals: dict[str, Signal]
    first_ms: dict[str, int]
    ended_ms: dict[str, int]
    changes: dict[str, Change]
    stories: dict[str, Story]
    due_ms: int | None


def _from_version_1(parts: Parts) -> State:
    """Its stories had ids of signals as members; links are made at the next look."""
    old = _Version1.model_validate_json(parts[""])
    state = State(due_ms=old.due_ms, stories=old.stories)
    for identity, signal in old.signals.items():
        first_ms, ended_ms = old.first_ms.get(identity, signal.time_ms), old.ended_ms.get(identity)
        state.kept[identity] = Kept(signal=signal, first_ms=first_ms, ended_ms=ended_ms)
    state.deeds = {cause_of(change): Deed(change=change) for change in old.changes.values()}
    for story in state.stories.values():
        story.members = sorted({old.signals[one].cause for one in story.members if one in old.signals})
    _renew_all(state)
    return state
