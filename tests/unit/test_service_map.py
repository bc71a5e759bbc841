"""The service map in the pipeline: learned from spans or a collector's graph, and who is told when a service is ill."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from processors.rootcause.linking import WAITING_MAX, Links
from processors.step import Item
from processors.steps.service_map import FAILED, REQUESTS, SECONDS, STEP, Config, State
from schemas.records import Phase, Record, Scrape, Signal, SpanBatch
from schemas.series import identity
from tests.support.folding import Folding

MINUTE = 60_000
T0 = 1_795_230_000_000 - 1_795_230_000_000 % MINUTE
EDGES = (("user", "web"), ("web", "orders"), ("web", "search"), ("orders", "database"), ("search", "database"))
CONFIG = Config(cell="eu1", learn_bins=60)


def batch(service: str, kinds: Iterable[str], *, at_ms: int = T0, **columns: object) -> SpanBatch:
    """Spans of one service: by default each takes 100 ms and has an id of its own."""
    kinds = tuple(kinds)
    width = len(kinds)
    fields = {
        "span_ids": tuple(f"{len(service):06x}{row:010x}" for row in range(width)),
        "parent_span_ids": (None,) * width,
        "durations_ms": (100.0,) * width,
        "errors": (None,) * width,
        "attributes": {"service.name": (service,) * width},
        **columns,
    }
    return SpanBatch.model_validate(
        {
            "cell": "eu1", "resource": "collector", "system": "otlp", "time_ms": at_ms, "tenants": (None,) * width,
            "times_ms": (at_ms,) * width, "trace_ids": ("0" * 32,) * width, "names": ("GET",) * width, "kinds": kinds, **fields,
        }
    )  # fmt: skip


ASKING = batch("web", ["client"], span_ids=("a" * 16,))
ANSWERING = batch("orders", ["server"], parent_span_ids=("a" * 16,))


@pytest.mark.parametrize("order", [(ASKING, ANSWERING), (ANSWERING, ASKING)])
def test_a_call_is_seen_whichever_side_tells_first(order: tuple[SpanBatch, SpanBatch]) -> None:
    links = Links()
    told = [request for one in order for request in links.take(one)]
    assert [(request.service, request.seconds) for request in told] == [("orders", 0.1)]
    assert links.pairs() == [("web", "orders")]
    assert links.pairs() == []


def test_what_tells_nothing_itself_is_known_by_its_clients() -> None:
    attributes = {"service.name": ("orders",), "peer.service": ("postgresql",)}
    asking = batch("orders", ["client"], attributes=attributes, errors=("timeout",))
    links = Links()
    assert list(links.take(asking)) == []
    assert list(links.unanswered(T0)) == []
    (request,) = links.unanswered(T0 + 1)
    assert (request.service, request.caller, request.failed) == ("postgresql", "orders", True)
    assert list(links.unanswered(T0 + 1)) == []


def test_a_peer_that_answers_is_not_counted_twice() -> None:
    attributes = {"service.name": ("web",), "server.address": ("orders.internal",)}
    links = Links()
    told = [*links.take(batch("web", ["client"], span_ids=("a" * 16,), attributes=attributes)), *links.take(ANSWERING)]
    assert [request.service for request in told] == ["orders"]
    assert list(links.unanswered(T0 + 1)) == []


def test_spans_that_nobody_answers_are_forgotten_in_time() -> None:
    links = Links()
    for number in range(WAITING_MAX // 100 + 2):
        ids = tuple(f"{number:06x}{row:010x}" for row in range(100))
        list(links.take(batch("web", ["client"] * 100, span_ids=ids)))
    assert len(links.asked) == WAITING_MAX


def graph(minute: int, totals: dict[str, float]) -> Scrape:
    return Scrape.of(
        dict(totals),
        cell="eu1",
        resource="collector",
        system="otlp",
        time_ms=T0 + minute * MINUTE + 30_000,
        start_time_ms=T0,
    )


def traffic(
    minutes: Iterable[int],
    slow: dict[str, tuple[int, int]],
    seed: int = 1,
    failing: dict[str, tuple[int, int]] | None = None,
) -> Iterator[Scrape]:
    """A collector's counters, minute by minute; callers wait for their callees and fail with them."""
    rng, totals = random.Random(seed), dict.fromkeys(
        (identity(name, {"client": a, "server": b}) for name in (REQUESTS, FAILED, SECONDS) for a, b in EDGES), 0.0
    )  # fmt: skip
    for minute in minutes:
        requests = {"web": rng.randint(180, 220)}
        requests |= {"orders": requests["web"] // 2, "search": requests["web"]}
        own = {name: 0.05 * rng.lognormvariate(0, 0.08) for name in ("web", "orders", "search", "database")}
        for name, (begin, end) in slow.items():
            own[name] += 0.1 * (begin <= minute < end)
        bad = {name: 0.2 * (begin <= minute < end) for name, (begin, end) in (failing or {}).items()}
        took = {"database": own["database"]}
        took |= {name: own[name] + took["database"] for name in ("orders", "search")}
        took["web"] = own["web"] + took["orders"] / 2 + took["search"]
        for client, server in EDGES:
            count = requests[server] if server != "database" else requests[client]
            labels = {"client": client, "server": server}
            failed = bad.get(server, 0.0) + (sum(bad.values()) if server == "web" else 0.0)
            totals[identity(REQUESTS, labels)] += count
            totals[identity(SECONDS, labels)] += count * took[server]
            totals[identity(FAILED, labels)] += round(count * min(failed, 1.0))
        yield graph(minute, totals)


def fold(records: Iterable[Record], state: State | None = None, config: Config = CONFIG) -> tuple[list[Signal], State]:
    """Records through the step, with the ticks that it asks for, until it asks for no more."""
    one = Folding(STEP, config, state)
    for record in records:
        assert STEP.unit(record) == ""
        one.take(Item(record.time_ms, record))
    one.until(float("inf"))
    return [told for told in one.told if isinstance(told, Signal)], one.state


def test_a_service_at_fault_is_told_once_with_what_it_holds_up_and_closed_when_it_is_well() -> None:
    told, _ = fold(traffic(range(160), {"database": (100, 120)}))
    assert {one.cause for one in told} == {"service.fault:database"}
    assert len({one.id for one in told}) == 1
    assert (told[0].phase, told[-1].phase) == (Phase.OPEN, Phase.RESOLVED)
    assert T0 + 101 * MINUTE <= told[0].time_ms <= T0 + 103 * MINUTE
    assert told[-1].time_ms <= T0 + 125 * MINUTE
    assert "suffer with it" in told[0].summary
    assert any("it explains what its callers have lost" in fact.text for fact in told[0].evidence)


def test_failures_are_told_of_where_they_begin() -> None:
    told, _ = fold(traffic(range(130), {}, failing={"search": (100, 120)}))
    assert {one.cause for one in told} == {"service.fault:search"}
    assert told[0].summary.startswith("search fails by itself")


def test_health_is_silent() -> None:
    told, state = fold(traffic(range(400), {}))
    assert told == []
    assert len(state.ledger.normal) > 350


def test_the_minutes_of_a_fault_teach_nothing() -> None:
    _, healthy = fold(traffic(range(160), {}))
    _, ill = fold(traffic(range(160), {"orders": (100, 120)}))
    slowest = [float((one.ledger.normal[..., 1] / one.ledger.normal[..., 0]).max()) for one in (healthy, ill)]
    assert slowest[1] == pytest.approx(slowest[0], rel=0.2)


def test_what_has_lasted_very_long_is_the_new_normal() -> None:
    config = CONFIG.model_copy(update={"adopt_bins": 30})
    told, _ = fold(traffic(range(220), {"orders": (100, 220)}), config=config)
    assert told[-1].phase is Phase.RESOLVED
    assert told[-1].time_ms < T0 + 150 * MINUTE


def test_a_gap_is_not_a_zero() -> None:
    minutes = [minute for minute in range(130) if not 70 <= minute < 80]
    told, state = fold(traffic(minutes, {}))
    assert told == []
    assert state.ledger.number < 125


def test_a_fault_that_is_seen_no_more_is_closed() -> None:
    told, state = fold(traffic(range(110), {"database": (100, 110)}))
    assert told[-1].phase is Phase.RESOLVED
    assert STEP.due(state) is None


def test_a_counter_that_falls_is_a_reset() -> None:
    whole = list(traffic(range(130), {}))
    totals = dict(zip(whole[99].series.split("\n"), whole[99].values, strict=True))
    after = [
        graph(100 + place, {name: (value or 0) - (totals[name] or 0) for name, value in zip(one.series.split("\n"), one.values, strict=True)})
        for place, one in enumerate(whole[100:])
    ]  # fmt: skip
    told, state = fold([*whole[:100], *after])
    assert told == []
    assert float(state.ledger.normal.min()) >= 0


def test_a_late_span_is_counted_and_a_wild_clock_opens_no_end_of_bins() -> None:
    _, state = fold(
        [batch("web", ["server"], at_ms=T0 + 10 * MINUTE), batch("web", ["server"], at_ms=T0 + 20 * MINUTE)]
    )
    state, _ = STEP.step(CONFIG, state, Item(T0 + 30 * MINUTE, batch("web", ["server"], at_ms=T0)))
    assert state.late == 1
    for minute in range(200):
        wild = batch("web", ["server"], at_ms=T0 + (1_000 + minute) * MINUTE)
        state, _ = STEP.step(CONFIG, state, Item(T0 + 30 * MINUTE, wild))
    assert len(state.counts) == 64
    assert state.late == 137


def test_a_snapshot_comes_back_whole_and_leaves_old_parts_alone() -> None:
    records = list(traffic(range(200), {"orders": (150, 160)}))
    _, state = fold(records[:155])
    parts = STEP.pack(state)
    assert STEP.pack(STEP.unpack(parts)) == parts
    fresh, _ = fold(records[155:], STEP.unpack(parts))
    going_on, later = fold(records[155:], state)
    assert fresh == going_on
    assert STEP.pack(later)["normal.0"] == parts["normal.0"]


def test_a_service_whose_name_has_blanks_is_told_under_a_name_without() -> None:
    def renamed(one: Scrape) -> Scrape:
        return one.model_copy(update={"series": one.series.replace('"database"', '"PGSQL  Query"')})

    told, _ = fold(map(renamed, traffic(range(110), {"database": (100, 110)})))
    assert told[0].cause == "service.fault:PGSQL_Query"
