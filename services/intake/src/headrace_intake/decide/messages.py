"""The messages of a conversation, as callers write them and as earlier answers come back in them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from headrace_contracts.cargo import MEDIA_TYPE_PATTERN, TOOL_NAME_PATTERN, is_json_object
from headrace_contracts.content import plain
from headrace_contracts.events import Content, Message, MessagePart, PartKind, Privacy
from headrace_contracts.limits import LONGEST_NAME, MOST_PARTS, NAME_PATTERN
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
)

from headrace_intake.decide.message_counts import expect_few
from headrace_intake.decide.provider_options import HOW_TO_PASS_ON
from headrace_intake.decide.refusals import Refusal, bad_request

_HAPPENS_ANYWAY: Final[Mapping[str, tuple[Any, ...]]] = {"tool_calls": ([],), "annotations": ([],), "audio": ({},)}
_SAID_BESIDE_AN_ANSWER: Final = frozenset({"annotations", "reasoning", "reasoning_content", "audio", "parsed"})
"""What servers tell with an answer, or clients make of it, and send back with it. It is not part of what was said:
models do not receive it."""
_DATA_URL: Final = re.compile(r"data:([^;,]+)(?:;[^;,]+)*;base64,(.*)", re.DOTALL)
_SOUNDS: Final[Mapping[str, str]] = {"mp3": "audio/mpeg", "wav": "audio/wav"}
_IDENTIFIER = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=NAME_PATTERN)]
ToolName = Annotated[str, StringConstraints(pattern=TOOL_NAME_PATTERN)]


class _StrictPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CacheControl(_StrictPart):
    """Anthropic's mark: the prompt up to here may be cached."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"

    @property
    def seconds(self) -> int:
        return 3_600 if self.ttl == "1h" else 300


class TextPartIn(_StrictPart):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None

    def event(self) -> MessagePart:
        cached = None if self.cache_control is None else self.cache_control.seconds
        return MessagePart(kind=PartKind.TEXT, content=plain(self.text), cache_seconds=cached)


class RefusalPartIn(_StrictPart):
    """A part of an assistant's message in which it declined to answer."""

    type: Literal["refusal"]
    refusal: str

    def event(self) -> MessagePart:
        return MessagePart(kind=PartKind.REFUSAL, content=plain(self.refusal))


class ImageUrl(_StrictPart):
    """Where an image is: a data URL, or an address."""

    url: Annotated[str, StringConstraints(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePartIn(_StrictPart):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl
    cache_control: CacheControl | None = None

    def event(self) -> MessagePart:
        url = self.image_url.url
        cached = None if self.cache_control is None else self.cache_control.seconds
        if not url.startswith("data:"):
            return MessagePart(kind=PartKind.IMAGE, url=plain(url), detail=self.image_url.detail, cache_seconds=cached)
        media_type, data = decoded(url)
        return MessagePart(
            kind=PartKind.IMAGE, content=Content(data=data), media_type=media_type, detail=self.image_url.detail,
            cache_seconds=cached,
        )  # fmt: skip


class InputAudio(_StrictPart):
    """A recording in base64."""

    data: str
    format: Literal["wav", "mp3"]


class AudioPartIn(_StrictPart):
    """A recording."""

    type: Literal["input_audio"]
    input_audio: InputAudio

    def event(self) -> MessagePart:
        data = from_base64(self.input_audio.data)
        return MessagePart(kind=PartKind.AUDIO, content=Content(data=data), media_type=_SOUNDS[self.input_audio.format])


class FileData(_StrictPart):
    """A file as a data URL."""

    file_data: str
    filename: Annotated[str, StringConstraints(max_length=LONGEST_NAME, pattern=NAME_PATTERN)] | None = None


class FilePartIn(_StrictPart):
    """A file."""

    type: Literal["file"]
    file: FileData

    def event(self) -> MessagePart:
        media_type, data = decoded(self.file.file_data)
        name = None if self.file.filename is None else plain(self.file.filename)
        return MessagePart(kind=PartKind.FILE, content=Content(data=data), media_type=media_type, filename=name)


PartIn = Annotated[TextPartIn | RefusalPartIn | ImagePartIn | AudioPartIn | FilePartIn, Field(discriminator="type")]


def _shape(content: object) -> str | None:
    return "parts" if isinstance(content, list) else "text" if isinstance(content, str) else None


ContentIn = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[PartIn], Tag("parts")],
    Discriminator(_shape, custom_error_type="content", custom_error_message="must be a text or a list of parts"),
]


class CalledFunction(_StrictPart):
    """The tool that is called, and its arguments as JSON."""

    name: ToolName
    arguments: str = "{}"
    parsed_arguments: Any = None
    """What OpenAI's client made of the arguments; not read."""


class ToolCallIn(_StrictPart):
    """A call that the model made in an earlier answer."""

    id: _IDENTIFIER
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None

    def event(self) -> MessagePart:
        return MessagePart(
            kind=PartKind.TOOL_CALL, call_id=self.id, name=self.function.name,
            content=plain(self.function.arguments or "{}"),
        )  # fmt: skip


class ReasoningDetail(_StrictPart):
    """What a model thought, as an earlier answer told it. It goes back to the provider in `format`, and to no other.

    Without a text, its signature is all of it.
    """

    type: Literal["reasoning.text"]
    text: str | None = None
    signature: str | None = None
    format: _IDENTIFIER
    index: int | None = None

    def event(self) -> MessagePart:
        signature = None if self.signature is None else plain(self.signature)
        said = None if self.text is None else plain(self.text)
        return MessagePart(kind=PartKind.REASONING, content=said, provider=self.format, signature=signature)


_KINDS_OF: Final[Mapping[str, tuple[type[BaseModel], ...]]] = {
    "system": (TextPartIn,),
    "developer": (TextPartIn,),
    "user": (TextPartIn, ImagePartIn, AudioPartIn, FilePartIn),
    "assistant": (TextPartIn, RefusalPartIn),
    "tool": (TextPartIn, ImagePartIn),
}


class MessageIn(_StrictPart):
    """One message of the conversation. An assistant's is taken in every form in which an answer is given out."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[ContentIn | None, Field(validate_default=True)] = None
    refusal: str | None = None
    name: _IDENTIFIER | None = None
    tool_calls: Annotated[list[ToolCallIn], Field(max_length=MOST_PARTS)] | None = None
    tool_call_id: Annotated[_IDENTIFIER | None, Field(validate_default=True)] = None
    is_error: bool | None = None
    """Whether the tool failed. OpenAI's API has no such field."""
    privacy: Privacy | None = None
    """How far the message may travel; the task travels no farther. OpenAI's API has no such field."""
    reasoning_details: Annotated[list[ReasoningDetail], Field(max_length=MOST_PARTS)] | None = None

    @field_validator("content")
    @classmethod
    def _somebody_says_something(cls, content: str | list[PartIn] | None, info: ValidationInfo) -> object:
        role = info.data.get("role", "assistant")
        if content is None and role != "assistant":
            raise ValueError("must be a text or a list of parts")
        if isinstance(content, list):
            for place, part in enumerate(content):
                if not isinstance(part, _KINDS_OF[role]):
                    raise ValueError(f"part {place} is of type {part.type}, which a message of role {role} cannot hold")
        return content

    @field_validator("refusal", "tool_calls", "reasoning_details")
    @classmethod
    def _only_assistants_answer(cls, said: object, info: ValidationInfo) -> object:
        if said is not None and info.data.get("role") != "assistant":
            raise ValueError("only an assistant's message can hold it")
        return said

    @field_validator("tool_call_id")
    @classmethod
    def _only_tools_return(cls, call_id: str | None, info: ValidationInfo) -> object:
        if (info.data.get("role") == "tool") != (call_id is not None):
            raise ValueError("a tool's message names the call that it answers, and no other message does")
        return call_id

    @field_validator("is_error")
    @classmethod
    def _only_tools_fail(cls, failed: bool | None, info: ValidationInfo) -> bool | None:
        if failed is not None and info.data.get("role") != "tool":
            raise ValueError("only a tool's message can hold it")
        return failed

    def speaker(self) -> str:
        """The role in the events' terms."""
        return "system" if self.role == "developer" else self.role

    def event(self) -> Message:
        """The message as the event holds it: a single text as its content, anything else as parts. Raises Refusal."""
        name = None if self.name is None else plain(self.name)
        parts = list(self._parts())
        only = parts[0] if len(parts) == 1 else None
        if not parts or (only is not None and only == MessagePart(kind=PartKind.TEXT, content=only.content)):
            said = only.content if only is not None and only.content is not None else plain("")
            return Message(role=self.speaker(), content=said, name=name, privacy=self.privacy)
        return Message(role=self.speaker(), content=plain(""), parts=tuple(parts), name=name, privacy=self.privacy)

    def _parts(self) -> Iterator[MessagePart]:
        for thought in self.reasoning_details or ():
            yield thought.event()
        content = self.content
        if self.role == "tool":
            yield from self._results(content)
        elif isinstance(content, str):
            if content or not (self.tool_calls or self.refusal):
                yield MessagePart(kind=PartKind.TEXT, content=plain(content))
        else:
            for part in content or ():
                yield part.event()
        if self.refusal:
            yield MessagePart(kind=PartKind.REFUSAL, content=plain(self.refusal))
        for call in self.tool_calls or ():
            if not is_json_object(call.function.arguments or "{}"):
                raise bad_request("messages: the arguments of a tool call must be a JSON object.", "messages")
            yield call.event()

    def _results(self, content: str | list[Any] | None) -> Iterator[MessagePart]:
        """The text that a tool returned, and what came with it."""
        texts = [content] if isinstance(content, str) else [p.text for p in content or () if isinstance(p, TextPartIn)]
        yield MessagePart(
            kind=PartKind.TOOL_RESULT, call_id=self.tool_call_id, content=plain("".join(texts)),
            is_error=bool(self.is_error),
        )  # fmt: skip
        for part in content if isinstance(content, list) else ():
            if isinstance(part, ImagePartIn):
                image = part.event()
                yield MessagePart(
                    kind=PartKind.IMAGE, content=image.content, url=image.url, media_type=image.media_type,
                    detail=image.detail, call_id=self.tool_call_id,
                )  # fmt: skip


def decoded(url: str) -> tuple[str, bytes]:
    """Media type and bytes of a data URL (RFC 2397). Raises Refusal."""
    match = _DATA_URL.fullmatch(url)
    if match is None or not re.fullmatch(MEDIA_TYPE_PATTERN, match[1]):
        raise bad_request("messages: a file must be a data URL such as data:image/png;base64,….", "messages")
    return match[1], from_base64(match[2])


def from_base64(text: str) -> bytes:
    """Raises Refusal."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("messages: the data of a file is not valid base64.", "messages") from None
    if not data:
        raise bad_request("messages: a file is empty.", "messages")
    return data


def without_neutral(
    document: Mapping[str, Any], known: Collection[str], neutral: Mapping[str, tuple[Any, ...]], where: str = ""
) -> dict[str, Any]:
    """The document without fields that are null, or unsupported but request nothing beyond the default (`neutral`).

    Raises Refusal, naming the field after `where`, for other unsupported fields.
    """
    kept: dict[str, Any] = {}
    for name, value in document.items():
        if value is None:
            continue
        if name in known:
            kept[name] = value
        elif not any(type(value) is type(same) and value == same for same in _with_floats(neutral.get(name, ()))):
            hint = "" if where else HOW_TO_PASS_ON
            raise unsupported(
                where + name, "this parameter is not supported here" + _except_for(neutral.get(name)) + hint
            )
    return kept


def taken_messages(messages: Any) -> Any:
    """Messages without what has no effect; anything but a list is left to the validation.

    Raises Refusal, naming the field, if a message requests something unsupported.
    """
    if not isinstance(messages, list):
        return messages
    expect_few(messages)
    taken = [
        _taken_message(message, f"messages.{index}.") if isinstance(message, dict) else message
        for index, message in enumerate(messages)
    ]
    for index, message in enumerate(taken):
        _expect_known_parts(message, f"messages.{index}.")
    return taken


def _taken_message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    if message.get("role") == "assistant":
        message = {name: value for name, value in message.items() if name not in _SAID_BESIDE_AN_ANSWER}
        if isinstance(details := message.get("reasoning_details"), list):
            message["reasoning_details"] = [detail for detail in details if _is_ours(detail)]
    return without_neutral(message, MessageIn.model_fields.keys(), _HAPPENS_ANYWAY, where)


def _is_ours(detail: Any) -> bool:
    """Whether a thought names the provider that made it, as our answers do. That of others is of no use to anybody."""
    return isinstance(detail, dict) and detail.get("type") == "reasoning.text" and isinstance(detail.get("format"), str)


_PARTS: Final = frozenset({"text", "refusal", "image_url", "input_audio", "file"})


def _expect_known_parts(message: Any, where: str) -> None:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and len(content) > MOST_PARTS:
        raise bad_request(
            f"{where}content: there are {len(content)} parts, and may be {MOST_PARTS}.", f"{where}content"
        )
    for place, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] not in _PARTS:
            raise unsupported(f"{where}content.{place}.type", f"parts are {', '.join(sorted(_PARTS))}")


def _with_floats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*values, *(float(value) for value in values if type(value) is int))


def _except_for(values: tuple[Any, ...] | None) -> str:
    return "" if not values else f", except as {' or '.join(str(value) for value in values)}"


def unsupported(param: str, why: str) -> Refusal:
    """400 for a parameter that cannot be honoured."""
    return bad_request(f"{param}: {why}.", param, "unsupported-parameter")
