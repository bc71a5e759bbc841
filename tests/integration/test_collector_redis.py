"""The Redis collector at a real Valkey: what it tells, slow against dead, and what it does when it may not look."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis.asyncio as client

from ingest.collector import Collected, Target, Unavailable
from ingest.collectors.redis import PING_SHARE, Redis
from pilothouse.services.child import free_port
from pilothouse.services.stack import STORE, Stack
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.records import OperationsEvent, Scrape
from schemas.series import parse, split
from tests.support.collected import Observer, points, scrape
from tests.support.golden import GOLDEN, agrees

SECRET = "customer-4711"
NOW_MS = 1_795_000_000_000
SPIN = "local i = 0; while i < 3000000 do i = i + 1 end"  # some 20 ms of the server's only thread


@pytest.fixture
async def admin(redis_url: str) -> AsyncIterator[client.Redis]:
    async with client.Redis.from_url(redis_url) as connection:
        yield connection
        await connection.config_set("slowlog-log-slower-than", 10_000)
        await connection.config_set("latency-monitor-threshold", 0)


@asynccontextmanager
async def collector(url: str, timeout_s: float = 5.0, **options: Any) -> AsyncIterator[Observer]:
    resource = Resource(name="redis-eu1", system="redis", timeout_s=timeout_s, options=options)
    target = Target(Cell(name="eu1", tenants=(Tenant(name="acme"),), resources=(resource,)), resource, url)
    one = Observer(target, Redis(target))
    try:
        yield one
    finally:
        await one.close()


def events(collected: Collected, name: str) -> list[OperationsEvent]:
    return [record for record in collected.records if isinstance(record, OperationsEvent) and record.name == name]


def replaced(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


# What it tells


async def test_a_look_tells_the_catalogue(redis_url: str, admin: client.Redis) -> None:
    await admin.rpush("edi:in", 1, 2)
    async with collector(redis_url, queues=[{"key": "edi:in", "tenant": "acme"}]) as one:
        look = scrape(await one.collect(NOW_MS, None))
    agrees(shape(look), GOLDEN / "redis" / "look.txt")
    assert look.time_ms == NOW_MS


def shape(look: Scrape) -> str:
    """Kind and identity of each series; which commands the server has been asked differs."""
    series = [parse(one) for one in split(look.series)]
    lines = {
        f"{BY_NAME[one.name].kind} {one.name} {dict(one.attributes)}" for one in series if "command" not in one.name
    }
    return "".join(f"{line}\n" for line in sorted(lines))


async def test_queues_are_as_long_as_they_are_and_one_that_is_not_there_is_empty(
    redis_url: str, admin: client.Redis
) -> None:
    await admin.rpush("list", 1, 2, 3)
    await admin.xadd("stream", {"job": 1})
    await admin.zadd("later", {"a": 1, "b": 2})
    await admin.hset("hash", "a", 1)
    queues = [{"key": key} for key in ("list", "stream", "later", "none", "hash")]
    async with collector(redis_url, queues=queues) as one:
        collected = await one.collect(NOW_MS, None)
    found = points(collected)
    assert [found[f'redis.queue.length{{redis.key="{queue["key"]}"}}'] for queue in queues] == [3, 1, 2, 0, None]
    (told,) = events(collected, "collector.degraded")
    assert told.body == "redis-eu1: queue hash: it is a hash, which has no length. Declare a list or stream."


async def test_commands_are_timed_by_the_server_between_two_looks(redis_url: str, admin: client.Redis) -> None:
    async with collector(redis_url) as one:
        first = await one.collect(NOW_MS, None)
        await admin.eval(SPIN, 0)
        second = await one.collect(NOW_MS + 15_000, first.position)
        third = await one.collect(NOW_MS + 30_000, second.position)
    series = 'redis.command.duration{db.operation.name="EVAL"}'
    assert (points(second)[series] or 0) > 0.001
    assert points(third)[series] is None
    assert (points(second)["redis.commands"] or 0) > (points(first)["redis.commands"] or 0)


async def test_a_latency_spike_is_told(redis_url: str, admin: client.Redis) -> None:
    await admin.config_set("latency-monitor-threshold", 1)
    await admin.eval(SPIN, 0)
    async with collector(redis_url) as one:
        found = points(await one.collect(NOW_MS, None))
    assert (found['redis.latency.spike.max{redis.latency.event="command"}'] or 0) > 0.001


async def test_slow_commands_are_told_once_without_arguments_across_restarts(
    redis_url: str, admin: client.Redis
) -> None:
    await admin.config_set("slowlog-log-slower-than", 1_000)
    await admin.eval(SPIN, 0)
    async with collector(redis_url) as one:
        first = await one.collect(NOW_MS, None)
        await admin.eval(SPIN, 0, SECRET)
        second = await one.collect(NOW_MS + 15_000, first.position)
    await admin.eval(SPIN, 0)
    async with collector(redis_url) as heir:
        third = await heir.collect(NOW_MS + 30_000, second.position)
    told = [events(look, "redis.slowlog") for look in (first, second, third)]
    assert [len(ones) for ones in told] == [0, 1, 1]  # what was slow before anybody looked is not news
    assert told[1][0].attributes["db.operation.name"] == "EVAL"
    assert SECRET not in told[1][0].model_dump_json()
    counts = [points(look)["redis.slowlog.count"] or 0 for look in (first, second, third)]
    assert [counts[1] - counts[0], counts[2] - counts[1]] == [1, 1]


async def test_the_start_stays_until_the_counters_are_reset(redis_url: str, admin: client.Redis) -> None:
    looks: list[Collected] = []
    async with collector(redis_url) as one:
        for after_ms in (0, 15_500, 31_000):
            looks.append(await one.collect(NOW_MS + after_ms, looks[-1].position if looks else None))
            await admin.ping()
        await admin.config_resetstat()
        looks.append(await one.collect(NOW_MS + 45_000, looks[-1].position))
    starts = [scrape(look).start_time_ms for look in looks]
    assert starts[0] == starts[1] == starts[2]
    assert starts[3] == NOW_MS + 45_000


async def test_a_restart_of_the_server_moves_the_start(stack: Stack, redis_url: str) -> None:
    async with collector(redis_url) as one:
        before = await one.collect(NOW_MS, None)
        await stack.valkey[STORE].restart()
        later_ms = NOW_MS + 3_600_000
        with pytest.raises(Unavailable):
            await one.collect(later_ms, before.position)
        after = await one.collect(later_ms, before.position)
    start_ms = scrape(after).start_time_ms
    assert start_ms is not None
    assert later_ms - start_ms < 60_000
    assert after.position != before.position


# Slow is not dead


async def test_a_slow_answer_is_its_duration(redis_url: str, admin: client.Redis) -> None:
    async with collector(redis_url) as one:
        await one.collect(NOW_MS, None)
        await admin.client_pause(300)
        found = points(await one.collect(NOW_MS + 15_000, None))
    assert 0.2 < (found["redis.ping.duration"] or 0) < 4
    assert found["redis.commands"]


async def test_no_answer_in_time_on_an_open_connection_is_the_time_waited(redis_url: str, admin: client.Redis) -> None:
    async with collector(redis_url, timeout_s=0.25) as one:
        looks = [await one.collect(NOW_MS, None)]
        await admin.client_pause(700)
        looks += [await one.collect(NOW_MS + 1_000, None), await one.collect(NOW_MS + 2_000, None)]
        await admin.ping()  # answered when the pause is over
        looks.append(await one.collect(NOW_MS + 3_000, None))
    for look in looks[1:3]:  # on the open connection, then on one that is taken and left without an answer
        assert points(look) == {"redis.ping.duration": 0.25 * PING_SHARE}
        assert look.position is None
    assert [len(events(look, "collector.degraded")) for look in looks] == [0, 1, 0, 0]
    assert [len(events(look, "collector.restored")) for look in looks] == [0, 0, 0, 1]
    assert points(looks[3])["redis.commands"]


async def test_what_follows_the_ping_too_late_does_not_lose_the_ping() -> None:
    async with await asyncio.start_server(answer_pings_alone, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with collector(f"redis://127.0.0.1:{port}", timeout_s=0.3) as one:
            found = points(await one.collect(NOW_MS, None))
    assert list(found) == ["redis.ping.duration"]
    assert 0 < (found["redis.ping.duration"] or 0) < 0.3 * PING_SHARE


async def answer_pings_alone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while request := await reader.read(4096):
        writer.write(b"+PONG\r\n" if b"PING" in request else b"+OK\r\n" if b"CLIENT" in request else b"")
    writer.close()


async def test_a_server_that_takes_connections_and_never_speaks_is_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with collector(f"redis://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.2) as one:
            assert points(await one.collect(NOW_MS, None)) == {"redis.ping.duration": 0.2 * PING_SHARE}


async def test_a_port_that_nobody_listens_at_is_away() -> None:
    port = free_port()
    async with collector(f"redis://127.0.0.1:{port}") as one:
        with pytest.raises(Unavailable, match=f"redis-eu1: 127.0.0.1:{port}: .*Check that the server runs"):
            await one.collect(NOW_MS, None)


# When it may not look


async def test_a_wrong_password_is_named_with_the_mend(redis_url: str) -> None:
    async with collector(replaced(redis_url, "nobody", SECRET)) as one:
        with pytest.raises(Unavailable, match="Check user and password") as caught:
            await one.collect(NOW_MS, None)
    assert SECRET not in str(caught.value)


async def test_a_url_of_something_else_is_refused_with_the_right_form() -> None:
    with pytest.raises(ValueError, match="must read redis://"):
        async with collector("http://127.0.0.1"):
            pass


async def test_an_unknown_option_names_the_resource(redis_url: str) -> None:
    with pytest.raises(ValueError, match=r"resource redis-eu1: options: queues\.0\.key"):
        async with collector(redis_url, queues=[{"name": "x"}]):
            pass


async def test_without_a_grant_the_rest_is_measured_and_the_grant_is_named(redis_url: str, admin: client.Redis) -> None:
    await admin.acl_setuser("watcher", enabled=True, passwords=["+its-own"], commands=["+ping", "+info", "+client"])
    try:
        async with collector(replaced(redis_url, "watcher", "its-own")) as one:
            looks = [await one.collect(NOW_MS, None), await one.collect(NOW_MS + 15_000, None)]
            await admin.acl_setuser(
                "watcher",
                enabled=True,
                passwords=["+its-own"],
                commands=["+ping", "+info", "+client", "+latency", "+slowlog"],
            )
            looks.append(await one.collect(NOW_MS + 30_000, None))
    finally:
        await admin.acl_deluser("watcher")
    degraded = events(looks[0], "collector.degraded")
    assert {event.attributes["pilothouse.collector.part"] for event in degraded} == {"LATENCY LATEST", "SLOWLOG GET"}
    assert all("ACL SETUSER" in event.body for event in degraded)
    assert not events(looks[1], "collector.degraded")
    assert len(events(looks[2], "collector.restored")) == 2
    assert [points(look)["redis.slowlog.count"] is None for look in looks] == [True, True, False]
    assert points(looks[0])["redis.commands"]


async def test_a_look_that_was_given_up_leaves_no_answer_for_the_next(redis_url: str, admin: client.Redis) -> None:
    async with collector(redis_url) as one:
        await one.collect(NOW_MS, None)
        await admin.client_pause(300)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await one.collect(NOW_MS + 15_000, None)
        assert points(await one.collect(NOW_MS + 30_000, None))["redis.commands"]


async def test_everything_told_is_in_the_catalogue(redis_url: str) -> None:
    async with collector(redis_url) as one:
        found = points(await one.collect(NOW_MS, None))
    assert [series for series in found if parse(series).name not in BY_NAME] == []
