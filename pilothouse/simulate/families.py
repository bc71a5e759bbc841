"""What is drawn for which question: five families of stories. About half of each must be found, half must stay silent.

Sizes are drawn log-uniformly from weak to strong; the weakest is what a person who looks at the right graph would see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from pilothouse.simulate import changes, faults
from pilothouse.simulate.changes import EFFECTS, Made
from pilothouse.simulate.drawing import CRONS, Character, Drawn
from pilothouse.simulate.drivers import Drivers, Knob
from pilothouse.simulate.estates import AFTERNOON, BARE, BUSY, MIDNIGHT, NIGHT, Lived
from pilothouse.simulate.faults import Happening, When
from pilothouse.simulate.load import expected_load
from pilothouse.simulate.stories import MINUTE_MS, Story
from pilothouse.simulate.truth import Truth
from schemas.calendar import DAY_MS, Campaign, Window
from schemas.records import ChangeKind

HOUR_MS = 3_600_000
LENGTH_MS = 75 * MINUTE_MS


@dataclass(frozen=True)
class Draw:
    """What a story is drawn with."""

    lived: Lived
    random: np.random.Generator

    @property
    def drawn(self) -> Drawn:
        """The estate."""
        return self.lived.drawn

    def moment(self) -> str:
        """A moment of an ordinary working day."""
        return str(self.random.choice((BUSY, AFTERNOON)))

    def tenant(self) -> Character:
        """Any tenant that is at work on a weekday."""
        return self.drawn.tenants[int(self.random.integers(0, len(self.drawn.tenants)))]

    def biggest(self, moment: str) -> Character:
        """One of the two that work the database most of those that are open then: a multiple of a night's load is none."""
        at_ms = self.lived.at(moment).at_ms + 1_800_000
        awake = [one for one in self.drawn.tenants if one.calendar.at(at_ms).is_open] or list(self.drawn.tenants)
        two = sorted(awake, key=lambda one: -one.busy)[:2]
        return two[int(self.random.integers(0, len(two)))]

    def active(self, moment: str) -> Character:
        """One that is open at a moment and so busy that twenty orders would come in half an hour; else the busiest."""
        at_ms = np.array([self.lived.at(moment).at_ms + 1_800_000], np.int64)
        orders = {
            one.name: 1_800 * one.orders_per_s * float(expected_load(one, at_ms, self.drawn.start_ms)[0])
            for one in self.drawn.tenants
            if one.calendar.at(int(at_ms[0])).is_open
        }
        busy = [name for name, count in orders.items() if count >= 20] or [max(orders, key=lambda name: orders[name])]
        return self.drawn.tenant(busy[int(self.random.integers(0, len(busy)))])

    def between(self, low: float, high: float) -> float:
        """Log-uniform."""
        return float(np.exp(self.random.uniform(np.log(low), np.log(high))))

    def when(self, moment: str, *, lasts_min: tuple[int, int] = (30, 45), ramps: bool = True) -> When:
        """Begins some minutes into the stretch and leaves time after it; half of them creep in."""
        onset = self.lived.at(moment).at_ms + int(self.random.uniform(6, 15) * MINUTE_MS)
        ramp = int(self.random.uniform(1, 8) * MINUTE_MS) if ramps and self.random.random() < 0.5 else 0
        return When(onset, onset + int(self.random.integers(*lasts_min)) * MINUTE_MS, ramp)


def calendar(draw: Draw) -> Story:
    """What the calendar expects is silent; what it does not is found, also while a peak is on."""
    choice = draw.random.integers(0, 10)
    moment = draw.moment()
    tenant = draw.active(moment)
    if choice <= 1:
        return _campaign(draw, moment, tenant, [])
    if choice == 2:
        return _holiday(draw)
    if choice == 3:
        return _maintenance(draw, moment, tenant)
    if choice == 4:
        # Six hours from midnight on a grain of minutes at the end: the morning's rise, after a change of clocks in every third.
        end = 8 * HOUR_MS
        quiet = faults.nothing(
            "ordinary morning", When(draw.lived.at(MIDNIGHT).at_ms, draw.lived.at(MIDNIGHT).at_ms + end)
        )
        return Story(MIDNIGHT, end, (quiet,), coarse_ms=6 * HOUR_MS)
    when = draw.when(moment)
    if choice == 5:
        big = draw.biggest(moment)
        more = draw.drawn.room(big.name, use=draw.between(1.0, 1.3)) - 1
        return _story(moment, faults.surge(draw.drawn, when, big.name, 1 + more))
    if choice == 6:
        return _story(moment, _collapse(draw, when, tenant, Knob.ORDERS, "orders stop"))
    if choice == 7:
        return _story(moment, _collapse(draw, when, tenant, Knob.DEMAND, "nobody comes"))
    if choice == 8:
        return _campaign(draw, moment, tenant, [faults.workers_gone(draw.drawn, when, tenant.name)])
    when = draw.when(NIGHT)
    return _story(NIGHT, faults.neighbour(draw.drawn, when, tenant.name, draw.between(1.0, 1.3)))


def deploy(draw: Draw) -> Story:
    """Regressions, changes that do no harm, and trouble that only coincides with one."""
    moment = draw.moment()
    tenant = draw.active(moment)
    at_ms = draw.lived.at(moment).at_ms + int(draw.random.uniform(6, 15) * MINUTE_MS)
    kind = ChangeKind(str(draw.random.choice([one.value for one in ChangeKind if one is not ChangeKind.CERTIFICATE])))
    partial = kind is ChangeKind.MODULE_UPGRADE or draw.random.random() < 0.4
    number = int(draw.random.integers(10, 99))
    made = Made(kind, "odoo", f"2.{number}.1", f"2.{number}.0", (tenant.name,) if partial else (), at_ms)
    choice = draw.random.random()
    if choice < 0.35:
        return _story(moment, changes.fine(draw.drawn, made))
    if choice < 0.5:
        return _story(moment, changes.fine(draw.drawn, made), _coincidence(draw, made))
    effect = str(draw.random.choice(list(EFFECTS)))
    begins = at_ms + int(draw.random.uniform(0, 4) * MINUTE_MS)
    ramp = int(draw.random.uniform(1, 6) * MINUTE_MS) if draw.random.random() < 0.4 else 0
    strength = draw.between(0.8, 4.0)
    if draw.random.random() < 0.5:
        back = begins + int(draw.random.uniform(25, 35) * MINUTE_MS)
        bad = changes.regression(draw.drawn, made, effect, When(begins, back, ramp), strength)
        return _story(moment, bad.besides(made.rollback(draw.drawn, back)))
    end = draw.lived.at(moment).at_ms + LENGTH_MS
    return _story(moment, changes.regression(draw.drawn, made, effect, When(begins, end, ramp), strength))


def neighbour(draw: Draw) -> Story:
    """One tenant's load that harms the others, against a rise of all, one that harms nobody, and locks that look like load."""
    moment, tenant = draw.moment(), draw.tenant()
    when, choice = draw.when(moment), draw.random.integers(0, 10)
    if choice <= 2:
        return _story(moment, faults.neighbour(draw.drawn, when, tenant.name, draw.between(1.0, 1.3)))
    if choice <= 4:
        # The plan of statements that hardly run while their tenant sleeps harms nobody.
        return _story(moment, faults.bad_plan(draw.drawn, when, draw.active(moment).name, draw.between(1.0, 1.3)))
    if choice == 5:
        return _story(moment, faults.lock_storm(draw.drawn, when, tenant.name, draw.between(0.8, 3)))
    if choice == 6:
        usual = sum(one.busy for one in draw.drawn.tenants) / draw.drawn.capacity
        small = faults.neighbour(draw.drawn, when, tenant.name, usual + draw.between(0.02, 0.08))
        return _story(moment, _silent(small, "a little more of one"))
    if choice <= 8:
        factor = min(draw.between(1.15, 1.4), draw.drawn.room(*draw.drawn.names))
        rises = [faults.surge(draw.drawn, when, one.name, factor) for one in draw.drawn.tenants]
        return _story(moment, *(_silent(one, "all rise") for one in rises))
    return _story(moment, faults.nothing("nothing", when))


def silence(draw: Draw) -> Story:
    """Something stops while the web is green, in open hours; or nothing moves because nobody works."""
    moment, drawn = draw.moment(), draw.drawn
    tenant = draw.active(moment)
    when, name = draw.when(moment, ramps=False), tenant.name
    choice = draw.random.integers(0, 14)
    causes: tuple[str, ...]
    if choice <= 2:
        return Story(NIGHT, LENGTH_MS, (faults.nothing("night", draw.when(NIGHT)),))
    if choice == 3:
        return _holiday(draw)
    if choice <= 5:
        return _story(moment, faults.nothing("ordinary day", when))
    if choice <= 7:
        return _story(moment, faults.workers_gone(drawn, when, name))
    if choice == 8:
        return _story(moment, faults.cron_off(drawn, when, name, int(draw.random.integers(0, len(CRONS)))))
    if choice == 9:
        causes = (f"odoo.cron:{name}", f"odoo.workers:{name}")
        return _story(moment, faults.stopped(drawn, when, Knob.CRONS, name, "all crons stand", causes, (name,)))
    if choice == 10:
        causes = (f"process.stopped:{name}",)
        return _story(moment, faults.stopped(drawn, when, Knob.PICKING, name, "warehouse stands", causes, (name,)))
    if choice == 11:
        causes = (f"process.stopped:{name}", f"odoo.cron:{name}")
        return _story(
            moment, faults.stopped(drawn, when, Knob.RESERVING, name, "a cron that does nothing", causes, (name,))
        )
    partner = tenant.partners[int(choice) - 12]
    tenants = faults.partners_tenants(drawn, partner)
    causes = (f"integration.silent:{partner}", f"integration.failures:{partner}")
    if choice == 12:
        causes += tuple(f"queue.stuck:{one}" for one in tenants) if len(tenants) == 1 else ()
        return _story(
            moment, faults.stopped(drawn, when, Knob.PARTNER, partner, "partner does not answer", causes, tenants)
        )
    return _story(moment, faults.stopped(drawn, when, Knob.INBOUND, partner, "partner sends nothing", causes, tenants))


def capacity(draw: Draw) -> Story:
    """Something fills up within days or a pool of workers now, against what only swings, steps up once, grows slowly, is busy."""
    if draw.random.random() < 0.15:
        return _pool(draw)
    drawn, begins = draw.drawn, draw.lived.at(BARE).at_ms
    onset = begins + int(draw.random.uniform(2, 12) * HOUR_MS)
    days = draw.between(1.0, 3.5)
    full = When(onset, onset + int(days * DAY_MS))
    length = int((full.end_ms - begins) // 900_000 * 900_000)
    choice = draw.random.integers(0, 10)
    free = drawn.disk_bytes * (1 - drawn.disk_used - 0.03)
    pg, host, valkey = f"pg-{drawn.cell}", f"host-{drawn.cell}", f"valkey-{drawn.cell}"
    disk = (f"capacity.disk:{host}", f"capacity.disk:{pg}")
    if choice <= 2:
        one = faults.filling(drawn, full, Knob.DISK_BYTES, "disk fills", disk, free)
    elif choice == 3:
        wal = (*disk, f"capacity.wal:{pg}", f"capacity.wal:{host}")
        one = faults.filling(drawn, full, Knob.WAL_BYTES, "write-ahead log is held back", wal, free)
    elif choice == 4:
        one = faults.filling(drawn, full, Knob.REDIS_MEMORY, "Redis fills", (f"capacity.memory:{valkey}",), 1.55e9)
    elif choice == 5:
        most = sum(one.pool for one in drawn.tenants) * 1.2 + 94
        one = faults.filling(drawn, full, Knob.CONNECTIONS, "connections leak", (f"capacity.connections:{pg}",), most)
    elif choice <= 7:
        one = _swings(full, draw.between(0.05, 0.2) * drawn.disk_bytes, draw.between(4, 24) * HOUR_MS)
    elif choice == 8:
        one = _steps(full, draw.between(0.05, 0.15) * drawn.disk_bytes)
    else:
        one = _silent(
            faults.filling(drawn, full, Knob.DISK_BYTES, "", (), free * days / draw.between(90, 400)), "slow growth"
        )
    systems = frozenset({"host", "postgresql", "redis"})
    return Story(BARE, length, (one,), coarse_ms=length, systems=systems)


def _pool(draw: Draw) -> Story:
    """Workers are held by somebody outside: more than there are, or so many that hardly anybody waits."""
    moment = draw.moment()
    when = draw.when(moment)
    if draw.random.random() < 0.5:
        held = faults.workers_held(draw.drawn, when, draw.between(1.0, 1.5))
    else:
        held = _silent(faults.workers_held(draw.drawn, when, draw.between(0.5, 0.75)), "workers busy")
    return Story(moment, LENGTH_MS, (held,), besides=frozenset({"odoo_workers"}))


FAMILIES: dict[str, Callable[[Draw], Story]] = {
    "calendar": calendar,
    "deploy": deploy,
    "neighbour": neighbour,
    "silence": silence,
    "capacity": capacity,
}


def _story(moment: str, *happenings: Happening) -> Story:
    return Story(moment, LENGTH_MS, happenings)


def _silent(one: Happening, kind: str) -> Happening:
    truth = one.truth.model_copy(update={"expected": True, "kind": kind, "causes": (), "tenants": ()})
    return Happening(truth, one.turn, one.records)


def _campaign(draw: Draw, moment: str, tenant: Character, besides: list[Happening]) -> Story:
    """A peak that was declared before; it comes as large as declared, give or take a fifth."""
    when = draw.when(moment, lasts_min=(35, 50), ramps=False)
    declared = min(draw.between(1.5, 4.0), draw.drawn.room(tenant.name))
    # The load follows what is declared (see load.py); what is drawn here is how right that was.
    campaign = Campaign(name="campaign", starts=_minute(when.onset_ms), ends=_minute(when.end_ms), load=declared)
    kind = "expected campaign" if not besides else "fault within a campaign"
    close = faults.surge(draw.drawn, when, tenant.name, draw.between(0.85, 1.15))
    return Story(moment, LENGTH_MS, (_silent(close, kind), *besides), {tenant.name: {"campaigns": (campaign,)}})


def _holiday(draw: Draw) -> Story:
    """A day off that was declared: from midnight until mid-morning hardly anybody is there."""
    begins = draw.lived.at(MIDNIGHT).at_ms
    length = 10 * HOUR_MS
    declares = {one.name: {"holidays": (*one.calendar.holidays, draw.lived.monday)} for one in draw.drawn.tenants}
    return Story(MIDNIGHT, length, (faults.nothing("holiday", When(begins, begins + length)),), declares, 9 * HOUR_MS)


def _maintenance(draw: Draw, moment: str, tenant: Character) -> Story:
    """Declared work on one tenant: its workers and crons stand."""
    when = draw.when(moment, ramps=False)
    window = Window(name="upgrade", starts=_minute(when.onset_ms - 60_000), ends=_minute(when.end_ms + 180_000))
    gone = _silent(faults.workers_gone(draw.drawn, when, tenant.name), "declared maintenance")
    return Story(moment, LENGTH_MS, (gone,), {tenant.name: {"maintenance": (window,)}})


def _collapse(draw: Draw, when: When, tenant: Character, knob: Knob, kind: str) -> Happening:
    name = tenant.name
    causes = tuple(f"{kind}:{name}" for kind in ("process.stopped", "anomaly.odoo.http.requests", "odoo.web"))
    return faults.stopped(draw.drawn, when, knob, name, kind, causes, (name,), left=float(draw.random.uniform(0, 0.05)))


def _coincidence(draw: Draw, made: Made) -> Happening:
    """Trouble of another origin that begins soon after a change."""
    onset = made.at_ms + int(draw.random.uniform(3, 12) * MINUTE_MS)
    when, drawn = When(onset, onset + 30 * MINUTE_MS), draw.drawn
    untouched = [name for name in drawn.names if name not in made.tenants]
    other = str(draw.random.choice(untouched or list(drawn.names)))
    choice = draw.random.integers(0, 4)
    if choice == 0:
        return faults.redis_slow(drawn, when, draw.between(1, 6))
    if choice == 1:
        return faults.lock_storm(drawn, when, other, draw.between(1, 3))
    if choice == 2:
        return faults.neighbour(drawn, when, other, draw.between(1.0, 1.3))
    return faults.storage_slow(drawn, when, draw.between(0.8, 2))


def _swings(when: When, size: float, period_ms: float) -> Happening:
    def turn(drivers: Drivers) -> None:
        phase = ((drivers.span.times_ms - when.onset_ms) / period_ms) % 1.0
        drivers.add(Knob.DISK_BYTES, "", np.where(drivers.span.times_ms > when.onset_ms, phase * size, 0.0))

    return Happening(Truth(kind="swings", expected=True, onset_ms=when.onset_ms, end_ms=when.end_ms), turn)


def _steps(when: When, size: float) -> Happening:
    def turn(drivers: Drivers) -> None:
        drivers.add(Knob.DISK_BYTES, "", np.clip((drivers.span.times_ms - when.onset_ms) / HOUR_MS, 0, 1) * size)

    return Happening(Truth(kind="onboarding step", expected=True, onset_ms=when.onset_ms, end_ms=when.end_ms), turn)


def _minute(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // MINUTE_MS * 60, UTC)
