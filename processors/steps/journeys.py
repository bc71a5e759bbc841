"""Which documents of a tenant are stuck on their way, and what are they worth?

A journey (quotation, order, reservation, picking, shipment, invoice) is a state machine over documents; each document has
a clock that runs while it stays in a state and the calendar is open. How long a state usually takes is learned as a
histogram in powers of two, forgotten slowly; a document that stays several times longer than nearly all before it is
delayed. The delayed documents, and the value of the orders behind them, are the business at stake.
Source: state clocks of process mining (van der Aalst, Process Mining, 2nd ed., ch. 9, "operational support").
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from processors.episodes import Episodes, Open
from processors.step import Findings, Item, Step, StepConfig, json_state
from schemas.records import BusinessBatch, Evidence, Impact, Record, Severity

BUCKETS = 32
OPEN_STATES = {
    "stock.picking": frozenset({"waiting", "confirmed", "assigned"}),
    "sale.order": frozenset({"sale"}),
    "account.move": frozenset({"draft"}),
}


class Config(StepConfig):
    """When a document is delayed."""

    quantile: float = Field(0.95, gt=0.5, lt=1, description="Share of documents that leave a state in its usual time.")
    times_usual: float = Field(2.0, gt=1, description="A delayed document stays so many times that long.")
    at_least_ms: int = Field(6_000, gt=0, description="And so long at least, ms.")
    learn: int = Field(30, ge=5, description="Documents that must have left a state before its clock is judged.")
    forget: float = Field(0.999, gt=0, lt=1, description="Weight of what was learned, with every document that leaves.")
    documents: int = Field(3, ge=1, description="So many delayed documents of a tenant are a finding.")
    share: float = Field(0.2, gt=0, le=1, description="And such a share of those that are open in the state.")
    look_every_ms: int = Field(2_000, gt=0, description="Clocks are read so often, ms of log time.")
    documents_max: int = Field(50_000, ge=100, description="Open documents kept a tenant; the oldest go first.")


class Document(NamedTuple):
    """An open document and its clock."""

    kind: str
    state: str
    since_ms: int
    name: str | None
    order: int | None
    amount: float | None
    currency: str | None
    warehouse: str | None
    carrier: str | None
    deadline_ms: int | None


class State(BaseModel):
    """The documents of one tenant and what is known of their states' durations."""

    tenant: str = ""
    cell: str = ""
    resource: str = ""
    open: dict[str, Document] = Field(default_factory=dict)
    usual: dict[str, list[float]] = Field(default_factory=dict, description="Weights by log2 of s, by type and state.")
    due_ms: int | None = None
    forgotten: int = 0
    episodes: dict[str, Open] = Field(default_factory=dict)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Move documents on; a state older than the one known is passed over."""
    batch: BusinessBatch = item.record
    for row in _rows(batch):
        _move(config, state, *row)
    state.cell, state.resource = batch.cell, batch.resource
    state.tenant = next((tenant for tenant in batch.tenants if tenant), state.tenant)
    if state.due_ms is None:
        state.due_ms = item.at_ms + config.look_every_ms
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Read the clocks."""
    state.due_ms = at_ms + config.look_every_ms if state.open or state.episodes else None
    episodes = Episodes(state.episodes)
    moment = config.calendar(state.tenant).at(at_ms)
    if not moment.is_open or moment.maintenance:
        return state, episodes.close_others(set(), at_ms)
    delayed = _delayed(config, state, at_ms, moment.load)
    cause = f"process.delayed:{state.tenant}"
    if not delayed:
        return state, episodes.close(cause, at_ms)
    impact = impact_of(delayed)
    return state, episodes.seen(
        key=cause,
        time_ms=at_ms,
        tell_every_ms=5_000,
        cell=state.cell,
        detector=STEP.name,
        cause=cause,
        resource=state.resource,
        tenant=state.tenant,
        severity=Severity.WARNING,
        score=min(0.99, 1 - 1 / (1 + impact.documents / config.documents)),
        summary=f"{impact.documents} documents of {state.tenant} are stuck, {impact.value:,.0f} {impact.currency or ''} at stake",
        evidence=tuple(_evidence(config, state, delayed, at_ms)),
        tenants=(state.tenant,),
        impact=impact,
    )


def impact_of(documents: Iterable[Document]) -> Impact:
    """What is at stake: documents by type, and the value of the orders behind them, each order once."""
    found = sorted(documents, key=lambda one: -(one.amount or 0.0))
    by_type: dict[str, int] = {}
    orders: dict[Any, float] = {}
    for one in found:
        by_type[one.kind] = by_type.get(one.kind, 0) + 1
        orders.setdefault(one.order if one.order is not None else (one.kind, one.name), one.amount or 0.0)
    return Impact(
        documents=len(found),
        by_type=by_type,
        value=round(sum(orders.values()), 2),
        currency=next((one.currency for one in found if one.currency), None),
        names=tuple(one.name for one in found if one.name)[:10],
    )


def _rows(batch: BusinessBatch) -> Iterable[tuple[str, Document]]:
    columns = zip(
        batch.document_types, batch.document_ids, batch.states, batch.times_ms, batch.document_names, batch.orders,
        batch.amounts, batch.currencies, batch.warehouses, batch.carriers, batch.deadlines_ms, strict=True,
    )  # fmt: skip
    for kind, number, *rest in columns:
        yield f"{kind},{number}", Document(kind, *rest)


def _move(config: Config, state: State, key: str, document: Document) -> None:
    known = state.open.get(key)
    if known and (document.since_ms < known.since_ms or document.state == known.state):
        return
    if known:
        _learn(config, state, known, document.since_ms)
    state.open.pop(key, None)
    if document.state in OPEN_STATES.get(document.kind, ()):
        state.open[key] = document
        if len(state.open) > config.documents_max:
            state.open.pop(next(iter(state.open)))
            state.forgotten += 1


def _learn(config: Config, state: State, left: Document, at_ms: int) -> None:
    if not config.calendar(state.tenant).at(at_ms).is_open:
        return
    weights = state.usual.setdefault(f"{left.kind},{left.state}", [0.0] * BUCKETS)
    seconds = max((at_ms - left.since_ms) / 1000, 0.0)
    bucket = min(int(math.log2(seconds * 4 + 1)), BUCKETS - 1)
    state.usual[f"{left.kind},{left.state}"] = [
        weight * config.forget + (1.0 if place == bucket else 0.0) for place, weight in enumerate(weights)
    ]


def usual_ms(config: Config, weights: list[float]) -> float | None:
    """The time in which nearly all documents leave a state, ms; None while too few have."""
    total = sum(weights)
    if total < config.learn:
        return None
    reached = 0.0
    for bucket, weight in enumerate(weights):
        reached += weight
        if reached >= config.quantile * total:
            return float(2 ** (bucket + 1) - 1) / 4 * 1000
    return None


def _delayed(config: Config, state: State, at_ms: int, load: float) -> list[Document]:
    found: list[Document] = []
    for stage, weights in state.usual.items():
        usual = usual_ms(config, weights)
        if usual is None:
            continue
        limit = max(config.times_usual * usual * max(load, 1.0), config.at_least_ms)
        kind, _, name = stage.partition(",")
        here = [one for one in state.open.values() if one.kind == kind and one.state == name]
        late = [one for one in here if at_ms - one.since_ms > limit]
        if len(late) >= max(config.documents, config.share * len(here)):
            found += late
    return found


def _evidence(config: Config, state: State, delayed: list[Document], at_ms: int) -> Iterable[Evidence]:
    stages: dict[tuple[str, str], list[Document]] = {}
    for one in delayed:
        stages.setdefault((one.kind, one.state), []).append(one)
    for (kind, name), members in list(stages.items())[:5]:
        oldest = min(members, key=lambda one: one.since_ms)
        usual = usual_ms(config, state.usual[f"{kind},{name}"]) or 0.0
        text = (
            f"{len(members)} {kind} wait in {name} longer than usual ({usual / 1000:.0f} s for nearly all); "
            f"the oldest is {oldest.name or '?'}, for {(at_ms - oldest.since_ms) / 1000:.0f} s"
        )
        yield Evidence(text=text, value=float(len(members)), expected=0.0, time_ms=at_ms)


def due(state: State) -> int | None:
    """When the clocks are read next."""
    return state.due_ms


def unit(record: Record) -> str | None:
    """A tenant's database is a unit."""
    return record.resource if isinstance(record, BusinessBatch) else None


_pack, _unpack = json_state(State)
STEP = Step("journeys", Config, (BusinessBatch,), unit, State, step, _pack, _unpack, tick=tick, due=due)
