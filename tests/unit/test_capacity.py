"""Examples that explain when capacity is told to run out, and draws that hold the forecast's interval to its word."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.step import Item
from processors.steps.bounds import erlang_c, knee
from processors.steps.capacity import STEP
from processors.steps.forecast import course, time_to, without_shifts
from schemas.records import Phase, Scrape, Severity, Signal

MONDAY = 1_795_392_000_000
Shape = Callable[[float], float]


def told(
    shape: Shape,
    days: float,
    *,
    noise: float = 0.002,
    every_s: float = 900,
    system: str = "host",
    seed: int = 1,
    **config: object,
) -> list[tuple[float, Signal]]:
    """What is told of a share that follows `shape` (of days), looked at every quarter of an hour until it is full."""
    rng, chosen, state, out = np.random.default_rng(seed), STEP.config(cell="eu1", **config), STEP.fresh(), []
    for at_s in np.arange(0, days * 86_400, every_s):
        share, time_ms = shape(at_s / 86_400) + rng.normal(0, noise), MONDAY + round(at_s * 1000)
        points: dict[str, float | None] = {'system.filesystem.utilization{system.filesystem.mountpoint="/data"}': share}
        if system == "postgresql":
            points = {"postgresql.connection.used": round(share * 200), "postgresql.connection.max": 200.0}
        scrape = Scrape.of(points, cell="eu1", resource="one", system=system, time_ms=time_ms)
        state, found = STEP.step(chosen, state, Item(time_ms, scrape))
        out += [(at_s / 86_400, one) for one in found]
        if share >= 1:
            break
    return out


def test_a_disk_that_fills_in_nine_days_is_told_with_its_interval_long_before() -> None:
    alarms = told(lambda day: 0.4 + 0.03 * day + 0.01 * (day % 1), 12)
    day, first = alarms[0]
    assert first.cause == "capacity.disk:one"
    assert first.severity is Severity.WARNING
    left_days = (first.evidence[1].value or 0) / 86_400
    assert left_days == pytest.approx((1 - 0.4 - 0.01) / 0.03 - day, rel=0.1)
    assert "80 %:" in first.summary
    assert len({one.id for _, one in alarms}) == 1


def test_what_suddenly_grows_within_days_is_told_a_day_ahead_as_critical() -> None:
    alarms = told(lambda day: 0.45 + max(0.0, day - 10) * 0.15, 14)
    assert 10 < alarms[0][0] < 10 + (1 - 0.45) / 0.15 - 1
    assert alarms[0][1].severity is Severity.CRITICAL


def test_what_fills_within_thirty_hours_is_told_when_half_of_the_room_is_gone() -> None:
    alarms = told(rising(0.45, 14.3, 0.44), 18)
    assert 14.3 + 0.5 * 1.25 < alarms[0][0] < 14.3 + 0.75 * 1.25


def test_a_runaway_is_told_within_its_hours() -> None:
    alarms = told(lambda day: 0.4 + max(0.0, day - 2.4) * 24 * 0.15, 3, every_s=60)
    assert alarms
    assert "min" in alarms[0][1].summary or " h" in alarms[0][1].summary


def test_growth_that_leaves_months_is_not_told() -> None:
    assert told(lambda day: 0.4 + 0.002 * day, 60) == []


def test_taking_a_tenant_on_is_a_step_and_not_a_slope() -> None:
    assert told(lambda day: 0.6 + 0.0004 * day + 0.15 * min(1.0, max(0.0, (day - 10) * 24)), 20) == []


@pytest.mark.parametrize("period_h", [4, 8, 24, 36])
def test_a_sawtooth_of_clean_ups_is_not_told(period_h: float) -> None:
    assert told(teeth(0.5, 0.15, period_h / 24), 14) == []


def test_a_sawtooth_whose_clean_up_no_longer_comes_is_told() -> None:
    alarms = told(lambda day: 0.3 + 0.3 * (day % 1 if day < 14 else day - 14), 20)
    assert alarms
    assert alarms[0][0] > 15


def test_connections_that_follow_the_working_day_are_not_told() -> None:
    def work(day: float) -> float:
        return 0.3 + 0.5 * max(0.0, math.sin(2 * math.pi * (day - 0.3))) * (0.6 if int(day) % 7 > 4 else 1.0)

    assert told(work, 21, noise=0.02, system="postgresql") == []


def test_connections_that_leak_through_day_and_night_are_told() -> None:
    def leak(day: float) -> float:
        return 0.2 + 0.2 * max(0.0, math.sin(2 * math.pi * (day - 0.3))) + max(0.0, day - 10) * 0.3

    assert {one.cause for _, one in told(leak, 14, noise=0.01, system="postgresql")} == {"capacity.connections:one"}


def test_an_enlarged_disk_ends_the_episode() -> None:
    alarms = told(lambda day: 0.4 + 0.03 * day if day < 13 else 0.3 + 0.0001 * day, 16)
    assert alarms[0][1].phase is Phase.OPEN
    assert alarms[-1][1].phase is Phase.RESOLVED


def test_a_moved_limit_tells_the_past_anew() -> None:
    chosen, state = STEP.config(cell="eu1"), STEP.fresh()
    for number in range(200):
        time_ms = MONDAY + number * 60_000
        points: dict[str, float | None] = {"redis.memory.used": 4e8, "redis.memory.max": 5e8 if number < 100 else 1e9}
        scrape = Scrape.of(points, cell="eu1", resource="valkey", system="redis", time_ms=time_ms)
        state, _ = STEP.step(chosen, state, Item(time_ms, scrape))
    assert np.nanmax(np.abs(state.past(0, 0) - 0.4)) < 1e-6


def test_without_a_limit_nothing_can_run_out() -> None:
    chosen, state = STEP.config(cell="eu1"), STEP.fresh()
    points: dict[str, float | None] = {"redis.memory.used": 4e8, "redis.memory.max": 0.0}
    state, found = STEP.step(
        chosen, state, Item(MONDAY, Scrape.of(points, cell="eu1", resource="v", system="redis", time_ms=MONDAY))
    )
    assert found == []
    assert state.peaks[0] == [-1.0]


def test_workers_run_out_when_waiting_is_as_long_as_service() -> None:
    """Erlang C by the textbook's table: 10 servers at 8 Erlangs make 41 % wait; one server waits as long at half its time."""
    assert erlang_c(10, 8.0) == pytest.approx(0.409, abs=0.001)
    assert knee(1) == pytest.approx(0.5)
    assert knee(4) / 4 < knee(16) / 16 < 1


@given(st.integers(0, 10_000), st.integers(20, 90), st.floats(0.05, 5.0))
@settings(max_examples=30)
def test_a_step_is_taken_out_wherever_it_is(seed: int, at: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    values = 0.001 * np.arange(100) + rng.normal(0, 0.003, 100)
    stepped = values + np.where(np.arange(100) >= at, size, 0.0)
    found = without_shifts(stepped)
    assert found.sizes.sum() == pytest.approx(size, abs=0.05)
    assert np.nanmax(np.abs(np.diff(found.values))) < 0.05


@given(st.lists(st.floats(0, 1), min_size=8, max_size=60), st.floats(1.0, 2.0))
@settings(max_examples=50)
def test_any_series_has_an_outlook_in_order(values: list[float], bound: float) -> None:
    outlook = time_to(course(np.array(values), 6), bound, 50)
    assert 0 < outlook.low <= outlook.median <= outlook.high


KINDS = ("line", "walk", "both", "day", "step", "steps", "bent", "tails")


def drawn(rng: np.random.Generator, kind: str, width: int, known: int) -> np.ndarray:
    """A growing series of a kind; noise and growth are drawn."""
    slope, noise, at = rng.uniform(0.3, 2.0) / known, rng.uniform(0.002, 0.01), np.arange(width)
    line, white = 0.1 + slope * at, rng.normal(0, noise, width)
    match kind:
        case "walk":
            return line + np.cumsum(white)
        case "both":
            return line + np.cumsum(0.3 * white) + rng.normal(0, noise, width)
        case "day":
            return line + white + 0.05 * np.sin(2 * np.pi * at / 24)
        case "step":
            return line + white + np.where(at >= rng.integers(known // 4, known - 5), rng.uniform(0.05, 0.2), 0.0)
        case "steps":
            come = np.where(rng.random(width) < 6 / known, rng.uniform(0.05, 0.15, width), 0.0)
            return 0.3 * line + white + np.cumsum(come)
        case "bent":
            return 0.1 + np.cumsum(slope + np.cumsum(rng.normal(0, 0.02 * slope, width))) + white
        case "tails":
            return line + noise * rng.standard_t(3, width)
    return line + white


def coverage(seeds: int, known: int = 96) -> tuple[float, float]:
    """Shares of drawn series whose time to exhaustion lies in the interval that says 80 %, and in that of 95 %."""
    inside, widely, asked = 0, 0, 0
    for seed in range(seeds):
        for place, kind in enumerate(KINDS):
            rng = np.random.default_rng([seed, place])
            values = drawn(rng, kind, 4 * known, known)
            grown = values[known - 24 : known].mean() - values[:24].mean()
            bound = float(np.median(values[known - 5 : known]) + rng.uniform(0.1, 0.9) * grown)
            if bound <= values[:known].max():
                continue
            over = np.flatnonzero(values[known:] >= bound)
            truth = math.inf
            if over.size:
                last = known + over[0]
                back = (values[last] - bound) / (values[last] - values[last - 1]) if over[0] else 0.0
                truth = over[0] + 1 - back
            outlook = time_to(course(values[:known], 24), bound, 2 * known)
            asked += 1
            inside += outlook.low <= truth <= outlook.high
            widely += outlook.widest[0] <= truth <= outlook.widest[1]
    return inside / asked, widely / asked


def test_intervals_hold_about_as_often_as_they_say() -> None:
    narrow, wide = coverage(12)  # a sample of what the soak proves
    assert 0.70 <= narrow <= 0.92
    assert 0.88 <= wide <= 1.0


@pytest.mark.soak
def test_intervals_of_80_and_95_percent_hold_in_75_to_85_and_91_to_98_of_100() -> None:
    narrow, wide = coverage(150)
    assert 0.75 <= narrow <= 0.85
    assert 0.91 <= wide <= 0.98


def rising(level: float, onset: float, speed: float) -> Shape:
    return lambda day: level + 0.01 * (day % 1) + max(0.0, day - onset) * speed


def teeth(level: float, size: float, period: float) -> Shape:
    return lambda day: level + size * ((day / period) % 1)


def stepping(level: float, onset: float, size: float) -> Shape:
    return lambda day: level + (size if day > onset else 0.0) + 0.001 * day


@pytest.mark.soak
def test_over_drawn_shares_exhaustion_is_told_in_time_and_nothing_else() -> None:
    """Precision and recall over 240 drawn shares, half of which run full within days."""
    right = false = missed = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        level, days, onset = rng.uniform(0.25, 0.65), rng.uniform(1, 4), rng.uniform(6, 9)
        speed, size, period = (1 - level) / days, rng.uniform(0.05, 0.2), rng.uniform(0.15, 1.5)
        base = {"noise": rng.uniform(0.0005, 0.004), "seed": seed}
        full = told(rising(level, onset, speed), onset + days - 0.1, **base)
        harmless = (teeth(level, size, period), stepping(level, onset, size), rising(level, onset, 0.004))[seed % 3]
        false += bool(told(harmless, 16, **base))
        right, missed = right + bool(full), missed + (not full)
    assert right / (right + false) >= 0.95
    assert right / (right + missed) >= 0.95
