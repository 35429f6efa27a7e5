"""What raises a task's level beside those who may demand one: what its content says, and its session has held.

None of it lowers a level, and none is an objection: the task runs, farther inside. Its trail says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from headrace_contracts import floors
from headrace_contracts.events import Privacy, TaskState, TaskSubmitted, TrailStep

from headrace_router.decide.detectors import detected
from headrace_router.decide.policy import Policy
from headrace_router.decide.sensitive_sessions import KnownSessions, session_mark

Raise = tuple[Privacy, str]
"""A level, and why a task has at least this one."""


def content_raises(task: TaskSubmitted, policy: Policy) -> Sequence[Raise]:
    """The levels that a task's content demands: by the marks of its messages, and by what detectors find in it."""
    return [*_marked(task), *_detected(task, policy)]


def highest(raises: Sequence[Raise], floor: Privacy | None = None) -> Privacy | None:
    """The level that is not below any of these, nor below `floor`; None if there are none."""
    for level, _ in raises:
        if floor is None or floors.is_below(floor, level):
            floor = level
    return floor


def session_floor(task: TaskSubmitted, floor: Privacy | None, sessions: KnownSessions, now: int) -> Privacy | None:
    """The level below which a task must not run, given that it has run under `floor` so far."""
    return Privacy.SENSITIVE if is_in_sensitive_session(task, sessions, now) else floor


def is_in_sensitive_session(task: TaskSubmitted, sessions: KnownSessions, now: int) -> bool:
    """Whether a task belongs to a session that has held sensitive content."""
    return task.session is not None and sessions.has(session_mark(task.tenant, task.session), now)


def raised_steps(raises: Sequence[Raise], in_session: bool, before: Privacy, now: int) -> tuple[TrailStep, ...]:
    """Steps of a trail that say what has raised the level from what was demanded."""
    said = [(Privacy.SENSITIVE, "its session has held sensitive content"), *raises] if in_session else raises
    return tuple(
        [
            TrailStep(at=now, step="raised", reason=f"to {level}: {why}")
            for level, why in said
            if floors.is_below(before, level)
        ]
    )


def with_mark(state: TaskState) -> TaskState:
    """The state, with the mark of its session where that is sensitive from here on.

    In the same record as the level: a session is sensitive from the decision on that makes one of its tasks so.
    """
    if state.privacy is not Privacy.SENSITIVE or state.sensitive_session is not None:
        return state
    known = state.task if state.task is not None else state.result
    if known is None or known.session is None:
        return state
    return replace(state, sensitive_session=session_mark(known.tenant, known.session))


def _marked(task: TaskSubmitted) -> Iterator[Raise]:
    for number, message in enumerate(task.messages, start=1):
        if message.privacy is not None:
            yield message.privacy, f"message {number} is marked as {message.privacy}"


def _detected(task: TaskSubmitted, policy: Policy) -> Iterator[Raise]:
    for detector, where in detected(task, policy.detectors) if policy.detectors else ():
        yield policy.detectors[detector], f"{detector.replace('_', ' ')} found in {where}"
