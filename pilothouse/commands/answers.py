"""What all commands have in common: options, exit codes, how an answer or an error is said."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ingest.references import ConfigurationError
from pilothouse import programs
from pilothouse.estate_files import EstateError
from pilothouse.services.child import ServiceError
from pilothouse.settings import Settings, SettingsError, from_env

FINDING, MISUSE, UNREACHABLE = 1, 2, 3


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
def errors_told(*misuse: type[Exception]) -> Iterator[None]:
    """Errors that a user can mend become one message and an exit code, without a traceback. `misuse` are the command's own."""
    try:
        yield
    except misuse as error:
        raise misused(error) from None
    except (EstateError, SettingsError, ConfigurationError, programs.NotConfigured) as error:
        raise misused(error) from None
    except programs.Failing as error:
        complain(str(error))
        raise typer.Exit(FINDING) from None
    except (ServiceError, ConnectionError) as error:
        complain(str(error))
        raise typer.Exit(UNREACHABLE) from None


def complain(message: str) -> None:
    """Say an error on standard error."""
    typer.echo(f"pilothouse: {message}", err=True)


def misused(error: object) -> typer.Exit:
    """Say what was wrong with the arguments; what comes back is to be raised."""
    complain(str(error))
    return typer.Exit(MISUSE)


def settings_now() -> Settings:
    """Settings of this process, from its environment."""
    return from_env(os.environ)


def show(answer: Any, output: Output, text: str) -> None:
    """Say the answer to whom it is for."""
    typer.echo(json.dumps(answer, indent=2) if output is Output.JSON else text)


def progress(line: str) -> None:
    """Say how far something is, to a terminal."""
    if sys.stderr.isatty():
        typer.echo(f"\r{line}", err=True, nl=False)
