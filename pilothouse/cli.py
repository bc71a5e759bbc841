"""The command line. Exit codes: 0 fine, 1 a finding, 2 misuse, 3 something cannot be reached."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ingest.references import ConfigurationError
from pilothouse import logs, programs
from pilothouse.estate_files import EstateError, load
from pilothouse.services.child import ServiceError
from pilothouse.settings import Settings, SettingsError, from_env
from schemas.estate import Estate
from schemas.topics import TOPICS
from sinks.registry import SINKS

FINDING, MISUSE, UNREACHABLE = 1, 2, 3

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sees a warehouse stop before Odoo is down, and says why.",
)


class Output(StrEnum):
    """For whom the answer is."""

    TEXT = "text"
    JSON = "json"


EstateDir = Annotated[
    Path, typer.Option("-c", "--config", help="Folder of the estate's YAML files.", show_default=False)
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="text for people, json for machines.")]
Instance = Annotated[
    str | None,
    typer.Option("--instance", help="Name that survives a restart (worker-0): it comes back without a rebalance."),
]


@contextmanager
def _said() -> Iterator[None]:
    """Errors that a user can mend become one message and an exit code, without a traceback."""
    try:
        yield
    except (EstateError, SettingsError, ConfigurationError, programs.NotConfigured) as error:
        _complain(str(error))
        raise typer.Exit(MISUSE) from None
    except (ServiceError, ConnectionError) as error:
        _complain(str(error))
        raise typer.Exit(UNREACHABLE) from None


def _complain(message: str) -> None:
    typer.echo(f"pilothouse: {message}", err=True)


def _settings() -> Settings:
    return from_env(os.environ)


def _print(answer: Any, output: Output, text: str) -> None:
    typer.echo(json.dumps(answer, indent=2) if output is Output.JSON else text)


@app.command(epilog="Example: pilothouse check -c estate/")
def check(config: EstateDir, output: OutputOption = Output.TEXT) -> None:
    """Validate an estate, without a network."""
    try:
        estate = load(config)
    except EstateError as error:
        if output is Output.JSON:
            _print({"ok": False, "faults": str(error).splitlines()}, output, "")
        else:
            _complain(str(error))
        raise typer.Exit(FINDING if config.is_dir() else MISUSE) from None
    counted, untold = _counts(estate), [role.value for role in estate.untold_roles()]
    text = "fine: " + ", ".join(f"{what} {count}" for what, count in counted.items())
    if untold:
        text += f"\nno route takes {', '.join(untold)}: what concerns nobody else is told to nobody"
    _print({"ok": True, **counted, "untold_roles": untold}, output, text)


def _counts(estate: Estate) -> dict[str, int]:
    return {
        "cells": len(estate.cells),
        "tenants": sum(len(cell.tenants) for cell in estate.cells),
        "resources": sum(len(cell.resources) for cell in estate.cells),
        "calendars": len(estate.calendars),
        "routes": len(estate.routes),
        "receivers": len(estate.receivers),
        "SLOs": len(estate.slos),
    }


@app.command(epilog="Example: PILOTHOUSE_KAFKA=kafka-1:9092 pilothouse ingest -c estate/ --port 8460")
def ingest(
    config: EstateDir,
    host: Annotated[str, typer.Option(help="Address the receivers listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port the receivers listen on; 0 for any.", min=0, max=65535)] = 0,
) -> None:
    """Run collectors and receivers, and publish what they see."""
    with _said():
        logs.configure()
        programs.ingest(load(config), _settings(), host=host, port=port)


@app.command(epilog="Example: PILOTHOUSE_KAFKA=kafka-1:9092 pilothouse process -c estate/ --instance worker-0")
def process(config: EstateDir, instance: Instance = None) -> None:
    """Run a stream processor; more of them share the partitions."""
    with _said():
        logs.configure()
        programs.process(load(config), _settings(), instance)


@app.command(epilog="Example: pilothouse sink timescale alerts -c estate/")
def sink(
    names: Annotated[list[str], typer.Argument(help="Which: timescale, otlp, alerts.", show_default=False)],
    config: EstateDir,
    instance: Instance = None,
) -> None:
    """Run sinks: to the store, to OTLP, to alert webhooks."""
    known = sorted(SINKS)
    if unknown := [name for name in names if name not in known]:
        _complain(f"sink {unknown[0]!r} is unknown; known are {', '.join(known)}")
        raise typer.Exit(MISUSE)
    with _said():
        logs.configure()
        programs.sink(names, load(config), _settings(), instance)


@app.command(epilog="Example: pilothouse up -c estate/")
def up(config: EstateDir) -> None:
    """Run everything: what the environment does not name is started here, on loopback, as the real servers."""
    from pilothouse import whole

    with _said():
        logs.configure()
        asyncio.run(whole.up(load(config), config.absolute(), _settings()))


topics_app = typer.Typer(no_args_is_help=True, help="The governed topics: what they are, what is in them.")
app.add_typer(topics_app, name="topics")


@topics_app.command("list", epilog="Example: pilothouse topics list -o json")
def topics_list(output: OutputOption = Output.TEXT) -> None:
    """The catalogue: name, owner, classification, retention."""
    rows = [
        {
            "name": topic.name,
            "description": topic.description,
            "owner": topic.owner,
            "classification": topic.classification.value,
            "retention_days": None if topic.compacted else topic.retention_days,
            "key": topic.key,
        }
        for topic in TOPICS
    ]
    width = max(len(topic.name) for topic in TOPICS)
    text = "\n".join(
        f"{row['name']:{width}}  {row['owner']:20} {row['classification']:13} {row['description']}" for row in rows
    )
    _print(rows, output, text)


@topics_app.command("export", epilog="Example: pilothouse topics export contracts/")
def topics_export(
    directory: Annotated[Path, typer.Argument(help="Folder that is made or filled.", show_default=False)],
) -> None:
    """Write JSON Schemas, AsyncAPI and data contracts."""
    from schemas.generate import files

    written = 0
    for path, text in files().items():
        if path.parts[:2] == ("schemas", "generated"):
            target = directory.joinpath(*path.parts[2:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            written += 1
    typer.echo(f"{written} files in {directory}")


@topics_app.command("tail", epilog="Example: pilothouse topics tail signals.incidents.v1 -o json")
def topics_tail(
    topic: Annotated[str, typer.Argument(help="Name of the topic.", show_default=False)],
    output: OutputOption = Output.TEXT,
    count: Annotated[int | None, typer.Option("-n", help="Stop after so many records.", min=1)] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the oldest record.")] = False,
) -> None:
    """Live records of a topic."""
    from pilothouse import tail

    known = [one.name for one in TOPICS if one.model]
    if topic not in known:
        _complain(f"topic {topic!r} is unknown; known are {', '.join(known)}")
        raise typer.Exit(MISUSE)
    with _said():
        settings = _settings()
        asyncio.run(
            tail.tail(
                programs.kafka_options(settings),
                settings.topic_prefix + topic,
                output is Output.JSON,
                count,
                from_start,
            )
        )


@app.command(
    epilog="Example: pilothouse replay --from 2026-11-20T08:00:00Z --to 2026-11-20T09:00:00Z -c estate/ --diff"
)
def replay(
    since: Annotated[
        str, typer.Option("--from", help="Begin, RFC 3339 or Unix seconds (recorded time).", show_default=False)
    ],
    until: Annotated[str, typer.Option("--to", help="End, RFC 3339 or Unix seconds.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Estate to replay with; none: nothing declared.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare with the live signals; a difference exits with 1.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the signals as JSON lines.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Fold a window of the log again, isolated: nobody is notified, nothing is written to Kafka."""
    from pilothouse import replay as replaying

    with _said():
        settings = _settings()
        try:
            window = replaying.Window(replaying.instant(since), replaying.instant(until))
        except ValueError as error:
            _complain(str(error))
            raise typer.Exit(MISUSE) from None
        estate = load(config) if config else None
        result = asyncio.run(
            replaying.replay(
                programs.kafka_options(settings),
                programs.plans(estate, settings.steps),
                window,
                settings.topic_prefix,
                compare=diff,
            )
        )
    if out:
        out.write_bytes(b"".join(line + b"\n" for line in result.told))
    _print(result.summary(), output, result.text())
    raise typer.Exit(FINDING if diff and result.differs else 0)


@app.command(epilog="Example: pilothouse explain 7979a481f78cc8679b06 -c estate/")
def explain(
    identity: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Of a signal or an incident, or the first four signs of it or more.", show_default=False
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option("--in", help="JSON lines as replay --out or simulate --out writes them, in place of Kafka."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Estate, whose calendars tell the phase.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Why a signal or an incident was told: values, what was expected, how it was found, what grouped or inhibited it."""
    from pilothouse import explain as explaining
    from pilothouse.explanation import UnknownId
    from pilothouse.explanation_text import text

    with _said():
        estate = load(config) if config else None
        try:
            if source:
                made = explaining.explain_file(source, identity, estate)
            else:
                settings = _settings()
                kafka = programs.kafka_options(settings)
                made = asyncio.run(explaining.explain(kafka, identity, estate, settings.topic_prefix))
        except UnknownId as error:
            _complain(str(error))
            raise typer.Exit(FINDING) from None
        except (explaining.Unreadable, FileNotFoundError, IsADirectoryError, PermissionError) as error:
            _complain(f"{source}: {error.strerror}" if isinstance(error, OSError) else str(error))
            raise typer.Exit(MISUSE) from None
    _print(made, output, text(made))


silence_app = typer.Typer(
    no_args_is_help=True, help="Withhold notifications for a while; incidents are told all the same."
)
app.add_typer(silence_app, name="silence")


@silence_app.command(
    "add",
    epilog="Example: pilothouse silence add --cell eu1 --cause postgresql.lock:acme --for 2h --reason 'month end, known'",
)
def silence_add(
    cells: Annotated[list[str], typer.Option("--cell", help="Cell it is for; may be given again.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why; whoever reads of the incident sees it.", show_default=False)],
    length: Annotated[str, typer.Option("--for", help="For how long: 90m, 2h, 3d.", show_default=False)],
    cause: Annotated[str | None, typer.Option(help="First cause, as KIND:RESOURCE or KIND.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Tenant that alone suffers.")] = None,
    author: Annotated[str | None, typer.Option(help="Who wants it; who is logged in when left out.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Notify nobody of matching incidents for a while; what is open then is notified then."""
    from pilothouse import silence as silencing

    with _silencing():
        at_ms, settings = silencing.now_ms(), _settings()
        until_ms = at_ms + silencing.lasts_ms(length)
        made = silencing.made(cause, tenant, until_ms, author or silencing.author(), reason, at_ms)
        held = [silencing.Held(cell, made) for cell in cells]
        asyncio.run(silencing.say(programs.kafka_options(settings), held, at_ms, settings.topic_prefix))
    _print([one.as_json() for one in held], output, silencing.text(held))


@silence_app.command("list", epilog="Example: pilothouse silence list -o json")
def silence_list(output: OutputOption = Output.TEXT) -> None:
    """What is silenced now, for how long, by whom and why."""
    from pilothouse import silence as silencing

    with _silencing():
        settings = _settings()
        kafka = programs.kafka_options(settings)
        held = asyncio.run(silencing.held(kafka, silencing.now_ms(), settings.topic_prefix))
    _print([one.as_json() for one in held], output, silencing.text(held))


@silence_app.command("end", epilog="Example: pilothouse silence end 5f0c9a1b22de")
def silence_end(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Of the silence.", show_default=False)],
    author: Annotated[str | None, typer.Option(help="Who ends it; who is logged in when left out.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """End a silence now; what it holds back and is open is notified."""
    from pilothouse import silence as silencing

    with _silencing():
        settings = _settings()
        kafka, who = programs.kafka_options(settings), author or silencing.author()
        held = asyncio.run(silencing.end(kafka, identity, who, silencing.now_ms(), settings.topic_prefix))
    _print([one.as_json() for one in held], output, silencing.text(held))


@contextmanager
def _silencing() -> Iterator[None]:
    from pilothouse.silence import SilenceError

    try:
        with _said():
            yield
    except SilenceError as error:
        _complain(str(error))
        raise typer.Exit(MISUSE) from None


@app.command(epilog="Example: pilothouse detect metrics/ --out scored/")
def detect(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="CSV file with timestamp,value, or a folder of them.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder that gets the same tree with scores.", show_default=False)],
    output: OutputOption = Output.TEXT,
) -> None:
    """Score series from files with the pipeline's own step shapes: anomaly_score, 0 to 1, one row an input row."""
    from pilothouse import detect as detecting
    from pilothouse.csv_blocks import InputError

    try:
        answer = detecting.detect(source, out, _say_rows())
    except InputError as error:
        _complain(str(error))
        raise typer.Exit(MISUSE) from None
    _print(detecting.as_json(answer), output, detecting.text(answer))


def _say_rows() -> Callable[[Path, int], None]:
    """Says on standard error how far a long file is, every ten seconds."""
    said = time.monotonic()

    def say(path: Path, rows: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 10:
            said = time.monotonic()
            typer.echo(f"{path}: {rows:,} rows", err=True)

    return say


slo_app = typer.Typer(no_args_is_help=True, help="Service level objectives, as OpenSLO v1 files.")
app.add_typer(slo_app, name="slo")


@slo_app.command("eval", epilog="Example: pilothouse slo eval --slo availability.yaml --input requests.csv -o json")
def slo_eval(
    slo: Annotated[Path, typer.Option("--slo", help="OpenSLO v1 file.", show_default=False)],
    rows: Annotated[
        Path, typer.Option("--input", help="CSV: timestamp (end of the interval), good, total.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option("--name", help="Which SLO, when the file holds several.")] = None,
    step: Annotated[
        float | None, typer.Option("--step", help="Judge so often, s; 60, or the rows' distance when it is longer.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """When page and ticket would have fired, and what is left of the budget."""
    from pilothouse.csv_blocks import InputError
    from pilothouse.slo_eval import SloError, evaluate

    try:
        answer = evaluate(slo, rows, name=name, step_s=step, progress=lambda count: _progress(f"{count:,} rows"))
    except (SloError, InputError) as error:
        _complain(str(error))
        raise typer.Exit(MISUSE) from None
    _print(answer.as_json(), output, answer.text() if output is Output.TEXT else "")


@app.command(epilog="Example: pilothouse rca cases/slow-checkout -o json")
def rca(
    case: Annotated[
        Path,
        typer.Argument(help="Folder with graph.csv, normal.csv, fault.csv and target.json.", show_default=False),
    ],
    output: OutputOption = Output.TEXT,
) -> None:
    """Rank the services that may have caused a symptom; exits with 1 when there is one, silent where health looks alike."""
    from pilothouse import rca as causes

    try:
        diagnosis = causes.answer(case)
    except causes.CaseError as error:
        _complain(str(error))
        raise typer.Exit(MISUSE) from None
    _print(causes.report(diagnosis), output, causes.text(diagnosis))
    raise typer.Exit(FINDING if diagnosis.ranked else 0)


@app.command(epilog="Example: pilothouse demo --for 300 --scenario all --report report.json")
def demo(
    seconds: Annotated[
        float, typer.Option("--for", help="Length from the first live record, s; 0: until Ctrl-C.", min=0)
    ] = 300,
    scenario: Annotated[str, typer.Option(help="all, weak, double, none, or names such as S1,S5.")] = "all",
    report: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data directory; a new one under the default one when left out.")
    ] = None,
    no_console: Annotated[bool, typer.Option("--no-console", help="Do not serve the console.")] = False,
) -> None:
    """One company through every layer: real servers, real load, real faults. It stands in for Odoo."""
    from pilothouse.demo.run import demo as run_demo
    from pilothouse.demo.timeline import TimelineError

    with _said():
        settings = _settings()
        if data:
            settings = settings.model_copy(update={"data_dir": data.absolute()})
        try:
            raise typer.Exit(asyncio.run(run_demo(settings, seconds, scenario, report, console=not no_console)))
        except TimelineError as error:
            _complain(str(error))
            raise typer.Exit(MISUSE) from None


@app.command(epilog="Example: pilothouse bench pipeline -o json")
def bench(
    name: Annotated[
        str, typer.Argument(help="pipeline, sink, latency, correlator, rootcause or all; detect.", show_default=False)
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Of detect: folder with nab/, petshop/ and slo/, labelled.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Of detect: folder that gets a file a data set, as the docs page reads."),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Measure side by side with peers and limits, on servers of its own."""
    from pilothouse import bench as benches

    if name == benches.LABELLED:
        _bench_labelled(data, out, output)
        return
    if name not in (*benches.NAMES, "all"):
        _complain(f"bench {name!r} is unknown; known are {', '.join(benches.NAMES)}, all and {benches.LABELLED}")
        raise typer.Exit(MISUSE)
    with _said():
        answers = asyncio.run(benches.run(_settings(), list(benches.NAMES) if name == "all" else [name]))
    answer: Any = answers if name == "all" else answers[name]
    _print(answer, output, "\n".join(f"{key:32} {value}" for key, value in _flat(answer)))


def _bench_labelled(data: Path | None, out: Path | None, output: Output) -> None:
    from pilothouse import bench as benches
    from pilothouse.csv_blocks import InputError

    if data is None or not data.is_dir() or (out is not None and not out.is_dir()):
        _complain(
            f"bench {benches.LABELLED} needs --data DIR, a folder with nab/, petshop/ or slo/; --out is a folder too"
        )
        raise typer.Exit(MISUSE)
    try:
        answer = benches.labelled(data, out)
    except (InputError, OSError, ValueError) as error:
        _complain(str(error))
        raise typer.Exit(MISUSE) from None
    _print(answer, output, "\n".join(f"{key:52} {value}" for key, value in _flat(answer)))


@app.command(epilog="Example: pilothouse simulate calendar --runs 200 --seed 1 -o json")
def simulate(
    name: Annotated[
        str,
        typer.Argument(
            help="calendar, deploy, neighbour, silence, capacity, or all of them; healthy; scenarios.",
            show_default=False,
        ),
    ],
    runs: Annotated[int, typer.Option(help="Runs of each family.", min=1, max=100_000)] = 50,
    cells: Annotated[int, typer.Option(help="Of healthy: cells of about 500 series.", min=1, max=1_000)] = 2,
    weeks: Annotated[int, typer.Option(help="Of healthy: weeks.", min=1, max=52)] = 4,
    seed: Annotated[int, typer.Option(help="The same seed draws the same estates and stories.", min=0)] = 1,
    processes: Annotated[int, typer.Option(help="Processes; the figures do not depend on it.", min=1, max=256)] = 1,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="YAML of candidate tunables by step: `baseline: {limit: 6}`.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for records, findings and labels of each run, as JSON lines.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Labelled simulations: draw estates, let things happen, say what was found. Exits with 1 below the bar."""
    from pilothouse.simulate import command

    try:
        settings = command.settings_of(config)
        if name == "healthy":
            verdict = command.healthy(cells, weeks, seed, settings, processes, _progress)
        elif name == "scenarios":
            verdict = command.scenarios(settings, _progress)
        else:
            verdict = command.run(name, runs, seed, settings, processes, out, _progress)
    except command.SimulateError as error:
        _complain(str(error))
        raise typer.Exit(MISUSE) from None
    _print(verdict.answer, output, verdict.text)
    raise typer.Exit(0 if verdict.meets_bar else FINDING)


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{line}", err=True, nl=False)


def _flat(answer: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in answer.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def main() -> None:
    """Entry point of the `pilothouse` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
