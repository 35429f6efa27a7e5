"""Shared by all simulated providers: parse a request, compose the answer, and stream it in the wire format."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from aiohttp import web

from headrace_models.conversation import (
    ChatMessage,
    MediaPart,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSelection,
)
from headrace_models.simulator.answers import REFUSAL_TEXT, answer, count_tokens, refuses, tokens_of
from headrace_models.simulator.catalog import SimulatedModel
from headrace_models.simulator.faults import Fault, FaultKind, FaultPlan
from headrace_models.simulator.hostile import TORN, is_kind
from headrace_models.simulator.pace import Speed, paced
from headrace_models.simulator.received import RequestRecorder
from headrace_models.simulator.schema_values import Words, value_for
from headrace_models.simulator.tool_use import MadeCall, OfferedTool, calls_for, results_at_the_end
from headrace_models.wire import SIMULATED_HEADER

TOKENS_OF_AN_IMAGE: Final = 1_000

_THOUGHT: Final = "The request is read first, then answered."
_REPEATS: Final = 31
_BREAKING: Final = (FaultKind.DISCONNECT, FaultKind.STREAM_ERROR, FaultKind.BROKEN_JSON)
"""Faults that occur in the middle of an answer."""


@dataclass(slots=True)
class SimulatorState:
    """State shared by the handlers."""

    speed: Speed
    faults: FaultPlan
    evidence: RequestRecorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A request, parsed from its wire format. `choices` is how many answers are wanted."""

    model: SimulatedModel
    messages: tuple[ChatMessage, ...]
    max_tokens: int | None
    stop: tuple[str, ...]
    as_json: bool = False
    schema: dict[str, Any] | None = None
    tools: tuple[OfferedTool, ...] = ()
    tool_choice: ToolSelection | None = None
    parallel: bool = True
    thinks: bool = False
    choices: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The complete answer, before any of it is sent.

    Attributes:
        thinking: Tokens of what the model thinks first.
        finish: stop, length, tool_calls or refusal.
        stopped_by: The stop text that ended it.
    """

    tokens: tuple[str, ...] = ()
    input_tokens: int
    finish: str = "stop"
    thinking: tuple[str, ...] = ()
    calls: tuple[MadeCall, ...] = ()
    image_tokens: int = 0
    stopped_by: str = ""

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def output_tokens(self) -> int:
        """All that was written."""
        return len(self.thinking) + len(self.tokens) + sum(count_tokens(call.arguments) for call in self.calls)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A piece of an answer. `call` is the number of the tool call it belongs to; `opens` whether it is its first."""

    kind: Literal["thinking", "text", "call"]
    text: str
    call: int = 0
    opens: bool = False


def compose(prompt: Prompt, fault: Fault | None, choice: int = 0) -> Answer:
    """The answer to a prompt; pure. `choice` tells several answers to one prompt apart."""
    images = sum(isinstance(part, MediaPart) for message in prompt.messages for part in message.parts)
    image_tokens = images * TOKENS_OF_AN_IMAGE
    input_tokens = image_tokens + sum(
        count_tokens(message.text) + 4 for message in prompt.messages
    ) + sum(count_tokens(str(tool.parameters)) + 8 for tool in prompt.tools)  # fmt: skip
    if is_kind(fault, FaultKind.EMPTY_ANSWER):
        return Answer(input_tokens=input_tokens)
    if is_kind(fault, FaultKind.THINKING_ONLY, FaultKind.THINKING_TO_THE_END):
        finish = "length" if is_kind(fault, FaultKind.THINKING_TO_THE_END) else "stop"
        return Answer(input_tokens=input_tokens, finish=finish, thinking=tuple(tokens_of(_THOUGHT)))
    if is_kind(fault, FaultKind.REPEATED_TOKEN):
        return Answer(input_tokens=input_tokens, tokens=(" and",) * _REPEATS)
    if refuses(prompt.messages) or is_kind(fault, FaultKind.REFUSAL):
        return Answer(tokens=tuple(tokens_of(REFUSAL_TEXT)), input_tokens=input_tokens, finish="refusal")
    thinking = tuple(tokens_of(_THOUGHT)) if prompt.thinks else ()
    calls = calls_for(prompt.messages, prompt.tools, prompt.tool_choice, parallel=prompt.parallel)
    if calls:
        return Answer(
            input_tokens=input_tokens, finish="tool_calls", thinking=thinking, calls=calls, image_tokens=image_tokens
        )
    text = _text(prompt, choice, images)
    stopped_by = ""
    for mark in prompt.stop:
        if mark and mark in text:
            text, stopped_by = text.split(mark, 1)[0], mark
    tokens = tokens_of(text)
    cut = prompt.max_tokens is not None and len(thinking) + len(tokens) > prompt.max_tokens
    return Answer(
        tokens=tuple(tokens[: max(0, (prompt.max_tokens or 0) - len(thinking))] if cut else tokens),
        input_tokens=input_tokens,
        finish="length" if cut else "stop",
        thinking=thinking,
        image_tokens=image_tokens,
        stopped_by="" if cut else stopped_by,
    )


def _text(prompt: Prompt, choice: int, images: int) -> str:
    if prompt.schema is not None:
        said = next((message.text for message in reversed(prompt.messages) if message.role == "user"), "")
        return json.dumps(value_for(prompt.schema, Words(said)), ensure_ascii=False)
    model = prompt.model.name if not choice else f"{prompt.model.name}#{choice}"
    text = answer(prompt.messages, model=model, as_json=prompt.as_json)
    if prompt.as_json:
        return text
    results = results_at_the_end(prompt.messages)
    if results:
        text = f"The tools returned: {' | '.join(results)}"
    if choice:
        text = f"{text} (answer {choice + 1})"
    return f"{text} ({images} image{'s' if images > 1 else ''} seen)" if images else text


async def spoken(answer: Answer, model: SimulatedModel, speed: Speed, fault: Fault | None) -> AsyncIterator[Spoken]:
    """The answer's pieces as they become due; ends early if a fault interrupts the answer."""
    pieces = [Spoken("thinking", token) for token in answer.thinking]
    pieces += [Spoken("text", token) for token in answer.tokens]
    for number, call in enumerate(answer.calls):
        tokens = tokens_of(call.arguments)
        pieces += [Spoken("call", token, number, opens=not place) for place, token in enumerate(tokens)]
    if is_kind(fault, FaultKind.KEEP_ALIVES):
        return
    if is_kind(fault, FaultKind.SILENCE):
        pieces = pieces[:1]
    if is_kind(fault, *_BREAKING):
        pieces = pieces[: max(1, len(pieces) // 2)]
    due = deque(pieces)
    async for text in paced(tuple(piece.text for piece in pieces), model, speed):
        for piece in _first(due, len(text)):
            yield piece
    if is_kind(fault, FaultKind.TORN_CHARACTER):
        for half in _halves(TORN):
            yield Spoken("text", half)
    if is_kind(fault, FaultKind.TORN_BYTES):
        yield Spoken("text", TORN)


def _first(due: deque[Spoken], characters: int) -> list[Spoken]:
    """Take so many characters from the front; neighbours of one part become one piece."""
    taken: list[Spoken] = []
    while characters > 0:
        piece = due.popleft()
        characters -= len(piece.text)
        last = taken[-1] if taken else None
        if last is not None and not piece.opens and (last.kind, last.call) == (piece.kind, piece.call):
            taken[-1] = replace(last, text=last.text + piece.text)
        else:
            taken.append(piece)
    return taken


async def said(answer: Answer, model: SimulatedModel, speed: Speed, fault: Fault | None) -> str:
    """The whole text, once it is due."""
    return "".join([piece.text async for piece in spoken(answer, model, speed, fault) if piece.kind == "text"])


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
    """Messages in the forms of Ollama, OpenAI and Anthropic.

    Raises ValueError.
    """
    if not isinstance(entries, list) or not entries:
        raise ValueError("messages must be a list with at least one message")
    messages: list[ChatMessage] = []
    called: set[str] = set()
    for entry in entries:
        role = entry.get("role") if isinstance(entry, dict) else None
        if role not in ("system", "developer", "user", "assistant", "tool"):
            raise ValueError("each message needs a role: system, user, assistant or tool")
        parts = tuple(_parts(entry))
        called |= {part.call_id for part in parts if isinstance(part, ToolCallPart)}
        for part in parts:
            if isinstance(part, ToolResultPart) and part.call_id and part.call_id not in called:
                raise ValueError(f"a tool result answers {part.call_id!r}, which no message before it calls")
        messages.append(ChatMessage("system" if role == "developer" else role, parts=parts))
    return tuple(messages)


def _parts(entry: Mapping[str, Any]) -> Iterator[Part]:
    content = entry.get("content")
    if entry["role"] == "tool":
        yield ToolResultPart(str(entry.get("tool_call_id") or ""), text_of(content))
        return
    if isinstance(content, str):
        yield TextPart(content)
    elif isinstance(content, list):
        for block in content:
            yield from _block(block)
    for image in entry.get("images") or ():
        yield MediaPart(kind="image", url=str(image))
    for call in entry.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = function.get("arguments") or {}
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        if not isinstance(json.loads(written or "{}"), dict):
            raise ValueError("the arguments of a tool call must be an object")
        yield ToolCallPart(str(call.get("id") or ""), str(function.get("name")), written)


def _block(block: Any) -> Iterator[Part]:
    if not isinstance(block, dict):
        raise ValueError("a content part must be an object")
    match block.get("type"):
        case "text" | "refusal":
            yield TextPart(str(block.get("text") or block.get("refusal") or ""))
        case "image_url":
            yield MediaPart(kind="image", url=str(block["image_url"]["url"]))
        case "image":
            source = block["source"]
            yield MediaPart(kind="image", url=str(source.get("url") or source.get("data")))
        case "input_audio":
            yield MediaPart(kind="audio", url=str(block["input_audio"]["data"]))
        case "file":
            yield MediaPart(kind="file", url=str(block["file"].get("file_data")))
        case "document":
            yield MediaPart(kind="file", url=str(block["source"].get("url") or block["source"].get("data")))
        case "tool_use":
            yield ToolCallPart(str(block["id"]), str(block["name"]), json.dumps(block.get("input") or {}))
        case "tool_result":
            yield ToolResultPart(str(block["tool_use_id"]), text_of(block.get("content") or ""))
        case "thinking" | "redacted_thinking":
            if not (block.get("signature") or block.get("data")):
                raise ValueError("thinking must come back with its signature")
        case kind:
            raise ValueError(f"content of type {kind!r} is not supported")


def offered_tools(entries: Any) -> tuple[OfferedTool, ...]:
    """Tools in the forms of Ollama, OpenAI (`function`) and Anthropic (`input_schema`).

    Raises ValueError.
    """
    found = []
    for entry in entries or ():
        described = entry.get("function") or entry
        name, schema = described.get("name"), described.get("parameters") or described.get("input_schema") or {}
        if not isinstance(name, str) or not isinstance(schema, dict):
            raise ValueError("a tool needs a name and a schema of its parameters")
        found.append(OfferedTool(name, schema))
    return tuple(found)
