"""Parts of findings as JSON that is read outside of Pilothouse: webhooks and explanations show the same, times in RFC 3339."""

from __future__ import annotations

from typing import Any

from schemas.codec import rfc3339
from schemas.impact import Impact
from schemas.records import Recovery


def shown_impact(impact: Impact) -> dict[str, Any]:
    """The business at stake; each `cut_off` of `by_cut_off` and `exposed_until` is a time."""
    cut_offs = [
        {"cut_off": rfc3339(one.cut_off_ms), **one.model_dump(exclude={"cut_off_ms"})} for one in impact.by_cut_off
    ]
    shown = {**impact.model_dump(mode="json", exclude={"exposed_until_ms"}), "by_cut_off": cut_offs}
    return {**shown, "exposed_until": rfc3339(impact.exposed_until_ms) if impact.exposed_until_ms else None}


def shown_recovery(recovery: Recovery | None) -> dict[str, Any] | None:
    """Since when it recovers, until when it will have, how much is `left`; None while it does not."""
    if recovery is None:
        return None
    return {"since": rfc3339(recovery.since_ms), "until": rfc3339(recovery.until_ms), "left": recovery.left}
