"""Tasks in memory, and the partition of replies that feeds them, on the log's in-memory twin."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.events import ReplyKind, TaskCompleted, TaskReply, TaskStatus
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_REPLIES
from headrace_intake.adapters.believed_replies import BelievedReplies
from headrace_intake.adapters.metrics import IntakeMetrics
from headrace_intake.adapters.pending_task import BufferGone, PendingTask, ReplyEvent
from headrace_intake.adapters.replies import ReplyDispatcher, partition_for
from headrace_intake.adapters.rereading import EventsGone, NoSuchPosition, Rereaders, TooManyRereaders, Whose
from headrace_intake.decide.replies import Delta, TaskFinished
from headrace_intake.decide.views import TaskView
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.health import Health
from headrace_runtime.metrics import Metrics
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.records import NewTopic, ProducerRecord, TopicPartition
from headrace_testing.odd_values import ODD, UNFORESEEN, fail_on_odd_values
from prometheus_client import CollectorRegistry

TOPIC = "headrace.tasks.replies"
UNTOLD = Authenticity(None, "refuse", Metrics("test", CollectorRegistry()))
"""Without a secret every reply is taken."""


def view(task_id: str = "t") -> TaskView:
    return TaskView(task_id=task_id, tenant="acme", submitted_at=1_000)


def piece(sequence: int, text: str, task_id: str = "t", tenant: str = "acme") -> TaskReply:
    return TaskReply(
        task_id=task_id,
        tenant=tenant,
        kind=ReplyKind.DELTA,
        attempt=1,
        execution_id="e",
        sequence=sequence,
        text=plain(text),
        emitted_at=1,
    )


def finish(task_id: str = "t", tenant: str = "acme") -> TaskReply:
    end = TaskCompleted(
        task_id=task_id,
        tenant=tenant,
        status=TaskStatus.SUCCEEDED,
        answer=plain("whole"),
        submitted_at=1_000,
        completed_at=2,
    )
    return TaskReply(task_id=task_id, tenant=tenant, kind=ReplyKind.FINISHED, result=end, emitted_at=1)


async def collect(events: AsyncIterator[ReplyEvent], into: list[ReplyEvent] | None = None) -> list[ReplyEvent]:
    collected = into if into is not None else []
    async for event in events:
        collected.append(event)
    return collected


async def test_who_follows_sees_what_was_said_before_and_after() -> None:
    task = PendingTask(view(), b"k", 10_000, BelievedReplies(UNTOLD, "acme", "t"))
    task.take(piece(0, "a"), 7)
    seen: list[ReplyEvent] = []
    follower = asyncio.create_task(collect(task.follow(None), seen))
    await asyncio.sleep(0)
    assert [event.offset for event in seen] == [7]
    assert task.is_followed
    task.take(piece(1, "b"), 9)
    task.take(finish(), 12)
    await follower
    assert [event.offset for event in seen] == [7, 9, 12]
    assert [event.told.text for event in seen if isinstance(event.told, Delta)] == ["a", "b"]
    assert task.end.result().status == "succeeded"


async def test_who_resumes_goes_on_after_the_last_event() -> None:
    task = PendingTask(view(), b"k", 10_000, BelievedReplies(UNTOLD, "acme", "t"))
    for offset, said in ((7, piece(0, "a")), (9, piece(1, "b")), (12, finish())):
        task.take(said, offset)
    assert [event.offset for event in await collect(task.follow(7))] == [9, 12]
    assert [event.offset for event in await collect(task.follow(8))] == [9, 12]
    assert task.ended_by(12)
    assert not task.ended_by(9)


async def test_who_is_too_slow_is_sent_to_the_topic() -> None:
    task = PendingTask(view(), b"k", 2_000, BelievedReplies(UNTOLD, "acme", "t"))
    follower = task.follow(None)
    task.take(piece(0, "x" * 500), 0)
    assert (await anext(follower)).offset == 0
    for number in range(1, 6):
        task.take(piece(number, "x" * 500), number)
    with pytest.raises(BufferGone) as gone:
        await anext(follower)
    assert gone.value.offset == 0
    with pytest.raises(BufferGone):
        await anext(task.follow(None))
    assert [event.offset for event in await _next_two(task.follow(3))] == [4, 5]


async def _next_two(events: AsyncIterator[ReplyEvent]) -> list[ReplyEvent]:
    return [await anext(events), await anext(events)]


async def test_a_follower_that_goes_away_leaves_nothing_behind() -> None:
    task = PendingTask(view(), b"k", 10_000, BelievedReplies(UNTOLD, "acme", "t"))
    follower = asyncio.create_task(collect(task.follow(None)))
    await asyncio.sleep(0)
    assert task.is_followed
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    assert not task.is_followed


def test_an_instance_reads_the_same_partition_after_a_restart() -> None:
    assert partition_for("intake-1", 6) == partition_for("intake-1", 6)
    assert {partition_for(f"intake-{number}", 6) for number in range(60)} == set(range(6))


class Bed:
    """A dispatcher and rereaders on a cluster in memory."""

    def __init__(self, cluster: MemoryCluster, log: MemoryLog, codec: Codec, **dispatcher: Any) -> None:
        self.cluster = cluster
        self.health = Health()
        self.metrics = IntakeMetrics(Metrics("test", CollectorRegistry()))
        self.now = 1_000
        self.codec = codec
        self.producer = log.producer()
        limits = {"task_bytes": 10_000, "total_bytes": 1_000_000, **dispatcher}
        self.dispatcher = ReplyDispatcher(
            log, codec, instance_id="i", clock=lambda: self.now, health=self.health, metrics=self.metrics,
            authenticity=UNTOLD, **limits,
        )  # fmt: skip
        self.rereaders = Rereaders(log, codec, most=1, metrics=self.metrics, authenticity=UNTOLD)

    async def say(self, *replies: TaskReply | bytes, key: str = "t") -> int:
        """The offset of the last one."""
        offset = -1
        for reply in replies:
            value = reply if isinstance(reply, bytes) else self.codec.encode(TASKS_REPLIES, reply)
            record = ProducerRecord(TOPIC, value, key.encode(), self.dispatcher.partition)
            offset = (await self.producer.send(record)).offset
        return offset


@asynccontextmanager
async def bed(**dispatcher: Any) -> AsyncIterator[Bed]:
    cluster = MemoryCluster()
    log = MemoryLog(cluster)
    await log.admin().create_topics([NewTopic(TOPIC, 6, 1)])
    codec = Codec(MemoryRegistry())
    await codec.prepare([TASKS_REPLIES], register=True)
    made = Bed(cluster, log, codec, **dispatcher)
    await made.dispatcher.start()
    running = asyncio.create_task(made.dispatcher.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await made.dispatcher.close()


async def test_replies_reach_the_task_they_are_for() -> None:
    async with bed() as on:
        task, other = on.dispatcher.open(view(), b"k"), on.dispatcher.open(view("u"), b"k")
        await on.say(piece(0, "a"), finish())
        ended = await asyncio.wait_for(task.end, 30)
        assert ended.answer == plain("whole")
        assert not other.end.done()


async def test_what_was_said_before_the_start_or_of_unknown_tasks_is_skipped() -> None:
    async with bed() as on:
        await on.say(finish("gone"), key="gone")
        task = on.dispatcher.open(view(), b"k")
        await on.say(finish())
        await asyncio.wait_for(task.end, 30)
        assert on.dispatcher.get("acme", "gone") is None


async def test_another_tenants_reply_under_the_same_id_is_not_shown() -> None:
    async with bed() as on:
        task = on.dispatcher.open(view(), b"k")
        await on.say(finish(tenant="evil"), piece(0, "mine"))
        first = await asyncio.wait_for(anext(task.follow(None)), 30)
        assert first.told == Delta("mine", 1)
        assert on.dispatcher.get("evil", "t") is None
        assert on.dispatcher.get("acme", "t") is task


async def test_a_reply_that_cannot_be_read_does_not_stop_the_others() -> None:
    async with bed() as on:
        task = on.dispatcher.open(view(), b"k")
        await on.say(b"garbage", finish())
        await asyncio.wait_for(task.end, 30)
        assert on.metrics.unreadable_replies._value.get() == 1


async def test_ended_tasks_are_forgotten_after_a_while() -> None:
    async with bed() as on:
        first = on.dispatcher.open(view("t"), b"k")
        await on.say(finish())
        await asyncio.wait_for(first.end, 30)
        assert on.dispatcher.get("acme", "t") is first
        on.now += 61_000
        second = on.dispatcher.open(view("u"), b"k")
        await on.say(finish("u"), key="u")
        await asyncio.wait_for(second.end, 30)
        await asyncio.sleep(0)
        assert on.dispatcher.get("acme", "t") is None
        assert on.dispatcher.get("acme", "u") is second


async def test_live_tasks_are_counted_until_their_end_is_read_or_may_have_been_missed() -> None:
    async with bed() as on:
        live = on.dispatcher.live_of
        tasks = {name: on.dispatcher.open(view(name), b"k") for name in ("ended", "unread", "gone", "long")}
        assert (live("acme"), live("evil")) == (4, 0)
        await on.say(piece(0, "a"), finish("ended"), finish("ended"), key="ended")
        await asyncio.wait_for(tasks["ended"].end, 30)
        assert live("acme") == 3
        await on.say(b"garbage", key="unread")
        # Read after it, so that it has been read.
        await on.say(piece(0, "a"), key="gone")
        await asyncio.wait_for(anext(tasks["gone"].follow(None)), 30)
        assert live("acme") == 2
        on.dispatcher.drop("gone")
        on.dispatcher.drop("gone")
        assert live("acme") == 1
        on.now += 3_600_000
        assert live("acme") == 0
        await on.say(finish("long"), key="long")
        await asyncio.wait_for(tasks["long"].end, 30)
        assert live("acme") == 0


async def test_when_memory_is_full_those_nobody_waits_for_give_way() -> None:
    async with bed(total_bytes=10_000) as on:
        waited_for = on.dispatcher.open(view("waited-for"), b"k")
        follower = asyncio.create_task(collect(waited_for.follow(None)))
        await asyncio.sleep(0)
        waited_for.accepted.set_result(None)
        for number in range(20):
            on.dispatcher.open(view(f"t{number}"), b"k").accepted.set_result(None)
        assert on.dispatcher.get("acme", "waited-for") is waited_for
        assert on.dispatcher.get("acme", "t0") is None
        assert on.dispatcher.get("acme", "t19") is not None
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


async def test_when_memory_is_full_a_caller_that_waits_for_the_end_gets_it() -> None:
    async with bed(total_bytes=10_000) as on:
        task = on.dispatcher.open(view(), b"k")
        task.accepted.set_result(None)
        with task.followed():
            for number in range(20):
                on.dispatcher.open(view(f"t{number}"), b"k").accepted.set_result(None)
            assert on.dispatcher.get("acme", "t") is task
        await on.say(finish())
        await asyncio.wait_for(task.end, 30)


async def test_when_memory_is_full_of_followed_tasks_they_keep_their_last_update() -> None:
    async with bed(total_bytes=30_000) as on:
        tasks = [on.dispatcher.open(view(f"t{number}"), b"k") for number in range(10)]
        with ExitStack() as following:
            for number, task in enumerate(tasks):
                task.accepted.set_result(None)
                following.enter_context(task.followed())
                await on.say(*[piece(turn, "x" * 1_000, task_id=f"t{number}") for turn in range(3)], key=f"t{number}")
            async with asyncio.timeout(30):
                while on.dispatcher.next_offset < 30:  # noqa: ASYNC110 - looks at what has no event
                    await asyncio.sleep(0)
            assert on.dispatcher._bytes == sum(task.bytes for task in tasks) <= 30_000
            assert len(on.dispatcher._open) == 10
            with pytest.raises(BufferGone):
                await anext(tasks[0].follow(None))


class Looked(OrderedDict[bytes, Any]):
    """Counts the keys that are looked at."""

    keys_seen = 0

    def __iter__(self) -> Iterator[bytes]:
        for key in super().__iter__():
            self.keys_seen += 1
            yield key

    def items(self) -> Any:
        return ((key, self[key]) for key in self)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_full_memory_costs_a_task_no_more_the_more_there_are(ended: bool) -> None:
    async with bed(total_bytes=200 * 1_500) as on:
        for number in range(250):
            task = on.dispatcher.open(view(f"t{number}"), b"k")
            if ended:
                task.accepted.set_result(None)
                on.dispatcher._ended[f"t{number}".encode()] = 1.0
        looked = [Looked(on.dispatcher._ended), Looked(on.dispatcher._open)]
        on.dispatcher._ended, on.dispatcher._open = looked
        for number in range(50):
            on.dispatcher.open(view(f"new{number}"), b"k")
        assert sum(each.keys_seen for each in looked) <= 50 * 5


async def test_a_task_is_read_again_from_a_moment() -> None:
    async with bed() as on:
        await on.say(piece(0, "a"), piece(1, "b"), finish())
        rereading = await on.rereaders.open(Whose("acme", "t"), on.dispatcher.partition, after=None, since_ms=0)
        events = await collect(rereading.events())
        await rereading.close()
        assert [type(event.told) for event in events] == [Delta, Delta, TaskFinished]


async def test_a_task_is_read_again_after_a_record_without_losing_its_thread() -> None:
    async with bed() as on:
        middle = await on.say(piece(0, "a"), piece(1, "b"))
        await on.say(piece(1, "repeated"), piece(2, "c"), finish())
        rereading = await on.rereaders.open(Whose("acme", "t"), on.dispatcher.partition, after=middle, since_ms=0)
        events = await collect(rereading.events())
        await rereading.close()
        assert [event.told.text for event in events if isinstance(event.told, Delta)] == ["c"]


async def test_nothing_follows_the_end() -> None:
    async with bed() as on:
        end = await on.say(piece(0, "a"), finish())
        rereading = await on.rereaders.open(Whose("acme", "t"), on.dispatcher.partition, after=end, since_ms=0)
        assert rereading.over
        await rereading.close()


async def test_another_tenant_reads_nothing() -> None:
    async with bed() as on:
        await on.say(piece(0, "a"), finish())
        rereading = await on.rereaders.open(Whose("evil", "t"), on.dispatcher.partition, after=None, since_ms=0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(collect(rereading.events()), 0.05)
        await rereading.close()


async def test_a_place_that_never_was_is_refused() -> None:
    async with bed() as on:
        await on.say(finish())
        for partition, offset in ((on.dispatcher.partition, 99), (77, 0)):
            with pytest.raises(NoSuchPosition):
                await on.rereaders.open(Whose("acme", "t"), partition, after=offset, since_ms=0)


async def test_a_place_that_is_no_more_is_said_to_be_gone() -> None:
    async with bed() as on:
        await on.say(piece(0, "a"), finish())
        on.cluster.delete_before(TopicPartition(TOPIC, on.dispatcher.partition), 1)
        with pytest.raises(EventsGone):
            await on.rereaders.open(Whose("acme", "t"), on.dispatcher.partition, after=0, since_ms=0)


async def test_only_so_many_read_again_at_a_time() -> None:
    async with bed() as on:
        await on.say(finish())
        whose, partition = Whose("acme", "t"), on.dispatcher.partition
        first = await on.rereaders.open(whose, partition, after=None, since_ms=0)
        with pytest.raises(TooManyRereaders):
            await on.rereaders.open(whose, partition, after=None, since_ms=0)
        await first.close()
        await first.close()
        again = await on.rereaders.open(whose, partition, after=None, since_ms=0)
        await again.close()


@pytest.mark.parametrize("error", UNFORESEEN, ids=repr)
async def test_an_error_of_any_kind_in_one_reply_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_on_odd_values(monkeypatch, error)
    async with bed() as on:
        task = on.dispatcher.open(view(), b"k")
        await on.say(ODD, piece(0, "a"), ODD, finish())
        await asyncio.wait_for(task.end, 30)
        assert on.metrics.unreadable_replies._value.get() == 2
        whose = Whose("acme", "t")
        rereading = await on.rereaders.open(whose, on.dispatcher.partition, after=None, since_ms=0)
        told = [event.told async for event in rereading.events()]
        await rereading.close()
        assert isinstance(told[-1], TaskFinished)
        assert Delta("a", 1) in told
