"""An estate from a folder of YAML: every file adds cells, calendars and routes; the whole is checked before use.

A document that begins with `apiVersion: openslo/v1` is an OpenSLO document; a file may hold several, parted by `---`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from schemas.estate import Estate

PARTS = ("cells", "calendars", "routes", "receivers", "openslo")
SUFFIXES = (".yaml", ".yml")
FILE_BYTES_MAX = 4 * 2**20


class EstateError(Exception):
    """The estate cannot be used; the message names the file, the place, the value and what would be right."""


def load(directory: Path) -> Estate:
    """Read and check an estate. Raises EstateError with every fault that was found."""
    if not directory.is_dir():
        raise EstateError(f"{directory} is not a folder; name the one that holds the estate's YAML files")
    files = sorted(path for path in directory.rglob("*") if path.suffix in SUFFIXES)
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


def _read(path: Path) -> dict[str, list[Any]]:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise EstateError(f"{path} has {path.stat().st_size} bytes; an estate's file has at most {FILE_BYTES_MAX}")
    try:
        documents = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise EstateError(f"{path} cannot be read as YAML: {error}") from None
    found: dict[str, list[Any]] = {}
    for document in documents:
        for part, items in _parts(path, document).items():
            found[part] = found.get(part, []) + items
    return found


def _parts(path: Path, document: Any) -> dict[str, list[Any]]:
    if isinstance(document, dict) and "apiVersion" in document:
        return {"openslo": [document]}
    if not isinstance(document, dict) or not set(document) <= set(PARTS):
        raise EstateError(
            f"{path} holds {_names(document)}; an estate's file holds {', '.join(PARTS)} and nothing else, "
            "or OpenSLO documents (apiVersion: openslo/v1)"
        )
    for part, items in document.items():
        if not isinstance(items, list):
            raise EstateError(f"{path}: {part} is {items!r:.60}; it must be a list")
    return document


def _names(content: Any) -> str:
    return ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__


def _fault(item: Any, origins: dict[tuple[str, int], Path], directory: Path) -> str:
    place = item["loc"]
    where = str(origins.get(place[:2], directory))
    path = ".".join(map(str, place))
    shown = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r:.80}"
    return f"{where}: {path + ': ' if path else ''}{item['msg'].removeprefix('Value error, ')}{shown}"
