"""Calls of an endpoint that cannot be reached any more."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from headrace_contracts import events, topics
from headrace_models.ports import CallUsage, ProviderStatus
from headrace_models.worker import watched_call
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.watched_call import GONE_AFTER_PROBES, WatchedCall, WatchedCalls
from headrace_testing.waiting import eventually
from headrace_testing.workers import ScriptedProvider, WorkerBench, attempt, healthy

GONE = ProviderStatus(False, "cannot be reached", unreachable=True)


def now() -> float:
    return asyncio.get_running_loop().time()


async def running_on(node: ScriptedProvider) -> tuple[WorkerBench, asyncio.Task[None], Endpoint]:
    """A call that says nothing, on a node that is probed by hand."""
    bench = WorkerBench()
    await bench.prepare()
    endpoint = healthy(node)
    node.script = [asyncio.Event()]
    runner = bench.runner([endpoint])
    running = asyncio.create_task(runner.handle(bench.submit(attempt())))

    async def was_asked() -> bool:
        return bool(node.asked)

    await eventually(was_asked)
    return bench, running, endpoint


async def test_a_silent_call_is_given_up_when_probes_miss_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_call, "SILENT_SECONDS", 0.0)
    bench, running, endpoint = await running_on(ScriptedProvider())

    for _ in range(GONE_AFTER_PROBES):
        assert not running.done()
        endpoint.probed(GONE, now())
        await asyncio.sleep(0.02)
    await running

    (end,) = bench.read(topics.ATTEMPTS_FINISHED)
    assert (end.outcome, end.node) == (events.Outcome.FAILED_RETRYABLE, "node-1")
    assert end.failure is not None
    assert end.failure.code == "connection_lost"


@pytest.mark.parametrize(
    "status",
    [ProviderStatus(False, "answered 500"), ProviderStatus(True, "")],
    ids=["another trouble", "healthy in between"],
)
async def test_probes_that_were_answered_end_no_call(status: ProviderStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_call, "SILENT_SECONDS", 0.0)
    _, running, endpoint = await running_on(ScriptedProvider())

    for _ in range(5):
        endpoint.probed(GONE, now())
        endpoint.probed(status, now())
        await asyncio.sleep(0.01)

    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not endpoint.calls._calls


async def test_a_call_that_was_heard_lately_goes_on() -> None:
    _, running, endpoint = await running_on(ScriptedProvider())

    for _ in range(5):
        endpoint.probed(GONE, now())
    await asyncio.sleep(0.05)

    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_a_given_up_call_consumed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_call, "SILENT_SECONDS", 0.0)

    class Counting(ScriptedProvider):
        async def chat(self, *call: object, **more: object) -> object:  # type: ignore[override]
            try:
                return await super().chat(*call, **more)  # type: ignore[arg-type]
            except asyncio.CancelledError as cancelled:
                # As the real clients do.
                cancelled.args = (*cancelled.args, CallUsage(9, 4))
                raise

    bench, running, endpoint = await running_on(Counting())

    for _ in range(GONE_AFTER_PROBES):
        endpoint.probed(GONE, now())
    await running

    (used,) = bench.read(topics.USAGE_RECORDED)
    assert (used.usage.input_tokens, used.usage.output_tokens) == (9, 4)


class Limit:
    """Of a call in a task of its own."""

    def expired(self) -> bool:
        return False

    def reschedule(self, _when: float) -> None:
        return None


class Still:
    """Calls of one endpoint by a clock of our own, whose model usually begins to answer after some seconds."""

    def __init__(self, usual: float = 0.5) -> None:
        self.calls = WatchedCalls()
        self.usual = usual
        self.at = 100.0

    async def call(self, model: str = "m", prompt_tokens: int = 100) -> WatchedCall:
        call = WatchedCall(model, prompt_tokens, cast(asyncio.Timeout, Limit()))
        self.calls.add(call, self.at)
        return call

    def probe(self, after: float) -> None:
        self.at += after
        self.calls.probed(
            self.at, unreachable=False, is_loaded=lambda model: model != "cold", usual_seconds=lambda _: self.usual
        )


async def test_calls_are_given_up_when_none_hears_anything() -> None:
    still = Still()
    first, second = await still.call(), await still.call(prompt_tokens=200)

    # 20 s, and 50 ms for each token of the longer prompt.
    still.probe(29.9)
    assert (first.lost, second.lost) == (None, None)
    still.probe(0.2)
    assert (first.lost, second.lost) == ("still", "still")


async def test_the_call_that_began_first_is_given_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """So runs of one seed are alike in all processes, and the oldest call is the first to be made elsewhere."""
    still = Still()
    calls = [await still.call() for _ in range(50)]
    given_up: list[WatchedCall] = []
    monkeypatch.setattr(WatchedCall, "give_up", lambda call, *_: given_up.append(call))

    still.probe(60.0)

    assert given_up == calls


async def test_what_one_call_hears_spares_the_others() -> None:
    still = Still()
    waiting, speaking = await still.call(), await still.call()

    for _ in range(20):
        still.probe(5.0)
        still.calls.heard(speaking, still.at)

    assert waiting.lost is None


async def test_new_calls_do_not_hide_that_none_hears_anything() -> None:
    still = Still()
    first = await still.call()

    for _ in range(6):
        still.probe(5.0)
        await still.call()

    assert first.lost == "still"


async def test_the_end_of_a_call_is_a_sign_of_life() -> None:
    still = Still()
    waiting, other = await still.call(), await still.call()
    still.probe(20.0)
    still.calls.remove(other, still.at)
    still.probe(20.0)

    assert waiting.lost is None


async def test_slow_models_have_the_time_that_they_take() -> None:
    still = Still(30.0)
    call = await still.call()

    still.probe(300.0)

    assert call.lost is None


async def test_an_endpoint_that_has_never_answered_is_found_out_too() -> None:
    still = Still(0.0)
    call = await still.call()

    # A minute, and 5 s for the prompt.
    still.probe(64.9)
    assert call.lost is None
    still.probe(0.2)
    assert call.lost == "still"


async def test_loading_a_model_takes_what_it_takes() -> None:
    still = Still()
    call, loading = await still.call(), await still.call("cold")

    still.probe(200.0)

    assert (call.lost, loading.lost) == (None, None)


async def test_another_node_does_what_waits_where_only_the_inference_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watched_call, "_STILL_SECONDS", 0.05)
    monkeypatch.setattr(watched_call, "_PROMPT_TOKEN_SECONDS", 0.0)
    stuck, other = ScriptedProvider(node="node-1"), ScriptedProvider(node="node-2")
    bench = WorkerBench()
    await bench.prepare()
    endpoint = healthy(stuck)
    alone = bench.runner([endpoint])
    for number in range(4):
        await alone.handle(bench.submit(attempt(f"usual-{number}")))
    stuck.script = [asyncio.Event()]
    running = asyncio.create_task(bench.runner([endpoint, healthy(other)]).handle(bench.submit(attempt("stuck"))))

    async def given_up() -> bool:
        endpoint.probed(stuck.current, now())
        return running.done()

    await eventually(given_up)

    ends = {end.task_id: end for end in bench.read(topics.ATTEMPTS_FINISHED)}
    assert (ends["stuck"].outcome, ends["stuck"].node) == (events.Outcome.ANSWERED, "node-2")
    assert endpoint.is_avoided("gemma2:2b", now())
