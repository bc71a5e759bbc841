"""Who holds the others up? Blocking trees of PostgreSQL, summed up by tenant.

Every look at PostgreSQL names the root of each blocking tree. Waiter-seconds of a tenant are summed over a sliding window;
when they pass what is usual there, the tenant's lock is a finding with the blocking statement as evidence. What is usual
is followed from the windows in which nothing was told, so a database in which people always wait a little is quiet.
Source: average active sessions by wait class (Oracle and AWS Performance Insights practice), for the class "lock".
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from processors.admission import TENANT, Forgotten
from processors.episodes import Episodes, Open
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig, json_state
from schemas.bounds import reached
from schemas.records import Evidence, OperationsEvent, Record, Severity

BLOCKED = "postgresql.lock.blocked"
TENANTS_MAX = 1_000


class Config(StepConfig):
    """When waiting is too much."""

    window_ms: int = Field(20_000, gt=0, description="Waiter-seconds are summed over so long, ms.")
    waiter_seconds: float = Field(6.0, gt=0, description="So many in a window are a finding, unless more are usual.")
    usual_factor: float = Field(3.0, gt=1, description="And at least so many times the usual of a window with waits.")
    follow: float = Field(0.05, gt=0, lt=1, description="Weight of a look in what is usual.")
    quiet_ms: int = Field(8_000, gt=0, description="A lock episode ends when nobody has waited for so long, ms.")
    quiet_looks: float = Field(
        2.5, gt=1, description="And for so many looks at the server, as the estate declares them."
    )

    def quiet_at(self, resource: str) -> int:
        """After how long an episode of a server ends, ms."""
        return max(self.quiet_ms, round(self.quiet_looks * self.interval_ms(resource)))


class Waiting(BaseModel):
    """Lock waits of one tenant."""

    looks: list[tuple[int, float]] = Field(default_factory=list, description="(time ms, waiter-seconds) in the window.")
    last_ms: int = -1
    usual: float = 0.0
    disturbed: int = 0
    waiting_now: int = 0


class State(BaseModel):
    """Waits and open episodes by tenant."""

    waiting: dict[str, Waiting] = Field(default_factory=dict)
    open: dict[str, Open] = Field(default_factory=dict)
    due_ms: int | None = None


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a blocking tree."""
    if isinstance(item.record, Forgotten):
        state.waiting.pop(item.record.resource, None)
        return state, []
    event: OperationsEvent = item.record
    if event.tenant is None:
        return state, []
    known = _of_tenant(state, event.tenant)
    total = _take(config, known, event, item.at_ms)
    cause = cause_of("postgresql.lock", event.tenant)
    if cause not in state.open and total < max(config.waiter_seconds, config.usual_factor * known.usual):
        known.usual += config.follow * (total - known.usual)
        return state, []
    found = Episodes(state.open).seen(
        key=cause,
        time_ms=item.at_ms,
        cell=event.cell,
        detector=STEP.name,
        cause=cause,
        resource=event.resource,
        tenant=event.tenant,
        severity=Severity.CRITICAL if total > 5 * config.waiter_seconds else Severity.WARNING,
        score=min(0.99, 1 - 0.5 * config.waiter_seconds / max(total, config.waiter_seconds)),
        summary=_summary(event, known),
        evidence=_evidence(config, event, total, known.usual, item.at_ms),
        tenants=(event.tenant,),
        advice=_advice(event),
    )
    _set_due(config, state)
    return state, found


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """End the episodes in which nobody has waited for a while."""
    gone = [key for key, one in state.open.items() if one.seen_ms <= at_ms - config.quiet_at(one.signal.resource)]
    for key in gone:
        ended = _of_tenant(state, state.open[key].signal.tenant or "")
        ended.looks, ended.disturbed, ended.waiting_now = [], 0, 0
    found = [told for key in gone for told in Episodes(state.open).close(key, at_ms)]
    _set_due(config, state)
    return state, found


def due(state: State) -> int | None:
    """When the oldest episode may have ended."""
    return state.due_ms


def _set_due(config: Config, state: State) -> None:
    ends_ms = (one.seen_ms + config.quiet_at(one.signal.resource) for one in state.open.values())
    state.due_ms = min(ends_ms, default=None)


def _of_tenant(state: State, tenant: str) -> Waiting:
    """What is known of a tenant; of too many the one whose waits are longest ago is forgotten, which has an episode only if all have."""
    if tenant not in state.waiting and len(state.waiting) >= TENANTS_MAX:
        told = {key.partition(":")[2] for key in state.open}
        state.waiting.pop(min(state.waiting, key=lambda one: (one in told, state.waiting[one].last_ms, one)))
        reached("locks.tenants")
    return state.waiting.setdefault(tenant, Waiting())


def _take(config: Config, known: Waiting, event: OperationsEvent, at_ms: int) -> float:
    """Waiter-seconds of the window that ends now."""
    count, longest_s = _number(event, "postgresql.waiting.count"), _number(event, "postgresql.waiting.max_s")
    elapsed_s = min((at_ms - known.last_ms) / 1000, 5.0) if known.last_ms >= 0 else longest_s
    known.disturbed += max(0, int(count) - known.waiting_now)
    known.waiting_now, known.last_ms = int(count), at_ms
    known.looks = [look for look in known.looks if look[0] > at_ms - config.window_ms]
    known.looks.append((at_ms, count * max(min(longest_s, 10.0) if not known.looks else elapsed_s, 0.1)))
    return sum(seconds for _, seconds in known.looks)


def _summary(event: OperationsEvent, known: Waiting) -> str:
    longest_s = _number(event, "postgresql.waiting.max_s")
    return (
        f"{known.waiting_now} sessions of {event.tenant} wait up to {longest_s:.1f} s for a lock; "
        f"{known.disturbed} were held up so far"
    )


def _evidence(config: Config, event: OperationsEvent, total: float, usual: float, at_ms: int) -> tuple[Evidence, ...]:
    say = event.attributes.get
    user = say("user.name", say("db.user"))
    holder = (
        f"pid {say('postgresql.blocker.pid', '?')}",
        f"user {user}" if user else None,
        say("postgresql.blocker.application"),
        say("postgresql.blocker.state"),
    )
    texts = [
        f"the lock is held by {', '.join(str(one) for one in holder if one)}",
        *(f"its statement: {query}" for query in [say("db.query.text")] if query),
        *(f"waiting: {query}" for query in [say("postgresql.waiting.query")] if query),
    ]
    window_s = config.window_ms / 1000
    limit = max(config.waiter_seconds, config.usual_factor * usual)
    waited = Evidence(
        text=f"sessions waited {total:.0f} s in all within {window_s:.0f} s, usually {usual:.0f} s; told from {limit:.0f} s on",
        unit="s",
        value=total,
        expected=usual,
        window_ms=config.window_ms,
        time_ms=at_ms,
    )
    age_s = _number(event, "postgresql.blocker.transaction_age_s")
    age = Evidence(text=f"the transaction that holds it is {age_s:.0f} s old", unit="s", value=age_s, time_ms=at_ms)
    said = (Evidence(text=text[:2_000], time_ms=at_ms) for text in texts)
    return (waited, *((age,) if age_s else ()), *said)


def _advice(event: OperationsEvent) -> str:
    pid = event.attributes.get("postgresql.blocker.pid", "?")
    return f"Let that transaction end, or end it: SELECT pg_terminate_backend({pid})."


def _number(event: OperationsEvent, name: str) -> float:
    value = event.attributes.get(name, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def unit(record: Record) -> str | None:
    """The cell, for the blocking trees of its databases, and for tenants that are gone."""
    if isinstance(record, Forgotten):
        return "" if record.system == TENANT else None
    return "" if isinstance(record, OperationsEvent) and record.name == BLOCKED else None


_pack, _unpack = json_state(State)
ABOUT = About(
    finds="Sessions of a tenant that wait for a lock, and the statement, user and transaction that holds it.",
    method=(
        "Waiter-seconds of blocking trees are summed over a sliding window and compared with what is usual in "
        "windows with waits."
    ),
    source="average active sessions by wait class (practice of Oracle and AWS Performance Insights)",
    limits="Waits shorter than the time between two looks at PostgreSQL are seen by chance only.",
)
STEP = Step(
    "locks", Config, (OperationsEvent, Forgotten), unit, State, step, _pack, _unpack, tick=tick, due=due, about=ABOUT
)
