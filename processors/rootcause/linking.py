"""Spans become calls between services: who asked whom, how long it took, whether it failed.

A server or consumer span is a request to its service; the client or producer span that is its parent says who asked.
The two come in any order and from different resources, so each waits for the other, a bounded number of them. A client
span that no server has answered is a request to something without instrumentation (a database, a carrier) and counts
for the peer that it names.

Source: the service graph connector of the OpenTelemetry Collector, after Grafana Tempo; attribute names are those of the
OpenTelemetry semantic conventions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, Field

from schemas.bounds import reached
from schemas.records import SpanBatch

ASKING, ANSWERING = ("client", "producer"), ("server", "consumer")
PEERS = ("peer.service", "server.address", "db.system.name", "db.system")
"""Attributes that name what a client talks to, the most telling first."""
NAME_MAX = 255  # characters of a service's name
WAITING_MAX = 4_096  # spans of each kind that wait for their counterpart; the oldest go first

V = TypeVar("V")


class Request(NamedTuple):
    """A request that a service has got."""

    service: str
    time_ms: int
    seconds: float
    failed: bool
    caller: str | None = None


class Links(BaseModel):
    """Spans that wait for their counterpart, by the client's span id."""

    asked: dict[str, str] = Field(default_factory=dict, description="Client span to its service.")
    answered: dict[str, str] = Field(
        default_factory=dict, description="Parent of a server span to the server's service."
    )
    peers: dict[str, tuple[str, int, float, bool, str]] = Field(
        default_factory=dict, description="Client span to (peer, time ms, seconds, failed, caller)."
    )
    calls: list[tuple[str, str]] = Field(default_factory=list, description="Pairs found since they were last taken.")

    def take(self, batch: SpanBatch) -> Iterator[Request]:
        """The requests that the spans of a batch tell of; calls between services are kept for `pairs`."""
        names = batch.attributes.get("service.name", ())
        peers = [batch.attributes[name] for name in PEERS if name in batch.attributes]
        for row, kind in enumerate(batch.kinds):
            service = str(names[row])[:NAME_MAX] if names and names[row] is not None else batch.resource
            if kind in ANSWERING:
                self._answer(batch.parent_span_ids[row], service)
                yield _request(batch, row, service)
            elif kind in ASKING:
                peer = next((str(column[row])[:NAME_MAX] for column in peers if column[row] is not None), None)
                self._ask(batch.span_ids[row], service, peer, _request(batch, row, peer or service))

    def pairs(self) -> list[tuple[str, str]]:
        """(caller, callee) of the calls found since the last time."""
        found, self.calls = self.calls, []
        return found

    def unanswered(self, before_ms: int) -> Iterator[Request]:
        """Requests to what tells nothing itself, asked before a time; each is given once."""
        for span, (peer, time_ms, seconds, failed, caller) in list(self.peers.items()):
            if time_ms < before_ms:
                del self.peers[span]
                yield Request(peer, time_ms, seconds, failed, caller)

    def _answer(self, parent: str | None, service: str) -> None:
        if parent is None:
            return
        caller = self.asked.pop(parent, None)
        self.peers.pop(parent, None)
        if caller is None:
            _keep(self.answered, parent, service)
        elif caller != service:
            self.calls.append((caller, service))

    def _ask(self, span: str, service: str, peer: str | None, request: Request) -> None:
        callee = self.answered.pop(span, None)
        if callee is not None:
            if callee != service:
                self.calls.append((service, callee))
            return
        _keep(self.asked, span, service)
        if peer is not None and peer != service:
            _keep(self.peers, span, (peer, request.time_ms, request.seconds, request.failed, service))


def _request(batch: SpanBatch, row: int, service: str) -> Request:
    return Request(service, batch.times_ms[row], batch.durations_ms[row] / 1_000, batch.errors[row] is not None)


def _keep(waiting: dict[str, V], key: str, value: V) -> None:
    waiting[key] = value
    if len(waiting) > WAITING_MAX:
        reached("service_map.spans")
        del waiting[next(iter(waiting))]
