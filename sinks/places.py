"""Where a partition is read from, and what that says of the log in between. Pure."""

from __future__ import annotations

from typing import NamedTuple

from sinks.kafka_clients import Committed
from sinks.topic_ids import UNKNOWN


class Start(NamedTuple):
    """The offset to read from; `expired` records went by unread; `is_anew` when the log is another than before."""

    offset: int
    expired: int = 0
    is_anew: bool = False


def start(stood: int | None, begin: int, end: int) -> Start:
    """Where to go on. `stood` is the next offset as it was remembered, None of who never was there.

    What lies before the first offset was taken by retention. An offset beyond the end belongs to a log that is no more: a
    topic made anew where the broker tells no ids, or one cut off by an unclean election. It is read from its beginning;
    what was written before is known by source and sequence.
    """
    if stood is None:
        return Start(begin)
    if stood > end:
        return Start(begin, is_anew=True)
    return Start(max(stood, begin), expired=max(0, begin - stood))


def is_of(committed: Committed, topic_id: str) -> bool:
    """Whether a group's offset belongs to this topic. One without an id is from an older release, and is believed."""
    return UNKNOWN in (committed.topic_id, topic_id) or committed.topic_id == topic_id
