"""How many tasks each tenant has that this process accepted, and whose end it has not read yet."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace_contracts.events import Lane
from headrace_contracts.topics import TASKS_REPLIES
from headrace_runtime.rate_limit import used_up

from headrace_intake.decide import shedding
from headrace_intake.decide.backlogs import PRESSED_MS, AskedFor, Backlog, overload
from headrace_intake.decide.refusals import Refusal

assert TASKS_REPLIES.retention_ms is not None
_COUNTED_MS: Final = TASKS_REPLIES.retention_ms
"""What ended longer ago may have left no reply to read. Nobody is locked out by an end that was missed."""
MOST_TASKS: Final = 100_000
"""As many are held."""
_MOST_PRESSED: Final = 1_000
"""Tenants, before those that are not any more are forgotten."""
_IDLE_BACKLOGS: Final = 10_000
"""As many backlogs without tasks are kept for their rates."""
_MOST_PROMISES: Final = 131_072
"""Of all backlogs."""
_RETRY_SECONDS: Final = 1
"""So many tasks of one tenant, and some end all the time."""


@dataclass(frozen=True, slots=True)
class _LiveTask:
    tenant: str
    asked: AskedFor
    accepted_at: int


class LiveTasksHere:
    """A lower bound: a task whose end may have been missed is not counted any more. The router counts exactly.

    Args:
        weight_of: A tenant's weight, by which its share is measured.
    """

    def __init__(self, weight_of: Callable[[str], int] = lambda tenant: 1) -> None:
        self._weight_of = weight_of
        self._weights = 0
        # No less than there are; counted anew when there seem to be too many.
        self._promises = 0
        self._promises_counted_at = 0
        # Until when interactive tasks of a tenant count as pressed, and those of all.
        self._pressed: dict[str, int] = {}
        self._all_pressed_until = 0
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
        if not self._by_tenant[tenant]:
            self._weights += self._weight_of(tenant)
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
        self._weights = 0
        self._backlogs.clear()

    def of(self, tenant: str, now_ms: int) -> int:
        """The tenant's tasks."""
        self._expire(now_ms)
        return self._by_tenant[tenant]

    def overload(self, tenant: str, asked: AskedFor, who: int, budget: float, now_ms: int) -> Refusal | None:
        """Why another task is not taken on; None if it is. A refusal says when to come back, and keeps a place then.

        Args:
            who: Who asks, by what it asks.
            budget: How many seconds it may wait.
        """
        self._expire(now_ms)
        backlog = self._backlogs.get((tenant, asked))
        if backlog is None:
            return None
        before = len(backlog.promises)
        after = backlog.come_back_after(who, now_ms, budget, may_promise=self._may_promise(now_ms))
        self._promises += max(len(backlog.promises) - before, 0)
        if after is None:
            return None
        backlog.refused(now_ms)
        wait = backlog.wait_seconds(now_ms)
        assert wait is not None
        above_share = self.has_its_share(tenant)
        # What nothing answers is not pressed by others.
        if asked[-1] != Lane.BATCH and wait < math.inf:
            self._press(tenant, now_ms, all_of_them=not above_share)
        return overload(backlog.live, wait, budget, after, above_share=above_share)

    def shed(self, tenant: str, lane: Lane | None, fullness: float, now_ms: int) -> Refusal | None:
        """Why another task is not taken on, whatever it asks for; see `shedding.shed`."""
        self._expire(now_ms)
        return shedding.shed(
            max(fullness, self.fullness),
            lane,
            share=len(self._tasks) * self._weight_of(tenant) // max(self._weights, 1),
            has_its_share=bool(self._by_tenant[tenant]) and self.has_its_share(tenant),
            is_pressed=self.is_pressed(tenant, now_ms),
        )

    def is_pressed(self, tenant: str, now_ms: int) -> bool:
        """Whether interactive tasks of the tenant are refused, or of any that has less than its share: then there is
        more to do than can be done."""
        return now_ms < max(self._pressed.get(tenant, 0), self._all_pressed_until)

    @property
    def fullness(self) -> float:
        """How many tasks there are, of the most that there may be."""
        return len(self._tasks) / MOST_TASKS

    def _press(self, tenant: str, now_ms: int, *, all_of_them: bool) -> None:
        if len(self._pressed) >= _MOST_PRESSED:
            self._pressed = {name: until for name, until in self._pressed.items() if until > now_ms}
        self._pressed[tenant] = now_ms + PRESSED_MS
        if all_of_them:
            self._all_pressed_until = now_ms + PRESSED_MS

    def has_its_share(self, tenant: str) -> bool:
        """Whether the tenant has as many of all live tasks as its weight among those of their tenants gives it."""
        return self._by_tenant[tenant] * self._weights >= len(self._tasks) * self._weight_of(tenant)

    def _may_promise(self, now_ms: int) -> bool:
        if self._promises >= _MOST_PROMISES and now_ms >= self._promises_counted_at + 1_000:
            self._promises_counted_at = now_ms
            self._promises = sum(len(backlog.promises) for backlog in self._backlogs.values())
        return self._promises < _MOST_PROMISES

    def _taken(self, key: bytes) -> _LiveTask | None:
        task = self._tasks.pop(key, None)
        if task is None:
            return None
        self._by_tenant[task.tenant] -= 1
        if not self._by_tenant[task.tenant]:
            del self._by_tenant[task.tenant]
            self._weights -= self._weight_of(task.tenant)
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
