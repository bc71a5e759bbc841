"""An estate from a folder of YAML: every file adds cells, calendars and routes; the whole is checked before use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from schemas.estate import Estate

PARTS = ("cells", "calendars", "routes", "receivers")
SUFFIXES = (".yaml", ".yml")
FILE_BYTES_MAX = 4 * 2**20


class EstateError(Exception):
    """The estate cannot be used; the message names the file, the place, the value and what would be right."""


def load(directory: Path) -> Estate:
    """Read and check an estate. Raises EstateError with every fault that was found."""
    if not directory.is_dir():
        raise EstateError(f"{directory} is not a folder; name the one that holds the estate's YAML files")
    files = sorted(path for path in directory.rglob("*") if path.suffix in SUFFIXES and not _is_slo(path))
    if not files:
        raise EstateError(f"{directory} holds no *.yaml file; an estate needs at least one with `cells:`")
    whole: dict[str, list[Any]] = {part: [] for part in PARTS}
    origins: dict[tuple[str, int], Path] = {}
    for path in files:
        for part, items in _read(path).items():
            for item in items:
                origins[part, len(whole[part])] = path
                whole[part].append(item)
    try:
        return Estate.model_validate(whole)
    except ValidationError as error:
        raise EstateError(
            "\n".join(_fault(item, origins, directory) for item in error.errors(include_url=False))
        ) from None


def _is_slo(path: Path) -> bool:
    return path.name.endswith((".openslo.yaml", ".openslo.yml"))


def _read(path: Path) -> dict[str, list[Any]]:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise EstateError(f"{path} has {path.stat().st_size} bytes; an estate's file has at most {FILE_BYTES_MAX}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise EstateError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(content, dict) or not set(content) <= set(PARTS):
        raise EstateError(f"{path} holds {_names(content)}; an estate's file holds {', '.join(PARTS)} and nothing else")
    for part, items in content.items():
        if not isinstance(items, list):
            raise EstateError(f"{path}: {part} is {items!r:.60}; it must be a list")
    return content


def _names(content: Any) -> str:
    return ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__


def _fault(item: Any, origins: dict[tuple[str, int], Path], directory: Path) -> str:
    place = item["loc"]
    where = str(origins.get(place[:2], directory))
    path = ".".join(map(str, place))
    shown = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r:.80}"
    return f"{where}: {path + ': ' if path else ''}{item['msg'].removeprefix('Value error, ')}{shown}"
