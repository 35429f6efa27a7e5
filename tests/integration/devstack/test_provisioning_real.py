"""Topics and schemas on real Kafka and a real registry."""

import json
import subprocess
import sys

import pytest
from aiohttp import ClientSession
from headrace_contracts.topics import TOPICS
from headrace_devstack.errors import ProvisionByHand
from headrace_devstack.provision import provision, provision_with_patience
from headrace_streams.kafka import KafkaLog
from headrace_testing.up import clean_environment


async def test_all_topics_and_schemas_are_made_once(kafka: str, registry_url: str, topic_prefix: str) -> None:
    first = await provision(kafka, registry_url, topic_prefix, partitions={"tasks": 2, "fleet.status": 3})
    again = await provision(kafka, registry_url, topic_prefix)
    assert first == f"{len(TOPICS)} topics ({len(TOPICS)} new), {len(TOPICS)} schemas"
    assert again == f"{len(TOPICS)} topics (0 new), {len(TOPICS)} schemas"
    names = [topic_prefix + name for name in TOPICS]
    counts = await KafkaLog({"bootstrap.servers": kafka}).admin().partition_counts(names)
    expected = {
        topic_prefix + name: 2 if spec.copartitioned else 3 if name == "fleet.status" else spec.partitions
        for name, spec in TOPICS.items()
    }
    assert counts == expected
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
        await provision_with_patience(20, kafka, registry_url, topic_prefix)
    assert "--data" in raised.value.remedy


async def test_a_registry_out_of_reach_is_given_up_in_time(kafka: str, topic_prefix: str) -> None:
    with pytest.raises(ProvisionByHand, match="could not be created within 1 s"):
        await provision_with_patience(1.0, kafka, "http://127.0.0.1:9", topic_prefix)


def test_the_command_takes_its_addresses_from_the_environment(kafka: str, registry_url: str, topic_prefix: str) -> None:
    environment = clean_environment(
        HEADRACE_BOOTSTRAP_SERVERS=kafka,
        HEADRACE_REGISTRY_URL=registry_url,
        HEADRACE_TOPIC_PREFIX=topic_prefix,
        HEADRACE_PARTITIONS="nothing=1",
    )
    command = [sys.executable, "-m", "headrace_devstack.provision"]
    failed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 1
    assert "no such topic: nothing" in failed.stderr
    del environment["HEADRACE_PARTITIONS"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "topics" in done.stdout
