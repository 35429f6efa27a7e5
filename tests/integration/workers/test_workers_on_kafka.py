"""Both workers as their wiring builds them, on real Kafka and registry, with simulated providers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_cloud_worker.wiring import build as build_cloud
from headrace_contracts import events, topics
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import Outcome, Place
from headrace_contracts.registry import SchemaRegistry
from headrace_local_worker.settings import LocalWorkerSettings
from headrace_local_worker.wiring import build as build_local
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_streams.kafka import KafkaLog
from headrace_streams.publishing import Publication, Publisher
from headrace_testing.provisioned import provision_patiently
from headrace_testing.services_on_kafka import living
from headrace_testing.workers import attempt
from pydantic import SecretStr

pytestmark = pytest.mark.stack

SPECS = tuple(topics.TOPICS.values())


@pytest.mark.timeout(120)
async def test_an_attempt_of_each_place_is_answered(kafka: str, registry_url: str, topic_prefix: str) -> None:
    log = KafkaLog({"bootstrap.servers": kafka})
    common: dict[str, Any] = {"bootstrap_servers": kafka, "registry_url": registry_url, "topic_prefix": topic_prefix}
    async with SchemaRegistry(registry_url) as registry, Simulator(SimulatorConfig(speed=Speed(None))) as simulator:
        codec = Codec(registry, topic_prefix)
        await provision_patiently(log.admin(), codec, SPECS)
        local = LocalWorkerSettings(**common, ollama_nodes=(simulator.ollama_url("workstation"),), instance_id="l-1")
        cloud = CloudWorkerSettings(
            **common, groq_api_key=SecretStr("simulated"), groq_url=simulator.groq_url, instance_id="c-1"
        )
        producer = log.producer()
        publisher = Publisher(producer, codec, "headrace/test")
        async with living(build_local(local)), living(build_cloud(cloud)):
            for place, provider, model in (
                (Place.LOCAL, "ollama", "gemma2:2b"),
                (Place.CLOUD, "groq", "llama-3.1-8b-instant"),
            ):
                request = attempt(f"task-{place.value}", provider=provider, model=model, home_partition=4)
                await publisher.send(
                    Publication(
                        spec=topics.work_topic(place, request.lane),
                        event=request,
                        event_id=request.attempt_id,
                        key=b"p:1",
                        tenant=request.tenant,
                        time_ms=request.requested_at,
                    )
                )
            reader = log.reader()
            names = {place: topic_prefix + topics.outcome_topic(place).name for place in Place}
            partitions = [each for name in names.values() for each in await reader.partitions_of(name)]
            await reader.assign(dict.fromkeys(partitions, 0))
            ends: dict[str, events.AttemptFinished] = {}
            async with asyncio.timeout(60):
                while len(ends) < 2:
                    for record in await reader.poll(10, 1.0):
                        assert (record.partition, record.key) == (4, b"p:1")
                        origin = Origin(record.topic, record.partition, record.offset)
                        end = codec.decode(events.AttemptFinished, record.value, origin)
                        ends[end.task_id] = end
                        assert end.task_id == f"task-{'cloud' if record.topic == names[Place.CLOUD] else 'local'}"
            await reader.close()
        await producer.close()
    assert {end.outcome for end in ends.values()} == {Outcome.ANSWERED}
    assert (ends["task-local"].node, ends["task-cloud"].node) == ("workstation", "groq")
