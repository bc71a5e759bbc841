"""A run: where it branches off from an estate's life, what happens in it, how it is lived through and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pilothouse.simulate.aftermath import worked_off_ms
from pilothouse.simulate.drivers import Drivers, Span
from pilothouse.simulate.estates import COARSE_MS, FINE_MS, Lived
from pilothouse.simulate.faults import Happening, Timed
from pilothouse.simulate.running import Cell
from pilothouse.simulate.scoring import Scored, score
from pilothouse.simulate.truth import Label
from processors.fold import Finding
from schemas.records import Record

MINUTE_MS = 60_000


@dataclass(frozen=True)
class Story:
    """What happens after a moment. `declares` are changes of calendars by tenant, known before it begins.

    Looks come every minute; up to `coarse_ms` after the moment (for what takes hours or days) every quarter of an hour.
    `systems` narrows what is looked at, for stories of days that only one system tells; `besides` are looked at from then on.
    """

    moment: str
    length_ms: int
    happenings: tuple[Happening, ...]
    declares: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    coarse_ms: int = 0
    systems: frozenset[str] = frozenset()
    besides: frozenset[str] = frozenset()


@dataclass
class Outcome:
    """What came of a story."""

    label: Label
    told: list[Finding]
    log: list[tuple[int, Record]]


def live(lived: Lived, family: str, run: int, seed: int, story: Story, *, keep_log: bool = False) -> Outcome:
    """Branch off and live through it."""
    moment = lived.at(story.moment)
    drawn, begins_ms = moment.drawn, moment.at_ms
    for tenant, changes in story.declares.items():
        drawn = drawn.with_calendar(tenant, **changes)
    told: list[Finding] = []
    log: list[tuple[int, Record]] = []
    for number, span in enumerate(_spans(moment.at_ms, story)):
        cell = Cell.at(moment, lived.settings, drawn, slowly=span.dt_s[0] * 1000 >= COARSE_MS)
        cell.systems, cell.besides, cell.log = story.systems, story.besides, log if keep_log else None
        drivers = Drivers(span)
        for one in story.happenings:
            one.turn(drivers)
        own: list[Timed] = [pair for one in story.happenings for pair in one.records]
        mine = [pair for pair in own if span.before_ms < pair[0] <= span.times_ms[-1]]
        told += cell.run(drivers, 1_000 + run * 10 + number, mine, documents=not story.systems)
        moment = cell.moment()
    truth = tuple(one.truth for one in story.happenings)
    wanted = next((one for one in truth if not one.expected), None)
    label = Label(
        family=family, run=run, seed=seed, cell=drawn.cell, from_ms=begins_ms, to_ms=moment.at_ms, truth=truth,
        worked_off_ms=worked_off_ms(cell.world, wanted) if wanted and cell.world else None,
    )  # fmt: skip
    return Outcome(label, told, log)


def judge(lived: Lived, family: str, run: int, seed: int, story: Story) -> Scored:
    """Live through it and score."""
    through = live(lived, family, run, seed, story)
    return score(through.label, through.told)


def _spans(at_ms: int, story: Story) -> list[Span]:
    coarse = Span.of(at_ms, at_ms + story.coarse_ms, COARSE_MS) if story.coarse_ms else None
    begins_ms = int(coarse.times_ms[-1]) if coarse else at_ms
    fine = Span.of(begins_ms, at_ms + story.length_ms, FINE_MS) if at_ms + story.length_ms > begins_ms else None
    return [one for one in (coarse, fine) if one is not None]
