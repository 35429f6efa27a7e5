"""Submissions of a tenant to a running platform, over Kafka and with any headers: which of them it takes.

async with submissions(stack, "acme") as submitting:
    written = [submitting.write(topic, forgery.headers) for forgery in submitting.forgeries.values()]
    letters = await submitting.refusals(topic, written)
    assert not any([await each.had_effect() for each in written])
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
from confluent_kafka import Producer
from headrace import Addresses, Client, KafkaClient, NewKey, NotAllowed, NotFound, locate
from headrace.connecting import Cluster
from headrace.consuming import consume
from headrace.kafka import SubmittedTask
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.events import (
    DeadLetter,
    Message,
    Privacy,
    SkillAction,
    SkillSubmitted,
    TaskCancelled,
    TaskSubmitted,
)
from headrace_contracts.producer_signature import SigningKey
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import SKILLS_SUBMITTED, TASKS_CANCELLED, TASKS_SUBMITTED, TOPICS, Event, TopicSpec
from headrace_contracts.users import OPERATOR
from headrace_runtime.producers import SignatureFlaw

from headrace_testing.signatures import Forgery, Signing, forgeries, signed_with
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

SUBMISSIONS = tuple(spec for spec in TOPICS.values() if spec.scope is not None)
_ROLE = "documentation"
_SILENT_MODEL = "llama3:8b"
"""Of the role `research` alone: another task must not take the silence that is meant for ours."""
_ANY_PARTITION = -1
"""librdkafka chooses by the key."""


async def codec_for(stack: RunningStack, *specs: TopicSpec) -> Codec:
    """A codec that encodes for these topics."""
    async with SchemaRegistry(stack.registry_url) as registry:
        codec = Codec(registry, stack.topic_prefix)
        await codec.prepare(specs)
    return codec


@dataclass(frozen=True, slots=True)
class Written:
    """A record that was written.

    Attributes:
        key: Its record key, which no other record has.
        had_effect: Whether what it asks for has been done.
    """

    key: bytes
    had_effect: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Submitting:
    """Writes what a tenant's producer could, and shows what came of it.

    Attributes:
        owner: The tenant, over HTTP.
        signing_key: The tenant's.
        forgeries: How others sign, and the tenant where it may not.
        task: Waits for another one of the tenant that the model does not answer: for trying to cancel it.
    """

    tenant: str
    owner: Client
    signing_key: SigningKey
    forgeries: Mapping[str, Forgery]
    task: SubmittedTask
    _stack: RunningStack
    _addresses: Addresses
    _codec: Codec
    _producer: Producer

    def write(self, spec: TopicSpec, headers: Signing) -> Written:
        """Write one to this topic; `flush` waits for Kafka to take all of them."""
        key, now_ms, partition = uuid.uuid4().hex, time.time_ns() // 1_000_000, _ANY_PARTITION
        task_id, name = str(uuid.uuid4()), f"skill-{key[:12]}"
        if spec is TASKS_SUBMITTED:
            event: Event = TaskSubmitted(
                task_id=task_id, tenant=self.tenant, role=_ROLE, submitted_at=now_ms,
                messages=(Message(role="user", content=plain(f"Do {key}.")),),
            )  # fmt: skip
            effect = self._is_known(task_id)
        elif spec is TASKS_CANCELLED:
            event = TaskCancelled(
                task_id=self.task.task_id, tenant=self.tenant, requested_by="", reason="", requested_at=now_ms,
                home_partition=self.task.partition,
            )  # fmt: skip
            effect, partition = self._is_cancelled, self.task.partition
        else:
            assert spec is SKILLS_SUBMITTED
            event = SkillSubmitted(
                submission_id=str(uuid.uuid4()), tenant=self.tenant, name=name, action=SkillAction.PUBLISH, title="t",
                summary="s", body=plain(f"Do {key}."), interests=("testing",), submitted_at=now_ms,
            )  # fmt: skip
            effect, key = self._is_published(name), f"{self.tenant}/{name}"
        topic, value = self._stack.topic_prefix + spec.name, self._codec.encode(spec, event)
        made: list[tuple[str, str | bytes | None]] = [("ce_id", key.encode()), *headers(topic, key.encode(), value)]
        self._producer.produce(topic, value, key=key, headers=made, partition=partition)
        return Written(key.encode(), effect)

    async def flush(self) -> None:
        """Wait until Kafka has all of them. Raises AssertionError."""
        assert await asyncio.to_thread(self._producer.flush, 30) == 0, "Kafka takes no records of an agent"

    async def refusals(self, spec: TopicSpec, written: Iterable[Written], seconds: float = 30.0) -> dict[bytes, str]:
        """The dead letters of these records, by their keys: type and text of the error. Those that come in time."""
        left, found = {each.key for each in written}, dict[bytes, str]()
        cluster = Cluster.at(self._addresses, user=OPERATOR)
        letters = consume(f"{spec.name}.dlq", DeadLetter, start="start", cluster=cluster)
        try:
            async with asyncio.timeout(seconds), cluster, letters:
                async for each in letters:
                    if each.event.key in left:
                        found[each.event.key] = f"{each.event.error_type}: {each.event.error_message}"
                    if found.keys() >= left:
                        break
        except TimeoutError:
            pass  # what is missing shows in what is returned
        return found

    def _is_known(self, task_id: str) -> Callable[[], Awaitable[bool]]:
        return lambda: _exists(lambda: self.owner.get(task_id))

    def _is_published(self, name: str) -> Callable[[], Awaitable[bool]]:
        return lambda: _exists(lambda: self.owner.skills.get(name))

    async def _is_cancelled(self) -> bool:
        return (await self.owner.get(self.task.task_id)).status == "cancelled"


@asynccontextmanager
async def submissions(stack: RunningStack, tenant: str) -> AsyncIterator[Submitting]:
    """A new tenant on a simulated stack, with keys and a task that waits."""
    addresses = locate(environ={}, stack_file=stack.data / "stack.json")
    codec = await codec_for(stack, *SUBMISSIONS)
    async with Client(addresses=addresses) as admin:
        mine, revoked = await admin.keys.create(tenant), await admin.keys.create(tenant)
        costs = await admin.keys.create(tenant, scopes=["costs", "preferences"])
        others = await admin.keys.create(f"{tenant}-other")
        await admin.keys.revoke(revoked.info.id)
        for key, known in ((mine, True), (others, True), (revoked, False)):
            await _until_services_know(addresses, key, known)
        keys = {"mine": mine, "others": others, "revoked": revoked, "costs": costs}
        signing = {name: SigningKey.parse(str(key.signing_key)) for name, key in keys.items()}
        ways = forgeries(**signing)
        if stack.signing_key_file is not None:
            first = SigningKey.parse(stack.signing_key_file.read_text())
            ways["an administrator of another tenant"] = Forgery(signed_with(first), SignatureFlaw.OTHER_TENANT)
        own = replace(addresses, api_key=mine.key)
        async with (
            Client(addresses=own) as owner,
            KafkaClient(tenant, addresses=addresses, signing_key=mine.signing_key) as client,
            _task_that_waits(stack, client, owner) as task,
        ):
            producer = Producer({**stack.kafka_properties("agent"), "linger.ms": 5, "partitioner": "murmur2_random"})
            yield Submitting(tenant, owner, signing["mine"], ways, task, stack, addresses, codec, producer)


@asynccontextmanager
async def _task_that_waits(stack: RunningStack, client: KafkaClient, owner: Client) -> AsyncIterator[SubmittedTask]:
    """A task that the router holds, since an equal one runs: workers, who see no signatures, have not got it."""
    async with aiohttp.ClientSession(stack.simulator_url) as session:
        planned = {"provider": "ollama", "model": _SILENT_MODEL, "kind": "timeout", "count": 20}
        async with session.post("/control/faults", json=planned) as answer:
            assert answer.status == 200, await answer.text()
        prompt, soon = f"Take your time, {uuid.uuid4().hex}.", time.time_ns() // 1_000_000 + 120_000
        running, waiting = [
            await client.submit(prompt, model=f"ollama/{_SILENT_MODEL}", privacy=Privacy.SENSITIVE, deadline_at=soon)
            for _ in range(2)
        ]
        await eventually(lambda: _exists(lambda: owner.get(waiting.task_id)), 30)
        try:
            yield waiting
        finally:
            for task in (running, waiting):
                await client.cancel(task)
            async with session.delete("/control/faults"):
                pass


async def _exists(get: Callable[[], Awaitable[object]]) -> bool:
    try:
        await get()
    except NotFound:
        return False
    return True


async def _until_services_know(addresses: Addresses, key: NewKey, wanted: bool) -> None:
    async with Client(addresses=replace(addresses, api_key=key.key)) as client:

        async def known() -> bool:
            try:
                await client.skills.search()
                await client.list(limit=1)
            except NotAllowed:
                return False
            return True

        async def as_wanted() -> bool:
            return await known() is wanted

        await eventually(as_wanted, 60)
