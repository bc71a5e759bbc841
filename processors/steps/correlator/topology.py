"""Who needs what: a resource can only be to blame for what depends on it.

Read off the estate: `depends_on` of resources, and which tenant a resource serves. Where nobody has declared what needs
a resource, anything of the cell may.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from processors.steps.correlator.tables import Reach
from schemas.estate import Cell


class Needing(NamedTuple):
    """What depends on a resource: other resources, and the tenants that those serve."""

    resources: frozenset[str]
    tenants: frozenset[str]


class Topology:
    """The dependencies of a cell. Built once a configuration; answers are remembered (bounded by the declared resources)."""

    def __init__(self, cell: Cell | None) -> None:
        self._tenant = {one.name: one.tenant for one in cell.resources} if cell else {}
        self._below = {one.name: one.depends_on for one in cell.resources} if cell else {}
        self._above: dict[str, list[str]] = {}
        self.systems: dict[str, list[str]] = {}
        for one in cell.resources if cell else ():
            self.systems.setdefault(one.system, []).append(one.name)
            for other in one.depends_on:
                self._above.setdefault(other, []).append(one.name)
        self._needing: dict[tuple[str, Reach], Needing | None] = {}

    def needing(self, resource: str, reach: Reach = Reach.NEEDING) -> Needing | None:
        """What trouble at a resource can reach; None when anything of the cell."""
        key = (resource, reach)
        if key not in self._needing:
            if resource not in self._tenant:
                return None
            self._needing[key] = self._find(resource, reach)
        return self._needing[key]

    def served_by(self, resource: str) -> list[str]:
        """Tenants whose own resources need this one directly, as declared."""
        direct = (self._tenant[one] for one in self._above.get(resource, ()))
        return list(dict.fromkeys(one for one in direct if one))

    def _find(self, resource: str, reach: Reach) -> Needing | None:
        if reach is Reach.MACHINE:
            # Its neighbours on the same machine suffer as well; where it runs is what it depends on.
            below = self._closure([resource], self._below) - {resource}
            if not below:
                return None
            found = self._closure(below, self._above)
        else:
            if not self._above.get(resource):
                return None
            found = self._closure([resource], self._above)
        tenants = frozenset(tenant for one in found if (tenant := self._tenant.get(one)))
        return Needing(frozenset(found), tenants)

    @staticmethod
    def _closure(start: Iterable[str], edges: dict[str, list[str]] | dict[str, tuple[str, ...]]) -> set[str]:
        found, waiting = set(start), list(start)
        while waiting:
            for other in edges.get(waiting.pop(), ()):
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        return found
