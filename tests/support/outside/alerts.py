"""A receiver of webhooks in memory: it counts what it has taken by the id that is the same at every delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random

from schemas.estate import Route
from schemas.records import Incident, Record
from schemas.topics import INCIDENTS
from sinks.alerts import Alerts
from sinks.alerts_delivery import Answer, Undelivered
from sinks.backoff import Backoff
from sinks.context import Task
from sinks.kafka_clients import Broker
from sinks.sink import Config
from tests.support.outside.base import NOW_MS, System

REFUSED = "what no receiver takes"


class Outside(System):
    """The receiver of one route."""

    topic = INCIDENTS

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._held: Counter[int] = Counter()

    def task(self, broker: Broker) -> Task:
        """The sink of the route."""
        route = Route(name="dba", url="https://memory/hook")
        alerts = Alerts(route, "https://memory/hook", "", broker, lambda: NOW_MS / 1000, backoff=Backoff(0.1, 1.0))
        alerts._delivery = self  # type: ignore[assignment] # the way out of the process
        return Task(alerts, Config(group=alerts.group, idle_commit_s=1.0))

    def record(self, number: int) -> Record:
        """An incident that opens."""
        return _incident(number, f"n{number}")

    def refused(self, number: int) -> Record:
        """One whose alert is refused."""
        return _incident(number, REFUSED)

    def held(self) -> Counter[int]:
        """Alerts by number."""
        return self._held

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take an alert, or refuse it."""
        try:
            await self.asked()
            if REFUSED.encode() in body:
                return Answer(400, None)
            self._held[int(headers["webhook-id"].removeprefix("i").removesuffix("-1"))] += 1
            self.answered()
        except ConnectionError as error:
            raise Undelivered(str(error)) from error
        return Answer(204, None)

    async def close(self) -> None:
        """Say good-bye, which a silent peer does not answer."""
        await self.asked()


def _incident(number: int, title: str) -> Incident:
    return Incident(
        cell="eu1", time_ms=NOW_MS, id=f"i{number}", version=1, phase="open", started_ms=NOW_MS, severity=3, title=title,
        causes=({"cause": "x:y", "probability": 1.0},),
    )  # fmt: skip
