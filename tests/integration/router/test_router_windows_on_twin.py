"""A backlog of one tenant on the log's in-memory twin: it stands before nobody, and all of it is run in its turn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_contracts.events import AttemptRequested, Lane, Privacy, TaskStatus, TaskSubmitted
from headrace_contracts.headers import weight_of
from headrace_contracts.topics import WORK_LOCAL_BATCH, WORK_LOCAL_INTERACTIVE, TopicSpec
from headrace_router.decide.attempt_windows import AttemptWindow
from headrace_runtime.tenants import TenantLimits, Tenants
from headrace_testing import routing
from headrace_testing.router_twin import PREFIX, Twin, end_of, now_ms

WINDOW = AttemptWindow(attempts=2)


def tasks(count: int, name: str, tenant: str = "acme", **fields: object) -> list[TaskSubmitted]:
    return [
        routing.task(
            f"{name}-{number}", f"{name} {number}?", tenant=tenant,
            **{"submitted_at": now_ms(), "privacy": Privacy.SENSITIVE, "session": "one partition", **fields},
        )
        for number in range(count)
    ]  # fmt: skip


async def submit_in_order(twin: Twin, *submitted: TaskSubmitted) -> None:
    for each in submitted:
        await twin.submit(each)


def requests(twin: Twin, spec: TopicSpec = WORK_LOCAL_BATCH) -> list[AttemptRequested]:
    found = [twin.decode(AttemptRequested, record) for record in twin.cluster.records(PREFIX + spec.name)]
    return list({request.attempt_id: request for request in found}.values())


def sent(twin: Twin, spec: TopicSpec = WORK_LOCAL_BATCH) -> list[str]:
    return [request.task_id for request in requests(twin, spec)]


async def end(twin: Twin, task_id: str) -> None:
    request = next(request for request in requests(twin) if request.task_id == task_id)
    await twin.result(request, end_of(request), b"s:acme/one partition")


@pytest.mark.parametrize("how", ["crash", "stop"])
async def test_a_backlog_is_run_in_its_turn_through_a_takeover(how: str) -> None:
    async with Twin(partitions=1, session_timeout=1.0) as twin:
        first = twin.router("a", window=WINDOW)
        await submit_in_order(twin, *tasks(6, "much"))
        await twin.until(lambda: sent(twin) == ["much-0", "much-1"])
        # Others, and its own tasks of the other lane, are not concerned.
        await twin.submit(*tasks(1, "other", "globex"), *tasks(1, "urgent", lane=Lane.INTERACTIVE))
        await twin.until(lambda: "other-0" in sent(twin) and sent(twin, WORK_LOCAL_INTERACTIVE) == ["urgent-0"])
        await end(twin, "much-0")
        await twin.until(lambda: sent(twin)[-1] == "much-2")
        await (first.kill() if how == "crash" else first.stop())
        twin.router("b", window=WINDOW)
        await submit_in_order(twin, *tasks(1, "after"))
        await end(twin, "much-2")
        await twin.until(lambda: sent(twin)[-1] == "much-3")
        await twin.quiet()
        assert sent(twin) == ["much-0", "much-1", "other-0", "much-2", "much-3"]
        twin.work()
        await twin.until(lambda: len(twin.completed()) == 9)
        assert [name for name in sent(twin) if name != "other-0"] == [*(f"much-{n}" for n in range(6)), "after-0"]
        assert {ends[0].status for ends in twin.completed().values()} == {TaskStatus.SUCCEEDED}
        assert {ends[0].attempts for ends in twin.completed().values()} == {1}


async def test_whatever_ends_an_attempt_lets_the_next_go() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.router("a", window=AttemptWindow(attempts=1))
        backlog = tasks(5, "much")
        backlog[3] = replace(backlog[3], deadline_at=now_ms() + 300)
        await submit_in_order(twin, *backlog)
        await twin.until(lambda: sent(twin) == ["much-0"])
        # One that waits is cancelled, another one expires; then the one that is out is cancelled.
        await twin.cancel(backlog[1])
        await twin.until_completed((backlog[1], backlog[3]))
        assert twin.completed()["much-1"][0].status is TaskStatus.CANCELLED
        assert twin.completed()["much-3"][0].status is TaskStatus.EXPIRED
        assert sent(twin) == ["much-0"]
        await twin.cancel(backlog[0])
        await twin.until(lambda: sent(twin) == ["much-0", "much-2"])
        await end(twin, "much-2")
        await twin.until(lambda: sent(twin)[-1] == "much-4")


async def test_those_that_waited_for_a_candidate_go_in_their_turn_too() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.nodes = {}
        router = twin.router("a", window=WINDOW)
        await submit_in_order(twin, *tasks(5, "much"))
        await twin.until(lambda: [status.tasks for status in router.service.statuses()] == [5])
        router.world.node_changed("workstation", replace(routing.LOCAL, reported_at=now_ms()))
        await twin.until(lambda: len(sent(twin)) == 2)
        twin.work()
        await twin.until(lambda: len(twin.completed()) == 5)
        assert sent(twin) == [f"much-{number}" for number in range(5)]


async def test_followers_take_no_place() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.router("a", window=AttemptWindow(attempts=1))
        first, second = tasks(2, "much", session=None)
        equal = [replace(second, task_id=f"equal-{number}") for number in range(3)]
        await submit_in_order(twin, first, second, *equal)
        await twin.until(lambda: sent(twin) == ["much-0"])
        twin.work()
        await twin.until(lambda: len(twin.completed()) == 5)
        assert sent(twin) == ["much-0", "much-1"]


async def test_attempts_say_their_tenants_weight_also_after_a_takeover() -> None:
    tenants = Tenants(tenants={"acme": TenantLimits(weight=7)})
    async with Twin(partitions=1, session_timeout=0.5) as twin:
        first = twin.router("a", tenants=tenants)
        await twin.submit(*tasks(1, "much"), *tasks(1, "other", "globex"))
        await twin.until(lambda: len(sent(twin)) == 2)
        first.wire.silent = {PREFIX + WORK_LOCAL_BATCH.name}
        await twin.submit(*tasks(1, "late"))
        await twin.quiet()
        await first.kill()
        twin.router("b", tenants=tenants)
        await twin.until(lambda: "late-0" in sent(twin))
        records = twin.cluster.records(PREFIX + WORK_LOCAL_BATCH.name)
        weights = {twin.decode(AttemptRequested, record).task_id: weight_of(record.headers) for record in records}
        assert weights == {"much-0": 7, "other-0": 1, "late-0": 7}
        plain = next(record for record in records if twin.decode(AttemptRequested, record).tenant == "globex")
        assert "headrace_weight" not in dict(plain.headers)


async def test_a_tenant_has_the_limits_of_the_file() -> None:
    tenants = Tenants(default=TenantLimits(live_tasks=3), tenants={"acme": TenantLimits(live_tasks=1)})
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.router("a", tenants=tenants)
        await submit_in_order(twin, *tasks(2, "much"), *tasks(4, "other", "globex"))
        await twin.until(lambda: set(twin.completed()) == {"much-1", "other-3"})
        failures = [ends[0].failure for ends in twin.completed().values()]
        assert {failure and failure.code for failure in failures} == {"too_many_live_tasks"}


async def test_a_new_owner_tells_whose_turn_came_before_it() -> None:
    async with Twin(partitions=1, session_timeout=0.5) as twin:
        # One decision at a time, so that the second is not appended together with the first.
        first = twin.router("a", window=AttemptWindow(attempts=1), tick_seconds=60.0, in_flight=1)
        await submit_in_order(twin, *tasks(2, "much"))
        await twin.until(lambda: sent(twin) == ["much-0"])
        await twin.quiet()
        # It records the end, and dies before the next decision.
        first.wire.crash_at, first.wire.crash_after = len(first.wire.appends), True
        await end(twin, "much-0")
        await first.wire.crashed.wait()
        await first.kill()
        assert sent(twin) == ["much-0"]
        twin.router("b", window=AttemptWindow(attempts=1), tick_seconds=60.0)
        await twin.until(lambda: sent(twin) == ["much-0", "much-1"], 5.0)
