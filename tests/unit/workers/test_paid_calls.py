"""Calls that cost money: announced before they are made, and accounted for whatever becomes of their worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from headrace_contracts import events, topics
from headrace_contracts.events import Outcome
from headrace_contracts.headers import REPEATED, header
from headrace_models.ports import CallUsage
from headrace_models.worker.earlier_executions import EarlierExecutions
from headrace_models.worker.paid_calls import PaidCalls
from headrace_models.worker.runner import AttemptRunner
from headrace_streams.errors import RecordRefused, RetryRecord, SendToDeadLetters, TransientError
from headrace_streams.memory import HANGS, NetworkRequest, Operation
from headrace_streams.partitioning import partition_of
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record, TopicPartition
from headrace_testing.engine import eventually
from headrace_testing.workers import PREFIX, ScriptedProvider, WorkerBench, attempt, healthy, now_ms

T = TypeVar("T")

WORST = 5_000
CALLED = TopicPartition(f"{PREFIX}attempts.started", 3)
USAGE_OF_ACME = TopicPartition(f"{PREFIX}usage.recorded", partition_of(b"acme", topics.USAGE_RECORDED.partitions))


class Gate:
    """Holds or refuses appends to a topic."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.topic = "headrace.attempts.started"
        self.refusals = 0
        self.seen = 0

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if request.operation is Operation.APPEND and request.partitions[0].topic == self.topic:
            self.seen += 1
            await self.open.wait()
            if self.refusals:
                self.refusals -= 1
                raise RecordRefused("not authorised")
        return perform()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def bench(gate: Gate) -> WorkerBench:
    made = WorkerBench(gate)
    await made.prepare()
    return made


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider("groq", "groq")


def paid_calls(bench: WorkerBench, **options: Any) -> PaidCalls:
    return PaidCalls(bench.log, bench.codec, bench.publisher, worker="worker-1", clock_ms=now_ms, **options)


def runner(bench: WorkerBench, provider: ScriptedProvider, paid: PaidCalls | None = None) -> AttemptRunner:
    return bench.runner(
        [healthy(provider, slots=1)],
        outcomes_to=topics.ATTEMPTS_FINISHED_CLOUD,
        paid=paid or paid_calls(bench, hold_seconds=0.05, refused_seconds=0.01),
    )


def paid(task_id: str = "task-1", **changes: Any) -> events.AttemptRequested:
    return attempt(task_id, **{"provider": "groq", "worst_case_nanodollars": WORST, **changes})


def submit(bench: WorkerBench, request: events.AttemptRequested) -> Record:
    return bench.submit(request, topics.WORK_CLOUD_INTERACTIVE)


async def begun(bench: WorkerBench, request: events.AttemptRequested, execution: str) -> None:
    """Another worker has announced an execution, and died."""
    event = events.AttemptStarted(
        attempt_id=request.attempt_id, task_id=request.task_id, tenant=request.tenant,
        home_partition=request.home_partition, execution_id=execution, worker="worker-0", provider=request.provider,
        model=request.model, worst_case_nanodollars=request.worst_case_nanodollars, started_at=now_ms(),
    )  # fmt: skip
    await written(bench, topics.ATTEMPTS_STARTED, event, request, execution, request.home_partition)


async def reported(bench: WorkerBench, request: events.AttemptRequested, execution: str, node: str | None) -> None:
    event = events.AttemptFinished(
        attempt_id=request.attempt_id, task_id=request.task_id, tenant=request.tenant, number=request.number,
        home_partition=request.home_partition, execution_id=execution, worker="worker-0", outcome=Outcome.ANSWERED,
        provider=request.provider, model=request.model, node=node,
        usage=events.Usage(input_tokens=11, output_tokens=2), finished_at=now_ms(),
    )  # fmt: skip
    await written(bench, topics.ATTEMPTS_FINISHED_CLOUD, event, request, execution, request.home_partition)


async def recorded(bench: WorkerBench, request: events.AttemptRequested, execution: str) -> None:
    event = events.UsageRecorded(
        event_id=f"{request.attempt_id}/{execution}", tenant=request.tenant, task_id=request.task_id,
        attempt_id=request.attempt_id, execution_id=execution, provider=request.provider, model=request.model,
        outcome=Outcome.ANSWERED, usage=events.Usage(input_tokens=11, output_tokens=2), recorded_at=now_ms(),
    )  # fmt: skip
    await written(bench, topics.USAGE_RECORDED, event, request, execution, None)


async def written(
    bench: WorkerBench,
    spec: topics.TopicSpec,
    event: Any,
    request: events.AttemptRequested,
    execution: str,
    partition: int | None,
) -> None:
    await Publisher(bench.producer, bench.codec, "headrace/cloud-worker/worker-0").send(
        Publication(
            spec=spec, event=event, event_id=f"{request.attempt_id}/{execution}",
            key=b"p:route" if partition is not None else request.tenant.encode(), partition=partition,
            tenant=request.tenant, time_ms=now_ms(), subject=request.task_id,
        )
    )  # fmt: skip


def taken_over(bench: WorkerBench, record: Record) -> PaidCalls:
    """A worker that has just been assigned the record's partition."""
    calls = paid_calls(bench)
    calls.doubt(record.topic_partition)
    return calls


def usage(bench: WorkerBench) -> dict[str, events.UsageRecorded]:
    all_of_it = bench.read(topics.USAGE_RECORDED)
    assert len({one.event_id for one in all_of_it}) == len(all_of_it), "each is recorded once"
    return {one.event_id: one for one in all_of_it}


async def test_a_call_waits_for_its_announcement(bench: WorkerBench, provider: ScriptedProvider, gate: Gate) -> None:
    gate.open.clear()
    running = asyncio.create_task(runner(bench, provider, paid_calls(bench)).handle(submit(bench, paid())))
    await eventually(lambda: gate.seen == 1, "it is announced")
    await asyncio.sleep(0.02)
    assert provider.asked == []
    gate.open.set()
    await asyncio.wait_for(running, 30)
    (started,) = bench.read(topics.ATTEMPTS_STARTED)
    (finished,) = bench.read(topics.ATTEMPTS_FINISHED_CLOUD)
    assert started.execution_id == finished.execution_id == "execution-1"
    assert (started.worst_case_nanodollars, started.worker, started.provider) == (WORST, "worker-1", "groq")
    (record,) = bench.records(topics.ATTEMPTS_STARTED)
    assert (record.partition, record.key) == (3, b"p:route")
    assert header(record.headers, "ce_id") == "task-1/1/execution-1"


async def test_what_cannot_be_announced_holds_no_slot(bench: WorkerBench, provider: ScriptedProvider) -> None:
    bench.cluster.sicken(CALLED, appends=HANGS)
    worker = runner(bench, provider)
    first = asyncio.create_task(worker.handle(submit(bench, paid("task-1"))))
    await asyncio.sleep(0.02)
    await asyncio.wait_for(worker.handle(submit(bench, paid("task-2", home_partition=4))), 30)
    assert [end.task_id for end in bench.read(topics.ATTEMPTS_FINISHED_CLOUD)] == ["task-2"]
    bench.cluster.heal(CALLED)
    await asyncio.wait_for(first, 30)
    assert len(provider.asked) == 2
    assert len(bench.read(topics.ATTEMPTS_STARTED)) == 2


async def test_a_refused_announcement_is_tried_until_somebody_allows_it(
    bench: WorkerBench, provider: ScriptedProvider, gate: Gate
) -> None:
    gate.refusals = 3
    await asyncio.wait_for(runner(bench, provider).handle(submit(bench, paid())), 30)
    (finished,) = bench.read(topics.ATTEMPTS_FINISHED_CLOUD)
    assert finished.outcome is Outcome.ANSWERED
    assert (gate.seen, len(bench.read(topics.ATTEMPTS_STARTED))) == (4, 1)


async def test_a_deadline_ends_the_wait_for_an_announcement_without_a_call(
    bench: WorkerBench, provider: ScriptedProvider, gate: Gate
) -> None:
    gate.open.clear()
    await asyncio.wait_for(runner(bench, provider).handle(submit(bench, paid(deadline_at=now_ms() + 300))), 30)
    (finished,) = bench.read(topics.ATTEMPTS_FINISHED_CLOUD)
    assert (finished.outcome, provider.asked, usage(bench)) == (Outcome.EXPIRED, [], {})


async def test_an_attempt_of_a_partition_that_is_not_there_calls_nobody(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    with pytest.raises(SendToDeadLetters):
        await runner(bench, provider).handle(submit(bench, paid(home_partition=77)))
    assert provider.asked == []


@pytest.mark.parametrize("late", [False, True], ids=["in time", "after its deadline"])
async def test_a_lost_execution_is_recorded_once_and_the_attempt_runs_again(
    bench: WorkerBench, provider: ScriptedProvider, late: bool
) -> None:
    request = paid(deadline_at=now_ms() - 1 if late else None)
    record = submit(bench, request)
    await begun(bench, request, "lost-1")
    await begun(bench, request, "lost-2")
    for _ in range(2 if late else 1):
        await runner(bench, provider, taken_over(bench, record)).handle(record)
    found = usage(bench)
    for execution in ("lost-1", "lost-2"):
        one = found.pop(f"task-1/1/{execution}/lost")
        assert (one.outcome, one.execution_id, one.usage) == (Outcome.LOST, execution, events.Usage())
        assert (one.possibly_billed_nanodollars, one.provider, one.user) == (WORST, "groq", "ann")
    (finished, *_) = bench.read(topics.ATTEMPTS_FINISHED_CLOUD)
    assert [(one.execution_id, one.worker) for one in finished.lost] == [("lost-1", "worker-0"), ("lost-2", "worker-0")]
    assert finished.outcome is (Outcome.EXPIRED if late else Outcome.ANSWERED)
    assert (len(provider.asked), len(found)) == ((0, 0) if late else (1, 1))
    assert all(one.possibly_billed_nanodollars == 0 for one in found.values())


async def test_a_cancelled_attempt_is_settled_too(bench: WorkerBench, provider: ScriptedProvider) -> None:
    record = submit(bench, paid())
    await begun(bench, paid(), "lost-1")
    await runner(bench, provider, taken_over(bench, record)).skip(record)
    assert usage(bench)["task-1/1/lost-1/lost"].possibly_billed_nanodollars == WORST
    (finished,) = bench.read(topics.ATTEMPTS_FINISHED_CLOUD)
    assert (finished.outcome, len(finished.lost), provider.asked) == (Outcome.CANCELLED, 1, [])


@pytest.mark.parametrize("node", ["groq", None], ids=["called", "not called"])
@pytest.mark.parametrize("has_usage", [False, True], ids=["usage missing", "usage there"])
async def test_what_is_reported_is_not_called_again(
    bench: WorkerBench, provider: ScriptedProvider, node: str | None, has_usage: bool
) -> None:
    record = submit(bench, paid())
    await begun(bench, paid(), "one")
    await reported(bench, paid(), "one", node)
    if has_usage:
        await recorded(bench, paid(), "one")
    await runner(bench, provider, taken_over(bench, record)).handle(record)
    assert provider.asked == []
    assert len(bench.read(topics.ATTEMPTS_FINISHED_CLOUD)) == 1
    found = usage(bench)
    assert list(found) == (["task-1/1/one"] if node or has_usage else [])
    for one in found.values():
        assert (one.usage.input_tokens, one.outcome, one.attempt_id) == (11, Outcome.ANSWERED, "task-1/1")


async def test_an_execution_whose_cost_is_known_is_not_lost(bench: WorkerBench, provider: ScriptedProvider) -> None:
    record = submit(bench, paid())
    await begun(bench, paid(), "one")
    await recorded(bench, paid(), "one")
    await runner(bench, provider, taken_over(bench, record)).handle(record)
    assert sorted(usage(bench)) == ["task-1/1/execution-1", "task-1/1/one"]
    (finished,) = bench.read(topics.ATTEMPTS_FINISHED_CLOUD)
    assert (finished.lost, len(provider.asked)) == ((), 1)


async def test_a_report_that_nobody_can_read_is_none(bench: WorkerBench, provider: ScriptedProvider) -> None:
    record = submit(bench, paid())
    await begun(bench, paid(), "one")
    await reported(bench, paid(), "one", "groq")
    name = f"{PREFIX}attempts.finished.cloud"
    [written_one] = bench.cluster.records(name, 3)
    bench.cluster.partition(TopicPartition(name, 3)).records[0] = Record(
        name, 3, 0, written_one.timestamp_ms, written_one.key, b"junk", written_one.headers
    )
    await runner(bench, provider, taken_over(bench, record)).handle(record)
    assert (len(provider.asked), "task-1/1/one/lost" in usage(bench)) == (1, True)


async def test_a_report_that_retention_removes_meanwhile_is_one_all_the_same(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    record = submit(bench, paid())
    await begun(bench, paid(), "one")
    await reported(bench, paid(), "one", "groq")
    calls = taken_over(bench, record)
    bench.cluster.sicken(USAGE_OF_ACME, bounds=HANGS)
    settling = asyncio.create_task(runner(bench, provider, calls).handle(record))
    await asyncio.sleep(0.1)
    bench.cluster.partition(TopicPartition(f"{PREFIX}attempts.finished.cloud", 3)).delete_before(1)
    bench.cluster.heal(USAGE_OF_ACME)
    await asyncio.wait_for(settling, 30)
    assert (provider.asked, list(usage(bench))) == ([], ["task-1/1/one/lost"])


@pytest.mark.parametrize(("left", "runs"), [(None, True), (2 * WORST, True), (2 * WORST - 1, False)])
async def test_an_attempt_runs_again_only_within_its_budget(
    bench: WorkerBench, provider: ScriptedProvider, left: int | None, runs: bool
) -> None:
    request = paid(budget_left_nanodollars=left)
    record = submit(bench, request)
    await begun(bench, request, "lost-1")
    await runner(bench, provider, taken_over(bench, record)).handle(record)
    (finished,) = bench.read(topics.ATTEMPTS_FINISHED_CLOUD)
    assert (len(provider.asked), len(finished.lost)) == (int(runs), 1)
    assert finished.failure is None if runs else finished.failure.code == "execution_lost"


async def test_a_call_that_its_worker_stops_is_recorded_and_not_lost(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    class Counting(ScriptedProvider):
        async def _chat(self, request: Any, on_text: Any) -> Any:
            try:
                return await super()._chat(request, on_text)
            except asyncio.CancelledError as cancelled:
                cancelled.args = (*cancelled.args, CallUsage(9, 4))
                raise

    counting = Counting("groq", "groq")
    counting.script = [asyncio.Event()]
    record = submit(bench, paid())
    stopped = asyncio.create_task(runner(bench, counting).handle(record))
    await eventually(lambda: counting.running == 1, "it calls")
    stopped.cancel()
    await asyncio.gather(stopped, return_exceptions=True)
    (one,) = usage(bench).values()
    assert (one.event_id, one.outcome, one.usage.output_tokens) == ("task-1/1/execution-1", Outcome.CANCELLED, 4)
    await runner(bench, provider, taken_over(bench, record)).handle(record)
    assert sorted(usage(bench)) == ["task-1/1/execution-1", "task-1/1/execution-2"]


async def test_a_stopped_call_of_which_nothing_is_known_is_lost(bench: WorkerBench, provider: ScriptedProvider) -> None:
    provider.script = [asyncio.Event()]
    record = submit(bench, paid())
    stopped = asyncio.create_task(runner(bench, provider).handle(record))
    await eventually(lambda: provider.running == 1, "it calls")
    stopped.cancel()
    await asyncio.gather(stopped, return_exceptions=True)
    assert usage(bench) == {}
    await runner(bench, provider, taken_over(bench, record)).handle(record)
    assert sorted(usage(bench)) == ["task-1/1/execution-1/lost", "task-1/1/execution-2"]


async def test_a_repeated_record_is_looked_up_and_waits_for_the_first(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    provider.script = [go := asyncio.Event()]
    worker = runner(bench, provider)
    first = submit(bench, paid())
    running = asyncio.create_task(worker.handle(first))
    await eventually(lambda: provider.running == 1, "it calls")
    again = Record(first.topic, first.partition, 9, now_ms(), first.key, first.value,
                   (*first.headers, (REPEATED, b"1")))  # fmt: skip
    with pytest.raises(RetryRecord):
        await worker.handle(again)
    go.set()
    await asyncio.wait_for(running, 30)
    await worker.handle(again)
    assert (len(provider.asked), list(usage(bench))) == (1, ["task-1/1/execution-1"])


async def test_only_records_from_before_the_assignment_are_looked_up(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    calls = paid_calls(bench)
    old = submit(bench, paid("task-1"))
    calls.doubt(old.topic_partition)
    await calls.settle(old, paid("task-1"))
    await begun(bench, paid("task-2"), "somebody")
    new = submit(bench, paid("task-2"))
    assert (await calls.settle(new, paid("task-2"))).lost == ()
    calls.doubt(new.topic_partition)
    assert len((await calls.settle(new, paid("task-2"))).lost) == 1


async def test_a_home_partition_that_cannot_be_read_keeps_its_attempts_waiting(
    bench: WorkerBench, provider: ScriptedProvider
) -> None:
    record = submit(bench, paid())
    await begun(bench, paid(), "lost-1")
    earlier = EarlierExecutions(bench.log, PREFIX, read_seconds=0.2)
    earlier.doubt(record.topic_partition)
    bench.cluster.sicken(CALLED, reads=HANGS)
    with pytest.raises(TransientError):
        await earlier.of(record, "task-1/1", 3, "acme")
    elsewhere = await earlier.of(record, "task-9/1", 4, "acme")
    assert (elsewhere.started, elsewhere.finished) == ({}, {})
    bench.cluster.heal(CALLED)
    assert list((await earlier.of(record, "task-1/1", 3, "acme")).started) == ["lost-1"]


async def test_few_attempts_are_kept_and_all_are_found(bench: WorkerBench) -> None:
    requests = [paid(f"task-{number}") for number in range(40)]
    records = [submit(bench, request) for request in requests]
    for request in requests:
        await begun(bench, request, "gone")
    earlier = EarlierExecutions(bench.log, PREFIX, most_attempts=5)
    earlier.doubt(records[0].topic_partition)
    for group in (range(0, 20), range(20, 40)):
        found = await asyncio.gather(
            *(earlier.of(records[number], requests[number].attempt_id, 3, "acme") for number in group)
        )
        assert [list(one.started) for one in found] == [["gone"]] * 20
        assert all(len(known.found) <= 20 for known in earlier._known.values())
