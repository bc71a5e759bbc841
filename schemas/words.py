"""Numbers as people write them, for sentences: a few digits, no exponents where a person would not use one."""

from __future__ import annotations


def number(value: float, digits: int = 4, noise: float = 0.0) -> str:
    """So many digits, thousands parted by commas; what is lost in the noise is 0."""
    if value == 0 or abs(value) < noise / 1_000 or abs(value) < 1e-9:
        return "0"
    if abs(value) >= 10 ** min(digits, 3):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.2g}"
