"""`pilothouse explain` on a real Kafka: a story as the steps tell it, asked by the ids of its signals and its incident."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from typer.testing import CliRunner, Result

from pilothouse.cli import app
from processors.fold import PartitionFold, Plan
from processors.steps.registry import STEPS
from schemas.calendar import ALWAYS_OPEN
from schemas.codec import Envelope, Received
from schemas.records import Heartbeat, Incident, Record, Scrape, Signal
from schemas.topics import DETECTIONS, INCIDENTS, INPUTS, METRICS
from tests.support.bus import Bus

LOOKS = 60
ILL = range(40, 50)
CAUSE = "redis.latency:valkey-eu1"


class Story:
    """A slow Redis, folded through every step."""

    def __init__(self, start_ms: int) -> None:
        self.scrapes = [self._scrape(start_ms + number * 2_000, number) for number in range(LOOKS)]
        fold, self.found = PartitionFold(Plan(tuple(STEPS.values()))), list[Record]()
        for number, scrape in enumerate(self.scrapes):
            fold.feed(0, 2 * number, Received(Envelope("test", number, scrape.time_ms), scrape))
            for topic in range(len(INPUTS)):
                beat = Heartbeat(publisher="test", time_ms=scrape.time_ms + 1)
                told = fold.feed(topic, 2 * number + 1 if topic == 0 else number, beat)
                self.found += [one.record for one in told]
        self.signals = [one for one in self.found if isinstance(one, Signal) and one.cause == CAUSE]
        self.incidents = [one for one in self.found if isinstance(one, Incident)]

    def _scrape(self, at_ms: int, number: int) -> Scrape:
        ping = 0.9 if number in ILL else 0.001 + number % 3 * 0.0001
        return Scrape.of(
            {"redis.ping.duration": ping}, cell="eu1", resource="valkey-eu1", system="redis", time_ms=at_ms
        )


@pytest.fixture(scope="module")
def story() -> Story:
    return Story(int(time.time()) // 60 * 60_000 - 1_800_000)


@pytest.fixture
async def bus(kafka: str, story: Story) -> AsyncIterator[Bus]:
    async with Bus(kafka, METRICS, DETECTIONS, INCIDENTS) as bus:
        await bus.put(*story.scrapes, *story.found)
        yield bus


async def run(bus: Bus, *arguments: str) -> Result:
    environ = {"PILOTHOUSE_KAFKA": bus.kafka["bootstrap_servers"], "PILOTHOUSE_TOPIC_PREFIX": bus.prefix}
    return await asyncio.to_thread(CliRunner().invoke, app, ["explain", *arguments], env=environ)


async def test_a_signal_is_explained_with_what_was_measured_around_it(bus: Bus, story: Story) -> None:
    result = await run(bus, story.signals[0].id, "-o", "json")
    assert result.exit_code == 0, result.stderr
    made = json.loads(result.stdout)
    assert made["cause"] == CAUSE
    assert made["evidence"][0]["value"] == 0.9
    assert made["evidence"][0]["distance"] > 7
    assert made["calendar_phase"] == ALWAYS_OPEN.at(story.signals[0].time_ms).phase
    (measured,) = made["measured"]
    assert measured["before"]["median"] < 0.01 < measured["during"]["max"] == 0.9
    assert [one["phase"] for one in made["told"]] == [one.phase for one in story.signals if one.id == made["id"]]
    assert [one["id"] for one in made["incidents"]] == [story.incidents[0].id]
    assert made["method"]["limits"]
    assert (await run(bus, made["id"][:8], "-o", "json")).stdout == result.stdout


async def test_an_incident_is_explained_with_its_signals_and_causes(bus: Bus, story: Story) -> None:
    result = await run(bus, story.incidents[0].id)
    assert result.exit_code == 0, result.stderr
    assert "100%  redis.latency:valkey-eu1" in result.stdout
    assert story.signals[0].id in result.stdout
    assert "redis.ping.duration of valkey-eu1" in result.stdout


async def test_a_second_telling_of_the_same_changes_nothing(bus: Bus, story: Story) -> None:
    once = await run(bus, story.signals[0].id)
    await bus.put(*story.found)
    assert (await run(bus, story.signals[0].id)).stdout == once.stdout


async def test_what_the_log_has_dropped_is_said(bus: Bus, story: Story) -> None:
    client = AIOKafkaAdminClient(**bus.kafka)
    await client.start()
    place = TopicPartition(bus.name(METRICS), 0)
    try:
        await client.delete_records({place: RecordsToDelete(before_offset=LOOKS - 5)})
    finally:
        await client.close()
    made = json.loads((await run(bus, story.signals[0].id, "-o", "json")).stdout)
    assert any("the log has dropped a part of the metrics" in note for note in made["notes"])


async def test_an_id_that_nobody_told_is_a_finding_and_a_broker_that_is_away_is_unreachable(bus: Bus) -> None:
    unknown = await run(bus, "e")
    assert unknown.exit_code == 1
    assert "no signal or incident 'e' stands in the log" in unknown.stderr
    empty = {"PILOTHOUSE_KAFKA": bus.kafka["bootstrap_servers"], "PILOTHOUSE_TOPIC_PREFIX": "nowhere."}
    elsewhere = await asyncio.to_thread(CliRunner().invoke, app, ["explain", "e"], env=empty)
    assert elsewhere.exit_code == 3
    assert "topic nowhere.signals.detections.v1 is not on the broker" in elsewhere.stderr
    environ = {"PILOTHOUSE_KAFKA": "127.0.0.1:1"}
    away = await asyncio.to_thread(CliRunner().invoke, app, ["explain", "e"], env=environ)
    assert away.exit_code == 3
    assert "no broker answers at 127.0.0.1:1" in away.stderr
