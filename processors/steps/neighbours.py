"""A noisy neighbour in words: what it takes, who suffers, what is used up, and what limiting it would free."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from processors.demands import DEMANDS, PRESSURES, Floats
from processors.steps.pools import Pool, State
from schemas.records import Evidence, Scrape, Severity


class Suffering(NamedTuple):
    """Who suffers, and how that is known."""

    tenant: str
    fact: Evidence


class Judged(NamedTuple):
    """By demand and tenant: what is to be expected, what is taken beyond it; and by outcome and tenant how they fare."""

    expected: Floats
    excess: Floats
    times: Floats


PRESSED_MS = 300_000
"""What was measured longer ago no longer tells of pressure."""


def pressed(state: State, scrape: Scrape) -> list[Evidence]:
    """What of the shared is used up: of its kind, the resource of the scrape itself; of other kinds, any of the cell."""
    told = []
    for resource, (system, measured) in sorted(state.pressures.items()):
        if system == scrape.system and resource != scrape.resource:
            continue
        for one in PRESSURES:
            share, at_ms = measured.get(one.metric, (0.0, -1))
            if at_ms >= 0 and scrape.time_ms - at_ms <= PRESSED_MS and share >= one.limit:
                text = f"{one.sentence.format(share=share, resource=resource)}; pressed from {one.limit:.0%} on"
                told.append(Evidence(text=text, unit="1", value=share, expected=one.limit, time_ms=at_ms))
    return told


def finding(
    state: State, pool: Pool, scrape: Scrape, slot: int, rows: list[int], judged: Judged,
    victims: list[Suffering], presses: list[Evidence],
) -> dict[str, Any]:  # fmt: skip
    tenant, lead = state.tenants[slot], DEMANDS[pool.rows[rows[0]]]
    freed = float(judged.excess[rows[0], slot])
    takes = [_takes(pool, judged, scrape, tenant, row, slot) for row in rows[:5]]
    suffer = f"; {', '.join(one.tenant for one in victims[:5])} suffer{'s' * (len(victims) == 1)}" if victims else ""
    total = float(np.nansum(pool.grid["now"][rows[0]]))
    keep = max(1, math.ceil(2 * float(judged.expected[rows[0], slot])))
    return {
        "time_ms": scrape.time_ms,
        "cell": scrape.cell,
        "resource": scrape.resource,
        "severity": Severity.CRITICAL if victims else Severity.WARNING,
        "score": min(0.99, 1 - 0.5 * lead.floor / max(freed, lead.floor)),
        "summary": takes[0].text + suffer,
        "evidence": (*takes, *(one.fact for one in victims), *presses)[:20],
        "tenants": tuple(one.tenant for one in victims),
        "advice": (
            f"Of {tenant}, {lead.limit.format(keep=keep)}: it would free {freed:.3g} {lead.unit}, "
            f"{freed / max(total, 1e-12):.0%} of what all take."
        ),
    }


def _takes(pool: Pool, judged: Judged, scrape: Scrape, tenant: str, row: int, slot: int) -> Evidence:
    """What the tenant takes by one demand, halfway smoothed over the time since the look before."""
    now, expected, usual, spread = (
        float(one[row, slot]) for one in (pool.grid["now"], judged.expected, pool.grid["usual"], pool.grid["spread"])
    )
    all_take, unit = float(np.nansum(pool.grid["now"][row])), DEMANDS[pool.rows[row]].unit
    # As `_is_over` has it: there is more scatter where there is more, and a count scatters by its root at least.
    counted = 0.0 if pool.is_sum[row, 0] else expected / 3
    return Evidence(
        text=f"{tenant} takes {now:.3g} {unit} of {scrape.resource}, to be expected were {expected:.3g}; "
        f"that is {now / max(all_take, 1e-12):.0%} of all tenants' {all_take:.3g}",
        unit=unit,
        value=now,
        expected=expected,
        scale=math.sqrt((spread * expected / usual) ** 2 + counted) if usual else spread,
        window_ms=max(0, scrape.time_ms - round(pool.grid["at_ms"][row, slot])),
        time_ms=scrape.time_ms,
    )
