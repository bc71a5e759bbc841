"""Signals by script: a step that tells what the log asks for, so that stories merge, split, flap and rest in a drawn log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from processors.step import Findings, Item, Step, StepConfig, json_state, whole_cell
from schemas.records import OperationsEvent, Phase, Record, Severity, Signal

NAME = "test.signal"


RESTING = {"name": "dorado", "calendar": "kept"}
"""A tenant with a maintenance window."""


def calendar(start_ms: int) -> dict[str, Any]:
    """Its calendar: maintenance from 100 s to 160 s after the start."""
    window = {"name": "upgrade", "starts": (start_ms + 100_000) / 1000, "ends": (start_ms + 160_000) / 1000}
    return {"name": "kept", "maintenance": [window]}


# Cause, tenant, second of its begin, second of its end, what it says.
SCRIPT = (
    # Two stories of dead workers are one when the server that both need turns out to be away.
    ("odoo.workers:acme", "acme", 10, 40, "dead"),
    ("odoo.workers:borealis", "borealis", 14, 40, "dead"),
    ("unreachable:pg-eu1", None, 20, 40, "away"),
    # An upgrade is blamed for two, until it is judged fine: then they are two stories.
    ("odoo.upgrade:dorado-stock", "dorado", 182, 260, "in upgrade"),
    ("odoo.upgrade:dorado-sale", "dorado", 184, 260, "in upgrade"),
    ("module_upgrade:stock@3.0", None, 204, 270, "fine"),
    # In maintenance, and longer.
    ("odoo.upgrade:dorado", "dorado", 110, 250, "in upgrade"),
    # Comes and goes.
    *(("redis.memory:valkey-eu1", None, 4 + 30 * number, 8 + 30 * number, "full") for number in range(7)),
)


def scripted(start_ms: int, second: int) -> Iterator[OperationsEvent]:
    """What the script has for this second and the one after it."""
    for cause, tenant, begins, ends, says in SCRIPT:
        for at, phase in ((begins, Phase.OPEN), (ends, Phase.RESOLVED)):
            if second <= at < second + 2:
                attributes = {"cause": cause, "began": begins, "phase": phase.value}
                yield OperationsEvent(
                    cell="eu1", time_ms=start_ms + 1000 * second, resource="pg-eu1", system="test", tenant=tenant, name=NAME,
                    body=f"{cause} is {says}", attributes=attributes,
                )  # fmt: skip


def _tell(config: StepConfig, state: StepConfig, item: Item) -> tuple[StepConfig, Findings]:
    event: OperationsEvent = item.record
    cause, began = str(event.attributes["cause"]), int(event.attributes["began"])
    told = Signal(
        cell=event.cell, time_ms=event.time_ms, id=f"{cause}-{began}", phase=Phase(event.attributes["phase"]), detector="script",
        cause=cause, resource=event.resource, tenant=event.tenant, started_ms=event.time_ms, severity=Severity.WARNING,
        score=0.9, summary=event.body, verdict="fine" if cause.startswith("module_upgrade") else None,
    )  # fmt: skip
    return state, [told]


def _unit(record: Record) -> str | None:
    return whole_cell(record) if isinstance(record, OperationsEvent) and record.name == NAME else None


class _Nothing(StepConfig):
    cell: str = ""


_pack, _unpack = json_state(_Nothing)
STEP: Step[Any, Any] = Step("script", StepConfig, (OperationsEvent,), _unit, _Nothing, _tell, _pack, _unpack)
