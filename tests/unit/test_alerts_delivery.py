"""Webhooks to receivers that lie, hang, lead inside or ask for too much: real servers on loopback, no Kafka."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.estate import Route
from schemas.records import Cause, Incident, Phase, Severity
from sinks.alerts import Alerts, Config, Gone
from sinks.alerts_delivery import Delivery, PrivateAddressError, Resolver, Undelivered, Verdict, verdict
from sinks.alerts_news import Notification
from sinks.alerts_route import checked_key, checked_url
from sinks.backoff import RETRY_AFTER_S_MIN, Backoff, retry_after_s
from sinks.sink import SinkUnavailable

KEY = "whsec_" + base64.b64encode(b"a secret of twenty-four!").decode()
SECRET_PATH = "/T0KEN/B0X"
ROUTE = Route(name="on-call", url="-")
INSIDE = ROUTE.model_copy(update={"allow_private": True})

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[int]:
    """A server on loopback; its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def request(reader: asyncio.StreamReader) -> bytes:
    """A request's head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head + await reader.readexactly(length)


def answering(answer: bytes, asked: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            got = await request(reader)
            if asked is not None:
                asked.append(got)
            writer.write(answer)
            await writer.drain()

    return serve


def alerts(port: int, backoff: Backoff | None = None, **config: Any) -> Alerts:
    url = f"http://127.0.0.1:{port}{SECRET_PATH}"
    return Alerts(INSIDE, url, KEY, {}, time.time, Config(**config), backoff or Backoff(clock=Clock()))


def news(title: str = "Redis answers slowly", name: str = "inc-1", **more: Any) -> Notification:
    causes = (Cause(cause="redis.latency:valkey-eu1", probability=1.0),)
    given: dict[str, Any] = {"causes": causes, "tenants": ("acme",), **more}
    one = Incident(
        cell="eu1",
        time_ms=1,
        id=name,
        version=1,
        phase=Phase.OPEN,
        started_ms=1,
        severity=Severity.WARNING,
        title=title,
        **given,
    )
    return Notification(Phase.OPEN, one)


# What an answer means.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401, 403, 404, 405, 407, 415, 421, 426, 431, 451])
async def test_what_is_no_fault_of_the_alert_holds_it_and_says_what_to_mend(status: int) -> None:
    answer = f"HTTP/1.1 {status} x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".encode()
    asked: list[bytes] = []
    async with served(answering(answer, asked)) as port:
        sink = alerts(port)
        with pytest.raises(SinkUnavailable, match=r"Check its|final url") as away:
            await sink._tell(news())
        await sink.close()
    assert len(asked) == 1
    assert away.value.retry_after_s >= RETRY_AFTER_S_MIN
    assert (sink.counts.misconfigured, sink.counts.refused) == (1, 0)
    assert "T0KEN" not in str(away.value)


@pytest.mark.parametrize("status", [400, 409, 413, 422])
async def test_an_alert_is_refused_at_once_only_by_a_receiver_that_took_the_one_before(status: int) -> None:
    clock, statuses = Clock(), iter([status, 200, status, status])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(f"HTTP/1.1 {next(statuses)} x\r\nContent-Length: 0\r\n\r\n".encode())

    async with served(serve) as port:
        sink = alerts(port, Backoff(clock=clock))
        with pytest.raises(SinkUnavailable):
            await sink._tell(news())
        clock.now_s += 60
        await sink._tell(news())
        with pytest.raises(Gone):
            await sink._tell(news(name="inc-2"))
        with pytest.raises(SinkUnavailable):
            await sink._tell(news(name="inc-3"))
        await sink.close()


def test_every_status_has_a_meaning() -> None:
    meanings = {status: verdict(status) for status in range(100, 1000)}
    assert {status for status, one in meanings.items() if one is Verdict.TAKEN} == set(range(200, 300))
    assert {status for status, one in meanings.items() if one is Verdict.GONE} == {410}
    assert {status for status, one in meanings.items() if one is Verdict.REFUSED} == {400, 409, 413, 422}
    assert all(meanings[status] is Verdict.FAILED for status in (500, 501, 505, 599, 600, 999, 100))


# When it is asked again.

HOSTILE_DATES = (
    "Sat, 21 Nov 2026 05:00:30 +99999999999999",
    "Sat, 21 Nov 1026 05:00:30 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Sat, 21 Nov 0000 05:00:30 GMT",
    "Sat, 21 Nov 2026 99:00:30 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
)
WISHES = (
    *HOSTILE_DATES, "0", "-5", "1e9", "nan", "NaN", "inf", "-inf", "0.0001", "9" * 5_000, "9" * 60, "１２", "²", "", " ", "soon", "0x10", "+1", "1_0",
    "1,2",
)  # fmt: skip


@pytest.mark.parametrize("wish", WISHES)
async def test_no_wish_of_a_receiver_has_it_asked_at_once_or_never(wish: str) -> None:
    clock = Clock()
    backoff = Backoff(clock=clock, draw=lambda: 0.0)
    pause_s = backoff.failed(retry_after_s({"Retry-After": wish, "Date": "Sat, 21 Nov 2026 05:00:00 GMT"}))
    assert 0.5 <= pause_s <= 3600
    assert backoff.remaining_s() == pause_s
    if wish in ("0", "9" * 60):
        assert pause_s in (1.0, 3600.0)


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_header_is_read(wish: str, date: str) -> None:
    found = retry_after_s({"Retry-After": wish, "Date": date})
    assert found is None or found >= 0


@given(st.floats())
def test_any_pause_that_is_wanted_is_bounded(wanted_s: float) -> None:
    assert 0.5 <= Backoff(clock=Clock()).failed(wanted_s) <= 3600


async def test_a_receiver_that_wants_to_be_asked_at_once_is_asked_once_a_second() -> None:
    asked: list[bytes] = []
    clock = Clock()
    async with served(answering(b"HTTP/1.1 429 x\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n", asked)) as port:
        sink = alerts(port, Backoff(clock=clock))
        for _ in range(200):
            with pytest.raises(SinkUnavailable) as away:
                await sink._tell(news())
            assert away.value.retry_after_s > 0
            clock.now_s += 0.05
        await sink.close()
    assert len(asked) <= 10 + 1


# Where it leads.

INSIDE_URLS = (
    "http://127.0.0.1/x", "http://127.1.2.3:99/x", "http://10.0.0.1/x", "http://192.168.0.1/x", "http://172.20.0.1/x", "http://0.0.0.0/x",
    "http://169.254.169.254/latest", "http://100.64.1.1/x", "http://224.0.0.1/x", "http://255.255.255.255/x", "http://[::1]/x", "http://[::]/x",
    "http://[::ffff:127.0.0.1]/x", "http://[::ffff:a9fe:a9fe]/x", "http://[64:ff9b::7f00:1]/x", "http://[fe80::1]/x", "http://[fd00:ec2::254]/x",
    "http://[ff02::1]/x", "http://[2002:7f00:1::]/x", "http://localhost/x", "http://LOCALHOST:80/x", "http://a.localhost./x",
)  # fmt: skip


@pytest.mark.parametrize("url", INSIDE_URLS)
def test_an_address_inside_is_refused_unless_the_route_allows_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"route on-call: its url leads to .*; .*allow_private: true"):
        checked_url(ROUTE, url)
    assert checked_url(INSIDE, url).host


@pytest.mark.parametrize(
    "url",
    [
        "https://user:pw@x.example/T0KEN", "https://user@x.example/T0KEN", "https://[::1/T0KEN", f"https://{'x' * 64}.example/T0KEN",
        "https://x.example:99999/T0KEN", "https://127.1/T0KEN", "ftp://x.example/T0KEN", "T0KEN", "https://x example/T0KEN", "https://☃.☃☃/T0KEN",
    ],
)  # fmt: skip
@pytest.mark.parametrize("route", [ROUTE, INSIDE])
def test_a_url_that_cannot_work_is_told_with_the_route_and_without_itself(url: str, route: Route) -> None:
    with pytest.raises(ValueError, match="route on-call: its url") as refused:
        checked_url(route, url)
    assert "T0KEN" not in str(refused.value)
    assert "pw" not in str(refused.value)


class Names:
    """A name server: each look-up has the next answer, the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, host: str, port: int, family: int) -> list[Any]:
        self.asked += 1
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [entry for address in found for entry in socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)]


async def test_a_name_that_leads_inside_is_not_connected_to() -> None:
    asked: list[bytes] = []
    async with served(answering(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n", asked)) as port:
        for address in ("127.0.0.1", "::ffff:127.0.0.1"):
            sink = Alerts(
                ROUTE, f"http://hooks.example:{port}{SECRET_PATH}", KEY, {}, time.time, backoff=Backoff(clock=Clock())
            )
            sink._delivery._resolver = Resolver(False, Names([address]))
            with pytest.raises(SinkUnavailable, match=r"leads to a loopback address.*allow_private: true") as away:
                await sink._tell(news())
            assert (sink.counts.private, sink.counts.sent) == (1, 0)
            assert "T0KEN" not in str(away.value)
            await sink.close()
        assert asked == []
        sink = Alerts(INSIDE, f"http://hooks.example:{port}{SECRET_PATH}", KEY, {}, time.time)
        sink._delivery._resolver = Resolver(True, Names(["127.0.0.1"]))
        await sink._tell(news())
        await sink.close()
    assert len(asked) == 1


async def test_a_name_is_looked_up_once_for_a_connection_and_what_was_judged_is_connected_to() -> None:
    """A name server that answers with the world first and with this machine then."""
    asked: list[bytes] = []
    async with served(answering(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n", asked)) as port:
        names = Names(["192.0.0.1"], ["127.0.0.1"])
        names.answers[0] = ["93.184.216.34"]
        resolver = Resolver(False, names)
        assert [one["host"] for one in await resolver.resolve("hooks.example", port)] == ["93.184.216.34"]
        assert names.asked == 1
        delivery = Delivery(f"http://hooks.example:{port}/", False, 5.0, resolver)
        with pytest.raises(Undelivered, match="loopback"):
            await delivery.post({}, b"{}")
        assert names.asked == 2
        await delivery.close()
    assert asked == []


async def test_of_mixed_addresses_only_those_outside_are_left() -> None:
    resolver = Resolver(False, Names(["10.0.0.1", "93.184.216.34", "::1", "2606:2800:220:1::1"]))
    assert {one["host"] for one in await resolver.resolve("hooks.example", 443)} == {
        "93.184.216.34",
        "2606:2800:220:1::1",
    }
    with pytest.raises(PrivateAddressError):
        await Resolver(False, Names([])).resolve("hooks.example", 443)


async def test_a_name_server_that_hangs_or_lies_holds_up_nobody() -> None:
    release = threading.Event()
    asked = 0

    def hang(host: str, port: int, family: int) -> list[Any]:
        nonlocal asked
        asked += 1
        release.wait(30)
        return []

    resolver = Resolver(False, hang)
    delivery = Delivery("http://hooks.example/", False, 0.1, resolver)
    try:
        for _ in range(5):
            with pytest.raises(Undelivered):
                await delivery.post({}, b"{}")
        assert asked == 1  # one look-up at a time
    finally:
        release.set()
        await delivery.close()

    def refuse(host: str, port: int, family: int) -> list[Any]:
        raise UnicodeError("label too long")

    delivery = Delivery("http://hooks.example/", False, 5.0, Resolver(False, refuse))
    with pytest.raises(Undelivered, match="looked up"):
        await delivery.post({}, b"{}")
    await delivery.close()


# What it does to us.

HOSTILE_ANSWERS = {
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200_000,
    "a header of megabytes": b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 4_000_000 + b"\r\n\r\n",
    "no http": b"220 mail.example ESMTP\r\n\r\n",
    "a status of many digits": b"HTTP/1.1 2000000 OK\r\n\r\n",
    "lengths that differ": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "nothing": b"",
    "bytes": bytes(range(256)) * 10,
    "only intermediate answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
}


@pytest.mark.parametrize("answer", HOSTILE_ANSWERS.values(), ids=HOSTILE_ANSWERS)
async def test_an_answer_that_is_none_costs_a_try_and_nothing_else(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(answer)
        await writer.drain()

    async with served(serve) as port:
        sink = alerts(port, timeout_s=2.0)
        with pytest.raises(SinkUnavailable) as away:
            await sink._tell(news())
        await sink.close()
    assert "T0KEN" not in str(away.value)
    assert sink.counts.failed_tries == 1


@pytest.mark.parametrize(
    "head", ["Content-Length: 1000000000000", "Transfer-Encoding: chunked", "Content-Encoding: gzip\r\nX: y"]
)
async def test_the_body_of_an_answer_is_not_read(head: str) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request(reader)
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
        while sent < 50_000_000:
            writer.write(b"ff\r\n" + b"x" * 255 + b"\r\n")
            sent += 255
            await writer.drain()

    async with served(serve) as port:
        sink = alerts(port, timeout_s=5.0)
        await sink._tell(news())
        await sink.close()
    assert sink.counts.sent == 1
    assert sent < 20_000_000


async def test_cookies_are_not_kept_and_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    asked: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: track=me; Path=/\r\nContent-Length: 0\r\n\r\n"
    async with served(answering(answer, asked)) as port:
        sink = alerts(port)
        await sink._tell(news())
        await sink._tell(news(name="inc-2"))
        await sink.close()
    assert len(asked) == 2
    assert b"cookie" not in asked[1].lower()


async def test_a_receiver_that_hangs_is_let_go_of_at_once_when_the_sink_is_cancelled() -> None:
    came = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        came.set()
        await asyncio.sleep(60)

    async with served(serve) as port:
        sink = alerts(port, timeout_s=600.0)
        telling = asyncio.create_task(sink._tell(news()))
        await came.wait()
        telling.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await telling
            await sink.close()


async def test_an_id_that_would_not_fit_into_a_header_and_a_body_that_is_too_large_are_made_to_fit() -> None:
    asked: list[bytes] = []
    async with served(answering(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n", asked)) as port:
        sink = alerts(port)
        await sink._tell(news(name="ü" * 250))
        await sink._tell(news(signals=tuple(f"signal-{number}-{'x' * 200}" for number in range(5_000))))
        await sink.close()
    assert all(len(line) < 4096 for line in asked[0].partition(b"\r\n\r\n")[0].split(b"\r\n"))
    assert len(asked[1]) < 256 * 1024
    assert b'"cut":true' in asked[1]
    assert b'"id":"inc-1"' in asked[1]
    assert sink.counts.cut == 1


# Whether others can sign in our name.


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("whsec_", "has 0 bytes"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "has 23 bytes, fewer than 24"),
        ("whsec_" + base64.b64encode(b"a" * 32).decode(), "repeats itself"),
        ("whsec_" + base64.b64encode(bytes(32)).decode(), "repeats itself"),
        ("whsec_" + base64.b64encode(b"changeme" * 4).decode(), "repeats itself"),
        ("whsec_" + base64.b64encode(b"0123456789" * 3).decode(), "repeats itself"),
        ("whsec_" + base64.b64encode(b"aaaaaaaaaaaaaaaaaaaaaaaab").decode(), "repeats itself|different bytes"),
        ("whsec_" + base64.b64encode(bytes(range(32))).decode(), "row of numbers"),
        ("whsec_AAAA", "has 3 bytes"),
        ("whsec_s3cret!", "must be whsec_ and then base64"),
        ("s3cret-that-a-person-thought-of", "must be whsec_ and then base64"),
    ],
)
def test_a_key_that_can_be_guessed_is_refused_with_the_remedy_and_without_itself(secret: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"route on-call: its secret .*({says}).*openssl rand -base64 32") as refused:
        checked_key(ROUTE, secret)
    assert secret.removeprefix("whsec_")[:12] not in str(refused.value) or secret == "whsec_"


def test_random_keys_are_taken_padded_or_not() -> None:
    for length in range(24, 65):
        key = os.urandom(length)
        encoded = base64.b64encode(key).decode()
        assert checked_key(ROUTE, f"whsec_{encoded}") == checked_key(ROUTE, encoded.rstrip("=")) == key
    assert checked_key(ROUTE, "") is None
