"""A CSV file as blocks of columns: streaming, checked, with errors that name the file, the line and the value."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import Misuse
from pilothouse.replay import instant

ROWS = 8_192  # of a block
LATEST_S = 1e11  # a larger number of seconds is in fact one of milliseconds


class InputError(Misuse, ValueError):
    """The file cannot be used; the message names the file, the line, the value and what would be right."""


class Block(NamedTuple):
    """Consecutive rows: their times (Unix ms), the wanted columns as floats, NaN where a cell is empty."""

    times_ms: NDArray[np.int64]
    columns: tuple[NDArray[np.float64], ...]
    line: int
    rows: list[list[str]]
    places: tuple[int, ...]

    @property
    def cells(self) -> list[list[str]]:
        """The wanted cells as they stand in the file, time first."""
        return [[row[place] for place in self.places] for row in self.rows]


def blocks(path: Path, names: Sequence[str], rows: int = ROWS, *, strict: bool = True) -> Iterator[Block]:
    """Read `timestamp` (Unix seconds or RFC 3339) and the named columns. Times must grow from row to row.

    Not `strict`: rows may come in any order, and a time that names no zone is UTC.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from _blocks(path, file, names, rows, strict)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _blocks(path: Path, file: IO[str], names: Sequence[str], rows: int, strict: bool) -> Iterator[Block]:
    reader = csv.reader(file)
    places = _places(path, next(reader, None), ("timestamp", *names))
    last_ms: int | None = None
    while found := list(islice(reader, rows)):
        line = reader.line_num - len(found) + 1
        kept = [row for row in found if row]  # a line without anything is no row
        if not kept:
            continue
        times, *columns = (_numbers(path, kept, place, name, line, strict) for name, place in places)
        if np.isnan(times).any():
            raise InputError(f"{path} line {line + int(np.flatnonzero(np.isnan(times))[0])} has no timestamp")
        if (times < 0).any():
            place = int(np.flatnonzero(times < 0)[0])
            raise InputError(f"{path} line {line + place}: timestamp {times[place]:g} is before 1970")
        times_ms = np.rint(times * 1000).astype(np.int64)
        if strict:
            _check_order(path, times_ms, last_ms, line)
        last_ms = int(times_ms[-1])
        yield Block(times_ms, tuple(columns), line, kept, tuple(place for _, place in places))
    if last_ms is None:
        raise InputError(f"{path} holds no rows below its header; it needs at least one")


def _places(path: Path, header: list[str] | None, names: Sequence[str]) -> list[tuple[str, int]]:
    if header is None:
        raise InputError(f"{path} is empty; its first line names the columns: {','.join(names)}")
    known = [name.strip() for name in header]
    for name in names:
        if name not in known:
            raise InputError(
                f"{path} has no column {name!r}; its first line is {','.join(known)[:200]!r}, wanted is {','.join(names)}"
            )
    return [(name, known.index(name)) for name in names]


def _numbers(path: Path, rows: list[list[str]], place: int, name: str, line: int, strict: bool) -> NDArray[np.float64]:
    try:
        values = np.array([row[place] for row in rows], dtype=np.float64)
    except (ValueError, IndexError):
        values = np.array([_number(path, row, place, name, line + number, strict) for number, row in enumerate(rows)])
    if name == "timestamp" and (values > LATEST_S).any():
        number = int(np.flatnonzero(values > LATEST_S)[0])
        raise InputError(
            f"{path} line {line + number}: timestamp {rows[number][place]} is beyond the year 5000 in seconds; "
            "write Unix seconds or RFC 3339"
        )
    if np.isinf(values).any():
        number = int(np.flatnonzero(np.isinf(values))[0])
        raise InputError(
            f"{path} line {line + number}: {name} is infinite; leave the cell empty where nothing is known"
        )
    return values


def _number(path: Path, row: list[str], place: int, name: str, line: int, strict: bool) -> float:
    if place >= len(row):
        raise InputError(
            f"{path} line {line} has {len(row)} cells and none for {name}; every row needs as many as the header"
        )
    text = row[place].strip()
    if not text:
        return float("nan")
    try:
        return _seconds(text, strict) if name == "timestamp" else float(text)
    except ValueError as error:
        wrong = str(error) if name == "timestamp" else f"{text[:80]!r} is no number"
        raise InputError(f"{path} line {line}: {name}: {wrong}") from None


def _seconds(text: str, strict: bool) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return instant(text) / 1000
    return moment.replace(tzinfo=UTC).timestamp() if moment.tzinfo is None and not strict else instant(text) / 1000


def _check_order(path: Path, times_ms: NDArray[np.int64], last_ms: int | None, line: int) -> None:
    before: Any = times_ms[:1] - 1 if last_ms is None else last_ms
    bad = np.flatnonzero(np.diff(times_ms, prepend=before) <= 0)
    if bad.size:
        place = int(bad[0])
        earlier = last_ms if place == 0 else int(times_ms[place - 1])
        same = earlier == int(times_ms[place])
        raise InputError(
            f"{path} line {line + place}: timestamp {int(times_ms[place]) / 1000:.15g} "
            f"{'stands twice' if same else f'comes after {(earlier or 0) / 1000:.15g}'}; "
            f"{'leave one of the rows out' if same else 'sort the file by timestamp'}"
        )
