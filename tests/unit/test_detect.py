"""`pilothouse detect`: what comes out for good files, and what is said of bad ones."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pilothouse.cli import app

START = 1_400_000_000
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def rows(count: int, odd: dict[int, float] | None = None, seed: int = 1) -> str:
    """A day's wave with noise, every five minutes."""
    rng = random.Random(seed)
    values = [10 + 3 * math.sin(at / 288 * math.tau) + rng.gauss(0, 0.3) for at in range(count)]
    for at, value in (odd or {}).items():
        values[at] = value
    return "timestamp,value\n" + "".join(f"{START + at * 300},{value!r}\n" for at, value in enumerate(values))


def detect(source: Path, out: Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["detect", str(source), "--out", str(out)])
    assert result.exit_code == code, result.output
    return result.output


def scores(path: Path) -> list[float]:
    with path.open() as file:
        return [float(row["anomaly_score"]) for row in csv.DictReader(file)]


def test_a_tree_comes_back_as_the_same_tree_with_a_score_a_row(write: Write, tmp_path: Path) -> None:
    write("a/one.csv", rows(700))
    write("two.csv", rows(50))
    write("notes.txt", "no series")
    detect(tmp_path / "in", tmp_path / "out")
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")) == [
        "a/one.csv",
        "two.csv",
    ]
    told = (tmp_path / "out" / "a" / "one.csv").read_text().splitlines()
    given = (tmp_path / "in" / "a" / "one.csv").read_text().splitlines()
    assert told[0] == "timestamp,value,anomaly_score"
    assert [line.rsplit(",", 1)[0] for line in told] == given
    assert all(0 <= score <= 1 for score in scores(tmp_path / "out" / "a" / "one.csv"))


def test_what_has_never_been_has_the_highest_score_where_it_begins(write: Write, tmp_path: Path) -> None:
    detect(write("one.csv", rows(1_200, {900: 40.0, 901: 40.0, 902: 40.0})), tmp_path / "out")
    told = scores(tmp_path / "out" / "one.csv")
    assert next(at for at, score in enumerate(told) if at > 100 and score > 0.95) == 900
    assert 900 <= told.index(max(told[100:])) <= 904
    assert sum(score > 0.95 for score in told[905:]) == 0


def test_a_day_without_its_peak_is_odd_although_every_value_is_usual(write: Write, tmp_path: Path) -> None:
    lines = rows(3_000).splitlines()
    night = [line.split(",")[1] for line in lines[1 + 2_016 + 216 : 1 + 2_016 + 216 + 20]]
    for at in range(2_592 + 36, 2_592 + 110):  # the hours of the peak look like the night
        lines[1 + at] = f"{lines[1 + at].split(',')[0]},{night[at % 20]}"
    detect(write("one.csv", "\n".join(lines) + "\n"), tmp_path / "out")
    told = scores(tmp_path / "out" / "one.csv")
    assert 2_592 + 30 <= told.index(max(told[600:])) <= 2_592 + 120


def test_the_same_file_twice_gives_the_same_bytes(write: Write, tmp_path: Path) -> None:
    source = write("one.csv", rows(400))
    detect(source, tmp_path / "first")
    detect(source, tmp_path / "second")
    assert (tmp_path / "first" / "one.csv").read_bytes() == (tmp_path / "second" / "one.csv").read_bytes()


def test_the_unit_of_a_series_is_irrelevant(write: Write, tmp_path: Path) -> None:
    source = rows(600, {500: 30.0})
    scaled = "\n".join(
        line if at == 0 else f"{line.split(',')[0]},{float(line.split(',')[1]) * 1024!r}"
        for at, line in enumerate(source.splitlines())
    )
    detect(write("a/one.csv", source).parent.parent, tmp_path / "x")
    detect(write("b/one.csv", scaled), tmp_path / "y")
    assert scores(tmp_path / "x" / "a" / "one.csv") == pytest.approx(scores(tmp_path / "y" / "one.csv"), abs=1e-6)


def test_a_gap_is_not_a_zero(write: Write, tmp_path: Path) -> None:
    lines = rows(900).splitlines()
    for at, cell in ((700, ""), (701, "NaN"), (702, "")):
        lines[at] = f"{lines[at].split(',')[0]},{cell}"
    answer = detect(write("one.csv", "\n".join([*lines[:720], *lines[760:]])), tmp_path / "out")
    told = scores(tmp_path / "out" / "one.csv")
    assert told[699:702] == [0.0, 0.0, 0.0]
    assert max(told[690:]) < 0.99
    assert "3 not measured" in answer


def test_a_row_that_stands_twice_is_passed_over_and_counted(write: Write, tmp_path: Path) -> None:
    lines = rows(300).splitlines()
    lines.insert(200, lines[199].split(",")[0] + ",9999")
    answer = detect(write("one.csv", "\n".join(lines)), tmp_path / "out")
    told = scores(tmp_path / "out" / "one.csv")
    assert len(told) == 301
    assert told[199] == 0.0
    assert "1 passed over" in answer


@pytest.mark.parametrize("text", ["timestamp,value\n2014-02-14 14:30:00,7\n", "value,timestamp,note\n7,1400000000,x\n"])
def test_one_row_is_answered(text: str, write: Write, tmp_path: Path) -> None:
    detect(write("one.csv", text), tmp_path / "out")
    assert scores(tmp_path / "out" / "one.csv") == [0.0]


def test_a_constant_has_no_anomaly(write: Write, tmp_path: Path) -> None:
    text = "timestamp,value\n" + "".join(f"{START + at * 300},45\n" for at in range(500))
    detect(write("one.csv", text), tmp_path / "out")
    assert max(scores(tmp_path / "out" / "one.csv")) == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; its first line names the columns: timestamp,value"),
        ("timestamp,value\n", "holds no rows"),
        ("timestamp,count\n1400000000,1\n", "has no column 'value'"),
        ("timestamp,value\n1400000000,many\n", "line 2: value: 'many' is no number"),
        ("timestamp,value\n1400000000,inf\n", "line 2: value is infinite"),
        ("timestamp,value\nyesterday,1\n", "line 2: timestamp: 'yesterday' is no instant"),
        ("timestamp,value\n1400000000\n", "line 2 has 1 cells and none for value"),
        ("timestamp,value\n-5,1\n", "line 2: timestamp: '-5' is before 1970"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_is_wrong(
    text: str, said: str, write: Write, tmp_path: Path
) -> None:
    path = write("bad.csv", text)
    answer = detect(path, tmp_path / "out", code=2)
    assert said in answer
    assert str(path) in answer
    assert not list((tmp_path / "out").rglob("*.*"))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"timestamp,value\n\xff\xfe\x00,1\n")
    assert "is not text in UTF-8" in detect(tmp_path / "bad.csv", tmp_path / "out", code=2)


def test_a_file_out_of_order_is_refused(write: Write, tmp_path: Path) -> None:
    head, *lines = rows(100).splitlines()
    path = write("bad.csv", "\n".join([head, *reversed(lines)]))
    assert "sort the file by timestamp" in detect(path, tmp_path / "out", code=2)
    assert not (tmp_path / "out" / "bad.csv").exists()


def test_what_is_not_there_and_what_would_be_overwritten_is_refused(write: Write, tmp_path: Path) -> None:
    path = write("one.csv", rows(10))
    assert "does not exist" in detect(tmp_path / "nowhere", tmp_path / "out", code=2)
    assert "would overwrite the input" in detect(path, path.parent, code=2)
    assert "would overwrite the input" in detect(path.parent, path.parent, code=2)
    assert "is a file; give a folder" in detect(path, path, code=2)
    (tmp_path / "empty").mkdir()
    assert "holds no *.csv file" in detect(tmp_path / "empty", tmp_path / "out", code=2)


def test_an_answer_for_machines_counts_rows(write: Write, tmp_path: Path) -> None:
    path = write("one.csv", rows(20))
    result = CliRunner().invoke(app, ["detect", str(path), "--out", str(tmp_path / "out"), "-o", "json"])
    assert '"rows": 20' in result.output
