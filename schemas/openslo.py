"""OpenSLO v1 documents, as people write them: SLO, SLI, Service, DataSource, AlertPolicy and its parts.

Names, fields and limits are those of the specification; what is not in it is refused, so that a slip of the pen is
found before it is relied on. What the documents mean to Pilothouse stands in `slo`.
Source: https://github.com/OpenSLO/OpenSLO (openslo/v1).
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    model_validator,
)
from pydantic.alias_generators import to_camel

from schemas.records import Name
from schemas.written import Written, known_zone

MINUTE_MS = 60_000
UNITS_MS = {
    "m": MINUTE_MS,
    "h": 60 * MINUTE_MS,
    "d": 1_440 * MINUTE_MS,
    "w": 7 * 1_440 * MINUTE_MS,
    "M": 30 * 1_440 * MINUTE_MS,
    "Q": 90 * 1_440 * MINUTE_MS,
    "Y": 365 * 1_440 * MINUTE_MS,
}
"""Nominal lengths; a calendar window's months, quarters and years are those of the calendar."""

_DURATION = re.compile(r"([1-9]\d{0,5})([mhdwMQY])")


def _duration(text: str) -> str:
    if not _DURATION.fullmatch(text):
        raise ValueError(f"duration {text!r} is not a number and one of m h d w M Q Y, such as 30d")
    return text


def _filled(entries: Any) -> Any:
    """The entries of a mapping that have a value; a key with nothing behind it says nothing."""
    if not isinstance(entries, dict):
        return entries
    return {key: value for key, value in entries.items() if value is not None}


Duration = Annotated[str, AfterValidator(_duration)]
Description = Annotated[str, StringConstraints(max_length=1050)]


def parts_of(duration: Duration) -> tuple[int, str]:
    """Number and unit of a duration."""
    match = _DURATION.fullmatch(duration)
    assert match
    return int(match[1]), match[2]


def milliseconds(duration: Duration) -> int:
    """The nominal length of a duration, ms."""
    number, unit = parts_of(duration)
    return number * UNITS_MS[unit]


class Document(Written):
    """What is written, in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class Metadata(Document):
    """Name and whatever people add to it."""

    name: Name
    display_name: str | None = None
    labels: Annotated[dict[str, str | tuple[str, ...]], BeforeValidator(_filled)] = Field(default_factory=dict)
    annotations: Annotated[dict[str, str], BeforeValidator(_filled)] = Field(
        default_factory=dict, description="What the program is told besides."
    )


class MetricSource(Document):
    """Where numbers come from."""

    metric_source_ref: Name | None = None
    type: Name | None = None
    spec: Annotated[dict[str, Any], BeforeValidator(_filled)] = Field(default_factory=dict)


class Metric(Document):
    """One query."""

    metric_source: MetricSource


class RatioMetric(Document):
    """Good or bad events of a total, or a ratio that was computed before."""

    counter: bool = False
    good: Metric | None = None
    bad: Metric | None = None
    total: Metric | None = None
    raw_type: Literal["success", "failure"] | None = None
    raw: Metric | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.raw:
            if self.good or self.bad or self.total:
                raise ValueError("ratioMetric has raw, which cannot stand beside good, bad or total")
            if self.raw_type is None:
                raise ValueError("ratioMetric has raw without rawType; write rawType: success or rawType: failure")
        elif self.total is None or (self.good is None) == (self.bad is None):
            raise ValueError("ratioMetric needs total and exactly one of good and bad, or raw")
        return self


class SliSpec(Document):
    """How a metric is read."""

    description: Description | None = None
    threshold_metric: Metric | None = None
    ratio_metric: RatioMetric | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.threshold_metric is None) == (self.ratio_metric is None):
            raise ValueError("an indicator has exactly one of thresholdMetric and ratioMetric")
        return self


class Indicator(Document):
    """An SLI that stands inside its SLO."""

    api_version: Literal["openslo/v1"] = "openslo/v1"
    kind: Literal["SLI"] = "SLI"
    metadata: Metadata | None = None
    spec: SliSpec


def _one_indicator(holder: Slo | SloSpec | Objective) -> None:
    if isinstance(holder, SloSpec | Objective) and holder.indicator and holder.indicator_ref:
        raise ValueError("indicator and indicatorRef exclude each other; leave one of them out")


class Op(StrEnum):
    """How a threshold metric is compared with an objective's value."""

    LTE = "lte"
    GTE = "gte"
    LT = "lt"
    GT = "gt"


class Objective(Document):
    """What is promised."""

    display_name: str | None = None
    op: Op | None = None
    value: float | None = Field(None, allow_inf_nan=False)
    target: float | None = Field(None, ge=0, lt=1)
    target_percent: float | None = Field(None, ge=0, lt=100)
    time_slice_target: float | None = Field(None, gt=0, le=1)
    time_slice_window: int | Duration | None = Field(None, description="A number is minutes.")
    indicator: Indicator | None = None
    indicator_ref: Name | None = None
    composite_weight: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.target is None) == (self.target_percent is None):
            raise ValueError("an objective has exactly one of target (0.999) and targetPercent (99.9)")
        _one_indicator(self)
        return self


class CalendarStart(Document):
    """Since when calendar periods are counted."""

    start_time: datetime = Field(description="Local time, without a zone.")
    time_zone: str = "UTC"

    @model_validator(mode="after")
    def _local(self) -> Self:
        if self.start_time.tzinfo:
            raise ValueError(f"startTime {self.start_time.isoformat()} names a zone; timeZone says it")
        known_zone(self.time_zone)
        return self


class TimeWindow(Document):
    """Over what time the budget is counted."""

    duration: Duration
    is_rolling: bool | None = None
    calendar: CalendarStart | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.is_rolling is None and self.calendar is None:
            raise ValueError("a timeWindow is either isRolling: true or has a calendar")
        if self.is_rolling == (self.calendar is not None):
            raise ValueError("a timeWindow has a calendar exactly when it is not rolling")
        return self


class Condition(Document):
    """When a policy alerts."""

    kind: Literal["burnrate"] = "burnrate"
    op: Op
    threshold: float
    lookback_window: Duration
    alert_after: Duration | Literal["0m"] = "0m"


class AlertConditionSpec(Document):
    """A condition with its severity."""

    description: Description | None = None
    severity: str
    condition: Condition


class InlineCondition(Document):
    """A condition inside its policy, or the name of one."""

    kind: Literal["AlertCondition"] | None = None
    metadata: Metadata | None = None
    spec: AlertConditionSpec | None = None
    condition_ref: Name | None = None


class AlertPolicySpec(Document):
    """Whom to tell what."""

    description: Description | None = None
    alert_when_no_data: bool = False
    alert_when_resolved: bool = False
    alert_when_breaching: bool = False
    conditions: tuple[InlineCondition, ...] = Field(min_length=1, max_length=1)
    notification_targets: tuple[dict[str, Any], ...] = ()


class InlinePolicy(Document):
    """A policy inside its SLO, or the name of one."""

    kind: Literal["AlertPolicy"] | None = None
    metadata: Metadata | None = None
    spec: AlertPolicySpec | None = None
    alert_policy_ref: Name | None = None


class BudgetingMethod(StrEnum):
    """What the budget is counted in."""

    OCCURRENCES = "Occurrences"
    TIMESLICES = "Timeslices"
    RATIO_TIMESLICES = "RatioTimeslices"


class SloSpec(Document):
    """What an SLO says."""

    description: Description | None = None
    service: Name
    indicator: Indicator | None = None
    indicator_ref: Name | None = None
    time_window: tuple[TimeWindow, ...] = Field((), max_length=1)
    budgeting_method: BudgetingMethod
    objectives: tuple[Objective, ...] = Field(min_length=1)
    alert_policies: tuple[InlinePolicy | Name, ...] = ()

    @model_validator(mode="after")
    def _indicators(self) -> Self:
        _one_indicator(self)
        return self


class _Kind(Document):
    api_version: Literal["openslo/v1"]
    metadata: Metadata


class Slo(_Kind):
    """A service level objective."""

    kind: Literal["SLO"]
    spec: SloSpec


class Sli(_Kind):
    """An indicator that several SLOs may refer to."""

    kind: Literal["SLI"]
    spec: SliSpec


class DescribedSpec(Document):
    """Nothing but words."""

    description: Description | None = None


class Service(_Kind):
    """A group of SLOs."""

    kind: Literal["Service"]
    spec: DescribedSpec = DescribedSpec()


class DataSourceSpec(Document):
    """A source that several indicators may refer to."""

    description: Description | None = None
    type: Name
    connection_details: Any = None


class DataSource(_Kind):
    """A named source."""

    kind: Literal["DataSource"]
    spec: DataSourceSpec


class AlertPolicy(_Kind):
    """A named policy."""

    kind: Literal["AlertPolicy"]
    spec: AlertPolicySpec


class AlertCondition(_Kind):
    """A named condition."""

    kind: Literal["AlertCondition"]
    spec: AlertConditionSpec


class TargetSpec(Document):
    """Where a notification goes."""

    description: Description | None = None
    target: str


class AlertNotificationTarget(_Kind):
    """A named target."""

    kind: Literal["AlertNotificationTarget"]
    spec: TargetSpec


AnyDocument = Annotated[
    Slo | Sli | Service | DataSource | AlertPolicy | AlertCondition | AlertNotificationTarget,
    Field(discriminator="kind"),
]
KINDS = ("SLO", "SLI", "Service", "DataSource", "AlertPolicy", "AlertCondition", "AlertNotificationTarget")
DOCUMENTS: TypeAdapter[list[AnyDocument]] = TypeAdapter(list[AnyDocument])
