"""`pilothouse rca`: a folder with a call graph, metrics and a symptom becomes ranked causes.

The folder is laid out as the PetShop data set (Hardt et al. 2023): `graph.csv` is an adjacency matrix (callers in the first
column, callees in the header); `normal.csv` and `fault.csv` have three header rows (microservice, metric, statistic),
then one row a time in Unix seconds; `target.json` says where and when the symptom was seen. What is read are
latency (Average, s), availability (Average, %) and requests (Sum) of every service; empty cells were not measured.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, get_args

import numpy as np

from pilothouse.errors import Misuse
from processors.rootcause.diagnosis import Case, Diagnosis, Ranked, diagnose
from processors.rootcause.service_map import Calls, Settings, Symptom, Traffic

COLUMNS = {("requests", "Sum"): 0, ("latency", "Average"): 1, ("availability", "Average"): 2}
HEADERS = ("microservice", "metric", "statistic")
NORMAL_BINS_MAX = 20_000  # of a longer normal period, the newest are used


class CaseError(Misuse):
    """The folder is not a case; the message names the file, the place and what would be right."""


class Target(NamedTuple):
    """Where and when the symptom was seen."""

    node: str
    symptom: Symptom
    time_s: float


class Table(NamedTuple):
    """A file of metrics: times in Unix seconds, ascending, and requests, latency, availability by service."""

    times_s: list[float]
    services: tuple[str, ...]
    values: np.ndarray[Any, np.dtype[np.float64]]
    """(times, services, kind), NaN where it was not measured."""

    def traffic(self, services: tuple[str, ...]) -> Traffic:
        """In the order of `services`; what the file does not have was not measured."""
        place = {name: index for index, name in enumerate(self.services)}
        values = np.full((len(self.times_s), len(services), len(COLUMNS)), np.nan)
        for index, name in enumerate(services):
            if name in place:
                values[:, index] = self.values[:, place[name]]
        requests, latency, availability = (values[..., kind] for kind in range(len(COLUMNS)))
        return Traffic(requests, requests * latency, requests * (1 - availability / 100))


def answer(folder: Path, settings: Settings | None = None) -> Diagnosis:
    """Who is at fault in a case. Raises CaseError for what is not a case."""
    if not folder.is_dir():
        raise CaseError(f"{folder}: no such folder; a case has graph.csv, normal.csv, fault.csv and target.json")
    path = folder / "target.json"
    target = read_target(path, _json(path))
    callees = read_graph(folder / "graph.csv")
    normal, fault = read_metrics(folder / "normal.csv"), read_metrics(folder / "fault.csv")
    case = case_of(callees, normal, fault, target)
    if target.node not in case.calls.names:
        raise CaseError(f"{path}: node {target.node!r} is neither in graph.csv nor in the metrics")
    try:
        return diagnose(case, settings or Settings())
    except ValueError as error:
        raise CaseError(f"{folder / 'normal.csv'}: {error}") from None


def case_of(callees: Mapping[str, list[str]], normal: Table, fault: Table, target: Target) -> Case:
    """The files of a case, put together."""
    calls = Calls.of({*normal.services, *fault.services, *callees}, callees)
    return Case(
        calls=calls,
        normal=normal.traffic(calls.names),
        span=fault.traffic(calls.names),
        before=_before(fault.times_s, target.time_s, _step_s(normal.times_s)),
        symptom=target.symptom,
        target=target.node,
        since_ms=round(target.time_s * 1_000),
    )


def report(diagnosis: Diagnosis) -> dict[str, Any]:
    """For a machine: `ranked`, best first, scores add up to 1."""
    ranked = [
        {
            "node": one.name,
            "score": one.probability,
            "chance": diagnosis.chances[one.name],
            "evidence": [fact.text for fact in one.evidence],
            "against": [fact.text for fact in one.against],
        }
        for one in diagnosis.ranked
    ]
    return {"ranked": ranked, "chance": diagnosis.chance, "affected": list(diagnosis.affected)}


def text(diagnosis: Diagnosis) -> str:
    """For people."""
    if not diagnosis.ranked:
        return f"No fault: {diagnosis.chance:.0%} of healthy spans look like this or worse."
    lines = [f"Health looks like this in {diagnosis.chance:.2%} of spans. Most probable causes:"]
    for place, one in enumerate(diagnosis.ranked[:5], start=1):
        lines += [f"{place}. {one.name}  {one.probability:.0%}", *_facts(one)]
    if diagnosis.affected:
        lines.append(f"Suffering with it: {', '.join(diagnosis.affected)}")
    return "\n".join(lines)


def _facts(one: Ranked) -> list[str]:
    return [f"   + {fact.text}" for fact in one.evidence] + [f"   - {fact.text}" for fact in one.against]


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise CaseError(f"{path}: not JSON: {error}") from None


def read_target(path: Path, said: Any) -> Target:
    """Where and when the symptom was seen, from what a file says."""
    if not isinstance(said, dict):
        raise CaseError(
            f'{path}: must be an object such as {{"node": "web", "metric": "latency", "timestamp": 1681855803}}'
        )
    node, metric, time_s = said.get("node"), said.get("metric"), said.get("timestamp")
    if not isinstance(node, str) or not node:
        raise CaseError(f"{path}: node is {node!r}; it must name a service")
    symptoms: tuple[Symptom, ...] = get_args(Symptom)
    if metric not in symptoms:
        raise CaseError(f"{path}: metric is {metric!r}; it must be {' or '.join(symptoms)}")
    if isinstance(time_s, bool) or not isinstance(time_s, int | float) or not math.isfinite(time_s):
        raise CaseError(f"{path}: timestamp is {time_s!r}; it must be in Unix seconds")
    return Target(node, metric, float(time_s))


def read_graph(path: Path) -> dict[str, list[str]]:
    """Callees by caller."""
    rows = _rows(path)
    header = next(rows, None)
    if not header or len(header) < 2:
        raise CaseError(f"{path}: line 1 must name the callees, after an empty first cell")
    callees = header[1:]
    graph: dict[str, list[str]] = {}
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CaseError(f"{path}: line {line} has {len(row)} cells, the header has {len(header)}")
        called = [_number(path, line, cell) for cell in row[1:]]
        graph[row[0]] = [name for name, calls in zip(callees, called, strict=True) if calls > 0]
    for name in callees:
        graph.setdefault(name, [])
    return graph


def read_metrics(path: Path) -> Table:
    """A file of metrics, its rows in the order of time; of a very long one the newest."""
    rows = _rows(path)
    header = [next(rows, None) for _ in HEADERS]
    for line, (said, cells) in enumerate(zip(HEADERS, header, strict=True), start=1):
        if not cells or cells[0] != said:
            raise CaseError(f"{path}: line {line} must begin with {said!r}, not {(cells or ['nothing'])[0]!r}")
    names, metrics, statistics = (cells or [] for cells in header)
    if not len(names) == len(metrics) == len(statistics):
        raise CaseError(
            f"{path}: header rows have {len(names)}, {len(metrics)} and {len(statistics)} cells; they must be equal"
        )
    services = tuple(dict.fromkeys(names[1:]))
    cells_of = _places(path, services, list(zip(names, metrics, statistics, strict=True)))
    by_time: dict[float, np.ndarray[Any, np.dtype[np.float64]]] = {}
    for line, row in enumerate(rows, start=len(HEADERS) + 1):
        if line == len(HEADERS) + 1 and row[0] == "unix_timestamp":
            continue
        if len(row) != len(names):
            raise CaseError(f"{path}: line {line} has {len(row)} cells, the header has {len(names)}")
        time_s = _number(path, line, row[0])
        if not math.isfinite(time_s):
            raise CaseError(f"{path}: line {line}: {row[0]!r} is not a time in Unix seconds")
        if time_s in by_time:
            raise CaseError(f"{path}: line {line}: time {row[0]} stands there twice")
        values = np.full((len(services), len(COLUMNS)), np.nan)
        for column, place in cells_of.items():
            values[place] = _number(path, line, row[column])
        by_time[time_s] = values
        if len(by_time) > 2 * NORMAL_BINS_MAX:
            by_time = {time_s: by_time[time_s] for time_s in sorted(by_time)[NORMAL_BINS_MAX:]}
    if not by_time:
        raise CaseError(f"{path}: no row of values after the header")
    times_s = sorted(by_time)[-NORMAL_BINS_MAX:]
    return Table(times_s, services, np.array([by_time[time_s] for time_s in times_s]))


def _places(path: Path, services: tuple[str, ...], columns: list[tuple[str, str, str]]) -> dict[int, tuple[int, int]]:
    """Column of the file to (service, kind)."""
    order = {name: index for index, name in enumerate(services)}
    places: dict[int, tuple[int, int]] = {}
    for column, (name, metric, statistic) in enumerate(columns[1:], start=1):
        kind = COLUMNS.get((metric, statistic))
        if kind is None:
            continue
        if (order[name], kind) in places.values():
            raise CaseError(f"{path}: {metric} {statistic} of {name} stands in two columns")
        places[column] = (order[name], kind)
    missing = [" ".join(said) for said, kind in COLUMNS.items() if kind not in {place[1] for place in places.values()}]
    if missing:
        raise CaseError(f"{path}: no column of {', '.join(missing)}")
    return places


def _before(times_s: list[float], symptom_s: float, usual_step_s: float) -> int:
    """How many of the bins had ended when the symptom was seen; the last is always judged."""
    step_s = _step_s(times_s) or usual_step_s
    return min(sum(time_s + step_s <= symptom_s for time_s in times_s), len(times_s) - 1)


def _step_s(times_s: list[float]) -> float:
    return median(later - earlier for earlier, later in pairwise(times_s)) if len(times_s) > 1 else 0.0


def _number(path: Path, line: int, cell: str) -> float:
    """A cell as a number; NaN where nothing was measured."""
    if not cell.strip():
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        raise CaseError(f"{path}: line {line}: {cell[:40]!r} is not a number") from None
    return number if math.isfinite(number) else math.nan


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: cannot be read: {error}") from None


def _rows(path: Path) -> Iterator[list[str]]:
    """Rows of a CSV file, without empty ones, read as they are needed."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (row for row in csv.reader(file) if row)
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"{path}: cannot be read: {error}") from None
