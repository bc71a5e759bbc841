"""A dead letter can be made of anything, and Kafka takes it; what can be read is put in order before sinks see it."""

from __future__ import annotations

import base64
from random import Random
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Envelope, Reason, Received, Rejected, encode
from schemas.records import DeadLetter, OperationsEvent
from schemas.topics import DEAD_LETTERS
from sinks.intake import SEQUENCE_MAX, name_of, readable, whole
from sinks.letters import Letters
from sinks.sink import Config, Counts
from tests.support import virtual_time
from tests.support.memory_kafka import MemoryBroker, MemoryKafka

NOW_MS = 1_795_000_000_000
PLACE = {"topic": "t", "partition": 1, "offset": 2}
REFUSED = Rejected(Reason.INVALID, "why", b"payload")


class Small(MemoryBroker):
    """A Kafka that takes messages up to a size."""

    most = 1_000_000

    def producer(self) -> Any:
        producer, most = super().producer(), self.most
        send = producer.send_and_wait

        async def send_and_wait(topic: str, value: bytes, key: bytes, *, headers: Any) -> None:
            if len(value) > most:
                raise MessageSizeTooLargeError
            await send(topic, value, key, headers=headers)

        producer.send_and_wait = send_and_wait  # type: ignore[method-assign] # the broker's own bound
        return producer


def sent(*arguments: Any, counts: Counts | None = None) -> DeadLetter:
    """What stands in the dead letters after sending one."""
    kafka = MemoryKafka(Random(1))

    async def send() -> None:
        kafka.create(DEAD_LETTERS.name)
        letters = Letters("store", Small(kafka), Config(), counts or Counts(), lambda: NOW_MS)
        await letters.send(*arguments)

    virtual_time.run(send())
    (record,) = kafka.topics[DEAD_LETTERS.name].logs[0].records
    return DeadLetter.model_validate_json(record.value or b"")


@pytest.mark.parametrize("time_ms", [-1, NOW_MS * 1000, 2**63])
def test_a_time_that_no_record_can_have_is_said_and_stands_for_now(time_ms: int) -> None:
    letter = sent(REFUSED, time_ms, None, [], PLACE)
    assert letter.time_ms == NOW_MS
    assert str(time_ms) in letter.detail
    assert base64.b64decode(letter.payload) == b"payload"


@given(
    detail=st.text(st.characters(), max_size=50),
    headers=st.lists(st.tuples(st.text(st.characters(), max_size=9), st.binary(max_size=9) | st.none()), max_size=4),
    key=st.binary(max_size=20) | st.none(),
    time_ms=st.integers(-(2**70), 2**70),
)
def test_there_is_a_letter_whatever_is_refused(detail: str, headers: Any, key: bytes | None, time_ms: int) -> None:
    counts = Counts()
    letter = sent(Rejected(Reason.INVALID, detail, b"x"), time_ms, key, headers, PLACE, counts=counts)
    assert (letter.topic, letter.partition, letter.offset) == ("t", 1, 2)
    assert counts.letters_lost == 0


def test_a_letter_that_is_too_large_keeps_the_beginning_and_then_the_place() -> None:
    counts = Counts()
    cut = sent(
        Rejected(Reason.INVALID, "d", b"x" * 4_000_000), NOW_MS, b"k", [("a", b"b" * 900_000)], PLACE, counts=counts
    )
    assert len(base64.b64decode(cut.payload)) == 512 * 1024
    assert len(cut.headers["a"]) == 1024
    assert "4000000 bytes" in cut.detail
    bare = sent(Rejected(Reason.INVALID, "d", b"x" * 4_000_000), NOW_MS, b"k" * 2_000_000, [], PLACE, counts=counts)
    assert counts.letters_cut == 2
    assert bare.offset == 2


def test_a_kafka_that_is_away_is_said_and_the_record_comes_again() -> None:
    kafka = MemoryKafka(Random(1))
    kafka.is_down = True

    async def send() -> None:
        with pytest.raises(KafkaTimeoutError):
            await Letters("store", kafka.client(), Config(), Counts()).send(REFUSED, NOW_MS, None, [], PLACE)

    virtual_time.run(send())


def test_a_secret_in_the_reason_is_masked() -> None:
    letter = sent(Rejected(Reason.FAILED, "postgresql://joe:hunter2@db failed", b""), NOW_MS, None, [], PLACE)
    assert "hunter2" not in letter.detail


def received(source: bytes, sequence: bytes) -> Any:
    event = OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name="n")
    wire = encode(event, Envelope("s", 1, NOW_MS))
    changed = {"ce_source": source, "ce_sequence": sequence}
    headers = [(name, changed.get(name, text)) for name, text in wire.headers]
    return readable(whole(headers), wire.value, NOW_MS)


@pytest.mark.parametrize("sequence", [b"-1", str(2**63).encode(), b"9" * 400, b"9" * 5_000, b"", b"x"])
def test_a_sequence_that_no_bigint_holds_is_refused(sequence: bytes) -> None:
    assert isinstance(received(b"s", sequence), Rejected)


def test_the_last_sequence_is_taken() -> None:
    assert isinstance(received(b"s", str(SEQUENCE_MAX).encode()), Received)


@given(st.text(st.characters(), max_size=400), st.text(st.characters(), max_size=400))
def test_sources_stay_different_and_any_index_holds_them(one: str, other: str) -> None:
    assert (name_of(one) == name_of(other)) == (one == other)
    for name in (name_of(one), name_of(other)):
        assert len(name) <= 255
        assert name.isprintable()
        name.encode()


def test_a_source_with_u0000_names_nobody_and_is_refused() -> None:
    content = received(b"a\x00b", b"1")
    assert isinstance(content, Rejected)
    assert "ce_source" in content.detail


@pytest.mark.parametrize("headers", [[("ce_type", None)], [("\ud800", b"")], []])
def test_headers_without_values_are_refused_like_any_other_bytes(headers: Any) -> None:
    assert isinstance(readable(whole(headers), b"{}", NOW_MS), Rejected)
