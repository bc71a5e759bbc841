"""What a step raises costs the item it was raised on: for this unit alone, which is as it was before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from processors.fold import Finding, PartitionFold, Plan
from processors.lineage import Writer, restore
from processors.step import Findings, Item, Parts, Step, StepConfig, whole_cell
from processors.steps.registry import STEPS
from schemas.codec import Envelope, Received
from schemas.records import Heartbeat, Incident, OperationsEvent, Phase, Severity, Signal
from schemas.topics import INPUTS, OPERATIONS

TOPIC = INPUTS.index(OPERATIONS)


@dataclass
class Names:
    """What was seen, in the order in which it was."""

    seen: list[str] = field(default_factory=list)
    due_ms: int | None = None


def signal(cell: str, name: str, at_ms: int, phase: Phase = Phase.OPEN, detector: str = "sees") -> Signal:
    return Signal(
        cell=cell, time_ms=at_ms, id=f"{detector}-{name}", phase=phase, detector=detector, cause=f"{detector}:{name}"[:255],
        resource="x", started_ms=at_ms, severity=Severity.WARNING, score=0.5, summary="",
    )  # fmt: skip


def sees(config: StepConfig, state: Names, item: Item) -> tuple[Names, Findings]:
    """Remembers each name before it looks whether it is a bad one."""
    name = item.record.name
    state.seen.append(name)
    if name.startswith("tick"):
        state.due_ms = item.at_ms + 500
    if name.startswith("bad"):
        raise ZeroDivisionError(name)
    return state, [signal(config.cell, f"{name}-{len(state.seen)}", item.at_ms)]


def wakes(config: StepConfig, state: Names, at_ms: int) -> tuple[Names, Findings]:
    state.seen.append("woken")
    if "tick-bad" in state.seen:
        raise ValueError("no tick")
    state.due_ms = None
    return state, [signal(config.cell, f"woken-{len(state.seen)}", at_ms)]


def pack(state: Names) -> Parts:
    if "unpackable" in state.seen:
        raise TypeError("not this one")
    return {"": orjson.dumps([state.seen, state.due_ms])}


def unpack(parts: Parts) -> Names:
    return Names(*orjson.loads(parts[""]))


SEES: Step[Any, Any] = Step(
    "sees", StepConfig, (OperationsEvent,), whole_cell, Names, sees, pack, unpack, wakes, lambda state: state.due_ms
)


def heard(config: StepConfig, state: Names, item: Item) -> tuple[Names, Findings]:
    """Accepts what others find."""
    state.seen.append(item.record.id)
    if "bad" in item.record.id or "deaf" in item.record.id:
        raise KeyError(item.record.id)
    if item.record.detector != "sees":
        return state, []
    return state, [signal(config.cell, item.record.id, item.at_ms, detector="hears")]


HEARS: Step[Any, Any] = replace(SEES, name="hears", accepts=(Signal,), step=heard)
OTHER: Step[Any, Any] = replace(
    SEES,
    name="other",
    step=lambda config, state, item: (state, [signal(config.cell, item.record.name, item.at_ms, detector="other")]),
)


class Log:
    """A log of events of some cells as it is written, and folded."""

    def __init__(self, *steps: Step[Any, Any], parts: dict[tuple[str, ...], bytes] | None = None) -> None:
        self.plan = replace(Plan.of(steps), listens=(TOPIC,))
        self.fold = PartitionFold.restore(self.plan, parts or {})
        self.offset = self.fold.order.clocks[TOPIC].next_offset or 0
        self.at_ms = self.offset * 1_000
        self.found: list[Finding] = []

    def see(self, *names: str, cell: str = "eu1") -> Log:
        for name in names:
            self.at_ms += 1_000
            event = OperationsEvent(cell=cell, time_ms=self.at_ms, resource="r", system="s", name=name)
            self.put(Received(Envelope("p", self.offset + 1, self.at_ms), event))
        return self

    def beat(self, at_ms: int | None = None) -> Log:
        self.at_ms = self.at_ms + 3_000 if at_ms is None else at_ms
        self.put(Heartbeat(publisher="p", time_ms=self.at_ms))
        return self

    def put(self, message: Received | Heartbeat) -> None:
        self.found += self.fold.feed(TOPIC, self.offset, message)
        self.offset += 1

    @property
    def told(self) -> list[str]:
        return [
            one.record.id for one in self.found if getattr(one.record, "detector", "") in ("sees", "hears", "other")
        ]

    def restarted(self) -> Log:
        parts = self.fold.snapshot()
        writer = Writer("w")
        entries = [*writer.parts(parts), writer.commit(parts, (1,))]
        again = Log(*self.plan.steps, parts=restore(entries).parts)
        again.at_ms = self.at_ms
        return again


def test_a_record_on_which_a_step_raises_leaves_the_unit_as_it_was() -> None:
    log = Log(SEES).see("a", "bad", "b").beat()
    assert log.told == ["sees-a-1", "sees-b-2"]
    (failure,) = log.fold.failures
    assert (failure.step, failure.what, failure.cell) == ("sees", "a record", "eu1")
    assert failure.record is not None
    assert failure.place is not None
    assert log.fold.counts["failed"] == log.fold.counts["failed_sees"] == 1


def test_what_other_steps_find_of_the_same_record_is_told() -> None:
    assert Log(OTHER, SEES).see("bad").beat().told == ["other-bad"]
    assert Log(SEES, OTHER).see("bad").beat().told == ["other-bad"]


def test_a_step_that_raises_on_a_finding_costs_neither_the_finding_nor_what_comes_after_it() -> None:
    log = Log(SEES, HEARS).see("a", "deaf", "b").beat()
    assert log.told == ["sees-a-1", "hears-sees-a-1", "sees-deaf-2", "sees-b-3", "hears-sees-b-3"]
    assert [one.step for one in log.fold.failures] == ["hears"]
    assert isinstance(log.fold.failures[0].record, Signal)


def test_a_tick_that_raises_leaves_the_unit_as_it_was_and_comes_again_later() -> None:
    log = Log(SEES).see("tick-bad", "b").beat().see("c").beat()
    assert log.told == ["sees-tick-bad-1", "sees-b-2", "sees-c-3"]
    assert [one.what for one in log.fold.failures] == ["a tick"]


def test_the_findings_of_other_cells_come_on_time_while_ticks_raise_in_one() -> None:
    log = Log(SEES).see("tick-bad").see("tick-good", cell="eu2").beat()
    (woken,) = [one for one in log.found if one.record.id.startswith("sees-woken")]
    assert woken.record.cell == "eu2"
    assert woken.envelope.recorded_ms == 2_500


def test_a_unit_that_fails_again_and_again_begins_afresh_and_ends_what_it_had_open() -> None:
    log = Log(SEES).see("a", "bad1", "bad2", "bad3", "b").beat()
    assert [(one.record.id, one.record.phase) for one in log.found if one.record.detector == "sees"] == [
        ("sees-a-1", Phase.OPEN),
        ("sees-a-1", Phase.RESOLVED),
        ("sees-b-1", Phase.OPEN),
    ]
    assert log.fold.counts["afresh_sees"] == 1
    assert [one.is_afresh for one in log.fold.failures] == [False, False, True]


def test_failures_between_which_all_is_well_begin_nothing_afresh() -> None:
    log = Log(SEES).see("a", "bad", "bad", "b", "bad", "bad", "c").beat()
    assert log.told == ["sees-a-1", "sees-b-2", "sees-c-3"]
    assert not log.fold.counts["afresh_sees"]


def test_ticks_that_always_raise_begin_the_unit_afresh_although_records_are_well() -> None:
    log = Log(SEES).see("tick-bad")
    for _ in range(40):
        log.see("a").beat()
    assert log.fold.counts["afresh_sees"] == 1
    assert [one.what for one in log.fold.failures] == ["a tick"] * 3


def test_people_hear_of_a_step_that_fails_again_and_again_and_that_it_is_well_again() -> None:
    log = Log(SEES, STEPS["correlator"]).see("a", "bad1", "bad2", "bad3").beat()
    for _ in range(20):
        log.beat()
    of_itself = [
        one for one in log.found if one.record.cell == "eu1" and getattr(one.record, "detector", "") == "faults"
    ]
    assert [one.record.phase for one in of_itself] == [Phase.OPEN]
    stories = [one.record for one in log.found if isinstance(one.record, Incident)]
    mine = [one for one in stories if one.causes[0].cause == "pilothouse.step:eu1"]
    assert mine
    assert [str(one) for one in mine[0].roles] == ["platform"]
    log.beat(log.at_ms + 250_000).beat(log.at_ms + 250_000).beat(log.at_ms + 250_000).beat(log.at_ms + 250_000)
    assert [one.record.phase for one in log.found if getattr(one.record, "detector", "") == "faults"][
        -1
    ] is Phase.RESOLVED


def test_an_unforeseen_failure_once_is_in_the_letters_and_troubles_nobody() -> None:
    log = Log(SEES, STEPS["correlator"]).see("bad").beat()
    assert log.found == []


@pytest.mark.parametrize("names", [("a", "bad1", "bad2", "b"), ("tick-bad", "a"), ("a", "bad1", "bad2", "bad3", "b")])
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_when_the_snapshot_was_taken_makes_no_difference(names: tuple[str, ...], cut: int) -> None:
    def run(*, restart: bool) -> tuple[list[bytes], dict[tuple[str, ...], bytes]]:
        log, found = Log(SEES, HEARS), list[Finding]()
        for number, name in enumerate(names):
            log.see(name).beat()
            if restart and number + 1 == cut:
                found, log = log.found, log.restarted()
        for _ in range(10):
            log.see("z").beat()
        return [one.record.model_dump_json().encode() for one in (*found, *log.found)], log.fold.snapshot()

    told, parts = run(restart=False)
    again, same = run(restart=True)
    assert again == told
    assert same == parts


def test_a_unit_that_cannot_be_packed_begins_afresh_and_the_others_are_in_the_snapshot() -> None:
    log = Log(SEES, OTHER).see("a", "unpackable").beat()
    parts = log.fold.snapshot()
    assert not [key for key in parts if key[1:2] == ("sees",)]
    assert log.fold.counts["afresh_sees"] == 1
    log.see("b").beat()
    assert [(one.record.id, one.record.phase) for one in log.found if one.record.detector == "sees"][2:] == [
        ("sees-a-1", Phase.RESOLVED),
        ("sees-unpackable-2", Phase.RESOLVED),
        ("sees-b-1", Phase.OPEN),
    ]


def test_a_unit_that_cannot_be_restored_begins_afresh_and_the_worker_starts() -> None:
    parts = Log(SEES, OTHER).see("a").beat().fold.snapshot()
    parts["eu1", "sees", "", ""] = b"no json"
    log = Log(SEES, OTHER, parts=parts)
    assert log.fold.counts["units_dropped"] == 1
    assert [one.what for one in log.fold.failures] == ["its state in a snapshot"]
    log.see("b").beat()
    assert "sees-b-1" in log.told
    told = [one.record for one in log.found]
    assert [one.phase for one in told if one.id == "sees-a-1"] == [Phase.RESOLVED], "what it had open is ended"
    assert [one.cause for one in told if one.detector == "faults"] == ["pilothouse.step:eu1"]


@pytest.mark.parametrize("head", [b"", b"{}", b"[]", b"\xff", b'{"cursor": "x"}'])
def test_a_head_that_cannot_be_read_begins_all_afresh(head: bytes) -> None:
    parts = Log(SEES).see("a").beat().fold.snapshot() | {("head",): head}
    log = Log(SEES, parts=parts)
    assert log.fold.counts["heads_dropped"] == 1
    assert log.see("b").beat().told == ["sees-b-1"]


@pytest.mark.parametrize("broken", ["unit", "fresh", "due"])
def test_everything_a_step_is_asked_for_may_raise(broken: str) -> None:
    def raises(*_: Any) -> Any:
        raise RuntimeError(broken)

    log = Log(replace(SEES, **{broken: raises}), OTHER).see("a", "b").beat()
    assert log.told == ["other-a", "other-b"]
    assert log.fold.counts["failed_sees"] == 2
    log.fold.snapshot()


@pytest.mark.parametrize("due", [float("nan"), float("inf"), "soon"])
def test_a_due_time_that_is_none_is_a_failure_of_its_unit(due: Any) -> None:
    log = Log(replace(SEES, due=lambda state: due), OTHER).see("a").beat()
    assert log.told == ["other-a"]


def test_findings_that_bring_about_each_other_without_end_are_cut_and_counted() -> None:
    def echoes(config: StepConfig, state: Names, item: Item) -> tuple[Names, Findings]:
        return state, [signal(config.cell, "again", item.at_ms, detector="other")]

    log = Log(SEES, replace(HEARS, step=echoes)).see("a").beat()
    assert log.fold.counts["cascades_cut"] == 1
    assert len(log.found) == 10_000


def test_an_exhausted_machine_is_no_failure_of_the_item() -> None:
    def raises(*_: Any) -> Any:
        raise MemoryError

    with pytest.raises(MemoryError):
        Log(replace(SEES, step=raises)).see("a").beat()


def test_much_is_folded_between_two_packings_and_what_is_kept_for_it_is_bounded() -> None:
    packed = 0

    def counted(state: Names) -> Parts:
        nonlocal packed
        packed += 1
        return pack(state)

    log = Log(replace(SEES, pack=counted))
    for _ in range(1_000):
        log.see("a")
    log.beat()
    assert 1 <= packed < 10


def never_well(config: StepConfig, state: Names, at_ms: int) -> tuple[Names, Findings]:
    """A tick that leaves its due where it was, as a state does that was damaged or that nobody has foreseen."""
    state.seen.append("woken")
    return state, []


def only_sees(config: StepConfig, state: Names, item: Item) -> tuple[Names, Findings]:
    state.seen.append(item.record.name)
    return state, []


STUCK: Step[Any, Any] = replace(
    SEES, name="stuck", step=only_sees, tick=never_well, due=lambda state: 1_500 if state.seen else None
)


def test_a_unit_that_always_wants_a_tick_at_once_does_not_stop_the_others() -> None:
    log = Log(STUCK, SEES).see("a").beat()
    for _ in range(20):
        log.beat(log.at_ms + 3_000)
    log.see("b").beat()
    assert log.told == ["sees-a-1", "sees-b-2"]
    (unit,) = (one for key, one in log.fold.cells["eu1"].units.items() if key[0] == "stuck")
    assert unit.state.seen.count("woken") < 80, "one a second of log time, not one a millisecond"
    assert log.fold.counts["ticks_put_off"] > 50


def test_a_tick_that_was_put_off_is_put_off_after_a_restart_too() -> None:
    whole, cut = Log(STUCK), Log(STUCK)
    for log in (whole, cut):
        log.see("a").beat()
    cut = cut.restarted()
    for log in (whole, cut):
        log.beat().see("b").beat()
    assert cut.fold.snapshot() == whole.fold.snapshot()
