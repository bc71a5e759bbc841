"""A Kafka in memory, as far as sinks see one: topics with ids, logs that retention shortens, groups with generations.

It is as unkind as the real one is at times. Positions forget themselves at a rebalance and come back from what was
committed; records of a new assignment are handed out before its listener has heard of it; an offset that the log does not
have is answered with its first one; a commit of who is no member any more fails. Every call takes a drawn while.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaConnectionError,
    UnknownTopicOrPartitionError,
)

from sinks.kafka_clients import Committed
from sinks.sink import Config
from sinks.topic_ids import Look

SESSION_S = 6.0
METADATA_S = 10.0


class Record(NamedTuple):
    """What a consumer gets."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass
class Log:
    """One partition. `begin` is the first offset that retention has left."""

    records: list[Record] = field(default_factory=list)
    begin: int = 0

    @property
    def end(self) -> int:
        return len(self.records)


@dataclass
class Topic:
    id: str
    logs: list[Log]


@dataclass
class Group:
    generation: int = 0
    members: list[Member] = field(default_factory=list)
    committed: dict[TopicPartition, Committed] = field(default_factory=dict)
    rebalancing: asyncio.Task[None] | None = None
    is_asked: bool = False


class MemoryKafka:
    """The servers. `random` draws how long everything takes."""

    cluster_id = "memory"

    def __init__(self, random: Random) -> None:
        self.random = random
        self.topics: dict[str, Topic] = {}
        self.groups: dict[str, Group] = defaultdict(Group)
        self.is_down = False
        self._made = 0

    def create(self, name: str, partitions: int = 1) -> None:
        """A topic under a new id."""
        self._made += 1
        self.topics[name] = Topic(str(UUID(int=self._made)), [Log() for _ in range(partitions)])
        self._ask_all()

    def delete(self, name: str) -> None:
        """The topic and, as a coordinator does, what groups have committed of it."""
        del self.topics[name]
        for group in self.groups.values():
            group.committed = {one: at for one, at in group.committed.items() if one.topic != name}
        self._ask_all()

    def put(
        self,
        topic: str,
        value: bytes | None,
        headers: Iterable[tuple[str, bytes]],
        *,
        partition: int = 0,
        key: bytes | None = None,
        timestamp: int = 0,
    ) -> int:
        """Append a record; its offset."""
        log = self.topics[topic].logs[partition]
        log.records.append(Record(topic, partition, log.end, timestamp, key, value, tuple(headers)))
        return log.end - 1

    def expire(self, topic: str, partition: int, below: int) -> None:
        """Retention takes what stands before an offset."""
        log = self.topics[topic].logs[partition]
        log.begin = max(log.begin, min(below, log.end))

    def client(self) -> MemoryBroker:
        """What one process holds of it."""
        return MemoryBroker(self)

    def log(self, place: TopicPartition) -> Log | None:
        """A partition, None when the topic is gone."""
        topic = self.topics.get(place.topic)
        return topic.logs[place.partition] if topic and place.partition < len(topic.logs) else None

    async def takes_a_while(self) -> None:
        """Every call does."""
        await asyncio.sleep(
            self.random.choice((0.0, 0.0, self.random.uniform(0.0, 0.02), self.random.uniform(0.0, 0.3)))
        )

    def rebalance(self, name: str) -> None:
        """The group gives its partitions anew."""
        group = self.groups[name]
        group.is_asked = True
        if group.rebalancing is None or group.rebalancing.done():
            group.rebalancing = asyncio.ensure_future(self._rebalance(group))

    def _ask_all(self) -> None:
        """Members see from their metadata, some time later, that a topic has gone or come."""

        def ask() -> None:
            for name, group in list(self.groups.items()):
                if group.members:
                    self.rebalance(name)

        if self.groups:
            asyncio.get_running_loop().call_later(self.random.uniform(0, METADATA_S), ask)

    async def _rebalance(self, group: Group) -> None:
        while group.is_asked:
            group.is_asked = False
            # A member that has died is missed only when its session has ended.
            if any(one.broker.is_dead for one in group.members):
                await asyncio.sleep(SESSION_S)
                group.members = [one for one in group.members if not one.broker.is_dead]
            living = list(group.members)
            await asyncio.gather(*(one.lose() for one in living))
            group.generation += 1
            shares = self._shares(living)
            await asyncio.gather(*(one.gain(shares[one], group.generation) for one in living if one in group.members))

    def _shares(self, members: list[Member]) -> dict[Member, set[TopicPartition]]:
        shares: dict[Member, set[TopicPartition]] = {one: set() for one in members}
        for name in sorted({topic for one in members for topic in one.topics}):
            wanting = [one for one in members if name in one.topics]
            for number in range(len(self.topics[name].logs) if name in self.topics else 0):
                shares[wanting[number % len(wanting)]].add(TopicPartition(name, number))
        return shares


class MemoryBroker:
    """One process's connection. After `die` it is as if the process had been killed: nothing it says is heard."""

    def __init__(self, server: MemoryKafka) -> None:
        self.server = server
        self.is_dead = False

    def die(self) -> None:
        """Kill: no good-bye, no commit."""
        self.is_dead = True

    async def call(self) -> None:
        """Go there and back."""
        await self.server.takes_a_while()
        if self.is_dead or self.server.is_down:
            raise KafkaConnectionError("no connection")

    def member(self, config: Config, group: str) -> Member:
        """A consumer of the group."""
        return Member(self, group)

    def reader(self) -> Reader:
        """A consumer of no group."""
        return Reader(self)

    def producer(self) -> Producer:
        """A producer."""
        return Producer(self)

    async def look(self, topics: Collection[str]) -> Look:
        """The ids of what is there."""
        await self.call()
        there = self.server.topics
        return Look(self.server.cluster_id, {one: there[one].id for one in topics if one in there})

    async def committed(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Committed]:
        """The group's offsets."""
        await self.call()
        found = self.server.groups[group].committed
        return {one: found[one] for one in partitions if one in found}

    async def close(self) -> None:
        """Nothing to let go of."""


class Consumer:
    """What consumers with and without a group have in common."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker, self.server = broker, broker.server
        self.assigned: dict[TopicPartition, int | None] = {}
        self.paused: set[TopicPartition] = set()

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Go to an offset."""
        self._mine(place)
        self.assigned[place] = offset

    def pause(self, *places: TopicPartition) -> None:
        """Read nothing of these."""
        for place in places:
            self._mine(place)
        self.paused.update(places)

    def resume(self, *places: TopicPartition) -> None:
        """Read of these again."""
        self.paused.difference_update(places)

    async def position(self, place: TopicPartition) -> int:
        """The next offset."""
        await self.broker.call()
        self._mine(place)
        return self.assigned[place] or 0

    async def beginning_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets that the logs hold."""
        await self.broker.call()
        return {one: self._log(one).begin for one in places}

    async def end_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets after the last."""
        await self.broker.call()
        return {one: self._log(one).end for one in places}

    async def offsets_for_times(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, Any]:
        """The first record since a time; None where there is none."""
        await self.broker.call()
        found = {}
        for one, time_ms in times.items():
            log = self._log(one)
            found[one] = next((each for each in log.records[log.begin :] if each.timestamp >= time_ms), None)
        return found

    async def getmany(self, timeout_ms: int = 0, max_records: int | None = None) -> dict[TopicPartition, list[Record]]:
        """What there is, within the bound; waits a while for the first."""
        await self.broker.call()
        if not (got := self._take(max_records or 500)) and timeout_ms:
            await asyncio.sleep(timeout_ms / 1000)
            got = self._take(max_records or 500)
        return got

    def _take(self, most: int) -> dict[TopicPartition, list[Record]]:
        got: dict[TopicPartition, list[Record]] = {}
        places = [one for one in sorted(self.assigned) if one not in self.paused]
        self.server.random.shuffle(places)
        for place in places:
            log = self.server.log(place)
            if log is None or most <= 0:
                continue
            position = self._begin(place)
            if not log.begin <= position <= log.end:
                position = log.begin
            share = log.records[position : position + min(most, self.server.random.randint(1, 30))]
            self.assigned[place] = position + len(share)
            most -= len(share)
            if share:
                got[place] = share
        return got

    def _begin(self, place: TopicPartition) -> int:
        return self.assigned[place] or 0

    def _log(self, place: TopicPartition) -> Log:
        log = self.server.log(place)
        if log is None:
            raise UnknownTopicOrPartitionError(place)
        return log

    def _mine(self, place: TopicPartition) -> None:
        if place not in self.assigned:
            raise IllegalStateError(f"No current assignment for partition {place}")


class Reader(Consumer):
    """A consumer that says itself what it reads."""

    async def start(self) -> None:
        """Connect."""
        await self.broker.call()

    async def stop(self) -> None:
        """Disconnect."""

    def assign(self, places: Iterable[TopicPartition]) -> None:
        """Read these."""
        self.assigned = dict.fromkeys(places)


class Member(Consumer):
    """A consumer of a group."""

    def __init__(self, broker: MemoryBroker, group: str) -> None:
        super().__init__(broker)
        self.group, self.topics = group, frozenset[str]()
        self._listener: Any = None
        self._generation = -1
        self._is_stopped = False
        self._ready = asyncio.Event()

    def subscribe(self, topics: Iterable[str], listener: Any) -> None:
        """What to read, and who hears of changes."""
        self.topics, self._listener = frozenset(topics), listener

    async def start(self) -> None:
        """Join the group, once all topics are there."""
        await self.broker.call()
        if missing := self.topics - self.server.topics.keys():
            await asyncio.sleep(1)
            raise UnknownTopicOrPartitionError(missing)
        self.server.groups[self.group].members.append(self)
        self.server.rebalance(self.group)
        await self._ready.wait()

    async def stop(self) -> None:
        """Leave the group; a killed process cannot."""
        self._is_stopped = True
        members = self.server.groups[self.group].members
        if self in members and not self.broker.is_dead:
            members.remove(self)
            self.server.rebalance(self.group)

    async def lose(self) -> None:
        """The group takes everything back."""
        self._ready.clear()
        if not (self._is_stopped or self.broker.is_dead):
            await self._listener.on_partitions_revoked(set(self.assigned))

    async def gain(self, places: set[TopicPartition], generation: int) -> None:
        """The group gives these. Records flow at once, the listener hears of it a little later."""
        await self.server.takes_a_while()
        if self._is_stopped or self.broker.is_dead:
            return
        self.assigned, self.paused = dict.fromkeys(places), set()
        self._generation = generation
        self._ready.set()
        await self.server.takes_a_while()
        await self._listener.on_partitions_assigned(places)

    async def getmany(self, timeout_ms: int = 0, max_records: int | None = None) -> dict[TopicPartition, list[Record]]:
        """What there is; waits while the group changes."""
        if not self._ready.is_set():
            await asyncio.wait([asyncio.ensure_future(self._ready.wait())], timeout=2 * SESSION_S)
            if not self._ready.is_set():
                raise KafkaConnectionError("the group is not to be had")
        return await super().getmany(timeout_ms, max_records)

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        """Store the group's offsets."""
        for place in offsets:
            self._mine(place)
        generation = self._generation
        await self.broker.call()
        group = self.server.groups[self.group]
        if self not in group.members or not self._ready.is_set() or generation != group.generation:
            raise CommitFailedError("the group has moved on")
        for place in offsets:
            self._log(place)
        group.committed |= {place: Committed(*at) for place, at in offsets.items()}
        await self.server.takes_a_while()
        if self.broker.is_dead:
            raise KafkaConnectionError("no connection")

    def _begin(self, place: TopicPartition) -> int:
        position = self.assigned[place]
        if position is None:
            at, log = self.server.groups[self.group].committed.get(place), self._log(place)
            position = at.offset if at else log.begin
        return position


class Producer:
    """Sends one record at a time."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def start(self) -> None:
        """Connect."""
        await self._broker.call()

    async def stop(self) -> None:
        """Disconnect."""

    async def send_and_wait(self, topic: str, value: bytes, key: bytes | None, *, headers: Any) -> None:
        """Append to the first partition."""
        await self._broker.call()
        if topic not in self._broker.server.topics:
            raise UnknownTopicOrPartitionError(topic)
        self._broker.server.put(topic, value, headers, key=key)
        await self._broker.server.takes_a_while()
