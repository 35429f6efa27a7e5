"""Calls of an endpoint that cannot be reached any more."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts import events, topics
from headrace_models.ports import CallUsage, ProviderStatus
from headrace_models.worker import watched_call
from headrace_models.worker.pool import Endpoint
from headrace_models.worker.watched_call import GONE_AFTER_PROBES
from headrace_testing.waiting import eventually
from headrace_testing.workers import ScriptedProvider, WorkerBench, attempt, healthy

GONE = ProviderStatus(False, "cannot be reached", unreachable=True)


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
        endpoint.probed(GONE)
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
        endpoint.probed(GONE)
        endpoint.probed(status)
        await asyncio.sleep(0.01)

    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not endpoint.calls


async def test_a_call_that_was_heard_lately_goes_on() -> None:
    _, running, endpoint = await running_on(ScriptedProvider())

    for _ in range(5):
        endpoint.probed(GONE)
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
        endpoint.probed(GONE)
    await running

    (used,) = bench.read(topics.USAGE_RECORDED)
    assert (used.usage.input_tokens, used.usage.output_tokens) == (9, 4)
