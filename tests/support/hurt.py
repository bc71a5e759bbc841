"""What hurts a cell in the tests of the fleet."""

from __future__ import annotations

from schemas.records import Change, ChangeKind, ChangeStatus, OperationsEvent, Record


def hurt_by_a_release(cell: str, at_ms: int) -> list[Record]:
    """A release, and a scheduled action that its failures switch off right afterwards."""
    released = Change(
        cell=cell, time_ms=at_ms, change_id=f"{cell}-1", kind=ChangeKind.RELEASE, status=ChangeStatus.SUCCEEDED,
        service="odoo", revision="2.4.1", origin="generic",
    )  # fmt: skip
    stopped = OperationsEvent(
        cell=cell, time_ms=at_ms + 1, resource=f"odoo-{cell}", system="odoo", tenant="acme", name="odoo.cron.deactivated",
        attributes={"odoo.cron.name": "Mail: Email Queue Manager", "odoo.cron.failures": 5},
    )  # fmt: skip
    return [released, stopped]
