"""Real servers for the tests: one broker, one PostgreSQL and one Valkey for the whole session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import redis.asyncio as redis_client
from hypothesis import settings

from pilothouse.services.stack import STORE, Stack
from pilothouse.settings import Settings, from_env
from schemas import masking

# A machine that is busy is no failure of what is tested.
settings.register_profile("pilothouse", deadline=None)
settings.load_profile("pilothouse")


@pytest.fixture(autouse=True)
def _secrets_are_forgotten() -> Iterator[None]:
    """What one test teaches `masked`, the next does not know."""
    known, by_gram = dict(masking._known), {gram: list(forms) for gram, forms in masking._by_gram.items()}
    yield
    for now, before in ((masking._known, known), (masking._by_gram, by_gram)):
        now.clear()
        now.update(before)  # type: ignore[arg-type]
    masking._label.cache_clear()


@pytest.fixture(scope="session")
def embedded_settings() -> Iterator[Settings]:
    """Everything embedded, in a directory of this session; the cache is the developer's own."""
    # Not pytest's tmp_path: under root its parents are closed to the user that PostgreSQL runs as.
    directory = Path(tempfile.mkdtemp(prefix="pilothouse-test-"))
    directory.chmod(0o711)
    kept = ("HOME", "PILOTHOUSE_CACHE", "PILOTHOUSE_KAFKA_JARS")
    environ = {name: os.environ[name] for name in kept if name in os.environ}
    yield from_env({**environ, "PILOTHOUSE_DATA": str(directory)})
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
async def stack(embedded_settings: Settings) -> AsyncIterator[Stack]:
    """The three servers, up. A test that stops one must start it again."""
    async with Stack(embedded_settings, postgres=[STORE], valkey=[STORE], open_kafka=True) as stack:
        yield stack


@pytest.fixture
def kafka(stack: Stack) -> str:
    """The broker as host:port. It is shared: a test names its topics and groups uniquely."""
    assert stack.kafka
    return stack.kafka.url


@pytest.fixture
async def database_url(stack: Stack) -> AsyncIterator[str]:
    """A fresh database of this test, dropped afterwards."""
    server = stack.postgres[STORE]
    name = f"test_{uuid4().hex}"
    await _execute(server.url, f"CREATE DATABASE {name}")
    yield server.database_url(name)
    await _execute(server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def redis_url(stack: Stack) -> str:
    """The Valkey, emptied."""
    url = stack.valkey[STORE].url
    async with redis_client.Redis.from_url(url) as client:
        await client.flushall()
    return url


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
