"""How many tasks each tenant has that this process accepted, and whose end it has not read yet."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from headrace_contracts.topics import TASKS_REPLIES
from headrace_runtime.rate_limit import used_up

from headrace_intake.decide.backlogs import AskedFor, Backlog
from headrace_intake.decide.refusals import Refusal

assert TASKS_REPLIES.retention_ms is not None
_COUNTED_MS: Final = TASKS_REPLIES.retention_ms
"""What ended longer ago may have left no reply to read. Nobody is locked out by an end that was missed."""
_IDLE_BACKLOGS: Final = 10_000
"""As many backlogs without tasks are kept for their rates."""
_RETRY_SECONDS: Final = 1
"""So many tasks of one tenant, and some end all the time."""


@dataclass(frozen=True, slots=True)
class _LiveTask:
    tenant: str
    asked: AskedFor
    accepted_at: int


class LiveTasksHere:
    """A lower bound: a task whose end may have been missed is not counted any more. The router counts exactly."""

    def __init__(self) -> None:
        # In the order of acceptance.
        self._tasks: OrderedDict[bytes, _LiveTask] = OrderedDict()
        self._by_tenant: Counter[str] = Counter()
        self._backlogs: dict[tuple[str, AskedFor], Backlog] = {}

    def add(self, key: bytes, tenant: str, asked: AskedFor, now_ms: int) -> None:
        """Count a task that is being accepted."""
        self.remove(key)
        backlog = self._backlogs.get((tenant, asked))
        if backlog is None:
            self._forget_backlogs(now_ms)
            backlog = self._backlogs[tenant, asked] = Backlog()
        backlog.add()
        self._tasks[key] = _LiveTask(tenant, asked, now_ms)
        self._by_tenant[tenant] += 1

    def ended(self, key: bytes, now_ms: int, *, served: bool) -> None:
        """Count a task no more: it has ended, after it got its turn or waited for it in vain."""
        if (task := self._taken(key)) is not None:
            self._backlogs[task.tenant, task.asked].ended(now_ms, served=served)
            self._drop_if_idle(task, now_ms)

    def remove(self, key: bytes) -> None:
        """Count a task no more: it was not accepted, or its end may have been missed."""
        if (task := self._taken(key)) is not None:
            self._backlogs[task.tenant, task.asked].remove(task.accepted_at)
            self._drop_if_idle(task, task.accepted_at)

    def clear(self) -> None:
        """Count none of them any more: any number of ends were missed."""
        self._tasks.clear()
        self._by_tenant.clear()
        self._backlogs.clear()

    def of(self, tenant: str, now_ms: int) -> int:
        """The tenant's tasks."""
        self._expire(now_ms)
        return self._by_tenant[tenant]

    def backlog(self, tenant: str, asked: AskedFor, now_ms: int) -> tuple[int, float | None]:
        """The tenant's tasks that ask for the same, and how many seconds another one would wait; None if not known."""
        self._expire(now_ms)
        found = self._backlogs.get((tenant, asked))
        return (0, None) if found is None else (found.live, found.wait_seconds(now_ms))

    def refused(self, tenant: str, asked: AskedFor, now_ms: int) -> None:
        """Another one was not taken on because of their backlog."""
        if (backlog := self._backlogs.get((tenant, asked))) is not None:
            backlog.refused(now_ms)

    @property
    def average(self) -> float:
        """Tasks of a tenant that has any, on average."""
        return len(self._tasks) / len(self._by_tenant) if self._by_tenant else 0.0

    def _taken(self, key: bytes) -> _LiveTask | None:
        task = self._tasks.pop(key, None)
        if task is None:
            return None
        self._by_tenant[task.tenant] -= 1
        if not self._by_tenant[task.tenant]:
            del self._by_tenant[task.tenant]
        return task

    def _expire(self, now_ms: int) -> None:
        while self._tasks:
            key, task = next(iter(self._tasks.items()))
            if task.accepted_at > now_ms - _COUNTED_MS:
                break
            self.remove(key)

    def _drop_if_idle(self, task: _LiveTask, now_ms: int) -> None:
        backlog = self._backlogs[task.tenant, task.asked]
        if not backlog.live and not backlog.is_known(now_ms):
            del self._backlogs[task.tenant, task.asked]

    def _forget_backlogs(self, now_ms: int) -> None:
        """Those without tasks whose rate is of no use any more, when there are many of them."""
        if len(self._backlogs) < 2 * len(self._tasks) + _IDLE_BACKLOGS:
            return
        idle = [name for name, backlog in self._backlogs.items() if not backlog.live]
        for name in idle:
            del self._backlogs[name]


def too_many(count: int) -> Refusal:
    """The answer to a tenant that has as many live tasks as it may have here."""
    return Refusal(
        429,
        "too-many-live-tasks",
        f"This tenant has {count} tasks here that have not ended: wait for some of them, or try again later.",
        headers=used_up("live-tasks", count, "concurrent-requests", _RETRY_SECONDS),
    )
