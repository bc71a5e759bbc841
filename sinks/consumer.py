"""The loop every sink shares: read topics, hand over batches, commit only what the sink has written.

A sink (see `sink`) says where it stands (`open`), and writes (`write`). The loop does the rest: group membership, batches
of what is new (`intake`), dead letters (`letters`), back-off while the sink's system is away, offsets.

Delivery is at least once: a batch whose commit did not arrive comes again. A sink that keeps offsets beside its rows
returns them from `open`, which makes it exactly once: its offsets lead, the group's only show the lag.

Three rules keep records from being lost or doubled:

1. Where reading goes on is said by `open` alone, for every partition, after each change of the group. What was fetched
   in between counts for nothing; it is fetched again.
2. An offset belongs to one topic. After a batch was fetched and before it is written, the topics must still be those that
   the sink was opened for; a topic made anew is read from its beginning.
3. A batch that holds a record that cannot be written is halved until that record is found. Each part is written, and moves
   the offsets, by itself; what is left of it waits while the sink's system is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, KafkaTimeoutError

from schemas.codec import Reason, Rejected
from schemas.masking import masked
from sinks.intake import Intake
from sinks.kafka_clients import Broker, broker_of, ended
from sinks.letters import Letters
from sinks.membership import Membership
from sinks.places import Start, is_of, start
from sinks.sink import (
    Assignment,
    Batch,
    Config,
    Counts,
    Message,
    OutOfStep,
    Sequences,
    Sink,
    SinkUnavailable,
    Unwritable,
)
from sinks.splitting import emptied, halves, size
from sinks.stumbles import Stumbles
from sinks.topic_ids import UNKNOWN

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

SLICE = 100
"""Records that are taken from the fetched ones at a time, so that a batch ends near its bound of bytes."""


async def run_sink(
    sink: Sink,
    kafka: Mapping[str, Any] | Broker,
    stop: asyncio.Event,
    config: Config | None = None,
    counts: Counts | None = None,
    stumbles: Stumbles | None = None,
) -> None:
    """Feed the sink until `stop` is set; the write under way is finished and committed first, within a bound.

    `kafka` are the keyword arguments that every aiokafka client takes. A broker that is away is waited for. `stumbles`
    remember from run to run where the sink failed. Raises what `write` raises, SinkUnavailable, OutOfStep and Unwritable
    aside.
    """
    config = config or Config()
    broker = broker_of(kafka, config.request_timeout_s)
    worker = _Worker(sink, broker, stop, config, counts or Counts(), stumbles or Stumbles())
    try:
        await worker.run()
    finally:
        await _closed(sink, config.stop_timeout_s)


async def _closed(sink: Sink, timeout_s: float) -> None:
    """Close the sink; one that hangs or fails at it is left, as what ended it is worth more than how."""
    try:
        async with asyncio.timeout(timeout_s):
            await sink.close()
    except Exception as error:  # noqa: BLE001 (whatever closing raises, what was written is committed)
        log.warning("a sink does not close", extra={"sink": sink.name, "reason": masked(repr(error))})


class _Worker:
    def __init__(
        self, sink: Sink, broker: Broker, stop: asyncio.Event, config: Config, counts: Counts, stumbles: Stumbles
    ) -> None:
        self.sink, self.broker, self.stop, self.config, self.counts = sink, broker, stop, config, counts
        self.stumbles = stumbles
        self.letters = Letters(sink.name, broker, config, counts)
        self.sequences: Sequences = {}
        self.topic_ids: dict[str, str] = {}
        """As they were seen last, also of topics that are gone."""
        self._away = ""

    async def run(self) -> None:
        """Work until told to stop, and a bounded while longer: what hangs then is left, and comes again uncommitted."""
        working = asyncio.ensure_future(self._until_stopped())
        stopping = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([working], timeout=self.config.stop_timeout_s)
            if working.done():
                working.result()
        finally:
            for one in (working, stopping):
                one.cancel()
            await asyncio.wait([working, stopping])
            await self.letters.close()
            await self.broker.close()

    async def _until_stopped(self) -> None:
        while not self.stop.is_set():
            await self._until_kafka_fails()

    async def _until_kafka_fails(self) -> None:
        try:
            await self._read()
        except (KafkaError, _StalledError, TimeoutError) as error:
            self.counts.reconnects += 1
            self.note_away(f"Kafka: {error!r}")
            await self.pause(1.0)

    async def _read(self) -> None:
        membership = Membership(self.config.settle_s, self.counts)
        prefix = self.config.topic_prefix
        group = self.config.group or f"{prefix}pilothouse-sink-{self.sink.name}"
        consumer = self.broker.member(self.config, group)
        consumer.subscribe([prefix + topic for topic in self.sink.topics], listener=membership)
        try:
            await consumer.start()
            await _Reader(self, consumer, membership, group).run()
        finally:
            await ended(consumer.stop(), self.config.request_timeout_s)

    def note_away(self, reason: str) -> None:
        """Log once when something goes away."""
        if not self._away:
            log.warning("sink waits", extra={"sink": self.sink.name, "reason": masked(reason)})
        self._away = reason

    def note_back(self) -> None:
        """Log once when it is back."""
        if self._away:
            log.info("sink goes on", extra={"sink": self.sink.name, "after": masked(self._away)})
        self._away = ""

    async def pause(self, seconds: float, *wakers: asyncio.Event) -> None:
        """Sleep, unless told to stop or woken."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.stop, *wakers)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()


class _StalledError(Exception):
    """There is more to read, but the reader gets nothing."""


class _TopicAnewError(Exception):
    """A topic is not the one any more that the sink was opened for."""


def _place(partition: TopicPartition) -> dict[str, Any]:
    return {"topic": partition.topic, "partition": partition.partition}


class _Reader:
    """One consumer's life, from its start to the first failure of Kafka."""

    def __init__(self, worker: _Worker, consumer: Any, membership: Membership, group: str) -> None:
        self.worker, self.consumer, self.membership, self.group = worker, consumer, membership, group
        self.sink, self.config, self.counts, self.stop = worker.sink, worker.config, worker.counts, worker.stop
        self.opened_epoch = 0
        self.intake = Intake(worker.sequences, worker.letters, worker.config, worker.counts)
        self._cluster_id = ""
        self._topic_ids: Mapping[str, str] = {}
        self._clock = asyncio.get_running_loop().time
        self._committed_at = self._arrived_at = self._looked_at = self._clock()
        self._leads = False  # the sink's own offsets lead; the group's only show the lag
        self._shown_at = float("-inf")
        self._unshown: dict[TopicPartition, int] = {}
        self._writing: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Read and decode one batch while the one before it is written."""
        try:
            while not self.stop.is_set():
                if self._writing and self._writing.done():
                    await self._written()
                if self.opened_epoch != self.membership.epoch:
                    await self._written()
                    if self.membership.is_assigned:
                        await self._open()
                fetched = await self._fetch()
                if self.opened_epoch == self.membership.epoch:
                    await self._take(fetched)
                    await self._look_after_topics()
            await self._written()
        finally:
            if self._writing:
                self._writing.cancel()
                await asyncio.wait([self._writing])

    async def _written(self) -> bool:
        """Wait for the write under way and tell whether it was done or given up; what it raised is raised here."""
        if not self._writing:
            return True
        await asyncio.wait([self._writing])
        writing, self._writing = self._writing, None
        return writing.result()

    # Where reading goes on.

    async def _open(self) -> None:
        """Ask the sink where it stands and go there, in every partition: what was fetched meanwhile is fetched again."""
        epoch = self.membership.epoch
        look = await self.worker.broker.look({one.topic for one in self.membership.partitions})
        # A topic that is gone is read again when it is there again, as a new one.
        here = frozenset(one for one in self.membership.partitions if one.topic in look.topics)
        committed = await self.worker.broker.committed(self.group, here)
        begins, ends = await self._bounds(here)
        ours = {one: at.offset for one, at in committed.items() if is_of(at, look.topics[one.topic])}
        # Of a topic made anew nothing is read yet, also where the coordinator has forgotten the offset of the old one.
        ours |= {
            one: 0 for one in here if one not in ours and (one in committed or self._is_other(one.topic, look.topics))
        }
        assignment = Assignment(look.cluster_id, here, look.topics, begins, ours)
        opened = await self._until_available(lambda: self.sink.open(assignment), epoch)
        if opened is None or self.membership.epoch != epoch:
            return
        starts = {one: start(opened.offsets.get(one, ours.get(one)), begins[one], ends[one]) for one in here}
        if not opened.stored:
            # Whoever reads by the group's offsets may want to go on elsewhere; what it has missed is said by those.
            starts |= {
                one: at._replace(expired=max(0, begins[one] - ours.get(one, begins[one]))) for one, at in starts.items()
            }
        anew = {one.topic for one, at in starts.items() if at.is_anew} | {one.topic for one in opened.anew}
        anew |= {one.topic for one, at in committed.items() if not is_of(at, look.topics[one.topic])}
        self._note_anew(anew | {one for one in look.topics if self._is_other(one, look.topics)})
        self._go_to(starts)
        self._leads = bool(opened.offsets) and opened.stored
        self._cluster_id, self._topic_ids = look
        self.worker.topic_ids |= look.topics
        places = {one: at.offset for one, at in starts.items()}
        stood = opened.offsets if self._leads else ours
        self.intake.anew(opened.sequences, places, {one: at for one, at in places.items() if at != stood.get(one)})
        self._unshown = {one: at for one, at in stood.items() if self._leads and at != ours.get(one)}
        self.opened_epoch = epoch

    def _is_other(self, topic: str, ids: Mapping[str, str]) -> bool:
        """Whether a topic has another id than when it was seen last."""
        return self.worker.topic_ids.get(topic, UNKNOWN) not in (UNKNOWN, ids[topic])

    async def _bounds(
        self, partitions: frozenset[TopicPartition]
    ) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
        """The first offsets that the log holds and those that come after its last."""
        if not partitions:
            return {}, {}
        async with asyncio.timeout(self.config.request_timeout_s):
            begins = await self.consumer.beginning_offsets(list(partitions))
            return begins, await self.consumer.end_offsets(list(partitions))

    def _go_to(self, starts: Mapping[TopicPartition, Start]) -> None:
        for partition, at in starts.items():
            self.consumer.seek(partition, at.offset)
            self._note_expired(partition, at.expired)
        self.consumer.resume(*starts)
        self.consumer.pause(*(self.membership.partitions - starts.keys()))

    def _note_expired(self, partition: TopicPartition, count: int) -> None:
        if count:
            self.counts.expired += count
            where = {"sink": self.sink.name, **_place(partition), "records": count}
            log.warning("records went by unread, longer ago than they are kept", extra=where)

    def _note_anew(self, topics: set[str]) -> None:
        for topic in topics:
            self.counts.topics_anew += 1
            log.warning(
                "a topic was made anew and is read from its beginning", extra={"sink": self.sink.name, "topic": topic}
            )

    async def _look_after_topics(self) -> None:
        """Open the sink anew when a topic was made anew, and pass what retention took, also while nothing can be read."""
        if self._clock() - self._looked_at < self.config.look_every_s:
            return
        self._looked_at = self._clock()
        topics = {one.topic for one in self.membership.partitions}
        found = (await self.worker.broker.look(topics)).topics
        if any(topic in found and found[topic] != self._topic_ids.get(topic, UNKNOWN) for topic in topics):
            self.opened_epoch = 0
            return
        begins, _ = await self._bounds(frozenset(one for one in self.membership.partitions if one.topic in found))
        for partition, begin in begins.items():
            self._note_expired(partition, self.intake.skip_to(partition, begin))

    async def _verify(self, batch: Batch) -> None:
        """Raise unless the batch was read from the topics that the sink was opened for.

        The look comes after the fetch, so what it still shows was there when the batch was fetched. A topic that is gone
        was the old one when it went.
        """
        topics = {one.topic for one in batch.next_offsets}
        cluster_id, found = await self.worker.broker.look(topics)
        if cluster_id != self._cluster_id or any(
            found.get(topic, UNKNOWN) not in (self._topic_ids[topic], UNKNOWN) for topic in topics
        ):
            raise _TopicAnewError

    # What is read.

    async def _fetch(self) -> list[Any]:
        """The next records, in the order of their partitions, within the bounds of a batch."""
        fetched: list[Any] = []
        room, deadline = self.config.batch_bytes_max, self._clock() + self.config.linger_s
        timeout_ms = 200
        while room > 0 and len(fetched) < self.config.batch_records_max and not self.stop.is_set():
            wanted = min(SLICE, self.config.batch_records_max - len(fetched))
            got = await self._got(timeout_ms, wanted)
            for records in got.values():
                fetched.extend(records)
                room -= sum(len(record.value or b"") for record in records)
            timeout_ms = max(0, int(1000 * (deadline - self._clock()))) if fetched else 0
            if not timeout_ms and not got:
                break
        return fetched

    async def _got(self, timeout_ms: int, most: int) -> Mapping[TopicPartition, list[Any]]:
        try:
            got: Mapping[TopicPartition, list[Any]] = await self.consumer.getmany(
                timeout_ms=timeout_ms, max_records=most
            )
            return got
        except ValueError:
            # A header's name that is no UTF-8, say: the client cannot read what others wrote.
            if self.opened_epoch != self.membership.epoch:
                return {}
            return await self._got_around()

    async def _got_around(self) -> Mapping[TopicPartition, list[Any]]:
        """One record of each partition; one that the client cannot read is passed over, and its place goes to the letters."""
        got: dict[TopicPartition, list[Any]] = {}
        for partition in sorted(self.intake.partitions()):
            try:
                got |= await self.consumer.getmany(partition, timeout_ms=200, max_records=1)
            except ValueError as error:
                offset = await self.consumer.position(partition)
                log.error("a record cannot be read", exc_info=error, extra={**_place(partition), "offset": offset})
                rejected = Rejected(Reason.INVALID, f"the client cannot read it: {error}", b"")
                await self.worker.letters.send(rejected, -1, None, [], {**_place(partition), "offset": offset})
                self.consumer.seek(partition, offset + 1)
        return got

    async def _take(self, fetched: list[Any]) -> None:
        if not fetched:
            await self._check_progress()
        else:
            self._arrived_at = self._clock()
            await self._check_holes(fetched)
            if self.opened_epoch != self.membership.epoch:
                return
        batch = await self.intake.batch(fetched)
        due = self._clock() - self._committed_at >= self.config.idle_commit_s
        if not (batch.messages or batch.letters or (self.intake.has_passed and due)):
            if not self._writing:
                await self._show_some(self.opened_epoch)
            return
        # A batch never overtakes one that was given up: that one is read again, and this one after it.
        if await self._written():
            self.intake.under_way(batch)
            self._writing = asyncio.create_task(self._deliver(batch, self.opened_epoch))

    async def _check_holes(self, fetched: list[Any]) -> None:
        """Count what retention took before it was read; open anew where the log has gone back."""
        holes = self.intake.holes(fetched)
        if any(found < expected for expected, found in holes.values()):
            self.opened_epoch = 0
        elif holes:
            begins, _ = await self._bounds(frozenset(holes))
            for partition, (expected, found) in holes.items():
                # A hole inside of the log is a transaction's marker or what compaction left out.
                self._note_expired(partition, max(0, min(begins[partition], found) - expected))

    async def _check_progress(self) -> None:
        if self._clock() - self._arrived_at < self.config.stall_s or not self.membership.partitions:
            return
        self._arrived_at = self._clock()
        _, ends = await self._bounds(
            frozenset(one for one in self.membership.partitions if one.topic in self._topic_ids)
        )
        for partition, end in ends.items():
            position = await self.consumer.position(partition)
            if position < end:
                raise _StalledError(f"{partition.topic}/{partition.partition} stands at {position}, its end is {end}")

    # What is written.

    async def _deliver(self, batch: Batch, epoch: int) -> bool:
        """Write and commit, or give it up: to the partitions' next owner, or to a fresh start of the sink."""
        try:
            await self._verify(batch)
            is_done = await self._in_parts(batch, epoch)
        except OutOfStep:
            self.counts.out_of_step += 1
            self.opened_epoch = 0
            return False
        except _TopicAnewError:
            self.opened_epoch = 0
            return False
        if is_done:
            self.intake.written(batch)
            self.worker.stumbles.passed()
        return is_done

    async def _in_parts(self, batch: Batch, epoch: int) -> bool:
        """Write the batch, or the parts that it has to be taken apart into, one after the other."""
        parts = deque([batch])
        while parts:
            part, is_last = parts.popleft(), not parts
            try:
                if not await self._part(part, epoch, is_last=is_last):
                    return False
            except Unwritable as error:
                parts.extendleft(reversed(await self._apart(part, f"{self.sink.name} refuses it: {error}")))
            except (KafkaError, OutOfStep):
                raise
            except Exception as error:  # noqa: BLE001 (whatever it is, one record must not hold up the others for ever)
                parts.extendleft(reversed(await self._stumbled(part, error)))
        return True

    async def _part(self, part: Batch, epoch: int, *, is_last: bool) -> bool:
        async def write() -> bool:
            await self._write(part, epoch, is_last=is_last)
            return True

        return await self._until_available(write, epoch) or False

    async def _write(self, part: Batch, epoch: int, *, is_last: bool) -> None:
        await self.sink.write(part, self._refuse)
        self._committed_at = self._clock()
        self.counts.writes += 1
        self.counts.written += size(part)
        if part.messages:
            self.worker.stumbles.went_well()
        await self._commit(part, epoch, is_last=is_last)

    async def _stumbled(self, part: Batch, error: Exception) -> list[Batch]:
        """The sink failed by a fault of its own. Raise, so that it is begun anew; where it fails again and again, go round it."""
        if size(part) == 0 or not self.worker.stumbles.is_hopeless(part, self.config.broken_max):
            raise error
        if size(part) == 1:
            self.counts.gave_up += 1
            self.worker.stumbles.gave_up()
            log.error("a sink fails on a record, which is given up", exc_info=error, extra={"sink": self.sink.name})
        return await self._apart(part, f"{self.sink.name} fails on it: {type(error).__name__}: {error}")

    async def _apart(self, part: Batch, reason: str) -> list[Batch]:
        """The halves of what cannot be written; a single record goes to the dead letters, and the offsets move past it."""
        if size(part) > 1:
            self.counts.split += 1
            return list(halves(part))
        for message in part.messages:
            await self._refuse(message, Rejected(Reason.FAILED, masked(reason), message.payload))
        for letter in part.letters:
            # It stays in its topic. A letter about a letter would be read as a letter again, without end.
            self.counts.rejected += 1
            place = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}
            log.warning("dead letter cannot be written", extra={**place, "detail": masked(reason)})
        return [emptied(part)]

    async def _refuse(self, message: Message, rejected: Rejected) -> None:
        place = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
        await self.worker.letters.send(rejected, message.timestamp_ms, message.key, message.headers, place)

    async def _commit(self, part: Batch, epoch: int, *, is_last: bool) -> None:
        self._unshown |= part.next_offsets
        if is_last and not self._leads:
            await self._show(epoch)
        else:
            await self._show_some(epoch)

    async def _show_some(self, epoch: int) -> None:
        """Tell the group from time to time where a sink stands that does not depend on it."""
        if self._unshown and self._clock() - self._shown_at >= self.config.show_every_s:
            await self._show(epoch)

    async def _show(self, epoch: int) -> None:
        if not self.membership.may_commit(epoch):
            self.counts.commits_lost += 1
            return
        self._shown_at = self._clock()
        offsets = {one: (offset, self._topic_ids[one.topic]) for one, offset in self._unshown.items()}
        self._unshown = {}
        if not offsets:
            return
        try:
            async with asyncio.timeout(self.config.request_timeout_s):
                await self.consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError):
            # The group has moved on: the partitions' next owner starts at the offset before.
            self.counts.commits_lost += 1
        except TimeoutError as error:
            raise KafkaTimeoutError("offsets were not committed in time") from error

    async def _until_available(self, work: Callable[[], Awaitable[Answer]], epoch: int) -> Answer | None:
        """Do the work as soon as the sink's system allows; None when the partitions are gone or we shall stop."""
        backoff_s = 0.0
        while not self.stop.is_set() or not backoff_s:
            async with self.membership.writing:
                if self.membership.epoch != epoch:
                    return None
                try:
                    answer = await work()
                except SinkUnavailable as error:
                    away = error
                else:
                    self.worker.note_back()
                    return answer
            self.counts.unavailable += 1
            self.worker.note_away(str(away))
            backoff_s = min(self.config.backoff_s_max, max(away.retry_after_s, 2 * backoff_s))
            await self._wait(backoff_s, epoch)
        return None

    async def _wait(self, seconds: float, epoch: int) -> None:
        """Pause, unless the partitions are taken away."""
        self.membership.changed.clear()
        if self.membership.epoch == epoch:
            await self.worker.pause(seconds, self.membership.changed)
