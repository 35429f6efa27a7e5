"""What one tenant may have in flight in a partition, whose owner holds every live task in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headrace_contracts.events import Failure, TaskSubmitted
from headrace_contracts.task_sizes import held_bytes, task_bytes

TOO_MANY_LIVE_TASKS: Final = "too_many_live_tasks"
"""Code of a task that ended at once, since its tenant had as many live ones as it may have."""
_RETRY_AFTER_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class TenantQuota:
    """Most live tasks of a tenant in one partition, and most bytes of them (`task_bytes`)."""

    tasks: int = 10_000
    bytes: int = 268_435_456


DEFAULT_QUOTA: Final = TenantQuota()


@dataclass(frozen=True, slots=True)
class LiveLoad:
    """How many tasks are live, and how many bytes they are counted with."""

    tasks: int = 0
    bytes: int = 0


NO_LOAD: Final = LiveLoad()


class LiveLoads:
    """What each tenant has in flight: exactly the tasks that were added and not removed since."""

    def __init__(self) -> None:
        # What a task is counted with is fixed when it is added, so that removing it gives back just that.
        self._tasks: dict[str, tuple[str, int]] = {}
        self._by_tenant: dict[str, LiveLoad] = {}
        self.bytes = 0

    def add(self, task_id: str, tenant: str, size: int) -> None:
        """Count a task that became live; one that is counted already stays as it is."""
        if task_id in self._tasks:
            return
        self._tasks[task_id] = tenant, size
        load = self.of(tenant)
        self._by_tenant[tenant] = LiveLoad(load.tasks + 1, load.bytes + size)
        self.bytes += size

    def remove(self, task_id: str) -> None:
        """Count a task no more, since it has ended."""
        counted = self._tasks.pop(task_id, None)
        if counted is None:
            return
        tenant, size = counted
        load = self._by_tenant[tenant]
        if load.tasks == 1:
            del self._by_tenant[tenant]
        else:
            self._by_tenant[tenant] = LiveLoad(load.tasks - 1, load.bytes - size)
        self.bytes -= size

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._tasks

    def one(self, task_id: str) -> tuple[str, int]:
        """The tenant of a task that is counted, and its bytes. Raises KeyError."""
        return self._tasks[task_id]

    def of(self, tenant: str) -> LiveLoad:
        """What the tenant has in flight."""
        return self._by_tenant.get(tenant, NO_LOAD)

    def all(self) -> Mapping[str, LiveLoad]:
        """The same of every tenant that has anything in flight."""
        return self._by_tenant


def size_of(task: TaskSubmitted) -> int:
    """Bytes that a task is counted with."""
    messages = (
        len(message.content.data) + held_bytes(message.parts) + held_bytes(message.name) for message in task.messages
    )
    return task_bytes(messages, held_bytes(task.options), task.labels)


def over_quota(load: LiveLoad, task: TaskSubmitted, quota: TenantQuota) -> Failure | None:
    """Why this task may not become live beside what its tenant has in flight; None if it may.

    A tenant without live tasks may have one of any size: the log has bounded it, and it would never run otherwise.
    """
    if load.tasks >= quota.tasks:
        held = f"{load.tasks} live tasks in this partition, and may have {quota.tasks}"
    elif load.tasks and load.bytes + size_of(task) > quota.bytes:
        held = f"live tasks of {load.bytes} bytes in this partition, and may have {quota.bytes} with this one"
    else:
        return None
    return Failure(
        code=TOO_MANY_LIVE_TASKS,
        message=f"the tenant has {held}; submit it again when some of them have ended",
        retry_after_ms=_RETRY_AFTER_MS,
    )
