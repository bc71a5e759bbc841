"""Sends metrics, logs, spans, changes, findings and incidents to any OTLP receiver, with their own times.

A batch is committed when the receiver has acknowledged all of it. A receiver that is away holds the batch; what it had
acknowledged of it is not sent again. A request that is refused is halved until the one record is found that is to
blame: that goes to the dead letters, its neighbours arrive. But an endpoint that is set up wrong refuses everything, and that
must cost no record. So a refusal has to be proven:

- by a probe: the endpoint takes an empty request, as it should by OTLP, so what it refused is at fault;
- or, where it refuses that as well or fails (500), by neighbours: since the first refusal it has taken others of the same kind.

With neighbours' proof the record is tried once more, for the receiver may have been mended meanwhile. Without proof the batch is
held, as if the receiver were away, for a day at most. Requests go one after another, because receivers such
as Prometheus refuse points that come out of order. Security events stay here: they name people, and a receiver is
somebody else's house. Source: OTLP specification 1.x.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from schemas import topics
from schemas.codec import Reason, Received, Rejected
from schemas.records import Change, LogBatch, Observation, Record, Scrape, Signal, SpanBatch
from sinks import sink
from sinks.backoff import Backoff
from sinks.context import Context, SinkKind, Task
from sinks.otlp_encode import Item, Message, Origin, Templates, pack
from sinks.otlp_events import event_item, log_items, span_items
from sinks.otlp_transport import (
    Away,
    Failed,
    Kind,
    Misconfigured,
    Refused,
    Taken,
    TooLarge,
    Transport,
    checked_headers,
    connect,
    place,
)
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
    close_timeout_s: float = 2.0
    tries_max: int = 10
    """A request at which the receiver fails (500) so often is halved, to find out whether one record is to blame."""
    small_bytes: int = 2**20
    """A record of fewer bytes is too large for no receiver; one that says so has too low a limit."""
    give_up_s: float = 24 * 3600.0
    """A record that is refused without proof for longer goes to the dead letters."""
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
    misconfigured: int = 0
    """Of the unavailable, those for which the endpoint has to be set up anew."""
    halved: int = 0
    probes: int = 0
    """Empty requests that were to tell a fault of ours from one of the data."""
    unread: int = 0
    """Acknowledgements whose rest could not be read."""


@dataclass(frozen=True, slots=True)
class Export:
    """A request to be sent."""

    kind: Kind
    message: Message[sink.Message]
    tries: int = 0
    """How often the receiver has failed at it."""
    since: int | None = None
    """Requests of its kind that had been taken when it, or what it was halved from, was first refused without a probe's proof."""
    is_proven: bool = False
    """The endpoint takes an empty request: a refusal is the data's fault."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A record that was refused; whether it is to blame is known when the rest of the batch was sent."""

    export: Export
    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record to be put to the dead letters."""

    message: sink.Message
    rejected: Rejected


Job = Export | Suspect | Refusal


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
        self._todo: deque[Job] = deque()
        self._taken: Counter[Kind] = Counter()
        self._complaint = ""
        self._is_unread = False

    async def open(self, assignment: Assignment) -> Opened:
        """The group's offsets count; a receiver keeps none."""
        self._batch = None
        return Opened()

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        """Return when all of the batch is acknowledged or refused. The same batch again goes on where it stopped."""
        if batch is not self._batch:
            self._batch, self._todo = batch, deque(self._plan(batch.messages))
        while self._todo:
            rest = await self._settle(self._todo[0], refuse)
            self._todo.popleft()
            # Suspects wait until their neighbours were sent, which may prove them guilty.
            self._todo.extend(one for one in rest if isinstance(one, Suspect))
            self._todo.extendleft(reversed([one for one in rest if not isinstance(one, Suspect)]))
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

    async def _settle(self, job: Job, refuse: Refuse) -> Sequence[Job]:
        """Do the job; what it turns into is returned. Raises SinkUnavailable, and the job stays."""
        match job:
            case Refusal():
                await refuse(job.message, job.rejected)
                self.counts.refused += 1
                return []
            case Suspect():
                return await self._judge(job)
            case Export():
                return await self._export(job)

    async def _export(self, job: Export) -> Sequence[Job]:
        try:
            taken = await self._send(job.kind, job.message.body)
        except TooLarge as error:
            return self._shrink(job, str(error))
        except Refused as error:
            return self._blame(await self._examined(job, str(error)), str(error))
        except Failed as error:
            if job.tries + 1 < self.config.tries_max:
                self._todo[0] = replace(job, tries=job.tries + 1)
                raise self._away(error) from error
            self._backoff.failed(error.retry_after_s)
            return self._blame(replace(job, tries=job.tries + 1, since=self._since(job)), str(error))
        except Away as error:
            raise self._away(error) from error
        self._note(job, taken)
        return []

    async def _send(self, kind: Kind, body: bytes) -> Taken:
        """Send one request. Raises Refused, Away or SinkUnavailable."""
        if (remaining_s := self._backoff.remaining_s()) > 0:
            raise self._unavailable("it is not asked yet", remaining_s)
        if self._transport is None:
            config = self.config
            self._transport = connect(config.endpoint, config.headers, config.timeout_s, config.compress)
        self.counts.requests += 1
        taken = await self._transport.export(kind, body)
        self._backoff.succeeded()
        return taken

    def _away(self, error: Away) -> SinkUnavailable:
        self.counts.unavailable += 1
        self.counts.misconfigured += isinstance(error, Misconfigured)
        return self._unavailable(str(error), self._backoff.failed(error.retry_after_s))

    def _unavailable(self, reason: str, retry_after_s: float) -> SinkUnavailable:
        mend = f"Bring the OTLP receiver {place(self.config.endpoint).name} back; nothing is lost meanwhile"
        return SinkUnavailable(self.name, reason, mend, retry_after_s)

    # Whose fault a refusal is.

    async def _examined(self, job: Export, reason: str) -> Export:
        """The refused request with what is known of the endpoint. Raises SinkUnavailable when that is at fault."""
        if job.is_proven or job.since is not None:
            return job
        self.counts.probes += 1
        try:
            await self._send(job.kind, b"")
        except Refused:
            if not self._taken[job.kind]:
                raise self._away(Misconfigured(f"{reason}; it refuses an empty request as well")) from None
            return replace(job, since=self._since(job))
        except Away as error:
            raise self._away(error) from error
        return replace(job, is_proven=True)

    def _since(self, job: Export) -> int:
        return self._taken[job.kind] if job.since is None else job.since

    def _blame(self, job: Export, reason: str) -> Sequence[Job]:
        """Halves of a refused request, down to the record that is to blame."""
        if len(job.message.owners) > 1:
            return self._halves(job)
        return [_refusal(job, reason) if job.is_proven else Suspect(job, reason)]

    def _halves(self, job: Export) -> Sequence[Job]:
        self.counts.halved += 1
        owners, middle = job.message.owners, len(job.message.owners) // 2
        planned = [*self._plan(owners[:middle]), *self._plan(owners[middle:])]
        return [
            replace(one, tries=job.tries, since=job.since, is_proven=job.is_proven) if isinstance(one, Export) else one
            for one in planned
        ]

    def _shrink(self, job: Export, reason: str) -> Sequence[Job]:
        """Halves of a request that is too large. Raises SinkUnavailable where the endpoint's limit is to blame."""
        if len(job.message.owners) > 1:
            return self._halves(job)
        if len(job.message.body) < self.config.small_bytes:
            raise self._away(
                Misconfigured(f"{reason}; {len(job.message.body)} bytes are too many for it, raise its limit")
            )
        return [_refusal(job, reason)]

    async def _judge(self, suspect: Suspect) -> Sequence[Job]:
        """Try the record once more, and refuse it then, if others were taken meanwhile. Raises SinkUnavailable if none was."""
        export = suspect.export
        is_proven = export.since is not None and self._taken[export.kind] > export.since
        if not is_proven and self._backoff.failing_s() < self.config.give_up_s:
            self._todo = deque(
                Export(one.export.kind, one.export.message) if isinstance(one, Suspect) else one for one in self._todo
            )
            self._taken[export.kind] = 0  # what it took before says nothing of it as it is now
            raise self._away(Misconfigured(f"{suspect.reason}; nothing else is taken either"))
        try:
            self._note(export, await self._send(export.kind, export.message.body))
        except (Refused, Failed):
            return [_refusal(export, suspect.reason)]
        except Away as error:
            raise self._away(error) from error
        return []

    def _note(self, job: Export, taken: Taken) -> None:
        self._taken[job.kind] += 1
        self.counts.sent += job.message.amount
        self.counts.rejected += min(taken.rejected, job.message.amount)
        self.counts.unread += not taken.is_read
        if taken.message and taken.message != self._complaint:
            log.warning("receiver dropped a part", extra={"rejected": taken.rejected, "reason": taken.message})
        if not taken.is_read and not self._is_unread:
            log.warning(
                "receiver takes requests with answers that cannot be read", extra={"kind": job.kind.name.lower()}
            )
        self._complaint, self._is_unread = taken.message, self._is_unread or not taken.is_read


def _refusal(job: Export, reason: str) -> Refusal:
    owner = job.message.owners[0]
    return Refusal(owner, Rejected(Reason.FAILED, reason, owner.payload))


def _task(context: Context) -> Task:
    if not context.otlp_endpoint:
        raise ValueError("otlp: no endpoint; set PILOTHOUSE_OTLP_ENDPOINT to grpc://host:4317 or http://host:4318")
    place(context.otlp_endpoint)
    checked_headers(context.otlp_headers)
    environments = {cell.name: cell.environment for cell in context.estate.cells}
    config = Config(context.otlp_endpoint, context.otlp_headers, environments=environments)
    return Task(Otlp(config), sink.Config(topic_prefix=context.topic_prefix))


def make(context: Context) -> list[Task]:
    """The sink as the estate and the settings want it. Raises ValueError when there is no endpoint."""
    return KIND(context)


KIND = SinkKind("otlp", tuple(topic.name for topic in TOPICS), lambda context: {Otlp.name: lambda: _task(context)})
