"""The tasks API over HTTP, with no Postgres about: accepting, waiting, following, resuming, cancelling, refusing."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin
from headrace_contracts.events import (
    AuditRecorded,
    ModelStatus,
    NodeStatus,
    Place,
    Privacy,
    ReplyKind,
    TaskStatus,
    TrailStep,
)
from headrace_contracts.headers import header
from headrace_contracts.topics import AUDIT_RECORDED, FLEET_STATUS
from headrace_streams.errors import AppendUncertain, TransientError
from headrace_streams.publishing import Publication, Publisher
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, FaultyNetwork, Running, Seen, StandIn, silence
from headrace_testing.waiting import eventually


async def events(intake: Running, task_id: str, last_event_id: str | None = None) -> tuple[int, list[dict[str, Any]]]:
    """Status, and all events to the end of the stream."""
    headers = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    async with intake.http.get(f"{intake.url}/v1/tasks/{task_id}/events", headers=headers) as response:
        return response.status, parsed((await response.read()).decode()) if response.status == 200 else []


def parsed(text: str) -> list[dict[str, Any]]:
    """Server-sent events as dictionaries."""
    found: list[dict[str, Any]] = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith((":", "retry:")))
        if fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


async def test_an_accepted_task_is_in_kafka_with_all_that_was_said(bed: Bed) -> None:
    bed.router.answer = silence
    intake = await bed.intake()
    status, task, headers = await intake.call(
        "POST", "/v1/tasks", {"prompt": "Hi", "role": "tester", "session": "s1", "privacy": "sensitive"}
    )
    assert status == 202
    assert (task["status"], task["role"], task["session"]) == ("accepted", "tester", "s1")
    assert headers["Location"] == task["links"]["self"] == f"/v1/tasks/{task['id']}"
    await bed.router.until(lambda: len(bed.router.tasks) == 1)
    (seen,) = bed.router.tasks
    assert (seen.task.task_id, seen.task.tenant, seen.task.privacy) == (task["id"], "default", Privacy.SENSITIVE)
    assert seen.task.reply_partition is not None
    assert seen.record.key == b"s:default/s1"
    assert header(seen.record.headers, "ce_id") == task["id"]
    assert header(seen.record.headers, "ce_tenant") == "default"


async def test_the_callers_trace_goes_on_in_kafka(bed: Bed) -> None:
    intake = await bed.intake()
    trace = "0af7651916cd43dd8448eb211c80319c"
    await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, traceparent=f"00-{trace}-b7ad6b7169203331-01")
    await bed.router.until(lambda: len(bed.router.tasks) == 1)
    carried = header(bed.router.tasks[0].record.headers, "traceparent")
    assert carried is not None
    assert carried.split("-")[1] == trace


async def test_who_prefers_to_wait_gets_the_answer(bed: Bed) -> None:
    intake = await bed.intake()
    status, task, headers = await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, Prefer="wait=5")
    assert (status, task["status"], task["answer"]) == (200, "succeeded", "Echo: Hi")
    assert headers["Preference-Applied"] == "wait=5"
    status, shown, _ = await intake.call("GET", f"/v1/tasks/{task['id']}")
    assert (status, shown) == (200, task)


async def test_who_waits_is_told_for_what(bed: Bed) -> None:
    trail = (
        TrailStep(at=5, step="rejected", provider="groq", model="m", reason="privacy: sensitive"),
        TrailStep(at=5, step="waited", reason="no_local_capacity: ollama/m: no healthy local node offers it"),
    )

    async def waits(router: StandIn, seen: Seen) -> None:
        await router.reply(seen, ReplyKind.WAITING, trail=trail)

    bed.router.answer = waits
    intake = await bed.intake()
    _, accepted, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi", "privacy": "sensitive"})
    task_id = accepted["id"]
    await bed.router.until(lambda: len(bed.router.tasks) == 1)

    async def told() -> bool:
        _, shown, _ = await intake.call("GET", f"/v1/tasks/{task_id}")
        assert shown["status"] == "accepted"
        return [step["step"] for step in shown["trail"]] == ["rejected", "waited"]

    await eventually(told)
    await bed.router.finish(bed.router.tasks[0])
    status, seen = await events(intake, task_id)
    assert status == 200
    assert [event["event"] for event in seen] == ["waiting", "finished"]
    assert seen[0]["data"] == {"reason": trail[-1].reason}


async def test_who_waits_in_vain_is_told_that_it_goes_on(bed: Bed) -> None:
    bed.router.answer = silence
    intake = await bed.intake()
    status, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, Prefer="wait=0")
    assert (status, task["status"]) == (202, "accepted")
    status, shown, _ = await intake.call("GET", f"/v1/tasks/{task['id']}")
    assert (status, shown["status"]) == (200, "accepted")


async def test_a_task_that_failed_is_still_an_answer_to_who_waits(bed: Bed) -> None:
    async def fail(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, status=TaskStatus.FAILED, answer=None)

    bed.router.answer = fail
    intake = await bed.intake()
    status, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, Prefer="wait=5")
    assert (status, task["status"], task["answer"]) == (200, "failed", None)


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        ({}, "invalid-request", "messages"),
        ({"prompt": "x", "messages": []}, "invalid-request", "messages"),
        ({"prompt": "x", "privacy": "none"}, "invalid-request", "privacy"),
        ({"prompt": "x", "deadline": "2001-01-01T00:00:00Z"}, "invalid-request", "deadline"),
        ({"prompt": "x", "privcy": "sensitive"}, "invalid-request", "privcy"),
        ({"prompt": "x", "privacy": "sensitive", "mode": "cloud"}, "privacy-contradiction", "mode"),
        ([], "invalid-request", "(body)"),
    ],
)
async def test_a_request_that_cannot_be_done_is_a_problem_that_names_the_field(
    bed: Bed, body: Any, kind: str, field: str
) -> None:
    intake = await bed.intake()
    status, problem, headers = await intake.call("POST", "/v1/tasks", body)
    assert (status, headers["Content-Type"]) == (400, "application/problem+json; charset=utf-8")
    assert problem["type"] == f"urn:headrace:problem:{kind}"
    named = problem["errors"][0]["field"] if "errors" in problem else problem["detail"]
    assert field.strip("()") in named
    assert not bed.router.tasks


@pytest.mark.stack
@pytest.mark.parametrize("path", ["/v1/tasks/%ff", "/v1/tasks/%00", "/v1/tasks/%ED%A0%80", "/v1/tasks/" + "x" * 3_000])
async def test_an_odd_id_is_no_task(postgres_dsn: str, bed: Bed, path: str) -> None:
    intake = await bed.intake(database_url=postgres_dsn)

    async def answered() -> bool:
        status = (await intake.call("GET", path))[0]
        assert status in (404, 503)
        return status == 404

    await eventually(answered)


async def test_a_body_above_the_limit_is_413(bed: Bed) -> None:
    intake = await bed.intake(body_limit_bytes=2_048)
    status, problem, _ = await intake.call("POST", "/v1/tasks", {"prompt": "x" * 3_000})
    assert (status, problem["limit_bytes"]) == (413, 2_048)
    assert (await intake.call("POST", "/v1/tasks", {"prompt": "x" * 1_500}))[0] == 202


async def test_what_is_refused_for_its_privacy_is_on_the_audit_record(bed: Bed) -> None:
    fleet = Publisher(bed.log.producer(), bed.codec, "test")
    node = NodeStatus(
        node="groq",
        place=Place.CLOUD,
        provider="groq",
        healthy=True,
        models=(ModelStatus(name="llama"),),
        reported_at=time.time_ns() // 1_000_000,
    )
    publication = Publication(spec=FLEET_STATUS, event=node, event_id="1", key=b"groq", tenant="", time_ms=1)
    await fleet.send(publication)
    intake = await bed.intake()
    status, _, _ = await intake.call(
        "POST", "/v1/tasks", {"prompt": "my secret", "privacy": "sensitive", "model": "groq/llama", "subject": "p"}
    )
    assert status == 400
    (record,) = bed.cluster.records("headrace." + AUDIT_RECORDED.name)
    assert b"my secret" not in (record.value or b"")
    audit = await bed.codec.read(AuditRecorded, record.value, Origin(record.topic, record.partition, record.offset))
    assert (audit.action, audit.allowed, audit.provider, audit.subject) == ("refuse", False, "groq", "p")
    assert record.key == b"default"


@pytest.mark.parametrize(
    ("error", "kind"), [(TransientError("no leader"), "not-accepted"), (AppendUncertain("cut off"), "accept-uncertain")]
)
async def test_what_kafka_did_not_take_is_not_accepted(bed: Bed, error: Exception, kind: str) -> None:
    network = FaultyNetwork()
    intake = await bed.intake(network=network)
    network.error = error
    status, problem, headers = await intake.call("POST", "/v1/tasks", {"prompt": "Hi"})
    assert (status, problem["type"]) == (503, f"urn:headrace:problem:{kind}")
    assert int(headers["Retry-After"]) > 0
    assert ("task_id" in problem) is (kind == "accept-uncertain")
    network.error = None
    assert (await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}))[0] == 202
    assert len(bed.router.tasks) <= 1


async def test_events_hold_the_text_in_pieces_and_then_the_task(bed: Bed) -> None:
    intake = await bed.intake()
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi", "stream": True})
    status, told = await events(intake, task["id"])
    assert status == 200
    assert [event["event"] for event in told] == ["delta", "delta", "finished"]
    assert "".join(event["data"]["text"] for event in told[:2]) == told[2]["data"]["answer"] == "Echo: Hi"
    assert all(":" in event["id"] for event in told)


async def test_who_follows_from_the_start_sees_pieces_as_they_come(bed: Bed) -> None:
    said, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(router: StandIn, seen: Seen) -> None:
        await router.say(seen, "one", 0)
        said.set()
        await go_on.wait()
        await router.say(seen, " two", 1)
        await router.finish(seen, answer=plain("one two"))

    bed.router.answer = slowly
    intake = await bed.intake(heartbeat_seconds=0.05)
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi", "stream": True})
    await said.wait()
    headers = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
    async with intake.http.get(f"{intake.url}{task['links']['events']}", headers=headers) as response:
        first = await response.content.readuntil(b"\n\n")
        assert b"one" in first
        assert await response.content.readuntil(b"\n\n") == b": heartbeat\n\n"
        go_on.set()
        rest = (await response.content.read()).decode()
    assert [event["event"] for event in parsed(rest)] == ["delta", "finished"]


async def test_a_caller_resumes_after_its_last_event(bed: Bed) -> None:
    intake = await bed.intake()
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi", "stream": True})
    _, told = await events(intake, task["id"])
    status, rest = await events(intake, task["id"], told[0]["id"])
    assert (status, rest) == (200, told[1:])
    assert await events(intake, task["id"], told[-1]["id"]) == (204, [])
    assert await events(intake, task["id"], "finished") == (204, [])


async def test_a_caller_resumes_at_another_intake_and_after_a_restart(bed: Bed) -> None:
    async with bed.running() as first:
        _, task, _ = await first.call("POST", "/v1/tasks", {"prompt": "Hi", "stream": True})
        _, told = await events(first, task["id"])
    for instance in ("intake-a", "intake-b"):
        async with bed.running(instance_id=instance) as other:
            status, rest = await events(other, task["id"], told[0]["id"])
            assert (status, [event["id"] for event in rest]) == (200, [event["id"] for event in told[1:]])
            assert rest[-1]["data"]["answer"] == "Echo: Hi"
            assert await events(other, task["id"], told[-1]["id"]) == (204, [])


async def test_a_caller_who_falls_behind_the_buffer_loses_nothing(bed: Bed) -> None:
    async def at_length(router: StandIn, seen: Seen) -> None:
        for number in range(40):
            await router.say(seen, f"{number:04}" * 200, number)
        await router.finish(seen)

    bed.router.answer = at_length
    intake = await bed.intake(task_buffer_bytes=4_096)
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi", "stream": True}, Prefer="wait=5")
    status, told = await events(intake, task["id"])
    assert status == 200
    assert [event["data"]["text"][:4] for event in told[:-1]] == [f"{number:04}" for number in range(40)]


async def test_another_attempt_takes_back_what_was_said(bed: Bed) -> None:
    async def twice(router: StandIn, seen: Seen) -> None:
        await router.say(seen, "wrong", 0)
        await router.say(seen, "right", 0, attempt=2, execution="e2")
        await router.finish(seen, answer=plain("right"), attempts=2)

    bed.router.answer = twice
    intake = await bed.intake()
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi", "stream": True}, Prefer="wait=5")
    _, told = await events(intake, task["id"])
    assert [event["event"] for event in told] == ["delta", "restarted", "delta", "finished"]
    assert told[1]["data"] == {"attempt": 2}


@pytest.mark.parametrize("last", ["nonsense", "99:0", "0:999999"])
async def test_a_last_event_id_that_was_not_given_out_is_refused(bed: Bed, last: str) -> None:
    bed.router.answer = silence
    intake = await bed.intake()
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi"})
    assert (await events(intake, task["id"], last))[0] == 400
    assert (await events(intake, "unknown", last))[0] in (400, 503)


async def test_a_task_is_asked_to_stop_in_its_home_partition(bed: Bed) -> None:
    bed.router.answer = silence
    intake = await bed.intake()
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi", "session": "s"})
    status, shown, _ = await intake.call("DELETE", f"/v1/tasks/{task['id']}?reason=changed+my+mind")
    assert (status, shown["status"]) == (202, "accepted")
    await bed.router.until(lambda: len(bed.router.cancelled) == 1)
    (seen,), ((cancellation, record),) = bed.router.tasks, bed.router.cancelled
    assert (cancellation.task_id, cancellation.tenant, cancellation.reason) == (
        task["id"],
        "default",
        "changed my mind",
    )
    assert (record.partition, record.key) == (seen.record.partition, seen.record.key)
    assert cancellation.home_partition == seen.record.partition


async def test_a_task_that_has_ended_is_left_alone(bed: Bed) -> None:
    intake = await bed.intake()
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, Prefer="wait=5")
    status, shown, _ = await intake.call("DELETE", f"/v1/tasks/{task['id']}")
    assert (status, shown["status"]) == (200, "succeeded")
    assert not bed.router.cancelled


async def test_what_needs_postgres_says_so_and_the_rest_goes_on(bed: Bed) -> None:
    intake = await bed.intake()
    for method, path, headers in (
        ("GET", "/v1/tasks", {}),
        ("GET", "/v1/tasks/0199c0de-0000-7000-8000-000000000000", {}),
        ("POST", "/v1/tasks", {"Idempotency-Key": "k"}),
    ):
        body = {"prompt": "Hi"} if method == "POST" else None
        status, problem, told = await intake.call(method, path, body, **headers)
        assert (status, problem["type"]) == (503, "urn:headrace:problem:database-unavailable"), path
        assert told["Retry-After"]
    assert (await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, Prefer="wait=5"))[0] == 200
    assert intake.health.ready().ok


async def test_tenants_do_not_see_each_others_tasks(bed: Bed) -> None:
    intake = await bed.intake()
    _, made, _ = await intake.call("POST", "/v1/keys", {"tenant": "other"})
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, Prefer="wait=5")
    status, _, _ = await intake.call("GET", f"/v1/tasks/{task['id']}", key=made["key"])
    assert status == 503  # unknown here, and Postgres cannot be asked
    status, _, _ = await intake.call("DELETE", f"/v1/tasks/{task['id']}", key=made["key"])
    assert status == 503


async def test_many_callers_get_each_their_own_answer(bed: Bed) -> None:
    intake = await bed.intake()
    answers = await asyncio.gather(
        *(intake.call("POST", "/v1/tasks", {"prompt": f"number {n}"}, Prefer="wait=10") for n in range(60))
    )
    assert [task["answer"] for _, task, _ in answers] == [f"Echo: number {n}" for n in range(60)]


async def test_a_caller_that_goes_away_leaves_no_waiter_behind(bed: Bed) -> None:
    bed.router.answer = silence
    intake = await bed.intake(heartbeat_seconds=0.02)
    _, task, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi", "stream": True})
    headers = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
    async with aiohttp.ClientSession() as gone:
        response = await gone.get(f"{intake.url}{task['links']['events']}", headers=headers)
        await response.content.readuntil(b"\n\n")
        assert intake.metrics.get_sample_value("headrace_intake_waiters") == 1
        response.close()
    async with asyncio.timeout(30):
        while intake.metrics.get_sample_value("headrace_intake_waiters"):  # noqa: ASYNC110 - a gauge notifies no one
            await asyncio.sleep(0.02)
