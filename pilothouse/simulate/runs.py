"""Many runs: estates in turn, each lived once and branched many times; on several processes, the same figures whatever their number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pilothouse.simulate import scoring
from pilothouse.simulate.estates import Lived
from pilothouse.simulate.families import FAMILIES, Draw
from pilothouse.simulate.processes import side_by_side
from pilothouse.simulate.running import Settings
from pilothouse.simulate.scoring import Scored
from pilothouse.simulate.stories import Story, judge

RUNS_AN_ESTATE = 25


@dataclass(frozen=True)
class Job:
    """The runs of some families on one estate."""

    seed: int
    estate: int
    runs: tuple[tuple[str, int], ...]
    settings: Settings


def jobs(families: Sequence[str], runs: int, seed: int, settings: Settings) -> list[Job]:
    """All runs, by estate."""
    found = []
    for estate in range(-(-runs // RUNS_AN_ESTATE)):
        numbers = range(estate * RUNS_AN_ESTATE, min((estate + 1) * RUNS_AN_ESTATE, runs))
        mine = tuple((family, run) for family in families for run in numbers)
        found.append(Job(seed, estate, mine, settings))
    return found


def lived_of(seed: int, estate: int, settings: Settings) -> Lived:
    """The estate of a number."""
    return Lived(seed * 10_000 + estate, settings)


def story_of(lived: Lived, family: str, run: int, seed: int) -> Story:
    """The story of a run; it depends on its seed, family and number alone."""
    random = np.random.default_rng([seed, list(FAMILIES).index(family), run])
    return FAMILIES[family](Draw(lived, random))


def do(job: Job) -> list[Scored]:
    """All runs on one estate."""
    lived = lived_of(job.seed, job.estate, job.settings)
    return [judge(lived, family, run, job.seed, story_of(lived, family, run, job.seed)) for family, run in job.runs]


def run_all(
    families: Sequence[str], runs: int, seed: int, settings: Settings, processes: int = 1
) -> Iterable[list[Scored]]:
    """Scored runs, an estate at a time, in their order."""
    yield from side_by_side(do, jobs(families, runs, seed, settings), processes)


def result(
    families: Sequence[str], runs: int, seed: int, settings: Settings, scored: Sequence[Scored]
) -> dict[str, Any]:
    """The answer for machines: figures by family and kind, the definitions, and how to make it again."""
    answer: dict[str, Any] = {
        "seed": seed,
        "runs": runs,
        "settings": {name: dict(values) for name, values in settings.items()},
        "command": f"pilothouse simulate {'all' if len(families) > 1 else families[0]} --runs {runs} --seed {seed} -o json",
        "definitions": scoring.DEFINITIONS,
        "families": {},
    }
    for family in families:
        mine = [one for one in scored if one.label.family == family]
        answer["families"][family] = {
            "figures": scoring.figures(mine).model_dump(),
            "kinds": {kind: one.model_dump() for kind, one in scoring.by_kind(mine).items()},
            "mistaken": scoring.mistaken(mine),
        }
    return answer
