"""Who stands in whose way: the trees of waiting backends, told by their roots.

Source: PostgreSQL manual, pg_blocking_pids: it gives hard and soft blocks, leaders of parallel groups, and 0 for a
prepared transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ingest.collectors.sql_text import normalise
from schemas.records import Scalar

Row = Mapping[str, Any]

MAX_TREES = 20
_TARGET = re.compile(
    r'^(?:UPDATE(?: ONLY)?|DELETE FROM(?: ONLY)?|INSERT INTO|LOCK(?: TABLE)?) ((?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|\w+))?)',
    re.I,
)


@dataclass(frozen=True, slots=True)
class Tree:
    """One blocker that itself waits for nobody, and everybody who waits because of it, longest first."""

    pid: int
    blocker: Row | None
    waiters: tuple[Row, ...]

    @property
    def longest_s(self) -> float:
        """Longest wait in the tree, s."""
        return float(self.waiters[0]["waited_s"] or 0.0)

    @property
    def database(self) -> str | None:
        """Database of the blocker; of a prepared transaction, that of who waits longest."""
        database: str | None = (self.blocker or {}).get("database") or self.waiters[0]["database"]
        return database


def trees(rows: Iterable[Row], blocked_after_s: float) -> tuple[list[Tree], int]:
    """The trees in which somebody has waited so long, worst first, at most MAX_TREES; and how many more there are."""
    by_pid = {row["pid"]: row for row in rows}
    waiting: dict[int, list[Row]] = {}
    for row in by_pid.values():
        for root in _roots(row["pid"], by_pid):
            waiting.setdefault(root, []).append(row)
    found = [Tree(pid, by_pid.get(pid), _longest_first(waiters)) for pid, waiters in waiting.items()]
    late = [tree for tree in found if tree.longest_s >= blocked_after_s]
    worst = sorted(late, key=lambda tree: (-tree.longest_s, tree.pid))
    return worst[:MAX_TREES], max(0, len(worst) - MAX_TREES)


def attributes(tree: Tree) -> dict[str, Scalar]:
    """What an event says of a tree; texts are without literals."""
    blocker, longest = tree.blocker or {}, tree.waiters[0]
    waiting_query = normalise(longest["query"] or "")
    known = {
        "db.namespace": tree.database,
        "user.name": blocker.get("user_name"),
        "db.query.text": normalise(blocker.get("query") or "") or None,
        "postgresql.blocker.application": blocker.get("application_name") or None,
        "postgresql.blocker.backend.type": blocker.get("backend_type"),
        "postgresql.blocker.state": blocker.get("state") or ("prepared transaction" if tree.pid == 0 else None),
        "postgresql.blocker.transaction_age_s": blocker.get("transaction_age_s"),
        "postgresql.waiting.max_s": tree.longest_s,
        "postgresql.waiting.application": longest["application_name"] or None,
        "postgresql.waiting.query": waiting_query or None,
        "postgresql.lock.type": longest["locktype"],
        "postgresql.lock.relation": longest["relation"] or _target(waiting_query),
    }
    counts = {"postgresql.blocker.pid": tree.pid, "postgresql.waiting.count": len(tree.waiters)}
    return {**counts, **{name: value for name, value in known.items() if value is not None}}


def sentence(tree: Tree) -> str:
    """The tree for a person."""
    blocker = tree.blocker or {}
    who = f"{blocker.get('application_name') or 'backend'} (pid {tree.pid}, user {blocker.get('user_name')})"
    if tree.pid == 0:
        who = "a prepared transaction"
    count = len(tree.waiters)
    return (
        f"{who} in {tree.database} holds a lock for which {count} {'backend waits' if count == 1 else 'backends wait'}, "
        f"the longest for {tree.longest_s:.1f} s"
    )


def _roots(pid: int, by_pid: Mapping[int, Row]) -> set[int]:
    """Where the chains of waiting from `pid` end; a circle, which PostgreSQL is about to break, ends at its lowest pid."""
    seen: set[int] = set()
    ends: set[int] = set()
    ahead = list(_blockers(pid, by_pid))
    while ahead:
        one = ahead.pop()
        if one in seen:
            continue
        seen.add(one)
        further = _blockers(one, by_pid)
        ahead.extend(further)
        if not further:
            ends.add(one)
    return ends or ({min(seen)} if seen else set())


def _blockers(pid: int, by_pid: Mapping[int, Row]) -> list[int]:
    row = by_pid.get(pid)
    return list(row["blockers"] or ()) if row else []


def _longest_first(waiters: list[Row]) -> tuple[Row, ...]:
    return tuple(sorted(waiters, key=lambda row: (-(row["waited_s"] or 0.0), row["pid"])))


def _target(query: str) -> str | None:
    """The table that a statement changes, where its first words say so."""
    found = _TARGET.match(query)
    return found[1].replace('"', "") if found else None
