"""What a tenant may have in flight, on the log's in-memory twin: through crashes, takeovers and ends of every kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from headrace_contracts.events import Privacy, TaskStatus, TaskSubmitted
from headrace_router.decide.tenant_quota import TenantQuota
from headrace_testing import routing
from headrace_testing.router_twin import Router, Twin, now_ms


def tasks(count: int, name: str, tenant: str = "acme", **fields: object) -> list[TaskSubmitted]:
    return [
        routing.task(
            f"{name}-{number}", f"{name} {number}?", tenant=tenant,
            **{"submitted_at": now_ms(), "privacy": Privacy.SENSITIVE, "session": "one partition", **fields},
        )
        for number in range(count)
    ]  # fmt: skip


def live(router: Router) -> dict[str, int]:
    found: Counter[str] = Counter()
    membership = router.service._membership
    for partition in () if membership is None else membership.routers.values():
        for tenant, load in partition.tasks.loads.items():
            found[tenant] += load.tasks
    return dict(found)


def refused(twin: Twin) -> set[str]:
    return {
        task_id
        for task_id, ends in twin.completed().items()
        if ends[0].failure is not None and ends[0].failure.code == "too_many_live_tasks"
    }


@pytest.mark.parametrize("how", ["crash", "stop"])
async def test_the_quota_holds_through_a_takeover(how: str) -> None:
    async with Twin(partitions=2, session_timeout=1.0) as twin:
        twin.nodes = {}
        quota = TenantQuota(tasks=5)
        first = twin.router("a", quota=quota)
        equal = [replace(each, messages=tasks(1, "equal")[0].messages) for each in tasks(2, "equal")]
        waiting = [*tasks(3, "alone", allow_cached=False), *equal]
        await twin.submit(*waiting)
        await twin.until(lambda: live(first) == {"acme": 5})
        await twin.submit(*tasks(2, "more"), *tasks(2, "other", "globex"))
        await twin.until(lambda: live(first) == {"acme": 5, "globex": 2} and len(refused(twin)) == 2)
        await (first.kill() if how == "crash" else first.stop())
        second = twin.router("b", quota=quota)
        await twin.until(lambda: live(second) == {"acme": 5, "globex": 2})
        await twin.submit(*tasks(1, "after"))
        await twin.until(lambda: refused(twin) == {"more-0", "more-1", "after-0"})
        # One is cancelled, and makes room for exactly one.
        await twin.cancel(waiting[0])
        await twin.until(lambda: live(second) == {"acme": 4, "globex": 2})
        await twin.submit(*tasks(2, "late"))
        await twin.until(lambda: len(refused(twin)) == 4 and live(second)["acme"] == 5)
        # The others are answered.
        twin.work()
        second.world.node_changed("workstation", replace(routing.LOCAL, reported_at=now_ms()))
        await twin.until(lambda: len(twin.completed()) == 12)
        assert live(second) == {}
        statuses = Counter(ends[0].status for ends in twin.completed().values())
        assert statuses == {TaskStatus.SUCCEEDED: 7, TaskStatus.FAILED: 4, TaskStatus.CANCELLED: 1}
        assert all(len(ends) == 1 for ends in twin.completed().values())


async def test_expired_tasks_make_room() -> None:
    async with Twin(partitions=1) as twin:
        twin.nodes = {}
        router = twin.router("a", quota=TenantQuota(tasks=2))
        await twin.submit(*tasks(2, "short", deadline_at=now_ms() + 300))
        await twin.until(lambda: live(router) == {"acme": 2})
        await twin.until(lambda: live(router) == {})
        await twin.submit(*tasks(3, "next"))
        await twin.until(lambda: live(router) == {"acme": 2} and len(refused(twin)) == 1)
