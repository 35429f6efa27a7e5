"""Cancelled tasks: who learns of them, and what becomes of their attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from headrace_contracts import events, topics
from headrace_contracts.events import Outcome
from headrace_models.call import Call, calling, spent_until
from headrace_models.conversation import ChatMessage
from headrace_models.ports import ChatRequest, ChatResult, OnPiece, OnText, no_pieces
from headrace_models.worker import cancellations as cancellations_module
from headrace_models.worker.cancellations import Cancellations, CancelledTasks, is_cancelled
from headrace_streams.memory.cluster import MemoryCluster
from headrace_streams.publishing import Publication
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_testing.odd_values import ODD, UNFORESEEN, fail_on_odd_values
from headrace_testing.workers import PREFIX, ScriptedProvider, WorkerBench, attempt, healthy, now_ms

TOPIC = PREFIX + topics.ATTEMPTS_CANCELLED_LOCAL.name


@pytest.fixture
async def bench() -> WorkerBench:
    made = WorkerBench()
    await made.prepare()
    return made


def cancellation(
    bench: WorkerBench,
    task_id: str,
    tenant: str = "acme",
    *,
    at: int | None = None,
    partition: int = 0,
    spec: topics.TopicSpec = topics.ATTEMPTS_CANCELLED_LOCAL,
    number: int = 0,
) -> None:
    """As the router writes it."""
    event = events.AttemptsCancelled(task_id=task_id, tenant=tenant, number=number, cancelled_at=at or now_ms())
    publication = Publication(
        spec=spec, event=event, event_id=f"{task_id}/cancelled", key=b"k", tenant=tenant, time_ms=event.cancelled_at,
        partition=partition,
    )  # fmt: skip
    bench.cluster.append(bench.publisher.record_of(publication), event.cancelled_at)


def request(bench: WorkerBench, task_id: str, tenant: str = "acme", *, into: str = "") -> None:
    """As whoever may write to tasks.cancelled."""
    spec = topics.TASKS_CANCELLED
    event = events.TaskCancelled(task_id=task_id, tenant=tenant, requested_at=now_ms())
    record = ProducerRecord(into or PREFIX + spec.name, bench.codec.encode(spec, event), b"k", 0)
    bench.cluster.append(record, now_ms())


async def eventually(true: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110 - looks at what has no event
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"never: {what}")


@asynccontextmanager
async def following(
    bench: WorkerBench,
    on_cancelled: Callable[[CancelledTasks], None] = lambda _cancelled: None,
    remembered: int = 100,
    spec: topics.TopicSpec = topics.ATTEMPTS_CANCELLED_LOCAL,
) -> AsyncIterator[Cancellations]:
    made = Cancellations(
        bench.log,
        bench.codec,
        spec,
        history_seconds=60,
        clock_ms=now_ms,
        on_cancelled=on_cancelled,
        remembered=remembered,
    )
    await made.start()
    run = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await made.close()


async def test_cancellations_of_the_last_while_are_known_at_the_start_and_older_ones_not(bench: WorkerBench) -> None:
    cancellation(bench, "old", at=now_ms() - 120_000)
    cancellation(bench, "recent", at=now_ms() - 30_000)
    cancellation(bench, "elsewhere", at=now_ms() - 30_000, partition=5)
    async with following(bench) as known:
        assert known.has("recent", "acme")
        assert known.has("elsewhere", "acme")
        assert not known.has("old", "acme")


async def test_new_cancellations_are_told_and_garbage_stops_nothing(bench: WorkerBench) -> None:
    told: list[tuple[str, str]] = []
    async with following(bench, told.extend) as known:
        bench.cluster.append(ProducerRecord(TOPIC, b"garbage", partition=2), now_ms())
        cancellation(bench, "new", partition=2)
        await eventually(lambda: known.has("new", "acme"), "it is known")
    assert told == [("new", "acme")]


async def test_a_foreign_tenants_cancellation_is_none_and_hides_none(bench: WorkerBench) -> None:
    cancellation(bench, "task-1", "acme")
    cancellation(bench, "task-1", "mallory")
    cancellation(bench, "task-2", "mallory")
    async with following(bench) as known:
        assert known.has("task-1", "acme")
        assert not known.has("task-2", "acme")
    assert is_cancelled({("task-1", "acme")}, bench.submit(attempt("task-1")))
    assert not is_cancelled({("task-1", "mallory")}, bench.submit(attempt("task-1")))


@pytest.mark.parametrize("started", [False, True], ids=["before the start", "while it runs"])
@pytest.mark.parametrize(
    "spec", [topics.ATTEMPTS_CANCELLED_LOCAL, topics.ATTEMPTS_CANCELLED_CLOUD], ids=lambda spec: spec.name
)
async def test_only_what_the_router_writes_for_this_kind_of_worker_counts(
    bench: WorkerBench, spec: topics.TopicSpec, started: bool
) -> None:
    (other,) = {topics.ATTEMPTS_CANCELLED_LOCAL, topics.ATTEMPTS_CANCELLED_CLOUD} - {spec}

    def write() -> None:
        request(bench, "requested")
        request(bench, "requested in the wrong topic", into=PREFIX + spec.name)
        cancellation(bench, "of the other kind", spec=other)
        cancellation(bench, "ours", spec=spec)

    if not started:
        write()
    async with following(bench, spec=spec) as known:
        if started:
            write()
        await eventually(lambda: known.has("ours", "acme"), "it is known")
        found = [name for name in ("requested", "requested in the wrong topic", "of the other kind")
                 if known.has(name, "acme")]  # fmt: skip
        assert found == []


async def test_the_oldest_cancellations_are_forgotten_when_there_are_too_many(bench: WorkerBench) -> None:
    for number in range(5):
        cancellation(bench, f"task-{number}")
    async with following(bench, remembered=3) as known:
        assert [known.has(f"task-{number}", "acme") for number in range(5)] == [False, False, True, True, True]


async def test_partitions_that_are_added_are_followed(bench: WorkerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellations_module, "_LOOK_SECONDS", 0.0)
    async with following(bench) as known:
        _add_partition(bench.cluster)
        cancellation(bench, "first")
        await eventually(lambda: known.has("first", "acme"), "the first is known")
        cancellation(bench, "second", partition=6)
        await eventually(lambda: known.has("second", "acme"), "the one in the new partition is known")


def _add_partition(cluster: MemoryCluster) -> None:
    before = cluster.partition(TopicPartition(TOPIC, 0))
    cluster._topics[TOPIC].append(type(before)(TopicPartition(TOPIC, 6)))


async def test_cancellations_lost_to_retention_are_no_reason_to_stop_following(bench: WorkerBench) -> None:
    async with following(bench) as known:
        for number in range(3):
            cancellation(bench, f"gone-{number}")
        bench.cluster.delete_before(TopicPartition(TOPIC, 0), 3)
        cancellation(bench, "later")
        await eventually(lambda: known.has("later", "acme"), "it goes on")


class _Slow(ScriptedProvider):
    """Says something, then hangs, as a client of a real provider does."""

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        self.asked.append(request)
        self.running += 1
        call = Call(self.provider, request, on_text)
        try:
            async with calling(call):
                call.accepted = True
                await call.hear("half an answer, and then ")
                await asyncio.sleep(60)
        finally:
            self.running -= 1
        raise AssertionError("not to be reached")


async def test_a_running_attempt_is_ended_and_what_it_consumed_is_recorded(bench: WorkerBench) -> None:
    provider = _Slow()
    runner = bench.runner([healthy(provider, slots=1)])
    running = asyncio.create_task(runner.handle(bench.submit(attempt())))
    await eventually(lambda: provider.running == 1, "the call runs")
    assert [call.model for call in runner.calls()] == [("ollama", "gemma2:2b")]
    assert runner.interrupt({("task-1", "mallory"), ("task-2", "acme")}) == 0
    assert runner.interrupt({("task-1", "acme")}) == 1
    assert runner.interrupt({("task-1", "acme")}) == 0, "once is enough"
    await running
    assert running.cancelling() == 0, "the task may go on with another record"
    (end,) = bench.read(topics.ATTEMPTS_FINISHED)
    assert (end.outcome, end.failure.code, end.node) == (Outcome.CANCELLED, "cancelled", "node-1")
    (usage,) = bench.read(topics.USAGE_RECORDED)
    assert usage.outcome is Outcome.CANCELLED
    assert usage.usage.input_tokens > 0
    assert usage.usage.output_tokens > 0
    assert list(runner.calls()) == []


async def test_an_attempt_that_waits_for_a_slot_is_ended_and_bills_nothing(bench: WorkerBench) -> None:
    provider = ScriptedProvider()
    gate = asyncio.Event()
    provider.script = [gate]
    runner = bench.runner([healthy(provider, slots=1)])
    first = asyncio.create_task(runner.handle(bench.submit(attempt("first"))))
    await eventually(lambda: provider.running == 1, "the slot is taken")
    second = asyncio.create_task(runner.handle(bench.submit(attempt("second"))))
    await asyncio.sleep(0.01)
    assert runner.interrupt({("second", "acme")}) == 1
    await second
    gate.set()
    await first
    ends = {end.task_id: end for end in bench.read(topics.ATTEMPTS_FINISHED)}
    assert (ends["second"].outcome, ends["second"].node) == (Outcome.CANCELLED, None)
    assert ends["first"].outcome is Outcome.ANSWERED
    assert [usage.task_id for usage in bench.read(topics.USAGE_RECORDED)] == ["first"]
    assert len(provider.asked) == 1
    await asyncio.wait_for(runner.handle(bench.submit(attempt("third"))), 30)


async def test_a_cancellation_from_elsewhere_is_not_taken_for_a_cancellation(bench: WorkerBench) -> None:
    provider = _Slow()
    running = asyncio.create_task(bench.runner([healthy(provider)]).handle(bench.submit(attempt())))
    await eventually(lambda: provider.running == 1, "the call runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.read(topics.ATTEMPTS_FINISHED) == []


async def test_an_attempt_whose_cancellation_came_first_does_not_begin(bench: WorkerBench) -> None:
    provider = ScriptedProvider()
    runner = bench.runner([healthy(provider)], is_cancelled=lambda task_id, tenant: (task_id, tenant) == ("a", "acme"))
    await runner.handle(bench.submit(attempt("a")))
    await runner.handle(bench.submit(attempt("b")))
    await runner.skip(bench.submit(attempt("c")))
    ends = {end.task_id: end.outcome for end in bench.read(topics.ATTEMPTS_FINISHED)}
    assert ends == {"a": Outcome.CANCELLED, "b": Outcome.ANSWERED, "c": Outcome.CANCELLED}
    assert [usage.task_id for usage in bench.read(topics.USAGE_RECORDED)] == ["b"]
    assert len(provider.asked) == 1


async def test_an_outer_time_out_is_still_one() -> None:
    """What is noted in a cancellation must not hide from asyncio whose it is."""
    request = ChatRequest(model="m", messages=(ChatMessage("user", "words"),), timeout_seconds=60)
    call = Call("p", request, lambda _piece: None)

    async def hang() -> None:
        async with asyncio.timeout(0.01), calling(call):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await hang()
    assert spent_until(asyncio.CancelledError()) is None


@pytest.mark.parametrize("error", UNFORESEEN, ids=repr)
async def test_an_error_of_any_kind_in_one_request_stops_no_others(
    bench: WorkerBench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_on_odd_values(monkeypatch, error)
    bench.cluster.append(ProducerRecord(TOPIC, ODD, partition=0), now_ms())
    async with following(bench) as known:
        bench.cluster.append(ProducerRecord(TOPIC, ODD, partition=2), now_ms())
        cancellation(bench, "new", partition=2)
        await eventually(lambda: known.has("new", "acme"), "it is known")


async def test_an_attempt_that_was_taken_back_is_stopped_and_the_next_one_of_its_task_is_not(
    bench: WorkerBench,
) -> None:
    cancellation(bench, "task-1", number=1)
    async with following(bench) as known:
        assert known.has("task-1/1", "acme")
        assert not known.has("task-1", "acme")
        assert not known.has("task-1/2", "acme")
        provider = ScriptedProvider()
        runner = bench.runner([healthy(provider)], is_cancelled=known.has)
        await runner.handle(bench.submit(attempt("task-1", number=1)))
        await runner.handle(bench.submit(attempt("task-1", number=2)))
    assert is_cancelled({("task-1/1", "acme")}, bench.submit(attempt("task-1", number=1)))
    assert not is_cancelled({("task-1/1", "acme")}, bench.submit(attempt("task-1", number=2)))
    ends = {end.number: end.outcome for end in bench.read(topics.ATTEMPTS_FINISHED)}
    assert ends == {1: Outcome.CANCELLED, 2: Outcome.ANSWERED}
    assert len(provider.asked) == 1


async def test_a_running_attempt_that_was_taken_back_ends_and_no_other_one_of_its_task(bench: WorkerBench) -> None:
    provider = _Slow()
    runner = bench.runner([healthy(provider, slots=1)])
    running = asyncio.create_task(runner.handle(bench.submit(attempt("task-1", number=2))))
    await eventually(lambda: provider.running == 1, "the call runs")
    assert runner.interrupt({("task-1/1", "acme"), ("task-1/2", "mallory")}) == 0
    assert runner.interrupt({("task-1/2", "acme")}) == 1
    await running
    (end,) = bench.read(topics.ATTEMPTS_FINISHED)
    assert (end.number, end.outcome) == (2, Outcome.CANCELLED)
