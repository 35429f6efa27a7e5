"""Limits of topics, which an operator changes while services run. On real Kafka."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from headrace_streams.errors import RecordTooLarge
from headrace_streams.kafka import KafkaLog
from headrace_streams.records import NewTopic, ProducerRecord
from headrace_streams.topic_limits import TopicLimits

pytestmark = pytest.mark.stack


async def set_config(bootstrap_servers: str, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        await asyncio.wrap_future(future)


@pytest.mark.parametrize("limit", [2_000, 100_000, 1_048_588])
async def test_limits_of_topics_are_followed(kafka: str, topic_prefix: str, limit: int) -> None:
    log = KafkaLog({"bootstrap.servers": kafka})
    name, missing = f"{topic_prefix}limited", f"{topic_prefix}missing"
    await log.admin().create_topics([NewTopic(name, 1, 1, (("max.message.bytes", "4194304"),))])
    limits = TopicLimits(log.admin(), [name, missing], every_seconds=0.2)
    await limits.refresh()
    assert limits.of(name) == 4_194_304
    asking = asyncio.create_task(limits.run())
    await set_config(kafka, name, "max.message.bytes", str(limit))
    async with asyncio.timeout(20):
        while limits.of(name) != limit:  # noqa: ASYNC110 - the refresh has no event
            await asyncio.sleep(0.05)
    asking.cancel()
    producer = log.producer()
    headers = tuple((f"header-{number}", b"x" * 20) for number in range(8))

    def record(size: int) -> ProducerRecord:
        return ProducerRecord(topic=name, value=b"x" * size, key=b"k" * 50, partition=0, headers=headers)

    # Whatever fits by our count, the broker takes; and what is larger by far it refuses for its size.
    largest = max(size for size in range(limit - 1000, limit) if limits.fits(record(size)))
    await producer.send(record(largest))
    assert not limits.fits(record(largest + 1))
    with pytest.raises(RecordTooLarge):
        await producer.send(record(limit))
    await producer.close()
