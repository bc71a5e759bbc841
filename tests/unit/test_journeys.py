"""Documents that do not get on: which are told, what they are worth, and which will miss their cut-off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from processors.durations import Durations
from processors.pace import Due, Pace, late
from processors.step import Item
from processors.steps import journeys
from schemas.calendar import Calendar, Shift
from schemas.estate import Estate
from schemas.impact import Stake
from schemas.records import BusinessBatch, Phase, Severity, Signal
from tests.support.folding import folded, restarted

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MONDAY_8 = round(datetime(2026, 11, 16, 8, tzinfo=UTC).timestamp() * 1000)
CALENDAR = {
    "name": "days",
    "shifts": [{"opens": "08:00", "closes": "18:00"}],
    "cut_offs": [{"at": "16:00"}, {"at": "14:00", "carrier": "Rapid"}],
    "maintenance": [{"name": "upgrade", "starts": "2026-11-16T12:00:00Z", "ends": "2026-11-16T12:30:00Z"}],
}
ESTATE = Estate.model_validate(
    {"cells": [{"name": "eu1", "tenants": [{"name": "acme", "calendar": "days"}]}], "calendars": [CALENDAR]}
)
CONFIG = journeys.Config(cell="eu1", estate=ESTATE, look_every_ms=MINUTE)

Row = tuple[int, int, str]  # time ms, picking, state


def batch(rows: Sequence[Row], **columns: Any) -> Item:
    at, width = rows[-1][0], len(rows)
    more = {"carriers": (None,) * width, "deadlines_ms": (None,) * width, **columns}
    record = BusinessBatch(
        cell="eu1", resource="odoo-acme", system="odoo", time_ms=at, tenants=("acme",) * width,
        times_ms=tuple(row[0] for row in rows), document_types=("stock.picking",) * width,
        document_ids=tuple(row[1] for row in rows), document_names=tuple(f"WH/OUT/{row[1]}" for row in rows),
        states=tuple(row[2] for row in rows), orders=tuple(row[1] for row in rows), amounts=(100.0,) * width,
        currencies=("EUR",) * width, warehouses=("Main",) * width, **more,
    )  # fmt: skip
    return Item(at, record)


def flow(first_ms: int, minutes: int, start: int = 0, takes: int = 4) -> list[Item]:
    """A picking a minute that takes `takes` minutes."""
    rows: list[Row] = []
    for minute in range(minutes):
        at = first_ms + minute * MINUTE
        rows.append((at, start + minute, "assigned"))
        if minute >= takes:
            rows.append((at, start + minute - takes, "done"))
    return [batch([row for row in rows if row[0] == at]) for at in sorted({row[0] for row in rows})]


def stuck(first_ms: int, minutes: int, start: int, **columns: Any) -> list[Item]:
    return [batch([(first_ms + minute * MINUTE, start + minute, "assigned")], **columns) for minute in range(minutes)]


def run(items: Iterable[Item], until_ms: int, config: journeys.Config = CONFIG) -> list[Signal]:
    return folded(journeys.STEP, config, items, until_ms=until_ms, between=restarted(journeys.STEP))


def test_pickings_that_do_not_leave_are_told_with_what_they_are_worth() -> None:
    told = run([*flow(MONDAY_8, 120), *stuck(MONDAY_8 + 2 * HOUR, 30, 120)], MONDAY_8 + 150 * MINUTE)
    assert {one.cause for one in told} == {"process.delayed:acme"}
    first, last = told[0], told[-1]
    assert first.time_ms - (MONDAY_8 + 2 * HOUR) <= 20 * MINUTE
    assert last.impact
    assert last.impact.value == 100.0 * last.impact.documents
    assert last.impact.by_warehouse["acme/Main"] == last.impact.by_tenant["acme"]


def test_what_flows_as_usual_is_no_finding() -> None:
    assert run(flow(MONDAY_8, 600), MONDAY_8 + 10 * HOUR) == []


def test_the_clock_stands_while_the_calendar_is_closed() -> None:
    """What was begun at closing time is not late in the morning."""
    morning = [batch([(MONDAY_8 + DAY + MINUTE, one, "done")]) for one in range(596, 600)]
    assert run([*flow(MONDAY_8, 600), *morning], MONDAY_8 + DAY + HOUR) == []


def whole_flow(first_ms: int, minutes: int, start: int) -> list[Item]:
    """The same, and nothing of it is left over."""
    rest = range(minutes - 4, minutes)
    return [
        *flow(first_ms, minutes, start),
        *(batch([(first_ms + (one + 4) * MINUTE, start + one, "done")]) for one in rest),
    ]


def test_what_an_evening_left_over_is_no_finding_on_the_first_morning() -> None:
    """Forty came when nobody packed any more; how long mornings need for that is not known yet."""
    evening = [batch([(MONDAY_8 + 10 * HOUR - 2 * MINUTE, 600 + one, "assigned") for one in range(40)])]
    morning = [batch([(MONDAY_8 + DAY + one * MINUTE, 600 + one, "done")]) for one in range(40)]
    assert run([*whole_flow(MONDAY_8 + 2 * HOUR, 470, 0), *evening, *morning], MONDAY_8 + DAY + HOUR) == []


def test_without_shifts_the_first_night_and_the_first_weekend_are_no_standstill() -> None:
    """What comes after work waits for the morning, and on Friday for Monday."""
    undeclared = journeys.Config(cell="eu1", estate=None, look_every_ms=MINUTE)
    items: list[Item] = []
    left: list[int] = []
    for day in range(5):
        first, start = MONDAY_8 + day * DAY, day * 1_000
        items += [batch([(first + place * MINUTE, one, "done")]) for place, one in enumerate(left)]
        items += whole_flow(first + 40 * MINUTE, 500, start)
        items += stuck(first + 10 * HOUR, 40, start + 600)
        left = list(range(start + 600, start + 640))
    items += [batch([(MONDAY_8 + 7 * DAY + place * MINUTE, one, "done")]) for place, one in enumerate(left)]
    assert run(items, MONDAY_8 + 7 * DAY + HOUR, undeclared) == []


def test_leftovers_that_are_late_every_morning_become_usual() -> None:
    items: list[Item] = []
    for day in range(5):
        first = MONDAY_8 + day * DAY
        items += [
            batch([(first + 30 * MINUTE, one, "done")]) for one in range(day * 1_000 - 424, day * 1_000 - 419) if day
        ]
        items += flow(first + 20 * MINUTE, 580, day * 1_000)
        items += stuck(first + 10 * HOUR - MINUTE, 1, day * 1_000 + 580)
    opened = [one.time_ms for one in run(items, MONDAY_8 + 4 * DAY + 9 * HOUR) if one.phase is Phase.OPEN]
    assert [at for at in opened if at > MONDAY_8 + 3 * DAY] == []


def test_a_state_that_comes_after_the_end_of_its_document_does_not_open_it_again() -> None:
    usual = flow(MONDAY_8, 60)
    at = MONDAY_8 + HOUR
    ends = batch([(at + 4 * MINUTE, 100 + number, "done") for number in range(5)])
    begins = batch([(at, 100 + number, "assigned") for number in range(5)])
    assert run([*usual, begins], at + HOUR)
    assert run([*usual, ends, Item(ends.at_ms + MINUTE, begins.record)], at + HOUR) == run(
        [*usual, begins, ends], at + HOUR
    )


def test_a_document_that_is_taken_up_again_after_its_end_is_stuck_like_any() -> None:
    usual, at = flow(MONDAY_8, 60), MONDAY_8 + HOUR
    again = batch([(at, number, "assigned") for number in range(10, 15)])
    assert run([*usual, again], at + HOUR)[0].phase is Phase.OPEN


def test_in_maintenance_the_clock_stands() -> None:
    before = flow(MONDAY_8, 240)
    after = [batch([(MONDAY_8 + 271 * MINUTE, one, "done")]) for one in range(236, 240)]
    assert run([*before, *after], MONDAY_8 + 5 * HOUR) == []


def test_what_is_due_another_day_is_not_late_today() -> None:
    later = stuck(MONDAY_8 + 2 * HOUR, 30, 120, deadlines_ms=(MONDAY_8 + 3 * DAY,))
    done = [batch([(MONDAY_8 + 2 * HOUR, one, "done")]) for one in range(116, 120)]
    assert run([*flow(MONDAY_8, 120), *done, *later], MONDAY_8 + 3 * HOUR) == []


def test_pickings_that_always_lie_around_are_not_told_every_day() -> None:
    """One in twelve waits for goods for hours: late by the clock, but no more than ever."""
    lying = [batch([(MONDAY_8 + minute * MINUTE, 5_000 + minute, "assigned")]) for minute in range(0, 590, 45)]
    items = sorted([*flow(MONDAY_8, 600), *lying], key=lambda item: item.at_ms)
    assert run(items, MONDAY_8 + 10 * HOUR) == []


def test_what_will_miss_its_cut_off_is_told_by_carrier() -> None:
    half = [*flow(MONDAY_8, 300), *stuck(MONDAY_8 + 5 * HOUR, 40, 300, carriers=("Rapid",))]
    told = run(half, MONDAY_8 + 5 * HOUR + 40 * MINUTE)
    assert told[-1].impact
    rapid = told[-1].impact.by_cut_off[0]
    assert (rapid.carrier, rapid.cut_off_ms) == ("Rapid", MONDAY_8 + 6 * HOUR)
    # Twenty minutes are left and nothing leaves: all that wait for Rapid will miss it.
    assert rapid.documents >= 38
    whole = Stake(documents=rapid.documents, value=rapid.value)
    assert told[-1].impact.missing_by_carrier == {"Rapid": whole}
    assert told[-1].impact.missing_by_warehouse["acme/Main"] == told[-1].impact.missing_by_tenant["acme"]
    assert told[-1].impact.missing_by_tenant["acme"].documents == sum(
        one.documents for one in told[-1].impact.by_cut_off
    )
    assert told[-1].severity is Severity.CRITICAL
    assert "will miss the cut-off of Rapid at 14:00" in told[-1].summary


def test_an_outage_is_not_learned_as_usual() -> None:
    """After one outage the next one is told as early."""
    first, second = MONDAY_8 + 2 * HOUR, MONDAY_8 + 7 * HOUR
    freed = [batch([(first + HOUR, one, "done") for one in range(116, 180)])]
    items = [
        *flow(MONDAY_8, 120), *stuck(first, 60, 120), *freed,
        *flow(first + HOUR, 240, 1_000), *stuck(second, 40, 2_000),
    ]  # fmt: skip
    told = run(items, second + 40 * MINUTE)
    opened = [one.time_ms for one in told if one.phase is Phase.OPEN]
    assert len(opened) == 2
    assert abs((opened[1] - second) - (opened[0] - first)) <= 10 * MINUTE


shifts = st.lists(
    st.builds(
        lambda opens, hours: Shift(opens=f"{opens:02}:00", closes=f"{(opens + hours) % 24:02}:00"),
        st.integers(0, 23),
        st.integers(1, 24),
    ),
    max_size=3,
)
times = st.integers(MONDAY_8 - 40 * DAY, MONDAY_8 + 40 * DAY).map(lambda time_ms: time_ms // MINUTE * MINUTE)


@settings(max_examples=40)
@given(shifts, times, st.integers(0, 3 * DAY // MINUTE), st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
def test_business_time_is_the_sum_of_open_minutes(worked: list[Shift], begin: int, minutes: int, zone: str) -> None:
    calendar = Calendar(name="c", time_zone=zone, shifts=tuple(worked), holidays=("2026-11-18", "2026-10-26"))
    by_minute = sum(calendar.at(begin + minute * MINUTE).is_open for minute in range(minutes)) * MINUTE
    assert calendar.business_ms(begin, begin + minutes * MINUTE) == by_minute


def test_over_a_change_of_the_clocks_business_time_is_what_passes() -> None:
    calendar = Calendar(
        name="c", time_zone="Europe/Berlin", shifts=(Shift(days=("sunday",), opens="00:00", closes="06:00"),)
    )
    sunday = round(datetime(2026, 10, 24, 22, tzinfo=UTC).timestamp() * 1000)
    assert calendar.business_ms(sunday, sunday + DAY) == 7 * HOUR


@given(st.lists(st.floats(1, 1e8), min_size=1, max_size=200), st.floats(0.05, 1))
def test_a_quantile_is_never_too_short_and_at_most_a_bucket_too_long(seen: list[float], share: float) -> None:
    durations = Durations()
    for one in seen:
        durations.add(one, 1.0)
    true = sorted(seen)[max(int(-(-share * len(seen) // 1)), 1) - 1]
    assert true <= durations.quantile_ms(share) * 1.001 + 1
    assert durations.quantile_ms(share) <= 1.5 * true + 250


def test_the_line_at_a_cut_off_is_as_long_as_the_pace_reaches() -> None:
    waiting = [(Due(60 * MINUTE, number, 0.0), number) for number in range(10)]
    assert [work for _, work in late(waiting, 6 / HOUR, 0)] == [6, 7, 8, 9]
    assert late([(Due(60 * MINUTE, 0, 61 * MINUTE), "slow")], 1.0, 0)


def test_a_pace_falls_within_the_time_of_ten_events() -> None:
    pace = Pace()
    for minute in range(600):
        pace.move(minute * MINUTE, 1)
    assert abs(pace.usual_per_ms * MINUTE - 1) < 0.05
    pace.move(630 * MINUTE)  # three times the time of ten
    assert pace.present_per_ms < 0.1 * pace.usual_per_ms
