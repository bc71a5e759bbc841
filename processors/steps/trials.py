"""A change on trial: what was before it, what came after, and what has been told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from processors import columns
from processors.steps.contrast import Since
from processors.steps.ledger import Ledger, Look, Past
from schemas.records import Change, Signal


class Head(BaseModel):
    """A trial, but for its columns."""

    change: Change
    started_ms: int
    since_ms: int
    due_ms: int
    is_warm: bool = Field(default=False, description="Whether the time of cold caches is over.")
    suspected_ms: int = Field(
        default=0, description="When a slowness that all share was first seen, log time; 0: never."
    )
    guilty_ms: int = Field(default=0, description="When it was found guilty, log time; 0: it was not.")
    stage: Literal["change", "mended"] = "change"
    mended_by: str = ""
    told: Signal | None = None
    guilty: list[int] = Field(default_factory=list, description="Slots that regressed.")
    harm: dict[str, float] = Field(default_factory=dict, description="By pool: a log ratio, of counts events a second.")


@dataclass
class Trial:
    """A change, what was before it and what came after: since the last answer, and since it was last seen to be bad."""

    head: Head
    past: Past
    since: Since
    lately: Since

    def grow(self, width: int) -> None:
        """Series that came later have no past."""
        more = width - self.past.mean.size
        if more > 0:
            self.past = Past(*(columns.wider(one, more) for one in self.past))
            self.since, self.lately = self.since.grown(more), self.lately.grown(more)

    def keep(self, stays: NDArray[np.bool_]) -> None:
        """Let go of the other slots."""
        self.grow(stays.size)
        slots = (np.cumsum(stays) - 1).tolist()
        self.past = Past(*(one[stays] for one in self.past))
        self.since, self.lately = self.since.kept(stays), self.lately.kept(stays)
        self.head.guilty = [slots[slot] for slot in self.head.guilty if stays[slot]]

    def add(self, ledger: Ledger, look: Look) -> None:
        """Count what lies wholly after the change and after the restart that it brings."""
        self.grow(len(ledger.slots))
        from_ms = self.head.since_ms + ledger.settle_ms[look.slots]
        begun = np.where(ledger.is_count[look.slots], look.since_ms, ledger.arrays["last_ms"][look.slots])
        late = begun >= from_ms
        slots = look.slots[late]
        for since in (self.since, self.lately):
            since.amount[slots] += look.amounts[late]
            since.weight[slots] += look.weights[late]
            since.hits[slots] += (look.amounts[late] > 0) | ~ledger.is_count[slots]

    def anew(self, at_ms: int) -> None:
        """What came so far has been answered."""
        self.head.since_ms = at_ms
        width = self.past.mean.size
        self.since, self.lately = Since.none(width), Since.none(width)

    def pack(self) -> bytes:
        """As bytes."""
        past = {f"past.{name}": column for name, column in self.past._asdict().items()}
        lately = {f"lately.{name}": column for name, column in vars(self.lately).items()}
        return columns.pack({**past, **vars(self.since), **lately}, self.head.model_dump(mode="json"))

    @classmethod
    def unpack(cls, data: bytes) -> Trial:
        """What `pack` gave."""
        arrays, head = columns.unpack(data)
        past = Past(*(arrays[f"past.{name}"] for name in Past._fields))
        since = Since(arrays["amount"], arrays["weight"], arrays["hits"])
        lately = Since(*(arrays.get(f"lately.{name}", np.zeros(past.mean.size)) for name in vars(since)))
        return cls(Head.model_validate(head), past, since, lately)


def follows(before: Change, after: Change) -> bool:
    """Whether a change takes the place of another, for some of its tenants at least."""
    same = before.service == after.service and before.kind == after.kind and before.change_id != after.change_id
    return same and (not before.tenants or not after.tenants or bool(set(before.tenants) & set(after.tenants)))


def returns(before: Change, after: Change) -> bool:
    """Whether a change goes back to where another came from."""
    return (
        follows(before, after) and before.previous_revision is not None and after.revision == before.previous_revision
    )


def takes_back(before: Change, after: Change) -> bool:
    """Whether a roll-back, told under an id of its own, means a change: by the revision it leaves or the one it goes to."""
    return follows(before, after) and before.revision in (after.revision, after.previous_revision)


def imagine(ledger: Ledger, past: Past, after_s: float) -> Since:
    """The time after, if all goes on as before."""
    per_batch = past.weight / np.maximum(past.batches, 1.0)
    time_s = np.maximum(after_s - ledger.settle_ms / 1000, 0.0)
    weight = np.where(ledger.is_count, time_s, time_s / 60 * per_batch) * (past.batches > 0)
    return Since(past.mean * weight, weight, weight)
