"""Labelled runs through the real fold: a sample of them here, a thousand of each family by `make soak`."""

from __future__ import annotations

import os

import pytest

from pilothouse.simulate import scoring
from pilothouse.simulate.command import BAR
from pilothouse.simulate.estates import Lived
from pilothouse.simulate.families import FAMILIES
from pilothouse.simulate.runs import RUNS_AN_ESTATE, lived_of, run_all, story_of
from pilothouse.simulate.scoring import Scored
from pilothouse.simulate.stories import judge

SAMPLE = 3


@pytest.fixture(scope="module")
def lived() -> Lived:
    """One estate; its weeks are folded once."""
    return lived_of(1, 0, {})


def judged(lived: Lived, family: str, run: int) -> Scored:
    return judge(lived, family, run, 1, story_of(lived, family, run, 1))


@pytest.fixture(scope="module")
def sample(lived: Lived) -> list[Scored]:
    """The first runs of each family."""
    return [judged(lived, family, run) for family in FAMILIES for run in range(SAMPLE)]


def test_most_of_a_sample_is_found(sample: list[Scored]) -> None:
    figures = scoring.figures(sample)
    assert figures.wanted >= 5
    assert (figures.recall or 0) >= 0.7, scoring.mistaken(sample)


def test_a_run_leaves_no_trace_in_those_after_it(lived: Lived, sample: list[Scored]) -> None:
    first = sample[SAMPLE]
    assert judged(lived, first.label.family, first.label.run) == first


@pytest.mark.soak
@pytest.mark.parametrize("family", FAMILIES)
def test_a_thousand_runs_meet_the_bar(family: str) -> None:
    runs = [one for some in run_all([family], 40 * RUNS_AN_ESTATE, 1, {}, os.cpu_count() or 1) for one in some]
    figures = scoring.figures(runs).model_dump()
    assert {name: figures[name] for name, least in BAR.items() if (figures[name] or 0) < least} == {}, scoring.mistaken(
        runs
    )
