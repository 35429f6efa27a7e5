"""Headrace as others see it who have none of its code: the openai package, and a plain Confluent client."""

import asyncio
import time
import uuid
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from headrace_testing.up import RunningStack
from openai import APIStatusError, AsyncOpenAI, AuthenticationError


@pytest.fixture
def openai_client(platform: RunningStack, tenant_key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{platform.intake_url}/v1", api_key=tenant_key, max_retries=0)


def messages(text: str) -> list[Any]:
    return [{"role": "user", "content": f"{text} ({uuid.uuid4().hex})"}]


async def test_openai_client_gets_an_answer_with_usage(openai_client: AsyncOpenAI) -> None:
    answer = await openai_client.chat.completions.create(
        model="role:code_reviewer",
        messages=messages("Review: def f(x): return x+1"),
        extra_body={"privacy": "sensitive"},
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer.model_extra is not None
    assert answer.model_extra["headrace"]["provider"] == "ollama"
    assert answer.model_extra["headrace"]["simulated"] is True


async def test_openai_client_streams(openai_client: AsyncOpenAI) -> None:
    stream = await openai_client.chat.completions.create(
        model="auto",
        messages=messages("Write a paragraph on logs."),
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"X-Headrace-Privacy": "sensitive"},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text) > 20
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


async def test_openai_client_lists_models_and_understands_errors(
    openai_client: AsyncOpenAI, platform: RunningStack
) -> None:
    models = [model.id async for model in openai_client.models.list()]
    assert "auto" in models
    assert any(name.startswith("ollama/") for name in models)
    with pytest.raises(APIStatusError) as refused:
        await openai_client.chat.completions.create(model="auto", messages=messages("x"), n=2)
    assert refused.value.status_code == 400
    stranger = AsyncOpenAI(base_url=f"{platform.intake_url}/v1", api_key="hr_nobody_nothing", max_retries=0)
    with pytest.raises(AuthenticationError):
        await stranger.models.list()


async def test_plain_confluent_client_submits_and_reads_the_completion(platform: RunningStack) -> None:
    """With the schemas from the registry and no package of Headrace's, as another team's service would."""
    await asyncio.to_thread(_submit_and_read, platform)


def _submit_and_read(platform: RunningStack) -> None:
    registry = SchemaRegistryClient({"url": platform.registry_url})
    submitted, completed = (f"{platform.topic_prefix}{name}" for name in ("tasks.submitted", "tasks.completed"))
    consumer = Consumer(
        {"bootstrap.servers": platform.bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    )
    partitions = consumer.list_topics(completed, 10).topics[completed].partitions
    consumer.assign(
        [
            TopicPartition(completed, p, consumer.get_watermark_offsets(TopicPartition(completed, p))[1])
            for p in partitions
        ]
    )
    task_id = str(uuid.uuid4())
    event = {
        "task_id": task_id,
        "tenant": "another-team",
        "messages": [{"role": "user", "content": {"cipher": "none", "data": task_id.encode()}}],
        "privacy": "sensitive",
        "submitted_at": int(time.time() * 1000),
    }
    schema = registry.get_latest_version(f"{submitted}-value").schema
    serializer = AvroSerializer(
        registry, schema.schema_str, conf={"auto.register.schemas": False, "use.latest.version": True}
    )
    producer = Producer({"bootstrap.servers": platform.bootstrap_servers, "partitioner": "murmur2_random"})
    value = serializer(event, SerializationContext(submitted, MessageField.VALUE))
    producer.produce(submitted, value, key=task_id, headers={"ce_id": task_id})
    assert producer.flush(10) == 0
    deserializer = AvroDeserializer(registry)
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None or message.error():
                continue
            found = deserializer(message.value(), SerializationContext(completed, MessageField.VALUE))
            if found["task_id"] == task_id:
                assert (found["status"], found["provider"]) == ("succeeded", "ollama")
                assert dict(message.headers() or [])["ce_id"] == f"{task_id}/completed".encode()
                assert message.key() == task_id.encode()
                return
    finally:
        consumer.close()
    raise AssertionError(f"{task_id} did not end in time")
