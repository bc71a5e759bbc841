"""Secrets and addresses that stand elsewhere: an environment variable or a file, named by a `Reference`.

Values never appear in a message: whatever is resolved here is taken out of every text of this process (`schemas.masking`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from schemas.estate import Reference
from schemas.masking import learn

MIN_LEARNED = 4  # a shorter password would take letters out of every word


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
    for secret in secrets_in(value):
        learn(secret)
    return value


def secrets_in(value: str) -> list[str]:
    """What must not be read of a value: all of it, and the password when it is a URL, as it is written and as it is meant."""
    found = [value]
    authority = value.partition("://")[2].rpartition("@")[0]
    if password := authority.partition(":")[2]:
        found += [password, unquote(password)]
    if value.startswith("whsec_"):
        found.append(value.removeprefix("whsec_"))
    return [one for one in dict.fromkeys(found) if len(one) >= MIN_LEARNED]


def _variable(name: str, wanted_by: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name, "").strip()
    if not value:
        raise ConfigurationError(f"{wanted_by}: the environment variable {name} is not set; set it to the value")
    return value


def _first_line(path: Path, wanted_by: str) -> str:
    try:
        value = path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{wanted_by}: the file {path} cannot be read: {error}") from error
    if not value:
        raise ConfigurationError(f"{wanted_by}: the first line of {path} is empty; write the value there")
    return value
