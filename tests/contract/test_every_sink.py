"""What every registered sink keeps, whatever happens: nothing is lost, nothing is doubled, nothing stops it.

A sink is here because it is registered. Its outside system stands in `tests/support/outside/NAME.py`. The lives that are drawn
are in `tests/support/sink_schedule.py`: rebalances in the middle of a fetch, outages after half of a batch was split and
stored, lost answers, redelivery, refusal, garbage, kills at any await, topics made anew, retention, silence, restarts.
"""

from __future__ import annotations

from importlib import import_module

import pytest

from schemas import topics
from sinks.registry import SINKS
from tests.support import virtual_time
from tests.support.outside.base import Outside
from tests.support.sink_schedule import live

LIVES = 1_000
CHUNK = 50


def outside_of(name: str) -> type[Outside]:
    """The system of a sink, in memory."""
    found: type[Outside] = import_module(f"tests.support.outside.{name}").Outside
    return found


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_declares_topics_of_the_catalogue_and_reads_no_others(name: str) -> None:
    assert SINKS[name].name == name
    assert set(SINKS[name].topics) <= topics.BY_NAME.keys()


@pytest.mark.parametrize("first", range(0, -(-LIVES // len(SINKS)), CHUNK))
@pytest.mark.parametrize("name", SINKS)
def test_a_drawn_life_loses_nothing_and_doubles_nothing(name: str, first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            virtual_time.run(live(SINKS[name], outside_of(name), seed))
        except BaseException as error:
            error.add_note(f"{name}, seed {seed}")
            raise
