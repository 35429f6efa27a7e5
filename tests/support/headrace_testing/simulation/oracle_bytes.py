"""Promises about memory: a worker holds no more bytes of records than it may, and returns what it has finished; a
router that has as many bytes of tasks in flight as it may takes no more of them.

Some seeds have little room for tasks, drawn from a generator of its own, so that all others are what they were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from headrace_contracts.events import TaskState
from headrace_router.decide.tenant_quota import size_of

from headrace_testing.simulation.plan import Fault

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.processes import SimulatedProcess


_SMALL_SHARE: Final = 0.15


def live_bytes_of(seed: int) -> int:
    """Bytes of tasks in flight from which on a router takes no more, in this seed."""
    rng = random.Random(f"{seed} live bytes")
    return rng.choice((1, 5_000)) if rng.random() < _SMALL_SHARE else 2**30


def waits_for_room(seed: int) -> bool:
    """Whether tasks may wait in tasks.submitted for others to end."""
    return live_bytes_of(seed) < 2**30


def check_taken(judge: Judge, process: SimulatedProcess, state: TaskState) -> None:
    """A router has just taken a task, which is in flight now: before, it had less than it may have."""
    from headrace_testing.simulation.processes import RouterBody

    if state.task is None or not isinstance(process.body, RouterBody):
        return
    held = sum(status.task_bytes or 0 for status in process.body.service.statuses())
    most = live_bytes_of(judge.world.plan.seed)
    if (before := held - size_of(state.task)) >= most:
        judge.violated(f"{process.name} takes a task beside {before} bytes of them, and may have {most}")


def check_begin(judge: Judge, process: SimulatedProcess) -> None:
    """The limit, and one record of each partition above it; twice that where logs have been replaced."""
    from headrace_testing.simulation.processes import WorkerBody

    if not isinstance(process.body, WorkerBody):
        return
    state = process.body.state()
    held = sum(state.held_bytes.values())
    plan = judge.world.plan
    each = 2 if plan.rate(Fault.TOPIC_RECREATED) or plan.rate(Fault.TOPIC_TRUNCATED) else 1
    most = plan.max_held_bytes + each * state.partitions * judge.largest_work
    if held > most:
        judge.violated(f"{process.name} holds {held} bytes of records, and may hold {most}")


def verdict(judge: Judge) -> Sequence[str]:
    """All violations that show at the end."""
    return list(_kept(judge))


def _kept(judge: Judge) -> Iterator[str]:
    from headrace_testing.simulation.processes import WorkerBody

    for process in judge.world.processes:
        body = process.body
        if not isinstance(body, WorkerBody):
            continue
        state = body.state()
        held = sum(state.held_bytes.values())
        if held and not state.in_flight and not any(state.waiting.values()):
            yield f"{process.name} holds {held} bytes of records that are finished"
