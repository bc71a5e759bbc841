"""Named numpy arrays to bytes and back: how columnar states travel in snapshots.

A JSON line with names, types, shapes and whatever else the state needs, then the raw little-endian arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

Arrays = dict[str, np.ndarray[Any, Any]]


def wider(array: np.ndarray[Any, Any], more: int, empty: float = 0) -> np.ndarray[Any, Any]:
    """The same with so many columns more, which hold `empty`: as `np.pad` has it, at a tenth of the cost."""
    *rows, width = array.shape
    made = np.full((*rows, width + more), empty, array.dtype)
    made[..., :width] = array
    return made


def kept(arrays: Arrays, stays: np.ndarray[Any, Any]) -> Arrays:
    """The same with some of their columns, in order."""
    return {name: array[..., stays] for name, array in arrays.items()}


def pack(arrays: Arrays, more: Any = None) -> bytes:
    """One byte string of all arrays and `more` (anything JSON can say)."""
    table = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    head = orjson.dumps({"arrays": table, "more": more})
    return b"\n".join((head, b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())))


def unpack(data: bytes) -> tuple[Arrays, Any]:
    """What `pack` was given; the arrays are writable."""
    line, _, body = data.partition(b"\n")
    head = orjson.loads(line)
    arrays: Arrays = {}
    at = 0
    for name, kind, shape in head["arrays"]:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        arrays[name] = np.frombuffer(body[at : at + size], dtype=kind).reshape(shape).copy()
        at += size
    return arrays, head["more"]
