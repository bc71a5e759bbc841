"""No regular expression of the program takes a time that grows faster than the text: texts are typed by strangers."""

from __future__ import annotations

import re

import pytest

from tests.support.patterns import every_pattern, in_source, worst


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
        "pilothouse.settings._BOOTSTRAP",
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
        r"(\w+\s*)+:",
        r"\s+$",
        r'"(?:[^"\\]|\\.)*"x',
        r"^(?:a+)+b",
        r"x*y*z",
        r"(?i)(?:[a-z]+_)*secret",
    ],
)
def test_a_pattern_that_grows_faster_is_found(slow: str) -> None:
    assert worst([("here", re.compile(slow))])


@pytest.mark.parametrize(
    "fast", [r"^\S++ x", r"a{1,64}b", r"(?<![\w.])[\w.]++@\w++", r"[^,]*+,", r"\d{4}-\d\d", r"^(?:[^'\\]|\\.)*+'"]
)
def test_a_pattern_that_does_not_is_let_pass(fast: str) -> None:
    assert worst([("here", re.compile(fast))]) == {}


def test_literals_inside_functions_are_found() -> None:
    source = "import re\ndef f(x):\n    return re.sub(r'a+b', '', x, flags=re.DOTALL | re.IGNORECASE)\n"
    ((where, pattern),) = in_source(source, "m.py")
    assert (where, pattern.pattern) == ("m.py:3", "a+b")
    assert pattern.flags & re.DOTALL
    assert pattern.flags & re.IGNORECASE
