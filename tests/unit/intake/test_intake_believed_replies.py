"""Whoever may write to tasks.replies tells callers nothing about tasks and attempts that are not his."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.events import ReplyKind, TaskCompleted, TaskReply, TaskStatus
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.reply_tokens import ReplyTokens
from headrace_contracts.topics import TASKS_REPLIES
from headrace_intake.adapters.metrics import IntakeMetrics
from headrace_intake.adapters.pending_task import PendingTask
from headrace_intake.adapters.replies import ReplyDispatcher
from headrace_intake.adapters.rereading import Rereaders, Whose
from headrace_intake.decide.replies import Delta, Restarted, TaskFinished
from headrace_intake.decide.views import TaskView
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.health import Health
from headrace_runtime.metrics import Metrics
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.records import NewTopic, ProducerRecord
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

SECRET = "the secret of an installation"
TOKENS = ReplyTokens(SECRET)
TOPIC = "headrace.tasks.replies"
TENANT, TASK = "acme", "t"

Token = Callable[[], bytes | None]


def delta(text: str, token: bytes | None, *, attempt: int = 1, sequence: int = 0, execution: str = "e") -> TaskReply:
    return TaskReply(
        task_id=TASK, tenant=TENANT, kind=ReplyKind.DELTA, attempt=attempt, execution_id=execution, sequence=sequence,
        text=plain(text), reply_token=token, emitted_at=1,
    )  # fmt: skip


def restarted(attempt: int, token: bytes | None) -> TaskReply:
    return TaskReply(
        task_id=TASK, tenant=TENANT, kind=ReplyKind.RESTARTED, attempt=attempt, reply_token=token, emitted_at=1
    )


def finished(answer: str, token: bytes | None) -> TaskReply:
    end = TaskCompleted(
        task_id=TASK, tenant=TENANT, status=TaskStatus.SUCCEEDED, answer=plain(answer), submitted_at=1, completed_at=2
    )
    return TaskReply(
        task_id=TASK, tenant=TENANT, kind=ReplyKind.FINISHED, attempt=1, result=end, reply_token=token, emitted_at=1
    )


OF_ATTEMPT = TOKENS.of_attempt(TENANT, TASK, 1)
OF_ROUTER = TOKENS.of_router(TENANT, TASK)
GUESSED = ReplyTokens("guessed").of_attempt(TENANT, TASK, 1)

FORGERIES: dict[str, TaskReply] = {
    "a piece without a token": delta("forged", None),
    "a piece with an empty token": delta("forged", b""),
    "a piece with half a token": delta("forged", OF_ATTEMPT[:8]),
    "a piece with more than a token": delta("forged", OF_ATTEMPT + b"\0"),
    "a piece with the token of another attempt": delta("forged", TOKENS.of_attempt(TENANT, TASK, 2)),
    "a piece of a later attempt with the token of an earlier one": delta("forged", OF_ATTEMPT, attempt=2),
    "a piece with the token of another task": delta("forged", TOKENS.of_attempt(TENANT, "u", 1)),
    "a piece with the token of another tenant's task of that id": delta("forged", TOKENS.of_attempt("evil", TASK, 1)),
    "a piece with the token of another installation": delta("forged", GUESSED),
    "a restart without a token": restarted(7, None),
    "a restart of an attempt that was not given": restarted(7, OF_ATTEMPT),
    "an end without a token": finished("forged", None),
    "an end with the token of its attempt": finished("forged", OF_ATTEMPT),
    "an end with the router's token of another task": finished("forged", TOKENS.of_router(TENANT, "u")),
}  # fmt: skip


@dataclass
class Bed:
    """A dispatcher and rereaders on a cluster in memory."""

    codec: Codec
    log: MemoryLog
    dispatcher: ReplyDispatcher
    rereaders: Rereaders
    registry: CollectorRegistry

    def open(self) -> PendingTask:
        view = TaskView(
            task_id=TASK, tenant=TENANT, user="", kind="chat", role=None, model=None, session=None, labels={},
            status="queued", submitted_at=1,
        )  # fmt: skip
        return self.dispatcher.open(view, b"k")

    async def say(self, *replies: TaskReply) -> int:
        """The offset of the last one."""
        producer, offset = self.log.producer(), -1
        for reply in replies:
            record = ProducerRecord(
                TOPIC, self.codec.encode(TASKS_REPLIES, reply), TASK.encode(), self.dispatcher.partition
            )
            offset = (await producer.send(record)).offset
        return offset

    async def again(self, after: int | None = None) -> list[Any]:
        """What a caller is told who resumes."""
        rereading = await self.rereaders.open(Whose(TENANT, TASK), self.dispatcher.partition, after=after, since_ms=0)
        try:
            return [event.told async for event in rereading.events()]
        finally:
            await rereading.close()

    @property
    def refused(self) -> float | None:
        return self.registry.get_sample_value("headrace_log_forged_records_total", {"topic": TOPIC})


@asynccontextmanager
async def bed(*, secret: str | None = SECRET, unsigned: Literal["refuse", "accept"] = "refuse") -> AsyncIterator[Bed]:
    log, codec, registry = MemoryLog(MemoryCluster()), Codec(MemoryRegistry()), CollectorRegistry()
    await log.admin().create_topics([NewTopic(TOPIC, 2, 1)])
    await codec.prepare([TASKS_REPLIES], register=True)
    metrics = Metrics("test", registry)
    authenticity = Authenticity(None if secret is None else SecretStr(secret), unsigned, metrics)
    measured = IntakeMetrics(metrics)
    dispatcher = ReplyDispatcher(
        log, codec, instance_id="i", task_bytes=10_000, total_bytes=1_000_000, clock=lambda: 1_000, health=Health(),
        metrics=measured, authenticity=authenticity,
    )  # fmt: skip
    await dispatcher.start()
    running = asyncio.create_task(dispatcher.run())
    rereaders = Rereaders(log, codec, most=2, metrics=measured, authenticity=authenticity)
    try:
        yield Bed(codec, log, dispatcher, rereaders, registry)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await dispatcher.close()


async def told(task: PendingTask) -> list[Any]:
    await asyncio.wait_for(task.end, 30)
    return [event.told async for event in task.follow(None)]


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
async def test_a_forged_reply_is_told_to_nobody_and_counted(forgery: TaskReply) -> None:
    async with bed() as on:
        task = on.open()
        await on.say(forgery, delta("a", OF_ATTEMPT), replace(forgery, sequence=1), delta("b", OF_ATTEMPT, sequence=1))
        await on.say(forgery, finished("ab", OF_ROUTER), forgery)
        heard = await told(task)
        assert heard[:2] == [Delta("a", 1), Delta("b", 1)]
        assert [type(each) for each in heard[2:]] == [TaskFinished]
        assert heard[2].result.answer == plain("ab")
        assert on.refused is not None
        assert on.refused >= 3
        assert await on.again() == heard


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
async def test_a_caller_may_resume_after_a_forged_reply_and_is_not_told_of_it(forgery: TaskReply) -> None:
    async with bed() as on:
        at = await on.say(forgery)
        await on.say(delta("a", OF_ATTEMPT), forgery, finished("a", OF_ROUTER))
        heard = await on.again(after=at)
        assert heard[0] == Delta("a", 1)
        assert [type(each) for each in heard[1:]] == [TaskFinished]


@pytest.mark.parametrize("token", [OF_ROUTER, TOKENS.of_attempt(TENANT, TASK, 2)], ids=["router", "worker"])
async def test_both_the_router_and_the_worker_may_say_that_an_attempt_begins(token: bytes) -> None:
    async with bed() as on:
        task = on.open()
        second = TOKENS.of_attempt(TENANT, TASK, 2)
        await on.say(
            delta("a", OF_ATTEMPT), restarted(2, token), delta("b", second, attempt=2), delta("late", OF_ATTEMPT)
        )
        await on.say(finished("b", OF_ROUTER))
        assert (await told(task))[:3] == [Delta("a", 1), Restarted(2), Delta("b", 2)]


@pytest.mark.parametrize("settings", [{"unsigned": "accept"}, {"secret": None}], ids=["accepted", "no secret"])
async def test_replies_of_earlier_releases_are_told_while_they_are_accepted(settings: Any) -> None:
    async with bed(**settings) as on:
        task = on.open()
        await on.say(delta("a", None), restarted(2, None), delta("b", None, attempt=2), finished("b", None))
        heard = await told(task)
        assert heard[:3] == [Delta("a", 1), Restarted(2), Delta("b", 2)]
        assert await on.again() == heard
        assert on.refused is None


async def test_wrong_tokens_are_refused_even_while_none_are_accepted() -> None:
    async with bed(unsigned="accept") as on:
        task = on.open()
        await on.say(*(each for each in FORGERIES.values() if each.reply_token is not None), finished("x", OF_ROUTER))
        assert [type(each) for each in await told(task)] == [TaskFinished]


@pytest.mark.parametrize("pieces", [1, 50, 400])
async def test_a_token_is_made_once_for_an_attempt_not_for_each_piece(
    pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = ReplyTokens.of_attempt

    def counted(self: ReplyTokens, tenant: str, task_id: str, number: int) -> bytes:
        made.append(number)
        return make(self, tenant, task_id, number)

    second = TOKENS.of_attempt(TENANT, TASK, 2)
    monkeypatch.setattr(ReplyTokens, "of_attempt", counted)
    async with bed() as on:
        task = on.open()
        await on.say(*(delta("a", OF_ATTEMPT, sequence=number) for number in range(pieces)))
        await on.say(*(delta("b", second, attempt=2, sequence=number) for number in range(pieces)))
        await on.say(finished("b", OF_ROUTER))
        await asyncio.wait_for(task.end, 30)
        assert made == [1, 2]
