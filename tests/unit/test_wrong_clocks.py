"""A clock that goes wrong silences nobody: it is not believed, and where it was, time turns back."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import orjson
import pytest

from processors.fold import Finding, PartitionFold, Plan
from processors.order import AHEAD_MAX, OUTLIVED, RETURNED, SUSTAINED
from processors.step import Findings, Item, Step, StepConfig, whole_cell
from schemas.codec import Envelope, Received
from schemas.records import Heartbeat, OperationsEvent, Phase, Severity, Signal

T0 = 1_795_230_000_000
WEEK_MS = 7 * 86_400_000
TOPICS = 2


def echo(config: StepConfig, state: list[Any], item: Item) -> tuple[list[Any], Findings]:
    """Tells how many it has seen, and skips what is not newer than the last, as steps do."""
    if state and item.record.time_ms <= state[-1]:
        return state, []
    state.append(item.record.time_ms)
    told = Signal(
        cell=config.cell, time_ms=item.at_ms, id=f"{item.record.name}-{len(state)}", phase=Phase.OPEN, detector="echo",
        cause="echo:x", resource="x", started_ms=item.at_ms, severity=Severity.INFO, score=0.5, summary="",
    )  # fmt: skip
    return state, [told]


ECHO: Step[Any, Any] = Step(
    "echo", StepConfig, (OperationsEvent,), whole_cell, list, echo,
    lambda state: {"": orjson.dumps(state)}, lambda parts: orjson.loads(parts[""]),
)  # fmt: skip
PLAN = replace(Plan.of([ECHO]), listens=tuple(range(TOPICS)))

Message = tuple[int, int, Received | Heartbeat | None, int]


class Writers:
    """Publishers write to all topics; the log as it stands on them."""

    def __init__(self) -> None:
        self.log: list[Message] = []
        self.now_ms, self._offsets, self._sequence = T0, [0] * TOPICS, 0

    def _put(self, topic: int, message: Any, sent_ms: int) -> None:
        self.log.append((topic, self._offsets[topic], message, sent_ms))
        self._offsets[topic] += 1

    def beat(self, publisher: str = "p", off_ms: int = 0, *, observed_ms: int | None = None) -> Writers:
        """A heartbeat of a clock that is off; `observed_ms` of one that lags behind its clock."""
        sent_ms = self.now_ms + off_ms
        for topic in range(TOPICS):
            beat = Heartbeat(publisher=publisher, time_ms=sent_ms if observed_ms is None else observed_ms)
            self._put(topic, beat, sent_ms)
        return self

    def event(self, name: str, publisher: str = "p", off_ms: int = 0, topic: int = 0) -> Writers:
        self._sequence += 1
        self.now_ms += 1
        at_ms = self.now_ms + off_ms
        record = OperationsEvent(cell="eu1", time_ms=at_ms, resource="r", system="s", name=name)
        self._put(topic, Received(Envelope(publisher, self._sequence, at_ms), record), at_ms)
        return self

    def live(self, seconds: int, *publishers: str, off_ms: int = 0) -> Writers:
        """So many seconds with a heartbeat and an event in each."""
        for _ in range(seconds):
            self.now_ms += 1_000
            for publisher in publishers or ("p",):
                self.event("live", publisher, off_ms, topic=self._sequence % TOPICS).beat(publisher, off_ms)
        return self


def run(fold: PartitionFold, log: list[Message]) -> list[Finding]:
    found = [one for message in log for one in fold.feed(*message)]
    assert not fold.failures
    return found


def names(found: list[Finding]) -> list[str]:
    return [one.record.id.rpartition("-")[0] for one in found if one.record.phase is Phase.OPEN]  # type: ignore[attr-defined]


def delays_s(writers: Writers, found: list[Finding], name: str) -> float:
    """How long after it was written something is told, as the times of findings say."""
    (at_ms,) = [one.envelope.recorded_ms for one in found if one.record.id.startswith(f"{name}-")]  # type: ignore[attr-defined]
    return (writers.now_ms - at_ms) / 1000


def test_one_heartbeat_a_week_ahead_delays_nothing() -> None:
    writers = Writers().live(60).beat("p", WEEK_MS).live(5).event("lock").live(5)
    fold = PartitionFold(PLAN)
    found = run(fold, writers.log)
    assert "lock" in names(found)
    assert max(one.envelope.recorded_ms for one in found) <= writers.now_ms
    assert fold.order.late == 0
    assert fold.order.doubted == TOPICS


def test_a_publisher_whose_clock_is_a_week_ahead_is_refused_while_others_keep_to_theirs() -> None:
    writers = Writers().live(60, "p", "q")
    for _ in range(3):
        writers.live(30, "p").live(1, "wrong", off_ms=WEEK_MS)
    for _ in range(100):
        writers.live(1, "p").live(1, "wrong", off_ms=WEEK_MS)
    writers.event("lock").live(5)
    fold = PartitionFold(PLAN)
    found = run(fold, writers.log)
    assert "lock" in names(found)
    assert not fold.counts["turned_back"]
    assert {one.received.envelope.source for one in fold.refused} == {"wrong"}
    assert len(fold.refused) > 90
    assert not fold.order.clocks[0].refused or max(fold.order.floor()) > 0


def test_after_an_outage_of_hours_time_goes_on_as_soon_as_the_publisher_beats_again() -> None:
    writers = Writers().live(60)
    writers.now_ms += 5 * 3_600_000
    writers.event("first").live(SUSTAINED + 4)
    fold = PartitionFold(PLAN)
    found = run(fold, writers.log)
    assert "first" in names(found)
    assert not fold.refused
    assert not fold.order.late


def test_history_is_told_fast_by_a_clock_that_is_right() -> None:
    """How far a publisher has observed may leap; what its clock says may not."""
    writers = Writers()
    for day in range(14):
        observed_ms = T0 - WEEK_MS * 2 + day * 86_400_000
        writers.event("past", "history", observed_ms - 1_000 - writers.now_ms)
        writers.beat("history", observed_ms=observed_ms)
    fold = PartitionFold(PLAN)
    assert names(run(fold, writers.log)) == ["past"] * 13, "the last one waits for the grace"
    assert not fold.order.doubted


def test_history_of_a_version_that_did_not_say_when_it_was_sent_is_told_as_well() -> None:
    writers = Writers()
    for hour in range(0, 14 * 24, 6):
        off_ms = hour * 3_600_000 - WEEK_MS * 2
        writers.event("past", "history", off_ms - 1_000).beat("history", off_ms)
    writers.live(SUSTAINED + 4)
    fold = PartitionFold(PLAN)
    assert names(run(fold, writers.log)).count("past") == 14 * 4
    assert not fold.refused


def test_a_spool_that_is_drained_after_an_outage_is_no_wrong_clock() -> None:
    """One publisher is live again at once, the other still tells what came hours ago: both clocks say the same."""
    writers = Writers().live(60, "p", "q")
    writers.now_ms += 3 * 3_600_000
    for second in range(200):
        writers.now_ms += 10
        writers.beat("q", observed_ms=T0 + 60_000 + second * 1_000)
        if second % 100 == 0:
            writers.beat("p")
    writers.live(SUSTAINED + 4, "p", "q").event("lock").live(5, "p", "q")
    fold = PartitionFold(PLAN)
    assert "lock" in names(run(fold, writers.log))
    assert not fold.counts["turned_back"]


def leapt_and_back(*, ahead_s: int = 60) -> Writers:
    """The only publisher's clock is a week ahead for a minute, and nobody is there to contradict it."""
    return Writers().live(60).live(ahead_s, off_ms=WEEK_MS).live(RETURNED + 5).event("lock").live(5)


def test_a_leap_that_was_believed_is_taken_back_and_what_was_learned_before_it_stands() -> None:
    writers, fold = leapt_and_back(), PartitionFold(PLAN)
    found = run(fold, writers.log)
    assert fold.counts["turned_back"] == 1
    locks = [one for one in found if one.record.id.startswith("lock-")]  # type: ignore[attr-defined]
    assert [one.envelope.recorded_ms for one in locks] == [locks[0].record.started_ms]  # type: ignore[attr-defined]
    assert writers.now_ms - 6_000 < locks[0].envelope.recorded_ms < writers.now_ms
    assert int(locks[0].record.id.rpartition("-")[2]) > 60, "what was seen before the leap is still counted"  # type: ignore[attr-defined]
    sequences = [one.envelope.sequence for one in found]
    assert sequences == sorted(set(sequences)), "sinks skip what is not above the last they have seen"


def test_what_was_told_in_a_time_that_never_was_is_ended() -> None:
    found = run(PartitionFold(PLAN), leapt_and_back().log)
    told = {one.record.id for one in found if one.envelope.recorded_ms > T0 + WEEK_MS}  # type: ignore[attr-defined]
    ended = {one.record.id for one in found if one.record.phase is Phase.RESOLVED}  # type: ignore[attr-defined]
    assert told
    assert told <= ended


@pytest.mark.parametrize("seed", range(12))
def test_restarts_and_the_order_of_reading_make_no_difference(seed: int) -> None:
    writers, rng = leapt_and_back(), random.Random(seed)
    writers.live(100, "p", "q").live(20, "wrong", off_ms=WEEK_MS).live(70, "p").live(3, "wrong", off_ms=WEEK_MS).live(5)
    whole = run(PartitionFold(PLAN), writers.log)
    by_topic = [[one for one in writers.log if one[0] == topic] for topic in range(TOPICS)]
    heads, committed, fold, told = [0] * TOPICS, [0] * TOPICS, PartitionFold(PLAN), dict[Any, None]()

    def key(one: Finding) -> Any:
        return one.envelope, one.record.model_dump_json()

    while any(heads[topic] < len(by_topic[topic]) for topic in range(TOPICS)):
        topic = rng.choice([topic for topic in range(TOPICS) if heads[topic] < len(by_topic[topic])])
        told |= dict.fromkeys(map(key, run(fold, [by_topic[topic][heads[topic]]])))
        heads[topic] += 1
        if rng.random() < 0.02:
            committed = [max(*pair) for pair in zip(committed, fold.order.floor(), strict=True)]
            heads, fold = list(committed), PartitionFold.restore(PLAN, fold.snapshot())
    assert list(told) == list(map(key, whole))


@pytest.mark.parametrize("poisoner", ["p", "evil"])
def test_a_snapshot_of_the_version_before_that_holds_a_wrong_clock_heals(poisoner: str) -> None:
    """Its clocks stand a week ahead, and so does its state."""
    fold = PartitionFold(PLAN)
    writers = Writers().live(60)
    run(fold, writers.log)
    parts = fold.snapshot()
    head = orjson.loads(parts["head",])
    ahead_ms = writers.now_ms + WEEK_MS
    for clock in head["clocks"]:
        clock.update(time_ms=ahead_ms, beats={poisoner: ahead_ms})
        for new in ("said_ms", "upheld", "doubts", "turns", "refused"):
            del clock[new]
    for new in ("ticked_ms", "era", "horizon_era", "before_ms", "after_ms"):
        del head[new]
    head.update(cursor=[ahead_ms - 2_000, 1, 5], horizon_ms=ahead_ms - 2_000, last_ms=ahead_ms, in_ms=3)
    parts = {("head",): orjson.dumps(head), ("eu1", "echo", "", ""): orjson.dumps([ahead_ms])}
    again, before = PartitionFold.restore(PLAN, parts), len(writers.log)
    writers.live((OUTLIVED if poisoner == "evil" else RETURNED) + 5).event("lock").live(5)
    found = run(again, writers.log[before:])
    assert "lock" in names(found)
    assert again.counts["turned_back"] == 1
    assert min(one.envelope.sequence for one in found) > ahead_ms << 20


def test_a_publisher_that_dies_is_not_outvoted_by_one_whose_clock_is_long_known_to_be_wrong() -> None:
    writers = Writers()
    for _ in range(2 * OUTLIVED):
        writers.live(1, "p").live(1, "yesterday", off_ms=-86_400_000)
    writers.live(3 * OUTLIVED, "yesterday", off_ms=-86_400_000).live(5, "p").event("lock", "p").live(5, "p")
    fold = PartitionFold(PLAN)
    assert "lock" in names(run(fold, writers.log))
    assert not fold.counts["turned_back"]


def test_a_record_that_was_recorded_a_week_ahead_is_refused_and_holds_nothing_up() -> None:
    writers = Writers().live(30).event("ahead", off_ms=WEEK_MS).live(3)
    fold = PartitionFold(PLAN)
    run(fold, writers.log)
    assert [one.received.record.name for one in fold.refused] == ["ahead"]  # type: ignore[attr-defined]
    ends = [1 + max(one[1] for one in writers.log if one[0] == topic) for topic in range(TOPICS)]
    assert all(end - floor < 8 for end, floor in zip(ends, fold.order.floor(), strict=True)), (
        "only the grace is waited for"
    )
    assert fold.counts["refused_ahead"] == 1


def test_what_is_recorded_by_somebody_who_never_beats_waits_a_while_and_is_bounded() -> None:
    writers = Writers().live(30)
    for _ in range(AHEAD_MAX + 100):
        writers.event("ahead", "silent", off_ms=WEEK_MS)
    fold = PartitionFold(PLAN)
    run(fold, writers.log)
    assert fold.counts["refused_ahead"] == 100
    before = len(writers.log)
    writers.live(OUTLIVED + 2)
    run(fold, writers.log[before:])
    assert fold.counts["refused_ahead"] == AHEAD_MAX + 100
    assert fold.order.next_at() is None or fold.order.next_at()[1] <= writers.now_ms  # type: ignore[index]


@pytest.mark.parametrize("ahead_ms", [600_001, WEEK_MS])
def test_a_record_whose_own_time_lies_far_ahead_is_refused(ahead_ms: int) -> None:
    record = OperationsEvent(cell="eu1", time_ms=T0 + ahead_ms, resource="r", system="s", name="ahead")
    writers = Writers().live(5)
    writers._put(0, Received(Envelope("p", 999, writers.now_ms + 6_000), record), writers.now_ms)
    fold = PartitionFold(PLAN)
    run(fold, writers.live(20).log)
    assert fold.counts["refused_ahead"] == (1 if T0 + ahead_ms > writers.now_ms + 580_000 else 0)


def test_heartbeats_of_countless_publishers_are_bounded() -> None:
    writers = Writers().live(5)
    for number in range(1_200):
        writers.beat(f"p{number}").beat(f"q{number}", WEEK_MS)
    fold = PartitionFold(PLAN)
    run(fold, writers.log)
    clock = fold.order.clocks[0]
    assert len(clock.beats) <= 1_000
    assert len(clock.doubts) <= 100
    assert len(clock.upheld or ()) <= 1_000


def test_a_topic_that_has_not_seen_the_leap_does_not_hold_the_others_up_for_ever() -> None:
    """Topics that are lost and made anew have not heard what the others took back."""
    writers = leapt_and_back()
    log = [one for one in writers.log if one[0] == 0 or one[3] < T0 + WEEK_MS]
    offsets: dict[int, int] = {}
    again = []
    for topic, _, message, sent_ms in log:
        again.append((topic, offsets.setdefault(topic, 0), message, sent_ms))
        offsets[topic] += 1
    before = len(writers.log)
    later = writers.live(700).log[before:]
    for topic, _, message, sent_ms in later:
        again.append((topic, offsets[topic], message, sent_ms))
        offsets[topic] += 1
    fold = PartitionFold(PLAN)
    found = run(fold, again)
    assert found[-1].envelope.recorded_ms > writers.now_ms - 5_000
