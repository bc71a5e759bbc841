"""What a broker says of a group, asked of a real one."""

from __future__ import annotations

from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from pilothouse.broker import lag, partitions


async def test_what_a_group_has_not_begun_to_read_counts_as_well(kafka: str) -> None:
    options = {"bootstrap_servers": kafka}
    run = uuid4().hex[:8]
    read, unread = f"lag-{run}-read", f"lag-{run}-unread"
    admin = AIOKafkaAdminClient(**options)
    await admin.start()
    await admin.create_topics([NewTopic(name, 2, 1) for name in (read, unread)])
    await admin.close()
    async with AIOKafkaProducer(**options) as producer:
        for name, records in ((read, 5), (unread, 7)):
            for number in range(records):
                await producer.send_and_wait(name, b"x", partition=number % 2)
    group = AIOKafkaConsumer(**options, group_id=f"lag-{run}", enable_auto_commit=False)
    await group.start()
    group.assign([TopicPartition(read, 0)])
    await group.commit({TopicPartition(read, 0): 2})
    await group.stop()
    for topics, behind in (([read], 3), ([read, unread], 10), ([read, f"lag-{run}-none"], 3)):
        assert await lag(options, f"lag-{run}", await partitions(options, topics)) == behind
