"""Whether loops of calls and results are whole, by what the topics contain. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from headrace_contracts.events import PartKind, TaskCompleted, TaskSubmitted

from headrace_devstack.demo.outcomes import JobOutcome, RunEvidence, SubmittedRound


def calls_in(end: TaskCompleted | None) -> tuple[str, ...]:
    """Ids of the tool calls in the first answer of a task, in order."""
    if end is None or not end.choices:
        return ()
    return tuple(part.call_id or "" for part in end.choices[0].parts if part.kind is PartKind.TOOL_CALL)


def round_of(task: TaskSubmitted, partition: int, offset: int) -> SubmittedRound:
    """What a record of tasks.submitted shows of its place in a loop."""
    results: list[str] = []
    for message in reversed(task.messages):
        if message.role == "assistant":
            break
        found = [part.call_id or "" for part in message.parts if part.kind is PartKind.TOOL_RESULT]
        results = [*found, *results]
    return SubmittedRound(task.task_id, partition, offset, task.session, tuple(results))


def flaws_of_loops(outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> list[str]:
    """What is wrong with the loops of a run, in words; empty if all calls were answered in the following round, in one
    session and partition, and the last answer makes none."""
    ends = {end.task_id: end for end in reversed(evidence.completions)}
    submitted = {one.task_id: one for one in reversed(evidence.submitted)}
    return [flaw for outcome in outcomes for flaw in _flaws(outcome.task_ids, ends, submitted)]


def _flaws(
    task_ids: Sequence[str], ends: Mapping[str, TaskCompleted], submitted: Mapping[str, SubmittedRound]
) -> Iterator[str]:
    for task_id, following in zip_longest(task_ids, task_ids[1:]):
        called = calls_in(ends.get(task_id))
        after = submitted.get(following) if following is not None else None
        given = after.results if after is not None else ()
        if sorted(called) != sorted(given):
            yield f"{task_id} made {len(called)} calls, the next round has {len(given)} results of them"
        before = submitted.get(task_id)
        if not called or before is None or after is None:
            continue
        if before.session is None or before.session != after.session:
            yield f"{task_id} and the next round are of different sessions"
        elif before.partition != after.partition:
            yield f"{task_id} and the next round are in different partitions"
        elif before.offset >= after.offset:
            yield f"{task_id} stands behind the next round"
