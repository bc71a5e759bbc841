"""State knows the rows of tables by their names: a release that adds, moves or takes out a row reads what was stored before."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processors import flows
from processors.demands import OUTCOMES
from processors.step import Parts
from processors.steps import absence, bounds, burn_rate, capacity, contention, pools, shares, silences
from processors.steps.registry import STEPS

NUMBERED = Path(__file__).parents[1] / "golden" / "state" / "numbered_rows.json"
"""Units of an eventful log, as the version before packed them: with rows known by their numbers."""


def parts_of(step: str) -> Parts:
    packed: dict[str, str] = json.loads(NUMBERED.read_text())
    found = {tuple(key.split("\x1f", 3)): zlib.decompress(base64.b64decode(data)) for key, data in packed.items()}
    return {key[3]: data for key, data in found.items() if key[1] == step}


@pytest.mark.parametrize("name", ["absence", "capacity", "contention", "burn_rate"])
def test_what_the_version_before_has_packed_is_read(name: str) -> None:
    step = STEPS[name]
    state = step.unpack(parts_of(name))
    packed = step.pack(state)
    assert step.pack(step.unpack(packed)) == packed


def test_flows_keep_their_meaning() -> None:
    state = absence.STEP.unpack(parts_of("absence"))
    named = {one.name: flows.FLOWS[one.flow] for one in state.streams}
    assert named
    assert all(name.startswith(flow.metric) for name, flow in named.items())


def test_a_row_before_the_others_shifts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = absence.STEP.unpack(parts_of("absence"))
    meant = {one.name: flows.FLOWS[one.flow].metric for one in state.streams}
    packed = absence.STEP.pack(state)
    turned = (flows.Flow("new", "a.new.metric", "odoo.workers"), *flows.FLOWS[::-1])
    monkeypatch.setattr(silences, "FLOWS", turned)
    monkeypatch.setattr(silences, "FLOW_NAMED", {flow.name: place for place, flow in enumerate(turned)})
    again = absence.STEP.unpack(packed)
    assert {one.name: turned[one.flow].metric for one in again.streams} == meant


def test_a_row_that_is_taken_out_takes_along_what_was_kept_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    state = absence.STEP.unpack(parts_of("absence"))
    gone = flows.FLOWS[state.streams[0].flow].name
    left = tuple(flow for flow in flows.FLOWS if flow.name != gone)
    kept = [one.name for one in state.streams if flows.FLOWS[one.flow].name != gone]
    packed = absence.STEP.pack(state)
    monkeypatch.setattr(silences, "FLOWS", left)
    monkeypatch.setattr(silences, "FLOW_NAMED", {flow.name: place for place, flow in enumerate(left)})
    again = absence.STEP.unpack(packed)
    assert [one.name for one in again.streams] == kept
    assert all(array.shape[-1] == len(kept) for array in again.arrays.values())


def test_what_runs_out_keeps_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    state = capacity.STEP.unpack(parts_of("capacity"))
    assert state.shares
    assert all(one.key.startswith(one.bound.kind) for one in state.shares)
    packed, meant = capacity.STEP.pack(state), {one.key: one.bound.name for one in state.shares}
    turned = bounds.BOUNDS[::-1]
    monkeypatch.setattr(bounds, "BOUNDS", turned)
    named = {bound.name: place for place, bound in enumerate(turned)}
    monkeypatch.setattr(shares, "BOUND_NAMED", named)
    again = capacity.STEP.unpack(packed)
    assert {one.key: one.bound.name for one in again.shares} == meant
    monkeypatch.setattr(
        shares, "BOUND_NAMED", {name: place for name, place in named.items() if name not in meant.values()}
    )
    assert capacity.STEP.unpack(packed).shares == []


def test_scales_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    state = capacity.STEP.unpack(parts_of("capacity"))
    meant: dict[str, Any] = dict(zip((one.name for one in shares.SCALES), state.numbers, strict=True))
    packed = capacity.STEP.pack(state)
    monkeypatch.setattr(shares, "SCALES", shares.SCALES[::-1])
    again = capacity.STEP.unpack(packed)
    assert dict(zip((one.name for one in shares.SCALES), again.numbers, strict=True)) == meant


def test_outcomes_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    state = contention.STEP.unpack(parts_of("contention"))
    state.outcomes["now"][0] = 7.0
    packed = contention.STEP.pack(state)
    monkeypatch.setattr(pools, "OUTCOMES", OUTCOMES[::-1])
    monkeypatch.setattr(pools, "_OUTCOMES", [one.metric for one in OUTCOMES[::-1]])
    again = contention.STEP.unpack(packed)
    assert (again.outcomes["now"][-1] == 7.0).all()


def test_rules_of_the_workbook_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    state = burn_rate.STEP.unpack(parts_of("burn_rate"))
    (budget,) = state.budgets.values()
    budget.track.legs[:] = False
    budget.track.legs[1] = True
    packed = burn_rate.STEP.pack(state)
    rules = ["page 60000", *burn_rate._RULES]
    monkeypatch.setattr(burn_rate, "_RULES", rules)
    (again,) = burn_rate.STEP.unpack(packed).budgets.values()
    assert np.flatnonzero(again.track.legs.all(axis=1)).tolist() == [2]


def test_every_row_has_a_name_of_its_own() -> None:
    for names in (
        [one.name for one in flows.FLOWS],
        [one.name for one in bounds.BOUNDS],
        [one.name for one in shares.SCALES],
    ):
        assert len(set(names)) == len(names)
