"""Cancelling running tasks of another tenant, with records that their tenant has not signed, or not as they are."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaException, Producer
from headrace_contracts.events import AttemptsCancelled, Place, TaskCancelled
from headrace_contracts.producer_signature import SigningKey
from headrace_contracts.record_mac import MAC_HEADER, RecordMac
from headrace_contracts.topics import TASKS_CANCELLED, cancelled_topic
from headrace_testing.platform_submissions import codec_for
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

from headrace_attack.report import Outcome
from headrace_attack.victims import Caller, Tenant

_PARTITIONS: Final = 6
_SETTLED_SECONDS: Final = 5.0
_ENDED_SECONDS: Final = 60.0
_ASKED: Final[Mapping[str, dict[str, Any]]] = {
    "ollama": {"role": "conversation_scribe", "privacy": "sensitive"},
    "groq": {"model": "groq/llama-3.1-8b-instant", "privacy": "public"},
}
"""By provider, of both kinds of workers: what a task asks for that runs there."""
_KEY: Final = b"x"

_Sign = Callable[[str, bytes], list[tuple[str, bytes]]]


async def forged_cancellations(
    stack: RunningStack, caller: Caller, attackers: Sequence[Tenant], victims: Sequence[Tenant]
) -> Outcome:
    """Each way to forge, on every running task and in every partition: none is stopped. Then its owner's is."""
    outcome = Outcome("forged cancellations of running tasks")
    pepper = stack.key_pepper
    running = {task_id: victim for victim in victims for task_id in await _begun(stack, caller, victim)}
    codec = await codec_for(stack, TASKS_CANCELLED, *map(cancelled_topic, Place))
    producer = Producer({**stack.kafka_properties("agent"), "message.timeout.ms": 10_000})
    topic = stack.topic_prefix + TASKS_CANCELLED.name
    for task_id, victim in running.items():
        for attacker in attackers:
            for tenant, sign in _ways(pepper, attacker, victim):
                for partition in range(_PARTITIONS):
                    event = TaskCancelled(
                        task_id=task_id, tenant=tenant, requested_at=_now_ms(), home_partition=partition
                    )
                    value = codec.encode(TASKS_CANCELLED, event)
                    headers = [("ce_id", uuid.uuid4().hex.encode()), ("ce_tenant", tenant.encode())]
                    producer.produce(topic, value, _KEY, partition, headers=[*headers, *sign(topic, value)])
                    outcome.count("written")
                producer.poll(0)
        if stack.secure:
            for spec in map(cancelled_topic, Place):
                told = AttemptsCancelled(task_id=task_id, tenant=victim.name, cancelled_at=_now_ms())
                _write_past_the_router(producer, stack.topic_prefix + spec.name, codec.encode(spec, told), outcome)
    await asyncio.to_thread(producer.flush, 30)
    await asyncio.sleep(_SETTLED_SECONDS)
    for task_id, victim in running.items():
        await _judge(stack, caller, victim, task_id, outcome)
    outcome.note = f"{len(running)} running tasks, at both kinds of workers; their owners could cancel them"
    return outcome


async def _begun(stack: RunningStack, caller: Caller, victim: Tenant) -> Sequence[str]:
    """A task at each kind of worker, whose model has been asked and does not answer."""
    faults = f"{stack.simulator_url}/control/faults"
    begun = []
    for provider, asked in _ASKED.items():
        await caller.call("POST", faults, "", {"provider": provider, "kind": "timeout"})
        body = {"prompt": f"{victim.known} {uuid.uuid4().hex}: write on cancellations.", **asked}
        status, task = await caller.call("POST", f"{stack.intake_url}/v1/tasks", victim.key, body)
        assert status == 202, task
        begun.append(str(task["id"]))

    async def all_asked() -> bool:
        return bool((await caller.call("GET", faults, ""))[1]["pending"] == 0)

    await eventually(all_asked, _ENDED_SECONDS)
    return begun


def _ways(pepper: str, attacker: Tenant, victim: Tenant) -> Sequence[tuple[str, _Sign]]:
    """The tenant that a record names, and how it is signed."""
    mine = SigningKey.of(pepper, attacker.key.split("_")[1])
    theirs = victim.key.split("_")[1]
    ways: list[tuple[str, _Sign]] = [
        # Signed as it may be, but not the task's tenant.
        (attacker.name, lambda topic, value: [mine.header(topic, _KEY, value)]),
        (victim.name, lambda topic, value: [mine.header(topic, _KEY, value)]),
        (victim.name, lambda topic, value: [SigningKey(theirs, mine.code).header(topic, _KEY, value)]),
        (victim.name, lambda topic, value: [SigningKey.of("guessed", theirs).header(topic, _KEY, value)]),
        (victim.name, lambda topic, value: [RecordMac("guessed").header(topic, _KEY, value)]),
        (victim.name, lambda topic, value: [mine.header(topic, _KEY, value), (MAC_HEADER, b"0" * 64)]),
        (victim.name, lambda topic, value: [(name, b"") for name, _ in [mine.header(topic, _KEY, value)]]),
    ]
    return ways


def _write_past_the_router(producer: Producer, topic: str, value: bytes, outcome: Outcome) -> None:
    def told(error: Any, _message: Any) -> None:
        outcome.count("refused by Kafka" if error is not None else "written past the router")
        if error is None:
            outcome.through.append(f"agent may write {topic}")

    try:
        producer.produce(topic, value, _KEY, on_delivery=told)
    except KafkaException:
        outcome.count("refused by Kafka")
    producer.poll(0)


async def _judge(stack: RunningStack, caller: Caller, victim: Tenant, task_id: str, outcome: Outcome) -> None:
    url = f"{stack.intake_url}/v1/tasks/{task_id}"
    status, task = await caller.call("GET", url, victim.key)
    if status != 200 or task["status"] in ("cancelled", "failed"):
        outcome.through.append(f"task {task_id} of {victim.name} is {task.get('status', status)}")
        return
    await caller.call("DELETE", url, victim.key)
    shown: dict[str, Any] = {}

    async def ended() -> bool:
        shown.update((await caller.call("GET", url, victim.key))[1])
        return shown.get("status") in ("cancelled", "failed", "succeeded", "refused", "expired")

    try:
        await eventually(ended, _ENDED_SECONDS)
    except TimeoutError:
        outcome.hangs.append(f"task {task_id}: its own tenant could not cancel it")
        return
    # An attempt that a worker had stopped would have been followed by another one.
    if shown["attempts"] != 1 or shown["status"] not in ("cancelled", "succeeded"):
        outcome.through.append(f"task {task_id} ended as {shown['status']} after {shown['attempts']} attempts")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
