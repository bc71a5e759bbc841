"""What a contrast proves of a change: what is worse and by how much, what is still missing, and whether it is over.

Rows are those of the contrast. The harm of a pool is remembered from the verdict on, and what is left is measured by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from processors.steps.contrast import Contrast
from processors.steps.ledger import Ledger
from schemas.records import Severity

LIKELY_FINE = math.log(1.25)  # what is left of a level, when at best guess it no longer matters
AGAIN_HITS = 2  # looks that are still bad before what is lately so is asked anew

Rows = NDArray[np.intp]
Harm = dict[str, float]
"""By pool: a log ratio, of counts events a second."""


def worse(seen: Contrast, alpha: float, *, cold: bool = False) -> Rows:
    """Rows that are worse, most evident first. The mean of e-values decides, so each row answers for all of them.

    `cold`: caches are; of levels only what has doubled counts.
    """
    threshold = math.log(seen.questions / alpha)
    large = seen.is_count | (seen.shift >= math.log(2.0)) if cold else True
    rows = np.flatnonzero(seen.worse & (seen.log_e >= threshold) & large)
    return rows[np.argsort(-seen.log_e[rows], kind="stable")]


def may_be_shared(seen: Contrast, rows: Rows) -> bool:
    """Whether it is slowness that whatever all share may have brought about, as far as nobody stands beside."""
    return not seen.controls and all(seen.group[row] == "latency" for row in rows)


def slots_behind(ledger: Ledger, seen: Contrast, rows: Rows) -> list[int]:
    """Slots that the rows speak of; where they speak only of pools as a whole, the members of these."""
    own = [int(seen.slot[row]) for row in rows if seen.slot[row] >= 0]
    names = {seen.pool[row] for row in rows}
    return own or [int(slot) for slot in seen.slot if slot >= 0 and ledger.slots[slot].pool in names]


def harm_of(seen: Contrast, rows: Rows, before: Harm) -> Harm:
    """What the rows show to be lost, or was `before`: the most of each pool."""
    excess = np.where(seen.is_count, (seen.observed - seen.expected) * seen.sign, seen.shift)
    harm = dict(before)
    for row in rows:
        harm[seen.pool[row]] = max(harm.get(seen.pool[row], 0.0), float(excess[row]))
    return harm


def still_bad(seen: Contrast, harm: Harm) -> Rows:
    """Slots of levels at which more than half of the harm is seen."""
    half = 0.5 * _by_row(seen, harm)
    bad = (seen.slot >= 0) & ~seen.is_count & (seen.weight >= AGAIN_HITS) & (seen.shift > half)
    return seen.slot[bad]


def is_over(seen: Contrast, harm: Harm) -> bool:
    """Whether nothing that matters is left, nine tenths of the harm are gone, or surely half and likely all that matters."""
    done = _by_row(seen, harm)
    events = np.where(seen.is_count, seen.observed * seen.weight, 0.0)
    most = (events + 3.0 + 2.0 * np.sqrt(events)) / np.maximum(seen.weight, 1e-9)
    rare = seen.is_count & (seen.sign > 0) & (most <= seen.expected + 0.1 * done)
    likely = (seen.shift <= LIKELY_FINE) & (seen.high <= 0.5 * done)
    gone = seen.fine | (~seen.is_count & ((seen.high <= 0.1 * done) | likely)) | rare
    pooled = seen.slot < 0
    return bool(gone[pooled].all() and not (seen.worse & (seen.log_e > 0))[~pooled].any())


def missing(seen: Contrast, groups: Iterable[str], margin: float) -> list[str]:
    """Of the groups that were there before those that do not say fine; what looks bad is missing to its proof too.

    No level vouches for another: that a probe is quick says nothing of the few requests of people.
    """
    pooled = seen.slot < 0
    doubtful = (seen.shift >= math.log1p(margin)) & (pooled | (seen.log_e > 0)) | (pooled & ~seen.is_count)
    good = {seen.group[row] for row in np.flatnonzero(pooled & seen.fine)}
    bad = {seen.group[row] for row in np.flatnonzero(doubtful & ~seen.fine)}
    return [group for group in groups if group not in good or group in bad]


def severity(seen: Contrast | None, rows: Rows) -> Severity:
    """Critical is what stops work, or makes it three times as bad."""
    stops = seen is not None and any(
        seen.group[row] in ("jobs", "flow") or seen.shift[row] >= math.log(3.0) for row in rows
    )
    return Severity.CRITICAL if stops else Severity.WARNING


def certainty(seen: Contrast | None, rows: Rows) -> float:
    """Of the most evident row, from 0 to almost 1; 0 without any."""
    if seen is None or not rows.size:
        return 0.0
    return float(min(0.9999, max(0.0, 1.0 - math.exp(-max(seen.log_e[rows].max(), 0.0)))))


def _by_row(seen: Contrast, harm: Harm) -> NDArray[np.float64]:
    return np.array([harm.get(pool, 0.0) for pool in seen.pool], np.float64)
