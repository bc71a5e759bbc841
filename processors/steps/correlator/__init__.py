"""Signals and changes of a cell become incidents: one story each, with ranked causes and the business at stake.

What can cause what is a table (`tables`), whom it can reach is the estate's map (`topology`). Each signal is linked to
the cause that explains it best, and what is linked is one story (`grouping`); every node of it and every change is weighed
as its root, with what speaks for and against it (`ranking`); documents and value decide how grave it is (`severity`), and
what will follow them is said (`exposure`). A story opens, grows, splits, merges and ends as evidence comes (`telling`),
and what comes and goes or lies in maintenance is told sparingly (`quiet`).

Signals are taken in as they come and looked at together a moment later, so their order within it does not matter. Only
groups with something new in them are looked at, and ticks come only when time alone could change something.
"""

from __future__ import annotations

from processors.step import About, Findings, Item, Step
from processors.steps.correlator import exposure, grouping, quiet, recovery, telling
from processors.steps.correlator.config import Config
from processors.steps.correlator.state import Deed, Kept, State, cause_of, pack, unpack, verdict_of
from processors.steps.correlator.tables import kind_of
from schemas.bounds import reached
from schemas.records import Change, ChangeStatus, OperationsEvent, Phase, Record, Scrape, Signal, Verdict
from schemas.silences import EVENT, Silence

PASSED_OVER = frozenset({"pilothouse.watchdog"})
"""Kinds that are no trouble."""


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a signal, a change, or what is on its way; stories are told by the tick."""
    record = item.record
    if isinstance(record, Scrape):
        exposure.take(state, record)
        return state, []
    if isinstance(record, OperationsEvent):
        if silence := Silence.of(record):
            quiet.silence(config, state, silence, item.at_ms)
    elif isinstance(record, Change):
        _take_change(config, state, record)
    elif kind_of(record.cause) in PASSED_OVER:
        return state, []
    else:
        _take_signal(config, state, record, item.at_ms)
    if state.ids:
        soon = item.at_ms + config.pause_ms
        state.due_ms = soon if state.due_ms is None else min(state.due_ms, soon)
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Look at the signals as a whole and tell what has changed."""
    quiet.mute(config, state, at_ms)
    found = telling.end(config, state, at_ms)
    _forget(config, state, at_ms)
    grouping.refresh(config, state)
    groups = grouping.groups(config, state)
    found = quiet.hush(state, found + telling.look(config, state, groups, at_ms), at_ms)
    times = telling.next_ms(config, state, groups, at_ms)
    edge = quiet.next_edge_ms(config, state, at_ms)
    due_ms = min([*times, *([edge] if edge else [])], default=None)
    state.due_ms = None if due_ms is None else max(due_ms, at_ms + config.pause_ms)
    return state, found


def due(state: State) -> int | None:
    """When the signals are looked at next."""
    return state.due_ms


def _take_signal(config: Config, state: State, signal: Signal, at_ms: int) -> None:
    kept = state.kept.get(signal.id)
    verdict, deed = verdict_of(signal), state.deeds.get(signal.cause)
    if verdict and deed and signal.time_ms > deed.change.time_ms:  # at its own instant nothing is judged yet
        deed.verdict = signal
        state.renew(signal.cause)
    if signal.phase is Phase.RESOLVED or verdict in (Verdict.FINE, Verdict.INCONCLUSIVE):
        if kept and kept.ended_ms is None:
            state.keep(kept.model_copy(update={"ended_ms": at_ms}))
        return
    if kept is None:
        _part_with(config, state, signal.cause, at_ms)
    highs = recovery.highs(kept.highs if kept else {}, signal) if kind_of(signal.cause) in recovery.LEFT_BEHIND else {}
    state.keep(Kept(signal=signal, first_ms=kept.first_ms if kept else at_ms, highs=highs))
    if len(state.kept) > config.signals_max:
        _evict(state)


def _part_with(config: Config, state: State, cause: str, at_ms: int) -> None:
    """What comes back too late to be the same trouble, or was an effect of what is told no more, begins anew."""
    node = state.nodes.get(cause)
    if node is None or node.over_ms is None:
        return
    if at_ms - node.over_ms <= config.reopen_ms and cause not in state.parents:
        return
    if not any(cause in story.members for story in state.stories.values()):
        for one in node.kept:
            state.drop(one.signal.id)


def _evict(state: State) -> None:
    """Forget what has ended first, or came first."""
    ended = [one for one in state.kept.values() if one.ended_ms is not None]
    oldest = min(ended or state.kept.values(), key=lambda one: (one.ended_ms or 0, one.first_ms, one.signal.id))
    state.drop(oldest.signal.id)
    state.forgotten += 1
    reached("correlator.signals")


def _take_change(config: Config, state: State, change: Change) -> None:
    undone = [cause for cause, deed in state.deeds.items() if _undoes(change, deed.change)]
    for cause in undone:
        deed = state.deeds[cause]
        if deed.undone_ms is None:
            state.deeds[cause] = deed.model_copy(update={"undone_ms": change.time_ms})
            state.renew(cause)
    if undone or change.status is ChangeStatus.ROLLED_BACK:
        return  # it ends a story rather than beginning one
    cause = cause_of(change)
    known = state.deeds.get(cause)
    if known is None or known.change.status is ChangeStatus.STARTED or known.undone_ms is not None:
        again = known is not None and known.undone_ms is None
        first_ms = known.change.time_ms if known and again else change.time_ms
        state.deeds[cause] = Deed(change=change.model_copy(update={"time_ms": first_ms}))
        state.renew(cause)
    if len(state.deeds) > config.changes_max:
        reached("correlator.changes")
        _forget_change(state, min(state.deeds, key=lambda one: (state.deeds[one].change.time_ms, one)))


def _undoes(change: Change, known: Change) -> bool:
    """Whether it goes back to what a known change of the same service came from, or says so itself."""
    if change.service != known.service or change.kind is not known.kind or change.revision == known.revision:
        return change.status is ChangeStatus.ROLLED_BACK and change.change_id == known.change_id
    back = known.previous_revision == change.revision
    said = change.status is ChangeStatus.ROLLED_BACK and change.previous_revision == known.revision
    return (back or said) and change.time_ms >= known.time_ms


def _forget(config: Config, state: State, at_ms: int) -> None:
    """Let go of what has ended and of old changes; a story keeps its signals to its end, so that its causes stay."""
    in_story = {cause for story in state.stories.values() for cause in story.members}
    named = {cause.cause for story in state.stories.values() for cause in story.incident.causes}
    over = [
        one.signal.id
        for node in state.nodes.values()
        if node.cause not in in_story
        and node.over_ms is not None
        and node.over_ms <= at_ms - max(config.quiet_ms, config.aftermath_max_ms)
        for one in node.kept
    ]
    for identity in sorted(over):
        state.drop(identity)
    for cause, deed in sorted(state.deeds.items()):
        if deed.change.time_ms < at_ms - config.change_ms and cause not in named and cause not in state.ids:
            _forget_change(state, cause)
    latest = sorted(state.closed, key=lambda cause: (-state.closed[cause].incident.time_ms, cause))
    for place, cause in enumerate(latest):
        # What has come back in time may wait to be told.
        if place >= config.closed_max or state.closed[cause].incident.time_ms < at_ms - 2 * config.reopen_ms:
            del state.closed[cause]
    reached("correlator.closed", max(len(latest) - config.closed_max, 0))
    if len(state.looked_at) > 2 * len(state.nodes) + 100:
        state.looked_at.clear()
    most = 2 * len(state.nodes) + 100
    if len(state.rows) > most or any(len(row) > most for row in state.rows.values()):
        state.rows.clear()


def _forget_change(state: State, cause: str) -> None:
    del state.deeds[cause]
    state.renew(cause)


def _unit(record: Record) -> str | None:
    """All of a cell is one; of what is measured only open documents matter, and of what operators are told only silences."""
    if isinstance(record, Scrape):
        return "" if exposure.columns(record.series) else None
    return None if isinstance(record, OperationsEvent) and record.name != EVENT else ""


ABOUT = About(
    finds=(
        "One incident out of the signals and changes that belong together, with ranked causes, those who suffer "
        "and the business at stake."
    ),
    method=(
        "Signals near in time are joined where a table of mechanisms and the map of the estate let one explain "
        "the other; each candidate's probability weighs its prior, what it explains, what it leaves unexplained "
        "and what began before it."
    ),
    source=(
        "roots ranked over a dependency graph with noise, Shrink (Kandula et al. 2005) and Sherlock (Bahl et al. "
        "2007); design effect of correlated observations (Kish 1965)"
    ),
    limits=(
        "It can name only what is in the estate or sends signals; two independent faults within minutes at one "
        "resource may be told as one."
    ),
)
STEP = Step(
    "correlator",
    Config,
    (Signal, Change, OperationsEvent, Scrape),
    _unit,
    State,
    step,
    pack,
    unpack,
    tick=tick,
    due=due,
    version=2,
    about=ABOUT,
)
