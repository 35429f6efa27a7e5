"""What a waiting caller receives of a task's replies: each piece once, in order, from one execution at a time.

A reply may arrive twice (a router or worker that took over repeats it), and an abandoned execution may keep sending
alongside the one that replaced it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from headrace_contracts.content import text_of
from headrace_contracts.events import AnswerPiece, PartKind, ReplyKind, TaskCompleted, TaskReply, TrailStep


@dataclass(frozen=True, slots=True)
class HeardPiece:
    """A piece of an answer that is not text of the first one.

    Attributes:
        choice: Number of the answer.
        part: Number of the part of this kind within the answer.
        text: The next characters; of a tool call, of its arguments.
        call_id, name: In the first piece of a tool call.
        provider: Of reasoning: who made it.
        signature: Of reasoning: the next characters of its signature.
        sealed: Of reasoning: whether the signature is all of it.
    """

    kind: PartKind
    choice: int
    part: int
    text: str
    call_id: str | None
    name: str | None
    provider: str | None = None
    signature: str = ""
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """The next pieces: text of the first answer, and what else there is."""

    text: str
    attempt: int
    pieces: tuple[HeardPiece, ...] = ()


@dataclass(frozen=True, slots=True)
class Restarted:
    """Discard the text so far."""

    attempt: int


@dataclass(frozen=True, slots=True)
class StillWaiting:
    """No attempt can begin yet.

    Attributes:
        trail: Decisions so far; the last one says what the task waits for.
    """

    trail: tuple[TrailStep, ...]

    @property
    def reason(self) -> str:
        return self.trail[-1].reason if self.trail else ""


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """The end; nothing follows."""

    result: TaskCompleted


ReplyUpdate = Delta | Restarted | StillWaiting | TaskFinished


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
        case ReplyKind.WAITING:
            # A repeat may come when an attempt already answers: then it says nothing.
            return heard, () if heard.execution is not None else (StillWaiting(reply.trail),)
        case ReplyKind.DELTA:
            return _delta(heard, reply)


def _finished(heard: Heard, reply: TaskReply) -> tuple[Heard, tuple[ReplyUpdate, ...]]:
    if reply.result is None:
        # A finished reply without a result carries nothing; the completed task is in the view.
        return heard, ()
    return replace(heard, ended=True), (TaskFinished(reply.result),)


def _delta(heard: Heard, reply: TaskReply) -> tuple[Heard, tuple[ReplyUpdate, ...]]:
    if reply.text is None and not reply.pieces:
        return heard, ()
    pieces = tuple(_piece(piece) for piece in reply.pieces)
    piece = Delta("" if reply.text is None else text_of(reply.text), reply.attempt, pieces)
    following = Heard(reply.attempt, reply.execution_id, reply.sequence + 1, has_text=True)
    if heard.execution is None or reply.attempt > heard.attempt:
        return following, (Restarted(reply.attempt), piece) if heard.has_text else (piece,)
    if reply.execution_id == heard.execution and reply.sequence >= heard.next_sequence:
        return following, (piece,)
    # The same attempt from its beginning: another execution took over (or may have, if no execution is named).
    if reply.sequence == 0 and (reply.execution_id != heard.execution or not reply.execution_id):
        return following, (Restarted(reply.attempt), piece)
    return heard, ()


def _piece(piece: AnswerPiece) -> HeardPiece:
    text = "" if piece.content is None else text_of(piece.content)
    signature = "" if piece.signature is None else text_of(piece.signature)
    return HeardPiece(
        piece.kind, piece.choice, piece.part, text, piece.call_id, piece.name, piece.provider, signature, piece.sealed
    )
