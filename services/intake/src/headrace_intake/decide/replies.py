"""What a waiting caller receives of a task's replies: each piece once, in order, from one execution at a time.

A reply may arrive twice (a router or worker that took over repeats it), and an abandoned execution may keep sending
alongside the one that replaced it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from headrace_contracts.content import text_of
from headrace_contracts.events import ReplyKind, TaskCompleted, TaskReply


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of text."""

    text: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """Discard the text so far."""

    attempt: int


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """The end; nothing follows."""

    result: TaskCompleted


ReplyUpdate = Delta | Restarted | TaskFinished


@dataclass(frozen=True, slots=True)
class Heard:
    """The state of a task's replies. `execution` is None until the first piece."""

    attempt: int = 0
    execution: str | None = None
    next_sequence: int = 0
    has_text: bool = False
    ended: bool = False


NOTHING_YET: Final = Heard()


def hear(heard: Heard, reply: TaskReply) -> tuple[Heard, tuple[ReplyUpdate, ...]]:
    """The new state after a reply, and the updates for the caller. Raises ContentSealed."""
    if heard.ended or (reply.attempt < heard.attempt and reply.kind is not ReplyKind.FINISHED):
        return heard, ()
    match reply.kind:
        case ReplyKind.FINISHED:
            return _finished(heard, reply)
        case ReplyKind.RESTARTED if reply.attempt == heard.attempt and heard.execution is not None:
            return heard, ()  # a repeat: the new attempt's text has already begun
        case ReplyKind.RESTARTED:
            told = (Restarted(reply.attempt),) if heard.has_text else ()
            return Heard(attempt=reply.attempt), told
        case ReplyKind.DELTA:
            return _delta(heard, reply)


def _finished(heard: Heard, reply: TaskReply) -> tuple[Heard, tuple[ReplyUpdate, ...]]:
    if reply.result is None:
        # A finished reply without a result carries nothing; the completed task is in the view.
        return heard, ()
    return replace(heard, ended=True), (TaskFinished(reply.result),)


def _delta(heard: Heard, reply: TaskReply) -> tuple[Heard, tuple[ReplyUpdate, ...]]:
    if reply.text is None:
        return heard, ()
    piece = Delta(text_of(reply.text), reply.attempt)
    following = Heard(reply.attempt, reply.execution_id, reply.sequence + 1, has_text=True)
    if heard.execution is None or reply.attempt > heard.attempt:
        return following, (Restarted(reply.attempt), piece) if heard.has_text else (piece,)
    if reply.execution_id == heard.execution and reply.sequence >= heard.next_sequence:
        return following, (piece,)
    # The same attempt from its beginning: another execution took over (or may have, if no execution is named).
    if reply.sequence == 0 and (reply.execution_id != heard.execution or not reply.execution_id):
        return following, (Restarted(reply.attempt), piece)
    return heard, ()
