"""The metric catalogue: kind, unit and meaning belong to a metric's name, not to each of its points.

One module a system. A new metric starts here; docs, sinks and steps read it from here.
"""

from __future__ import annotations

from schemas.metrics import host, odoo, pilothouse, postgresql, redis, tls
from schemas.metrics.metric import Departure, Kind, Metric, spoken

__all__ = ["BY_NAME", "METRICS", "Departure", "Kind", "Metric", "describe", "spoken"]

METRICS: tuple[Metric, ...] = (
    *postgresql.METRICS,
    *redis.METRICS,
    *odoo.METRICS,
    *host.METRICS,
    *tls.METRICS,
    *pilothouse.METRICS,
)
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}


def describe(name: str) -> Metric:
    """The catalogue's entry; a gauge without unit and opinion for a name it does not hold."""
    return BY_NAME.get(name) or Metric(name, Kind.GAUGE, "1", "Not in the catalogue.")
