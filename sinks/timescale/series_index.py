"""From a scrape's layout to the ids of its series: one look-up for a layout that was seen before.

Two bounded caches: whole layouts, and below them the ids by resource, so that a resource whose set of series changes
from scrape to scrape asks the database about the new ones alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import series as series_identity
from schemas.bounds import reached
from schemas.records import Scrape
from sinks.timescale.allowance import Allowance
from sinks.timescale.rows import clean, json

Ids = NDArray[np.int64]
Place = tuple[str, str, str]
"""Cell, system, resource."""

CHUNK = 5_000
NOT_ADDED = -1

_FIND = """
    SELECT w.identity, s.id FROM unnest($4::text[]) AS w (identity)
    JOIN series s ON s.cell = $1 AND s.system = $2 AND s.resource = $3 AND md5(s.identity) = md5(w.identity)"""
_ADD = """
    INSERT INTO series (cell, system, resource, identity, name, tenant, attributes)
    SELECT $1, $2, $3, * FROM unnest($4::text[], $5::text[], $6::text[], $7::jsonb[])
    ON CONFLICT (cell, system, resource, md5(identity)) DO NOTHING"""


class SeriesIndex:
    """The ids of series. `layouts_bytes_max` and `series_max` bound it; what is dropped is counted and asked again."""

    def __init__(
        self,
        layouts_bytes_max: int = 64 * 1024 * 1024,
        series_max: int = 500_000,
        allowance: Allowance | None = None,
    ) -> None:
        self._allowance = allowance or Allowance(time.monotonic)
        self._layouts: OrderedDict[tuple[Place, str], Ids] = OrderedDict()
        self._series: OrderedDict[Place, dict[str, int]] = OrderedDict()
        self._layouts_bytes_max, self._series_max = layouts_bytes_max, series_max
        self._layouts_bytes = self._series_known = 0
        self.dropped = 0

    async def ids(self, connection: Any, scrape: Scrape) -> Ids:
        """The ids in the order of the scrape's values; unknown series are added to the database.

        A series that may not be added now has the id `NOT_ADDED`, and its points are left out.
        Raises ValueError when an identity is not `name{attribute="value"}`.
        """
        place = (scrape.cell, scrape.system, scrape.resource)
        known = self._layouts.get((place, scrape.series))
        if known is None:
            known = await self._resolve(connection, place, series_identity.split(scrape.series))
            if not np.count_nonzero(known == NOT_ADDED):
                self._remember((place, scrape.series), known)
        else:
            self._layouts.move_to_end((place, scrape.series))
        return known

    def forget(self) -> None:
        """Start anew, as after a change of the database."""
        self._layouts.clear()
        self._series.clear()
        self._layouts_bytes = self._series_known = 0

    async def _resolve(self, connection: Any, place: Place, identities: Sequence[str]) -> Ids:
        by_identity = self._series.pop(place, {})
        self._series[place] = by_identity
        missing = sorted({identity for identity in identities if identity not in by_identity})
        rows = [_row(identity) for identity in missing]
        for start in range(0, len(rows), CHUNK):
            found = await self._look_up(connection, place, rows[start : start + CHUNK])
            by_identity.update(found)
            self._series_known += len(found)
        while self._series_known > self._series_max and len(self._series) > 1:
            _, oldest = self._series.popitem(last=False)
            self._series_known -= len(oldest)
            self.dropped += len(oldest)
            reached("timescale.series")
        return np.fromiter((by_identity.get(one, NOT_ADDED) for one in identities), np.int64, len(identities))

    async def _look_up(
        self, connection: Any, place: Place, rows: Sequence[tuple[str, str, str | None, str]]
    ) -> dict[str, int]:
        """Ids of series by identity as the scrape spells it. The database spells it without U+0000."""
        spelled = {clean(row[0]): row[0] for row in rows}
        found = await _find(connection, place, spelled)
        absent = [row for row in rows if clean(row[0]) not in found]
        added = absent[: self._allowance.take(place[0], place[1:], len(absent))]
        reached("timescale.series.new", len(absent) - len(added))
        if added:
            columns = [list(map(clean, column)) for column in zip(*added, strict=True)]
            await connection.execute(_ADD, *map(clean, place), *columns)
            found.update(await _find(connection, place, [clean(row[0]) for row in added]))
        return {row[0]: found[spelled_as] for row in rows if (spelled_as := clean(row[0])) in found}

    def _remember(self, layout: tuple[Place, str], ids: Ids) -> None:
        self._layouts[layout] = ids
        self._layouts_bytes += _size(layout, ids)
        while self._layouts_bytes > self._layouts_bytes_max and len(self._layouts) > 1:
            oldest, its_ids = self._layouts.popitem(last=False)
            self._layouts_bytes -= _size(oldest, its_ids)
            self.dropped += 1
            reached("timescale.layouts")


async def _find(connection: Any, place: Place, identities: Iterable[str]) -> dict[str, int]:
    rows = await connection.fetch(_FIND, *map(clean, place), list(identities))
    return {row["identity"]: row["id"] for row in rows}


def _row(identity: str) -> tuple[str, str, str | None, str]:
    one = series_identity.parse(identity)
    return identity, one.name, one.tenant, json(dict(one.attributes))


def _size(layout: tuple[Place, str], ids: Ids) -> int:
    return len(layout[1]) + int(ids.nbytes)
