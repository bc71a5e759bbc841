"""Every step, in the order in which they run. Adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from processors import faults
from processors.step import Step, by_name
from processors.steps import (
    absence,
    baseline,
    burn_rate,
    capacity,
    cardinality,
    certificates,
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
    shapes,
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
        certificates.STEP,
        saturation.STEP,
        difference_in_differences.STEP,
        service_map.STEP,
        cardinality.STEP,
        watchdog.STEP,
        correlator.STEP,
    )
)

ON_REQUEST = by_name((shapes.STEP,))
"""Steps that run where settings name them, right after the first."""

FLEET = by_name((fleet.STEP,))
"""Steps of the fold over the incidents of all cells."""

ITSELF = by_name((faults.STEP,))
"""What the fold of every plan says of itself."""


def chosen(named: Collection[str]) -> tuple[Step[Any, Any], ...]:
    """All steps in their order, with those on request that are `named`."""
    first, *others = STEPS.values()
    return first, *(step for name, step in ON_REQUEST.items() if name in named), *others
