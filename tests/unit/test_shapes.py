"""Rules that the scores of shapes keep, whatever the series."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from processors.step import Item
from processors.steps import shapes
from processors.steps.registry import STEPS, chosen
from schemas.records import Phase, Scrape, Signal

T0 = 1_795_262_400_000
CONFIG = shapes.Config(cell="eu1")
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


def scrape(at: int, points: dict[str, float | None], start_ms: int | None = None) -> Scrape:
    return Scrape.of(points, cell="eu1", resource="r", system="csv", time_ms=T0 + at * 300_000, start_time_ms=start_ms)


def scored(columns: dict[str, Values], state: shapes.State | None = None, start: int = 0) -> dict[str, Values]:
    """Scores of all rows at once."""
    state, length = state or shapes.State(), len(next(iter(columns.values())))
    if not state.slots.identities:
        state.slots.extend(columns)
    times_ms = T0 + np.arange(start, length) * 300_000
    values = np.column_stack([columns[name][start:] for name in state.slots.identities])
    told = shapes.score(CONFIG.calendar(), state, times_ms, values, np.zeros(len(values), bool))
    return {name: np.concatenate((np.zeros(start), told[:, at])) for at, name in enumerate(state.slots.identities)}


def folded(scrapes: Iterable[Scrape], config: shapes.Config = CONFIG) -> tuple[shapes.State, list[Signal]]:
    state, told = shapes.State(), list[Signal]()
    for one in scrapes:
        state, found = shapes.step(config, state, Item(one.time_ms, one))
        told += [signal for signal in found if isinstance(signal, Signal)]
    return state, told


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


def test_one_scrape_at_a_time_and_many_leave_the_same_state() -> None:
    columns = {"x": series("season", 5, 700), "y": series("spikes", 5, 700)}
    together = shapes.State()
    scored(columns, together)
    one_by_one, _ = folded(
        scrape(at, {name: float(values[at]) for name, values in columns.items()}) for at in range(700)
    )
    assert all(np.array_equal(one_by_one.arrays[name], array) for name, array in together.arrays.items())


def test_a_state_that_was_packed_goes_on_as_if_nothing_had_been() -> None:
    columns = {"x": series("season", 5, 700), "y": series("spikes", 5, 700)}
    whole = scored(columns)
    state = shapes.State()
    scored({name: values[:400] for name, values in columns.items()}, state)
    again = shapes.unpack(shapes.pack(state))
    assert shapes.pack(again) == shapes.pack(state)
    rest = scored(columns, again, start=400)
    assert all(np.array_equal(rest[name][400:], whole[name][400:]) for name in columns)


def test_the_state_of_a_series_has_a_bound() -> None:
    """2 KiB, the hours of a week and the identity included."""
    names = [f"x{number:03}" for number in range(100)]
    state, _ = folded(scrape(at, dict.fromkeys(names, float(at % 7))) for at in range(40))
    assert sum(map(len, shapes.pack(state).values())) / len(names) <= 2_048


def test_a_shape_that_never_was_is_told_once_and_over_when_it_is_usual_again() -> None:
    values = series("season", 7, 1_400)
    values[1_200:1_206] += 40
    _, told = folded(scrape(at, {"x": float(value)}) for at, value in enumerate(values))
    assert [(one.phase, one.cause) for one in told if one.phase is Phase.OPEN] == [(Phase.OPEN, "anomaly.x:r")]
    assert T0 + 1_200 * 300_000 <= told[0].time_ms <= T0 + 1_202 * 300_000
    assert told[-1].phase is Phase.RESOLVED
    assert told[-1].time_ms <= T0 + 1_260 * 300_000
    assert len({one.id for one in told}) == 1


def test_of_a_counter_the_rate_is_looked_at_and_a_restart_is_no_news() -> None:
    """Counts that go on from zero after a restart have the same rate."""
    name = "odoo.queue_job.done"
    grown = np.cumsum(np.random.default_rng(3).poisson(40, 900)).astype(float)
    steady = [scrape(at, {name: float(value)}, T0) for at, value in enumerate(grown)]
    begun_anew = [
        scrape(at, {name: float(value - (grown[600] if at > 600 else 0))}, T0 + (at > 600))
        for at, value in enumerate(grown)
    ]
    jump = [scrape(at, {name: float(value + 5_000 * max(at - 800, 0))}, T0) for at, value in enumerate(grown)]
    assert not folded(steady)[1]
    assert not folded(begun_anew)[1]
    assert folded(jump)[1][0].time_ms == T0 + 801 * 300_000


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e300, -1e308])
def test_no_value_is_so_large_or_small_that_a_score_is_no_number(value: float) -> None:
    rng = np.random.default_rng(2)
    values = np.where(rng.random(500) < 0.05, value, rng.normal(0, 1, 500))
    told = scored({"x": values})["x"]
    assert np.isfinite(told).all()
    assert ((told >= 0) & (told <= 1)).all()


def test_it_runs_where_it_is_asked_for() -> None:
    assert "shapes" not in {step.name for step in chosen(())}
    assert [step.name for step in chosen(("shapes",))][:2] == ["baseline", "shapes"]
    assert {step.name for step in chosen(("shapes",))} == {"shapes", *STEPS}
