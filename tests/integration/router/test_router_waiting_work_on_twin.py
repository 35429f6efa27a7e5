"""What routers tell autoscalers about the tasks that wait in them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from headrace_contracts.events import Privacy
from headrace_contracts.topics import WORK_CLOUD_BATCH, WORK_LOCAL_BATCH
from headrace_router import waiting_work
from headrace_router.waiting_work import WaitingWork
from headrace_testing import routing
from headrace_testing.router_twin import PREFIX, Router, Twin, now_ms


def document(router: Router) -> dict[str, Any]:
    found = router.service.waiting_work.document()
    assert {**found, "targets": []} == {
        "cloud": found["cloud"], "sites": {"_": found["sites"]["_"]}, "targets": [],
    }, "autoscalers find all sites"  # fmt: skip
    return dict(found)


def waiting(router: Router) -> tuple[float, float]:
    found = document(router)
    return found["sites"]["_"]["waiting_tasks"], found["cloud"]["waiting_tasks"]


async def test_from_zero_and_to_zero_through_a_takeover() -> None:
    async with Twin(partitions=1, session_timeout=1.0) as twin:
        twin.nodes = {}
        first = twin.router("a")
        await twin.until(lambda: waiting(first) == (0, 0))
        sensitive = [
            routing.task(f"s{number}", f"{number}?", privacy=Privacy.SENSITIVE, submitted_at=now_ms())
            for number in range(3)
        ]
        public = routing.task("p", "public?", privacy=Privacy.PUBLIC, submitted_at=now_ms())
        for task in (*sensitive, public):
            await twin.submit(task)
        await twin.until(lambda: waiting(first) == (4, 1))
        await first.kill()
        second = twin.router("b")
        await twin.until(lambda: waiting(second) == (4, 1))
        assert document(second)["cloud"]["waiting_work_seconds"] > 128 / 25
        second.world.node_changed("n", routing.node("n", models=["gemma2:2b"], reported_at=now_ms()))
        await twin.until(lambda: len(twin.cluster.records(PREFIX + WORK_LOCAL_BATCH.name)) == 4)
        await twin.until(lambda: waiting(second) == (0, 0))
        assert not twin.cluster.records(PREFIX + WORK_CLOUD_BATCH.name)


async def test_a_router_that_has_left_the_group_tells_of_nothing() -> None:
    async with Twin(partitions=1) as twin:
        twin.nodes = {}
        router = twin.router("a")
        await twin.submit(routing.task("s", "?", privacy=Privacy.SENSITIVE, submitted_at=now_ms()))
        await twin.until(lambda: waiting(router) == (1, 0))
        await router.stop()
        assert waiting(router) == (0, 0)


async def test_those_looked_at_stand_for_the_others_until_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_work, "_LOOKS_IN_A_ROUND", 2)
    async with Twin(partitions=1) as twin:
        twin.nodes = {}
        # Rounds of its own: the router's are an hour away.
        router = twin.router("a", tick_seconds=3_600.0)
        for number in range(10):
            await twin.submit(
                routing.task(f"s{number}", f"{number}?", privacy=Privacy.SENSITIVE, submitted_at=now_ms())
            )
        (partition,) = await until_routed(twin, router)
        await twin.until(lambda: len(partition.tasks.waiting()) == 10)
        context = router.service._router_context
        work = WaitingWork(context.view, context.metrics, context.answer_lengths, time.monotonic)
        for _ in range(6):
            await work.count([partition.tasks])
            assert work.document()["sites"]["_"]["waiting_tasks"] == pytest.approx(10)
        assert len(work._needs) == 10


async def until_routed(twin: Twin, router: Router) -> list[Any]:
    def routers() -> list[Any]:
        membership = router.service._membership
        return [] if membership is None else list(membership.routers.values())

    await twin.until(lambda: len(routers()) == 1)
    return routers()
