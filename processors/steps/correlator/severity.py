"""How grave is a story? By the business at stake, not by how far a number is out of its band.

Documents and value, delayed now or missing the next cut-off, are held against what the tenant's tier bears. A story that
nobody suffers from is a warning at most; a forecast is information until it is near.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from processors.steps.correlator.config import Config
from processors.steps.correlator.state import Node
from schemas.estate import Tier
from schemas.impact import Impact, Stake
from schemas.records import Severity, Signal

TIERS = (Tier.CRITICAL, Tier.HIGH, Tier.MEDIUM, Tier.LOW)


def impact_of(members: Iterable[Node], before: Impact | None) -> Impact:
    """What is at stake over all tenants now, or was at the worst, whichever is more.

    Several signals may tell of the same documents of a tenant; the one that tells of most counts.
    """
    largest: dict[str, Signal] = {}
    for signal in (one.signal for node in members for one in node.kept if one.signal.impact and one.ended_ms is None):
        whose = signal.tenant or signal.cause
        if whose not in largest or _size(signal) > _size(largest[whose]):
            largest[whose] = signal
    now = Impact.joined([one.impact for one in largest.values() if one.impact])
    if before and (before.documents, before.value) >= (now.documents, now.value):
        return before
    return now


def severity_of(
    config: Config, members: Sequence[Node], impact: Impact, tenants: Sequence[str], forecast_ms: int | None
) -> Severity:
    """`forecast_ms` is the time until what is forecast comes true, None when the story is no forecast."""
    if impact.documents or impact.by_cut_off:
        return Severity.CRITICAL if _is_critical(config, impact, tenants) else Severity.WARNING
    if forecast_ms is not None:
        return Severity.WARNING if forecast_ms <= config.forecast_warns_ms else Severity.INFO
    suffering = {tenant for node in members for tenant in _victims(node)}
    told = max((one.signal.severity for node in members for one in node.kept), default=Severity.WARNING)
    return told if suffering else min(told, Severity.WARNING)


def forecast_ms(root: Node | None, members: Sequence[Node], at_ms: int) -> int | None:
    """Time until the root's forecast comes true, ms; None when it is none, or something is felt already."""
    if root is None or root.due_ms is None or any(node is not root for node in members):
        return None
    return max(root.due_ms - at_ms, 0)


def _is_critical(config: Config, impact: Impact, tenants: Sequence[str]) -> bool:
    stakes = (*impact.by_tenant.items(), *impact.missing_by_tenant.items())
    if any(_weighs(config, _tier(config, tenant), stake) for tenant, stake in stakes):
        return True
    # Of what names no tenant the dearest one that suffers decides.
    tier = min((_tier(config, tenant) for tenant in tenants), key=TIERS.index, default=Tier.MEDIUM)
    now = Stake(documents=impact.documents, value=impact.value)
    ahead = None if impact.missing_by_tenant else impact.next_cut_off
    return (not impact.by_tenant and _weighs(config, tier, now)) or (ahead is not None and _weighs(config, tier, ahead))


def _weighs(config: Config, tier: Tier, stake: Stake) -> bool:
    return stake.documents >= config.critical_documents[tier] or stake.value >= config.critical_value[tier]


def _tier(config: Config, tenant: str) -> Tier:
    known = config.declared.tenants_by_name.get(tenant) if config.declared else None
    return known.tier if known else Tier.MEDIUM


def _victims(node: Node) -> Iterable[str]:
    """Who suffers; not who only weighs on the others, nor whom trouble on a server may reach some day."""
    if node.kind == "tenant.load":
        return (tenant for one in node.kept for tenant in one.signal.tenants)
    return node.felt


def _size(signal: Signal) -> tuple[int, float, str]:
    found = signal.impact or Impact()
    return found.documents, found.value, signal.id
