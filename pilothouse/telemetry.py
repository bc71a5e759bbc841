"""What our own programs count, told by the OpenTelemetry SDK to the OTLP endpoint that also takes the product's data.

Ingest tells its counts as a scrape on the bus. Workers and sinks cannot: theirs would be records of their own making in
the log they read. Names, units and meaning are the catalogue's (`schemas.metrics.pilothouse`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import NamedTuple

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from pilothouse.settings import Settings
from schemas import bounds
from schemas.metrics.metric import Kind
from schemas.metrics.pilothouse import METRICS
from sinks.context import Task
from sinks.otlp_transport import place
from sinks.supervision import Part

EVERY_MS = 15_000
TIMEOUT_S = 5


BY_WHICH = {
    "rejected": ("pilothouse.worker.rejected", "pilothouse.reason"),
    "failed": ("pilothouse.worker.step_failures", "pilothouse.step"),
    "afresh": ("pilothouse.worker.units_afresh", "pilothouse.step"),
}
"""Counts of a worker that are told by something, to the metric and the attribute that says by what."""


class Reading(NamedTuple):
    """One counter at this moment."""

    name: str
    value: int
    attributes: Mapping[str, str]


Read = Callable[[], Iterable[Reading]]


def of_worker(counts: Mapping[str, int]) -> Iterator[Reading]:
    """A worker's counts; what was rejected by its reason, what failed and what began afresh by its step."""
    for name, value in counts.items():
        what, _, which = name.partition("_")
        metric, attribute = BY_WHICH.get(what, ("", "")) if which else ("", "")
        if metric:
            yield Reading(metric, value, {attribute: which})
        else:
            yield Reading(f"pilothouse.worker.{name}", value, {})


def of_sinks(tasks: Sequence[Task | Part]) -> Iterator[Reading]:
    """The counts of each sink: of how it reads, and its own (`pilothouse.sink.alerts.sent`)."""
    for task in tasks:
        who = {"pilothouse.sink.name": task.name}
        for one in fields(task.counts):
            yield Reading(f"pilothouse.sink.{one.name}", getattr(task.counts, one.name), who)
        own, kind = getattr(task.sink, "counts", None), task.name.partition(".")[0]
        for one in fields(own) if own else ():
            yield Reading(f"pilothouse.sink.{kind}.{one.name}", getattr(own, one.name), who)


def of_bounds() -> Iterator[Reading]:
    """How often each bound was reached."""
    for name, value in bounds.counts().items():
        yield Reading(bounds.METRIC, value, {bounds.NAME: name})


@contextmanager
def reporting(settings: Settings, program: str, instance: str | None, read: Read) -> Iterator[None]:
    """Tell the counts every 15 s and once more at the end; nothing without an OTLP endpoint."""
    if not settings.otlp_endpoint:
        yield
        return
    about = {"service.name": f"pilothouse-{program}", "service.instance.id": instance or program}
    reader = PeriodicExportingMetricReader(_exporter(settings), export_interval_millis=EVERY_MS)
    provider = MeterProvider([reader], resource=Resource.create(about), shutdown_on_exit=False)
    meter = provider.get_meter("pilothouse")
    for metric in METRICS:
        if metric.name.startswith(("pilothouse.worker.", "pilothouse.sink.")) or metric.name == bounds.METRIC:
            told = _told(metric.name, of_bounds if metric.name == bounds.METRIC else read)
            make = meter.create_observable_gauge if metric.kind is Kind.GAUGE else meter.create_observable_counter
            make(metric.name, [told], metric.unit, metric.description)
    try:
        yield
    finally:
        provider.shutdown(timeout_millis=1_000 * TIMEOUT_S)


def _told(name: str, read: Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def told(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(one.value, one.attributes) for one in read() if one.name == name]

    return told


def _exporter(settings: Settings) -> MetricExporter:
    to, headers = place(settings.otlp_endpoint or ""), settings.otlp_headers
    if to.is_grpc:
        return GrpcExporter(endpoint=to.address, insecure=not to.is_secure, headers=headers, timeout=TIMEOUT_S)
    return HttpExporter(endpoint=f"{to.address}/v1/metrics", headers=headers, timeout=TIMEOUT_S)
