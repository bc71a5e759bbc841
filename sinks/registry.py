"""Every sink that `pilothouse sink NAME` can run. A new sink is a file beside this one and a line here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sinks import alerts, otlp
from sinks.context import SinkKind
from sinks.kafka_clients import Broker
from sinks.supervision import Part, keep_running
from sinks.timescale import kind as timescale

log = logging.getLogger(__name__)

SINKS: Mapping[str, SinkKind] = {kind.name: kind for kind in (alerts.KIND, otlp.KIND, timescale.KIND)}


async def run(
    parts: Sequence[Part], kafka: Mapping[str, Any] | Broker, stop: asyncio.Event, instance_id: str | None = None
) -> None:
    """Run a sink's parts until `stop` is set; `instance_id` is a name that survives a restart.

    What fails is begun anew; `parts` say why one that fails still at the end does.
    """
    if not parts:
        log.warning("the sink has nothing to do: the estate declares no routes")
        await stop.wait()
    await keep_running(parts, kafka, stop, instance_id)
