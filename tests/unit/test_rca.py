"""`pilothouse rca`: a case in a folder, as people and machines ask for it, and what is said of a folder that is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pilothouse.cli import app

GRAPH = ",orders service,stock\nweb,1.0,0.0\norders service,0.0,1.0\nstock,0.0,0.0\n"
SERVICES = ("web", "orders service", "stock")
KINDS = (("requests", "Sum"), ("latency", "Average"), ("availability", "Average"))
STEP_S = 300
TARGET = {"node": "web", "metric": "latency", "agg": "Average", "timestamp": 1_700_000_000 + 2 * STEP_S}


def table(rows: int, *, seed: int, slow_from: int | None = None, start_s: int = 1_700_000_000) -> list[str]:
    """Lines of a metrics file; the orders service is slow from a row on, and web waits for it."""
    rng = np.random.default_rng(seed)
    lines = [
        ",".join(("microservice", *(name for _ in KINDS for name in SERVICES))),
        ",".join(("metric", *(metric for metric, _ in KINDS for _ in SERVICES))),
        ",".join(("statistic", *(statistic for _, statistic in KINDS for _ in SERVICES))),
        "unix_timestamp" + "," * len(KINDS) * len(SERVICES),
    ]
    for row in range(rows):
        extra = 0.2 if slow_from is not None and row >= slow_from else 0.0
        stock, own_orders, own_web = 0.02 * rng.lognormal(0, 0.05, 3)
        orders = stock + own_orders + extra
        cells = [200, 200, 200, own_web + orders, orders, stock, 100, 100, 100]
        lines.append(",".join(map(str, (start_s + row * STEP_S, *cells))))
    return lines


@pytest.fixture
def case(tmp_path: Path) -> Path:
    (tmp_path / "graph.csv").write_text(GRAPH)
    (tmp_path / "normal.csv").write_text("\n".join(table(150, seed=1, start_s=1_690_000_000)))
    (tmp_path / "fault.csv").write_text("\n".join(table(5, seed=2, slow_from=2)))
    (tmp_path / "target.json").write_text(json.dumps(TARGET))
    return tmp_path


def ask(case: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["rca", str(case), *more])


def ranked(case: Path) -> list[str]:
    return [one["node"] for one in json.loads(ask(case, "-o", "json").stdout)["ranked"]]


def test_a_machine_gets_ranked_causes_whose_scores_add_up(case: Path) -> None:
    result = ask(case, "-o", "json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["ranked"][0]["node"]) == (1, "orders service")
    assert sum(one["score"] for one in answer["ranked"]) == pytest.approx(1)
    assert answer["affected"] == ["web"]


def test_a_person_reads_what_speaks_for_it(case: Path) -> None:
    text = ask(case).stdout
    assert "1. orders service" in text
    assert "usually 0.04 s, over 600 requests" in text
    assert "it explains what its callers have lost: web" in text


def test_health_is_answered_with_silence(case: Path) -> None:
    (case / "fault.csv").write_text("\n".join(table(5, seed=3)))
    result = ask(case, "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["ranked"]) == (0, [])
    assert "No fault" in ask(case).stdout


def test_the_order_of_rows_and_holes_in_them_make_no_difference(case: Path) -> None:
    lines = (case / "fault.csv").read_text().split("\n")
    holes = lines[4].rsplit(",", 3)[0] + ",,nan,inf"
    (case / "fault.csv").write_text("\n".join([*lines[:4], *reversed(lines[5:]), holes]))
    assert ranked(case)[0] == "orders service"


def test_one_row_of_a_fault_is_enough(case: Path) -> None:
    (case / "fault.csv").write_text("\n".join(table(1, seed=2, slow_from=0)))
    assert ranked(case)[0] == "orders service"


def test_a_file_from_a_spreadsheet_is_read(case: Path) -> None:
    """With a byte order mark, carriage returns and empty lines at its end."""
    for name in ("graph.csv", "normal.csv", "fault.csv"):
        text = (case / name).read_text().replace("\n", "\r\n") + "\r\n\r\n"
        (case / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert ranked(case)[0] == "orders service"


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("target.json", '"web"', '"shop"', "node 'shop' is neither in graph.csv nor in the metrics"),
        ("target.json", '"latency"', '"speed"', "metric is 'speed'; it must be latency or availability"),
        ("target.json", "1700000600", '"noon"', "timestamp is 'noon'; it must be in Unix seconds"),
        ("target.json", "{", "[", "not JSON"),
        ("graph.csv", "web,1.0,0.0", "web,1.0", "line 2 has 2 cells, the header has 3"),
        ("graph.csv", "web,1.0,0.0", "web,1.0,often", "line 2: 'often' is not a number"),
        ("normal.csv", "microservice,", "service,", "line 1 must begin with 'microservice', not 'service'"),
        ("normal.csv", "metric,requests,", "metric,", "10, 9 and 10 cells"),
        ("normal.csv", "requests", "calls", "no column of requests Sum"),
        ("normal.csv", "1690000300,", "1690000000,", "time 1690000000 stands there twice"),
        ("normal.csv", "1690000300,", "noon,", "'noon' is not a number"),
        ("normal.csv", "1690000300,", ",", "is not a time in Unix seconds"),
        ("fault.csv", "1700000300,200,", "1700000300,", "line 6 has 9 cells, the header has 10"),
        ("fault.csv", "1700000300,200,", "1700000300,many,", "line 6: 'many' is not a number"),
        ("fault.csv", "web,orders service,stock", "web,web,stock", "requests Sum of web stands in two columns"),
    ],
)
def test_a_fault_in_a_file_is_named_with_its_place(case: Path, name: str, old: str, new: str, says: str) -> None:
    text = (case / name).read_text()
    assert old in text
    (case / name).write_text(text.replace(old, new))
    result = ask(case)
    assert result.exit_code == 2
    assert says in result.stderr
    assert name in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["graph.csv", "normal.csv", "fault.csv", "target.json"])
def test_a_missing_an_empty_and_an_unreadable_file_are_named(case: Path, name: str) -> None:
    (case / name).write_bytes(b"\xff\xfe\x00")
    assert (ask(case).exit_code, name in ask(case).stderr) == (2, True)
    (case / name).write_bytes(b"")
    assert (ask(case).exit_code, name in ask(case).stderr) == (2, True)
    (case / name).unlink()
    result = ask(case)
    assert result.exit_code == 2
    assert f"{name}: no such file" in result.stderr


def test_rows_are_needed_to_know_what_is_usual(case: Path) -> None:
    lines = (case / "normal.csv").read_text().split("\n")
    (case / "normal.csv").write_text("\n".join(lines[:5]))
    assert "the normal period has 1 bins; at least 24 are needed" in ask(case).stderr
    (case / "fault.csv").write_text("\n".join(lines[:4]))
    assert "fault.csv: no row of values after the header" in ask(case).stderr


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    result = ask(tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "no such folder; a case has graph.csv" in result.stderr
