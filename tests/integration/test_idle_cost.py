"""What a cell costs in which nothing happens, over all programs."""

from __future__ import annotations

import asyncio

import pytest

from pilothouse.settings import Settings
from tests.support.house import running

SECONDS = 30


@pytest.mark.alone
async def test_an_idle_cell_writes_at_most_twenty_records_a_second_to_kafka(embedded_settings: Settings) -> None:
    async with running(embedded_settings, is_idle=True) as one:
        await asyncio.sleep(10)
        before = await one.written_to_kafka()
        await asyncio.sleep(SECONDS)
        after = await one.written_to_kafka()
    assert 7 * SECONDS * 0.5 < after - before <= 20 * SECONDS, "seven topics are beaten on, and little else is written"
