"""Promises about searches: an answer comes after them, from all that they have found, and nothing is searched twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_contracts.content import text_of
from headrace_contracts.events import AttemptRequested, CommandKind, Outcome, TaskState

from headrace_testing.simulation.clients import INTERNAL, SECRET
from headrace_testing.simulation.research import address_of, is_search

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning searches."""
    return [*_in_order(judge), *_used(judge), *_stayed(judge)]


def _in_order(judge: Judge) -> Iterator[str]:
    """No answer is asked for while searches are to come, none of them is made again once it is answered, and what they
    have found stays."""
    for task_id, decisions in judge.topics.decisions.items():
        kept: tuple[object, ...] = ()
        for _, entry in decisions:
            state = entry.state
            if state is None or state.research is None:
                continue
            sent = {command.attempt for command in entry.commands if command.kind is CommandKind.DISPATCH}
            over = state.research.ended and all(search.ended for search in state.research.searches)
            if not over and sent & {attempt.number for attempt in state.attempts}:
                yield f"task {task_id} is to be answered before its searches have ended"
            if state.research.sources[: len(kept)] != kept:
                yield f"task {task_id} has lost sources"
            kept = state.research.sources
            for place, search in enumerate(state.research.searches, 1):
                if any(attempt.outcome is Outcome.ANSWERED for attempt in search.attempts[:-1]):
                    yield f"task {task_id} makes search {place} again, which was answered"


def _used(judge: Judge) -> Iterator[str]:
    """Whoever answers is shown the page that each answered search has found, and no other."""
    states: defaultdict[str, list[TaskState]] = defaultdict(list)
    for task_id, decisions in judge.topics.decisions.items():
        states[task_id] = [entry.state for _, entry in decisions if entry.state is not None and entry.state.research]
    for _, request in judge.topics.work.values():
        ended = [one for one in states[request.task_id] if one.research is not None and one.research.ended]
        if is_search(request.provider) or not ended or not states[request.task_id]:
            continue
        shown = _shown(request)
        found = set(_addresses(ended[0]))
        if missing := sorted(address for address in found if f'url="{address}"' not in shown):
            yield f"attempt {request.attempt_id} is not shown {missing}"
        if shown.count("<source ") > 2 * len(found):
            yield f"attempt {request.attempt_id} is shown sources that no search has found"


def _addresses(state: TaskState) -> Iterator[str]:
    assert state.research is not None
    for search in state.research.searches:
        for attempt in search.attempts:
            if attempt.outcome is Outcome.ANSWERED:
                yield address_of(attempt.provider, text_of(search.query))


def _shown(request: AttemptRequested) -> str:
    return "\n".join(text_of(message.content) for message in request.messages)


def _stayed(judge: Judge) -> Iterator[str]:
    """Nobody has consented to any search of the web."""
    for call in judge.world.models.calls:
        if is_search(call.provider) and (SECRET in call.text or INTERNAL in call.text):
            yield f"content that must not leave was searched for at {call.provider}: {call.text[:60]}"
