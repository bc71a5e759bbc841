"""Every sink can be made from an estate and the settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from pilothouse import programs
from pilothouse.settings import from_env
from schemas import topics
from schemas.estate import Estate
from sinks.context import Context
from sinks.registry import SINKS, run

ESTATE = Estate.model_validate(
    {
        "cells": [{"name": "eu1", "tenants": [{"name": "acme"}]}],
        "routes": [{"name": name, "url": f"https://{name}.example/hook"} for name in ("dba", "platform")],
    }
)


def context(**more: str) -> Context:
    return Context({}, ESTATE, lambda value, _: str(value or ""), lambda: 0.0, **more)


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_reads_governed_topics_under_its_own_name(name: str) -> None:
    tasks = SINKS[name](context(database_url="postgresql://db/x", otlp_endpoint="grpc://otel:4317"))
    assert tasks
    for task in tasks:
        assert task.sink.name.startswith(name)
        assert set(task.sink.topics) <= set(topics.BY_NAME)


def test_alerts_are_a_sink_and_a_group_for_each_route() -> None:
    tasks = SINKS["alerts"](context())
    assert [task.sink.name for task in tasks] == ["alerts.dba", "alerts.platform"]
    assert len({task.config.group for task in tasks}) == 2


def test_a_host_that_can_be_no_name_is_said_of_its_route_alone() -> None:
    long = Estate.model_validate(
        {
            "cells": [{"name": "eu1", "tenants": [{"name": "acme"}]}],
            "routes": [
                {"name": "dba", "url": f"https://{'a' * 64}.example/hook"},
                {"name": "platform", "url": "https://platform.example/hook"},
            ],
        }
    )
    parts = SINKS["alerts"].parts(replace(context(), estate=long))
    with pytest.raises(ValueError, match="route dba: its url must be https://host/path"):
        parts["alerts.dba"]()
    assert parts["alerts.platform"]().name == "alerts.platform"


@pytest.mark.parametrize(
    ("name", "variable"), [("otlp", "PILOTHOUSE_OTLP_ENDPOINT"), ("timescale", "PILOTHOUSE_DATABASE_URL")]
)
def test_what_is_missing_is_named(name: str, variable: str) -> None:
    with pytest.raises(ValueError, match=variable):
        SINKS[name](context())


async def test_without_routes_a_sink_waits_to_be_stopped() -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(run([], {}, stop))
    await asyncio.sleep(0)
    assert not running.done()
    stop.set()
    await running


def test_a_process_of_which_no_sink_can_be_made_says_what_each_needs(tmp_path: Path) -> None:
    settings = from_env({"PILOTHOUSE_DATA": str(tmp_path), "PILOTHOUSE_KAFKA": "kafka:9092"})
    with pytest.raises(programs.NotConfigured, match=r"PILOTHOUSE_DATABASE_URL.*PILOTHOUSE_OTLP_ENDPOINT"):
        programs.sink(["timescale", "otlp"], ESTATE, settings)
