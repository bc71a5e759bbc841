"""An estate to measure with: the catalogue's own series, so that steps find what they look for.

Gauges stay around their mean, counts grow as Poisson arrivals do, all alike: half of all jobs fail, so that stories are open and are
gone on with in it at every look. The same numbers in every run.
"""

from __future__ import annotations

import numpy as np

from schemas.metrics import Kind, describe, odoo, postgresql
from schemas.records import Scrape
from schemas.series import identity, join, parse

POINTS, TENANTS, RESOURCES, CELLS = 500, 20, 100, 20
START_MS = 1_795_000_000_000
SYSTEMS = {"postgresql": postgresql.METRICS, "odoo_log": odoo.METRICS}


class Estate:
    """Scrapes of `RESOURCES` resources in `CELLS` cells, one resource after the other."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)
        self._totals = np.zeros((RESOURCES, POINTS))
        identities = {system: _identities(system) for system in SYSTEMS}
        self._layouts = {system: join(those) for system, those in identities.items()}
        self._is_sum = {
            system: np.array([describe(parse(one).name).kind is Kind.SUM for one in those])
            for system, those in identities.items()
        }
        self.scrapes = 0

    def scrape(self, time_ms: int) -> Scrape:
        """The next resource's look."""
        resource, self.scrapes = self.scrapes % RESOURCES, self.scrapes + 1
        system = tuple(SYSTEMS)[resource % len(SYSTEMS)]
        self._totals[resource] += self._rng.poisson(5, POINTS)
        gauges = np.round(5 + 0.1 * self._rng.standard_normal(POINTS), 4)
        return Scrape(
            cell=cell(resource % CELLS),
            resource=f"{system}-{resource}",
            system=system,
            time_ms=time_ms,
            start_time_ms=START_MS - 1,
            series=self._layouts[system],
            values=tuple(np.where(self._is_sum[system], self._totals[resource], gauges).tolist()),
        )


def cell(number: int) -> str:
    """The name of a cell."""
    return f"cell-{number}"


def _identities(system: str) -> list[str]:
    metrics = SYSTEMS[system][: POINTS // TENANTS]
    return sorted(identity(one.name, {"tenant.id": f"tenant-{n:02}"}) for one in metrics for n in range(TENANTS))
