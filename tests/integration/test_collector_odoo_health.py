"""Odoo's health check, asked of a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ingest.collector import Collected, Target
from ingest.collectors.odoo_health import OdooHealth
from schemas.estate import Cell, Resource, Tenant
from schemas.records import OperationsEvent
from tests.support.collected import points

NOW_MS = 1_795_240_000_000


class Odoo:
    """Answers as it is told; hangs while `status` is None."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.asked: list[str] = []
        self.url = self.authorization = ""

    async def health(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        self.authorization = request.headers.get("Authorization", "")
        if self.status is None:
            await asyncio.Event().wait()
        return web.json_response({"status": "pass"}, status=self.status or 500)


@pytest.fixture
async def odoo() -> AsyncIterator[Odoo]:
    odoo = Odoo()
    app = web.Application()
    app.router.add_get("/web/health", odoo.health)
    async with TestServer(app, handler_cancellation=True) as server:
        odoo.url = str(server.make_url("/"))
        yield odoo


def target(url: str, timeout_s: float = 5, **options: object) -> Target:
    resource = Resource(name="web", system="odoo_health", tenant="acme", timeout_s=timeout_s, options=options)
    return Target(Cell(name="eu1", tenants=(Tenant(name="acme"),)), resource, url)


async def look(where: Target, position: str | None = None) -> Collected:
    collector = OdooHealth(where)
    try:
        return await collector.collect(NOW_MS, position)
    finally:
        await collector.close()


def events(collected: Collected) -> list[tuple[str, str]]:
    return [(record.name, record.body) for record in collected.records if isinstance(record, OperationsEvent)]


async def test_an_answer_of_200_is_up_with_its_duration(odoo: Odoo) -> None:
    collected = await look(target(odoo.url))
    found = points(collected)
    assert found['odoo.health.up{tenant.id="acme"}'] == 1
    assert 0 < (found['odoo.health.duration{tenant.id="acme"}'] or 0) < 5
    assert events(collected) == []
    assert odoo.asked == ["/web/health"]


async def test_an_answer_of_500_is_down_and_told_once(odoo: Odoo) -> None:
    odoo.status = 500
    first = await look(target(odoo.url))
    second = await look(target(odoo.url), first.position)
    assert [points(one)['odoo.health.up{tenant.id="acme"}'] for one in (first, second)] == [0, 0]
    assert events(first) == [("odoo.health.down", f"{odoo.url}web/health: HTTP 500")]
    assert events(second) == []


async def test_no_answer_within_the_time_is_down_without_a_duration(odoo: Odoo) -> None:
    odoo.status = None
    collected = await look(target(odoo.url, timeout_s=0.2))
    assert set(points(collected).values()) == {0.0, None}
    assert events(collected) == [("odoo.health.down", f"{odoo.url}web/health: no answer within 0.18 s")]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://nobody.invalid"])
async def test_a_refused_connection_and_an_unknown_name_are_down(url: str) -> None:
    collected = await look(target(url))
    assert set(points(collected).values()) == {0.0, None}
    assert [name for name, _ in events(collected)] == ["odoo.health.down"]


async def test_coming_back_is_told(odoo: Odoo) -> None:
    assert events(await look(target(odoo.url), "down")) == [("odoo.health.up", f"{odoo.url}web/health: HTTP 200")]


async def test_the_database_is_asked_for_when_the_estate_says_so(odoo: Odoo) -> None:
    await look(target(odoo.url, database=True))
    assert odoo.asked == ["/web/health?db_server_status=1"]


async def test_an_url_that_is_none_is_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match="must read https://HOST"):
        OdooHealth(target("odoo:8069"))


async def test_user_and_password_are_sent_and_never_told(odoo: Odoo) -> None:
    odoo.status = 500
    url = odoo.url.replace("http://", "http://watcher:hunter2%2Fcanary%23@")
    collected = await look(target(url))
    assert events(collected) == [("odoo.health.down", f"{odoo.url}web/health: HTTP 500")]
    assert odoo.authorization == "Basic d2F0Y2hlcjpodW50ZXIyL2NhbmFyeSM="
    assert "hunter2" not in repr(collected)


async def test_an_answer_that_is_no_http_is_down() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\xff\x00SSH-2.0 \r\n\r\n")
        writer.close()

    async with await asyncio.start_server(garbage, "127.0.0.1", 0) as server:
        collected = await look(target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert [name for name, _ in events(collected)] == ["odoo.health.down"]


async def test_a_position_of_something_else_is_as_good_as_none(odoo: Odoo) -> None:
    collected = await look(target(odoo.url), '{"x": 1}')
    assert (events(collected), collected.position) == ([], "up")
