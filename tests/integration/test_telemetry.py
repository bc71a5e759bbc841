"""What our own programs count reaches an OTLP receiver under the catalogue's names."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from pilothouse import telemetry
from pilothouse.settings import Settings
from schemas.metrics import BY_NAME
from sinks import alerts, otlp
from sinks.context import Task
from sinks.sink import Config, Counts
from tests.support.otlp_receiver import GrpcReceiver, HttpReceiver


class Quiet:
    name = "quiet"
    topics = ()


def counted() -> Task:
    return Task(Quiet(), Config(), Counts(records=7, rejected=2))  # type: ignore[arg-type] # it is never run


@pytest.mark.parametrize("kind", [GrpcReceiver, HttpReceiver])
async def test_counts_are_told_once_more_at_the_end(
    kind: Callable[[], GrpcReceiver | HttpReceiver], tmp_path: Path
) -> None:
    async with kind() as receiver:
        settings = Settings(data_dir=tmp_path, cache_dir=tmp_path, otlp_endpoint=receiver.endpoint)

        def run() -> None:
            with telemetry.reporting(settings, "sink", "sink-0", lambda: telemetry.of_sinks([counted()])):
                pass

        await asyncio.to_thread(run)
        told = {name: attributes for name, attributes, _ in receiver.received.points()}
    assert {"pilothouse.sink.records", "pilothouse.sink.rejected"} <= told.keys()
    assert told["pilothouse.sink.records"]["pilothouse.sink.name"] == "quiet"


async def test_counts_reach_an_ipv6_address_too(tmp_path: Path) -> None:
    class OnIpv6(GrpcReceiver):
        host = "[::1]"

    class HttpOnIpv6(HttpReceiver):
        host = "[::1]"

    for kind in (OnIpv6, HttpOnIpv6):
        async with kind() as receiver:
            assert "[::1]" in receiver.endpoint
            settings = Settings(data_dir=tmp_path, cache_dir=tmp_path, otlp_endpoint=receiver.endpoint)

            def run(settings: Settings = settings) -> None:
                with telemetry.reporting(settings, "sink", "sink-0", lambda: telemetry.of_sinks([counted()])):
                    pass

            await asyncio.to_thread(run)
            assert receiver.received.points()


def test_nothing_is_told_without_an_endpoint(tmp_path: Path) -> None:
    def never() -> list[telemetry.Reading]:
        raise AssertionError

    with telemetry.reporting(Settings(data_dir=tmp_path, cache_dir=tmp_path), "sink", None, never):
        pass


def test_every_count_of_sinks_and_workers_stands_in_the_catalogue() -> None:
    assert {one.name for one in telemetry.of_sinks([counted()])} <= BY_NAME.keys()
    assert len(fields(Counts)) == len(list(telemetry.of_sinks([counted()])))
    for kind, own in (("alerts", alerts.Counts()), ("otlp", otlp.Counts())):
        task = counted()
        task.sink.name, task.sink.counts = f"{kind}.on-call", own  # type: ignore[attr-defined]
        told = {one.name for one in telemetry.of_sinks([task])}
        assert {f"pilothouse.sink.{kind}.{one.name}" for one in fields(own)} <= told <= BY_NAME.keys()
    known = (
        "records",
        "duplicates",
        "late",
        "failed",
        "signals",
        "incidents",
        "units_dropped",
        "sources_forgotten",
        "expired",
        "topics_anew",
    )
    readings = list(telemetry.of_worker(Counter({**dict.fromkeys(known, 1), "rejected_invalid": 3})))
    assert {one.name for one in readings} <= BY_NAME.keys()
    assert telemetry.Reading("pilothouse.worker.rejected", 3, {"pilothouse.reason": "invalid"}) in readings
