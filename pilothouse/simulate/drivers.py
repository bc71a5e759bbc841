"""What can go wrong in a cell, as knobs over time: faults and changes turn them, the cell and its documents obey.

A knob is in the words of the system (sessions that wait, seconds that Redis adds), never in those of a metric, so that
one fault shows wherever it would in reality.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from pilothouse.simulate.load import Times
from pilothouse.simulate.noise import Floats


class Knob(StrEnum):
    """A factor (at rest 1) or an addition (at rest 0). `who` is a tenant, a partner, TENANT/CRON, or empty for the cell."""

    DEMAND = "demand"  # factor of a tenant's load
    ORDERS = "orders"  # factor of its orders alone
    DATABASE = "database"  # backends that it keeps busy besides
    LOCKED = "locked"  # sessions of it that wait for a lock
    QUERY = "query"  # factor of its SQL time
    REQUEST = "request"  # factor of its own time a request
    ERRORS = "errors"  # share of its requests that fail
    WORKERS = "workers"  # factor of what its job workers get done
    CRONS = "crons"  # factor: 0 while no scheduled action of it runs
    CRON = "cron"  # of TENANT/CRON: 0 while that one does not run
    RESERVING = "reserving"  # factor of the pace at which stock is reserved
    PICKING = "picking"  # factor of the pace in its warehouse
    POSTING = "posting"  # factor of the pace of invoicing
    JOB_FAILURES = "job failures"  # share of a tenant's jobs, or of a partner's, that fail
    PARTNER = "partner"  # factor of the pace at which a partner answers
    INBOUND = "inbound"  # factor of what a partner sends
    MODULES = "modules"  # modules of it in a state `to ...`
    REDIS_DELAY = "redis delay"  # s that a command takes longer
    REDIS_MEMORY = "redis memory"  # bytes besides
    DISK = "disk"  # factor of the time of a disk operation
    DISK_BYTES = "disk bytes"  # bytes on disk besides
    WAL_BYTES = "wal bytes"  # of them, write-ahead log that is held back
    CONNECTIONS = "connections"  # besides
    HELD = "held"  # web workers that wait for somebody outside, besides
    CPU = "cpu"  # share of the CPUs besides
    MEMORY = "memory"  # share of the memory besides
    WEB = "web"  # factor: 0 while the web does not answer
    CERTIFICATE = "certificate"  # s by which the certificate ends earlier


@dataclass(frozen=True)
class Span:
    """A stretch of time: looks at `times_ms`, the one before them at `before_ms`."""

    before_ms: int
    times_ms: Times

    @classmethod
    def of(cls, from_ms: int, to_ms: int, interval_ms: int) -> Span:
        """Looks every `interval_ms`, the last at or before `to_ms`."""
        return cls(from_ms, np.arange(from_ms + interval_ms, to_ms + 1, interval_ms, dtype=np.int64))

    @property
    def dt_s(self) -> Floats:
        """Time since the look before, s."""
        return np.diff(self.times_ms, prepend=self.before_ms) / 1000

    @property
    def size(self) -> int:
        """Number of looks."""
        return self.times_ms.size


@dataclass
class Drivers:
    """The knobs of one cell over a span."""

    span: Span
    turned: dict[tuple[Knob, str], Floats] = field(default_factory=dict)

    def factor(self, knob: Knob, who: str = "") -> Floats:
        """A factor over time."""
        return self.turned.get((knob, who), np.ones(self.span.size))

    def extra(self, knob: Knob, who: str = "") -> Floats:
        """An addition over time."""
        return self.turned.get((knob, who), np.zeros(self.span.size))

    def scale(self, knob: Knob, who: str, values: Floats) -> None:
        """Turn a factor; two faults multiply."""
        self.turned[knob, who] = self.factor(knob, who) * values

    def add(self, knob: Knob, who: str, values: Floats) -> None:
        """Turn an addition; two faults add up."""
        self.turned[knob, who] = self.extra(knob, who) + values


def course(span: Span, onset_ms: int, end_ms: int, ramp_ms: int = 0) -> Floats:
    """How much of an effect is there over the interval up to each look, 0 to 1: it grows over the ramp, ends at once."""
    ends = span.times_ms.astype(float)
    begins = np.concatenate(([span.before_ms], ends[:-1]))
    covered = np.maximum(np.minimum(ends, end_ms) - np.maximum(begins, onset_ms), 0) / (ends - begins)
    middle = (np.minimum(ends, end_ms) + np.maximum(begins, onset_ms)) / 2
    grown = np.clip((middle - onset_ms) / ramp_ms, 0, 1) if ramp_ms else 1.0
    share: Floats = covered * grown
    return share
