"""What else is the matter: trouble of another origin that explains what a change seems to have done.

A slow Redis, a held lock or one tenant's load reaches whoever needs what is ill, whether the change came to them or not.
What it reaches speaks neither for nor against the change, as long as it lasts and until what it has piled up may be worked
off, which takes about as long as the piling up. Source: alternative explanations as in Cook & Campbell (1979),
Quasi-Experimentation ("history" as a threat to validity).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from processors.steps.correlator.tables import EXCUSES, Reach, Urgency, kind_of, known
from processors.steps.correlator.topology import Topology
from processors.steps.outcomes import Slot
from schemas import bounds
from schemas.estate import Cell
from schemas.records import Change, Phase, Signal

RIVALS_MAX = 100
AFTERMATH_MS = 1_800_000
NOTICE_MS = 1_200_000


class Rival(BaseModel):
    """Trouble as its detector tells it. `tenants` are those that it can reach in their order, None for everybody."""

    cause: str
    resource: str
    by: str | None
    tenants: tuple[str, ...] | None
    started_ms: int
    ended_ms: int | None = None

    def counts(self, at_ms: int) -> bool:
        """Whether it lasts, or its aftermath does."""
        if self.ended_ms is None:
            return True
        return at_ms < self.ended_ms + min(self.ended_ms - self.started_ms, AFTERMATH_MS)

    def may_precede(self, at_ms: int) -> bool:
        """Whether it may have begun before an instant; symptoms, as of a slow disk, are noticed late."""
        is_noticed_late = known(kind_of(self.cause)).urgency is Urgency.SYMPTOM
        return self.started_ms <= at_ms + (NOTICE_MS if is_noticed_late else 0)

    def excuses(self, change: Change) -> bool:
        """Whether it is another's doing. Trouble of the only tenant that got a change, or of what was changed, may be the change's."""
        if self.resource == change.service:
            return False
        return self.by is None or change.tenants != (self.by,)


class Rivals(BaseModel):
    """Trouble that goes on or is not worked off yet, by signal."""

    open: dict[str, Rival] = {}

    def take(self, signal: Signal, cell: Cell | None, at_ms: int) -> None:
        """Take in what is told of other trouble."""
        self.open = {name: one for name, one in self.open.items() if one.counts(at_ms)}
        rival = self.open.get(signal.id)
        if signal.phase is Phase.RESOLVED:
            if rival and rival.ended_ms is None:
                self.open[signal.id] = rival.model_copy(update={"ended_ms": at_ms})
        elif rival is None and (rival := _rival_of(signal, cell)):
            self.open[signal.id] = rival
            if len(self.open) > RIVALS_MAX:
                bounds.reached("changes.rivals")
                del self.open[min(self.open, key=lambda name: (self.open[name].started_ms, name))]

    def against(self, change: Change, at_ms: int) -> list[Rival]:
        """What else may explain what is seen now."""
        return [one for _, one in sorted(self.open.items()) if one.counts(at_ms) and one.excuses(change)]


def _rival_of(signal: Signal, cell: Cell | None) -> Rival | None:
    """A signal as a rival; None when it is of something that is not shared."""
    name, _, whose = signal.cause.partition(":")
    place = cell.resources_by_name.get(signal.resource) if cell else None
    if name not in EXCUSES or (place is not None and place.tenant is not None):
        return None
    reach, tenants = known(name).reach, None
    by = whose if name in ("postgresql.lock", "tenant.load") else None
    if reach is Reach.TENANT:
        tenants = _sorted({one for one in (by, signal.tenant, *signal.tenants) if one})
    elif cell is not None and (needing := Topology(cell).needing(signal.resource, reach)):
        tenants = _sorted(needing.tenants)
    return Rival(cause=signal.cause, resource=signal.resource, by=by, tenants=tenants, started_ms=signal.started_ms)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    # The order of a set differs from process to process, and a state's bytes must not.
    return tuple(sorted(names))


def reached(rivals: Iterable[Rival], slots: Sequence[Slot]) -> NDArray[np.bool_]:
    """Slots of whom rivals reach; what nobody has alone is reached by any."""
    found = np.zeros(len(slots), bool)
    for rival in rivals:
        # Said with its type: of no slots at all numpy makes numbers, which are no flags.
        found |= np.array(
            [slot.tenant is None or rival.tenants is None or slot.tenant in rival.tenants for slot in slots], bool
        )
    return found
