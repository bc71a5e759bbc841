"""The receivers there are. A new one is one file beside this and one line here."""

from __future__ import annotations

from ingest.receivers import change, events, github
from ingest.receivers.receiver import ReceiverKind, by_name

KINDS: tuple[ReceiverKind, ...] = (
    change.KIND,
    events.KIND,
    github.KIND,
)

RECEIVERS = by_name(KINDS)
