"""Pieces of an answer, as they come."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer.

    Attributes:
        text: The text to add to the first answer; empty in pieces of anything else.
        begins_anew: Discard all that came before this piece: its attempt failed, and another one answers.
        kind: text, reasoning, refusal, or tool_call.
        choice: Number of the answer that it belongs to, from 0.
        part: Number of the part of this kind within the answer, from 0: tells apart several tool calls.
        content: The next characters, whatever they are of: of a tool call, of its arguments. Arguments that are not
            whole yet mean nothing: the calls are in the ended task.
        call_id, name: In the first piece of a tool call: its id, and the tool's name.
    """

    text: str
    begins_anew: bool = False
    kind: str = "text"
    choice: int = 0
    part: int = 0
    content: str = ""
    call_id: str | None = None
    name: str | None = None


OnPiece = Callable[[Piece], Awaitable[None] | None]
"""Called with each piece; if it returns an awaitable, that is awaited."""


async def told(outcome: Awaitable[None] | None) -> None:
    """Wait for a callback, if it wants that."""
    if inspect.isawaitable(outcome):
        await outcome
