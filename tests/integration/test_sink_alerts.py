"""Incidents in a real Kafka to webhooks of a real receiver."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiokafka import TopicPartition
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from schemas.estate import Estate, Reference, Route
from schemas.records import Cause, Incident, Phase, Role, Severity, Signal
from schemas.topics import DETECTIONS, INCIDENTS
from sinks.alerts import Alerts, Config, make
from sinks.alerts_history import History
from sinks.alerts_news import Notification
from sinks.backoff import Backoff
from sinks.context import Context
from sinks.sink import Counts, SinkUnavailable
from tests.support.bus import Bus, until

SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four!").decode()
HOUR_MS = 3_600_000


def now_ms() -> int:
    return int(time.time() * 1000)


class Receiver:
    """A webhook receiver on loopback that keeps what it took, and answers as a test wants it."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, Any]]] = []
        """Path and JSON of each that was answered with 200."""
        self.asked: list[tuple[dict[str, str], bytes]] = []
        self.answers: deque[tuple[int, dict[str, str]]] = deque()
        self.broken: set[str] = set()
        self.on_request: Callable[[], Awaitable[None]] | None = None

    async def __aenter__(self) -> Receiver:
        application = web.Application()
        application.router.add_post("/{name}", self._hook)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _hook(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked.append((dict(request.headers), body))
        if self.on_request:
            await self.on_request()
        broken = (503, {}) if request.match_info["name"] in self.broken else None
        status, headers = broken or (self.answers.popleft() if self.answers else (200, {}))
        if status == 200:
            self.taken.append((request.match_info["name"], orjson.loads(body)))
        return web.Response(status=status, headers=headers)

    def told(self, name: str = "hook") -> list[tuple[str, str, int]]:
        """Type, incident and version of what was taken, in order."""
        return [(one["type"], one["data"]["id"], one["data"]["version"]) for path, one in self.taken if path == name]

    def ids(self) -> list[str]:
        return [
            next(value for key, value in headers.items() if key.lower() == "webhook-id") for headers, _ in self.asked
        ]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def bus(kafka: str) -> AsyncIterator[Bus]:
    async with Bus(kafka, INCIDENTS) as bus:
        yield bus


def incident(
    version: int = 1,
    phase: Phase = Phase.OPEN,
    *,
    name: str = "inc-1",
    time_ms: int | None = None,
    cause: str = "redis.latency:valkey-eu1",
) -> Incident:
    return Incident(
        cell="eu1",
        time_ms=now_ms() if time_ms is None else time_ms,
        id=name,
        version=version,
        phase=phase,
        started_ms=1,
        severity=Severity.WARNING,
        title="Redis answers slowly",
        causes=(Cause(cause=cause, probability=1.0),),
        tenants=("acme",),
    )


def sink(bus: Bus, receiver: Receiver, name: str = "hook", backoff: Backoff | None = None, **config: Any) -> Alerts:
    route = Route(name=name, url=f"{receiver.url}/{name}", allow_private=True)
    alerts = Alerts(route, str(route.url), SECRET, bus.kafka, time.time, Config(**config), backoff)
    alerts.group = group(bus, name)
    return alerts


def group(bus: Bus, name: str = "hook") -> str:
    return f"{bus.prefix}{name}"


def quick() -> Backoff:
    return Backoff(first_s=0.01, most_s=0.05)


async def test_a_route_without_a_past_is_open_at_once(bus: Bus, receiver: Receiver) -> None:
    async with bus.running(sink(bus, receiver), group(bus)) as counts:
        await until(lambda: counts.rebalances > 0)  # from here on the broker has a coordinator
    place = TopicPartition(bus.name(INCIDENTS), 0)
    history = History(bus.kafka, group(bus), 10.0)
    for _ in range(5):  # a fetcher that misses being told to stop would hold it up
        async with asyncio.timeout(8):
            assert await history.read(frozenset([place]), 0, lambda *_: None) == {place: 0}


async def test_an_incident_is_told_with_a_signature_that_verifies(bus: Bus, receiver: Receiver) -> None:
    async with bus.running(sink(bus, receiver), group(bus)):
        await bus.put(incident(), incident(2, Phase.RESOLVED))
        await until(lambda: len(receiver.taken) == 2)
    assert receiver.told() == [("incident.open", "inc-1", 1), ("incident.resolved", "inc-1", 2)]
    headers, body = receiver.asked[0]
    assert Webhook(SECRET).verify(body, headers)["data"]["title"] == "Redis answers slowly"
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"another secret").decode()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"slowly", b"quickly"), headers)


async def test_a_heartbeat_is_passed_on_while_it_is_news(kafka: str, receiver: Receiver) -> None:
    def beat(time_ms: int, cause: str = "pilothouse.watchdog:eu1") -> Signal:
        return Signal(
            cell="eu1", time_ms=time_ms, id="w1", phase=Phase.UPDATED, detector="watchdog", cause=cause, resource="eu1",
            started_ms=1, severity=Severity.INFO, score=0.0, summary="all is well",
        )  # fmt: skip

    async with Bus(kafka, INCIDENTS, DETECTIONS) as bus:
        route = Route(name="switch", url=f"{receiver.url}/switch", watchdog=True, allow_private=True)
        alerts = Alerts(route, str(route.url), SECRET, bus.kafka, time.time)
        alerts.group = group(bus, "switch")
        async with bus.running(alerts, alerts.group):
            await bus.put(incident(), beat(now_ms() - HOUR_MS), beat(now_ms(), "redis.latency:valkey"), beat(now_ms()))
            await until(lambda: len(receiver.taken) == 2)
            await bus.committed_up_to(alerts.group, DETECTIONS, 3)
    assert sorted(one["type"] for _, one in receiver.taken) == ["incident.open", "watchdog"]


async def test_each_role_hears_of_what_is_its_own_from_the_moment_it_is(bus: Bus, receiver: Receiver) -> None:
    def of(*roles: Role, version: int = 1, phase: Phase = Phase.OPEN) -> Incident:
        return incident(version, phase).model_copy(update={"roles": roles})

    dba, support = sink(bus, receiver, "dba"), sink(bus, receiver, "support")
    dba.route = dba.route.model_copy(update={"roles": (Role.DBA,)})
    support.route = support.route.model_copy(update={"roles": (Role.ERP_SUPPORT, Role.EXECUTIVE)})
    both = (Role.DBA, Role.ERP_SUPPORT)
    async with bus.running(dba, dba.group), bus.running(support, support.group):
        await bus.put(
            of(Role.DBA), of(*both, version=2, phase=Phase.UPDATED), of(*both, version=3, phase=Phase.RESOLVED)
        )
        await bus.committed_up_to(dba.group, INCIDENTS, 3)
        await bus.committed_up_to(support.group, INCIDENTS, 3)
    assert [version for _, _, version in receiver.told("dba")] == [1, 2, 3]
    assert receiver.told("support") == [("incident.open", "inc-1", 2), ("incident.resolved", "inc-1", 3)]
    assert next(one for path, one in receiver.taken if path == "support")["data"]["roles"] == ["dba", "erp_support"]


async def test_a_resolve_follows_its_opening_after_a_restart(bus: Bus, receiver: Receiver) -> None:
    async with bus.running(sink(bus, receiver), group(bus)):
        await bus.put(incident())
        await until(lambda: len(receiver.taken) == 1)
    async with bus.running(sink(bus, receiver), group(bus)):
        await bus.put(
            incident(2, Phase.UPDATED), incident(3, Phase.RESOLVED), incident(1, Phase.RESOLVED, name="never")
        )
        await bus.committed_up_to(group(bus), INCIDENTS, 4)
    assert receiver.told() == [("incident.open", "inc-1", 1), ("incident.resolved", "inc-1", 3)]


async def test_a_kill_before_the_commit_repeats_an_alert_under_its_id(bus: Bus, receiver: Receiver) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        asked.set()
        await never.wait()

    receiver.on_request = hang
    await bus.put(incident())
    killed = bus.start(sink(bus, receiver), group(bus), asyncio.Event(), Counts())
    await asked.wait()
    killed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killed
    receiver.on_request = None
    never.set()
    async with bus.running(sink(bus, receiver), group(bus)):
        await bus.committed_up_to(group(bus), INCIDENTS, 1)
    assert receiver.ids() == ["inc-1-1", "inc-1-1"]
    assert receiver.asked[0][1] == receiver.asked[1][1]


async def test_a_receiver_that_hangs_does_not_hold_up_the_end_of_the_program(bus: Bus, receiver: Receiver) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        asked.set()
        await never.wait()

    receiver.on_request = hang
    stop = asyncio.Event()
    running = bus.start(sink(bus, receiver, timeout_s=600.0), group(bus), stop, Counts())
    await bus.put(*(incident(name=f"inc-{number}") for number in range(20)))
    await asked.wait()
    stop.set()
    async with asyncio.timeout(5):
        await running
    assert await bus.committed(group(bus), INCIDENTS) <= 0
    never.set()


async def test_nothing_is_committed_while_the_receiver_is_away_and_nothing_is_lost(
    bus: Bus, receiver: Receiver
) -> None:
    receiver.broken = {"hook"}
    async with bus.running(sink(bus, receiver, backoff=quick()), group(bus), backoff_s_max=0.05):
        await bus.put(*(incident(name=f"inc-{number}") for number in range(5)))
        await until(lambda: len(receiver.asked) >= 3)
        assert await bus.committed(group(bus), INCIDENTS) <= 0
        receiver.broken = set()
        await bus.committed_up_to(group(bus), INCIDENTS, 5)
    assert receiver.told() == [("incident.open", f"inc-{number}", 1) for number in range(5)]


async def test_a_dead_route_does_not_delay_another(bus: Bus, receiver: Receiver) -> None:
    receiver.broken = {"dead"}
    dead, alive = (sink(bus, receiver, name, quick()) for name in ("dead", "alive"))
    async with (
        bus.running(dead, group(bus, "dead"), backoff_s_max=0.05),
        bus.running(alive, group(bus, "alive")),
    ):
        await bus.put(incident())
        await until(lambda: dead.counts.failed_tries >= 2)
        await bus.put(incident(2, Phase.RESOLVED))
        await bus.committed_up_to(group(bus, "alive"), INCIDENTS, 2)
        assert await bus.committed(group(bus, "dead"), INCIDENTS) <= 0
    assert receiver.told("alive") == [("incident.open", "inc-1", 1), ("incident.resolved", "inc-1", 2)]
    assert receiver.told("dead") == []


async def test_what_a_receiver_never_takes_goes_to_the_dead_letters(bus: Bus, receiver: Receiver) -> None:
    receiver.answers.extend([(200, {}), (422, {}), (410, {})])
    alerts = sink(bus, receiver)
    async with bus.running(alerts, group(bus)):
        await bus.put(*(incident(name=name) for name in ("first", "malformed", "unwanted", "fine")))
        await bus.committed_up_to(group(bus), INCIDENTS, 4)
    letters = await bus.letters()
    assert [(one.offset, one.reason, one.rejected_by) for one in letters] == [
        (1, "failed", "sink.alerts.hook"),
        (2, "failed", "sink.alerts.hook"),
    ]
    assert "HTTP 422" in letters[0].detail
    assert "HTTP 410" in letters[1].detail
    assert all(receiver.url not in one.detail for one in letters)
    assert receiver.told() == [("incident.open", "first", 1), ("incident.open", "fine", 1)]
    assert alerts.counts.refused == 2


async def test_a_route_that_is_set_up_wrong_loses_no_alert(bus: Bus, receiver: Receiver) -> None:
    wrong = [(302, {"Location": f"{receiver.url}/elsewhere"}), (401, {}), (403, {}), (404, {}), (415, {})]
    receiver.answers.extend(wrong)
    alerts = sink(bus, receiver, backoff=quick(), misconfigured_s=0)
    async with bus.running(alerts, group(bus), backoff_s_max=0.05):
        await bus.put(incident(name="first"), incident(name="second"))
        await bus.committed_up_to(group(bus), INCIDENTS, 2)
    assert receiver.told() == [("incident.open", "first", 1), ("incident.open", "second", 1)]
    assert receiver.told("elsewhere") == []
    assert await bus.letters() == []
    assert (alerts.counts.misconfigured, alerts.counts.refused) == (len(wrong), 0)


async def test_an_alert_at_which_the_receiver_chokes_gives_way_to_the_next(bus: Bus, receiver: Receiver) -> None:
    receiver.answers.extend([(500, {})] * 3)
    async with bus.running(sink(bus, receiver, backoff=quick(), tries_max=3), group(bus), backoff_s_max=0.05):
        await bus.put(incident(name="poison"), incident(name="fine"))
        await bus.committed_up_to(group(bus), INCIDENTS, 2)
    assert ["3 tries" in one.detail for one in await bus.letters()] == [True]
    assert receiver.told() == [("incident.open", "fine", 1)]


async def test_bytes_that_are_no_incident_go_to_the_dead_letters(bus: Bus, receiver: Receiver) -> None:
    async with bus.running(sink(bus, receiver), group(bus)):
        await bus.put_bytes(INCIDENTS, b'{"cell": ', Incident.type)
        await bus.put(incident())
        await until(lambda: len(receiver.taken) == 1)
    assert [one.reason for one in await bus.letters()] == ["invalid"]


async def test_a_new_route_is_told_what_is_open_and_not_the_past(bus: Bus, receiver: Receiver) -> None:
    old_ms = now_ms() - 5 * HOUR_MS
    await bus.put(
        incident(name="over", time_ms=old_ms),
        incident(2, Phase.RESOLVED, name="over", time_ms=old_ms + 1),
        incident(name="open", time_ms=old_ms + 2),
        incident(2, Phase.UPDATED, name="open", time_ms=old_ms + 3, cause="postgresql.lock:acme"),
        incident(name="late", time_ms=now_ms()),
        incident(2, Phase.RESOLVED, name="late", time_ms=now_ms()),
    )
    alerts = sink(bus, receiver)
    async with bus.running(alerts, group(bus)):
        await bus.committed_up_to(group(bus), INCIDENTS, 6)
    assert receiver.told() == [
        ("incident.open", "open", 2),
        ("incident.open", "late", 1),
        ("incident.resolved", "late", 2),
    ]
    assert alerts.counts.stale == 3


async def test_held_news_is_told_when_due_also_by_a_restarted_sink(bus: Bus, receiver: Receiver) -> None:
    opened_ms = now_ms()
    hasty = incident(2, Phase.UPDATED, time_ms=opened_ms + 1000, cause="postgresql.lock:acme")
    async with bus.running(sink(bus, receiver, held_every_s=HOUR_MS), group(bus)):
        await bus.put(incident(time_ms=opened_ms), hasty)
        await bus.committed_up_to(group(bus), INCIDENTS, 2)
    assert receiver.told() == [("incident.open", "inc-1", 1)]
    restarted = sink(bus, receiver, held_every_s=HOUR_MS, grace_s=0)
    async with bus.running(restarted, group(bus)) as counts:
        await until(lambda: counts.rebalances > 0 and bool(restarted._partitions))
        await restarted.tell_due(opened_ms + 59_999)
        assert len(receiver.taken) == 1
        await restarted.tell_due(opened_ms + 60_000)
        await restarted.tell_due(opened_ms + 60_001)
    assert receiver.told() == [("incident.open", "inc-1", 1), ("incident.updated", "inc-1", 2)]


async def test_retry_after_is_honoured(bus: Bus, receiver: Receiver) -> None:
    """On a clock of our own: not a second is waited."""
    clock = 100.0
    alerts = sink(bus, receiver, backoff=Backoff(clock=lambda: clock))
    receiver.answers.append((429, {"Retry-After": "40"}))
    note = _notification(incident())
    with pytest.raises(SinkUnavailable) as away:
        await alerts._tell(note)
    assert away.value.retry_after_s == 40
    clock += 39
    with pytest.raises(SinkUnavailable):
        await alerts._tell(note)
    assert len(receiver.asked) == 1
    clock += 1
    await alerts._tell(note)
    assert len(receiver.asked) == 2
    await alerts.close()


async def test_no_url_is_told_when_a_receiver_does_not_speak_http(bus: Bus) -> None:
    """A webhook's url often is its password."""

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        alerts = Alerts(
            Route(name="r", url="-", allow_private=True),
            f"http://127.0.0.1:{port}/hidden",
            SECRET,
            bus.kafka,
            time.time,
        )
        with pytest.raises(SinkUnavailable) as away:
            await alerts._tell(_notification(incident()))
        await alerts.close()
    assert "hidden" not in str(away.value)


async def test_a_receiver_that_stays_away_too_long_loses_the_alert_to_the_dead_letters(
    bus: Bus, receiver: Receiver
) -> None:
    receiver.broken = {"hook"}
    alerts = sink(bus, receiver, backoff=quick(), give_up_s=0.2)
    async with bus.running(alerts, group(bus), backoff_s_max=0.05):
        await bus.put(incident())
        await bus.committed_up_to(group(bus), INCIDENTS, 1)
    assert ["HTTP 503; away for" in one.detail for one in await bus.letters()] == [True]


def _notification(one: Incident) -> Notification:
    return Notification(Phase.OPEN, one)


@pytest.mark.parametrize(
    ("url", "secret", "says"),
    [
        ("ftp://x", SECRET, "route r: its url"),
        ("https://x", "whsec_?", "route r: its secret"),
        ("https://x", "whsec_", "secret"),
        ("https://x", "whsec_" + base64.b64encode(b"a" * 32).decode(), "route r: its secret repeats itself"),
        ("http://127.0.0.1/x", SECRET, "allow_private: true"),
        ("https://u:hidden@x/", SECRET, "route r: its url holds a user or a password"),
    ],
)
def test_a_route_that_cannot_work_is_refused_by_name_and_without_its_secrets(url: str, secret: str, says: str) -> None:
    route = Route(name="r", url=Reference(env="URL"), secret=Reference(env="SECRET"))
    estate = Estate.model_validate({"cells": [{"name": "eu1", "tenants": [{"name": "acme"}]}], "routes": [route]})
    values = {"URL": url, "SECRET": secret}
    context = Context({}, estate, lambda reference, _: values[getattr(reference, "env", "")], time.time)
    with pytest.raises(ValueError, match=says) as refused:
        make(context)
    assert all(hidden not in str(refused.value) for hidden in ("hidden", SECRET, "whsec_A"))
