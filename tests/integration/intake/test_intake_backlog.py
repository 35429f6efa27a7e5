"""A backlog that waits in vain: the next task is told so, in the form of the API that it came over."""

from __future__ import annotations

from typing import Any

import pytest
from headrace_contracts.events import TaskStatus
from headrace_testing.intake_bed import Bed, Running, silence
from headrace_testing.waiting import eventually

TASK = {"model": "gemma2:2b", "prompt": "Hi", "priority": "interactive", "privacy": "public"}
SAID = {"model": "gemma2:2b", "messages": [{"role": "user", "content": "Hi"}]}


async def backlog(bed: Bed, intake: Running) -> None:
    """Twenty tasks, of which twelve have expired."""
    for _ in range(20):
        status, _, _ = await intake.call("POST", "/v1/tasks", TASK)
        assert status == 202
    await bed.router.until(lambda: len(bed.router.tasks) == 20)
    for seen in bed.router.tasks[:12]:
        await bed.router.finish(seen, status=TaskStatus.EXPIRED, answer=None)


async def refused(intake: Running, path: str, body: dict[str, Any]) -> tuple[Any, Any]:
    """The answer to a task, when the ends of others have been read: it is not taken on."""
    answers: list[tuple[int, Any, Any]] = []

    async def is_refused() -> bool:
        answers.append(await intake.call("POST", path, body, X_Headrace_Privacy="public"))
        return answers[-1][0] != 202

    await eventually(is_refused)
    status, document, headers = answers[-1]
    assert status == 429
    return document, headers


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/tasks", TASK, lambda told: told["type"]),
        ("/v1/chat/completions", SAID, lambda told: told["error"]["code"]),
        ("/v1/messages", SAID | {"max_tokens": 9}, lambda told: told["error"]["type"]),
        ("/api/chat", SAID, lambda told: told["error"]),
    ],
)
async def test_what_would_wait_in_vain_is_refused(bed: Bed, path: str, body: dict[str, Any], kind: Any) -> None:
    bed.router.answer = silence
    intake = await bed.intake()
    await backlog(bed, intake)
    await refused(intake, "/v1/tasks", TASK)
    written = len(bed.router.tasks)

    told, headers = await refused(intake, path, body)

    assert len(bed.router.tasks) == written, "nothing was written"
    assert any(word in kind(told) for word in ("backlog-too-long", "rate_limit", "wait in vain")), told
    assert headers["Retry-After"] == "60"
    # Beside the limit of the key.
    assert headers["RateLimit-Policy"].split(", ") == ['"backlog";q=0;qu="concurrent-requests"', '"key";q=60000;w=60']
    assert headers["RateLimit"].startswith('"backlog";r=0;t=60, "key";r=')


async def test_other_tasks_and_other_tenants_are_taken_on(bed: Bed) -> None:
    bed.router.answer = silence
    intake = await bed.intake()
    _, made, _ = await intake.call("POST", "/v1/keys", {"tenant": "other"})
    await backlog(bed, intake)
    await refused(intake, "/v1/tasks", TASK)

    assert (await intake.call("POST", "/v1/tasks", TASK | {"model": "phi3:3.8b"}))[0] == 202
    assert (await intake.call("POST", "/v1/tasks", TASK | {"priority": "batch"}))[0] == 202
    assert (await intake.call("POST", "/v1/tasks", TASK, key=made["key"]))[0] == 202
    reasons = intake.metrics.get_sample_value(
        "headrace_intake_tasks_not_accepted_total", {"reason": "backlog-too-long"}
    )
    assert reasons == 1
