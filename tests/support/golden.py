"""Compares with a golden file. `PILOTHOUSE_GOLDEN=write` writes it anew; read the diff before committing it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from schemas.records import Record, Scrape

GOLDEN = Path(__file__).parent.parent / "golden"


def told(records: Iterable[Record]) -> str:
    """Records as people can compare them: of a scrape one line a series, of a batch one line an event."""
    return "".join(f"{line}\n" for record in records for line in _lines(record))


def agrees(text: str, path: Path) -> None:
    """Fail with the first difference unless the file holds exactly this text."""
    if os.environ.get("PILOTHOUSE_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text.splitlines() == path.read_text().splitlines()


def _lines(record: Record) -> Iterable[str]:
    fields = record.model_dump(mode="json")
    if isinstance(record, Scrape):
        layout, values = fields.pop("series"), fields.pop("values")
        yield f"{type(record).__name__} {_json(fields)}"
        yield from (f"  {series} {value}" for series, value in zip(layout.split("\n"), values, strict=True))
        return
    columns = {name: fields.pop(name) for name in list(fields) if isinstance(fields[name], list)}
    if columns and isinstance(fields.get("attributes"), dict):
        columns |= fields.pop("attributes")
    yield f"{type(record).__name__} {_json(fields)}"
    for row in zip(*columns.values(), strict=True):
        yield f"  {_json({name: value for name, value in zip(columns, row, strict=True) if value is not None})}"


def _json(fields: dict[str, object]) -> str:
    return json.dumps(fields, ensure_ascii=False)
