"""The Kafka client and `consume`, on the log's in-memory twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from headrace.connecting import Cluster, TopicUnknown
from headrace.consuming import Delivered, Newest, consume
from headrace.errors import Misconfigured, NotYet
from headrace.kafka import FollowingBroke, KafkaClient, SubmittedTask
from headrace_contracts import topics
from headrace_contracts.content import plain, text_of
from headrace_contracts.errors import BadBytes, NullValue, UnreadableValue
from headrace_contracts.events import (
    NodeStatus,
    Place,
    Privacy,
    SkillChange,
    SkillChanged,
    SkillSubmitted,
    TaskCancelled,
    TaskCompleted,
    TaskStatus,
    TaskSubmitted,
)
from headrace_contracts.headers import header
from headrace_contracts.ids import completion_id, route_key
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.producer_signature import SigningKey
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.partitioning import partition_of
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import NewTopic, ProducerRecord, Record
from headrace_testing.signatures import MINE, OTHERS, SECRET, keys, verification

PARTITIONS = 3


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    log = MemoryLog(MemoryCluster())
    made = Cluster.over(log, MemoryRegistry(), topic_prefix="test.")
    await made.codec.prepare(topics.TOPICS.values(), register=True)
    await log.admin().create_topics([NewTopic("test." + name, PARTITIONS, 1) for name in topics.TOPICS])
    async with made:
        yield made


async def test_completions_and_skills_are_read_with_the_login_for_reading(cluster: Cluster) -> None:
    # Two logs of one cluster; of the one to write with, reading fails.
    class Writing(MemoryLog):
        def reader(self) -> Any:
            raise AssertionError("this user may not read")

        def consumer(self, group: str, *, instance_id: str | None = None, from_start: bool = True) -> Any:
            raise AssertionError("this user may not read")

    shared = MemoryCluster()
    await MemoryLog(shared).admin().create_topics([NewTopic("test." + name, 1, 1) for name in topics.TOPICS])
    writing = Cluster(Writing(shared), cluster.codec, cluster.registry)
    reading = Cluster(MemoryLog(shared), cluster.codec, cluster.registry)
    async with KafkaClient("acme", cluster=writing, reading=reading) as client:
        task = await client.submit("Explain murmur2.")
        await Router(reading).complete(task.task_id, task.key, task.partition)
        assert (await task.completion(timeout=5)).status is TaskStatus.SUCCEEDED
        async with client.skill_changes("testing"):
            pass


class Router:
    """Ends each task that it finds, in the partition it came in on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._producer = cluster.log.producer()
        self._publisher = Publisher(self._producer, cluster.codec, "test/router")

    async def complete(self, task_id: str, key: bytes, partition: int, answer: str = "done") -> None:
        event = TaskCompleted(
            task_id=task_id, tenant="acme", status=TaskStatus.SUCCEEDED, answer=plain(answer), submitted_at=1,
            completed_at=2,
        )  # fmt: skip
        await self._publisher.send(
            Publication(spec=topics.TASKS_COMPLETED, event=event, event_id=completion_id(task_id), key=key,
                        partition=partition, tenant="acme", time_ms=2)
        )  # fmt: skip

    async def run(self) -> None:
        async with consume("tasks.submitted", TaskSubmitted, start="start", cluster=self._cluster) as submitted:
            async for task in submitted:
                assert task.record.key is not None
                await self.complete(
                    task.event.task_id, task.record.key, task.record.partition, text_of(task.event.messages[-1].content)
                )

    async def append(self, topic: str, value: bytes | None, key: bytes = b"k", partition: int = 0) -> None:
        await self._producer.send(ProducerRecord("test." + topic, value, key=key, partition=partition))

    async def close(self) -> None:
        await self._producer.close()


@pytest.fixture
async def router(cluster: Cluster) -> AsyncIterator[Router]:
    made = Router(cluster)
    yield made
    await made.close()


async def test_a_task_goes_out_with_key_and_headers_and_its_end_comes_back(cluster: Cluster, router: Router) -> None:
    running = asyncio.create_task(router.run())
    async with KafkaClient("acme", user="ann", cluster=cluster, source="test/agent") as client:
        end = await client.submit_and_wait("Echo this", role="testing", privacy=Privacy.SENSITIVE, timeout=10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert end.answer is not None
    assert text_of(end.answer) == "Echo this"

    submitted = [
        task async for task in consume("tasks.submitted", TaskSubmitted, start="start", follow=False, cluster=cluster)
    ]
    (task,) = submitted
    said = [(message.role, message.content.data) for message in task.event.messages]
    assert task.record.key == route_key(tenant="acme", session=None, role="testing", model=None, messages=said).encode()
    assert (task.event.tenant, task.event.user, task.event.privacy) == ("acme", "ann", Privacy.SENSITIVE)
    assert task.event_id == task.event.task_id
    assert header(task.record.headers, "ce_source") == "test/agent"
    assert (task.tenant, task.event.reply_partition) == ("acme", None)


@pytest.mark.parametrize("given", ["argument", "cluster", "both"])
async def test_everything_that_is_written_is_signed(cluster: Cluster, router: Router, given: str) -> None:
    mine, another = SigningKey.of(SECRET, MINE), SigningKey.of(SECRET, OTHERS)
    over = replace(cluster, signing_key={"argument": None, "cluster": mine, "both": another}[given])
    signing_key = None if given == "cluster" else str(mine)
    async with KafkaClient("acme", cluster=over, signing_key=signing_key) as client:
        task = await client.submit("Sign this", role="testing")
        await client.cancel(task)
        await client.publish_skill("retry", "How to retry", interests=("testing",))
        await client.revoke_skill("retry")
    refusing = verification(keys(), prefix="test.")
    for spec, number in ((topics.TASKS_SUBMITTED, 1), (topics.TASKS_CANCELLED, 1), (topics.SKILLS_SUBMITTED, 2)):
        delivered = [
            each async for each in consume(spec.name, spec.record, start="start", follow=False, cluster=cluster)
        ]
        assert len(delivered) == number
        for each in delivered:
            await refusing.verify(each.record, "acme")


@pytest.mark.parametrize(
    ("tenant", "given", "refused"),
    [
        ("acme", None, False),
        ("mallory", None, True),
        ("Acme", None, True),
        ("mallory", str(SigningKey.of(SECRET, OTHERS)), False),
    ],
)
async def test_a_key_known_to_be_anothers_signs_nothing(
    cluster: Cluster, router: Router, tenant: str, given: str | None, refused: bool
) -> None:
    over = replace(cluster, signing_key=SigningKey.of(SECRET, MINE), signs_for="acme")
    async with KafkaClient(tenant, cluster=over, signing_key=given) as client:
        task = SubmittedTask("t", b"k", 0, 0, client._future("t"))
        writes: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: client.submit("Sign this", role="testing"),
            lambda: client.cancel(task),
            lambda: client.publish_skill("retry", "How to retry", interests=("testing",)),
            lambda: client.revoke_skill("retry"),
        )
        for write in writes:
            with pytest.raises(Misconfigured, match="HEADRACE_SIGNING_KEY") if refused else nullcontext():
                await write()


async def test_many_tasks_at_once_each_get_their_own_end(cluster: Cluster, router: Router) -> None:
    running = asyncio.create_task(router.run())
    async with KafkaClient("acme", cluster=cluster) as client:
        ends = await asyncio.gather(*(client.submit_and_wait(f"task {n}", role="r", timeout=10) for n in range(50)))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [text_of(end.answer) for end in ends if end.answer] == [f"task {n}" for n in range(50)]


async def test_an_end_is_kept_for_whoever_holds_the_task(cluster: Cluster, router: Router) -> None:
    async with KafkaClient("acme", cluster=cluster) as client:
        task = await client.submit("x", role="r")
        await router.complete(task.task_id, task.key, task.partition)
        await asyncio.sleep(0.05)
        assert (await task.completion(timeout=1)).task_id == task.task_id
        assert (await task.completion()).task_id == task.task_id


async def test_the_end_of_somebody_elses_task(cluster: Cluster, router: Router) -> None:
    async with KafkaClient("acme", cluster=cluster) as client:
        waiting = asyncio.create_task(client.completion("other", timeout=10))
        await asyncio.sleep(0)
        await router.complete("other", b"k", 1)
        assert (await waiting).task_id == "other"


async def test_time_over_and_the_task_goes_on(cluster: Cluster, router: Router) -> None:
    async with KafkaClient("acme", cluster=cluster) as client:
        task = await client.submit("x", role="r")
        with pytest.raises(NotYet):
            await task.completion(timeout=0.01)
        await router.complete(task.task_id, task.key, task.partition)
        assert (await task.completion(timeout=5)).task_id == task.task_id


async def test_a_record_that_nobody_can_read_keeps_no_other_end_away(cluster: Cluster, router: Router) -> None:
    async with KafkaClient("acme", cluster=cluster) as client:
        task = await client.submit("x", role="r")
        await router.append("tasks.completed", b"garbage", partition=task.partition)
        await router.complete(task.task_id, task.key, task.partition)
        assert (await task.completion(timeout=5)).task_id == task.task_id


async def test_a_closed_client_says_so(cluster: Cluster) -> None:
    client = KafkaClient("acme", cluster=cluster)
    async with client:
        pass
    with pytest.raises(FollowingBroke):
        await client.completion("t")


async def test_a_cancellation_to_stop_goes_to_the_home_partition(cluster: Cluster) -> None:
    async with KafkaClient("acme", user="ann", cluster=cluster) as client:
        task = await client.submit("x", session="s1")
        await client.cancel(task, "no longer needed")
    cancellations = [
        w async for w in consume("tasks.cancelled", TaskCancelled, start="start", follow=False, cluster=cluster)
    ]
    (cancellation,) = cancellations
    assert (cancellation.record.partition, cancellation.record.key) == (task.partition, b"s:acme/s1")
    assert (cancellation.event.task_id, cancellation.event.home_partition) == (task.task_id, task.partition)


async def test_skills_are_submitted_with_their_digest(cluster: Cluster) -> None:
    async with KafkaClient("acme", user="agent-7", cluster=cluster) as client:
        await client.publish_skill("retry-with-jitter", "body", interests=["testing"], title="Retry")
        await client.revoke_skill("retry-with-jitter")
    found = [s async for s in consume("skills.submitted", SkillSubmitted, start="start", follow=False, cluster=cluster)]
    published, revoked = found
    assert published.record.key == b"acme/retry-with-jitter"
    assert published.event.digest == "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5"
    assert (published.event.author, published.event.interests) == ("agent-7", ("testing",))
    assert (revoked.event.action.value, revoked.event.body) == ("revoke", None)


async def test_skill_changes_come_by_interest_and_tenant(cluster: Cluster, router: Router) -> None:
    async with (
        KafkaClient("acme", cluster=cluster) as client,
        client.skill_changes("testing", "backend") as changes,
    ):
        for tenant, interest in (("other", "testing"), ("acme", "research"), ("acme", "backend"), ("acme", "testing")):
            event = SkillChanged(
                interest=interest, tenant=tenant, name="s", version=1, change=SkillChange.PUBLISHED, digest="",
                submitted_at=1, published_at=2,
            )  # fmt: skip
            key = f"{tenant}/{interest}".encode()
            value = cluster.codec.encode(topics.SKILLS_FEED, event)
            await router.append("skills.feed", value, key=key, partition=partition_of(key, PARTITIONS))
        told: list[tuple[str, str]] = []
        async with asyncio.timeout(30):
            async for change in changes:
                told.append((change.event.tenant, change.event.interest))
                if len(told) == 2:
                    break
        assert sorted(told) == [("acme", "backend"), ("acme", "testing")]


async def _nodes(cluster: Cluster, router: Router, *names: str, partition: int = 0) -> None:
    for name in names:
        event = NodeStatus(node=name, place=Place.LOCAL, provider="ollama", healthy=True, reported_at=1)
        value = cluster.codec.encode(topics.FLEET_STATUS, event)
        await router.append("fleet.status", value, key=name.encode(), partition=partition)


async def _names(cluster: Cluster, start: Newest | datetime | str) -> list[str]:
    found = consume("fleet.status", NodeStatus, start=start, follow=False, cluster=cluster)  # type: ignore[arg-type]
    return [delivered.event.node async for delivered in found]


async def test_where_a_reading_begins(cluster: Cluster, router: Router) -> None:
    await _nodes(cluster, router, "a", "b", "c")
    await _nodes(cluster, router, "x", partition=2)
    now = datetime.now(UTC)
    assert sorted(await _names(cluster, "start")) == ["a", "b", "c", "x"]
    assert sorted(await _names(cluster, Newest(2))) == ["b", "c", "x"]
    assert await _names(cluster, "end") == []
    assert sorted(await _names(cluster, now - timedelta(minutes=5))) == ["a", "b", "c", "x"]
    assert await _names(cluster, now + timedelta(minutes=5)) == []


async def test_what_cannot_be_read_is_raised_or_handed_over(cluster: Cluster, router: Router) -> None:
    await _nodes(cluster, router, "a")
    await router.append("fleet.status", b"garbage")
    await router.append("fleet.status", None, key=b"a")
    await _nodes(cluster, router, "b")

    with pytest.raises(BadBytes, match=r"test\.fleet\.status\[0\]@1"):
        await _names(cluster, "start")

    told: list[tuple[Record, UnreadableValue]] = []
    consumption = consume(
        "test.fleet.status", NodeStatus, start="start", follow=False, cluster=cluster,
        on_unreadable=lambda record, error: told.append((record, error)),
    )  # fmt: skip
    assert [delivered.event.node async for delivered in consumption] == ["a", "b"]
    assert [type(error) for _, error in told] == [BadBytes, NullValue]


async def test_a_group_goes_on_after_what_its_loop_was_through_with(cluster: Cluster, router: Router) -> None:
    await _nodes(cluster, router, "a", "b", "c", "d")

    async def take(count: int) -> list[str]:
        names: list[str] = []
        async with asyncio.timeout(30):
            async with consume("fleet.status", NodeStatus, group="g", start="start", cluster=cluster) as nodes:
                async for delivered in nodes:
                    names.append(delivered.event.node)
                    if len(names) == count:
                        break
        return names

    assert await take(2) == ["a", "b"]
    # The loop ended with "b" in its hands, so it comes again: at least once.
    assert await take(3) == ["b", "c", "d"]


async def test_a_group_shares_its_partitions_and_a_leaver_hands_over(cluster: Cluster, router: Router) -> None:
    seen: dict[str, list[str]] = {"one": [], "two": []}
    leave = asyncio.Event()

    async def member(name: str) -> None:
        async with consume("fleet.status", NodeStatus, group="g", start="start", cluster=cluster) as nodes:
            async for delivered in nodes:
                seen[name].append(delivered.event.node)
                if name == "one" and leave.is_set():
                    return

    one, two = asyncio.create_task(member("one")), asyncio.create_task(member("two"))
    async with asyncio.timeout(20):
        round_ = 0
        while not (seen["one"] and seen["two"]):
            for partition in range(PARTITIONS):
                await _nodes(cluster, router, f"{round_}-{partition}", partition=partition)
            round_ += 1
            await asyncio.sleep(0.05)
        leave.set()
        for partition in range(PARTITIONS):
            await _nodes(cluster, router, f"last-{partition}", partition=partition)
        expected = {f"{r}-{p}" for r in range(round_) for p in range(PARTITIONS)} | {
            f"last-{p}" for p in range(PARTITIONS)
        }
        await one
        while set(seen["one"]) | set(seen["two"]) != expected or f"last-{PARTITIONS - 1}" not in seen["two"]:
            await asyncio.sleep(0.01)
            assert not two.done()
    two.cancel()
    await asyncio.gather(two, return_exceptions=True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"group": "g", "follow": False}, "a group starts at"),
        ({"group": "g", "start": Newest(1)}, "a group starts at"),
        ({"group": "g", "keys": [b"k"]}, "a group starts at"),
        ({"start": datetime(2026, 1, 1)}, "time zone"),
        ({"record": TaskCompleted}, "fleet.status holds NodeStatus"),
    ],
)
def test_what_does_not_go_together_is_refused(cluster: Cluster, arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        consume("fleet.status", cluster=cluster, **arguments)  # type: ignore[call-overload]


def test_a_topic_that_is_not_there_is_answered_with_those_that_are(cluster: Cluster) -> None:
    with pytest.raises(TopicUnknown, match=r"tasks\.completed, tasks\.completed\.dlq"):
        consume("task.completed", cluster=cluster)


async def test_a_consumption_is_iterated_over_once(cluster: Cluster) -> None:
    consumption = consume("fleet.status", start="start", follow=False, cluster=cluster)
    assert [d async for d in consumption] == []
    with pytest.raises(RuntimeError, match="once"):
        consumption.__aiter__()


def test_delivered_reads_its_headers() -> None:
    record = Record("t", 0, 0, 0, None, b"", (("ce_id", b"1"), ("ce_tenant", b"acme"), ("traceparent", b"00-a-b-01")))
    node = NodeStatus(node="n", place=Place.LOCAL, provider="p", healthy=True, reported_at=1)
    delivered = Delivered(node, record)
    assert (delivered.event_id, delivered.tenant, delivered.traceparent) == ("1", "acme", "00-a-b-01")
