"""Tells incidents to people's tools: one signed webhook a piece of news, for each route of the estate.

Each route reads the incidents in its own consumer group. So the log is its queue, a dead receiver holds up nobody
else, and its offsets move only over what it has taken or what is in the dead letters. What a route was told is no
state that is kept anywhere: it is folded from the log up to the committed offset whenever partitions are taken over
(`alerts_news`), so a kill at any moment loses nothing; what was under way goes out once more with the webhook-id it had.

What a receiver can never take goes to the dead letters. What is no fault of the alert does not: a redirect, a wrong password, a path
that is gone, an address that is refused. Then the alerts wait for a person to mend the route, as they do for a receiver that is away.

Source: Standard Webhooks 1.0 (signature, webhook-id).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from standardwebhooks import Webhook

from schemas import topics
from schemas.bounds import reached
from schemas.codec import Reason, Rejected
from schemas.estate import Route
from schemas.records import Incident, Phase, Signal
from sinks import sink
from sinks.alerts_delivery import Delivery, Undelivered, Verdict, remedy, verdict
from sinks.alerts_history import History
from sinks.alerts_news import Heartbeat, Notification, Told, content, due, flush, fold, is_heartbeat
from sinks.alerts_route import checked_key, checked_url, resolved
from sinks.alerts_route import remedy as allowing
from sinks.backoff import Backoff
from sinks.context import Context, SinkKind, Task
from sinks.kafka_clients import Broker
from sinks.sink import Assignment, Batch, Message, Opened, Refuse, SinkUnavailable

log = logging.getLogger(__name__)

BACK = "Bring its receiver back; its alerts wait"


@dataclass(frozen=True, slots=True)
class Config:
    """How routes are told."""

    min_update_s: float = 60.0
    """Updates of one incident come at most so often; opening, a rise in severity and the end come at once."""
    timeout_s: float = 10.0
    """Of one request."""
    give_up_s: float = 24 * 3600.0
    """A receiver that is away for longer loses its alerts to the dead letters."""
    tries_max: int = 10
    """An alert at which a living receiver fails (500) so often goes to the dead letters: others wait behind it.

    So does one that is refused (400) by a receiver that did not take the one before: it may refuse them all, for a fault of its own.
    """
    misconfigured_s: float = 30.0
    """Pause while a person has to mend the route."""
    look_back_s: float = 30 * 86_400.0
    """An incident of which the log has said nothing for longer is forgotten."""
    stale_s: float = 3600.0
    """A route that starts afresh is told what is open, and what was news within this time."""
    held_every_s: float = 1.0
    """How often held news is looked at."""
    grace_s: float = 5.0
    """Incidents' time runs behind the clock by so much at most; held news waits for it."""
    heartbeat_s: float = 600.0
    """A heartbeat that is older is not forwarded any more."""
    incidents_max: int = 10_000
    """Incidents that are remembered, a partition; beyond it the one longest unchanged is forgotten and counted."""
    kafka_timeout_s: float = 10.0


@dataclass(slots=True)
class Counts:
    """What went out and what did not. Only ever grows."""

    sent: int = 0
    failed_tries: int = 0
    refused: int = 0
    """Alerts in the dead letters."""
    stale: int = 0
    """Versions of incidents that were over before the route existed."""
    forgotten: int = 0
    misconfigured: int = 0
    """Tries that failed because the route or its receiver is set up wrong."""
    private: int = 0
    """Tries whose receiver's name led inside, which the route does not allow."""
    cut: int = 0
    """Alerts that were too large and went out without their details."""


class Gone(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """This alert will never be taken."""


class Last(NamedTuple):
    """The last version of an incident that stood in the log when a route started afresh."""

    version: int
    phase: Phase


@dataclass(slots=True)
class Partition:
    """What a route knows of one partition's incidents."""

    told: dict[str, Told] = field(default_factory=dict)
    last: dict[str, Last] = field(default_factory=dict)


class Alerts:
    """The sink of one route. `now_s` is Unix time; `secret` and `url` stand in no message and no log."""

    topics: Sequence[str] = (topics.INCIDENTS.name,)

    def __init__(
        self,
        route: Route,
        url: str,
        secret: str,
        kafka: Mapping[str, Any] | Broker,
        now_s: Callable[[], float],
        config: Config | None = None,
        backoff: Backoff | None = None,
        topic_prefix: str = "",
    ) -> None:
        """Raises ValueError naming the route when the url or the secret is none, or not safe."""
        self.name = f"alerts.{route.name}"
        self.group = f"{topic_prefix}pilothouse-sink-alerts.{route.name}"
        if route.watchdog:
            self.topics = (*self.topics, topics.DETECTIONS.name)
        self.route, self.config, self.counts = route, config or Config(), Counts()
        where, key = checked_url(route, url), checked_key(route, secret)
        self._webhook = Webhook(key) if key else None
        self._kafka, self._now_s, self._backoff = kafka, now_s, backoff or Backoff()
        self._partitions: dict[TopicPartition, Partition] = {}
        self._delivery = Delivery(where.url(), route.allow_private, self.config.timeout_s)
        self._lock = asyncio.Lock()
        self._holding: asyncio.Task[None] | None = None
        self._tries: tuple[str, int] = ("", 0)
        self._is_proven = False  # the receiver took the last alert that it answered

    async def open(self, assignment: Assignment) -> Opened:
        """Fold the log of these partitions up to where the route stands."""
        async with self._lock:
            self._partitions = {}
            history = History(self._kafka, self.group, self.config.kafka_timeout_s)
            since_ms = self._now_ms() - int(1000 * self.config.look_back_s)
            incidents = frozenset(
                one for one in assignment.partitions if not one.topic.endswith(topics.DETECTIONS.name)
            )
            offsets = await history.read(incidents, since_ms, self._recall, assignment.committed)
            if beats := assignment.partitions - incidents:
                now_ms = self._now_ms() - int(1000 * self.config.heartbeat_s)
                offsets |= await history.read(beats, now_ms, self._recall, assignment.committed)
            for partition in assignment.partitions:
                self._partitions.setdefault(partition, Partition())
        if self._holding is None:
            self._holding = asyncio.create_task(self._tell_held_news(), name=f"{self.name}: held news")
        return Opened(offsets, stored=False)

    async def write(self, batch: Batch, refuse: Refuse) -> None:
        """Return when the route has taken all that is news to it, or it is in the dead letters."""
        if self._holding and self._holding.done():
            self._holding.result()
        async with self._lock:
            for message in batch.messages:
                await self._take(message, refuse)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._holding:
            self._holding.cancel()
            with suppress(asyncio.CancelledError):
                await self._holding
        await self._delivery.close()

    # What is known.

    def _recall(self, partition: TopicPartition, incident: Incident, is_told: bool) -> None:
        """Take in a record from before: one that the route is past, or one that it has yet to read."""
        known = self._partitions.setdefault(partition, Partition())
        if is_told:
            self._learn(known, incident.id, self._fold(known, incident)[0])
        else:
            known.last[incident.id] = Last(incident.version, incident.phase)

    def _flush(self, known: Partition, incident: Incident) -> tuple[Told, list[Notification]]:
        return flush(self._min_update_ms, known.told.get(incident.id, Told()), incident.time_ms)

    def _fold(self, known: Partition, incident: Incident) -> tuple[Told, list[Notification]]:
        return fold(self.route, self._min_update_ms, known.told.get(incident.id, Told()), incident)

    def _learn(self, known: Partition, incident: str, told: Told) -> None:
        known.told.pop(incident, None)
        known.told[incident] = told
        if len(known.told) > self.config.incidents_max:
            del known.told[next(iter(known.told))]
            self.counts.forgotten += 1
            reached("alerts.incidents")

    def _is_stale(self, known: Partition, incident: Incident) -> bool:
        last = known.last.get(incident.id)
        if last is None or incident.time_ms >= self._now_ms() - 1000 * self.config.stale_s:
            return False
        return last.phase is Phase.RESOLVED or incident.version < last.version

    @property
    def _min_update_ms(self) -> int:
        return int(1000 * self.config.min_update_s)

    def _now_ms(self) -> int:
        return int(1000 * self._now_s())

    # What is told.

    async def _take(self, message: Message, refuse: Refuse) -> None:
        known = self._partitions[TopicPartition(message.topic, message.partition)]
        incident = message.content.record
        if isinstance(incident, Signal) and self.route.watchdog:
            await self._pass_on(incident)
            return
        if not isinstance(incident, Incident):
            detail = f"ce_type {incident.type!r} on a topic of incidents; only {Incident.type!r} belongs there"
            await refuse(message, Rejected(Reason.INVALID, detail, message.payload))
            return
        if self._is_stale(known, incident):
            self.counts.stale += 1
            return
        for look in (self._flush, self._fold):
            told, news = look(known, incident)
            for notification in news:
                await self._tell_or_refuse(notification, message, refuse)
            # Only now: when the receiver is away, the same batch comes again and finds the state that it met.
            self._learn(known, incident.id, told)

    async def _pass_on(self, signal: Signal) -> None:
        """A heartbeat that nobody took, or that is old, is no news: its absence is what a dead man's switch is for."""
        if is_heartbeat(self.route, signal) and signal.time_ms >= self._now_ms() - 1000 * self.config.heartbeat_s:
            with suppress(Gone):
                await self._tell(Heartbeat(signal))

    async def _tell_or_refuse(self, notification: Notification, message: Message, refuse: Refuse) -> None:
        try:
            await self._tell(notification)
        except Gone as error:
            await refuse(message, Rejected(Reason.FAILED, str(error), message.payload))
            self._note_lost(str(error))

    def _note_lost(self, reason: str) -> None:
        self.counts.refused += 1
        self._tries = ("", 0)
        log.error("alert was not delivered", extra={"route": self.route.name, "reason": reason})

    async def _tell_held_news(self) -> None:
        while True:
            await asyncio.sleep(self.config.held_every_s)
            await self.tell_due(self._now_ms())

    async def tell_due(self, now_ms: int) -> None:
        """Tell the held news that is due. News for a receiver that is away stays held."""
        async with self._lock:
            time_ms = now_ms - int(1000 * self.config.grace_s)
            for known in self._partitions.values():
                for incident, told in self._due(known, time_ms):
                    after, (notification,) = flush(self._min_update_ms, told, time_ms)
                    try:
                        await self._tell(notification)
                    except SinkUnavailable:
                        return
                    except Gone as error:
                        self._note_lost(str(error))
                    self._learn(known, incident, after)

    def _due(self, known: Partition, time_ms: int) -> list[tuple[str, Told]]:
        waiting = ((incident, told, due(self._min_update_ms, told)) for incident, told in known.told.items())
        return [(incident, told) for incident, told, due_ms in waiting if due_ms is not None and due_ms <= time_ms]

    # How it is told.

    async def _tell(self, notification: Notification | Heartbeat) -> None:
        """Return when the receiver has taken it. Raises SinkUnavailable or Gone."""
        if (remaining_s := self._backoff.remaining_s()) > 0:
            raise self._unavailable("it is not asked yet", BACK, remaining_s)
        data, is_cut = content(notification)
        try:
            answer = await self._delivery.post(self._headers(notification.id, data), data)
        except Undelivered as error:
            if error.is_private:
                self.counts.private += 1
                raise self._misconfigured(str(error), allowing(self.route).capitalize()) from None
            raise self._failed(notification, str(error), is_away=True) from None
        reason = f"HTTP {answer.status}"
        match verdict(answer.status):
            case Verdict.TAKEN:
                self._taken(is_cut)
            case Verdict.AWAY:
                raise self._failed(notification, reason, is_away=True, wanted_s=answer.retry_after_s)
            case Verdict.MISCONFIGURED:
                raise self._misconfigured(reason, remedy(answer.status))
            case Verdict.GONE:
                raise Gone(
                    f"route {self.route.name}: {reason}; its receiver wants no more alerts, take it out of the estate"
                )
            case Verdict.REFUSED if self._is_proven:
                self._is_proven = False
                raise Gone(f"route {self.route.name}: {reason}; its receiver does not take this alert")
            case _:
                raise self._failed(notification, reason, is_away=False, wanted_s=answer.retry_after_s)

    def _taken(self, is_cut: bool) -> None:
        self._backoff.succeeded()
        self._tries, self._is_proven = ("", 0), True
        self.counts.sent += 1
        self.counts.cut += is_cut

    def _headers(self, identity: str, data: bytes) -> dict[str, str]:
        # Receivers refuse old timestamps, so it is the try's own; the id is what stays the same.
        moment = datetime.fromtimestamp(int(self._now_s()), UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": "pilothouse",
            "webhook-id": identity,
            "webhook-timestamp": str(int(moment.timestamp())),
        }
        if self._webhook:
            headers["webhook-signature"] = self._webhook.sign(identity, moment, data.decode())
        return headers

    def _failed(
        self, notification: Notification | Heartbeat, reason: str, is_away: bool, wanted_s: float | None = None
    ) -> SinkUnavailable | Gone:
        pause_s = self._pause(wanted_s)
        if self._has_given_up():
            return self._given_up(reason)
        if not is_away:
            identity, tries = self._tries
            self._tries = (notification.id, tries + 1 if identity == notification.id else 1)
            if self._tries[1] >= self.config.tries_max:
                return Gone(f"route {self.route.name}: {reason} at each of {self._tries[1]} tries")
        return self._unavailable(reason, BACK, pause_s)

    def _misconfigured(self, reason: str, mend: str) -> SinkUnavailable | Gone:
        self.counts.misconfigured += 1
        pause_s = self._pause(self.config.misconfigured_s)
        return self._given_up(reason) if self._has_given_up() else self._unavailable(reason, mend, pause_s)

    def _pause(self, wanted_s: float | None) -> float:
        self.counts.failed_tries += 1
        self._is_proven = False
        return self._backoff.failed(wanted_s)

    def _has_given_up(self) -> bool:
        return self._backoff.failing_s() >= self.config.give_up_s

    def _given_up(self, reason: str) -> Gone:
        return Gone(f"route {self.route.name}: {reason}; away for {self._backoff.failing_s():.0f} s")

    def _unavailable(self, reason: str, mend: str, retry_after_s: float) -> SinkUnavailable:
        return SinkUnavailable(self.name, reason, mend, retry_after_s)


def make(context: Context) -> list[Task]:
    """A sink for each route of the estate. Raises ValueError naming a route that is not as it should be."""
    return KIND(context)


def _parts(context: Context) -> Mapping[str, Callable[[], Task]]:
    return {f"alerts.{route.name}": partial(_task, route, context) for route in context.estate.routes}


def _task(route: Route, context: Context) -> Task:
    url, secret = resolved(route, context.resolve)
    alerts = Alerts(route, url, secret, context.kafka, context.now_s, topic_prefix=context.topic_prefix)
    return Task(alerts, sink.Config(group=alerts.group, topic_prefix=context.topic_prefix))


KIND = SinkKind("alerts", (topics.INCIDENTS.name, topics.DETECTIONS.name), _parts)
