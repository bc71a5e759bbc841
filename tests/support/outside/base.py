"""What the contract of sinks asks of the system that a sink writes to, in memory.

Each registered sink has a module here under its name with a class `Outside` of this shape. It stands for the system: it
outlives the sinks that are made for it, and keeps what it has acknowledged.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Protocol

from schemas.records import Record
from schemas.topics import Topic
from sinks.context import Task
from sinks.kafka_clients import Broker

NOW_MS = 1_795_000_000_000


class System:
    """How a system behaves: there, away, or silent. `random` draws how long it takes, and which answers get lost."""

    topic: Topic
    """The topic that its records are put into."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.is_away = self.is_silent = False
        self.loses_answers = False

    async def asked(self) -> None:
        """A request arrives. Raises ConnectionError while it is away, and never returns while it is silent."""
        await asyncio.sleep(
            self.random.choice((0.0, 0.0, self.random.uniform(0.0, 0.05), self.random.uniform(0.0, 1.0)))
        )
        while self.is_silent:  # noqa: ASYNC110 (a flag that the schedule turns)
            await asyncio.sleep(0.5)
        if self.is_away:
            raise ConnectionError("away")

    def answered(self) -> None:
        """The request is done, and the answer may get lost."""
        if self.loses_answers and self.random.random() < 0.3:
            raise ConnectionError("reset by peer")


class Outside(Protocol):
    """A system, and the sink for it."""

    topic: Topic
    is_away: bool
    is_silent: bool
    loses_answers: bool

    def __init__(self, random: Random) -> None: ...

    def task(self, broker: Broker) -> Task:
        """The sink as a process makes it when it starts."""

    def record(self, number: int) -> Record:
        """A record that the system takes."""

    def refused(self, number: int) -> Record:
        """One that it will never take."""

    def held(self) -> Counter[int]:
        """How often it has taken each record, by its number."""
