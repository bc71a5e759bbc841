"""What others send is looked at once, where it comes in: one bad column costs itself only, and the rest goes on."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from processors.fold import PartitionFold, Plan
from processors.steps.registry import chosen
from schemas import series as series_identity
from schemas.caches import Cache, Layouts
from schemas.codec import Envelope, Reason, Received, Rejected, decode, encode
from schemas.records import Heartbeat, Scrape, Signal
from schemas.series import IDENTITY_MAX, VALUE_MAX, fault, identity, layout, parse
from schemas.topics import INPUTS
from schemas.topics import METRICS as METRICS_TOPIC

GOOD = Scrape.of({"a": 1.0, 'b{x="1"}': 2.0, "c": None}, cell="eu1", resource="pg", system="postgresql", time_ms=5)
HEADERS = encode(GOOD, Envelope("src", 7, 5)).headers
T0, METRICS = 1_795_230_000_000, INPUTS.index(METRICS_TOPIC)
LONG = 'm{x="' + "v" * IDENTITY_MAX + '"}'


def read(series: str, values: Any) -> Received | Rejected:
    body = {**GOOD.model_dump(mode="json"), "series": series, "values": values}
    found = decode(HEADERS, json.dumps(body).encode(), 5)
    assert isinstance(found, Received | Rejected)
    return found


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("bad{", "is not name"),
        ("", "is not name"),
        ("1a", "is not name"),
        ("a b", "is not name"),
        ('x{y="1',  "is not name"),
        ('x{y="\\"}', "is not name"),
        ("a", "stands there twice"),
        ('x{y="1",y="2"}', "has an attribute twice"),
        ("n" * 300, "has a name of 300 characters"),
        ('x{' + "n" * 300 + '="1"}', "has a name of 300 characters"),
        (LONG, "characters; at most"),
        ("ä", "is not name"),
    ],
)  # fmt: skip
def test_a_column_that_is_no_series_costs_itself_only(bad: str, says: str) -> None:
    found = read(f"a\n{bad}\nb", [1.0, 9.0, None])
    assert isinstance(found, Received)
    assert isinstance(found.record, Scrape)
    assert (found.record.series, found.record.values) == ("a\nb", (1.0, None))
    assert found.refused is not None
    assert found.refused.reason is Reason.INVALID
    assert says in found.refused.detail
    letter = orjson.loads(found.refused.payload)
    assert (letter["series"], letter["values"], letter["resource"]) == (bad, [9.0], "pg")


@pytest.mark.parametrize("value", ["many", [1], {"a": 1}, 10**400])
def test_a_value_that_is_no_number_costs_itself_only(value: Any) -> None:
    found = read("a\nb", [1.0, value]) if value != 10**400 else read("a\nb", [1.0, "1e400"])
    assert isinstance(found, Received)
    assert isinstance(found.record, Scrape)
    assert (found.record.series, found.record.values) == ("a", (1.0,))
    assert found.refused is not None
    assert "a value is a number or null" in found.refused.detail


@pytest.mark.parametrize(
    ("series", "values", "says"),
    [
        ("bad{", [1.0], "is not name"),
        ('a{x="1\n2"}', [1.0], "is not name"),
        ("a\nb", [1.0], "2 series but 1 values"),
        ("", [1.0], "0 series but 1 values"),
        ("a", "1.0", "values"),
        (7, [1.0], "series"),
        ("\n" * 30_000, [1.0] * 30_001, "values"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_as_a_whole(series: Any, values: Any, says: str) -> None:
    found = read(series, values)
    assert isinstance(found, Rejected)
    assert found.reason is Reason.INVALID
    assert says in found.detail


def test_columns_in_another_order_are_put_in_order() -> None:
    found = read("b\na\nc", [2.0, 1.0, None])
    assert isinstance(found, Received)
    assert isinstance(found.record, Scrape)
    assert (found.record.series, found.record.values, found.refused) == ("a\nb\nc", (1.0, 2.0, None), None)


def test_an_empty_scrape_is_a_look_at_which_nothing_was_measured() -> None:
    found = read("", [])
    assert isinstance(found, Received)
    assert isinstance(found.record, Scrape)
    assert found.record.values == ()


@pytest.mark.parametrize("bad", ["bad{", "a\na", "a\n\nb", 'x{y="\ud800"}'])
def test_a_scrape_of_our_own_holds_series_only(bad: str) -> None:
    with pytest.raises(ValidationError):
        Scrape(cell="c", resource="r", system="s", time_ms=1, series=bad, values=(1.0,) * (bad.count("\n") + 1))


@pytest.mark.parametrize("value", ["v" * 5_000, "ü" * 5_000, "\udc80/mnt", '"' * 2_000, "\n" * 3_000, "", "a\x00b"])
def test_whatever_a_collector_reads_becomes_a_series(value: str) -> None:
    text = identity("metric", {"one": value, "two": value, "three": value, "four": value, "five": value})
    assert fault(text) is None
    assert len(text) <= IDENTITY_MAX
    assert parse(text).name == "metric"


def test_what_is_cut_stays_apart() -> None:
    assert identity("m", {"a": "v" * 5_000}) != identity("m", {"a": "v" * 5_001})
    assert parse(identity("m", {"a": "v" * VALUE_MAX})).attributes["a"] == "v" * VALUE_MAX


def test_a_layout_is_looked_at_once() -> None:
    text = "once\ntwice"
    known = layout(text)
    assert layout("".join(["once", "\n", "twice"])) is known


def test_caches_hold_bytes_and_not_entries() -> None:
    asked: list[str] = []
    cache = Cache(lambda text: asked.append(text) or len(text), "cache.layouts", 1_000_000)  # type: ignore[func-returns-value]
    for number in range(100):
        cache(f"{number:03}" + "x" * 100_000)
    assert len(cache) <= 9
    cache("y" * 10_000_000)
    assert len(cache) <= 9
    asked.clear()
    assert (cache("short"), cache("short"), asked) == (5, 5, ["short"])


def test_what_a_holder_knows_of_layouts_is_bounded_by_their_length() -> None:
    known: Layouts[int] = Layouts("cache.layouts", 10_000)
    for number in range(1_000):
        text = f"{number:04}" + "x" * 1_000
        assert known.keep(text, text, number) == number
    assert len(known) < 10


def test_every_cache_of_foreign_text_is_bounded_by_bytes() -> None:
    assert isinstance(series_identity.parse, Cache)
    assert isinstance(series_identity.layout, Cache)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ce_type", None),
        ("ce_source", None),
        ("ce_source", b"\xff"),
        ("ce_source", b"a\x00b"),
        ("ce_source", b"s" * 300),
        ("ce_sequence", None),
        ("ce_sequence", b"9" * 5_000),
        ("ce_sequence", b"9" * 30),
        ("ce_sequence", b"-1"),
    ],
)
def test_headers_that_name_no_record_are_refused(header: str, value: Any) -> None:
    headers = [(name, value if name == header else content) for name, content in HEADERS]
    assert isinstance(decode(headers, GOOD.model_dump_json().encode(), 5), Rejected)


@pytest.mark.parametrize("timestamp_ms", [-1, 1_795_230_000_000_000])
def test_a_timestamp_of_kafka_that_is_no_time_in_ms_is_refused(timestamp_ms: int) -> None:
    assert isinstance(decode(HEADERS, GOOD.model_dump_json().encode(), timestamp_ms), Rejected)


def test_a_resource_goes_on_after_scrapes_that_hold_nothing() -> None:
    """Every step, over empty looks before, between and after whole ones."""
    fold, found = PartitionFold(Plan.of(chosen(()))), []
    for number in range(60):
        points = {} if number % 3 == 0 else {"redis.ping.duration": 0.9 if 40 < number < 50 else 0.001}
        record = Scrape.of(points, cell="eu1", resource="valkey", system="redis", time_ms=T0 + number * 5_000)
        found += fold.feed(METRICS, number * 2, Received(Envelope("s", number + 1, record.time_ms), record))
        for topic in fold.plan.listens:
            offset = number * 2 + 1 if topic == METRICS else number
            found += fold.feed(topic, offset, Heartbeat(publisher="p", time_ms=record.time_ms + 1))
        restored = PartitionFold.restore(fold.plan, fold.snapshot())
        assert restored.snapshot() == fold.snapshot()
    assert not fold.failures
    assert any(one.record.cause == "redis.latency:valkey" for one in found if isinstance(one.record, Signal))
