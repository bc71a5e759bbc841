"""What is wrong in a simulated estate, and when: the labels.

A run has one happening or none. What must be found has a cause, which may go by several names where two resources are one
thing (a disk and the database on it), the tenants that suffer, and its time. What must not be found says why.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Truth(BaseModel):
    """One happening."""

    model_config = ConfigDict(frozen=True)

    kind: str = Field(description="What happened, as the family names it.")
    expected: bool = Field(False, description="True: nothing is to be told of it.")
    causes: tuple[str, ...] = Field((), description="KIND:RESOURCE; any of them is right. Empty when silence is right.")
    tenants: tuple[str, ...] = Field((), description="Tenants that suffer.")
    bystanders: tuple[str, ...] = Field(
        (), description="Tenants of whom it would not be wrong to say that they suffer, too."
    )
    onset_ms: int = Field(description="When it begins to have an effect, Unix ms.")
    end_ms: int = Field(description="When it is over; of what fills up, when it is full. Unix ms.")
    strength: float = Field(1.0, description="How strong, in the words of its kind.")
    ramp_ms: int = Field(0, description="Time over which it grows to its strength, ms.")


class Label(BaseModel):
    """Everything that is known beforehand of a run."""

    model_config = ConfigDict(frozen=True)

    family: str
    run: int
    seed: int
    cell: str
    from_ms: int = Field(description="Begin of the stretch that is judged, Unix ms.")
    to_ms: int = Field(description="Its end.")
    truth: tuple[Truth, ...] = ()
    worked_off_ms: int | None = Field(
        None, description="When what the happening left behind was worked off, too; the stretch's end where it was not."
    )

    def line(self) -> dict[str, Any]:
        """For a file of JSON lines."""
        return {"label": self.model_dump(mode="json")}
