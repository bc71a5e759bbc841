"""Every sink can be made from an estate and the settings."""

from __future__ import annotations

import asyncio

import pytest

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
