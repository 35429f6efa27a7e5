"""Outcomes in the topic of the cloud worker: believed about attempts that it was given, and about no other."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptRequested,
    DeadLetter,
    Failure,
    Outcome,
    Place,
    Privacy,
    TaskStatus,
    TaskSubmitted,
)
from headrace_contracts.reply_tokens import ReplyTokens
from headrace_contracts.topics import (
    ATTEMPTS_FINISHED,
    ATTEMPTS_FINISHED_CLOUD,
    TASKS_CANCELLED,
    TASKS_SUBMITTED,
    dead_letters_of,
)
from headrace_router import service
from headrace_streams.records import TopicPartition
from headrace_testing import routing
from headrace_testing.lasting import tasks_of
from headrace_testing.router_twin import PREFIX, WORK, Twin, end_of, key_of, now_ms

GROQ: Final = "groq/llama-3.1-8b-instant"
INPUTS: Final = (TASKS_SUBMITTED, TASKS_CANCELLED, ATTEMPTS_FINISHED, ATTEMPTS_FINISHED_CLOUD)

FORGED: Final[dict[str, tuple[Outcome, dict[str, Any]]]] = {
    "an answer": (Outcome.ANSWERED, {"content": plain("forged")}),
    "a refusal": (Outcome.REFUSED, {"content": plain("forged")}),
    "a cancellation": (Outcome.CANCELLED, {}),
    "a failure for good": (Outcome.FAILED_PERMANENT, {"failure": Failure(code="invalid_request")}),
    "a failure to be tried again": (Outcome.FAILED_RETRYABLE, {"failure": Failure(code="overloaded")}),
    "a breach": (Outcome.FAILED_PERMANENT, {"failure": Failure(code="answered_remotely")}),
}


def a_task(name: str, **fields: Any) -> TaskSubmitted:
    return routing.task(name, f"Question of {name}?", submitted_at=now_ms(), **fields)


def asked(twin: Twin) -> dict[str, AttemptRequested]:
    return {request.attempt_id: request for spec in WORK for request in twin.written(spec)}


def letters(twin: Twin) -> list[DeadLetter]:
    return list(twin.written(dead_letters_of(ATTEMPTS_FINISHED_CLOUD)))


@pytest.mark.parametrize("how", FORGED)
async def test_a_cloud_worker_ends_no_local_attempt(how: str) -> None:
    outcome, fields = FORGED[how]
    async with Twin(partitions=1) as twin:
        router = twin.router()
        task = a_task("victim", role="code_reviewer")
        await twin.submit(task)
        await twin.until(lambda: len(asked(twin)) == 1)
        (request,) = asked(twin).values()
        before = len(twin.journal())
        await twin.result(request, end_of(request, outcome, **fields), key_of(task), worker=Place.CLOUD)
        await twin.until(lambda: len(letters(twin)) == 1)
        (letter,) = letters(twin)
        assert letter.error_type == "ReportDisbelieved"
        assert letter.error_message.startswith(f"attempt {request.attempt_id} was not given to a cloud worker")
        assert not [entry for entry in twin.journal()[before:] if entry.task_id]
        assert not twin.completed()
        await twin.result(request, end_of(request, content=plain("true")), key_of(task))
        await twin.until_completed([task])
        (end,) = twin.completed()[task.task_id]
        assert (end.status, end.answer, end.attempts) == (TaskStatus.SUCCEEDED, plain("true"), 1)
        assert router.service.health() is None


async def test_many_forgeries_delay_nobody_and_each_is_kept_once() -> None:
    async with Twin(partitions=2) as twin:
        router = twin.router()
        sent = [a_task(f"victim-{number}", role="code_reviewer") for number in range(6)]
        await twin.submit(*sent)
        await twin.until(lambda: len(asked(twin)) == 6)
        for request in asked(twin).values():
            for _ in range(20):
                await twin.result(request, end_of(request, content=plain("forged")), b"k", worker=Place.CLOUD)
        for request in asked(twin).values():
            await twin.result(request, end_of(request, content=plain("true")), b"k")
        await twin.until_completed(sent)
        await twin.until(lambda: len(letters(twin)) >= 60)
        assert {end.answer for (end,) in twin.completed().values()} == {plain("true")}
        assert len({(letter.partition, letter.offset) for letter in letters(twin)}) == len(letters(twin))
        assert router.service.health() is None


@pytest.mark.parametrize("worker", Place)
async def test_attempts_in_the_cloud_are_ended_by_both_topics(worker: Place) -> None:
    """Cloud workers of the release before write to the topic of local outcomes."""
    async with Twin(partitions=1) as twin:
        twin.nodes = {"groq": routing.GROQ_NODE}
        twin.router()
        task = a_task("public", privacy=Privacy.PUBLIC)
        await twin.submit(task)
        await twin.until(lambda: len(asked(twin)) == 1)
        (request,) = asked(twin).values()
        await twin.result(request, end_of(request), key_of(task), worker=worker)
        await twin.until_completed([task])
        assert [end.status for end in twin.completed()[task.task_id]] == [TaskStatus.SUCCEEDED]
        assert letters(twin) == []


@pytest.mark.parametrize("died", [False, True], ids=["left in order", "was killed"])
async def test_a_successor_goes_on_in_all_inputs_where_the_journal_says(died: bool) -> None:
    async with Twin(partitions=1) as twin:
        twin.nodes = {"groq": routing.GROQ_NODE, "workstation": routing.LOCAL}
        twin.work()
        first = twin.router("r1")
        before = [a_task(f"before-{number}", privacy=Privacy.PUBLIC) for number in range(3)]
        before += [a_task("before-groq", privacy=Privacy.PUBLIC, model=GROQ)]
        await twin.submit(*before)
        await twin.until_completed(before)
        await (first.kill() if died else first.stop())
        positions = {p.topic: p.next_offset for entry in twin.journal() for p in entry.positions}
        assert positions["attempts.finished.cloud"] == 1
        second = twin.router("r2")
        after = [a_task("after-groq", privacy=Privacy.PUBLIC, model=GROQ)]
        await twin.submit(*after)
        await twin.until_completed(after)
        (routed,) = second.service._membership.routers.values()  # type: ignore[union-attr]
        assert routed.positions["attempts.finished.cloud"] == 2
        assert {len(ends) for ends in twin.completed().values()} == {1}


async def test_a_journal_of_the_release_before_has_no_position_in_the_new_input_which_is_read_from_its_start() -> None:
    async with Twin(partitions=1) as twin:
        twin.nodes = {"groq": routing.GROQ_NODE}
        first = twin.router("r1")
        task = a_task("public", privacy=Privacy.PUBLIC)
        await twin.submit(task)
        await twin.until(lambda: len(asked(twin)) == 1)
        (request,) = asked(twin).values()
        await first.kill()
        assert "attempts.finished.cloud" not in {p.topic for entry in twin.journal() for p in entry.positions}
        # Written before any router reads the topic.
        await twin.result(request, end_of(request), key_of(task))
        twin.router("r2")
        await twin.until_completed([task])


async def test_what_is_forged_while_nobody_routes_is_kept_by_who_comes_next() -> None:
    async with Twin(partitions=1) as twin:
        first = twin.router("r1")
        task = a_task("victim", role="code_reviewer")
        await twin.submit(task)
        await twin.until(lambda: len(asked(twin)) == 1)
        (request,) = asked(twin).values()
        await first.kill()
        for _ in range(3):
            await twin.result(request, end_of(request), key_of(task), worker=Place.CLOUD)
        twin.router("r2")
        await twin.until(lambda: len(letters(twin)) == 3)
        assert not twin.completed()
        await twin.result(request, end_of(request, content=plain("true")), key_of(task))
        await twin.until_completed([task])


@pytest.mark.parametrize("spec", INPUTS, ids=lambda spec: spec.name)
async def test_all_inputs_are_committed_so_that_their_lag_shows(spec: Any) -> None:
    async with Twin(partitions=1) as twin:
        twin.nodes = {"groq": routing.GROQ_NODE, "workstation": routing.LOCAL}
        twin.work()
        twin.router()
        local = a_task("local", role="code_reviewer")
        cloud = a_task("cloud", privacy=Privacy.PUBLIC, model=GROQ)
        await twin.submit(local, cloud)
        await twin.until_completed([local, cloud])
        await twin.cancel(local)
        group, name = twin.cluster.group(PREFIX + "router"), TopicPartition(PREFIX + spec.name, 0)
        await twin.until(lambda: name in group.committed_offsets and group.committed_offsets[name].next_offset > 0)


async def test_replies_of_a_router_with_the_secret_carry_its_tokens() -> None:
    tokens = ReplyTokens("the secret of an installation")
    async with Twin(partitions=2) as twin:
        twin.work()
        twin.router(reply_tokens=tokens)
        sent = [a_task(f"t-{number}", stream=True, reply_partition=number % 2) for number in range(3)]
        await twin.submit(*sent)
        await twin.until_completed(sent)
        await twin.until(lambda: len(twin.replies()) == 3)
        await asyncio.sleep(0)
        for reply in twin.replies():
            assert reply.reply_token == tokens.of_router("acme", reply.task_id)
        for request in asked(twin).values():
            assert request.reply_token == tokens.of_attempt("acme", request.task_id, 1)
        state = b"".join(record.value or b"" for record in twin.cluster.records(PREFIX + "tasks.journal"))
        for request in asked(twin).values():
            assert request.reply_token is not None
            assert request.reply_token not in state, "the journal may be read by others"


async def test_beside_routers_of_the_release_before_all_partitions_are_routed_and_no_rollout_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Twin(partitions=6) as twin:
        twin.nodes = {"groq": routing.GROQ_NODE, "workstation": routing.LOCAL}
        twin.work()
        with monkeypatch.context() as before:
            before.setattr(service, "INPUTS", INPUTS[:3])
            old = twin.router("a")
            await twin.until(lambda: len(old.service.partitions) == 6)
        # Per topic, the members in order: `b` gets partition 3 of what all read, and `c` that of the new input.
        new = [twin.router("b"), twin.router("c")]
        await twin.until(lambda: [len(each.service.partitions) for each in (old, *new)] == [2, 2, 2])
        await twin.until(lambda: "partitions 3 waits" in (new[0].service.degraded() or ""))
        assert [each.service.health() for each in (old, *new)] == [None, None, None]
        assert new[1].service.degraded() is None
        local = [task for number in range(6) for task in tasks_of(number, 1, partitions=6, name="local")]
        await twin.submit(*local)
        await twin.until_completed(local)
        cloud = [a_task(f"cloud-{number}", privacy=Privacy.PUBLIC, model=GROQ) for number in range(8)]
        await twin.submit(*cloud)
        await twin.until(lambda: len(asked(twin)) == 14)
        await old.stop()
        await twin.until_completed(cloud)
        await twin.until(lambda: [len(each.service.partitions) for each in new] == [3, 3])
        assert [each.service.degraded() for each in new] == [None, None]
        assert {len(ends) for ends in twin.completed().values()} == {1}
        assert len({request.attempt_id for request in twin.requests}) == 14, "no second attempt was needed"
