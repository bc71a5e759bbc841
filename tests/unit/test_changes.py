"""Examples that explain how a change is judged; each cell is drawn, its effect known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.step import Item
from processors.steps import always_valid
from processors.steps.correlator.state import cause_of
from processors.steps.difference_in_differences import STEP, State
from processors.steps.ledger import Ledger
from schemas.estate import Estate
from schemas.records import Change, Phase, Record, Scrape, Severity, Signal, Verdict
from schemas.series import split
from tests.support.changes import T0, Draw, judged


def seconds(draw: Draw, told: Signal) -> float:
    return (told.time_ms - T0) / 1000 - draw.before_s


def verdicts(told: list[Signal]) -> list[str | None]:
    return list(dict.fromkeys(one.verdict for one in told))


def test_workers_that_die_after_a_release_are_known_within_ten_seconds() -> None:
    draw = Draw(seed=6, errors_s=1.5, interval_s=2.0, before_s=1_200, after_s=60)
    told = judged(draw)
    assert told[1].verdict is Verdict.REGRESSED
    assert told[1].phase is Phase.OPEN
    assert told[1].severity >= Severity.WARNING
    assert seconds(draw, told[1]) <= 12
    assert told[1].cause == "release:odoo@2.4.1"
    assert "2.4.1 back to 2.4.0" in (told[1].advice or "")


def test_a_subtle_slowness_is_known_within_minutes_and_names_who_suffers() -> None:
    draw = Draw(seed=7, latency=1.6, after_s=900)
    told = judged(draw)
    assert verdicts(told) == [Verdict.INCONCLUSIVE, Verdict.REGRESSED]
    assert seconds(draw, told[1]) <= 300
    assert set(told[1].tenants) <= {"tenant-0", "tenant-1"}
    assert "times as bad" in told[1].evidence[0].text


def test_a_harmless_release_is_called_fine_and_opens_nothing() -> None:
    told = judged(Draw(seed=1))
    assert verdicts(told) == [Verdict.INCONCLUSIVE, Verdict.FINE]
    assert {one.phase for one in told} == {Phase.RESOLVED}
    assert {one.severity for one in told} == {Severity.INFO}
    assert "min after the change" in told[0].summary  # when it will be known is said at once


def test_a_shock_that_hits_everybody_is_not_the_releases_fault() -> None:
    assert Verdict.REGRESSED not in verdicts(judged(Draw(seed=4, shock=2.0, after_s=1_800)))


def test_the_same_slowness_without_anybody_beside_is_judged_against_the_past_alone() -> None:
    told = judged(Draw(seed=8, everywhere=True, latency=1.8, after_s=900))
    assert told[-1].verdict is Verdict.REGRESSED
    assert "nobody to stand beside" in " ".join(one.text for one in told[-1].evidence)


def test_a_restart_that_everything_survives_is_no_regression() -> None:
    assert Verdict.REGRESSED not in verdicts(judged(Draw(seed=11, interval_s=5.0, blip_s=40, after_s=900)))


def test_a_roll_back_that_helps_is_confirmed() -> None:
    draw = Draw(seed=7, latency=1.8, rolled_back_after_s=600, after_s=1_500)
    told = judged(draw)
    assert verdicts(told) == [Verdict.INCONCLUSIVE, Verdict.REGRESSED, Verdict.RECOVERED]
    assert told[-1].phase is Phase.RESOLVED
    assert seconds(draw, told[-1]) <= 1_200
    assert len({one.id for one in told}) == 1


def _with_redis(draw: Draw, told_s: float, over_s: float | None = None) -> list[Record]:
    """The drawn cell, and a slow Redis that its detector tells so long after the change."""
    rival = Signal(
        cell="eu1", time_ms=T0, id="rival", phase=Phase.OPEN, detector="baseline", cause="redis.latency:valkey-eu1",
        resource="valkey-eu1", started_ms=T0 + round((draw.before_s + 20) * 1000), severity=Severity.WARNING, score=0.9,
        summary="redis is slow",
    )  # fmt: skip
    added = [rival.model_copy(update={"time_ms": T0 + round((draw.before_s + told_s) * 1000)})]
    if over_s is not None:
        over_ms = T0 + round((draw.before_s + over_s) * 1000)
        added.append(rival.model_copy(update={"time_ms": over_ms, "phase": Phase.RESOLVED}))
    return sorted([*draw.records(), *added], key=lambda one: one.time_ms)


def test_whom_other_trouble_reaches_stands_in_order_so_that_every_process_writes_the_same_state() -> None:
    tenants = tuple(f"tenant-{number}" for number in range(9))
    lock = Signal(
        cell="eu1", time_ms=T0, id="lock", phase=Phase.OPEN, detector="locks", cause="postgresql.lock:tenant-4",
        resource="pg-eu1", started_ms=T0, severity=Severity.WARNING, score=0.9, summary="locks", tenants=tenants[::-1],
    )  # fmt: skip
    state, _ = STEP.step(STEP.config(cell="eu1"), STEP.fresh(), Item(T0, lock))
    assert orjson.loads(STEP.pack(state)["rivals"])["open"]["lock"]["tenants"] == list(tenants)


def test_what_a_slow_redis_explains_is_not_the_changes_fault() -> None:
    draw = Draw(seed=8, everywhere=True, latency=1.8, after_s=900)
    assert Verdict.REGRESSED in verdicts(judged(draw))
    assert Verdict.REGRESSED not in verdicts(judged(draw, records=_with_redis(draw, 40)))


def test_a_change_is_acquitted_when_other_trouble_that_began_before_the_verdict_is_told_after_it() -> None:
    draw = Draw(seed=8, everywhere=True, latency=1.8, after_s=900)
    guilty_s = next(seconds(draw, one) for one in judged(draw) if one.verdict is Verdict.REGRESSED)
    told = judged(draw, records=_with_redis(draw, guilty_s + 5))
    assert verdicts(told) == [Verdict.INCONCLUSIVE, Verdict.REGRESSED]
    assert told[-1].verdict is Verdict.INCONCLUSIVE
    assert told[-1].phase is Phase.RESOLVED
    assert "redis.latency:valkey-eu1" in told[-1].summary


@pytest.mark.parametrize(("ahead_s", "acquitted"), [(400, True), (0, False)])
def test_a_slow_disk_is_noticed_late_and_excuses_what_a_change_did_not_do_at_once(
    ahead_s: int, acquitted: bool
) -> None:
    draw = Draw(seed=8, everywhere=True, latency=1.8, after_s=900)
    slow_ms = T0 + round(draw.before_s * 1000)
    disk = Signal(
        cell="eu1", time_ms=slow_ms + 500_000, id="disk", phase=Phase.OPEN, detector="baseline", cause="storage:host-eu1",
        resource="host-eu1", started_ms=slow_ms + 500_000, severity=Severity.WARNING, score=0.6, summary="the disk is slow",
    )  # fmt: skip
    made_ms = slow_ms - ahead_s * 1000
    records = [
        one.model_copy(update={"time_ms": made_ms}) if isinstance(one, Change) else one for one in draw.records()
    ]
    told = judged(draw, records=sorted([*records, disk], key=lambda one: one.time_ms))
    guilty = next(one for one in told if one.verdict is Verdict.REGRESSED)
    assert slow_ms < guilty.time_ms < disk.time_ms
    assert ("storage:host-eu1" in told[-1].summary) is acquitted
    assert (told[-1].verdict is Verdict.INCONCLUSIVE) is acquitted


def test_a_change_that_does_harm_is_found_once_other_trouble_is_over() -> None:
    draw = Draw(seed=8, everywhere=True, latency=1.8, after_s=1_500)
    told = judged(draw, records=_with_redis(draw, 40, over_s=300))
    guilty = next(one for one in told if one.verdict is Verdict.REGRESSED)
    assert 560 <= seconds(draw, guilty) <= 1_200  # the aftermath lasts as long as the trouble


def test_few_failures_of_jobs_that_hardly_ever_fail_are_known() -> None:
    draw = Draw(seed=3, jobs_s=0.1, failed_s=0.03, changed=1, before_s=10_800, after_s=1_800)
    assert Verdict.REGRESSED in verdicts(judged(draw))


def test_a_roll_back_that_does_not_help_is_said() -> None:
    draw = Draw(seed=3, failed_s=0.4, after_s=1_500)
    records = list(draw.records())
    place = next(number for number, one in enumerate(records) if one.time_ms >= T0 + (draw.before_s + 600) * 1000)
    records.insert(place, draw.change(draw.before_s + 600, status="rolled_back"))
    told = judged(draw, records=records)
    assert told[-1].verdict is Verdict.NOT_RECOVERED
    assert told[-1].phase is Phase.UPDATED
    assert "did not help" in (told[-1].advice or "")


def test_a_release_that_returns_to_the_former_revision_is_a_roll_back() -> None:
    draw = Draw(seed=7, latency=1.8, rolled_back_after_s=600, after_s=1_500)
    records = [
        one.model_copy(update={"change_id": "c-back", "status": "succeeded", "revision": "2.4.0"})
        if getattr(one, "status", None) == "rolled_back"
        else one
        for one in draw.records()
    ]
    told = judged(draw, records=records)
    assert told[-1].verdict is Verdict.RECOVERED
    assert {one.cause for one in told} == {"release:odoo@2.4.1"}


def test_a_deployment_that_is_told_as_a_roll_back_mends_what_it_leaves() -> None:
    """GitHub tells a roll-back as a deployment of its own: another id, the old revision, first started, then done."""
    draw = Draw(seed=7, latency=1.8, rolled_back_after_s=600, after_s=1_500)
    other = {"change_id": "c-back", "revision": "2.4.0", "previous_revision": "2.4.1"}
    records = list(draw.records())
    place = next(number for number, one in enumerate(records) if getattr(one, "status", None) == "rolled_back")
    records[place : place + 1] = [
        records[place].model_copy(update={**other, "status": status}) for status in ("started", "rolled_back")
    ]
    assert judged(draw, records=records)[-1].verdict is Verdict.RECOVERED


def test_each_tenant_is_expected_by_its_own_clock_also_while_only_one_has_changed_it() -> None:
    estate = Estate.model_validate(
        {
            "cells": [{"name": "eu1", "tenants": [{"name": name, "calendar": name} for name in ("berlin", "york")]}],
            "calendars": [{"name": "berlin", "time_zone": "Europe/Berlin"}, {"name": "york", "time_zone": "America/New_York"}],
        }
    )  # fmt: skip
    config, ledger = STEP.config(cell="eu1", estate=estate), Ledger()
    names = [f'odoo.http.request.duration.mean{{tenant.id="{tenant}"}}' for tenant in ("berlin", "york")]
    first, york_moves = datetime(2026, 10, 5, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
    for minute in range(0, 24 * 1_440, 20):
        at = first + timedelta(minutes=minute)
        time_ms = round(at.timestamp() * 1000)
        ledger.turn(time_ms, config)
        opens = [at.astimezone(ZoneInfo(zone)).hour == 9 for zone in ("Europe/Berlin", "America/New_York")]
        points: dict[str, float | None] = dict(zip(names, (0.8 if one else 0.1 for one in opens), strict=True))
        ledger.look(Scrape.of(points, cell="eu1", resource="log-eu1", system="odoo_log", time_ms=time_ms), None)
    assert first + timedelta(days=24) < york_moves  # the last Wednesday of October: Berlin has changed its clocks

    def expected(hour: int) -> list[float]:
        at_ms = round(datetime(2026, 10, 28, hour, 30, tzinfo=UTC).timestamp() * 1000)
        return [round(float(one), 1) for one in np.exp(ledger.expected(ledger.weeks(config), at_ms)) - ledger.least]

    assert [expected(hour) for hour in (7, 8, 13, 14)] == [[0.1, 0.1], [0.8, 0.1], [0.1, 0.8], [0.1, 0.1]]


def test_what_comes_within_the_hour_of_an_opening_is_not_known_to_the_minute() -> None:
    """A burst in the first half of each hour in which a day begins: its end is no regression, as steep as it is."""
    draw = Draw(seed=2, everywhere=True, before_s=8 * 86_400 + 30_600, after_s=2_400, interval_s=60.0, wander=0.0)
    names = [f'odoo.queue_job.done{{tenant.id="{name}"}}' for name in draw.names()]
    rng, counters = np.random.default_rng(draw.seed), dict.fromkeys(names, 0.0)
    records: list[Record] = []
    for minute in range(int((draw.before_s + draw.after_s) / 60)):
        of_day = minute % 1_440 - 480
        rate = 20.0 if 0 <= of_day < 30 else 6.0 if 30 <= of_day < 600 else 0.5
        counters = {name: count + rng.poisson(rate) for name, count in counters.items()}
        time_ms = T0 + minute * 60_000
        records.append(
            Scrape.of(dict(counters), cell="eu1", resource="odoo-eu1", system="odoo", time_ms=time_ms, start_time_ms=T0)
        )
    records.append(draw.change(draw.before_s))
    told = judged(draw, records=sorted(records, key=lambda one: one.time_ms))
    assert Verdict.REGRESSED not in verdicts(told)


def test_what_is_back_at_nought_has_recovered_however_far_the_others_have_fallen() -> None:
    draw = Draw(seed=3, before_s=5_400, after_s=2_700, interval_s=60.0)
    rng = np.random.default_rng(draw.seed)
    records: list[Record] = [draw.change(draw.before_s)]
    for minute in range(135):
        since = minute - 90
        # With the others some always wait, and after the change none.
        waits = 30.0 * since if 0 <= since < 20 else 0.0
        others = rng.uniform(0, 60, draw.tenants) if since < 0 else np.zeros(draw.tenants)
        ages = {
            f'odoo.queue_job.age.max{{tenant.id="{name}"}}': waits if number < draw.changed else float(others[number])
            for number, name in enumerate(draw.names())
        }
        records.append(Scrape.of(ages, cell="eu1", resource="odoo-eu1", system="odoo", time_ms=T0 + minute * 60_000))
    told = judged(draw, records=sorted(records, key=lambda one: one.time_ms))
    assert verdicts(told)[-2:] == [Verdict.REGRESSED, Verdict.RECOVERED]
    assert seconds(draw, told[-1]) <= 1_200 + 600


def test_missing_evidence_is_inconclusive_and_never_fine() -> None:
    draw = Draw(seed=1)
    silent = [one for one in draw.records() if one.time_ms <= T0 + draw.before_s * 1000]
    late = draw.change(draw.before_s + 4_000).model_copy(update={"change_id": "other", "service": "redis"})
    told = judged(draw, records=[*silent, late])
    assert {one.verdict for one in told} == {Verdict.INCONCLUSIVE}
    assert "not enough evidence on latency, errors, jobs, flow" in told[1].summary


@pytest.mark.parametrize(("every", "known"), [(1, True), (24, False)])
def test_a_probe_that_is_quick_says_nothing_of_how_long_people_wait(every: int, known: bool) -> None:
    draw = Draw(seed=1, after_s=1_500)

    def probed() -> Iterator[Record]:
        """A quick answer to a probe beside each look; how long requests took is known of few looks only."""
        for number, one in enumerate(draw.records()):
            if not isinstance(one, Scrape):
                yield one
                continue
            points = dict(zip(split(one.series), one.values, strict=True))
            timed = number % every == 0
            points |= {name: value if timed else None for name, value in points.items() if "duration" in name}
            points["odoo.health.duration"] = 0.004
            yield Scrape.of(
                points, cell="eu1", resource=one.resource, system=one.system, time_ms=one.time_ms, start_time_ms=T0
            )

    assert (Verdict.FINE in verdicts(judged(draw, records=probed()))) is known


def test_what_was_never_measured_cannot_be_judged() -> None:
    draw = Draw(seed=1)
    told = judged(draw, records=[draw.change(0.0)])
    assert [one.verdict for one in told] == [Verdict.INCONCLUSIVE]
    assert "nothing that could tell was measured" in told[0].summary


def test_a_trial_survives_packing_at_any_moment() -> None:
    draw = Draw(seed=6, errors_s=1.0, interval_s=10.0, before_s=600, after_s=300)
    whole = judged(draw)
    again = judged(draw, between=lambda state: STEP.unpack(STEP.pack(state)))
    assert whole == again


def test_series_that_come_while_a_change_is_on_trial_are_taken_in_between_two_minutes() -> None:
    draw = Draw(seed=1, before_s=1_800, after_s=600)
    records = list(draw.records())
    late = [one for one in records if isinstance(one, Scrape) and one.time_ms > T0 + 1_000 * (draw.before_s + 130)][:2]
    joins = [one.model_copy(update={"resource": "log-new", "time_ms": one.time_ms + 1}) for one in late]
    told = judged(draw, records=sorted([*records, *joins], key=lambda one: one.time_ms))
    assert Verdict.REGRESSED not in verdicts(told)


def test_a_state_stays_small() -> None:
    state: State = STEP.fresh()
    judged(Draw(seed=1, before_s=600, after_s=60), between=lambda one: state.__dict__.update(one.__dict__) or one)
    size = sum(map(len, STEP.pack(state).values()))
    assert size / len(state.ledger.slots) < 2_048 + 1_024  # of which 840 are the week's profile


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.2, 5.0), st.integers(5, 40))
def test_looking_after_every_event_does_not_inflate_errors(seed: int, scale: float, past: int) -> None:
    """Of an e-value the mean is one under health, at whatever time one stops; so above 1,000 it hardly ever comes."""
    rng = np.random.default_rng(seed)
    before, after = rng.normal(0, scale, past), rng.normal(0, scale, 200)
    worst = -math.inf
    for number in range(2, 200):
        spread = np.array([(before.var(ddof=1) * (past - 1) + after[:number].var() * number) / (past + number - 2)])
        estimate = np.array([after[:number].mean() - before.mean()])
        freedom = np.array([past + number - 2.0])
        worst = max(worst, *always_valid.shift(estimate, spread * (1 / past + 1 / number), freedom, 0.7))
    assert worst < math.log(10_000)


@pytest.mark.parametrize(("events", "expected"), [(0.0, 0.1), (3.0, 3.0), (40.0, 40.0)])
def test_the_bounds_of_a_count_enclose_it_and_shrink_with_doubt_allowed(events: float, expected: float) -> None:
    arrays = np.array([events]), np.array([expected])
    low, high = always_valid.count_bounds(*arrays, 0.05)
    narrow_low, narrow_high = always_valid.count_bounds(*arrays, 0.5)
    assert low <= narrow_low <= max(events, 1e-9)
    assert events <= narrow_high < high


@pytest.mark.soak
def test_over_drawn_cells_regressions_are_found_and_health_is_left_alone() -> None:
    """Precision and recall over 400 drawn changes, half of them harmful."""
    right = false = missed = 0
    harms = ({"failed_s": 0.3}, {"errors_s": 0.5}, {"latency": 2.0}, {"served": 0.1})
    for seed in range(200):
        small = {"before_s": 3_600.0, "after_s": 1_800.0, "tenants": 3 + seed % 6}
        healthy = verdicts(
            judged(Draw(seed=seed, shock=1.0 + seed % 2, everywhere=seed % 2 == 0 and seed % 3 == 0, **small))
        )
        false += Verdict.REGRESSED in healthy
        found = Verdict.REGRESSED in verdicts(judged(Draw(seed=seed, **small, **harms[seed % 4])))
        right, missed = right + found, missed + (not found)
    assert right / (right + false) >= 0.95
    assert right / (right + missed) >= 0.95


@dataclass
class TwoWaves(Draw):
    """Errors reach the first tenant with the change and the second one later."""

    later_s: float = 200.0

    def count(self, points: dict[str, float | None], name: str, events: float) -> None:
        at_s = len(self.counters) and self.now_s - self.before_s
        waves = {"tenant-0": 0.0, "tenant-1": self.later_s}
        tenant = next((one for one in waves if f'"{one}"' in name), None)
        if name.startswith("odoo.http.errors") and tenant and at_s >= waves[tenant]:
            events += 1.5 * self.interval_s
        super().count(points, name, events)

    def scrape(self, rng: np.random.Generator, at_s: float, slow: np.ndarray, ill: bool) -> Scrape:
        self.now_s = at_s
        return super().scrape(rng, at_s, slow, ill)


def test_a_change_that_is_acquitted_and_found_guilty_of_something_else_at_once_is_told_both() -> None:
    """The verdict that was taken back ends an episode: whoever was told that it opened hears so before it opens again."""
    draw = TwoWaves(seed=6, interval_s=2.0, before_s=1_200, after_s=400)
    started_ms = T0 + round(draw.before_s * 1000)
    lock = Signal(
        cell="eu1", time_ms=started_ms + 230_000, id="lock", phase=Phase.OPEN, detector="locks", cause="postgresql.lock:tenant-0",
        resource="pg-eu1", tenant="tenant-0", tenants=("tenant-0",), started_ms=started_ms, severity=Severity.WARNING, score=0.9,
        summary="locks",
    )  # fmt: skip
    told = judged(draw, records=sorted([*draw.records(), lock], key=lambda one: one.time_ms))
    assert Verdict.REGRESSED in verdicts(told)
    is_open = False
    for one in told:
        assert (one.phase is Phase.UPDATED) <= is_open
        assert not (one.phase is Phase.OPEN and is_open), "it opens twice and nobody heard that it had ended"
        is_open = one.phase is not Phase.RESOLVED


@pytest.mark.parametrize(("of", "tells"), [(Verdict.REGRESSED, "(90 %: "), (Verdict.RECOVERED, "(98 %: ")])
def test_an_interval_is_told_with_the_share_that_it_encloses(of: Verdict, tells: str) -> None:
    """Whether it is over is asked again and again, so each answer is surer than the first verdict."""
    told = judged(Draw(seed=7, latency=1.6, after_s=2_400, rolled_back_after_s=900))
    first = next(one for one in told if one.verdict is of)
    texts = [fact.text for fact in first.evidence if "times as bad" in fact.text]
    assert texts
    assert all(tells in text for text in texts)


def test_a_change_with_names_as_long_as_names_may_be_is_judged_and_its_cause_is_that_of_its_story() -> None:
    draw = Draw(seed=6, errors_s=1.5, interval_s=2.0, before_s=1_200, after_s=60)
    records = [
        one.model_copy(update={"revision": "r" * 231, "service": "s" * 255, "author": "a" * 20_000})
        if isinstance(one, Change)
        else one
        for one in draw.records()
    ]
    told = judged(draw, records=records)
    (change,) = [one for one in records if isinstance(one, Change)]
    assert told[1].verdict is Verdict.REGRESSED
    assert {one.cause for one in told} == {cause_of(change)}
    assert len(told[0].cause) == 255


def test_a_change_on_trial_and_other_trouble_where_no_outcome_is_measured_are_no_accident() -> None:
    config, state = STEP.config(cell="eu1"), STEP.fresh()
    change = Draw(seed=1).change(0.0)
    cpu = Signal(
        cell="eu1", time_ms=T0, id="disk", phase=Phase.OPEN, detector="baseline", cause="storage:host-eu1", resource="host-eu1",
        started_ms=T0, severity=Severity.WARNING, score=0.9, summary="the disk is slow",
    )  # fmt: skip
    for record in (change, cpu):
        state, _ = STEP.step(config, state, Item(T0, record))
    for minute in range(70):
        state, _ = STEP.tick(config, state, T0 + minute * 60_000)
    assert not state.trials
