"""Do more of a channel's jobs fail than usual, and is it one partner or all?

Every job that ends is a trial. A Bernoulli CUSUM by channel weighs each failure against the channel's usual share of failures: it
falls with every success and rises with every failure, and finds a lasting rise soonest for a given rate of false alarms,
however many jobs there are. A second one in the other direction, from the share that has failed since, finds the end. One channel
alone that serves a partner is that partner's doing (`integration.failures`); most channels of a tenant at once are the tenant's
(`queue.failures`).
Source: Reynolds & Stoumbos (1999), A CUSUM chart for monitoring a proportion when inspecting continuously.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from processors import columns
from processors.admission import TENANT, Forgotten
from processors.episodes import Episodes
from processors.evidence import cause_of
from processors.flows import Floats
from processors.partners import partner_of
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from processors.values import values_of
from schemas.caches import READINGS_BYTES, cached
from schemas.records import Evidence, Record, Scrape, Severity
from schemas.series import Series, parse, split

DONE, FAILED, CHANNEL = "odoo.queue_job.done", "odoo.queue_job.failed", "odoo.queue_job.channel"


class Config(StepConfig):
    """When failures are too many."""

    limit: float = Field(8.0, gt=0, description="Weight of evidence, as the logarithm of odds: e^8 is 3,000 to one.")
    least: float = Field(0.02, gt=0, lt=0.2, description="A smaller usual share of failures counts as this.")
    before: float = Field(50.0, gt=0, description="Jobs that the least share is worth before any was seen.")
    rise: float = Field(4.0, gt=1, description="A rise to so many times the usual share is looked for.")
    rise_to: float = Field(0.25, gt=0, lt=1, description="Or to this share, whichever is more.")
    failures: int = Field(3, ge=1, description="Failures that there must be at least.")
    memory: float = Field(2_000.0, gt=0, description="Jobs over which the usual share is remembered.")
    well: float = Field(8.0, gt=0, description="Weight of evidence, as that of `limit`, at which it is over.")
    calm_ms: int = Field(900_000, gt=0, description="It is over, too, when so long nothing has failed, ms.")


_ARRAYS: dict[str, Any] = {
    "done": np.float64,
    "failed": np.float64,
    "weight": np.float64,
    "well": np.float64,  # the same that it is over
    "failures": np.float64,  # since the weight was 0
    "ended": np.float64,  # jobs since then, failed ones among them
    "since_ms": np.float64,
    "jobs": np.float64,  # decayed: jobs that ended, and those that failed
    "bad": np.float64,
    "bad_ms": np.float64,
    "whole": np.float64,  # 1: told as its tenant's doing, which it stays until it is over
}


class Channel(NamedTuple):
    """A channel of a tenant's queue."""

    tenant: str | None
    name: str


Flags = NDArray[np.bool_]


@dataclass
class State:
    """The channels of one resource, which is one tenant's queue as a rule."""

    channels: list[Channel] = field(default_factory=list)
    arrays: columns.Arrays = field(default_factory=lambda: {name: np.zeros(0, kind) for name, kind in _ARRAYS.items()})
    start_ms: int = -1
    last_ms: int = -1
    episodes: Episodes = field(default_factory=Episodes)
    places: Places | None = None
    ill: tuple[bytes, list[Ill]] = (b"", [])
    """What is wrong as it was last told, and which channels were ill and busy; it stays so while they are."""


@dataclass(slots=True)
class Layout:
    """Places of the counters in a layout, done (first row) and failed by channel."""

    channels: list[Channel]
    places: NDArray[np.intp]


class Ill(NamedTuple):
    """A cause, the channels that speak for it and whose they are."""

    cause: str
    slots: list[int]
    tenants: tuple[str, ...]


class Places(NamedTuple):
    """By channel of the state: its columns in a layout, done and failed, where it has none, and whose it is, as a number."""

    layout: Layout
    columns: NDArray[np.intp]
    absent: NDArray[np.intp]
    owners: NDArray[np.intp]


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Weigh the jobs that have ended since the last look."""
    if isinstance(item.record, Forgotten):
        _let_go(state, item.record)
        return state, state.episodes.close_others(set(), item.at_ms) if not state.channels else []
    scrape: Scrape = item.record
    layout = _layout_of(scrape.series)
    if layout is None or scrape.time_ms <= state.last_ms:
        return state, []
    done, failed = _ended(state, scrape, layout)
    _weigh(config, state, done, failed, scrape.time_ms)
    state.last_ms = scrape.time_ms
    return state, _judge(config, state, scrape)


def _let_go(state: State, gone: Forgotten) -> None:
    lost = {_channel(parse(one)) for one in gone.series if one.startswith((DONE, FAILED))}
    stays = np.array([one not in lost for one in state.channels], bool)
    state.channels = [one for one in state.channels if one not in lost]
    state.arrays, state.places, state.ill = columns.kept(state.arrays, stays), None, (b"", [])


def _channel(series: Series) -> Channel:
    return Channel(series.tenant, series.attributes.get(CHANNEL, "root"))


def _ended(state: State, scrape: Scrape, layout: Layout) -> Floats:
    """Jobs done (first row) and failed by channel since the last look; 0 where that was not measured."""
    places = _places(state, layout)
    arrays = state.arrays
    now = values_of(scrape)[places.columns]
    now[:, places.absent] = np.nan
    known, ended = ~np.isnan(now), np.empty_like(now)
    for row, name in enumerate(("done", "failed")):
        np.subtract(now[row], arrays[name], out=ended[row])
        np.copyto(arrays[name], now[row], where=known[row])
    started = scrape.start_time_ms if scrape.start_time_ms is not None else -1
    if started != state.start_ms:
        ended[:] = np.nan
    state.start_ms = started
    counted = ended >= 0
    if np.count_nonzero(counted) < counted.size:
        ended[:, ~(counted[0] & counted[1])] = 0.0
    return ended


def _places(state: State, layout: Layout) -> Places:
    if state.places is None or state.places.layout is not layout:
        new = [one for one in layout.channels if one not in state.channels]
        if new:
            state.channels += new
            state.arrays = {name: columns.wider(one, len(new)) for name, one in state.arrays.items()}
            for name in ("done", "failed"):
                state.arrays[name][-len(new) :] = np.nan
        here = {channel: place for place, channel in enumerate(layout.channels)}
        at = np.array([here.get(one, -1) for one in state.channels], np.intp)
        owners = {tenant: number for number, tenant in enumerate(dict.fromkeys(one.tenant for one in state.channels))}
        state.places = Places(
            layout,
            layout.places[:, at],
            np.flatnonzero(at < 0),
            np.array([owners[one.tenant] for one in state.channels], np.intp),
        )
    return state.places


def _weigh(config: Config, state: State, done: Floats, failed: Floats, time_ms: int) -> None:
    arrays, ended = state.arrays, done + failed
    before = config.before * config.least
    usual = np.maximum((arrays["bad"] + before) / (arrays["jobs"] + config.before), config.least)
    risen = np.minimum(np.maximum(usual * config.rise, config.rise_to), 0.95)
    usual = np.minimum(usual, 0.9 * risen)
    weight = arrays["weight"] + (failed * np.log(risen / usual) + done * np.log((1 - risen) / (1 - usual)))
    # Bounded, so that the end is seen soon after the last failure.
    weight = np.minimum(np.maximum(weight, 0.0), 1.5 * config.limit)
    np.copyto(arrays["bad_ms"], time_ms, where=failed > 0)
    # Since it began so many have failed; half a job of either kind was there before.
    ill = np.maximum((arrays["failures"] + 0.5) / (arrays["ended"] + 1.0), risen)
    well = np.maximum(arrays["well"] + failed * np.log(usual / ill) + done * np.log((1 - usual) / (1 - ill)), 0.0)
    weight[(well >= config.well) | (time_ms - arrays["bad_ms"] >= config.calm_ms)] = 0.0
    arrays["well"] = well * (weight >= config.limit)
    arrays["weight"] = weight
    suspect = weight > 0
    arrays["failures"] = (arrays["failures"] + failed) * suspect
    arrays["ended"] = (arrays["ended"] + ended) * suspect
    np.copyto(arrays["since_ms"], time_ms, where=~suspect)
    # What is usual is learned while it is calm.
    calm = weight < config.limit / 2
    if np.count_nonzero(calm):
        keep = np.exp(calm * ended / -config.memory)
        arrays["jobs"] = arrays["jobs"] * keep + calm * ended
        arrays["bad"] = arrays["bad"] * keep + calm * failed


def _judge(config: Config, state: State, scrape: Scrape) -> Findings:
    arrays = state.arrays
    over = (arrays["weight"] >= config.limit) & (arrays["failures"] >= config.failures)
    if not np.count_nonzero(over):
        if not state.episodes.open:
            return []
        arrays["whole"][:], state.ill = 0.0, (b"", [])
        return state.episodes.close_others(set(), scrape.time_ms)
    busy = arrays["jobs"] > 0
    key = over.tobytes() + busy.tobytes()
    if state.ill[0] != key:
        state.ill = key, _causes(state, over, busy, scrape.resource)
    elif state.episodes.all_old(scrape.time_ms):
        return []
    causes, found = state.ill[1], Findings()
    for cause, slots, tenants in causes:
        if state.episodes.is_old(cause, scrape.time_ms, Severity.WARNING, cause, tenants):
            continue
        evidence = tuple(_evidence(state, slot, scrape.time_ms) for slot in slots[:10])
        found += state.episodes.seen(
            key=cause,
            time_ms=scrape.time_ms,
            cell=scrape.cell,
            detector=STEP.name,
            cause=cause,
            resource=scrape.resource,
            tenant=tenants[0] if len(tenants) == 1 else None,
            severity=Severity.WARNING,
            score=float(1 - np.exp(-max(arrays["weight"][slots]) / 4)),
            summary=evidence[0].text,
            evidence=evidence,
            tenants=tenants,
        )
    return found + state.episodes.close_others({one.cause for one in causes}, scrape.time_ms)


def _causes(state: State, over: Flags, busy: Flags, resource: str) -> list[Ill]:
    """What is wrong, by cause."""
    return [
        Ill(cause, slots, tuple(sorted({tenant for slot in slots if (tenant := state.channels[slot].tenant)})))
        for cause, slots in sorted(_slots_by_cause(state, over, busy, resource).items())
    ]


def _slots_by_cause(state: State, over: Flags, busy: Flags, resource: str) -> dict[str, list[int]]:
    """Channels by cause: most of a tenant's at once are the tenant's doing; one alone is its partner's, if it has one.

    What was the tenant's doing stays so when the others calm down first.
    """
    assert state.places  # a look has come
    owners = state.places.owners
    ill_of, busy_of = np.bincount(owners, over), np.bincount(owners, busy)
    most_ill = ((ill_of >= 2) & (2 * ill_of > busy_of))[owners]
    whole = over & (most_ill | (state.arrays["whole"] > 0))
    state.arrays["whole"] = whole.astype(np.float64)
    is_whole = whole.tolist()
    causes: dict[str, list[int]] = {}
    for slot in np.flatnonzero(over).tolist():
        tenant, name = state.channels[slot]
        partner = None if is_whole[slot] else partner_of(name)
        cause = cause_of("integration.failures", partner) if partner else cause_of("queue.failures", tenant or resource)
        causes.setdefault(cause, []).append(slot)
    return causes


def _evidence(state: State, slot: int, time_ms: int) -> Evidence:
    arrays, (tenant, name) = state.arrays, state.channels[slot]
    usual = float(arrays["bad"][slot] / max(arrays["jobs"][slot], 1.0))
    failures, ended = float(arrays["failures"][slot]), float(arrays["ended"][slot])
    window_ms = time_ms - round(arrays["since_ms"][slot])
    return Evidence(
        text=f"{failures:.0f} of the last {ended:.0f} jobs of {name} of {tenant or 'the resource'} have failed within "
        f"{window_ms / 1000:.0f} s, usually {usual:.1%} of them do",
        unit="{job}",
        value=failures,
        expected=usual * ended,
        scale=float(np.sqrt(usual * (1 - usual) * ended)),
        window_ms=window_ms,
        time_ms=time_ms,
    )


@cached("cache.readings", READINGS_BYTES)
def _layout_of(series: str) -> Layout | None:
    places: dict[Channel, dict[str, int]] = {}
    for place, one in enumerate(split(series)):
        if one.startswith((DONE, FAILED)):
            parsed = parse(one)
            places.setdefault(_channel(parsed), {})[parsed.name] = place
    both = [channel for channel, names in places.items() if DONE in names and FAILED in names]
    at = np.array([[places[one][name] for one in both] for name in (DONE, FAILED)], np.intp)
    return Layout(both, at) if both else None


def pack(state: State) -> Parts:
    """Everything together."""
    more = {
        "channels": [list(one) for one in state.channels],
        "start_ms": state.start_ms,
        "last_ms": state.last_ms,
        "episodes": state.episodes.dump(),
    }
    return {"": columns.pack(state.arrays, more)}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    arrays, more = columns.unpack(parts[""])
    channels = [Channel(*one) for one in more["channels"]]
    for name in ("whole", "well"):  # versions 2 and 3 did not keep them
        arrays.setdefault(name, np.zeros(len(channels)))
    return State(channels, arrays, more["start_ms"], more["last_ms"], Episodes.load(more["episodes"]))


def unit(record: Record) -> str | None:
    """The queue of a tenant's database."""
    if isinstance(record, Forgotten):
        return record.resource if record.system != TENANT else None
    return record.resource if isinstance(record, Scrape) and _layout_of(record.series) else None


ABOUT = About(
    finds="A channel of the job queue in which more jobs fail than usual, and whether it is one partner or all.",
    method=(
        "Every job that ends is a trial: a Bernoulli CUSUM weighs failures and successes against the channel's "
        "usual share of failures."
    ),
    source="Reynolds & Stoumbos (1999), A CUSUM chart for monitoring a proportion when inspecting continuously",
    limits="It takes several failures; jobs that neither end nor fail are absence's.",
)
STEP = Step("failing_jobs", Config, (Scrape, Forgotten), unit, State, step, pack, unpack, version=4, about=ABOUT)
