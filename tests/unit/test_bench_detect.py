"""The benchmark's score follows its published definition."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.evaluation import nab

START = datetime.fromisoformat("2014-01-01")
ROWS, WINDOW = 1_000, (500, 599)


def labelled(folder: Path, scores: dict[int, float]) -> list[nab.Labelled]:
    times = [START + timedelta(minutes=5 * row) for row in range(ROWS)]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    lines = [f"{time},1,{scores.get(row, 0.0)}" for row, time in enumerate(times)]
    (folder / "data" / "one.csv").write_text("timestamp,value,anomaly_score\n" + "\n".join(lines) + "\n")
    (folder / "labels.json").write_text(json.dumps({"data/one.csv": [[str(times[row]) for row in WINDOW]]}))
    return nab.read(folder, folder / "labels.json")


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ({}, 0.0),
        ({500: 1.0}, 100.0),
        ({500: 1.0, 550: 1.0}, 100.0),  # only the first one counts
        ({10: 1.0, 500: 1.0}, 100.0),  # the first 15 % are for learning
        ({200: 1.0, 500: 1.0}, 100 * (2 - 0.11) / 2),  # before any window: the whole cost
        ({500: 1.0, 999: 1.0}, 100 * (2 - 0.11) / 2),  # far behind the window
        ({599: 1.0}, 51.2),  # at its very end: nothing missed, next to nothing earned
        ({200: 0.5, 500: 1.0}, 100.0),  # the threshold lies between
    ],
)
def test_what_is_found_early_and_alone_scores(scores: dict[int, float], wanted: float, tmp_path: Path) -> None:
    assert nab.score(labelled(tmp_path, scores), nab.COST["standard"])[0] == pytest.approx(wanted, abs=0.1)


def test_a_given_threshold_is_applied_as_it_is(tmp_path: Path) -> None:
    files = labelled(tmp_path, {200: 0.5, 500: 1.0})
    assert nab.score(files, 0.11, threshold=0.4) == (pytest.approx(100 * (2 - 0.11) / 2), 0.4)
    assert nab.found(files, 0.4) == (1, 1)


def test_the_bench_says_what_it_needs(tmp_path: Path) -> None:
    for arguments, said in ((["detect"], "--data DIR"), (["detect", "--data", str(tmp_path)], "holds none of nab/")):
        result = CliRunner().invoke(app, ["bench", *arguments])
        assert result.exit_code == 2
        assert said in result.output
