"""What is at stake for several tenants, told as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.impact import CutOffStake, Impact, Stake

FOUR, FIVE = 1_795_276_800_000, 1_795_280_400_000


def of(tenant: str, value: float, currency: str = "EUR", cut_off_ms: int = FOUR, carrier: str = "DHL") -> Impact:
    stake = Stake(documents=2, value=value)
    late = CutOffStake(documents=1, value=value / 2, cut_off_ms=cut_off_ms, carrier=carrier)
    return Impact(
        documents=2, by_type={"stock.picking": 2}, value=value, currency=currency, names=(f"{tenant}/1",),
        by_tenant={tenant: stake}, by_warehouse={f"{tenant}/Main": stake}, by_carrier={carrier: stake}, by_cut_off=(late,),
        missing_by_carrier={carrier: Stake(documents=1, value=value / 2)},
        exposed=5, exposed_by_type={"stock.picking": 5}, exposed_by_tenant={tenant: 5}, exposed_until_ms=cut_off_ms,
    )  # fmt: skip


def test_tenants_add_up_by_warehouse_carrier_and_cut_off() -> None:
    both = Impact.joined([of("acme", 10.0), of("borealis", 30.0)])
    assert (both.documents, both.value, both.names) == (4, 40.0, ("borealis/1", "acme/1"))
    assert both.by_carrier == {"DHL": Stake(documents=4, value=40.0)}
    assert list(both.by_warehouse) == ["borealis/Main", "acme/Main"]
    assert both.missing_by_carrier == {"DHL": Stake(documents=2, value=20.0)}
    assert both.by_cut_off == (CutOffStake(documents=2, value=20.0, cut_off_ms=FOUR, carrier="DHL"),)


def test_what_is_exposed_adds_up_until_the_first_cut_off() -> None:
    both = Impact.joined([of("acme", 10.0, cut_off_ms=FIVE), of("borealis", 30.0), Impact()])
    assert (both.exposed, both.exposed_by_type, both.exposed_until_ms) == (10, {"stock.picking": 10}, FOUR)
    assert both.exposed_by_tenant == {"acme": 5, "borealis": 5}


def test_currencies_are_not_added_but_their_documents_count() -> None:
    both = Impact.joined([of("acme", 10.0), of("borealis", 30.0, "PLN")])
    assert (both.documents, both.value, both.currency, both.other_values) == (4, 30.0, "PLN", {"EUR": 10.0})
    assert both.by_tenant == {"borealis": Stake(documents=2, value=30.0), "acme": Stake(documents=2)}


def test_the_next_cut_off_is_the_earliest_of_all_carriers() -> None:
    three = Impact.joined([of("a", 8.0), of("b", 6.0, carrier="UPS"), of("c", 4.0, cut_off_ms=FIVE)])
    assert three.next_cut_off == CutOffStake(documents=2, value=7.0, cut_off_ms=FOUR)
    assert Impact().next_cut_off is None


@given(
    st.permutations(
        [of("a", 0.1), of("b", 0.2), of("c", 0.3, "PLN"), of("d", 0.7, cut_off_ms=FIVE, carrier="UPS"), Impact()]
    )
)
def test_the_order_of_tenants_is_irrelevant(parts: list[Impact]) -> None:
    assert Impact.joined(parts).model_dump_json() == Impact.joined(sorted(parts, key=str)).model_dump_json()
