"""Silences: for how long nobody is to be notified of what, who wants it so and why.

A silence travels as an operations event of its cell, so it stands in the log before the incidents it holds for: replay
finds it again, the store and auditors see it. Who says the same id again says it anew, and ends it by an end that is over.
Source: Alertmanager's silences (matchers, startsAt, endsAt, createdBy, comment; alerts exist and are seen, nobody is notified).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.records import Incident, Name, OperationsEvent, Silenced, Text, TimeMs

EVENT = "pilothouse.silence"
LONGEST_MS = 90 * 86_400_000
"""A silence is cut there, whoever says it and wherever it is read: nobody is to be forgotten for good."""


class Silence(BaseModel):
    """What one person has silenced in one cell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    cause: Name | None = Field(None, description="KIND:RESOURCE or KIND of the first cause; null for any.")
    tenant: Name | None = Field(None, description="The tenant that alone suffers; null for any.")
    from_ms: TimeMs
    until_ms: TimeMs
    author: Name
    reason: Text = Field(min_length=1)

    @model_validator(mode="after")
    def _says_what(self) -> Silence:
        if self.cause is None and self.tenant is None:
            raise ValueError("a silence names a cause or a tenant; of a whole cell nobody would be told anything")
        return self

    @classmethod
    def of(cls, event: OperationsEvent) -> Silence | None:
        """The silence that an event tells of; None when it tells of none, or not of a whole one."""
        if event.name != EVENT:
            return None
        said: dict[str, Any] = {name.removeprefix(f"{EVENT}."): value for name, value in event.attributes.items()}
        try:
            one = cls(**said, tenant=event.tenant, from_ms=event.time_ms, reason=event.body)
            return one.bounded(event.time_ms)
        except (ValidationError, TypeError):
            return None

    def bounded(self, at_ms: int) -> Silence:
        """The silence as it holds for who hears of it at `at_ms`: from then at the latest, and no longer than the cap."""
        from_ms = min(self.from_ms, at_ms)
        until_ms = min(self.until_ms, from_ms + LONGEST_MS)
        if (from_ms, until_ms) == (self.from_ms, self.until_ms):
            return self
        return self.model_copy(update={"from_ms": from_ms, "until_ms": until_ms})

    def event(self, cell: str, time_ms: int) -> OperationsEvent:
        """The event that tells of it from `time_ms` on."""
        said = self.model_dump(include={"id", "cause", "until_ms", "author"}, exclude_none=True)
        return OperationsEvent(
            cell=cell,
            time_ms=time_ms,
            resource=cell,
            system="pilothouse",
            tenant=self.tenant,
            name=EVENT,
            body=self.reason,
            attributes={f"{EVENT}.{name}": value for name, value in said.items()},
        )

    def matches(self, incident: Incident) -> bool:
        """Whether it is about the incident's first cause, and about all who suffer from it."""
        first = incident.causes[0].cause
        is_meant = self.cause is None or self.cause in (first, first.partition(":")[0])
        return is_meant and (self.tenant is None or set(incident.tenants) == {self.tenant})

    def mark(self) -> Silenced:
        """What an incident says of it."""
        return Silenced(silence=self.id, author=self.author, reason=self.reason, until_ms=self.until_ms)
