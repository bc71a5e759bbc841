"""What sinks are made from, and what making one gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.estate import Estate, Reference
from sinks.sink import Config, Counts, Sink

Resolve = Callable[[str | Reference | None, str], str]
"""The value behind a reference, "" behind None; the second argument says who wants it, for the message of a failure."""


@dataclass(frozen=True, slots=True)
class Context:
    """The estate, and the systems around us."""

    kafka: Mapping[str, Any]
    """Keyword arguments that every aiokafka client takes."""
    estate: Estate
    resolve: Resolve
    now_s: Callable[[], float]
    """Unix time, s."""
    database_url: str | None = None
    otlp_endpoint: str | None = None
    topic_prefix: str = ""
    otlp_headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Task:
    """A sink to be run, and how it reads. A name may stand for several: alerts are one for each route."""

    sink: Sink
    config: Config = field(default_factory=Config)
    counts: Counts = field(default_factory=Counts)
