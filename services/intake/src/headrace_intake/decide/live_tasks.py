"""How many tasks each tenant has that this process accepted, and whose end it has not read yet."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from headrace_contracts.topics import TASKS_REPLIES

from headrace_intake.decide.refusals import Refusal

assert TASKS_REPLIES.retention_ms is not None
_COUNTED_MS: Final = TASKS_REPLIES.retention_ms
"""What ended longer ago may have left no reply to read. Nobody is locked out by an end that was missed."""


class LiveTasksHere:
    """A lower bound: a task whose end may have been missed is not counted any more. The router counts exactly."""

    def __init__(self) -> None:
        # In the order of acceptance.
        self._tasks: OrderedDict[bytes, tuple[str, int]] = OrderedDict()
        self._by_tenant: Counter[str] = Counter()

    def add(self, key: bytes, tenant: str, now_ms: int) -> None:
        """Count a task that is being accepted."""
        self.remove(key)
        self._tasks[key] = tenant, now_ms
        self._by_tenant[tenant] += 1

    def remove(self, key: bytes) -> None:
        """Count a task no more: it has ended, was not accepted, or its end may have been missed."""
        counted = self._tasks.pop(key, None)
        if counted is None:
            return
        tenant, _ = counted
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]

    def clear(self) -> None:
        """Count none of them any more: any number of ends were missed."""
        self._tasks.clear()
        self._by_tenant.clear()

    def of(self, tenant: str, now_ms: int) -> int:
        """The tenant's tasks."""
        while self._tasks:
            key, (_, accepted_at) = next(iter(self._tasks.items()))
            if accepted_at > now_ms - _COUNTED_MS:
                break
            self.remove(key)
        return self._by_tenant[tenant]


def too_many(count: int) -> Refusal:
    """The answer to a tenant that has as many live tasks as it may have here."""
    return Refusal(
        429,
        "too-many-live-tasks",
        f"This tenant has {count} tasks here that have not ended: wait for some of them, or try again later.",
    )
