"""Every step, in the order in which they run. Adding one is one file and one line here."""

from __future__ import annotations

from processors.step import by_name
from processors.steps import (
    absence,
    baseline,
    burn_rate,
    capacity,
    contention,
    correlator,
    crons,
    difference_in_differences,
    failing_jobs,
    fleet,
    journeys,
    locks,
    saturation,
    service_map,
    watchdog,
)

STEPS = by_name(
    (
        baseline.STEP,
        absence.STEP,
        crons.STEP,
        failing_jobs.STEP,
        locks.STEP,
        contention.STEP,
        journeys.STEP,
        burn_rate.STEP,
        capacity.STEP,
        saturation.STEP,
        difference_in_differences.STEP,
        service_map.STEP,
        watchdog.STEP,
        correlator.STEP,
    )
)

FLEET = by_name((fleet.STEP,))
"""Steps of the fold over the incidents of all cells."""
