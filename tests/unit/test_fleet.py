"""Several cells' incidents become one of the fleet: folded from the findings of the cells' own correlators, merged."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.step import Item
from processors.steps import correlator, fleet
from schemas.records import Change, Incident, Phase, Role, Severity, Signal
from schemas.silences import Silence
from tests.support.folding import folded, restarted

T0 = 1_795_262_400_000
STEPS = {"correlator": correlator.STEP, "fleet": fleet.STEP}


def signal(cell: str, cause: str, at_s: float, end_s: float | None = None, tenant: str = "acme") -> list[Item]:
    at = T0 + round(at_s * 1000)
    told = Signal(
        cell=cell, time_ms=at, id=f"{cell}-{cause}-{at_s}", phase=Phase.OPEN, detector="test", cause=cause, resource="r",
        tenant=tenant, started_ms=at, severity=Severity.WARNING, score=0.9, summary=f"{cause} is ill", tenants=(tenant,),
    )  # fmt: skip
    end = None if end_s is None else T0 + round(end_s * 1000)
    over = [] if end is None else [Item(end, told.model_copy(update={"phase": Phase.RESOLVED, "time_ms": end}))]
    return [Item(at, told), *over]


def release(cell: str, at_s: float) -> list[Item]:
    at = T0 + round(at_s * 1000)
    made = Change(
        cell=cell, time_ms=at, change_id=f"{cell}-c", kind="release", status="succeeded", service="odoo", revision="2.4.1",
        origin="github",
    )  # fmt: skip
    return [Item(at, made)]


def fold(name: str, cell: str, items: Iterable[Item], until_s: float, snapshots: bool = False) -> list[Incident]:
    step = STEPS[name]
    ordered, until_ms = sorted(items, key=lambda item: item.at_ms), T0 + round(until_s * 1000)
    between = restarted(step) if snapshots else lambda state: state
    told = folded(step, step.config(cell=cell), ordered, until_ms=until_ms, between=between)
    return [one for one in told if isinstance(one, Incident)]


def merged(until_s: float, **cells: list[Item]) -> list[Item]:
    """What the correlators of all cells tell, in the order of time."""
    told = [one for cell, items in cells.items() for one in fold("correlator", cell, items, until_s)]
    return [
        Item(one.time_ms, one) for one in sorted(told, key=lambda one: (one.time_ms, one.cell, one.id, one.version))
    ]


def of_the_fleet(items: list[Item], until_s: float) -> list[Incident]:
    return fold("fleet", fleet.FLEET, items, until_s)


def test_a_story_is_silenced_while_it_is_in_all_of_its_cells() -> None:
    def silence(cell: str) -> Item:
        made = Silence(id="s1", cause="release", from_ms=T0, until_ms=T0 + 60_000, author="ada", reason="known")
        return Item(T0, made.event(cell, T0))

    def silenced(*cells: str) -> list[bool]:
        hurt = {
            cell: [*release(cell, 0), *signal(cell, "odoo.workers:acme", 10), *map(silence, {cell} & {*cells})]
            for cell in ("eu1", "eu2")
        }
        return [one.silenced is not None for one in of_the_fleet(merged(300, **hurt), 400)]

    assert (silenced("eu1", "eu2")[0], silenced("eu1", "eu2")[-1]) == (True, False)
    assert not any(silenced("eu1"))


def test_a_release_that_hurts_two_cells_is_one_story_that_names_them_and_their_incidents() -> None:
    items = merged(
        300,
        eu1=[*release("eu1", 0), *signal("eu1", "odoo.workers:acme", 10, 100)],
        eu2=[*release("eu2", 30), *signal("eu2", "odoo.workers:zeta", 45, 120, tenant="zeta")],
        eu3=signal("eu3", "odoo.workers:omega", 50, tenant="omega"),
    )
    told = of_the_fleet(items, 400)
    assert {one.id for one in told} == {told[0].id}
    assert told[0].causes[0].cause == "release:odoo@2.4.1"
    assert {one.cell for one in told[0].parts} == {"eu1", "eu2"}
    assert {one.incident for one in told[0].parts} <= {item.record.id for item in items}
    assert told[0].tenants == ("eu1/acme", "eu2/zeta")
    assert told[0].roles == (Role.PLATFORM,)
    assert told[-1].phase is Phase.RESOLVED
    assert [one.version for one in told] == list(range(1, len(told) + 1))


def test_a_partner_that_fails_in_two_cells_is_believed_more_than_in_one() -> None:
    items = merged(
        60,
        eu1=[*signal("eu1", "integration.failures:dhl", 0), *signal("eu1", "queue.failures:acme", 2)],
        eu2=[
            *signal("eu2", "integration.failures:dhl", 5, tenant="zeta"),
            *signal("eu2", "queue.failures:zeta", 6, tenant="zeta"),
        ],
    )
    (told,) = of_the_fleet(items, 60)
    alone = max(item.record.causes[0].probability for item in items)
    assert told.causes[0].probability > alone
    assert sum(one.probability for one in told.causes) == pytest.approx(1.0)


def test_trouble_that_a_cell_has_for_itself_is_none_of_the_fleet() -> None:
    items = merged(60, eu1=signal("eu1", "redis.latency:valkey", 0), eu2=signal("eu2", "redis.latency:valkey", 0))
    assert of_the_fleet(items, 60) == []


def test_the_same_partner_days_apart_is_a_coincidence() -> None:
    day_s = 86_400
    items = merged(
        3 * day_s,
        eu1=signal("eu1", "integration.failures:dhl", 0),
        eu2=signal("eu2", "integration.failures:dhl", 2 * day_s),
    )
    assert of_the_fleet(items, 3 * day_s) == []


def test_an_incident_whose_cause_turns_out_to_be_another_leaves_the_story() -> None:
    items = merged(
        60,
        eu1=[*signal("eu1", "integration.failures:dhl", 0), *signal("eu1", "redis.latency:valkey", 20)],
        eu2=signal("eu2", "integration.failures:dhl", 1),
    )
    own = [item for item in items if item.record.cell == "eu1"]
    renamed = own[-1].record.model_copy(
        update={
            "version": own[-1].record.version + 1,
            "time_ms": T0 + 70_000,
            "causes": (own[-1].record.causes[0].model_copy(update={"cause": "redis.latency:valkey"}),),
        }
    )
    told = of_the_fleet([*items, Item(renamed.time_ms, renamed)], 120)
    assert told[0].phase is Phase.OPEN
    assert told[-1].phase is Phase.RESOLVED


@settings(max_examples=40)
@given(
    st.integers(0, 2**16),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.booleans()), min_size=2, max_size=8),
)
def test_the_order_within_a_moment_and_restarts_change_nothing(seed: int, drawn: list[tuple[int, int, bool]]) -> None:
    cells: dict[str, list[Item]] = {}
    for number, (cell, at_s, ends) in enumerate(drawn):
        cause = f"integration.failures:{('dhl', 'ups')[number % 2]}"
        cells.setdefault(f"eu{cell}", []).extend(signal(f"eu{cell}", cause, at_s * 2, at_s * 2 + 20 if ends else None))
    items = merged(120, **cells)
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    shuffled.sort(key=lambda item: (item.at_ms, item.record.id, item.record.version) if seed % 2 else item.at_ms)
    expected = [one.model_dump_json() for one in of_the_fleet(items, 200)]
    assert [one.model_dump_json() for one in of_the_fleet(shuffled, 200)] == expected
    assert [one.model_dump_json() for one in fold("fleet", fleet.FLEET, items, 200, snapshots=True)] == expected
