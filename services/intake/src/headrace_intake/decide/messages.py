"""The messages of a conversation, as callers write them and as earlier answers come back in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

from headrace_intake.decide.refusals import Refusal, bad_request

_HAPPENS_ANYWAY: Final[Mapping[str, tuple[Any, ...]]] = {"tool_calls": ([],), "annotations": ([],)}
_SAID_BESIDE_AN_ANSWER: Final = frozenset({"annotations", "reasoning", "reasoning_content", "reasoning_details"})
"""What servers tell with an answer, and clients send back with it. It is not part of what was said: models do not
receive it."""


class TextPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"]
    text: str


class RefusalPart(BaseModel):
    """A part of an assistant's message in which it declined to answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


Part = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


def _shape(content: object) -> str:
    return "parts" if isinstance(content, list) else "text"


Content = Annotated[Annotated[str, Tag("text")] | Annotated[list[Part], Tag("parts")], Discriminator(_shape)]


class MessageIn(BaseModel):
    """One message of the conversation. An assistant's is taken in every form in which an answer is given out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Content | None, Field(validate_default=True)] = None
    refusal: str | None = None

    @field_validator("content")
    @classmethod
    def _somebody_says_something(cls, content: str | list[Part] | None, info: ValidationInfo) -> object:
        if info.data.get("role") != "assistant":
            if content is None:
                raise ValueError("must be a text or a list of text parts")
            if isinstance(content, list) and any(isinstance(part, RefusalPart) for part in content):
                raise ValueError("only an assistant's message can hold a refusal")
        return content

    @field_validator("refusal")
    @classmethod
    def _only_assistants_refuse(cls, refusal: str | None, info: ValidationInfo) -> object:
        if refusal is not None and info.data.get("role") != "assistant":
            raise ValueError("only an assistant's message can hold a refusal")
        return refusal

    def text(self) -> str:
        """All that was said as one text, with one part per line."""
        said = self.content or ""
        if not isinstance(said, str):
            said = "\n".join(part.text for part in said)
        # Of a stream that turned into a refusal, `content` is the beginning and `refusal` the rest.
        return said + (self.refusal or "")

    def speaker(self) -> str:
        """The role in the events' terms."""
        return "system" if self.role == "developer" else self.role


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
            raise unsupported(where + name, "this parameter is not supported here" + _except_for(neutral.get(name)))
    return kept


def taken_messages(messages: Any) -> Any:
    """Messages without what has no effect; anything but a list is left to the validation.

    Raises Refusal, naming the field, if a message requests something unsupported.
    """
    if not isinstance(messages, list):
        return messages
    taken = [
        _taken_message(message, f"messages.{index}.") if isinstance(message, dict) else message
        for index, message in enumerate(messages)
    ]
    for index, message in enumerate(taken):
        _expect_text(message, f"messages.{index}.")
    return taken


def _taken_message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    if message.get("role") == "assistant":
        message = {name: value for name, value in message.items() if name not in _SAID_BESIDE_AN_ANSWER}
    return without_neutral(message, MessageIn.model_fields.keys(), _HAPPENS_ANYWAY, where)


def _expect_text(message: Any, where: str) -> None:
    content = message.get("content") if isinstance(message, dict) else None
    for place, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict) and part.get("type") not in ("text", "refusal", None):
            raise unsupported(f"{where}content.{place}.type", "only text parts are supported here")


def _with_floats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*values, *(float(value) for value in values if type(value) is int))


def _except_for(values: tuple[Any, ...] | None) -> str:
    return "" if not values else f", except as {' or '.join(str(value) for value in values)}"


def unsupported(param: str, why: str) -> Refusal:
    """400 for a parameter that cannot be honoured."""
    return bad_request(f"{param}: {why}.", param, "unsupported-parameter")
