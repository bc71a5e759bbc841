"""The embedded servers: they talk, they remember, and they say what is wrong."""

from __future__ import annotations

import asyncpg
import redis.asyncio as redis_client
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def test_each_server_answers_its_own_client(kafka: str, database_url: str, redis_url: str) -> None:
    await write_kafka(kafka, "answers", b"one")
    assert await read_kafka(kafka, "answers") == [b"one"]
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()
    async with redis_client.Redis.from_url(redis_url) as client:
        assert await client.ping()


async def write_kafka(bootstrap: str, topic: str, value: bytes, timestamp_ms: int | None = None) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, value, timestamp_ms=timestamp_ms)


async def read_kafka(bootstrap: str, topic: str) -> list[bytes | None]:
    partition = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([partition])
        consumer.seek(partition, 0)
        end = (await consumer.end_offsets([partition]))[partition]
        records = [await consumer.getone() for _ in range(end)]
    return [record.value for record in records]
