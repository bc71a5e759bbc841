"""Changes: a record of each stage, the short trouble that any restart makes, and what a bad one brings.

A change reaches the whole cell or some of its tenants. `fine` restarts and warms up; `regression` stays worse until it is
rolled back or the stretch ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pilothouse.simulate.drawing import Drawn
from pilothouse.simulate.drivers import Drivers, Knob, course
from pilothouse.simulate.faults import Happening, Timed, When
from pilothouse.simulate.noise import Floats
from pilothouse.simulate.truth import Truth
from schemas.records import Change, ChangeKind, ChangeStatus

WARM_MS = 150_000
EFFECTS: dict[str, Callable[[Drivers, str, When, float], None]] = {}


@dataclass(frozen=True)
class Made:
    """A change as it was made."""

    kind: ChangeKind
    service: str
    revision: str
    before: str
    tenants: tuple[str, ...]  # empty: the whole cell
    at_ms: int

    @property
    def cause(self) -> str:
        """What it would be the cause of."""
        return f"{self.kind}:{self.service}@{self.revision}"

    def reached(self, drawn: Drawn) -> tuple[str, ...]:
        """Tenants that got it."""
        return self.tenants or drawn.names

    def records(self, drawn: Drawn) -> tuple[Timed, ...]:
        """Begun and done a minute later."""
        stages = ((self.at_ms - 60_000, ChangeStatus.STARTED), (self.at_ms, ChangeStatus.SUCCEEDED))
        return tuple((at, self._change(drawn, f"c-{self.revision}", at, status)) for at, status in stages)

    def rollback(self, drawn: Drawn, at_ms: int) -> Timed:
        """Back to what was before, told as a stage of the same change."""
        return at_ms, self._change(drawn, f"c-{self.revision}", at_ms, ChangeStatus.ROLLED_BACK)

    def _change(self, drawn: Drawn, identity: str, at_ms: int, status: ChangeStatus) -> Change:
        return Change(
            cell=drawn.cell, time_ms=at_ms, change_id=identity, kind=self.kind, status=status, service=self.service,
            revision=self.revision, previous_revision=self.before, tenants=self.tenants, author="pipeline", origin="generic",
        )  # fmt: skip


def _latency(drivers: Drivers, tenant: str, when: When, strength: float) -> None:
    """Strength 1: requests take twice their own time."""
    drivers.scale(Knob.REQUEST, tenant, 1 + _over(drivers, when) * strength)


def _errors(drivers: Drivers, tenant: str, when: When, strength: float) -> None:
    """Strength 1: 5 % of the requests fail."""
    drivers.add(Knob.ERRORS, tenant, _over(drivers, when) * 0.05 * strength)


def _jobs(drivers: Drivers, tenant: str, when: When, strength: float) -> None:
    """Strength 1: 30 % of the jobs fail."""
    drivers.add(Knob.JOB_FAILURES, tenant, _over(drivers, when) * min(0.3 * strength, 0.95))


def _workers(drivers: Drivers, tenant: str, when: When, strength: float) -> None:
    """Job and cron workers do not come up again."""
    drivers.scale(Knob.WORKERS, tenant, 1 - _over(drivers, when))
    drivers.scale(Knob.CRONS, tenant, 1 - _over(drivers, when))


def _reserving(drivers: Drivers, tenant: str, when: When, strength: float) -> None:
    """Stock is no longer reserved, although the cron runs."""
    drivers.scale(Knob.RESERVING, tenant, 1 - _over(drivers, when))


EFFECTS |= {"latency": _latency, "errors": _errors, "failed jobs": _jobs, "workers": _workers, "flow": _reserving}


def fine(drawn: Drawn, made: Made) -> Happening:
    """A change that does no harm beyond the minutes of its restart."""
    when = When(made.at_ms, made.at_ms + WARM_MS)
    truth = Truth(kind=f"fine {made.kind}", expected=True, onset_ms=when.onset_ms, end_ms=when.end_ms)
    return Happening(truth, _restart(drawn, made), made.records(drawn))


def regression(drawn: Drawn, made: Made, effect: str, when: When, strength: float) -> Happening:
    """A change after which something stays worse."""
    restart, tenants = _restart(drawn, made), made.reached(drawn)

    def turn(drivers: Drivers) -> None:
        restart(drivers)
        for tenant in tenants:
            EFFECTS[effect](drivers, tenant, when, strength)

    truth = Truth(
        kind=f"regression: {effect}", causes=(made.cause,), tenants=tenants, onset_ms=when.onset_ms, end_ms=when.end_ms,
        strength=round(strength, 3), ramp_ms=when.ramp_ms,
    )  # fmt: skip
    return Happening(truth, turn, made.records(drawn))


def _restart(drawn: Drawn, made: Made) -> Callable[[Drivers], None]:
    """Caches are cold for some minutes after code was changed."""

    def turn(drivers: Drivers) -> None:
        if made.kind in (ChangeKind.RELEASE, ChangeKind.MODULE_UPGRADE):
            cold = course(drivers.span, made.at_ms, made.at_ms + WARM_MS)
            for tenant in made.reached(drawn):
                drivers.scale(Knob.REQUEST, tenant, 1 + 0.4 * cold)

    return turn


def _over(drivers: Drivers, when: When) -> Floats:
    return course(drivers.span, when.onset_ms, when.end_ms, when.ramp_ms)
