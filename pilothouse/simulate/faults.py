"""Faults by kind: each turns the knobs that it would turn in reality, and knows the cause that is to be named.

A fault takes its size from the estate it strikes, so that `strength` means the same in all of them. Sources for what
faults do: requirements' scenarios, and the post-mortems that the Google SRE book (ch. 15, app. D) is full of: they creep,
they come with load, they show at the victims first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pilothouse.simulate.drawing import CRONS, LOOK_S, Drawn
from pilothouse.simulate.drivers import Drivers, Knob, course
from pilothouse.simulate.truth import Truth
from schemas.records import OperationsEvent, Record

Timed = tuple[int, Record]


@dataclass(frozen=True)
class When:
    """When something goes on, Unix ms, and over which time it grows."""

    onset_ms: int
    end_ms: int
    ramp_ms: int = 0


@dataclass(frozen=True)
class Happening:
    """Something that happens: what is true of it, what it turns, what else is recorded of it."""

    truth: Truth
    turn: Callable[[Drivers], None]
    records: tuple[Timed, ...] = ()

    def besides(self, *records: Timed) -> Happening:
        """With more that is recorded."""
        return replace(self, records=(*self.records, *records))


def nothing(kind: str, when: When) -> Happening:
    """A time in which all is well."""
    return Happening(_truth(kind, when, (), expected=True), lambda drivers: None)


def redis_slow(drawn: Drawn, when: When, strength: float) -> Happening:
    """Every command takes longer; strength 1 is 50 ms."""

    def turn(drivers: Drivers) -> None:
        drivers.add(Knob.REDIS_DELAY, "", _course(drivers, when) * 0.05 * strength)

    return Happening(_truth("redis slow", when, (f"redis.latency:valkey-{drawn.cell}",), drawn.names, strength), turn)


def storage_slow(drawn: Drawn, when: When, strength: float) -> Happening:
    """Disk operations take longer; strength 1 is twelve times as long."""

    def turn(drivers: Drivers) -> None:
        drivers.scale(Knob.DISK, "", 1 + _course(drivers, when) * 11 * strength)

    causes = tuple(f"storage:{kind}-{drawn.cell}" for kind in ("pg", "host"))
    return Happening(_truth("storage slow", when, causes, drawn.names, strength), turn)


def lock_storm(drawn: Drawn, when: When, tenant: str, strength: float) -> Happening:
    """A transaction holds a row that others want; strength 1 is six sessions that wait."""
    waiting = max(2, round(6 * strength))

    def turn(drivers: Drivers) -> None:
        drivers.add(Knob.LOCKED, tenant, _course(drivers, when) * waiting)

    truth = _truth("lock storm", when, (f"postgresql.lock:{tenant}",), (tenant,), strength)
    looks = range(when.onset_ms + 20_000, when.end_ms, round(LOOK_S * 1000))
    return Happening(truth, turn, tuple((at, _blocked(drawn, tenant, waiting, at, when.onset_ms)) for at in looks))


def neighbour(drawn: Drawn, when: When, tenant: str, use: float) -> Happening:
    """An import or report of one tenant takes the database server's use to `use` (1: all of it) at a usual load."""

    def turn(drivers: Drivers) -> None:
        drivers.add(Knob.DATABASE, tenant, _course(drivers, when) * _free(drawn, use))
        drivers.add(Knob.CPU, "", _course(drivers, when) * 0.1)

    victims = tuple(name for name in drawn.names if name != tenant)
    truth = _truth("noisy neighbour", when, (f"tenant.load:{tenant}",), victims, use, bystanders=(tenant,))
    return Happening(truth, turn)


def bad_plan(drawn: Drawn, when: When, tenant: str, use: float) -> Happening:
    """Statements of one tenant lose their plan, until the server's use is `use` at a usual load."""

    def turn(drivers: Drivers) -> None:
        more = _free(drawn, use) / drawn.tenant(tenant).busy
        drivers.scale(Knob.QUERY, tenant, 1 + _course(drivers, when) * more)

    victims = tuple(name for name in drawn.names if name != tenant)
    truth = _truth("bad plan", when, (f"tenant.load:{tenant}",), victims, use, bystanders=(tenant,))
    return Happening(truth, turn)


def _free(drawn: Drawn, use: float) -> float:
    """Backends between the usual use of the server and the wanted one."""
    return use * drawn.capacity - sum(one.busy for one in drawn.tenants)


def surge(drawn: Drawn, when: When, tenant: str, factor: float) -> Happening:
    """A tenant's whole load is a multiple of the usual, which nobody announced."""

    def turn(drivers: Drivers) -> None:
        drivers.scale(Knob.DEMAND, tenant, 1 + _course(drivers, when) * (factor - 1))

    return Happening(_truth("surge", when, (f"tenant.load:{tenant}",), (), factor, bystanders=drawn.names), turn)


def stopped(
    drawn: Drawn,
    when: When,
    knob: Knob,
    who: str,
    kind: str,
    causes: tuple[str, ...],
    tenants: tuple[str, ...],
    left: float = 0.0,
) -> Happening:
    """A knob goes down to what is left."""

    def turn(drivers: Drivers) -> None:
        drivers.scale(knob, who, 1 - _course(drivers, when) * (1 - left))

    return Happening(_truth(kind, when, causes, tenants, 1 - left), turn)


def workers_gone(drawn: Drawn, when: When, tenant: str) -> Happening:
    """Job and cron workers of a tenant have died while its web answers."""

    def turn(drivers: Drivers) -> None:
        drivers.scale(Knob.WORKERS, tenant, 1 - _course(drivers, when))
        drivers.scale(Knob.CRONS, tenant, 1 - _course(drivers, when))

    return Happening(_truth("workers gone", when, (f"odoo.workers:{tenant}",), (tenant,)), turn)


def cron_off(drawn: Drawn, when: When, tenant: str, place: int) -> Happening:
    """A scheduled action is switched off after failures."""
    name, _ = CRONS[place]
    base = stopped(drawn, when, Knob.CRON, f"{tenant}/{name}", "cron off", (f"odoo.cron:{tenant}",), (tenant,))
    event = OperationsEvent(
        cell=drawn.cell, time_ms=when.onset_ms, resource=f"odoo-{tenant}", system="odoo", tenant=tenant,
        name="odoo.cron.deactivated", severity_number=17,
        body=f"Scheduled action {name!r} was switched off after 5 failures; it runs no more",
        attributes={"odoo.cron.name": name, "odoo.cron.id": place + 1, "odoo.cron.failures": 5},
    )  # fmt: skip
    return base.besides((when.onset_ms, event))


def failing(drawn: Drawn, when: When, knob: Knob, who: str, kind: str, cause: str, share: float) -> Happening:
    """A share of a tenant's requests or jobs, or of the calls to a partner, fails."""
    tenants = (who,) if who in drawn.names else partners_tenants(drawn, who)

    def turn(drivers: Drivers) -> None:
        drivers.add(knob, who, _course(drivers, when) * share)

    return Happening(_truth(kind, when, (cause,), tenants, share), turn)


def filling(drawn: Drawn, when: When, knob: Knob, kind: str, causes: tuple[str, ...], amount: float) -> Happening:
    """Something grows evenly by `amount` from the onset to the end, when there is no more of it."""

    def turn(drivers: Drivers) -> None:
        times = drivers.span.times_ms
        drivers.add(knob, "", np.clip((times - when.onset_ms) / (when.end_ms - when.onset_ms), 0, None) * amount)

    return Happening(_truth(kind, when, causes, bystanders=drawn.names), turn)


def workers_held(drawn: Drawn, when: When, use: float, *, kind: str = "workers saturated") -> Happening:
    """Requests wait for somebody outside and hold their workers, until so much of the pool is used; the CPUs are idle."""
    usual = sum(one.requests_per_s * (one.app_s + one.query_s) for one in drawn.tenants)
    workers = sum(one.workers for one in drawn.tenants)

    def turn(drivers: Drivers) -> None:
        drivers.add(Knob.HELD, "", _course(drivers, when) * max(use * workers - usual, 0.0))

    causes = (f"capacity.workers:workers-{drawn.cell}",)
    return Happening(_truth(kind, when, causes, strength=use, bystanders=drawn.names), turn)


def partners_tenants(drawn: Drawn, partner: str) -> tuple[str, ...]:
    """Tenants that deal with a partner."""
    return tuple(one.name for one in drawn.tenants if partner in one.partners)


def _course(drivers: Drivers, when: When) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return course(drivers.span, when.onset_ms, when.end_ms, when.ramp_ms)


def _truth(
    kind: str,
    when: When,
    causes: tuple[str, ...],
    tenants: tuple[str, ...] = (),
    strength: float = 1.0,
    *,
    bystanders: tuple[str, ...] = (),
    expected: bool = False,
) -> Truth:
    return Truth(
        kind=kind, expected=expected, causes=causes, tenants=tenants, bystanders=bystanders, onset_ms=when.onset_ms, end_ms=when.end_ms,
        strength=round(strength, 3), ramp_ms=when.ramp_ms,
    )  # fmt: skip


def _blocked(drawn: Drawn, tenant: str, waiting: int, at_ms: int, since_ms: int) -> OperationsEvent:
    longest_s = (at_ms - since_ms) / 1000
    return OperationsEvent(
        cell=drawn.cell, time_ms=at_ms, resource=f"pg-{drawn.cell}", system="postgresql", tenant=tenant,
        name="postgresql.lock.blocked", severity_number=13,
        body=f"finance_batch in {tenant} holds a lock for which {waiting} backends wait, the longest for {longest_s:.1f} s",
        attributes={
            "postgresql.blocker.pid": 4_711, "postgresql.waiting.count": waiting, "db.namespace": tenant,
            "user.name": "finance_batch", "db.query.text": "UPDATE account_move SET state = ? WHERE date <= ?",
            "postgresql.blocker.application": "odoo-4711", "postgresql.blocker.state": "active",
            "postgresql.blocker.transaction_age_s": longest_s + 5, "postgresql.waiting.max_s": longest_s,
            "postgresql.waiting.query": "UPDATE ir_sequence SET number_next = ?", "postgresql.lock.type": "transactionid",
        },
    )  # fmt: skip
