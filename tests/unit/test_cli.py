"""The command line as a person meets it: wrong arguments, helpful words, exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pilothouse.cli import app
from pilothouse.demo.story import Story
from pilothouse.evaluation import latency

ESTATE = "cells: [{name: eu1, tenants: [{name: acme}]}]\n"
SERVICE = "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: orders}\nspec: {}\n"


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"PILOTHOUSE_KAFKA": "", **environ})


def test_check_says_what_an_estate_holds(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    result = run("check", "-c", str(tmp_path), "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["tenants"]) == (0, 1)


def test_check_says_whose_alerts_no_route_takes(tmp_path: Path) -> None:
    everybody = "platform, dba, security, erp_support, business_operations, executive"
    for given, says in (("dba", "no route takes platform, security, erp_support"), (everybody, ""), ("", "")):
        route = f"routes: [{{name: r, url: 'https://x.example/y', roles: [{given}]}}]"
        (tmp_path / "estate.yaml").write_text(ESTATE + route)
        result = run("check", "-c", str(tmp_path))
        assert result.exit_code == 0
        assert says in result.stdout if says else "no route" not in result.stdout


def test_check_says_what_keys_without_a_scope_may_write(tmp_path: Path) -> None:
    keys = "[{env: EDI_KEY, cells: [eu1], topics: [events.business.v1]}, {env: OLD_KEY}]"
    (tmp_path / "estate.yaml").write_text(ESTATE + f"receivers: [{{name: events, keys: {keys}}}]")
    result = run("check", "-c", str(tmp_path), EDI_KEY="x" * 40, OLD_KEY="y" * 40)
    assert result.exit_code == 0
    assert "receiver events: key EDI_KEY may write all tenants of the estate; cells, tenants and" in result.stdout
    assert "receiver events: key OLD_KEY may write all cells and tenants and topics of the estate" in result.stdout


@pytest.mark.parametrize(
    ("scope", "says"),
    [
        ("cells: [mars]", "receiver events: key X: cells names 'mars'; there are eu1"),
        ("tenants: [mars]", "tenants names 'mars'; there are acme"),
        ("topics: [signals.incidents.v1]", "topics names 'signals.incidents.v1'; there are events.business.v1"),
    ],
)
def test_check_names_what_a_scope_names_and_is_not_there(tmp_path: Path, scope: str, says: str) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE + f"receivers: [{{name: events, keys: [{{env: X, {scope}}}]}}]")
    result = run("check", "-c", str(tmp_path))
    assert result.exit_code == 1
    assert says in result.stderr


def test_check_reads_openslo_documents_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE)
    slo = (Path(__file__).parent.parent / "golden/slo/availability.openslo.yaml").read_text()
    slo = slo.replace("type: csv", "type: pilothouse").replace("column: good", "metric: redis.ping.duration")
    (tmp_path / "slos.yaml").write_text(
        f"{slo.replace('column: total', 'metric: redis.ping.duration')}\n---\n{SERVICE}"
    )
    result = run("check", "-c", str(tmp_path), "-o", "json")
    assert (result.exit_code, json.loads(result.stdout).get("SLOs")) == (0, 1), result.stdout
    (tmp_path / "slos.yaml").write_text(slo.replace("budgetingMethod", "budgetMethod"))
    result = run("check", "-c", str(tmp_path))
    assert result.exit_code == 1
    assert "slos.yaml:6: openslo.0.SLO.spec.budgetingMethod: Field required" in result.stderr


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ("{name: r, url: 'http://169.254.169.254/latest'}", "route r: its url leads to a link-local address"),
        ("{name: r, url: 'http://[::ffff:10.0.0.1]/x'}", "allow_private: true"),
        ("{name: r, url: 'https://x.example:99999/x'}", "route r: its url must be https://host/path; its port"),
        ("{name: r, url: 'https://user:hidden@x.example/x'}", "routes.0.url: the url holds a password before its host"),
        ("{name: r, url: {env: HOOK}, secret: {env: WEAK}}", "route r: its secret has 6 bytes"),
        ("{name: r, url: {env: LOCAL}}", "route r: its url leads to this machine"),
    ],
)
def test_check_says_which_route_cannot_work_without_its_secrets(tmp_path: Path, route: str, says: str) -> None:
    (tmp_path / "estate.yaml").write_text(ESTATE + f"routes: [{route}, {{name: fine, url: 'https://x.example/y'}}]")
    given = {"HOOK": "https://x.example/hidden", "WEAK": "whsec_aGlkZGVu", "LOCAL": "http://localhost:1/hidden"}
    result = run("check", "-c", str(tmp_path), **given)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "hidden" not in result.stderr
    assert "aGlkZGVu" not in result.stderr


def test_check_takes_a_receiver_inside_that_is_allowed_and_a_secret_that_is_elsewhere(tmp_path: Path) -> None:
    routes = "routes: [{name: r, url: 'http://127.0.0.1/x', allow_private: true, secret: {env: NOWHERE}}]"
    (tmp_path / "estate.yaml").write_text(ESTATE + routes)
    assert run("check", "-c", str(tmp_path), "--no-references").exit_code == 0
    result = run("check", "-c", str(tmp_path))
    assert (result.exit_code, "NOWHERE is not set" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cells: [{name: eu1, tenants: []}]", "tenants"),
        ("cells: [{name: eu1, tenants: [{name: acme, tier: golden}]}]", "'golden'"),
        ("cells: 7", "must be a list"),
        (
            ESTATE + "routes: [{name: db, url: 'https://x.example/y', roles: [dbas]}]",
            "routes.0.roles.0: Input should be 'platform', 'dba', 'security', 'erp_support', 'business_operations' or "
            "'executive', got 'dbas'",
        ),
        ("sells: []", "holds sells"),
        ("cells: [", "cannot be read as YAML"),
    ],
)
def test_check_names_the_file_and_the_fault(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    result = run("check", "-c", str(tmp_path))
    assert result.exit_code == 1
    assert says in result.stderr
    assert "mine.yaml" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("check", "-c", "/nowhere"), "is not a folder"),
        (("sink", "csv", "-c", "/nowhere"), "known are alerts, otlp, timescale"),
        (("topics", "tail", "telemetry.v0"), "is unknown"),
        (("demo", "--for", "20", "--scenario", "S1"), "--for 20 is too short"),
        (("demo", "--scenario", "S99"), "scenario 'S99' is unknown; known are"),
        (("bench", "speed"), "known are pipeline, sink, latency, correlator, rootcause, all and detect"),
        (("replay", "--from", "yesterday", "--to", "now"), "'yesterday' is no instant"),
        (("replay", "--from", "1", "--to", "2"), "PILOTHOUSE_KAFKA is not set"),
    ],
)
def test_misuse_is_told_from_failure(arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_an_instant_without_a_zone_is_refused() -> None:
    result = run("replay", "--from", "2026-11-20T08:00:00", "--to", "1", PILOTHOUSE_KAFKA="127.0.0.1:1")
    assert result.exit_code == 2
    assert "names no time zone" in result.stderr


def test_every_verb_has_an_example() -> None:
    verbs = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    for verb in verbs:
        assert "Example:" in run(verb, "--help").stdout, verb


def test_topics_export_writes_contracts(tmp_path: Path) -> None:
    assert run("topics", "export", str(tmp_path)).exit_code == 0
    assert (tmp_path / "asyncapi.yaml").exists()
    assert (tmp_path / "odcs" / "telemetry.metrics.v1.yaml").exists()


def test_a_shortfall_of_a_benchmark_is_a_finding_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    alerts = [(100.0 + number, {"data": {"cell": f"c{number}"}}) for number in range(9)]
    answer = latency.answer({f"c{number}": 100.0 for number in range(10)}, alerts, 5e4)
    assert (answer["p50_s"], answer["p99_s"], answer["missing"]) == (5.0, None, ["c9"])

    async def measured(*_: object) -> dict[str, object]:
        return {"latency": answer}

    monkeypatch.setattr("pilothouse.bench.run", measured)
    result = CliRunner().invoke(app, ["bench", "latency", "-o", "json"])
    assert (result.exit_code, json.loads(result.stdout)["p50_s"]) == (1, 5.0)
    assert "no alert came within 10 s of c9" in result.stderr


def test_a_benchmark_that_ends_early_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> dict[str, object]:
        raise TimeoutError

    monkeypatch.setattr("pilothouse.evaluation.rootcause.measure", fails)
    result = CliRunner().invoke(app, ["bench", "rootcause"])
    assert (result.exit_code, result.stderr) == (3, "pilothouse: bench rootcause: took too long\n")


def test_without_console_the_demo_says_only_how_it_ended() -> None:
    out = io.StringIO()
    story = Story(Console(file=out), tells=False)
    story.say("a step")
    story.done("a fault")
    assert out.getvalue() == ""
    story.tells = True
    story.say("the \x1b[2Jend")
    assert "the \N{REPLACEMENT CHARACTER}[2Jend" in out.getvalue()


def test_a_benchmark_may_count_by_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def measured(*_: object) -> dict[str, object]:
        return {"correlator": {"by_open_signals": {10: {"ms_per_look": 0.4}}}}

    monkeypatch.setattr("pilothouse.bench.run", measured)
    result = CliRunner().invoke(app, ["bench", "correlator"])
    assert (result.exit_code, result.output.split()) == (0, ["by_open_signals.10.ms_per_look", "0.4"])
