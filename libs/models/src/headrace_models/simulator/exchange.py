"""Shared by all simulated providers: parse a request, compose the answer, and stream it in the wire format."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from headrace_models.ports import ChatMessage
from headrace_models.simulator.answers import REFUSAL_TEXT, answer, count_tokens, refuses, tokens_of
from headrace_models.simulator.catalog import SimulatedModel
from headrace_models.simulator.faults import Fault, FaultKind, FaultPlan
from headrace_models.simulator.hostile import TORN, is_kind
from headrace_models.simulator.pace import Speed, paced
from headrace_models.simulator.received import RequestRecorder
from headrace_models.wire import SIMULATED_HEADER

_BREAKING: Final = (FaultKind.DISCONNECT, FaultKind.STREAM_ERROR, FaultKind.BROKEN_JSON)
"""Faults that occur in the middle of an answer."""


@dataclass(slots=True)
class SimulatorState:
    """State shared by the handlers."""

    speed: Speed
    faults: FaultPlan
    evidence: RequestRecorder


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request, parsed from its wire format."""

    model: SimulatedModel
    messages: tuple[ChatMessage, ...]
    max_tokens: int | None
    stop: tuple[str, ...]
    as_json: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The complete answer, before any of it is sent."""

    tokens: tuple[str, ...]
    input_tokens: int
    finish: str
    """stop, length or refusal."""

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def compose(prompt: Prompt, fault: Fault | None) -> Answer:
    """The answer to a prompt; pure."""
    input_tokens = sum(count_tokens(message.text) for message in prompt.messages) + 4 * len(prompt.messages)
    if is_kind(fault, FaultKind.EMPTY_ANSWER):
        return Answer((), input_tokens, "stop")
    if refuses(prompt.messages) or is_kind(fault, FaultKind.REFUSAL):
        return Answer(tuple(tokens_of(REFUSAL_TEXT)), input_tokens, "refusal")
    text = answer(prompt.messages, model=prompt.model.name, as_json=prompt.as_json)
    for mark in prompt.stop:
        text = text.split(mark, 1)[0] if mark else text
    tokens = tokens_of(text)
    if prompt.max_tokens is not None and len(tokens) > prompt.max_tokens:
        return Answer(tuple(tokens[: prompt.max_tokens]), input_tokens, "length")
    return Answer(tuple(tokens), input_tokens, "stop")


async def spoken(answer: Answer, model: SimulatedModel, speed: Speed, fault: Fault | None) -> AsyncIterator[str]:
    """The answer's pieces as they become due; ends early if a fault interrupts the answer."""
    tokens = answer.tokens
    if is_kind(fault, FaultKind.KEEP_ALIVES):
        return
    if is_kind(fault, FaultKind.SILENCE):
        tokens = tokens[:1]
    if is_kind(fault, *_BREAKING):
        tokens = tokens[: max(1, len(tokens) // 2)]
    async for piece in paced(tokens, model, speed):
        yield piece
    if is_kind(fault, FaultKind.TORN_CHARACTER):
        for half in _halves(TORN):
            yield half
    if is_kind(fault, FaultKind.TORN_BYTES):
        yield TORN


def _halves(character: str) -> tuple[str, str]:
    units = character.encode("utf-16-le")
    first, second = units[:2], units[2:]
    return first.decode("utf-16-le", "surrogatepass"), second.decode("utf-16-le", "surrogatepass")


async def put_simulated_header(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[SIMULATED_HEADER] = "1"


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises ValueError.
    """
    document = await request.json()
    if not isinstance(document, dict):
        raise ValueError("the body must be a JSON object")
    return document


def text_of(content: Any) -> str:
    """A message's content as text, given as text or as a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def messages_of(entries: Any) -> tuple[ChatMessage, ...]:
    """Messages in the form shared by Ollama, OpenAI and Anthropic.

    Raises ValueError.
    """
    if not isinstance(entries, list) or not entries:
        raise ValueError("messages must be a list with at least one message")
    messages = []
    for entry in entries:
        role = entry.get("role") if isinstance(entry, dict) else None
        if role not in ("system", "developer", "user", "assistant"):
            raise ValueError("each message needs a role: system, user or assistant")
        messages.append(ChatMessage("system" if role == "developer" else role, text_of(entry.get("content"))))
    return tuple(messages)
