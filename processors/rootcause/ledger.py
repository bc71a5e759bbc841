"""Requests, seconds and failures of a cell's services, bin by bin: the recent ones, and those known to be normal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from processors import columns
from processors.rootcause.service_map import Calls, Traffic
from processors.step import Parts
from schemas.bounds import reached

Rows = np.ndarray[Any, np.dtype[np.float32]]
KINDS = 3  # requests, seconds, failures
CHUNK = 64  # rows of a part of a snapshot; only what has changed is written again


class Ledger:
    """Bins in the order of time, services in the order in which they were first seen.

    Bounded: 12 bytes a service and bin, for `services_max` services.
    """

    def __init__(self) -> None:
        self.services: dict[str, int] = {}
        self.calls: dict[tuple[str, str], int] = {}
        """(caller, callee) to the number of the bin in which the call was last seen."""
        self.number = 0
        """Bins taken so far."""
        self.first = 0
        """Number of the oldest normal row among all normal rows there ever were."""
        self.normal: Rows = np.zeros((0, 0, KINDS), dtype=np.float32)
        self.recent: Rows = np.zeros((0, 0, KINDS), dtype=np.float32)

    def take(self, counts: Mapping[str, list[float]], services_max: int) -> None:
        """A bin has ended: it becomes the newest of the recent ones. A service beyond the bound is left out."""
        new = [name for name in sorted(counts) if name not in self.services]
        if len(self.services) + len(new) > services_max:
            self._recycle()
            new = new[: max(services_max - len(self.services), 0)]
            reached("service_map.services")
        for name in new:
            self.services[name] = len(self.services)
        row = np.zeros((1, len(self.services), KINDS), dtype=np.float32)
        for name, count in counts.items():
            if name in self.services:
                row[0, self.services[name]] = count
        self.recent = np.concatenate((self._widened(self.recent), row))
        self.normal = self._widened(self.normal)
        self.number += 1

    def learn(self, rows_max: int) -> None:
        """The oldest of the recent bins was normal."""
        self.normal = np.concatenate((self.normal, self.recent[:1]))
        self.recent = self.recent[1:]
        if len(self.normal) > rows_max:
            self.first += len(self.normal) - rows_max
            self.normal = self.normal[-rows_max:]

    def drop(self, begin: int, end: int) -> None:
        """Some of the recent bins were not normal, and are past."""
        self.recent = np.delete(self.recent, slice(begin, end), axis=0)

    def see(self, caller: str, callee: str, calls_max: int) -> None:
        """A call was seen in the bin that ends next."""
        self.calls.pop((caller, callee), None)
        self.calls[caller, callee] = self.number
        if len(self.calls) > calls_max:
            reached("service_map.calls")
            del self.calls[next(iter(self.calls))]

    def graph(self) -> Calls:
        """Who calls whom."""
        callees: dict[str, list[str]] = {}
        for caller, callee in self.calls:
            callees.setdefault(caller, []).append(callee)
        return Calls.of(self.services, callees)

    def traffic(self, rows: Rows, calls: Calls) -> Traffic:
        """Rows of this ledger in the graph's order of services."""
        places = [self.services[name] for name in calls.names]
        return Traffic(*np.moveaxis(rows[:, places].astype(np.float64), -1, 0))

    def _recycle(self) -> None:
        """Let go of services that have had no traffic in any bin that is remembered."""
        self.normal, self.recent = self._widened(self.normal), self._widened(self.recent)
        busy: Any = self.normal.any(axis=(0, 2)) | self.recent.any(axis=(0, 2))
        self.normal, self.recent = self.normal[:, busy], self.recent[:, busy]
        stays = [name for name, place in self.services.items() if busy[place]]
        self.services = {name: place for place, name in enumerate(stays)}
        self.calls = {
            pair: number for pair, number in self.calls.items() if pair[0] in self.services and pair[1] in self.services
        }

    def _widened(self, rows: Rows) -> Rows:
        return np.pad(rows, ((0, 0), (0, len(self.services) - rows.shape[1]), (0, 0)))

    def pack(self) -> Parts:
        """Named parts of bytes; a part of old rows stays the same as long as no service is added."""
        calls = [[caller, callee, number] for (caller, callee), number in self.calls.items()]
        more = {"services": list(self.services), "calls": calls, "number": self.number, "first": self.first}
        parts = {"recent": columns.pack({"rows": self.recent}, more)}
        last = self.first + len(self.normal)
        for chunk in range(self.first // CHUNK, -(-last // CHUNK)):
            begin, end = (max(chunk * CHUNK - self.first, 0), chunk * CHUNK + CHUNK - self.first)
            parts[f"normal.{chunk}"] = columns.pack({"rows": self.normal[begin:end]})
        return parts

    @classmethod
    def unpack(cls, parts: Parts) -> Ledger:
        """What `pack` gave."""
        ledger = cls()
        arrays, more = columns.unpack(parts["recent"])
        ledger.recent = arrays["rows"]
        ledger.services = {name: place for place, name in enumerate(more["services"])}
        ledger.calls = {(caller, callee): number for caller, callee, number in more["calls"]}
        ledger.number, ledger.first = more["number"], more["first"]
        chunks = sorted((name for name in parts if name.startswith("normal.")), key=lambda name: int(name[7:]))
        rows = [columns.unpack(parts[name])[0]["rows"] for name in chunks]
        empty = np.zeros((0, len(ledger.services), KINDS), dtype=np.float32)
        ledger.normal = np.concatenate((empty, *rows))
        return ledger
