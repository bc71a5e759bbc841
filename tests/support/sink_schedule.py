"""One drawn life of a sink: what is put into Kafka, what happens to its workers, its system and its topic meanwhile.

What must hold at the end, for every sink: each record that Kafka let it read is held, or is in the dead letters if it can
never be; a sink that stores its offsets holds each once, the others as often at most as something went wrong.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from aiokafka import TopicPartition

from schemas.codec import Envelope, encode, encode_heartbeat
from schemas.records import DeadLetter, Heartbeat
from schemas.topics import BY_NAME, DEAD_LETTERS
from sinks.consumer import run_sink
from sinks.context import SinkKind
from sinks.sink import Counts
from tests.support.memory_kafka import MemoryBroker, MemoryKafka
from tests.support.outside.base import NOW_MS, Outside

PARTITIONS = 3
END_S = 900
STOP_S = 60.0
GARBAGE: tuple[tuple[bytes | None, tuple[tuple[str, Any], ...], int], ...] = (
    (b"\xff{", (("ce_type", b"com.pilothouse.operations.v1"),), NOW_MS),
    (None, (), NOW_MS),
    (b"{}", (("ce_type", None), ("x", b"\xff\x00")), NOW_MS * 1000),
    (b'{"a":' * 5_000, (("ce_type", b"com.pilothouse.operations.v1"), ("ce_source", b"\x00")), -1),
)


@dataclass
class Worker:
    """A process that runs the sink."""

    broker: MemoryBroker
    task: asyncio.Task[None]
    stop: asyncio.Event
    counts: Counts


@dataclass
class Life:
    """Everything there is: the servers, the workers, and what was put."""

    kind: SinkKind
    outside: Outside
    kafka: MemoryKafka
    random: Random
    workers: list[Worker] = field(default_factory=list)
    all_counts: list[Counts] = field(default_factory=list)
    numbers: int = 0
    places: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Partition, offset and sequence of each record, by number."""
    refused: set[int] = field(default_factory=set)
    redelivered: Counter[int] = field(default_factory=Counter)
    garbage: int = 0
    excused: set[int] = field(default_factory=set)
    """Records that were taken away before they were held."""
    expired: set[int] = field(default_factory=set)
    troubles: int = 0
    log: list[str] = field(default_factory=list)

    @property
    def topic(self) -> str:
        return self.outside.topic.name

    # What may happen.

    async def put(self) -> None:
        """Some records, most of them good."""
        for _ in range(self.random.randint(1, 25)):
            partition, draw = self.random.randrange(PARTITIONS), self.random.random()
            if draw < 0.06:
                value, headers, timestamp = self.random.choice(GARBAGE)
                self.kafka.put(self.topic, value, headers, partition=partition, timestamp=timestamp)
                self.garbage += 1
            elif draw < 0.12:
                beat = encode_heartbeat(Heartbeat(publisher="p", time_ms=NOW_MS))
                self.kafka.put(self.topic, beat.value, beat.headers, partition=partition, timestamp=NOW_MS)
            elif draw < 0.2 and self.places:
                self._put(self.random.choice(list(self.places)), again=True)
            else:
                self.numbers += 1
                if draw > 0.95:
                    self.refused.add(self.numbers)
                self._put(self.numbers, partition=partition)

    async def rest(self) -> None:
        """Nothing, for a while."""
        await asyncio.sleep(self.random.choice((0.1, 1.0, 5.0, 20.0)))

    async def join(self) -> None:
        """One more worker."""
        if len(self.workers) < 3:
            self.start()
            self.troubles += 1

    async def kill(self) -> None:
        """A worker is killed at whatever it awaits."""
        if self.workers:
            self.troubles += 1
            await self._killed(self.workers.pop(self.random.randrange(len(self.workers))))

    async def leave(self) -> None:
        """A worker is told to stop."""
        if self.workers:
            self.troubles += 1
            await self.stopped(self.workers.pop(self.random.randrange(len(self.workers))))

    async def rebalance(self) -> None:
        """The group gives its partitions anew."""
        self.troubles += 1
        for name in list(self.kafka.groups):
            self.kafka.rebalance(name)

    async def away(self) -> None:
        """The system goes away for a while, or comes back."""
        self.troubles += 1
        self.outside.is_away = not self.outside.is_away

    async def silent(self) -> None:
        """The system answers nothing for a while, or answers again."""
        self.troubles += 1
        self.outside.is_silent = not self.outside.is_silent

    async def loses(self) -> None:
        """Answers get lost from now on, or no more."""
        self.troubles += 30
        self.outside.loses_answers = not self.outside.loses_answers

    async def kafka_down(self) -> None:
        """Kafka is away for a moment."""
        self.troubles += 5
        self.kafka.is_down = True
        await asyncio.sleep(self.random.choice((0.2, 3.0, 30.0)))
        self.kafka.is_down = False

    async def anew(self) -> None:
        """The topic is deleted and made anew, at once or after a while."""
        self.troubles += 1
        self._excuse(set(self.places) - set(self.outside.held()))
        self.expired.clear()
        self.kafka.delete(self.topic)
        await asyncio.sleep(self.random.choice((0.0, 0.0, 0.5, 15.0)))
        self.kafka.create(self.topic, PARTITIONS)

    async def anew_when_read(self) -> None:
        """All is read, and then the topic is made anew at once, with more in it than was read of the old one."""
        for _ in range(30):
            if self.workers and not self._missing() and not self._unread():
                break
            await asyncio.sleep(1)
        self.troubles += 1
        self._excuse(set(self.places) - set(self.outside.held()))
        self.expired.clear()
        self.kafka.delete(self.topic)
        self.kafka.create(self.topic, PARTITIONS)
        for _ in range(self.random.randint(1, 6)):
            await self.put()
        await self.rest()

    async def retention(self) -> None:
        """The beginning of a partition is taken away."""
        partition = self.random.randrange(PARTITIONS)
        end = self.kafka.topics[self.topic].logs[partition].end
        below = self.random.randint(0, end)
        held = self.outside.held()
        gone = {n for n, (p, offset, _) in self.places.items() if p == partition and offset < below}
        gone -= self.excused | set(held)
        self._excuse(gone)
        if self._stands(partition):
            self.expired |= gone
        self.kafka.expire(self.topic, partition, below)

    def _stands(self, partition: int) -> bool:
        """Whether the group has committed anything of this very partition, so that it can know what it misses."""
        place = TopicPartition(self.topic, partition)
        found = (group.committed.get(place) for group in self.kafka.groups.values())
        return any(at and at.topic_id == self.kafka.topics[self.topic].id for at in found)

    # How it is done.

    def start(self) -> None:
        """A process starts."""
        broker, stop = self.kafka.client(), asyncio.Event()
        task = self.outside.task(broker)
        self.all_counts.append(task.counts)
        config = replace(task.config, batch_records_max=self.random.choice((3, 20, 2_000)))
        running = asyncio.create_task(run_sink(task.sink, broker, stop, config, task.counts))
        self.workers.append(Worker(broker, running, stop, task.counts))

    async def stopped(self, worker: Worker) -> None:
        """A process is told to stop, and does within a bound, whatever hangs."""
        worker.stop.set()
        done, _ = await asyncio.wait([worker.task], timeout=STOP_S)
        assert done, f"a worker did not stop within {STOP_S} s"
        worker.task.result()

    async def _killed(self, worker: Worker) -> None:
        worker.broker.die()
        worker.task.cancel()
        await asyncio.wait([worker.task])
        for name in list(self.kafka.groups):
            self.kafka.rebalance(name)

    def _put(self, number: int, partition: int = 0, *, again: bool = False) -> None:
        if again:
            partition, _, sequence = self.places[number]
            self.redelivered[number] += 1
        else:
            sequence = number
        record = (self.outside.refused if number in self.refused else self.outside.record)(number)
        wire = encode(record, Envelope(f"s{partition}", sequence, NOW_MS))
        offset = self.kafka.put(
            self.topic, wire.value, wire.headers, partition=partition, key=wire.key, timestamp=NOW_MS
        )
        if again:
            # It is a record that is passed over, or one that stands for the first which retention took.
            return
        self.places[number] = (partition, offset, sequence)

    def _excuse(self, numbers: set[int]) -> None:
        self.excused |= numbers

    # What must hold.

    async def settle(self) -> None:
        """Everything heals, and all that is there is read."""
        self.outside.is_away = self.outside.is_silent = self.outside.loses_answers = False
        self.kafka.is_down = False
        if not self.workers:
            self.start()
        # Life goes on: a record that is taken proves that a refusal was the other record's fault.
        for partition in range(PARTITIONS):
            self.numbers += 1
            self._put(self.numbers, partition=partition)
        for _ in range(END_S):
            for worker in self.workers:
                if worker.task.done():
                    worker.task.result()
                    raise AssertionError("a worker ended by itself")
            await asyncio.sleep(1)
            if not (self._missing() or self._unread()):
                break
        else:
            raise AssertionError(f"missing are {sorted(self._missing())[:20]}, unread is {self._unread()}; {self.log}")
        await asyncio.sleep(15)

    def _missing(self) -> set[int]:
        return set(self.places) - set(self.outside.held()) - self.refused - self.excused

    def _unread(self) -> dict[TopicPartition, tuple[int, int]]:
        """Where the group stands and should stand, of partitions that it has not read to their end."""
        committed = {one: at.offset for group in self.kafka.groups.values() for one, at in group.committed.items()}
        topic = self.kafka.topics[self.topic]
        ends = {TopicPartition(self.topic, number): log.end for number, log in enumerate(topic.logs)}
        return {one: (committed.get(one, 0), end) for one, end in ends.items() if committed.get(one, 0) != end}

    def check(self) -> None:
        """Nothing is lost, nothing is doubled, what was refused is in the dead letters."""
        held = self.outside.held()
        assert not self._missing()
        assert not set(held) & self.refused
        for number, times in held.items():
            most = 1 if self.kind.exactly_once else 1 + self.troubles + self.redelivered[number]
            assert times <= most, f"record {number} is held {times} times"
        letters = [
            DeadLetter.model_validate_json(one.value or b"")
            for one in self.kafka.topics[DEAD_LETTERS.name].logs[0].records
        ]
        told = {(letter.partition, letter.offset) for letter in letters}
        assert {self.places[n][:2] for n in self.refused - self.excused} <= told
        lost = self.expired - set(held) - self.refused
        counted = sum(counts.expired for counts in self.all_counts)
        assert len(lost) <= counted, f"{len(lost)} went by unread, {counted} are counted"
        assert sum(counts.letters_lost for counts in self.all_counts) == 0


EVENTS = (
    "put", "put", "put", "put", "rest", "rest", "rest", "join", "kill", "kill", "leave", "rebalance", "rebalance", "away",
    "silent", "loses", "kafka_down", "anew", "anew_when_read", "retention", "retention",
)  # fmt: skip


async def live(kind: SinkKind, outside: type[Outside], seed: int) -> Life:
    """Draw a life from the seed and live it."""
    random = Random(f"{kind.name} {seed}")
    life = Life(kind, outside(random), MemoryKafka(random), random)
    for name in sorted({*kind.topics, life.topic, DEAD_LETTERS.name}):
        life.kafka.create(name, PARTITIONS if name == life.topic else 1)
        assert name in BY_NAME
    life.start()
    for _ in range(random.randint(5, 25)):
        event = random.choice(EVENTS)
        life.log.append(event)
        await getattr(life, event)()
    await life.settle()
    for worker in life.workers:
        await life.stopped(worker)
    life.check()
    return life
