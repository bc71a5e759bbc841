"""One partition on its way through the core: feed, send what was found, snapshot, acknowledge.

The recovery protocol: nothing is acknowledged before a snapshot covers it and everything that was found before that
snapshot stands on its topic. After a kill the records since the last snapshot are read again and give the same
findings under the same ids. It knows neither Faust nor Kafka: a `Bus` sends, `acknowledge` acknowledges.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from processors.fold import Failure, Finding, PartitionFold
from processors.lineage import Entry, Writer
from processors.order import Place
from schemas.codec import (
    Envelope,
    Reason,
    Received,
    Rejected,
    Wire,
    dead_letter,
    decode,
    encode,
    encode_dead_letter,
    encode_heartbeat,
)
from schemas.masking import masked
from schemas.records import Heartbeat, Incident
from schemas.topics import BY_MODEL, DEAD_LETTERS, FLEET, topic_of

log = logging.getLogger(__name__)

BEAT_EVERY_MS = 1_000
LETTER_BYTES = 512 * 1024  # of a payload that fit into a dead letter, whatever it compresses to
FINDING_BYTES = 900_000  # of a finding, which must fit into a broker's default of 1 MiB
REPR_MAX = 100_000  # characters of what cannot be written down
TRACEBACKS_MAX = 10  # of each step of a partition that are logged in full; from then on one in a hundred


class Bus(Protocol):
    """Where findings, dead letters and snapshots go. Sending gives a future that is done when all replicas have it."""

    async def send(self, topic: str, partition: int | None, wire: Wire) -> asyncio.Future[object]:
        """Send a record; `partition` None lets the key decide."""

    async def send_state(self, partition: int, entry: Entry) -> asyncio.Future[object]:
        """Send a record of the state topic."""


class Message(NamedTuple):
    """One Kafka message of an input topic."""

    topic: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes]]
    timestamp_ms: int


class Gap(Exception):  # noqa: N818 (it is a place in the log, not a mistake of ours)
    """Offsets of our topics have no holes; a hole means that records were skipped or have expired."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When a snapshot is due: the oldest unacknowledged record is this old (s), or so many wait."""

    snapshot_after_s: float = 5.0
    snapshot_after_records: int = 20_000
    send_timeout_s: float = 30.0


class Turn:
    """One task's turn in the event loop: when it has lasted `length_s`, others run before it goes on."""

    def __init__(self, clock: Callable[[], float], length_s: float = 0.005) -> None:
        self._clock, self._length_s = clock, length_s
        self._since_s = clock()

    async def give_way(self) -> None:
        """Called between two pieces of work, each of which is short."""
        if self._clock() - self._since_s >= self._length_s:
            await asyncio.sleep(0)
            self._since_s = self._clock()


class Runner:
    """Runs one partition. `on_message` is called for one message after the other.

    `acknowledge(topic, below)` says that every offset before `below` is done for good. `wall_ms` is when a heartbeat to the fleet is
    sent, Unix ms; without it, the log time that it tells.
    """

    def __init__(
        self,
        partition: int,
        fold: PartitionFold,
        writer: Writer,
        bus: Bus,
        acknowledge: Callable[[int, int], object],
        clock: Callable[[], float],
        pace: Pace | None = None,
        turn: Turn | None = None,
        wall_ms: Callable[[], int] | None = None,
    ) -> None:
        self._wall_ms = wall_ms
        self.partition, self.fold, self.processed = partition, fold, 0
        self._writer, self._bus, self._acknowledge = writer, bus, acknowledge
        self._clock, self._pace = clock, pace or Pace()
        self._expected = dict(enumerate(one.next_offset for one in fold.order.clocks))
        self._inputs = fold.plan.inputs
        self._started = [False] * len(self._inputs)
        self._beaten = (0, -BEAT_EVERY_MS)
        self._waiting, self._since_s = 0, 0.0
        self._sent: list[asyncio.Future[object]] = []
        self._flush: asyncio.Task[None] | None = None
        self._alone, self._turn = asyncio.Lock(), turn or Turn(clock)
        self._is_abandoned = False
        self._logged: Counter[str] = Counter()
        self._doubted: dict[str, bool] = {}
        self._turned = 0

    def next_offset(self, topic: int) -> int | None:
        """The offset that comes next; None before the first message of a topic."""
        return self._expected.get(topic)

    async def on_message(self, message: Message) -> None:
        """Fold one message and send what it makes certain."""
        async with self._alone:
            if self.fold.failures:
                await self._bury()  # of the snapshot that it was restored from
            self._guard(message.topic, message.offset)
            decoded = decode(message.headers, message.value, message.timestamp_ms)
            if isinstance(decoded, Rejected):
                await self._reject(message, decoded)
            elif isinstance(decoded, Received) and decoded.refused:
                await self._reject(message, decoded.refused)
            readable = None if isinstance(decoded, Rejected) else decoded
            self._remember()
            for found in self.fold.pieces(message.topic, message.offset, readable, message.timestamp_ms):
                for finding in found:
                    await self._tell(finding)
                await self._turn.give_way()
            self._say_clocks(message.topic)
            if self.fold.plan.tells_fleet:
                await self._beat()
            if self.fold.failures or self.fold.refused:
                await self._bury()
            if self._due():
                await self.flush()

    async def finish(self) -> None:
        """Snapshot what is folded, once the message in hand is told in full, and wait until it stands."""
        async with self._alone:
            await self.flush()
        await self.settle()

    async def flush(self) -> None:
        """Begin a snapshot of what is folded now; waits for the one before it. Raises when that one failed."""
        await self.settle()
        self._since_s, self._waiting = self._clock(), 0
        floor, sent = self.fold.order.floor(), self._sent
        folded = self.fold.order.folded()
        self._sent = []
        parts: dict[tuple[str, ...], bytes] = {}
        for name, data in self.fold.parts():
            parts[name] = data
            await self._turn.give_way()
        if self._is_abandoned:
            return
        self._flush = asyncio.create_task(self._write(floor, parts, folded, sent))

    async def settle(self) -> None:
        """Wait for the snapshot in flight; raises when it failed."""
        flush, self._flush = self._flush, None
        if flush:
            await flush

    def abandon(self) -> None:
        """The partition is someone else's now: stop without acknowledging anything more."""
        self._is_abandoned = True
        if self._flush:
            self._flush.cancel()

    async def _write(
        self,
        floor: list[int],
        parts: dict[tuple[str, ...], bytes],
        folded: tuple[int, ...],
        sent: list[asyncio.Future[object]],
    ) -> None:
        async with asyncio.timeout(self._pace.send_timeout_s):
            await asyncio.gather(*sent)
            await self._put(self._writer.parts(parts))
            await self._put([self._writer.commit(parts, folded)])
            await self._put(self._writer.tombstones())
        for topic, below in enumerate(floor):
            if below:
                self._acknowledge(topic, below)

    async def _put(self, entries: list[Entry]) -> None:
        futures = [await self._bus.send_state(self.partition, entry) for entry in entries]
        if futures:
            await asyncio.gather(*futures)

    def _guard(self, topic: int, offset: int) -> None:
        expected, first = self._expected[topic], not self._started[topic]
        self._started[topic] = True
        self._expected[topic] = offset + 1
        # The first message after a restore may be one that the snapshot knows already, never one beyond it.
        if expected is not None and (offset > expected or (offset < expected and not first)):
            raise Gap(
                f"{self._inputs[topic].name}/{self.partition}: read offset {offset} where {expected} was expected"
            )

    def _remember(self) -> None:
        if not self._waiting:
            self._since_s = self._clock()
        self._waiting += 1
        self.processed += 1

    def _due(self) -> bool:
        return self._waiting >= self._pace.snapshot_after_records or (
            self._waiting > 0 and self._clock() - self._since_s >= self._pace.snapshot_after_s
        )

    def _say_clocks(self, topic: int) -> None:
        """Into the log, once for each publisher and as it changes: whose clock is not believed, and what came of one that was."""
        clock = self.fold.order.clocks[topic]
        if clock.doubts or self._doubted:
            now = {name: one.is_refused for name, one in clock.doubts.items()}
            for name, is_refused in now.items():
                if topic == self.fold.plan.listens[0] and self._doubted.get(name) is not is_refused:
                    said = "is refused" if is_refused else "is in doubt"
                    off_s = (clock.doubts[name].said_ms - clock.said_ms) / 1000
                    log.warning("the clock of a publisher %s", said, extra={"publisher": name, "off_s": off_s})
            if topic == self.fold.plan.listens[0]:
                self._doubted = now
        if self.fold.counts["turned_back"] != self._turned:
            self._turned = self.fold.counts["turned_back"]
            log.error(
                "time turns back: a clock that was believed was wrong, and what was learned since its leap is given up",
                extra={"partition": self.partition, "now_ms": self.fold.order.horizon_ms},
            )

    async def _tell(self, finding: Finding) -> None:
        try:
            topic = topic_of(finding.record).name
            wire = encode(finding.record, finding.envelope)
            if len(wire.value) > FINDING_BYTES:
                raise ValueError(f"{len(wire.value)} bytes; a message of Kafka has at most {FINDING_BYTES}")
        except Exception as error:  # noqa: BLE001 (what cannot be written down must not stop what can)
            self.fold.counts["failed"] += 1
            self.fold.counts["failed_encode"] += 1
            record, at_ms = finding.record, finding.envelope.recorded_ms
            self.fold.failures.append(Failure(at_ms, record.cell, "encode", "", "a finding", error, False, record))
            return
        self._sent.append(await self._bus.send(topic, self.partition, wire))
        if self.fold.plan.tells_fleet and isinstance(finding.record, Incident):
            await self._tell_fleet(wire)

    async def _beat(self) -> None:
        """Say to the fleet that every incident before the horizon is told."""
        era, at_ms = self.fold.order.horizon
        before_era, before_ms = self._beaten
        if at_ms >= 0 and (era > before_era or at_ms >= before_ms + BEAT_EVERY_MS):
            self._beaten = era, at_ms
            beat = Heartbeat(publisher=f"processors/{self.partition}", time_ms=at_ms)
            # Partitions catch up at different paces; their workers' clocks say the same all the while.
            await self._tell_fleet(encode_heartbeat(beat, self._wall_ms() if self._wall_ms else None))

    async def _tell_fleet(self, wire: Wire) -> None:
        # One key for all: what cells share meets in one partition.
        self._sent.append(await self._bus.send(FLEET.name, None, replace(wire, key=FLEET.key.encode())))

    async def _reject(self, message: Message, rejected: Rejected) -> None:
        self.fold.counts[f"rejected_{rejected.reason}"] += 1
        place = Place(message.timestamp_ms, message.topic, message.offset)
        await self._put_aside(rejected, place, message.key, message.headers)

    async def _bury(self) -> None:
        """What steps raised: into the log with its traceback, and what it was raised on into the dead letters."""
        refused, self.fold.refused = self.fold.refused, []
        for place, received, why in refused:
            wire = encode(received.record, received.envelope)
            detail = f"{why}; the clock of {received.envelope.source} or of its source is wrong, or was put right since"
            await self._put_aside(Rejected(Reason.AHEAD, detail, wire.value), place, wire.key, wire.headers)
        failures, self.fold.failures = self.fold.failures, []
        for failure in failures:
            self._log(failure)
            place = failure.place or Place(failure.at_ms, -1, -1)
            error = f"{type(failure.error).__name__}: {masked(_said(failure.error))}"
            detail = (
                f"step {failure.step} raised {error}; on {failure.what} of cell {failure.cell}, unit {failure.unit!r}"
            )
            if failure.is_afresh:
                detail += "; the unit begins afresh"
            wire = _wire_of(failure)
            rejected = Rejected(Reason.FAILED, detail, wire.value)
            await self._put_aside(rejected, place, wire.key, wire.headers, by=f"processors/{failure.step}")

    def _log(self, failure: Failure) -> None:
        self._logged[failure.step] += 1
        times = self._logged[failure.step]
        fields = {"cell": failure.cell, "step": failure.step, "unit": failure.unit, "on": failure.what, "times": times}
        if times <= TRACEBACKS_MAX or times % 100 == 0:
            log.error("a step failed", extra=fields, exc_info=failure.error)

    async def _put_aside(
        self,
        rejected: Rejected,
        place: Place,
        key: bytes | None,
        headers: Iterable[tuple[str, bytes]],
        by: str = "processors",
    ) -> None:
        if len(rejected.payload) > LETTER_BYTES:
            self.fold.counts["letters_cut"] += 1
            detail = f"{rejected.detail} (the first {LETTER_BYTES} of {len(rejected.payload)} bytes are kept)"
            rejected = Rejected(rejected.reason, detail, rejected.payload[:LETTER_BYTES])
        letter = dead_letter(
            rejected,
            rejected_by=by,
            time_ms=place.at_ms,
            topic=self._inputs[place.topic].name if place.topic >= 0 else "processors",
            partition=self.partition,
            offset=place.offset,
            key=key,
            headers=headers,
        )
        self._sent.append(await self._bus.send(DEAD_LETTERS.name, None, encode_dead_letter(letter)))


def _wire_of(failure: Failure) -> Wire:
    """What the step was given, as a message; of a tick and of what cannot be written down, what it was."""
    record = failure.record
    try:
        if record is not None and type(record) in BY_MODEL:
            return encode(record, failure.envelope or Envelope(f"processors/{failure.cell}", 0, failure.at_ms))
    except Exception:
        log.debug("what a step failed on cannot be written down", exc_info=True)
    said = {
        "cell": failure.cell,
        "step": failure.step,
        "unit": failure.unit,
        "on": failure.what,
        "at_ms": failure.at_ms,
    }
    text = repr(said if record is None else record)[:REPR_MAX]
    return Wire(failure.cell.encode(errors="replace"), text.encode(errors="replace"), [], failure.at_ms)


def _said(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (an exception that cannot be told is told by its type)
        return ""
