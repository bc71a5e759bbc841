"""Labelled runs through the real fold: a sample of them here, a thousand of each family by `make soak`."""

from __future__ import annotations

import os

import pytest

from pilothouse.simulate import healthy, scoring
from pilothouse.simulate.command import BAR, FALSE_A_WEEK
from pilothouse.simulate.families import FAMILIES
from pilothouse.simulate.runs import RUNS_AN_ESTATE, run_all, story_of
from pilothouse.simulate.scenarios import Scene
from pilothouse.simulate.scoring import Scored
from pilothouse.simulate.stories import judge

SAMPLE = 2


def judged(on: Scene, family: str, run: int) -> Scored:
    return judge(on.lived, family, run, 1, story_of(on.lived, family, run, 1))


@pytest.fixture(scope="module")
def sample(estate: Scene) -> list[Scored]:
    """The first runs of each family, on the estate of the scenarios."""
    return [judged(estate, family, run) for family in FAMILIES for run in range(SAMPLE)]


def test_most_of_a_sample_is_found(sample: list[Scored]) -> None:
    figures = scoring.figures(sample)
    assert figures.wanted >= 5
    assert (figures.recall or 0) >= 0.7, scoring.mistaken(sample)


def test_a_run_leaves_no_trace_in_those_after_it(estate: Scene, sample: list[Scored]) -> None:
    first = sample[SAMPLE]
    assert judged(estate, first.label.family, first.label.run) == first


@pytest.mark.soak
@pytest.mark.parametrize("family", FAMILIES)
def test_a_thousand_runs_meet_the_bar(family: str) -> None:
    runs = [one for some in run_all([family], 40 * RUNS_AN_ESTATE, 1, {}, os.cpu_count() or 1) for one in some]
    figures = scoring.figures(runs).model_dump()
    assert {name: figures[name] for name, least in BAR.items() if (figures[name] or 0) < least} == {}, scoring.mistaken(
        runs
    )


@pytest.mark.soak
def test_a_healthy_estate_is_quiet() -> None:
    """20 cells, 10,000 series, 8 weeks of 5-minute scrapes: at most one false alert by cell and week."""
    found = list(healthy.run(20, 8, 1, {}, os.cpu_count() or 1))
    answer = healthy.result(1, 8, found)
    assert answer["series"] >= 10_000
    assert answer["alerts_per_cell_and_week"] <= FALSE_A_WEEK, answer["kinds"]
