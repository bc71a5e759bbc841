"""What a day usually looks like: openings, nights, several clocks, and days without a past."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from processors.step import Findings, Item
from processors.steps import baseline
from processors.steps.hours import Weeks
from processors.steps.seasonal import is_shifted
from schemas.calendar import DAYS, Calendar
from schemas.estate import Estate
from schemas.records import Phase, Scrape, Signal

MONDAY = datetime(2026, 9, 7, tzinfo=UTC)
STEP, DAY = timedelta(minutes=5), timedelta(days=1)
THAT_DAY = date(2026, 9, 22)  # a Tuesday, two weeks later
ACME = {"name": "acme", "calendar": "berlin"}
SHIFT = {"opens": "07:00", "closes": "17:00"}
BERLIN = {"name": "berlin", "time_zone": "Europe/Berlin", "shifts": [SHIFT]}
WAITING = 'erp.document.count{erp.document.state="assigned",tenant.id="acme"}'

Values = Callable[[datetime, np.random.Generator], float]


def estate(**calendar: object) -> Estate:
    return Estate.model_validate({"cells": [{"name": "eu1", "tenants": [ACME]}], "calendars": [{**BERLIN, **calendar}]})


def opened(
    days: float, series: str, values: Values, start: datetime = MONDAY, step: timedelta = STEP, **calendar: object
) -> list[tuple[datetime, str]]:
    """(local time, cause) of what opens while one series is looked at, every five minutes from a Monday on."""
    return [
        (at, one.cause) for at, one in told(days, series, values, start, step, **calendar) if one.phase is Phase.OPEN
    ]


def told(
    days: float, series: str, values: Values, start: datetime = MONDAY, step: timedelta = STEP, **calendar: object
) -> list[tuple[datetime, Signal]]:
    """The same of all that is told."""
    config, state, rng = (
        baseline.Config(cell="eu1", estate=estate(**calendar)),
        baseline.STEP.fresh(),
        np.random.default_rng(3),
    )
    out = []
    for at in range(int(days * DAY / step)):
        local = (start + at * step).astimezone(ZoneInfo("Europe/Berlin"))
        time_ms = round(local.timestamp() * 1000)
        scrape = Scrape.of(
            {series: values(local, rng)}, cell="eu1", resource="odoo-acme", system="odoo", time_ms=time_ms
        )
        _, found = baseline.step(config, state, Item(time_ms, scrape))
        out += [(local, one) for one in found if isinstance(one, Signal)]
    return out


def morning(local: datetime, rng: np.random.Generator) -> float:
    """What the night has left is worked off from seven on; by day a handful waits, at night next to nothing."""
    since = (local.hour - 7) * 60 + local.minute
    if local.weekday() >= 5 or not 0 <= since < 600:
        return float(rng.poisson(0.3))
    left = 60 * np.exp(-since / 15) * (2 if local.weekday() == 0 else 1)
    return float(rng.poisson(4 + left))


def test_an_opening_that_leaps_every_morning_is_usual_from_the_first_one_on() -> None:
    assert opened(15, WAITING, morning) == []


def test_the_same_leap_in_the_afternoon_is_told() -> None:
    def once_more(local: datetime, rng: np.random.Generator) -> float:
        again = local.date() == THAT_DAY and local.hour == 15
        return morning(local, rng) + 150 * again

    ((at, cause),) = opened(16, WAITING, once_more)
    assert (at.hour, cause) == (15, "process.backlog:acme")


def test_a_night_is_as_quiet_as_nights_are() -> None:
    """A hundred documents more are nothing to a day that swings by as many, and are told at night."""

    def swinging(hour: int) -> Values:
        def value(local: datetime, rng: np.random.Generator) -> float:
            usual = 200 + rng.normal(0, 40) if 8 <= local.hour < 20 else 10 + rng.normal(0, 2)
            return usual + 100 * (local.date() == THAT_DAY and local.hour == hour)

        return value

    assert opened(16, WAITING, swinging(12)) == []
    assert [at.hour for at, _ in opened(16, WAITING, swinging(3))] == [3]


def test_what_was_always_there_and_falls_is_told_on_the_first_day() -> None:
    def up(local: datetime, _: np.random.Generator) -> float:
        return float(local.hour < 12)

    assert [(at.hour, cause) for at, cause in opened(0.6, "odoo.health.up", up)] == [(12, "odoo.web:odoo-acme")]


@pytest.mark.parametrize("hours", [0.5, 3, None])
def test_what_goes_on_is_told_until_it_is_over_or_usual(hours: float | None) -> None:
    """A disk that is slow for half an hour or three, and one that is from now on: that is usual by the next day."""
    starts = MONDAY + timedelta(days=1, hours=10)
    ends = starts + timedelta(hours=hours or 100)

    def busy(local: datetime, rng: np.random.Generator) -> float:
        return float(rng.normal(0.4 if starts <= local < ends else 0.05, 0.01))

    news = told(3, "system.cpu.iowait", busy, step=timedelta(minutes=1))
    (first, opens), *_, (last, closes) = news
    assert [one.phase for _, one in news].count(Phase.OPEN) == 1
    assert (opens.phase, closes.phase) == (Phase.OPEN, Phase.RESOLVED)
    assert first - starts <= timedelta(minutes=5)
    usual_after = timedelta(hours=20)
    assert timedelta(0) <= last - ends <= timedelta(minutes=5) if hours else last - starts < usual_after


@pytest.mark.parametrize("rest_days", [0, 2])
def test_what_only_nights_and_rests_have_shown_has_no_usual_work(rest_days: int) -> None:
    """Not a single document waits before the first shift; then one does now and then, for ten minutes."""
    age = WAITING.replace("count", "age.max")

    def waits(local: datetime, _: np.random.Generator) -> float:
        at_work = local.weekday() < 5 and 7 <= local.hour < 17
        return 60.0 * max(local.minute - 40, 0) if at_work and local.minute < 50 else 0.0

    def stands(local: datetime, rng: np.random.Generator) -> float:
        return waits(local, rng) + 36_000 * (local.weekday() == 1 and local.hour == 15)

    start, step = MONDAY - timedelta(days=rest_days), timedelta(minutes=1)
    assert opened(rest_days + 1, age, waits, start, step) == []
    assert [at.hour for at, _ in opened(rest_days + 1.7, age, stands, start, step)] == [15]


@pytest.mark.parametrize("ends", ["2026-09-22T12:30:00+02:00", None])
def test_what_a_declared_window_held_up_is_made_good_in_peace(ends: str | None) -> None:
    window = {"name": "upgrade", "starts": "2026-09-22T11:30:00+02:00", "ends": ends}

    def held_up(local: datetime, rng: np.random.Generator) -> float:
        is_held = local.date() == THAT_DAY and 12 <= local.hour < 13
        return morning(local, rng) + 120 * is_held

    told = opened(16, WAITING, held_up, maintenance=[window] if ends else [])
    assert told == [] if ends else [at.hour for at, _ in told] == [12]


def test_what_a_holiday_left_lying_waits_in_peace_until_people_are_back() -> None:
    def oldest(local: datetime, rng: np.random.Generator) -> float:
        """How long the oldest document has waited: minutes by day, else since the last evening on which somebody worked."""
        if 7 <= local.hour < 17 and local.date() != THAT_DAY:
            return float(rng.uniform(300, 900))
        day = local.date() - timedelta(days=local.hour < 17)
        evening = datetime.combine(day - DAY if day == THAT_DAY else day, time(17))
        return (local.replace(tzinfo=None) - evening).total_seconds() + float(rng.uniform(300, 900))

    series = 'erp.document.age.max{erp.document.state="assigned",tenant.id="acme"}'
    shifts = [{**SHIFT, "days": list(DAYS)}]
    assert opened(17, series, oldest, shifts=shifts, holidays=[THAT_DAY.isoformat()]) == []


def test_what_nobody_has_taken_up_since_friday_waits_for_monday() -> None:
    """Orders come on Saturdays, too; the first Sunday is the first day on which the oldest is older than a day."""

    def oldest(local: datetime, rng: np.random.Generator) -> float:
        if local.weekday() < 5 and 7 <= local.hour < 17:
            return float(rng.uniform(300, 900))
        back = (local.weekday() - 4) * (local.weekday() > 4) or int(local.hour < 17)
        evening = datetime.combine(local.date() - back * DAY, time(17))
        waited = (local.replace(tzinfo=None) - evening).total_seconds()
        return max(waited - 43_200 * (local.weekday() >= 5), 0.0) + float(rng.uniform(300, 900))

    series = 'erp.document.age.max{erp.document.state="draft",tenant.id="acme"}'
    assert opened(6.9, series, oldest) == []


def test_a_job_that_never_ends_is_told_while_its_channel_moves_and_one_that_is_long_every_night_is_not() -> None:
    running = 'odoo.queue_job.started.age.max{odoo.queue_job.channel="root.import",tenant.id="acme"}'

    def longest(local: datetime, rng: np.random.Generator) -> float:
        since_two = (local.hour - 2) * 3_600 + local.minute * 60
        if local.date() == THAT_DAY and local.hour >= 10:  # one of ten o'clock never ends
            return float((local.hour - 10) * 3_600 + local.minute * 60)
        return float(since_two) if 0 <= since_two < 9_000 else float(rng.exponential(20.0))

    assert [(at.date(), at.hour, cause) for at, cause in opened(15.5, running, longest)] == [
        (THAT_DAY, 11, "queue.stuck:acme")
    ]


def test_an_age_is_never_expected_below_nought(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waited for most of the day is done at once: the follower of the present must not run on into what cannot be."""

    def oldest(local: datetime, rng: np.random.Generator) -> float:
        since_h = (local.hour - 17) % 24 + local.minute / 60
        return 3_600 * since_h if since_h < 14 and local.date() != THAT_DAY else float(rng.uniform(0, 900))

    series = 'erp.document.age.max{erp.document.state="assigned",tenant.id="acme"}'
    least, judge = [0.0], baseline._judge

    def spy(config: baseline.Config, state: baseline.State, scrape: Scrape, seen: baseline.Look) -> Findings:
        least.append(float(seen.expected[0]))
        return judge(config, state, scrape, seen)

    monkeypatch.setattr(baseline, "_judge", spy)
    opened(16, series, oldest)
    assert len(least) > 1_000
    assert min(least) >= 0


def test_people_are_back_an_hour_after_the_first_shift_that_follows_a_holiday() -> None:
    berlin = Calendar.model_validate({**BERLIN, "holidays": ["2026-09-21", "2026-09-22"]})
    always = Calendar(name="always", holidays=(THAT_DAY,))

    def rests(calendar: Calendar, day: int, hour: int) -> bool:
        return calendar.rests(
            round(datetime(2026, 9, day, hour, 30, tzinfo=ZoneInfo(calendar.time_zone)).timestamp() * 1000)
        )

    hours = [(20, 23), (21, 12), (22, 23), (23, 6), (23, 7), (23, 8), (24, 3)]
    assert [rests(berlin, *one) for one in hours] == [False, True, True, True, True, False, False]
    assert [rests(always, *one) for one in hours] == [False, False, True, False, False, False, False]


def test_a_declared_peak_may_make_wait_what_usually_does_not() -> None:
    peak = {"name": "sale", "starts": "2026-09-22T09:00:00+02:00", "ends": "2026-09-22T17:00:00+02:00", "load": 2.5}

    def waits(longest_s: float) -> Values:
        return lambda local, _: longest_s * (local.date() == THAT_DAY and local.hour == 11)

    age = 'odoo.queue_job.age.max{odoo.queue_job.channel="root",tenant.id="acme"}'
    assert [at.hour for at, _ in opened(15.8, age, waits(100))] == [11]
    assert opened(15.8, age, waits(100), campaigns=[peak]) == []
    assert [at.hour for at, _ in opened(15.8, age, waits(700), campaigns=[peak])] == [11]


def test_tenants_of_two_countries_have_their_own_weeks() -> None:
    """Clocks change in New York a week after Berlin's; days of work are each one's own."""
    north = Calendar.model_validate({"name": "ny", "time_zone": "America/New_York", "shifts": [SHIFT]})
    every_day = {"days": list(map(str, ("monday", "saturday"))), "opens": "07:00", "closes": "17:00"}
    berlin = Calendar.model_validate({**BERLIN, "shifts": [every_day]})
    weeks = Weeks([berlin, north], np.array([0, 1, 1]))
    noon = round(datetime(2026, 10, 27, 12, 15, tzinfo=ZoneInfo("Europe/Berlin")).timestamp() * 1000)
    assert weeks.at(noon).hour.tolist() == [24 + 12, 24 + 7, 24 + 7]
    assert weeks.at(noon).quarter.tolist() == [(24 + 12) * 4 + 1, (24 + 7) * 4 + 1, (24 + 7) * 4 + 1]
    assert [weeks.at(noon - back * 86_400_000).loose[0] for back in (0, 1, 2)] == [1, 4, 4]
    assert weeks.kinds[:, 0].tolist() == [1, 0, 0, 0, 0, 1, 0]
    assert weeks.kinds[:, 1].tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_what_waits_over_the_night_in_which_clocks_change_is_an_hour_older_in_peace() -> None:
    def age(local: datetime, rng: np.random.Generator) -> float:
        closed = local.replace(hour=17, minute=0) - timedelta(days=local.hour < 17)
        waits = (local.astimezone(UTC) - closed.astimezone(UTC)).total_seconds()
        return rng.uniform(0, 60) if 7 <= local.hour < 17 else waits

    assert opened(22, WAITING.replace("count", "age.max"), age, start=datetime(2026, 10, 5, tzinfo=UTC)) == []


def test_the_state_of_a_series_is_at_most_two_kibibytes() -> None:
    state, config = baseline.STEP.fresh(), baseline.Config(cell="eu1")
    names = [f"x{number:03}" for number in range(100)]
    for at in range(40):
        scrape = Scrape.of(
            dict.fromkeys(names, float(at % 7)), cell="eu1", resource="r", system="s", time_ms=at * 300_000
        )
        baseline.step(config, state, Item(at * 300_000, scrape))
    parts = baseline.STEP.pack(state)
    assert sum(map(len, parts.values())) / len(names) <= 2_048
    assert baseline.STEP.pack(baseline.STEP.unpack(parts)) == parts


def test_for_five_weeks_after_a_change_of_clocks_nobody_knows_who_moved_with_them() -> None:
    berlin = Calendar.model_validate(BERLIN)
    days = {"2026-10-24": False, "2026-10-26": True, "2026-11-20": True, "2026-12-01": False}
    for day, shifted in days.items():
        noon_ms = round(datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp() * 1000)
        assert is_shifted(berlin, noon_ms) is shifted, day
    assert not is_shifted(Calendar(name="utc"), round(datetime(2026, 10, 26, tzinfo=UTC).timestamp() * 1000))
