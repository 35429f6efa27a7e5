"""What a model answered, as it is written to the topics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace_contracts import events
from headrace_contracts.content import plain

from headrace_models.answer import PieceKind, SpokenPiece, WholeAnswer
from headrace_models.conversation import Part, ReasoningPart, RefusalPart, TextPart, ToolCallPart

_PIECES: Final[dict[PieceKind, events.PartKind]] = {
    "text": events.PartKind.TEXT,
    "reasoning": events.PartKind.REASONING,
    "tool_call": events.PartKind.TOOL_CALL,
    "refusal": events.PartKind.REFUSAL,
}


def choices_of(choices: Iterable[WholeAnswer]) -> tuple[events.AnswerChoice, ...]:
    """All answers."""
    return tuple(
        events.AnswerChoice(
            index=choice.index,
            parts=tuple(_part(part) for part in choice.parts),
            finish_reason=choice.finish_reason,
            logprobs=plain(choice.logprobs) if choice.logprobs else None,
            citations=tuple(
                events.Citation(
                    url=plain(cited.url) if cited.url else None,
                    title=plain(cited.title) if cited.title else None,
                    text=plain(cited.text) if cited.text else None,
                    start=cited.start,
                    end=cited.end,
                )
                for cited in choice.citations
            ),
            stop_sequence=plain(choice.stop_sequence) if choice.stop_sequence else None,
        )
        for choice in choices
    )


def _part(part: Part) -> events.MessagePart:
    match part:
        case TextPart(text=text):
            return events.MessagePart(kind=events.PartKind.TEXT, content=plain(text))
        case RefusalPart(text=text):
            return events.MessagePart(kind=events.PartKind.REFUSAL, content=plain(text))
        case ReasoningPart(text=text, provider=provider, signature=signature, sealed=sealed):
            return events.MessagePart(
                kind=events.PartKind.REASONING,
                content=None if sealed else plain(text),
                provider=provider,
                signature=plain(signature) if signature else None,
            )
        case ToolCallPart(call_id=call_id, name=name, arguments=arguments):
            return events.MessagePart(
                kind=events.PartKind.TOOL_CALL, content=plain(arguments), call_id=call_id, name=name
            )
        case _:
            raise ValueError(f"a model does not say a {type(part).__name__}")


def piece_of(piece: SpokenPiece) -> events.AnswerPiece:
    """A piece of a stream."""
    return events.AnswerPiece(
        choice=piece.choice,
        kind=_PIECES[piece.kind],
        part=piece.part,
        content=plain(piece.text) if piece.text else None,
        call_id=piece.call_id or None,
        name=piece.name or None,
        provider=piece.provider or None,
        signature=plain(piece.signature) if piece.signature else None,
        sealed=piece.sealed,
    )
