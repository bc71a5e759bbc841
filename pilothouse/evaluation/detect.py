"""`bench detect`: `pilothouse detect`, `rca` and `slo eval` on labelled data that others made. Needs no servers.

The folder holds `nab/` (data/ and windows.json), `petshop/` (see `rootcause`) and `slo/` (an OpenSLO file, NAME.csv and what a
Prometheus said of it in NAME.expected.json). What is missing is left out. The answer of each is what the docs page shows.
"""

from __future__ import annotations

import json
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pilothouse import rca
from pilothouse.detect import detect
from pilothouse.evaluation import nab, rootcause
from pilothouse.simulate.command import machine
from pilothouse.slo_eval import evaluate
from processors.rootcause.diagnosis import diagnose
from processors.rootcause.service_map import Settings

COMMAND = "pilothouse bench detect --data DIR"


def measure(data: Path) -> dict[str, dict[str, Any]]:
    """Figures by data set, and what is asked of them."""
    sets: dict[str, Callable[[Path], dict[str, Any]]] = {"nab": _nab, "petshop": _petshop, "slo": _slo}
    return {
        name: {"command": COMMAND, "measured": machine(), **judge(data / name)}
        for name, judge in sets.items()
        if (data / name).is_dir()
    }


def write(answer: dict[str, dict[str, Any]], out: Path) -> None:
    """One file a data set, as the docs page reads them."""
    for name, one in answer.items():
        (out / f"{name}.json").write_text(json.dumps(one, indent=2) + "\n", encoding="utf-8")


def _nab(folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        detect(next((folder / "data").rglob("*.csv")), Path(scratch, "compiled"))  # before the clock runs
        began = _cpu_s()
        rows = sum(one.rows for one in detect(folder / "data", Path(scratch)))
        spent_s = _cpu_s() - began
        files = nab.read(Path(scratch), folder / "windows.json")
    standard, threshold = nab.score(files, nab.COST["standard"])
    low_fp, _ = nab.score(files, nab.COST["low_fp"])
    hit, outside = nab.found(files, threshold)
    figures = {
        "files": len(files),
        "standard": round(standard, 1),
        "low FP": round(low_fp, 1),
        "standard, threshold of other files": round(nab.held_out(files, nab.COST["standard"]), 1),
        "low FP, threshold of other files": round(nab.held_out(files, nab.COST["low_fp"]), 1),
        "windows": sum(one.windows for one in files),
        "windows found": hit,
        "rows told outside windows": outside,
        "rows": rows,
        "CPU µs a row": round(spent_s / rows * 1e6, 1),
    }
    return {"figures": figures, "bar": {"standard": 70, "low FP": 60}}


def _petshop(folder: Path) -> dict[str, Any]:
    first, three, silent = [], [], []
    for _, case, cause in rootcause.petshop(folder):
        named = [one["node"] for one in rca.report(diagnose(case, Settings()))["ranked"]]
        if cause is None:
            silent.append(not named)
        else:
            first.append(cause in named[:1])
            three.append(cause in named[:3])
    figures = {
        "faults": len(first),
        "named first": _share(first),
        "among three": _share(three),
        "spans without a fault": len(silent),
        "silent without a fault": _share(silent),
    }
    return {"figures": figures, "bar": {"named first": 0.75, "among three": 0.95, "silent without a fault": 0.92}}


def _slo(folder: Path) -> dict[str, Any]:
    (rules,) = folder.glob("*.openslo.yaml")
    rows, right = 0, {}
    for expected in sorted(folder.glob("*.expected.json")):
        name = expected.name.removesuffix(".expected.json")
        answer = evaluate(rules, expected.with_name(f"{name}.csv"))
        rows += answer.rows
        said, wanted = answer.as_json(), json.loads(expected.read_text(encoding="utf-8"))
        right[name] = all(said[severity] == alerts for severity, alerts in wanted.items())
    figures: dict[str, Any] = {f"{name} as Prometheus at every step": one for name, one in right.items()}
    return {"figures": {**figures, "rows": rows}, "bar": dict.fromkeys(figures, True)}


def _share(hits: list[bool]) -> float | None:
    return round(sum(hits) / len(hits), 3) if hits else None


def _cpu_s() -> float:
    """Of this process, s."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
