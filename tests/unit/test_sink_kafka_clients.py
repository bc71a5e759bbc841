"""What a group has committed, as its coordinator says it: not there yet is not nothing."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, GroupLoadInProgressError
from aiokafka.protocol.commit import OffsetFetchResponse_v3

from sinks.kafka_clients import Committed, Kafka
from tests.support import virtual_time

PLACE = TopicPartition("t", 0)


class Client:
    """A coordinator that gives these answers one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def coordinator_lookup(self, *_: Any) -> int:
        return 1

    async def send(self, *_: Any) -> Any:
        return self.answers.pop(0)

    async def close(self) -> None:
        pass


def asked(*answers: Any) -> dict[TopicPartition, Committed]:
    kafka = Kafka({})
    kafka._client = Client(*answers)
    return virtual_time.run(kafka.committed("g", [PLACE]))


def test_a_coordinator_that_is_still_loading_is_asked_again() -> None:
    loading = OffsetFetchResponse_v3(0, [], GroupLoadInProgressError.errno)
    loading_one = OffsetFetchResponse_v3(0, [("t", [(0, -1, "", GroupLoadInProgressError.errno)])], 0)
    there = OffsetFetchResponse_v3(0, [("t", [(0, 7, "id", 0)])], 0)
    assert asked(loading, loading_one, there) == {PLACE: Committed(7, "id")}


def test_a_group_without_an_offset_has_none() -> None:
    assert asked(OffsetFetchResponse_v3(0, [("t", [(0, -1, None, 0)])], 0)) == {}


def test_what_may_not_be_asked_is_said() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        asked(OffsetFetchResponse_v3(0, [], GroupAuthorizationFailedError.errno))
