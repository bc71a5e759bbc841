"""Commands on what was recorded: fold it again, and explain what was told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.commands.answers import (
    FINDING,
    Output,
    OutputOption,
    broker,
    complain,
    errors_told,
    estate_of,
    misused,
    show,
)

app = typer.Typer()


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
    from pilothouse import programs
    from pilothouse import replay as replaying
    from pilothouse.times import instant

    with errors_told():
        with errors_told(ValueError):
            window = replaying.Window(instant(since), instant(until))
        settings, kafka = broker()
        estate = estate_of(config)
        result = asyncio.run(
            replaying.replay(
                kafka,
                programs.plans(estate, settings.steps),
                window,
                settings.topic_prefix,
                compare=diff,
            )
        )
        if out:
            out.write_bytes(b"".join(line + b"\n" for line in result.told))
    show(result.summary(), output, result.text())
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

    with errors_told():
        estate = estate_of(config)
        try:
            if source:
                made = explaining.explain_file(source, identity, estate)
            else:
                settings, kafka = broker()
                made = asyncio.run(explaining.explain(kafka, identity, estate, settings.topic_prefix))
        except UnknownId as error:
            complain(str(error))
            raise typer.Exit(FINDING) from None
        except (explaining.Unreadable, FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise misused(f"{source}: {error.strerror}" if isinstance(error, OSError) else str(error)) from None
    show(made, output, text(made))
