"""Puts one answer together from the pieces that a provider sends, and says what is wrong with it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from headrace_models.conversation import Part, ReasoningPart, RefusalPart, TextPart, ToolCallPart
from headrace_models.upstream.values import Utf16Joiner

FinishReason = Literal["stop", "length", "tool_calls", "refusal", "content_filter"]
"""stop: the answer is complete; length: cut off at max_output_tokens; tool_calls: the model waits for its tools;
refusal: the model declined; content_filter: its provider's filter cut it off."""

PieceKind = Literal["text", "reasoning", "tool_call", "refusal"]

DECLINED: Final = frozenset[FinishReason]({"refusal", "content_filter"})


@dataclass(frozen=True, slots=True)
class SpokenPiece:
    """A piece of an answer, as it comes.

    Attributes:
        choice: Number of the answer, from 0.
        part: Number of the part of this kind within the answer, from 0.
        text: The next characters; of a tool call, of its arguments.
        call_id, name: In the first piece of a tool call.
        provider: Of reasoning: who made it.
        signature: Of reasoning: the next characters of what its provider signed it with.
        sealed: Of reasoning: whether the signature is all of it.
    """

    kind: PieceKind
    text: str = field(repr=False)
    choice: int = 0
    part: int = 0
    call_id: str = ""
    name: str = ""
    provider: str = ""
    signature: str = field(default="", repr=False)
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class CitedSource:
    """A source that an answer names; `start` and `end` are characters of its text."""

    url: str = field(default="", repr=False)
    title: str = field(default="", repr=False)
    text: str = field(default="", repr=False)
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """One whole answer. `logprobs` is a list as in OpenAI's `logprobs.content`, as JSON; empty if none were given.
    `stop_sequence` is the stop text that ended it, where the provider tells.
    """

    index: int
    parts: tuple[Part, ...] = field(repr=False)
    finish_reason: FinishReason
    logprobs: str = field(default="", repr=False)
    citations: tuple[CitedSource, ...] = ()
    stop_sequence: str = field(default="", repr=False)

    @property
    def text(self) -> str:
        """What the model said to the caller."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart | RefusalPart))

    @property
    def calls(self) -> tuple[ToolCallPart, ...]:
        """The tools that it calls."""
        return tuple(part for part in self.parts if isinstance(part, ToolCallPart))

    @property
    def is_plain(self) -> bool:
        """Whether its text and its finish reason are all there is to it."""
        return (
            not self.index
            and not self.logprobs
            and not self.citations
            and not self.stop_sequence
            and all(isinstance(part, TextPart) for part in self.parts)
        )


class Unfit(Exception):
    """The answer is whole and cannot be used. The text quotes nothing of it."""


@dataclass(slots=True)
class _PartInProgress:
    kind: PieceKind
    number: int
    joiner: Utf16Joiner = field(default_factory=Utf16Joiner)
    pieces: list[str] = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    signature: str = ""
    sealed: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ChoiceInProgress:
    """One answer while it comes."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish: FinishReason | None = None
        self.stop_sequence = ""
        self.citations: list[CitedSource] = []
        self._logprobs: list[object] = []
        self._parts: dict[tuple[PieceKind, object], _PartInProgress] = {}

    def add(self, kind: PieceKind, key: object, piece: str, *, call_id: str = "", name: str = "") -> SpokenPiece | None:
        """The next piece of the part `key` of this kind; returns what can be passed on of it.

        A tool call that its provider gives no id gets one.
        """
        part = self._parts.get((kind, key))
        first = part is None
        if part is None:
            number = sum(other.kind == kind for other in self._parts.values())
            part = self._parts[kind, key] = _PartInProgress(kind, number)
            if kind == "tool_call":
                part.call_id = call_id or f"call_{secrets.token_hex(12)}"
        part.name = part.name or name
        text = part.joiner.add(piece)
        if text:
            part.pieces.append(text)
        if not text and not (first and kind == "tool_call"):
            return None
        return SpokenPiece(
            kind, text, self.index, part.number, part.call_id if first else "", part.name if first else ""
        )

    def sign(self, key: object, signature: str, *, sealed: bool = False) -> SpokenPiece:
        """A piece of the signature of a part of the reasoning, or of all of it if it is sealed."""
        part = self._parts.get(("reasoning", key))
        if part is None:
            self.add("reasoning", key, "")
            part = self._parts["reasoning", key]
        part.signature += signature
        part.sealed = part.sealed or sealed
        return SpokenPiece("reasoning", "", self.index, part.number, signature=signature, sealed=part.sealed)

    def add_logprobs(self, tokens: list[object]) -> None:
        """Log probabilities of the next tokens."""
        self._logprobs += tokens

    def has_call(self, key: object) -> bool:
        """Whether this tool call has begun."""
        return ("tool_call", key) in self._parts

    @property
    def calls(self) -> int:
        """How many tool calls have begun."""
        return sum(part.kind == "tool_call" for part in self._parts.values())

    def end(self) -> Iterator[SpokenPiece]:
        """What was held back of each part."""
        for part in self._parts.values():
            if rest := part.joiner.end():
                part.pieces.append(rest)
                yield SpokenPiece(part.kind, rest, self.index, part.number)

    def whole(self, provider: str, tools: Mapping[str, object] | None) -> WholeAnswer:
        """The answer. A tool call that was cut off is left out; raises Unfit for one that is whole and invalid.

        Args:
            provider: Whose reasoning this is.
            tools: By the names that may be called; None if any may.
        """
        finish: FinishReason = self.finish or "length"
        parts: list[Part] = []
        for part in self._parts.values():
            match part.kind:
                case "text" if part.pieces:
                    parts.append(TextPart(part.text))
                case "refusal" if part.pieces:
                    parts.append(RefusalPart(part.text))
                case "reasoning" if part.pieces or part.signature:
                    parts.append(ReasoningPart(part.text, provider, part.signature, part.sealed))
                case "tool_call":
                    call = _whole_call(part)
                    if call is not None and (tools is None or call.name in tools):
                        parts.append(call)
                    elif finish != "length":
                        why = "whose arguments are no JSON object" if call is None else "that it was not given"
                        raise Unfit(f"called a tool {why}")
        called = any(isinstance(part, ToolCallPart) for part in parts)
        if called and finish == "stop":
            finish = "tool_calls"
        elif finish == "tool_calls" and not called:
            finish = "stop"
        logprobs = json.dumps(self._logprobs, ensure_ascii=False) if self._logprobs else ""
        return WholeAnswer(self.index, tuple(parts), finish, logprobs, tuple(self.citations), self.stop_sequence)


def _whole_call(part: _PartInProgress) -> ToolCallPart | None:
    """The call; None if its arguments are not a whole JSON object."""
    arguments = part.text.strip() or "{}"
    try:
        usable = part.name and isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return None
    return ToolCallPart(part.call_id, part.name, arguments) if usable else None
