"""What sinks are made from, what making one gives, and how a sink declares itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.estate import Estate, Reference
from sinks.kafka_clients import Broker
from sinks.sink import Config, Counts, Sink

Resolve = Callable[[str | Reference | None, str], str]
"""The value behind a reference, "" behind None; the second argument says who wants it, for the message of a failure."""


@dataclass(frozen=True, slots=True)
class Context:
    """The estate, and the systems around us."""

    kafka: Mapping[str, Any] | Broker = field(repr=False)
    """Keyword arguments that every aiokafka client takes, or what stands in for a Kafka."""
    estate: Estate
    resolve: Resolve
    now_s: Callable[[], float]
    """Unix time, s."""
    database_url: str | None = field(default=None, repr=False)
    otlp_endpoint: str | None = field(default=None, repr=False)
    topic_prefix: str = ""
    otlp_headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Task:
    """A sink to be run, and how it reads. A name may stand for several: alerts are one for each route."""

    sink: Sink
    config: Config = field(default_factory=Config)
    counts: Counts = field(default_factory=Counts)

    @property
    def name(self) -> str:
        """The sink's own, which may be longer than the name that it is registered under."""
        return self.sink.name


async def nothing(context: Context) -> None:
    """What there is to prepare where there is nothing."""


@dataclass(frozen=True, slots=True)
class SinkKind:
    """A sink as it is registered.

    `parts` are the tasks by name, each made by itself, so that one that cannot be made keeps no other from its work;
    making raises ValueError that says how it should be configured. `prepare` readies the outside system before a part
    begins, and again before it is begun anew. `topics` are the most that it reads.
    """

    name: str
    topics: tuple[str, ...]
    parts: Callable[[Context], Mapping[str, Callable[[], Task]]]
    prepare: Callable[[Context], Awaitable[None]] = nothing
    exactly_once: bool = False
    """Whether it keeps its offsets beside what it writes. What others had under way may come twice after a failure."""

    def __call__(self, context: Context) -> list[Task]:
        """Make all its tasks. Raises ValueError of the first that cannot be made."""
        return [make() for make in self.parts(context).values()]
