"""OTLP bytes of scrapes: they are those of the generated protobuf code, and hold the times at which things happened."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    Gauge,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from schemas.metrics import Kind, describe
from schemas.records import Scrape
from schemas.series import Series, identity, parse, split
from sinks.otlp_encode import MAX_ITEMS, Item, Origin, Templates, field, key_values, message, pack, resource_of, varint

NOW_MS = 1_793_000_000_123
ORIGIN = Origin("eu1", "pg-eu1", "postgresql", "postgresql", "production")
NAMES = [
    "postgresql.connection.count",
    "redis.commands",
    "redis.keys.evicted",
    "redis.ping.duration",
    "not.in.catalogue",
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
series = st.builds(
    identity,
    st.sampled_from(NAMES),
    st.dictionaries(st.sampled_from(["tenant.id", "db.namespace", "a"]), texts, max_size=3),
)
points = st.dictionaries(series, st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=30)


def scrape(points: dict[str, float | None], start_time_ms: int | None = None, time_ms: int = NOW_MS) -> Scrape:
    return Scrape.of(
        points, cell="eu1", resource="pg-eu1", system="postgresql", time_ms=time_ms, start_time_ms=start_time_ms
    )


def by_objects(one: Scrape) -> ExportMetricsServiceRequest:
    """The same request, built slowly as protobuf objects."""
    columns = zip(map(parse, split(one.series)), one.values, strict=True)
    measured = [(series, value) for series, value in columns if value is not None]
    measured.sort(key=lambda column: (column[0].tenant is not None, column[0].tenant or "", column[0].name))
    return ExportMetricsServiceRequest(
        resource_metrics=[
            ResourceMetrics(
                resource=Resource.FromString(resource_of(ORIGIN, tenant)),
                scope_metrics=[
                    ScopeMetrics(
                        scope=InstrumentationScope(name="pilothouse"),
                        metrics=[
                            metric(name, list(group), one)
                            for name, group in groupby(run, lambda column: column[0].name)
                        ],
                    )
                ],
            )
            for tenant, run in groupby(measured, lambda column: column[0].tenant)
        ]
    )


def metric(name: str, columns: list[tuple[Series, float]], one: Scrape) -> Metric:
    known = describe(name)
    is_sum = known.kind is Kind.SUM
    points = [
        NumberDataPoint(
            attributes=key_values(series.attributes),
            start_time_unix_nano=(one.start_time_ms or 0) * 1_000_000 if is_sum else 0,
            time_unix_nano=one.time_ms * 1_000_000,
            as_double=value,
        )
        for series, value in columns
    ]
    texts = {"name": name, "description": known.description, "unit": known.unit}
    if is_sum:
        temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        return Metric(sum=Sum(data_points=points, aggregation_temporality=temporality, is_monotonic=True), **texts)
    return Metric(gauge=Gauge(data_points=points), **texts)


@given(points, st.none() | st.integers(1, NOW_MS), st.integers(1, NOW_MS))
def test_bytes_are_those_of_the_generated_code(
    points: dict[str, float | None], start_time_ms: int | None, time_ms: int
) -> None:
    one = scrape(points, start_time_ms, time_ms)
    templates = Templates()
    first, again = (message(templates.items(one, ORIGIN)) for _ in range(2))
    assert first == again
    assert ExportMetricsServiceRequest.FromString(first) == by_objects(one)
    assert first == by_objects(one).SerializeToString(deterministic=True)


@given(points, points)
def test_a_template_forgets_the_scrape_before(first: dict[str, float | None], second: dict[str, float | None]) -> None:
    templates = Templates()
    for points in (first, second, dict.fromkeys(first, 1.0)):
        one = scrape(points, start_time_ms=5)
        assert ExportMetricsServiceRequest.FromString(message(templates.items(one, ORIGIN))) == by_objects(one)


@pytest.mark.parametrize(("number", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_varints_have_seven_bits_a_byte(number: int, encoded: bytes) -> None:
    assert varint(number) == encoded


def test_a_gap_is_not_a_zero() -> None:
    request = decoded(scrape({"redis.ping.duration": None, "redis.memory.used": 0.0}))
    assert [metric.name for metric in request.resource_metrics[0].scope_metrics[0].metrics] == ["redis.memory.used"]
    assert Templates().items(scrape({"redis.ping.duration": None}), ORIGIN) == []


def test_each_tenant_has_one_resource_however_many_scrapes() -> None:
    templates = Templates()
    scrapes = [
        scrape(
            {identity("odoo.cron.overdue", {"tenant.id": tenant}): 1.0 for tenant in ("acme", "bolt")}, time_ms=time_ms
        )
        for time_ms in (1000, 2000, 3000)
    ]
    (only,) = pack((one, templates.items(one, ORIGIN)) for one in scrapes)
    request = ExportMetricsServiceRequest.FromString(only.body)
    tenants = [attribute_of(one.resource, "tenant.id") for one in request.resource_metrics]
    assert tenants == ["acme", "bolt"]
    for one in request.resource_metrics:
        times = [metric.gauge.data_points[0].time_unix_nano for metric in one.scope_metrics[0].metrics]
        assert times == [1_000_000_000, 2_000_000_000, 3_000_000_000]
    assert only.amount == 6


def test_a_resource_says_whose_it_is() -> None:
    resource = decoded(scrape({'postgresql.connection.count{tenant.id="acme"}': 1.0})).resource_metrics[0].resource
    assert {one.key: one.value.string_value for one in resource.attributes} == {
        "service.namespace": "eu1",
        "service.name": "postgresql",
        "service.instance.id": "pg-eu1",
        "pilothouse.cell": "eu1",
        "pilothouse.resource": "pg-eu1",
        "pilothouse.system": "postgresql",
        "tenant.id": "acme",
        "db.system.name": "postgresql",
        "deployment.environment.name": "production",
    }


def test_a_message_holds_at_most_its_bound_and_loses_nothing() -> None:
    large = scrape({identity("redis.keys.count", {"a": str(n)}): float(n) for n in range(12_500)})
    small = scrape({"redis.memory.used": 1.0})
    templates = Templates()
    messages = list(pack((one, templates.items(one, ORIGIN)) for one in (small, large, small)))
    assert all(one.amount <= MAX_ITEMS for one in messages)
    assert sum(one.amount for one in messages) == 12_502
    assert sum(points_in(one.body) for one in messages) == 12_502
    assert [one.owners for one in messages] == [(small,), (large,), (large, small)]


def test_a_message_is_bounded_in_bytes_too() -> None:
    items = [Item(b"r", field(2, bytes(1000)), 1)] * 10
    messages = list(pack([("owner", items)], max_bytes=3300))
    assert [one.amount for one in messages] == [3, 3, 3, 1]
    assert all(len(one.body) <= 3300 for one in messages)


def test_the_cache_is_bounded_and_says_when_it_gave_something_up() -> None:
    templates = Templates(max_series=10)
    for n in range(20):
        templates.items(scrape({identity("redis.keys.count", {"a": str(n)}): 1.0, "redis.memory.used": 1.0}), ORIGIN)
    assert templates.series <= 10
    assert templates.evicted == 15


def test_a_series_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="broken"):
        Templates().items(scrape({"broken{": 1.0}), ORIGIN)


def decoded(one: Scrape) -> ExportMetricsServiceRequest:
    return ExportMetricsServiceRequest.FromString(message(Templates().items(one, ORIGIN)))


def points_in(body: bytes) -> int:
    request = ExportMetricsServiceRequest.FromString(body)
    metrics = [metric for one in request.resource_metrics for metric in one.scope_metrics[0].metrics]
    return sum(len(metric.gauge.data_points) + len(metric.sum.data_points) for metric in metrics)


def attribute_of(resource: Resource, key: str) -> str:
    return next(one.value.string_value for one in resource.attributes if one.key == key)
