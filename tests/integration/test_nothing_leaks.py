"""Secrets are planted in every place where one can come in, and looked for in every place where something comes out.

The programs run as they do in production, as processes on a real Kafka and a real PostgreSQL. What is read: standard output
and error of every verb, all topics with their headers, every table of the store, every file of the data directory, the
arguments of all processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import asyncpg
import psutil
import pytest
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from pilothouse.broker import partitions
from pilothouse.services.child import free_port
from pilothouse.services.stack import STORE, Stack
from schemas.codec import Envelope, encode
from schemas.records import OperationsEvent
from schemas.topics import DEAD_LETTERS, LOGS, OPERATIONS, TOPICS
from tests.support.canaries import Canaries

SYSTEMS = {
    "postgresql": "postgresql://u:{}@127.0.0.1:1/acme",
    "odoo": "postgresql://u:{}@127.0.0.1:1/acme",
    "redis": "redis://u:{}@127.0.0.1:1/0",
    "odoo_health": "http://u:{}@127.0.0.1:1/web/health",
    "tls": "tls://u:{}@127.0.0.1:1",
}
CELL = {"name": "eu1", "tenants": [{"name": "acme"}]}


def estate(directory: Path, resources: list[dict[str, Any]], **more: Any) -> Path:
    directory.mkdir(exist_ok=True)
    written = {"cells": [{**CELL, "resources": resources}], **more}
    (directory / "estate.yaml").write_text(yaml.safe_dump(written, allow_unicode=True), encoding="utf-8")
    return directory


def resource(system: str, name: str, url: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "system": system, "url": url, "tenant": "acme", "interval_s": 0.5, "timeout_s": 3, **more}


@dataclass
class Outside:
    """What came out, by where."""

    canaries: Canaries
    out: dict[str, bytes]

    async def run(self, what: str, *arguments: str, environ: dict[str, str]) -> int:
        """A verb to its end, as a process."""
        process = await start(arguments, environ)
        self.out[f"{what}: pilothouse {' '.join(arguments)}"] = await end(process)
        return process.returncode or 0

    def leaks(self) -> list[str]:
        return [f"{where}: {one}" for where, text in self.out.items() for one in self.canaries.found(text)]


async def start(arguments: tuple[str, ...], environ: dict[str, str]) -> asyncio.subprocess.Process:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pilothouse",
        *arguments,
        env={**kept, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def end(process: asyncio.subprocess.Process) -> bytes:
    """What a process said until its end, to which it is brought after 45 s."""
    assert process.stdout
    reading = asyncio.ensure_future(process.stdout.read())
    await asyncio.wait([reading], timeout=45)
    if not reading.done():
        process.kill()
    out = await reading
    await process.wait()
    return out


def lines_of_odoo(canaries: Canaries) -> str:
    """What Odoo and its addons write, each with a secret of its own."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]

    def one(place: str) -> str:
        return str(canaries.at(f"log: {place}", "-"))

    bodies = [
        f"connection to postgresql://odoo:{canaries.at('log: a url', '/#')}@db/acme failed",
        f"POST /web?access_token={one('a query')} HTTP/1.1 200",
        f"Authorization: Bearer {one('a bearer')}",
        f"{{'password': '{one('a dict')}'}}",
        f"smtp_pass={one('an option')}",
        f"bad query: SELECT * FROM res_users WHERE password = '{one('a statement')}'",
        f"ERROR: duplicate key\nDETAIL:  Key (token)=({one('a detail')}) already exists.\nLINE 1: UPDATE x SET api_key='{one('a line')}'",
        f"Login failed for db:acme login:token={one('a login')} from 10.0.0.1",
        f'Traceback (most recent call last):\n  File "x.py", line 1, in y\nValueError: secret_key={one("a traceback")}',
        f"https://hooks.slack.com/services/T0/B0/{one('a webhook')}",
        f"whsec_{one('a key')}",
        f"known {canaries.at('odoo 0')} and {canaries.at('odoo 0').encoded} of the estate",
    ]
    plain = [f"{now} 4711 ERROR acme odoo.sql_db: {body}" for body in bodies]
    return "\n".join([*plain, f"{now} 4711 INFO acme odoo.addons.sale: the end", ""])


def json_lines_of_odoo(canaries: Canaries) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
    bodies = [
        f"password={canaries.at('json log: a value', '-')}",
        f"https://u:{canaries.at('json log: a url', '-')}@x.example/",
        json.dumps({"token": str(canaries.at("json log: nested", '"'))}),
    ]
    row = {"asctime": now, "levelname": "ERROR", "name": "odoo.x", "process": 1, "dbname": "acme"}
    return "".join(json.dumps({**row, "message": body}) + "\n" for body in bodies) + json.dumps(row) + "\n"


async def poison(kafka: str, prefix: str, canaries: Canaries) -> None:
    """What somebody else writes to our topics."""
    topic = prefix + OPERATIONS.name
    event = OperationsEvent(
        cell="eu1",
        time_ms=now_ms(),
        resource="x",
        system="x",
        name="x.y",
        body=f"token={canaries.at('kafka: an event', '-')}",
    )
    well = encode(event, Envelope("somebody", 1, now_ms()))
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for value, key, headers in (
            (f"\xff password={canaries.at('kafka: no json', '-')}".encode("latin-1"), b"eu1", well.headers),
            (
                well.value[:-1] + b',"x":"Bearer ' + str(canaries.at("kafka: a field", "-")).encode() + b'"}',
                b"eu1",
                well.headers,
            ),
            (b"{}", f"password={canaries.at('kafka: a key', '-')}".encode(), well.headers),
            (
                b"{}",
                b"eu1",
                [*well.headers, ("authorization", f"Bearer {canaries.at('kafka: a header', '-')}".encode())],
            ),
            (b"{}", b"eu1", [("ce_type", f"token={canaries.at('kafka: a type', '-')}".encode())]),
            (f"it was {canaries.at('redis')} and {canaries.at('otlp header').encoded}".encode(), b"eu1", well.headers),
        ):
            await producer.send_and_wait(topic, value, key, headers=headers, partition=0)


async def all_topics(kafka: str, prefix: str) -> bytes:
    """Every record of every topic, as it stands there; what others put there in our test is theirs."""
    known = await partitions({"bootstrap_servers": kafka}, [prefix + topic.name for topic in TOPICS])
    found: list[bytes] = []
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as reader:
        places = [TopicPartition(name, number) for name, numbers in known.items() for number in numbers]
        reader.assign(places)
        left = {place: end for place, end in (await reader.end_offsets(places)).items() if end}
        for place in left:
            reader.seek(place, 0)
        while left:
            for place, messages in (await reader.getmany(timeout_ms=500)).items():
                for one in messages:
                    if ("ce_source", b"somebody") in one.headers or any(
                        name == "ce_type" and b"=" in text for name, text in one.headers
                    ):
                        continue
                    found.append(
                        b"\n".join([place.topic.encode(), one.key or b"", one.value or b"", repr(one.headers).encode()])
                    )
            left = {place: end for place, end in left.items() if await reader.position(place) < end}
    return b"\n".join(found)


async def all_tables(url: str) -> bytes:
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        rows = [str(dict(row)) for name in names for row in await connection.fetch(f"SELECT * FROM {name['name']}")]
    finally:
        await connection.close()
    return "\n".join(rows).encode()


def arguments() -> bytes:
    """Command lines of all processes, as every user of the machine may read them."""
    found: list[str] = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            found += one.cmdline()
    return "\n".join(found).encode()


def now_ms() -> int:
    return round(datetime.now(UTC).timestamp() * 1000)


@pytest.fixture
def outside() -> Outside:
    return Outside(Canaries(), {})


async def test_no_planted_secret_comes_out_of_programs_that_run(
    outside: Outside, stack: Stack, kafka: str, database_url: str, tmp_path: Path
) -> None:
    canaries, prefix, port = outside.canaries, f"leaks-{uuid4().hex[:8]}.", free_port()
    environ = {
        "PILOTHOUSE_KAFKA": kafka,
        "PILOTHOUSE_TOPIC_PREFIX": prefix,
        "PILOTHOUSE_PARTITIONS": "1",
        "PILOTHOUSE_DATABASE_URL": database_url,
        "PILOTHOUSE_REDIS_URL": f"redis://u:{canaries.at('redis').encoded}@127.0.0.1:1/0",
        "PILOTHOUSE_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "PILOTHOUSE_OTLP_HEADERS": f"authorization=Bearer%20{canaries.at('otlp header').encoded},x-scope={canaries.at('otlp other').encoded}",
        "PILOTHOUSE_DATA": str(tmp_path / "data"),
    }
    environ["K_EVENTS"], environ["K_CHANGE"], environ["K_GITHUB"] = (
        canaries.key(f"key {name}") for name in ("events", "change", "github")
    )
    environ["R_KEY"] = canaries.key("route key")
    environ["R_URL"] = f"https://127.0.0.1:1/services/T0/B0/{canaries.at('route url', '-')}"
    logs = {"plain": tmp_path / "odoo.log", "json": tmp_path / "odoo.json"}
    resources = [
        resource("odoo_log", f"log-{name}", path.as_uri(), options={"ship": "all", "start": "beginning"})
        for name, path in logs.items()
    ]
    for system, url in SYSTEMS.items():
        for number in range(6):
            name = f"{system} {number}"
            variable = f"U_{system}_{number}".upper()
            environ[variable] = url.format(canaries.at(name).encoded)
            resources.append(resource(system, f"{system}-{number}", {"env": variable}))
    # Servers that answer, and say of a wrong password what they say.
    wrong = database_url.partition("@")[2]
    environ["U_WRONG"] = f"postgresql://odoo:{canaries.at('wrong password').encoded}@{wrong}"
    resources.append(resource("postgresql", "wrong-pg", {"env": "U_WRONG"}))
    valkey = stack.valkey[STORE].url.rpartition("@")[2].removeprefix("redis://")
    environ["U_WRONG_R"] = f"redis://odoo:{canaries.at('wrong password of redis').encoded}@{valkey}"
    resources.append(resource("redis", "wrong-redis", {"env": "U_WRONG_R"}))
    config = estate(
        tmp_path / "estate",
        resources,
        receivers=[{"name": name, "keys": [{"env": f"K_{name.upper()}"}]} for name in ("events", "change", "github")],
        routes=[{"name": "ops", "url": {"env": "R_URL"}, "secret": {"env": "R_KEY"}, "allow_private": True}],
    )
    logs["plain"].write_text(lines_of_odoo(canaries), encoding="utf-8")
    logs["json"].write_text(json_lines_of_odoo(canaries), encoding="utf-8")

    assert await outside.run("check", "check", "-c", str(config), environ=environ) == 0
    verbs = (("ingest", "--port", str(port)), ("process",), ("sink", "timescale", "otlp", "alerts"))
    running = [await start((*verb, "-c", str(config)), environ) for verb in verbs]
    try:
        outside.out["answers of the receivers"] = await send(canaries, port, environ, running[0])
        await poison(kafka, prefix, canaries)
        await asyncio.sleep(6)
        outside.out["process list"] = arguments()
    finally:
        for one in running:
            if one.returncode is None:
                one.send_signal(signal.SIGTERM)
        for verb, one in zip(verbs, running, strict=True):
            outside.out[verb[0]] = await end(one)
    outside.out["topics"] = await all_topics(kafka, prefix)
    outside.out["store"] = await all_tables(database_url)
    for path in sorted((tmp_path / "data").rglob("*")):
        if path.is_file():
            outside.out[str(path)] = path.read_bytes()
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077 or is_closed(path, tmp_path), path
    tailed = [
        ("topics", "tail", topic.name, "--from-start", "-n", str(count), "-o", output)
        for topic, count in ((DEAD_LETTERS, 5), (OPERATIONS, 5), (LOGS, 1))
        for output in ("text", "json")
    ]
    secret = f"password={canaries.at('a silence', '-')}"
    silence = ("silence", "add", "--cell", "eu1", "--cause", "storage", "--for", "1h", "--reason", secret)
    explain = ("explain", f"token={canaries.at('an id', '-')}")
    await asyncio.gather(*(outside.run("then", *verb, environ=environ) for verb in (*tailed, silence, explain)))
    await outside.run("then", "silence", "list", "-o", "json", environ=environ)
    outside.out = {
        where.partition(": pilothouse silence add")[0].partition("token=")[0]: text
        for where, text in outside.out.items()
    }

    assert len(canaries.planted) >= 60
    assert b"dead" in outside.out["topics"], "the dead letters were written"
    assert outside.out["topics"].count(b"the end") >= 1
    own = [urlsplit(url).password or "" for url in (database_url, stack.valkey[STORE].url)]
    assert all(own)
    assert [where for where, text in outside.out.items() for one in own if one.encode() in text] == []
    assert outside.leaks() == []


def is_closed(path: Path, above: Path) -> bool:
    """Whether a folder on the way keeps others out."""
    return any(
        not stat.S_IMODE(one.stat().st_mode) & 0o077 for one in path.parents if one.is_relative_to(above / "data")
    )


async def send(canaries: Canaries, port: int, environ: dict[str, str], ingest: asyncio.subprocess.Process) -> bytes:
    """Requests of strangers and of those who hold a key."""
    url, event = (
        f"http://127.0.0.1:{port}",
        {"specversion": "1.0", "type": OperationsEvent.type, "source": "/edi", "id": "1"},
    )
    data = {
        "cell": "eu1",
        "time_ms": now_ms(),
        "resource": "gateway",
        "system": "edi",
        "name": "edi.x",
        "body": f"Bearer {canaries.at('body: a text', '-')}",
        "attributes": {
            "url": f"https://u:{canaries.at('body: a url', '-')}@x/",
            "edi.password": str(canaries.at("body: a named value", "-")),
        },
    }
    bodies = [
        [{**event, "data": data}],
        [
            {
                **event,
                "id": "2",
                "data": {**data, "severity_number": f"password={canaries.at('body: a wrong value', '-')}"},
            }
        ],
        [{**event, "id": "3", "data": {**data, f"token={canaries.at('body: a wrong key', '-')}": 1}}],
        [{**event, "id": "4", "data": {**data, "cell": f"token={canaries.at('body: a wrong cell', '-')}"}}],
        f"no json password={canaries.at('body: no json', '-')}",
    ]
    headers = {"authorization": f"Bearer {environ['K_EVENTS']}", "webhook-id": "1"}
    answers: list[str] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as client:
        async with asyncio.timeout(60):
            while ingest.returncode is None:
                try:
                    async with client.get(f"{url}/readyz") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.2)
        assert ingest.returncode is None, (await ingest.communicate())[0].decode()
        for number, body in enumerate(bodies):
            sent = body if isinstance(body, str) else json.dumps(body)
            more = {"webhook-id": f"password={canaries.at('header: an id', '-')}{number}"} if number else {}
            async with client.post(
                f"{url}/v1/events", data=sent, headers={**headers, **more, "content-type": "application/json"}
            ) as answer:
                answers.append(await answer.text())
        for name in ("authorization", "x-api-key", "cookie", "content-encoding", "content-type"):
            strange = {**headers, name: f"Bearer {canaries.at(f'header: {name}', '-')}"}
            async with client.post(f"{url}/v1/events", data="{}", headers=strange) as answer:
                answers.append(await answer.text())
        async with client.post(f"{url}/v1/token={canaries.at('path', '-')}", data="{}") as answer:
            answers.append(await answer.text())
    return "\n".join(answers).encode()
