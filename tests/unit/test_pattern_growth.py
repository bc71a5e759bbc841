"""No regular expression of the program takes a time that grows faster than the text: texts are typed by strangers."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC

import pytest

from ingest.collectors.odoo_log_bodies import body, exception_type, shippable_bytes
from ingest.collectors.odoo_log_events import _cooled_down, _key_made, _logged_in
from ingest.collectors.odoo_log_hours import Hours
from ingest.collectors.odoo_log_lines import Entry, Habit, split
from ingest.collectors.sql_text import normalise, statement_end
from schemas.masking import masked
from tests.support.patterns import MOST_GROWTH, every_pattern, growth, in_source, worst


@pytest.fixture(scope="module")
def patterns() -> dict[str, re.Pattern[str]]:
    return every_pattern()


def test_patterns_are_found_wherever_they_stand(patterns: dict[str, re.Pattern[str]]) -> None:
    places = {where.partition("#")[0] for where in patterns}
    assert {
        "schemas.series._SERIES",
        "schemas.masking._TOKENS",
        "ingest.collectors.sql_text._TOKEN",
        "ingest.collectors.odoo_log_events._CRON_ENDED",
        "ingest.collectors.odoo_log_lines._QUOTING",
        "pilothouse.settings._BROKER",
    } <= places
    assert {where.partition(".py:")[0] for where in patterns if ".py:" in where} >= {
        "schemas/estate",
        "pilothouse/silence",
    }
    assert len(patterns) > 60


def test_no_pattern_grows_faster_than_its_text(patterns: dict[str, re.Pattern[str]]) -> None:
    once = {(pattern.pattern, pattern.flags): (where, pattern) for where, pattern in patterns.items()}
    assert worst(once.values()) == {}


@pytest.mark.soak
def test_no_pattern_grows_faster_than_its_text_on_very_many_texts(patterns: dict[str, re.Pattern[str]]) -> None:
    assert worst(patterns.items(), most=20_000) == {}


@pytest.mark.parametrize(
    "slow",
    [
        r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+",
        r"(?P<kind>.+) generated: scope: <(?P<scope>.*?)> for '(?P<login>.*)' \(#(?P<id>\d+)\) from (?P<ip>\S+)",
        r'\S+ - - \[[^\]]*\] "(?:(?P<method>[A-Z]+) )?(?P<path>\S*).*?" (?P<status>\d{3}) \S+\s*',
        r"(?<=login:).*(?= from )",
        r"(?:a|a)+$",
        r"\s+$",
        r'"(?:[^"\\]|\\.)*"x',
        r"^(?:a+)+b",
        r"x*y*z",
    ],
)
def test_a_pattern_that_grows_faster_is_found(slow: str) -> None:
    assert worst([("here", re.compile(slow))])


@pytest.mark.parametrize(
    "fast", [r"^\S++ x", r"a{1,64}b", r"(?<![\w.])[\w.]++@\w++", r"^[^,]*+,", r"\d{4}-\d\d", r"^(?:[^'\\]|\\.)*+'"]
)
def test_a_pattern_that_does_not_is_let_pass(fast: str) -> None:
    assert worst([("here", re.compile(fast))]) == {}


def test_literals_inside_functions_are_found() -> None:
    source = "import re\ndef f(x):\n    return re.sub(r'a+b', '', x, flags=re.DOTALL | re.IGNORECASE)\n"
    ((where, pattern),) = in_source(source, "m.py")
    assert (where, pattern.pattern) == ("m.py:3", "a+b")
    assert pattern.flags & re.DOTALL
    assert pattern.flags & re.IGNORECASE


def as_entry(text: str) -> Entry:
    return Entry(0, 1, "ERROR", None, "odoo.addons.base.models.res_users", text)


# What reads texts that strangers type, by what it is.
READERS: dict[str, Callable[[str], object]] = {
    "masked": masked,
    "normalise": normalise,
    "statement_end": lambda text: statement_end(text, "\nERROR: "),
    "body": lambda text: body(as_entry(text), mask=True),
    "a refused statement": lambda text: body(as_entry(f"bad query: {text}"), mask=True),
    "a dead letter": lambda text: shippable_bytes(text.encode(), mask=True),
    "exception_type": lambda text: exception_type(f"Traceback (most recent call last):\n{text}"),
    "a request": lambda text: Entry(0, 1, "INFO", None, "werkzeug", text).request,
    "a login": lambda text: _logged_in(f"Login failed for login:{text}"),
    "a cooldown": lambda text: _cooled_down(f"Login attempt ignored for ::1 (user '{text}"),
    "a key": lambda text: _key_made(f"{text} generated: scope: <{text}> for '{text}"),
    "a log": lambda text: list(split(text.encode(), Habit(Hours(UTC)), final=True, full=False)),
}
PUMPS = (
    "a", "1", " ", "\n", "'", '"', "\\", "(", ".", "@", "a@", "a.", "://", "a://u:", "\x1b[", "\x1b[1", "login:", " from ", "' (#", "'  on ",
    " generated: scope: <", "> for '", '" 200 - ', "Traceback (most recent call last):\n", "DETAIL: ", "Key (a)=(", "SELECT ", "select a from b ",
    "\nERROR: ", "/*", "--", "$a$", "password=", "Bearer ", "{", '{"time": 1, "message": ', "2026-11-21 03:00:00,125 7 INFO a b: x\n",
    "2026-11-21 03:00:00,125 7 INFO a odoo.addons.base.models.res_users: Login failed for login:x\n", "\r", "Ab1-", "<a",
)  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_no_reader_of_a_log_takes_longer_than_its_text(name: str) -> None:
    grown = {pump: growth(READERS[name], lambda size, pump=pump: pump * (size // len(pump))) for pump in PUMPS}  # type: ignore[misc]
    assert {pump: grew for pump, grew in grown.items() if grew > MOST_GROWTH} == {}
