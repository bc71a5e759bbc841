"""Where a sink failed by a fault of its own, remembered from one start of it to the next."""

from __future__ import annotations

from dataclasses import dataclass

from sinks.sink import Batch

Place = tuple[str, int, int]

TRIES = 3
"""So often a sink is begun anew at one place before the record there is given up: it may have been its system."""


@dataclass(slots=True)
class Stumbles:
    """Counts failures at one place, and records given up in a row."""

    place: Place | None = None
    tries: int = 0
    is_searching: bool = False
    """Whether the failing record of a batch is being looked for."""
    given_up: int = 0

    def is_hopeless(self, part: Batch, broken_max: int) -> bool:
        """Note a failure; whether the record that is at fault is to be found and given up.

        Not once `broken_max` were given up in a row: then it is not the records.
        """
        if self.given_up >= broken_max:
            return False
        if self.is_searching:
            return True
        place = _place(part)
        self.tries = self.tries + 1 if place == self.place else 1
        self.place = place
        self.is_searching = self.tries > TRIES
        return self.is_searching

    def gave_up(self) -> None:
        """A record went to the dead letters for no fault of its own that we know."""
        self.given_up += 1
        self.place, self.tries, self.is_searching = None, 0, False

    def went_well(self) -> None:
        """Something was written."""
        self.given_up = 0

    def passed(self) -> None:
        """All of a batch is behind us."""
        self.place, self.tries, self.is_searching = None, 0, False


def _place(part: Batch) -> Place | None:
    if part.messages:
        first = part.messages[0]
        return first.topic, first.partition, first.offset
    return None
