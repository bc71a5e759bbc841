"""A receiver of webhooks in memory: it counts what it has taken by the id that is the same at every delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random

import aiohttp

from schemas.estate import Route
from schemas.records import Incident, Record
from schemas.topics import INCIDENTS
from sinks.alerts import Alerts, Heartbeat, Notification
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
        alerts._post = self._post  # type: ignore[method-assign] # the way out of the process
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

    async def _post(self, notification: Notification | Heartbeat) -> tuple[int, Mapping[str, str]]:
        assert isinstance(notification, Notification)
        try:
            await self.asked()
            if notification.incident.title == REFUSED:
                return 400, {}
            self._held[int(notification.id.removeprefix("i").removesuffix("-1"))] += 1
            self.answered()
        except ConnectionError as error:
            raise aiohttp.ClientConnectionError(str(error)) from error
        return 204, {}


def _incident(number: int, title: str) -> Incident:
    return Incident(
        cell="eu1", time_ms=NOW_MS, id=f"i{number}", version=1, phase="open", started_ms=NOW_MS, severity=3, title=title,
        causes=({"cause": "x:y", "probability": 1.0},),
    )  # fmt: skip
