"""Records to OTLP protobuf, with the times at which things happened.

The SDK cannot send a past time, and building a scrape's points as objects makes some 0.1 million points a second. But
scrapes of one resource are the same bytes again and again, save for the time and the values: so the points of a layout
are serialized once, as a template with holes, and each scrape fills the holes. The three signals nest alike (request 1:
per resource {1: resource, 2: per scope {1: scope, 2: item}}), so one packer serves metrics, logs and spans.

Source: opentelemetry-proto 1.x, metrics.proto, logs.proto, trace.proto; protobuf's encoding guide.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from schemas.bounds import reached
from schemas.metrics import Kind, describe
from schemas.records import Scalar, Scrape
from schemas.series import Series, parse, split

MAX_ITEMS = 10_000  # of one message: points, log records or spans
MAX_BYTES = 3 * 1024 * 1024  # of one message: gRPC servers refuse more than 4 MiB unless told otherwise
MAX_SEGMENT = 1_000  # points that stay together
MAX_CACHED_SERIES = 500_000  # about 200 bytes each
NS_A_MS = 1_000_000

START_TIME = 0x11  # tag of a point's start_time_unix_nano
CUMULATIVE_MONOTONIC = b"\x10\x02\x18\x01"  # the end of a Sum

INT64_MAX = 2**63 - 1
DB_SYSTEMS = {"postgresql": "postgresql", "redis": "redis"}
"""db.system.name by our `system`, where OpenTelemetry has a name for it."""

Value = Scalar | tuple[str, ...]
Attributes = Mapping[str, Value | None]


def varint(number: int) -> bytes:
    """Protobuf's variable-length integer, seven bits a byte, least first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, body: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(body)) + body


# What all records are wrapped in.


@dataclass(frozen=True, slots=True)
class Origin:
    """Who a record speaks of; the Resource of OpenTelemetry, which is one per tenant."""

    cell: str
    resource: str | None = None
    system: str | None = None
    service: str = "pilothouse"
    environment: str | None = None


@lru_cache(maxsize=8_192)  # each of a few names of at most 255 characters
def resource_of(origin: Origin, tenant: str | None) -> bytes:
    """The serialized Resource. A service is unique by namespace, name and instance: cell, service and resource."""
    attributes: Attributes = {
        "service.namespace": origin.cell,
        "service.name": origin.service,
        "service.instance.id": origin.resource,
        "pilothouse.cell": origin.cell,
        "pilothouse.resource": origin.resource,
        "pilothouse.system": origin.system,
        "tenant.id": tenant,
        "db.system.name": DB_SYSTEMS.get(origin.system or ""),
        "deployment.environment.name": origin.environment,
    }
    encoded: bytes = Resource(attributes=key_values(attributes)).SerializeToString()
    return encoded


def key_values(attributes: Attributes) -> list[KeyValue]:
    """Attributes as OTLP has them; those without a value are left out."""
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items() if value is not None]


def any_value(value: Value) -> AnyValue:
    """One value with its type. An integer beyond 64 bits becomes text."""
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            small = -INT64_MAX <= value <= INT64_MAX
            return AnyValue(int_value=value) if small else AnyValue(string_value=str(value))
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
        case _:
            return AnyValue(array_value=ArrayValue(values=[any_value(one) for one in value]))


SCOPE = field(1, InstrumentationScope(name="pilothouse").SerializeToString())


class Item(NamedTuple):
    """Encoded metrics, log records or spans of one Resource, ready to stand in their scope.

    `amount` is the number of points, log records or spans.
    """

    resource: bytes
    body: bytes
    amount: int


def message(items: Iterable[Item]) -> bytes:
    """An Export...ServiceRequest. Equal resources are one: of two, receivers have been seen to drop the first."""
    scopes: dict[bytes, list[bytes]] = {}
    for resource, body, _ in items:
        scopes.setdefault(resource, [SCOPE]).append(body)
    return b"".join(field(1, field(1, resource) + field(2, b"".join(bodies))) for resource, bodies in scopes.items())


# Scrapes: templates with holes.


class Column(NamedTuple):
    """A series and where its value stands in the scrape."""

    at: int
    series: Series


class Segment(NamedTuple):
    """Metrics of one Resource in a template: bytes up to `end`, with that many points."""

    resource: bytes
    end: int
    points: int


class Template:
    """The metrics of one layout, serialized, with holes for times and values.

    A point is `0a length [11 start] 19 time 21 value attributes`: fields in the order of their numbers, as the generated
    code writes them, so that both give the same bytes. `tenant.id` stays on the points as well: receivers that keep
    little of a Resource would otherwise take two tenants' series for one.
    """

    def __init__(self, origin: Origin, columns: Iterable[Column], has_start: bool) -> None:
        ordered = sorted(columns, key=_by_tenant_and_metric)
        encoded, bodies, segments = bytearray(), list[int](), list[Segment]()
        for tenant, run in _runs(ordered):
            for metric, group in groupby(run, key=lambda column: column.series.name):
                metric_bytes, metric_bodies = _metric(metric, group, has_start)
                bodies += [len(encoded) + at for at in metric_bodies]
                encoded += metric_bytes
            segments.append(Segment(resource_of(origin, tenant), len(encoded), len(run)))
        self.order = np.array([column.at for column in ordered], dtype=np.intp)
        self.encoded = np.frombuffer(bytes(encoded), dtype=np.uint8)
        self.segments = tuple(segments)
        self._place_holes(np.array(bodies, dtype=np.int64))

    def _place_holes(self, bodies: NDArray[np.int64]) -> None:
        starting = self.encoded[bodies] == START_TIME
        times = bodies + 1 + 9 * starting
        self.starts = _eight_bytes(bodies[starting] + 1)
        self.times = _eight_bytes(times)
        self.values = _eight_bytes(times + 9)

    def fill(self, scrape: Scrape, values: NDArray[np.float64]) -> list[Item]:
        """The items of a scrape with these values, one a column of the scrape."""
        encoded = self.encoded.copy()
        encoded[self.values] = values[self.order].view(np.uint8).reshape(-1, 8)
        encoded[self.times] = _nanoseconds(scrape.time_ms)
        encoded[self.starts] = _nanoseconds(scrape.start_time_ms or 0)
        whole, begin, items = encoded.tobytes(), 0, []
        for resource, end, points in self.segments:
            items.append(Item(resource, whole[begin:end], points))
            begin = end
        return items


def _by_tenant_and_metric(column: Column) -> tuple[bool, str, str]:
    tenant = column.series.tenant
    return tenant is not None, tenant or "", column.series.name


def _runs(columns: list[Column]) -> Iterator[tuple[str | None, list[Column]]]:
    """Columns by tenant, in runs of bounded length."""
    for tenant, group in groupby(columns, key=lambda column: column.series.tenant):
        run = list(group)
        for begin in range(0, len(run), MAX_SEGMENT):
            yield tenant, run[begin : begin + MAX_SEGMENT]


def _metric(name: str, columns: Iterable[Column], has_start: bool) -> tuple[bytes, list[int]]:
    """A Metric, and where the bodies of its points begin."""
    known = describe(name)
    is_sum = known.kind is Kind.SUM
    texts = ((1, known.name), (2, known.description), (3, known.unit))
    head = b"".join(field(number, text.encode()) for number, text in texts if text)
    points, bodies = _points(columns, has_start and is_sum)
    tail = CUMULATIVE_MONOTONIC if is_sum else b""
    encoded = field(2, head + field(7 if is_sum else 5, points + tail))
    begin = len(encoded) - len(tail) - len(points)
    return encoded, [begin + at for at in bodies]


def _points(columns: Iterable[Column], has_start: bool) -> tuple[bytes, list[int]]:
    encoded, bodies = bytearray(), []
    start = bytes([START_TIME]) + bytes(8) if has_start else b""
    for column in columns:
        attributes = b"".join(field(7, pair.SerializeToString()) for pair in key_values(column.series.attributes))
        body = start + b"\x19" + bytes(8) + b"\x21" + bytes(8) + attributes
        encoded += field(1, body)
        bodies.append(len(encoded) - len(body))
    return bytes(encoded), bodies


def _eight_bytes(begins: NDArray[np.int64]) -> NDArray[np.int32]:
    return (begins[:, None] + np.arange(8)).astype(np.int32)


def _nanoseconds(time_ms: int) -> NDArray[np.uint8]:
    return np.array([time_ms * NS_A_MS], dtype="<u8").view(np.uint8)


class Templates:
    """Templates of the layouts seen last, bounded by their series.

    What was not measured is left out, as a gap is not a zero; so a layout has a template for each set of columns that
    is measured together, and those sets are few.
    """

    def __init__(self, max_series: int = MAX_CACHED_SERIES) -> None:
        self._templates: OrderedDict[Hashable, Template] = OrderedDict()
        self._max_series = max_series
        self.series = 0
        self.evicted = 0
        """Templates given up because the bound was reached."""

    def items(self, scrape: Scrape, origin: Origin) -> list[Item]:
        """A scrape's items. Raises ValueError when it holds what is no series."""
        values = np.array(scrape.values, dtype="<f8")
        measured = ~np.isnan(values)
        gaps = b"" if measured.all() else measured.tobytes()
        has_start = scrape.start_time_ms is not None
        key = (origin, has_start, gaps, scrape.series)
        template = self._templates.get(key)
        if template is None:
            columns = [Column(at, parse(one)) for at, one in enumerate(split(scrape.series)) if measured[at]]
            template = self._added(key, Template(origin, columns, has_start))
        self._templates.move_to_end(key)
        return template.fill(scrape, values)

    def _added(self, key: Hashable, template: Template) -> Template:
        self._templates[key] = template
        self.series += len(template.order)
        while self.series > self._max_series and len(self._templates) > 1:
            _, oldest = self._templates.popitem(last=False)
            self.series -= len(oldest.order)
            self.evicted += 1
            reached("otlp.templates")
        return template


# Messages of bounded size.

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Message(Generic[T]):
    """One request: its bytes, the number of points, log records or spans in it, and whose they are."""

    body: bytes
    amount: int
    owners: tuple[T, ...]


def pack(
    entries: Iterable[tuple[T, list[Item]]], max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES
) -> Iterator[Message[T]]:
    """Messages within the bounds, in order. Only an owner that is too large by itself is spread over several."""
    owners: list[T] = []
    held: list[Item] = []
    amount = size = 0
    for owner, items in entries:
        for part, part_amount, part_size in _parts(items, max_items, max_bytes):
            if held and (amount + part_amount > max_items or size + part_size > max_bytes):
                yield Message(message(held), amount, tuple(owners))
                owners, held, amount, size = [], [], 0, 0
            owners += [] if owners and owners[-1] is owner else [owner]
            held += part
            amount, size = amount + part_amount, size + part_size
    if held:
        yield Message(message(held), amount, tuple(owners))


def _parts(items: list[Item], max_items: int, max_bytes: int) -> Iterator[tuple[list[Item], int, int]]:
    """The items in runs that fit into one message each, with their number and size."""
    part: list[Item] = []
    amount = size = 0
    for item in items:
        # Of equal Resources only one is sent; amounting each errs on the safe side.
        item_size = len(item.body) + len(item.resource) + 64
        if part and (amount + item.amount > max_items or size + item_size > max_bytes):
            yield part, amount, size
            part, amount, size = [], 0, 0
        part.append(item)
        amount, size = amount + item.amount, size + item_size
    if part:
        yield part, amount, size
