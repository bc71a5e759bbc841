"""The command line. Exit codes: 0 fine, 1 a finding, 2 misuse, 3 something cannot be reached."""

from __future__ import annotations

import io
import os
import sys

import typer

from pilothouse.commands import judging, operating, recorded, silence, topics

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sees a warehouse stop before Odoo is down, and says why.",
)
for group in (operating, recorded, judging):
    app.add_typer(group.app)
app.add_typer(topics.app, name="topics")
app.add_typer(silence.app, name="silence")


def main() -> None:
    """Entry point of the `pilothouse` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal in Latin-1 is no reason to stop
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read has read enough (`| head`); what is still buffered must not raise again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
