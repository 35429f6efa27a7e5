"""Which ends of a task may serve equal tasks.

Only a whole answer is kept in the cache: one that the model ended by itself. An answer that was cut off at its limit
goes to the task that asked for it, and to equal tasks in flight, which asked with the same limit and would be cut off
too; a task that is submitted later asks anew. A refusal serves those in flight: it is an answer, and to ask again would
circumvent it. No other end of an answer is known to be good, so it serves nobody but its own task.
"""

from __future__ import annotations

from typing import Final

from headrace_contracts.events import ServedFrom, TaskCompleted, TaskStatus

from headrace_router.decide.reports import says_something

_WHOLE: Final = "stop"
_CUT_OFF: Final = "length"


def may_be_kept(end: TaskCompleted) -> bool:
    """Whether the cache may serve this end to tasks that are submitted later. One without the sources that were
    searched for is not: the next search may find some."""
    unfounded = end.research is not None and not end.research.sources
    return _answers(end, _WHOLE) and end.served_from is ServedFrom.ATTEMPT and not unfounded


def may_serve_followers(end: TaskCompleted) -> bool:
    """Whether the equal tasks that wait for this end may share it."""
    return end.status is TaskStatus.REFUSED or _answers(end, _WHOLE, _CUT_OFF)


def _answers(end: TaskCompleted, *finish_reasons: str) -> bool:
    said = says_something(end.answer) or bool(end.embeddings)
    return end.status is TaskStatus.SUCCEEDED and end.finish_reason in finish_reasons and said
