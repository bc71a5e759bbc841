"""What is at stake with documents that are delayed, whole and in parts; and what is said of cut-offs that they will miss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, TypeVar

from processors.pace import Pace
from processors.steps.documents import Document
from schemas.calendar import Calendar
from schemas.impact import CutOffStake, Impact, Stake
from schemas.records import Evidence

K = TypeVar("K", str, tuple[int, str])


def impact_of(
    tenant: str, delayed: Iterable[Document], cut_offs: Iterable[tuple[int, str | None, Document]] = ()
) -> Impact:
    """What is at stake: delayed documents and the value of the orders behind them, whole and in parts."""
    found = sorted(delayed, key=lambda one: (-(one.amount or 0.0), one.kind, one.name or ""))
    ahead = list(cut_offs)
    whole, missing = _stake(found), [one for _, _, one in ahead]
    return Impact(
        documents=whole.documents,
        by_type=dict(sorted(Counter(one.kind for one in found).items())),
        value=whole.value,
        currency=next((one.currency for one in [*found, *missing] if one.currency), None),
        names=tuple(one.name for one in found if one.name)[:10],
        by_tenant={tenant: whole},
        by_warehouse=_by_warehouse(tenant, found),
        by_carrier=_by_carrier(found),
        by_cut_off=tuple(
            CutOffStake(**stake.model_dump(), cut_off_ms=cut_off_ms, carrier=carrier or None)
            for (cut_off_ms, carrier), stake in sorted(
                _parts(((at, carrier or ""), one) for at, carrier, one in ahead).items(), key=itemgetter(0)
            )
        ),
        missing_by_tenant={tenant: _stake(missing)} if missing else {},
        missing_by_warehouse=_by_warehouse(tenant, missing),
        missing_by_carrier=_by_carrier(missing),
    )


def _by_warehouse(tenant: str, documents: Iterable[Document]) -> dict[str, Stake]:
    return _parts((f"{tenant}/{one.warehouse or '?'}", one) for one in documents)


def _by_carrier(documents: Iterable[Document]) -> dict[str, Stake]:
    return _parts((one.carrier, one) for one in documents if one.carrier)


def _parts(pairs: Iterable[tuple[K, Document]]) -> dict[K, Stake]:
    parts: dict[K, list[Document]] = {}
    for key, one in pairs:
        parts.setdefault(key, []).append(one)
    return {key: _stake(members) for key, members in parts.items()}


def _stake(documents: Iterable[Document]) -> Stake:
    """Each order counts once, however many documents serve it."""
    found = list(documents)
    orders: dict[Any, float] = {}
    for one in found:
        key = one.order if one.order is not None else (one.kind, one.name)
        orders[key] = max(orders.get(key, 0.0), one.amount or 0.0)
    return Stake(documents=len(found), value=round(math.fsum(orders.values()), 2))


def misses(pace: Pace, calendar: Calendar, impact: Impact, at_ms: int) -> Iterable[Evidence]:
    """The next cut-offs, how many will miss them, and the pace that this rests on."""
    now, usual = pace.present_per_ms * 3_600_000, pace.usual_per_ms * 3_600_000
    for one in impact.by_cut_off[:3]:
        left = calendar.business_ms(at_ms, one.cut_off_ms)
        text = (
            f"{one.documents} pickings will miss the cut-off of {one.carrier or 'all carriers'} at "
            f"{calendar.local(one.cut_off_ms):%H:%M}, in {said(left)} of business time: {now:.0f} an hour leave now, "
            f"usually {usual:.0f}"
        )
        yield Evidence(text=text, unit="{document}", value=float(one.documents), expected=0.0, window_ms=round(left))


def said(duration_ms: float) -> str:
    """A duration in the unit that people would say."""
    seconds = duration_ms / 1000
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
