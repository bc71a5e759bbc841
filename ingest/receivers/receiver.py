"""The shape every receiver has: a pure function from a request to records.

A receiver proves who sent the request, reads it, and says which records it holds and under which ids they were
delivered. The server around it (`http.py`) reads bodies, keeps the records and answers.

    class GitHub:
        def receive(self, request: Request, now_ms: int) -> Received: ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.codec import explain
from schemas.estate import Estate
from schemas.records import Record

Model = TypeVar("Model", bound=BaseModel)


class Refused(Exception):  # noqa: N818 (an answer, not a mistake of ours)
    """A request that is answered with an error. `detail` names the field, the value and what would be right."""

    def __init__(self, status: int, title: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.more = status, title, detail, more


def unauthorized(detail: str) -> Refused:
    """Nobody proved who sent it."""
    return Refused(401, "Not authenticated", detail)


def unprocessable(field_name: str, value: object, right: str, **more: Any) -> Refused:
    """It was read, but a field has no sense."""
    shown = str(value)[:100]
    detail = f"{field_name}: {shown!r} is wrong; {right}"
    return Refused(422, "Not understood", detail, field=field_name, value=shown, expected=right, **more)


@dataclass(frozen=True, slots=True)
class Request:
    """What came in. Names of headers are lower case."""

    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """The body; Refused when it is no UTF-8."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise Refused(400, "Not readable", f"body: byte {error.start} is no UTF-8; send JSON in UTF-8") from None

    def json(self) -> Any:
        """The body as JSON; Refused when it is none. NaN and Infinity are none."""
        try:
            return json.loads(self.text(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "Not readable", f"body: {error}; send JSON") from None


@dataclass(frozen=True, slots=True)
class Received:
    """The records of a request, with one id a record that a second delivery has again (None: it has none).

    `ignored` says why there are none, when the sender did nothing wrong.
    """

    records: list[Record] = field(default_factory=list)
    deliveries: list[str | None] = field(default_factory=list)
    ignored: str = ""


class Receiver(Protocol):
    """Reads the requests of one path."""

    def receive(self, request: Request, now_ms: int) -> Received:
        """The records of a request that came in at `now_ms` (Unix ms UTC). Raises Refused."""


@dataclass(frozen=True, slots=True)
class ReceiverKind:
    """One registered receiver: its name in the settings, where it listens and how it is made from its keys."""

    name: str
    path: str
    make: Callable[[Estate, tuple[str, ...]], Receiver]


def by_name(kinds: Iterable[ReceiverKind]) -> dict[str, ReceiverKind]:
    """The registry as a look-up."""
    return {kind.name: kind for kind in kinds}


def read_as(model: type[Model], data: object, where: str = "") -> Model:
    """The data as the model; Refused naming each faulty field with its value."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        place = f"{where}." if where else ""
        faults = [
            {
                "field": place + (".".join(map(str, item["loc"])) or "body"),
                "value": str(item["input"])[:100],
                "expected": item["msg"],
            }
            for item in error.errors(include_url=False)[:20]
        ]
        raise Refused(422, "Not understood", (f"{where}: " if where else "") + explain(error), errors=faults) from None


def known_cell(estate: Estate, cell: str, where: str = "cell") -> str:
    """The cell; Refused when the estate has none of that name."""
    if cell not in estate.cells_by_name:
        raise unprocessable(where, cell, f"cells of this estate are {', '.join(sorted(estate.cells_by_name))}")
    return cell


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
