"""`pilothouse simulate`: run, score, print, and write what was drawn so that people can look at it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from pilothouse.errors import Misuse
from pilothouse.estate_files import EstateError, documents_of
from pilothouse.simulate import healthy as healthy_estate
from pilothouse.simulate import runs, scoring
from pilothouse.simulate import scenarios as scripted
from pilothouse.simulate.families import FAMILIES
from pilothouse.simulate.processes import side_by_side
from pilothouse.simulate.running import Settings
from pilothouse.simulate.scoring import Figures, Scored
from pilothouse.simulate.stories import live
from processors.steps.registry import ON_REQUEST, STEPS
from schemas.records import Incident

FALSE_A_WEEK = 1.0
BAR = {"precision": 0.95, "recall": 0.95, "top_1": 0.9}
COLUMNS = (
    "runs",
    "wanted",
    "found",
    "false",
    "duplicates",
    "precision",
    "recall",
    "delay_median_s",
    "delay_p90_s",
    "top_1",
    "tenants",
    "closed",
    "closed_since_end",
)


class SimulateError(Misuse):
    """Something that the user can mend; the message says what."""


class Verdict(NamedTuple):
    """An answer for machines and for people, and whether it is what is asked for."""

    answer: dict[str, Any]
    text: str
    meets_bar: bool


def chosen(name: str) -> list[str]:
    """The families that a name stands for."""
    if name == "all":
        return list(FAMILIES)
    if name not in FAMILIES:
        raise SimulateError(
            f"simulation {name!r} is unknown; known are {', '.join(FAMILIES)}, healthy, scenarios and all"
        )
    return [name]


def settings_of(path: Path | None) -> Settings:
    """Candidate settings: a YAML file of tunables by step. Raises SimulateError naming what is wrong."""
    if path is None:
        return {}
    try:
        documents = documents_of(path)
    except EstateError as error:
        raise SimulateError(str(error)) from None
    data = documents[0] if len(documents) == 1 else None
    if not isinstance(data, dict) or not all(isinstance(one, dict) for one in data.values()):
        raise SimulateError(f"{path}: must be tunables by step, such as `baseline: {{limit: 6}}`")
    known = {**STEPS, **ON_REQUEST}
    for step, values in data.items():
        if step not in known:
            raise SimulateError(f"{path}: step {step!r} is unknown; known are {', '.join(known)}")
        try:
            known[step].config(**{**values, "cell": "any"})
        except ValidationError as error:
            first = error.errors()[0]
            raise SimulateError(f"{path}: {step}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return data


def run(
    name: str, count: int, seed: int, settings: Settings, processes: int, out: Path | None, say: Callable[[str], None]
) -> Verdict:
    """Run and score. `out` also gets a file of JSON lines for each run: records, what was told, the label."""
    families, scored, began = chosen(name), list[Scored](), time.monotonic()
    for one in runs.run_all(families, count, seed, settings, processes):
        scored += one
        say(f"{len(scored)} of {count * len(families)} runs, {time.monotonic() - began:.0f} s")
    answer = runs.result(families, count, seed, settings, scored) | {"measured": machine()}
    if out is not None:
        write(out, scored, settings, processes, say)
        (out / "results.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    return Verdict(answer, text(answer), meets_bar(answer))


def healthy(
    cells: int, weeks: int, seed: int, settings: Settings, processes: int, say: Callable[[str], None]
) -> Verdict:
    """The healthy estate: every alert is a false one."""
    found: list[dict[str, Any]] = []
    for one in healthy_estate.run(cells, weeks, seed, settings, processes):
        found.append(one)
        say(f"{one['cell']}: {sum(one['weeks'])} false alerts in {weeks} weeks")
    answer = healthy_estate.result(seed, weeks, found) | {"measured": machine()}
    lines = [
        f"{alert['at']}  {one['cell']}  {alert['cause']}: {alert['title']}" for one in found for alert in one["alerts"]
    ]
    lines.append(
        f"{answer['series']} series in {cells} cells over {weeks} weeks: {answer['alerts']} false alerts, "
        f"{answer['alerts_per_cell_and_week']} by cell and week, at worst {answer['worst_cell_per_week']} in a cell"
    )
    return Verdict(answer, "\n".join(lines), answer["worst_cell_per_week"] <= FALSE_A_WEEK)


def scenarios(settings: Settings, say: Callable[[str], None]) -> Verdict:
    """Every scenario, in one estate."""
    on, found = scripted.scene(settings), dict[str, Any]()
    for name, story in scripted.SCENARIOS.items():
        say(name)
        _, scored = scripted.play(on, name)
        first = next((one for one in scored.alerts if one.id == scored.found), None)
        found[name] = {
            "story": (story.__doc__ or "").partition(": ")[2].rstrip("."),
            "is_right": scored.is_right,
            "cause": first.cause if first else None,
            **scored.model_dump(include={"right_cause", "right_tenants", "delay_s", "closed"}),
            "documents": first.documents if first else None,
            "exposed": first.exposed if first else None,
            "others": [one.cause for one in scored.alerts if one.id != scored.found],
        }
    answer = {"command": "pilothouse simulate scenarios -o json", "scenarios": found, "measured": machine()}
    lines = [f"{name:4} {'right' if one['is_right'] else 'WRONG'}  {one}" for name, one in found.items()]
    right = all(one["is_right"] and one["right_cause"] is not False for one in found.values())
    return Verdict(answer, "\n".join(lines), right)


@dataclass(frozen=True)
class Writing:
    """Scored runs of one estate that are to be written into a folder."""

    out: Path
    estate: int
    scored: tuple[Scored, ...]
    settings: Settings


def write(out: Path, scored: Sequence[Scored], settings: Settings, processes: int, say: Callable[[str], None]) -> None:
    """Live through the runs again and write them: FAMILY-NUMBER.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    by_estate: dict[int, list[Scored]] = {}
    for one in scored:
        by_estate.setdefault(one.label.run // runs.RUNS_AN_ESTATE, []).append(one)
    work = [Writing(out, estate, tuple(some), settings) for estate, some in sorted(by_estate.items())]
    for paths in side_by_side(_write, work, processes):
        for path in paths:
            say(path)


def _write(work: Writing) -> list[str]:
    lived = runs.lived_of(work.scored[0].label.seed, work.estate, work.settings)
    written = []
    for one in work.scored:
        label = one.label
        story = runs.story_of(lived, label.family, label.run, label.seed)
        through = live(lived, label.family, label.run, label.seed, story, keep_log=True)
        path = work.out / f"{label.family}-{label.run:04d}.jsonl"
        with path.open("wb") as file:
            file.write(orjson.dumps({"label": label.model_dump(mode="json")}) + b"\n")
            file.write(orjson.dumps({"scored": one.model_dump(mode="json", exclude={"label"})}) + b"\n")
            for recorded_ms, record in through.log:
                line = {"recorded_ms": recorded_ms, "type": record.type, "record": record.model_dump(mode="json")}
                file.write(orjson.dumps(line) + b"\n")
            for found in through.told:
                what = "incident" if isinstance(found.record, Incident) else "signal"
                file.write(
                    orjson.dumps({"told_ms": found.envelope.recorded_ms, what: found.record.model_dump(mode="json")})
                    + b"\n"
                )
        written.append(str(path))
    return written


def machine() -> dict[str, str]:
    """When and on what something was measured."""
    what = f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}"
    return {"date": datetime.now(UTC).date().isoformat(), "machine": what}


def meets_bar(answer: Mapping[str, Any]) -> bool:
    """Whether every family reaches what is asked of it."""
    return all(
        (family["figures"][name] or 0.0) >= least
        for family in answer["families"].values()
        for name, least in BAR.items()
    )


def text(answer: Mapping[str, Any]) -> str:
    """For people."""
    lines = [scoring.DEFINITIONS, "", f"again: {answer['command']}", ""]
    width = max(len(kind) for family in answer["families"].values() for kind in (*family["kinds"], "precision")) + 4
    lines.append(" " * width + "".join(f"{name.replace('delay_', '').replace('_s', ''):>11}" for name in COLUMNS))
    for name, family in answer["families"].items():
        lines.append(f"{name:{width}}" + _row(Figures.model_validate(family["figures"])))
        for kind, figures in family["kinds"].items():
            lines.append(f"{'  ' + kind:{width}}" + _row(Figures.model_validate(figures)))
            if wrong := family["mistaken"].get(kind):
                lines.append(" " * width + "    " + ", ".join(f"{what} {count}" for what, count in wrong.items()))
    return "\n".join(lines)


def _row(figures: Figures) -> str:
    return "".join(f"{'-' if (value := getattr(figures, name)) is None else value:>11}" for name in COLUMNS)
