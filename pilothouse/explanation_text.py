"""An explanation in words, for somebody who was woken by it: what, since when, why, how that is known, what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from schemas.words import number

SPARKS = "▁▂▃▄▅▆▇█"
FAR = 1_000  # spreads; how many more says nothing
LIKELY = 0.01  # a candidate with less is only counted


def text(made: Mapping[str, Any]) -> str:
    """The explanation for people."""
    lines = [f"{made.get('cause', '?')}: {made.get('summary', 'only incidents tell of it')}"]
    until = f"until {_clock(made['ended'])}" if made["ended"] else f"and open at {_clock(made['last_told'])}"
    lines.append(
        f"{made['kind']} {made['id']} in cell {made['cell']}, {made.get('severity', 'of unknown severity')}, "
        f"since {_clock(made['started'])} {until} ({duration(made['lasted_s'])})"
    )
    if made["kind"] == "signal" and "detector" in made:
        lines.append(_found_by(made))
    if made.get("roles"):
        lines.append(f"concerns {', '.join(role.replace('_', ' ') for role in made['roles'])}")
    lines.append(f"calendar: {made['calendar_phase'] or 'phase not known; name the estate with -c'}")
    for title, rows in (
        ("why", [row for fact in made.get("evidence", []) for row in _fact_lines(fact)]),
        ("how it was found", _method_lines(made.get("method"))),
        ("measured around it", [row for one in made["measured"] for row in _series_lines(one)]),
        ("candidates", _candidates(made.get("causes", []))),
        ("told", _told_lines(made["told"])),
        ("grouped", [row for one in made["incidents"] for row in _membership_lines(one)]),
        ("in cells", [f"{one['cell']}: incident {one['incident']} ({one['phase']})" for one in made.get("parts", [])]),
        ("joins", [_member_line(one) for one in made["signals"]]),
        ("at stake", _stake_lines(made.get("impact"))),
        ("notes", made["notes"]),
    ):
        if rows:
            lines += ["", title, *(f"  {row}" for row in rows)]
    if recovery := made.get("recovery"):
        lines += [
            "",
            f"recovering: its cause is over since {_clock(recovery['since'])}; what it left behind ({', '.join(recovery['left'])}) "
            f"will be as usual by about {_clock(recovery['until'])}",
        ]
    if made.get("advice"):
        lines += ["", f"advice: {made['advice']}"]
    return "\n".join(lines)


def _found_by(made: Mapping[str, Any]) -> str:
    whose = f" of {made['tenant']}" if made["tenant"] and made["tenant"] != made["resource"] else ""
    suffer = ", ".join(one for one in made["tenants"] if one != made["tenant"])
    line = f"found by {made['detector']} on {made['resource']}{whose}, score {made['score']:.2f} of 1"
    if made["verdict"]:
        line += f", verdict {made['verdict'].replace('_', ' ')}"
    if made["expected"]:
        line += f", expected to come true at {_clock(made['expected'])}"
    return line + (f"; {suffer} suffer{'' if ', ' in suffer else 's'}" if suffer else "")


def _fact_lines(fact: Mapping[str, Any]) -> Iterable[str]:
    yield fact["text"]
    if "value" not in fact:
        return
    unit = fact.get("unit", "")
    parts = [f"value {amount(fact['value'], unit)}"]
    if "expected" in fact:
        parts.append(f"expected {amount(fact['expected'], unit, fact.get('scale', 0.0))}")
    if fact.get("scale"):
        parts.append(f"usual spread {amount(fact['scale'], unit)}")
    if "distance" in fact:
        parts.append(_distance(fact["distance"]))
    parts += [f"over {duration(fact['window_s'])}"] if fact.get("window_s") else []
    yield f"    {', '.join(parts)}{', ' + _clock(fact['time']) if 'time' in fact else ''}"


def _distance(spreads: float) -> str:
    side = "above" if spreads > 0 else "below"
    return f"{number(abs(spreads))} spreads {side}" if abs(spreads) < FAR else f"more than {FAR:,} spreads {side}"


def _method_lines(method: Mapping[str, str] | None) -> list[str]:
    return [method["method"], f"source: {method['source']}", f"limits: {method['limits']}"] if method else []


def _stake_lines(impact: Mapping[str, Any] | None) -> list[str]:
    if not impact:
        return []
    return [*_delayed_lines(impact), *_exposed_lines(impact)]


def _delayed_lines(impact: Mapping[str, Any]) -> list[str]:
    if not impact["documents"]:
        return []
    value = f", worth {impact['value']:,.0f} {impact['currency'] or ''}".rstrip() if impact["value"] else ""
    names = f": {', '.join(impact['names'][:5])}" if impact["names"] else ""
    lines = [f"{impact['documents']} documents delayed{value}{names}"]
    for one in impact["by_cut_off"][:3]:
        whose = one["carrier"] or "all carriers"
        lines.append(f"{one['documents']} will miss the cut-off of {whose} at {_clock(one['cut_off'])}")
    return lines


def _exposed_lines(impact: Mapping[str, Any]) -> list[str]:
    if not impact["exposed"]:
        return []
    kinds = ", ".join(f"{kind} {number}" for kind, number in impact["exposed_by_type"].items())
    until = f"; the next cut-off is at {_clock(impact['exposed_until'])}" if impact["exposed_until"] else ""
    return [f"{impact['exposed']} open documents are delayed if it goes on ({kinds}){until}"]


def amount(value: float, unit: str, noise: float = 0.0) -> str:
    """A number with its unit; long times in the unit that people say."""
    if unit == "s" and value >= 120:
        return duration(value)
    return f"{number(value, noise=noise)} {unit}".rstrip()


def duration(seconds: float) -> str:
    """In the largest unit that keeps two digits."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _clock(instant: str) -> str:
    return f"{datetime.fromisoformat(instant):%Y-%m-%d %H:%M:%S} UTC"


def _series_lines(one: Mapping[str, Any]) -> Iterable[str]:
    if not one["points"]:
        return
    unit = f" ({one['unit']})" if one["unit"] else ""
    yield f"{one['series']} of {one['resource']}{unit}  {sparkline([value for _, value in one['points']])}"
    for name in ("before", "during", "after"):
        held = one[name]
        yield f"  {name:6} {_stretch(held) if held else 'not measured'}"


def _stretch(held: Mapping[str, Any]) -> str:
    low, middle, high = (number(held[name]) for name in ("min", "median", "max"))
    return f"median {middle}, from {low} to {high}, {held['looks']} looks"


def _cause_lines(cause: Mapping[str, Any]) -> Iterable[str]:
    yield f"{cause['probability']:4.0%}  {cause['cause']}"
    yield from (f"      for: {fact}" for fact in cause["for"])
    yield from (f"      against: {fact}" for fact in cause["against"])


def _candidates(causes: Sequence[Mapping[str, Any]]) -> list[str]:
    likely = [one for one in causes if one["probability"] >= LIKELY]
    rows = [row for cause in likely for row in _cause_lines(cause)]
    return rows + (
        [f"and {len(causes) - len(likely)} with less than {LIKELY:.0%}"] if len(causes) > len(likely) else []
    )


def _told_lines(tellings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each telling that says something else than the one before it, and the last; the others are counted."""
    rows, alike = list[str](), 0
    for place, one in enumerate(tellings):
        what = [one.get(name) for name in ("phase", "severity", "cause")]
        before = [tellings[place - 1].get(name) for name in ("phase", "severity", "cause")] if place else None
        if what == before and place < len(tellings) - 1:
            alike += 1
            continue
        rows += [f"  and {alike} times more like that"] if alike else []
        alike = 0
        rows.append(_told_line(one))
    return rows


def _told_line(one: Mapping[str, Any]) -> str:
    what = (
        f"version {one['version']}, {one['cause']} {one['probability']:.0%}"
        if "version" in one
        else f"score {one['score']:.2f}"
    )
    return f"{_clock(one['time'])}  {one['phase']:8} {one['severity']:8} {what}"


def _membership_lines(one: Mapping[str, Any]) -> Iterable[str]:
    yield f"incident {one['id']} ({one['phase']}): {one['title']}"
    if one["since"]:
        yield f"  part of it since {_clock(one['since'])}, in versions {one['versions'][0]} to {one['versions'][-1]} of its telling"
    if one["rank"] == 1:
        yield f"  its most probable cause, with {one['probability']:.0%}"
    elif one["rank"]:
        yield f"  candidate {one['rank']} for its cause, with {one['probability']:.0%}; the first is {one['cause']}"
    if one["inhibited_by"]:
        yield f"  not told by itself, because these explain it: {', '.join(one['inhibited_by'])}"
    if one["inhibits"]:
        yield f"  it keeps from being told: {', '.join(one['inhibits'][:10])}"
    if one["joined_with"]:
        yield f"  with {len(one['joined_with'])} others: {', '.join(one['joined_with'][:10])}"


def _member_line(one: Mapping[str, Any]) -> str:
    by = f"; inhibited by {', '.join(one['inhibited_by'])}" if one["inhibited_by"] else ""
    return f"{one['id']}  {_clock(one['started'])}  {one['phase']:8} {one['cause']}: {one['summary']}{by}"


def sparkline(values: list[float], width: int = 40) -> str:
    """The course of some values in a line: each sign is the highest of its stretch."""
    if not values:
        return ""
    stretches = [values[place * len(values) // width : (place + 1) * len(values) // width] for place in range(width)]
    heights = [max(stretch) for stretch in stretches if stretch]
    low, span = min(heights), max(heights) - min(heights)
    return "".join(SPARKS[int((height - low) / span * (len(SPARKS) - 1))] if span else SPARKS[0] for height in heights)
