"""One attempt in, its end and its usage out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from headrace_contracts import events, topics
from headrace_contracts.content import plain, text_of
from headrace_contracts.errors import BadBytes, UnreadableValue
from headrace_contracts.events import Outcome, ReplyKind
from headrace_contracts.headers import header
from headrace_models.errors import RetrySameProvider, TryAnotherProvider
from headrace_models.ports import CallUsage, ChatResult
from headrace_models.worker.recent_times import RecentTimes
from headrace_models.worker.runner import MustNotRunHere
from headrace_streams.errors import AppendUncertain, RecordRefused, SendToDeadLetters, TransientError
from headrace_streams.memory import NetworkRequest, Operation
from headrace_streams.records import Record
from headrace_testing.engine import eventually
from headrace_testing.workers import ScriptedProvider, WorkerBench, attempt, healthy, now_ms

T = TypeVar("T")


def took(seconds: float) -> RecentTimes:
    """Calls that have just taken so long."""
    recent = RecentTimes()
    for _ in range(4):
        recent.observe(asyncio.get_running_loop().time(), seconds)
    return recent


@pytest.fixture
async def bench() -> WorkerBench:
    made = WorkerBench()
    await made.prepare()
    return made


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


def ended(bench: WorkerBench) -> events.AttemptFinished:
    (event,) = bench.read(topics.ATTEMPTS_FINISHED)
    assert isinstance(event, events.AttemptFinished)
    return event


async def test_an_answer_is_reported_with_its_usage_before_the_record_counts(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    record = bench.submit(attempt(), key=b"s:acme/\xff session")
    await bench.runner([healthy(provider)]).handle(record)

    finished = ended(bench)
    assert (finished.outcome, finished.finish_reason) == (Outcome.ANSWERED, "stop")
    assert finished.content is not None
    assert text_of(finished.content) == "Hello"
    assert (finished.node, finished.worker, finished.execution_id) == ("node-1", "worker-1", "execution-1")
    assert finished.queued_ms >= 20
    assert (finished.first_output_ms, finished.model_ms) == (2.0, 5.0)
    (written,) = bench.records(topics.ATTEMPTS_FINISHED)
    assert (written.partition, written.key) == (3, b"s:acme/\xff session")
    assert header(written.headers, "ce_id") == "task-1/1/execution-1"
    assert header(written.headers, "traceparent") == header(record.headers, "traceparent")

    (usage,) = bench.read(topics.USAGE_RECORDED)
    assert (usage.event_id, usage.usage.input_tokens, usage.usage.output_tokens) == ("task-1/1/execution-1", 7, 3)
    assert (usage.tenant, usage.user, usage.role, usage.outcome) == ("acme", "ann", "scribe", Outcome.ANSWERED)
    assert bench.records(topics.USAGE_RECORDED)[0].key == b"acme"
    assert bench.read(topics.TASKS_REPLIES) == []


async def test_the_model_is_asked_as_the_attempt_says(bench: WorkerBench, provider: ScriptedProvider) -> None:
    messages = tuple(events.Message(role=role, content=plain(role)) for role in ("system", "user", "assistant", "tool"))
    sampling = events.Sampling(max_output_tokens=9, temperature=0.5, top_p=0.9, stop=("x",), seed=4, json=True)
    deadline = now_ms() + 60_000
    record = bench.submit(attempt(messages=messages, sampling=sampling, deadline_at=deadline))
    await bench.runner([healthy(provider)], call_seconds=300.0).handle(record)
    (asked,) = provider.asked
    assert [(message.role, message.text) for message in asked.messages] == [
        ("system", "system"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("user", "tool"),
    ]
    assert (asked.max_output_tokens, asked.temperature, asked.top_p) == (9, 0.5, 0.9)
    assert (asked.stop, asked.seed, asked.json, asked.model) == (("x",), 4, True, "gemma2:2b")
    assert 50 < asked.timeout_seconds <= 60


@pytest.mark.parametrize(
    ("error", "outcome", "code", "retry_after_ms"),
    [
        (RetrySameProvider("timeout", "", provider="p", after_seconds=2), Outcome.FAILED_RETRYABLE, "timeout", 2000),
        (RetrySameProvider("timeout", "too slow", provider="p"), Outcome.FAILED_RETRYABLE, "timeout", None),
        (TryAnotherProvider("model_missing", "none", provider="p"), Outcome.FAILED_PERMANENT, "model_missing", None),
        (TryAnotherProvider("redirected", "bad", provider="p"), Outcome.FAILED_PERMANENT, "redirected", None),
        (ValueError("a defect in the client"), Outcome.FAILED_RETRYABLE, "worker_error", None),
    ],
)  # fmt: skip
async def test_a_failure_is_reported_and_never_tried_again_here(
    bench: WorkerBench,
    provider: ScriptedProvider,
    error: Exception,
    outcome: Outcome,
    code: str,
    retry_after_ms: int | None,
) -> None:
    provider.script = [error]
    await bench.runner([healthy(provider)]).handle(bench.submit(attempt()))
    finished = ended(bench)
    assert finished.failure is not None
    assert (finished.outcome, finished.failure.code) == (outcome, code)
    assert finished.failure.retry_after_ms == retry_after_ms
    assert "defect" not in finished.failure.message
    assert finished.content is None
    assert len(provider.asked) == 1
    (usage,) = bench.read(topics.USAGE_RECORDED)
    assert usage.outcome == outcome


async def test_what_a_failed_call_consumed_is_told(bench: WorkerBench, provider: ScriptedProvider) -> None:
    provider.script = [RetrySameProvider("connection_lost", "gone", provider="p", usage=CallUsage(11, 5))]
    await bench.runner([healthy(provider)]).handle(bench.submit(attempt()))
    (usage,) = bench.read(topics.USAGE_RECORDED)
    assert (usage.usage.input_tokens, usage.usage.output_tokens) == (11, 5)


async def test_a_refusal_is_an_answer(bench: WorkerBench, provider: ScriptedProvider) -> None:
    provider.finish_reason = "refusal"
    await bench.runner([healthy(provider)]).handle(bench.submit(attempt()))
    finished = ended(bench)
    assert (finished.outcome, finished.finish_reason) == (Outcome.REFUSED, "refusal")
    assert finished.content is not None
    assert finished.failure is None


async def test_an_attempt_whose_deadline_has_passed_is_not_begun(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    await bench.runner([healthy(provider)]).handle(bench.submit(attempt(deadline_at=now_ms() - 1)))
    assert ended(bench).outcome is Outcome.EXPIRED
    assert ended(bench).node is None
    assert provider.asked == []
    assert bench.read(topics.USAGE_RECORDED) == []


async def test_a_deadline_ends_the_wait_for_a_slot(bench: WorkerBench, provider: ScriptedProvider) -> None:
    endpoint = healthy(provider, slots=1)
    endpoint.take("other", 1, "gemma2:2b", 0.0)
    await bench.runner([endpoint]).handle(bench.submit(attempt(deadline_at=now_ms() + 40)))
    assert ended(bench).outcome is Outcome.EXPIRED
    assert (endpoint.busy, provider.asked) == (1, [])


async def test_a_time_out_at_the_deadline_is_an_expiry(bench: WorkerBench, provider: ScriptedProvider) -> None:
    class Slow(ScriptedProvider):
        async def _chat(self, request, on_text):  # type: ignore[no-untyped-def]
            await asyncio.sleep(request.timeout_seconds + 0.005)
            raise RetrySameProvider("timeout", "too slow", provider="p", usage=CallUsage(7, 1))

    await bench.runner([healthy(Slow())]).handle(bench.submit(attempt(deadline_at=now_ms() + 40)))
    finished = ended(bench)
    assert finished.failure is not None
    assert (finished.outcome, finished.failure.code) == (Outcome.EXPIRED, "deadline_passed")
    (usage,) = bench.read(topics.USAGE_RECORDED)
    assert usage.usage.input_tokens == 7


async def test_without_an_endpoint_the_attempt_goes_back_at_once(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    await bench.runner([healthy(provider)]).handle(bench.submit(attempt(model="llama3:70b")))
    finished = ended(bench)
    assert finished.failure is not None
    assert (finished.outcome, finished.failure.code) == (Outcome.FAILED_RETRYABLE, "no_capacity")
    assert bench.read(topics.USAGE_RECORDED) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": ()},
        {"messages": (events.Message(role="oracle", content=plain("hm")),)},
        {"messages": (events.Message(role="user", content=events.Content(cipher="key-1", data=b"x")),)},
    ],
)
async def test_what_no_model_can_be_asked_fails_for_good(
    bench: WorkerBench, provider: ScriptedProvider, changes: dict[str, Any]
) -> None:
    endpoint = healthy(provider)
    await bench.runner([endpoint]).handle(bench.submit(attempt(**changes)))
    assert ended(bench).outcome is Outcome.FAILED_PERMANENT
    assert (provider.asked, endpoint.busy) == ([], 0)


async def test_a_forbidden_attempt_is_refused_and_goes_to_the_dead_letters(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    objection = events.Failure(code="privacy_violation", message="no")
    record = bench.submit(attempt())
    with pytest.raises(MustNotRunHere, match="privacy_violation"):
        await bench.runner([healthy(provider)], forbid=lambda _request: objection).handle(record)
    assert (ended(bench).outcome, ended(bench).failure) == (Outcome.FAILED_PERMANENT, objection)
    assert provider.asked == []


@pytest.mark.parametrize("value", [b"garbage", b"", None, b"\0\0\0\xff\xff", b"\0\0\0\0\1half a record"])
async def test_work_that_cannot_be_read_ends_its_attempt_at_once(
    bench: WorkerBench, provider: ScriptedProvider, value: bytes | None
) -> None:
    record = replace(bench.submit(attempt(number=4), key=b"p:key"), value=value)
    with pytest.raises(UnreadableValue):
        await bench.runner([healthy(provider)]).handle(record)
    finished = ended(bench)
    assert (finished.attempt_id, finished.task_id, finished.tenant) == ("task-1/4", "task-1", "acme")
    assert (finished.number, finished.outcome) == (4, Outcome.FAILED_PERMANENT)
    assert finished.failure is not None
    assert finished.failure.code == "unreadable_work"
    (written,) = bench.records(topics.ATTEMPTS_FINISHED)
    assert written.key == b"p:key"
    assert bench.read(topics.USAGE_RECORDED) == []
    assert provider.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("ce_id", b"task-1"), ("ce_subject", b"task-1"), ("ce_tenant", b"acme")),
        (("ce_id", b"task-2/1"), ("ce_subject", b"task-1"), ("ce_tenant", b"acme")),
        (("ce_id", b"task-1/0"), ("ce_subject", b"task-1"), ("ce_tenant", b"acme")),
        (("ce_id", b"task-1/99999999999999999999"), ("ce_subject", b"task-1"), ("ce_tenant", b"acme")),
        (("ce_id", b"task-1/1"), ("ce_subject", b"task-1")),
        (("ce_id", b"\xff/1"), ("ce_subject", None), ("ce_tenant", b"acme")),
    ],
)
async def test_bytes_that_name_no_attempt_are_for_the_dead_letters_alone(
    bench: WorkerBench, provider: ScriptedProvider, headers: tuple[tuple[str, bytes | None], ...]
) -> None:
    with pytest.raises(BadBytes):
        await bench.runner([healthy(provider)]).handle(Record("t", 0, 1, 0, b"k", b"garbage", headers))
    assert bench.records(topics.ATTEMPTS_FINISHED) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": CallUsage(None, 3)},  # type: ignore[arg-type] # as untyped code would
        {"usage": CallUsage(7, 2**70)},
        {"usage": CallUsage("7", 3)},  # type: ignore[arg-type]
        {"text": 7},
        {"model": "\ud83d"},
        {"model": 7},
        {"total_ms": "long"},
        {"finish_reason": 7},
    ],
)
async def test_what_no_record_can_hold_is_reported_as_a_failure_and_the_slot_is_free(
    bench: WorkerBench, provider: ScriptedProvider, changes: dict[str, Any]
) -> None:
    """No client of ours gives such results; one with a bug may."""
    good = ChatResult("Hello", "stop", CallUsage(7, 3), "m", 2.0, 5.0, False, "id-1")
    provider.script = [replace(good, **changes)]
    endpoint = healthy(provider)
    await bench.runner([endpoint]).handle(bench.submit(attempt()))
    finished = ended(bench)
    assert endpoint.busy == 0
    assert finished.failure is not None
    assert finished.failure.code in ("report_unencodable", "worker_error")
    assert finished.outcome is Outcome.FAILED_RETRYABLE
    (usage,) = bench.read(topics.USAGE_RECORDED)
    known = changes.get("usage", good.usage)
    if known == good.usage:
        assert (usage.usage.input_tokens, usage.usage.output_tokens) == (7, 3)


async def test_a_call_that_cannot_end_before_its_deadline_is_not_begun(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    endpoint = healthy(provider)
    endpoint.recent["gemma2:2b"] = took(30.0)
    runner = bench.runner([endpoint])
    await runner.handle(bench.submit(attempt(deadline_at=now_ms() + 10_000)))
    assert provider.asked == []
    finished = ended(bench)
    assert finished.failure is not None
    assert (finished.outcome, finished.failure.code, finished.node) == (Outcome.EXPIRED, "too_little_time", None)
    assert "needs 30 s by its last calls" in finished.failure.message
    assert bench.read(topics.USAGE_RECORDED) == []
    assert endpoint.busy == 0
    await runner.handle(bench.submit(attempt("task-2", deadline_at=now_ms() + 40_000)))
    await runner.handle(bench.submit(attempt("task-3")))
    assert len(provider.asked) == 2


async def test_who_waits_for_a_slot_is_told_as_soon_as_too_little_time_is_left(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    endpoint = healthy(provider, slots=1)
    endpoint.take("acme", 1, "m", 0.0)
    endpoint.recent["gemma2:2b"] = took(3_600.0)
    # Of this deadline, an hour less 40 ms are needed for the call.
    await bench.runner([endpoint]).handle(bench.submit(attempt(deadline_at=now_ms() + 3_600_040)))
    finished = ended(bench)
    assert finished.failure is not None
    assert (finished.outcome, finished.failure.code) == (Outcome.EXPIRED, "too_little_time")
    assert (endpoint.busy, provider.asked) == (1, [])


async def test_pieces_go_to_who_waits_and_are_there_before_the_end(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    await bench.runner([healthy(provider)], delta_seconds=0.0).handle(
        bench.submit(attempt(number=2, stream=True, reply_partition=5, reply_token=b"given to attempt 2"))
    )
    replies = bench.read(topics.TASKS_REPLIES)
    assert [(reply.kind, reply.sequence) for reply in replies] == [
        (ReplyKind.RESTARTED, 0),
        (ReplyKind.DELTA, 0),
        (ReplyKind.DELTA, 1),
    ]
    assert "".join(text_of(reply.text) for reply in replies if reply.text) == "Hello"
    assert {(reply.attempt, reply.execution_id) for reply in replies} == {(2, "execution-1")}
    assert {reply.reply_token for reply in replies} == {b"given to attempt 2"}
    records = bench.records(topics.TASKS_REPLIES)
    assert {(record.partition, record.key) for record in records} == {(5, b"task-1")}
    assert len({header(record.headers, "ce_id") for record in records}) == 3


class _Faults:
    """Lets appends to a topic fail as often as told to."""

    def __init__(self) -> None:
        self.failures: dict[str, list[Exception]] = {}

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if request.operation is Operation.APPEND and request.partitions:
            planned = self.failures.get(request.partitions[0].topic)
            if planned:
                error = planned.pop(0)
                if isinstance(error, AppendUncertain):
                    perform()
                raise error
        return perform()


async def test_reports_are_repeated_until_both_are_on_disk(provider: ScriptedProvider) -> None:
    faults = _Faults()
    bench = WorkerBench(faults)
    await bench.prepare()
    faults.failures = {
        "headrace.attempts.finished": [TransientError("no leader"), AppendUncertain("no answer")],
        "headrace.usage.recorded": [TransientError("no leader")],
    }
    await bench.runner([healthy(provider)]).handle(bench.submit(attempt()))
    assert len(provider.asked) == 1
    ids = [header(record.headers, "ce_id") for record in bench.records(topics.ATTEMPTS_FINISHED)]
    assert ids == ["task-1/1/execution-1"] * 2
    assert len(bench.read(topics.USAGE_RECORDED)) == 1


async def test_an_answer_that_kafka_does_not_take_is_a_failure(provider: ScriptedProvider) -> None:
    faults = _Faults()
    bench = WorkerBench(faults)
    await bench.prepare()
    faults.failures = {"headrace.attempts.finished": [RecordRefused("too large")]}
    await bench.runner([healthy(provider)]).handle(bench.submit(attempt()))
    finished = ended(bench)
    assert finished.failure is not None
    assert (finished.outcome, finished.failure.code) == (Outcome.FAILED_PERMANENT, "answer_too_large")
    assert finished.usage.output_tokens == 3
    assert len(bench.read(topics.USAGE_RECORDED)) == 1


async def test_an_attempt_of_a_partition_that_is_not_there_is_for_the_dead_letters(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    with pytest.raises(SendToDeadLetters):
        await bench.runner([healthy(provider)]).handle(bench.submit(attempt(home_partition=77)))


async def test_a_cancelled_run_gives_its_slot_back(bench: WorkerBench, provider: ScriptedProvider) -> None:
    endpoint = healthy(provider)
    provider.script = [asyncio.Event()]
    task = asyncio.create_task(bench.runner([endpoint]).handle(bench.submit(attempt())))
    async with asyncio.timeout(30):
        while not provider.running:  # noqa: ASYNC110 - looks at what has no event
            await asyncio.sleep(0.001)
    assert endpoint.busy == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (endpoint.busy, provider.running) == (0, 0)
    assert bench.read(topics.ATTEMPTS_FINISHED) == []


class _SlowReplies:
    """Holds appends to the replies until `go` is set."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.go = asyncio.Event()

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if request.operation is Operation.APPEND and request.partitions[0].topic == "headrace.tasks.replies":
            self.held.set()
            await self.go.wait()
        return perform()


async def test_a_cancellation_after_the_call_books_what_the_call_consumed(provider: ScriptedProvider) -> None:
    """The answer is whole, and its last pieces are being written, when the attempt is cancelled."""
    network = _SlowReplies()
    bench = WorkerBench(network)
    await bench.prepare()
    runner = bench.runner([healthy(provider)])
    record = bench.submit(attempt(stream=True, reply_partition=5))
    running = asyncio.create_task(runner.handle(record))
    await asyncio.wait_for(network.held.wait(), 30)
    await eventually(lambda: not provider.running, "the call has ended")
    assert runner.interrupt({("task-1", "acme")}) == 1
    network.go.set()
    await asyncio.wait_for(running, 30)
    assert ended(bench).outcome is Outcome.CANCELLED
    (usage,) = bench.read(topics.USAGE_RECORDED)
    assert (usage.usage.input_tokens, usage.usage.output_tokens) == (7, 3)


async def test_who_could_not_even_connect_has_asked_nobody(bench: WorkerBench, provider: ScriptedProvider) -> None:
    provider.script = [RetrySameProvider("unreachable", "refused", provider="p", sent=False)]
    await bench.runner([healthy(provider)]).handle(bench.submit(attempt()))
    finished = ended(bench)
    assert finished.failure is not None
    assert (finished.outcome, finished.failure.code) == (Outcome.FAILED_RETRYABLE, "unreachable")
    assert (finished.node, finished.usage, finished.model_ms) == (None, events.Usage(), 0.0)
    assert bench.read(topics.USAGE_RECORDED) == []


async def test_a_second_call_that_could_not_connect_does_not_hide_the_first(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    provider.script = [
        RetrySameProvider("unreachable", "refused", provider="p", sent=False, usage=CallUsage(11, 5)),
    ]
    await bench.runner([healthy(provider)]).handle(bench.submit(attempt()))
    assert ended(bench).node == "node-1"
    assert len(bench.read(topics.USAGE_RECORDED)) == 1
