"""`pilothouse slo eval`: an OpenSLO file over a CSV file, judged by the core that the step `burn_rate` runs.

A row is an interval that ends at its timestamp. Alerts are judged every minute, or as often as there are rows when those
are further apart. Rows are read in blocks, so memory does not grow with the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pilothouse.csv_blocks import ROWS, Block, InputError, blocks
from pilothouse.errors import Misuse
from pilothouse.estate_files import EstateError, documents_of
from processors import budgets
from processors.budgets import EVENT, Burning, Counts, Terms, Track
from schemas import openslo
from schemas.burn_rates import SEVERITIES
from schemas.slo import Column, Indicator, Slo, Target, slos

STEP_MS = 60_000
EVENTS_MAX = 9e12
"""Of a file: millionths of them are summed in 64 bits."""
ALWAYS = 10**9  # windows that move by a step, however long they are


class SloError(Misuse, ValueError):
    """The SLO file cannot be used; the message names the file, the place, the value and what would be right."""


class Increments(NamedTuple):
    """What came from row to row: from when, until when (Unix ms), and counts by row."""

    since_ms: NDArray[np.int64]
    until_ms: NDArray[np.int64]
    counts: Counts


@dataclass
class Judged:
    """One objective over the file."""

    target: Target
    track: Track
    alerts: dict[str, list[list[int]]] = field(default_factory=lambda: {severity: [] for severity in SEVERITIES})
    burning: Burning | None = None


@dataclass
class Answer:
    """What the file says of the SLO."""

    slo: Slo
    objectives: list[Judged]
    rows: int = 0
    unmeasured_rows: int = 0

    def as_json(self) -> dict[str, Any]:
        """For machines: `page` and `ticket` as [[first, last], ...] in Unix seconds, of any objective; then more."""
        whole = {severity: _union([one.alerts[severity] for one in self.objectives]) for severity in SEVERITIES}
        return {
            **{severity: self._seconds(found) for severity, found in whole.items()},
            "slo": self.slo.name,
            "rows": self.rows,
            "unmeasured_rows": self.unmeasured_rows,
            "step_s": self.objectives[0].track.terms.step_ms / 1000,
            "objectives": [self._objective(one) for one in self.objectives],
        }

    def text(self) -> str:
        """For people."""
        lines = [f"{self.slo.title}: {self.rows} rows, {self.unmeasured_rows} of them not measured"]
        for one in self.as_json()["objectives"]:
            period = self.slo.period.duration
            lines.append(f"{one['name']}: {one['target']:.6g} over {period}, {_left(one['budget_left'])}")
            if gone := one["time_to_exhaustion_s"]:
                lines.append(f"  at the pace of the last hour it is gone in {gone / 3600:.1f} h")
            for severity in SEVERITIES:
                lines += [f"  {severity} from {first} to {last}" for first, last in one[severity]]
                lines += [] if one[severity] else [f"  no {severity}"]
        return "\n".join(lines)

    def _objective(self, one: Judged) -> dict[str, Any]:
        left = float(one.track.left()[0]) if one.track.step >= 0 else math.nan
        burn = _burn_rates(one)
        gone = budgets.exhaustion_ms(left, burn.get("1h") or 0.0, self.slo.period.length_ms)
        held = one.track.in_period()[:, 0]
        return {
            "name": one.target.name,
            "target": one.target.target,
            **{severity: self._seconds(found) for severity, found in one.alerts.items()},
            "budget_left": None if math.isnan(left) else round(left, 6),
            "events": held[budgets.TOTAL] / EVENT,
            "bad_events": held[budgets.BAD] / EVENT,
            "burn_rates": burn,
            "time_to_exhaustion_s": None if gone is None else gone / 1000,
        }

    def _seconds(self, found: list[list[int]]) -> list[list[float]]:
        terms = self.objectives[0].track.terms
        return [[_whole(terms.time_ms(step) / 1000) for step in pair] for pair in found]


def evaluate(
    slo_file: Path,
    csv_file: Path,
    *,
    name: str | None = None,
    step_s: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Answer:
    """Judge a CSV file. Raises SloError or InputError, which say what is wrong and what would be right.

    `progress` is told the rows so far, after each block.
    """
    slo = _choose(slo_file, name)
    columns = _columns(slo)
    rows = blocks(csv_file, columns)
    first = next(rows)
    spacing_ms = int(first.times_ms[1] - first.times_ms[0]) if first.times_ms.size > 1 else STEP_MS
    step_ms = round(step_s * 1000) if step_s else max(STEP_MS, spacing_ms)
    if step_ms <= 0:
        raise SloError(f"step {step_s} s is not above 0; write such as 60")
    offset_ms = int(first.times_ms[0]) % step_ms
    answer = Answer(
        slo, [Judged(one, Track(_terms(slo_file, slo, one, step_ms, offset_ms), 1, ROWS)) for one in slo.targets]
    )
    readers = [_Reader(csv_file, one.indicator, one, columns, spacing_ms) for one in slo.targets]
    for block in chain([first], rows):
        answer.rows += block.times_ms.size
        for reader, judged in zip(readers, answer.objectives, strict=True):
            _judge(judged, reader.read(block))
        progress(answer.rows)
    answer.unmeasured_rows = readers[0].unmeasured
    return answer


def _choose(path: Path, name: str | None) -> Slo:
    try:
        found = slos(openslo.DOCUMENTS.validate_python(documents_of(path)))
    except ValidationError as error:
        raise SloError(f"{path}: {'; '.join(dict.fromkeys(map(_fault, error.errors(include_url=False))))}") from None
    except EstateError as error:
        raise SloError(str(error)) from None
    except ValueError as error:
        raise SloError(f"{path} cannot be used: {error}") from None
    if not found:
        raise SloError(f"{path} holds no SLO; it needs a document with apiVersion: openslo/v1 and kind: SLO")
    known = ", ".join(one.name for one in found)
    chosen = [one for one in found if name in (None, one.name)]
    if len(chosen) != 1:
        raise SloError(f"{path} declares the SLOs {known}; name one of them with --name")
    return chosen[0]


def _fault(one: ErrorDetails) -> str:
    """Which document and field, what stands there, and what would be right where the mistake is a common one."""
    if one["type"].startswith("union_tag"):
        known = ", ".join(openslo.KINDS)
        return f"document {int(one['loc'][0]) + 1} is no OpenSLO document; its kind is one of {known}"
    place, _, *fields = (*one["loc"], 0, "")[: max(len(one["loc"]), 2)]
    where, field = f"document {int(place) + 1}", ".".join(map(str, fields))
    if not field:
        return f"{where} is no OpenSLO document; it begins with apiVersion: openslo/v1 and kind: SLO"
    shown = f", not {one['input']!r}" if isinstance(one["input"], str | int | float) else ""
    hint = "; a target is a share such as 0.999" if fields[-1] == "target" else ""
    return f"{where}: {field}: {one['msg']}{shown}{hint}"


def _terms(path: Path, slo: Slo, target: Target, step_ms: int, offset_ms: int) -> Terms:
    if target.slice_ms % step_ms:
        raise SloError(
            f"{path}: {target.name}: a slice of {target.slice_ms // 1000} s is no multiple of the step of {step_ms // 1000} s; "
            "choose another timeSliceWindow or --step"
        )
    options = slo.options
    return Terms(target, slo.period, step_ms, offset_ms, ALWAYS, options.low_traffic_chance, options.freeze_unmeasured)


def _columns(slo: Slo) -> list[str]:
    """A column by source: the one that it names; the parts' own names where the source is not a file."""
    return list(dict.fromkeys(name for one in slo.targets for name in _names(one.indicator)))


def _names(indicator: Indicator) -> list[str]:
    part = {"threshold": "value", "raw": "ratio"}.get(indicator.kind, "good" if indicator.part_is_good else "bad")
    sources = [(indicator.part, part)] + ([(indicator.total, "total")] if indicator.total else [])
    return [source.column if isinstance(source, Column) else default for source, default in sources]


class _Reader:
    """Turns rows into increments of one objective, remembering the last row that was measured."""

    def __init__(self, path: Path, indicator: Indicator, target: Target, columns: list[str], spacing_ms: int) -> None:
        self._path, self._indicator, self._target = path, indicator, target
        self._places, self._spacing_ms = [columns.index(name) for name in _names(indicator)], spacing_ms
        self._names = _names(indicator)
        self._last_ms: int | None = None
        self._totals: NDArray[np.float64] | None = None
        self.unmeasured = 0
        self._events = 0.0

    def read(self, block: Block) -> Increments:
        """The increments of a block; a row in which something is missing was not measured."""
        values = np.stack([block.columns[place] for place in self._places])
        whole = ~np.isnan(values).any(axis=0)
        self._check(block, values)
        times, values = block.times_ms[whole], values[:, whole]
        if self._last_ms is None and times.size:
            self._last_ms = int(times[0]) - self._spacing_ms
        since = np.concatenate(([self._last_ms or 0], times))[:-1]
        if times.size:
            self._last_ms = int(times[-1])
        known = np.ones(times.size, bool)
        if self._indicator.kind in ("ratio", "promise") and self._indicator.counter:
            values, known = self._rises(values)
        self.unmeasured += int(np.sum(~whole) + np.sum(~known))
        counts = self._counts(values)
        self._events += float(counts[1].sum()) / EVENT
        if self._events > EVENTS_MAX:
            raise InputError(
                f"{self._path} counts more than {EVENTS_MAX:g} events up to line {block.line + len(block.rows)}"
            )
        counts[2] = np.minimum(times - since, self._spacing_ms)
        return Increments(since[known], times[known], np.rint(counts.T[known]).astype(np.int64))

    def _rises(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """How much counters rose. A first value says nothing, and neither does one that fell: a reset."""
        if not values.size:
            return values, np.zeros(0, bool)
        before = np.full((len(values), 1), np.nan) if self._totals is None else self._totals[:, None]
        rises = np.diff(values, axis=1, prepend=before)
        self._totals = values[:, -1].copy()
        known: NDArray[np.bool_] = np.all(rises >= 0, axis=0)
        return np.where(known, rises, 0.0), known

    def _counts(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        part, counts = values[0], np.zeros((3, values.shape[1]))
        match self._indicator.kind:
            case "threshold":
                bad = np.array([not self._target.is_good(value) for value in part], float)
            case "raw":
                bad = 1 - part if self._indicator.part_is_good else part
            case _:
                bad = values[1] - part if self._indicator.part_is_good else part
        counts[0], counts[1] = bad * EVENT, (values[1] if len(values) > 1 else 1.0) * EVENT
        return counts

    def _check(self, block: Block, values: NDArray[np.float64]) -> None:
        if self._indicator.kind == "threshold":
            return
        most = values[1] if len(values) > 1 else np.ones(values.shape[1])
        for wrong, says in (
            (values.min(axis=0) < 0, "is below 0; counts and ratios never are"),
            (values[0] > most, f"is more than {self._names[1] if len(values) > 1 else 1}; a part is at most its total"),
        ):
            if wrong.any():
                place = int(np.flatnonzero(wrong)[0])
                shown = ", ".join(f"{name} {value[place]:g}" for name, value in zip(self._names, values, strict=True))
                raise InputError(f"{self._path} line {block.line + place}: {shown}: {self._names[0]} {says}")


def _judge(judged: Judged, found: Increments) -> None:
    track = judged.track
    if not found.until_ms.size:
        return
    terms, carried = track.terms, track.raw[None]
    sums = np.concatenate((carried, carried + np.cumsum(found.counts, axis=0)[:, :, None]))
    opens = -(-(int(found.until_ms[0]) - terms.offset_ms) // terms.step_ms)
    first = opens if track.step < 0 else track.step + 1
    last = (int(found.until_ms[-1]) - terms.offset_ms) // terms.step_ms
    for begin in range(first, last + 1, ROWS):
        steps = np.arange(begin, min(begin + ROWS, last + 1))
        times = steps * terms.step_ms + terms.offset_ms
        reached = sums[np.searchsorted(found.until_ms, times, side="right")]
        began = sums[np.searchsorted(found.since_ms, times, side="left")]
        judged.burning = track.advance(steps, reached, began)
        for severity in SEVERITIES:
            budgets.intervals(judged.burning.alerts[severity][:, 0], steps, judged.alerts[severity])
    track.raw = sums[-1].copy()


def _burn_rates(one: Judged) -> dict[str, float | None]:
    if one.burning is None:
        return {}
    shown = {}
    for length, sums in sorted(one.burning.sums.items()):
        share = float(budgets.ratio(sums[-1])[0])
        shown[_duration(length)] = None if math.isnan(share) else round(share / one.track.terms.budget, 6)
    return shown


def _duration(length_ms: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        if length_ms % size == 0:
            return f"{length_ms // size}{unit}"
    return f"{length_ms // 1000}s"


def _left(share: float | None) -> str:
    if share is None:
        return "how much budget is left is not known"
    return f"{share:.1%} of the budget is left" if share > 0 else f"the budget is spent {1 - share:.1f} times over"


def _union(several: list[list[list[int]]]) -> list[list[int]]:
    merged: list[list[int]] = []
    for first, last in sorted(pair for one in several for pair in one):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return merged


def _whole(seconds: float) -> float:
    return int(seconds) if seconds == int(seconds) else seconds
