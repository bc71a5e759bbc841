"""Every record that travels on a topic. These models are the source of the JSON Schemas and contracts.

Common to all: `cell` is the Kafka key, `time_ms` is when it happened (integer ms, UTC). When it was observed, who
published it and under which sequence travel in the envelope (`schemas.codec`), not in the body. Batches are columns:
lists of equal length, one entry an event.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from schemas import series as series_identity
from schemas.impact import Impact as Impact  # part of what a record is

Scalar = str | int | float | bool
Name = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\s\x00-\x1f]+$")]
Text = Annotated[str, StringConstraints(max_length=16_384)]
Said = Annotated[
    str,
    BeforeValidator(lambda text: text[:16_384] if isinstance(text, str) else text),
    StringConstraints(max_length=16_384),
]
"""What we say ourselves, of what others have written: cut rather than refused."""
TimeMs = Annotated[int, Field(ge=0, lt=10_000_000_000_000, description="Unix time in ms, UTC.")]

MAX_SERIES = series_identity.SERIES_MAX
MAX_EVENTS = 10_000  # of one batch


class Record(BaseModel):
    """What every record has. Frozen, refuses unknown fields, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: ClassVar[str]
    """CloudEvents type of the record."""

    cell: Name = Field(description="The shared platform or dedicated environment it belongs to; the Kafka key.")
    time_ms: TimeMs = Field(description="When it happened; of a batch, its newest event. Unix time in ms, UTC.")


class Observation(Record):
    """A record that comes from one observed resource."""

    resource: Name = Field(description="Name of the observed resource, unique in its cell.")
    system: Name = Field(description="Kind of system the resource is: postgresql, redis, odoo, host, tls ...")


def _whole_layout(text: str) -> str:
    known = series_identity.layout(text)
    if known.faults:
        raise ValueError("; ".join(fault.why for fault in known.faults[:5]))
    return known.text


class Scrape(Observation):
    """One resource at one instant, in columns: a metrics record is a scrape, not a point."""

    type: ClassVar[str] = "com.pilothouse.metrics.scrape.v1"

    start_time_ms: TimeMs | None = Field(
        None, description="Since when the resource's cumulative columns count; null when nothing of it is cumulative."
    )
    series: Annotated[str, AfterValidator(_whole_layout)] = Field(
        description='Identities `name{attribute="value"}` in sorted order, joined by newlines.'
    )
    values: tuple[float | None, ...] = Field(
        max_length=MAX_SERIES,
        description="One value a series, in the catalogue's unit; null where it was not measured.",
    )

    @model_validator(mode="after")
    def _one_value_a_series(self) -> Self:
        columns = series_identity.layout(self.series).width
        if columns != len(self.values):
            raise ValueError(f"{self.resource}: {columns} series but {len(self.values)} values; they must be equal")
        return self

    @classmethod
    def of(
        cls, points: dict[str, float | None], *, cell: str, resource: str, system: str, time_ms: int, **more: Any
    ) -> Self:
        """A scrape of points by identity, in any order."""
        ordered = sorted(points)
        layout = series_identity.join(ordered)
        values = tuple(points[one] for one in ordered)
        return cls(cell=cell, resource=resource, system=system, time_ms=time_ms, series=layout, values=values, **more)


class Batch(Observation):
    """Events in columns. Every column has one entry an event; null where an event has no such value."""

    tenants: tuple[Name | None, ...] = Field(max_length=MAX_EVENTS, description="Tenant of each event; null if shared.")
    times_ms: tuple[TimeMs, ...] = Field(max_length=MAX_EVENTS, description="When each happened, Unix ms UTC.")

    @model_validator(mode="after")
    def _columns_are_equally_long(self) -> Self:
        rows = len(self.times_ms)
        for name, column in self.columns():
            if len(column) != rows:
                raise ValueError(f"{name} has {len(column)} entries but times_ms has {rows}; columns must be equal")
        return self

    def columns(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Name and entries of every column, those of `attributes` among them."""
        own = [(name, value) for name, value in self if isinstance(value, tuple)]
        return own + [(f"attributes.{name}", column) for name, column in getattr(self, "attributes", {}).items()]


Columns = dict[str, tuple[Scalar | None, ...]]


class LogBatch(Batch):
    """Log records of one resource, in the order in which they were written."""

    type: ClassVar[str] = "com.pilothouse.logs.batch.v1"

    severity_numbers: tuple[Annotated[int, Field(ge=0, le=24)], ...] = Field(
        description="OpenTelemetry severity number, 0 where the source had none (9 INFO, 13 WARN, 17 ERROR, 21 FATAL)."
    )
    bodies: tuple[Text, ...] = Field(description="The message, cut at 16,384 characters.")
    attributes: Columns = Field(default_factory=dict, description="Columns of attributes by OpenTelemetry name.")


class SpanBatch(Batch):
    """Finished spans of one resource."""

    type: ClassVar[str] = "com.pilothouse.spans.batch.v1"

    trace_ids: tuple[Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")], ...] = Field(description="W3C, hex.")
    span_ids: tuple[Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")], ...] = Field(description="W3C, hex.")
    parent_span_ids: tuple[Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")] | None, ...] = Field(
        description="Span that caused this one; null for a root."
    )
    names: tuple[Text, ...] = Field(description="Low-cardinality name of the operation.")
    kinds: tuple[str, ...] = Field(description="internal, server, client, producer or consumer.")
    durations_ms: tuple[Annotated[float, Field(ge=0)], ...] = Field(description="Wall time of each span, ms.")
    errors: tuple[str | None, ...] = Field(description="error.type of a failed span, null of a successful one.")
    attributes: Columns = Field(default_factory=dict, description="Columns of attributes by OpenTelemetry name.")


class BusinessBatch(Batch):
    """States that business documents of one tenant have reached."""

    type: ClassVar[str] = "com.pilothouse.business.batch.v1"

    document_types: tuple[Name, ...] = Field(description="Odoo model: sale.order, stock.picking, account.move ...")
    document_ids: tuple[int, ...] = Field(description="Database id of the document.")
    document_names: tuple[str | None, ...] = Field(description="What people call it: S00042, WH/OUT/00017.")
    states: tuple[Name, ...] = Field(description="State it is in since `times_ms`, in Odoo's words.")
    orders: tuple[int | None, ...] = Field(description="Id of the sale order that the document serves.")
    amounts: tuple[float | None, ...] = Field(description="Value of the document in `currencies`.")
    currencies: tuple[str | None, ...] = Field(description="ISO 4217 code.")
    warehouses: tuple[str | None, ...] = Field(description="Name or code of the warehouse.")
    carriers: tuple[str | None, ...] = Field(description="Name of the carrier.")
    deadlines_ms: tuple[TimeMs | None, ...] = Field(description="When it is promised or scheduled, Unix ms UTC.")


class ChangeKind(StrEnum):
    """What sort of change was made."""

    RELEASE = "release"
    MODULE_UPGRADE = "module_upgrade"
    CONFIGURATION = "configuration"
    SCALING = "scaling"
    CERTIFICATE = "certificate"
    SECRET = "secret"


class ChangeStatus(StrEnum):
    """How far a change has come."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


class Change(Record):
    """A change made to a cell or to some of its tenants."""

    type: ClassVar[str] = "com.pilothouse.change.v1"

    change_id: Name = Field(description="Same for all stages of one change; stages differ in `status`.")
    kind: ChangeKind
    status: ChangeStatus
    service: Name = Field(description="service.name of what was changed, such as odoo.")
    revision: Name = Field(description="Version that is now wanted: 2.4.1, or a commit.")
    previous_revision: Name | None = Field(None, description="Version before, where the source tells it.")
    tenants: tuple[Name, ...] = Field((), description="Tenants that get the change; empty for all of the cell.")
    author: str | None = Field(None, description="Who made it, as the source names them.")
    approver: str | None = Field(None, description="Who approved it, as the source names them.")
    environment: str | None = Field(None, description="deployment.environment.name.")
    url: str | None = Field(None, description="Where a person reads more.")
    origin: Name = Field(description="Which interface told it: generic, github, gitlab, argocd, flux, estate.")


class OperationsEvent(Observation):
    """Something that operators care about and no number says: a worker killed, a cron switched off, a target away."""

    type: ClassVar[str] = "com.pilothouse.operations.v1"

    tenant: Name | None = Field(None, description="Tenant concerned; null if the cell shares it.")
    name: Name = Field(description="event.name, such as odoo.worker.killed or collector.unavailable.")
    severity_number: int = Field(9, ge=0, le=24, description="OpenTelemetry severity number.")
    body: Text = Field("", description="One sentence for a person.")
    attributes: dict[str, Scalar] = Field(default_factory=dict, description="By OpenTelemetry name.")


class SecurityEvent(OperationsEvent):
    """Something that security people care about: a failed login, a privilege changed."""

    type: ClassVar[str] = "com.pilothouse.security.v1"

    actor: str | None = Field(None, description="user.name of who acted.")
    source_address: str | None = Field(None, description="client.address it came from.")
    outcome: str = Field("unknown", pattern="^(success|failure|unknown)$", description="How it ended.")


class Severity(IntEnum):
    """How much a person should care."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3


class Role(StrEnum):
    """Whom an incident concerns, so that each hears of what is theirs to mend or to answer for."""

    PLATFORM = "platform"
    DBA = "dba"
    SECURITY = "security"
    ERP_SUPPORT = "erp_support"
    BUSINESS_OPERATIONS = "business_operations"
    EXECUTIVE = "executive"


class Phase(StrEnum):
    """Stage of an episode. One episode has one id, however often it is told."""

    OPEN = "open"
    UPDATED = "updated"
    RESOLVED = "resolved"


class Verdict(StrEnum):
    """What is known of a change. Missing evidence is inconclusive, never fine."""

    REGRESSED = "regressed"
    FINE = "fine"
    INCONCLUSIVE = "inconclusive"
    RECOVERED = "recovered"
    NOT_RECOVERED = "not_recovered"


class Evidence(BaseModel):
    """One fact that speaks for a finding."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text: Said = Field(description="One sentence for a person, with its numbers and units.")
    series: str | None = Field(None, description="Identity of the series it was seen on.")
    unit: str | None = Field(
        None, description="Unit of `value`, `expected` and `scale` (UCUM); null: that of the series in the catalogue."
    )
    value: float | None = Field(None, description="What was measured, in `unit`.")
    expected: float | None = Field(None, description="What was expected there and then.")
    time_ms: TimeMs | None = Field(None, description="When it was seen, Unix ms UTC.")
    scale: float | None = Field(None, description="How far it usually strays from what is expected, in the same unit.")
    window_ms: int | None = Field(None, ge=0, description="Over what time it was measured, ms; null for an instant.")
    phase: str | None = Field(None, description="Phase of the business calendar there and then: open, month end ...")


class Signal(Record):
    """One finding of one step: an episode at one resource or tenant, told when it opens, changes and ends."""

    type: ClassVar[str] = "com.pilothouse.signal.v1"

    id: Name = Field(description="Deterministic: the same input gives the same id. One id an episode.")
    phase: Phase
    detector: Name = Field(description="Step that found it.")
    cause: Name = Field(description="KIND:RESOURCE, as redis.latency:valkey-eu1: what it would be the cause of.")
    resource: Name = Field(description="Resource it was seen on.")
    tenant: Name | None = Field(None, description="Tenant concerned; null if shared.")
    started_ms: TimeMs = Field(description="When the episode began, Unix ms UTC.")
    severity: Severity
    score: float = Field(description="Strength, 0 to 1: 1 - probability that health looks like this.", ge=0, le=1)
    summary: Said = Field(description="One sentence for a person.")
    evidence: tuple[Evidence, ...] = Field((), max_length=20)
    tenants: tuple[Name, ...] = Field((), description="Tenants that suffer, worst first.")
    impact: Impact | None = None
    advice: Said | None = Field(None, description="What to do about it.")
    verdict: Verdict | None = Field(None, description="Of a change that was judged; null for other findings.")
    expected_ms: TimeMs | None = Field(
        None, description="Of a forecast: when it is expected to come true, Unix ms UTC; null of what is there."
    )


class Cause(BaseModel):
    """One candidate cause of an incident."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cause: Name = Field(description="KIND:RESOURCE, as postgresql.lock:acme.")
    probability: float = Field(ge=0, le=1, description="All candidates of an incident add up to 1.")
    evidence: tuple[Evidence, ...] = Field((), max_length=20, description="Facts for it.")
    against: tuple[Evidence, ...] = Field((), max_length=20, description="Facts against it.")


class Inhibited(BaseModel):
    """A signal that is not told by itself, because a story that is told explains it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    signal: Name = Field(description="Id of the signal.")
    cause: Name = Field(description="Its own cause.")
    by: tuple[Name, ...] = Field(
        description="Causes that explain it, of this story first, then of others that are open."
    )


class Silenced(BaseModel):
    """Nobody is notified of an incident for now, because a person wanted it so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    silence: Name = Field(description="Id of the silence.")
    author: Name = Field(description="Who wanted it.")
    reason: Text = Field(description="Why.")
    until_ms: TimeMs = Field(description="Until when, Unix ms UTC; what is open then is notified then.")


class Recovery(BaseModel):
    """The cause of an incident is over; what it left behind is still worked off."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    since_ms: TimeMs = Field(description="When the last sign of the first cause ended, Unix ms UTC.")
    until_ms: TimeMs = Field(
        description="When what it left behind will be as usual again at the pace it goes down, Unix ms UTC."
    )
    left: tuple[Name, ...] = Field(max_length=20, description="KIND:RESOURCE of what is still worked off.")


class Part(BaseModel):
    """An incident of one cell that is part of a story of several cells."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cell: Name
    incident: Name = Field(description="Id of the cell's incident.")
    phase: Phase


class Incident(Record):
    """Signals of a cell joined into one story with a cause and an impact."""

    type: ClassVar[str] = "com.pilothouse.incident.v1"

    id: Name = Field(description="Deterministic; the same for every version of the story.")
    version: int = Field(ge=1, description="Counts the tellings of this incident from 1.")
    phase: Phase
    started_ms: TimeMs = Field(description="When the first of its signals began, Unix ms UTC.")
    severity: Severity
    title: Said = Field(description="One sentence for a person: what, where, since when.")
    causes: tuple[Cause, ...] = Field(min_length=1, description="Ranked, most probable first.")
    tenants: tuple[Name, ...] = Field((), description="Tenants that suffer, worst first.")
    roles: tuple[Role, ...] = Field(
        (), description="Whom it concerns, or has concerned at any time; empty: nobody has looked, so everybody."
    )
    impact: Impact = Impact()
    signals: tuple[Name, ...] = Field((), description="Ids of the signals it joins.")
    advice: Said | None = Field(None, description="What to do about it.")
    inhibited: tuple[Inhibited, ...] = Field(
        (), max_length=100, description="Signals it keeps from being told, and why."
    )
    absorbed: tuple[Name, ...] = Field(
        (), max_length=100, description="Ids of incidents that turned out to be this one."
    )
    merged_into: Name | None = Field(None, description="Id of the incident that goes on in its place; it is resolved.")
    split_from: Name | None = Field(None, description="Id of the incident that its signals were part of before.")
    flapping: bool = Field(False, description="It comes and goes too often for each coming and going to be told.")
    silenced: Silenced | None = Field(None, description="Why nobody is notified of it now; null: those concerned are.")
    recovery: Recovery | None = Field(
        None, description="Its cause is over, and what it left behind gets less; null while that is not so."
    )
    parts: tuple[Part, ...] = Field((), max_length=1_000, description="Of a story of several cells: their incidents.")


class Heartbeat(BaseModel):
    """A publisher's clock: everything that it observed before `time_ms` stands before this in the partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: ClassVar[str] = "com.pilothouse.heartbeat.v1"

    publisher: Name = Field(description="Who publishes; the envelope's source.")
    time_ms: TimeMs = Field(description="The publisher's clock, Unix ms UTC.")


class DeadLetter(BaseModel):
    """A record that can never be processed, with its bytes, so that nothing is lost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: ClassVar[str] = "com.pilothouse.dead-letter.v1"

    topic: str = Field(description="Topic it was read from, or the receiver that refused it.")
    partition: int = Field(description="Partition it was read from, -1 where there was none.")
    offset: int = Field(description="Offset it was read from, -1 where there was none.")
    reason: str = Field(description="Why, in a word: invalid, unknown_version, oversized ...")
    detail: Text = Field(description="Why, in full: the field, the value, what would be right.")
    key: str | None = Field(None, description="Kafka key as text.")
    headers: dict[str, str] = Field(default_factory=dict, description="Kafka headers as text.")
    payload: str = Field(
        description="The bytes, base64; what is a secret in them is masked, every other byte is as it was."
    )
    time_ms: TimeMs = Field(description="Kafka timestamp of the record, Unix ms UTC.")
    rejected_by: str = Field(description="Who refused it: a step's or a sink's name.")
