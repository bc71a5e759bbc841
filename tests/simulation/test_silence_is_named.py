"""Labelled draws of tenants whose work goes on or stops: is a silence found, named for what it is, and is health silent?

Each draw is a tenant with rates, clumps and a rhythm of its own, ten days at work, and one story on the last day. What stops has
come every two minutes at least, and stands for two hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from processors.step import Item
from processors.steps import absence
from schemas.estate import Estate
from schemas.records import Phase, Scrape, Signal

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MONDAY = round(datetime(2026, 10, 19, tzinfo=UTC).timestamp() * 1000)  # clocks change on the Sunday after it
DHL, METRO, MAILS = "root.carrier.dhl", "root.edi.metro", "root.mail"
LAST_DAY = 9  # a Wednesday


def jobs(channel: str) -> str:
    return f'odoo.queue_job.done{{odoo.queue_job.channel="{channel}",tenant.id="acme"}}'


CRON, ORDERS = (
    'odoo.cron.runs{odoo.cron.name="Mail",tenant.id="acme"}',
    'erp.document.transitions{erp.document.state="sale",erp.document.type="sale.order",tenant.id="acme"}',
)
ALL = (jobs(DHL), jobs(METRO), jobs(MAILS), CRON, ORDERS)
STOPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "workers": ("odoo.workers:acme", ALL[:4]),
    "partner": ("integration.silent:dhl", (jobs(DHL),)),
    "queue": ("queue.stuck:acme", (jobs(MAILS),)),
    "crons": ("odoo.cron:acme", (CRON,)),
    "orders": ("process.stopped:acme", (ORDERS,)),
}
CALM = ("ordinary", "holiday", "slow day", "unmeasured", "maintenance")


@dataclass
class Draw:
    """One tenant and what happens to it."""

    seed: int
    story: str

    def told(self) -> list[Signal]:
        rng = np.random.default_rng([self.seed, *self.story.encode()])
        rates = dict(zip(ALL, np.exp(rng.uniform(np.log(1.5), np.log(8), len(ALL))), strict=True))
        clumps = {name: int(rng.integers(1, 3)) for name in ALL}
        begins, ends = rng.uniform(8.0, 8.7), rng.uniform(17.2, 18.0)
        stop = MONDAY + LAST_DAY * DAY + round(rng.uniform(10, 14) * HOUR)
        config = absence.Config(cell="eu1", estate=self._estate(stop))
        state, found = absence.STEP.fresh(), list[Signal]()
        totals = dict.fromkeys(ALL, 0.0)
        at, until = MONDAY, stop + 2 * HOUR
        while at < until:
            step_ms = MINUTE if at >= stop - HOUR else 5 * MINUTE
            at += step_ms
            if self.story == "unmeasured" and stop <= at < stop + HOUR // 2:
                continue
            local = config.calendar("acme").local(at)
            at_work = begins <= local.hour + local.minute / 60 < ends and local.weekday() < 5
            slow = 0.4 if self.story == "slow day" and at > stop - 8 * HOUR else 1.0
            off = self.story == "holiday" and at // DAY == stop // DAY
            stands = at >= stop and (
                STOPS[self.story][1] if self.story in STOPS else ALL if self.story == "maintenance" else ()
            )
            for name, rate in rates.items():
                if (name == CRON or (at_work and not off)) and not (stands and name in stands):
                    many = rng.poisson(rate * slow * step_ms / MINUTE / clumps[name]) * clumps[name]
                    totals[name] += step_ms / MINUTE if name == CRON else float(many)
            points: dict[str, Any] = dict(totals)
            scrape = Scrape.of(points, cell="eu1", resource="o", system="odoo", time_ms=at, start_time_ms=MONDAY)
            state, more = absence.step(config, state, Item(at, scrape))
            found += [one for one in more if isinstance(one, Signal)]
        return found

    def _estate(self, stop: int) -> Estate:
        days: dict[str, Any] = {
            "name": "days", "time_zone": "Europe/Berlin", "shifts": [{"opens": "08:00", "closes": "18:00"}],
        }  # fmt: skip
        if self.story == "holiday":
            days["holidays"] = [datetime.fromtimestamp(stop / 1000, UTC).date().isoformat()]
        if self.story == "maintenance":
            window = (datetime.fromtimestamp(at / 1000, UTC).isoformat() for at in (stop - MINUTE, stop + 2 * HOUR))
            days["maintenance"] = [dict(zip(("starts", "ends"), window, strict=True), name="upgrade")]
        tenants = [{"name": "acme", "calendar": "days"}]
        return Estate.model_validate({"cells": [{"name": "eu1", "tenants": tenants}], "calendars": [days]})


def score(seeds: range) -> dict[str, Any]:
    """Precision and recall of the causes told, the minutes until they were, and what went wrong."""
    right = false = missed = 0
    delays: list[float] = []
    wrong: list[tuple[str, int, list[str]]] = []
    for seed in seeds:
        for story in (*STOPS, *CALM):
            opened = [one for one in Draw(seed, story).told() if one.phase is Phase.OPEN]
            causes, true = {one.cause for one in opened}, {STOPS[story][0]} if story in STOPS else set()
            right, false, missed = right + len(causes & true), false + len(causes - true), missed + len(true - causes)
            if causes != true:
                wrong.append((story, seed, sorted(causes)))
            delays += [one.evidence[0].expected or 0.0 for one in opened if one.cause in true]
    return {
        "precision": right / max(right + false, 1),
        "recall": right / max(right + missed, 1),
        "median_expected": float(np.median(delays)) if delays else None,
        "wrong": wrong,
    }


def check(found: dict[str, Any]) -> None:
    assert found["precision"] >= 0.95, found
    assert found["recall"] >= 0.95, found


def test_a_silence_is_found_and_named_and_health_is_silent() -> None:
    check(score(range(1)))


@pytest.mark.soak
def test_a_silence_is_found_and_named_in_a_thousand_draws() -> None:
    check(score(range(100, 200)))
