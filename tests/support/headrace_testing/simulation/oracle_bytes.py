"""Promises about memory: a worker holds no more bytes of records than it may, and returns what it has finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_testing.simulation.plan import Fault

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.processes import SimulatedProcess


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
