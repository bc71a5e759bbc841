"""The command line. Exit codes: 0 fine, 1 a finding, 2 misuse, 3 something cannot be reached."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn, TextIO

import typer

from pilothouse import logs
from pilothouse.commands import judging, operating, recorded, silence, topics
from schemas.masking import masked

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
    sys.stdout, sys.stderr = _Output.around(sys.stdout), _Errors.around(sys.stderr)
    logs.guard()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


class _Output(io.TextIOWrapper):
    """A standard stream. Its reader may have read enough (`| head`), and a terminal may not have every sign: no errors."""

    @classmethod
    def around(cls, stream: TextIO | None) -> TextIO:
        """The stream that writes where this one does; a closed one writes nowhere."""
        if not isinstance(stream, io.TextIOWrapper):
            return stream or open(os.devnull, "w")
        stream.flush()
        return cls(stream.buffer, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)

    def write(self, text: str) -> int:
        """Ends the program when nobody reads any more."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._end()

    def flush(self) -> None:
        """Ends the program when nobody reads any more."""
        try:
            super().flush()
        except BrokenPipeError:
            self._end()

    def _end(self) -> NoReturn:
        # What is still buffered goes nowhere, so that it does not raise once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        raise SystemExit(0)


class _Errors(_Output):
    """Standard error. Whoever writes there, also a library or Python itself, writes no secret that is known or looks like one."""

    def write(self, text: str) -> int:
        """What is written at a time is masked as a whole."""
        return super().write(masked(text))
