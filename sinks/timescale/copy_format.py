"""Points as PostgreSQL's binary COPY, made by numpy: about ten times as fast as a tuple a row.

Source: PostgreSQL documentation, COPY, binary format: a header, then for each row a count of fields and for each
field its length and its bytes, all big-endian; a trailer.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01 UTC, from which PostgreSQL counts microseconds

_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("time_length", ">i4"),
        ("time", ">i8"),
        ("series_length", ">i4"),
        ("series", ">i8"),
        ("value_length", ">i4"),
        ("value", ">f8"),
    ]
)

POINT_COLUMNS = ("time", "series_id", "value")


def points(time_ms: int, series: NDArray[np.int64], values: Iterable[float | None]) -> tuple[bytes, int]:
    """The rows of one scrape and their number. A value that was not measured has no row, as a gap is not a zero; nor has one of a
    series that has no id (it is below 0).
    """
    column = np.array(values, dtype=np.float64)
    measured = ~np.isnan(column) & (series >= 0)
    if not measured.all():
        column, series = column[measured], series[measured]
    rows = np.empty(len(column), _ROW)
    rows["fields"] = 3
    rows["time_length"] = rows["series_length"] = rows["value_length"] = 8
    rows["time"] = (time_ms - POSTGRES_EPOCH_MS) * 1000
    rows["series"] = series
    rows["value"] = column
    return rows.tobytes(), len(rows)
