"""Topics and schemas of an embedded stack, on its real Kafka and registry."""

import json

import pytest
from aiohttp import ClientSession
from headrace_contracts.topics import TOPICS
from headrace_devstack.errors import ProvisionByHand
from headrace_devstack.provision import provision_stack
from headrace_streams.kafka import KafkaLog


async def test_all_topics_and_schemas_are_made_once(kafka: str, registry_url: str, topic_prefix: str) -> None:
    first = await provision_stack(kafka, registry_url, topic_prefix, seconds=30)
    again = await provision_stack(kafka, registry_url, topic_prefix, seconds=30)
    assert first == f"{len(TOPICS)} topics ({len(TOPICS)} new), {len(TOPICS)} schemas"
    assert again == f"{len(TOPICS)} topics (0 new), {len(TOPICS)} schemas"
    names = [topic_prefix + name for name in TOPICS]
    counts = await KafkaLog({"bootstrap.servers": kafka}).admin().partition_counts(names)
    assert counts == {topic_prefix + name: spec.partitions for name, spec in TOPICS.items()}
    async with ClientSession() as session, session.get(f"{registry_url}/subjects") as response:
        assert {f"{name}-value" for name in names} <= set(await response.json())


async def test_an_incompatible_schema_in_the_registry_is_explained(
    kafka: str, registry_url: str, topic_prefix: str
) -> None:
    other = {"type": "record", "name": "Other", "fields": [{"name": "x", "type": "int"}]}
    url = f"{registry_url}/subjects/{topic_prefix}tasks.submitted-value/versions"
    async with ClientSession() as session, session.post(url, json={"schema": json.dumps(other)}) as response:
        assert response.status == 200
    with pytest.raises(ProvisionByHand, match=r"tasks\.submitted") as raised:
        await provision_stack(kafka, registry_url, topic_prefix, seconds=20)
    assert "--data" in raised.value.remedy


async def test_a_registry_out_of_reach_is_given_up_in_time(kafka: str, topic_prefix: str) -> None:
    with pytest.raises(ProvisionByHand, match="could not be created within 1 s"):
        await provision_stack(kafka, "http://127.0.0.1:9", topic_prefix, seconds=1.0)
