"""What OpenSLO documents mean to Pilothouse: indicators over its own series and documents, budgets, options.

`metricSource` types that are read: `csv` (spec: column) for `pilothouse slo eval`, and `pilothouse` with a spec of either

- `metric` and `where`: series of the catalogue by attributes, `where: {http.response.status_class: [5xx]}`; a bucket of a
  histogram is `where: {le: "0.5"}`. A sum of the catalogue needs `counter: true`;
- or `document`, `reaches` and, of the total, `before: cut-off`; of the good, `within`: documents that reach a state, and
  what must become of them until when (`same day`, `deadline`, or a duration).

What OpenSLO has no field for stands in the SLO's annotations, see `Options`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas import openslo
from schemas.metrics import BY_NAME, Kind
from schemas.openslo import BudgetingMethod, Duration, Op, milliseconds, parts_of
from schemas.records import Name

PREFIX = "pilothouse.com/"
DAY_MS = 86_400_000
MINUTE_MS = 60_000
PERIOD_MS = 30 * DAY_MS  # of an SLO without a timeWindow; the workbook's table is made for it


class Model(BaseModel):
    """Frozen, refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Options(Model):
    """Annotations `pilothouse.com/...` of an SLO."""

    by: Literal["cell", "tenant"] = Field("cell", description="Whose budget it is: one of the cell, or one a tenant.")
    cells: str = Field("", description="Only these cells, by comma; empty for all.")
    journey: str = Field("", description="The business path it belongs to, such as order-to-ship.")
    low_traffic_chance: float | None = Field(
        None,
        gt=0,
        lt=1,
        alias="low-traffic-chance",
        description="Of few events: a window burns only when a service that burns just at the limit would show so many "
        "bad ones with at most this probability. Unset: the workbook's plain rule.",
    )
    freeze_unmeasured: bool = Field(
        False,
        alias="freeze-unmeasured",
        description="Whether an alert keeps its state while less than half of its short window was measured.",
    )

    @property
    def cell_names(self) -> tuple[str, ...]:
        """The cells in which it is judged; empty for all."""
        return tuple(filter(None, (name.strip() for name in self.cells.split(","))))

    def covers(self, cell: str) -> bool:
        """Whether the SLO is judged in a cell."""
        return not self.cell_names or cell in self.cell_names


class Column(Model):
    """A column of a CSV file."""

    column: str


class Metric(Model):
    """Series of the catalogue."""

    metric: Name
    where: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict, description="Values that attributes may have."
    )

    def takes(self, attributes: Any) -> bool:
        """Whether a series with these attributes is meant."""
        return all(
            attributes.get(name) == wanted if isinstance(wanted, str) else attributes.get(name) in wanted
            for name, wanted in self.where.items()
        )


class Documents(Model):
    """Business documents that reach a state."""

    document: Name = Field(description="Odoo model: sale.order, stock.picking ...")
    reaches: Name = Field(description="State in Odoo's words.")
    before: Literal["cut-off"] | None = Field(None, description="Only those that reach it before the day's cut-off.")
    within: Literal["same day", "deadline"] | Duration | None = Field(None, description="Until when it is good.")


Source = Column | Metric | Documents


class Indicator(Model):
    """How good and bad are counted: a part of a total, a value against a limit, or a ready ratio."""

    kind: Literal["ratio", "threshold", "raw", "promise"]
    part: Source
    part_is_good: bool = True
    total: Source | None = None
    counter: bool = False


class Target(Model):
    """One objective."""

    name: str
    target: float
    method: BudgetingMethod
    indicator: Indicator
    op: Op = Op.LTE
    value: float = 0.0
    slice_ms: int = 0
    slice_target: float = 1.0

    @property
    def budget(self) -> float:
        """Share of events that may be bad."""
        return float(f"{1 - self.target:.12g}")

    def is_good(self, value: float) -> bool:
        """Whether a value of a threshold metric keeps the objective."""
        match self.op:
            case Op.LTE:
                return value <= self.value
            case Op.LT:
                return value < self.value
            case Op.GTE:
                return value >= self.value
            case Op.GT:
                return value > self.value


class Period(Model):
    """Over what time a budget is counted."""

    duration: Duration = "30d"
    start: datetime | None = Field(None, description="Local begin of the first calendar period; None: rolling.")
    time_zone: str = "UTC"

    @property
    def length_ms(self) -> int:
        """Nominal length, ms."""
        return milliseconds(self.duration)

    def begin(self, at_ms: int) -> int | None:
        """When the calendar period of an instant began, Unix ms; None when the window rolls."""
        return None if self.start is None else _begin(self.duration, self.start, self.time_zone, at_ms // MINUTE_MS)


class Slo(Model):
    """An SLO, ready to be judged."""

    name: Name
    service: Name
    title: str
    period: Period = Period()
    targets: tuple[Target, ...]
    options: Options = Options.model_validate({})


@lru_cache(maxsize=4_096)
def _begin(duration: Duration, start: datetime, time_zone: str, minute: int) -> int:
    zone = ZoneInfo(time_zone)
    number, unit = parts_of(duration)
    now = datetime.fromtimestamp(minute * 60, zone).replace(tzinfo=None)
    if unit in "MQY":
        months = number * {"M": 1, "Q": 3, "Y": 12}[unit]
        passed = (now.year - start.year) * 12 + now.month - start.month
        count = passed // months
        begin = _plus_months(start, count * months)
        if begin > now:
            begin = _plus_months(start, (count - 1) * months)
    else:
        length = timedelta(milliseconds=milliseconds(duration))
        begin = start + (now - start) // length * length
    return round(begin.replace(tzinfo=zone).timestamp() * 1000)


def _plus_months(start: datetime, months: int) -> datetime:
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    for day in range(start.day, 27, -1):
        try:
            return start.replace(year=year, month=month + 1, day=day)
        except ValueError:  # the month is shorter
            continue
    return start.replace(year=year, month=month + 1)


def slos(documents: Sequence[openslo.AnyDocument]) -> tuple[Slo, ...]:
    """The SLOs of some documents. Raises SloFaults with every fault."""
    faults = list(_twice(documents))
    indicators = {one.metadata.name: one.spec for one in documents if isinstance(one, openslo.Sli)}
    sources = {one.metadata.name: one.spec.type for one in documents if isinstance(one, openslo.DataSource)}
    found = []
    for number, one in enumerate(documents):
        if isinstance(one, openslo.Slo):
            try:
                found.append(_slo(one, indicators, sources))
            except _Fault as fault:
                faults.append((number, f"SLO {one.metadata.name}: {fault}"))
    if faults:
        raise SloFaults(faults)
    return tuple(found)


class SloFaults(ValueError):  # noqa: N818 (it is a list of them)
    """What is wrong with some documents: the number of the document and a sentence, each."""

    def __init__(self, faults: Iterable[tuple[int, str]]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(text for _, text in self.faults))


class _Fault(Exception):  # noqa: N818 (it is a sentence)
    pass


def _twice(documents: Iterable[openslo.AnyDocument]) -> Iterator[tuple[int, str]]:
    numbers: dict[tuple[str, Name], list[int]] = {}
    for number, one in enumerate(documents):
        numbers.setdefault((one.kind, one.metadata.name), []).append(number)
    return (
        (at[1], f"{kind} {name!r} is declared {len(at)} times") for (kind, name), at in numbers.items() if len(at) > 1
    )


def _slo(document: openslo.Slo, indicators: dict[Name, openslo.SliSpec], sources: dict[Name, Name]) -> Slo:
    spec, name = document.spec, document.metadata.name
    options = _options(document.metadata.annotations)
    shared = _indicator(spec, indicators, sources)
    if shared and len(spec.objectives) > 1 and shared.kind == "threshold":
        raise _Fault("a thresholdMetric takes one objective; make an SLO of each")
    targets = tuple(
        _target(number, one, spec.budgeting_method, _indicator(one, indicators, sources) or shared)
        for number, one in enumerate(spec.objectives, 1)
    )
    if options.freeze_unmeasured and any(one.indicator.kind == "promise" for one in targets):
        raise _Fault(f"{PREFIX}freeze-unmeasured is for measured series; documents come when they come: leave it out")
    return Slo(
        name=name,
        service=spec.service,
        title=document.metadata.display_name or name,
        period=_period(spec.time_window),
        targets=targets,
        options=options,
    )


def _options(annotations: dict[str, str]) -> Options:
    ours = {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}
    try:
        return Options.model_validate(ours)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        known = ", ".join(field.alias or name for name, field in Options.model_fields.items())
        raise _Fault(
            f"annotation {PREFIX}{first['loc'][0]}: {first['msg']}, got {first['input']!r}; known are {known}"
        ) from None


def _period(windows: Sequence[openslo.TimeWindow]) -> Period:
    if not windows:
        return Period()
    window = windows[0]
    if milliseconds(window.duration) > 366 * DAY_MS:
        raise _Fault(f"timeWindow {window.duration} is longer than a year; write at most 1Y")
    if milliseconds(window.duration) < DAY_MS:
        raise _Fault(f"timeWindow {window.duration} is shorter than a day; write at least 1d")
    if window.calendar is None:
        return Period(duration=window.duration)
    return Period(duration=window.duration, start=window.calendar.start_time, time_zone=window.calendar.time_zone)


def _target(number: int, objective: openslo.Objective, method: BudgetingMethod, indicator: Indicator | None) -> Target:
    name = objective.display_name or f"objective {number}"
    if indicator is None:
        raise _Fault(f"{name} has no indicator; write indicator or indicatorRef in the spec or in each objective")
    target = objective.target if objective.target is not None else (objective.target_percent or 0.0) / 100
    made = Target(name=name, target=round(target, 12), method=method, indicator=indicator)
    if indicator.kind == "threshold":
        if objective.op is None or objective.value is None:
            raise _Fault(f"{name} of a thresholdMetric needs op and value, such as op: lte, value: 0.5")
        made = made.model_copy(update={"op": objective.op, "value": objective.value})
    if method is BudgetingMethod.OCCURRENCES:
        return made
    window = objective.time_slice_window
    if window is None or (method is BudgetingMethod.TIMESLICES and objective.time_slice_target is None):
        wanted = "timeSliceWindow" + (" and timeSliceTarget" if method is BudgetingMethod.TIMESLICES else "")
        raise _Fault(f"{name} with budgetingMethod {method} needs {wanted}")
    slice_ms = window * MINUTE_MS if isinstance(window, int) else milliseconds(window)
    if not 0 < slice_ms <= DAY_MS:
        raise _Fault(f"{name}: timeSliceWindow {window} is not between a minute and a day")
    return made.model_copy(update={"slice_ms": slice_ms, "slice_target": objective.time_slice_target or 1.0})


def _indicator(
    holder: openslo.SloSpec | openslo.Objective, indicators: dict[Name, openslo.SliSpec], sources: dict[Name, Name]
) -> Indicator | None:
    if holder.indicator_ref:
        if holder.indicator_ref not in indicators:
            known = ", ".join(sorted(indicators)) or "none"
            raise _Fault(f"indicatorRef {holder.indicator_ref!r} is no SLI; declared are {known}")
        return _read(indicators[holder.indicator_ref], sources)
    return _read(holder.indicator.spec, sources) if holder.indicator else None


def _read(spec: openslo.SliSpec, sources: dict[Name, Name]) -> Indicator:
    if spec.threshold_metric:
        return _gauge(Indicator(kind="threshold", part=_source(spec.threshold_metric, sources)), "thresholdMetric")
    ratio = spec.ratio_metric
    assert ratio
    if ratio.raw:
        made = Indicator(kind="raw", part=_source(ratio.raw, sources), part_is_good=ratio.raw_type == "success")
        return _gauge(made, "raw")
    part = ratio.good or ratio.bad
    assert part
    assert ratio.total
    made = Indicator(
        kind="ratio",
        part=_source(part, sources),
        part_is_good=ratio.good is not None,
        total=_source(ratio.total, sources),
        counter=ratio.counter,
    )
    return _promise(made) if Documents in (type(made.part), type(made.total)) else _ratio(made)


def _source(metric: openslo.Metric, sources: dict[Name, Name]) -> Source:
    source = metric.metric_source
    kind = source.type or sources.get(source.metric_source_ref or "")
    if kind is None:
        known = ", ".join(sorted(sources)) or "none"
        raise _Fault(f"metricSource has no type, and metricSourceRef {source.metric_source_ref!r} is not in {known}")
    model: type[Model]
    match kind:
        case "csv":
            model = Column
        case "pilothouse":
            model = Documents if "document" in source.spec else Metric
        case _:
            raise _Fault(f"metricSource type {kind!r} is not read here; write pilothouse or csv")
    try:
        made: Source = model.model_validate(source.spec)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _Fault(f"metricSource spec {place}: {first['msg']}, got {first['input']!r:.80}") from None
    if isinstance(made, Metric) and made.metric not in BY_NAME:
        raise _Fault(f"metric {made.metric!r} is not in the catalogue; docs/reference/metrics.md lists what is")
    return made


def _ratio(made: Indicator) -> Indicator:
    for source in (made.part, made.total):
        if isinstance(source, Metric) and (BY_NAME[source.metric].kind is Kind.SUM) != made.counter:
            right = "true" if not made.counter else "false"
            raise _Fault(f"{source.metric} is a {BY_NAME[source.metric].kind} of the catalogue; write counter: {right}")
    if type(made.part) is not type(made.total):
        raise _Fault("both parts of a ratioMetric are read from the same type of metricSource")
    return made


def _gauge(made: Indicator, where: str) -> Indicator:
    if isinstance(made.part, Documents):
        raise _Fault(f"documents are no {where}; write a ratioMetric with good and total")
    if isinstance(made.part, Metric) and BY_NAME[made.part.metric].kind is Kind.SUM:
        raise _Fault(f"{made.part.metric} is a sum of the catalogue; a {where} takes a gauge")
    return made


def _promise(made: Indicator) -> Indicator:
    good, total = made.part, made.total
    if not isinstance(good, Documents) or not isinstance(total, Documents) or not made.part_is_good:
        raise _Fault("an indicator over documents has good and total, both with a document")
    if good.within is None or total.within is not None or good.before is not None:
        raise _Fault("an indicator over documents says within: in good (same day, deadline or 4h), before: in total")
    return made.model_copy(update={"kind": "promise"})
