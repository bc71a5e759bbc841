"""A certificate is told days before it ends, until a new one is seen."""

from __future__ import annotations

from processors.step import Item
from processors.steps import certificates
from schemas.records import Phase, Scrape, Severity, Signal

T0 = 1_795_262_400_000
DAY_S = 86_400.0


def told(*left_days: float | None, every_ms: int = 86_400_000) -> list[Signal]:
    config, state, found = certificates.STEP.config(cell="eu1"), certificates.STEP.fresh(), []
    for number, days in enumerate(left_days):
        value = None if days is None else days * DAY_S
        at_ms = T0 + number * every_ms
        points = {certificates.REMAINING: value, "tls.handshake.success": 1.0}
        scrape = Scrape.of(points, cell="eu1", resource="tls-eu1", system="tls", time_ms=at_ms)
        state, signals = certificates.STEP.step(config, state, Item(at_ms, scrape))
        state = certificates.STEP.unpack(certificates.STEP.pack(state))
        found += signals
    return [one for one in found if isinstance(one, Signal)]


def test_it_is_told_with_the_time_at_which_it_ends_and_graver_when_near() -> None:
    found = told(16, 15, 13.5, None, 1.5, -0.5)
    assert [one.severity for one in found] == [Severity.WARNING, Severity.CRITICAL, Severity.CRITICAL]
    assert {one.cause for one in found} == {"certificate:tls-eu1"}
    assert found[0].expected_ms == T0 + round((2 + 13.5) * 86_400_000)
    assert "ends in 1.5 days, on 2026-11-27 00:00 UTC" in found[1].summary
    assert "has ended on 2026-11-26 00:00 UTC" in found[-1].summary


def test_the_end_of_an_issuer_is_told_in_its_own_words() -> None:
    config, state = certificates.STEP.config(cell="eu1"), certificates.STEP.fresh()
    points = {certificates.REMAINING: 80 * DAY_S, certificates.ISSUER_REMAINING: 5 * DAY_S}
    scrape = Scrape.of(points, cell="eu1", resource="tls-eu1", system="tls", time_ms=T0)
    _, (found,) = certificates.STEP.step(config, state, Item(T0, scrape))
    assert isinstance(found, Signal)
    assert found.summary.startswith("the certificate of an issuer of tls-eu1 ends in 5.0 days")
    assert "intermediate" in (found.advice or "")


def test_its_end_is_told_at_once_however_seldom_it_is_told_again() -> None:
    found = told(*(2 / 24 - minute / 1_440 for minute in range(0, 180, 15)), every_ms=900_000)
    assert [one.summary.partition(" on ")[0] for one in found[1:]] == ["the certificate of tls-eu1 has ended"]
    assert found[1].time_ms == T0 + 7_200_000


def test_a_renewal_ends_it() -> None:
    assert [one.phase for one in told(10, 89)] == [Phase.OPEN, Phase.RESOLVED]


def test_one_that_is_renewed_in_time_is_never_told() -> None:
    assert told(60, 45, 30, 89) == []
