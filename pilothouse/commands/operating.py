"""Commands that run the programs: check an estate, collect, process, sink, everything, and the demo."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilothouse.commands.answers import (
    FINDING,
    EstateDir,
    Instance,
    Output,
    OutputOption,
    complain,
    errors_told,
    misused,
    settings_now,
    settings_of_running,
    show,
)

if TYPE_CHECKING:
    from schemas.estate import Estate

app = typer.Typer()


@app.command(epilog="Example: pilothouse check -c estate/")
def check(
    config: EstateDir,
    references: Annotated[
        bool,
        typer.Option(
            help="Whether the variables and files that hold secrets must be there, as where the programs run."
        ),
    ] = True,
    output: OutputOption = Output.TEXT,
) -> None:
    """Validate an estate, without a network: every fault at once, with file and line. Exits with 1 when there is one."""
    from pilothouse.estate_check import check as look

    with errors_told():
        found = look(config, os.environ, references=references)
    if output is Output.TEXT:
        for one in found.faults:
            complain(str(one))
        for one in found.warnings:
            complain(f"warning: {one}")
    answer: dict[str, Any] = {
        "ok": found.estate is not None,
        "faults": [str(one) for one in found.faults],
        "warnings": [str(one) for one in found.warnings],
        "findings": [one.as_json() for one in (*found.faults, *found.warnings)],
    }
    if found.estate is None:
        show(answer, output, f"{len(found.faults)} faults, {len(found.warnings)} warnings")
        raise typer.Exit(FINDING)
    counted, untold = _counts(found.estate), [role.value for role in found.estate.untold_roles()]
    text = "fine: " + ", ".join(f"{what} {count}" for what, count in counted.items())
    if untold:
        text += f"\nno route takes {', '.join(untold)}: what concerns nobody else is told to nobody"
    unscoped = found.estate.unscoped_keys()
    text = "\n".join([text, *(f"{one}; cells, tenants and topics beside the key restrict it" for one in unscoped)])
    show({**answer, **counted, "untold_roles": untold, "unscoped_keys": unscoped}, output, text)


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
    from pilothouse import logs, programs
    from pilothouse.estate_files import load

    with errors_told():
        logs.configure()
        programs.ingest(load(config), settings_of_running(), host=host, port=port)


@app.command(epilog="Example: PILOTHOUSE_KAFKA=kafka-1:9092 pilothouse process -c estate/ --instance worker-0")
def process(config: EstateDir, instance: Instance = None) -> None:
    """Run a stream processor; more of them share the partitions."""
    from pilothouse import logs, programs
    from pilothouse.estate_files import load

    with errors_told():
        logs.configure()
        programs.process(load(config), settings_of_running(), instance)


@app.command(epilog="Example: pilothouse sink timescale alerts -c estate/")
def sink(
    names: Annotated[list[str], typer.Argument(help="Which: timescale, otlp, alerts.", show_default=False)],
    config: EstateDir,
    instance: Instance = None,
) -> None:
    """Run sinks: to the store, to OTLP, to alert webhooks."""
    from pilothouse import logs, programs
    from pilothouse.estate_files import load
    from sinks.registry import SINKS

    known = sorted(SINKS)
    if unknown := [name for name in names if name not in known]:
        raise misused(f"sink {unknown[0]!r} is unknown; known are {', '.join(known)}")
    with errors_told():
        logs.configure()
        programs.sink(names, load(config), settings_of_running(), instance)


@app.command(epilog="Example: pilothouse up -c estate/")
def up(config: EstateDir) -> None:
    """Run everything: what the environment does not name is started here, on loopback, as the real servers."""
    from pilothouse import logs, whole
    from pilothouse.estate_check import checked

    with errors_told():
        logs.configure()
        asyncio.run(whole.up(checked(config, os.environ), config.absolute(), settings_now()))


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
    no_console: Annotated[
        bool, typer.Option("--no-console", help="Do not tell the story on the terminal; only the figures at the end.")
    ] = False,
) -> None:
    """One company through every layer: real servers, real load, real faults. It stands in for Odoo."""
    from pilothouse.demo.run import demo as run_demo
    from pilothouse.demo.timeline import TimelineError

    with errors_told(TimelineError):
        settings = settings_now()
        if data:
            settings = settings.model_copy(update={"data_dir": data.absolute()})
        raise typer.Exit(asyncio.run(run_demo(settings, seconds, scenario, report, tells=not no_console)))
