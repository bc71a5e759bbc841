"""`bench rootcause`: how often is the right service named, and how often is silence kept? Needs no servers.

Drawn maps: services that wait for and fail with one another, with one fault at a random place, or none. PetShop (Hardt et
al. 2023, CC BY 4.0) when `PILOTHOUSE_PETSHOP` names its folder, laid out as TRAFFIC/graph.csv, TRAFFIC/noissue/metrics.csv
and TRAFFIC/SPLIT/ISSUE/{metrics.csv,target.json}. Nothing of the method is fitted to labels, so all faults are held out;
spans without a fault are always later than the normal period that they are judged by. Beside it, the plain
ranking by the largest deviation in standard deviations.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from pilothouse.rca import case_of, read_graph, read_metrics, read_target
from pilothouse.settings import Settings as ProgramSettings
from processors.rootcause.diagnosis import Case, diagnose
from processors.rootcause.service_map import Calls, Settings, Symptom, Traffic

DATA = "PILOTHOUSE_PETSHOP"
SYMPTOMS: tuple[Symptom, ...] = get_args(Symptom)
NORMAL, SPAN, BEFORE = 500, 5, 2
EVERY = 7  # bins from one quiet span of PetShop to the next
STATED = (0.1, 0.05, 0.02)


class Labelled(NamedTuple):
    """A case and who is at fault in it; None where all is well."""

    group: str
    case: Case
    cause: str | None


async def measure(_: ProgramSettings) -> dict[str, Any]:
    """`run` on drawn maps, and on PetShop when it is there."""
    folder = os.environ.get(DATA)
    answer: dict[str, Any] = {"drawn": score(drawn(300))}
    if folder:
        answer["petshop"] = score(petshop(Path(folder)))
    return answer


def score(cases: Iterator[Labelled]) -> dict[str, Any]:
    """Shares of faults whose cause is named first, and among three; of quiet spans, those answered at stated rates."""
    first, three, plain = defaultdict[str, list[bool]](list), defaultdict[str, list[bool]](list), list[bool]()
    chances: list[float] = []
    for group, case, cause in cases:
        diagnosis = diagnose(case, Settings())
        if cause is None:
            chances.append(diagnosis.chance)
            continue
        named = [one.name for one in diagnosis.ranked]
        for key in (group, "all"):
            first[key].append(cause in named[:1])
            three[key].append(cause in named[:3])
        plain.append(largest_deviation(case) == cause)
    return {
        "faults": len(first["all"]),
        "top_1": {key: _share(hits) for key, hits in sorted(first.items())},
        "top_3": {key: _share(hits) for key, hits in sorted(three.items())},
        "top_1_of_largest_deviation": _share(plain),
        "quiet_spans": len(chances),
        "answered_at": {str(rate): _share([chance <= rate for chance in chances]) for rate in STATED},
    }


def _share(hits: list[bool]) -> float:
    return round(sum(hits) / len(hits), 3) if hits else 0.0


def largest_deviation(case: Case) -> str:
    """The service whose latency, or share of failures, is most standard deviations from its mean."""
    part = 1 if case.symptom == "latency" else 2
    normal, now = (_per_request(traffic, part) for traffic in (case.normal, case.span))
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = (now - np.nanmean(normal, axis=0)) / np.nanstd(normal, axis=0)
    return case.calls.names[int(np.nanargmax(np.where(np.isfinite(deviation), deviation, -np.inf).max(axis=0)))]


def _per_request(traffic: Traffic, part: int) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(traffic.requests > 0, traffic[part] / traffic.requests, 0.0))


def petshop(folder: Path) -> Iterator[Labelled]:
    """Its faults of every split, and quiet spans of the later half of its fault-free period."""
    for traffic in sorted(one for one in folder.iterdir() if (one / "graph.csv").is_file()):
        callees, normal = read_graph(traffic / "graph.csv"), read_metrics(traffic / "noissue" / "metrics.csv")
        for target in sorted(traffic.glob("*/*/target.json")):
            said = json.loads(target.read_text())
            symptom = read_target(target, said["target"])
            fault = read_metrics(target.with_name("metrics.csv"))
            case = case_of(callees, normal, fault, symptom)
            yield Labelled(f"{traffic.name}/{symptom.symptom}", case, said["root_cause"]["node"])
        calls = Calls.of({*normal.services, *callees}, callees)
        yield from _quiet(traffic.name, calls, normal.traffic(calls.names))


def _quiet(group: str, calls: Calls, all_of_it: Traffic) -> Iterator[Labelled]:
    bins = len(all_of_it.requests)
    for start in range(bins // 2, bins - SPAN, EVERY):
        past, span = all_of_it.bins(slice(0, start)), all_of_it.bins(slice(start, start + SPAN))
        for symptom in SYMPTOMS:
            for before in (1, SPAN - 1):
                yield Labelled(group, Case(calls, past, span, before, symptom, "PetSite"), None)


def drawn(count: int) -> Iterator[Labelled]:
    """Maps of 3 to 20 services with a fault each, and each map once without."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        callees = _map(rng, int(rng.integers(3, 21)))
        calls = Calls.of(callees, callees)
        symptom = SYMPTOMS[seed % len(SYMPTOMS)]
        root = str(rng.choice(calls.names))
        normal, quiet = _traffic(rng, calls, callees, NORMAL), _traffic(rng, calls, callees, SPAN)
        ill = _traffic(rng, calls, callees, SPAN, root=root, symptom=symptom)
        for span, cause in ((quiet, None), (ill, root)):
            yield Labelled(symptom, Case(calls, normal, span, BEFORE, symptom, "s00"), cause)


def _map(rng: np.random.Generator, size: int) -> dict[str, list[str]]:
    """A call graph without circles in which the first service depends on all others."""
    callees: dict[str, list[str]] = {f"s{place:02}": [] for place in range(size)}
    for place in range(1, size):
        for caller in set(rng.integers(0, place, size=int(rng.integers(1, 3)))):
            callees[f"s{caller:02}"].append(f"s{place:02}")
    return callees


def _traffic(
    rng: np.random.Generator, calls: Calls, callees: Mapping[str, list[str]], bins: int, *, root: str = "", symptom: Symptom = "latency"
) -> Traffic:  # fmt: skip
    """A fault slows its service to three to ten times its own time, or fails 2 to 20 % of its requests."""
    ill = np.arange(bins) >= BEFORE
    slower, failing = rng.uniform(2, 9), rng.uniform(0.02, 0.2)
    count = {name: np.zeros(bins) for name in calls.names}
    count["s00"] = rng.poisson(300 * rng.uniform(0.7, 1.3, bins)).astype(float)
    for name in calls.names:  # callers stand before their callees
        for callee in callees[name]:
            count[callee] = count[callee] + count[name]
    took, share = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for name in reversed(calls.names):
        base = 0.01 * (1 + int(name[1:]) % 7)
        noise = 0.02 + 0.06 * (int(name[1:]) % 5)  # some are steady, some are not
        own = base * rng.lognormal(0, noise, bins) * (1 + slower * (ill & (name == root) & (symptom == "latency")))
        bad = 0.0005 + failing * (ill & (name == root) & (symptom == "availability"))
        took[name] = own + sum((took[callee] for callee in callees[name]), np.zeros(bins))
        lost = rng.binomial(count[name].astype(int), bad) / np.maximum(count[name], 1)
        share[name] = np.clip(lost + sum((share[callee] for callee in callees[name]), np.zeros(bins)), 0, 1)
    columns = [(count[name], count[name] * took[name], np.round(count[name] * share[name])) for name in calls.names]
    return Traffic(*(np.column_stack(kind) for kind in zip(*columns, strict=True)))
