"""Whatever others write to Kafka is read or refused, and the refusal is always a letter that can be written."""

from __future__ import annotations

import json

import orjson
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import (
    BY_TYPE,
    Envelope,
    Reason,
    Received,
    Rejected,
    dead_letter,
    decode,
    encode,
    encode_dead_letter,
    rfc3339,
)
from schemas.records import DeadLetter, Heartbeat, OperationsEvent

EVENT = OperationsEvent(cell="eu1", time_ms=1_000, resource="r", system="s", name="a")
WIRE = encode(EVENT, Envelope("p", 1, 1_000))

times = st.one_of(
    st.integers(), st.integers(-(2**63), 2**63 - 1), st.sampled_from([-1, 0, 10**13, 1_795_230_000_000_000, 2**63 - 1])
)
names = st.sampled_from(["ce_type", "ce_source", "ce_sequence", "traceparent"]) | st.text(st.characters(), max_size=20)
values = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.sampled_from([name.encode() for name in BY_TYPE]),
    st.sampled_from(
        [b"1", b"-1", b"9" * 5_000, b"9" * 4_000, "１２".encode(), b"1_0", b" 1", b"\xff\xfe", b"p" * 100_000]
    ),
)
headers = st.none() | st.lists(st.tuples(names, values), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
fields = st.sampled_from([*OperationsEvent.model_fields, "series", "values", "publisher", "attributes"])
bodies = st.one_of(
    st.none(),
    st.binary(max_size=60),
    st.just(b"[" * 100_000),
    st.just(b'{"cell":' + b"9" * 6_000 + b"}"),
    st.just(b'{"cell":"\\ud800"}'),
    st.dictionaries(fields, json_values, max_size=8).map(lambda body: json.dumps(body).encode()),
)


@given(headers, bodies, times, st.none() | st.binary(max_size=50))
def test_whatever_stands_in_a_message_is_a_record_or_a_letter(
    given_headers: list[tuple[str, bytes]] | None, body: bytes | None, timestamp_ms: int, key: bytes | None
) -> None:
    content = decode(given_headers, body, timestamp_ms)
    if isinstance(content, Rejected):
        letter = dead_letter(content, rejected_by="t", time_ms=timestamp_ms, topic="t", key=key, headers=given_headers)
        wire = encode_dead_letter(letter)
        assert DeadLetter.model_validate_json(wire.value) == letter
        assert 0 <= wire.timestamp_ms < 2**63
    elif isinstance(content, Received):
        encode(content.record, content.envelope)
        assert orjson.loads(orjson.dumps(content.envelope.sequence)) == content.envelope.sequence
    else:
        assert isinstance(content, Heartbeat)


@given(times)
def test_every_instant_has_a_text(time_ms: int) -> None:
    assert rfc3339(time_ms).endswith("Z")


def test_a_timestamp_in_microseconds_is_refused_by_name() -> None:
    content = decode(WIRE.headers, WIRE.value, 1_795_230_000_000_000)
    assert isinstance(content, Rejected)
    assert content.reason is Reason.INVALID
    assert "1795230000000000" in content.detail


def test_a_sequence_that_no_reader_could_keep_is_refused() -> None:
    for sequence in (b"9" * 5_000, b"9" * 4_000, b"9" * 19, b"-1", b"1.0", b"", b"\xd9\xa1"):
        given_headers = [(name, sequence if name == "ce_sequence" else value) for name, value in WIRE.headers]
        assert isinstance(decode(given_headers, WIRE.value, 1_000), Rejected), sequence


def test_what_a_worker_has_found_is_read_whatever_the_time() -> None:
    sequence = (4_000_000_000_000 << 20) + 7
    wire = encode(EVENT, Envelope("processors/eu1", sequence, 1_000))
    assert decode(wire.headers, wire.value, 1_000) == Received(Envelope("processors/eu1", sequence, 1_000), EVENT)


def test_a_record_of_ours_is_still_read() -> None:
    assert decode(WIRE.headers, WIRE.value, 1_000) == Received(Envelope("p", 1, 1_000), EVENT)
