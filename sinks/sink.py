"""What a sink is: one outside system that records go to, what it is handed, and how it is read for.

class Printer:
    name, topics = "printer", ("signals.incidents.v1",)
    async def open(self, assignment): return Opened()
    async def write(self, batch, refuse): print(len(batch.messages))
    async def close(self): ...

await run_sink(Printer(), {"bootstrap_servers": "kafka:9092"}, stop)

Exception
├── SinkUnavailable      the sink's system is away: the same batch again, after a pause
├── OutOfStep            someone else has written these partitions: the sink is opened anew
├── Unwritable           some record of the batch can never be written: the batch is halved until it is found
└── anything else        our bug: the loop (`consumer`) ends, uncommitted, and is begun anew (`supervision`)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aiokafka import TopicPartition

from schemas import topics as catalogue
from schemas.codec import Headers, Received, Rejected
from schemas.records import DeadLetter

Sequences = dict[tuple[TopicPartition, str], int]
"""The last sequence that was written, by topic partition and source."""


class SinkUnavailable(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """The sink's system is away. `mend` says what would bring it back; the batch is tried again."""

    def __init__(self, sink: str, reason: str, mend: str, retry_after_s: float = 1.0) -> None:
        super().__init__(f"{sink}: {reason}. {mend}")
        self.reason, self.mend, self.retry_after_s = reason, mend, retry_after_s


class OutOfStep(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """Another worker has written these partitions meanwhile. Nothing was written; the sink is opened anew."""


class Unwritable(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """Some record of the batch can never be written, and nothing of the batch was. The message says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """One Kafka record as the sink sees it; `payload` are its bytes, for a dead letter."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    headers: Headers
    payload: bytes
    content: Received


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order of their partitions, each seen for the first time.

    `next_offsets` is where reading goes on once the batch is written: it also passes heartbeats, refused and
    repeated records, so a batch may move offsets and hold no message. `sequences` are the last ones it brings.
    """

    messages: Sequence[Message]
    next_offsets: Mapping[TopicPartition, int]
    sequences: Mapping[tuple[TopicPartition, str], int]
    letters: Sequence[DeadLetter] = ()
    """What a sink that reads the dead letters gets; they have no sequence and may come twice."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The partitions that the group gave this worker; none when it got none.

    Offsets mean something within one `cluster_id` and one topic id only: a topic that was deleted and made anew has
    another. `topic_ids` is by topic, "" where the broker tells none. `begins` are the first offsets that the log still
    holds; `committed` are the group's offsets, left out where they belong to a topic of before.
    """

    cluster_id: str
    partitions: frozenset[TopicPartition]
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    begins: Mapping[TopicPartition, int] = field(default_factory=dict)
    committed: Mapping[TopicPartition, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """Where the sink stands, by partition; where it says nothing the group's offsets count.

    `stored` says that the sink keeps these offsets beside its rows: the group's are then for show, and may lag.
    """

    offsets: Mapping[TopicPartition, int] = field(default_factory=dict)
    sequences: Mapping[tuple[TopicPartition, str], int] = field(default_factory=dict)
    stored: bool = True
    anew: frozenset[TopicPartition] = frozenset()
    """Partitions whose stored offset was of a topic of before, and which begin at 0."""


Refuse = Callable[[Message, Rejected], Awaitable[None]]
"""Puts a message that can never be stored to the dead letters; it is there when this returns."""


class Sink(Protocol):
    """One outside system that records go to."""

    name: str
    topics: Sequence[str]

    async def open(self, assignment: Assignment) -> Opened:
        """Take these partitions and no others; called after each rebalance, and when a topic was made anew.

        May raise SinkUnavailable.
        """

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        """Write all of the batch, or raise and have written nothing that a second try would double.

        May raise SinkUnavailable, OutOfStep or Unwritable.
        """

    async def close(self) -> None:
        """Let go of connections; called once, also after a failure."""


@dataclass(frozen=True, slots=True)
class Config:
    """How a sink reads. The bounds hold for one worker."""

    group: str = ""
    """Consumer group; empty: `pilothouse-sink-NAME`, after the prefix."""
    instance_id: str | None = None
    """A name that survives a restart (`sink-0`): the restarted worker takes its partitions at once, with no rebalance."""
    dead_letters: str = catalogue.DEAD_LETTERS.name
    topic_prefix: str = ""
    """Precedes the names of all topics, so that several Pilothouses can share a broker."""
    batch_records_max: int = 2_000
    batch_bytes_max: int = 4 * 1024 * 1024
    """Small enough that the next batch is decoded while this one is written, large enough that commits are rare."""
    linger_s: float = 0.0
    """How long a batch may wait to be filled."""
    idle_commit_s: float = 5.0
    """Heartbeats alone are committed this often."""
    show_every_s: float = 1.0
    """How often the group is told of offsets that the sink keeps itself."""
    fetch_bytes_max: int = 16 * 1024 * 1024
    session_timeout_s: float = 6.0
    heartbeat_interval_s: float = 2.0
    settle_s: float = 4.0
    """How long a rebalance waits for the write under way."""
    stop_timeout_s: float = 2.0
    """How long an orderly end waits for the write under way, and for the sink to close; all of it is over within 5 s."""
    look_every_s: float = 10.0
    """How often it is looked whether the topics are still those that they were."""
    backoff_s_max: float = 30.0
    request_timeout_s: float = 10.0
    stall_s: float = 20.0
    """A reader that has got nothing for so long although there is more is made anew."""
    broken_max: int = 10
    """Records in a row on which the sink fails by a fault of its own; beyond it none is given up any more."""
    sources_max: int = 100_000
    """Sources whose last sequence is remembered; beyond it the oldest is forgotten and counted."""


@dataclass(slots=True)
class Counts:
    """What came in, went out, was refused. Only ever grows."""

    records: int = 0
    heartbeats: int = 0
    repeated: int = 0
    rejected: int = 0
    written: int = 0
    writes: int = 0
    unavailable: int = 0
    rebalances: int = 0
    out_of_step: int = 0
    commits_lost: int = 0
    reconnects: int = 0
    sources_forgotten: int = 0
    letters_cut: int = 0
    letters_lost: int = 0
    expired: int = 0
    topics_anew: int = 0
    split: int = 0
    gave_up: int = 0
    failures: int = 0
    failing: int = 0
    """1 while it waits to be begun anew."""
