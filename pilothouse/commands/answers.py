"""What all commands have in common: options, exit codes, how an answer or an error is said.

Nothing heavy is imported here or by any file of commands: a command imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilothouse.errors import Failing, Misuse, Unreachable
from pilothouse.terminal import clean, shown
from schemas.masking import masked_data

if TYPE_CHECKING:
    from pilothouse.settings import Settings
    from schemas.estate import Estate

FINDING, MISUSE, UNREACHABLE = 1, 2, 3
_OF_PATHS = frozenset(
    (
        errno.ENOENT,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EROFS,
        errno.EEXIST,
        errno.EINVAL,
    )
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
def errors_told(*misuse: type[Exception]) -> Iterator[None]:
    """Errors that a user can mend become one message and an exit code, without a traceback. `misuse` are the command's own."""
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except misuse as error:
        raise misused(error) from None
    except Exception as error:
        if (code := _outside(error)) is None:
            raise
        complain(_sentence(error))
        raise typer.Exit(code) from None


def _outside(error: BaseException) -> int | None:
    """The exit code of an error that is not our fault; None of one that is."""
    if isinstance(error, BaseExceptionGroup):
        codes = {_outside(one) for one in error.exceptions}
        return None if None in codes else max(code for code in codes if code is not None)
    if isinstance(error, Unreachable | ConnectionError | TimeoutError):
        return UNREACHABLE
    if isinstance(error, Misuse) or _is_misconfigured(error):
        return MISUSE
    if isinstance(error, Failing):
        return FINDING
    if type(error).__module__.partition(".")[0] in ("aiokafka", "asyncpg", "redis", "socket"):
        return UNREACHABLE
    if isinstance(error, OSError):
        return MISUSE if error.errno in _OF_PATHS else UNREACHABLE  # a full disk, a port in use: not by what was asked
    return None


def _is_misconfigured(error: BaseException) -> bool:
    from ingest.references import ConfigurationError

    return isinstance(error, ConfigurationError)


def _sentence(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(dict.fromkeys(_sentence(one) for one in error.exceptions))
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def complain(message: str) -> None:
    """Say an error on standard error."""
    typer.echo(f"pilothouse: {shown(message)}", err=True)


def misused(error: object) -> typer.Exit:
    """Say what was wrong with the arguments; what comes back is to be raised."""
    complain(str(error))
    return typer.Exit(MISUSE)


def settings_now() -> Settings:
    """Settings of this process, from its environment."""
    from pilothouse.settings import from_env

    return from_env(os.environ)


def settings_of_running() -> Settings:
    """The same; what the environment does not name is that which `pilothouse up` or a demo runs on this machine."""
    from pilothouse.running import with_running

    return with_running(settings_now())


def broker() -> tuple[Settings, dict[str, Any]]:
    """Settings and aiokafka's arguments, for a command that reads or writes something and ends.

    aiokafka says each failed attempt; the command says once what it means.
    """
    from pilothouse.settings import kafka_options

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings = settings_of_running()
    return settings, kafka_options(settings)


def estate_of(config: Path | None) -> Estate | None:
    """The estate of a folder; None without one."""
    if config is None:
        return None
    from pilothouse.estate_files import load

    return load(config)


def show(answer: Any, output: Output, text: str) -> None:
    """Say the answer to whom it is for."""
    typer.echo(json.dumps(masked_data(answer), indent=2) if output is Output.JSON else shown(text))


def progress(line: str) -> None:
    """Say how far something is, to a terminal."""
    if sys.stderr.isatty():
        typer.echo(f"\r{clean(line)}", err=True, nl=False)
