"""Messages of Ollama's API, in the terms of the events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal

from headrace_contracts.content import plain
from headrace_contracts.events import Content, Message, MessagePart, PartKind
from headrace_contracts.limits import LONGEST_NAME, MOST_MESSAGES, MOST_PARTS, NAME_PATTERN
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from headrace_intake.decide.messages import ToolName, from_base64
from headrace_intake.decide.ollama.options import PROVIDER
from headrace_intake.decide.refusals import bad_request

_Identifier = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=NAME_PATTERN)]
_IMAGES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


class _OllamaPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OllamaFunction(_OllamaPart):
    """The tool that is called. Its arguments are an object, and not text as in OpenAI's API."""

    name: ToolName
    arguments: dict[str, Any] = {}
    index: int | None = None
    description: str | None = None


class OllamaToolCall(_OllamaPart):
    """A call that the model made in an earlier answer. Ollama's own package sends its id not back."""

    id: _Identifier | None = None
    type: Literal["function"] = "function"
    function: OllamaFunction


Images = Annotated[list[str], Field(max_length=MOST_PARTS)]


class OllamaMessage(_OllamaPart):
    """One message of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: Images | None = None
    tool_calls: Annotated[list[OllamaToolCall], Field(max_length=MOST_PARTS)] | None = None
    tool_name: _Identifier | None = None
    name: _Identifier | None = None
    tool_call_id: _Identifier | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _null_is_nothing(cls, content: object) -> object:
        return "" if content is None else content

    @field_validator("tool_calls", "thinking")
    @classmethod
    def _only_assistants_answer(cls, said: object, info: ValidationInfo) -> object:
        if said and info.data.get("role") != "assistant":
            raise ValueError("only an assistant's message can hold it")
        return said

    @field_validator("images")
    @classmethod
    def _only_users_show(cls, images: list[str] | None, info: ValidationInfo) -> object:
        if images and info.data.get("role") not in ("user", "tool"):
            raise ValueError("only a user's message can hold images")
        return images


class _Calls:
    """The calls made so far that no result answers: results name a tool, or nothing at all."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []
        self._number = 0

    def made(self, call: OllamaToolCall) -> str:
        """The id of a call, which only must differ from those of the others."""
        self._number += 1
        call_id = call.id or f"call_{self._number}"
        self._open.append((call_id, call.function.name))
        return call_id

    def answered_by(self, message: OllamaMessage) -> str | None:
        """The id of the call that a result belongs to; None if there is none."""
        tool = message.tool_name or message.name
        for place, (call_id, name) in enumerate(self._open):
            if message.tool_call_id == call_id or (message.tool_call_id is None and tool in (None, name)):
                del self._open[place]
                return call_id
        return None


def conversation_of(messages: Sequence[OllamaMessage]) -> tuple[Message, ...]:
    """The messages as the event holds them. Raises Refusal."""
    if len(messages) > MOST_MESSAGES:
        raise bad_request(f"messages: there are {len(messages)}, and may be {MOST_MESSAGES}.", "messages")
    calls = _Calls()
    return tuple(_event(message, calls, f"messages.{place}") for place, message in enumerate(messages))


def prompt_of(prompt: str, images: Sequence[str] | None, system: str | None) -> tuple[Message, ...]:
    """The messages of a request to complete a prompt. Raises Refusal."""
    asked = OllamaMessage(role="user", content=prompt, images=list(images or ()) or None)
    said = () if not system else (OllamaMessage(role="system", content=system),)
    return conversation_of((*said, asked))


def _event(message: OllamaMessage, calls: _Calls, where: str) -> Message:
    parts = tuple(_parts(message, calls, where))
    if not parts or (len(parts) == 1 and parts[0].kind is PartKind.TEXT):
        return Message(role=message.role, content=plain(message.content))
    return Message(role=message.role, content=plain(""), parts=parts)


def _parts(message: OllamaMessage, calls: _Calls, where: str) -> Iterator[MessagePart]:
    answered: str | None = None
    if message.thinking:
        yield MessagePart(kind=PartKind.REASONING, content=plain(message.thinking), provider=PROVIDER)
    if message.role == "tool" and (answered := calls.answered_by(message)) is not None:
        yield MessagePart(kind=PartKind.TOOL_RESULT, call_id=answered, content=plain(message.content))
    elif message.content:
        # The words of a tool that nobody called are part of the prompt.
        yield MessagePart(kind=PartKind.TEXT, content=plain(message.content))
    for place, image in enumerate(message.images or ()):
        yield _image(image, f"{where}.images.{place}", answered)
    for call in message.tool_calls or ():
        arguments = json.dumps(call.function.arguments, ensure_ascii=False)
        yield MessagePart(
            kind=PartKind.TOOL_CALL, call_id=calls.made(call), name=call.function.name, content=plain(arguments)
        )


def _image(image: str, where: str, call_id: str | None) -> MessagePart:
    data = from_base64(image.partition(";base64,")[2] if image.startswith("data:") else image)
    kind = next((media_type for start, media_type in _IMAGES if data.startswith(start)), None)
    if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise bad_request(f"{where}: this is no PNG, JPEG, GIF, WebP or BMP image in base64.", where)
    return MessagePart(kind=PartKind.IMAGE, content=Content(data=data), media_type=kind, call_id=call_id)
