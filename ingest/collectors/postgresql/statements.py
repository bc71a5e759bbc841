"""What the statements of an interval cost, from the ever-growing sums of pg_stat_statements."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from schemas.bounds import reached

Row = Mapping[str, Any]
Key = tuple[str, int]

MAX_TOLD = 50
MIN_TIME_S = 0.01
MAX_TEXTS = 2_000


class Sums(NamedTuple):
    """What pg_stat_statements adds up for a statement."""

    calls: float
    time_s: float
    rows: float
    blocks_read: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one statement of one database cost in an interval. `share` is of the time of all statements of the server."""

    database: str
    id: int
    sums: Sums
    share: float


class Interval:
    """Remembers the sums of the last look at all statements; bounded by what the query gives."""

    def __init__(self) -> None:
        self._before: dict[Key, Sums] | None = None
        self._since_ms = 0

    def due(self, now_ms: int, interval_ms: int) -> bool:
        """Whether the interval is over."""
        return now_ms - self._since_ms >= interval_ms

    def costliest(self, rows: Iterable[Row], top: int, now_ms: int) -> tuple[float, list[Cost]]:
        """The interval's length, s, and its costliest statements: `top` of each database, MAX_TOLD in all.

        Nothing at the first look, which has no interval behind it.
        """
        now = {(row["database"], row["id"]): Sums(*(row[name] for name in Sums._fields)) for row in rows}
        before, self._before = self._before, now
        since_ms, self._since_ms = self._since_ms, now_ms
        if before is None:
            return 0.0, []
        spent = [(key, _grown(sums, before.get(key))) for key, sums in now.items()]
        total_s = sum(sums.time_s for _, sums in spent) or 1.0
        costs = [Cost(*key, sums, sums.time_s / total_s) for key, sums in spent if sums.time_s >= MIN_TIME_S]
        return (now_ms - since_ms) / 1000, _costliest(costs, top)


class Texts:
    """Normalised texts by statement id; the MAX_TEXTS asked for last."""

    def __init__(self) -> None:
        self._texts: OrderedDict[int, str] = OrderedDict()

    def missing(self, ids: Iterable[int]) -> list[int]:
        """Which of the ids are not known, each once."""
        return [one for one in dict.fromkeys(ids) if one not in self._texts]

    def learn(self, texts: Mapping[int, str]) -> None:
        """Keep these, and let go of those not asked for longest."""
        self._texts.update(texts)
        while len(self._texts) > MAX_TEXTS:
            self._texts.popitem(last=False)
            reached("postgresql.texts")

    def get(self, one: int) -> str | None:
        """The text, None if the server no longer had it."""
        if one in self._texts:
            self._texts.move_to_end(one)
        return self._texts.get(one)


class Evictions:
    """Keeps sums growing when pg_stat_statements throws out its least used entries, which makes them fall.

    A fall while entries were thrown out and nothing was reset is what those entries had counted; it is added back.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[str, float]] = {}
        self._lost: dict[str, dict[str, float]] = {}
        self._state: tuple[Any, Any] = (None, None)

    def mended(self, rows: Sequence[Row], names: Iterable[str]) -> list[dict[str, Any]]:
        """The rows with what was thrown out added."""
        state = (rows[0]["reset_ms"], rows[0]["evicted"]) if rows else self._state
        if state[0] != self._state[0] or state[1] is None:
            self._last, self._lost = {}, {}
        evicted = state[1] != self._state[1]
        self._state = state
        return [self._mended(dict(row), tuple(names), evicted) for row in rows]

    def _mended(self, row: dict[str, Any], names: tuple[str, ...], evicted: bool) -> dict[str, Any]:
        last = self._last.get(row["database"], {})
        lost = self._lost.setdefault(row["database"], dict.fromkeys(names, 0.0))
        for name in names:
            if evicted and row[name] < last.get(name, 0.0):
                lost[name] += last[name] - row[name]
        self._last[row["database"]] = {name: row[name] for name in names}
        return row | {name: row[name] + lost[name] for name in names}


def _grown(sums: Sums, before: Sums | None) -> Sums:
    """What was added since; all of it if the entry is new or was thrown out between."""
    if before is None or sums.calls < before.calls:
        return sums
    return Sums(*(max(0.0, now - then) for now, then in zip(sums, before, strict=True)))


def _costliest(costs: list[Cost], top: int) -> list[Cost]:
    by_database = groupby(
        sorted(costs, key=lambda cost: (cost.database, -cost.sums.time_s)), key=lambda cost: cost.database
    )
    chosen = [cost for _, group in by_database for cost in list(group)[:top]]
    return sorted(chosen, key=lambda cost: -cost.sums.time_s)[:MAX_TOLD]
