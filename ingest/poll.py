"""One look at a target, put together of groups that fail alone.

    poll = Poll(target, now_ms)
    with poll.group("replication"):
        for row in await ask(...):
            with poll.row(row):
                poll.gauge("postgresql.replication.lag", row["lag_s"], {"postgresql.standby.name": row["name"]})
    return poll.collected()

Whatever a group raises costs that group alone: what it had found so far is put back, it is named and counted, and a fault
with reason and mend is told at its edge. Whatever a row raises costs that row alone: it becomes a dead letter. Only what
says that nothing can be asked any more leaves a group: `Unavailable`, a cancelled look, and what `is_fatal` names.
Texts are made readable and numbers finite here, so that no collector has to remember it.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from ingest.collector import Collected, Fault, Target, Unavailable
from ingest.readable import name_of, on_one_line, readable
from schemas.caches import NAMES_BYTES, cached
from schemas.masking import masked, masked_label
from schemas.records import MAX_SERIES, OperationsEvent, Record, Scalar, Scrape
from schemas.series import fault, identity

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)

MAX_ROWS_REFUSED = 20
"""Rows of one look that become dead letters; further ones are counted."""
MAX_PAYLOAD = 10_000
MAX_POINTS = 200_000
MAX_LOGGED = 1_000
"""Errors that nobody has foreseen, whose first trace was logged."""
OUR_FAULT = "The collector is at fault: report it with the log"


_logged: OrderedDict[tuple[str, str, str], None] = OrderedDict()


def at_fault(error: Exception) -> Fault:
    """The fault of an error that nobody has foreseen."""
    return Fault(f"{type(error).__name__}: {_one_line(error)}", OUR_FAULT, key=type(error).__name__)


@cached("cache.names", NAMES_BYTES)
def is_fit(series: str) -> bool:
    """Whether a text is the identity of a series that records may hold."""
    return fault(series) is None


class Poll:
    """What one look has found so far. `explain` gives the fault of an error, None for one that it does not know."""

    def __init__(
        self,
        target: Target,
        now_ms: int,
        *,
        explain: Callable[[Exception], Fault | None] = lambda error: None,
        is_fatal: Callable[[Exception], bool] = lambda error: False,
    ) -> None:
        self.target, self.now_ms = target, now_ms
        self.points: dict[str, float | None] = {}
        self.records: list[Record] = []
        self.faults: dict[str, Fault] = {}
        self.tried: set[str] = set()
        self.left_out = 0
        """What a bound kept back: rows, series or events."""
        self._explain, self._is_fatal = explain, is_fatal
        self._group = ""
        self._rows: list[tuple[str, bytes]] = []
        self._ill_rows = 0

    @property
    def name(self) -> str:
        """The group that is being read."""
        return self._group

    @contextmanager
    def group(self, name: str, *, instead: Callable[[], Mapping[str, float | None]] = dict) -> Iterator[None]:
        """A part that fails alone. `instead` gives the points that are then told: unmeasured ones, as a rule."""
        outer = self._group, self.points, self.records
        self._group, self.points, self.records = name, {}, []
        self.tried.add(name)
        ill_before = self._ill_rows
        try:
            yield
        except Unavailable:
            raise
        except Exception as error:
            if self._is_fatal(error):
                raise
            self.points, self.records = dict(instead()), []
            self._failed(name, error)
        finally:
            points, records = self._sound(self.points), self.records
            self._group, self.points, self.records = outer
            self.points.update(points)
            self.records.extend(records)
        self._note_rows(name, self._ill_rows - ill_before)

    @contextmanager
    def row(self, row: object, shown: Callable[[Any], bytes] | None = None) -> Iterator[None]:
        """A row or entry that fails alone. `shown` gives its bytes without what must not leave the target."""
        try:
            yield
        except Unavailable:
            raise
        except Exception as error:
            if self._is_fatal(error):
                raise
            self.refuse(f"{type(error).__name__}: {_one_line(error)}", row if shown is None else _shown(shown, row))

    def refuse(self, why: str, row: object) -> None:
        """Leave a row out: it becomes a dead letter with its bytes."""
        self._ill_rows += 1
        if len(self._rows) < MAX_ROWS_REFUSED:
            where = f"{self._group}: " if self._group else ""
            self._rows.append((masked(readable(f"{where}{why}", 2_000)), payload(row)))
        else:
            self.left_out += 1

    def fault(self, part: str, fault: Fault) -> None:
        """A part that is known not to be measurable."""
        self.tried.add(part)
        self.faults[part] = fault

    def gauge(self, name: str, value: object, attributes: Mapping[str, object] | None = None) -> None:
        """A point; unmeasured when it is None or no finite number. Raises TypeError and ValueError of what is none."""
        self.points[self.series(name, attributes)] = number(value)

    def series(self, name: str, attributes: Mapping[str, object] | None = None) -> str:
        """The identity of a series; attributes that are None are left out."""
        known = {
            key: masked_label(name_of(value), key) for key, value in (attributes or {}).items() if value is not None
        }
        return identity(name, known)

    def event(
        self,
        name: str,
        severity_number: int,
        body: str,
        attributes: Mapping[str, object],
        *,
        tenant: str | None = None,
        time_ms: int | None = None,
    ) -> None:
        """Something that happened between the last look and this one."""
        self.records.append(
            OperationsEvent(
                **self.target.identity(),
                time_ms=self.now_ms if time_ms is None else time_ms,
                tenant=tenant or self.target.resource.tenant,
                name=name,
                severity_number=severity_number,
                body=masked(readable(body)),
                attributes={key: scalar(value) for key, value in attributes.items() if value is not None},
            )
        )

    def restored(self, model: type[Model], position: str | None) -> Model | None:
        """What the position holds; None before the first look, and when it cannot be read, which is told."""
        if not position:
            return None
        try:
            return model.model_validate_json(position)
        except ValidationError as error:
            fault = f"it cannot be read ({error.error_count()} faults); the look begins afresh"
            self.fault("position", Fault(fault, "Nothing is to be done; changes since the last look may be missing"))
            self._rows.append(("position: it cannot be read", payload(position)))
            return None

    def collected(
        self, position: str | None = None, *, start_time_ms: int | None = None, first: bool = True
    ) -> Collected:
        """The look: its points in scrapes of the size that a record may have, before or after the other records."""
        scrapes = self._scrapes(start_time_ms)
        records = [*scrapes, *self.records] if first else [*self.records, *scrapes]
        return Collected(
            records, position, rows=self._rows, faults=self.faults, tried=self.tried, left_out=self.left_out
        )

    def _scrapes(self, start_time_ms: int | None) -> list[Scrape]:
        points = self._sound(self.points)
        series = sorted(points)
        self.left_out += max(0, len(series) - MAX_POINTS)
        starts = range(0, max(1, min(len(series), MAX_POINTS)), MAX_SERIES)
        parts = [series[start : start + MAX_SERIES] for start in starts]
        return [
            self.target.scrape({one: points[one] for one in part}, self.now_ms, start_time_ms=start_time_ms)
            for part in parts
        ]

    def _sound(self, points: Mapping[str, object]) -> dict[str, float | None]:
        """The points whose values are numbers and whose series a record may hold; each of the others is refused like a row."""
        sound: dict[str, float | None] = {}
        for text, value in points.items():
            series = on_one_line(text)
            if not is_fit(series):
                self.refuse(fault(series) or "", [series[:2_000], value])
            elif type(value) is float and math.isfinite(value):
                sound[series] = value
            else:
                with self.row([series, value]):
                    sound[series] = number(value)
        return sound

    def _failed(self, name: str, error: Exception) -> None:
        known = self._explain(error)
        # One that comes again at every look is in the counter; its first place in the code is enough.
        if known is None and _is_first((self.target.resource.name, name, type(error).__name__)):
            log.error(
                "a part of a look failed",
                exc_info=error,
                extra={"resource": self.target.resource.name, "part": name},
            )
        self.fault(name, known or at_fault(error))

    def _note_rows(self, group: str, ill: int) -> None:
        part = f"rows of {group}"
        self.tried.add(part)
        if ill:
            reason = f"{ill} rows could not be read, such as {self._rows[-1][0] if self._rows else 'one'}"
            self.faults[part] = Fault(reason, "See the dead letters; the other rows are told", key="rows")


def _is_first(error: tuple[str, str, str]) -> bool:
    if error in _logged:
        return False
    _logged[error] = None
    while len(_logged) > MAX_LOGGED:
        _logged.popitem(last=False)
    return True


def number(value: object) -> float | None:
    """A finite number, or None. Raises TypeError or ValueError of what is no number at all."""
    if value is None:
        return None
    try:
        found = float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def scalar(value: object) -> Scalar:
    """A value that an attribute can hold."""
    if isinstance(value, bool | int):
        # Beyond 64 bits JSON's readers disagree.
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return masked(readable(value))


def payload(row: Any) -> bytes:
    """The row's bytes as a dead letter keeps them, cut and without secrets; never raises."""
    if isinstance(row, bytes):
        text = row.decode("utf-8", "backslashreplace")
    elif isinstance(row, str):
        text = readable(row, MAX_PAYLOAD)
    else:
        text = _json(dict(row) if hasattr(row, "keys") else row)
    return masked(text[:MAX_PAYLOAD]).encode("utf-8", "backslashreplace")


def _json(row: object) -> str:
    try:
        return orjson.dumps(row, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except Exception:  # noqa: BLE001 (a text that is no UTF-8, a circle, a repr that raises)
        try:
            return repr(row)
        except Exception:  # noqa: BLE001 (a repr is anybody's code)
            return f"a {type(row).__name__} that cannot be shown"


def _shown(shown: Callable[[Any], bytes], row: object) -> bytes:
    try:
        return shown(row)
    except Exception as error:  # noqa: BLE001 (an ill row may be ill in what is shown of it, too)
        return f"a row that cannot be shown: {type(error).__name__}".encode()


def _one_line(error: Exception) -> str:
    try:
        return masked(readable(" ".join(str(error).split()), 500))
    except Exception:  # noqa: BLE001 (a str of an error is anybody's code)
        return "an error that cannot be shown"
