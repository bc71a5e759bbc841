"""Until when does a happening go on in what it left behind? Known from the world as it is, never from what was seen of it.

Jobs that piled up are worked off when their queue is empty: from there on it is as if nothing had been before (a regeneration
point, Asmussen, Applied Probability and Queues, ch. VI). Documents that a stage held up have gone on when nine in ten of those
that stood in it at the end have left it; the others take long by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pilothouse.simulate.cell import Tenant, World
from pilothouse.simulate.drivers import Drivers, Knob
from pilothouse.simulate.truth import Truth

EMPTY = 1.0  # jobs
MOST = 0.9
SHIPPED = 4
STAGES = {3: (Knob.RESERVING, Knob.CRONS), SHIPPED: (Knob.PICKING,), 6: (Knob.POSTING, Knob.CRONS)}
"""Step that a document reaches next, and what may hold it up before; shipping also labels that fail."""


def worked_off_ms(world: World, what: Truth) -> int:
    """Unix ms; the end of the stretch where it goes on beyond it."""
    times = world.span.times_ms
    if not times[0] <= what.end_ms < times[-1]:
        return what.end_ms
    ends = [what.end_ms]
    for tenant in world.tenants:
        ends += [_empty_ms(world, one.waiting, what.end_ms) for one in tenant.jobs.values()]
        ends += _gone_on_ms(world.drivers, tenant, what)
    return int(min(max(ends), times[-1]))


def _empty_ms(world: World, waiting: np.ndarray[tuple[int], np.dtype[np.float64]], end_ms: int) -> int:
    """When a queue that was not empty at the end is so for the first time."""
    times = world.span.times_ms
    last = int(np.searchsorted(times, end_ms, side="right")) - 1
    empty = np.flatnonzero(waiting[last:] < EMPTY)
    return int(times[last + empty[0]]) if empty.size else int(times[-1])


def _gone_on_ms(drivers: Drivers, tenant: Tenant, what: Truth) -> Iterable[int]:
    during = (drivers.span.times_ms > what.onset_ms) & (drivers.span.times_ms <= what.end_ms)
    reached = tenant.documents.reached
    for place, knobs in STAGES.items():
        at_ease = all((drivers.factor(knob, tenant.character.name)[during] >= 1).all() for knob in knobs)
        if at_ease and not (place == SHIPPED and tenant.labels.failing[during].any()):
            continue
        stood = (reached[:, place - 1] <= what.end_ms) & (reached[:, place] > what.end_ms)
        if stood.any():
            yield int(np.quantile(reached[stood, place], MOST, method="higher"))
