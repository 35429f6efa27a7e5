"""Whoever reaches Kafka or the registry: keys of his own making, schemas that hang readers, other users' rights."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any, Final

from confluent_kafka import KafkaException, Producer
from headrace_contracts.codec import schema_text
from headrace_contracts.content import plain
from headrace_contracts.events import AccessKey, Message, Preferences, PrivacyLevel, TaskSubmitted
from headrace_contracts.topics import ACCESS_KEYS, PREFERENCES, TASKS_SUBMITTED, TopicSpec
from headrace_runtime.access import KEY_RANDOM_BYTES, hash_secret, make_key
from headrace_testing.kafka_rights import try_everything
from headrace_testing.platform_submissions import codec_for
from headrace_testing.up import RunningStack

from headrace_attack.records import still_works
from headrace_attack.report import Outcome
from headrace_attack.victims import Caller, Tenant
from headrace_attack.wire import Wire, request

_SECONDS: Final = 5.0
_ATTEMPTS: Final = 20
_HEADERS: Final[tuple[dict[str, str], ...]] = (
    {}, {"X_Headrace_Privacy": "public"}, {"X_Headrace_Privacy": "sensitive"}, {"X_Headrace_Mode": "cloud"},
)  # fmt: skip


async def forged_settings(stack: RunningStack, caller: Caller, victim: Tenant) -> Outcome:
    """Records of keys and preferences written past intake: none gives a right, or takes a demand away."""
    outcome = Outcome("forged keys and preferences")
    user = f"floor-{uuid.uuid4().hex[:8]}"
    status, shown = await caller.call(
        "PUT", f"{stack.intake_url}/v1/preferences?user={user}", victim.key, {"privacy_level": "high"}
    )
    assert status == 200, shown
    mine = make_key(uuid.uuid4().bytes * (KEY_RANDOM_BYTES // 16) + b"12345678")
    forged = AccessKey(
        key_id=mine.key_id, tenant=victim.name, scopes=("admin", "tasks"), created_at=1,
        # The pepper is guessed, for what it is worth: with the right one the record still lacks its code.
        secret_hash=hash_secret(stack.key_pepper, mine.secret),
    )  # fmt: skip
    lower = Preferences(tenant=victim.name, user=user, privacy_level=PrivacyLevel.LOW, updated_at=2**45)
    codec = await codec_for(stack, ACCESS_KEYS, PREFERENCES)
    producer = Producer({**stack.kafka_properties("agent"), "message.timeout.ms": 10_000})
    for number in range(_ATTEMPTS):
        _write(stack, producer, ACCESS_KEYS, mine.key_id, codec.encode(ACCESS_KEYS, forged), outcome)
        key_id = victim.key.split("_")[1]
        _write(stack, producer, ACCESS_KEYS, key_id, None if number % 2 else b"\0\0\0\0\0", outcome)
        _write(stack, producer, PREFERENCES, f"{victim.name}/{user}", codec.encode(PREFERENCES, lower), outcome)
        _write(stack, producer, PREFERENCES, f"{victim.name}/{user}", None, outcome)
    await asyncio.to_thread(producer.flush, 30)
    await asyncio.sleep(2)
    for url in (f"{stack.intake_url}/v1/keys", f"{stack.skills_url}/v1/skills", f"{stack.costs_url}/v1/costs"):
        status, _ = await caller.call("GET", url, str(mine))
        if status != 401:
            outcome.through.append(f"a key of the attacker's own making got {status} from {url}")
        status, _ = await caller.call("GET", url, victim.key)
        if status == 401:
            outcome.through.append(f"the victim's key no longer works at {url}")
    _, shown = await caller.call("GET", f"{stack.intake_url}/v1/preferences?user={user}", victim.key)
    if shown.get("privacy_level") != "high":
        outcome.through.append(f"a user's privacy level became {shown.get('privacy_level')}")
    return outcome


def _write(
    stack: RunningStack, producer: Producer, spec: TopicSpec, key: str, value: bytes | None, outcome: Outcome
) -> None:
    def told(error: Any, _message: Any) -> None:
        outcome.count("refused by Kafka" if error is not None else "written, and ignored")

    try:
        producer.produce(stack.topic_prefix + spec.name, value, key=key, on_delivery=told)
    except (KafkaException, BufferError):
        outcome.count("refused by Kafka")
    producer.poll(0)


async def hostile_schemas(stack: RunningStack, caller: Caller, attacker: Tenant) -> Outcome:
    """Schemas that are compatible, and of which a few bytes say how long their reader is busy."""
    outcome = Outcome("hostile schemas")
    nothing = {"type": "record", "name": "Nothing", "fields": []}
    wide = {
        "type": "record", "name": "Wide",
        "fields": [{"name": f"f{number}", "type": "string", "default": "x" * 500} for number in range(100)],
    }  # fmt: skip
    kinds: dict[str, Any] = {
        "array of null": {"type": "array", "items": "null"},
        "array of nothing": {"type": "array", "items": nothing},
        "arrays of arrays": {"type": "array", "items": {"type": "array", "items": "null"}},
        "map of null": {"type": "map", "values": "null"},
        "array of defaults": {"type": "array", "items": wide},
        "fixed of no bytes": {"type": "array", "items": {"type": "fixed", "name": "None_", "size": 0}},
    }
    written = 0
    codec = await codec_for(stack, TASKS_SUBMITTED)
    producer = Producer({**stack.kafka_properties("agent"), "message.timeout.ms": 10_000})
    for name, kind in kinds.items():
        schema = json.loads(schema_text(TaskSubmitted))
        default: Any = {} if name.startswith("map") else []
        schema["fields"].append({"name": "extra", "type": kind, "default": default})
        body = json.dumps({"schema": json.dumps(schema)}).encode()
        subject = f"{stack.topic_prefix}{TASKS_SUBMITTED.subject}"
        async with Wire(stack.registry_url) as wire:
            path = f"/{stack.registry_url.split('/', 3)[3]}/subjects/{subject}/versions"
            answer = await wire.send(request("POST", path, body=body), seconds=20)
        outcome.count(f"registry: {answer.status}")
        if stack.secure and answer.status == 200:
            outcome.through.append(f"the registry took a schema without a login: {name}")
        if answer.status != 200:
            continue
        schema_id = int(json.loads(answer.body)["id"]).to_bytes(4, "big")
        for _ in range(_ATTEMPTS):
            good = codec.encode(TASKS_SUBMITTED, _task(attacker.name))
            endless = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\x02" * 40
            topic, value = stack.topic_prefix + TASKS_SUBMITTED.name, b"\0" + schema_id + good[5:] + endless
            producer.produce(topic, value, headers=[attacker.signing_key.header(topic, None, value)])
            written += 1
    await asyncio.to_thread(producer.flush, 30)
    for _ in range(written):
        outcome.count("records that hang a naive reader")
    await still_works(stack, caller, attacker, outcome)
    return outcome


def _task(tenant: str) -> TaskSubmitted:
    return TaskSubmitted(
        task_id=str(uuid.uuid4()), tenant=tenant, role="conversation_scribe", submitted_at=time.time_ns() // 1_000_000,
        messages=(Message(role="user", content=plain("hello")),),
    )  # fmt: skip


async def rights_of_users(stack: RunningStack) -> Outcome:
    """Each operation as each Kafka user: what the generated rights do not allow is refused."""
    outcome = Outcome("rights of every Kafka user")
    tried = await asyncio.to_thread(try_everything, stack.kafka_properties, stack.topic_prefix)
    for each in tried:
        outcome.count("allowed" if each.allowed else "refused")
        if each.allowed and not each.expected:
            outcome.through.append(f"{each.user} may {each.operation} {each.what}")
        if each.expected and not each.allowed:
            outcome.hangs.append(f"{each.user} may not {each.operation} {each.what}, and must")
    return outcome


async def lowered_privacy(stack: RunningStack, caller: Caller, tenant: Tenant) -> Outcome:
    """A tenant that demands the highest level: no request of a key that may only submit tasks runs below it."""
    outcome = Outcome("lowering privacy")
    url = stack.intake_url
    status, shown = await caller.call(
        "PUT", f"{url}/v1/preferences", tenant.key, {"privacy_level": "high", "ai_mode": "local"}
    )
    assert status == 200, shown
    status, made = await caller.call(
        "POST", f"{url}/v1/keys", stack.api_key, {"tenant": tenant.name, "scopes": ["tasks"]}
    )
    assert status == 201, made
    key = str(made["key"])
    accepted = []
    for body in _lowering_bodies():
        for headers in (
            {},
            {"X_Headrace_Privacy": "public"},
            {"X_Headrace_Privacy": "sensitive"},
            {"X_Headrace_Mode": "cloud"},
        ):
            document = {"prompt": f"secret of {uuid.uuid4().hex}", "max_tokens": 3, **body}
            status, answer = await caller.call("POST", f"{url}/v1/tasks", key, document, **headers)
            outcome.count(status)
            if status in (200, 202):
                accepted.append(str(answer["id"]))
    for change in ({"privacy_level": "low"}, {"ai_mode": "cloud"}, {}, {"allowed_providers": ["groq"]}):
        for query in ("", "?user=ann", "?user="):
            status, _ = await caller.call("PUT", f"{url}/v1/preferences{query}", key, change)
            outcome.count(status)
            if status == 200 and query != "?user=ann":
                outcome.through.append(f"a key with tasks changed the tenant's preferences to {change}")
    status, _ = await caller.call("DELETE", f"{url}/v1/preferences", key)
    if status != 403:
        outcome.through.append(f"a key with tasks removed the tenant's preferences: {status}")
    await asyncio.sleep(_SECONDS)
    for task_id in accepted:
        _, task = await caller.call("GET", f"{url}/v1/tasks/{task_id}", key)
        if task.get("provider") not in (None, "ollama"):
            outcome.through.append(f"{task_id} ran at {task['provider']}")
    outcome.note = f"{len(accepted)} were accepted at the tenant's level"
    return outcome


def _lowering_bodies() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{}]
    for privacy in ("public", "internal", "sensitive", None, "PUBLIC", ["public"], 0):
        made.append({"privacy": privacy})
        made += [{"privacy": privacy, "mode": mode} for mode in ("cloud", "hybrid")]
    made += [{"user": "ann", "privacy": "public"}, {"model": "groq/llama-3.1-8b-instant"}, {"mode": "cloud"}]
    made += [{"preferred_provider": "anthropic", "privacy": "public"}, {"labels": {"privacy": "public"}}]
    made += [{"model": "groq/llama-3.1-8b-instant", "privacy": "public", "session": "s", "allow_cached": True}]
    return made
