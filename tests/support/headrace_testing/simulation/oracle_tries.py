"""Promises about tries: no task is given up for attempts that asked no model, and no call is begun in vain."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_contracts.events import AttemptFinished, Outcome, TaskCompleted, TaskPhase, TaskStatus, Usage

from headrace_testing.simulation.research import is_search

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge

_LONGEST_WAIT_MS = 10_001
"""Nearer to its deadline than this a task may end because its next attempt would come too late."""
_RETRYABLE = (Outcome.FAILED_RETRYABLE, Outcome.EXPIRED)
_FEWEST_CALLS, _NEWEST_CALLS, _REMEMBERED_SECONDS = 4, 32, 600.0
_Model = tuple[str, str]


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning tries."""
    return [*_given_up_untried(judge), *_begun_in_vain(judge)]


def _begun_in_vain(judge: Judge) -> Iterator[str]:
    """No call is given less time than each of the last ones of its model at its node has taken, if these are enough."""
    answers: defaultdict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for call in judge.world.models.calls:
        before = answers[call.run, call.node, call.model]
        ended = sorted(
            (end, seconds) for end, seconds in before if call.at - _REMEMBERED_SECONDS < end < call.at
        )[-_NEWEST_CALLS:]  # fmt: skip
        if len(ended) >= _FEWEST_CALLS and call.left < min(seconds for _, seconds in ended):
            yield f"{call.run} begins a call of {call.node}/{call.model} with {call.left:.3f} s"
        if call.answered is not None:
            before.append((call.at + call.answered, call.answered))


def _given_up_untried(judge: Judge) -> Iterator[str]:
    """What the journal gives up as tried too often was tried as often as the policy allows."""
    retry, topics = judge.world.kit.policy.retry, judge.topics
    for task_id, decisions in topics.decisions.items():
        sent: dict[int, _Model] = {}
        said: dict[int, AttemptFinished] = {}
        deadline: int | None = None
        for _, entry in decisions:
            if entry.state is None:
                continue
            if entry.cause == "undeliverable":
                break  # a lasting failure that no worker reports
            if entry.cause == "attempt_finished" and entry.input is not None:
                report = topics.reports.get((entry.input.topic, entry.input.partition, entry.input.offset))
                if report is None or report.task_id != task_id:
                    # It went with its log, or an outsider wrote it: nobody can say what the router was told.
                    break
                said[report.number] = report
            if entry.state.phase is not TaskPhase.FINISHED:
                sent |= {attempt.number: (attempt.provider, attempt.model) for attempt in entry.state.attempts}
                deadline = entry.state.deadline_at
                continue
            end = entry.state.result
            if end is None or end.status is not TaskStatus.FAILED or not sent:
                continue
            if deadline is not None and deadline - entry.decided_at < _LONGEST_WAIT_MS:
                continue
            asked = [number for number in sent if number not in said or _may_have_asked(judge, said[number])]
            tries = Counter(sent[number] for number in asked)
            for model in {(each.provider, each.model) for each in entry.rejected if each.code == "failed_before"}:
                if is_search(model[0]):
                    continue  # each search has tries of its own
                lasting = any(
                    sent.get(number) == model and report.outcome not in _RETRYABLE for number, report in said.items()
                )
                if not lasting and tries[model] < retry.attempts_per_model:
                    yield f"task {task_id} gives up {'/'.join(model)}, which {tries[model]} attempts asked"
            if not entry.rejected and _is_of(end, said.get(max(sent))) and len(asked) < retry.attempts:
                yield f"task {task_id} was given up after {len(asked)} tries"


def _is_of(end: TaskCompleted, last: AttemptFinished | None) -> bool:
    """Whether a task ended with the failure of its last attempt, after which another could have been made."""
    if last is None or last.outcome not in _RETRYABLE or last.failure is None or end.failure is None:
        return False
    return end.failure.code == last.failure.code


def _may_have_asked(judge: Judge, report: AttemptFinished) -> bool:
    """Whether an execution called a model that was there, or says so, or that an earlier one may have."""
    if report.node is not None or report.usage != Usage() or report.lost:
        return True
    calls = [call for call in judge.world.models.calls if call.execution == report.execution_id]
    return any(not call.refused for call in calls)
