"""Records in a real Kafka to a real OTLP receiver, by gRPC and by HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson

from schemas.codec import Envelope, Received
from schemas.estate import Estate
from schemas.records import (
    Cause,
    Change,
    ChangeKind,
    ChangeStatus,
    Evidence,
    Impact,
    Incident,
    LogBatch,
    OperationsEvent,
    Phase,
    Record,
    Scrape,
    Severity,
    Signal,
    SpanBatch,
)
from schemas.series import identity
from schemas.topics import CHANGES, DETECTIONS, INCIDENTS, LOGS, METRICS, OPERATIONS, SPANS, topic_of
from sinks.backoff import Backoff
from sinks.context import Context
from sinks.otlp import TOPICS, Config, Otlp, make
from sinks.sink import Batch, Message, SinkUnavailable
from tests.support.bus import Bus, until
from tests.support.golden import GOLDEN, agrees
from tests.support.otlp_receiver import (
    INVALID,
    UNAUTHENTICATED,
    UNAVAILABLE,
    Answer,
    GrpcReceiver,
    HttpReceiver,
)

THEN_MS = 1_790_000_000_123
RECORDED_MS = THEN_MS + 4_000
NS_A_MS = 1_000_000
SLOW_DOWN = Answer(UNAVAILABLE.code, 429, retry_after_s=40)


@pytest.fixture(params=[GrpcReceiver, HttpReceiver], ids=["grpc", "http"])
async def receiver(request: pytest.FixtureRequest) -> AsyncIterator[GrpcReceiver | HttpReceiver]:
    async with request.param() as receiver:
        yield receiver


@pytest.fixture
async def bus(kafka: str) -> AsyncIterator[Bus]:
    async with Bus(kafka, *TOPICS) as bus:
        yield bus


def sink(receiver: GrpcReceiver | HttpReceiver, backoff: Backoff | None = None, **config: Any) -> Otlp:
    return Otlp(Config(receiver.endpoint, environments={"eu1": "production"}, **config), backoff or quick())


def quick() -> Backoff:
    return Backoff(first_s=0.01, most_s=0.05)


def scrape(number: int = 0, points: dict[str, float | None] | None = None, **more: Any) -> Scrape:
    points = points or {
        identity("redis.commands", {"tenant.id": "acme"}): 1000.0 + number,
        identity("redis.memory.used", {"tenant.id": "bolt"}): 4096.0,
        "redis.ping.duration": 0.002,
        "redis.uptime": None,
    }
    more = {"start_time_ms": THEN_MS - 60_000, **more}
    return Scrape.of(points, cell="eu1", resource="valkey-eu1", system="redis", time_ms=THEN_MS + 1000 * number, **more)


async def test_metrics_arrive_with_their_own_times(bus: Bus, receiver: GrpcReceiver | HttpReceiver) -> None:
    async with bus.running(sink(receiver), bus.prefix):
        await bus.put(scrape(), scrape(1), recorded_ms=RECORDED_MS)
        await bus.committed_up_to(bus.prefix, METRICS, 2)
    points = {
        (name, point.time_unix_nano): (attributes, point) for name, attributes, point in receiver.received.points()
    }
    assert len(points) == 6
    attributes, commands = points["redis.commands", (THEN_MS + 1000) * NS_A_MS]
    assert commands.as_double == 1001
    assert commands.start_time_unix_nano == (THEN_MS - 60_000) * NS_A_MS
    assert attributes["tenant.id"] == "acme"
    assert attributes["pilothouse.cell"] == "eu1"
    assert attributes["deployment.environment.name"] == "production"
    assert points["redis.ping.duration", THEN_MS * NS_A_MS][1].start_time_unix_nano == 0


def records() -> list[Record]:
    """One of each that is sent."""
    at: dict[str, Any] = {"cell": "eu1", "time_ms": THEN_MS}
    evidence = (Evidence(text="PING takes 310 ms, usually 0.4 ms", value=0.31, expected=0.0004),)
    impact = Impact(documents=12, value=4500.0, currency="EUR", exposed=40, exposed_until_ms=THEN_MS + 3_600_000)
    return [
        scrape(),
        LogBatch(
            **at,
            resource="odoo-eu1",
            system="odoo",
            tenants=("acme", None),
            times_ms=(THEN_MS - 5, THEN_MS),
            severity_numbers=(17, 9),
            bodies=("could not reserve WH/OUT/00017", "worker 7 started"),
            attributes={
                "process.pid": (7, 8),
                "exception.type": ("UserError", None),
                "ratio": (0.5, None),
                "ok": (False, True),
            },
        ),
        SpanBatch(
            **at,
            resource="odoo-eu1",
            system="odoo",
            tenants=("acme", "acme"),
            times_ms=(THEN_MS - 250, THEN_MS - 200),
            trace_ids=("0af7651916cd43dd8448eb211c80319c",) * 2,
            span_ids=("b7ad6b7169203331", "00f067aa0ba902b7"),
            parent_span_ids=(None, "b7ad6b7169203331"),
            names=("POST /web/dataset", "UPDATE stock_move"),
            kinds=("server", "client"),
            durations_ms=(250.5, 199.25),
            errors=(None, "LockNotAvailable"),
            attributes={"http.route": ("/web/dataset", None)},
        ),
        Change(
            **at,
            change_id="d-1",
            kind=ChangeKind.RELEASE,
            status=ChangeStatus.ROLLED_BACK,
            service="odoo",
            revision="2.4.1",
            previous_revision="2.4.0",
            tenants=("acme",),
            author="ann",
            environment="staging",
            url="https://git.example/odoo/releases/2.4.1",
            origin="github",
        ),
        OperationsEvent(
            **at,
            resource="odoo-eu1",
            system="odoo",
            tenant="acme",
            name="odoo.worker.killed",
            severity_number=13,
            body="worker 7 was killed by its time limit",
            attributes={"process.pid": 7},
        ),
        Signal(
            **at,
            id="sig-1",
            phase=Phase.OPEN,
            detector="seasonal",
            cause="redis.latency:valkey-eu1",
            resource="valkey-eu1",
            started_ms=THEN_MS - 3000,
            severity=Severity.WARNING,
            score=0.99,
            summary="Redis answers slowly",
            evidence=evidence,
        ),
        Incident(
            **at,
            id="inc-1",
            version=2,
            phase=Phase.UPDATED,
            started_ms=THEN_MS - 3000,
            severity=Severity.CRITICAL,
            title="Redis valkey-eu1 is slow, pickings wait",
            causes=(Cause(cause="redis.latency:valkey-eu1", probability=0.9, evidence=evidence),),
            tenants=("acme", "bolt"),
            impact=impact,
            signals=("sig-1",),
            advice="Look at the slow log.",
        ),
    ]


async def test_what_a_receiver_gets_is_as_recorded(receiver: GrpcReceiver | HttpReceiver) -> None:
    otlp = sink(receiver)
    await otlp.write(batch_of(*records()), refuse_nothing)
    text = "".join(MessageToJson(one, ensure_ascii=False) + "\n" for one in receiver.received.requests)
    agrees(text, GOLDEN / "otlp" / "one_of_each.json")
    await otlp.close()


async def test_every_kind_of_record_arrives(bus: Bus, receiver: GrpcReceiver | HttpReceiver) -> None:
    async with bus.running(sink(receiver), bus.prefix):
        await bus.put(*records())
        await until(lambda: len(receiver.received.log_records()) == 6)
        await until(lambda: (len(receiver.received.points()), len(receiver.received.spans())) == (3, 2))
    events = {record.event_name for _, record in receiver.received.log_records()} - {""}
    assert events == {"pilothouse.change", "odoo.worker.killed", "pilothouse.signal", "pilothouse.incident"}


async def test_authentication_goes_along(bus: Bus, receiver: GrpcReceiver | HttpReceiver) -> None:
    async with bus.running(sink(receiver, headers={"Authorization": "Bearer t0ken"}), bus.prefix):
        await bus.put(scrape())
        await bus.committed_up_to(bus.prefix, METRICS, 1)
    headers = {name.lower(): value for name, value in receiver.received.headers[0].items()}
    assert headers["authorization"] == "Bearer t0ken"
    if isinstance(receiver, HttpReceiver):
        assert headers["content-encoding"] == "gzip"


async def test_nothing_is_acknowledged_while_the_receiver_is_away_and_nothing_is_lost(
    bus: Bus, receiver: GrpcReceiver | HttpReceiver
) -> None:
    await receiver.stop()
    otlp = sink(receiver)
    async with bus.running(otlp, bus.prefix, backoff_s_max=0.05):
        await bus.put(*(scrape(number) for number in range(20)))
        await until(lambda: otlp.counts.unavailable >= 2)
        assert await bus.committed(bus.prefix, METRICS) <= 0
        assert receiver.received.requests == []
        await receiver.start()
        await bus.committed_up_to(bus.prefix, METRICS, 20)
    commands = [point for name, _, point in receiver.received.points() if name == "redis.commands"]
    assert [point.as_double for point in commands] == [1000.0 + number for number in range(20)]


async def test_what_was_acknowledged_of_a_batch_is_not_sent_again(receiver: GrpcReceiver | HttpReceiver) -> None:
    otlp = sink(receiver)
    large = {identity("redis.keys.count", {"db.namespace": str(n)}): float(n) for n in range(9_000)}
    batch = batch_of(*(scrape(number, large) for number in range(3)))
    receiver.received.answers.extend([Answer(), UNAVAILABLE])
    with pytest.raises(SinkUnavailable):
        await otlp.write(batch, refuse_nothing)
    assert len(receiver.received.requests) == 1
    otlp._backoff.succeeded()
    await otlp.write(batch, refuse_nothing)
    assert len(receiver.received.requests) == 3
    times = {point.time_unix_nano for _, _, point in receiver.received.points()}
    assert len(receiver.received.points()) == 27_000
    assert len(times) == 3
    await otlp.close()


async def test_a_receiver_is_asked_again_when_it_wants_to_be(receiver: GrpcReceiver | HttpReceiver) -> None:
    """On a clock of our own: not a second is waited."""
    clock = 100.0
    otlp = sink(receiver, Backoff(clock=lambda: clock))
    batch = batch_of(scrape())
    receiver.received.answers.append(SLOW_DOWN)
    with pytest.raises(SinkUnavailable) as away:
        await otlp.write(batch, refuse_nothing)
    assert away.value.retry_after_s == 40
    clock += 39
    with pytest.raises(SinkUnavailable):
        await otlp.write(batch, refuse_nothing)
    assert receiver.received.asked == 1
    clock += 1
    await otlp.write(batch, refuse_nothing)
    assert len(receiver.received.requests) == 1
    await otlp.close()


async def test_the_one_record_that_is_refused_goes_to_the_dead_letters_and_its_neighbours_arrive(
    bus: Bus, receiver: GrpcReceiver | HttpReceiver
) -> None:
    receiver.received.judge = lambda request: INVALID if b"poison" in request.SerializeToString() else Answer()
    bad = scrape(3, {'redis.keys.count{db.namespace="poison"}': 1.0})
    await bus.put(scrape(0), scrape(1), scrape(2), bad, scrape(4))
    otlp = sink(receiver)
    async with bus.running(otlp, bus.prefix):
        await bus.committed_up_to(bus.prefix, METRICS, 5)
    assert [(letter.offset, letter.reason) for letter in await bus.letters()] == [(3, "failed")]
    values = [point.as_double for name, _, point in receiver.received.points() if name == "redis.commands"]
    assert sorted(values) == [1000, 1001, 1002, 1004]
    assert otlp.counts.refused == 1


async def test_a_wrong_password_holds_the_data_instead_of_losing_it(receiver: GrpcReceiver | HttpReceiver) -> None:
    receiver.received.answers.append(UNAUTHENTICATED)
    otlp = sink(receiver)
    with pytest.raises(SinkUnavailable, match="check the endpoint"):
        await otlp.write(batch_of(scrape()), refuse_nothing)
    await otlp.close()


async def test_points_that_the_receiver_dropped_are_counted(receiver: GrpcReceiver | HttpReceiver) -> None:
    receiver.received.answers.append(Answer(rejected=2))
    otlp = sink(receiver)
    await otlp.write(batch_of(scrape()), refuse_nothing)
    assert (otlp.counts.sent, otlp.counts.rejected) == (3, 2)
    await otlp.close()


async def test_bytes_that_are_no_record_and_series_that_are_none_go_to_the_dead_letters(
    bus: Bus, receiver: GrpcReceiver | HttpReceiver
) -> None:
    await bus.put_bytes(METRICS, b"\x00", Scrape.type)
    ill = scrape(1).model_copy(update={"series": "no series{", "values": (1.0,)})
    await bus.put(ill, scrape(1))
    async with bus.running(sink(receiver), bus.prefix):
        await bus.committed_up_to(bus.prefix, METRICS, 3)
    letters = await bus.letters()
    assert [(letter.offset, letter.reason) for letter in letters] == [(0, "invalid"), (1, "invalid")]
    assert "no series{" in letters[1].detail
    assert len(receiver.received.points()) == 3


async def test_security_events_stay_in_the_house() -> None:
    assert "events.security.v1" not in Otlp.topics
    assert {topic.name for topic in (METRICS, LOGS, SPANS, CHANGES, OPERATIONS, DETECTIONS, INCIDENTS)} == set(
        Otlp.topics
    )


def test_an_endpoint_that_is_missing_is_named_with_the_mend() -> None:
    estate = Estate.model_validate({"cells": [{"name": "eu1", "tenants": [{"name": "acme"}]}]})
    with pytest.raises(ValueError, match="PILOTHOUSE_OTLP_ENDPOINT"):
        make(Context({}, estate, lambda reference, _: str(reference), lambda: 0.0))


def batch_of(*records: Record) -> Batch:
    messages = [
        Message(
            topic_of(one).name, 0, offset, RECORDED_MS, None, [], b"", Received(Envelope("t", offset, RECORDED_MS), one)
        )
        for offset, one in enumerate(records)
    ]
    return Batch(messages, {}, {})


async def refuse_nothing(message: Message, rejected: Any) -> None:
    raise AssertionError(f"{message.offset} was refused: {rejected.detail}")
