"""The scenarios that must be caught, as scripted stories: one estate, one week that holds a month end and a change of clocks.

Each ends in one incident with its cause first, the tenants that suffer and the business at stake, and closes when it is
over; S12 ends in silence. (S8, S9 and S11 come with the collectors of backups, standbys and access.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property

from pilothouse.simulate import changes, faults
from pilothouse.simulate.changes import Made
from pilothouse.simulate.drawing import Drawn
from pilothouse.simulate.drivers import Drivers, Knob, course
from pilothouse.simulate.estates import AFTERNOON, BARE, BUSY, Lived
from pilothouse.simulate.faults import Happening, When
from pilothouse.simulate.running import Settings
from pilothouse.simulate.scoring import Scored, score
from pilothouse.simulate.stories import MINUTE_MS, Outcome, Story, live
from pilothouse.simulate.truth import Truth
from schemas.calendar import DAY_MS, HOUR_MS, Campaign
from schemas.records import ChangeKind

SEED = 7
MONDAY = date(2026, 3, 30)  # the day after the clocks changed in Europe; Tuesday is the last of the month
LENGTH_MS = 80 * MINUTE_MS
CERTIFICATE_LEFT_MS = 2 * DAY_MS + 4 * HOUR_MS  # ends on a Thursday's early afternoon


@dataclass(frozen=True)
class Scene:
    """The estate of the scenarios and who plays in it."""

    lived: Lived

    @property
    def drawn(self) -> Drawn:
        """The estate."""
        return self.lived.drawn

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Tenants, the busiest first."""
        return tuple(one.name for one in sorted(self.drawn.tenants, key=lambda one: -one.orders_per_s))

    def when(self, moment: str, after_min: float, lasts_min: float, ramp_min: float = 0) -> When:
        """A stretch after a moment."""
        onset = self.lived.at(moment).at_ms + round(after_min * MINUTE_MS)
        return When(onset, onset + round(lasts_min * MINUTE_MS), round(ramp_min * MINUTE_MS))


def redis_slows_down(scene: Scene) -> Story:
    """S1: every command takes a third of a second; requests are slow and labels queue up."""
    return Story(BUSY, LENGTH_MS, (faults.redis_slow(scene.drawn, scene.when(BUSY, 10, 35, 2), 6),))


def month_end_locks(scene: Scene) -> Story:
    """S2: a posting on the last of the month holds the invoice sequence of a tenant."""
    name = scene.names[0]
    when = scene.when(BUSY, 10, 30)
    locks = faults.lock_storm(scene.drawn, when, name, 2)

    def turn(drivers: Drivers) -> None:
        locks.turn(drivers)
        drivers.scale(Knob.POSTING, name, 1 - course(drivers.span, when.onset_ms, when.end_ms))

    return Story(BUSY, LENGTH_MS, (Happening(locks.truth, turn, locks.records),))


def certificate_expires(scene: Scene) -> Story:
    """S3: a certificate that nobody renews: warned days ahead; what fails once it has ended is joined to it, until it is renewed."""
    begins = scene.lived.at(BUSY).at_ms
    expires = begins + CERTIFICATE_LEFT_MS
    renewed = expires + 2 * HOUR_MS
    left_ms = 90 * DAY_MS - (begins + scene.drawn.seed * DAY_MS) % (60 * DAY_MS)
    truth = Truth(
        kind="certificate expires", causes=(f"certificate:tls-{scene.drawn.cell}",), tenants=scene.drawn.names,
        onset_ms=begins, end_ms=renewed,
    )  # fmt: skip

    def turn(drivers: Drivers) -> None:
        drivers.add(
            Knob.CERTIFICATE, "", course(drivers.span, begins, renewed) * (left_ms - CERTIFICATE_LEFT_MS) / 1000
        )
        refused = course(drivers.span, expires, renewed)
        for tenant in scene.drawn.tenants:
            for partner in tenant.partners:
                drivers.turned[Knob.JOB_FAILURES, partner] = refused * 0.9

    length_ms = renewed + 2 * HOUR_MS - begins
    return Story(BUSY, length_ms, (Happening(truth, turn),), coarse_ms=CERTIFICATE_LEFT_MS - HOUR_MS)


def release_kills_workers(scene: Scene) -> Story:
    """S4: after a release the job and cron workers do not come back while the web is green."""
    when = scene.when(AFTERNOON, 12, 40)
    made = Made(ChangeKind.RELEASE, "odoo", "2.5.0", "2.4.9", (), when.onset_ms)
    bad = changes.regression(scene.drawn, made, "workers", when, 1.0)
    return Story(AFTERNOON, LENGTH_MS, (bad.besides(made.rollback(scene.drawn, when.end_ms)),))


def import_takes_the_database(scene: Scene) -> Story:
    """S5: one tenant's import fills the shared database server."""
    return Story(
        AFTERNOON, LENGTH_MS, (faults.neighbour(scene.drawn, scene.when(AFTERNOON, 12, 35, 3), scene.names[1], 1.25),)
    )


def peak_on_slow_storage(scene: Scene) -> Story:
    """S6: a seasonal peak on storage that gets slower, Redis larger, integrations retrying; the CPUs are idle."""
    when = scene.when(AFTERNOON, 10, 45, 20)
    storage = faults.storage_slow(scene.drawn, when, 2)

    def turn(drivers: Drivers) -> None:
        storage.turn(drivers)
        some = course(drivers.span, when.onset_ms, when.end_ms, when.ramp_ms)
        drivers.add(Knob.REDIS_MEMORY, "", some * 3e8)
        for tenant in scene.drawn.tenants:
            drivers.scale(Knob.DEMAND, tenant.name, 1 + 0.3 * some)
            drivers.turned[Knob.JOB_FAILURES, tenant.partners[0]] = some * 0.05

    return Story(AFTERNOON, LENGTH_MS, (Happening(storage.truth, turn, storage.records),))


def carrier_release(scene: Scene) -> Story:
    """S7: a release of the connector to a carrier fails its calls; rolled back before the cut-off."""
    when = scene.when(AFTERNOON, 12, 30)
    partner = scene.drawn.tenants[0].partners[0]
    made = Made(ChangeKind.RELEASE, f"connector-{partner}", "1.9.0", "1.8.4", (), when.onset_ms)
    tenants = faults.partners_tenants(scene.drawn, partner)

    def turn(drivers: Drivers) -> None:
        drivers.add(Knob.JOB_FAILURES, partner, course(drivers.span, when.onset_ms, when.end_ms) * 0.8)

    truth = Truth(
        kind="carrier release", causes=(made.cause,), tenants=tenants, onset_ms=when.onset_ms, end_ms=when.end_ms
    )
    records = (*made.records(scene.drawn), made.rollback(scene.drawn, when.end_ms))
    return Story(AFTERNOON, LENGTH_MS, (Happening(truth, turn, records),))


def short_lock_storm(scene: Scene) -> Story:
    """S10: three minutes of locks that no five-minute graph of the CPUs shows."""
    return Story(
        AFTERNOON, 45 * MINUTE_MS, (faults.lock_storm(scene.drawn, scene.when(AFTERNOON, 20, 3.5), scene.names[0], 2),)
    )


def expected_peak(scene: Scene) -> Story:
    """S12: a campaign in the calendars of all tenants, as large as declared and as the servers were sized for."""
    when = scene.when(AFTERNOON, 12, 45)
    starts, ends = (datetime.fromtimestamp(at // MINUTE_MS * 60, UTC) for at in (when.onset_ms, when.end_ms))
    campaign = Campaign(name="black friday", starts=starts, ends=ends, load=scene.drawn.room(*scene.names, use=0.75))
    declares = {one.name: {"campaigns": (campaign,)} for one in scene.drawn.tenants}
    return Story(AFTERNOON, LENGTH_MS, (faults.nothing("expected peak", when),), declares)


def drift_then_failure(scene: Scene) -> Story:
    """S13: a configuration is changed outside Git; a quarter of the requests fail minutes later."""
    when = scene.when(AFTERNOON, 14, 35)
    made = Made(ChangeKind.CONFIGURATION, "odoo", "drift-3f1c", "8a77e2", (), when.onset_ms - 3 * MINUTE_MS)
    return Story(AFTERNOON, LENGTH_MS, (changes.regression(scene.drawn, made, "errors", when, 5),))


def disk_fills(scene: Scene) -> Story:
    """S14: at the present growth the disk is full in nine days; it is told days before."""
    drawn, begins = scene.drawn, scene.lived.at(BARE).at_ms
    when = When(begins + 2 * HOUR_MS, begins + 2 * HOUR_MS + 9 * DAY_MS)
    causes = (f"capacity.disk:host-{drawn.cell}", f"capacity.disk:pg-{drawn.cell}")
    free = drawn.disk_bytes * (1 - drawn.disk_used - 0.03)
    fills = faults.filling(drawn, when, Knob.DISK_BYTES, "disk fills", causes, free)
    return Story(BARE, 6 * DAY_MS, (fills,), coarse_ms=6 * DAY_MS, systems=frozenset({"host", "postgresql"}))


SCENARIOS: dict[str, Callable[[Scene], Story]] = {
    "S1": redis_slows_down,
    "S2": month_end_locks,
    "S3": certificate_expires,
    "S4": release_kills_workers,
    "S5": import_takes_the_database,
    "S6": peak_on_slow_storage,
    "S7": carrier_release,
    "S10": short_lock_storm,
    "S12": expected_peak,
    "S13": drift_then_failure,
    "S14": disk_fills,
}


def scene(settings: Settings | None = None) -> Scene:
    """The estate of the scenarios; its weeks are folded when they are first needed."""
    return Scene(Lived(SEED, settings, monday=MONDAY))


def play(on: Scene, name: str) -> tuple[Outcome, Scored]:
    """Live through a scenario and score it."""
    through = live(on.lived, "scenario", int(name[1:]), SEED, SCENARIOS[name](on))
    return through, score(through.label, through.told)
