"""Every scenario ends in one incident: the true cause first, the right tenants, the business at stake, closed when over."""

from __future__ import annotations

import pytest

from pilothouse.simulate.scenarios import SCENARIOS, Scene, play

AT_STAKE = {"S2", "S4"}  # those that hold documents up for longer than documents usually take
STAYS = {"S14", "S4"}  # a disk goes on filling; what workers left behind takes longer to clear than the story goes on
SLOWLY = {"S3"}  # its looks are a quarter of an hour apart, and so is its end from the renewal


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_one_story(estate: Scene, name: str) -> None:
    _, scored = play(estate, name)
    told = [(one.cause, one.title) for one in scored.alerts]
    assert scored.is_right, told
    if scored.wanted is None:
        return
    assert scored.right_cause, told
    assert scored.right_tenants, [one.tenants for one in scored.alerts]
    assert name in STAYS | SLOWLY or (scored.closed_since_end and scored.closed is not False)
    assert name not in SLOWLY or scored.alerts[0].resolved_ms
    assert name not in AT_STAKE or scored.alerts[0].documents > 0
