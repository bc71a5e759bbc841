"""Whatever validates goes through the whole fold: nothing raises, nobody is stopped, and a restart makes no difference."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from processors.fold import PartitionFold, Plan
from processors.lineage import Writer, restore
from schemas.codec import Envelope, Received, decode, encode
from schemas.records import Heartbeat, Incident, Phase, Signal
from schemas.topics import INPUTS, topic_of
from tests.contract.test_every_step import EVERY, T0, plan
from tests.support.hostile import Hostile

IN_CI, IN_SOAK = 3_000, 30_000
TOPIC = {topic.name: place for place, topic in enumerate(INPUTS)}


def log(seed: int, count: int) -> list[tuple[int, int, Received | Heartbeat]]:
    """Hostile records as they stand on their topics, with heartbeats of their publisher; some are recorded out of order."""
    drawn, rng = Hostile(seed, T0), random.Random(seed)
    offsets, out = [0] * len(INPUTS), list[tuple[int, int, Received | Heartbeat]]()

    def put(topic: int, message: Received | Heartbeat) -> None:
        out.append((topic, offsets[topic], message))
        offsets[topic] += 1

    for sequence, record in enumerate(drawn.records(count), 1):
        recorded_ms = drawn.at_ms - (rng.randrange(60_000) if rng.random() < 0.05 else 0)
        wire = encode(record, Envelope("hostile", sequence, recorded_ms))
        received = decode(wire.headers, wire.value, wire.timestamp_ms)
        assert isinstance(received, Received)
        put(TOPIC[topic_of(record).name], received)
        if rng.random() < 0.3:
            for topic in range(len(INPUTS)):
                put(topic, Heartbeat(publisher="hostile", time_ms=drawn.at_ms))
    for topic in range(len(INPUTS)):
        put(topic, Heartbeat(publisher="hostile", time_ms=drawn.at_ms + 60_000))
    return out


def run(fold: PartitionFold, messages: Any) -> list[bytes]:
    """What is told, each as it would stand on its topic."""
    return [encode(one.record, one.envelope).value for message in messages for one in fold.feed(*message)]


def restarted(fold: PartitionFold, of: Plan, number: int) -> PartitionFold:
    """The fold after a snapshot that was written in full."""
    writer, parts = Writer(f"w{number}"), fold.snapshot()
    again = PartitionFold.restore(of, restore([*writer.parts(parts), writer.commit(parts, (1,))]).parts)
    assert again.snapshot() == parts
    assert not again.failures
    return again


def with_restarts(of: Plan, messages: list[Any], seed: int, often: int) -> tuple[list[bytes], PartitionFold]:
    """Folded with restarts at drawn places, after each of which what was not acknowledged is read again."""
    rng, told, fold, at = random.Random(seed), list[bytes](), PartitionFold(of), 0
    for number, cut in enumerate(sorted(rng.sample(range(len(messages)), often))):
        told += run(fold, messages[at:cut])
        floor = fold.order.floor()
        fold = restarted(fold, of, number)
        told += run(fold, [one for one in messages[:cut] if one[1] >= floor[one[0]]])
        at = cut
    return told + run(fold, messages[at:]), fold


def said(fold: PartitionFold) -> str:
    """The failures by what was raised, for people."""
    what = Counter(
        f"{one.step} on {one.what}: {type(one.error).__name__}: {str(one.error)[:300]}" for one in fold.failures
    )
    return "\n".join(f"{times} x {text}" for text, times in what.most_common())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hostile_records_go_through_all_steps_at_once(seed: int) -> None:
    _all_at_once(seed, IN_CI // 3)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_hostile_records_go_through_all_steps_at_once(seed: int) -> None:
    _all_at_once(seed, IN_SOAK // 10)


def _all_at_once(seed: int, count: int) -> None:
    messages, of = log(seed, count), plan()
    whole = PartitionFold(of)
    told = run(whole, messages)
    assert not whole.failures, said(whole)
    again, fold = with_restarts(of, messages, seed, often=4)
    assert again == told
    assert fold.snapshot() == whole.snapshot()


@pytest.mark.parametrize("name", EVERY)
def test_hostile_records_go_through_each_step_alone(name: str) -> None:
    messages, of = log(7, 600), plan(name)
    whole = PartitionFold(of)
    told = run(whole, messages)
    assert not whole.failures, said(whole)
    again, fold = with_restarts(of, messages, 7, often=6)
    assert again == told
    assert fold.snapshot() == whole.snapshot()


@pytest.mark.parametrize("seed", [1, 2])
def test_every_episode_opens_once_before_it_ends(seed: int) -> None:
    """Whoever is told that something is open hears that it has ended before it opens again."""
    is_open: dict[str, bool] = {}
    fold = PartitionFold(plan())
    for message in log(seed, IN_CI // 3):
        for found in fold.feed(*message):
            record = found.record
            assert isinstance(record, Signal | Incident)
            if record.phase is Phase.OPEN:
                assert not is_open.get(record.id), f"{record} opens again"
            is_open[record.id] = record.phase is not Phase.RESOLVED
