"""What is said of a budget that burns: how fast, what is left of it, and the events that this rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from processors.budgets import Burning, Track, exhaustion_ms, ratio
from processors.indicators import Meter
from schemas.burn_rates import WORKBOOK, BurnRate
from schemas.records import Evidence


class Judged(NamedTuple):
    """One objective of an SLO, its counts and the verdict on them. Groups are known by their number."""

    meter: Meter
    track: Track
    verdict: Burning

    def broken(self, number: int) -> list[BurnRate]:
        """The rules by which a group's budget burns now, the most urgent first."""
        legs = self.verdict.legs
        return [rule for place, rule in enumerate(WORKBOOK) if number < legs.shape[2] and legs[-1, place, number]]


def rate(one: Judged, length_ms: int, number: int) -> float:
    """How many times as fast as allowed a group's budget burned over a window; NaN where there were no events."""
    return float(ratio(one.verdict.sums[length_ms][-1])[number]) / one.track.terms.budget


def what_is_left(track: Track, burn: float, number: int) -> str:
    """Of a group's budget, and when it will be gone at this rate."""
    left = float(track.left()[number])
    lasts_ms = exhaustion_ms(left, burn, track.terms.period.length_ms)
    if lasts_ms == 0:
        return "nothing of it is left"
    return f"{left:.0%} of it is left" + (f", gone in {_span(lasts_ms)}" if lasts_ms else "")


def evidence(burning: Iterable[Judged], number: int, series: str, at_ms: int) -> Iterable[Evidence]:
    """The rules that a group's budgets burn by, and the events of the period."""
    for one in burning:
        for rule in one.broken(number):
            if not math.isnan(rate(one, rule.short_ms, number)):
                yield _leg(one, rule, number, series, at_ms)
        bad, total, _ = (int(count) / 1e6 for count in one.track.in_period()[:, number])
        slo, target = one.meter.slo, one.meter.target
        period = slo.period
        events = "slices" if target.slice_ms else "events"
        text = (
            f"{target.name}: {bad:,.6g} of {total:,.6g} {events} of the last {period.duration} were bad, "
            f"{100 * target.budget:.4g} % of them may be"
        )
        journey = f"; journey {slo.options.journey}" if slo.options.journey else ""
        yield Evidence(
            text=text + journey,
            unit="{slice}" if target.slice_ms else "{event}",
            value=bad,
            expected=round(target.budget * total, 6),
            window_ms=period.length_ms,
            time_ms=at_ms,
        )


def _leg(one: Judged, rule: BurnRate, number: int, series: str, at_ms: int) -> Evidence:
    factor = rule.factor(one.track.terms.period.length_ms)
    short, long = (rate(one, length, number) for length in (rule.short_ms, rule.long_ms))
    text = (
        f"{rule.severity}: the budget burns {long:.1f} times as fast as allowed over {_span(rule.long_ms)} and "
        f"{short:.1f} times over {_span(rule.short_ms)}; both are more than {factor:.1f}"
    )
    return Evidence(
        text=text,
        series=series or None,
        unit="1",
        value=round(long, 6),
        expected=factor,
        time_ms=at_ms,
        window_ms=rule.long_ms,
    )


def _span(length_ms: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if length_ms >= 2 * size or length_ms == size:
            return f"{length_ms / size:.0f} {unit}"
    return f"{length_ms / 1000:.0f} s"
