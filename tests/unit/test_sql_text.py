"""Nothing that a customer wrote leaves in a query text, and equal statements become equal texts."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.collectors.sql_text import MAX_OUTPUT, normalise

SECRET = "IBAN-4711"
RECORDED = Path(__file__).parents[1] / "golden" / "postgresql" / "odoo_activity_queries.csv"

EXAMPLES = {
    'UPDATE "res_partner" SET "comment" = \'<p>y</p>\', "write_uid" = 2 WHERE id IN (14, 15)': (
        'UPDATE "res_partner" SET "comment" = ?, "write_uid" = ? WHERE id IN (?)'
    ),
    "SELECT $1::int, x1.t2, b$1 FROM a WHERE c IN ($2,$3)": "SELECT ?::int, x1.t2, b$1 FROM a WHERE c IN (?)",
    "INSERT INTO a (x, y) VALUES (1, 'it''s'),\n (-2, 'b')": "INSERT INTO a (x, y) VALUES (?)",
    r"SELECT E'it\'s' || N'x', date'2026-01-01', X'FF'": "SELECT ? || ?, date?",
    "DO $body$ BEGIN; 'a' $$b$$ $body$": "DO ?",
    "SELECT 1 -- why\n, 2.5e-3 /* a /* nested */ comment */ - 0xFF": "SELECT ? - ?",
    "SELECT a-1 WHERE b = -1": "SELECT a-? WHERE b = ?",
    'SAVEPOINT "8f2c1d"': "SAVEPOINT ?",
    "RELEASE SAVEPOINT s_77": "RELEASE SAVEPOINT ?",
    'SELECT "a ""b"" c"': 'SELECT "a ""b"" c"',
    "<insufficient privilege>": "<insufficient privilege>",
    "": "",
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_statement_keeps_its_shape_and_loses_its_literals(text: str) -> None:
    assert normalise(text) == EXAMPLES[text]


def test_a_statement_and_its_prepared_form_read_the_same() -> None:
    assert normalise("SELECT id FROM t WHERE a = 'x' AND b IN (1, 2)") == normalise(
        "SELECT id FROM t WHERE a = $1 AND b IN ($2)"
    )


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def quoted_the_old_way(value: str) -> str:
    """As sessions with standard_conforming_strings = off write it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def escaped(value: str) -> str:
    return "E" + quoted_the_old_way(value)


def in_dollars(value: str) -> str:
    return f" $t${value.replace('$', '')}$t$"


def remarked(value: str) -> str:
    return f"/* {value.replace('*', '').replace('/', '')} */"


def remarked_to_the_end_of_the_line(value: str) -> str:
    return "--" + value.replace("\n", " ") + "\n"


values = st.text(
    st.sampled_from("a1 '\"\\$;,()[]{}-*/?\né\u0663") | st.characters(exclude_categories=["Cs"]), max_size=12
)
secrets = st.tuples(values, values).map(SECRET.join)
hidden = st.builds(
    lambda way, value: way(value),
    st.sampled_from([quoted, quoted_the_old_way, escaped, in_dollars, remarked, remarked_to_the_end_of_the_line]),
    secrets,
)
plain = st.sampled_from(
    [
        "SELECT ",
        " FROM res_partner2 ",
        ' "na""me" ',
        "(",
        ")",
        ", ",
        " = ",
        "::jsonb",
        " ->> ",
        "a$1",
        " $1 ",
        "-",
        "\n",
    ]
)
numbers = st.integers(min_value=4711000).map(str) | st.floats(min_value=4711.5, max_value=4711.9).map(str)


@given(st.lists(hidden | plain | numbers.map(" {} ".format), max_size=12), st.integers(0, 400))
def test_no_literal_survives_whole_or_cut(pieces: list[str], cut: int) -> None:
    text = "".join(pieces)
    for shown in (normalise(text), normalise(text[:cut])):
        assert "IBAN" not in shown
        assert "4711" not in shown


@given(st.text(max_size=300))
def test_any_text_is_read_to_its_end_within_the_limit(text: str) -> None:
    shown = normalise(text)
    assert "'" not in shown
    assert len(shown) <= MAX_OUTPUT


def test_no_text_takes_long() -> None:
    traps = ["'", "''''\\", "$a$", "(", "(?,", "(a),", "- ", "/*", '"', "$", "1e", "(a", "E'\\"]
    started = time.process_time()
    for trap in traps:
        normalise(trap * 16_000)
    assert time.process_time() - started < 2


def test_a_long_text_is_cut_visibly() -> None:
    shown = normalise("SELECT " + ", ".join(f"column_{name}" for name in "abcdefgh" * 100))
    assert len(shown) == MAX_OUTPUT
    assert shown.endswith("…")


def test_the_queries_of_a_running_odoo_lose_their_literals() -> None:
    with RECORDED.open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 9
    assert [normalise(pair["query"]) for pair in pairs] == [pair["normalised"] for pair in pairs]
