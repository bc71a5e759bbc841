"""An OTLP receiver in memory: it takes requests whole, refuses those that hold what it cannot take, and counts records."""

from __future__ import annotations

from collections import Counter
from random import Random

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from schemas.records import OperationsEvent, Record
from schemas.topics import OPERATIONS
from sinks.backoff import Backoff
from sinks.context import Task
from sinks.kafka_clients import Broker
from sinks.otlp import Config, Otlp
from sinks.otlp_transport import Away, Kind, Refused, Taken
from sinks.sink import Config as LoopConfig
from tests.support.outside.base import NOW_MS, System

REFUSED = "what no receiver takes"


class Outside(System):
    """The receiver, which is also the way to itself."""

    topic = OPERATIONS

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._held: Counter[int] = Counter()

    def task(self, broker: Broker) -> Task:
        """The sink, connected."""
        sink = Otlp(Config("grpc://memory:4317"), Backoff(0.1, 1.0))
        sink._transport = self
        return Task(sink, LoopConfig(idle_commit_s=1.0))

    def record(self, number: int) -> Record:
        """An event that is a log record."""
        return OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name=f"n{number}")

    def refused(self, number: int) -> Record:
        """An event that is refused."""
        return OperationsEvent(cell="eu1", resource="r", system="odoo", time_ms=NOW_MS, name=f"n{number}", body=REFUSED)

    def held(self) -> Counter[int]:
        """Log records by number."""
        return self._held

    async def export(self, kind: Kind, body: bytes) -> Taken:
        """Take a request whole, or nothing of it."""
        try:
            await self.asked()
            if REFUSED.encode() in body:
                raise Refused(REFUSED)
            self._held.update(_numbers(body))
            self.answered()
        except ConnectionError as error:
            raise Away(str(error)) from error
        return Taken(0, "")

    async def close(self) -> None:
        """Say good-bye, which a silent peer does not answer."""
        await self.asked()


def _numbers(body: bytes) -> list[int]:
    request = ExportLogsServiceRequest.FromString(body)
    records = (one for group in request.resource_logs for scope in group.scope_logs for one in scope.log_records)
    return [int(one.event_name[1:]) for one in records]
