"""The events of a streamed message, in Anthropic's order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from headrace_contracts.content import text_of
from headrace_contracts.events import AnswerChoice, MessagePart, PartKind

from headrace_intake.decide.anthropic.answers import arguments_of, citation, message_id, stopped, usage
from headrace_intake.decide.anthropic.thoughts import outward
from headrace_intake.decide.chat_answers import model_name, provenance
from headrace_intake.decide.choices import answers_of
from headrace_intake.decide.replies import Delta, HeardPiece
from headrace_intake.decide.views import TaskView

Event = dict[str, Any]
_TEXTS: Final = frozenset({PartKind.TEXT, PartKind.REFUSAL})
PING: Final[Event] = {"type": "ping"}


class NotTheAnswer(Exception):
    """What was sent is not how the answer begins: another attempt gave it."""


@dataclass(slots=True)
class _HeldCall:
    """A tool call whose arguments are not whole."""

    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    depth: int = 0
    quoted: bool = False
    escaped: bool = False

    def add(self, text: str) -> bool:
        """The next characters; returns whether the arguments, a JSON object, are whole with them."""
        self.pieces.append(text)
        whole = False
        for character in text:
            if self.escaped:
                self.escaped = False
            elif self.quoted:
                self.escaped = character == "\\"
                self.quoted = character != '"'
            elif character == '"':
                self.quoted = True
            elif character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
                whole = self.depth == 0
        return whole


class MessageEvents:
    """Makes the events of one stream.

    Blocks come one after the other. A tool call comes once its arguments are whole: what the limit cuts off, or an
    attempt that breaks in the middle of it, never looks like a call.

    Args:
        prompt_tokens: Estimated tokens of the prompt; the exact numbers come with the end.
    """

    def __init__(self, view: TaskView, requested_model: str, prompt_tokens: int, *, shows_thoughts: bool) -> None:
        self._view = view
        self._requested = requested_model
        self._prompt_tokens = prompt_tokens
        self._shows_thoughts = shows_thoughts
        self._index = -1
        self._open: PartKind | None = None
        self._open_part = 0
        self._provider: str | None = None
        self._signature = ""
        self._text = ""
        self._thoughts: dict[int, str] = {}
        self._calls: dict[int, tuple[str, str, str]] = {}
        self._held: dict[int, _HeldCall] = {}

    @property
    def has_sent(self) -> bool:
        """Whether anything of an answer has been sent, which another attempt could contradict."""
        return self._index >= 0

    def opening(self) -> list[Event]:
        """The first events."""
        tokens = {"input_tokens": self._prompt_tokens, "output_tokens": 0}
        message: Event = {
            "id": message_id(self._view.task_id), "type": "message", "role": "assistant",
            "model": model_name(self._view) or self._requested, "content": [], "stop_reason": None,
            "stop_sequence": None, "usage": tokens,
        }  # fmt: skip
        return [{"type": "message_start", "message": message}, PING]

    def update(self, delta: Delta) -> list[Event]:
        """The events of the next pieces: thoughts before text, and everything else after it."""
        events: list[Event] = []
        mine = [piece for piece in delta.pieces if piece.choice == 0]
        for piece in mine:
            if piece.kind is PartKind.REASONING:
                events += self._think(piece)
        events += self._say(delta.text)
        for piece in mine:
            if piece.kind is PartKind.TOOL_CALL:
                events += self._call(piece)
            elif piece.kind in _TEXTS:
                events += self._say(piece.text)
        return events

    def restarted(self) -> None:
        """Another attempt begins: calls that were not whole are no longer said."""
        self._held.clear()

    def ending(self, end: TaskView) -> list[Event]:
        """What is still to be sent of the whole answer, and its end. Raises NotTheAnswer, ContentSealed."""
        choice = answers_of(end)[0]
        events = [*self._rest(choice), *self._cite(choice), *self._close()]
        told = {**usage(end)}
        del told["cache_creation"]
        events.append({"type": "message_delta", "delta": stopped(end), "usage": told, "headrace": provenance(end)})
        events.append({"type": "message_stop"})
        return events

    def _rest(self, choice: AnswerChoice) -> list[Event]:
        events: list[Event] = []
        said = self._text
        numbers = {PartKind.REASONING: 0, PartKind.TOOL_CALL: 0}
        for part in choice.parts:
            if part.kind in _TEXTS:
                text = "" if part.content is None else text_of(part.content)
                if not text.startswith(said[: len(text)]):
                    raise NotTheAnswer
                sent, said = said[: len(text)], said[len(text) :]
                if not sent and text and self._open is PartKind.TEXT:
                    events += self._close()
                events += self._say(text[len(sent) :])
                continue
            number = numbers[part.kind]
            numbers[part.kind] += 1
            events += (
                self._rest_of_thought(part, number) if part.kind is PartKind.REASONING else self._made(part, number)
            )
        beyond = max(self._calls, default=-1) >= numbers[PartKind.TOOL_CALL]
        if said or beyond or max(self._thoughts, default=-1) >= numbers[PartKind.REASONING]:
            raise NotTheAnswer
        return events

    def _rest_of_thought(self, part: MessagePart, number: int) -> list[Event]:
        signature = "" if part.signature is None else text_of(part.signature)
        text = "" if part.content is None else text_of(part.content)
        sent = self._thoughts.get(number)
        if not text.startswith(sent or ""):
            raise NotTheAnswer
        is_open = self._open is PartKind.REASONING and self._open_part == number
        rest = text[len(sent or "") :]
        if sent is not None and not rest and not is_open:
            return []
        # Its signature is told when its block is closed.
        missing = signature[len(self._signature) :] if is_open and signature.startswith(self._signature) else signature
        piece = HeardPiece(
            PartKind.REASONING, 0, number, rest, None, None, part.provider, missing, sealed=part.content is None
        )
        return self._think(piece)

    def _made(self, part: MessagePart, number: int) -> list[Event]:
        call = (part.call_id or "", part.name or "", arguments_of(part))
        sent = self._calls.get(number)
        if sent is None:
            return self._tool_use(number, *call, [call[2]])
        if sent != call:
            raise NotTheAnswer
        return []

    def _think(self, piece: HeardPiece) -> list[Event]:
        events: list[Event] = []
        if piece.sealed:
            events += self._close()
            data = outward(piece.provider, piece.signature)
            self._thoughts[piece.part] = ""
            events += [self._start({"type": "redacted_thinking", "data": data}), self._stop()]
            return events
        if self._open is not PartKind.REASONING or self._open_part != piece.part:
            events += self._close()
            self._open, self._open_part, self._signature = PartKind.REASONING, piece.part, ""
            events.append(self._start({"type": "thinking", "thinking": "", "signature": ""}))
        self._provider = piece.provider or self._provider
        self._signature += piece.signature
        self._thoughts[piece.part] = self._thoughts.get(piece.part, "") + piece.text
        if piece.text and self._shows_thoughts:
            events.append(self._delta({"type": "thinking_delta", "thinking": piece.text}))
        return events

    def _say(self, text: str) -> list[Event]:
        if not text:
            return []
        events: list[Event] = []
        if self._open is not PartKind.TEXT:
            events += self._close()
            self._open = PartKind.TEXT
            events.append(self._start({"type": "text", "text": ""}))
        self._text += text
        events.append(self._delta({"type": "text_delta", "text": text}))
        return events

    def _call(self, piece: HeardPiece) -> list[Event]:
        if piece.part in self._calls:
            # White space after the end changes nothing; whatever else it is, the end of the task tells.
            return []
        held = self._held.setdefault(piece.part, _HeldCall())
        held.call_id, held.name = held.call_id or piece.call_id or "", held.name or piece.name or ""
        if not held.add(piece.text):
            return []
        del self._held[piece.part]
        return self._tool_use(piece.part, held.call_id, held.name, "".join(held.pieces).strip(), held.pieces)

    def _tool_use(self, number: int, call_id: str, name: str, arguments: str, pieces: list[str]) -> list[Event]:
        self._calls[number] = (call_id, name, arguments)
        events = self._close()
        events.append(self._start({"type": "tool_use", "id": call_id, "name": name, "input": {}}))
        events += [self._delta({"type": "input_json_delta", "partial_json": piece}) for piece in pieces if piece]
        events.append(self._stop())
        return events

    def _cite(self, choice: AnswerChoice) -> list[Event]:
        if not choice.citations or not self._text:
            return []
        events: list[Event] = []
        if self._open is not PartKind.TEXT:
            # They come with the end, when the text they belong to may be closed.
            events += self._close()
            self._open = PartKind.TEXT
            events.append(self._start({"type": "text", "text": ""}))
        cited = [citation(each) for each in choice.citations]
        return events + [self._delta({"type": "citations_delta", "citation": each}) for each in cited]

    def _close(self) -> list[Event]:
        opened, self._open = self._open, None
        if opened is None:
            return []
        signature = outward(self._provider, self._signature) if opened is PartKind.REASONING else ""
        signed = [self._delta({"type": "signature_delta", "signature": signature})] if signature else []
        return [*signed, self._stop()]

    def _start(self, block: Event) -> Event:
        self._index += 1
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: Event) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _stop(self) -> Event:
        return {"type": "content_block_stop", "index": self._index}
