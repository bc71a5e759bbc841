"""Whose fault it is that OTLP is not taken: real receivers on loopback that are set up wrong, fail, lie and hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest as Request
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse as Response

from schemas.codec import Envelope, Received
from schemas.estate import Estate
from schemas.records import Scrape
from sinks.backoff import Backoff
from sinks.context import Context
from sinks.otlp import Config, Otlp, make
from sinks.otlp_transport import (
    Away,
    Kind,
    Misconfigured,
    Refused,
    Taken,
    _retry_info_s,
    checked_headers,
    connect,
    place,
)
from sinks.sink import Batch, Message, SinkUnavailable

Judge = Callable[[bytes], tuple[Any, str]]
"""A status or code, and a message, for a request's body."""


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class HttpReceiver:
    """Answers as `judge` says, and keeps the bodies of what it took."""

    def __init__(self, judge: Judge, **more: Any) -> None:
        self.judge, self.more, self.taken, self.asked = judge, more, [], 0

    async def __aenter__(self) -> HttpReceiver:
        application = web.Application(client_max_size=2**25)
        application.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.asked += 1
        body = await request.read()
        status, text = self.judge(body)
        if 200 <= status < 300:
            self.taken.append(body)
        return web.Response(status=status, body=text.encode("latin-1"), **self.more)


class GrpcReceiver:
    """The same by gRPC, on IPv6 where it is asked for."""

    def __init__(self, judge: Judge, host: str = "127.0.0.1", answer: bytes = b"") -> None:
        self.judge, self.host, self.answer, self.taken, self.asked = judge, host, answer, [], 0

    async def __aenter__(self) -> GrpcReceiver:
        receiver = self

        class Handler(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc is not typed
            def service(self, details: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(receiver._take)

        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers([Handler()])
        port = self._server.add_insecure_port(f"{self.host}:0")
        await self._server.start()
        self.endpoint = f"grpc://{self.host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def _take(self, body: bytes, context: Any) -> bytes:
        self.asked += 1
        code, text = self.judge(body)
        if code is not grpc.StatusCode.OK:
            await context.abort(code, text)
        self.taken.append(body)
        return self.answer


OK = {HttpReceiver: 200, GrpcReceiver: grpc.StatusCode.OK}
INVALID = {HttpReceiver: 400, GrpcReceiver: grpc.StatusCode.INVALID_ARGUMENT}
FAILING = {HttpReceiver: 500, GrpcReceiver: grpc.StatusCode.INTERNAL}
TOO_LARGE = {HttpReceiver: 413, GrpcReceiver: grpc.StatusCode.RESOURCE_EXHAUSTED}
KINDS = pytest.mark.parametrize("kind", [HttpReceiver, GrpcReceiver], ids=["http", "grpc"])


class Sender:
    """A sink, driven as the consuming loop does it, on a clock of its own."""

    def __init__(self, endpoint: str, *names: str, **config: Any) -> None:
        self.clock, self.letters, self.reasons = Clock(), [], []
        self.sink = Otlp(Config(endpoint, compress=False, timeout_s=5.0, **config), Backoff(clock=self.clock))
        self.batch = Batch([_message(number, name) for number, name in enumerate(names)], {}, {})

    async def until_taken(self, rounds: int = 400) -> None:
        for _ in range(rounds):
            if await self.once():
                return
        raise AssertionError(f"not taken: {self.reasons[-1]}")

    async def once(self) -> bool:
        try:
            await self.sink.write(self.batch, self._refuse)
        except SinkUnavailable as away:
            self.reasons.append(str(away))
            self.clock.now_s += away.retry_after_s
            return False
        return True

    async def _refuse(self, message: Message, rejected: Any) -> None:
        self.letters.append(message.offset)


def _message(number: int, name: str) -> Message:
    scrape = Scrape.of(
        {f"redis.{name}": 1.0}, cell="eu1", resource="r", system="redis", time_ms=1_790_000_000_000 + number
    )
    return Message("telemetry.metrics.v1", 0, number, 1, None, [], b"", Received(Envelope("t", number, 1), scrape))


def poison(bad: Any, good: Any) -> Judge:
    return lambda body: (bad, "as the test wants it") if b"poison" in body else (good, "")


def series(receiver: Any) -> list[str]:
    """The metrics that it took."""
    return [
        metric.name
        for body in receiver.taken
        for group in Request.FromString(body).resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
    ]


# The endpoint's fault.

MISCONFIGURED = [
    *[(HttpReceiver, status) for status in (301, 302, 307, 308, 401, 403, 404, 405, 406, 407, 410, 411, 415, 418, 421, 426, 431, 451)],
    *[
        (GrpcReceiver, getattr(grpc.StatusCode, code))
        for code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND", "FAILED_PRECONDITION", "ALREADY_EXISTS")
    ],
]  # fmt: skip


@pytest.mark.parametrize(("kind", "status"), MISCONFIGURED)
async def test_what_the_endpoint_is_to_blame_for_holds_the_data_and_names_the_remedy(kind: Any, status: Any) -> None:
    answers = [status] * 5
    async with kind(lambda body: (answers.pop() if answers else OK[kind], "no")) as receiver:
        sender = Sender(receiver.endpoint, "a", "b")
        await sender.until_taken()
        await sender.sink.close()
    assert sender.letters == []
    assert all("check the endpoint, its path and the headers" in one for one in sender.reasons)
    assert sender.sink.counts.misconfigured == 5
    assert (receiver.asked, sorted(series(receiver))) == (6, ["redis.a", "redis.b"])


@KINDS
@pytest.mark.parametrize("taken_before", [False, True])
async def test_an_endpoint_that_refuses_everything_costs_no_record(kind: Any, taken_before: bool) -> None:
    is_wrong = not taken_before
    async with kind(
        lambda body: (INVALID[kind], "plain HTTP to a TLS port") if is_wrong else (OK[kind], "")
    ) as receiver:
        sender = Sender(receiver.endpoint, *"abcdefgh")
        if taken_before:
            await sender.until_taken()
            is_wrong, sender.batch = True, Batch([*sender.batch.messages], {}, {})
        for _ in range(50):
            assert not await sender.once()
        assert receiver.asked < 150  # no storm of halves at each try
        is_wrong = False
        await sender.until_taken()
        await sender.sink.close()
    assert sender.letters == []
    assert sorted(series(receiver))[-1] == "redis.h"
    assert len(series(receiver)) == (16 if taken_before else 8)


@KINDS
async def test_a_receiver_that_fails_for_hours_loses_nothing_and_is_not_flooded(kind: Any) -> None:
    is_failing = True
    # It has nothing to store of an empty request, so it does not fail at one.
    async with kind(lambda body: (FAILING[kind], "disk full") if is_failing and body else (OK[kind], "")) as receiver:
        sender = Sender(receiver.endpoint, *"abcdefgh")
        for _ in range(300):
            assert not await sender.once()
        assert receiver.asked <= 301
        assert sender.clock.now_s > 1000 + 3600
        is_failing = False
        await sender.until_taken()
        await sender.sink.close()
    assert sender.letters == []
    assert sorted(series(receiver)) == [f"redis.{name}" for name in "abcdefgh"]


@KINDS
async def test_a_limit_below_every_request_is_the_endpoints(kind: Any) -> None:
    is_low = True
    async with kind(lambda body: (TOO_LARGE[kind], "quota") if is_low and body else (OK[kind], "")) as receiver:
        sender = Sender(receiver.endpoint, *"abcd")
        for _ in range(10):
            assert not await sender.once()
        assert "raise its limit" in sender.reasons[-1]
        is_low = False
        await sender.until_taken()
        await sender.sink.close()
    assert sender.letters == []
    assert len(series(receiver)) == 4


# The data's fault.


@KINDS
@pytest.mark.parametrize("at", range(4))
async def test_the_one_record_that_is_refused_is_found_wherever_it_stands(kind: Any, at: int) -> None:
    names = [*"abcd"]
    names[at] = "poison"
    async with kind(poison(INVALID[kind], OK[kind])) as receiver:
        sender = Sender(receiver.endpoint, *names)
        await sender.until_taken(rounds=1)
        await sender.sink.close()
    assert sender.letters == [at]
    assert len(series(receiver)) == 3


@KINDS
async def test_a_batch_of_one_bad_record_is_refused_by_an_endpoint_that_takes_empty_requests(kind: Any) -> None:
    async with kind(poison(INVALID[kind], OK[kind])) as receiver:
        sender = Sender(receiver.endpoint, "poison")
        await sender.until_taken(rounds=1)
        await sender.sink.close()
    assert (sender.letters, sender.sink.counts.probes) == ([0], 1)


@KINDS
@pytest.mark.parametrize("at", range(4))
async def test_where_empty_requests_are_refused_neighbours_prove_it(kind: Any, at: int) -> None:
    names = [*"abcd"]
    names[at] = "poison"
    async with kind(lambda body: (OK[kind], "") if body and b"poison" not in body else (INVALID[kind], "")) as receiver:
        sender = Sender(receiver.endpoint, "first")
        await sender.until_taken()
        sender.batch = Batch([_message(number, name) for number, name in enumerate(names)], {}, {})
        await sender.until_taken(rounds=1)
        await sender.sink.close()
    assert sender.letters == [at]
    assert len(series(receiver)) == 4


@KINDS
@pytest.mark.parametrize("at", range(4))
async def test_the_one_record_at_which_a_receiver_fails_gives_way_to_the_others(kind: Any, at: int) -> None:
    names = [*"abcd"]
    names[at] = "poison"
    async with kind(poison(FAILING[kind], OK[kind])) as receiver:
        sender = Sender(receiver.endpoint, *names)
        await sender.until_taken(rounds=40)
        await sender.sink.close()
    assert sender.letters == [at]
    assert len(series(receiver)) == 3


@KINDS
async def test_what_failed_before_the_receiver_was_mended_is_taken_after(kind: Any) -> None:
    is_failing = True
    async with kind(lambda body: (FAILING[kind], "") if is_failing and body else (OK[kind], "")) as receiver:
        sender = Sender(receiver.endpoint, *"abcd")
        while not any(type(one).__name__ == "Suspect" for one in sender.sink._todo):
            assert not await sender.once()
        is_failing = False
        await sender.until_taken()
        await sender.sink.close()
    assert sender.letters == []
    assert len(series(receiver)) == 4


@KINDS
async def test_a_record_that_nothing_proves_guilty_is_held_for_a_day(kind: Any) -> None:
    async with kind(poison(FAILING[kind], OK[kind])) as receiver:
        sender = Sender(receiver.endpoint, "poison")
        while sender.clock.now_s < 1000 + 23 * 3600:
            assert not await sender.once()
            sender.clock.now_s += 600
        await sender.until_taken()
        await sender.sink.close()
    assert sender.letters == [0]


async def test_a_record_that_is_too_large_for_good_goes_to_the_dead_letters() -> None:
    async with HttpReceiver(lambda body: (413, "") if len(body) > 300 else (200, "")) as receiver:
        sender = Sender(receiver.endpoint, "a", "b" * 240, "c", small_bytes=300)
        await sender.until_taken(rounds=1)
        await sender.sink.close()
    assert sender.letters == [1]
    assert sorted(series(receiver)) == ["redis.a", "redis.c"]


# An answer of 2xx.


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
@pytest.mark.parametrize("text", ["", "{}", "<html>", "\xff" * 100_000, "x" * 3_000_000])
async def test_any_2xx_is_taken_whatever_else_it_says(status: int, text: str) -> None:
    if status == 204 and text:
        pytest.skip("it has no body")
    async with HttpReceiver(lambda body: (status, text)) as receiver:
        sender = Sender(receiver.endpoint, "a")
        await sender.until_taken(rounds=1)
        await sender.sink.close()
    assert len(receiver.taken) == 1
    assert sender.sink.counts.unread == bool(text)


async def test_an_answer_that_cannot_be_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with HttpReceiver(lambda body: (200, "\xff\xff")) as receiver:
        sender = Sender(receiver.endpoint, "a")
        for _ in range(3):
            sender.batch = Batch([*sender.batch.messages], {}, {})
            await sender.until_taken(rounds=1)
        await sender.sink.close()
    assert [record.message for record in caplog.records].count(
        "receiver takes requests with answers that cannot be read"
    ) == 1
    assert sender.sink.counts.unread == 3


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(answer: bytes, then: Serve | None = None) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            writer.write(answer)
            await writer.drain()
            if then:
                await then(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def _garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.1)  # the head is read by then
    writer.write(b"zz\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("answer", "then"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", _hang),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", _garble),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope", None),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nContent-Length: 4\r\n\r\nnope", None),
    ],
    ids=["torn", "hanging", "garbled", "no gzip", "no zstd"],
)
async def test_a_2xx_whose_body_does_not_come_is_taken_and_not_sent_again(answer: bytes, then: Serve | None) -> None:
    async with served(answer, then) as endpoint:
        transport = connect(endpoint, {}, 0.5, False)
        taken = await transport.export(Kind.METRICS, b"")
        await transport.close()
    assert taken == Taken(0, "", is_read=False)


async def test_an_ok_with_a_huge_answer_is_taken_and_one_with_garbage_too() -> None:
    for answer in (b"x" * 5_000_000, b"\xff\xff"):
        async with GrpcReceiver(lambda body: (grpc.StatusCode.OK, ""), answer=answer) as receiver:
            transport = connect(receiver.endpoint, {}, 5, False)
            assert await transport.export(Kind.METRICS, b"") == Taken(0, "", is_read=False)
            await transport.close()


async def test_what_a_receiver_says_it_dropped_is_bounded_and_fit_for_a_log() -> None:
    lie = Response()
    lie.partial_success.rejected_data_points = 10**15
    lie.partial_success.error_message = "password=hunter2\x1b[2J\n" + "x" * 10_000
    async with HttpReceiver(lambda body: (200, lie.SerializeToString().decode("latin-1"))) as receiver:
        sender = Sender(receiver.endpoint, "a")
        await sender.until_taken(rounds=1)
        await sender.sink.close()
    assert sender.sink.counts.rejected == 1
    lie.partial_success.rejected_data_points = -5
    taken = Kind.METRICS.taken(lie.SerializeToString())
    assert taken.rejected == 0
    assert "hunter2" not in taken.message
    assert len(taken.message) <= 500
    assert taken.message.isprintable()


async def test_what_a_receiver_says_of_an_error_is_bounded_and_fit_for_a_log() -> None:
    text = "Bearer s3cr3t-t0k3n \x1b[2J\r\n" + "é" * 100_000
    async with HttpReceiver(lambda body: (503, text)) as receiver:
        transport = connect(f"{receiver.endpoint}/T0KEN", {}, 5, False)
        with pytest.raises(Away) as away:
            await transport.export(Kind.METRICS, b"")
        await transport.close()
    assert len(str(away.value)) < 700
    assert "s3cr3t" not in str(away.value)
    assert "T0KEN" not in str(away.value)
    assert str(away.value).isprintable()


# When it wants to be asked again.


def _trailers(*details: Any) -> Any:
    packed = []
    for detail in details:
        one = AnyMessage()
        one.Pack(detail)
        packed.append(one)
    return (("grpc-status-details-bin", Status(details=packed).SerializeToString()),)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_any_retry_info_is_read_and_bounded(seconds: int, nanos: int) -> None:
    wanted_s = _retry_info_s(_trailers(RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos))))
    assert wanted_s is not None
    assert 0.5 <= Backoff(clock=Clock()).failed(wanted_s) <= 3600


@given(st.binary(max_size=200))
def test_details_of_any_bytes_are_read(garbage: bytes) -> None:
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.RetryInfo", value=garbage)
    for trailers in (
        (("grpc-status-details-bin", garbage),),
        (("x", garbage),),
        ((("grpc-status-details-bin", Status(details=[broken]).SerializeToString())),),
    ):
        found = _retry_info_s(trailers)
        assert found is None or isinstance(found, float)


# Where it is.


@pytest.mark.parametrize(
    ("endpoint", "address", "name"),
    [
        ("grpc://[::1]:4317", "[::1]:4317", "[::1]:4317"),
        ("grpcs://[2001:db8::1]", "[2001:db8::1]:4317", "[2001:db8::1]:4317"),
        ("http://[::1]", "http://[::1]:4318", "[::1]:4318"),
        ("http://[::1]:9090/api/otlp/", "http://[::1]:9090/api/otlp", "[::1]:9090"),
        ("https://otel.example:/x", "https://otel.example:4318/x", "otel.example:4318"),
        ("grpc://unix:4317", "unix:4317", "unix:4317"),
        ("grpc://Otel.Example/", "otel.example:4317", "otel.example:4317"),
        ("https://exämple.example", "https://xn--exmple-cua.example:4318", "xn--exmple-cua.example:4318"),
    ],
)
def test_an_endpoint_is_read(endpoint: str, address: str, name: str) -> None:
    found = place(endpoint)
    assert (found.address, found.name) == (address, name)


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("grpc://x:99999", "port"), ("grpc://x:0", "port"), ("grpc://[::1", "cannot be read"), ("http://", "names no host"),
        ("otel.example:4317", "begin with"), ("grpc://user:S3CRET@x", "holds a password"), ("http://x/?key=S3CRET", "holds a query"),
        ("grpc://x/S3CRET", "holds a path"), ("http://x/v1/metrics", "end it before"), (f"grpc://{'x' * 64}", "at most 63"),
        ("http://x\r\n/S3CRET", "control characters"), ("ftp://S3CRET", "begin with"),
    ],
)  # fmt: skip
def test_an_endpoint_that_cannot_work_is_refused_at_start_and_not_shown(endpoint: str, says: str) -> None:
    estate = Estate.model_validate({"cells": [{"name": "eu1", "tenants": [{"name": "acme"}]}]})
    with pytest.raises(ValueError, match=says) as refused:
        make(Context({}, estate, lambda reference, _: "", lambda: 0.0, otlp_endpoint=endpoint))
    assert "S3CRET" not in str(refused.value)
    assert "OTLP endpoint" in str(refused.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer S3CRET\r\nx: y"}, {"authorization": "S3CRET\x00"}, {"authorization": "S3CRETé"}, {"a b": "S3CRET"}, {"": "S3CRET"},
        {"a:b": "S3CRET"}, {"host": "S3CRET"}, {"Content-Type": "S3CRET"}, {"grpc-timeout": "S3CRET"}, {"key-bin": "S3CRET"},
        {"long": "S3CRET" * 5_000}, {f"h{number}": "S3CRET" for number in range(65)}, {"transfer-encoding": "S3CRET"}, {"x\n": "S3CRET"},
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_sent_is_refused_at_start_and_its_value_is_not_shown(headers: dict[str, str]) -> None:
    estate = Estate.model_validate({"cells": [{"name": "eu1", "tenants": [{"name": "acme"}]}]})
    with pytest.raises(ValueError, match="PILOTHOUSE_OTLP_HEADERS") as refused:
        make(Context({}, estate, lambda reference, _: "", lambda: 0.0, otlp_endpoint="grpc://x", otlp_headers=headers))
    assert "S3CRET" not in str(refused.value)


def test_headers_that_can_be_sent_are_taken() -> None:
    assert checked_headers({"Authorization": "Bearer t0k=n", "X-Scope-OrgID": "1"}) == {
        "authorization": "Bearer t0k=n",
        "x-scope-orgid": "1",
    }


async def test_grpc_reaches_an_ipv6_address_and_asks_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for host in ("[::1]", "127.0.0.1"):
        async with GrpcReceiver(lambda body: (grpc.StatusCode.OK, ""), host=host) as receiver:
            transport = connect(receiver.endpoint, {"authorization": "x"}, 5, True)
            assert await transport.export(Kind.LOGS, b"") == Taken(0, "")
            await transport.close()


async def test_http_keeps_no_cookie_and_asks_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    cookies = []

    async def take(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("cookie"))
        return web.Response(headers={"Set-Cookie": "a=b"})

    receiver = HttpReceiver(lambda body: (200, ""))
    receiver._take = take  # type: ignore[method-assign, assignment]
    async with receiver:
        transport = connect(receiver.endpoint.replace("127.0.0.1", "localhost"), {}, 5, False)
        for _ in range(2):
            await transport.export(Kind.LOGS, b"")
        await transport.close()
    assert cookies == [None, None]


async def test_what_is_no_http_is_a_receiver_that_is_away() -> None:
    for answer in (
        b"220 smtp\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000,
        b"HTTP/1.1 99999 x\r\n\r\n",
    ):
        async with served(answer) as endpoint:
            transport = connect(endpoint, {}, 5, False)
            with pytest.raises(Away) as away:
                await transport.export(Kind.METRICS, b"")
            assert not isinstance(away.value, Misconfigured | Refused)
            await transport.close()


@KINDS
async def test_a_receiver_that_hangs_is_let_go_of_at_once_when_the_sink_is_cancelled(kind: Any) -> None:
    came = asyncio.Event()

    class Hanging(kind):  # type: ignore[misc, valid-type] # either of the two
        async def _take(self, *_: Any) -> Any:
            came.set()
            await asyncio.sleep(5)

    async with Hanging(lambda body: (OK[kind], "")) as receiver:
        sender = Sender(receiver.endpoint, "a")
        writing = asyncio.create_task(sender.once())
        await came.wait()
        writing.cancel()
        async with asyncio.timeout(4):
            with pytest.raises(asyncio.CancelledError):
                await writing
            await sender.sink.close()
