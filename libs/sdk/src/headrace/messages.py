"""What is said in a conversation: messages of one or several parts, as tasks take them and answers hold them.

    Message.user("What is wrong here?", Image.from_file("screenshot.png"))

Over HTTP they are written as OpenAI's chat API writes them (`headrace.message_documents`).
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, Self

Role = Literal["system", "developer", "user", "assistant", "tool"]
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"),
)  # fmt: skip
SOUNDS: Final = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
"""Media types of recordings, and what OpenAI calls them."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text.

    Attributes:
        cache_seconds: Mark: the provider may keep the prompt up to here in its cache for 300 or 3600 seconds.
    """

    text: str
    cache_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its bytes, or an address on the web, which only public tasks may name.

    Attributes:
        detail: How closely to look at it: auto, low or high.
    """

    data: bytes = field(default=b"", repr=False)
    media_type: str = ""
    url: str | None = None
    detail: str | None = None

    @classmethod
    def from_bytes(cls, data: bytes, media_type: str | None = None, *, detail: str | None = None) -> Self:
        """An image in memory. Raises ValueError if it is empty, or no media type is given and it shows none."""
        found = media_type or _media_type_in(data)
        if not data:
            raise ValueError("the image is empty")
        if found is None:
            raise ValueError("name the image's media type, such as image/png: its bytes do not tell")
        return cls(data, found, detail=detail)

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, detail: str | None = None) -> Self:
        """An image in a file. Raises OSError, and ValueError for what is no image."""
        data, guessed = _read(path)
        found = _media_type_in(data) or guessed
        if found is None or not found.startswith("image/"):
            raise ValueError(f"{path} is not an image of a kind that is known here: give its bytes and media type")
        return cls(data, found, detail=detail)

    @classmethod
    def at(cls, url: str, *, detail: str | None = None) -> Self:
        """An image on the web, which the provider fetches. Raises ValueError for what is no http or https URL."""
        if not url.startswith(("http://", "https://")):
            raise ValueError("an image's address must start with http:// or https://")
        return cls(url=url, detail=detail)


@dataclass(frozen=True, slots=True)
class Audio:
    """A recording, as WAV or MP3."""

    data: bytes = field(repr=False)
    media_type: str = "audio/wav"

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Self:
        """Raises OSError, and ValueError for what is neither WAV nor MP3."""
        data, found = _read(path)
        if found not in SOUNDS:
            raise ValueError(f"{path} is neither a WAV nor an MP3 file")
        return cls(data, str(found))


@dataclass(frozen=True, slots=True)
class File:
    """A file, such as a PDF."""

    data: bytes = field(repr=False)
    media_type: str
    filename: str | None = None

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Self:
        """Raises OSError, and ValueError if the name does not tell the media type."""
        data, found = _read(path)
        if found is None:
            raise ValueError(f"the name of {path} does not tell its media type: give its bytes and media type")
        return cls(data, found, Path(path).name)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model makes. `arguments` is a JSON object, as text."""

    id: str
    name: str
    arguments: str = "{}"

    @property
    def parsed(self) -> dict[str, Any]:
        """The arguments. Raises ValueError if they are no JSON object."""
        found = json.loads(self.arguments or "{}")
        if not isinstance(found, dict):
            raise ValueError("the arguments are not a JSON object")
        return found


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned for the call of that id; with `is_error`, why it could not."""

    call_id: str
    text: str = ""
    is_error: bool = False
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What a model thought. Give it back as it came: it goes to the provider that made it, and to no other."""

    text: str
    provider: str | None = None
    signature: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RefusalText:
    """That, and why, the model declined to answer."""

    text: str


Part = Text | Image | Audio | File | ToolCall | ToolResult | Reasoning | RefusalText
_SAID_BY: Final[Mapping[str, tuple[type, ...]]] = {
    "system": (Text,),
    "developer": (Text,),
    "user": (Text, Image, Audio, File),
    "assistant": (Text, ToolCall, Reasoning, RefusalText),
    "tool": (ToolResult,),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. Raises ValueError for a part that this role cannot say."""

    role: Role
    parts: tuple[Part, ...] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        if self.role not in _ROLES:
            raise ValueError(f"a message has one of the roles {', '.join(sorted(_ROLES))}")
        for part in self.parts:
            if not isinstance(part, _SAID_BY[self.role]):
                raise ValueError(f"a message of role {self.role} cannot hold a part of type {type(part).__name__}")
        if self.role == "tool" and len(self.parts) != 1:
            raise ValueError("a tool's message holds one result")

    @classmethod
    def user(cls, *parts: str | Part, name: str | None = None) -> Self:
        """What a user says: texts, images, recordings and files."""
        return cls("user", _parts(parts), name)

    @classmethod
    def system(cls, text: str) -> Self:
        """What the model is to be and to do."""
        return cls("system", (Text(text),))

    @classmethod
    def assistant(cls, *parts: str | Part) -> Self:
        """What a model said before."""
        return cls("assistant", _parts(parts))

    @classmethod
    def tool(cls, result: ToolResult) -> Self:
        """What a tool returned."""
        return cls("tool", (result,))

    @property
    def text(self) -> str:
        """All its text, without reasoning, refusals and results of tools."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that it makes, in order."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def reasoning(self) -> str:
        """What the model thought, as far as its provider shows it."""
        return "".join(part.text for part in self.parts if isinstance(part, Reasoning))

    @property
    def refusal(self) -> str | None:
        """Why the model declined to answer; None if it did not."""
        found = [part.text for part in self.parts if isinstance(part, RefusalText)]
        return "".join(found) if found else None


Prompt = str | Message | Sequence[str | Part | Message | Mapping[str, Any]]
"""A user's message as a text; or a conversation of messages, or of objects as OpenAI's chat API has them. Texts and
parts in a sequence that follow one another are one user's message: `["What is this?", Image.from_file("a.png")]`."""


def conversation_of(prompt: Prompt) -> list[Message | Mapping[str, Any]]:
    """The messages of a prompt. Raises ValueError if there are none, or what is in it is none."""
    if isinstance(prompt, str | Message):
        return [prompt if isinstance(prompt, Message) else Message.user(prompt)]
    found: list[Message | Mapping[str, Any]] = []
    said: list[str | Part] = []
    for item in prompt:
        match item:
            case Message() | Mapping():
                if said:
                    found.append(Message.user(*said))
                    said = []
                if not isinstance(item, Message) and not isinstance(item.get("role"), str):
                    raise ValueError('a message has a role and a content: {"role": "user", "content": "…"}')
                found.append(item)
            case _:
                said.append(item)
    if said:
        found.append(Message.user(*said))
    if not found:
        raise ValueError("a task needs at least one message")
    return found


def _parts(parts: Sequence[str | Part]) -> tuple[Part, ...]:
    return tuple(Text(part) if isinstance(part, str) else part for part in parts)


def _read(path: str | PathLike[str]) -> tuple[bytes, str | None]:
    data = Path(path).read_bytes()
    if not data:
        raise ValueError(f"{path} is empty")
    return data, mimetypes.guess_type(str(path))[0]


def _media_type_in(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _MAGIC if data.startswith(magic)), None)
