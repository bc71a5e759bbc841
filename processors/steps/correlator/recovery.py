"""Is the cause over while what it left behind is still worked off, and when will that be done?

Said of a story whose first cause has ended (its signals, or the change was taken back) and of which nothing goes on but
work that piled up, all of it already less than at its highest. How long that takes follows from how fast it has gone down
since then: what is left over the pace (Little's law as the finite-queue forecast, Hopp & Spearman, Factory Physics, 3rd ed., ch. 7).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from processors.steps.correlator.state import High, Kept, Node
from schemas.records import Recovery, Signal

LEFT_BEHIND = frozenset({"queue.backlog", "process.backlog", "process.delayed"})
"""Kinds that say how much waits: they outlive what made it wait."""
DOCUMENTS = "documents"
LONGEST_MS = 30 * 86_400_000


class Level(NamedTuple):
    """How much of something waits, and how much usually does."""

    value: float
    usual: float


def levels(signal: Signal) -> dict[str, Level]:
    """By series, or for a business of documents as a whole."""
    if signal.impact and signal.impact.documents:
        return {DOCUMENTS: Level(signal.impact.documents, 0.0)}
    return {
        one.series: Level(one.value, one.expected)
        for one in signal.evidence
        if one.series and one.value is not None and one.expected is not None and one.value > one.expected
    }


def highs(before: Mapping[str, High], signal: Signal) -> dict[str, High]:
    """The highest that each has been and when, as of a new telling; what is no longer told is forgotten."""
    found = {}
    for name, level in levels(signal).items():
        known = before.get(name)
        found[name] = known if known and known.value > level.value else High(level.value, signal.time_ms)
    return found


def recovery(root: Node, members: Sequence[Node], *, is_known: bool) -> Recovery | None:
    """None while the cause goes on, or anything else than work that is going down.

    Once it `is_known`, work that has moved on and piles up further down the way does not contradict it.
    """
    since_ms = root.ended_ms if root.over_ms is None and root.deed else root.over_ms
    live = [node for node in members if node.over_ms is None and node is not root]
    if since_ms is None or not live or any(node.kind not in LEFT_BEHIND for node in live):
        return None
    until = [_until_ms(one) for node in live for one in node.kept if one.ended_ms is None]
    known = [one for one in until if one is not None]
    if not known or (len(known) < len(until) and not is_known):
        return None
    return Recovery(since_ms=since_ms, until_ms=max(known), left=tuple(sorted(node.cause for node in live))[:20])


def _until_ms(one: Kept) -> int | None:
    """When the last of it will be as usual at its present pace; None while it does not go down."""
    found = list(_ends_ms(one))
    return max(end for end in found if end is not None) if found and None not in found else None


def _ends_ms(one: Kept) -> Iterator[int | None]:
    now_ms = one.signal.time_ms
    for name, level in levels(one.signal).items():
        high = one.highs.get(name)
        if high is None or high.value <= level.value:
            yield None
        else:
            left, gone = level.value - level.usual, high.value - level.value
            yield now_ms + round(min((now_ms - high.time_ms) * left / gone, LONGEST_MS))
