"""Which topic a name stands for now: Kafka's topic id, which a topic that is deleted and made anew does not keep.

aiokafka asks for metadata in version 5, which has no ids; this is the same request in version 11 (Kafka 2.8 and newer), of which
only the cluster's id and the topics' ids are of interest here. Source: Kafka protocol guide, Metadata (key 3); KIP-516.
"""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

UNKNOWN = ""
"""The id of a topic whose broker tells none: older than 2.8, or not Kafka's own."""


class Look(NamedTuple):
    """What the cluster says at one moment: its own id, and the ids of those of the asked topics that are there."""

    cluster_id: str
    topics: dict[str, str]


class _Uuid(AbstractType[UUID]):  # type: ignore[misc]  # aiokafka is not typed
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _TopicsResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 11
    SCHEMA: ClassVar = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString()),
                ("port", Int32),
                ("rack", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString()),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TopicsStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 11
    RESPONSE_TYPE = _TopicsResponse
    SCHEMA: ClassVar = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", CompactString()), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicsRequest(Request[_TopicsStruct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics: list[tuple[UUID, str, dict[int, bytes]]] = [(UUID(int=0), topic, {}) for topic in topics]

    def build(self, struct: type[_TopicsStruct]) -> _TopicsStruct:
        return struct(self._topics, False, False, {})


async def look(client: Any, topics: Collection[str]) -> Look | None:
    """Ask any broker. None when it is too old to know ids. Raises KafkaError."""
    try:
        answer = await client.send(client.get_random_node(), _TopicsRequest(topics))
    except NotImplementedError:
        return None
    found = {
        name: str(identity) if identity.int else UNKNOWN for error, name, identity, *_ in answer.topics if not error
    }
    return Look(str(answer.cluster_id), found)
