"""What an explanation says, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.explanation import POINTS_MAX, Measured, Told, UnknownId, answer, whole_id
from pilothouse.explanation_text import sparkline, text
from schemas.calendar import Calendar
from schemas.impact import CutOffStake, Impact
from schemas.records import Cause, Evidence, Incident, Inhibited, Part, Phase, Scrape, Severity, Signal, Silenced
from schemas.words import number

T0 = 1_795_262_400_000
PING = "redis.ping.duration"
DONE = 'odoo.queue_job.done{tenant.id="acme"}'


def signal(identity: str = "s1", phase: Phase = Phase.OPEN, at_ms: int = T0, **more: Any) -> Signal:
    fields: dict[str, Any] = {
        "cell": "eu1", "time_ms": at_ms, "id": identity, "phase": phase, "detector": "baseline",
        "cause": "redis.latency:valkey-eu1", "resource": "valkey-eu1", "started_ms": T0, "severity": Severity.WARNING,
        "score": 0.9, "summary": "redis.ping.duration of valkey-eu1 is 0.5 s",
        "evidence": (
            Evidence(text="the ping takes 0.5 s, usually 0.001", series=PING, value=0.5, expected=0.001, scale=0.01, time_ms=T0),
        ),
    }  # fmt: skip
    return Signal(**(fields | more))


def incident(version: int = 1, **more: Any) -> Incident:
    fields: dict[str, Any] = {
        "cell": "eu1", "time_ms": T0 + version * 1_000, "id": "i1", "version": version, "phase": Phase.OPEN,
        "started_ms": T0, "severity": Severity.CRITICAL, "title": "Redis is slow",
        "causes": (
            Cause(cause="storage:pg-eu1", probability=0.7, against=(Evidence(text="no other disk is slow"),)),
            Cause(cause="redis.latency:valkey-eu1", probability=0.3),
        ),
        "signals": ("s1", "s2"),
    }  # fmt: skip
    return Incident(**(fields | more))


def scrape(at_ms: int, points: dict[str, float | None], resource: str = "valkey-eu1", start_ms: int = T0) -> Scrape:
    return Scrape.of(points, cell="eu1", resource=resource, system="redis", time_ms=at_ms, start_time_ms=start_ms)


def explained(told: Told, measured: Measured | None = None, **more: Any) -> dict[str, Any]:
    made = answer(told, measured or Measured(told.series()), [], **more)
    json.dumps(made)
    return made


def test_a_signal_says_what_was_expected_and_how_far_it_was() -> None:
    made = explained(Told("s1", {"s1": [signal(), signal(phase=Phase.RESOLVED, at_ms=T0 + 60_000)]}))
    assert made["evidence"][0]["distance"] == 49.9
    assert (made["lasted_s"], made["ended"]) == (60, "2026-11-21T12:01:00.000Z")
    assert [one["phase"] for one in made["told"]] == ["open", "resolved"]
    assert "value 0.5 s, expected 0.001 s, usual spread 0.01 s, 49.9 spreads above, 2026-11-21 12:00:00 UTC" in text(
        made
    )


def test_what_kept_a_signal_from_being_told_is_said() -> None:
    stories = [
        incident(1, signals=("s2",)),
        incident(2, inhibited=(Inhibited(signal="s1", cause="redis.latency:valkey-eu1", by=("storage:pg-eu1",)),)),
    ]
    made = explained(Told("s1", {"s1": [signal()]}, {"i1": stories}))
    (joined,) = made["incidents"]
    assert joined["versions"] == [2]
    assert joined["inhibited_by"] == ["storage:pg-eu1"]
    assert (joined["rank"], joined["probability"], joined["joined_with"]) == (2, 0.3, ["s2"])
    assert "not told by itself, because these explain it: storage:pg-eu1" in text(made)


def test_a_signal_that_no_incident_joined_was_told_to_nobody() -> None:
    assert "nobody was alerted" in text(explained(Told("s1", {"s1": [signal()]})))


def test_an_incident_says_its_causes_with_what_is_for_and_against_them_and_what_it_joins() -> None:
    other = signal("s2", cause="queue.backlog:acme", tenant="acme")
    made = explained(Told("i1", {"s1": [signal()], "s2": [other]}, {"i1": [incident(1), incident(2, split_from="i0")]}))
    assert [one["cause"] for one in made["causes"]] == ["storage:pg-eu1", "redis.latency:valkey-eu1"]
    assert [one["id"] for one in made["signals"]] == ["s1", "s2"]
    shown = text(made)
    assert "against: no other disk is slow" in shown
    assert "part of incident i0 before" in shown


def test_what_misses_a_cut_off_is_said_with_its_time() -> None:
    late = CutOffStake(documents=9, value=7_000.0, cut_off_ms=1_795_276_800_000, carrier="DHL")
    told = Told("i1", {}, {"i1": [incident(impact=Impact(documents=12, value=9_000.0, by_cut_off=(late,)))]})
    made = explained(told)
    assert made["impact"]["by_cut_off"][0]["cut_off"] == "2026-11-21T16:00:00.000Z"
    assert "9 will miss the cut-off of DHL" in text(made)


def test_what_is_on_its_way_is_said_though_nothing_is_late() -> None:
    way = {"exposed": 16, "exposed_by_type": {"sale.order": 3, "stock.picking": 13}}
    for until_ms, said in ((1_795_276_800_000, "; the next cut-off is at 2026-11-21 16:00:00 UTC"), (None, "")):
        made = explained(Told("i1", {}, {"i1": [incident(impact=Impact(**way, exposed_until_ms=until_ms))]}))
        shown = text(made)
        assert f"16 open documents are delayed if it goes on (sale.order 3, stock.picking 13){said}\n" in shown + "\n"
        assert "0 documents" not in shown


def test_the_calendar_of_the_tenant_tells_the_phase_and_the_evidence_does_without_it() -> None:
    told = Told("s1", {"s1": [signal(evidence=(Evidence(text="x", phase="month end"),))]})
    assert explained(told)["calendar_phase"] == "month end"
    assert explained(told, calendar=Calendar(name="always"))["calendar_phase"] == "open"
    assert "name the estate with -c" in text(explained(Told("s1", {"s1": [signal()]})))


def test_values_are_told_before_during_and_after_and_a_gap_is_not_a_zero() -> None:
    told = Told("s1", {"s1": [signal(), signal(phase=Phase.RESOLVED, at_ms=T0 + 10_000)]})
    measured = Measured(told.series())
    for second in range(-20, 10):
        value = None if second == -5 else 0.5 if second >= 0 else 0.001
        measured.take(scrape(T0 + second * 1_000, {PING: value}))
    measured.take(scrape(T0, {PING: 9.0}, resource="valkey-us1"))
    (shown,) = explained(told, measured)["measured"]
    assert shown["before"] == {"looks": 19, "min": 0.001, "median": 0.001, "max": 0.001}
    assert shown["during"] == {"looks": 10, "min": 0.5, "median": 0.5, "max": 0.5}
    assert shown["after"] is None
    assert "after  not measured" in text(explained(told, measured))


def test_of_a_counter_the_rate_is_told_and_a_reset_is_none() -> None:
    told = Told("s1", {"s1": [signal(evidence=(Evidence(text="jobs", series=DONE),))]})
    measured = Measured(told.series())
    for second, (value, start) in enumerate([(10, 0), (14, 0), (2, 1), (5, 1)]):
        measured.take(scrape(T0 + second * 2_000, {DONE: float(value)}, start_ms=T0 + start))
    (shown,) = explained(told, measured)["measured"]
    assert [value for _, value in shown["points"]] == [2.0, 1.5]
    assert shown["unit"] == "job/s"


def test_many_values_are_thinned_and_drawn_in_a_line() -> None:
    told = Told("s1", {"s1": [signal()]})
    measured = Measured(told.series())
    for second in range(1_000):
        measured.take(scrape(T0 + second * 1_000, {PING: float(second)}))
    assert len(explained(told, measured)["measured"][0]["points"]) <= POINTS_MAX
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([0.0, 7.0]) == "▁█"
    assert len(sparkline([float(one) for one in range(1_000)])) == 40


def test_a_long_episode_is_measured_in_its_first_hours() -> None:
    told = Told("s1", {"s1": [signal(), signal(at_ms=T0 + 86_400_000)]})
    from_ms, to_ms = told.window()
    assert from_ms < T0
    assert to_ms - from_ms < 3 * 3_600_000


def test_an_incident_alone_explains_a_signal_whose_own_records_are_gone() -> None:
    made = explained(Told("s1", {}, {"i1": [incident(1)]}))
    assert made["incidents"][0]["id"] == "i1"
    assert "only incidents tell of it" in text(made)


def test_an_incident_that_is_part_of_a_story_of_the_fleet_says_so() -> None:
    parts = (Part(cell="eu1", incident="i1", phase=Phase.OPEN), Part(cell="us1", incident="i9", phase=Phase.OPEN))
    fleet = incident(1, id="f1", cell="fleet", title="a release is ill in two cells", parts=parts, signals=())
    made = explained(Told("i1", {"s1": [signal()]}, {"f1": [fleet], "i1": [incident(1)]}))
    assert (made["cell"], made["incidents"][0]["id"], made["incidents"][0]["joined_with"]) == ("eu1", "f1", ["i9"])
    assert "us1: incident i9 (open)" in text(explained(Told("f1", {}, {"f1": [fleet]})))


def test_an_incident_says_who_had_it_silenced_and_why() -> None:
    mark = Silenced(silence="s9", author="ada", reason="month end, known", until_ms=T0 + 60_000)
    made = explained(Told.of("i1", [incident(1, silenced=mark), incident(2)]))
    assert made["silenced"] is None
    assert "ada had it silenced until 2026-" in text(made)
    assert "(s9): month end, known" in text(made)


def test_the_first_signs_of_an_id_stand_for_it_unless_several_are_meant() -> None:
    found = [signal("abcd1"), signal("abcd2", cause="queue.backlog:acme"), incident(1, id="i7777", signals=("abcd1",))]
    assert (whole_id("abcd1", found), whole_id("i777", found), whole_id("i77", found)) == ("abcd1", "i7777", None)
    with pytest.raises(
        UnknownId, match=r"'abcd' is the begin of 2 ids[^\n]*\n  abcd1  signal, redis.latency:valkey-eu1"
    ):
        whole_id("abcd", found)


def test_a_signal_is_told_at_its_worst_and_a_change_by_its_last_verdict() -> None:
    worst = signal(severity=Severity.CRITICAL, score=0.9, summary="as bad as it was")
    over = signal(phase=Phase.RESOLVED, at_ms=T0 + 9_000, score=0.1, summary="nearly well")
    assert explained(Told("s1", {"s1": [worst, over]}))["summary"] == "as bad as it was"
    judged = [signal(verdict="regressed"), signal(phase=Phase.RESOLVED, verdict="recovered", score=0.0, summary="well")]
    assert "verdict recovered" in text(explained(Told("s1", {"s1": judged})))


def test_tellings_that_say_the_same_are_counted() -> None:
    same = [signal(phase=Phase.UPDATED, at_ms=T0 + number) for number in range(50)]
    shown = text(explained(Told("s1", {"s1": [signal(), *same, signal(phase=Phase.RESOLVED, at_ms=T0 + 60)]})))
    assert "and 49 times more like that" in shown
    assert shown.count("updated") == 1


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0"), (12_345.6, "12,346"), (0.123456, "0.1235"), (1e-12, "0"), (0.0000123, "1.2e-05")]
)
def test_numbers_have_no_more_digits_than_people_read(value: float, said: str) -> None:
    assert number(value) == said


def _file(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_a_file_of_findings_and_metrics_is_explained_without_a_broker(tmp_path: Path) -> None:
    measured = [scrape(T0 + second * 1_000, {PING: 0.001 * second}) for second in (-2, -1, 0)]
    path = _file(
        tmp_path / "run.jsonl",
        *({"type": Scrape.type, "record": one.model_dump(mode="json")} for one in measured),
        {"signal": signal("s1234").model_dump(mode="json")},
        signal("s1234", phase=Phase.RESOLVED, at_ms=T0 + 5_000).model_dump(mode="json"),  # as replay writes it
        {"incident": incident(signals=("s1234",)).model_dump(mode="json")},
    )
    result = CliRunner().invoke(app, ["explain", "s123", "--in", str(path), "-o", "json"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert (made["id"], made["phase"], made["measured"][0]["before"]["looks"]) == ("s1234", "resolved", 2)
    assert [one["id"] for one in made["incidents"]] == ["i1"]
    unknown = CliRunner().invoke(app, ["explain", "zzzz", "--in", str(path)])
    assert unknown.exit_code == 1
    assert "no signal or incident 'zzzz' stands in" in unknown.output
    assert "s1234  signal, redis.latency:valkey-eu1" in unknown.output


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("{", "line 1"), ('{"signal": {"id": 1}}', "line 1"), ("id,score\n", "line 1")],
)
def test_a_file_that_holds_no_findings_is_misuse(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "run.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    result = CliRunner().invoke(app, ["explain", "s1234", "--in", str(path)])
    assert result.exit_code == 2
    assert said in result.output.replace("\n", " ")
