"""A batch cut in two, such that each part moves the offsets as far as it goes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import TopicPartition

from schemas.records import DeadLetter
from sinks.sink import Batch, Message


def size(batch: Batch) -> int:
    """How many records and letters there are to be written."""
    return len(batch.messages) + len(batch.letters)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Messages first, then letters. The second part moves the offsets to where the whole would have."""
    middle = size(batch) // 2
    messages, letters = batch.messages, batch.letters
    cut = max(0, middle - len(messages))
    rest = Batch(messages[middle:], batch.next_offsets, batch.sequences, letters[cut:])
    return _upto(messages[:middle], letters[:cut]), rest


def emptied(batch: Batch) -> Batch:
    """What is left to do when all that it holds was put aside: the offsets move."""
    return Batch([], batch.next_offsets, batch.sequences)


def _upto(messages: Sequence[Message], letters: Sequence[DeadLetter]) -> Batch:
    reached: dict[TopicPartition, int] = {}
    seen: dict[tuple[TopicPartition, str], int] = {}
    for message in messages:
        partition = TopicPartition(message.topic, message.partition)
        reached[partition] = message.offset + 1
        seen[partition, message.content.envelope.source] = message.content.envelope.sequence
    return Batch(messages, reached, seen, letters)
