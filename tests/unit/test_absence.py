"""When silence is a failure, and what it is the silence of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from processors.flows import FLOWS, layout_of
from processors.partners import partner_of
from processors.step import Item
from processors.steps import absence
from schemas.calendar import DAYS
from schemas.estate import Estate
from schemas.metrics import BY_NAME
from schemas.records import Phase, Scrape, Signal

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MONDAY = round(datetime(2026, 11, 2, tzinfo=UTC).timestamp() * 1000)

DHL, METRO, MAILS = "root.carrier.dhl", "root.edi.metro", "root.mail"


def estate(**calendar: Any) -> Estate:
    days = {"name": "days", "shifts": [{"opens": "08:00", "closes": "18:00"}], **calendar}
    tenants = [{"name": "acme", "calendar": "days"}]
    return Estate.model_validate({"cells": [{"name": "eu1", "tenants": tenants}], "calendars": [days]})


class Tenant:
    """A tenant's Odoo, looked at every minute: events a minute by flow, while its shift is on."""

    def __init__(self, rates: Mapping[str, float], waits: Mapping[str, float] | None = None, **calendar: Any) -> None:
        self.config = absence.Config(cell="eu1", estate=estate(**calendar))
        self.state, self.told = absence.STEP.fresh(), list[Signal]()
        self.rates, self.waits = dict(rates), dict(waits or {})
        self.totals = dict.fromkeys(rates, 0.0)
        self.rng = np.random.default_rng(1)
        self.at = MONDAY

    def until(
        self, day: int, hour: float, *, stands: tuple[str, ...] = (), opens: float = 8, closes: float = 18
    ) -> None:
        end = MONDAY + day * DAY + round(hour * HOUR)
        while self.at < end:
            # Nights are looked at less often, to save time.
            hour = self.at // HOUR % 24
            self.at += MINUTE if 7 <= hour < 19 else 5 * MINUTE
            local = self.config.calendar("acme").local(self.at)
            at_work = opens <= local.hour + local.minute / 60 < closes and local.weekday() < 5
            for name, rate in self.rates.items():
                if name not in stands and (at_work or "cron" in name):
                    minutes = 1 if 7 <= hour < 19 else 5
                    self.totals[name] += float(self.rng.poisson(rate * minutes))
            self.look()

    def look(self) -> None:
        points = {**self.totals, **self.waits}
        scrape = Scrape.of(
            dict(points), cell="eu1", resource="odoo-acme", system="odoo", time_ms=self.at, start_time_ms=MONDAY
        )
        self.state, found = absence.step(self.config, self.state, Item(self.at, scrape))
        self.told += [one for one in found if isinstance(one, Signal)]

    @property
    def opened(self) -> list[tuple[str, float]]:
        """Causes, and when each was told, in hours from Monday's midnight."""
        return [(one.cause, (one.time_ms - MONDAY) / HOUR) for one in self.told if one.phase is Phase.OPEN]


def jobs(channel: str) -> str:
    return f'odoo.queue_job.done{{odoo.queue_job.channel="{channel}",tenant.id="acme"}}'


def pending(channel: str) -> str:
    return f'odoo.queue_job.count{{odoo.queue_job.channel="{channel}",odoo.queue_job.state="pending",tenant.id="acme"}}'


def documents(kind: str, state: str) -> str:
    return f'erp.document.transitions{{erp.document.state="{state}",erp.document.type="{kind}",tenant.id="acme"}}'


CRON, ORDERS = 'odoo.cron.runs{odoo.cron.name="Mail",tenant.id="acme"}', documents("sale.order", "sale")
WORK = {jobs(DHL): 2.0, jobs(METRO): 1.0, CRON: 0.5, ORDERS: 2.0}


def test_a_tenant_at_work_is_quiet_from_its_first_day_on() -> None:
    tenant = Tenant(WORK)
    tenant.until(14, 0)
    assert tenant.told == []


def test_workers_that_stop_are_told_as_one() -> None:
    tenant = Tenant(WORK)
    tenant.until(8, 11)
    tenant.until(8, 12, stands=(jobs(DHL), jobs(METRO), CRON))
    assert {cause for cause, _ in tenant.opened} == {"odoo.workers:acme"}
    assert tenant.opened[0][1] - (8 * 24 + 11) < 0.3


def test_one_partner_that_is_silent_is_named_while_the_others_go_on() -> None:
    tenant = Tenant(WORK)
    tenant.until(8, 11)
    tenant.until(8, 12, stands=(jobs(METRO),))
    assert [cause for cause, _ in tenant.opened] == ["integration.silent:metro"]


def test_a_channel_of_nobody_in_particular_is_a_stuck_queue() -> None:
    tenant = Tenant({**WORK, jobs(MAILS): 2.0})
    tenant.until(8, 11)
    tenant.until(8, 12, stands=(jobs(MAILS),))
    assert [cause for cause, _ in tenant.opened] == ["queue.stuck:acme"]


def test_a_queue_in_which_nothing_waits_is_stuck_only_when_that_is_surer() -> None:
    told = []
    for waiting in (0.0, 5.0):
        tenant = Tenant({**WORK, jobs(MAILS): 0.4}, {pending(MAILS): 0.0})
        tenant.until(2, 11)
        tenant.waits[pending(MAILS)] = waiting
        tenant.until(2, 15, stands=(jobs(MAILS),))
        told += [at for cause, at in tenant.opened if cause == "queue.stuck:acme"]
    empty, full = told
    assert 0.3 < full - (2 * 24 + 11) < empty - (2 * 24 + 11) - 0.3


def test_crons_that_stand_while_jobs_are_done_are_crons() -> None:
    tenant = Tenant(WORK)
    tenant.until(8, 11)
    tenant.until(8, 13, stands=(CRON,))
    assert [cause for cause, _ in tenant.opened] == ["odoo.cron:acme"]


def test_crons_are_expected_at_night() -> None:
    tenant = Tenant(WORK)
    tenant.until(8, 1)
    tenant.until(8, 5, stands=(CRON,))
    assert [cause for cause, _ in tenant.opened] == ["odoo.workers:acme"]


def test_the_end_is_told_when_something_comes_again() -> None:
    tenant = Tenant(WORK)
    tenant.until(8, 11)
    tenant.until(8, 12, stands=(ORDERS,))
    tenant.until(8, 12.2)
    assert [one.phase for one in tenant.told if one.phase is not Phase.UPDATED] == [Phase.OPEN, Phase.RESOLVED]


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_a_fifth_that_still_comes_is_one_silence_until_all_comes_again(seed: int) -> None:
    tenant = Tenant({**WORK, jobs(METRO): 2.0})
    tenant.rng = np.random.default_rng(seed)
    tenant.until(4, 11)
    tenant.rates[jobs(METRO)] = 0.4
    tenant.until(4, 15)
    tenant.rates[jobs(METRO)] = 2.0
    tenant.until(4, 16)
    told = [one for one in tenant.told if one.phase is not Phase.UPDATED]
    assert [one.phase for one in told] == [Phase.OPEN, Phase.RESOLVED]
    assert 15 < (told[1].time_ms - MONDAY - 4 * DAY) / HOUR < 15.25


def test_what_orders_did_not_bring_is_missing_further_on_and_no_new_stop() -> None:
    shipped = documents("stock.picking", "done")
    tenant = Tenant({ORDERS: 2.0, shipped: 2.0, CRON: 0.5})
    tenant.until(8, 11)
    tenant.until(8, 11.3, stands=(ORDERS,))
    tenant.until(8, 12, stands=(ORDERS, shipped))
    tenant.until(8, 12.3, stands=(shipped,))  # the hole travels
    ended = [one for one in tenant.told if one.phase is not Phase.UPDATED]
    assert [one.phase for one in ended] == [Phase.OPEN, Phase.RESOLVED]
    assert (ended[1].time_ms - MONDAY) / HOUR - (8 * 24 + 12) < 0.2
    tenant.until(8, 14, stands=(shipped,))  # it has passed, and still nothing is shipped
    assert [cause for cause, _ in tenant.opened] == ["process.stopped:acme"] * 2


def test_orders_that_nobody_places_are_told_while_those_placed_before_are_still_confirmed() -> None:
    carts, worked_off = documents("sale.order", "draft"), documents("sale.order", "sale")
    tenant = Tenant({carts: 0.8, worked_off: 0.8, CRON: 0.5})
    tenant.until(8, 11)
    tenant.rates[worked_off] = 0.12
    tenant.until(8, 11.6, stands=(carts,))
    assert [cause for cause, _ in tenant.opened] == ["process.stopped:acme"]


def test_an_order_is_drafted_before_it_is_sold() -> None:
    layout = "\n".join(
        documents(*one) for one in [("sale.order", "draft"), ("sale.order", "sale"), ("account.move", "draft")]
    )
    cart, order = layout_of(layout).streams  # an invoice that nobody drafts is missed when it is not posted
    assert order.follows(cart)
    assert not cart.follows(order)


def test_what_stopped_before_the_orders_is_no_hole() -> None:
    shipped = documents("stock.picking", "done")
    tenant = Tenant({ORDERS: 2.0, shipped: 2.0, CRON: 0.5})
    tenant.until(8, 11)
    tenant.until(8, 11.5, stands=(shipped,))
    tenant.until(8, 12, stands=(ORDERS, shipped))
    tenant.until(8, 12.3, stands=(shipped,))
    assert [one.phase for one in tenant.told if one.phase is not Phase.UPDATED] == [Phase.OPEN]


def test_orders_that_never_begin_in_the_morning_are_told() -> None:
    tenant = Tenant(WORK)
    tenant.until(8, 7)
    tenant.until(8, 10, stands=(ORDERS,))
    assert [cause for cause, _ in tenant.opened] == ["process.stopped:acme"]
    assert 8 * 24 + 8 < tenant.opened[0][1] < 8 * 24 + 8.5


def test_a_silence_that_was_told_goes_on_over_the_night() -> None:
    tenant = Tenant(WORK)
    tenant.until(8, 17)
    tenant.until(9, 9, stands=(ORDERS,))
    assert [one.phase for one in tenant.told if one.phase is not Phase.UPDATED] == [Phase.OPEN]


@pytest.mark.parametrize(
    "calendar",
    [
        {"holidays": ["2026-11-10"]},
        {"maintenance": [{"name": "upgrade", "starts": "2026-11-10T10:00:00Z", "ends": "2026-11-10T16:00:00Z"}]},
    ],
)
def test_holidays_and_maintenance_expect_nothing(calendar: dict[str, Any]) -> None:
    tenant = Tenant({**WORK}, **calendar)
    tenant.until(8, 10)
    tenant.until(8, 15.9, stands=(jobs(DHL), jobs(METRO), ORDERS) + ((CRON,) if "maintenance" in calendar else ()))
    tenant.until(8, 18)
    tenant.until(9, 12)
    assert tenant.told == []


def test_a_break_that_is_made_every_day_becomes_usual() -> None:
    """Nobody orders from noon to one, and the calendar does not say so."""
    tenant = Tenant(WORK)
    for day in range(14):
        tenant.until(day, 12)
        tenant.until(day, 13, stands=(ORDERS,))
        tenant.until(day, 24)
    assert [at for _, at in tenant.opened if at > 2 * 24] == []


def test_machines_that_keep_to_utc_are_no_alarm_when_clocks_change() -> None:
    """Jobs come from 0:00 to 0:59 UTC, which is an hour earlier by the clock after the last Sunday of October."""
    tenant = Tenant({jobs(DHL): 5.0}, time_zone="Europe/Berlin", shifts=[])
    tenant.at = MONDAY - 14 * DAY
    while tenant.at < MONDAY + 2 * DAY:
        tenant.at += 5 * MINUTE
        if tenant.at % DAY < HOUR:
            tenant.totals[jobs(DHL)] += float(tenant.rng.poisson(25))
        tenant.look()
    assert tenant.told == []


def test_in_an_unknown_hour_silence_is_told_early_only_when_work_waits() -> None:
    idle, waiting = Tenant({jobs(DHL): 2.0}, {pending(DHL): 0.0}), Tenant({jobs(DHL): 2.0}, {pending(DHL): 7.0})
    for tenant in (idle, waiting):
        tenant.until(0, 11)
        tenant.until(0, 11.9, stands=(jobs(DHL),))
    assert idle.told == []
    assert [cause for cause, _ in waiting.opened] == ["odoo.workers:acme"]
    assert "work is seen to wait" in waiting.told[0].summary


def test_time_that_was_not_measured_expects_nothing() -> None:
    tenant = Tenant(WORK)
    tenant.until(8, 11)
    tenant.at += 3 * HOUR
    tenant.look()
    assert tenant.told == []


def test_requests_of_any_status_are_one_flow() -> None:
    def of(status: str) -> str:
        return f'odoo.http.requests{{http.response.status_class="{status}",tenant.id="acme"}}'

    tenant = Tenant({of("2xx"): 20.0, of("5xx"): 1.0})
    tenant.until(8, 11)
    tenant.until(8, 12, stands=(of("5xx"),))
    assert tenant.told == []
    tenant.until(8, 13, stands=(of("2xx"), of("5xx")))
    assert [cause for cause, _ in tenant.opened] == ["odoo.web:acme"]


@pytest.mark.parametrize("day", [1, 8])
def test_people_who_come_minutes_after_the_opening_are_no_silence(day: int) -> None:
    """The hour before is closed, so nobody knows how they come in: a first hour is not full from its first minute on."""
    web = 'odoo.http.requests{tenant.id="acme"}'
    tenant = Tenant({web: 8.0})
    tenant.until(day, 8)
    tenant.until(day, 8.1, stands=(web,))
    tenant.until(day, 12)
    assert tenant.told == []
    tenant.until(day, 12.2, stands=(web,))
    assert [cause for cause, _ in tenant.opened] == ["odoo.web:acme"]


def test_a_restart_of_the_counters_is_no_event_and_no_silence() -> None:
    tenant = Tenant(WORK)
    tenant.until(8, 11)
    tenant.totals = dict.fromkeys(tenant.totals, 0.0)
    tenant.until(8, 12)
    assert tenant.told == []


@pytest.mark.parametrize(
    ("channel", "partner"),
    [
        ("root.carrier.dhl", "dhl"),
        ("root.carrier", None),
        ("root", None),
        ("root.edi-hub", "edi-hub"),
        ("root.connector_shopify", "shopify"),
        ("root.edi.metro.orders", "metro"),
        ("root.import_export", None),
    ],
)
def test_the_partner_is_read_from_the_channel(channel: str, partner: str | None) -> None:
    assert partner_of(channel) == partner


def test_the_table_reads_only_what_the_catalogue_knows() -> None:
    assert {one.metric for one in FLOWS} | {one.gate.metric for one in FLOWS if one.gate} <= set(BY_NAME)


def test_a_few_that_still_come_are_a_stop_all_the_same() -> None:
    tenant = Tenant({ORDERS: 2.0})
    tenant.until(8, 11)
    tenant.rates[ORDERS] = 0.1
    tenant.until(8, 12)
    assert [cause for cause, _ in tenant.opened] == ["process.stopped:acme"]
    assert tenant.told[0].summary.startswith(("only", "no "))
    tenant.rates[ORDERS] = 2.0
    tenant.until(8, 12.3)
    assert tenant.told[-1].phase is Phase.RESOLVED


def test_what_comes_after_hours_does_not_raise_what_is_expected_in_them() -> None:
    """Orders come in evenings and at night too; a day of half the usual is still no silence, nor is one after a busy night."""
    tenant = Tenant({"cron": 1.0, ORDERS: 1.0})
    tenant.until(7, 24, opens=0, closes=24)
    tenant.rates[ORDERS] = 0.5
    tenant.until(8, 18, opens=0, closes=24)
    assert tenant.told == []
    level = tenant.state.arrays["arrivals"] / np.maximum(tenant.state.arrays["usual"], 1e-9)
    assert level[0] < 1.0


def test_channels_that_nobody_fills_are_a_business_that_brings_nothing() -> None:
    tenant = Tenant({**WORK, ORDERS: 2.0}, {pending(DHL): 0.0, pending(METRO): 0.0})
    tenant.until(8, 11)
    tenant.until(8, 12, stands=(jobs(DHL), jobs(METRO), ORDERS))
    assert {cause for cause, _ in tenant.opened} == {"process.stopped:acme"}


# Orders a second from 6 to 22 o'clock, by hour.
LOADS = (0.35, 0.62, 0.86, 0.98, 1.0, 1.0, 0.86, 0.82, 0.92, 1.0, 0.82, 0.6, 0.46, 0.36, 0.26, 0.16, 0.07)
RESERVED, TO_RESERVE = (
    documents("stock.picking", "assigned"),
    ('erp.document.count{erp.document.state="confirmed",erp.document.type="stock.picking",tenant.id="acme"}'),
)


def test_pickings_that_lack_their_goods_are_no_work_that_waits() -> None:
    """Four that cannot be reserved stand there for good: that nobody orders is no reservation that has stopped."""
    tenant = Tenant({RESERVED: 1.0}, {TO_RESERVE: 4.0})
    tenant.until(0, 15)
    tenant.until(0, 17, stands=(RESERVED,))
    assert tenant.told == []


def test_a_reservation_that_stops_is_told_when_more_waits_than_was_left_lying() -> None:
    tenant = Tenant({RESERVED: 1.0}, {TO_RESERVE: 4.0})
    tenant.until(0, 15)
    tenant.waits = {TO_RESERVE: 9.0}
    tenant.until(0, 17, stands=(RESERVED,))
    assert [cause for cause, _ in tenant.opened] == ["process.stopped:acme"]


def test_a_flow_of_few_does_not_raise_its_own_limit_while_it_stands() -> None:
    """Two pickings an hour: what is missing grows over hours, none of which shows that so much is usual."""
    tenant = Tenant({documents("stock.picking", "done"): 0.035, ORDERS: 0.035})
    tenant.until(9, 9)
    tenant.until(9, 18, stands=(documents("stock.picking", "done"),))
    assert [cause for cause, _ in tenant.opened] == ["process.stopped:acme"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_evenings_that_fall_steeply_are_quiet_at_rare_looks(seed: int) -> None:
    """Looked at every 15 minutes for four weeks: in the evening there is seldom a picking that waits at the moment of a look."""
    everyday = {"opens": "06:00", "closes": "22:00", "days": DAYS}
    tenant = Tenant({RESERVED: 0.2, jobs(DHL): 0.9, ORDERS: 0.9}, shifts=[everyday])
    tenant.rng = np.random.default_rng(seed)
    for _ in range(4 * 7 * 96):
        tenant.at += 15 * MINUTE
        hour = (tenant.at - 7.5 * MINUTE) / HOUR % 24
        load = float(np.interp(hour, range(6, 23), LOADS, left=0.04, right=0.04))
        for name, rate in tenant.rates.items():
            tenant.totals[name] += float(tenant.rng.poisson(rate * load * 900))
        tenant.waits = {
            TO_RESERVE: float(tenant.rng.poisson(0.5 * load)),
            pending(DHL): float(tenant.rng.poisson(0.05 * load)),
        }
        tenant.look()
    assert tenant.told == []
