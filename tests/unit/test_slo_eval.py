"""`slo eval`: the workbook's rules over a CSV file, set against a real Prometheus and against sums made by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from pilothouse.cli import app
from pilothouse.slo_eval import evaluate
from processors.budgets import EVENT, Terms, Track, doubt, group_counts, intervals, ratio
from schemas import openslo
from schemas.burn_rates import SEVERITIES, WORKBOOK
from schemas.slo import Target, slos

GOLDEN = Path(__file__).parent.parent / "golden" / "slo"
SLO = GOLDEN / "availability.openslo.yaml"
T0 = 1_700_000_040


def write(path: Path, rows: list[tuple[Any, ...]], header: str = "timestamp,good,total") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["slo", "eval", *map(str, arguments)])


def variant(path: Path, change: dict[str, Any]) -> Path:
    """The golden SLO with some fields of its spec replaced; annotations go to its metadata."""
    content = yaml.safe_load(SLO.read_text())
    content["metadata"]["annotations"] = change.pop("annotations", {})
    content["spec"] |= change
    file = path / "variant.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("name", ["fast", "slow", "lowtraffic", "young"])
def test_alerts_are_those_of_a_real_prometheus(tmp_path: Path, name: str) -> None:
    """The expected intervals were told by Prometheus 2.42 with Sloth's rules, at every minute."""
    csv = tmp_path / f"{name}.csv"
    csv.write_bytes(gzip.decompress((GOLDEN / f"{name}.csv.gz").read_bytes()))
    result = run("--slo", SLO, "--input", csv, "-o", "json")
    assert result.exit_code == 0, result.stderr
    answer, expected = json.loads(result.stdout), json.loads((GOLDEN / f"{name}.expected.json").read_text())
    assert {severity: answer[severity] for severity in SEVERITIES} == expected


Rows = list[tuple[int, int, int]]


@st.composite
def gappy_series(draw: st.DrawFn) -> Rows:
    """Minutes with bursts of errors, of which stretches are missing."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, 1_200))
    total = rng.poisson(draw(st.sampled_from([0.05, 1, 30])), size)
    share = np.where(
        (np.arange(size) // draw(st.integers(5, 200))) % 3 == 1, draw(st.sampled_from([0.005, 0.05, 1])), 0
    )
    bad = rng.binomial(total, share)
    rows = [(T0 + 60 * k, int(total[k] - bad[k]), int(total[k])) for k in range(size)]
    for _ in range(draw(st.integers(0, 3))):
        hole = draw(st.integers(2, max(2, size - 1)))
        del rows[hole : hole + draw(st.integers(1, 90))]
    return rows


def by_hand(rows: Rows) -> dict[str, list[list[int]]]:
    """Every window of every step summed row by row: a row belongs to it when it began in it and is known."""
    since = [T0 - 60, *(at for at, _, _ in rows)]
    found: dict[str, list[list[int]]] = {severity: [] for severity in SEVERITIES}
    for step in range(rows[0][0], rows[-1][0] + 1, 60):

        def burns(length_ms: int, limit: float, step: int = step) -> bool:
            inside = [
                row
                for begin, row in zip(since, rows, strict=False)
                if begin >= step - length_ms // 1000 and row[0] <= step
            ]
            bad, total = sum(row[2] - row[1] for row in inside), sum(row[2] for row in inside)
            rate = 1000 / length_ms
            return total > 0 and (bad * rate) / (total * rate) > limit

        for severity in SEVERITIES:
            rules = [rule for rule in WORKBOOK if rule.severity == severity]
            limits = [rule.factor(30 * 86_400_000) * 0.001 for rule in rules]
            firing = any(
                burns(rule.short_ms, limit) and burns(rule.long_ms, limit)
                for rule, limit in zip(rules, limits, strict=True)
            )
            if firing and found[severity] and found[severity][-1][1] == step - 60:
                found[severity][-1][1] = step
            elif firing:
                found[severity].append([step, step])
    return found


@settings(max_examples=12)
@given(rows=gappy_series())
def test_alerts_are_those_of_sums_made_by_hand(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> None:
    answer = evaluate(SLO, write(tmp_path_factory.mktemp("slo") / "rows.csv", rows)).as_json()
    assert {severity: answer[severity] for severity in SEVERITIES} == by_hand(rows)


@settings(max_examples=20)
@given(
    rows=gappy_series(),
    moves=st.sampled_from([10**9, 288]),
    method=st.sampled_from([{}, {"method": "Timeslices", "slice_ms": 300_000, "slice_target": 0.99}]),
    sleeps=st.booleans(),
)
def test_step_by_step_is_the_same_as_in_blocks(rows: Rows, moves: int, method: dict[str, Any], sleeps: bool) -> None:
    """The pipeline goes on minute by minute and may sleep while nothing comes, `slo eval` goes in blocks of thousands."""
    (slo,) = slos(openslo.DOCUMENTS.validate_python([yaml.safe_load(SLO.read_text())]))
    target = Target.model_validate(slo.targets[0].model_dump() | method)
    terms = Terms(target, slo.period, moves=moves)
    counts = {at // 60: group_counts(total - good, total, 60_000) for at, good, total in rows}
    steps = np.arange(rows[0][0] // 60, rows[-1][0] // 60 + 1)
    awake = np.array([step in counts or not sleeps for step in steps])
    one_by_one, alerts = Track(terms, 1), []
    for step in steps[awake]:
        if step in counts:
            one_by_one.add(0, counts[step])
        alerts.append(one_by_one.advance_to(int(step)).legs[-1])
    came = np.cumsum([counts.get(step, np.zeros(3, np.int64)) for step in steps], axis=0)[:, :, None]
    block = Track(terms, 1, block=steps.size)
    at_once = block.advance(steps, came, came)
    assert (np.array(alerts) == at_once.legs[awake]).all()
    assert (one_by_one.in_period() == block.in_period()).all()


def test_one_row_is_judged_by_itself(tmp_path: Path) -> None:
    answer = evaluate(SLO, write(tmp_path / "one.csv", [(T0, 0, 100)])).as_json()
    assert (answer["page"], answer["ticket"]) == ([[T0, T0]], [[T0, T0]])
    assert answer["objectives"][0]["budget_left"] == -999.0
    assert answer["objectives"][0]["time_to_exhaustion_s"] == 0


def test_a_row_without_values_is_not_measured_rather_than_zero(tmp_path: Path) -> None:
    rows: list[tuple[Any, ...]] = [(T0 + 60 * k, 99, 100) for k in range(30)]
    holes = [*rows[:10], *((at, "", "nan") for at, _, _ in rows[10:20]), *rows[20:]]
    with_holes = evaluate(SLO, write(tmp_path / "holes.csv", holes)).as_json()
    without = evaluate(SLO, write(tmp_path / "without.csv", rows[:10] + rows[20:])).as_json()
    assert with_holes["unmeasured_rows"] == 10
    assert [with_holes[key] for key in ("page", "objectives")] == [without[key] for key in ("page", "objectives")]


def test_rows_that_are_further_apart_are_judged_when_they_come(tmp_path: Path) -> None:
    answer = evaluate(SLO, write(tmp_path / "rows.csv", [(T0 + 300 * k, 90, 100) for k in range(20)])).as_json()
    assert answer["page"] == [[T0, T0 + 19 * 300]]
    assert answer["step_s"] == 300


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty; its first line names the columns: timestamp,good,total"),
        ("timestamp,good\n1,1\n", "has no column 'total'"),
        ("timestamp,good,total\n", "holds no rows"),
        ("timestamp,good,total\n60,1,1\nsoon,1,1\n", "line 3: timestamp: 'soon' is no instant"),
        ("timestamp,good,total\n60,1,many\n", "line 2: total: 'many' is no number"),
        ("timestamp,good,total\n60,1\n", "line 2 has 2 cells and none for total"),
        ("timestamp,good,total\n60,1,1\n60,1,1\n", "line 3: timestamp 60 stands twice"),
        ("timestamp,good,total\n120,1,1\n60,1,1\n", "line 3: timestamp 60 comes after 120; sort the file"),
        ("timestamp,good,total\n60,2,1\n", "line 2: good 2, total 1: good is more than total"),
        ("timestamp,good,total\n60,-1,1\n", "is below 0"),
        ("timestamp,good,total\n60,1,inf\n", "total is infinite"),
        ("timestamp,good,total\n170000004000,1,1\n", "no time between 1970 and 2103 in s, nor"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, text: Any, says: str) -> None:
    file = tmp_path / "rows.csv"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = run("--slo", SLO, "--input", file)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "rows.csv" in result.stderr


def test_counters_are_read_by_their_rise_and_a_fall_is_no_measurement(tmp_path: Path) -> None:
    spec = yaml.safe_load(SLO.read_text())["spec"]["indicator"]
    spec["spec"]["ratioMetric"]["counter"] = True
    rows = [(T0, 1_000, 1_000), (T0 + 60, 1_090, 1_100), (T0 + 120, 5, 5), (T0 + 180, 95, 105)]
    answer = evaluate(variant(tmp_path, {"indicator": spec}), write(tmp_path / "rows.csv", rows)).as_json()
    assert answer["objectives"][0]["events"] == 200
    assert answer["objectives"][0]["bad_events"] == 20
    assert answer["unmeasured_rows"] == 2


def test_few_events_are_no_page_when_the_slo_says_so(tmp_path: Path) -> None:
    """One failure of ten requests an hour is 100 times the allowed rate, and chance; six of ten are not."""
    quiet = [(T0 + 60 * k, int(k % 6 == 0), int(k % 6 == 0)) for k in range(120)]
    once = [(at, 0 if k == 60 else good, total) for k, (at, good, total) in enumerate(quiet)]
    often = [(at, 0 if 60 <= k < 95 else good, total) for k, (at, good, total) in enumerate(quiet)]
    careful = variant(tmp_path, {"annotations": {"pilothouse.com/low-traffic-chance": "0.001"}})
    assert evaluate(SLO, write(tmp_path / "once.csv", once)).as_json()["page"]
    assert not evaluate(careful, tmp_path / "once.csv").as_json()["page"]
    assert evaluate(careful, write(tmp_path / "often.csv", often)).as_json()["page"]


def test_the_doubt_is_an_upper_bound_of_the_binomial_tail() -> None:
    for events, bad, share in ((10, 1, 0.0144), (10, 3, 0.0144), (500, 12, 0.0144), (4, 4, 0.01)):
        chances = [1.0]
        for _ in range(events):
            chances = [
                (chances[k] if k < len(chances) else 0) * (1 - share) + (chances[k - 1] * share if k else 0)
                for k in range(len(chances) + 1)
            ]
        bound = doubt(group_counts(bad, events, 0)[:, None], share)[0]
        assert sum(chances[bad:]) <= bound * (1 + 1e-9)
        assert bound <= 1


def test_unmeasured_time_freezes_an_alert_when_the_slo_says_so(tmp_path: Path) -> None:
    burning = [(T0 + 60 * k, 90, 100) for k in range(60)]
    after = [(T0 + 60 * k, 100, 100) for k in range(90, 130)]
    rows = write(tmp_path / "rows.csv", burning + after)
    plain = evaluate(SLO, rows).as_json()["page"]
    frozen = evaluate(variant(tmp_path, {"annotations": {"pilothouse.com/freeze-unmeasured": "true"}}), rows).as_json()
    assert plain[-1][1] < T0 + 60 * 90
    # Known as soon as half of 5 minutes is, held over the hole, over when half of 30 minutes is known to be fine.
    assert frozen["page"] == [[T0 + 60 * 2, T0 + 60 * 104]]


def test_slices_are_good_or_bad_as_a_whole(tmp_path: Path) -> None:
    """Ten minutes; in two of them 40 % fail, which a slice target of 95 % makes bad."""
    rows = write(tmp_path / "rows.csv", [(T0 + 60 * k, 60 if k in (3, 4) else 100, 100) for k in range(10)])
    objective = {"target": 0.9, "timeSliceWindow": "1m", "timeSliceTarget": 0.95}
    whole = evaluate(variant(tmp_path, {"budgetingMethod": "Timeslices", "objectives": [objective]}), rows)
    shares = evaluate(variant(tmp_path, {"budgetingMethod": "RatioTimeslices", "objectives": [objective]}), rows)
    assert [whole.as_json()["objectives"][0][key] for key in ("events", "bad_events")] == [10, 2]
    assert [shares.as_json()["objectives"][0][key] for key in ("events", "bad_events")] == [10, 0.8]


def test_a_calendar_budget_begins_anew_with_its_month(tmp_path: Path) -> None:
    month = 1_701_385_200  # December 2023 in Berlin
    rows = [(month + 3_600 * k, 90 if k < 0 else 99, 100) for k in range(-30, 30)]
    window = [{"duration": "1M", "calendar": {"startTime": "2023-01-01 00:00:00", "timeZone": "Europe/Berlin"}}]
    answer = evaluate(variant(tmp_path, {"timeWindow": window}), write(tmp_path / "rows.csv", rows)).as_json()
    assert answer["objectives"][0]["events"] == 2_900
    assert answer["objectives"][0]["bad_events"] == 29


def test_a_value_is_held_against_the_objective(tmp_path: Path) -> None:
    indicator = {"spec": {"thresholdMetric": {"metricSource": {"type": "csv", "spec": {"column": "seconds"}}}}}
    objective = {"target": 0.9, "op": "lte", "value": 0.5}
    rows = write(tmp_path / "rows.csv", [(T0, 0.5), (T0 + 60, 0.6), (T0 + 120, 0.1)], "timestamp,seconds")
    answer = evaluate(variant(tmp_path, {"indicator": indicator, "objectives": [objective]}), rows).as_json()
    assert [answer["objectives"][0][key] for key in ("events", "bad_events")] == [3, 1]


def test_several_objectives_are_judged_side_by_side(tmp_path: Path) -> None:
    objectives = [{"displayName": "strict", "target": 0.999}, {"displayName": "lax", "targetPercent": 50}]
    rows = write(tmp_path / "rows.csv", [(T0 + 60 * k, 90, 100) for k in range(5)])
    answer = evaluate(variant(tmp_path, {"objectives": objectives}), rows).as_json()
    strict, lax = answer["objectives"]
    assert answer["page"] == strict["page"] == [[T0, T0 + 240]]
    assert (lax["page"], lax["budget_left"]) == ([], 0.8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"budgetingMethod": "Sometimes"}, "'Occurrences', 'Timeslices' or 'RatioTimeslices'"),
        ({"budgetingMethod": "Timeslices"}, "needs timeSliceWindow and timeSliceTarget"),
        ({"objectives": [{"target": 1.5}]}, "less than 1, not 1.5; a target is a share such as 0.999"),
        ({"objectives": [{"target": 0.9, "targetPercent": 90}]}, "exactly one of target"),
        ({"timeWindow": [{"duration": "30 days", "isRolling": True}]}, "such as 30d"),
        ({"timeWindow": [{"duration": "30d"}]}, "isRolling: true or has a calendar"),
        ({"indicator": None, "indicatorRef": "latency"}, "indicatorRef 'latency' is no SLI"),
        ({"indicator": {"spec": {}}}, "exactly one of thresholdMetric and ratioMetric"),
        ({"colour": "red"}, "colour"),
        ({"annotations": {"pilothouse.com/by": "moon"}}, "'cell' or 'tenant'"),
        ({"annotations": {"pilothouse.com/low-trafic": "1"}}, "known are by, cells"),
    ],
)
def test_an_slo_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    rows = write(tmp_path / "rows.csv", [(T0, 1, 1)])
    result = run("--slo", variant(tmp_path, change), "--input", rows)
    assert result.exit_code == 2
    assert says in result.stderr


def test_runs_of_steps_join_over_blocks() -> None:
    found: list[list[int]] = []
    intervals(np.array([True, False, True, True]), np.array([1, 2, 3, 4]), found)
    intervals(np.array([True, False]), np.array([5, 6]), found)
    assert found == [[1, 1], [3, 5]]


def test_no_events_are_no_verdict() -> None:
    assert np.isnan(ratio(group_counts(0, 0, 0)[:, None])[0])
    assert ratio(group_counts(1, 4, 0)[:, None])[0] == 0.25
    assert group_counts(1, 4, 0)[1] == EVENT * 4


@pytest.mark.parametrize("text", ["", "# nothing\n", "hello\n", "---\nkind: SLO\n"])
def test_a_file_without_an_slo_says_what_it_needs(tmp_path: Path, text: str) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(text, encoding="utf-8")
    result = run("--slo", path, "--input", tmp_path / "none.csv")
    assert result.exit_code == 2
    assert "openslo/v1" in result.stderr or "apiVersion: Field required" in result.stderr
