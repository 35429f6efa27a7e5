"""Promises about the quota of live tasks: never more than that, and nobody is refused while there is room.

Some seeds have a small quota, drawn from a generator of its own, so that all others are what they were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from headrace_contracts.events import TaskPhase
from headrace_router.decide.tenant_quota import DEFAULT_QUOTA, TOO_MANY_LIVE_TASKS, TenantQuota

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge

_SMALL_SHARE: Final = 0.15


def quota_of(seed: int) -> TenantQuota:
    """What a tenant may have in flight in one partition, in this seed."""
    rng = random.Random(f"{seed} quota")
    return TenantQuota(tasks=rng.choice((1, 1, 2))) if rng.random() < _SMALL_SHARE else DEFAULT_QUOTA


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning the quota."""
    return list(_kept(judge))


def _kept(judge: Judge) -> Iterator[str]:
    quota = quota_of(judge.world.plan.seed)
    for number, partition in judge.topics.journal.items():
        live: dict[str, str] = {}
        for _, entry in partition.counted:
            state = entry.state
            if state is None:
                continue
            if state.phase is TaskPhase.FINISHED:
                live.pop(entry.task_id, None)
                result = state.result
                if result is not None and result.failure is not None and result.failure.code == TOO_MANY_LIVE_TASKS:
                    held = sum(tenant == result.tenant for tenant in live.values())
                    if held < quota.tasks:
                        yield f"task {entry.task_id} was refused with {held} live ones of {result.tenant} in {number}"
            elif entry.task_id not in live and state.task is not None:
                live[entry.task_id] = state.task.tenant
                held = sum(tenant == state.task.tenant for tenant in live.values())
                if held > quota.tasks:
                    yield f"task {entry.task_id} is live as number {held} of {state.task.tenant} in {number}"
