"""A failure of one endpoint is a reason for the next one, within the same attempt."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts import events, topics
from headrace_contracts.content import text_of
from headrace_intake.decide.replies import NOTHING_YET, Delta, ReplyUpdate, Restarted, hear
from headrace_models.answer import SpokenPiece
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, OnPiece, OnText, hand_out, no_pieces
from headrace_models.worker.avoidance import LONGEST_SECONDS, Avoided, after_failure, is_of_endpoint
from headrace_models.worker.runner import AttemptRunner
from headrace_testing.waiting import eventually
from headrace_testing.workers import ScriptedProvider, WorkerBench, attempt, healthy


def overloaded(**more: object) -> RetrySameProvider:
    return RetrySameProvider("overloaded", "ollama node node-1 answered 503", provider="ollama", **more)  # type: ignore[arg-type]


def lost(tokens: int) -> RetrySameProvider:
    usage = CallUsage(7, tokens)
    return RetrySameProvider("connection_lost", "it closed the connection", provider="ollama", usage=usage)


FAILURES = (
    TryAnotherProvider("model_does_not_fit", "not enough memory", provider="ollama", status=500),
    TryAnotherProvider("model_missing", "it does not have this model", provider="ollama", status=404),
    RetrySameProvider("provider_error", "it failed", provider="ollama", status=500),
    RetrySameProvider("unreachable", "no connection", provider="ollama", sent=False),
    overloaded(status=503),
    lost(2),
)


async def bench_of(*nodes: ScriptedProvider) -> tuple[WorkerBench, AttemptRunner]:
    bench = WorkerBench()
    await bench.prepare()
    return bench, bench.runner([healthy(node) for node in nodes])


def two() -> tuple[ScriptedProvider, ScriptedProvider]:
    """Two nodes, of which the first is asked first while both are idle."""
    return ScriptedProvider(node="node-1"), ScriptedProvider(node="node-2")


async def ends(
    bench: WorkerBench, runner: AttemptRunner, *requests: events.AttemptRequested
) -> list[events.AttemptFinished]:
    for request in requests:
        await runner.handle(bench.submit(request))
    return bench.read(topics.ATTEMPTS_FINISHED)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: error.code)
async def test_the_next_node_does_what_one_fails_with(failure: ProviderError) -> None:
    bad, good = two()
    bad.script = [failure]
    bench, runner = await bench_of(bad, good)

    (end,) = await ends(bench, runner, attempt())

    assert (end.outcome, end.node) == (events.Outcome.ANSWERED, "node-2")
    assert len(bad.asked) == len(good.asked) == 1
    # Nothing that was consumed is lost.
    (used,) = bench.read(topics.USAGE_RECORDED)
    assert used.usage.input_tokens == failure.usage.input_tokens + 7
    assert used.usage.output_tokens == failure.usage.output_tokens + 3


async def test_a_node_that_fails_at_once_draws_no_work() -> None:
    bad, good = two()
    bad.script = [FAILURES[0]] * 50
    bench, runner = await bench_of(bad, good)

    found = await ends(bench, runner, *[attempt(f"task-{number}") for number in range(20)])

    assert {(end.outcome, end.node) for end in found} == {(events.Outcome.ANSWERED, "node-2")}
    assert len(bad.asked) == 1


async def test_what_is_wrong_with_the_request_is_asked_once() -> None:
    first, second = two()
    first.script = second.script = [TryAnotherProvider("context_too_long", "too long", provider="ollama", status=400)]
    bench, runner = await bench_of(first, second)

    (end,) = await ends(bench, runner, attempt())

    assert end.failure is not None
    assert end.failure.code == "context_too_long"
    assert len(first.asked) + len(second.asked) == 1


async def test_a_model_that_repeats_itself_does_so_at_every_node() -> None:
    first, second = two()
    repeats = TryAnotherProvider("output_repeats", "one token without end", provider="ollama", status=500)
    first.script = second.script = [repeats, repeats]
    bench, runner = await bench_of(first, second)

    (end,) = await ends(bench, runner, attempt())

    assert end.failure is not None
    assert (end.outcome, end.failure.code) == (events.Outcome.FAILED_PERMANENT, "output_repeats")
    assert len(first.asked) + len(second.asked) == 1


async def test_content_that_has_left_is_reported_and_its_node_left_alone() -> None:
    bad, good = two()
    bad.script = [TryAnotherProvider("answered_remotely", "at another host", provider="ollama")]
    bench, runner = await bench_of(bad, good)

    first, second = await ends(bench, runner, attempt(), attempt("task-2"))

    assert first.failure is not None
    assert (first.failure.code, first.node) == ("answered_remotely", "node-1")
    assert (second.outcome, second.node) == (events.Outcome.ANSWERED, "node-2")


async def test_when_all_fail_the_last_one_is_told_and_everything_consumed() -> None:
    first, second = two()
    first.script, second.script = [lost(2)], [overloaded(status=503)]
    bench, runner = await bench_of(first, second)

    (end,) = await ends(bench, runner, attempt())

    assert end.outcome is events.Outcome.FAILED_RETRYABLE
    assert end.failure is not None
    assert (end.failure.code, end.usage.output_tokens) == ("overloaded", 2)
    # The first one was asked: that is a try, of which something was consumed.
    assert end.node == "node-2"
    assert len(bench.read(topics.USAGE_RECORDED)) == 1


async def test_where_all_had_no_room_nobody_was_asked() -> None:
    first, second = two()
    first.script, second.script = [overloaded(status=503)], [overloaded(status=503)]
    bench, runner = await bench_of(first, second)

    (end,) = await ends(bench, runner, attempt())

    assert (end.outcome, end.node) == (events.Outcome.FAILED_RETRYABLE, None)
    assert not bench.read(topics.USAGE_RECORDED)


async def test_a_failed_node_is_asked_again_when_it_is_the_only_one() -> None:
    (only, _) = two()
    only.script = [overloaded(status=503)]
    bench, runner = await bench_of(only)

    found = await ends(bench, runner, attempt(), attempt("task-2"))

    assert [end.outcome for end in found] == [events.Outcome.FAILED_RETRYABLE, events.Outcome.ANSWERED]


async def test_readers_of_a_stream_hear_that_it_begins_anew() -> None:
    bad, good = two()

    class CutOff(ScriptedProvider):
        async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
            await hand_out(on_text, on_piece, SpokenPiece("text", "Half an ans"))
            raise lost(3)

    bad = CutOff(node="node-1")
    bench, runner = await bench_of(bad, good)

    await ends(bench, runner, attempt(stream=True, reply_partition=0))

    replies = bench.read(topics.TASKS_REPLIES)
    assert [text_of(reply.text) for reply in replies] == ["Half an ans", "Hel", "lo"]
    first, second, third = replies
    assert first.execution_id != second.execution_id == third.execution_id
    assert [reply.sequence for reply in replies] == [0, 0, 1]
    heard = NOTHING_YET
    told: list[ReplyUpdate] = []
    for reply in replies:
        heard, updates = hear(heard, reply)
        told += updates
    assert told == [Delta("Half an ans", 1), Restarted(1), Delta("Hel", 1), Delta("lo", 1)]


async def test_a_cancellation_on_the_second_node_tells_what_both_consumed() -> None:
    bad, good = two()
    bad.script, good.script = [lost(2)], [asyncio.Event()]
    bench, runner = await bench_of(bad, good)

    running = asyncio.create_task(runner.handle(bench.submit(attempt())))

    async def both_were_asked() -> bool:
        return len(good.asked) == 1

    await eventually(both_were_asked)
    assert runner.interrupt({("task-1", "acme")}) == 1
    await running

    (end,) = bench.read(topics.ATTEMPTS_FINISHED)
    assert (end.outcome, end.usage.output_tokens) == (events.Outcome.CANCELLED, 2)


def test_an_endpoint_is_left_alone_longer_with_each_failure() -> None:
    held: Avoided | None = None
    waits = []
    for _ in range(12):
        held = after_failure(held, FAILURES[0], 100.0)
        assert held is not None
        waits.append(held.until - 100.0)

    assert waits[:4] == [15.0, 30.0, 60.0, 120.0]
    assert waits[-1] == LONGEST_SECONDS
    assert held == Avoided(12, 100.0 + LONGEST_SECONDS)


def test_a_node_that_says_when_to_come_back_is_believed_within_bounds() -> None:
    for after, wait in ((20.0, 20.0), (0.1, 0.5), (1e9, LONGEST_SECONDS)):
        held = after_failure(None, overloaded(after_seconds=after), 5.0)
        assert held is not None
        assert held.until == 5.0 + wait


@pytest.mark.parametrize("code", ["context_too_long", "request_rejected", "output_blocked", "answer_too_large"])
def test_the_request_is_not_held_against_the_endpoint(code: str) -> None:
    error = TryAnotherProvider(code, "no", provider="ollama")  # type: ignore[arg-type]
    before = Avoided(3, 9.0)

    assert not is_of_endpoint(error)
    assert after_failure(before, error, 5.0) is before
    assert after_failure(None, error, 5.0) is None


async def test_a_success_clears_what_was_held_against_a_node() -> None:
    bad, good = two()
    bad.script = [overloaded(status=503)]
    bench = WorkerBench()
    await bench.prepare()
    first, second = healthy(bad), healthy(good)
    runner = bench.runner(
        [first, second], choose=lambda views, model: min(views, key=lambda view: view.name, default=None)
    )

    await runner.handle(bench.submit(attempt()))
    assert first.is_avoided("gemma2:2b", asyncio.get_running_loop().time())
    await asyncio.sleep(0.6)
    await runner.handle(bench.submit(attempt("task-2")))

    assert len(bad.asked) == 2
    assert first.avoided == {}


def test_a_node_that_cost_a_call_its_time_is_not_met_again_by_the_next_attempt() -> None:
    late = RetrySameProvider("timeout", "it took too long", provider="ollama")
    held = after_failure(None, late, 100.0)
    assert held is not None
    # The next attempt comes at once, and may wait for another node as long as interactive attempts last.
    assert held.until >= 130.0
