"""Trouble that lasts in one partition, while the others are watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from headrace_contracts.events import TaskSubmitted
from headrace_streams.partitioning import partition_of

from headrace_testing import routing
from headrace_testing.router_twin import Router, Twin, key_of, now_ms


def tasks_of(partition: int, count: int, *, partitions: int, name: str = "task") -> Sequence[TaskSubmitted]:
    """Tasks, each of a session of its own, whose home is this partition."""
    found: list[TaskSubmitted] = []
    number = 0
    while len(found) < count:
        session = f"{name}-{number}"
        number += 1
        task = replace(
            routing.task(f"{name}-{partition}-{len(found)}", f"About {session}?", submitted_at=now_ms()),
            session=session,
        )
        if partition_of(key_of(task), partitions) == partition:
            found.append(task)
    return found


def ended(twin: Twin, sent: Collection[TaskSubmitted]) -> int:
    """How many of these have ended."""
    return len({task.task_id for task in sent} & twin.completed().keys())


async def says(router: Router, words: str, seconds: float = 60.0) -> str:
    """Wait until the router's health contains these words, and return it."""
    async with asyncio.timeout(seconds):
        while True:
            if words in (said := router.service.health() or ""):
                return said
            await asyncio.sleep(0.01)


def troubles(router: Router) -> Sequence[str]:
    """What the router says that it cannot publish, by partition."""
    return [each.unpublished for each in router.service.statuses() if each.unpublished is not None]


async def others_go_on(
    twin: Twin, sick: Collection[int], *, partitions: int, name: str, count: int = 20, seconds: float = 60.0
) -> Sequence[TaskSubmitted]:
    """Submit tasks to all partitions; those of the partitions that are not sick must all end. Returns the others."""
    good = [
        task
        for number in range(partitions)
        if number not in sick
        for task in tasks_of(number, count, partitions=partitions, name=name)
    ]
    bad = [task for number in sick for task in tasks_of(number, count, partitions=partitions, name=name)]
    await twin.submit(*good, *bad)
    try:
        await twin.until_completed(good, seconds)
    except TimeoutError:
        raise AssertionError(f"{ended(twin, good)} of {len(good)} tasks of the good partitions ended") from None
    return bad


async def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - the condition has no event of its own
            await asyncio.sleep(0.01)
