"""What a live task takes in a router: bytes of memory, and time of a full garbage collection.

A router on the log's in-memory twin takes tasks that nobody runs. Their records are dropped from the twin, so that what
remains is what the router holds. All figures are what the tasks add: bytes of the process and objects that a garbage
collection visits for each, and the processor time that a collection of everything takes longer, in which the event loop
stands.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import statistics
import time
from pathlib import Path
from typing import Any

import structlog
from headrace_contracts.content import plain
from headrace_contracts.events import Message, Privacy, TaskSubmitted
from headrace_contracts.topics import TOPICS
from headrace_router.decide.tenant_quota import TenantQuota
from headrace_streams.records import TopicPartition
from headrace_testing import routing
from headrace_testing.router_twin import PREFIX, Twin, now_ms

_AT_ONCE = 500


def resident_bytes() -> int:
    """What the process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def collection_seconds() -> float:
    """Processor time of a garbage collection of everything."""
    pauses = []
    for _ in range(5):
        start = time.process_time()
        gc.collect()
        pauses.append(time.process_time() - start)
    return statistics.median(pauses)


def tasks(first: int, count: int, size: int, dice: random.Random) -> list[TaskSubmitted]:
    """Tasks that differ, with prompts of this size in bytes, in three messages."""
    return [
        routing.task(
            f"0199b9d0-0000-7000-8000-{number:012x}",
            messages=tuple(
                Message(role=role, content=plain(f"{number} " + dice.randbytes(part // 2).hex()))
                for role, part in (("system", size // 4), ("user", size // 4), ("user", size // 2))
            ),
            privacy=Privacy.SENSITIVE, session="one partition", submitted_at=now_ms(),
            deadline_at=now_ms() + 86_400_000,
        )
        for number in range(first, first + count)
    ]  # fmt: skip


async def measure(count: int, size: int, options: dict[str, Any]) -> dict[str, float]:
    """Raises TimeoutError if the router does not take the tasks."""
    dice = random.Random(7)
    async with Twin(partitions=1, session_timeout=120.0) as twin:
        router = twin.router("bench", quota=TenantQuota(10**9, 10**12), remembered=1_000, **options)
        await twin.submit(*tasks(0, 100, size, dice))
        await twin.quiet()
        gc.collect()
        at_first, objects = collection_seconds(), len(gc.get_objects())
        before, began = resident_bytes(), time.process_time()
        for first in range(100, count + 100, _AT_ONCE):
            await twin.submit(*tasks(first, _AT_ONCE, size, dice))
            wanted = first + _AT_ONCE
            await twin.until(lambda wanted=wanted: [s.tasks for s in router.service.statuses()] == [wanted])  # type: ignore[misc]
            await asyncio.sleep(0.02)
            for name in TOPICS:
                for partition in range(1):
                    place = TopicPartition(PREFIX + name, partition)
                    twin.cluster.delete_before(place, twin.cluster.partition(place).end)
        took = time.process_time() - began
        await asyncio.sleep(1.0)
        gc.collect()
        grown = resident_bytes() - before
        return {
            "prompt_bytes": size,
            "tasks": count,
            "bytes_per_task": round(grown / count),
            "objects_per_task": round((len(gc.get_objects()) - objects) / count, 1),
            "gc_ms": round(1000 * (collection_seconds() - at_first), 1),
            "cpu_us_per_task": round(1e6 * took / count),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000, help="live tasks (20000)")
    parser.add_argument("--prompt", type=int, default=2_000, help="bytes of each prompt (2000)")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print(json.dumps(asyncio.run(measure(chosen.tasks, chosen.prompt, {"live_bytes": 2**50}))))


if __name__ == "__main__":
    main()
