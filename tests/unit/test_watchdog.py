"""The watchdog ends a worker that does not read what waits, and no other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from faust.types import TP

from processors.agents import Worker, _is_behind
from processors.fold import Plan
from processors.steps.registry import STEPS
from schemas.topics import METRICS

PLACE = TopicPartition(METRICS.name, 3)


class Probe:
    def __init__(self, begin: int, end: int) -> None:
        self._begin, self._end = begin, end

    async def beginning_offsets(self, places: Any) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, self._begin)

    async def end_offsets(self, places: Any) -> dict[TopicPartition, int]:
        if self._end < 0:
            raise ConnectionError("away")
        return dict.fromkeys(places, self._end)


class Runner:
    def __init__(self, next_offset: int | None) -> None:
        self._next = next_offset

    def next_offset(self, topic: int) -> int | None:
        return self._next


@pytest.mark.parametrize(
    ("runner", "committed", "begin", "end", "behind"),
    [
        (Runner(100), None, 0, 100, False),  # all is read and nothing comes: ingest is stopped
        (Runner(99), None, 0, 100, True),
        (Runner(None), 40, 0, 40, False),  # the snapshot was lost, what was committed is not read again
        (None, None, 0, 0, False),
        (None, None, 70, 70, False),  # everything has expired
        (None, None, 70, 71, True),
        (None, 70, 0, 71, True),
        (Runner(99), None, 0, -1, False),  # the broker is away
    ],
)
async def test_a_worker_is_behind_only_when_a_record_waits(
    runner: Any, committed: int | None, begin: int, end: int, behind: bool
) -> None:
    worker = Worker(Plan.of(STEPS.values()), {})
    if runner:
        worker.runners[PLACE.partition] = runner
    consumer = SimpleNamespace(assignment=lambda: {TP(*PLACE)}, _read_offset={TP(*PLACE): committed})
    assert await _is_behind(SimpleNamespace(consumer=consumer), [worker], Probe(begin, end)) is behind


async def test_what_waits_until_other_topics_have_caught_up_is_no_illness() -> None:
    worker = Worker(Plan.of(STEPS.values()), {})
    worker.runners[PLACE.partition] = Runner(99)  # type: ignore[assignment]
    worker.paused[PLACE.partition] = frozenset({worker.topics[METRICS.name]})
    consumer = SimpleNamespace(assignment=lambda: {TP(*PLACE)}, _read_offset={})
    assert not await _is_behind(SimpleNamespace(consumer=consumer), [worker], Probe(0, 100))
