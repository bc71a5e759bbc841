"""The score of the Numenta Anomaly Benchmark, written from its definition (Lavin & Ahmad 2015, arXiv:1510.03336).

Detections are rows whose score reaches a threshold, after the first 15 % of a file (at most 750 rows). The first one in a
labelled window earns the more the earlier it is; one outside costs the more the farther it is from the window before. One
threshold holds for all files, that which gives the highest total, so `held_out` also chooses it on one half of the files and
applies it to the other.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MISSED = 1.0
COST = {"standard": 0.11, "low_fp": 0.22}  # of a detection far from any window, by profile
SPLITS = 60


class Labelled(NamedTuple):
    """One file: its group, what its rows outside windows cost as detections, and what those inside earn."""

    group: str
    windows: int
    outside: tuple[Floats, Floats]  # scores, and what a detection there counts: -1 to 0
    inside: tuple[tuple[Floats, Floats], ...]  # by window: scores, and what the first detection earns: 0 to 1


def read(scored: Path, windows: Path) -> list[Labelled]:
    """Files under `scored` in the order of the labels."""
    labels = json.loads(windows.read_text(encoding="utf-8"))
    return [_file(scored / name, name.split("/")[0], spans) for name, spans in labels.items()]


def _file(path: Path, group: str, spans: Sequence[Sequence[str]]) -> Labelled:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(datetime.fromisoformat(row["timestamp"]), float(row["anomaly_score"])) for row in csv.DictReader(file)]
    scores = np.array([score for _, score in rows])
    probation = min(math.floor(0.15 * len(rows)), 750)
    found = []
    for begin, end in sorted((datetime.fromisoformat(begin), datetime.fromisoformat(end)) for begin, end in spans):
        places = [place for place, (time, _) in enumerate(rows) if begin <= time <= end]
        found.append((places[0], places[-1]))
    counts, free = np.full(len(rows), -1.0), np.ones(len(rows), bool)
    for first, last in found:
        free[first : last + 1] = False
        counts[last + 1 :] = _sigmoid((np.arange(last + 1, len(rows)) - last) / max(1, last - first))
    free[:probation] = False
    return Labelled(
        group, len(found), (scores[free], counts[free]), tuple(_window(scores, probation, *one) for one in found)
    )


def _window(scores: Floats, probation: int, first: int, last: int) -> tuple[Floats, Floats]:
    rows = np.arange(max(first, probation), last + 1)
    return scores[rows], _sigmoid(-(last - rows + 1) / (last - first + 1)) / _sigmoid(np.array(-1.0))


def _sigmoid(place: Floats) -> Floats:
    return np.where(place > 3, -1.0, 2 / (1 + np.exp(5 * np.minimum(place, 3.0))) - 1)


def score(files: Sequence[Labelled], cost: float, threshold: float | None = None) -> tuple[float, float]:
    """0 (nothing found) to 100 (all at once, nothing else), and the threshold: that given, or the best."""
    steps = sorted(_steps(files, cost), reverse=True)
    best = reached = 0.0
    at = math.inf if threshold is None else threshold
    for place, (level, change) in enumerate(steps):
        if threshold is not None and level < threshold:
            break
        reached += change
        whole = place + 1 == len(steps) or steps[place + 1][0] != level
        if threshold is None and whole and reached > best:
            best, at = reached, level
    total = best if threshold is None else reached
    return 100 * total / ((1 + MISSED) * sum(one.windows for one in files)), at


def _steps(files: Sequence[Labelled], cost: float) -> Iterator[tuple[float, float]]:
    """Scores, and what is added to the total when the threshold falls to them."""
    for one in files:
        yield from zip(one.outside[0].tolist(), (cost * one.outside[1]).tolist(), strict=True)
        for scores, earned in one.inside:
            highest = np.maximum.accumulate(scores)
            records = np.flatnonzero(np.diff(highest, prepend=-1.0) > 0)
            later = [*earned[records[1:]].tolist(), -MISSED]
            yield from zip(scores[records].tolist(), (earned[records] - later).tolist(), strict=True)


def found(files: Sequence[Labelled], threshold: float) -> tuple[int, int]:
    """Windows with a detection, and rows outside windows that are detections."""
    hit = sum(bool((scores >= threshold).any()) for one in files for scores, _ in one.inside)
    return hit, int(sum(np.count_nonzero(one.outside[0] >= threshold) for one in files))


def held_out(files: Sequence[Labelled], cost: float) -> float:
    """Mean score of one half of each group's files with the best threshold of the other, over drawn halves."""
    random, told = np.random.default_rng(5), []
    for _ in range(SPLITS):
        halves: tuple[list[Labelled], list[Labelled]] = ([], [])
        by_group = defaultdict(list)
        for one in files:
            by_group[one.group].append(one)
        for group in by_group.values():
            for place, which in enumerate(random.permutation(len(group)).tolist()):
                halves[place % 2].append(group[which])
        for chosen, judged in (halves, halves[::-1]):
            told.append(score(judged, cost, score(chosen, cost)[1])[0])
    return float(np.mean(told))
