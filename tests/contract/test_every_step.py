"""Every step keeps the contract, whatever it detects."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from pilothouse.explanation import Measured, Told, answer
from pilothouse.explanation_text import text
from processors.admission import Forgotten, Limits
from processors.fold import PartitionFold, Plan
from processors.lineage import Writer, restore
from processors.step import Item
from processors.steps.registry import ON_REQUEST, STEPS, chosen
from schemas.codec import Envelope, Received, encode
from schemas.estate import Estate
from schemas.metrics import Kind, describe
from schemas.records import (
    BusinessBatch,
    Change,
    Heartbeat,
    Incident,
    OperationsEvent,
    Record,
    Scrape,
    Signal,
    SpanBatch,
)
from schemas.series import parse, split
from schemas.silences import Silence
from schemas.topics import INPUTS, topic_of
from tests.support import script

T0 = 1_795_230_000_000
TENANTS = ("acme", "borealis")
ESTATE = Estate.model_validate(
    {
        "cells": [{"name": "eu1", "tenants": [*({"name": tenant} for tenant in TENANTS), script.RESTING]}],
        "calendars": [script.calendar(T0)],
        "openslo": [
            {
                "apiVersion": "openslo/v1",
                "kind": "SLO",
                "metadata": {"name": "redis-fast"},
                "spec": {
                    "service": "redis",
                    "budgetingMethod": "Occurrences",
                    "indicator": {
                        "spec": {
                            "thresholdMetric": {
                                "metricSource": {"type": "pilothouse", "spec": {"metric": "redis.ping.duration"}}
                            }
                        }
                    },
                    "objectives": [{"target": 0.995, "op": "lte", "value": 0.1}],
                },
            }
        ],
    }
)
EVERY = {**STEPS, **ON_REQUEST}
TOPIC = {topic.name: index for index, topic in enumerate(INPUTS)}


def scrape(rng: random.Random, tick: int, *, ill: bool) -> Scrape:
    points: dict[str, float | None] = {"redis.ping.duration": 0.9 if ill else 0.001 * rng.uniform(0.8, 1.2)}
    points['system.filesystem.utilization{system.filesystem.mountpoint="/data"}'] = 0.3 + 0.005 * min(tick, 120)
    points['odoo.worker.busy{odoo.worker.type="http"}'] = 4.0 if 30 <= tick < 60 else 1.0
    points['odoo.worker.waiting{odoo.worker.type="http"}'] = 30.0 if 30 <= tick < 60 else 0.0
    points['odoo.log.errors{tenant.id="acme"}'] = 4.0 * min(
        max(tick - 85, 0), 35
    )  # from the release until it is taken back
    for tenant in TENANTS:
        points[f'odoo.queue_job.done{{tenant.id="{tenant}"}}'] = float(
            tick * 6 + rng.randint(0, 3) if tick < 80 else 483
        )
        points[f'odoo.queue_job.failed{{tenant.id="{tenant}"}}'] = 2.0 * min(max(tick - 20, 0), 10)
        points[f'odoo.queue_job.count{{odoo.queue_job.state="pending",tenant.id="{tenant}"}}'] = 2.0
        points[f'postgresql.active.time{{tenant.id="{tenant}"}}'] = (
            None if tick % 17 == 3 else tick * 0.4 + (max(0, tick - 90) * 8.0 if tenant == "acme" else 0.0)
        )
    return Scrape.of(
        points, cell="eu1", resource="pg-eu1", system="postgresql", time_ms=T0 + tick * 2_000, start_time_ms=T0
    )


def events(rng: random.Random, tick: int) -> Iterator[Record]:
    time_ms = T0 + tick * 2_000
    yield scrape(rng, tick, ill=60 <= tick < 70)
    if tick % 10 == 0:
        left_s = 3 * 86_400.0 - tick if tick < 130 else 90 * 86_400.0
        yield Scrape.of(
            {"tls.certificate.validity.remaining": left_s},
            cell="eu1",
            resource="tls-eu1",
            system="tls",
            time_ms=time_ms,
        )
    if tick % 10 == 5:  # an id among the attributes: more series than this test has places for, and new ones each time
        chatty = {f'shop.requests{{request.id="{tick}-{number}"}}': 1.0 for number in range(12)}
        yield Scrape.of(chatty, cell="eu1", resource="chatty", system="otlp", time_ms=time_ms)
    if tick in (85, 120):
        yield Change(
            cell="eu1", time_ms=time_ms, change_id="c1", kind="release", status="succeeded" if tick == 85 else "rolled_back",
            service="odoo", revision="2.4.1", origin="generic", tenants=TENANTS,
        )  # fmt: skip
    if tick == 88:  # of a tenant that shows nothing by which it could be judged
        yield Change(
            cell="eu1", time_ms=time_ms, change_id="c2", kind="module_upgrade", status="succeeded", service="stock", revision="3.0",
            tenants=("dorado",), origin="generic",
        )  # fmt: skip
    if 40 <= tick < 50:
        attributes = {
            "postgresql.waiting.count": 4,
            "postgresql.waiting.max_s": 2.0 + tick - 40,
            "postgresql.blocker.pid": 7,
        }
        yield OperationsEvent(
            cell="eu1", time_ms=time_ms, resource="pg-eu1", system="postgresql", tenant="acme",
            name="postgresql.lock.blocked", attributes=attributes,
        )  # fmt: skip
    if tick == 55:
        yield OperationsEvent(
            cell="eu1", time_ms=time_ms, resource="odoo-acme", system="odoo", tenant="acme", name="odoo.cron.deactivated",
            attributes={"odoo.cron.name": "Mail: Email Queue Manager", "odoo.cron.failures": 5},
        )  # fmt: skip
    if tick == 55:  # of the slow Redis, and over while it is still slow
        made = Silence(
            id="s1",
            cause="redis.latency",
            from_ms=time_ms,
            until_ms=time_ms + 24_000,
            author="ada",
            reason="known",
        )
        yield made.event("eu1", time_ms)
    yield documents(tick, time_ms)
    yield from spans(rng, tick, time_ms)
    yield from script.scripted(T0, tick * 2)


def documents(tick: int, time_ms: int) -> BusinessBatch:
    told = [(tick, "assigned"), (tick - 2, "done")] if tick < 95 else [(tick, "assigned")]
    width = len(told)
    return BusinessBatch(
        cell="eu1", resource="odoo-acme", system="odoo", time_ms=time_ms, tenants=("acme",) * width, times_ms=(time_ms,) * width,
        document_types=("stock.picking",) * width, document_ids=tuple(number for number, _ in told),
        document_names=tuple(f"WH/OUT/{number}" for number, _ in told), states=tuple(state for _, state in told),
        orders=(None,) * width, amounts=(10.0,) * width, currencies=("EUR",) * width, warehouses=(None,) * width,
        carriers=(None,) * width, deadlines_ms=(None,) * width,
    )  # fmt: skip


def spans(rng: random.Random, tick: int, time_ms: int) -> Iterator[SpanBatch]:
    """The web asks the stock, which asks a database that tells nothing itself; late in the day the stock is slow."""
    own_ms = {"web": 20.0, "stock": 10.0 + 40.0 * (tick >= 110), "db": 5.0}
    took = {name: [took * rng.lognormvariate(0, 0.1) for _ in range(6)] for name, took in own_ms.items()}
    for one in range(6):
        took["stock"][one] += took["db"][one]
        took["web"][one] += took["stock"][one]
    asks = [f"{tick:08x}{one:08x}" for one in range(6)]
    yield _spans("stock", time_ms, ["server"] * 6, took["stock"], parents=asks)
    yield _spans("web", time_ms, ["client"] * 6, took["stock"], ids=asks)
    yield _spans("web", time_ms, ["server"] * 6, took["web"])
    yield _spans("stock", time_ms, ["client"] * 6, took["db"], peer="postgresql orders")


def _spans(
    service: str, time_ms: int, kinds: list[str], durations_ms: list[float], *,
    ids: list[str] | None = None, parents: list[str] | None = None, peer: str | None = None,
) -> SpanBatch:  # fmt: skip
    width = len(kinds)
    attributes: dict[str, tuple[str | None, ...]] = {
        "service.name": (service,) * width,
        "peer.service": (peer,) * width,
    }
    fresh = [
        f"{len(service) * 16 + len(kinds[0]) + 2 * (peer is None):08x}{time_ms // 2_000 % 100_000 * 10 + one:08x}"
        for one in range(width)
    ]
    return SpanBatch(
        cell="eu1", resource="collector", system="otlp", time_ms=time_ms, tenants=(None,) * width, times_ms=(time_ms,) * width,
        trace_ids=("0" * 32,) * width, span_ids=tuple(ids or fresh), parent_span_ids=tuple(parents or [None] * width),
        names=("request",) * width, kinds=tuple(kinds), durations_ms=tuple(durations_ms), errors=(None,) * width, attributes=attributes,
    )  # fmt: skip


def log(seed: int = 1, ticks: int = 140) -> list[tuple[int, int, Received | Heartbeat]]:
    """A cell's day in miniature: (topic, offset, message), with a slow Redis, a lock, a release and silence in it."""
    rng, offsets, sequence, out = random.Random(seed), [0] * len(INPUTS), 0, []
    for tick in range(ticks):
        for record in events(rng, tick):
            sequence += 1
            topic = TOPIC[topic_of(record).name]
            out.append((topic, offsets[topic], Received(Envelope("test", sequence, record.time_ms), record)))
            offsets[topic] += 1
        for topic in range(len(INPUTS)):
            out.append((topic, offsets[topic], Heartbeat(publisher="test", time_ms=T0 + tick * 2_000 + 1)))
            offsets[topic] += 1
    return out


def plan(only: str | None = None) -> Plan:
    steps = (script.STEP, *chosen(ON_REQUEST)) if only in (None, "correlator") else (EVERY[only],)
    settings = {
        "absence": {"learn": 5},
        "shapes": {"told": 0.9},  # the log is short
        "capacity": {"minute_s": 2.0},
        "saturation": {"memory_s": 10.0},
        "watchdog": {"every_ms": 60_000},
        "service_map": {"bin_ms": 2_000, "wait_ms": 1_000, "learn_bins": 60, "false_alarms_per_week": 100.0},
    }
    return Plan(steps=steps, estate=ESTATE, settings=settings, limits=Limits(other_series=8))


def run(fold: PartitionFold, messages: Any) -> list[bytes]:
    told = [encode(found.record, found.envelope).value for message in messages for found in fold.feed(*message)]
    assert not fold.failures, fold.failures[0]
    return told


every_step = pytest.mark.parametrize("name", EVERY)


@every_step
def test_it_finds_something_in_an_eventful_log(name: str) -> None:
    """The other tests of this file would pass for a step that never speaks."""
    told = b"\n".join(run(PartitionFold(plan(name)), log()))
    assert (b'"causes"' if name == "correlator" else f'"detector":"{name}"'.encode()) in told


@every_step
def test_it_says_what_it_finds_how_and_where_that_ends(name: str) -> None:
    about = EVERY[name].about
    assert about is not None
    assert all(len(sentence) > 20 for sentence in about)


@every_step
def test_every_signal_carries_what_was_measured_over_what_time_and_when(name: str) -> None:
    found = [json.loads(one) for one in run(PartitionFold(plan(name)), log())]
    for signal in (one for one in found if one.get("detector", "script") != "script"):
        facts = signal["evidence"]
        assert all(fact["time_ms"] and fact["phase"] and fact["text"] for fact in facts)
        assert any(fact["window_ms"] is not None or _is_instant(fact) for fact in facts), signal
        if signal["verdict"] != "inconclusive":  # what was not measured has no value
            assert any(fact["value"] is not None and fact["unit"] for fact in facts), signal


@every_step
def test_every_finding_is_explained_in_words_that_can_be_read(name: str) -> None:
    every = [one for one in map(_finding, run(PartitionFold(plan(name)), log())) if one is not None]
    for identity in {one.id for one in every}:
        said = text(answer(Told.of(identity, every), Measured([]), []))
        assert not re.search(r"\bNone\b|\bnan\b|\binf\b|\d\.\d{9}", said), said
        for part in ("why", "how it was found", "source: ", "limits: "):
            assert f"\n{part}" in said or f"\n  {part}" in said, said


def _finding(data: bytes) -> Signal | Incident | None:
    fields = orjson.loads(data)
    if "causes" in fields:
        return Incident.model_validate(fields)
    return Signal.model_validate(fields) if fields["detector"] != "script" else None


def _is_instant(fact: dict[str, Any]) -> bool:
    return fact["series"] is not None and describe(parse(fact["series"]).name).kind is not Kind.SUM


def test_stories_merge_split_flap_and_rest_in_the_log() -> None:
    """What the correlator does with time is under the same contract as what it says."""
    told = [orjson.loads(one) for one in run(PartitionFold(plan()), log())]
    stories = [one for one in told if "causes" in one]
    assert any(one["merged_into"] for one in stories)
    assert any(one["split_from"] for one in stories)
    assert any(one["flapping"] for one in stories)
    (rested,) = {one["id"] for one in stories if one["causes"][0]["cause"] == "odoo.upgrade:dorado"}
    assert min(one["time_ms"] for one in stories if one["id"] == rested) >= T0 + 160_000


@every_step
def test_the_same_log_gives_the_same_bytes(name: str) -> None:
    assert run(PartitionFold(plan(name)), log()) == run(PartitionFold(plan(name)), log())


@every_step
@pytest.mark.parametrize("cut", [7, 301, 602, 803, 1_001])
def test_state_survives_a_restart(name: str, cut: int) -> None:
    messages = log()
    whole = run(PartitionFold(plan(name)), messages)
    first = PartitionFold(plan(name))
    told = run(first, messages[:cut])
    writer, parts, floor = Writer("w"), first.snapshot(), first.order.floor()
    entries = [*writer.parts(parts), writer.commit(parts, (1,))]
    second = PartitionFold.restore(plan(name), restore(entries).parts)
    assert second.snapshot() == parts
    unacknowledged = [message for message in messages if message[1] >= floor[message[0]]]
    assert told + run(second, unacknowledged) == whole


@every_step
def test_it_lets_go_of_series_and_of_whole_resources(name: str) -> None:
    """What has lost its place is gone from the state; what stays goes on, and what comes again begins anew."""
    fold, messages = PartitionFold(plan(name)), log()
    run(fold, messages[: len(messages) // 2])
    cell, at_ms = fold.cells["eu1"], T0 + 140_000
    record = next(one.record for _, _, one in messages if isinstance(one, Received) and isinstance(one.record, Scrape))
    some = tuple(split(record.series)[::2])
    for series, is_whole in ((some, False), (tuple(split(record.series)), False), ((), True)):
        gone = Forgotten(
            cell="eu1", time_ms=at_ms, resource="pg-eu1", system="postgresql", series=series, is_whole=is_whole, is_last=is_whole,
        )  # fmt: skip
        cell.let_go(Item(at_ms, gone))
        parts = fold.snapshot()
        assert PartitionFold.restore(plan(name), parts).snapshot() == parts
        if series == some:
            told = b"\n".join(parts[key] for key in parts if key[0] == "eu1" and key[1] in PER_SERIES)
            assert not [one for one in some if orjson.dumps(one) in told]
        run(fold, _again(messages, at_ms))
        at_ms += 4_000


PER_SERIES = ("baseline", "shapes", "absence", "capacity", "saturation", "difference_in_differences")
"""Steps whose state is by series, each spelled out."""


def _again(messages: list[tuple[int, int, Received | Heartbeat]], at_ms: int) -> list[Any]:
    """A look at the database, as new as `at_ms`, and heartbeats past it."""
    last = {topic: offset for topic, offset, _ in messages}
    made = scrape(random.Random(at_ms), (at_ms - T0) // 2_000, ill=False)
    out: list[Any] = [
        (TOPIC[topic_of(made).name], last[0] + at_ms, Received(Envelope("later", at_ms, made.time_ms), made))
    ]
    return out + [
        (topic, last[topic] + at_ms + 1, Heartbeat(publisher="test", time_ms=at_ms + 4_000)) for topic in last
    ]


@every_step
def test_a_redelivered_record_changes_nothing(name: str) -> None:
    once = log()
    offsets: dict[int, int] = {}
    twice = []
    for topic, _, message in once:
        for _ in range(2):  # what leaves the spool twice stands twice in the topic, at two offsets
            twice.append((topic, offsets.setdefault(topic, 0), message))
            offsets[topic] += 1
    assert run(PartitionFold(plan(name)), twice) == run(PartitionFold(plan(name)), once)


@every_step
def test_any_order_of_arrival_within_the_grace_gives_the_same(name: str) -> None:
    """Whichever publisher's records of a topic stand first, and whichever topic is read first: their times decide."""
    assert run(PartitionFold(plan(name)), arrived(1)) == run(PartitionFold(plan(name)), arrived(None))


def arrived(seed: int | None) -> list[tuple[int, int, Received | Heartbeat]]:
    """The log with the records of each topic a few ms apart; with a seed, between two heartbeats in a drawn order.

    Every record is the only one of its publisher there, so that none of them goes back.
    """
    rng, out, offsets = random.Random(seed), list[tuple[int, int, Received | Heartbeat]](), [0] * len(INPUTS)
    waiting: list[tuple[int, Received]] = []
    for topic, _, message in log():
        if isinstance(message, Received):
            place = len(waiting)
            at_ms = message.record.time_ms - 100 + place
            waiting.append(
                (topic, Received(Envelope(f"test-{place}", message.envelope.sequence, at_ms), message.record))
            )
            continue
        if seed is not None:
            rng.shuffle(waiting)
        for of, received in waiting:
            out.append((of, offsets[of], received))
            offsets[of] += 1
        waiting.clear()
        out.append((topic, offsets[topic], message))
        offsets[topic] += 1
    return out


@every_step
def test_the_order_of_series_in_a_scrape_is_irrelevant(name: str) -> None:
    """New series come first in one run and last in the other; both tell the same."""

    def with_newcomers(prefix: str) -> list[bytes]:
        messages = []
        for topic, offset, message in log():
            if (
                isinstance(message, Received)
                and isinstance(message.record, Scrape)
                and message.record.resource != "chatty"
            ):
                record = message.record
                points = dict(zip(record.series.split("\n"), record.values, strict=True))
                late = (
                    {f"{prefix}.newcomer{number}": 1.0 for number in range(3)} if record.time_ms > T0 + 20_000 else {}
                )
                moved = Scrape.of(
                    points | late, cell=record.cell, resource=record.resource, system=record.system, time_ms=record.time_ms,
                    start_time_ms=record.start_time_ms,
                )  # fmt: skip
                message = Received(message.envelope, moved)
            messages.append((topic, offset, message))
        return run(PartitionFold(plan(name)), messages)

    assert with_newcomers("a") == with_newcomers("z")
