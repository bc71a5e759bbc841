"""Series and numbers as people say them, for sentences: a few digits, no exponents where a person would not use one."""

from __future__ import annotations

from schemas.metrics import describe, spoken
from schemas.series import Series

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_HOUR_S = 3_600.0


def number(value: float, digits: int = 4, noise: float = 0.0) -> str:
    """So many digits, thousands parted by commas; what is lost in the noise is 0."""
    if value == 0 or abs(value) < noise / 1_000 or abs(value) < 1e-9:
        return "0"
    if abs(value) >= 10 ** min(digits, 3):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.2g}"


def called(series: Series) -> str:
    """A series without its tenant: `age of the oldest waiting job (root.edi)`."""
    which = ", ".join(value for name, value in sorted(series.attributes.items()) if name != "tenant.id")
    return f"{describe(series.name).called}{f' ({which})' if which else ''}"


def amounts(metric: str, *values: float) -> tuple[str, ...]:
    """What was looked at of a metric (of a sum its rates a second) with the unit that suits the largest: `310 ms`, `0.4 ms`."""
    times, unit = _scale(metric, max(map(abs, values), default=0.0))
    return tuple(number(value * times, 3) + unit for value in values)


def _scale(metric: str, largest: float) -> tuple[float, str]:
    """By what to multiply, and what to write behind it."""
    known = describe(metric).observed_unit
    unit, per, _ = known.partition("/")
    if metric.endswith(".utilization"):
        return 100.0, " %"
    if unit == "By":
        step = next((n for n in range(len(_BYTES)) if largest < 1024 ** (n + 1)), len(_BYTES) - 1)
        return 1024.0**-step, f" {_BYTES[step]}{'/s' if per else ''}"
    if known == "s":
        return (1_000.0, " ms") if largest < 1 else (1.0, " s") if largest < 2 * _HOUR_S else (1 / _HOUR_S, " h")
    if unit.startswith("{") and per:
        return (1.0, "/s") if largest >= 1 else (60.0, "/min") if largest >= 1 / 60 else (_HOUR_S, "/h")
    return 1.0, "" if unit.startswith("{") else f" {spoken(known)}".rstrip()
