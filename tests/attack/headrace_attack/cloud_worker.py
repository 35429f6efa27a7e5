"""A cloud worker that was taken over: with its own login it speaks of attempts on our own nodes, whose ids it knows."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import aiohttp
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin
from headrace_contracts.events import (
    AttemptFinished,
    AttemptRequested,
    Failure,
    Outcome,
    ReplyKind,
    ServedFrom,
    TaskCompleted,
    TaskReply,
    TaskStatus,
)
from headrace_contracts.ids import attempt_id
from headrace_contracts.topics import (
    ATTEMPTS_FINISHED,
    ATTEMPTS_FINISHED_CLOUD,
    TASKS_REPLIES,
    WORK_CLOUD_BATCH,
    WORK_CLOUD_INTERACTIVE,
    TopicSpec,
)
from headrace_testing.platform_submissions import codec_for
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

from headrace_attack import report
from headrace_attack.victims import Caller, Tenant

USER: Final = "cloud-worker"
FORGED: Final = "FORGED-" + uuid.uuid4().hex[:8]
"""Stands in every text of the attacker's making."""

_PARTITIONS: Final = 6
_ATTEMPTS: Final = 3
_TASKS: Final = 4
_MODEL: Final = "phi3:3.8b"
"""Nobody else asks for it meanwhile."""
_ROUNDS: Final = 3
_END_SECONDS: Final = 60
_OWN_TOKENS: Final = 3
_CLOUD_WORK: Final = (WORK_CLOUD_INTERACTIVE, WORK_CLOUD_BATCH)


async def taken_over_cloud_worker(stack: RunningStack, caller: Caller, victim: Tenant) -> report.Outcome:
    """Outcomes, pieces and ends of local attempts that run: none is believed, and the tasks go on."""
    outcome = report.Outcome("a cloud worker that was taken over")
    codec = await codec_for(stack, ATTEMPTS_FINISHED, ATTEMPTS_FINISHED_CLOUD, TASKS_REPLIES, *_CLOUD_WORK)
    own = await _tokens_of_its_own(stack, caller, victim, codec)
    await _simulator(stack, "POST", {"provider": "ollama", "kind": "silence", "count": 9 * _TASKS, "model": _MODEL})
    tasks = [await _running_task(stack, caller, victim, number) for number in range(_TASKS)]
    told: dict[str, list[str]] = {task_id: [] for task_id in tasks}
    following = [asyncio.create_task(_follow(stack, victim, task_id, told[task_id])) for task_id in tasks]
    # Each attempt has said its first piece, and is silent now: that any of them ends would be the attacker's doing.
    await eventually(lambda: _all_speak(told), 30)
    answers: Counter[str] = Counter()
    producer = Producer({**stack.kafka_properties(USER), "message.timeout.ms": 20_000})
    for number in range(_ROUNDS):
        for task_id in tasks:
            for spec, event, partition in _forgeries(victim.name, task_id, own, number):
                _write(stack, producer, codec, (spec, event, partition), answers)
        await asyncio.to_thread(producer.flush, 30)
        await asyncio.sleep(0.5)
    for what, count in answers.items():
        for _ in range(count):
            outcome.count(what)
    if stack.secure and answers["outcome among local ones: written"]:
        outcome.through.append(f"{USER} may write {ATTEMPTS_FINISHED.name}")
    for task_id in tasks:
        status, task = await caller.call("GET", f"{stack.intake_url}/v1/tasks/{task_id}", victim.key)
        if status != 200 or task["status"] not in ("accepted", "queued", "running"):
            outcome.through.append(f"task {task_id} is {task.get('status', status)}, though its attempt runs")
        await caller.call("DELETE", f"{stack.intake_url}/v1/tasks/{task_id}", victim.key)
    await _simulator(stack, "DELETE")
    await asyncio.wait(following, timeout=_END_SECONDS)
    for each in following:
        each.cancel()
    await _check_what_was_told(stack, victim, told, outcome)
    outcome.note = f"{len(tasks)} local tasks went on; {len(own)} tokens of attempts of its own"
    return outcome


async def _check_what_was_told(
    stack: RunningStack, victim: Tenant, told: dict[str, list[str]], outcome: report.Outcome
) -> None:
    """The streams, those resumed after their first event, and the history."""
    for task_id, lines in told.items():
        first = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("id:"))
        again: list[str] = []
        await _follow(stack, victim, task_id, again, after=first)
        if any(FORGED in line for line in (*lines, *again)):
            outcome.through.append(f"the stream of {task_id} has a forged text")
        if any(line.startswith("event: restarted") for line in (*lines, *again)):
            outcome.through.append(f"the stream of {task_id} was told to begin anew")
        for stream in (lines, again):
            if not any(line.startswith("event: finished") for line in stream):
                outcome.hangs.append(f"a stream of {task_id} did not end: {stream[-1:]}")
            elif not any('"status":"cancelled"' in line.replace(" ", "") for line in stream):
                outcome.through.append(f"{task_id} ended otherwise than its owner wanted: {stream[-2:]}")


async def _all_speak(told: dict[str, list[str]]) -> bool:
    return all(any(line.startswith("event: delta") for line in lines) for lines in told.values())


async def _simulator(stack: RunningStack, method: str, fault: dict[str, Any] | None = None) -> None:
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.request(method, f"{stack.simulator_url}/control/faults", json=fault),
    ):
        pass


async def _running_task(stack: RunningStack, caller: Caller, victim: Tenant, number: int) -> str:
    status, task = await caller.call(
        "POST", f"{stack.intake_url}/v1/tasks", victim.key,
        {
            "prompt": f"{uuid.uuid4().hex} {number}: write an essay on logs.", "model": f"ollama/{_MODEL}",
            "mode": "local", "stream": True,
        },
    )  # fmt: skip
    assert status == 202, task
    return str(task["id"])


async def _tokens_of_its_own(stack: RunningStack, caller: Caller, victim: Tenant, codec: Codec) -> Sequence[bytes]:
    """Those of streams that were given to the cloud worker, as it reads them."""
    for number in range(_OWN_TOKENS):
        status, task = await caller.call(
            "POST", f"{stack.intake_url}/v1/tasks", victim.key,
            {
                "prompt": f"{uuid.uuid4().hex} {number}", "mode": "cloud", "privacy": "public", "max_tokens": 3,
                "stream": True, "model": "groq/llama-3.1-8b-instant",
            },
            Prefer="wait=30",
        )  # fmt: skip
        assert status == 200, task

    def read() -> list[bytes]:
        consumer = Consumer({**stack.kafka_properties(USER), "group.id": "unused", "enable.auto.commit": False})
        found: list[bytes] = []
        try:
            names = [stack.topic_prefix + spec.name for spec in _CLOUD_WORK]
            consumer.assign([TopicPartition(name, number, 0) for name in names for number in range(_PARTITIONS)])
            until = time.monotonic() + 20
            while len(found) < _OWN_TOKENS and time.monotonic() < until:
                message = consumer.poll(1.0)
                if message is None or message.error() is not None:
                    continue
                request: AttemptRequested = codec.decode(AttemptRequested, message.value(), Origin(names[0], 0, 0))
                if request.tenant == victim.name and request.reply_token is not None:
                    found.append(request.reply_token)
        finally:
            consumer.close()
        return found

    return await asyncio.to_thread(read)


def _forgeries(
    tenant: str, task_id: str, own: Sequence[bytes], number: int
) -> Iterator[tuple[TopicSpec, AttemptFinished | TaskReply, int]]:
    """Whatever ends or speaks for an attempt, for each number that it may have and each partition it may be in."""
    now = time.time_ns() // 1_000_000
    failure = Failure(code="invalid_request", message=FORGED)
    ends: tuple[dict[str, Any], ...] = (
        {"outcome": Outcome.ANSWERED, "content": plain(FORGED)},
        {"outcome": Outcome.CANCELLED},
        {"outcome": Outcome.FAILED_PERMANENT, "failure": failure},
        {"outcome": Outcome.FAILED_PERMANENT, "failure": Failure(code="answered_remotely", message=FORGED)},
    )
    result = TaskCompleted(
        task_id=task_id, tenant=tenant, status=TaskStatus.SUCCEEDED, answer=plain(FORGED), submitted_at=now,
        served_from=ServedFrom.ATTEMPT, completed_at=now,
    )  # fmt: skip
    for attempt in range(1, _ATTEMPTS + 1):
        for partition in range(_PARTITIONS):
            for end in ends:
                finished = AttemptFinished(
                    attempt_id=attempt_id(task_id, attempt), task_id=task_id, tenant=tenant, number=attempt,
                    home_partition=partition, execution_id=uuid.uuid4().hex, provider="ollama", model="gemma2:2b",
                    finished_at=now, **end,
                )  # fmt: skip
                yield ATTEMPTS_FINISHED_CLOUD, finished, partition
                yield ATTEMPTS_FINISHED, finished, partition
            for token in (None, b"", secrets.token_bytes(16), *own):
                for kind in ReplyKind:
                    reply = TaskReply(
                        task_id=task_id, tenant=tenant, kind=kind, attempt=attempt,
                        execution_id=f"{uuid.uuid4().hex}", sequence=number,
                        text=plain(FORGED) if kind is ReplyKind.DELTA else None,
                        result=result if kind is ReplyKind.FINISHED else None, reply_token=token, emitted_at=now,
                    )  # fmt: skip
                    yield TASKS_REPLIES, reply, partition


def _write(
    stack: RunningStack,
    producer: Producer,
    codec: Codec,
    forgery: tuple[TopicSpec, AttemptFinished | TaskReply, int],
    told: Counter[str],
) -> None:
    spec, event, partition = forgery
    if spec is ATTEMPTS_FINISHED and not stack.secure:
        # Without logins everybody is a local worker.
        return
    what = {
        ATTEMPTS_FINISHED.name: "outcome among local ones",
        ATTEMPTS_FINISHED_CLOUD.name: "outcome",
        TASKS_REPLIES.name: "reply",
    }[spec.name]

    def acknowledged(error: KafkaError | None, _message: Any) -> None:
        told[f"{what}: {'refused by Kafka' if error is not None else 'written'}"] += 1

    try:
        producer.produce(
            stack.topic_prefix + spec.name, codec.encode(spec, event), key=event.task_id, partition=partition,
            headers=[("ce_id", uuid.uuid4().hex.encode()), ("ce_tenant", event.tenant.encode())],
            on_delivery=acknowledged,
        )  # fmt: skip
    except KafkaException:
        # It knows already that it must not write there.
        told[f"{what}: refused by Kafka"] += 1
    producer.poll(0)


async def _follow(stack: RunningStack, victim: Tenant, task_id: str, told: list[str], after: str | None = None) -> None:
    """Keep what the event stream of a task says, until its end."""
    headers = {"Authorization": f"Bearer {victim.key}", **({} if after is None else {"Last-Event-ID": after})}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_END_SECONDS)) as session:
        url = f"{stack.intake_url}/v1/tasks/{task_id}/events"
        async with session.get(url, headers=headers) as response:
            async for line in response.content:
                told += [line.decode()]
