"""Promises about what other programs write: it is refused once, with a reason, and nothing bad in it is copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from headrace_contracts.events import JournalEntry, TaskCompleted, TaskStatus, TaskSubmitted

from headrace_testing.simulation.cluster import Seen
from headrace_testing.simulation.outsiders import FOREIGN

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge

_INVALID = "invalid_request"
_LATEST_MS = 4_102_444_800_000
"""2100-01-01: a later time was not meant as milliseconds since the epoch."""


def check_copied(judge: Judge, seen: Seen, topic: str, event: Any) -> None:
    """What a service writes holds nothing that admission must have taken out."""
    record, mark = seen.record, FOREIGN.encode()
    parts = (record.value, record.key, *(value for _, value in record.headers))
    if any(mark in (part or b"") for part in parts):
        judge.violated(f"{topic} got something foreign in {seen.event_id or record.offset}")
    if isinstance(event, JournalEntry) and event.task_id in judge.refused and event.state is not None:
        # A finished state needs no task any more.
        task = event.state.task or TaskSubmitted(task_id="", tenant="", messages=(), submitted_at=event.decided_at)
        numbers = (task.sampling.temperature, task.sampling.top_p, task.sampling.max_output_tokens)
        if any(number is not None for number in numbers) or not 0 < task.submitted_at < _LATEST_MS:
            judge.violated(f"the journal took a bad number of task {event.task_id} over")
    if isinstance(event, TaskCompleted) and event.task_id in judge.refused and event.attempts:
        judge.violated(f"task {event.task_id} was worked on, which nobody could have meant")


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning admission."""
    return list(_refused(judge))


def _refused(judge: Judge) -> Iterator[str]:
    for task_id in sorted(judge.refused):
        for _, end in judge.topics.completed.get(task_id, ()):
            code = None if end.failure is None else end.failure.code
            if end.status is not TaskStatus.FAILED or code != _INVALID:
                yield f"task {task_id} of an outsider ended as {end.status.value} ({code})"
