"""Input items of the Responses API as the messages of a task."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from headrace_contracts.cargo import is_json_object
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import Content, Message, MessagePart, PartKind
from headrace_contracts.limits import LONGEST_NAME, MOST_PARTS, NAME_PATTERN, matches
from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from headrace_intake.decide.message_counts import expect_few
from headrace_intake.decide.messages import InputAudio, ToolName, decoded, from_base64, unsupported
from headrace_intake.decide.refusals import bad_request

_Identifier = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=NAME_PATTERN)]
_SOUNDS: Final[Mapping[str, str]] = {"mp3": "audio/mpeg", "wav": "audio/wav"}
_SAID_BESIDE: Final = frozenset({
    "status", "phase", "created_by", "annotations", "logprobs", "parsed", "parsed_arguments", "namespace", "caller",
    "async", "async_", "prompt_cache_breakpoint", "provider_data",
})  # fmt: skip
"""What an answer tells about an item, or clients make of it, and send back with it. Models do not receive it."""


class _StrictItem(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputTextPart(_StrictItem):
    """Text, of a person or of an earlier answer."""

    type: Literal["input_text", "output_text", "text"]
    text: str

    def event(self) -> MessagePart:
        return MessagePart(kind=PartKind.TEXT, content=plain(self.text))


class InputRefusalPart(_StrictItem):
    """What an earlier answer said in place of an answer."""

    type: Literal["refusal"]
    refusal: str

    def event(self) -> MessagePart:
        return MessagePart(kind=PartKind.REFUSAL, content=plain(self.refusal))


class InputImagePart(_StrictItem):
    """An image: a data URL, or an address."""

    type: Literal["input_image"]
    image_url: Annotated[str, StringConstraints(min_length=1)] | None = None
    file_id: str | None = None
    detail: Literal["low", "high", "auto", "original"] | None = None

    def event(self) -> MessagePart:
        if self.file_id is not None or self.image_url is None:
            raise unsupported("input.file_id", "an image must be given as image_url, which may be a data URL")
        detail = None if self.detail == "original" else self.detail
        if not self.image_url.startswith("data:"):
            return MessagePart(kind=PartKind.IMAGE, url=plain(self.image_url), detail=detail)
        media_type, data = decoded(self.image_url)
        return MessagePart(kind=PartKind.IMAGE, content=Content(data=data), media_type=media_type, detail=detail)


class InputFilePart(_StrictItem):
    """A file: its bytes, or an address."""

    type: Literal["input_file"]
    file_data: str | None = None
    file_url: Annotated[str, StringConstraints(min_length=1)] | None = None
    file_id: str | None = None
    filename: Annotated[str, StringConstraints(max_length=LONGEST_NAME, pattern=NAME_PATTERN)] | None = None
    detail: Literal["auto", "low", "high"] | None = None

    def event(self) -> MessagePart:
        if self.file_id is not None or (self.file_data is None) == (self.file_url is None):
            raise unsupported("input.file_id", "a file must be given as file_data or as file_url")
        name = None if self.filename is None else plain(self.filename)
        if self.file_data is None:
            return MessagePart(kind=PartKind.FILE, url=plain(self.file_url or ""), filename=name)
        if self.file_data.startswith("data:"):
            media_type, data = decoded(self.file_data)
        else:
            media_type, data = "application/pdf", from_base64(self.file_data)
        return MessagePart(kind=PartKind.FILE, content=Content(data=data), media_type=media_type, filename=name)


class InputAudioPart(_StrictItem):
    """A recording in base64."""

    type: Literal["input_audio"]
    input_audio: InputAudio

    def event(self) -> MessagePart:
        data = from_base64(self.input_audio.data)
        return MessagePart(kind=PartKind.AUDIO, content=Content(data=data), media_type=_SOUNDS[self.input_audio.format])


_InputPart = Annotated[
    InputTextPart | InputRefusalPart | InputImagePart | InputFilePart | InputAudioPart, Field(discriminator="type")
]
_Parts = Annotated[list[_InputPart], Field(max_length=MOST_PARTS)]


def _shape(content: object) -> str:
    return "parts" if isinstance(content, list) else "text"


_Content = Annotated[Annotated[str, Tag("text")] | Annotated[_Parts, Tag("parts")], Discriminator(_shape)]
_KINDS_OF: Final[Mapping[str, tuple[type[BaseModel], ...]]] = {
    "system": (InputTextPart,),
    "developer": (InputTextPart,),
    "user": (InputTextPart, InputImagePart, InputFilePart, InputAudioPart),
    "assistant": (InputTextPart, InputRefusalPart),
}


class MessageItem(_StrictItem):
    """A message. `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: _Content
    id: str | None = None

    def parts(self, place: int) -> list[MessagePart]:
        """What it says. Raises Refusal."""
        if isinstance(self.content, str):
            return [MessagePart(kind=PartKind.TEXT, content=plain(self.content))]
        for number, part in enumerate(self.content):
            if not isinstance(part, _KINDS_OF[self.role]):
                where = f"input.{place}.content.{number}.type"
                raise bad_request(f"{where}: a message of role {self.role} cannot hold {part.type}.", where)
        return [part.event() for part in self.content]


class FunctionCallItem(_StrictItem):
    """A call that the model made in an earlier answer."""

    type: Literal["function_call"]
    call_id: _Identifier
    name: ToolName
    arguments: str = "{}"
    id: str | None = None


class FunctionCallOutputItem(_StrictItem):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: _Identifier
    output: _Content
    id: str | None = None
    name: str | None = None


class ReasoningText(_StrictItem):
    """A piece of what a model thought."""

    type: Literal["summary_text", "reasoning_text", "text"]
    text: str


class ReasoningItem(_StrictItem):
    """What a model thought. It goes back to the provider that made it, if the item says which one that was."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ReasoningText] = Field(default_factory=list)
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None


class ItemReference(_StrictItem):
    """An item of an earlier response, by its id."""

    type: Literal["item_reference"] = "item_reference"
    id: Annotated[str, StringConstraints(min_length=1, max_length=300)]


InputItem = MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem | ItemReference
_CLASSES: Final[Mapping[str, type[InputItem]]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionCallOutputItem,
    "reasoning": ReasoningItem,
    "item_reference": ItemReference,
}
Parse = Callable[[Any, type[BaseModel], str], BaseModel]


@dataclass(frozen=True, slots=True)
class SpokenParts:
    """Parts of one speaker that follow each other."""

    role: str
    parts: tuple[MessagePart, ...]


def input_items(given: Any, parse: Parse) -> list[InputItem]:
    """The items of `input`: a text, or a list of items.

    Args:
        parse: Validates a document as a model, and raises an error that names the field below the given place.

    Raises Refusal for items of types that only OpenAI's own tools make, and what `parse` raises.
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [MessageItem(role="user", content=given)]
    if not isinstance(given, list):
        raise bad_request("input: it must be a text or a list of items.", "input")
    expect_few(given, "input", "items")
    items: list[InputItem] = []
    for place, document in enumerate(given):
        where = f"input.{place}"
        if not isinstance(document, Mapping):
            raise bad_request(f"{where}: an item must be an object.", where)
        kind = document.get("type") or ("message" if "role" in document else "item_reference")
        if not isinstance(kind, str) or kind not in _CLASSES:
            raise unsupported(f"{where}.type", f"there are items of type {', '.join(sorted(_CLASSES))}")
        item = parse(_taken(document), _CLASSES[kind], where)
        assert isinstance(item, InputItem)
        items.append(item)
    return items


def _taken(document: Mapping[str, Any]) -> dict[str, Any]:
    """The item without what is null, and without what was told beside it."""
    kept = {name: value for name, value in document.items() if value is not None and name not in _SAID_BESIDE}
    for name in ("content", "output", "summary"):
        if isinstance(parts := kept.get(name), list):
            kept[name] = [_taken(part) if isinstance(part, Mapping) else part for part in parts]
    return kept


def references(items: Iterable[InputItem]) -> list[str]:
    """The ids of earlier items that these refer to."""
    return [item.id for item in items if isinstance(item, ItemReference)]


def messages_of(items: Sequence[InputItem], referred: Mapping[str, SpokenParts]) -> tuple[Message, ...]:
    """The messages: what an answer gave as several items is one message again.

    Args:
        referred: What the references stand for.

    Raises Refusal.
    """
    said = [each for place, item in enumerate(items) for each in _said(item, place, referred)]
    return tuple(message_of(each) for each in _joined(said))


def _said(item: InputItem, place: int, referred: Mapping[str, SpokenParts]) -> list[SpokenParts]:
    match item:
        case MessageItem():
            role = "system" if item.role == "developer" else item.role
            return [SpokenParts(role, tuple(item.parts(place)))]
        case FunctionCallItem():
            arguments = item.arguments or "{}"
            if not is_json_object(arguments):
                where = f"input.{place}.arguments"
                raise bad_request(f"{where}: the arguments of a call must be a JSON object.", where)
            part = MessagePart(kind=PartKind.TOOL_CALL, call_id=item.call_id, name=item.name, content=plain(arguments))
            return [SpokenParts("assistant", (part,))]
        case FunctionCallOutputItem():
            return [SpokenParts("tool", tuple(_returned(item, place)))]
        case ReasoningItem():
            return [SpokenParts("assistant", thoughts)] if (thoughts := _thoughts(item)) else []
        case ItemReference():
            if item.id not in referred:
                where = f"input.{place}.id"
                raise bad_request(
                    f"Item with id '{item.id}' not found. Items are kept with their response: for 30 days, unless it "
                    "was made with store set to false.",
                    where,
                    "item_not_found",
                )
            return [referred[item.id]]


def _returned(item: FunctionCallOutputItem, place: int) -> Iterable[MessagePart]:
    """The text that a tool returned, and what came with it."""
    parts = [] if isinstance(item.output, str) else item.output
    texts = [item.output] if isinstance(item.output, str) else [p.text for p in parts if isinstance(p, InputTextPart)]
    yield MessagePart(kind=PartKind.TOOL_RESULT, call_id=item.call_id, content=plain("".join(texts)))
    for number, part in enumerate(parts):
        match part:
            case InputImagePart() | InputFilePart():
                made = part.event()
                yield MessagePart(
                    kind=made.kind, content=made.content, url=made.url, media_type=made.media_type,
                    filename=made.filename, detail=made.detail, call_id=item.call_id,
                )  # fmt: skip
            case InputTextPart():
                continue
            case _:
                where = f"input.{place}.output.{number}.type"
                raise bad_request(f"{where}: the output of a function cannot hold {part.type}.", where)


def _joined(said: Iterable[SpokenParts]) -> Iterable[SpokenParts]:
    """What an assistant said without interruption, as one: first its thoughts, and the calls last, as models expect."""
    answer: list[MessagePart] = []
    for each in said:
        if each.role == "assistant":
            answer += each.parts
            continue
        if answer:
            yield _answered(answer)
            answer = []
        yield each
    if answer:
        yield _answered(answer)


def _answered(parts: Sequence[MessagePart]) -> SpokenParts:
    order = {PartKind.REASONING: 0, PartKind.TOOL_CALL: 2}
    return SpokenParts("assistant", tuple(sorted(parts, key=lambda part: order.get(part.kind, 1))))


def message_of(said: SpokenParts) -> Message:
    """The message as the event holds it: a single text as its content, anything else as parts."""
    only = said.parts[0] if len(said.parts) == 1 else None
    if only is not None and only == MessagePart(kind=PartKind.TEXT, content=only.content):
        return Message(role=said.role, content=only.content or plain(""))
    return Message(role=said.role, content=plain(""), parts=said.parts)


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Messages in which an assistant's that follow each other are one: items of a conversation are kept one by one."""
    said = [
        SpokenParts(each.role, each.parts or (MessagePart(kind=PartKind.TEXT, content=each.content),))
        for each in messages
    ]
    return tuple(map(message_of, _joined(said)))


def sealed_thoughts(parts: Iterable[MessagePart]) -> str | None:
    """What providers need to continue their thoughts, as `encrypted_content`; None if they need nothing.

    It is not encrypted: it holds what the answer shows, and signatures. Raises ContentSealed.
    """
    thoughts = [
        [part.provider, _text(part.content), None if part.signature is None else text_of(part.signature)]
        for part in parts
        if part.provider is not None
    ]
    if not thoughts:
        return None
    return base64.urlsafe_b64encode(json.dumps(thoughts, ensure_ascii=False).encode()).decode()


def _thoughts(item: ReasoningItem) -> tuple[MessagePart, ...]:
    """The thoughts that an item of ours holds. Those of others are of no use to any provider here."""
    if item.encrypted_content is None:
        return ()
    try:
        thoughts = json.loads(base64.urlsafe_b64decode(item.encrypted_content))
    except (binascii.Error, ValueError, RecursionError):
        return ()
    found = []
    for thought in thoughts if isinstance(thoughts, list) else ():
        match thought:
            case [str(provider), str(text), str() | None as signature] if matches(
                NAME_PATTERN, provider[:LONGEST_NAME]
            ):
                sealed = None if signature is None else plain(signature)
                found.append(
                    MessagePart(
                        kind=PartKind.REASONING, content=plain(text), provider=provider[:LONGEST_NAME], signature=sealed
                    )
                )
            case _:
                return ()
    return tuple(found)


def _text(content: Content | None) -> str:
    return "" if content is None else text_of(content)
