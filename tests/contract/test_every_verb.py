"""What every verb of the command line keeps: no traceback whatever it is given, exit codes that mean something, light help.

The verbs are found by walking the program. A new one is tested here without an edit, unless it needs an argument that
is not in `RIGHT`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
from typer.testing import CliRunner, Result

from pilothouse.cli import app

HEAVY = (
    "numpy",
    "numba",
    "aiokafka",
    "faust",
    "opentelemetry",
    "sqlalchemy",
    "schemas.records",
    "schemas.estate",
    "asyncpg",
    "aiohttp",
    "redis",
    "yaml",
)
NOBODY = "127.0.0.1:1"
STARTS = {"up", "ingest", "process", "sink", "demo"}
"""Verbs that run servers when everything is right; here something never is."""

RIGHT: dict[tuple[str, str], str] = {
    ("sink", "names"): "alerts",
    ("bench", "name"): "speed",
    ("simulate", "name"): "nothing",
    ("demo", "scenario"): "S99",
    ("replay", "since"): "1700000000",
    ("replay", "until"): "1700000060",
    ("explain", "identity"): "7979a481f78cc8679b06",
    ("topics tail", "topic"): "telemetry.metrics.v1",
    ("topics tail", "count"): "1",
    ("silence add", "cells"): "eu1",
    ("silence add", "reason"): "known",
    ("silence add", "length"): "2h",
    ("silence add", "cause"): "postgresql.lock:acme",
    ("silence end", "identity"): "5f0c9a1b22de",
}


TEXTS = {
    "nothing": "", "blank": " ", "word": "nonsense", "negative": "-1", "nan": "nan", "inf": "inf", "large": "1e400",
    "long": "9" * 400, "nul": "a\x00b", "half": "\ud800", "escape": "\x1b[31m", "path": "../../x", "sign": "😀",
}  # fmt: skip


class Verb(NamedTuple):
    """A leaf of the program."""

    name: str
    command: Any

    @property
    def parameters(self) -> list[Any]:
        return [one for one in self.command.params if one.name != "help"]

    def arguments(self, values: dict[str, str]) -> list[str]:
        """The command line with these values by parameter; flags and what is not given are left out."""
        options, places = [], []
        for one in self.parameters:
            if one.name in values:
                given = values[one.name]
                if one.param_type_name == "argument":
                    places.append(given)
                else:
                    options += [max(one.opts, key=len), given]
        return [*self.name.split(), *options, "--", *places] if places else [*self.name.split(), *options]


def walk(command: Any, name: str = "") -> Iterator[Verb]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield Verb(name, command)
        return
    for word, one in inner.items():
        yield from walk(one, f"{name} {word}".strip())


VERBS = {verb.name: verb for verb in walk(typer.main.get_command(app))}


def run(verb: Verb, values: dict[str, str], **environ: str) -> Result:
    return CliRunner().invoke(app, verb.arguments(values), env={"PILOTHOUSE_KAFKA": NOBODY, **environ})


def kept(result: Result, *codes: int) -> None:
    """No traceback, an exit code that means something, and words for whoever called."""
    assert result.exception is None or isinstance(result.exception, SystemExit), traceback.format_exception(
        result.exception
    )
    assert result.exit_code in (codes or (0, 1, 2, 3))
    assert "Traceback" not in result.output
    if result.exit_code >= 2:
        assert result.stderr.strip()


def is_path(parameter: Any) -> bool:
    return parameter.type_descriptor.annotation is Path


@pytest.fixture(scope="module")
def garbage(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files and folders that are not what anybody wants."""
    folder = tmp_path_factory.mktemp("garbage")
    texts = {
        "empty": b"",
        "blank": b"\n\n  \n",
        "binary": bytes(range(256)) * 40,
        "nul": b"timestamp,value,good,total\n1,\x00,1,1\n",
        "utf16": "timestamp,value\n1,2\n".encode("utf-16"),
        "latin1": "timestamp,value\n1,\xe9\n".encode("latin-1"),
        "long_line": b"x" * 2_000_000,
        "deep": b"[" * 100_000,
        "json": b'{"signal": 7}\n{"incident": null}\n[]\n7\n',
        "scrape": b'{"type": "com.pilothouse.metrics.scrape.v1"}\n',
        "record": b'{"type": "com.pilothouse.metrics.scrape.v1", "record": {"cell": 7}}\n',
        "text": b"to be or not to be",
        "semicolons": b"timestamp;value;good;total\n1;2;1;1\n",
        "twice": b"timestamp,timestamp,value,value,good,total,good\n1,1,1,1,1,1,1\n",
        "huge_numbers": b"timestamp,value,good,total\n1e400,1e400,1e400,1e400\n",
        "large_numbers": b"timestamp,value,good,total\n1,1e99,1e99,1e99\n2,-1e99,1e99,1e99\n3,1e99,0,1e99\n",
        "nan": b"timestamp,value,good,total\nnan,nan,nan,nan\n",
        "nans": b"timestamp,value,good,total\n60,nan,nan,nan\n120,,,\n",
        "dates": b"timestamp,value,good,total\n20261025,1,1,1\n20261026,1,1,1\n",
        "quotes": b'timestamp,value,good,total\n"1,2,3,4\n',
        "slo": b"apiVersion: openslo/v1\nkind: SLO\nmetadata: {name: x}\nspec:\n",
        "yaml": b"baseline: {limit: .nan, cell: 7}\n",
        "bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
        b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
    }
    made = {}
    for name, data in texts.items():
        (folder / f"{name}.yaml").write_bytes(data)
        made[name] = folder / f"{name}.yaml"
        made[f"folder of {name}"] = folder / name
        (folder / name).mkdir()
        for file in ("estate.yaml", "graph.csv", "normal.csv", "fault.csv", "target.json", "rows.csv"):
            (folder / name / file).write_bytes(data)
    (folder / "loop").symlink_to("loop")
    (folder / "void").mkdir()
    return made | {
        "loop": folder / "loop",
        "void": folder / "void",
        "missing": folder / "missing",
        "null": Path("/dev/null"),
    }


@pytest.mark.parametrize("name", VERBS)
def test_garbage_in_any_file_is_said_and_never_a_traceback(
    name: str, garbage: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    verb = VERBS[name]
    paths = [one for one in verb.parameters if is_path(one)]
    right = {one.name: RIGHT[name, one.name] for one in verb.parameters if (name, one.name) in RIGHT}
    (tmp_path / "estate").mkdir()
    (tmp_path / "estate" / "estate.yaml").write_text("cells: [{name: eu1, tenants: [{name: acme}]}]\n")
    (tmp_path / "slo.yaml").write_bytes(
        (Path(__file__).parents[1] / "golden/slo/availability.openslo.yaml").read_bytes()
    )
    (tmp_path / "rows.csv").write_text("timestamp,value,good,total\n60,1,1,1\n120,2,1,1\n")
    good = {
        "config": "estate",
        "slo": "slo.yaml",
        "rows": "rows.csv",
        "source": "rows.csv",
        "out": "out",
        "data": "data",
    }
    if name == "simulate":
        good.pop("config")
    for parameter in paths:
        # Where it only writes, what counts is what stands there; the same files would be written again and again.
        for what, path in garbage.items() if name != "topics export" else list(garbage.items())[-6:]:
            values = {one.name: good[one.name] for one in paths if one.name in good and one.name != "report"}
            if name == "explain" or name == "simulate":
                values = {}
            values = {**right, **values, parameter.name: str(path)}
            result = run(verb, values, PILOTHOUSE_DATA=str(tmp_path / "data"))
            kept(result)
            if name in STARTS:
                assert result.exit_code in (2, 3), (what, result.output)


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_garbage_in_any_argument_is_said_and_never_a_traceback(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    verb = VERBS[name]
    right = {one.name: RIGHT[name, one.name] for one in verb.parameters if (name, one.name) in RIGHT}
    required = {one.name: "nowhere" for one in verb.parameters if one.required and one.name not in right}
    for parameter in verb.parameters:
        if getattr(parameter, "is_flag", False):
            continue
        result = run(verb, {**required, **right, parameter.name: text}, PILOTHOUSE_DATA=str(tmp_path / "data"))
        kept(result)
        assert "\x1b[31m" not in result.output


@pytest.mark.parametrize("name", VERBS)
def test_a_missing_or_unknown_option_is_misuse(name: str) -> None:
    result = CliRunner().invoke(app, [*name.split(), "--no-such-option"])
    kept(result, 2)
    if any(one.required for one in VERBS[name].parameters):
        kept(CliRunner().invoke(app, name.split()), 2)


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize(
    "variable",
    ["PILOTHOUSE_KAFKA", "PILOTHOUSE_DATABASE_URL", "PILOTHOUSE_REDIS_URL", "PILOTHOUSE_OTLP_ENDPOINT", "PILOTHOUSE_DATA",
     "PILOTHOUSE_PARTITIONS", "PILOTHOUSE_TOPIC_PREFIX", "PILOTHOUSE_OTLP_HEADERS"],
)  # fmt: skip
def test_a_wrong_environment_is_misuse_and_not_repeated(name: str, variable: str, tmp_path: Path) -> None:
    """Whoever reads the environment refuses it; whoever does not, need not."""
    verb = VERBS[name]
    if name in STARTS or name in ("bench", "simulate"):
        (tmp_path / "estate.yaml").write_text("cells: [{name: eu1, tenants: [{name: acme}]}]\n")
    wrong = "/dev/null" if variable == "PILOTHOUSE_DATA" else "mysql://u:can/ary@h:port?x#y \x1b[2J"
    values = {one.name: RIGHT.get((name, one.name), str(tmp_path)) for one in verb.parameters if one.required}
    result = run(verb, values, **{variable: wrong})
    kept(result)
    assert "can/ary" not in result.output
    assert "\x1b[2J" not in result.output


@pytest.mark.parametrize("name", ["topics tail", "replay", "explain", "silence add", "silence list", "silence end"])
def test_a_broker_that_is_away_is_unreachable(name: str, tmp_path: Path) -> None:
    right = {one.name: RIGHT[name, one.name] for one in VERBS[name].parameters if (name, one.name) in RIGHT}
    result = run(VERBS[name], right, PILOTHOUSE_DATA=str(tmp_path))
    kept(result, 3)
    assert NOBODY in result.stderr
    result = run(VERBS[name], right, PILOTHOUSE_DATA=str(tmp_path), PILOTHOUSE_KAFKA="")
    kept(result, 2)
    assert "PILOTHOUSE_KAFKA" in result.stderr
    assert str(tmp_path) in result.stderr


@pytest.mark.parametrize("name", ["", *sorted({word for verb in VERBS for word in (verb, verb.split()[0])})])
def test_help_is_light_and_has_an_example(name: str) -> None:
    """Counted in modules, not in seconds: what is imported is what it costs."""
    code = (
        "import sys\nfrom pilothouse.cli import app\n"
        f"try: app({[*name.split(), '--help']!r})\nexcept SystemExit: pass\n"
        f"sys.stderr.write(' '.join(sorted(set({HEAVY!r}) & set(sys.modules))) + f' {{len(sys.modules)}}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *heavy, count = done.stderr.split()
    assert heavy == []
    assert int(count) < 700
    if name in VERBS:
        assert "Example:" in done.stdout


@pytest.mark.parametrize("arguments", [["topics", "list"], ["--help"], ["topics", "list", "-o", "json"]])
def test_a_reader_that_goes_away_ends_it_quietly(arguments: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "pilothouse", *arguments], stdout=writes, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_answer_for_machines_is_json() -> None:
    for name, verb in VERBS.items():
        if any("-o" in one.opts for one in verb.parameters) and not any(one.required for one in verb.parameters):
            result = run(verb, {"output": "json"})
            if result.exit_code == 0:
                assert json.loads(result.stdout) is not None, name


def test_the_verbs_are_found() -> None:
    assert {"check", "up", "demo", "topics tail", "silence add", "slo eval", "detect"} <= VERBS.keys()
    assert all(re.fullmatch(r"[a-z ]+", name) for name in VERBS)
