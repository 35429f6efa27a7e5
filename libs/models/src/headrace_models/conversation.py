"""What is said to a model and by it: messages, and the parts they are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]

MediaKind = Literal["image", "audio", "file"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text.

    Attributes:
        cache_seconds: Mark: the provider may keep the prompt up to here in its cache for so long.
    """

    text: str = field(repr=False)
    cache_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPart:
    """An image, a recording or a file, with its bytes or its address.

    Attributes:
        media_type: Such as image/png; empty if only its address is known.
        data: Its bytes; None if there is an address instead.
        call_id: The tool call that it is a result of; empty if it is none.
    """

    kind: MediaKind
    media_type: str = ""
    data: bytes | None = field(default=None, repr=False)
    url: str = field(default="", repr=False)
    filename: str = field(default="", repr=False)
    detail: str | None = None
    call_id: str = ""
    cache_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """The model calls a tool. `arguments` is the JSON text that it wrote."""

    call_id: str
    name: str
    arguments: str = field(repr=False)
    cache_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """What a tool returned."""

    call_id: str
    text: str = field(repr=False)
    is_error: bool = False
    cache_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class RefusalPart:
    """The model declined to answer, in these words."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """What a model thought before it answered.

    Attributes:
        signature: What its provider signed it with, or all of it in a form that only the provider reads. It is given
            back to that provider unchanged, and to no other.
        sealed: Whether the signature is all of it. Where it is not, the provider may have left out the text.
    """

    text: str = field(repr=False)
    provider: str = ""
    signature: str = field(default="", repr=False)
    sealed: bool = False


Part = TextPart | MediaPart | ToolCallPart | ToolResultPart | RefusalPart | ReasoningPart


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation: a text, or parts."""

    role: Role
    said: str = field(default="", repr=False)
    parts: tuple[Part, ...] = field(default=(), repr=False)
    name: str = ""

    @property
    def text(self) -> str:
        """All texts in it, those of tools included."""
        if not self.parts:
            return self.said
        return "".join(part.text for part in self.parts if isinstance(part, TextPart | ToolResultPart | RefusalPart))

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """Its parts; a text is one part."""
        return self.parts or (TextPart(self.said),)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may call. `parameters` is a JSON Schema, empty for a tool without arguments."""

    name: str
    description: str = field(default="", repr=False)
    parameters: dict[str, object] = field(default_factory=dict, repr=False)
    strict: bool | None = None
    cache_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class ToolSelection:
    """Whether the model calls tools, and which: `names` restricts them, empty for all."""

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """The JSON Schema that an answer must fit. With `strict`, an answer that does not fit is no answer."""

    schema: dict[str, object] = field(repr=False)
    name: str = "answer"
    description: str = field(default="", repr=False)
    strict: bool = False
