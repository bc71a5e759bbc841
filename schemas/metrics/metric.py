"""What the catalogue says of a metric."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How the values of a metric relate to each other."""

    GAUGE = "gauge"
    SUM = "sum"
    """Cumulative and monotone since the scrape's `start_time_ms`; a fall is a reset. Steps look at its rate a second."""


class Departure(StrEnum):
    """Which departures from the usual are bad."""

    NONE = "none"
    UP = "up"
    DOWN = "down"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric by name.

    `title` is what people call it, such that "TITLE of acme at 12" and, of a sum, "no TITLE of acme" can be read aloud.
    `unit` is UCUM, as OpenTelemetry wants it (s, By, {order}); of a sum it is the unit of the total. `cause` is the
    kind of cause that an abnormal value speaks for (KIND of KIND:RESOURCE); `floor` is the smallest departure, in the
    metric's unit (of a sum: a second), that can matter to anybody, however unusual it is. `limit` is what a gauge can reach at
    most, a number or the gauge of the same attributes that tells it: a rise matters once it has taken as much as is left.
    What `waits_for_people` may grow while no shift is open.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    title: str = ""
    bad: Departure = Departure.NONE
    cause: str | None = None
    floor: float = 0.0
    limit: str | float | None = None
    waits_for_people: bool = False

    @property
    def observed_unit(self) -> str:
        """Unit of what is looked at: of a sum its rate, a second."""
        return f"{self.unit}/s" if self.kind is Kind.SUM else self.unit

    @property
    def called(self) -> str:
        """What people call it, its name where nobody has said so."""
        return self.title or self.name


def spoken(ucum: str) -> str:
    """A unit as people say it: without the braces of UCUM's annotations, and nothing for a plain number."""
    return "" if ucum == "1" else ucum.replace("{", "").replace("}", "")
