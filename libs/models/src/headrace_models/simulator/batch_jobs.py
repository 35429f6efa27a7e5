"""Batches of the simulated providers: what was sent, how far it is, and what comes of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from headrace_models.simulator.pace import Speed

_BASE_SECONDS: Final = 300.0
_SECONDS_PER_CALL: Final = 0.5

Answered = Callable[[dict[str, Any]], Awaitable[tuple[int, dict[str, Any]]]]
"""Status and document of the answer to one call."""

End = Literal["completed", "failed", "expired", "cancelled"]


class BatchFault(StrEnum):
    """What goes wrong with the next batch of a provider."""

    REFUSED = "refused"
    """403: the account has no batches."""
    BUSY = "busy"
    """429, and nothing is created."""
    UNHEARD = "unheard"
    """It is created, and the connection ends before the answer."""
    STUCK = "stuck"
    """It never ends by itself; half of its calls are answered."""
    FAILED = "failed"
    """None of its calls is made. Of OpenAI's family only: Anthropic checks when a batch is created."""
    EXPIRED = "expired"
    """Half of its calls are answered, the others expire."""
    GONE = "gone"
    """404 when it is looked at."""
    RESULT_MISSING = "result_missing"
    """There is no result for its first call."""
    RESULT_TWICE = "result_twice"
    """The first result comes twice, the second time with another text."""
    RESULT_UNKNOWN = "result_unknown"
    """There is a result for a call that was never in it."""
    RESULT_BROKEN = "result_broken"
    """The first result is half a JSON document."""
    RESULTS_CUT = "results_cut"
    """The connection ends within the results, once."""


@dataclass(slots=True, kw_only=True)
class BatchJob:
    """One batch. `calls` are pairs of custom id and body; `results` pairs of custom id and (status, document), None for
    a call that was not made."""

    job_id: str
    provider: str
    calls: Sequence[tuple[str, dict[str, Any]]]
    created_at: float
    ends_at: float
    fault: BatchFault | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    input_file: str = ""
    end: End | None = None
    results: list[tuple[str, tuple[int, dict[str, Any]] | None]] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """Calls that succeeded, errored, or were not made; all are processing until the end."""
        if self.end is None:
            return Counter(processing=len(self.calls))
        left = "expired" if self.end == "expired" else "canceled"
        return Counter(
            left if result is None else "succeeded" if result[0] == 200 else "errored" for _, result in self.results
        )


class BatchJobs:
    """The batches of all providers; ids count up."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self._jobs: dict[str, BatchJob] = {}
        self._planned: list[tuple[str, BatchFault]] = []
        self.deleted: list[str] = []
        """Ids of files and batches that were deleted."""
        self._number = 0

    def plan(self, provider: str, fault: BatchFault, count: int = 1) -> None:
        """Let the next batches of a provider go wrong."""
        self._planned += [(provider, fault)] * count

    def take(self, provider: str) -> BatchFault | None:
        """Remove and return what goes wrong with the next batch."""
        for index, (of, fault) in enumerate(self._planned):
            if of == provider:
                del self._planned[index]
                return fault
        return None

    def create(
        self,
        provider: str,
        calls: Sequence[tuple[str, dict[str, Any]]],
        fault: BatchFault | None,
        *,
        prefix: str,
        metadata: Mapping[str, Any] | None = None,
        input_file: str = "",
    ) -> BatchJob:
        """A batch that runs from now on."""
        self._number += 1
        factor = self._speed.factor
        seconds = 0.0 if factor is None else (_BASE_SECONDS + _SECONDS_PER_CALL * len(calls)) / factor
        job = BatchJob(
            job_id=f"{prefix}{self._number:06d}",
            provider=provider,
            calls=calls,
            created_at=time.time(),
            ends_at=float("inf") if fault is BatchFault.STUCK else asyncio.get_running_loop().time() + seconds,
            fault=fault,
            metadata=metadata or {},
            input_file=input_file,
        )
        self._jobs[job.job_id] = job
        return job

    def get(self, provider: str, job_id: str) -> BatchJob | None:
        """The batch; None if there is none, or a fault hides it."""
        job = self._jobs.get(job_id)
        return None if job is None or job.provider != provider or job.fault is BatchFault.GONE else job

    def newest(self, provider: str) -> list[BatchJob]:
        """All batches of a provider, the newest first."""
        return [job for job in reversed(self._jobs.values()) if job.provider == provider]

    def delete(self, job_id: str) -> None:
        """Forget a batch."""
        self._jobs.pop(job_id, None)
        self.deleted.append(job_id)

    async def advance(self, job: BatchJob, answered: Answered) -> None:
        """End it if its time has come."""
        if job.end is None and asyncio.get_running_loop().time() >= job.ends_at:
            end: End = "completed"
            made = len(job.calls)
            if job.fault is BatchFault.FAILED:
                end, made = "failed", 0
            elif job.fault is BatchFault.EXPIRED:
                end, made = "expired", made // 2
            await self._finish(job, end, made, answered)

    async def cancel(self, job: BatchJob, answered: Answered) -> None:
        """End it now, with half of its calls answered."""
        await self.advance(job, answered)
        if job.end is None:
            await self._finish(job, "cancelled", len(job.calls) // 2, answered)

    async def _finish(self, job: BatchJob, end: End, made: int, answered: Answered) -> None:
        results: list[tuple[str, tuple[int, dict[str, Any]] | None]] = []
        for place, (custom_id, body) in enumerate(job.calls):
            results.append((custom_id, await answered(body) if place < made else None))
        # Providers promise no order.
        job.results, job.end = list(reversed(results)) if end != "failed" else [], end


def spoiled(lines: list[bytes], fault: BatchFault | None, other: bytes) -> list[bytes]:
    """Lines of results as the fault has them; `other` is one of a call that was never in the batch."""
    if not lines:
        return lines
    match fault:
        case BatchFault.RESULT_MISSING:
            return lines[:-1]
        case BatchFault.RESULT_TWICE:
            return [*lines, lines[0].replace(b"simulated", b"repeated")]
        case BatchFault.RESULT_UNKNOWN:
            return [other, *lines]
        case BatchFault.RESULT_BROKEN:
            return [*lines[:-1], lines[-1][: len(lines[-1]) // 2]]
        case _:
            return lines
