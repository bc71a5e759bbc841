"""The business at stake: documents delayed and what they are worth, now and by the next cut-off, whose they are, and what
follows them if it goes on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

BREAKDOWNS = (
    "by_tenant", "by_warehouse", "by_carrier", "missing_by_tenant", "missing_by_warehouse", "missing_by_carrier",
)  # fmt: skip
PARTS_MAX = 50  # of one breakdown of an impact; the smallest are left out


class Stake(BaseModel):
    """Documents and the value of the orders behind them, each order counted once."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    documents: int = Field(0, ge=0, description="How many documents.")
    value: float = Field(0.0, description="Value of the orders behind them, in the currency of the whole.")

    def __add__(self, other: Stake) -> Stake:
        """Both together."""
        return Stake(documents=self.documents + other.documents, value=round(self.value + other.value, 2))


class CutOffStake(Stake):
    """What will miss a shipping cut-off if things go on as they do now."""

    cut_off_ms: int = Field(ge=0, lt=10_000_000_000_000, description="The cut-off, Unix ms UTC.")
    carrier: str | None = Field(None, description="Carrier whose cut-off it is; null where none is named.")


class Impact(BaseModel):
    """The business at stake. Parts are largest first; a value is stated in `currency`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    documents: int = Field(0, ge=0, description="Documents delayed now.")
    by_type: dict[str, int] = Field(default_factory=dict, description="The same by document type.")
    value: float = Field(0.0, description="Value of the orders behind them, each counted once.")
    currency: str | None = Field(None, description="ISO 4217 code of `value`.")
    names: tuple[str, ...] = Field((), max_length=10, description="Some of the documents, most valuable first.")
    by_tenant: dict[str, Stake] = Field(default_factory=dict, description="What is delayed now, by tenant.")
    by_warehouse: dict[str, Stake] = Field(default_factory=dict, description="The same by TENANT/WAREHOUSE.")
    by_carrier: dict[str, Stake] = Field(default_factory=dict, description="The same by carrier.")
    by_cut_off: tuple[CutOffStake, ...] = Field(
        (), description="What will miss each next shipping cut-off at the present pace, earliest first."
    )
    missing_by_tenant: dict[str, Stake] = Field(
        default_factory=dict, description="What will miss its next shipping cut-off, by tenant."
    )
    missing_by_warehouse: dict[str, Stake] = Field(default_factory=dict, description="The same by TENANT/WAREHOUSE.")
    missing_by_carrier: dict[str, Stake] = Field(default_factory=dict, description="The same by carrier.")
    other_values: dict[str, float] = Field(
        default_factory=dict, description="Value in other currencies, by ISO 4217 code; not part of `value`."
    )

    exposed: int = Field(0, ge=0, description="Open documents of those who suffer: what is delayed if it goes on.")
    exposed_by_type: dict[str, int] = Field(default_factory=dict, description="The same by document type.")
    exposed_by_tenant: dict[str, int] = Field(default_factory=dict, description="The same by tenant.")
    exposed_until_ms: int | None = Field(
        None, ge=0, lt=10_000_000_000_000, description="The next shipping cut-off of those tenants, Unix ms UTC."
    )

    @property
    def next_cut_off(self) -> CutOffStake | None:
        """What will miss the earliest cut-off, of all carriers that have theirs then; None when nothing will."""
        first = [one for one in self.by_cut_off if one.cut_off_ms == self.by_cut_off[0].cut_off_ms]
        if not first:
            return None
        carrier = first[0].carrier if len(first) == 1 else None
        together = sum(first[1:], Stake(documents=first[0].documents, value=first[0].value))
        return CutOffStake(**together.model_dump(), cut_off_ms=first[0].cut_off_ms, carrier=carrier)

    @classmethod
    def joined(cls, parts: Iterable[Impact]) -> Impact:
        """The impact of several tenants as one. Parts of one tenant must not overlap: documents are added.

        `value` is in the currency that most is stated in; what stands in others is not added to it. The same parts
        in any order give the same.
        """
        found = sorted(parts, key=lambda one: (-one.value, -one.documents, one.model_dump_json()))
        values = _added((one.currency or "", one.value) for one in found)
        values = _added([*values.items(), *(pair for one in found for pair in one.other_values.items())])
        currency = max(values, key=lambda code: (values[code], code), default="")
        told = [one if (one.currency or "") == currency else _without_value(one) for one in found]
        return cls(
            documents=sum(one.documents for one in found),
            by_type=_counted(pair for one in found for pair in one.by_type.items()),
            value=values.pop(currency, 0.0),
            currency=currency or None,
            names=tuple(name for one in found for name in one.names)[:10],
            **{name: _staked(pair for one in told for pair in getattr(one, name).items()) for name in BREAKDOWNS},
            by_cut_off=_cut_offs(one for part in told for one in part.by_cut_off),
            other_values={code: value for code, value in values.items() if value},
            exposed=sum(one.exposed for one in found),
            exposed_by_type=_counted(pair for one in found for pair in one.exposed_by_type.items()),
            exposed_by_tenant=_counted(pair for one in found for pair in one.exposed_by_tenant.items()),
            exposed_until_ms=min((one.exposed_until_ms for one in found if one.exposed_until_ms), default=None),
        )


def _without_value(part: Impact) -> Impact:
    """Documents count in any currency; values do not add up over two."""

    def bare(stakes: dict[str, Stake]) -> dict[str, Stake]:
        return {key: Stake(documents=stake.documents) for key, stake in stakes.items()}

    breakdowns = {name: bare(getattr(part, name)) for name in BREAKDOWNS}
    cut_offs = tuple(one.model_copy(update={"value": 0.0}) for one in part.by_cut_off)
    return part.model_copy(update={**breakdowns, "by_cut_off": cut_offs})


def _added(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for key, value in pairs:
        sums.setdefault(key, []).append(value)
    return {key: round(math.fsum(sums[key]), 2) for key in sorted(sums)}


def _counted(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    counts = Counter[str]()
    for key, count in pairs:
        counts[key] += count
    return dict(sorted(counts.items()))


def _staked(pairs: Iterable[tuple[str, Stake]]) -> dict[str, Stake]:
    stakes: dict[str, Stake] = {}
    for key, stake in pairs:
        stakes[key] = stakes.get(key, Stake()) + stake
    largest = sorted(stakes.items(), key=lambda one: (-one[1].value, -one[1].documents, one[0]))
    return dict(largest[:PARTS_MAX])


def _cut_offs(found: Iterable[CutOffStake]) -> tuple[CutOffStake, ...]:
    stakes: dict[tuple[int, str], Stake] = {}
    for one in found:
        key = (one.cut_off_ms, one.carrier or "")
        stakes[key] = stakes.get(key, Stake()) + Stake(documents=one.documents, value=one.value)
    return tuple(
        CutOffStake(**stakes[at_ms, carrier].model_dump(), cut_off_ms=at_ms, carrier=carrier or None)
        for at_ms, carrier in sorted(stakes)[:PARTS_MAX]
    )
