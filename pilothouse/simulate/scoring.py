"""What counts: the one place where it is defined, and the figures that follow.

The text below is printed with every result and stands on the docs page.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from pilothouse.simulate.drawing import LOOK_S
from pilothouse.simulate.truth import Label, Truth
from processors.fold import Finding
from schemas.records import Incident, Phase, Severity

GRACE_MS = 600_000
EARLY_MS = round(LOOK_S * 1000) // 2
"""A look is stamped up to so long before the end of the interval that it tells of."""

DEFINITIONS = f"""\
An alert is an incident of severity warning or critical, as the alert sinks send it; INFO is not counted either way.
A run has at most one happening that must be found. It is found if an alert of its cell first reaches that severity between
its onset and {GRACE_MS // 60_000} minutes after its end. A look is stamped up to {EARLY_MS // 1000} s before the end of the minute that it tells of, so
times are right to that, and an alert so long before the onset counts as one at the onset. Of what fills up, the end is when it is full, and no grace is given.
Every other alert of the run is a false one: before the onset, after the grace, or in a run in which nothing is wrong. A second
alert for the same happening is a duplicate and counts as false in the precision, too.
precision = found / (found + false + duplicates); recall = found / happenings that must be found.
Time to detect: from the onset (the begin of the ramp, not its end) to the alert, in log time.
Root cause: the first-ranked cause of the alert as it was last told before the happening ended is one of the true ones; as a
share of the found. Tenants: somebody who suffers was named then where somebody does, and nobody who does not.
Closed: the alert is resolved, not before the happening has ended, and within {GRACE_MS // 60_000} minutes after what it left behind
was worked off (a queue is empty again, nine in ten of the documents that were held up have gone on), of those of which that
lies so far before the stretch's end. Closed since the end: within {GRACE_MS // 60_000} minutes after the end itself, whatever is still to be worked off."""


class Alert(BaseModel):
    """One incident as a reader of alerts met it."""

    id: str
    opened_ms: int = Field(description="Log time at which it first was a warning or worse.")
    cause: str = Field(description="First cause when last told before the happening's end.")
    first_cause: str = Field(description="First cause when it opened.")
    tenants: tuple[str, ...]
    resolved_ms: int | None
    merged_into: str | None = None
    title: str
    documents: int = Field(0, description="Documents delayed, at the worst.")
    exposed: int = Field(0, description="Open documents of those who suffer, at the most.")


class Scored(BaseModel):
    """One run against its label."""

    model_config = ConfigDict(frozen=True)

    label: Label
    alerts: tuple[Alert, ...]
    found: str | None = Field(None, description="Id of the alert that found what is wrong.")
    false: tuple[str, ...] = Field((), description="Ids of alerts that are nobody's.")
    duplicates: tuple[str, ...] = ()
    delay_s: float | None = None
    right_cause: bool | None = None
    right_tenants: bool | None = None
    closed: bool | None = Field(None, description="None where the stretch does not tell.")
    closed_since_end: bool | None = Field(None, description="Of the end alone; None where the stretch does not tell.")

    @property
    def wanted(self) -> Truth | None:
        """What must be found."""
        return next((one for one in self.label.truth if not one.expected), None)

    @property
    def is_right(self) -> bool:
        """Found what there is and nothing else."""
        return not self.false and not self.duplicates and (self.wanted is None) == (self.found is None)


def score(label: Label, told: Iterable[Finding]) -> Scored:
    """Set what was told against what is true."""
    wanted = next((one for one in label.truth if not one.expected), None)
    until_ms = wanted.end_ms if wanted else label.to_ms
    alerts = [one for one in _alerts(told, until_ms) if label.from_ms <= one.opened_ms <= label.to_ms]
    if wanted is None:
        return Scored(label=label, alerts=tuple(alerts), false=tuple(one.id for one in alerts))
    grace_ms = 0 if label.family == "capacity" else GRACE_MS
    mine = [one for one in alerts if wanted.onset_ms - EARLY_MS <= one.opened_ms <= wanted.end_ms + grace_ms]
    false = tuple(one.id for one in alerts if one not in mine)
    if not mine:
        return Scored(label=label, alerts=tuple(alerts), false=false)
    first = mine[0]
    over_ms = max(wanted.end_ms, label.worked_off_ms or 0) + GRACE_MS
    return Scored(
        label=label,
        alerts=tuple(alerts),
        found=first.id,
        false=false,
        duplicates=tuple(one.id for one in mine[1:]),
        delay_s=max(first.opened_ms - wanted.onset_ms, 0) / 1000,
        right_cause=first.cause in wanted.causes,
        right_tenants=_are_right(first.tenants, wanted),
        closed=None if over_ms > label.to_ms else _is_between(wanted.end_ms, first.resolved_ms, over_ms),
        closed_since_end=None
        if wanted.end_ms + GRACE_MS > label.to_ms
        else _is_between(0, first.resolved_ms, wanted.end_ms + GRACE_MS),
    )


def _is_between(from_ms: int, at_ms: int | None, to_ms: int) -> bool:
    return at_ms is not None and from_ms <= at_ms <= to_ms


def _are_right(named: Sequence[str], wanted: Truth) -> bool:
    """Somebody who suffers is named where somebody does, and nobody who does not."""
    known = {*wanted.tenants, *wanted.bystanders}
    return set(named) <= known and (not wanted.tenants or bool(set(named) & set(wanted.tenants)))


def _alerts(told: Iterable[Finding], until_ms: int) -> list[Alert]:
    alerts: dict[str, Alert] = {}
    news: set[str] = set()  # what was open before the run is not the run's
    for at_ms, one in ((found.envelope.recorded_ms, found.record) for found in told):
        if not isinstance(one, Incident):
            continue
        known = alerts.get(one.id)
        if one.phase is Phase.RESOLVED:
            if known:
                known.resolved_ms, known.merged_into = at_ms, one.merged_into
        elif known is None:
            if one.version == 1:
                news.add(one.id)
            if one.id in news and one.severity >= Severity.WARNING:
                cause = one.causes[0].cause
                alerts[one.id] = Alert(
                    id=one.id, opened_ms=at_ms, cause=cause, first_cause=cause, tenants=one.tenants, resolved_ms=None, title=one.title,
                    documents=one.impact.documents, exposed=one.impact.exposed,
                )  # fmt: skip
        else:
            known.resolved_ms = None  # it has come back
            if at_ms <= until_ms:
                known.cause, known.tenants, known.title = one.causes[0].cause, one.tenants, one.title
                known.documents = max(known.documents, one.impact.documents)
                known.exposed = max(known.exposed, one.impact.exposed)
    for alert in alerts.values():
        if alert.merged_into in alerts:
            alert.resolved_ms = alerts[alert.merged_into].resolved_ms  # it went on as that one
    return list(alerts.values())


class Figures(BaseModel):
    """The figures of a family, or of one kind within it."""

    runs: int
    wanted: int
    found: int
    false: int
    duplicates: int
    precision: float | None
    recall: float | None
    delay_median_s: float | None
    delay_p90_s: float | None
    top_1: float | None
    tenants: float | None
    closed: float | None
    closed_since_end: float | None = None


def figures(runs: Sequence[Scored]) -> Figures:
    """Sum up."""
    wanted = [one for one in runs if one.wanted]
    found = [one for one in wanted if one.found]
    false, duplicates = sum(len(one.false) for one in runs), sum(len(one.duplicates) for one in runs)
    delays = sorted(one.delay_s for one in found if one.delay_s is not None)
    closed = [one.closed for one in found if one.closed is not None]
    since_end = [one.closed_since_end for one in found if one.closed_since_end is not None]
    told = len(found) + false + duplicates
    return Figures(
        runs=len(runs), wanted=len(wanted), found=len(found), false=false, duplicates=duplicates,
        precision=_share(len(found), told), recall=_share(len(found), len(wanted)),
        delay_median_s=_quantile(delays, 0.5), delay_p90_s=_quantile(delays, 0.9),
        top_1=_share(sum(bool(one.right_cause) for one in found), len(found)),
        tenants=_share(sum(bool(one.right_tenants) for one in found), len(found)),
        closed=_share(sum(closed), len(closed)), closed_since_end=_share(sum(since_end), len(since_end)),
    )  # fmt: skip


def by_kind(runs: Sequence[Scored]) -> dict[str, Figures]:
    """The same by what happened."""
    kinds: dict[str, list[Scored]] = {}
    for one in runs:
        kinds.setdefault(one.label.truth[-1].kind if one.label.truth else "nothing", []).append(one)
    return {kind: figures(members) for kind, members in sorted(kinds.items())}


def mistaken(runs: Sequence[Scored]) -> dict[str, dict[str, int]]:
    """Where it went wrong: causes of false alerts and causes named instead, by what happened."""
    wrong: dict[str, Counter[str]] = {}
    for one in runs:
        kind = one.label.truth[-1].kind if one.label.truth else "nothing"
        counts = wrong.setdefault(kind, Counter())
        for alert in one.alerts:
            what = alert.cause.partition(":")[0]
            if alert.id in one.false:
                counts[f"false {what}"] += 1
            elif alert.id in one.duplicates:
                counts[f"duplicate {what}"] += 1
            elif alert.id == one.found and not one.right_cause:
                counts[f"named {what}"] += 1
        if one.wanted and not one.found:
            counts["missed"] += 1
    return {kind: dict(counts.most_common(12)) for kind, counts in sorted(wrong.items()) if counts}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """By nearest rank."""
    return round(ordered[max(math.ceil(share * len(ordered)) - 1, 0)], 1) if ordered else None
