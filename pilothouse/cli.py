"""The command line. Exit codes: 0 fine, 1 a finding, 2 misuse, 3 something cannot be reached."""

from __future__ import annotations

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
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
