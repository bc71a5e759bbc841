"""What is said of a change that was judged: the summary, the evidence and the advice, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from processors.steps.contrast import Contrast
from processors.steps.ledger import Ledger
from processors.steps.rivals import Rival
from schemas.metrics import describe
from schemas.records import Change, Evidence, Verdict
from schemas.series import parse
from schemas.words import amounts, called, number

SAID = 6


def summary(change: Change, verdict: Verdict, worst: str, why: str, mended: bool) -> str:
    """One sentence: the change, the verdict and what it rests on."""
    who = f" for {', '.join(change.tenants[:5])}" if change.tenants else ""
    what = f"{change.kind} of {change.service} to {change.revision}{who}"
    match verdict:
        case Verdict.REGRESSED:
            return f"{what} made it worse: {worst}"
        case Verdict.FINE:
            return f"{what} did no harm that matters"
        case Verdict.RECOVERED:
            return f"{what}: what it made worse has recovered {'after it was taken back or followed' if mended else 'by itself'}"
        case Verdict.NOT_RECOVERED:
            return f"{what}: what it made worse has not recovered: {worst or why}"
        case _:
            return f"{what} cannot be judged yet: {why}"


def evidence(
    ledger: Ledger,
    seen: Contrast | None,
    rows: Any,
    also: Iterable[Change],
    rivals: Iterable[Rival],
    since_ms: int,
    at_ms: int,
    why: str,
) -> tuple[Evidence, ...]:
    """The rows that decided, or those that came nearest to it; who stood beside; what else was changed at that time."""
    window_ms = max(0, at_ms - since_ms)
    found = [Evidence(text=why, window_ms=window_ms, time_ms=at_ms)] if why else []
    if seen is not None:
        nearest = np.argsort(-seen.log_e * np.sign(seen.shift), kind="stable")
        found += [_row(ledger, seen, int(row), window_ms, at_ms) for row in (rows if len(rows) else nearest)[:SAID]]
        beside = ", ".join(seen.controls[:5])
        text = (
            f"compared with its own past and with {beside}"
            if beside
            else "compared with its own past; nobody to stand beside"
        )
        found.append(Evidence(text=text, time_ms=at_ms))
    found += [
        Evidence(text=f"at about that time also {one.kind} of {one.service} to {one.revision}", time_ms=one.time_ms)
        for one in list(also)[:3]
    ]
    found += [
        Evidence(
            text=f"{one.cause} has another origin; what it reaches counts neither for nor against the change",
            time_ms=one.started_ms,
        )
        for one in list(rivals)[:3]
    ]
    return tuple(found)


def row_text(ledger: Ledger, seen: Contrast, row: int) -> str:
    """One comparison in words: observed, expected, the ratio with its interval, the always-valid p-value."""
    slot = int(seen.slot[row])
    if slot >= 0:
        one = ledger.slots[slot]
        what = f"{called(one.series)} of {one.tenant or one.resource}"
    else:
        what = f"{called(parse(seen.pool[row]))} of all that got it"
    now, usual = amounts(seen.metric[row], max(float(seen.observed[row]), 0.0), max(float(seen.expected[row]), 0.0))
    text = f"{what} at {now} where {usual} was to be expected"
    if math.isfinite(seen.high[row]):
        low, high = (math.exp(min(bound, 20.0)) for bound in (seen.low[row], seen.high[row]))
        times = math.exp(min(seen.shift[row], 20.0))
        text += f", {number(times, 2)} times as bad ({100.0 * (1.0 - seen.alpha):.0f} %: {number(low, 2)} to {number(high, 2)})"
    return f"{text}, p = {min(1.0, math.exp(-min(float(seen.log_e[row]), 700.0))):.1g} at any time"


def _row(ledger: Ledger, seen: Contrast, row: int, window_ms: int, at_ms: int) -> Evidence:
    slot = int(seen.slot[row])
    return Evidence(
        text=row_text(ledger, seen, row),
        series=ledger.slots[slot].name if slot >= 0 else None,
        unit=_unit(seen, row),
        value=float(seen.observed[row]),
        expected=max(float(seen.expected[row]), 0.0),
        window_ms=window_ms,
        time_ms=at_ms,
    )


def _unit(seen: Contrast, row: int) -> str:
    return describe(seen.metric[row]).unit.strip("{}") + ("/s" if seen.is_count[row] else "")


def sufferers(ledger: Ledger, seen: Contrast | None, rows: Any) -> tuple[str, ...]:
    """Tenants whose own series decided, most evident first."""
    if seen is None:
        return ()
    names = (ledger.slots[seen.slot[row]].tenant for row in rows if seen.slot[row] >= 0)
    return tuple(dict.fromkeys(name for name in names if name))


def advice(change: Change, mended: bool) -> str:
    """Whom to ask and what to go back to."""
    back = f" to {change.previous_revision}" if change.previous_revision else ""
    who = f" It was made by {change.author}" if change.author else ""
    who += f", approved by {change.approver}" if who and change.approver else ""
    for_whom = f" for {', '.join(change.tenants[:5])}" if change.tenants else ""
    if mended:
        return f"Taking {change.service} {change.revision} back did not help{for_whom}: look for what it left behind, or for another cause.{_dot(who)}"
    return f"Roll {change.service} {change.revision} back{back}{for_whom}.{_dot(who)} {change.url or ''}".rstrip()


def _dot(text: str) -> str:
    return f"{text}." if text else ""
