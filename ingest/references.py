"""Secrets and addresses that stand elsewhere: an environment variable or a file, named by a `Reference`.

Values never appear in a message: whatever is resolved here is taken out of every text of this process (`schemas.masking`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from schemas.estate import Reference
from schemas.masking import learn

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*+:/")


class ConfigurationError(Exception):
    """Ingest cannot start as it is configured; the message has every fault with its mend."""


def resolve(reference: str | Reference | None, wanted_by: str, environ: Mapping[str, str]) -> str:
    """The value; empty for None. Raises ConfigurationError naming who wants it and where it should stand."""
    if reference is None or isinstance(reference, str):
        return reference or ""
    if reference.env is not None:
        value = _variable(reference.env, wanted_by, environ)
    else:
        value = _first_line(Path(reference.file or ""), wanted_by)
    learn(value)
    return value


def _variable(name: str, wanted_by: str, environ: Mapping[str, str]) -> str:
    if not _NAME.fullmatch(name):
        # Whoever writes the secret itself here must not find it in a log.
        raise ConfigurationError(f"{wanted_by}: env must be the name of a variable: letters, digits and underscores")
    value = environ.get(name, "").strip()
    if not value:
        raise ConfigurationError(f"{wanted_by}: the environment variable {name} is not set; set it to the value")
    return value


def _first_line(path: Path, wanted_by: str) -> str:
    if _URL.match(str(path)):
        raise ConfigurationError(f"{wanted_by}: file must be the path of a file that holds the URL, not the URL itself")
    try:
        value = path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{wanted_by}: the file {path} cannot be read: {_reason(error)}") from error
    if not value:
        raise ConfigurationError(f"{wanted_by}: the first line of {path} is empty; write the value there")
    return value


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return "it is no text" if isinstance(error, UnicodeDecodeError) else error.strerror or type(error).__name__
