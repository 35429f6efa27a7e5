"""Inputs of the router that are other logs than before: deleted and created again, cut short, restored, cleaned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
from headrace_contracts.events import TaskSubmitted
from headrace_contracts.topics import TASKS_SUBMITTED
from headrace_router.service import RouterService
from headrace_streams.records import TopicDescription, TopicPartition
from headrace_streams.watching import LogWatch
from headrace_testing.lasting import ended, tasks_of
from headrace_testing.router_twin import PREFIX, Router, Twin

PARTITIONS = 3
SUBMITTED = PREFIX + "tasks.submitted"


def batch(name: str, count: int = 6) -> list[TaskSubmitted]:
    return [task for number in range(PARTITIONS) for task in tasks_of(number, count, partitions=PARTITIONS, name=name)]


async def routed(twin: Twin, name: str, count: int = 6) -> list[TaskSubmitted]:
    """Submit a batch, and wait until all of it has ended."""
    sent = batch(name, count)
    await twin.submit(*sent)
    await twin.until_completed(sent)
    return sent


async def started(twin: Twin, name: str = "r1", **limits: Any) -> Router:
    router = twin.router(name, **{"longest_wait_seconds": 0.2, "assign_seconds": 0.2, "watch_seconds": 0.2, **limits})
    await twin.until(lambda: len(router.service.partitions) == PARTITIONS)
    return router


def once(twin: Twin) -> bool:
    return {len(found) for found in twin.completed().values()} == {1}


def recreated(twin: Twin) -> None:
    twin.cluster.recreate_topic(SUBMITTED)


def restored_under_old_commits(twin: Twin) -> None:
    twin.cluster.recreate_topic(SUBMITTED, forget_commits=False)


def truncated(twin: Twin) -> None:
    for number in range(PARTITIONS):
        twin.cluster.truncate_after(TopicPartition(SUBMITTED, number), 1)


TROUBLES = {"recreated": recreated, "restored": restored_under_old_commits, "truncated": truncated}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
@pytest.mark.parametrize("running", [True, False], ids=["while running", "while stopped"])
@pytest.mark.parametrize("later", [2, 12], ids=["shorter than before", "longer than before"])
async def test_what_is_submitted_to_another_log_ends(
    trouble: Callable[[Twin], None], running: bool, later: int
) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin)
        twin.work()
        await routed(twin, "before")
        if not running:
            await router.stop()
        trouble(twin)
        # A log that was cut short and has grown beyond the position since cannot be told from the former one.
        after = batch("after", 2 if trouble is truncated else later)
        await twin.submit(*after)
        if not running:
            router = await started(twin, "r2")
        await twin.until_completed(after)
        await routed(twin, "more", 3)
        await twin.quiet()
        assert once(twin)
        await router.stop()
        # The positions of the new log are journaled: the next owner finds nothing wrong.
        last = await started(twin, "r3")
        await routed(twin, "even-more", 3)
        assert once(twin)
        await last.stop()


async def test_only_the_partition_that_was_cut_short_is_taken_over_again() -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin)
        twin.work()
        await routed(twin, "before")
        starts = len([entry for entry in twin.journal() if entry.kind.value == "barrier"])
        twin.cluster.truncate_after(TopicPartition(SUBMITTED, 1), 2)
        bad = tasks_of(1, 2, partitions=PARTITIONS, name="cut")
        await twin.submit(*bad)
        await twin.until_completed(bad)
        assert len([entry for entry in twin.journal() if entry.kind.value == "barrier"]) == starts + 1
        assert len(router.service.partitions) == PARTITIONS
        assert once(twin)


@pytest.mark.parametrize("topic", ["tasks.cancelled", "attempts.finished", "attempts.finished.cloud"])
async def test_the_other_inputs_may_be_recreated_as_well(topic: str) -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        await started(twin)
        twin.work()
        before = await routed(twin, "before")
        for task in before[:3]:
            await twin.cancel(task)
        await twin.quiet(0.05)
        twin.cluster.recreate_topic(PREFIX + topic)
        await routed(twin, "after")
        assert once(twin)


async def test_records_deleted_before_they_were_read_are_told_of_and_the_rest_goes_on() -> None:
    told: list[str] = []
    async with Twin(partitions=PARTITIONS) as twin:
        twin.on_discontinuity = lambda partition, verdict: told.append(f"{partition} {verdict.kind}")
        router = await started(twin)
        twin.work()
        await routed(twin, "before")
        await router.stop()
        lost = batch("lost")
        await twin.submit(*lost)
        for number in range(PARTITIONS):
            twin.cluster.delete_before(TopicPartition(SUBMITTED, number), 12)
        kept = batch("kept")
        await twin.submit(*kept)
        await started(twin, "r2")
        await twin.until_completed(kept)
        await twin.quiet()
        assert ended(twin, lost) == 0
        assert sorted(told) == [f"{SUBMITTED}[{number}] data_lost" for number in range(PARTITIONS)]


async def test_a_position_of_an_earlier_version_gets_the_id_of_its_log() -> None:
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin)
        twin.work()
        await routed(twin, "sent")
        ids = topic_ids(router.service)
        assert len(ids) == 1
        for each in router.service._membership.routers.values():  # type: ignore[union-attr]
            each.topic_ids.clear()
        await twin.until(lambda: topic_ids(router.service) == ids)


@pytest.mark.parametrize("unanswered", [1, 2, 3])
async def test_ids_that_the_cluster_did_not_say_at_the_takeover_are_asked_for_soon(
    unanswered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = LogWatch._described
    left = unanswered

    async def seldom(self: LogWatch, topics: Collection[str]) -> Mapping[str, TopicDescription]:
        nonlocal left
        left -= 1
        return {} if left >= 0 else await described(self, topics)

    monkeypatch.setattr(LogWatch, "_described", seldom)
    async with Twin(partitions=PARTITIONS) as twin:
        router = await started(twin, watch_seconds=30.0)
        twin.work()
        await routed(twin, "sent")
        for number in range(unanswered):
            await routed(twin, f"sent-{number}")
            await asyncio.sleep(1.1)
        await twin.until(lambda: None not in topic_ids(router.service))


def topic_ids(service: RouterService) -> set[str | None]:
    membership = service._membership
    assert membership is not None
    return {router.topic_ids.get(TASKS_SUBMITTED.name) for router in membership.routers.values()}
