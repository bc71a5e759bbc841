"""Times as files and people write them: a number is taken for what makes it plausible, or refused with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.csv_blocks import InputError, blocks
from pilothouse.times import SECONDS_MAX, instant, seconds

AT_MS = 1_700_000_040_000


@pytest.mark.parametrize(
    "text",
    ["1700000040", "1700000040.0", "1.70000004e9", "1700000040000", "1700000040000000", "1700000040000000000",
     "2023-11-14T22:14:00Z", "2023-11-14T23:14:00+01:00", " 1700000040 "],
)  # fmt: skip
def test_one_instant_is_read_in_every_unit(text: str) -> None:
    assert instant(text) == AT_MS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("20261025", "date without a zone, or Unix seconds of 1970"),
        ("2026-10-25", "names no time zone"),
        ("20261025120000", "no time between"),
        ("202610251200", "no time between"),
        ("5000000000", "no time between"),
        ("nan", "no time"),
        ("inf", "no time between"),
        ("1e400", "no time between"),
        ("-5", "before 1970"),
        ("yesterday", "no instant"),
        ("", "no instant"),
        ("0001-01-01T00:00:00+00:00", "not between 1970 and 2103"),
        ("9999-12-31T23:59:59-23:59", "2103"),
    ],
)
def test_what_is_no_plausible_time_is_refused_with_the_remedy(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        instant(text)
    assert "write RFC 3339" in str(refused.value)


def test_a_date_is_a_day_in_utc_where_no_zone_is_needed() -> None:
    assert seconds("20261025", needs_zone=False) == seconds("2026-10-25", needs_zone=False) == 1_792_886_400


@given(st.text(max_size=30) | st.floats().map(str) | st.integers().map(str))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        found = seconds(text, needs_zone=False)
    except ValueError as error:
        assert str(error)  # noqa: PT017 (that it is a ValueError is not known before)
    else:
        assert 0 <= found < SECONDS_MAX


def csv(folder: Path, text: str) -> Path:
    (folder / "rows.csv").write_text(text)
    return folder / "rows.csv"


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_a_file_may_count_in_any_unit(tmp_path: Path, unit: int) -> None:
    rows = "".join(f"{(1_700_000_040 + 60 * row) * unit},1\n" for row in range(20_000))
    found = [block.times_ms for block in blocks(csv(tmp_path, f"timestamp,value\n{rows}"), ["value"])]
    assert found[0][:2].tolist() == [AT_MS, AT_MS + 60_000]
    assert sum(map(len, found)) == 20_000


def test_dates_of_a_file_are_days_or_refused(tmp_path: Path) -> None:
    file = csv(tmp_path, "timestamp,value\n20261024,1\n20261025,1\n")
    (block,) = blocks(file, ["value"], strict=False)
    assert (block.times_ms[1] - block.times_ms[0]) == 86_400_000
    with pytest.raises(InputError, match=r"line 2: timestamp: '20261024' is a date without a zone"):
        list(blocks(file, ["value"]))


def test_seconds_since_a_begin_are_no_dates(tmp_path: Path) -> None:
    (block,) = blocks(csv(tmp_path, "timestamp,value\n0,1\n20261025,1\n"), ["value"])
    assert block.times_ms.tolist() == [0, 20_261_025_000]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("timestamp;value\n1;2\n", "parted by semicolons"),
        ("timestamp\tvalue\n1\t2\n", "parted by tabs"),
        ("timestamp,value,value\n1,2,3\n", "2 columns 'value'"),
        ("timestamp,value\n1,1e400\n", "line 2: value is infinite, got '1e400'"),
        ("timestamp,value\n1,1e300\n", "above 1e\\+100"),
        ('timestamp,value\n1,"1,5"\n', "a point in place of the comma"),
        ("timestamp,value\n1e400,1\n", "no time between"),
        ("timestamp,value\nnan,1\n", "line 2 has no timestamp"),
        ("timestamp,value\n,1\n", "line 2 has no timestamp"),
        ("timestamp,value\n1\n", "has 1 cells and none for value"),
        ("timestamp,value\n" + "9" * 200_000 + ",1\n", "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_line_and_value(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(blocks(csv(tmp_path, text), ["value"], strict=False))


def test_a_mark_of_the_order_of_bytes_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"\xef\xbb\xbftimestamp,value\r\n1,2\r\n\r\n3,\r\n")
    (block,) = blocks(file, ["value"])
    assert block.times_ms.tolist() == [1_000, 3_000]
