"""A model calls tools, through Kafka alone, with the packages of Confluent and nothing of Headrace's.

    python tool_loop.py 127.0.0.1:19092 http://127.0.0.1:19081/apis/ccompat/v7 "What is the weather in Lisbon?"

Needs `confluent-kafka[avro,schemaregistry]`. Each round is a task: it is appended to tasks.submitted with the whole
conversation, and its end comes on tasks.completed. All rounds have one session, whose key is the key of their records:
they are in one partition, and keep their order.
"""

import json
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

TENANT = "default"
PREFIX = "headrace."
MOST_ROUNDS = 8
SECONDS_PER_ROUND = 60.0


def get_weather(city: str) -> str:
    return f"sunny in {city}"


def read_clock() -> str:
    return "it is noon"


TOOLS: dict[str, tuple[Callable[..., str], str, dict[str, Any]]] = {
    "get_weather": (
        get_weather,
        "The weather of a city.",
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    ),
    "read_clock": (read_clock, "The time.", {"type": "object", "properties": {}}),
}


def content(text: str) -> dict[str, Any]:
    """What people and models say stands in a Content, which names how it is sealed."""
    return {"cipher": "none", "data": text.encode()}


def text_of(sealed: dict[str, Any]) -> str:
    return bytes(sealed["data"]).decode()


class Conversation:
    """A session of tasks, one after another."""

    def __init__(self, bootstrap_servers: str, registry_url: str, session: str, prefix: str = PREFIX) -> None:
        self.session = session
        self.rounds: list[dict[str, Any]] = []
        self._submitted, self._completed = f"{prefix}tasks.submitted", f"{prefix}tasks.completed"
        registry = SchemaRegistryClient({"url": registry_url})
        schema = registry.get_latest_version(f"{self._submitted}-value").schema
        assert schema is not None
        self._serialize = AvroSerializer(
            registry, schema.schema_str, conf={"auto.register.schemas": False, "use.latest.version": True}
        )
        self._deserialize = AvroDeserializer(registry)
        # The partitioner of Java's clients, so that everybody finds a session in the same partition.
        self._producer = Producer(
            {"bootstrap.servers": bootstrap_servers, "partitioner": "murmur2_random", "acks": "all"}
        )
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": str(uuid.uuid4()), "enable.auto.commit": False}
        )
        partitions = self._consumer.list_topics(self._completed, 10).topics[self._completed].partitions
        ends = {
            number: self._consumer.get_watermark_offsets(TopicPartition(self._completed, number))[1]
            for number in partitions
        }
        # From now on: what was there before does not concern this conversation.
        self._consumer.assign([TopicPartition(self._completed, number, end) for number, end in ends.items()])

    def close(self) -> None:
        self._consumer.close()

    def run(self, prompt: str) -> str:
        """Let the model call tools until it answers."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": content(prompt)}]
        for _ in range(MOST_ROUNDS):
            end = self._ask(messages)
            if end["status"] != "succeeded":
                raise RuntimeError(f"{end['status']}: {end['failure']}")
            # An answer that is one text has no choices: it stands in `answer` alone.
            parts = end["choices"][0]["parts"] if end["choices"] else []
            calls = [part for part in parts if part["kind"] == "tool_call"]
            if not calls:
                return text_of(end["answer"])
            messages.append({"role": "assistant", "content": content(""), "parts": parts})
            messages += [self._result(call) for call in calls]
        raise RuntimeError(f"no answer after {MOST_ROUNDS} rounds")

    def _result(self, call: dict[str, Any]) -> dict[str, Any]:
        function, _, _ = TOOLS[call["name"]]
        part = {"kind": "tool_result", "call_id": call["call_id"]}
        try:
            said = {"content": content(function(**json.loads(text_of(call["content"])))), "is_error": False}
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is for the model, which may know another way
            said = {"content": content(f"{type(error).__name__}: {error}"), "is_error": True}
        return {"role": "tool", "content": content(""), "parts": [{**part, **said}]}

    def _ask(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        task_id = str(uuid.uuid4())
        tools = [
            {"name": name, "description": content(what), "parameters": content(json.dumps(schema))}
            for name, (_, what, schema) in TOOLS.items()
        ]
        event = {
            "task_id": task_id,
            "tenant": TENANT,
            "messages": messages,
            "options": {"tools": tools},
            "privacy": "sensitive",
            "session": self.session,
            "submitted_at": int(time.time() * 1000),
        }
        value = self._serialize(event, SerializationContext(self._submitted, MessageField.VALUE))
        key = f"s:{TENANT}/{self.session}"  # the route key: docs/events.md
        self._producer.produce(self._submitted, value, key=key, headers={"ce_id": task_id})
        if self._producer.flush(SECONDS_PER_ROUND):
            raise RuntimeError("Kafka did not take the task in time")
        until = time.monotonic() + SECONDS_PER_ROUND
        while time.monotonic() < until:
            message = self._consumer.poll(0.2)
            if message is None or message.error() or message.key() != key.encode():
                continue
            end = self._deserialize(message.value(), SerializationContext(self._completed, MessageField.VALUE))
            if end is not None and end["task_id"] == task_id:
                self.rounds.append({"task_id": task_id, "partition": message.partition(), "offset": message.offset()})
                return end
        raise RuntimeError(f"task {task_id} did not end within {SECONDS_PER_ROUND:g} s")


def main() -> None:
    bootstrap_servers, registry_url, prompt = sys.argv[1:4]
    conversation = Conversation(
        bootstrap_servers, registry_url, session=str(uuid.uuid4()), prefix=(sys.argv[4:5] or [PREFIX])[0]
    )
    try:
        answer = conversation.run(prompt)
    finally:
        conversation.close()
    result = {"answer": answer, "session": conversation.session, "rounds": conversation.rounds}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
