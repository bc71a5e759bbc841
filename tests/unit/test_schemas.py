"""Series, codec, calendars and estates: what they promise, and what they say of bad input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.calendar import DAY_MS, Calendar, Campaign, CutOff, Shift
from schemas.codec import Envelope, Reason, Received, Rejected, decode, encode, encode_heartbeat
from schemas.estate import Estate
from schemas.records import Change, Heartbeat, Scrape
from schemas.series import identity, parse

names = st.from_regex(r"[a-z_][a-z0-9_.]{0,20}", fullmatch=True)
SATURDAY_NOON_MS = 1_795_262_400_000  # 2026-11-21T12:00:00Z
SCRAPE = Scrape.of({"b": 1.0, "a": None}, cell="eu1", resource="pg", system="postgresql", time_ms=5)


@given(names, st.dictionaries(names, st.text(max_size=30), max_size=4))
def test_a_series_is_what_its_identity_says(name: str, attributes: dict[str, str]) -> None:
    text = identity(name, attributes)
    assert "\n" not in text
    assert parse(text) == (name, attributes)


@pytest.mark.parametrize("text", ["", "1a", 'a{b="c"', "a{b=c}", 'a{b="c\n"}', "a b"])
def test_what_is_no_series_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not name"):
        parse(text)


def test_a_scrape_is_sorted_and_keeps_what_was_not_measured() -> None:
    assert (SCRAPE.series, SCRAPE.values) == ("a\nb", (None, 1.0))


@pytest.mark.parametrize(
    ("values", "says"),
    [("[1.0]", "2 series but 1 values"), ("[1.0, NaN]", "finite number"), ("[1.0, 1e999]", "finite number")],
)
def test_a_scrape_that_does_not_fit_is_refused(values: str, says: str) -> None:
    text = f'{{"cell":"c","resource":"r","system":"s","time_ms":1,"series":"a\\nb","values":{values}}}'
    with pytest.raises(ValidationError, match=says):
        Scrape.model_validate_json(text)


def test_a_record_comes_back_from_the_wire_as_it_was() -> None:
    wire = encode(SCRAPE, Envelope("src", 7, 1_795_230_000_000))
    assert wire.key == b"eu1"
    assert decode(wire.headers, wire.value, wire.timestamp_ms) == Received(
        Envelope("src", 7, 1_795_230_000_000), SCRAPE
    )


def test_a_heartbeat_comes_back_from_the_wire() -> None:
    wire = encode_heartbeat(Heartbeat(publisher="p", time_ms=9))
    assert decode(wire.headers, wire.value, wire.timestamp_ms) == Heartbeat(publisher="p", time_ms=9)


def _with(header: str, value: bytes) -> list[tuple[str, bytes]]:
    wire = encode(SCRAPE, Envelope("src", 7, 5))
    return [(name, value if name == header else text) for name, text in wire.headers]


@pytest.mark.parametrize(
    ("headers", "body", "reason", "says"),
    [
        (
            _with("ce_type", b"com.pilothouse.metrics.scrape.v9"),
            b"{}",
            Reason.UNKNOWN_VERSION,
            "it reads com.pilothouse.metrics",
        ),
        (_with("ce_type", b"org.other"), b"{}", Reason.UNKNOWN_TYPE, "none of ours"),
        ([], b"{}", Reason.UNKNOWN_TYPE, "none of ours"),
        (_with("ce_type", b"com.pilothouse.metrics.scrape.v1"), b"{", Reason.INVALID, "JSON"),
        (_with("ce_type", b"com.pilothouse.metrics.scrape.v1"), b'{"cell":1}', Reason.INVALID, "cell"),
        (_with("ce_sequence", b"seven"), SCRAPE.model_dump_json().encode(), Reason.INVALID, "ce_sequence"),
        (_with("ce_type", b"com.pilothouse.metrics.scrape.v1"), None, Reason.INVALID, "JSON"),
    ],
)
def test_what_cannot_be_read_is_a_value_with_its_bytes(headers: object, body: bytes, reason: Reason, says: str) -> None:
    found = decode(headers, body, 5)  # type: ignore[arg-type]
    assert isinstance(found, Rejected)
    assert (found.reason, found.payload) == (reason, body or b"")
    assert says in found.detail


def test_a_shift_over_midnight_covers_the_morning_after() -> None:
    calendar = Calendar(name="night", shifts=(Shift(days=("friday",), opens="22:00", closes="06:00"),))
    midnight = SATURDAY_NOON_MS - 12 * 3_600_000
    assert [calendar.at(midnight + hour * 3_600_000).is_open for hour in (-3, -1, 5, 6, 22)] == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_a_day_of_the_clock_change_keeps_local_time() -> None:
    calendar = Calendar(
        name="berlin", time_zone="Europe/Berlin", shifts=(Shift(days=("sunday",), opens="08:00", closes="09:00"),)
    )
    october_25_7am_utc, march_29_6am_utc = 1_792_911_600_000, 1_774_764_000_000
    assert calendar.at(october_25_7am_utc).is_open
    assert calendar.at(march_29_6am_utc).is_open
    assert not calendar.at(october_25_7am_utc - 3_600_000).is_open


def test_the_next_cut_off_is_that_of_the_carrier_on_a_working_day() -> None:
    calendar = Calendar(
        name="c", cut_offs=(CutOff(at="16:00"), CutOff(carrier="Rapid", at="14:00")), holidays=("2026-11-23",)
    )
    monday_16 = SATURDAY_NOON_MS + 2 * DAY_MS + 4 * 3_600_000
    assert calendar.next_cut_off(SATURDAY_NOON_MS) == monday_16 + DAY_MS
    assert calendar.next_cut_off(SATURDAY_NOON_MS, "Rapid") == monday_16 + DAY_MS - 2 * 3_600_000


def test_a_campaign_says_its_load_while_it_lasts() -> None:
    campaign = Campaign(name="sale", starts="2026-11-21T11:00:00Z", ends="2026-11-21T12:00:00Z", load=3)
    calendar = Calendar(name="c", campaigns=(campaign,))
    assert [calendar.at(SATURDAY_NOON_MS + ms).load for ms in (-1, 0)] == [3, 1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"calendars": [{"name": "x", "time_zone": "Europe/Atlantis"}]}, "Europe/Atlantis"),
        ({"tenants": [{"name": "a"}, {"name": "a"}]}, "tenant 'a' is declared 2 times"),
        ({"tenants": [{"name": "a", "calendar": "never"}]}, "calendar 'never' is not declared"),
        ({"resources": [{"name": "r", "system": "s", "tenant": "zz"}]}, "tenant 'zz' is not in cell c"),
        ({"resources": [{"name": "r", "system": "s", "depends_on": ["q"]}]}, "depends_on 'q'"),
        ({"resources": [{"name": "r", "system": "s", "url": "redis://:secret@h/0"}]}, "write url: {env: NAME}"),
    ],
)
def test_an_estate_that_does_not_fit_says_what_and_where(change: dict[str, object], says: str) -> None:
    cell = {"name": "c", "tenants": [{"name": "a"}]} | {
        key: value for key, value in change.items() if key != "calendars"
    }
    with pytest.raises(ValidationError) as caught:
        Estate.model_validate({"cells": [cell], "calendars": change.get("calendars", [])})
    assert says in str(caught.value)


def test_a_change_needs_a_known_kind() -> None:
    with pytest.raises(ValidationError, match="'release', 'module_upgrade'"):
        Change.model_validate(
            {
                "cell": "c",
                "time_ms": 1,
                "change_id": "1",
                "kind": "whim",
                "status": "started",
                "service": "s",
                "revision": "1",
                "origin": "generic",
            }
        )
