"""Promises about several models: nobody is asked again for what was answered, nor because of a refusal; a quorum is
one, and what counts as sure was found to be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_contracts.content import text_of
from headrace_contracts.events import (
    AttemptFinished,
    CommandKind,
    JournalEntry,
    Outcome,
    PanelState,
    TaskCompleted,
    TaskPhase,
    TaskStatus,
)

from headrace_testing.simulation.several_models import LEAST_RATING, QUORUM

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning tasks that several models work on."""
    found: list[str] = []
    for task_id, decisions in judge.topics.decisions.items():
        entries = [entry for _, entry in decisions]
        if any(entry.state is not None and entry.state.panel is not None for entry in entries):
            found += _in_order(task_id, entries)
            found += _never_around_a_refusal(judge, task_id, entries)
            found += _ended(judge, task_id, entries)
    return found


def _in_order(task_id: str, entries: Sequence[JournalEntry]) -> Iterator[str]:
    kept: dict[int, object] = {}
    for entry in entries:
        state = entry.state
        if state is None or state.panel is None:
            continue
        panel = state.panel
        for place, member in enumerate(panel.members):
            if any(attempt.outcome is Outcome.ANSWERED for attempt in member.attempts[:-1]):
                yield f"task {task_id} asks {member.part} {place} again, which has answered"
            if kept.get(place, member.answer) != member.answer:
                yield f"task {task_id} has lost what {member.part} {place} has answered"
            if member.answer is not None:
                kept[place] = member.answer
        sent = {command.attempt for command in entry.commands if command.kind is CommandKind.DISPATCH}
        out = {attempt.number for member in panel.members for attempt in member.attempts if attempt.outcome is None}
        if panel.kind == "cascade" and sent and len(out) > 1:
            yield f"task {task_id} asks a rung while another one is being asked"


def _never_around_a_refusal(judge: Judge, task_id: str, entries: Sequence[JournalEntry]) -> Iterator[str]:
    """The report of a refusal of an attempt that is out ends the task as refused."""
    panel: PanelState | None = None
    for entry in entries:
        out = _out(panel)
        report = _report(judge, entry)
        panel = None if entry.state is None else entry.state.panel
        if report is None or report.task_id != task_id or report.number not in out:
            continue
        if report.outcome is Outcome.REFUSED and entry.cause == "attempt_finished":
            state = entry.state
            end = None if state is None else state.result
            if end is None or end.status is not TaskStatus.REFUSED:
                yield f"task {task_id} goes on though attempt {report.number} was refused"


def _ended(judge: Judge, task_id: str, entries: Sequence[JournalEntry]) -> Iterator[str]:
    result = next(
        (e.state.result for e in entries if e.state is not None and e.state.phase is TaskPhase.FINISHED), None
    )
    if result is None or result.status is not TaskStatus.SUCCEEDED or result.source_task_id is not None:
        return
    said = [report for entry in entries if (report := _report(judge, entry)) is not None]
    if len(said) < sum(entry.cause == "attempt_finished" for entry in entries):
        # Some cannot be seen any more.
        return
    answers = [one for one in said if one.outcome is Outcome.ANSWERED and one.content is not None]
    if result.ensemble is not None and result.ensemble.combined_by:
        yield from _by_ensemble(task_id, result, answers)
    elif result.cascade is not None and result.cascade.sufficient and result.cascade.rung < result.cascade.rungs:
        scores = [score for one in answers if (score := _rating(one)) is not None]
        if not scores or max(scores) < LEAST_RATING:
            yield f"task {task_id} counts as sure, and was rated {scores}"


def _by_ensemble(task_id: str, result: TaskCompleted, answers: Sequence[AttemptFinished]) -> Iterator[str]:
    assert result.ensemble is not None
    texts = [text_of(one.content) for one in answers if one.content is not None and not _is_verdict(one)]
    if len(texts) < QUORUM:
        yield f"task {task_id} has an answer of {len(texts)} members"
    alike = result.ensemble.coherence
    if len(set(texts)) == 1 and (alike is None or abs(alike - 1) > 1e-6):
        yield f"task {task_id} has answers that are all the same, and a coherence of {alike}"


def _out(panel: PanelState | None) -> set[int]:
    members = () if panel is None else panel.members
    return {attempt.number for member in members for attempt in member.attempts if attempt.outcome is None}


def _report(judge: Judge, entry: JournalEntry) -> AttemptFinished | None:
    """The report that an entry answers. A topic that was truncated may have another task's in its place."""
    cause = entry.input
    found = None if cause is None else judge.topics.reports.get((cause.topic, cause.partition, cause.offset))
    return found if found is not None and found.task_id == entry.task_id else None


def _is_verdict(report: AttemptFinished) -> bool:
    return report.content is not None and text_of(report.content).startswith('{"')


def _rating(report: AttemptFinished) -> float | None:
    text = "" if report.content is None else text_of(report.content)
    found = json.loads(text).get("confidence") if text.startswith('{"confidence') and text.endswith("}") else None
    return None if found is None else float(found)
