"""The healthy estate: many cells, two months, nothing wrong. Every alert is a false one.

There is all that healthy companies have: days, weeks, month ends, a change of clocks, holidays that were declared, campaigns
that come about as large as they were declared, maintenance that was announced, a backup and log rotation each night,
looks that fail and records that come late. What is counted are alerts as `scoring` defines them, by cell and week.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from pilothouse.simulate.drawing import Drawn, draw
from pilothouse.simulate.drivers import Drivers, Knob, Span, course
from pilothouse.simulate.processes import side_by_side
from pilothouse.simulate.running import Cell, Settings
from schemas.calendar import Campaign, Window
from schemas.records import Incident, Phase, Severity

GRAIN_MS = 300_000
TENANTS = 7  # about 550 series
WEEK_MS = 604_800_000
LEARNING_WEEKS = 2
STARTS = (
    date(2026, 3, 2),
    date(2026, 10, 5),
    date(2025, 11, 24),
)  # clocks change in the first two, Christmas in the third


@dataclass(frozen=True)
class Job:
    """One cell."""

    seed: int
    number: int
    weeks: int
    tenants: int
    settings: Settings


def live(job: Job) -> dict[str, Any]:
    """One cell through its weeks: alerts by week, and what they were."""
    seed = job.seed * 10_000 + 5_000 + job.number
    random = np.random.default_rng([seed, 19])
    drawn = draw(seed, tenants=job.tenants, cell=f"cell{job.number:02d}", start=STARTS[job.number % len(STARTS)])
    drawn = declared(drawn, random, job.weeks)
    cell = Cell(drawn, job.settings, slowly=True)
    alerts: dict[str, tuple[int, Incident]] = {}
    width = 0
    for week in range(job.weeks):
        span = Span.of(cell.at_ms, cell.at_ms + WEEK_MS, GRAIN_MS)
        drivers = Drivers(span)
        _actual(drawn, drivers, np.random.default_rng([seed, week, 23]))
        before = cell.points
        for found in cell.run(drivers, week):
            one = found.record
            if isinstance(one, Incident) and one.phase is not Phase.RESOLVED and one.severity >= Severity.WARNING:
                alerts.setdefault(one.id, (found.envelope.recorded_ms, one))
        width = round((cell.points - before) / span.size)
    by_week = Counter((at_ms - drawn.start_ms) // WEEK_MS for at_ms, _ in alerts.values())
    return {
        "cell": drawn.cell,
        "seed": seed,
        "series": width,
        "records": cell.records,
        "points": cell.points,
        "weeks": [by_week.get(week, 0) for week in range(job.weeks)],
        "alerts": [
            {
                "at": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(),
                "cause": one.causes[0].cause,
                "title": one.title,
            }
            for at_ms, one in alerts.values()
        ],
    }


def declared(drawn: Drawn, random: np.random.Generator, weeks: int) -> Drawn:
    """Campaigns and maintenance that were entered into the calendars before they came."""
    first = datetime.fromtimestamp(drawn.start_ms / 1000, UTC).date()
    tenants = []
    for one in drawn.tenants:
        zone = ZoneInfo(one.calendar.time_zone)
        campaigns = tuple(
            _window(
                Campaign,
                random,
                first,
                zone,
                week,
                8,
                12,
                load=min(float(random.uniform(1.5, 3.5)), drawn.room(one.name)),
                name="campaign",
            )
            for week in range(LEARNING_WEEKS, weeks)
            if random.random() < 0.25
        )
        maintenance = tuple(
            _window(Window, random, first, zone, week, 1, 2, name="maintenance")
            for week in range(weeks)
            if random.random() < 0.1
        )
        calendar = one.calendar.model_copy(update={"campaigns": campaigns, "maintenance": maintenance})
        tenants.append(replace(one, calendar=calendar))
    return replace(drawn, tenants=tuple(tenants))


def _window(
    kind: Any,
    random: np.random.Generator,
    first: date,
    zone: ZoneInfo,
    week: int,
    earliest: int,
    hours: int,
    **more: Any,
) -> Any:
    day = first + timedelta(days=7 * week + int(random.integers(0, 7)))
    starts = datetime.combine(day, time(int(random.integers(earliest, earliest + 3))), zone)
    return kind(starts=starts, ends=starts + timedelta(hours=float(random.uniform(1, hours))), **more)


def _actual(drawn: Drawn, drivers: Drivers, random: np.random.Generator) -> None:
    """What really comes: campaigns not quite as declared, tenants that stand in their maintenance, a backup at night."""
    span = drivers.span
    for one in drawn.tenants:
        for window in one.calendar.maintenance:
            stands = course(span, _ms(window.starts), _ms(window.ends) - 600_000)
            drivers.scale(Knob.WORKERS, one.name, 1 - stands)
            drivers.scale(Knob.CRONS, one.name, 1 - stands)
        for campaign in one.calendar.campaigns:
            during = course(span, _ms(campaign.starts), _ms(campaign.ends))
            drivers.scale(Knob.DEMAND, one.name, 1 + during * (random.uniform(0.85, 1.15) - 1))
    nightly = ((span.times_ms // 60_000) % 1_440 < 35).astype(float)
    drivers.scale(Knob.DISK, "", 1 + nightly * random.uniform(0.3, 1.0))
    drivers.add(Knob.CPU, "", nightly * 0.05)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def run(
    cells: int, weeks: int, seed: int, settings: Settings, processes: int = 1, tenants: int = TENANTS
) -> Iterable[dict[str, Any]]:
    """A result for each cell, in their order."""
    work = [Job(seed, number, weeks, tenants, settings) for number in range(cells)]
    yield from side_by_side(live, work, processes)


def result(seed: int, weeks: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures: false alerts by cell and week."""
    alerts = [alert for one in found for alert in one["alerts"]]
    kinds = Counter(alert["cause"].partition(":")[0] for alert in alerts)
    later = [count for one in found for count in one["weeks"][LEARNING_WEEKS:]]
    return {
        "seed": seed,
        "command": f"pilothouse simulate healthy --cells {len(found)} --weeks {weeks} --seed {seed} -o json",
        "cells": len(found),
        "weeks": weeks,
        "series": sum(one["series"] for one in found),
        "records": sum(one["records"] for one in found),
        "points": sum(one["points"] for one in found),
        "alerts": len(alerts),
        "alerts_per_cell_and_week": round(len(alerts) / max(len(found) * weeks, 1), 3),
        "alerts_per_cell_and_week_after_learning": round(sum(later) / max(len(later), 1), 3),
        "worst_cell_per_week": max((round(sum(one["weeks"]) / weeks, 3) for one in found), default=0.0),
        "by_week": [sum(one["weeks"][week] for one in found) for week in range(weeks)],
        "kinds": dict(kinds.most_common()),
        "by_cell": found,
    }
