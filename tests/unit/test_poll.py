"""Groups and rows of a look fail alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ingest.collector import Fault, Target, Unavailable
from ingest.poll import MAX_ROWS_REFUSED, Poll, payload
from ingest.readable import MAX_VALUE, name_of, readable
from schemas.estate import Cell, Resource, Tenant
from schemas.records import OperationsEvent, Scrape
from schemas.series import split

NOW_MS = 1_760_000_000_000


def poll(**more: Any) -> Poll:
    resource = Resource(name="db", system="thing")
    return Poll(Target(Cell(name="eu1", tenants=(Tenant(name="acme"),)), resource, ""), NOW_MS, **more)


def points(one: Poll) -> dict[str, float | None]:
    (scrape,) = [record for record in one.collected().records if isinstance(record, Scrape)]
    return dict(zip(split(scrape.series), scrape.values, strict=True))


def test_a_group_that_fails_is_put_back_whole_and_named() -> None:
    one = poll()
    with one.group("fine"):
        one.gauge("a", 1)
    with one.group("ill", instead=lambda: {"b": None}):
        one.gauge("b", 1)
        one.gauge("c", 1)
        one.event("e", 9, "x", {})
        raise KeyError("colour")
    assert points(one) == {"a": 1.0, "b": None}
    assert not [record for record in one.records if isinstance(record, OperationsEvent)]
    assert "KeyError" in one.faults["ill"].reason
    assert "report it" in one.faults["ill"].mend
    assert {"fine", "ill"} <= one.tried


@pytest.mark.parametrize(
    "error", [Unavailable("db", "away", "start it"), asyncio.CancelledError(), KeyboardInterrupt()]
)
def test_what_says_that_nothing_can_be_asked_leaves_the_group(error: BaseException) -> None:
    with pytest.raises(type(error)), poll().group("g"):
        raise error


def test_what_the_collector_calls_fatal_leaves_group_and_row() -> None:
    one = poll(is_fatal=lambda error: isinstance(error, OSError))
    with pytest.raises(OSError, match="gone"), one.group("g"), one.row({"a": 1}):
        raise OSError("gone")


def test_an_error_that_is_known_is_told_with_its_mend() -> None:
    one = poll(explain=lambda error: Fault("closed", "open it") if isinstance(error, PermissionError) else None)
    with one.group("g"):
        raise PermissionError
    assert (one.faults["g"].reason, one.faults["g"].mend) == ("closed", "open it")


def test_a_row_that_fails_is_a_dead_letter_with_its_bytes_and_the_others_go_on() -> None:
    one = poll()
    with one.group("rows"):
        for row in ({"name": "a", "value": 1}, {"name": "b"}, {"name": "c", "value": 3}):
            with one.row(row):
                one.gauge(str(row["name"]), row["value"])
    seen = one.collected()
    assert points(one) == {"a": 1.0, "c": 3.0}
    assert seen.rows == [("rows: KeyError: 'value'", b'{"name":"b"}')]
    assert "1 rows could not be read" in seen.faults["rows of rows"].reason


def test_rows_beyond_the_bound_are_counted() -> None:
    one = poll()
    with one.group("g"):
        for number in range(MAX_ROWS_REFUSED + 5):
            with one.row(number):
                raise ValueError
    seen = one.collected()
    assert (len(seen.rows), seen.left_out) == (MAX_ROWS_REFUSED, 5)


@pytest.mark.parametrize("value", ["x", object(), [1], {}, b"\xff"])
def test_a_point_that_is_no_number_costs_itself(value: Any) -> None:
    one = poll()
    with one.group("g"):
        one.points |= {"a": 1.0, "b": value}
    assert points(one) == {"a": 1.0}
    assert len(one.collected().rows) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, None])
def test_a_number_that_no_record_holds_is_unmeasured(value: Any) -> None:
    one = poll()
    one.gauge("a", value)
    assert points(one) == {"a": None}


@pytest.mark.parametrize("name", ["\udcff", "a\nb", "\x00", "x" * 10_000, b"\xe9", 7])
def test_any_name_makes_a_record_that_can_be_written(name: Any) -> None:
    one = poll()
    one.gauge("a", 1, {"b": name})
    one.points[f'c{{d="{name}"}}'] = 1.0
    one.event("e", 9, f"body {name}", {"f": name, "g": 2**70, "h": float("nan")})
    for record in one.collected().records:
        assert record.model_dump_json().encode()


def test_a_secret_is_in_nothing_that_leaves() -> None:
    one = poll()
    with one.group("g"):
        with one.row("password=hunter2canary"):
            raise ValueError("postgresql://u:hunter2canary@h/x")
        one.event("e", 9, "postgresql://u:hunter2canary@h/x", {"a": "password=hunter2canary"})
    with one.group("ill"):
        raise ValueError("token=hunter2canary")
    assert "hunter2canary" not in repr(one.collected())


def test_texts_that_differ_beyond_the_bound_stay_two() -> None:
    one, other = name_of("x" * 1_000 + "a"), name_of("x" * 1_000 + "b")
    assert one != other
    assert len(one) == len(other) == MAX_VALUE
    assert readable("a\nb\tc") == "a\nb\tc"
    assert name_of(b"caf\xe9") == name_of("caf\udce9") == "caf\\xe9"


def test_a_payload_never_raises() -> None:
    class Ill:
        def __repr__(self) -> str:
            raise ValueError

    assert payload(Ill()) == b"a Ill that cannot be shown"
    assert payload({"a": "\udcff"})
    circle: list[Any] = []
    circle.append(circle)
    assert payload(circle)
