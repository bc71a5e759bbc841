"""The core in memory: a log of several topics, read in any interleaving, with crashes drawn by hypothesis.

The step under test counts and echoes, so that any record left out, doubled or told out of order shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from processors.fold import PartitionFold, Plan
from processors.lineage import Writer, restore
from processors.step import Item, Step, StepConfig, whole_cell
from schemas.codec import Envelope, Received
from schemas.records import Heartbeat, OperationsEvent, Phase, Severity, Signal

TOPICS = 3


@dataclass
class Echoes:
    told: list[str] = field(default_factory=list)
    due: int | None = None


def echo(config: StepConfig, state: Echoes, item: Item) -> tuple[Echoes, list[Any]]:
    state.told.append(item.record.name)
    if state.due is None:
        state.due = item.at_ms + 700
    return state, [finding(config.cell, f"{item.record.name}-{len(state.told)}", item.at_ms)]


def wake(config: StepConfig, state: Echoes, at_ms: int) -> tuple[Echoes, list[Any]]:
    state.due = None
    return state, [finding(config.cell, f"tick-{at_ms}-{len(state.told)}", at_ms)]


def finding(cell: str, name: str, at_ms: int) -> Signal:
    return Signal(
        cell=cell, time_ms=at_ms, id=name, phase=Phase.OPEN, detector="echo", cause="echo:x", resource="x",
        started_ms=at_ms, severity=Severity.INFO, score=0.5, summary="",
    )  # fmt: skip


def pack(state: Echoes) -> dict[str, bytes]:
    return {"told": "\n".join(state.told).encode(), "due": str(state.due).encode()}


def unpack(parts: dict[str, bytes]) -> Echoes:
    due = parts["due"].decode()
    return Echoes(parts["told"].decode().split("\n"), None if due == "None" else int(due))


ECHO = Step(
    "echo", StepConfig, (OperationsEvent,), whole_cell, Echoes, echo, pack, unpack, tick=wake, due=lambda s: s.due
)
PLAN = Plan(steps=(ECHO,), listens=tuple(range(TOPICS)), grace_ms=500)


@st.composite
def logs(draw: st.DrawFn) -> list[list[Received | Heartbeat]]:
    """By topic: records whose recorded time wanders (some late, some told twice) and a heartbeat now and then."""
    topics: list[list[Received | Heartbeat]] = []
    for topic in range(TOPICS):
        now, sequence, log = 10_000, 0, []
        for kind, step in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 900)), max_size=14)):
            now += step
            if kind < 3:
                log.append(Heartbeat(publisher="p", time_ms=now))
                continue
            sequence += 1
            recorded = now - (3_000 if kind == 3 else 0)
            envelope = Envelope("late" if kind == 3 else "src", sequence, recorded)
            record = OperationsEvent(
                cell=f"cell-{kind % 2}", time_ms=recorded, resource="r", system="s", name=f"{topic}.{sequence}"
            )
            log += [Received(envelope, record)] * (2 if kind == 9 else 1)
        log.append(Heartbeat(publisher="p", time_ms=60_000))
        topics.append(log)
    return topics


def told(fold: PartitionFold, topic: int, offset: int, message: Any) -> list[str]:
    return [f"{f.record.cell}/{f.record.id}/{f.envelope.sequence}" for f in fold.feed(topic, offset, message)]


def goodbye(fold: PartitionFold, log: list[list[Any]]) -> list[str]:
    """Heartbeats never end; one more on each topic brings out what still waits."""
    last = Heartbeat(publisher="p", time_ms=90_000)
    return [line for topic in range(TOPICS) for line in told(fold, topic, len(log[topic]), last)]


def undisturbed(log: list[list[Any]]) -> list[str]:
    fold, out = PartitionFold(PLAN), []
    for topic, messages in enumerate(log):
        for offset, message in enumerate(messages):
            out += told(fold, topic, offset, message)
    assert not fold.failures
    return out + goodbye(fold, log)


@settings(max_examples=300)
@given(logs(), st.randoms(use_true_random=False))
def test_the_interleaving_of_topics_does_not_matter(log: list[list[Any]], rng: Any) -> None:
    fold, out, heads = PartitionFold(PLAN), [], [0] * TOPICS
    while any(heads[t] < len(log[t]) for t in range(TOPICS)):
        topic = rng.choice([t for t in range(TOPICS) if heads[t] < len(log[t])])
        out += told(fold, topic, heads[topic], log[topic][heads[topic]])
        heads[topic] += 1
    assert out + goodbye(fold, log) == undisturbed(log)


@settings(max_examples=400)
@given(logs(), st.randoms(use_true_random=False))
def test_kills_at_any_moment_change_nothing(log: list[list[Any]], rng: Any) -> None:
    """Snapshots are written piece by piece and a kill may fall between any two pieces; acknowledgements lag."""
    state_topic: list[tuple[bytes, bytes | None]] = []
    committed, heads = [0] * TOPICS, [0] * TOPICS
    fold, writer, out, lives = PartitionFold(PLAN), Writer("w0"), [], 0
    while any(heads[t] < len(log[t]) for t in range(TOPICS)):
        topic = rng.choice([t for t in range(TOPICS) if heads[t] < len(log[t])])
        out += told(fold, topic, heads[topic], log[topic][heads[topic]])
        heads[topic] += 1
        dead = rng.random() < 0.08
        if rng.random() < 0.3:
            floor, parts = fold.order.floor(), fold.snapshot()
            entries = [
                *writer.parts(parts),
                writer.commit(parts, fold.order.folded()),
                *writer.tombstones(),
            ]
            whole = not dead or rng.random() < 0.3
            state_topic += entries if whole else entries[: rng.randrange(len(entries))]
            if whole and rng.random() < 0.7:  # Kafka commits offsets some time after they were acknowledged
                committed = [rng.randint(low, max(low, high)) for low, high in zip(committed, floor, strict=True)]
        if dead and lives < 6:
            lives += 1
            found = restore(state_topic)
            fold, writer = PartitionFold.restore(PLAN, found.parts), Writer(f"w{lives}", found.keys)
            heads = list(committed)
    out += goodbye(fold, log)
    assert dict.fromkeys(out) == dict.fromkeys(undisturbed(log))
