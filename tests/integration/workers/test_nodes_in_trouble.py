"""One node of three is in trouble as real Ollama servers are: every task is answered, and at no cost of tries."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from headrace_contracts import events, topics
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import Outcome
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.faults import Fault, FaultKind
from headrace_models.simulator.node_settings import NodeSettings
from headrace_testing.worker_on_nodes import healthy_nodes, until, worker_on
from headrace_testing.workers import WorkerBench, attempt, now_ms

MODEL, LARGE = "gemma2:2b", "llama3:8b"
BAD, GOOD, BEST = NODES = ("a-bad", "b-good", "c-good")


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    nodes = dict.fromkeys(NODES, (MODEL, LARGE))
    servers = {name: NodeSettings(num_parallel=2) for name in NODES}
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes=nodes, servers=servers)) as running:
        yield running


def urls(simulator: Simulator, *names: str) -> list[str]:
    return [f"{name}={simulator.ollama_url(name)};slots=2" for name in names or NODES]


async def ends(bench: WorkerBench, number: int, seconds: float = 20) -> list[events.AttemptFinished]:
    return await until(bench, topics.ATTEMPTS_FINISHED, lambda all: len(all) >= number, seconds)


def submit(bench: WorkerBench, number: int, name: str = "task", **changes: Any) -> None:
    for each in range(number):
        bench.submit(attempt(f"{name}-{each}", deadline_at=now_ms() + 60_000, **changes), key=str(each).encode())


TROUBLES: Mapping[str, Mapping[str, Any]] = {
    "does not fit": {"memory_gb": 1.0},
    "queue is full": {"max_queue": 0},
    "cannot load": {"load_fails": "*"},
    "removed": {"removed": [MODEL]},
    "wants a key": {"token": "secret"},
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_what_one_node_cannot_do_the_others_do(bench: WorkerBench, simulator: Simulator, trouble: str) -> None:
    async with worker_on(bench, urls(simulator), look_seconds=60.0):
        await healthy_nodes(bench, *NODES)
        simulator.nodes[BAD].settings.change(TROUBLES[trouble])
        submit(bench, 24)
        found = await ends(bench, 24)
    assert {(end.outcome, end.number) for end in found} == {(Outcome.ANSWERED, 1)}
    assert {end.node for end in found} <= {GOOD, BEST}
    # It is left alone, though it always has room.
    asked = Counter(entry.node for entry in simulator.evidence.of("ollama"))
    assert asked[BAD] <= 4


async def test_a_model_that_is_removed_is_no_longer_asked_for_and_one_that_is_pulled_is(
    bench: WorkerBench, simulator: Simulator
) -> None:
    async with worker_on(bench, urls(simulator)):
        await healthy_nodes(bench, *NODES)
        for name in (BAD, GOOD):
            simulator.nodes[name].settings.change({"removed": [MODEL]})
        simulator.nodes[BEST].add("mistral:7b")

        def is_reported(found: list[events.NodeStatus]) -> bool:
            return any(model.name == "mistral:7b" for status in found for model in status.models)

        await until(bench, topics.FLEET_STATUS, is_reported)
        submit(bench, 6, model="mistral:7b")
        assert {(end.outcome, end.node) for end in await ends(bench, 6)} == {(Outcome.ANSWERED, BEST)}
    assert {entry.node for entry in simulator.evidence.of("ollama")} == {BEST}


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ({"memory_gb": 1.0}, "model requires more system memory (1.5 GiB) than is available (1.0 GiB)"),
        ({"load_fails": "*"}, "llama runner process has terminated: exit status 2"),
        ({"max_queue": 0}, "maximum pending requests exceeded"),
    ],
)
async def test_the_words_of_the_server_are_in_the_failure(
    bench: WorkerBench, simulator: Simulator, trouble: Mapping[str, Any], said: str
) -> None:
    simulator.nodes[BAD].settings.change(trouble)
    async with worker_on(bench, urls(simulator, BAD)):
        bench.submit(attempt())
        (end,) = await ends(bench, 1)
    assert end.failure is not None
    assert said in end.failure.message


async def test_inference_that_hangs_while_health_answers_is_given_up(
    bench: WorkerBench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fiftieth of the real times, in which a test would take half a minute.
    monkeypatch.setattr("headrace_models.worker.watched_call._STILL_SECONDS", 0.4)
    monkeypatch.setattr("headrace_models.worker.watched_call._UNKNOWN_SECONDS", 0.1)
    monkeypatch.setattr("headrace_models.worker.watched_call._PROMPT_TOKEN_SECONDS", 0.001)
    async with worker_on(bench, urls(simulator)):
        await healthy_nodes(bench, *NODES)
        submit(bench, 12)
        await ends(bench, 12)
        simulator.nodes[BAD].settings.hangs = True
        submit(bench, 12, "later")
        found = await ends(bench, 24)
        assert {status.node for status in bench.read(topics.FLEET_STATUS) if not status.healthy} == set()
    assert {end.outcome for end in found} == {Outcome.ANSWERED}


async def test_a_deadlocked_node_costs_its_calls_their_time_and_no_more(
    bench: WorkerBench, simulator: Simulator
) -> None:
    """One model in memory, and a scheduler that waits for ever: health answers, no call does."""
    simulator.nodes[BAD].settings.change({"max_loaded_models": 1, "deadlocks": True, "hangs": True})
    async with worker_on(bench, urls(simulator), first_token_seconds=1.0):
        await healthy_nodes(bench, *NODES)
        submit(bench, 8)
        submit(bench, 8, "large", model=LARGE)
        found = await ends(bench, 16)
        assert {end.outcome for end in found} == {Outcome.ANSWERED}
        # Of each model as many calls as it has slots have found out; it is left alone for either then.
        asked = [entry.node for entry in simulator.evidence.of("ollama")]
        assert 1 <= asked.count(BAD) <= 4
        submit(bench, 8, "later")
        assert {end.outcome for end in await ends(bench, 24)} == {Outcome.ANSWERED}
    asked = [entry.node for entry in simulator.evidence.of("ollama")]
    assert asked.count(BAD) <= 4


@pytest.mark.parametrize("tokens", [3_000, 7_000])
async def test_a_long_prompt_reaches_the_model_whole(bench: WorkerBench, simulator: Simulator, tokens: int) -> None:
    """The server's own context is shorter, and it would cut the prompt without a word."""
    for node in simulator.nodes.values():
        node.settings.context_length = 1_024
    messages = (events.Message(role="user", content=plain("word " * tokens)),)
    async with worker_on(bench, urls(simulator)):
        await healthy_nodes(bench, *NODES)
        bench.submit(attempt(messages=messages))
        (end,) = await ends(bench, 1)
    assert end.outcome is Outcome.ANSWERED
    assert end.usage.input_tokens >= tokens


async def test_a_prompt_longer_than_the_model_takes_is_refused_and_not_cut(
    bench: WorkerBench, simulator: Simulator
) -> None:
    messages = (events.Message(role="user", content=plain("word " * 12_000)),)
    async with worker_on(bench, urls(simulator)):
        await healthy_nodes(bench, *NODES)
        bench.submit(attempt(messages=messages))
        (end,) = await ends(bench, 1)
    assert end.failure is not None
    assert (end.outcome, end.failure.code) == (Outcome.FAILED_PERMANENT, "context_too_long")
    assert len(simulator.evidence.of("ollama")) == 1


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (FaultKind.THINKING_ONLY, "thought, and gave no answer"),
        (FaultKind.THINKING_TO_THE_END, "thought up to its limit of tokens, and gave no answer"),
        (FaultKind.EMPTY_ANSWER, "gave an empty answer"),
    ],
)
async def test_thoughts_without_an_answer_are_no_answer(
    bench: WorkerBench, simulator: Simulator, kind: FaultKind, said: str
) -> None:
    simulator.faults.add("ollama", Fault(kind), 5)
    async with worker_on(bench, urls(simulator)):
        bench.submit(attempt())
        (end,) = await ends(bench, 1)
    assert end.failure is not None
    assert (end.outcome, end.failure.code, end.content) == (Outcome.FAILED_RETRYABLE, "empty_answer", None)
    assert said in end.failure.message
    # What was thought is paid for.
    assert end.usage.input_tokens > 0


async def test_an_answer_that_repeats_itself_is_begun_anew_elsewhere(bench: WorkerBench, simulator: Simulator) -> None:
    simulator.faults.add("ollama", Fault(FaultKind.REPEATED_TOKEN), 1)
    async with worker_on(bench, urls(simulator)):
        await healthy_nodes(bench, *NODES)
        bench.submit(attempt())
        (end,) = await ends(bench, 1)
    assert end.outcome is Outcome.ANSWERED
    assert end.content is not None
    assert " and and" not in text_of(end.content)


@pytest.mark.parametrize(("keep_alive", "stays"), [("0", False), ("10m", True), ("-1", True), ("node", True)])
async def test_models_stay_in_memory_as_the_setting_says(
    bench: WorkerBench, simulator: Simulator, keep_alive: str, stays: bool
) -> None:
    async with worker_on(bench, urls(simulator, GOOD), keep_alive=keep_alive):
        bench.submit(attempt())
        (end,) = await ends(bench, 1)
    assert end.outcome is Outcome.ANSWERED
    loaded = simulator.nodes[GOOD].memory.loaded()
    assert [one.model.name for one in loaded] == ([MODEL] if stays else [])
    if stays:
        kept = {"10m": 600.0, "-1": -1.0, "node": 300.0}[keep_alive]
        assert loaded[0].keep_alive == kept


async def test_a_session_keeps_its_order_when_one_of_its_attempts_goes_to_another_node(
    bench: WorkerBench, simulator: Simulator
) -> None:
    async with worker_on(bench, urls(simulator)):
        await healthy_nodes(bench, *NODES)
        simulator.faults.add("ollama", Fault(FaultKind.DISCONNECT), 1)
        for each in range(6):
            text = events.Message(role="user", content=plain(f"Turn {each}"))
            bench.submit(attempt(f"task-{each}", session="s", messages=(text,)), key=b"s:acme/s")
        found = await ends(bench, 6)
    assert [end.task_id for end in found] == [f"task-{each}" for each in range(6)]
    assert {end.outcome for end in found} == {Outcome.ANSWERED}
    nodes = [entry.node for entry in simulator.evidence.of("ollama")]
    # The first turn was asked at two nodes before the second one was begun.
    assert nodes[0] != nodes[1]
