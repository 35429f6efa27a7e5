"""Fetches and appends as no client library does: without asking first whether it may."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

_MILLISECONDS: Final = 5000
_BYTES: Final = 1 << 20


def raw_client(properties: Mapping[str, str]) -> Any:
    """A client that logs in as librdkafka would with these properties."""
    new_client: Any = AIOKafkaClient
    return new_client(
        bootstrap_servers=properties["bootstrap.servers"],
        security_protocol=properties.get("security.protocol", "PLAINTEXT").upper(),
        sasl_mechanism=properties.get("sasl.mechanism", "PLAIN"),
        sasl_plain_username=properties.get("sasl.username"),
        sasl_plain_password=properties.get("sasl.password"),
    )


def fetch(properties: Mapping[str, str], topics: Sequence[str]) -> dict[str, int]:
    """Kafka's error code of a fetch of the first record in partition 0 of each topic; 0 if it was returned."""
    request: Any = FetchRequest
    asked = request(_MILLISECONDS, 1, len(topics) * _BYTES, 0, [(topic, [(0, 0, _BYTES)]) for topic in topics])
    answer = asyncio.run(_send(properties, asked))
    found = {topic: partitions[0] for topic, partitions in answer.topics}
    assert all(each[1] or each[-1] for each in found.values()), "a topic has no record to return"
    return {topic: int(each[1]) for topic, each in found.items()}


def append(properties: Mapping[str, str], topics: Sequence[str]) -> dict[str, int]:
    """Kafka's error code of an append to partition 0 of each topic; 0 if it was acknowledged."""
    request, new_batch = ProduceRequest, DefaultRecordBatchBuilder
    made: Any = new_batch(
        2, 0, is_transactional=False, producer_id=-1, producer_epoch=-1, base_sequence=0, batch_size=1000
    )
    made.append(0, None, b"tried", b"tried", [])
    records = bytes(made.build())
    asked: Any = request(None, -1, _MILLISECONDS, [(topic, [(0, records)]) for topic in topics])
    answer = asyncio.run(_send(properties, asked))
    return {topic: int(partitions[0][1]) for topic, partitions in answer.topics}


async def _send(properties: Mapping[str, str], request: Any) -> Any:
    client = raw_client(properties)
    try:
        await client.bootstrap()
        return await client.send(client.get_random_node(), request)
    finally:
        await client.close()
