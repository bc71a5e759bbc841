"""What the collector carries from one look to the next. It is the position, stored together with the records, so that a
kill neither loses a change nor tells it twice, and counters go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from schemas.bounds import reached

MAX_SETTLED = 10_000  # documents of a type whose last state is remembered for good
MAX_WINDOW = 20_000  # documents of a type written within the overlap
MAX_LOOKS = 400  # of those at which some transaction had been given an id since the one before


class Known(NamedTuple):
    """The state in which a document was told last, and its write_date in us when that was read."""

    state: str
    written_us: int


class Cron(NamedTuple):
    """A scheduled action at the last look."""

    active: bool
    last_ms: int | None
    failures: int
    progress: int = 0
    """Id of the last run that was read in its progress (18, 19)."""


class Jobs(BaseModel):
    """Of the job queue: done jobs are counted from `floor_us` on in every look, the earlier ones stand in `base` by
    channel; `failed` is when each failed job was begun, by id."""

    model_config = ConfigDict(extra="forbid")

    floor_us: int
    base: dict[str, int] = {}
    failed: dict[int, int] = {}


class Packed(BaseModel):
    """Documents as they are stored, in the order in which they were told: id, number of the state, us above the floor
    from 1 on or 0."""

    model_config = ConfigDict(extra="forbid")

    floor_us: int
    floor_id: int
    states: list[str]
    known: list[int]


class Memory(BaseModel):
    """Everything that is stored. A part is None until its group was looked at for the first time.

    `counters` by group and series identity count since `since_ms`. What is put in is checked, so that it can be stored.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    since_ms: int
    counters: dict[str, dict[str, float]] = {}
    crons: dict[int, Cron] | None = None
    jobs: Jobs | None = None
    mails_failed: int | None = None
    modules_changing: list[str] | None = None
    documents: dict[str, Packed] = {}
    looks: list[tuple[int, int]] = []
    """When we looked, Unix ms of the server, and the id that the next transaction would have got."""

    def began_ms(self, oldest: int, following: int, server_ms: int) -> int | None:
        """A time before which the oldest transaction in progress had written nothing; None when none is in progress.

        Its id was given after each look at which a lower one, or its own, was still to come. Remembers this look.
        """
        earlier = [
            (at_ms, next_) for at_ms, next_ in self.looks if next_ <= following
        ]  # ids fall in a restored database
        before = [at_ms for at_ms, next_ in earlier if next_ <= oldest]
        began_ms = max(before) if before else min((at_ms for at_ms, _ in earlier), default=server_ms)
        if not earlier or earlier[-1][1] < following:
            earlier = [*earlier, (server_ms, following)]
        # Of many looks every second one is enough: an earlier one is as true.
        self.looks = earlier if len(earlier) <= MAX_LOOKS else earlier[::2]
        return None if oldest >= following else began_ms


@dataclass(slots=True)
class Documents:
    """Documents of one type: rows up to the floor (write_date and id) are never read again.

    Above the floor lies the overlap: write_date is when the transaction began, so a row may appear below one that was
    read before. Rows there are read at every look and left out when their state is the one that was told.
    """

    floor_us: int
    floor_id: int
    known: dict[int, Known]

    @classmethod
    def unpack(cls, packed: Packed) -> Self:
        """From what was stored."""
        numbers = iter(packed.known)
        known = {
            number: Known(packed.states[state], packed.floor_us + above - 1 if above else 0)
            for number, state, above in zip(numbers, numbers, numbers, strict=True)
        }
        return cls(packed.floor_us, packed.floor_id, known)

    def pack(self) -> Packed:
        """As it is stored."""
        states = sorted({one.state for one in self.known.values()})
        code = {state: index for index, state in enumerate(states)}
        known = [
            number
            for identifier, one in self.known.items()
            for number in (identifier, code[one.state], self._above(identifier, one))
        ]
        return Packed(floor_us=self.floor_us, floor_id=self.floor_id, states=states, known=known)

    @property
    def window(self) -> dict[int, Known]:
        """Those that a look would read again."""
        return {number: one for number, one in self.known.items() if self._above(number, one)}

    def learn(self, identifier: int, known: Known) -> bool:
        """Remember the state; whether it is news."""
        before = self.known.pop(identifier, None)
        self.known[identifier] = known
        return before is None or before.state != known.state

    def settle(self, floor_us: int) -> None:
        """Raise the floor, and forget beyond the bounds those that were told longest ago."""
        if floor_us > self.floor_us:
            self.floor_us, self.floor_id = floor_us, 0
        window = sorted((one.written_us, number) for number, one in self.window.items())
        if len(window) > MAX_WINDOW:
            # A bulk write beyond all measure: what is sure to be read goes before what might still appear late.
            self.floor_us, self.floor_id = window[-MAX_WINDOW - 1]
            reached("odoo.documents.window")
        settled = [number for number, one in self.known.items() if not self._above(number, one)]
        for number in settled[: max(len(settled) - MAX_SETTLED, 0)]:
            del self.known[number]
            reached("odoo.documents.settled")

    def _above(self, number: int, one: Known) -> int:
        """How far above the floor it was written, us, from 1 on; 0 at or below it."""
        is_above = (one.written_us, number) > (self.floor_us, self.floor_id)
        return one.written_us - self.floor_us + 1 if is_above else 0
