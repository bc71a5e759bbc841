"""Healthy series of every temper for weeks, without a floor and in both directions: the stated rate of false alarms holds."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from processors.step import Item
from processors.steps import alarms, baseline
from schemas.estate import Estate
from schemas.records import Phase, Scrape

Floats = NDArray[np.float64]

STEP_S = 300
WEEK = 7 * 86_400 // STEP_S
T0 = int(datetime(2026, 9, 28, tzinfo=UTC).timestamp())  # a Monday; the clocks change on 25 October
ESTATE = Estate.model_validate(
    {
        "cells": [{"name": "eu1", "tenants": [{"name": "acme", "calendar": "berlin"}]}],
        "calendars": [{"name": "berlin", "time_zone": "Europe/Berlin"}],
    }
)


def rush(times: int) -> Floats:
    """How busy it is: two peaks on workdays, by local time, holidays left out of nothing: 3 October is a quiet Saturday."""
    calendar = ESTATE.calendar_of("eu1", "acme")
    moments = [calendar.at((T0 + at * STEP_S) * 1000) for at in range(times)]
    hours = np.array([one.minute_of_day / 60 for one in moments])
    peaks = np.exp(-((hours - 10) ** 2) / 4) + 0.6 * np.exp(-((hours - 16) ** 2) / 3)
    return 1 + 2 * peaks * np.array([one.weekday < 5 for one in moments])


def wandering(rng: np.random.Generator, shape: tuple[int, int], keeps: float) -> Floats:
    out = rng.standard_normal(shape) * np.sqrt(1 - keeps**2)
    for at in range(1, shape[0]):
        out[at] += keeps * out[at - 1]
    return out


def bursts(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Busy for twenty minutes, seldom."""
    out = np.zeros(shape)
    begins, goes_on = rng.random(shape) < 0.004, rng.random(shape) < 0.75
    for at in range(1, shape[0]):
        out[at] = np.where(out[at - 1] > 0, goes_on[at], begins[at])
    return out


def healthy(seed: int, times: int, each: int) -> dict[str, Floats]:
    rng, shape, season = np.random.default_rng(seed), (times, each), rush(times)[:, None]
    return {
        "normal": 10 * season + rng.standard_normal(shape),
        "autocorrelated": 10 * season * np.exp(0.2 * wandering(rng, shape, 0.95)),
        "lognormal": season * np.exp(rng.standard_normal(shape)),
        "heavy": 50 + season * rng.standard_t(3, shape),
        "counts": rng.poisson(0.3 * season * np.ones(shape)).astype(float),
        "spikes": 1 + 0.05 * rng.standard_normal(shape) + (rng.random(shape) < 0.01) * rng.exponential(5, shape),
        "bounded": np.clip(1 - np.abs(0.01 * rng.standard_t(4, shape)) * season, 0, 1),
        "drifting": 100 + np.cumsum(0.1 * rng.standard_normal(shape), 0) + rng.standard_normal(shape),
        "bursts": 5 + 0.5 * rng.standard_normal(shape) + 10 * season * bursts(rng, shape),
    }


def opened(columns: dict[str, Floats], config: baseline.Config, after: int) -> list[tuple[int, str]]:
    """(scrape, series) of each episode that opens after so many scrapes, whatever the catalogue thinks of the series."""
    names = [
        f"x.{kind.replace(' ', '_')}.n{at:02}" for kind, values in columns.items() for at in range(values.shape[1])
    ]
    values = np.concatenate(list(columns.values()), axis=1)
    order = np.argsort(names)
    layout, state, out = "\n".join(names[at] for at in order), baseline.STEP.fresh(), []
    state.slots.columns_of(layout)
    state.slots.has_bad[:] = state.slots.up[:] = state.slots.down[:] = True
    state.slots.floor[:], state.slots.has_opinion = 0, True
    for at, row in enumerate(values[:, order]):
        time_ms = (T0 + at * STEP_S) * 1000
        scrape = Scrape.model_construct(
            cell="eu1", resource="r", system="s", time_ms=time_ms, start_time_ms=None, series=layout, values=row
        )
        _, found = baseline.step(config, state, Item(time_ms, scrape))
        out += [(at, one.cause) for one in found if one.phase is Phase.OPEN and at >= after]
    return out


CONFIG = baseline.Config(cell="eu1", estate=ESTATE)


def test_weeks_of_health_keep_the_stated_rate_of_false_alarms() -> None:
    """180 series, five weeks of which the last four are judged, through the change of clocks."""
    told = opened(healthy(1, 5 * WEEK, 20), CONFIG, WEEK)
    assert len(told) <= 1, Counter(cause for _, cause in told)


@pytest.mark.soak
def test_a_cell_of_five_hundred_series_has_at_most_one_false_alarm_a_week() -> None:
    told = [one for cell in range(20) for one in opened(healthy(cell, 8 * WEEK, 56), CONFIG, WEEK)]
    assert len(told) <= 20 * 7, Counter(cause for _, cause in told)


def test_what_departs_is_told_within_minutes_all_the_same() -> None:
    health = healthy(2, 3 * WEEK, 20)
    columns = {"normal": health["normal"], "heavy": health["heavy"]}
    fault = 3 * WEEK - 100
    columns["normal"][fault : fault + 12, 3] += 25
    columns["heavy"][fault : fault + 12, 4] += 90
    told = opened(columns, CONFIG, fault)
    assert [cause for _, cause in sorted(told, key=lambda one: one[1])] == [
        "anomaly.x.heavy.n04:r",
        "anomaly.x.normal.n03:r",
    ]
    assert max(at for at, _ in told) <= fault + 3


def evidence(*log10: float) -> dict[str, np.ndarray]:
    return {"evidence": np.array(log10, np.float32)}


def test_many_that_depart_together_need_less_evidence_each() -> None:
    """One of four needs four times the bound, four of four only the bound."""
    everyone = np.ones(4, bool)
    assert alarms.believed(evidence(3.5, 0, 0, 0), everyone, 1_000).tolist() == [False] * 4
    assert alarms.believed(evidence(3.7, 0, 0, 0), everyone, 1_000).tolist() == [True, False, False, False]
    assert alarms.believed(evidence(3.1, 3.1, 3.1, 3.1), everyone, 1_000).tolist() == [True] * 4


def test_a_habit_is_no_evidence() -> None:
    """The same height of excess, for a series that never does so and for one that does so every day."""
    arrays = {name: np.zeros(2, kind) for name, kind in alarms.ARRAYS.items()}
    judged = np.ones(2, bool)
    for at in range(3_000):
        distance = np.array([0.0, 12.0 if at % 100 < 3 else 0.0])
        alarms.follow(arrays, distance, distance > alarms.EDGE, judged)
    for _ in range(3):
        alarms.follow(arrays, np.full(2, 12.0), judged, judged)
    assert alarms.believed(arrays, judged, 100_000).tolist() == [True, False]
