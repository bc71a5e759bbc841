"""Does the cost of all steps grow with the points, and no faster? CPU time over simulated scrapes of a healthy cell.

python -m pilothouse.evaluation.growth > docs/measured/growth.json
"""

from __future__ import annotations

import json
import sys
import time
from datetime import date

from pilothouse.simulate.command import machine
from pilothouse.simulate.drawing import draw
from pilothouse.simulate.drivers import Drivers, Span
from pilothouse.simulate.running import Cell

GRAIN_MS, DAY_MS = 300_000, 86_400_000


def cost(tenants: int, days: int) -> tuple[int, float]:
    """Points folded, and the CPU time that folding took, s: what it takes to draw them is taken off."""
    drawn = draw(3, tenants=tenants, start=date(2026, 3, 2))
    cell = Cell(drawn, slowly=True)
    drivers = Drivers(Span.of(drawn.start_ms, drawn.start_ms + days * DAY_MS, GRAIN_MS))
    began = time.process_time()
    looks = cell.draw(drivers, 1, documents=False)
    drawing_s = time.process_time() - began
    cell.publish(drivers.span, looks, 1)
    return cell.points, round(time.process_time() - began - drawing_s, 3)


def measure() -> dict[str, object]:
    """Both ways of growing."""
    cost(2, 1)
    days = {"name": "days", "points": [cost(4, count) for count in (1, 2, 4, 8)]}
    tenants = {"name": "tenants", "points": [cost(count, 2) for count in (2, 4, 8, 16)]}
    return {"command": "python -m pilothouse.evaluation.growth", "measured": machine(), "curves": [days, tenants]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
