"""What is on its way at those who suffer: the documents that will be delayed if a fault goes on, though none is late yet.

Read off the collectors' counts of open documents (`erp.document.count`), those of the states in which a document waits for
its next step. A count older than an hour is no longer known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from processors.steps.correlator.config import Config
from processors.steps.correlator.state import OpenWork, State
from processors.steps.documents import WAY
from schemas.caches import READINGS_BYTES, cached
from schemas.impact import Impact
from schemas.records import Scrape
from schemas.series import parse, split

COUNT = "erp.document.count"
TYPE, STATE = "erp.document.type", "erp.document.state"
STALE_MS = 3_600_000


class _Column(NamedTuple):
    """Where a scrape tells how many documents of a type wait at a tenant."""

    place: int
    tenant: str
    type: str


@cached("cache.readings", READINGS_BYTES)
def columns(series: str) -> tuple[_Column, ...]:
    """Those of a layout; remembered for the next scrape of it."""
    found = []
    for place, identity in enumerate(split(series)):
        if not identity.startswith(COUNT):
            continue
        one = parse(identity)
        kind = one.attributes.get(TYPE, "")
        if one.name == COUNT and one.tenant and one.attributes.get(STATE) in WAY.get(kind, ()):
            found.append(_Column(place, one.tenant, kind))
    return tuple(found)


def take(state: State, scrape: Scrape) -> None:
    """Remember how many documents wait; of a scrape in which none were counted, what was known before stays."""
    counts: dict[str, Counter[str]] = {}
    for one in columns(scrape.series):
        if (value := scrape.values[one.place]) is not None:
            counts.setdefault(one.tenant, Counter())[one.type] += int(value)
    last = state.open.get(scrape.resource)
    if not counts or (last and last.at_ms > scrape.time_ms):
        return
    for resource in [name for name, known in state.open.items() if known.at_ms < scrape.time_ms - STALE_MS]:
        del state.open[resource]
    state.open[scrape.resource] = OpenWork(
        at_ms=scrape.time_ms, tenants={tenant: dict(sorted(found.items())) for tenant, found in sorted(counts.items())}
    )


def exposed(
    config: Config, state: State, tenants: Iterable[str], impact: Impact, before: Impact | None, at_ms: int
) -> Impact:
    """An impact with what is on its way at these tenants now, or was when it was most since the story began."""
    by_tenant, by_type = Counter[str](), Counter[str]()
    known = [one for one in state.open.values() if one.at_ms >= at_ms - STALE_MS]
    for tenant in tenants:
        for one in known:
            for kind, number in one.tenants.get(tenant, {}).items():
                by_tenant[tenant] += number
                by_type[kind] += number
    total = by_type.total()
    if before and before.exposed >= total:
        kept = ("exposed", "exposed_by_type", "exposed_by_tenant", "exposed_until_ms")
        return impact.model_copy(update={name: getattr(before, name) for name in kept})
    ends = (config.calendar(tenant).first_cut_off(at_ms) for tenant, number in by_tenant.items() if number)
    update = {
        "exposed": total,
        "exposed_by_type": {kind: number for kind, number in sorted(by_type.items()) if number},
        "exposed_by_tenant": {tenant: number for tenant, number in sorted(by_tenant.items()) if number},
        "exposed_until_ms": min((one for one in ends if one is not None), default=None),
    }
    return impact.model_copy(update=update)
