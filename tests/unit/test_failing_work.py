"""Scheduled actions that are given up on, and jobs of which too many fail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from processors.step import Item
from processors.steps import crons, failing_jobs
from schemas.records import OperationsEvent, Phase, Scrape, Signal

T0, MINUTE = 1_795_262_400_000, 60_000
MAIL = "Mail: Email Queue Manager"


def event(minute: int, name: str, failures: int | None = None, cron: str = MAIL) -> Item:
    attributes = {"odoo.cron.name": cron} | ({"odoo.cron.failures": failures} if failures else {})
    at = T0 + minute * MINUTE
    told = OperationsEvent(
        cell="eu1", time_ms=at, resource="odoo-acme", system="odoo", tenant="acme", name=name, attributes=attributes
    )
    return Item(at, told)


def runs(minute: int, count: float, cron: str = MAIL) -> Item:
    at = T0 + minute * MINUTE
    points = {f'odoo.cron.runs{{odoo.cron.name="{cron}",tenant.id="acme"}}': count}
    return Item(
        at, Scrape.of(dict(points), cell="eu1", resource="odoo-acme", system="odoo", time_ms=at, start_time_ms=T0)
    )


def cron_signals(items: Sequence[Item]) -> list[Signal]:
    config, state, told = crons.Config(cell="eu1"), crons.STEP.fresh(), []
    for item in items:
        assert crons.unit(item.record) == "acme"
        state, found = crons.step(config, state, item)
        told += [one for one in found if isinstance(one, Signal)]
    return told


def test_an_action_switched_off_by_failures_is_told_until_it_runs_again() -> None:
    told = cron_signals([runs(0, 5), event(1, "odoo.cron.deactivated", 5), runs(2, 5), runs(60, 5), runs(61, 6)])
    assert [(one.phase, one.cause) for one in told if one.phase is not Phase.UPDATED] == [
        (Phase.OPEN, "odoo.cron:acme"),
        (Phase.RESOLVED, "odoo.cron:acme"),
    ]
    assert MAIL in told[0].summary


def test_an_action_that_a_person_switched_off_is_nobodys_trouble() -> None:
    assert cron_signals([runs(0, 5), event(1, "odoo.cron.switched_off"), runs(2, 5)]) == []


def test_on_17_it_was_the_failures_before_that_switched_it_off() -> None:
    assert cron_signals([event(0, "odoo.cron.failed"), runs(1, 1), event(5, "odoo.cron.switched_off")])


def test_three_failures_in_a_row_are_told_and_successes_end_it() -> None:
    failing = [one for minute in range(3) for one in (event(minute, "odoo.cron.failed"), runs(minute, float(minute)))]
    told = cron_signals([*failing, runs(4, 3.0), runs(5, 9.0)])
    assert [one.phase for one in told if one.phase is not Phase.UPDATED] == [Phase.OPEN, Phase.RESOLVED]


def test_an_action_that_runs_and_does_nothing_is_told_until_it_does_something() -> None:
    idle = [one for minute in range(3) for one in (event(minute, "odoo.cron.idle"), runs(minute, float(minute)))]
    told = cron_signals([*idle, runs(4, 3.0), runs(5, 9.0)])
    assert [one.phase for one in told if one.phase is not Phase.UPDATED] == [Phase.OPEN, Phase.RESOLVED]
    assert "has run 3 times and done nothing" in told[0].summary


def test_an_action_that_is_killed_again_and_again_is_told() -> None:
    assert cron_signals([event(minute, "odoo.cron.killed", minute) for minute in (1, 2, 3)])


def test_a_failure_now_and_then_is_no_finding() -> None:
    items = [
        one
        for minute in range(40)
        for one in ([event(minute, "odoo.cron.failed")] if minute % 10 == 0 else []) + [runs(minute, float(minute))]
    ]
    assert cron_signals(items) == []


def job_signals(failed: dict[str, Sequence[int]], done: int | list[int] = 20, seed: int = 1) -> list[Signal]:
    """A look a minute: jobs failed by channel, and done: so many on average, or so many in each minute."""
    rng, config, state, told = (
        np.random.default_rng(seed),
        failing_jobs.Config(cell="eu1"),
        failing_jobs.STEP.fresh(),
        [],
    )
    totals: dict[str, float] = {}
    for minute in range(max(len(one) for one in failed.values())):
        for channel, counts in failed.items():
            for name, more in (
                (failing_jobs.DONE, rng.poisson(done) if isinstance(done, int) else done[minute]),
                (failing_jobs.FAILED, counts[minute]),
            ):
                series = f'{name}{{odoo.queue_job.channel="{channel}",tenant.id="acme"}}'
                totals[series] = totals.get(series, 0.0) + float(more)
        at = T0 + minute * MINUTE
        record = Scrape.of(dict(totals), cell="eu1", resource="odoo-acme", system="odoo", time_ms=at, start_time_ms=T0)
        state, found = failing_jobs.step(config, state, Item(at, record))
        told += [one for one in found if isinstance(one, Signal)]
    return told


CALM, ILL = [0, 0, 1, 0] * 15, [8] * 6


def test_a_partner_whose_jobs_fail_is_named() -> None:
    told = job_signals({"root.carrier.dhl": [*CALM, *ILL, *CALM], "root.edi.metro": [*CALM, *CALM[:6], *CALM]})
    assert [(one.cause, one.phase) for one in told if one.phase is not Phase.UPDATED] == [
        ("integration.failures:dhl", Phase.OPEN),
        ("integration.failures:dhl", Phase.RESOLVED),
    ]


def test_when_all_channels_fail_it_is_the_tenants_queue() -> None:
    told = job_signals({"root.carrier.dhl": [*CALM, *ILL], "root.edi.metro": [*CALM, *ILL]})
    assert {one.cause for one in told} == {"queue.failures:acme"}


def test_what_was_the_tenants_queue_is_not_renamed_after_the_partner_whose_channel_calms_last() -> None:
    told = job_signals(
        {"root.carrier.dhl": [*CALM, *ILL, *ILL, *CALM], "root.edi.metro": [*CALM, *ILL, *CALM[:6], *CALM]}
    )
    assert [(one.cause, one.phase) for one in told if one.phase is not Phase.UPDATED] == [
        ("queue.failures:acme", Phase.OPEN),
        ("queue.failures:acme", Phase.RESOLVED),
    ]


def test_successes_in_a_row_end_it_before_failures_have_been_away_for_long() -> None:
    fails, done = [*[0] * 30, *[1] * 6], [*[1] * 30, *[0] * 6]
    assert [one.phase for one in job_signals({"root.carrier.dhl": [*fails, 0]}, [*done, 1])][-1] is not Phase.RESOLVED
    told = job_signals({"root.carrier.dhl": [*fails, *[0] * 6]}, [*done, *[1] * 6])
    assert [one.phase for one in told if one.phase is not Phase.UPDATED] == [Phase.OPEN, Phase.RESOLVED]


@pytest.mark.parametrize("seed", range(5))
def test_a_channel_of_which_half_fails_for_hours_is_one_episode(seed: int) -> None:
    halves = np.random.default_rng(seed).binomial(4, 0.5, 240)
    told = job_signals({"root.carrier.dhl": [*CALM, *halves.tolist()]}, [*[4] * 60, *(4 - halves).tolist()])
    assert [one.phase for one in told if one.phase is not Phase.UPDATED] == [Phase.OPEN]


def test_failing_as_often_as_ever_is_no_finding() -> None:
    rng = np.random.default_rng(7)
    assert job_signals({"root.carrier.dhl": rng.poisson(3, 3_000).tolist()}) == []


def test_few_jobs_that_all_fail_are_told_after_a_handful() -> None:
    assert job_signals({"root.carrier.dhl": [*[0] * 30, *[1] * 6]}, done=0)
