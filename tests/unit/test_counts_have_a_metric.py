"""Whatever a worker counts stands in the catalogue, so that it is told."""

from __future__ import annotations

import re
from pathlib import Path

from pilothouse.telemetry import of_worker
from schemas.metrics import BY_NAME

ROOT = Path(__file__).parents[2] / "processors"
COUNTED = re.compile(r'counts\[f?"([a-z_]+?)_?(?:\{[^"]*)?"\]')


def test_every_count_of_a_worker_is_a_metric() -> None:
    names = {name for file in ("fold.py", "runner.py") for name in COUNTED.findall((ROOT / file).read_text())}
    assert {"failed", "afresh", "rejected", "turned_back"} <= names
    counts = {f"{name}_x" if name in ("afresh", "rejected") else name: 1 for name in names} | {"late": 1, "doubted": 1}
    told = {one.name for one in of_worker(counts | {"failed_x": 1, "signals": 1, "incidents": 1})}
    assert told <= BY_NAME.keys(), sorted(told - BY_NAME.keys())
