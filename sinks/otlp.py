"""Sends metrics, logs, spans, changes, findings and incidents to any OTLP receiver, with their own times.

A batch is committed when the receiver has acknowledged all of it. A receiver that is away holds the batch; what it had
acknowledged of it is not sent again. A request that is refused for good is halved until the one record is found that
is to blame: that goes to the dead letters, its neighbours arrive. Requests go one after another, because receivers such
as Prometheus refuse points that come out of order. Security events stay here: they name people, and a receiver is
somebody else's house. Source: OTLP specification 1.x.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from schemas import topics
from schemas.codec import Reason, Received, Rejected
from schemas.records import Change, LogBatch, Observation, Record, Scrape, Signal, SpanBatch
from sinks import sink
from sinks.backoff import Backoff
from sinks.context import Context, SinkKind, Task
from sinks.otlp_encode import Item, Message, Origin, Templates, pack
from sinks.otlp_events import event_item, log_items, span_items
from sinks.otlp_transport import Away, Kind, Refused, Taken, Transport, connect
from sinks.sink import Assignment, Batch, Opened, Refuse, SinkUnavailable

log = logging.getLogger(__name__)

TOPICS = (
    topics.METRICS,
    topics.LOGS,
    topics.SPANS,
    topics.CHANGES,
    topics.OPERATIONS,
    topics.DETECTIONS,
    topics.INCIDENTS,
)


@dataclass(frozen=True, slots=True)
class Config:
    """Where to, and how."""

    endpoint: str
    """`grpc(s)://host:4317` or `http(s)://host:4318[/path]`."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with each request; they hold the authentication."""
    compress: bool = True
    timeout_s: float = 10.0
    """Of one request."""
    close_timeout_s: float = 5.0
    environments: Mapping[str, str] = field(default_factory=dict)
    """deployment.environment.name by cell."""


@dataclass(slots=True)
class Counts:
    """What went out and what did not. Only ever grows."""

    sent: int = 0
    """Points, log records and spans that were acknowledged."""
    requests: int = 0
    rejected: int = 0
    """Of the acknowledged, those that the receiver says it has dropped (partial_success)."""
    refused: int = 0
    """Records that the receiver will never take; they are in the dead letters."""
    unavailable: int = 0
    halved: int = 0


@dataclass(frozen=True, slots=True)
class Export:
    """A request to be sent."""

    kind: Kind
    message: Message[sink.Message]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record to be put to the dead letters."""

    message: sink.Message
    rejected: Rejected


class Otlp:
    """The sink."""

    name = "otlp"
    topics: Sequence[str] = tuple(topic.name for topic in TOPICS)

    def __init__(self, config: Config, backoff: Backoff | None = None) -> None:
        self.config, self.counts = config, Counts()
        self.templates = Templates()
        self._backoff = backoff or Backoff()
        self._transport: Transport | None = None
        self._batch: Batch | None = None
        self._todo: deque[Export | Refusal] = deque()
        self._complaint = ""

    async def open(self, assignment: Assignment) -> Opened:
        """The group's offsets count; a receiver keeps none."""
        self._batch = None
        return Opened()

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        """Return when all of the batch is acknowledged or refused. The same batch again goes on where it stopped."""
        if batch is not self._batch:
            self._batch, self._todo = batch, deque(self._plan(batch.messages))
        while self._todo:
            job = self._todo[0]
            rest = await self._settle(job, refuse)
            self._todo.popleft()
            self._todo.extendleft(reversed(rest))
        self._batch = None

    async def close(self) -> None:
        """Let go of the connection, within a bounded time: shutting down must not hang on a silent peer."""
        transport, self._transport = self._transport, None
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.close_timeout_s):
                if transport:
                    await transport.close()

    def _plan(self, messages: Sequence[sink.Message]) -> Iterator[Export | Refusal]:
        """What has to be done for these messages, in their order."""
        entries: dict[Kind, list[tuple[sink.Message, list[Item]]]] = {kind: [] for kind in Kind}
        for message in messages:
            try:
                kind, items = self._items(message.content)
            except ValueError as error:
                yield Refusal(message, Rejected(Reason.INVALID, str(error), message.payload))
            else:
                entries[kind].append((message, items))
        for kind, owned in entries.items():
            yield from (Export(kind, one) for one in pack(owned))

    def _items(self, received: Received) -> tuple[Kind, list[Item]]:
        record, recorded_ms = received.record, received.envelope.recorded_ms
        origin = self._origin(record)
        match record:
            case Scrape():
                return Kind.METRICS, self.templates.items(record, origin)
            case SpanBatch():
                return Kind.SPANS, span_items(record, origin)
            case LogBatch():
                return Kind.LOGS, log_items(record, origin, recorded_ms)
            case _:
                return Kind.LOGS, [event_item(record, origin, recorded_ms)]

    def _origin(self, record: Record) -> Origin:
        environment = self.config.environments.get(record.cell)
        match record:
            case Observation():
                return Origin(record.cell, record.resource, record.system, record.system, environment)
            case Change():
                return Origin(record.cell, service=record.service, environment=record.environment or environment)
            case Signal():
                return Origin(record.cell, record.resource, environment=environment)
            case _:
                return Origin(record.cell, environment=environment)

    async def _settle(self, job: Export | Refusal, refuse: Refuse) -> list[Export | Refusal]:
        """Do the job; what it turns into is returned."""
        if isinstance(job, Refusal):
            await refuse(job.message, job.rejected)
            self.counts.refused += 1
            return []
        try:
            taken = await self._send(job)
        except Refused as error:
            return self._blame(job.message.owners, str(error))
        self._note(job.message, taken)
        return []

    async def _send(self, export: Export) -> Taken:
        """Send one request. Raises Refused or SinkUnavailable."""
        if (remaining_s := self._backoff.remaining_s()) > 0:
            raise self._unavailable("it is not asked yet", remaining_s)
        if self._transport is None:
            config = self.config
            self._transport = connect(config.endpoint, config.headers, config.timeout_s, config.compress)
        self.counts.requests += 1
        try:
            taken = await self._transport.export(export.kind, export.message.body)
        except Away as error:
            self.counts.unavailable += 1
            raise self._unavailable(str(error), self._backoff.failed(error.retry_after_s)) from error
        self._backoff.succeeded()
        return taken

    def _unavailable(self, reason: str, retry_after_s: float) -> SinkUnavailable:
        mend = f"Bring the OTLP receiver {self.config.endpoint} back; nothing is lost meanwhile"
        return SinkUnavailable(self.name, reason, mend, retry_after_s)

    def _blame(self, owners: tuple[sink.Message, ...], reason: str) -> list[Export | Refusal]:
        """Halves of a refused request, down to the record that is to blame."""
        if len(owners) == 1:
            return [Refusal(owners[0], Rejected(Reason.FAILED, reason, owners[0].payload))]
        self.counts.halved += 1
        middle = len(owners) // 2
        return [*self._plan(owners[:middle]), *self._plan(owners[middle:])]

    def _note(self, message: Message[sink.Message], taken: Taken) -> None:
        self.counts.sent += message.amount
        self.counts.rejected += taken.rejected
        if taken.message and taken.message != self._complaint:
            log.warning("receiver dropped a part", extra={"rejected": taken.rejected, "reason": taken.message})
        self._complaint = taken.message


def _task(context: Context) -> Task:
    if not context.otlp_endpoint:
        raise ValueError("otlp: no endpoint; set PILOTHOUSE_OTLP_ENDPOINT to grpc://host:4317 or http://host:4318")
    environments = {cell.name: cell.environment for cell in context.estate.cells}
    config = Config(context.otlp_endpoint, context.otlp_headers, environments=environments)
    return Task(Otlp(config), sink.Config(topic_prefix=context.topic_prefix))


def make(context: Context) -> list[Task]:
    """The sink as the estate and the settings want it. Raises ValueError when there is no endpoint."""
    return KIND(context)


KIND = SinkKind("otlp", tuple(topic.name for topic in TOPICS), lambda context: {Otlp.name: lambda: _task(context)})
