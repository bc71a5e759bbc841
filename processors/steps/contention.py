"""Who holds the others up? Lock trees and shared load, attributed to a tenant.

Locks: every look at PostgreSQL names the root of each blocking tree. Waiter-seconds of a tenant are summed over a
sliding window; when they pass what is usual there, the tenant's lock is a finding with the blocking query as evidence.
Load: busy backends of a tenant (rate of its sessions' active time, less those that only wait for locks) are compared
with its own week and with the whole. A tenant that has left its usual by far and holds most of the server is a noisy
neighbour; tenants whose requests got slower meanwhile are its victims.

Sources: average active sessions as the measure of database load (Oracle/AWS Performance Insights practice); victim and
antagonist as in CPI2 (Zhang et al. 2013), with a correlation in time instead of hardware counters.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from processors.episodes import Episodes, Open
from processors.step import Findings, Item, Step, StepConfig, json_state
from schemas.records import Evidence, OperationsEvent, Record, Scrape, Severity
from schemas.series import parse, split

BLOCKED = "postgresql.lock.blocked"
ACTIVE, WAITING, DURATION = (
    "postgresql.active.time",
    "postgresql.lock.waiting",
    "odoo.http.request.duration.mean",
)
WATCHED = {ACTIVE, WAITING, DURATION}


class Config(StepConfig):
    """When waiting is too much and when a share is too large."""

    window_ms: int = Field(20_000, gt=0, description="Waiter-seconds are summed over so long, ms.")
    waiter_seconds: float = Field(6.0, gt=0, description="So many in a window are a finding, unless more are usual.")
    usual_factor: float = Field(4.0, gt=1, description="And at least so many times the usual worst window.")
    quiet_ms: int = Field(8_000, gt=0, description="A lock episode ends when nobody has waited for so long, ms.")
    busy: float = Field(1.0, gt=0, description="Busy backends above its usual that a noisy neighbour has at least.")
    times_usual: float = Field(3.0, gt=1, description="And so many times its usual.")
    share: float = Field(0.7, gt=0, le=1, description="And so large a share of what all tenants use above their usual.")
    after_wait_ms: int = Field(
        10_000, ge=0, description="So long after a lock wait of its own a load is not judged, ms."
    )
    looks: int = Field(2, ge=1, description="For so many looks in a row.")
    slower: float = Field(1.5, gt=1, description="A victim's requests take so many times as long as usual.")
    slower_s: float = Field(0.01, gt=0, description="And so much longer at least, s.")
    follow: float = Field(0.02, gt=0, lt=1, description="Weight of a look in the usual.")


class Waiting(BaseModel):
    """Lock waits of one tenant."""

    looks: list[tuple[int, float]] = Field(default_factory=list, description="(time ms, waiter-seconds) in the window.")
    last_ms: int = -1
    usual_worst: float = 0.0
    disturbed: int = 0
    waiting_now: int = 0


class Load(BaseModel):
    """Load and latency of one tenant."""

    last: float | None = None
    last_ms: int = -1
    busy: float = 0.0
    usual_busy: float | None = None
    waiting: float = 0.0
    waited_ms: int = Field(-1, description="When somebody was last seen waiting for a lock, Unix ms.")
    duration_s: float | None = None
    usual_duration_s: float | None = None
    seen: int = 0
    over: int = 0


class State(BaseModel):
    """Locks and load of a cell."""

    waiting: dict[str, Waiting] = Field(default_factory=dict)
    load: dict[str, Load] = Field(default_factory=dict)
    start_ms: int | None = None
    open: dict[str, Open] = Field(default_factory=dict)
    seen_ms: int = -1


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a lock tree or a look at the load."""
    record = item.record
    if isinstance(record, OperationsEvent):
        return state, _blocked(config, state, record, item.at_ms)
    points = _watched(record)
    if not points:
        return state, []
    if record.system == "postgresql":
        _take_load(config, state, record, points)
        return state, _neighbours(config, state, record)
    _take_durations(config, state, points)
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """End the lock episodes in which nobody has waited for a while."""
    episodes = Episodes(state.open)
    locks = [key for key, one in state.open.items() if key.startswith("postgresql.lock:")]
    gone = [key for key in locks if state.open[key].seen_ms <= at_ms - config.quiet_ms]
    found = [told for key in gone for told in episodes.close(key, at_ms)]
    for key in gone:
        state.waiting.pop(key.partition(":")[2], None)
    return state, found


def due(state: State) -> int | None:
    """When the oldest lock episode may have ended."""
    seen = [one.seen_ms for key, one in state.open.items() if key.startswith("postgresql.lock:")]
    return min(seen) + Config.model_fields["quiet_ms"].default if seen else None


def _blocked(config: Config, state: State, event: OperationsEvent, at_ms: int) -> Findings:
    tenant = event.tenant
    if tenant is None:
        return []
    known = state.waiting.setdefault(tenant, Waiting())
    count, longest_s = _number(event, "postgresql.waiting.count"), _number(event, "postgresql.waiting.max_s")
    elapsed_s = min((at_ms - known.last_ms) / 1000, 5.0) if known.last_ms >= 0 else longest_s
    known.disturbed += max(0, int(count) - known.waiting_now)
    known.waiting_now, known.last_ms = int(count), at_ms
    known.looks = [look for look in known.looks if look[0] > at_ms - config.window_ms]
    known.looks.append((at_ms, count * max(min(longest_s, 10.0) if not known.looks else elapsed_s, 0.1)))
    total = sum(seconds for _, seconds in known.looks)
    cause = f"postgresql.lock:{tenant}"
    if cause not in state.open and total < max(config.waiter_seconds, config.usual_factor * known.usual_worst):
        return []
    phase = config.calendar(tenant).at(event.time_ms).phase
    return Episodes(state.open).seen(
        key=cause,
        time_ms=at_ms,
        cell=event.cell,
        detector=STEP.name,
        cause=cause,
        resource=event.resource,
        tenant=tenant,
        severity=Severity.CRITICAL if total > 5 * config.waiter_seconds else Severity.WARNING,
        score=min(0.99, 1 - 0.5 * config.waiter_seconds / max(total, config.waiter_seconds)),
        summary=f"{int(count)} sessions of {tenant} wait up to {longest_s:.1f} s for a lock; {known.disturbed} were held up so far",
        evidence=_lock_evidence(event, total, phase, at_ms),
        tenants=(tenant,),
        advice=_lock_advice(event),
    )


def _lock_evidence(event: OperationsEvent, total: float, phase: str, at_ms: int) -> tuple[Evidence, ...]:
    say = event.attributes.get
    holder = f"pid {say('postgresql.blocker.pid')} ({say('postgresql.blocker.application', '?')})"
    texts = [
        f"the lock is held by user {say('user.name', say('db.user', '?'))}, {holder}, {say('postgresql.blocker.state', '?')}",
        f"its statement: {say('db.query.text', '?')}",
        f"its transaction is {_number(event, 'postgresql.blocker.transaction_age_s'):.0f} s old",
        f"waiting: {say('postgresql.waiting.query', '?')}",
        f"{total:.0f} waiter-seconds in the window; the calendar says {phase}",
    ]
    return tuple(Evidence(text=text[:2_000], time_ms=at_ms) for text in texts)


def _lock_advice(event: OperationsEvent) -> str:
    pid = event.attributes.get("postgresql.blocker.pid", "?")
    return f"Let that transaction end, or end it: SELECT pg_terminate_backend({pid})."


def _number(event: OperationsEvent, name: str) -> float:
    value = event.attributes.get(name, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _watched(scrape: Scrape) -> dict[str, dict[str, float]]:
    """Values by metric and tenant of the few series that are looked at here."""
    points: dict[str, dict[str, float]] = {}
    for place, name, tenant in _columns(scrape.series):
        value = scrape.values[place]
        if value is not None:
            of_metric = points.setdefault(name, {})
            of_metric[tenant] = of_metric.get(tenant, 0.0) + value
    return points


_COLUMNS: dict[str, list[tuple[int, str, str]]] = {}
_COLUMNS_MAX = 1_000


def _columns(layout: str) -> list[tuple[int, str, str]]:
    known = _COLUMNS.get(layout)
    if known is None:
        if len(_COLUMNS) >= _COLUMNS_MAX:
            _COLUMNS.clear()
        known = _COLUMNS[layout] = [
            (place, series.name, series.tenant)
            for place, identity in enumerate(split(layout))
            if identity.startswith(tuple(WATCHED)) and (series := parse(identity)).tenant and series.name in WATCHED
        ]
    return known


def _take_load(config: Config, state: State, scrape: Scrape, points: dict[str, dict[str, float]]) -> None:
    reset = scrape.start_time_ms != state.start_ms
    state.start_ms = scrape.start_time_ms
    for tenant, waiting in points.get(WAITING, {}).items():
        load = state.load.setdefault(tenant, Load())
        load.waiting += 0.5 * (waiting - load.waiting)
        load.waited_ms = scrape.time_ms if waiting else load.waited_ms
    for tenant, total in points.get(ACTIVE, {}).items():
        load = state.load.setdefault(tenant, Load())
        elapsed_s = (scrape.time_ms - load.last_ms) / 1000
        if load.last is not None and not reset and total >= load.last and 0 < elapsed_s <= 3_600:
            load.busy = max(0.0, (total - load.last) / elapsed_s - load.waiting)
        load.last, load.last_ms = total, scrape.time_ms


def _neighbours(config: Config, state: State, scrape: Scrape) -> Findings:
    found: Findings = []
    episodes = Episodes(state.open)
    total = sum(load.busy for load in state.load.values())
    above = sum(max(0.0, load.busy - (load.usual_busy or 0.0)) for load in state.load.values())
    for tenant, load in state.load.items():
        usual = load.usual_busy if load.usual_busy is not None else load.busy
        campaign = config.calendar(tenant).at(scrape.time_ms).load
        limit = max(usual * config.times_usual * campaign, usual * campaign + config.busy)
        alone = load.busy - usual >= config.share * above
        # PostgreSQL counts a statement's time at its end: when a lock is let go, the waits arrive in a lump.
        waited = load.waited_ms >= 0 and scrape.time_ms - load.waited_ms < config.after_wait_ms
        over = load.seen >= 5 and load.busy > limit and alone and not waited
        load.over = min(load.over + 1, 4) if over else max(load.over - 1, 0)
        cause = f"tenant.load:{tenant}"
        if load.over >= config.looks or (cause in state.open and load.over > 0):
            found += episodes.seen(key=cause, **_neighbour(config, state, scrape, tenant, usual, total))
        else:
            found += episodes.close(cause, scrape.time_ms)
            load.usual_busy = usual + (config.follow if load.seen >= 50 else 1 / (load.seen + 1)) * (
                min(load.busy, 3 * usual + 0.5) - usual
            )
        load.seen += 1
    return found


def _neighbour(config: Config, state: State, scrape: Scrape, tenant: str, usual: float, total: float) -> dict[str, Any]:
    load = state.load[tenant]
    victims = sorted(
        (other for other in state.load if other != tenant and _is_slower(config, state.load[other])),
        key=lambda other: -((state.load[other].duration_s or 0) / max(state.load[other].usual_duration_s or 1, 1e-6)),
    )
    texts = [f"{tenant} keeps {load.busy:.1f} backends of {scrape.resource} busy, usually {usual:.2f}"]
    texts.append(f"that is {load.busy / max(total, 1e-9):.0%} of all tenants' {total:.1f}")
    texts += [
        f"requests of {other} take {state.load[other].duration_s:.2f} s, usually {state.load[other].usual_duration_s:.2f} s"
        for other in victims[:5]
    ]
    freed = max(load.busy - usual, 0.0)
    return {
        "time_ms": scrape.time_ms,
        "cell": scrape.cell,
        "detector": STEP.name,
        "cause": f"tenant.load:{tenant}",
        "resource": scrape.resource,
        "tenant": tenant,
        "severity": Severity.CRITICAL if victims else Severity.WARNING,
        "score": min(0.99, 1 - 0.5 * config.busy / max(freed, config.busy)),
        "summary": texts[0],
        "evidence": tuple(Evidence(text=text, time_ms=scrape.time_ms) for text in texts),
        "tenants": tuple(victims),
        "advice": f"Limit the connections or the batch of {tenant}: it would free {freed:.1f} busy backends.",
    }


def _is_slower(config: Config, load: Load) -> bool:
    now, usual = load.duration_s, load.usual_duration_s
    return now is not None and usual is not None and now > config.slower * usual and now > usual + config.slower_s


def _take_durations(config: Config, state: State, points: dict[str, dict[str, float]]) -> None:
    disturbed = any(key.startswith("tenant.load:") for key in state.open)
    for tenant, duration_s in points.get(DURATION, {}).items():
        load = state.load.setdefault(tenant, Load())
        load.duration_s = (
            duration_s if load.duration_s is None else load.duration_s + 0.5 * (duration_s - load.duration_s)
        )
        usual = load.usual_duration_s if load.usual_duration_s is not None else duration_s
        if not disturbed:
            load.usual_duration_s = usual + config.follow * (min(duration_s, 3 * usual) - usual)


def unit(record: Record) -> str | None:
    """The cell, for looks at its databases, its Odoo log and its lock trees."""
    if isinstance(record, OperationsEvent):
        return "" if record.name == BLOCKED else None
    return "" if isinstance(record, Scrape) and record.system in ("postgresql", "odoo_log") else None


_pack, _unpack = json_state(State)
STEP = Step("contention", Config, (Scrape, OperationsEvent), unit, State, step, _pack, _unpack, tick=tick, due=due)
