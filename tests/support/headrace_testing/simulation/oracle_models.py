"""Promises about models, however they behave: slots come back, all that was consumed is recorded, and no content
reaches a model that runs elsewhere as if it were ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_streams.records import Record

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.clients import SECRET
from headrace_testing.simulation.models import Call

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.processes import SimulatedProcess


def check_usage(judge: Judge, process: SimulatedProcess, record: Record, calls: Sequence[Call]) -> None:
    """When a record counts as finished, the usage of every call made for it is on disk, nothing of it left out."""
    place = (record.topic.removeprefix(PREFIX), record.partition, record.offset)
    _, request = judge.topics.work[place]
    recorded = judge.topics.usage_of_attempt[request.attempt_id]
    consumed: dict[str, tuple[int, int]] = {}
    for call in calls:
        if call.consumed is not None:
            before = consumed.get(call.execution, (0, 0))
            consumed[call.execution] = before[0] + call.consumed.input_tokens, before[1] + call.consumed.output_tokens
    for execution, used in consumed.items():
        event = recorded.get(execution)
        told = (0, 0) if event is None else (event.usage.input_tokens, event.usage.output_tokens)
        if told[0] < used[0] or told[1] < used[1]:
            judge.violated(
                f"{process.name} counts {execution} as done: its calls consumed {used[0]} and {used[1]} tokens, "
                f"recorded are {told[0]} and {told[1]}"
            )


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning models."""
    return [*_slots(judge), *_one_usage(judge), *_stayed(judge), *_breaches(judge)]


def _slots(judge: Judge) -> Iterator[str]:
    """In a quiet world no slot is taken but by a call that still runs."""
    from headrace_testing.simulation.processes import WorkerBody

    for process in judge.world.processes:
        body = process.body
        if not isinstance(body, WorkerBody):
            continue
        run = f"{process.name}.{process.lives}"
        for endpoint in body.pool.endpoints.values():
            calls = [call for call in judge.world.models.calls if (call.run, call.node) == (run, endpoint.name)]
            running = sum(not call.ended for call in calls)
            if endpoint.busy != running:
                yield f"{run} holds {endpoint.busy} slots of {endpoint.name}, and {running} calls run"


def _one_usage(judge: Judge) -> Iterator[str]:
    for execution, events in judge.topics.usage_of_execution.items():
        if len(events) > 1:
            yield f"execution {execution} has {len(events)} records of usage: {sorted(events)}"


def _stayed(judge: Judge) -> Iterator[str]:
    for call in judge.world.models.calls:
        if call.listed_elsewhere:
            secret = "sensitive " if SECRET in call.text else ""
            yield f"{secret}content reached {call.node}/{call.model}, which runs elsewhere"


def _breaches(judge: Judge) -> Iterator[str]:
    """A report that content has left, which the journal has taken for a live task, is audited."""
    trouble = judge.world.trouble.trouble
    if trouble is not None and trouble.leaves_out("audit.recorded"):
        return
    for attempt_id in sorted(judge.topics.breaches):
        if f"{attempt_id}/breach" not in judge.topics.audited:
            yield f"content of {attempt_id} left, and the audit does not say so"
