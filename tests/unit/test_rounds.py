"""Rounds against a Kafka that fails at random: whatever happens, a partition holds a beginning of the queue."""

from __future__ import annotations

import asyncio
import base64
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.counts import Count, Counts
from ingest.oversize import LETTER_BYTES, letters
from ingest.rounds import CARRIED, MAX_BATCH_BYTES, Backoff, Lane, Producer, Rounds, TooLarge, partition_of, plan
from ingest.spool import Row
from schemas.codec import Reason, Wire
from schemas.records import Heartbeat, Scrape
from schemas.topics import INPUTS, METRICS

PARTITIONS = 3
LIMIT_BYTES = 2_000  # what the broker takes as a batch
CELLS = [f"cell-{number}" for number in range(8)]


class RandomKafka:
    """A broker that stores, refuses, loses, or stores without saying so; and its one log a lane."""

    def __init__(self, seed: int, failing: float) -> None:
        self.random, self.failing = random.Random(seed), failing
        self.logs: dict[Lane, list[Wire]] = defaultdict(list)
        self.open: set[RandomProducer] = set()

    async def connect(self) -> Producer:
        if self.fails():
            raise OSError("connection refused")
        if self.open:
            pytest.fail("two producers at a time could overtake each other")
        producer = RandomProducer(self)
        self.open.add(producer)
        return producer

    def fails(self) -> bool:
        return self.random.random() < self.failing


class RandomProducer:
    def __init__(self, kafka: RandomKafka) -> None:
        self.kafka = kafka
        self.broken: set[Lane] = set()

    async def partitions(self, topic: str) -> int:
        if self.kafka.fails():
            raise TimeoutError
        return PARTITIONS

    async def store(self, batches: Mapping[Lane, Sequence[Wire]]) -> dict[Lane, Exception | None]:
        await asyncio.sleep(0)
        if self.kafka.fails():
            raise TimeoutError
        return {lane: self._stored(lane, batch) for lane, batch in batches.items()}

    async def close(self) -> None:
        self.kafka.open.remove(self)

    def _stored(self, lane: Lane, batch: Sequence[Wire]) -> Exception | None:
        if lane in self.broken:
            pytest.fail("an idempotent producer is stuck after a batch that was not stored")
        if sum(len(wire.value) for wire in batch) > LIMIT_BYTES:
            self.broken.add(lane)
            return TooLarge("too large")
        stored, said = not self.kafka.fails(), not self.kafka.fails()
        if stored:
            self.kafka.logs[lane].extend(batch)
        if not (stored and said):
            self.broken.add(lane)
            return TimeoutError("no answer")
        return None


def row(sequence: int, cell: str, size: int) -> Row:
    return Row(sequence, METRICS.name, cell, Scrape.type, 1, sequence, b"x" * size)


def heartbeat(sequence: int) -> Row:
    body = Heartbeat(publisher="me", time_ms=sequence).model_dump_json().encode()
    return Row(sequence, "", "", Heartbeat.type, sequence, sequence, body)


def sequence_of(wire: Wire) -> int:
    return int(dict(wire.headers)["ce_sequence"]) if wire.key else wire.timestamp_ms


queues = st.lists(
    st.one_of(st.tuples(st.sampled_from(CELLS), st.sampled_from([10, 900, 1500, 2500])), st.none()), max_size=40
)


@settings(max_examples=150)
@given(
    queue=queues, round_rows=st.integers(1, 15), failing=st.sampled_from([0.0, 0.1, 0.4]), seed=st.integers(0, 2**32)
)
def test_a_partition_holds_a_beginning_of_the_queue_whatever_fails(
    queue: list[tuple[str, int] | None], round_rows: int, failing: float, seed: int
) -> None:
    rows = [row(number, *one) if one else heartbeat(number) for number, one in enumerate(queue, 1)]
    kafka, counts = RandomKafka(seed, failing), Counts()

    async def send_all() -> int:
        rounds = Rounds(kafka.connect, source="me", counts=counts, backoff=Backoff(0, 0))
        refused = 0
        for start in range(0, len(rows), round_rows):
            refused += len(await rounds.send(rows[start : start + round_rows]))
        await rounds.close()
        return refused

    refused = asyncio.run(send_all())
    too_large = {one.seq for one in rows if one.type == Scrape.type and len(one.value) > LIMIT_BYTES}
    assert refused == len(too_large) == counts[Count.OVERSIZED]
    assert not kafka.open
    expected = plan(rows, "me", dict.fromkeys((topic.name for topic in CARRIED), PARTITIONS))
    for lane, batches in expected.items():
        wanted = [sequence_of(wire) for batch in batches for wire in batch if sequence_of(wire) not in too_large]
        log = [sequence_of(wire) for wire in kafka.logs[lane]]
        firsts = list(dict.fromkeys(log))
        assert firsts == wanted, "every record once or more, the first times in order"
    if not failing:
        assert sum(len(log) for log in kafka.logs.values()) == sum(
            1 if one.type == Scrape.type else PARTITIONS * len(INPUTS) for one in rows if one.seq not in too_large
        )


def test_a_heartbeat_goes_to_every_partition_of_every_input_topic_behind_what_was_before_it() -> None:
    lanes = plan([row(1, "eu1", 10), heartbeat(2)], "me", {topic.name: PARTITIONS for topic in CARRIED})
    assert set(lanes) == {Lane(topic.name, number) for topic in INPUTS for number in range(PARTITIONS)}
    used = lanes[Lane(METRICS.name, partition_of("eu1", PARTITIONS))]
    assert [sequence_of(wire) for batch in used for wire in batch] == [1, 2]


def test_batches_of_a_lane_are_bounded() -> None:
    lanes = plan([row(number, "eu1", 200_000) for number in range(10)], "me", {METRICS.name: 1})
    (batches,) = lanes.values()
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert all(sum(len(wire.value) for wire in batch) <= MAX_BATCH_BYTES for batch in batches)


def test_the_partition_is_that_of_kafkas_default_partitioner() -> None:
    partitioner = DefaultPartitioner()
    for cell in [*CELLS, "", "grün", "eu-west-1"]:
        assert partition_of(cell, 24) == partitioner(cell.encode(), list(range(24)), list(range(24)))


def test_pauses_grow_to_a_bound() -> None:
    backoff = Backoff(first_s=0.2, longest_s=5.0)
    assert 0.1 <= backoff.delay_s(1) <= 0.2
    assert 2.5 <= backoff.delay_s(1000) <= 5.0


def test_letters_hold_every_byte() -> None:
    # Control bytes alone: noise with letters has the shape of a secret here and there.
    payload = bytes(byte % 32 for byte in random.Random(1).randbytes(2 * LETTER_BYTES + 7))
    parts = letters(payload, reason=Reason.OVERSIZED, detail="too large", topic="t", rejected_by="me", time_ms=1)
    assert b"".join(base64.b64decode(part.payload) for part in parts) == payload
    assert [part.detail for part in parts][1] == "too large; bytes 600000 to 1200000 of 1200007"
