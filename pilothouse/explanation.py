"""What a signal or an incident means, made of what the log holds of it: an answer for machines (`explanation_text`: for people).

Nothing is folded again. What was expected, over what time and in which calendar phase stands in the evidence of the
finding itself; beside it are put the values that were measured around the episode, when it was told, and which incidents
joined it or kept it from being told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeGuard

from processors.steps.registry import FLEET, ITSELF, ON_REQUEST, STEPS
from schemas.calendar import Calendar
from schemas.codec import rfc3339
from schemas.metrics import Kind, describe, spoken
from schemas.records import Cause, Evidence, Incident, Phase, Record, Scrape, Signal, Silenced
from schemas.series import parse, split
from schemas.shown import shown_impact, shown_recovery

MINUTE_MS = 60_000
BEFORE_MS = 15 * MINUTE_MS
AFTER_MS = 5 * MINUTE_MS
EPISODE_MS_MAX = 2 * 60 * MINUTE_MS  # of a longer episode only the first two hours are measured
POINTS_MAX = 120
PREFIX_MIN = 4  # signs of an id that stand for the whole
SERIES_MAX = 20


@dataclass
class Told:
    """Every telling of what is asked for and of what belongs to it, in the order of the log."""

    identity: str
    signals: dict[str, list[Signal]] = field(default_factory=dict)
    incidents: dict[str, list[Incident]] = field(default_factory=dict)

    @classmethod
    def of(cls, identity: str, found: Iterable[Record]) -> Told:
        """What tells of it among findings: its own tellings, the incidents that hold it, the signals that it joins."""
        told, every = cls(identity), list(found)
        stories = {one.id for one in every if holds(one, identity)}
        for one in every:
            if isinstance(one, Incident) and one.id in stories:
                told.incidents.setdefault(one.id, []).append(one)
        wanted = told.wanted()
        for one in every:
            if isinstance(one, Signal) and one.id in wanted:
                told.signals.setdefault(one.id, []).append(one)
        return told

    def wanted(self) -> set[str]:
        """Ids of the signals that belong to it."""
        return {self.identity} | {signal for one in self.incidents.get(self.identity, ()) for signal in one.signals}

    @property
    def cell(self) -> str:
        """Where it is."""
        return (self.asked or next(iter(self.incidents.values())))[0].cell

    @property
    def is_incident(self) -> bool:
        """Whether an incident is asked for."""
        return self.identity in self.incidents

    @property
    def asked(self) -> list[Signal] | list[Incident]:
        """The tellings of what is asked for."""
        return self.incidents[self.identity] if self.is_incident else self.signals.get(self.identity, [])

    def episode(self) -> tuple[int, int]:
        """From when to when it lasted, as far as it was told, Unix ms."""
        tellings = self.asked or next(iter(self.incidents.values()))
        return min(one.started_ms for one in tellings), max(one.time_ms for one in tellings)

    def window(self) -> tuple[int, int]:
        """What is looked at in the metrics, Unix ms."""
        start, end = self.episode()
        return start - BEFORE_MS, min(end, start + EPISODE_MS_MAX) + AFTER_MS

    def series(self) -> list[tuple[str, str]]:
        """Resource and identity of what its evidence was seen on; of a change, which has no resource, '' for any."""
        ids = [self.identity] if self.identity in self.signals else list(self.signals)
        seen = (
            ("" if one.verdict else one.resource, fact.series)
            for name in ids
            for one in self.signals[name]
            for fact in one.evidence
            if fact.series
        )
        return list(dict.fromkeys(seen))[:SERIES_MAX]


def holds(one: Record, identity: str) -> TypeGuard[Incident]:
    """Whether an incident is asked for, or joins, inhibits or contains what is."""
    return isinstance(one, Incident) and identity in _names(one)


def _names(one: Record) -> set[str]:
    if isinstance(one, Incident):
        inhibited = (other.signal for other in one.inhibited)
        return {one.id, *one.signals, *inhibited, *(part.incident for part in one.parts)}
    return {one.id} if isinstance(one, Signal) else set()


class UnknownId(LookupError):  # noqa: N818 (it is an answer)
    """No telling of such an id is known; the message says what is."""


def whole_id(prefix: str, found: Iterable[Record]) -> str | None:
    """The id that is meant by its first signs, among findings. Raises UnknownId when several may be."""
    if len(prefix) < PREFIX_MIN:
        return None
    fits = {name: what for one in found for name, what in _named(one) if name.startswith(prefix)}
    if prefix in fits or len(fits) == 1:
        return prefix if prefix in fits else next(iter(fits))
    if not fits:
        return None
    shown = "".join(f"\n  {name}  {fits[name]}" for name in sorted(fits)[:10])
    raise UnknownId(f"{prefix!r} is the begin of {len(fits)} ids; write more of the one that is meant:{shown}")


def _named(one: Record) -> Iterable[tuple[str, str]]:
    for name in _names(one):
        if isinstance(one, Signal):
            yield name, f"signal, {one.cause}"
        elif isinstance(one, Incident) and name == one.id:
            yield name, f"incident, {one.title}"


class Measured:
    """The values of some series, picked from scrapes; of a sum the rate a second."""

    def __init__(self, wanted: Iterable[tuple[str, str]]) -> None:
        self.points: dict[tuple[str, str], list[tuple[int, float]]] = {}
        self._wanted: dict[str, list[str]] = {}
        for resource, identity in wanted:
            self._wanted.setdefault(resource, []).append(identity)
            if resource:
                self.points[resource, identity] = []
        self._last: dict[tuple[str, str], tuple[int, int | None, float]] = {}

    def take(self, scrape: Scrape) -> None:
        """Pick what is wanted of a scrape."""
        wanted = [identity for of in {"", scrape.resource} & self._wanted.keys() for identity in self._wanted[of]]
        if not wanted:
            return
        places = {identity: place for place, identity in enumerate(split(scrape.series))}
        for identity in wanted:
            value = scrape.values[places[identity]] if identity in places else None
            if value is not None:
                self._add((scrape.resource, identity), scrape, value)

    @property
    def is_wanted(self) -> bool:
        """Whether any series is wanted at all."""
        return bool(self._wanted)

    def _add(self, key: tuple[str, str], scrape: Scrape, value: float) -> None:
        if describe(parse(key[1]).name).kind is not Kind.SUM:
            self.points.setdefault(key, []).append((scrape.time_ms, value))
            return
        last = self._last.get(key)
        self._last[key] = (scrape.time_ms, scrape.start_time_ms, value)
        if last and last[1] == scrape.start_time_ms and value >= last[2] and scrape.time_ms > last[0]:
            self.points.setdefault(key, []).append(
                (scrape.time_ms, (value - last[2]) * 1000 / (scrape.time_ms - last[0]))
            )


def answer(told: Told, measured: Measured, notes: Iterable[str], calendar: Calendar | None = None) -> dict[str, Any]:
    """The explanation for machines. `calendar` is the tenant's, when the estate is known."""
    start, end = told.episode()
    last = told.asked[-1] if told.asked else None
    asked = told.signals.get(told.identity) or [one for tellings in told.signals.values() for one in tellings]
    phases = [fact.phase for one in asked for fact in one.evidence if fact.phase]
    made: dict[str, Any] = {
        "id": told.identity,
        "kind": "incident" if told.is_incident else "signal",
        "cell": told.cell,
        "started": rfc3339(start),
        "ended": rfc3339(end) if last is not None and last.phase is Phase.RESOLVED else None,
        "last_told": rfc3339(end),
        "lasted_s": (end - start) / 1000,
        "calendar_phase": calendar.at(start).phase if calendar else next(iter(phases), None),
    }
    if isinstance(last, Signal):
        made |= _of_signal(last, _strongest(told.signals[told.identity]))
    if isinstance(last, Incident):
        made |= _of_incident(last)
    made["told"] = [_telling(one) for one in told.asked]
    made["measured"] = [_series(key, points, start, end) for key, points in measured.points.items()]
    others = [tellings for name, tellings in told.incidents.items() if name != told.identity]
    made["incidents"] = [_membership(told, tellings) for tellings in others]
    made["signals"] = [_member(told, tellings) for tellings in told.signals.values()] if told.is_incident else []
    made["notes"] = [*notes, *_remarks(told)]
    return made


def _strongest(tellings: list[Signal]) -> Signal:
    """The telling that says most: when it was worst; of a change the last one, which is the verdict."""
    last = tellings[-1]
    return last if last.verdict else max(tellings, key=lambda one: (one.severity, one.score, one.time_ms))


def _of_signal(last: Signal, one: Signal) -> dict[str, Any]:
    """What it was when it was strongest, and what it is at last."""
    return {
        "cause": last.cause,
        "summary": one.summary,
        "severity": one.severity.name.lower(),
        "phase": last.phase.value,
        "score": one.score,
        "verdict": one.verdict.value if one.verdict else None,
        "expected": rfc3339(one.expected_ms) if one.expected_ms is not None else None,
        "detector": one.detector,
        "method": _method(one.detector),
        "resource": one.resource,
        "tenant": one.tenant,
        "tenants": list(one.tenants),
        "impact": shown_impact(one.impact) if one.impact else None,
        "advice": one.advice,
        "evidence": [_fact(fact) for fact in one.evidence],
    }


def _method(detector: str) -> dict[str, str] | None:
    """What the step says of itself; None of one that is no longer there."""
    step = ({**STEPS, **ON_REQUEST, **FLEET, **ITSELF}).get(detector)
    return step.about._asdict() if step and step.about else None


def _of_incident(one: Incident) -> dict[str, Any]:
    return {
        "cause": one.causes[0].cause,
        "summary": one.title,
        "severity": one.severity.name.lower(),
        "phase": one.phase.value,
        "version": one.version,
        "method": _method("fleet" if one.parts else "correlator"),
        "tenants": list(one.tenants),
        "silenced": _silenced(one.silenced) if one.silenced else None,
        "roles": [role.value for role in one.roles],
        "impact": shown_impact(one.impact),
        "advice": one.advice,
        "recovery": shown_recovery(one.recovery),
        "causes": [_cause(cause) for cause in one.causes],
        "parts": [{"cell": part.cell, "incident": part.incident, "phase": part.phase.value} for part in one.parts],
        "evidence": [_fact(fact) for fact in one.causes[0].evidence],
    }


def _silenced(mark: Silenced) -> dict[str, Any]:
    return {**mark.model_dump(exclude={"until_ms"}), "until": rfc3339(mark.until_ms)}


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "cause": cause.cause,
        "probability": cause.probability,
        "for": [fact.text for fact in cause.evidence],
        "against": [fact.text for fact in cause.against],
    }


def _fact(fact: Evidence) -> dict[str, Any]:
    shown = fact.model_dump(exclude_none=True, exclude={"time_ms", "window_ms"})
    if fact.time_ms is not None:
        shown["time"] = rfc3339(fact.time_ms)
    if fact.window_ms is not None:
        shown["window_s"] = fact.window_ms / 1000
    if fact.unit or fact.series:
        shown["unit"] = spoken(fact.unit or _unit_of(fact.series or ""))
    if fact.scale and fact.value is not None and fact.expected is not None:
        shown["distance"] = round((fact.value - fact.expected) / fact.scale, 3)
    return shown


def _unit_of(identity: str) -> str:
    return describe(parse(identity).name).observed_unit


def _telling(one: Signal | Incident) -> dict[str, Any]:
    made = {"time": rfc3339(one.time_ms), "phase": one.phase.value, "severity": one.severity.name.lower()}
    if isinstance(one, Incident):
        return {**made, "version": one.version, "cause": one.causes[0].cause, "probability": one.causes[0].probability}
    return {**made, "score": one.score}


def _membership(told: Told, tellings: list[Incident]) -> dict[str, Any]:
    """What an incident made of the signal: what it was grouped with, and what kept it from being told."""
    last = tellings[-1]
    held = [one for one in tellings if told.identity in (*one.signals, *(part.incident for part in one.parts))]
    asked = told.asked[-1] if told.asked else None
    cause = asked.cause if isinstance(asked, Signal) else asked.causes[0].cause if asked else None
    inhibited = [one for one in last.inhibited if one.signal == told.identity]
    ranked = {one.cause: (place, one.probability) for place, one in enumerate(last.causes, 1)}
    return {
        "id": last.id,
        "title": last.title,
        "phase": last.phase.value,
        "versions": [one.version for one in held],
        "since": rfc3339(held[0].time_ms) if held else None,
        "cause": last.causes[0].cause,
        "rank": ranked[cause][0] if cause in ranked else None,
        "probability": ranked[cause][1] if cause in ranked else None,
        "inhibited_by": [name for one in inhibited for name in one.by],
        "inhibits": [f"{one.cause} ({one.signal})" for one in last.inhibited if cause in one.by],
        "joined_with": [
            one for one in (*last.signals, *(part.incident for part in last.parts)) if one != told.identity
        ],
    }


def _member(told: Told, tellings: list[Signal]) -> dict[str, Any]:
    last, incident = tellings[-1], told.incidents[told.identity][-1]
    return {
        "id": last.id,
        "cause": last.cause,
        "summary": last.summary,
        "severity": last.severity.name.lower(),
        "phase": last.phase.value,
        "tenant": last.tenant,
        "started": rfc3339(last.started_ms),
        "inhibited_by": [name for one in incident.inhibited if one.signal == last.id for name in one.by],
    }


def _remarks(told: Told) -> Iterable[str]:
    if told.is_incident:
        one = told.incidents[told.identity][-1]
        if one.merged_into:
            yield f"it goes on as incident {one.merged_into}"
        if one.split_from:
            yield f"its signals were part of incident {one.split_from} before"
        if one.absorbed:
            yield f"incidents {', '.join(one.absorbed)} turned out to be this one"
        for mark in dict.fromkeys(one.silenced for one in told.incidents[told.identity] if one.silenced):
            yield f"{mark.author} had it silenced until {rfc3339(mark.until_ms)} ({mark.silence}): {mark.reason}"
        if one.flapping:
            yield "it comes and goes too often for each coming and going to be told"
    elif not told.incidents:
        yield "no incident joined it, so nobody was alerted of it"


def _series(key: tuple[str, str], points: list[tuple[int, float]], start_ms: int, end_ms: int) -> dict[str, Any]:
    resource, identity = key
    stride = -(-len(points) // POINTS_MAX) or 1
    return {
        "resource": resource,
        "series": identity,
        "unit": spoken(_unit_of(identity)),
        "before": _stretch([value for at, value in points if at < start_ms]),
        "during": _stretch([value for at, value in points if start_ms <= at <= end_ms]),
        "after": _stretch([value for at, value in points if at > end_ms]),
        "points": [[at / 1000, value] for at, value in points[::stride]],
    }


def _stretch(values: list[float]) -> dict[str, Any] | None:
    """None where nothing was measured."""
    return {"looks": len(values), "min": min(values), "median": median(values), "max": max(values)} if values else None
