"""`pilothouse silence` on a real Kafka: what a person says stands in the log, and the steps find it there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from typer.testing import CliRunner, Result

from pilothouse.cli import app
from schemas.topics import OPERATIONS
from tests.support.bus import Bus


@pytest.fixture
async def bus(kafka: str) -> AsyncIterator[Bus]:
    async with Bus(kafka, OPERATIONS) as bus:
        yield bus


async def run(bus: Bus, *arguments: str) -> Result:
    environment = {"PILOTHOUSE_KAFKA": bus.kafka["bootstrap_servers"], "PILOTHOUSE_TOPIC_PREFIX": bus.prefix}
    return await asyncio.to_thread(CliRunner().invoke, app, ["silence", *arguments], env=environment)


async def test_a_silence_is_listed_until_somebody_ends_it(bus: Bus) -> None:
    said = await run(
        bus, "add", "--cell", "eu1", "--cell", "us1", "--cause", "postgresql.lock:acme", "--for", "2h",
        "--reason", "month end, known", "--author", "ada", "-o", "json",
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    added = json.loads(said.stdout)
    listed = json.loads((await run(bus, "list", "-o", "json")).stdout)
    assert listed == added
    assert [(one["cell"], one["cause"], one["author"]) for one in listed] == [
        ("eu1", "postgresql.lock:acme", "ada"),
        ("us1", "postgresql.lock:acme", "ada"),
    ]
    ended = await run(bus, "end", added[0]["id"], "--author", "bob")
    assert (ended.exit_code, ended.stdout.count("ended by bob")) == (0, 2)
    assert (await run(bus, "list")).stdout == "nothing is silenced\n"
    again = await run(bus, "end", added[0]["id"])
    assert (again.exit_code, "silence list" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--cause", "storage", "--for", "soon"), "write 90m, 2h or 3d"),
        (("--cause", "storage", "--for", "400d"), "at most 90d"),
        (("--for", "2h",), "names a cause or a tenant"),
        (("--cause", "", "--for", "2h"), "cause"),
    ],
)  # fmt: skip
def test_a_silence_that_cannot_be_is_misuse(arguments: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(
        app, ["silence", "add", "--cell", "eu1", "--reason", "r", *arguments], env={"PILOTHOUSE_KAFKA": "127.0.0.1:1"}
    )
    assert result.exit_code == 2
    assert says in result.stderr
