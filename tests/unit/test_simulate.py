"""The generator: what it draws is an estate as one would be, and what is scored is scored as it is said."""

from __future__ import annotations

from collections import Counter
from datetime import date
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.simulate import faults, noise, scoring
from pilothouse.simulate.board import Carry
from pilothouse.simulate.cell import World
from pilothouse.simulate.command import SimulateError, chosen, settings_of
from pilothouse.simulate.drawing import draw
from pilothouse.simulate.drivers import Drivers, Knob, Span, course
from pilothouse.simulate.faults import When
from pilothouse.simulate.load import expected_load
from pilothouse.simulate.queues import Jobs, runs_of_cron, waiting_factor
from pilothouse.simulate.running import Cell
from pilothouse.simulate.truth import Label, Truth
from processors.fold import Finding
from schemas.codec import Envelope
from schemas.metrics import BY_NAME, Kind
from schemas.records import Cause, Incident, Phase, Severity
from schemas.series import parse

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def world(seed: int = 1, hours: int = 3, begin: float = 2 * DAY_MS + 9 * HOUR_MS, turn: object = None) -> World:
    drawn = draw(seed, start=date(2026, 3, 2))
    from_ms = drawn.start_ms + int(begin)
    drivers = Drivers(Span.of(from_ms, from_ms + hours * HOUR_MS, 60_000))
    if callable(turn):
        turn(drawn, drivers)
    return World(drawn, drivers, Carry(), 5, drawn.start_ms)


def columns(one: World) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    return {f"{board.resource} {name}": values for board in one._boards() for name, values in board.columns.items()}


def test_the_same_seed_draws_the_same_records() -> None:
    one, other = world(), world()
    assert [sheet.scrape(7, 1_000) for sheet in one.sheets()] == [sheet.scrape(7, 1_000) for sheet in other.sheets()]
    assert columns(world(2)).keys() != columns(one).keys()


def test_every_series_is_in_the_catalogue() -> None:
    names = {parse(key.partition(" ")[2]).name for key in columns(world())}
    assert names - set(BY_NAME) == set()


@pytest.mark.parametrize("seed", range(4))
def test_counters_never_fall_and_levels_are_levels(seed: int) -> None:
    for key, values in columns(world(seed)).items():
        metric = BY_NAME[parse(key.partition(" ")[2]).name]
        if metric.kind is Kind.SUM:
            assert (np.diff(values) >= 0).all(), key
        if metric.name.endswith("utilization"):
            assert np.nanmax(values) <= 1.0, key


def test_a_stretch_goes_on_where_the_last_one_ended() -> None:
    drawn, carry = draw(1, start=date(2026, 3, 2)), Carry()
    first = Span.of(drawn.start_ms, drawn.start_ms + 4 * HOUR_MS, 900_000)
    second = Span.of(int(first.times_ms[-1]), drawn.start_ms + 5 * HOUR_MS, 60_000)
    before, after = (columns(World(drawn, Drivers(span), carry, 1, drawn.start_ms)) for span in (first, second))
    for key, values in after.items():
        if BY_NAME[parse(key.partition(" ")[2]).name].kind is Kind.SUM:
            assert values[0] >= before[key][-1], key


def test_between_two_looks_lies_the_time_that_the_later_one_tells_of() -> None:
    """Also where minutes follow quarters of an hour: a minute's events in seven minutes would look like a flow that stops."""
    drawn = draw(1, start=date(2026, 3, 2))
    cell = Cell(drawn, slowly=True)
    coarse = Span.of(drawn.start_ms, drawn.start_ms + 4 * HOUR_MS, 900_000)
    fine = Span.of(int(coarse.times_ms[-1]), drawn.start_ms + 5 * HOUR_MS, 60_000)
    looks: dict[str, list[int]] = {}
    for span in (coarse, fine):
        for _, record in chain.from_iterable(cell.draw(Drivers(span), 1, documents=False)):
            looks.setdefault(f"{record.resource} {record.system}", []).append(record.time_ms)
    apart = {later - earlier for times in looks.values() for earlier, later in pairwise(times)}
    assert {900_000, 60_000} <= apart
    assert all(one % 60_000 == 0 for one in apart)


def test_documents_reach_their_states_in_order_and_wait_over_night() -> None:
    one = world(begin=DAY_MS + 20 * HOUR_MS, hours=16).tenants[0].documents
    reached = one.reached
    assert reached.shape[0] > 10
    assert (np.diff(reached, axis=1) >= 0).all()


def test_every_step_of_a_document_is_told_once_over_all_stretches() -> None:
    drawn, carry, told = draw(1, start=date(2026, 3, 2)), Carry(), Counter[tuple[int, str, str]]()
    at_ms = drawn.start_ms + 2 * DAY_MS + 9 * HOUR_MS
    for number in range(6):
        span = Span.of(at_ms, at_ms + HOUR_MS, 60_000 if number % 2 else 900_000)
        documents = World(drawn, Drivers(span), carry, number, drawn.start_ms).tenants[0].documents
        for batch in documents.batches("sim", span):
            told.update(zip(batch.document_ids, batch.document_types, batch.states, strict=True))
        at_ms = int(span.times_ms[-1])
    begun = {one for one, kind, state in told if (kind, state) == ("sale.order", "draft")}
    ended = {one for one, kind, state in told if (kind, state) == ("account.move", "posted")}
    assert max(told.values()) == 1
    assert len(begun & ended) > 20
    assert all(sum(key[0] == one for key in told) == 7 for one in begun & ended)


def test_a_tenant_whose_warehouse_stands_ships_nothing() -> None:
    def stand(drawn: object, drivers: Drivers) -> None:
        drivers.scale(Knob.PICKING, drawn.tenants[0].name, np.zeros(drivers.span.size))  # type: ignore[attr-defined]

    one = world(turn=stand)
    shipped = one.tenants[0].documents.columns(one.span)["transitions", "stock.picking", "done"]
    assert shipped.sum() == 0
    assert one.tenants[1].documents.columns(one.span)["transitions", "stock.picking", "done"].sum() > 0


def test_clocks_that_change_move_the_load_with_them() -> None:
    """On both sides of the last Sunday of March a warehouse in Berlin begins at the same local hour."""
    drawn = next(one for one in map(draw, range(50)) if one.tenants[0].calendar.time_zone == "Europe/Berlin")
    begins = [int(np.datetime64(f"2026-03-{day}T00:00:00", "ms").astype(int)) for day in (27, 30)]
    hours = np.arange(24, dtype=np.int64) * HOUR_MS
    winter, summer = (expected_load(drawn.tenants[0], begin + hours, begin) for begin in begins)
    assert np.allclose(winter[1:20], summer[:19], rtol=0.01)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.floats(30.0, 3_600.0))
def test_wander_has_the_same_spread_on_any_grain(seed: int, grain_s: float) -> None:
    values = noise.wander(np.random.default_rng(seed), np.full(4_000, grain_s), 0.1, 60.0, None)
    assert 0.05 < values.std() < 0.2


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=60), st.integers(0, 30))
def test_what_comes_is_done_or_waits(pairs: list[tuple[int, int]], before: int) -> None:
    came, pace = (np.array(column, float) for column in zip(*pairs, strict=True))
    span = Span.of(0, 60_000 * len(pairs), 60_000)
    jobs = Jobs.fold(span, came, pace, float(before))
    assert np.allclose(before + came.cumsum(), jobs.done.cumsum() + jobs.waiting)
    assert (jobs.waiting >= 0).all()
    assert (jobs.done <= pace + 1e-9).all() or before
    assert (jobs.oldest_s(span) >= 0).all()


def test_waiting_grows_with_use_and_faster_on_small_servers() -> None:
    use = np.array([0.1, 0.5, 0.9, 0.97])
    small, large = waiting_factor(use, 2), waiting_factor(use, 32)
    assert (np.diff(small) > 0).all()
    assert (small >= large).all()


def test_a_cron_that_nobody_runs_is_late_and_one_switched_off_is_not() -> None:
    span = Span.of(0, HOUR_MS, 60_000)
    stands = 1 - course(span, 20 * 60_000, HOUR_MS)
    runs, late_s = runs_of_cron(span, 300, 0, stands, stands)
    assert runs[:15].sum() == 3
    assert runs[25:].sum() == 0
    assert late_s[-1] > 1_800
    assert runs_of_cron(span, 300, 0, stands, np.ones(60))[1].max() == 0


def test_an_effect_that_creeps_in_is_whole_after_its_ramp() -> None:
    effect = course(Span.of(0, HOUR_MS, 60_000), 600_000, 1_800_000, 300_000)
    assert effect[:10].sum() == 0
    assert effect[17:30].min() == 1.0
    assert effect[30:].sum() == 0
    assert all(one <= other for one, other in pairwise(effect[:17]))


T0 = 1_795_262_400_000


def told(*versions: tuple[int, str, str, Phase, Severity]) -> list[Finding]:
    """(at s, id, cause, phase, severity)."""
    return [
        Finding(
            Envelope("processors/sim", number, T0 + at_s * 1000),
            Incident(
                cell="sim", time_ms=T0 + at_s * 1000, id=identity, version=1 if phase is Phase.OPEN else number + 1, phase=phase, started_ms=T0,
                severity=severity, title="something", causes=(Cause(cause=cause, probability=1),), tenants=("acme",),
            ),
        )
        for number, (at_s, identity, cause, phase, severity) in enumerate(versions)
    ]  # fmt: skip


def label(*truth: Truth) -> Label:
    return Label(family="silence", run=0, seed=1, cell="sim", from_ms=T0, to_ms=T0 + 4 * HOUR_MS, truth=truth)


FAULT = Truth(
    kind="workers gone", causes=("odoo.workers:acme",), tenants=("acme",), onset_ms=T0 + 600_000, end_ms=T0 + HOUR_MS
)
OPEN, UPDATED, OVER, WARNING = Phase.OPEN, Phase.UPDATED, Phase.RESOLVED, Severity.WARNING


def test_the_cause_counts_as_last_told_before_the_end() -> None:
    story = told(
        (700, "a", "queue.backlog:acme", OPEN, WARNING),
        (900, "a", "odoo.workers:acme", UPDATED, WARNING),
        (3_700, "a", "odoo.workers:acme", OVER, WARNING),
    )
    scored = scoring.score(label(FAULT), story)
    assert (scored.found, scored.delay_s, scored.right_cause, scored.right_tenants, scored.closed) == (
        "a",
        100.0,
        True,
        True,
        True,
    )
    assert scored.is_right


def test_before_the_onset_is_false_and_a_second_one_is_a_duplicate() -> None:
    story = told(
        (60, "early", "odoo.workers:acme", OPEN, WARNING),
        (700, "a", "odoo.workers:acme", OPEN, WARNING),
        (800, "b", "odoo.workers:acme", OPEN, WARNING),
    )
    scored = scoring.score(label(FAULT), story)
    assert (scored.false, scored.found, scored.duplicates) == (("early",), "a", ("b",))
    assert scoring.figures([scored]).precision == pytest.approx(1 / 3, abs=1e-4)


def test_what_is_only_for_information_is_no_alert() -> None:
    quiet = Truth(kind="night", expected=True, onset_ms=T0, end_ms=T0 + HOUR_MS)
    assert scoring.score(label(quiet), told((700, "a", "x:y", OPEN, Severity.INFO))).is_right
    assert scoring.score(label(quiet), told((700, "a", "x:y", OPEN, WARNING))).false == ("a",)
    grown = told(
        (700, "a", "odoo.workers:acme", OPEN, Severity.INFO), (900, "a", "odoo.workers:acme", UPDATED, WARNING)
    )
    assert scoring.score(label(FAULT), grown).delay_s == 300.0


def test_a_neighbour_slows_the_others_down() -> None:
    def fill(drawn: object, drivers: Drivers) -> None:
        span = drivers.span
        when = When(int(span.times_ms[60]), int(span.times_ms[120]))
        faults.neighbour(drawn, when, drawn.tenants[0].name, 1.2).turn(drivers)  # type: ignore[arg-type,attr-defined]

    one = world(turn=fill)
    for tenant in one.tenants[1:]:
        assert tenant.request_s[70:110].mean() > 1.05 * tenant.request_s[:50].mean()


def test_a_user_is_told_what_is_wrong_with_a_candidate(tmp_path: object) -> None:
    path = tmp_path / "candidate.yaml"  # type: ignore[operator]
    for content, words in (
        ("baseline: {limits: 6}", "baseline.limits"),
        ("baselin: {limit: 6}", "'baselin' is unknown"),
        ("- 1", "tunables by step"),
    ):
        path.write_text(content)
        with pytest.raises(SimulateError, match=words):
            settings_of(path)
    with pytest.raises(SimulateError, match="known are calendar, deploy"):
        chosen("nonsense")
