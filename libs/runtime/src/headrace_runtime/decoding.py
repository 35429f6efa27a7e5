"""Decodes large request bodies one after another on a thread, tenants taking turns.

Decoding a megabyte of JSON takes tens of milliseconds of processor time. On the event loop all others would wait for
it, and a tenant that sends many would occupy it for good. On one thread, a tenant's bodies wait for each other, and
those of another tenant for one of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

LARGE_BYTES: Final = 32_768
"""Smaller bodies are decoded in place: a thread's turn would cost more."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[], Any]
    done: asyncio.Future[Any]


class FairDecoder:
    """Runs jobs of tenants in turns, one at a time, on a thread that exists while there are jobs."""

    def __init__(self) -> None:
        # By tenant, next in turn first.
        self._waiting: dict[str, deque[_Job]] = {}
        self._running: asyncio.Task[None] | None = None

    async def run(self, tenant: str, job: Callable[[], T]) -> T:
        """The job's result. Raises what it raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.setdefault(tenant, deque()).append(_Job(job, done))
        if self._running is None:
            self._running = loop.create_task(self._work(), name="decode bodies")
        return await done

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="decode") as thread:
                while self._waiting:
                    job = self._next()
                    if job.done.done():
                        continue  # its caller has disconnected
                    try:
                        result = await loop.run_in_executor(thread, job.run)
                    except Exception as error:  # noqa: BLE001 - it is its caller's
                        if not job.done.done():
                            job.done.set_exception(error)
                    else:
                        if not job.done.done():
                            job.done.set_result(result)
        finally:
            self._running = None

    def _next(self) -> _Job:
        tenant, jobs = next(iter(self._waiting.items()))
        job = jobs.popleft()
        del self._waiting[tenant]
        if jobs:
            self._waiting[tenant] = jobs
        return job
