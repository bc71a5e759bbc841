"""Drawn cells in which changes are made: tenants with day curves, drifting and bursty noise, and an effect that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from processors.step import Item
from processors.steps.difference_in_differences import STEP
from schemas.records import Change, Record, Scrape, Signal
from tests.support.folding import folded

T0 = 1_795_230_000_000


@dataclass
class Draw:
    """One drawn cell. Effects are factors on the changed tenants from the change on; `shock` hits all tenants at that time."""

    seed: int
    tenants: int = 6
    changed: int = 2
    interval_s: float = 15.0
    before_s: float = 5_400.0
    after_s: float = 3_600.0
    requests_s: float = 4.0
    jobs_s: float = 0.5
    wander: float = 0.03
    latency: float = 1.0
    errors_s: float = 0.0
    failed_s: float = 0.0
    served: float = 1.0
    shock: float = 1.0
    blip_s: float = 20.0
    rolled_back_after_s: float | None = None
    everywhere: bool = False
    counters: dict[str, float] = field(default_factory=dict)

    def names(self) -> list[str]:
        return [f"tenant-{number}" for number in range(self.tenants)]

    def change(self, at_s: float, **more: Any) -> Change:
        return Change(
            cell="eu1", time_ms=T0 + round(at_s * 1000), change_id=f"c-{self.seed}", kind="release",
            status=more.pop("status", "succeeded"), service="odoo", revision="2.4.1", previous_revision="2.4.0",
            tenants=() if self.everywhere else tuple(self.names()[: self.changed]), author="ci", origin="generic", **more,
        )  # fmt: skip

    def records(self) -> Iterator[Record]:
        rng = np.random.default_rng(self.seed)
        slow = rng.normal(0, 1, self.tenants)
        told = back = False
        for number in range(int((self.before_s + self.after_s) / self.interval_s)):
            at_s = number * self.interval_s
            if at_s >= self.before_s and not told:
                told = True
                yield self.change(at_s)
            if self.rolled_back_after_s is not None and at_s >= self.before_s + self.rolled_back_after_s and not back:
                back = True
                yield self.change(at_s, status="rolled_back")
            weight = math.exp(-self.interval_s / 1_800)
            slow = weight * slow + math.sqrt(1 - weight * weight) * rng.normal(0, 1, self.tenants)
            yield self.scrape(rng, at_s, slow, told and not back)

    def scrape(self, rng: np.random.Generator, at_s: float, slow: np.ndarray, ill: bool) -> Scrape:
        points: dict[str, float | None] = {}
        since_s = at_s - self.before_s
        day = 1 + 0.5 * math.sin(2 * math.pi * (at_s + 86_400 * (self.seed % 97) / 97) / 86_400)
        for number, name in enumerate(self.names()):
            hit = ill and (number < self.changed or self.everywhere)
            blip = 3.0 if 0 <= since_s < self.blip_s and (number < self.changed or self.everywhere) else 1.0
            shock = self.shock if since_s >= 0 else 1.0
            size = (0.3 + number / self.tenants) * math.exp(self.wander * 3 * slow[number])
            asked = rng.poisson(self.requests_s * self.interval_s * size * day)
            mean = (
                0.25 * day**0.3 * shock * blip * (self.latency if hit else 1.0) * math.exp(self.wander * slow[number])
            )
            of = f'{{tenant.id="{name}"}}'
            points[f"odoo.http.request.duration.mean{of}"] = (
                float(mean * rng.lognormal(0, 0.6 / math.sqrt(asked))) if asked else None
            )
            self.count(
                points,
                f"odoo.http.errors{of}",
                rng.poisson(self.interval_s * (0.01 + (self.errors_s if hit else 0)) * shock),
            )
            self.count(points, f"odoo.log.errors{of}", rng.poisson(self.interval_s * 0.01) * int(rng.integers(1, 4)))
            self.count(
                points,
                f"odoo.queue_job.failed{of}",
                rng.poisson(self.interval_s * (0.005 + (self.failed_s if hit else 0))),
            )
            done = self.jobs_s * self.interval_s * size * day * (self.served if hit else 1.0) / (blip**3)
            self.count(points, f"odoo.queue_job.done{of}", rng.poisson(done / 2) * 2)
            of = f'{{http.response.status_class="2xx",tenant.id="{name}"}}'
            self.count(points, f"odoo.http.requests{of}", asked)
        time_ms = T0 + round(at_s * 1000)
        return Scrape.of(points, cell="eu1", resource="log-eu1", system="odoo_log", time_ms=time_ms, start_time_ms=T0)

    def count(self, points: dict[str, float | None], name: str, events: float) -> None:
        self.counters[name] = self.counters.get(name, 0.0) + events
        points[name] = self.counters[name]


def judged(
    draw: Draw,
    *,
    records: Iterable[Record] | None = None,
    between: Callable[[Any], Any] = lambda state: state,
    **config: Any,
) -> list[Signal]:
    """What is told of the drawn change, or of other records; `between` is done to the state after each."""
    items = (Item(one.time_ms, one) for one in (draw.records() if records is None else records))
    return folded(STEP, STEP.config(cell="eu1", **config), items, between=between)
