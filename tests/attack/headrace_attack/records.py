"""Records as others than Headrace's services could write them: mutated bytes, other tenants' ids, forged headers."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import Producer
from headrace_contracts.content import plain
from headrace_contracts.events import Message, SkillAction, SkillSubmitted, TaskCancelled, TaskSubmitted
from headrace_contracts.topics import SKILLS_SUBMITTED, TASKS_CANCELLED, TASKS_SUBMITTED, TopicSpec
from headrace_testing.platform_submissions import SUBMISSIONS, codec_for, submissions
from headrace_testing.signatures import signed_with
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

from headrace_attack.report import Outcome
from headrace_attack.victims import Caller, Tenant

_AT_ONCE: Final = 2_000
_PARTITIONS: Final = 6
_SETTLED_SECONDS: Final = 120.0
_SIGNED: Final = 0.9


def _events(tenant: str, now_ms: int) -> list[tuple[TopicSpec, Any]]:
    task_id = str(uuid.uuid4())
    task = TaskSubmitted(
        task_id=task_id, tenant=tenant, messages=(Message(role="user", content=plain("hello")),),
        role="conversation_scribe", submitted_at=now_ms, deadline_at=now_ms + 60_000, labels={"a": "b"},
    )  # fmt: skip
    skill = SkillSubmitted(
        submission_id=str(uuid.uuid4()), tenant=tenant, name="mutant", action=SkillAction.PUBLISH, title="t",
        summary="s", body=plain("text"), interests=("testing",), submitted_at=now_ms,
    )  # fmt: skip
    cancel = TaskCancelled(task_id=task_id, tenant=tenant, requested_by="x", reason="", requested_at=now_ms)
    return [(TASKS_SUBMITTED, task), (SKILLS_SUBMITTED, skill), (TASKS_CANCELLED, cancel)]


def _mutated(chance: random.Random, value: bytes) -> bytes | None:
    changed = bytearray(value)
    match chance.randrange(12):
        case 0:
            return None
        case 1:
            return bytes(changed[: chance.randrange(len(changed))])
        case 2:
            return bytes(changed) + chance.randbytes(chance.randrange(1, 50))
        case 3:
            changed[1:5] = chance.randbytes(4)
        case 4:
            place = chance.randrange(5, len(changed))
            changed[place:place] = b"\xff" * chance.randrange(1, 11)
        case 5:
            return b"\x00\x00\x00\x00\x01" + chance.randbytes(chance.randrange(200))
        case 6:
            changed[0] = chance.randrange(256)
        case _:
            for _ in range(chance.randrange(1, 8)):
                changed[chance.randrange(5, len(changed))] = chance.randrange(256)
    return bytes(changed)


def _headers(chance: random.Random, tenant: str) -> list[tuple[str, str | bytes | None]]:
    known = [
        ("ce_id", uuid.uuid4().hex.encode()), ("ce_type", b"headrace.tasks.TaskSubmitted"), ("ce_source", b"attack"),
        ("ce_specversion", b"1.0"), ("ce_tenant", tenant.encode()), ("traceparent", b"00-" + b"a" * 32 + b"-x"),
    ]  # fmt: skip
    made: list[tuple[str, str | bytes | None]] = []
    for name, value in known:
        match chance.randrange(8):
            case 0:
                continue
            case 1:
                made.append((name, chance.choice([b"", b"\xff\xfe", None, b"x" * 10_000, b"\0", value * 3])))
            case _:
                made.append((name, value))
    if chance.random() < 0.02:
        made += [("x", b"y")] * 1_000
    return made


async def mutated_records(
    stack: RunningStack, caller: Caller, attacker: Tenant, attempts: int, chance: random.Random
) -> Outcome:
    """Mutated records on every topic that agents may write to; afterwards each partition still takes good ones."""
    outcome = Outcome("mutated records")
    codec = await codec_for(stack, TASKS_SUBMITTED, SKILLS_SUBMITTED, TASKS_CANCELLED)
    producer = Producer({**stack.kafka_properties("agent"), "linger.ms": 5})
    now_ms = _now_ms()
    for begun in range(0, attempts, _AT_ONCE):
        for _ in range(min(_AT_ONCE, attempts - begun)):
            spec, event = chance.choice(_events(attacker.name, now_ms))
            value = _mutated(chance, codec.encode(spec, event))
            topic, key = stack.topic_prefix + spec.name, chance.choice([None, b"", b"k", chance.randbytes(20)])
            headers = _headers(chance, attacker.name)
            # Unsigned ones get no further than that; the attacker may sign for its own tenant.
            if chance.random() < _SIGNED:
                headers.append(attacker.signing_key.header(topic, key, value))
            producer.produce(topic, value, key=key, headers=headers, partition=chance.randrange(_PARTITIONS))
            outcome.count("written")
        await asyncio.to_thread(producer.flush, 30)
    await still_works(stack, caller, attacker, outcome)
    return outcome


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def still_works(stack: RunningStack, caller: Caller, tenant: Tenant, outcome: Outcome) -> None:
    """Adds to the outcome whether good tasks still end, in all partitions."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(3 * _PARTITIONS):
        status, task = await caller.call(
            "POST", f"{stack.intake_url}/v1/tasks", tenant.key,
            {"prompt": f"Are you there? {number} {uuid.uuid4().hex}", "role": "conversation_scribe", "max_tokens": 3},
            Prefer=f"wait={_SETTLED_SECONDS:.0f}",
        )  # fmt: skip
        if status != 200:
            outcome.hangs.append(f"a good task after the mutated records: {status} {task.get('status', '')}")
    outcome.note = f"good tasks in all partitions took {loop.time() - began:.1f} s afterwards"


async def foreign_cancellations(
    stack: RunningStack, caller: Caller, attackers: Sequence[Tenant], victims: Sequence[Tenant]
) -> Outcome:
    """Cancellations and submissions that name another tenant's task, written to the topics themselves."""
    outcome = Outcome("records that name another tenant's task")
    codec = await codec_for(stack, TASKS_CANCELLED, TASKS_SUBMITTED)
    producer = Producer(stack.kafka_properties("agent"))
    now_ms = _now_ms()
    await asyncio.gather(*(caller.keep_running(victim) for victim in victims))
    for victim in victims:
        for task_id in (*victim.ended, *victim.running):
            for attacker in attackers:
                for partition in range(_PARTITIONS):
                    cancel = TaskCancelled(
                        task_id=task_id, tenant=attacker.name, requested_by="x", reason="", requested_at=now_ms,
                        home_partition=partition,
                    )  # fmt: skip
                    again = TaskSubmitted(
                        task_id=task_id, tenant=attacker.name, role="conversation_scribe", submitted_at=now_ms,
                        messages=(Message(role="user", content=plain("mine")),),
                    )  # fmt: skip
                    for spec, event in ((TASKS_CANCELLED, cancel), (TASKS_SUBMITTED, again)):
                        topic, value = stack.topic_prefix + spec.name, codec.encode(spec, event)
                        headers: list[tuple[str, str | bytes | None]] = [
                            ("ce_id", uuid.uuid4().hex.encode()), ("ce_tenant", attacker.name.encode()),
                            attacker.signing_key.header(topic, b"x", value),
                        ]  # fmt: skip
                        producer.produce(topic, value, partition=partition, key=b"x", headers=headers)
                        outcome.count("written")
                producer.poll(0)
    await asyncio.to_thread(producer.flush, 30)
    await asyncio.sleep(5)
    for victim in victims:
        for task_id in (*victim.ended, *victim.running):
            status, task = await caller.call("GET", f"{stack.intake_url}/v1/tasks/{task_id}", victim.key)
            if status != 200 or task["status"] in ("cancelled", "failed"):
                outcome.through.append(f"task {task_id} of {victim.name} is {task.get('status', status)}")
    return outcome


async def forged_submissions(stack: RunningStack, tenant: str) -> Outcome:
    """Tasks, cancellations and skills in the name of a tenant that has not signed them, or not as they are."""
    outcome = Outcome("records in another tenant's name")
    async with submissions(stack, tenant) as submitting:
        # Where nobody logs in, unsigned records are taken.
        ways = {name: way for name, way in submitting.forgeries.items() if stack.secure or name != "no header"}
        for spec in SUBMISSIONS:
            written = {name: submitting.write(spec, way.headers) for name, way in ways.items()}
            await submitting.flush()
            refused = await submitting.refusals(spec, written.values())
            for name, each in written.items():
                outcome.count(refused.get(each.key, "no dead letter").partition(":")[0])
                if await each.had_effect():
                    outcome.through.append(f"{spec.name} in the name of {tenant}: {name}")
            if len(refused) < len(written):
                outcome.hangs.append(f"{len(written) - len(refused)} records of {spec.name} were not answered")
            good = submitting.write(spec, signed_with(submitting.signing_key))
            await submitting.flush()
            try:
                await eventually(good.had_effect, _SETTLED_SECONDS)
            except TimeoutError:
                outcome.hangs.append(f"what {tenant} has signed rightly on {spec.name} was not done")
    outcome.note = f"{len(ways)} ways on {len(SUBMISSIONS)} topics"
    return outcome
