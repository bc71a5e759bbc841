"""`pilothouse detect`: CSV files of `timestamp,value` get an anomaly score a row, by the pipeline's step `shapes`.

A file is one series, a row one scrape of it. The score is 1 - probability that the series' own past looks like this,
told once an episode; rows between episodes have 0. What was not measured (an empty cell, NaN) has 0 and teaches
nothing. A row that is not later than those before it is for the pipeline a redelivery: it has 0, changes nothing, and
is counted; a file in which that is the rule is refused. Memory does not grow with the file.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.csv_blocks import Block, InputError, blocks
from processors.steps import shapes

COLUMNS = ("timestamp", "value", "anomaly_score")
STALE_MAX = 0.1  # share of rows that may be out of order
REMARKABLE = 0.99  # scores above this are counted in the answer

Progress = Callable[[Path, int], None]


@dataclass
class Scored:
    """What became of one file."""

    input: str
    output: str
    rows: int = 0
    unmeasured_rows: int = 0
    passed_over_rows: int = 0
    remarkable_rows: int = 0


def detect(source: Path, out: Path, progress: Progress = lambda path, rows: None) -> list[Scored]:
    """Score a file or every *.csv of a tree into the same tree under `out`. Raises InputError, before writing if it can."""
    return [_score_file(path, target, progress) for path, target in _targets(source, out)]


def as_json(answer: list[Scored]) -> dict[str, Any]:
    """For machines."""
    return {"files": [asdict(one) for one in answer]}


def text(answer: list[Scored]) -> str:
    """For people."""
    lines = []
    for one in answer:
        more = f", {one.unmeasured_rows} not measured" if one.unmeasured_rows else ""
        more += f", {one.passed_over_rows} passed over (not later than the row before)" if one.passed_over_rows else ""
        lines.append(f"{one.output}: {one.rows} rows{more}; {one.remarkable_rows} with a score above {REMARKABLE}")
    return "\n".join(lines)


def _targets(source: Path, out: Path) -> list[tuple[Path, Path]]:
    if not source.exists():
        raise InputError(f"{source} does not exist; give a CSV file or a folder of them")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    if source.is_file():
        pairs = [(source, out / source.name)]
    else:
        found = sorted(path for path in source.rglob("*.csv") if out.absolute() not in path.absolute().parents)
        if not found and out.absolute() != source.absolute():
            raise InputError(f"{source} holds no *.csv file")
        pairs = [(path, out / path.relative_to(source)) for path in found]
    if out.absolute() == source.absolute() or any(path.absolute() == target.absolute() for path, target in pairs):
        raise InputError(f"--out {out} would overwrite the input; give another folder")
    return pairs


def _score_file(path: Path, target: Path, progress: Progress) -> Scored:
    answer = Scored(str(path), str(target))
    config, state = shapes.Config(cell="csv"), shapes.State()
    state.slots.extend(["value"])
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for block in blocks(path, ("value",), strict=False):
                writer.writerows(_score_block(config, state, block, answer))
                progress(path, answer.rows)
        if answer.passed_over_rows > STALE_MAX * answer.rows:
            raise InputError(
                f"{path}: {answer.passed_over_rows} of {answer.rows} rows are not later than the row before; "
                "sort the file by timestamp"
            )
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{error.filename or target} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return answer


def _score_block(config: shapes.Config, state: shapes.State, block: Block, answer: Scored) -> Iterator[list[str]]:
    times_ms, values = block.times_ms, block.columns[0]
    latest = np.maximum.accumulate(np.concatenate(([state.last_ms], times_ms)))
    new = np.flatnonzero(times_ms > latest[:-1])
    scores = np.zeros(len(values))
    found = shapes.score(config.calendar(), state, times_ms[new], values[new, None], np.zeros(len(new), bool))
    scores[new] = found[:, 0]
    state.last_ms = int(latest[-1])
    answer.rows += len(values)
    answer.passed_over_rows += len(values) - len(new)
    answer.unmeasured_rows += int(np.count_nonzero(np.isnan(values[new])))
    answer.remarkable_rows += int(np.count_nonzero(scores > REMARKABLE))
    for cells, score in zip(block.cells, scores.tolist(), strict=True):
        yield [*cells, f"{score:.9g}" if score else "0"]
