"""One running execution of an attempt: its times, and how it is interrupted."""

from __future__ import annotations

import asyncio

from headrace_contracts.events import AttemptRequested, Failure, LostExecution

from headrace_models.ports import CallUsage
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.requests import size_of


class RunningAttempt:
    """One running execution of an attempt; created in the asyncio task that runs it."""

    __slots__ = (
        "_began", "_began_ms", "_endpoint", "_interrupted", "_now", "_task", "announcement", "called", "consumed",
        "displaced", "execution_id", "lost", "node", "objection", "request", "size", "traceparent", "weight",
    )  # fmt: skip

    def __init__(
        self,
        request: AttemptRequested,
        execution_id: str,
        traceparent: str | None,
        weight: int = 1,
        lost: tuple[LostExecution, ...] = (),
    ) -> None:
        self.request = request
        self.size = size_of(request)
        """What is known of its call."""
        self.weight = weight
        """Its tenant's."""
        self.execution_id = execution_id
        self.traceparent = traceparent
        self.lost = lost
        """Earlier executions of it that may have been billed."""
        self.announcement: asyncio.Future[None] | None = None
        """Done once the start of the execution is on disk; None while it has not been announced."""
        self.called = False
        """Whether a call of its model has begun."""
        self.node: str | None = None
        self.consumed: CallUsage | None = None
        """What has been consumed by calls of its model that have ended; None before the first one."""
        self.displaced = 0
        """How many of these were interrupted for interactive calls."""
        # The loop's clock is monotonic, and virtual where time is.
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._began_ms: int | None = None
        self._endpoint: Endpoint | None = None
        self._task = asyncio.current_task()
        self._interrupted = False
        self.objection: Failure | None = None
        """Why it was interrupted, if its task was not cancelled."""

    def interrupt(self, objection: Failure | None = None) -> bool:
        """Cancel it, once; returns whether it was running."""
        if self._task is None or self._interrupted:
            return False
        self._interrupted, self.objection = True, objection
        return self._task.cancel()

    def consume(self, usage: CallUsage) -> None:
        """A call has ended, which consumed this."""
        self.consumed = usage if self.consumed is None else self.consumed + usage

    def seconds_left(self) -> float | None:
        """What is expected to be left of its call; None while it has no slot."""
        return None if self._endpoint is None else self._endpoint.left_of(self.size, self._now())

    @property
    def was_interrupted(self) -> bool:
        """Whether a cancellation that has just arrived came from `interrupt`."""
        return self._interrupted

    def ended(self) -> None:
        """Nothing is left to interrupt; the asyncio task is free to report."""
        if self.announcement is not None:
            self.announcement.cancel()
        if self._interrupted and self._task is not None:
            self._task.uncancel()
        self._task = None

    def begin(self, endpoint: Endpoint, now_ms: int) -> None:
        self.node = endpoint.name
        self._endpoint = endpoint
        self._began = self._now()
        self._began_ms = now_ms

    def model_ms(self) -> float:
        return (self._now() - self._began) * 1000

    def queued_ms(self, now_ms: int) -> float:
        """Milliseconds from the router's decision to the start of the call, or to now if it has not started."""
        began = self._began_ms if self._began_ms is not None else now_ms
        return float(max(0, began - self.request.requested_at))
