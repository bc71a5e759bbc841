"""Commands on files and drawn estates: detect, slo eval, rca, bench, simulate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pilothouse.commands.answers import (
    FINDING,
    Output,
    OutputOption,
    complain,
    errors_told,
    misused,
    progress,
    settings_now,
    show,
)
from pilothouse.terminal import clean

app = typer.Typer()


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

    with errors_told():
        answer = detecting.detect(source, out, _say_rows())
    show(detecting.as_json(answer), output, detecting.text(answer))


def _say_rows() -> Callable[[Path, int], None]:
    """Says on standard error how far a long file is, every ten seconds."""
    said = time.monotonic()

    def say(path: Path, rows: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 10:
            said = time.monotonic()
            typer.echo(clean(f"{path}: {rows:,} rows"), err=True)

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
    from pilothouse.slo_eval import evaluate

    with errors_told():
        answer = evaluate(slo, rows, name=name, step_s=step, progress=lambda count: progress(f"{count:,} rows"))
    show(answer.as_json(), output, answer.text() if output is Output.TEXT else "")


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

    with errors_told():
        diagnosis = causes.answer(case)
    show(causes.report(diagnosis), output, causes.text(diagnosis))
    raise typer.Exit(FINDING if diagnosis.ranked else 0)


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
        raise misused(f"bench {name!r} is unknown; known are {', '.join(benches.NAMES)}, all and {benches.LABELLED}")
    with errors_told():
        answers = asyncio.run(benches.run(settings_now(), list(benches.NAMES) if name == "all" else [name]))
    answer: Any = answers if name == "all" else answers[name]
    show(answer, output, "\n".join(f"{key:32} {value}" for key, value in _flat(answer)))
    missing = [cell for one in answers.values() for cell in one.get("missing", ())]
    if missing:
        complain(f"no alert came within {benches.LATEST_S:g} s of {', '.join(missing)}")
        raise typer.Exit(FINDING)


def _bench_labelled(data: Path | None, out: Path | None, output: Output) -> None:
    from pilothouse import bench as benches

    if data is None or not data.is_dir() or (out is not None and not out.is_dir()):
        raise misused(
            f"bench {benches.LABELLED} needs --data DIR, a folder with nab/, petshop/ or slo/; --out is a folder too"
        )
    with errors_told(ValueError):
        answer = benches.labelled(data, out)
    show(answer, output, "\n".join(f"{key:52} {value}" for key, value in _flat(answer)))


def _flat(answer: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in answer.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


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

    with errors_told():
        settings = command.settings_of(config)
        if name == "healthy":
            verdict = command.healthy(cells, weeks, seed, settings, processes, progress)
        elif name == "scenarios":
            verdict = command.scenarios(settings, progress)
        else:
            verdict = command.run(name, runs, seed, settings, processes, out, progress)
    show(verdict.answer, output, verdict.text)
    raise typer.Exit(0 if verdict.meets_bar else FINDING)
