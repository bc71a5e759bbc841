"""Rules that the scores of shapes keep, whatever the series."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from processors.step import Item
from processors.steps import baseline
from schemas.records import Scrape

T0 = 1_795_262_400_000
CONFIG = baseline.Config(cell="eu1", shapes=True)
Values = NDArray[np.float64]


def series(kind: str, seed: int, length: int) -> Values:
    rng = np.random.default_rng(seed)
    match kind:
        case "noise":
            return rng.normal(50, 5, length)
        case "heavy tails":
            return np.abs(rng.standard_t(2, length))
        case "autocorrelated":
            steps = rng.normal(0, 1, length)
            out = np.zeros(length)
            for at in range(1, length):
                out[at] = 0.9 * out[at - 1] + steps[at]
            return out
        case "counts":
            return rng.poisson(0.8, length).astype(float)
        case "spikes":
            return np.where(rng.random(length) < 0.02, 100.0, rng.normal(1, 0.1, length))
        case "season":
            return 10 + 5 * np.sin(np.arange(length) / 288 * 2 * np.pi) + rng.normal(0, 0.5, length)
        case _:
            return np.clip(rng.normal(0.99, 0.02, length), 0, 1)


KINDS = ("noise", "heavy tails", "autocorrelated", "counts", "spikes", "season", "bounded")


def scrape(at: int, points: dict[str, float | None]) -> Scrape:
    return Scrape.of(points, cell="eu1", resource="r", system="csv", time_ms=T0 + at * 300_000)


def scored(columns: dict[str, Values], state: baseline.State | None = None, start: int = 0) -> dict[str, Values]:
    state = state or baseline.State()
    out = {name: np.zeros(len(values)) for name, values in columns.items()}
    for at in range(start, len(next(iter(columns.values())))):
        seen, _ = baseline.look(
            CONFIG, state, scrape(at, {name: float(values[at]) for name, values in columns.items()})
        )
        assert seen.score is not None
        for name in columns:
            out[name][at] = seen.score[state.slots.index[name]]
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_health_is_seldom_scored_high(kind: str) -> None:
    """A score is 1 - probability: above 1 - p at most a share p of the measurements of a healthy series, and fewer."""
    told = np.concatenate([scored({"x": series(kind, seed, 2_500)})["x"][300:] for seed in range(2)])
    for p in (0.1, 0.03, 0.01):
        assert np.mean(told > 1 - p) <= p


def test_series_of_one_scrape_do_not_see_each_other() -> None:
    columns = {kind.split()[0]: series(kind, 3, 400) for kind in KINDS}
    together = scored(columns)
    for name, values in columns.items():
        assert np.array_equal(scored({name: values})[name], together[name])


def test_a_state_that_was_packed_goes_on_as_if_nothing_had_been() -> None:
    columns = {"x": series("season", 5, 700), "y": series("spikes", 5, 700)}
    whole = scored(columns)
    state = baseline.State()
    scored({name: values[:400] for name, values in columns.items()}, state)
    again = baseline.unpack(baseline.pack(state))
    assert baseline.pack(again) == baseline.pack(state)
    rest = scored(columns, again, start=400)
    assert all(np.array_equal(rest[name][400:], whole[name][400:]) for name in columns)


def test_the_state_of_a_series_has_a_bound() -> None:
    """2 KiB with the profile of a week; 2 KiB more where shapes are looked at."""
    names = [f"x{number:03}" for number in range(100)]
    state = baseline.State()
    for at in range(40):
        baseline.look(CONFIG, state, scrape(at, dict.fromkeys(names, float(at % 7))))
    parts = {name: len(part) / len(names) for name, part in baseline.pack(state).items()}
    assert parts["present"] + parts["season"] <= 2_048
    assert parts["shapes"] <= 2_048


def test_shapes_find_nothing_in_the_pipeline_that_was_not_found_without() -> None:
    """The score is for reading; what opens an episode is judged by the catalogue's opinion."""
    plain = baseline.Config(cell="eu1")
    states = {config.shapes: (config, baseline.State()) for config in (plain, CONFIG)}
    told: dict[bool, list[object]] = {True: [], False: []}
    for at in range(80):
        points: dict[str, float | None] = {"redis.ping.duration": 0.5 if 60 <= at < 66 else 0.001 + at % 3 * 1e-4}
        for key, (config, state) in states.items():
            told[key] += baseline.step(config, state, Item(T0 + at * 2_000, scrape(at, points)))[1]
    assert told[True] == told[False]
    assert told[True]
