"""How records become rows: what is cleaned, what is left out, what is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Envelope, Received
from schemas.records import DeadLetter, LogBatch, OperationsEvent, Record, Scrape
from sinks.sink import Message
from sinks.timescale import copy_format
from sinks.timescale.rows import COLUMNS, DAY_MS, Rows, add, json, letter_row

NOW_MS = 1_795_000_000_000


def message(record: Record) -> Message:
    return Message("t", 0, 7, NOW_MS, b"eu1", [], b"bytes", Received(Envelope("ingest-0", 3, NOW_MS), record))


def logs(*times_ms: int) -> LogBatch:
    count = len(times_ms)
    columns: dict[str, Any] = {"tenants": (None,) * count, "severity_numbers": (9,) * count, "bodies": ("x",) * count}
    return LogBatch(cell="eu1", resource="r", system="odoo", time_ms=max(times_ms), times_ms=times_ms, **columns)


def test_log_lines_outside_the_window_are_left_out_and_the_letter_keeps_them() -> None:
    rows = Rows()
    refused = add(rows, message(logs(NOW_MS, NOW_MS - 40 * DAY_MS)), NOW_MS)
    assert len(rows.tables["logs"]) == 1
    assert rows.tables["records"][0][-1] == 1
    assert refused is not None
    assert refused.payload == b"bytes"
    assert "1 of 2 log lines" in refused.detail


def test_a_record_of_last_year_or_of_next_week_is_refused_whole_and_the_reason_names_the_window() -> None:
    for days in (-365, 7):
        rows = Rows()
        refused = add(rows, message(logs(NOW_MS + days * DAY_MS)), NOW_MS)
        assert refused is not None
        assert "stored is 2026-10-14" in refused.detail
        assert not any(rows.tables.values())


def test_every_row_has_a_value_for_each_column() -> None:
    rows = Rows()
    event = OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name="n", attributes={"a": "\x00"})
    add(rows, message(event), NOW_MS)
    add(rows, message(logs(NOW_MS)), NOW_MS)
    for table in ("operations", "logs", "records"):
        assert [len(row) for row in rows.tables[table]] == [len(COLUMNS[table])] * len(rows.tables[table])


@given(st.recursive(st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=5))
def test_json_never_holds_what_jsonb_refuses(value: Any) -> None:
    text = json(value)
    assert "\\u0000" not in text.replace("\\\\", "")
    orjson.loads(text)


def test_a_backslash_before_u0000_is_not_a_nul() -> None:
    assert orjson.loads(json({"path": "C:\\u0000"})) == {"path": "C:\\u0000"}


def test_letters_from_no_place_are_told_apart_by_their_bytes() -> None:
    def letter(payload: str) -> DeadLetter:
        place: dict[str, Any] = {"topic": "http", "partition": -1, "offset": -1}
        return DeadLetter(**place, reason="r", detail="d", payload=payload, time_ms=1, rejected_by="receiver")

    assert letter_row(letter("YQ=="))[-1] != letter_row(letter("Yg=="))[-1]
    assert letter_row(letter("YQ=="))[-1] == letter_row(letter("YQ=="))[-1]
    assert letter_row(letter("not base64!"))[8] == b"not base64!"


def test_points_are_laid_out_as_binary_copy_wants_them_and_gaps_have_no_row() -> None:
    copied, count = copy_format.points(946_684_800_001, np.array([7, 8, 9]), (1.5, None, -2.0))
    row = ">hiqiqid"
    assert copied == struct.pack(row, 3, 8, 1000, 8, 7, 8, 1.5) + struct.pack(row, 3, 8, 1000, 8, 9, 8, -2.0)
    assert count == 2


def test_a_scrape_waits_for_its_series_and_leaves_no_row_yet() -> None:
    rows = Rows()
    scrape = Scrape.of({"up": 1.0}, cell="eu1", resource="r", system="odoo", time_ms=NOW_MS)
    assert add(rows, message(scrape), NOW_MS) is None
    assert [one for _, one in rows.scrapes] == [scrape]
    assert not any(rows.tables.values())
