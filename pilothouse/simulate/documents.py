"""Orders on their way: quotation, sale, reservation, picking, invoice, each document with its own times.

A stage takes its time only while those who do it work: people in open hours, crons when they run. So a night leaves a
backlog that the morning clears, and what holds a stage up holds up what follows. The orders of an hour are drawn from that
hour alone, so stretches that touch see the same documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pilothouse.simulate.drawing import Character, Drawn
from pilothouse.simulate.drivers import Drivers, Knob, Span
from pilothouse.simulate.load import HOUR_MS, Times, expected_load, open_hours
from pilothouse.simulate.noise import Floats
from schemas.records import BusinessBatch

LOOK_BACK_MS = 192 * HOUR_MS  # a holiday on either side of a weekend, and what was not done before it
FAR = float(2**52)
TOLD_MS = 60_000
AGAIN_MS = 600_000  # after which a label that failed is asked for again, as Odoo's queue retries
CARRIERS = ("Blue Parcel", "North Freight", "Rapid Post")


@dataclass(frozen=True)
class Step:
    """A state that a document reaches."""

    model: str
    state: str
    prefix: str


STEPS = (
    Step("sale.order", "draft", "S"),
    Step("sale.order", "sale", "S"),
    Step("stock.picking", "confirmed", "WH/OUT/"),
    Step("stock.picking", "assigned", "WH/OUT/"),
    Step("stock.picking", "done", "WH/OUT/"),
    Step("account.move", "draft", "INV/"),
    Step("account.move", "posted", "INV/"),
)
# From which step to which a document stands in a state; a sale is open until everything is shipped.
STANDS = {0: (0, 1), 1: (1, 4), 2: (2, 3), 3: (3, 4), 5: (5, 6)}


class Labels(NamedTuple):
    """What the carrier's jobs take at each look (s), and the share of them that fails."""

    delay_s: Floats
    failing: Floats


@dataclass
class Documents:
    """All documents of a tenant that a span can see. `reached` is (documents, steps), Unix ms; FAR where never."""

    character: Character
    ids: Times
    amounts: Floats
    carriers: Times
    reached: Floats

    def columns(self, span: Span) -> dict[tuple[str, str, str], Floats]:
        """(series, model, state) to what the collector sees: how many wait, since when, how many came."""
        times = span.times_ms.astype(float)
        edges = np.concatenate(([float(span.before_ms)], times))
        found: dict[tuple[str, str, str], Floats] = {}
        for place, step in enumerate(STEPS):
            came = np.searchsorted(np.sort(self.reached[:, place]), edges, side="right")
            found["transitions", step.model, step.state] = np.diff(came).astype(float)
        for place, (entered, left) in STANDS.items():
            step = STEPS[place]
            began, ended = np.sort(self.reached[:, entered]), np.sort(self.reached[:, left])
            into, out = np.searchsorted(began, times, side="right"), np.searchsorted(ended, times, side="right")
            found["count", step.model, step.state] = (into - out).astype(float)
            oldest = began[np.minimum(out, began.size - 1)] if began.size else times
            found["age", step.model, step.state] = np.where(into > out, (times - oldest) / 1000, 0.0)
        return found

    def batches(self, cell: str, span: Span) -> list[BusinessBatch]:
        """The states that were reached, minute by minute: documents are looked at so often, however seldom the rest is."""
        documents, steps = np.nonzero((self.reached > span.before_ms) & (self.reached <= span.times_ms[-1]))
        at = self.reached[documents, steps]
        order = np.lexsort((documents, steps, at))
        minutes = (at[order] // TOLD_MS).astype(np.int64)
        cuts = np.flatnonzero(np.diff(minutes)) + 1
        rows = zip(documents[order].tolist(), steps[order].tolist(), at[order].astype(int).tolist(), strict=True)
        told = list(rows)
        edges = [0, *cuts.tolist(), len(told)]
        return [self._batch(cell, told[one:other]) for one, other in pairwise(edges) if other > one]

    def open(self, at_ms: int) -> dict[int, int]:
        """Documents on their way at an instant, and how many steps of it they have reached."""
        counts = (self.reached <= at_ms).sum(axis=1)
        on_their_way = (counts > 0) & (counts < len(STEPS))
        return dict(zip(self.ids[on_their_way].tolist(), counts[on_their_way].tolist(), strict=True))

    def _batch(self, cell: str, rows: list[tuple[int, int, int]]) -> BusinessBatch:
        count, one = len(rows), self.character
        shipping = [STEPS[step].model == "stock.picking" for _, step, _ in rows]
        numbers = [int(self.ids[document]) for document, _, _ in rows]
        return BusinessBatch(
            cell=cell,
            resource=f"odoo-{one.name}",
            system="odoo",
            time_ms=rows[-1][2],
            tenants=(one.name,) * count,
            times_ms=tuple(when for _, _, when in rows),
            document_types=tuple(STEPS[step].model for _, step, _ in rows),
            document_ids=tuple(numbers),
            document_names=tuple(f"{STEPS[row[1]].prefix}{number}" for row, number in zip(rows, numbers, strict=True)),
            states=tuple(STEPS[step].state for _, step, _ in rows),
            orders=tuple(numbers),
            amounts=tuple(float(self.amounts[document]) for document, _, _ in rows),
            currencies=(one.tenant.currency,) * count,
            warehouses=tuple("Main" if ships else None for ships in shipping),
            carriers=tuple(
                CARRIERS[self.carriers[row[0]]] if ships else None for row, ships in zip(rows, shipping, strict=True)
            ),
            deadlines_ms=(None,) * count,
        )


def draw_documents(
    drawn: Drawn, one: Character, drivers: Drivers, labels: Labels, seed: int, before: Mapping[int, int] | None
) -> Documents:
    """The documents of a span; `before` is what `open` said."""
    span = drivers.span
    created, dwell, ids, carriers = _orders(drawn, one, drivers, seed)
    grid = np.concatenate((np.arange(span.before_ms - LOOK_BACK_MS, span.before_ms + 1, 900_000), span.times_ms))
    is_open = open_hours(one.calendar, grid)

    def pace(knob: Knob, *, people: bool) -> Floats:
        turned = np.concatenate((np.ones(grid.size - span.size), drivers.factor(knob, one.name)))
        return turned * (is_open if people else 1.0)

    # Reservation is a cron's work, invoicing half a person's.
    reserving = pace(Knob.RESERVING, people=False) * pace(Knob.CRONS, people=False)
    steps = [created]
    steps.append(_later(grid, is_open, created, dwell[:, 0]))
    steps.append(steps[1])
    steps.append(_later(grid, reserving, steps[1], dwell[:, 1]))
    picked = _later(grid, pace(Knob.PICKING, people=True), steps[3], dwell[:, 2])
    labelled = _labelled(span, picked, ids, labels.failing)
    delay_ms = np.interp(labelled, span.times_ms, labels.delay_s * 1000, left=0.0)
    steps.append(np.where(labelled < FAR, labelled + delay_ms, FAR))
    steps.append(_later(grid, pace(Knob.CRONS, people=False), steps[4], np.full(created.size, 30_000.0)))
    steps.append(_later(grid, pace(Knob.POSTING, people=False), steps[5], dwell[:, 3]))
    amounts = np.round(one.order_value * np.exp(dwell[:, 4]), 2)
    reached = np.floor(np.minimum(np.column_stack(steps), FAR))
    reached = _go_on(ids, reached, before, span.before_ms)
    return Documents(one, ids, amounts, carriers, reached)


def _labelled(span: Span, picked: Floats, ids: Times, failing: Floats) -> Floats:
    """When the label is there: who gets none asks again after a while. Chance belongs to the document and the attempt."""
    at, attempt = picked.copy(), 0
    asks = np.full(at.size, failing.any())
    while (asks := asks & (at <= span.times_ms[-1])).any():
        chance = (ids * 0.7548776662 + attempt * 0.5698402910) % 1.0  # an even sequence in two dimensions
        asks &= chance < np.interp(at, span.times_ms, failing, left=0.0)
        at[asks] += AGAIN_MS
        attempt += 1
    return at


def _go_on(ids: Times, reached: Floats, before: Mapping[int, int] | None, at_ms: int) -> Floats:
    """What was reached when the last stretch ended stays reached, and what was not comes after it."""
    if before is None:
        return reached
    old = reached[:, 0] <= at_ms
    counts = np.array([before.get(one, len(STEPS)) for one in ids.tolist()])
    was = np.arange(len(STEPS)) < counts[:, None]
    kept = np.where(was, np.minimum(reached, at_ms), np.maximum(reached, at_ms + 1))
    return np.where(old[:, None], kept, reached)


def _orders(drawn: Drawn, one: Character, drivers: Drivers, seed: int) -> tuple[Floats, Floats, Times, Times]:
    span = drivers.span
    first, last = (span.before_ms - LOOK_BACK_MS) // HOUR_MS, int(span.times_ms[-1]) // HOUR_MS
    hours = np.arange(first, last + 1, dtype=np.int64)
    mean = expected_load(one, hours * HOUR_MS + HOUR_MS // 2, drawn.start_ms) * one.orders_per_s * 3_600
    demand = drivers.factor(Knob.DEMAND, one.name) * drivers.factor(Knob.ORDERS, one.name)
    most = max(float(demand.max(initial=1.0)), 1.0)
    parts: list[tuple[Floats, Floats, Times, Times]] = []
    for hour, usual in zip(hours.tolist(), mean.tolist(), strict=True):
        random = np.random.default_rng([drawn.seed, sum(one.name.encode()), hour, 7])
        parts.append(_of_hour(random, one, hour, random.poisson(usual), 0))
        if most > 1.0 and (hour + 1) * HOUR_MS > span.before_ms:
            more = np.random.default_rng([drawn.seed, seed, sum(one.name.encode()), hour, 8])
            parts.append(_of_hour(more, one, hour, more.poisson(usual * (most - 1)), 500_000))
    created = np.concatenate([part[0] for part in parts])
    ids = np.concatenate([part[2] for part in parts])
    # Thinned to what the demand of the moment is: of the usual ones some do not come, of the others only some do.
    wanted = np.interp(created, span.times_ms, demand, left=1.0)
    is_more = ids % 1_000_000 >= 500_000
    share = np.where(is_more, np.maximum(wanted - 1, 0) / max(most - 1, 1e-9), np.minimum(wanted, 1.0))
    keep = np.random.default_rng([drawn.seed, seed, 9]).random(created.size) < share
    return tuple(np.concatenate([part[place] for part in parts])[keep] for place in range(4))


def _of_hour(
    random: np.random.Generator, one: Character, hour: int, count: int, first: int
) -> tuple[Floats, Floats, Times, Times]:
    created = np.sort(random.uniform(0, HOUR_MS, count)) + hour * HOUR_MS
    dwell = np.column_stack(
        (
            180_000 * np.exp(random.normal(0, 0.8, count)),
            random.uniform(0, 300_000, count),
            1000 * one.pick_s * np.exp(random.normal(0, 0.6, count)),
            120_000 * np.exp(random.normal(0, 0.5, count)),
            random.normal(0, 0.9, count),
        )
    )
    ids = (hour % 10_000) * 1_000_000 + first + np.arange(count, dtype=np.int64)
    return created, dwell, ids, random.integers(0, len(CARRIERS), count)


def _later(grid: Times, pace: Floats, since: Floats, work_ms: Floats) -> Floats:
    """When work that begins at `since` is done, at a pace given on the grid; FAR when not within it."""
    done = np.concatenate(([0.0], np.cumsum(np.diff(grid) * pace[1:])))
    target = np.interp(since, grid, done) + work_ms
    # Where nothing moves, interp takes the last place, from which it goes on.
    return np.where(
        (target > done[-1]) | (since >= FAR), FAR, np.maximum(np.interp(target, done, grid.astype(float)), since)
    )
