"""The content blocks of Anthropic's messages, as callers write them and as earlier answers come back in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from headrace_contracts.cargo import MEDIA_TYPE_PATTERN
from headrace_contracts.content import plain
from headrace_contracts.events import Content, Message, MessagePart, PartKind
from headrace_contracts.limits import LONGEST_NAME, MOST_PARTS, NAME_PATTERN
from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from headrace_intake.decide.anthropic.thoughts import inward
from headrace_intake.decide.message_counts import expect_few
from headrace_intake.decide.messages import CacheControl, ToolName, from_base64, unsupported
from headrace_intake.decide.refusals import bad_request

_Identifier = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=NAME_PATTERN)]
_Url = Annotated[str, StringConstraints(max_length=8_000, pattern=r"^https?://[^\s\x00-\x1f\x7f]+$")]
_MediaType = Annotated[str, StringConstraints(pattern=MEDIA_TYPE_PATTERN)]


class _StrictBlock(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Cacheable(_StrictBlock):
    cache_control: CacheControl | None = None

    @property
    def cache_seconds(self) -> int | None:
        return None if self.cache_control is None else self.cache_control.seconds


class TextBlock(_Cacheable):
    """Text."""

    type: Literal["text"]
    text: str

    def parts(self) -> Iterator[MessagePart]:
        yield MessagePart(kind=PartKind.TEXT, content=plain(self.text), cache_seconds=self.cache_seconds)


class BytesSource(_StrictBlock):
    """Bytes in base64."""

    type: Literal["base64"]
    media_type: _MediaType
    data: str


class UrlSource(_StrictBlock):
    """An address on the web."""

    type: Literal["url"]
    url: _Url


class TextSource(_StrictBlock):
    """A document that is a text."""

    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class ContentSource(_StrictBlock):
    """A document made of texts."""

    type: Literal["content"]
    content: str | list[TextBlock]


class ImageBlock(_Cacheable):
    """An image."""

    type: Literal["image"]
    source: Annotated[BytesSource | UrlSource, Field(discriminator="type")]

    def parts(self) -> Iterator[MessagePart]:
        match self.source:
            case UrlSource(url=url):
                yield MessagePart(kind=PartKind.IMAGE, url=plain(url), cache_seconds=self.cache_seconds)
            case BytesSource(media_type=media_type, data=data):
                if not media_type.startswith("image/"):
                    raise bad_request("messages: the media type of an image must be such as image/png.", "messages")
                content = Content(data=from_base64(data))
                yield MessagePart(
                    kind=PartKind.IMAGE, content=content, media_type=media_type, cache_seconds=self.cache_seconds
                )


class CitationsConfig(_StrictBlock):
    """Whether answers are to cite a document."""

    enabled: bool = False


class DocumentBlock(_Cacheable):
    """A document. One that is text becomes text, which every model reads."""

    type: Literal["document"]
    source: Annotated[BytesSource | UrlSource | TextSource | ContentSource, Field(discriminator="type")]
    title: Annotated[str, StringConstraints(max_length=LONGEST_NAME)] | None = None
    context: str | None = None
    citations: CitationsConfig | None = None

    def parts(self) -> Iterator[MessagePart]:
        if self.context:
            yield MessagePart(kind=PartKind.TEXT, content=plain(self.context))
        match self.source:
            case UrlSource(url=url):
                yield self._file(url=plain(url))
            case BytesSource(media_type=media_type, data=data):
                yield self._file(content=Content(data=from_base64(data)), media_type=media_type)
            case TextSource(data=text):
                yield self._text(text)
            case ContentSource(content=content):
                texts = [content] if isinstance(content, str) else [block.text for block in content]
                yield self._text("\n".join(texts))

    def _file(self, **where: Any) -> MessagePart:
        title = plain(self.title) if self.title else None
        return MessagePart(kind=PartKind.FILE, filename=title, cache_seconds=self.cache_seconds, **where)

    def _text(self, text: str) -> MessagePart:
        titled = f"{self.title}\n\n{text}" if self.title else text
        return MessagePart(kind=PartKind.TEXT, content=plain(titled), cache_seconds=self.cache_seconds)


class ToolUseBlock(_Cacheable):
    """A call that the model made in an earlier answer."""

    type: Literal["tool_use"]
    id: _Identifier
    name: ToolName
    input: dict[str, Any]

    def parts(self) -> Iterator[MessagePart]:
        arguments = plain(json.dumps(self.input, ensure_ascii=False))
        yield MessagePart(
            kind=PartKind.TOOL_CALL, call_id=self.id, name=self.name, content=arguments,
            cache_seconds=self.cache_seconds,
        )  # fmt: skip


_Returned = Annotated[TextBlock | ImageBlock | DocumentBlock, Field(discriminator="type")]


def _shape(content: object) -> str:
    return "blocks" if isinstance(content, list) else "text"


class ToolResultBlock(_Cacheable):
    """What a tool returned."""

    type: Literal["tool_result"]
    tool_use_id: _Identifier
    content: (
        Annotated[Annotated[str, Tag("text")] | Annotated[list[_Returned], Tag("blocks")], Discriminator(_shape)] | None
    ) = None
    is_error: bool = False

    def parts(self) -> Iterator[MessagePart]:
        content = self.content
        blocks = content if isinstance(content, list) else [TextBlock(type="text", text=content or "")]
        within = [part for block in blocks for part in block.parts()]
        texts = [_text(part) for part in within if part.kind is PartKind.TEXT]
        yield MessagePart(
            kind=PartKind.TOOL_RESULT, call_id=self.tool_use_id, content=plain("\n".join(texts)),
            is_error=self.is_error, cache_seconds=self.cache_seconds,
        )  # fmt: skip
        yield from (replace(part, call_id=self.tool_use_id) for part in within if part.kind is not PartKind.TEXT)


def _text(part: MessagePart) -> str:
    return "" if part.content is None else part.content.data.decode()


class ThinkingBlock(_StrictBlock):
    """What the model thought in an earlier answer; it goes back to whom its signature names, and to nobody else."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""

    def parts(self) -> Iterator[MessagePart]:
        provider, signature = inward(self.signature)
        yield MessagePart(
            kind=PartKind.REASONING, content=plain(self.thinking), provider=provider,
            signature=plain(signature) if signature else None,
        )  # fmt: skip


class RedactedThinkingBlock(_StrictBlock):
    """The same, in a form that only its provider reads."""

    type: Literal["redacted_thinking"]
    data: Annotated[str, StringConstraints(min_length=1)]

    def parts(self) -> Iterator[MessagePart]:
        provider, signature = inward(self.data)
        yield MessagePart(kind=PartKind.REASONING, provider=provider, signature=plain(signature))


Block = Annotated[
    TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock,
    Field(discriminator="type"),
]
_SAID_BY: Final[Mapping[str, frozenset[str]]] = {
    "user": frozenset({"text", "image", "document", "tool_result"}),
    "assistant": frozenset({"text", "tool_use", "thinking", "redacted_thinking"}),
    "system": frozenset({"text"}),
}
_IN_RESULTS: Final = frozenset({"text", "image", "document"})
_SAID_BESIDE: Final = frozenset({"citations", "caller", "parsed_output", "toolset_name"})
"""What answers tell in their blocks, or clients make of them, and send back: models do not receive it."""


class BlockMessage(_StrictBlock):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[Annotated[str, Tag("text")] | Annotated[list[Block], Tag("blocks")], Discriminator(_shape)]

    def events(self) -> Iterator[Message]:
        """The message as events hold it: what tools returned first, each in a message of its own."""
        if isinstance(self.content, str):
            yield Message(role=self.role, content=plain(self.content))
            return
        rest: list[MessagePart] = []
        for block in self.content:
            if isinstance(block, ToolResultBlock):
                yield Message(role="tool", content=plain(""), parts=tuple(block.parts()))
            else:
                rest += block.parts()
        if rest or not self.content:
            yield message_of(self.role, rest)


def message_of(role: str, parts: Sequence[MessagePart]) -> Message:
    """A message of parts; a single text without a mark is its content."""
    only = parts[0] if len(parts) == 1 else None
    if only is not None and only.content is not None and only == MessagePart(kind=PartKind.TEXT, content=only.content):
        return Message(role=role, content=only.content)
    return Message(role=role, content=plain(""), parts=tuple(parts))


def taken_messages(messages: Any) -> Any:
    """Messages without what is null or was only told beside them; what is no list is left to the validation.

    Raises Refusal, naming the block, for one that cannot be taken.
    """
    if not isinstance(messages, list):
        return messages
    expect_few(messages)
    return [
        {**message, "content": _taken_blocks(message.get("content"), _SAID_BY.get(message.get("role", ""), frozenset()),
                                             f"messages.{place}.content", message.get("role") == "assistant")}
        if isinstance(message, dict) and isinstance(message.get("role"), str | None) else message
        for place, message in enumerate(messages)
    ]  # fmt: skip


def taken_text_blocks(blocks: Any, where: str) -> Any:
    """The blocks of a system prompt, in the same way."""
    return _taken_blocks(blocks, _SAID_BY["system"], where, answered=False)


def _taken_blocks(blocks: Any, known: frozenset[str], where: str, answered: bool) -> Any:
    if not isinstance(blocks, list):
        return blocks
    if len(blocks) > MOST_PARTS:
        raise bad_request(f"{where}: there are {len(blocks)} blocks, and may be {MOST_PARTS}.", where)
    return [
        _taken_block(block, known, f"{where}.{place}", answered) if isinstance(block, dict) else block
        for place, block in enumerate(blocks)
    ]


def _taken_block(block: Mapping[str, Any], known: frozenset[str], where: str, answered: bool) -> dict[str, Any]:
    kind = block.get("type")
    if known and isinstance(kind, str) and kind not in known:
        raise unsupported(f"{where}.type", f"blocks here are {', '.join(sorted(known))}")
    kept = {
        name: value for name, value in block.items()
        if value is not None and not (answered and name in _SAID_BESIDE)
    }  # fmt: skip
    source = kept.get("source")
    if isinstance(source, dict):
        if source.get("type") == "file":
            raise unsupported(f"{where}.source.type", "files of Anthropic's Files API are not here: send the bytes")
        kept["source"] = {name: value for name, value in source.items() if value is not None}
    citations = kept.get("citations")
    if kind == "document" and isinstance(citations, dict) and citations.get("enabled") is True:
        raise unsupported(f"{where}.citations.enabled", "models are not asked for citations here")
    if kind == "text" and citations == []:
        del kept["citations"]
    if kind == "tool_result":
        kept["content"] = _taken_blocks(kept.get("content"), _IN_RESULTS, f"{where}.content", answered=False)
    return kept
