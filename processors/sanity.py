"""What no step has to reckon with: numbers of no scale, and times that have not come.

A value of 1e300 is no measurement, and its square is no number: it would stay in means and variances for good. It is folded as
not measured. A record whose own time lies far ahead of when it was recorded would make everything that comes until then
look old: steps count nothing that is not newer than what they have seen. It is refused.
"""

from __future__ import annotations

import numpy as np

from processors.values import values_of
from schemas.records import BusinessBatch, Record, Scrape, SpanBatch

VALUE_MAX = 1e18  # bytes of an exabyte, and every counter of 60 bits
VALUE_MIN = 1e-30  # what is nearer to nothing is nothing
DURATION_MAX_MS = 1e9  # of a span: eleven days
AHEAD_MS = 600_000
"""How far a record's own time may lie ahead of when it was recorded: a source's clock goes wrong by minutes."""


def sane(record: Record) -> tuple[Record, int]:
    """The record as steps get it, and how many of its values count as not measured."""
    if isinstance(record, Scrape):
        return _scrape(record)
    if isinstance(record, SpanBatch):
        return _spans(record)
    return _business(record) if isinstance(record, BusinessBatch) else (record, 0)


def _scrape(scrape: Scrape) -> tuple[Record, int]:
    size = np.abs(values_of(scrape))
    with np.errstate(invalid="ignore"):
        odd = (size > VALUE_MAX) | ((size < VALUE_MIN) & (size > 0.0))
    places = np.flatnonzero(odd).tolist()
    if not places:
        return scrape, 0
    values = list(scrape.values)
    for place in places:
        values[place] = None if size[place] > VALUE_MAX else 0.0
    return scrape.model_copy(update={"values": tuple(values)}), len(places)


def _spans(batch: SpanBatch) -> tuple[Record, int]:
    odd = sum(one > DURATION_MAX_MS for one in batch.durations_ms)
    if not odd:
        return batch, 0
    cut = tuple(min(one, DURATION_MAX_MS) for one in batch.durations_ms)
    return batch.model_copy(update={"durations_ms": cut}), odd


def _business(batch: BusinessBatch) -> tuple[Record, int]:
    odd = sum(one is not None and abs(one) > VALUE_MAX for one in batch.amounts)
    if not odd:
        return batch, 0
    amounts = tuple(None if one is not None and abs(one) > VALUE_MAX else one for one in batch.amounts)
    return batch.model_copy(update={"amounts": amounts}), odd
