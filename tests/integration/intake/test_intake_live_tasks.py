"""A tenant that has as many live tasks as it may: told before anything is written, until one of them has ended."""

from __future__ import annotations

import openai
import pytest
from headrace_contracts.events import Failure, TaskStatus
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running, Seen, StandIn, silence
from headrace_testing.waiting import eventually

URL = "/v1/tasks"
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


async def submitted(intake: Running, count: int, key: str = BOOTSTRAP_KEY) -> None:
    for number in range(count):
        status, _, _ = await intake.call("POST", URL, {"prompt": f"Hi {number}"}, key=key)
        assert status == 202


async def test_more_than_a_tenant_may_have_are_not_written(bed: Bed) -> None:
    bed.router.answer = silence
    intake = await bed.intake(pending_tasks_per_tenant=3)
    made = await intake.call("POST", "/v1/keys", {"tenant": "other"})
    await submitted(intake, 3)
    chat = "/v1/chat/completions"
    for path, body in ((URL, {"prompt": "more"}), (chat, CHAT), (chat, CHAT | {"stream": True})):
        status, problem, headers = await intake.call("POST", path, body)
        assert (status, headers["Retry-After"]) == (429, "1")
        assert "tasks here that have not ended" in str(problem)
    refused = {"reason": "too-many-live-tasks"}
    assert intake.metrics.get_sample_value("headrace_intake_tasks_not_accepted_total", refused) == 3
    # Others have room.
    await submitted(intake, 3, made[1]["key"])
    await bed.router.until(lambda: len(bed.router.tasks) == 6)
    # Each end makes room for one.
    await bed.router.finish(bed.router.tasks[0])

    async def room() -> bool:
        return (await intake.call("POST", URL, {"prompt": "room"}))[0] == 202

    await eventually(room)
    assert (await intake.call("POST", URL, {"prompt": "more"}))[0] == 429


@pytest.mark.stack
async def test_a_repetition_is_the_first_task_however_many_are_live(postgres_dsn: str, bed: Bed) -> None:
    bed.router.answer = silence
    intake = await bed.intake(database_url=postgres_dsn, pending_tasks_per_tenant=2)

    async def accepted() -> bool:
        return (await intake.call("POST", URL, {"prompt": "Hi"}, Idempotency_Key="k"))[0] == 202

    await eventually(accepted)
    await submitted(intake, 1)
    status, _, headers = await intake.call("POST", URL, {"prompt": "Hi"}, Idempotency_Key="k")
    assert (status, headers["Idempotency-Replayed"]) == (202, "true")
    # A key whose request was refused is as unused as before.
    assert (await intake.call("POST", URL, {"prompt": "new"}, Idempotency_Key="l"))[0] == 429
    await bed.router.until(lambda: len(bed.router.tasks) == 2)
    await bed.router.finish(bed.router.tasks[0])

    async def room() -> bool:
        return (await intake.call("POST", URL, {"prompt": "other"}, Idempotency_Key="l"))[0] == 202

    await eventually(room)


async def over_quota(router: StandIn, seen: Seen) -> None:
    failure = Failure(code="too_many_live_tasks", message="the tenant has 9 live tasks", retry_after_ms=5_000)
    await router.finish(seen, status=TaskStatus.FAILED, answer=None, failure=failure)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_router_refuses_for_its_quota_is_a_429_too(bed: Bed, stream: bool) -> None:
    bed.router.answer = over_quota
    intake = await bed.intake()
    async with openai.AsyncOpenAI(base_url=f"{intake.url}/v1", api_key=BOOTSTRAP_KEY, max_retries=0) as ai:
        with pytest.raises(openai.RateLimitError) as refused:
            await ai.chat.completions.create(**CHAT, stream=stream)  # type: ignore[call-overload]
    assert refused.value.response.headers["Retry-After"] == "5"
    assert "the tenant has 9 live tasks" in refused.value.message
    # The task exists and has ended: a read of it succeeds, and says so.
    task_id = refused.value.response.headers["X-Headrace-Task-Id"]
    status, task, _ = await intake.call("GET", f"{URL}/{task_id}")
    assert (status, task["status"], task["failure"]["code"]) == (200, "failed", "too_many_live_tasks")
