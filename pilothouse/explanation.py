"""What a signal or an incident means, made of what the log holds of it: an answer for machines, and the same in words.

Nothing is folded again. What was expected, over what time and in which calendar phase stands in the evidence of the
finding itself; beside it are put the values that were measured around the episode, when it was told, and which incidents
joined it or kept it from being told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from schemas.calendar import Calendar
from schemas.codec import rfc3339
from schemas.metrics import Kind, describe
from schemas.records import Cause, Evidence, Incident, Phase, Scrape, Signal
from schemas.series import parse, split

MINUTE_MS = 60_000
BEFORE_MS = 15 * MINUTE_MS
AFTER_MS = 5 * MINUTE_MS
EPISODE_MS_MAX = 2 * 60 * MINUTE_MS  # of a longer episode only the first two hours are measured
POINTS_MAX = 120
SERIES_MAX = 20
SPARKS = "▁▂▃▄▅▆▇█"


@dataclass
class Told:
    """Every telling of what is asked for and of what belongs to it, in the order of the log."""

    identity: str
    signals: dict[str, list[Signal]] = field(default_factory=dict)
    incidents: dict[str, list[Incident]] = field(default_factory=dict)

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
        """Resource and identity of what its evidence was seen on."""
        ids = [self.identity] if self.identity in self.signals else list(self.signals)
        seen = (
            (one.resource, fact.series)
            for name in ids
            for one in self.signals[name]
            for fact in one.evidence
            if fact.series
        )
        return list(dict.fromkeys(seen))[:SERIES_MAX]


class Measured:
    """The values of some series, picked from scrapes; of a sum the rate a second."""

    def __init__(self, wanted: Iterable[tuple[str, str]]) -> None:
        self.points: dict[tuple[str, str], list[tuple[int, float]]] = {one: [] for one in wanted}
        self._resources = {resource for resource, _ in self.points}
        self._last: dict[tuple[str, str], tuple[int, int | None, float]] = {}

    def take(self, scrape: Scrape) -> None:
        """Pick what is wanted of a scrape."""
        if scrape.resource not in self._resources:
            return
        places = {identity: place for place, identity in enumerate(split(scrape.series))}
        for key in self.points:
            resource, identity = key
            value = scrape.values[places[identity]] if resource == scrape.resource and identity in places else None
            if value is not None:
                self._add(key, scrape, value)

    def _add(self, key: tuple[str, str], scrape: Scrape, value: float) -> None:
        if describe(parse(key[1]).name).kind is not Kind.SUM:
            self.points[key].append((scrape.time_ms, value))
            return
        last = self._last.get(key)
        self._last[key] = (scrape.time_ms, scrape.start_time_ms, value)
        if last and last[1] == scrape.start_time_ms and value >= last[2] and scrape.time_ms > last[0]:
            self.points[key].append((scrape.time_ms, (value - last[2]) * 1000 / (scrape.time_ms - last[0])))


def answer(told: Told, measured: Measured, notes: Iterable[str], calendar: Calendar | None = None) -> dict[str, Any]:
    """The explanation for machines. `calendar` is the tenant's, when the estate is known."""
    start, end = told.episode()
    last = told.asked[-1] if told.asked else None
    phases = [fact.phase for one in told.signals.get(told.identity, []) for fact in one.evidence if fact.phase]
    made: dict[str, Any] = {
        "id": told.identity,
        "kind": "incident" if told.is_incident else "signal",
        "cell": told.cell,
        "started": rfc3339(start),
        "ended": rfc3339(end) if last is not None and last.phase is Phase.RESOLVED else None,
        "lasted_s": (end - start) / 1000,
        "calendar_phase": calendar.at(start).phase if calendar else next(iter(phases), None),
    }
    if isinstance(last, Signal):
        made |= _of_signal(last)
    if isinstance(last, Incident):
        made |= _of_incident(last)
    made["told"] = [_telling(one) for one in told.asked]
    made["measured"] = [_series(key, points, start, end) for key, points in measured.points.items()]
    others = [tellings for name, tellings in told.incidents.items() if name != told.identity]
    made["incidents"] = [_membership(told, tellings) for tellings in others]
    made["signals"] = [_member(told, tellings) for tellings in told.signals.values()] if told.is_incident else []
    made["notes"] = [*notes, *_remarks(told)]
    return made


def _of_signal(one: Signal) -> dict[str, Any]:
    return {
        "cause": one.cause,
        "summary": one.summary,
        "severity": one.severity.name.lower(),
        "phase": one.phase.value,
        "score": one.score,
        "detector": one.detector,
        "resource": one.resource,
        "tenant": one.tenant,
        "tenants": list(one.tenants),
        "impact": one.impact.model_dump() if one.impact else None,
        "advice": one.advice,
        "evidence": [_fact(fact) for fact in one.evidence],
    }


def _of_incident(one: Incident) -> dict[str, Any]:
    return {
        "cause": one.causes[0].cause,
        "summary": one.title,
        "severity": one.severity.name.lower(),
        "phase": one.phase.value,
        "version": one.version,
        "tenants": list(one.tenants),
        "impact": one.impact.model_dump(),
        "advice": one.advice,
        "causes": [_cause(cause) for cause in one.causes],
        "parts": [{"cell": part.cell, "incident": part.incident, "phase": part.phase.value} for part in one.parts],
        "evidence": [_fact(fact) for fact in one.causes[0].evidence],
    }


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
    if fact.scale and fact.value is not None and fact.expected is not None:
        shown["distance"] = round((fact.value - fact.expected) / fact.scale, 3)
    return shown


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
        if one.flapping:
            yield "it comes and goes too often for each coming and going to be told"
    elif not told.incidents:
        yield "no incident joined it, so nobody was alerted of it"


def _series(key: tuple[str, str], points: list[tuple[int, float]], start_ms: int, end_ms: int) -> dict[str, Any]:
    resource, identity = key
    metric = describe(parse(identity).name)
    stride = -(-len(points) // POINTS_MAX) or 1
    return {
        "resource": resource,
        "series": identity,
        "unit": metric.unit + ("/s" if metric.kind is Kind.SUM else ""),
        "before": _stretch([value for at, value in points if at < start_ms]),
        "during": _stretch([value for at, value in points if start_ms <= at <= end_ms]),
        "after": _stretch([value for at, value in points if at > end_ms]),
        "points": [[at / 1000, value] for at, value in points[::stride]],
    }


def _stretch(values: list[float]) -> dict[str, Any] | None:
    """None where nothing was measured."""
    return {"looks": len(values), "min": min(values), "median": median(values), "max": max(values)} if values else None


def text(made: Mapping[str, Any]) -> str:
    """The explanation for people."""
    until = f"until {made['ended']}" if made["ended"] else "and goes on"
    lines = [f"{made.get('cause', '?')}: {made.get('summary', 'only incidents tell of it')}"]
    lines.append(
        f"{made['kind']} {made['id']} in cell {made['cell']}, {made.get('severity', 'of unknown severity')}, "
        f"since {made['started']} {until} ({made['lasted_s']:.0f} s)"
    )
    if made["kind"] == "signal" and "detector" in made:
        whose = f" of {made['tenant']}" if made["tenant"] else ""
        lines.append(f"found by {made['detector']} on {made['resource']}{whose}, score {made['score']:.2f}")
    lines.append(f"calendar: {made['calendar_phase'] or 'phase not known; name the estate with -c'}")
    for title, rows in (
        ("why", [row for fact in made.get("evidence", []) for row in _fact_lines(fact)]),
        ("measured around it", [row for one in made["measured"] for row in _series_lines(one)]),
        ("candidates", [row for cause in made.get("causes", []) for row in _cause_lines(cause)]),
        ("told", [_told_line(one) for one in made["told"]]),
        ("grouped", [row for one in made["incidents"] for row in _membership_lines(one)]),
        ("in cells", [f"{one['cell']}: incident {one['incident']} ({one['phase']})" for one in made.get("parts", [])]),
        ("joins", [_member_line(one) for one in made["signals"]]),
        ("notes", made["notes"]),
    ):
        if rows:
            lines += ["", title, *(f"  {row}" for row in rows)]
    if made.get("advice"):
        lines += ["", f"advice: {made['advice']}"]
    return "\n".join(lines)


def _fact_lines(fact: Mapping[str, Any]) -> Iterable[str]:
    yield fact["text"]
    parts = [f"{name} {fact[name]:.6g}" for name in ("value", "expected", "scale", "distance") if name in fact]
    parts += [f"over {fact['window_s']:.0f} s"] if "window_s" in fact else []
    parts += [f"calendar {fact['phase']}"] if "phase" in fact else []
    if len(parts) > 1:
        yield f"  {', '.join(parts)}{' at ' + fact['time'] if 'time' in fact else ''}"


def _series_lines(one: Mapping[str, Any]) -> Iterable[str]:
    yield f"{one['series']} of {one['resource']} ({one['unit']})  {sparkline([value for _, value in one['points']])}"
    for name in ("before", "during", "after"):
        held = one[name]
        shown = (
            f"{held['median']:.4g} ({held['min']:.4g} to {held['max']:.4g}, {held['looks']} looks)"
            if held
            else "not measured"
        )
        yield f"  {name:6} {shown}"


def _cause_lines(cause: Mapping[str, Any]) -> Iterable[str]:
    yield f"{cause['probability']:4.0%}  {cause['cause']}"
    yield from (f"      for: {fact}" for fact in cause["for"])
    yield from (f"      against: {fact}" for fact in cause["against"])


def _told_line(one: Mapping[str, Any]) -> str:
    what = (
        f"version {one['version']}, {one['cause']} {one['probability']:.0%}"
        if "version" in one
        else f"score {one['score']:.2f}"
    )
    return f"{one['time']} {one['phase']:8} {one['severity']:8} {what}"


def _membership_lines(one: Mapping[str, Any]) -> Iterable[str]:
    yield f"incident {one['id']} ({one['phase']}): {one['title']}"
    if one["since"]:
        yield f"  part of it since {one['since']}, versions {one['versions'][0]} to {one['versions'][-1]}"
    if one["rank"]:
        first = "" if one["rank"] == 1 else f"; the first is {one['cause']}"
        yield f"  its candidate number {one['rank']} with {one['probability']:.0%}{first}"
    if one["inhibited_by"]:
        yield f"  not told by itself, because these explain it: {', '.join(one['inhibited_by'])}"
    if one["joined_with"]:
        yield f"  with {len(one['joined_with'])} others: {', '.join(one['joined_with'][:10])}"


def _member_line(one: Mapping[str, Any]) -> str:
    by = f"; inhibited by {', '.join(one['inhibited_by'])}" if one["inhibited_by"] else ""
    return f"{one['id']} {one['started']} {one['phase']:8} {one['cause']}: {one['summary']}{by}"


def sparkline(values: list[float], width: int = 40) -> str:
    """The course of some values in a line: each sign is the highest of its stretch."""
    if not values:
        return ""
    stretches = [values[place * len(values) // width : (place + 1) * len(values) // width] for place in range(width)]
    heights = [max(stretch) for stretch in stretches if stretch]
    low, span = min(heights), max(heights) - min(heights)
    return "".join(SPARKS[int((height - low) / span * (len(SPARKS) - 1))] if span else SPARKS[0] for height in heights)
