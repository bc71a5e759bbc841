"""Where a partition goes on, and how a batch is cut: both pure."""

from __future__ import annotations

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Envelope, Received
from schemas.records import OperationsEvent
from sinks.kafka_clients import Committed
from sinks.places import Start, is_of, start
from sinks.sink import Batch, Message
from sinks.splitting import emptied, halves, size

NOW_MS = 1_795_000_000_000
PLACE = TopicPartition("t", 0)


def test_a_partition_goes_on_where_it_was_left() -> None:
    assert start(5, 0, 9) == Start(5)
    assert start(9, 0, 9) == Start(9)


def test_who_never_was_there_begins_with_what_there_is() -> None:
    assert start(None, 7, 9) == Start(7)


def test_what_retention_took_is_counted() -> None:
    assert start(5, 7, 9) == Start(7, expired=2)
    assert start(0, 7, 7) == Start(7, expired=7)


def test_an_offset_beyond_the_end_is_of_another_log() -> None:
    assert start(10, 2, 9) == Start(2, is_anew=True)


def test_an_offset_belongs_to_its_topic_and_one_without_an_id_is_believed() -> None:
    assert is_of(Committed(5, "a"), "a")
    assert not is_of(Committed(5, "a"), "b")
    assert is_of(Committed(5, ""), "b")
    assert is_of(Committed(5, "a"), "")


def message(offset: int) -> Message:
    event = OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name="n")
    received = Received(Envelope("s", 10 * offset, NOW_MS), event)
    return Message("t", 0, offset, NOW_MS, None, [], b"", received)


@given(st.integers(2, 40))
def test_parts_cover_the_batch_and_move_the_offsets_as_far_as_they_go(count: int) -> None:
    whole = Batch([message(n) for n in range(count)], {PLACE: count + 3}, {(PLACE, "s"): 10 * (count - 1)})
    parts = list(halves(whole))
    while any(size(one) > 1 for one in parts):
        parts = [half for one in parts for half in (halves(one) if size(one) > 1 else [one])]
    assert [one.messages[0].offset for one in parts] == list(range(count))
    assert [one.next_offsets[PLACE] for one in parts] == [*range(1, count), count + 3]
    assert [one.sequences[PLACE, "s"] for one in parts] == [10 * n for n in range(count)]


def test_what_is_put_aside_still_moves_the_offsets() -> None:
    whole = Batch([message(1)], {PLACE: 2}, {(PLACE, "s"): 10})
    assert emptied(whole) == Batch([], {PLACE: 2}, {(PLACE, "s"): 10})
