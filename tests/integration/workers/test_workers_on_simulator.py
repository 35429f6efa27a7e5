"""The workers whole, on the in-memory log, with providers that speak the real wire formats."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_cloud_worker.wiring import worker_parts as cloud_parts
from headrace_contracts import events, topics
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import Lane, Outcome, Privacy, ReplyKind
from headrace_contracts.topics import dead_letters_of
from headrace_models.simulator.faults import Fault, FaultKind
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_runtime.health import Health
from headrace_runtime.metrics import Metrics
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.offsets import decode
from headrace_streams.publishing import Publication
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, TopicPartition
from headrace_testing.worker_on_nodes import until, worker_on, working
from headrace_testing.workers import PREFIX, WorkerBench, attempt, now_ms
from prometheus_client import generate_latest

NODES = {"workstation": ("gemma2:2b", "phi3:3.8b"), "remote": ("gemma2:2b", "llama3:8b")}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes=NODES)) as running:
        yield running


@asynccontextmanager
async def local_worker(bench: WorkerBench, simulator: Simulator, **changes: Any) -> AsyncIterator[Metrics]:
    nodes = changes.pop("ollama_nodes", None) or [f"{simulator.ollama_url(name)};slots=2" for name in NODES]
    async with worker_on(bench, nodes, **changes) as metrics:
        yield metrics


@asynccontextmanager
async def cloud_worker(
    bench: WorkerBench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> AsyncIterator[None]:
    for name, value in {
        "GROQ_API_KEY": "simulated",
        "HEADRACE_GROQ_URL": simulator.groq_url,
        "ANTHROPIC_API_KEY": "simulated",
        "HEADRACE_ANTHROPIC_URL": simulator.anthropic_url,
        "TAVILY_API_KEY": "simulated",
        "HEADRACE_TAVILY_URL": simulator.tavily_url,
        "HEADRACE_OPENAI_COMPATIBLE": f"mine={simulator.groq_url}=MY_KEY",
        "MY_KEY": "simulated",
        "HEADRACE_INSTANCE_ID": "cloud-1",
    }.items():
        monkeypatch.setenv(name, value)
    metrics = Metrics("cloud_worker")
    letters = DeadLetters(bench.publisher, "cloud-worker", PREFIX, now_ms)
    parts = cloud_parts(
        CloudWorkerSettings(**changes),
        metrics,
        log=bench.log,
        codec=bench.codec,
        publisher=bench.publisher,
        dead_letters=letters,
        health=Health(),
    )
    async with working(parts, metrics):
        yield


async def finished(bench: WorkerBench, count: int) -> dict[str, events.AttemptFinished]:
    """The outcomes of both kinds of workers, each in the topic of its kind."""
    async with asyncio.timeout(20):
        while len(found := outcomes(bench)) < count:  # noqa: ASYNC110 - looks at what has no event
            await asyncio.sleep(0.01)
    return {event.task_id: event for event in found}


def outcomes(bench: WorkerBench) -> list[events.AttemptFinished]:
    local, cloud = bench.read(topics.ATTEMPTS_FINISHED), bench.read(topics.ATTEMPTS_FINISHED_CLOUD)
    assert "cloud-1" not in {event.worker for event in local}
    assert {event.worker for event in cloud} <= {"cloud-1"}
    return [*local, *cloud]


async def test_a_mixed_load_is_run_on_all_nodes_and_each_attempt_ends_once(
    bench: WorkerBench, simulator: Simulator
) -> None:
    async with local_worker(bench, simulator) as metrics:
        for number in range(60):
            lane = Lane.BATCH if number % 3 else Lane.INTERACTIVE
            request = attempt(
                f"task-{number}",
                tenant=f"tenant-{number % 4}",
                lane=lane,
                messages=(events.Message(role="user", content=plain(f"Question {number}")),),
                stream=number == 0,
                reply_partition=2,
            )
            bench.submit(request, topics.work_topic(events.Place.LOCAL, lane), key=f"s:{number % 20}".encode())
        ends = await finished(bench, 60)
        usage = await until(bench, topics.USAGE_RECORDED, lambda all: len(all) >= 60)
        shown = generate_latest(metrics.registry).decode()
    assert {end.outcome for end in ends.values()} == {Outcome.ANSWERED}
    assert all(end.simulated and end.content and end.usage.output_tokens for end in ends.values())
    assert {end.node for end in ends.values()} == set(NODES)
    assert Counter(one.event_id for one in usage) == Counter(f"{e.attempt_id}/{e.execution_id}" for e in ends.values())
    replies = bench.read(topics.TASKS_REPLIES)
    answer = ends["task-0"].content
    assert answer is not None
    assert {reply.task_id for reply in replies} == {"task-0"}
    assert "".join(text_of(reply.text) for reply in replies if reply.kind is ReplyKind.DELTA) == text_of(answer)
    assert len(simulator.evidence.of("ollama")) == 60
    progress = bench.cluster.group(f"{PREFIX}local-worker").committed_offsets
    assert sum(moved.next_offset for moved in progress.values()) == 60
    assert all(decode(moved) == () for moved in progress.values())
    assert 'headrace_local_worker_attempts_total{failure="",model="gemma2:2b",outcome="answered"' in shown
    assert "headrace_local_worker_outstanding_work_seconds" in shown


def _reset(progress: dict[TopicPartition, OffsetAndMetadata]) -> None:
    for partition in progress:
        progress[partition] = OffsetAndMetadata(0)


def _reset_to_the_middle(progress: dict[TopicPartition, OffsetAndMetadata]) -> None:
    for partition, committed in progress.items():
        progress[partition] = OffsetAndMetadata(committed.next_offset // 2, "by hand")


def _forget(progress: dict[TopicPartition, OffsetAndMetadata]) -> None:
    progress.clear()


@pytest.mark.parametrize("rewind", [_reset, _reset_to_the_middle, _forget])
@pytest.mark.parametrize("lane", [Lane.INTERACTIVE, Lane.BATCH])
async def test_attempts_that_have_ended_are_not_run_again_when_offsets_are_reset(
    bench: WorkerBench,
    simulator: Simulator,
    lane: Lane,
    rewind: Callable[[dict[TopicPartition, OffsetAndMetadata]], None],
) -> None:
    spec = topics.work_topic(events.Place.LOCAL, lane)

    def submit(name: str) -> None:
        for number in range(12):
            request = attempt(f"{name}-{number}", lane=lane, deadline_at=now_ms() + 60_000)
            bench.submit(request, spec, key=f"s:{number}".encode())

    async with local_worker(bench, simulator):
        submit("first")
        await finished(bench, 12)
        await until(bench, topics.USAGE_RECORDED, lambda all: len(all) >= 12)
    # Not run yet when the group stands still: these are.
    submit("second")
    rewind(bench.cluster.group(f"{PREFIX}local-worker").committed_offsets)
    async with local_worker(bench, simulator):
        ends = await finished(bench, 24)
        submit("third")
        await finished(bench, 36)
    assert {task.partition("-")[0] for task in ends} == {"first", "second"}
    assert len(simulator.evidence.of("ollama")) == 36
    assert Counter(end.task_id for end in outcomes(bench)).most_common(1)[0][1] == 1
    progress = bench.cluster.group(f"{PREFIX}local-worker").committed_offsets
    assert sum(moved.next_offset for moved in progress.values()) == 36


async def test_the_fleet_learns_of_nodes_and_of_the_leave(bench: WorkerBench, simulator: Simulator) -> None:
    async with local_worker(bench, simulator):
        found = await until(bench, topics.FLEET_STATUS, lambda all: len({status.node for status in all}) == 2)
        by_node = {status.node: status for status in found}
        assert {model.name for model in by_node["remote"].models} == {"gemma2:2b", "llama3:8b"}
        assert all(status.simulated and status.healthy and status.slots == 2 for status in by_node.values())
    last = {status.node: status for status in bench.read(topics.FLEET_STATUS)}
    assert not any(status.healthy for status in last.values())


@pytest.mark.parametrize(
    ("kind", "outcome", "code", "calls", "asked"),
    [
        (FaultKind.OVERLOADED, Outcome.FAILED_RETRYABLE, "overloaded", 2, False),
        (FaultKind.ERROR, Outcome.FAILED_RETRYABLE, "provider_error", 2, True),
        (FaultKind.DISCONNECT, Outcome.FAILED_RETRYABLE, "connection_lost", 2, True),
        (FaultKind.MODEL_MISSING, Outcome.FAILED_PERMANENT, "model_missing", 2, True),
        (FaultKind.BAD_REQUEST, Outcome.FAILED_PERMANENT, "request_rejected", 1, True),
    ],
)
async def test_what_goes_wrong_at_all_nodes_is_reported_once(
    bench: WorkerBench, simulator: Simulator, kind: FaultKind, outcome: Outcome, code: str, calls: int, asked: bool
) -> None:
    simulator.faults.add("ollama", Fault(kind), 2)
    async with local_worker(bench, simulator):
        bench.submit(attempt())
        (end,) = (await finished(bench, 1)).values()
    assert end.failure is not None
    assert (end.outcome, end.failure.code) == (outcome, code)
    # What is wrong with the request says nothing about a node.
    assert len(simulator.evidence.of("ollama")) == calls
    assert len(bench.read(topics.USAGE_RECORDED)) == int(asked)


@pytest.mark.parametrize("kind", [FaultKind.OVERLOADED, FaultKind.ERROR, FaultKind.DISCONNECT, FaultKind.MODEL_MISSING])
async def test_what_goes_wrong_at_one_node_another_one_does(
    bench: WorkerBench, simulator: Simulator, kind: FaultKind
) -> None:
    simulator.faults.add("ollama", Fault(kind), 1)
    async with local_worker(bench, simulator):
        bench.submit(attempt())
        (end,) = (await finished(bench, 1)).values()
    assert end.outcome is Outcome.ANSWERED
    assert len(simulator.evidence.of("ollama")) == 2


async def test_a_node_that_says_nothing_is_given_up_at_the_deadline(bench: WorkerBench, simulator: Simulator) -> None:
    simulator.faults.add("ollama", Fault(FaultKind.TIMEOUT), 1)
    async with local_worker(bench, simulator):
        bench.submit(attempt(deadline_at=now_ms() + 1200))
        (end,) = (await finished(bench, 1)).values()
    assert end.outcome is Outcome.EXPIRED


async def test_work_goes_on_when_a_node_dies(bench: WorkerBench, simulator: Simulator) -> None:
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes={"other": ("gemma2:2b",)})) as dying:
        nodes = (f"a={dying.ollama_url('other')}", f"b={simulator.ollama_url('remote')}")
        async with local_worker(bench, simulator, ollama_nodes=nodes):
            await until(bench, topics.FLEET_STATUS, lambda all: len(all) >= 2)
            await dying.stop()
            await until(bench, topics.FLEET_STATUS, lambda all: any(not s.healthy and s.node == "a" for s in all))
            for number in range(10):
                bench.submit(attempt(f"task-{number}"), key=str(number).encode())
            ends = await finished(bench, 10)
    assert {(end.outcome, end.node) for end in ends.values()} == {(Outcome.ANSWERED, "b")}


async def test_servers_of_another_kind_are_nodes_too(bench: WorkerBench, simulator: Simulator) -> None:
    nodes = (
        f"gpu={simulator.vllm_url('remote')};server=vllm",
        f"spare={simulator.vllm_url('workstation')};server=vllm",
        simulator.ollama_url("workstation"),
    )
    simulator.faults.add("vllm", Fault(FaultKind.OVERLOADED), 1)
    async with local_worker(bench, simulator, ollama_nodes=nodes):
        seen = await until(bench, topics.FLEET_STATUS, lambda all: {one.node for one in all if one.healthy} >= {"gpu"})
        for number in range(6):
            bench.submit(attempt(f"vllm-{number}", provider="vllm"), key=str(number).encode())
        bench.submit(attempt("ollama"))
        ends = await finished(bench, 7)
    (gpu,) = {(one.provider, one.place) for one in seen if one.node == "gpu"}
    assert gpu == ("vllm", events.Place.LOCAL)
    assert {end.outcome for end in ends.values()} == {Outcome.ANSWERED}
    assert ends.pop("ollama").node == "workstation"
    assert {end.node for end in ends.values()} <= {"gpu", "spare"}
    assert len(simulator.evidence.of("vllm")) == 7


async def test_what_a_server_passes_on_to_a_cloud_is_not_offered_as_local(bench: WorkerBench) -> None:
    models = {"box": ("gemma2:2b", "gpt-oss:120b-cloud")}
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes=models)) as simulator:
        nodes = (f"{simulator.vllm_url('box')};server=openai-compatible",)
        async with local_worker(bench, simulator, ollama_nodes=nodes):
            seen = await until(bench, topics.FLEET_STATUS, bool)
    assert {model.name for one in seen for model in one.models} == {"gemma2:2b"}


async def test_a_call_at_a_node_that_stands_still_is_done_by_another(bench: WorkerBench, simulator: Simulator) -> None:
    # Stopped as a machine is that has lost its network: no connection is closed.
    command = ("-m", "headrace_models.simulator", "--port", "0", "--node", "other=gemma2:2b", "--speed", "realistic")
    stopped = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        assert stopped.stdout is not None
        origin = (await stopped.stdout.readline()).decode().split()[-1]
        nodes = (f"a={origin}/ollama/other", f"b={simulator.ollama_url('workstation')}")
        async with local_worker(bench, simulator, ollama_nodes=nodes):
            await until(bench, topics.FLEET_STATUS, lambda all: {one.node for one in all if one.healthy} == {"a", "b"})
            for number in range(8):
                bench.submit(attempt(f"task-{number}", stream=True, reply_partition=0), key=str(number).encode())
            await until(bench, topics.TASKS_REPLIES, bool)
            stopped.send_signal(signal.SIGSTOP)
            ends = await finished(bench, 8)
    finally:
        stopped.kill()
        await stopped.wait()
    assert {end.outcome for end in ends.values()} == {Outcome.ANSWERED}


async def test_garbage_goes_to_the_dead_letters_and_blocks_nobody(bench: WorkerBench, simulator: Simulator) -> None:
    good = bench.submit(attempt("before"))
    bench.cluster.append(ProducerRecord(good.topic, b"garbage", key=good.key), now_ms())
    bench.submit(attempt("after"))
    async with local_worker(bench, simulator):
        assert (await finished(bench, 2)).keys() == {"before", "after"}
        (letter,) = await until(bench, dead_letters_of(topics.WORK_LOCAL_INTERACTIVE), bool)
    assert (letter.value, letter.key, letter.error_type, letter.offset) == (b"garbage", good.key, "BadBytes", 1)
    assert letter.service == "local-worker"


async def test_all_providers_answer_in_their_own_formats(
    bench: WorkerBench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {
        "groq": "llama-3.1-8b-instant",
        "anthropic": "claude-haiku-4-5",
        "tavily": "tavily-search",
        "mine": "llama-3.1-8b-instant",
    }
    async with cloud_worker(bench, simulator, monkeypatch):
        status = await until(bench, topics.FLEET_STATUS, lambda all: len({one.node for one in all}) == 4)
        assert {one.node for one in status if one.healthy} == set(asked)
        assert {one.place for one in status} == {events.Place.CLOUD}
        for provider, model in asked.items():
            request = attempt(f"task-{provider}", provider=provider, model=model, stream=True, reply_partition=1)
            bench.submit(request, topics.WORK_CLOUD_INTERACTIVE, key=provider.encode())
        ends = await finished(bench, 4)
    for provider in asked:
        end = ends[f"task-{provider}"]
        assert (end.outcome, end.node, end.provider, end.simulated) == (Outcome.ANSWERED, provider, provider, True)
        said = [reply.text for reply in bench.read(topics.TASKS_REPLIES) if reply.task_id == f"task-{provider}"]
        assert end.content is not None
        assert "".join(text_of(text) for text in said) == text_of(end.content)
    assert ends["task-tavily"].usage.searches == 1


async def test_nothing_sensitive_reaches_a_provider(
    bench: WorkerBench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "the recipe is forty-two lemons"
    messages = (events.Message(role="user", content=plain(secret)),)
    values: dict[str, Any] = {"provider": "groq", "model": "llama-3.1-8b-instant"}
    async with cloud_worker(bench, simulator, monkeypatch):
        bench.submit(
            attempt("bad", privacy=Privacy.SENSITIVE, messages=messages, **values), topics.WORK_CLOUD_INTERACTIVE
        )
        bench.submit(attempt("good", privacy=Privacy.PUBLIC, **values), topics.WORK_CLOUD_BATCH)
        ends = await finished(bench, 2)
        (letter,) = await until(bench, dead_letters_of(topics.WORK_CLOUD_INTERACTIVE), bool)
    assert ends["bad"].failure is not None
    assert (ends["bad"].outcome, ends["bad"].failure.code) == (Outcome.FAILED_PERMANENT, "privacy_violation")
    assert (letter.error_type, letter.topic) == ("MustNotRunHere", PREFIX + topics.WORK_CLOUD_INTERACTIVE.name)
    assert ends["good"].outcome is Outcome.ANSWERED
    assert simulator.evidence.search([secret]) == []
    assert len(simulator.evidence.of(None)) == 1
    assert [one.task_id for one in bench.read(topics.USAGE_RECORDED)] == ["good"]
    printed = capsys.readouterr()
    assert secret not in printed.out + printed.err


async def test_a_provider_that_refuses_the_key_is_left_alone_and_says_so(
    bench: WorkerBench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.faults.add("groq", Fault(FaultKind.UNAUTHORISED), 50)
    async with cloud_worker(bench, simulator, monkeypatch):
        for number in range(6):
            request = attempt(f"task-{number}", provider="groq", model="llama-3.1-8b-instant")
            bench.submit(request, topics.WORK_CLOUD_INTERACTIVE, key=str(number).encode())
            ends = await finished(bench, number + 1)
        await until(bench, topics.FLEET_STATUS, lambda all: any(not s.healthy and s.node == "groq" for s in all))
    codes = Counter(end.failure.code for end in ends.values() if end.failure is not None)
    assert codes["not_authorised"] < 6
    assert set(codes) == {"not_authorised", "no_capacity"}
    last = {status.node: status for status in bench.read(topics.FLEET_STATUS)}
    assert "simulated" not in " ".join(status.reason for status in last.values())
    assert simulator.faults.pending() > 40


def cancellation(bench: WorkerBench, task_id: str, tenant: str = "acme") -> None:
    event = events.AttemptsCancelled(task_id=task_id, tenant=tenant, cancelled_at=now_ms())
    publication = Publication(
        spec=topics.ATTEMPTS_CANCELLED_LOCAL, event=event, event_id=f"{task_id}/cancelled", key=b"k", tenant=tenant,
        time_ms=event.cancelled_at,
    )  # fmt: skip
    bench.cluster.append(bench.publisher.record_of(publication), event.cancelled_at)


def request(bench: WorkerBench, task_id: str, tenant: str = "acme") -> None:
    """As whoever may write to tasks.cancelled; the router has not taken it."""
    event = events.TaskCancelled(task_id=task_id, tenant=tenant, requested_at=now_ms())
    publication = Publication(
        spec=topics.TASKS_CANCELLED, event=event, event_id=f"{task_id}/cancel", key=b"k", tenant=tenant,
        time_ms=event.requested_at,
    )  # fmt: skip
    bench.cluster.append(bench.publisher.record_of(publication), event.requested_at)


async def test_cancelled_attempts_are_not_begun_and_running_ones_are_ended(
    bench: WorkerBench, simulator: Simulator
) -> None:
    simulator.faults.add("ollama", Fault(FaultKind.TIMEOUT), 4)
    cancellation(bench, "before")
    bench.submit(attempt("before"), key=b"before")
    async with local_worker(bench, simulator, max_in_flight=6) as metrics:
        for number in range(21):
            bench.submit(attempt(f"task-{number}"), key=b"s:1" if number > 8 else str(number).encode())
        async with asyncio.timeout(20):
            while len(simulator.evidence.of("ollama")) < 4:  # noqa: ASYNC110 - looks at what has no event
                await asyncio.sleep(0.01)
        page = metrics.documents["work"]()
        assert page["outstanding_work_seconds"] >= 20 * 2.5, "of 64 tokens at most, by what is assumed of a node"
        assert (page["models"][0]["running"], page["models"][0]["model"]) == (4, "gemma2:2b")
        cancellation(bench, "task-19", tenant="mallory")
        request(bench, "task-20")
        request(bench, "task-20", tenant="mallory")
        for number in range(19):
            cancellation(bench, f"task-{number}")
        ends = await finished(bench, 22)
        async with asyncio.timeout(30):
            while metrics.documents["work"]()["models"]:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        shown = generate_latest(metrics.registry).decode()
    outcomes = {task_id: end.outcome for task_id, end in ends.items()}
    assert outcomes.pop("task-19") is not Outcome.CANCELLED, "a foreign tenant has no say"
    assert outcomes.pop("task-20") is not Outcome.CANCELLED, "a request that the router has not taken is none"
    assert set(outcomes.values()) == {Outcome.CANCELLED}
    assert len(simulator.evidence.of("ollama")) <= 6, "only what ran when they came was asked, and the last ones"
    billed = [usage.task_id for usage in bench.read(topics.USAGE_RECORDED)]
    assert len(billed) == len(set(billed)) <= 6
    assert "headrace_local_worker_consumer_lag{" in shown
    assert 'headrace_local_worker_records_total{ending="cancelled"}' in shown
