"""Do requests wait for a worker as long as they are served? Saturation of pools, told from their queue and not from a CPU.

A pool has servers, some of them busy, and a queue of those that wait for one. By Little's law the mean number that waits over
the mean number in service is the mean wait over the mean service, whatever comes and however long it is served: no rate
and no clock of the pool is needed. From one on, a pool is saturated: M/M/c gets there at the knee that `bounds` has, and
little more load makes it a multiple of that. A CPU sees nothing of it when workers wait for others.

Both means are exponentially weighted over time, so a burst that is served soon is no finding. Sources: Little (1961);
Erlang (1917); Kingman (1961) for why waits grow so steeply there; Gunther, Guerrilla Capacity Planning, ch. 2, for queue
lengths as what to look at. State: about 200 bytes a pool.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pydantic import BaseModel, Field

from processors.admission import Forgotten
from processors.episodes import Episodes, Open
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig, json_state
from processors.steps.bounds import knee
from schemas.bounds import reached
from schemas.caches import READINGS_BYTES, cached
from schemas.records import Evidence, Record, Scrape, Severity
from schemas.series import identity, parse, split

POOLS_MAX = 256


class Config(StepConfig):
    """When waiting is too much."""

    memory_s: float = Field(120.0, gt=0, description="Queue and service are averaged over so long (to 1/e), s.")
    wait: float = Field(1.0, gt=0, description="Mean wait in mean times of service from which a pool is saturated.")
    calm: float = Field(0.5, gt=0, description="And up to which it is no longer.")
    looks: int = Field(
        3, ge=1, description="Looks in a row, each with such a queue, that open an episode; without one, that end it."
    )
    quiet_ms: int = Field(2_000_000, gt=0, description="An episode ends when nobody has looked for so long, ms.")


class Kind(NamedTuple):
    """A kind of pool: what it is a lack of, the metrics of its queue, of what is served and of its servers."""

    cause: str
    waiting: str
    busy: str
    servers: str
    who: str
    what: str
    advice: str


KINDS = (
    Kind(
        "capacity.workers", "odoo.worker.waiting", "odoo.worker.busy", "odoo.worker.count", "requests", "workers",
        "Give {where} more workers, or find what holds them: requests that wait for others belong into jobs.",
    ),
    Kind(
        "capacity.connections", "pgbouncer.client.waiting", "pgbouncer.server.active", "pgbouncer.server.max", "clients", "server connections",
        "Raise pool_size of {where}, or find who holds its connections: long transactions, idle ones in them.",
    ),
)  # fmt: skip
_BY_METRIC = {kind.waiting: row for row, kind in enumerate(KINDS)}


class Place(NamedTuple):
    """A pool of a layout: its kind and name, whose it is, and the places of its values."""

    row: int
    key: str
    tenant: str | None
    waiting: int
    busy: int
    servers: int | None


class Pool(BaseModel):
    """What is known of one pool."""

    waiting: float = 0.0
    busy: float = 0.0
    last_ms: int = -1
    hot: int = 0
    calm: int = 0


class State(BaseModel):
    """The pools of one resource."""

    pools: dict[str, Pool] = Field(default_factory=dict)
    open: dict[str, Open] = Field(default_factory=dict)
    due_ms: int | None = None


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a look at the pools of a resource."""
    found: Findings = []
    if isinstance(item.record, Forgotten):
        for key in item.record.series:
            state.pools.pop(key, None)
            found += Episodes(state.open).close(key, item.at_ms)
        _set_due(config, state)
        return state, found
    scrape: Scrape = item.record
    for place in places(scrape.series):
        if place.key in state.pools or len(state.pools) < POOLS_MAX:
            found += _look(config, state, scrape, place)
        else:
            reached("saturation.pools")
    _set_due(config, state)
    return state, found


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """End the episodes of pools that nobody looks at any more."""
    found = Episodes(state.open).close_unseen(at_ms - config.quiet_ms + 1, at_ms)
    _set_due(config, state)
    return state, found


def due(state: State) -> int | None:
    """When the oldest episode may have ended."""
    return state.due_ms


def _set_due(config: Config, state: State) -> None:
    state.due_ms = min((one.seen_ms + config.quiet_ms for one in state.open.values()), default=None)


def _look(config: Config, state: State, scrape: Scrape, place: Place) -> Findings:
    waiting, busy = scrape.values[place.waiting], scrape.values[place.busy]
    pool = state.pools.setdefault(place.key, Pool())
    if waiting is None or busy is None or scrape.time_ms <= pool.last_ms:
        return []
    elapsed_s = (scrape.time_ms - pool.last_ms) / 1000 if pool.last_ms >= 0 else math.inf
    weight = 1.0 - math.exp(-elapsed_s / config.memory_s)
    pool.waiting += weight * (waiting - pool.waiting)
    pool.busy += weight * (busy - pool.busy)
    pool.last_ms = scrape.time_ms
    is_open = place.key in state.open
    edge = config.calm if is_open else config.wait
    # One that waits at all: where nobody is served, any queue is longer than the service.
    is_hot = pool.waiting >= max(edge * pool.busy, edge)
    # A long queue once is a burst; the looks in a row each show one.
    pool.hot = min(pool.hot + 1, config.looks) if is_hot and waiting >= config.wait * max(busy, 1.0) else 0
    pool.calm = pool.calm + 1 if waiting <= config.calm * busy else 0
    if pool.calm >= config.looks:  # what has waited is served: the mean of the past says nothing any more
        pool.waiting, is_hot = waiting, False
    if not is_hot:
        return Episodes(state.open).close(place.key, scrape.time_ms)
    return _tell(config, state, scrape, place, pool) if is_open or pool.hot >= config.looks else []


def _tell(config: Config, state: State, scrape: Scrape, place: Place, pool: Pool) -> Findings:
    kind = KINDS[place.row]
    where = place.tenant or scrape.resource
    servers = scrape.values[place.servers] if place.servers is not None else None
    ratio = pool.waiting / max(pool.busy, 1e-9)
    of = f"of {servers:.0f} {kind.what} " if servers else f"{kind.what} "
    wait = (
        "nobody is served"
        if not scrape.values[place.busy]
        else f"they wait {ratio:.1f} times as long as they are served"
    )
    text = f"{pool.waiting:.0f} {kind.who} wait at {where} while {pool.busy:.0f} {of}are busy: {wait}"
    window_ms = round(config.memory_s * 1000)
    evidence = [
        Evidence(
            text=text, unit=kind.who, value=pool.waiting, expected=0.0, time_ms=scrape.time_ms, window_ms=window_ms
        )
    ]
    if servers:
        usable = knee(round(servers))
        more = f"{servers:.0f} {kind.what} carry {usable:.1f} busy ones before waiting is as long as service (Erlang C)"
        evidence.append(
            Evidence(
                text=more,
                unit=kind.what,
                value=pool.busy,
                expected=round(usable, 3),
                time_ms=scrape.time_ms,
                window_ms=window_ms,
            )
        )
    return Episodes(state.open).seen(
        key=place.key,
        time_ms=scrape.time_ms,
        tell_every_ms=300_000,
        cell=scrape.cell,
        detector=STEP.name,
        cause=cause_of(kind.cause, where),
        resource=scrape.resource,
        tenant=place.tenant,
        severity=Severity.WARNING,
        score=round(min(0.99, 1.0 - 0.5 * config.wait / max(ratio, config.wait)), 4),
        summary=text,
        evidence=tuple(evidence),
        tenants=(place.tenant,) if place.tenant else (),
        advice=kind.advice.format(where=where),
    )


@cached("cache.readings", READINGS_BYTES)
def places(layout: str) -> tuple[Place, ...]:
    """The pools of a layout."""
    identities = split(layout)
    if not any(one.partition("{")[0] in _BY_METRIC for one in identities):
        return ()
    index = {one: place for place, one in enumerate(identities)}
    found = []
    for at, series in enumerate(map(parse, identities)):
        row = _BY_METRIC.get(series.name, -1)
        kind = KINDS[row]
        busy = index.get(identity(kind.busy, series.attributes))
        if row >= 0 and busy is not None:
            servers = index.get(identity(kind.servers, series.attributes))
            found.append(Place(row, identities[at], series.tenant, at, busy, servers))
    return tuple(found)


def unit(record: Record) -> str | None:
    """A resource that has pools."""
    if isinstance(record, Forgotten) or (isinstance(record, Scrape) and places(record.series)):
        return f"{record.resource}|{record.system}"
    return None


_pack, _unpack = json_state(State)
ABOUT = About(
    finds="A pool of workers or connections before which requests wait as long as they are served.",
    method=(
        "The mean number that waits over the mean number in service is the mean wait over the mean service (Little's law); "
        "both are averaged over minutes, and looks in a row must each show such a queue."
    ),
    source="Little (1961); Erlang C (Erlang 1917); Kingman (1961); Gunther, Guerrilla Capacity Planning, ch. 2",
    limits=(
        "It sees only queues that a collector can look at, and not why the service is slow; waits between two looks that are "
        "over at both are not seen."
    ),
)
STEP = Step(
    "saturation", Config, (Scrape, Forgotten), unit, State, step, _pack, _unpack, tick=tick, due=due, about=ABOUT
)
