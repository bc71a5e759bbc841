"""Saturation on queues that are simulated customer by customer, so that nothing of its theory is assumed."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from processors.step import Item
from processors.steps.bounds import knee
from processors.steps.capacity import STEP as CAPACITY
from processors.steps.saturation import STEP
from schemas.records import Phase, Scrape, Signal

MONDAY = 1_795_392_000_000
SERVICE_S, LOOK_S = 0.4, 15.0
HTTP = '{odoo.worker.type="http"}'


def looks(
    workers: int, use: list[float], *, clumped: bool = False, service: str = "exponential", seed: int = 1
) -> np.ndarray:
    """Waiting and busy at each look at a pool whose use is `use` by the minute. Clumps: people come in groups of four."""
    rng, arrivals = np.random.default_rng(seed), []
    for minute, share in enumerate(use):
        count = rng.poisson(share * workers / SERVICE_S * 60 / (4 if clumped else 1))
        at = minute * 60 + np.sort(rng.uniform(0, 60, count))
        arrivals += np.repeat(at, 4 if clumped else 1).tolist()
    draw = {
        "exponential": lambda n: rng.exponential(SERVICE_S, n),
        "even": lambda n: np.full(n, SERVICE_S),
        "long tails": lambda n: SERVICE_S * np.exp(rng.normal(-0.72, 1.2, n)),
    }[service](len(arrivals))
    free = [0.0] * workers
    starts, ends = [], []
    for at, took in zip(arrivals, draw.tolist(), strict=True):
        begins = max(at, heapq.heappop(free))
        heapq.heappush(free, begins + took)
        starts.append(begins)
        ends.append(begins + took)
    times = np.arange(LOOK_S, len(use) * 60 + 1, LOOK_S)
    came, begun, done = (np.searchsorted(np.sort(one), times) for one in (arrivals, starts, ends))
    return np.stack((came - begun, begun - done), 1).astype(float)


def told(seen: np.ndarray, workers: int, every_s: float = LOOK_S) -> list[tuple[float, Signal]]:
    """What is told of the looks, and when, s."""
    config, state, out = STEP.config(cell="eu1"), STEP.fresh(), []
    for number, (waiting, busy) in enumerate(seen.tolist()):
        time_ms = MONDAY + round(number * every_s * 1000)
        points = {f"odoo.worker.waiting{HTTP}": waiting, f"odoo.worker.busy{HTTP}": busy}
        scrape = Scrape.of(
            {**points, f"odoo.worker.count{HTTP}": float(workers)}, cell="eu1", resource="workers-1",
            system="odoo_workers", time_ms=time_ms,
        )  # fmt: skip
        state, found = STEP.step(config, state, Item(time_ms, scrape))
        out += [(number * every_s, one) for one in found if isinstance(one, Signal)]
    return out


@pytest.mark.parametrize("workers", [2, 6, 20])
def test_a_busy_pool_that_still_serves_is_not_told(workers: int) -> None:
    for seed in range(5):
        seen = looks(workers, [0.75 * knee(workers) / workers] * 120, seed=seed)
        assert told(seen, workers) == []


@pytest.mark.parametrize("service", ["exponential", "even", "long tails"])
@pytest.mark.parametrize("workers", [4, 12])
def test_a_pool_to_which_more_comes_than_it_serves_is_told_within_minutes_and_its_end(
    workers: int, service: str
) -> None:
    use = [0.6] * 30 + [1.3] * 20 + [0.3] * 60
    (opened, first), *_, (closed, last) = told(looks(workers, use, clumped=True, service=service), workers)
    assert first.cause == "capacity.workers:workers-1"
    assert 30 * 60 < opened < 36 * 60
    assert "times as long as they are served" in first.summary
    assert last.phase is Phase.RESOLVED
    assert last.id == first.id
    assert closed > 50 * 60


def test_a_pool_that_nobody_serves_any_more_is_told() -> None:
    (_, first), *_ = told(np.array([[0.0, 2.0]] * 40 + [[12.0, 0.0]] * 60), 4)
    assert "nobody is served" in first.summary


def test_an_episode_nobody_looks_at_any_more_ends() -> None:
    config, state = STEP.config(cell="eu1"), STEP.fresh()
    points: dict[str, float | None] = {"pgbouncer.client.waiting": 9.0, "pgbouncer.server.active": 3.0}
    for number in range(4):
        at = MONDAY + number * 60_000
        scrape = Scrape.of(points, cell="eu1", resource="pool", system="pgbouncer", time_ms=at)
        state, found = STEP.step(config, state, Item(at, scrape))
    assert found == []
    assert state.open
    due = STEP.due(state)
    assert due is not None
    state, (ended,) = STEP.tick(config, state, due)
    assert isinstance(ended, Signal)
    assert ended.phase is Phase.RESOLVED


def test_the_knee_is_where_a_real_queue_waits_as_long_as_it_serves() -> None:
    """The forecast's model and the direct look agree: Little's ratio is about one at the knee of Erlang C."""
    waiting, busy = looks(6, [knee(6) / 6] * 1_500).mean(0)
    assert waiting / busy == pytest.approx(1.0, abs=0.25)


def test_a_load_is_the_mean_of_its_minute_and_a_share_of_what_the_pool_carries() -> None:
    config, state = CAPACITY.config(cell="eu1"), CAPACITY.fresh()
    for number in range(13):
        at = MONDAY + number * 10_000
        points = {f"odoo.worker.busy{HTTP}": 2.0 + 4.0 * (number % 2), f"odoo.worker.count{HTTP}": 8.0}
        scrape = Scrape.of(points, cell="eu1", resource="workers-1", system="odoo_workers", time_ms=at)
        state, _ = CAPACITY.step(config, state, Item(at, scrape))
    assert state.past(0, 0)[-1] == pytest.approx(4.0 / knee(8), rel=1e-6)


def jobs(status: str) -> str:
    return f'odoo.queue_job.count{{odoo.queue_job.channel="root",odoo.queue_job.state="{status}"}}'


def channel(started: list[float], pending: list[float]) -> list[float]:
    """The load of a job channel by minute, as a share of what it carries."""
    config, state = CAPACITY.config(cell="eu1"), CAPACITY.fresh()
    for number, (runs, waits) in enumerate(zip(started, pending, strict=True)):
        at, points = MONDAY + number * 60_000, {jobs("started"): runs, jobs("pending"): waits}
        scrape = Scrape.of(points, cell="eu1", resource="odoo-1", system="odoo", time_ms=at)
        state, _ = CAPACITY.step(config, state, Item(at, scrape))
    return list(state.past(0, 0))


def test_a_channel_has_as_many_servers_as_were_busy_whenever_jobs_waited() -> None:
    known = channel([1, 1, 4, 4, 4, 4, 4, 1, 1, 1], [0, 0, 30, 30, 30, 30, 30, 0, 0, 0])
    # Before it had been full time and again nothing was known of its capacity.
    assert known == pytest.approx([4 / knee(4), *[1 / knee(4)] * 2], rel=1e-6)


def test_jobs_that_wait_beside_idle_servers_tell_nothing_of_a_capacity() -> None:
    assert channel([1, 2, 0, 2, 1, 0, 2, 1, 2, 0, 2, 0], [1.0] * 12) == []
