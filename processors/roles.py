"""Whom does an incident concern? A table of kinds of cause, and what the business at stake adds to it.

A cause calls those who can mend it and those who have to answer for it; what is at stake calls those who can still
save it. A role that was called once stays: who was told that a story began is told how it ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schemas.impact import Impact
from schemas.records import Role, Severity

PLATFORM, DBA, SECURITY, SUPPORT, BUSINESS = (
    Role.PLATFORM, Role.DBA, Role.SECURITY, Role.ERP_SUPPORT, Role.BUSINESS_OPERATIONS,
)  # fmt: skip


class Call(NamedTuple):
    """Who is called, and why they."""

    roles: tuple[Role, ...]
    because: str


OTHERWISE = Call((PLATFORM,), "who runs the cells finds out whose it is")

BY_CAUSE: dict[str, Call] = {
    "release": Call((PLATFORM,), "they have rolled it out, and roll it back"),
    "module_upgrade": Call((PLATFORM, SUPPORT), "it is rolled back by the one, and changes what the other's users see"),
    "configuration": Call((PLATFORM,), "they have applied it, and take it back"),
    "scaling": Call((PLATFORM,), "they decide how much of what runs"),
    "secret": Call((PLATFORM, SECURITY), "the one hands it out anew, the other answers for its rotation"),
    "certificate": Call((PLATFORM, SECURITY), "the one renews it, the other answers for who is trusted"),
    "tenant.load": Call((PLATFORM, DBA, SUPPORT), "a limit, a statement, or a word with the tenant ends it"),
    "postgresql": Call((DBA,), "sessions, locks and replicas are theirs"),
    "redis": Call((PLATFORM,), "it is part of the cell"),
    "unreachable": Call((PLATFORM,), "a server or the way to it is down"),
    "storage": Call((PLATFORM,), "disks are theirs"),
    "network": Call((PLATFORM,), "ways between servers are theirs"),
    "host": Call((PLATFORM,), "machines are theirs"),
    "service": Call((PLATFORM,), "whose code it is, they know who runs it"),
    "capacity": Call((PLATFORM,), "they order more of it"),
    "capacity.connections": Call((PLATFORM, DBA), "pools are sized by the one, servers by the other"),
    "capacity.wal": Call((DBA,), "a slot or the archiver holds it"),
    "capacity.transactions": Call((DBA,), "only a vacuum ends it"),
    "capacity.queue": Call((PLATFORM, SUPPORT), "more workers for the jobs, or fewer jobs"),
    "odoo": Call((PLATFORM, SUPPORT), "processes are the one's, what they run the other's"),
    "odoo.workers": Call((PLATFORM,), "processes are theirs"),
    "odoo.web": Call((PLATFORM,), "processes and the way to them are theirs"),
    "odoo.cron": Call((SUPPORT,), "they know what the action is for, and switch it on again"),
    "queue": Call((PLATFORM, SUPPORT), "the one serves the jobs, the other knows which may be done again"),
    "mail": Call((SUPPORT,), "they know which server the tenant sends by"),
    "integration": Call((SUPPORT, BUSINESS), "the one speaks with the partner, the other ships by another meanwhile"),
    "process": Call((SUPPORT, BUSINESS), "the one looks why documents wait, the other plans the shift around them"),
    "pilothouse": Call((PLATFORM,), "they run what watches all the rest"),
    "slo": Call((PLATFORM, SUPPORT), "the promise is the one's, those whom it was made to call the other"),
}
"""Kind of cause, or the family that it begins with (`postgresql` is every `postgresql.…`), to who is called."""

BY_SYSTEM: dict[str, Call] = {
    "postgresql": Call((DBA,), "whatever a database server suffers from, its administrator has to know"),
}
"""System of the resource that a cause names, to who is called besides."""


class Suspect(NamedTuple):
    """A cause that is believed enough to call somebody."""

    cause: str
    system: str | None = None
    """Kind of system of the resource that it names; None when it names none, or one that is not declared."""


def concerned(
    suspects: Iterable[Suspect], impact: Impact, severity: Severity, many: int, before: Iterable[Role] = ()
) -> tuple[Role, ...]:
    """Roles in their order. `many` tenants whose documents wait are a matter for those who lead."""
    found = {*before, *at_stake(impact, severity, many)}
    for one in suspects:
        found.update(called_by(one.cause).roles)
        if one.system in BY_SYSTEM:
            found.update(BY_SYSTEM[one.system].roles)
    return tuple(role for role in Role if role in found)


def called_by(cause: str) -> Call:
    """Who is called by a cause: by its kind, else by the longest family that it begins with."""
    kind = cause.partition(":")[0].removeprefix("anomaly.")
    while kind:
        if kind in BY_CAUSE:
            return BY_CAUSE[kind]
        kind = kind.rpartition(".")[0]
    return OTHERWISE


def at_stake(impact: Impact, severity: Severity, many: int) -> Iterable[Role]:
    """Who is called by what is at stake, whatever its cause."""
    money = any((impact.value, *impact.other_values.values(), *(one.value for one in impact.by_cut_off)))
    if impact.documents:
        yield Role.ERP_SUPPORT  # the customers whose documents wait call them
    if money or impact.by_cut_off:
        yield Role.BUSINESS_OPERATIONS  # until the cut-off they can ship first what is worth most
    touched = impact.by_tenant.keys() | impact.missing_by_tenant.keys()
    if severity is Severity.CRITICAL and money and len(touched) >= many:
        yield Role.EXECUTIVE  # so many customers are told by those who lead
