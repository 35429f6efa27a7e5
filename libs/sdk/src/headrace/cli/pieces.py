"""Answers on a terminal, as they come."""

from __future__ import annotations

from headrace.cli.output import ERR, OUT
from headrace.client import AnswerStream
from headrace.results import Task


async def show_pieces(stream: AnswerStream) -> Task:
    """Show an answer on a terminal as it comes; the whole task."""
    shown, thinking = "", False
    async for piece in stream:
        if piece.begins_anew and (shown or thinking):
            OUT.print("\n(that attempt failed; another one answers)", style="yellow")
            shown, thinking = "", False
        if piece.kind == "reasoning" and piece.choice == 0:
            thinking = True
            OUT.print(piece.content, end="", markup=False, soft_wrap=True, style="dim italic")
            continue
        if thinking and piece.text and not shown:
            OUT.print("\n")
        OUT.print(piece.text, end="", markup=False, soft_wrap=True)
        shown += piece.text
    task = await stream.result()
    if task.answer and not shown:
        OUT.print(task.answer, end="", markup=False, soft_wrap=True)
        shown = task.answer
    if shown or thinking:
        OUT.print()
    return task


def show_waiting(reason: str) -> None:
    """Say on stderr why an answer does not begin."""
    ERR.print(f"waiting: {reason}", style="dim", markup=False, soft_wrap=True)
