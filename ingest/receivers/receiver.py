"""The shape every receiver has: who sent it, what it says, whether its sender may say so.

A kind of receiver is a proof (`signature.py`) and a pure function that reads a proven request into records. What a key may
write (`admission.py`) is decided here for all kinds alike, so a new kind cannot forget it. The server around it
(`http.py`) reads bodies, holds quotas, keeps the records and answers.

    KIND = ReceiverKind("change", "/v1/changes", StandardWebhooks, read)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ingest.receivers.admission import Scope
from ingest.receivers.refusals import Refused, shown
from ingest.receivers.request import Request as Request  # what a receiver reads
from ingest.receivers.signature import Holder, Proof
from schemas.codec import explain
from schemas.estate import Estate, Key
from schemas.records import Record

Model = TypeVar("Model", bound=BaseModel)

MAX_FAULTS = 500  # beyond it they are counted, not named: naming them takes longer than reading the body


@dataclass(frozen=True, slots=True)
class Received:
    """The records of a request, with one id a record that a second delivery has again (None: it has none).

    `ignored` says why there are none, when the sender did nothing wrong. `places` say where in the body each record stood,
    as `events.3.data.`; without them errors name the field alone.
    """

    records: list[Record] = field(default_factory=list)
    deliveries: list[str | None] = field(default_factory=list)
    ignored: str = ""
    places: list[str] = field(default_factory=list)


UNSCOPED = Key(name="key", env="KEY")
Read = Callable[[Request, Scope, int], Received]
"""Reads a proven request that came in at a time (Unix ms UTC), for the cells that its key may write. Raises Refused."""


class Receiver:
    """A kind of receiver with its keys: the requests of one path."""

    def __init__(self, name: str, proof: Proof, read: Read, scopes: Mapping[Key, Scope]) -> None:
        self.name = name
        self._proof, self._read, self._scopes = proof, read, scopes

    def screen(self, headers: Mapping[str, str], now_ms: int) -> Holder | None:
        """The sender as far as headers prove it, before the body is read. Raises Refused."""
        return self._proof.screen(headers, now_ms)

    def prove(self, request: Request, now_ms: int) -> Holder:
        """The sender. Raises Refused."""
        return self._proof.prove(request, now_ms)

    def read(self, request: Request, now_ms: int, holder: Holder) -> Received:
        """The records, all of which the sender may write; ids are its own, so nobody takes another's. Raises Refused."""
        scope = self._scopes[holder.key]
        received = self._read(request, scope, now_ms)
        places = received.places or [""] * len(received.records)
        scope.admit(received.records, places, self.name)
        ids = [one and delivery_id(self.name, holder.name, one) for one in received.deliveries]
        return Received(received.records, ids, received.ignored, places)

    def receive(self, request: Request, now_ms: int) -> Received:
        """The records of a request that came in at `now_ms` (Unix ms UTC). Raises Refused."""
        return self.read(request, now_ms, self.prove(request, now_ms))


@dataclass(frozen=True, slots=True)
class ReceiverKind:
    """One registered receiver: its name in the settings, where it listens, how senders prove themselves, how it reads."""

    name: str
    path: str
    proof: Callable[[Sequence[Holder]], Proof]
    read: Read

    def make(self, estate: Estate, keys: Sequence[Holder | str]) -> Receiver:
        """The receiver for an estate; a bare secret is a key without a scope. Raises ValueError for keys that keep no secret."""
        holders = [Holder(one, UNSCOPED) if isinstance(one, str) else one for one in keys]
        scopes = {one.key: Scope(estate, one.key) for one in holders}
        return Receiver(self.name, self.proof(holders), self.read, scopes)


def by_name(kinds: Iterable[ReceiverKind]) -> dict[str, ReceiverKind]:
    """The registry as a look-up."""
    return {kind.name: kind for kind in kinds}


def delivery_id(*parts: object) -> str:
    """One short id of what names a delivery; different parts never give the same."""
    text = json.dumps([str(part) for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()


def read_as(model: type[Model], data: object, where: str = "") -> Model:
    """The data as the model; Refused naming each faulty field with its value."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _faulty(error, f"{where}." if where else "", f"{where}: " if where else "") from None


def _faulty(error: ValidationError, place: str, prefix: str) -> Refused:
    if error.error_count() > MAX_FAULTS:
        more = f"{prefix}{error.error_count()} values are wrong; docs/reference has the fields of {error.title}"
        return Refused(422, "Not understood", more, field=place.removesuffix(".") or "body")
    faults = [
        {
            "field": place + (".".join(map(str, item["loc"])) or "body"),
            "value": shown(item["input"]),
            "expected": item["msg"],
        }
        for item in error.errors(include_url=False)[:20]
    ]
    return Refused(422, "Not understood", prefix + explain(error), errors=faults)
