"""Nothing that a customer wrote leaves in a query text, and equal statements become equal texts."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Iterator
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
    "SELECT 1 -- to a carriage return\r, 'x'": "SELECT ?",
    "SELECT 1 -- to the end of the line\r\n, 'x'": "SELECT ?",
    "SELECT \u2003E'it\\'s', 'x'": "SELECT \u2003E?",
    "SELECT\u00a0'x'": "SELECT\u00a0?",
    "SELECT \u0661, a": "SELECT \u0661, a",
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


# An independent reading of PostgreSQL's scanner (src/backend/parser/scan.l), one character after the other.


def read_by_hand(text: str, *, conforming: bool) -> Iterator[tuple[str, str]]:
    """Tokens as (what, text): names, operators and blanks may be seen, literals and comments may not."""
    at = 0
    while at < len(text):
        what, end = token_by_hand(text, at, conforming=conforming)
        yield what, text[at:end]
        at = end


def token_by_hand(text: str, at: int, *, conforming: bool) -> tuple[str, int]:
    one, two, three = text[at], text[at : at + 2], text[at : at + 3]
    if two == "--":
        ends = [found for mark in "\n\r" if (found := text.find(mark, at)) >= 0]
        return "comment", min(ends, default=len(text))
    if two == "/*":
        return "comment", comment_by_hand(text, at + 2)
    if one == "'":
        return "literal", string_by_hand(text, at + 1, escapes=not conforming)
    if two in ("e'", "E'"):
        return "literal", string_by_hand(text, at + 2, escapes=True)
    if two and two[0] in "bBxX" and two[1:] == "'":
        return "literal", string_by_hand(text, at + 2, escapes=False)
    if two in ("n'", "N'"):
        return "literal", string_by_hand(text, at + 2, escapes=not conforming)
    if three in ("u&'", "U&'"):
        return "literal", string_by_hand(text, at + 3, escapes=False)
    if one == '"' or three in ('u&"', 'U&"'):
        return name_by_hand(text, at + (1 if one == '"' else 3))
    if one == "$":
        return dollars_by_hand(text, at)
    if starts_a_name(one):
        end = at + 1
        while end < len(text) and (starts_a_name(text[end]) or text[end] in "0123456789$"):
            end += 1
        return "name", end
    return ("number" if one in "0123456789" else "other"), at + 1


def starts_a_name(one: str) -> bool:
    return one == "_" or "a" <= one <= "z" or "A" <= one <= "Z" or one >= "\x80"


def comment_by_hand(text: str, at: int) -> int:
    depth = 1
    while at < len(text) and depth:
        if text[at : at + 2] in ("/*", "*/"):
            depth += 1 if text[at] == "/" else -1
            at += 1
        at += 1
    return at


def string_by_hand(text: str, at: int, *, escapes: bool) -> int:
    while at < len(text):
        if (escapes and text[at] == "\\") or text[at : at + 2] == "''":
            at += 2
        elif text[at] == "'":
            return continued_by_hand(text, at + 1, escapes=escapes)
        else:
            at += 1
    return len(text)


def continued_by_hand(text: str, end: int, *, escapes: bool) -> int:
    """A string goes on in another quotation of the same kind behind blanks with an end of line among them."""
    at, lines = end, False
    while at < len(text) and (text[at] in " \t\n\r\f\v" or (lines and text[at : at + 2] == "--")):
        if text[at] == "-":
            while at < len(text) and text[at] not in "\n\r":
                at += 1
            continue
        lines = lines or text[at] in "\n\r"
        at += 1
    return string_by_hand(text, at + 1, escapes=escapes) if lines and text[at : at + 1] == "'" else end


def name_by_hand(text: str, at: int) -> tuple[str, int]:
    while at < len(text):
        if text[at : at + 2] == '""':
            at += 2
        elif text[at] == '"':
            return "name", at + 1
        else:
            at += 1
    return "literal", len(text)  # it was cut: nobody knows what it is


def dollars_by_hand(text: str, at: int) -> tuple[str, int]:
    end = at + 1
    if text[end : end + 1] and starts_a_name(text[end]):
        while end < len(text) and (starts_a_name(text[end]) or text[end] in "0123456789"):
            end += 1
    if text[end : end + 1] != "$":
        return "other", at + 1
    tag = text[at : end + 1]
    close = text.find(tag, end + 1)
    return "literal", len(text) if close < 0 else close + len(tag)


MARKS = [chr(code) for code in range(0x4E00, 0x4E00 + 60)]
"""Letters to PostgreSQL; each stands at one place of a text only."""
PIECES = [
    *"'\"\\$ \n\r\t.,();+-*/=aEeNxU_19\u00a0\u2003\u3000\u0661\x1f\x85\x0b",
    *("''", "\\'", "\\\\", "E'", "e'", "N'", "U&'", "u&\"", "x'", "$$", "$a$", "$1", "--", "/*", "*/", "'\n'", "1e", "\u2003E'", "\r'"),
]  # fmt: skip


def statement(drawn: random.Random) -> str:
    marks = iter(MARKS)
    pieces = (next(marks) if drawn.random() < 0.35 else drawn.choice(PIECES) for _ in range(drawn.randint(1, 50)))
    return "".join(pieces)[: drawn.randint(1, 120)]


def seen_by_hand(text: str) -> set[str]:
    """The marks that no reading takes for a part of a literal or a comment."""
    readings = []
    for conforming in (True, False):
        tokens = read_by_hand(text, conforming=conforming)
        hidden = "".join(token for what, token in tokens if what in ("literal", "comment"))
        readings.append(set(MARKS) - set(hidden))
    return set.intersection(*readings)


def agree_on(number: int, seed: int) -> None:
    drawn = random.Random(seed)
    for _ in range(number):
        text = statement(drawn)
        assert set(normalise(text)) & set(MARKS) <= seen_by_hand(text), repr(text)


def test_nothing_is_shown_that_an_independent_reading_hides() -> None:
    agree_on(5_000, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_shown_that_an_independent_reading_hides_in_many_texts(seed: int) -> None:
    agree_on(60_000, seed=100 + seed)
