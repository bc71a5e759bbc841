"""What reaches a terminal: no character that it obeys, none that nobody sees, no secret."""

from __future__ import annotations

import json
import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pilothouse import tail
from pilothouse.cli import app
from pilothouse.commands.answers import MISUSE, UNREACHABLE, errors_told
from pilothouse.logs import Fields
from pilothouse.terminal import clean, shown
from schemas import masking

HOSTILE = "a\x1b[2J\x1b]52;c;aGk=\x07b\x9bc\u202ed\u2066e\u200ff\x00g\x08h\rI\u2028j\U000e0041k\ud800l"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_shown(text: str) -> None:
    kept = shown(text)
    assert not {unicodedata.category(sign) for sign in kept.replace("\n", "").replace("\t", "")} & {
        "Cc",
        "Cs",
        "Zl",
        "Zp",
    }
    assert not set(kept) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
    assert "\n" not in clean(text)
    kept.encode()


def test_words_in_any_script_are_left_as_they_are() -> None:
    text = "Zürich → 東京, שלום, 95 % ▁▂▃█\n\tsecond line 👩‍🚒"
    assert shown(text) == text


def test_an_explanation_of_hostile_words_is_harmless(tmp_path: Path) -> None:
    golden = json.loads((Path(__file__).parents[1] / "golden/records/v1/signal.v1.json").read_text())
    signal = golden.get("value", golden)
    signal["summary"] = HOSTILE.replace("\ud800", "")
    (tmp_path / "found.jsonl").write_text(json.dumps(signal) + "\n")
    for form in ((), ("-o", "json")):
        result = CliRunner().invoke(app, ["explain", signal["id"], "--in", str(tmp_path / "found.jsonl"), *form])
        assert result.exit_code == 0, result.output
        assert not set(result.output) & set("\x1b\x9b\u202e\u2066\x07\x08")
    assert json.loads(result.stdout)["summary"] == signal["summary"]


def test_a_record_as_json_is_the_same_to_a_machine() -> None:
    record = {"body": HOSTILE.replace("\ud800", ""), "value": 0.1, "large": 2**63}
    line = tail._as_json(json.dumps(record, ensure_ascii=False).encode())
    assert json.loads(line) == record
    assert line.isascii()
    assert "\x1b" not in tail._as_json(b"\x1b[2J no json")


def test_a_log_line_is_harmless_and_without_what_was_learned() -> None:
    masking.learn("canary-of-this-test")
    record = logging.makeLogRecord(
        {"msg": HOSTILE, "levelname": "INFO", "name": "x", "reason": "see canary-of-this-test"}
    )
    line = Fields("%(message)s").format(record)
    assert "\x1b" not in line
    assert "canary" not in line


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(2, "No such file", "x"), MISUSE),
        (IsADirectoryError(21, "Is a directory", "x"), MISUSE),
        (PermissionError(13, "Permission denied", "x"), MISUSE),
        (OSError(28, "No space left on device", "x"), UNREACHABLE),
        (OSError(98, "Address already in use"), UNREACHABLE),
        (ConnectionRefusedError(111, "refused"), UNREACHABLE),
        (TimeoutError(), UNREACHABLE),
        (ExceptionGroup("", [ConnectionError("a"), OSError(2, "No such file", "x")]), UNREACHABLE),
    ],
)
def test_an_error_from_outside_has_an_exit_code_and_words(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exception) as ended, errors_told():  # noqa: PT011 (typer's Exit)
        raise error
    assert getattr(ended.value, "exit_code", None) == code
    assert capsys.readouterr().err.startswith("pilothouse: ")


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), errors_told():
        raise KeyError("ours")
