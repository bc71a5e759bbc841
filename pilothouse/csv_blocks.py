"""A CSV file as blocks of columns: streaming, checked, with errors that name the file, the line and the value."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import Misuse
from pilothouse.times import EARLIEST_S, SECONDS_MAX, UNITS, is_date, seconds

ROWS = 8_192  # of a block
DATE_DIGITS = 8
UNITS_A_S = [unit for unit, _ in UNITS]
VALUE_MAX = 1e100
"""Of a cell: sums of squares of larger ones overflow, and nothing that is measured comes near."""


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
        times = _times(path, kept, places[0], line, strict)
        columns = [_numbers(path, kept, place, name, line) for name, place in places[1:]]
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
            raise InputError(f"{path} has no column {name!r}; {_remedy(known, names)}")
        if known.count(name) > 1:
            raise InputError(f"{path} has {known.count(name)} columns {name!r}; leave one of them")
    return [(name, known.index(name)) for name in names]


def _remedy(known: Sequence[str], names: Sequence[str]) -> str:
    joined = ",".join(known)
    for sign, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if sign in joined:
            return f"its columns are parted by {word}; part them by commas, with a point in numbers"
    return f"its first line is {joined[:200]!r}, wanted is {','.join(names)}"


def _times(path: Path, rows: list[list[str]], column: tuple[str, int], line: int, strict: bool) -> NDArray[np.float64]:
    """Unix seconds of rows. What `times` says of numbers holds, for whole columns at once."""
    name, place = column
    texts = [_cell(path, row, place, name, line + number).strip() for number, row in enumerate(rows)]
    if not all(len(text) == DATE_DIGITS and is_date(text) for text in texts):
        with suppress(ValueError):
            values = np.array(texts, dtype=np.float64)
            # Seconds, by far the usual; other units are taken apart by their size, the rest is said row by row.
            units = np.select([_plausible(values, unit) for unit in UNITS_A_S], UNITS_A_S, default=np.nan)
            if not np.isnan(units).any():
                return np.asarray(values / units, np.float64)
    found = np.empty(len(texts))
    for number, text in enumerate(texts):
        if not text or text.lower() == "nan":
            raise InputError(f"{path} line {line + number} has no timestamp")
        try:
            found[number] = seconds(text, needs_zone=strict)
        except ValueError as error:
            raise InputError(f"{path} line {line + number}: timestamp: {error}") from None
    return found


def _plausible(values: NDArray[np.float64], unit: float) -> NDArray[np.bool_]:
    begin = 0.0 if unit == 1.0 else EARLIEST_S * unit
    return np.asarray((values >= begin) & (values < SECONDS_MAX * unit))


def _cell(path: Path, row: list[str], place: int, name: str, line: int) -> str:
    if place >= len(row):
        raise InputError(
            f"{path} line {line} has {len(row)} cells and none for {name}; every row needs as many as the header"
        )
    return row[place]


def _numbers(path: Path, rows: list[list[str]], place: int, name: str, line: int) -> NDArray[np.float64]:
    try:
        values = np.array([row[place] for row in rows], dtype=np.float64)
    except (ValueError, IndexError):
        values = np.array([_number(path, row, place, name, line + number) for number, row in enumerate(rows)])
    large = np.abs(values) > VALUE_MAX
    if large.any():
        number = int(np.flatnonzero(large)[0])
        what = "infinite" if np.isinf(values[number]) else f"above {VALUE_MAX:g}, which nothing is that was measured"
        raise InputError(
            f"{path} line {line + number}: {name} is {what}, got {rows[number][place].strip()[:40]!r}; "
            "leave the cell empty where nothing is known"
        )
    return values


def _number(path: Path, row: list[str], place: int, name: str, line: int) -> float:
    text = _cell(path, row, place, name, line).strip()
    if not text:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        remedy = "; write a point in place of the comma" if re.fullmatch(r"^-?\d++,\d++", text) else ""
        raise InputError(f"{path} line {line}: {name}: {text[:80]!r} is no number{remedy}") from None


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
