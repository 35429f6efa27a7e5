"""How a request continues earlier turns."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts.content import text_of
from headrace_contracts.events import Message, MessagePart, PartKind, Privacy, TaskStatus

from headrace_intake.decide.choices import texts
from headrace_intake.decide.refusals import Refusal, bad_request
from headrace_intake.decide.responses.items import SpokenParts, joined, message_of, sealed_thoughts
from headrace_intake.decide.responses.output import (
    Item,
    answer_parts,
    call_item,
    message_item,
    output_items,
    output_refusal,
    output_text,
    reasoning_item,
)
from headrace_intake.decide.responses.request import Earlier, stricter
from headrace_intake.decide.responses.turns import KeptTurn, response_id
from headrace_intake.decide.views import TaskView

_ITEM_ID: Final = re.compile(r"(?:msg|fc|rs|fco)_([^\s]{1,200})_(?:in)?\d{1,5}")


@dataclass(frozen=True, slots=True)
class PastTurn:
    """A turn as the history has it.

    Attributes:
        turn_id: Id of its task, or of what was added to a conversation without one.
        view: The task; None if there is none.
        is_live: Whether it is certain that the task has not ended: the view alone may be behind.
    """

    turn_id: str
    kept: KeptTurn
    view: TaskView | None
    is_live: bool = False

    @property
    def answered(self) -> bool:
        """Whether it is a part of the conversation: what failed is none."""
        return self.view is None or self.view.status in (TaskStatus.SUCCEEDED, TaskStatus.REFUSED)

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.view is not None and not self.view.ended

    def messages(self) -> tuple[Message, ...]:
        """What was said in it."""
        if self.view is None:
            return self.kept.messages
        parts = tuple(part for part in answer_parts(self.view) if _is_said_again(part))
        return (*self.kept.messages, message_of(SpokenParts("assistant", parts))) if parts else self.kept.messages


def _is_said_again(part: MessagePart) -> bool:
    return part.kind in (PartKind.TEXT, PartKind.REFUSAL, PartKind.TOOL_CALL, PartKind.REASONING)


def earlier_of(turns: Sequence[PastTurn], previous_task_id: str | None) -> Earlier:
    """What was said in these turns, from the first to the last."""
    privacy: Privacy | None = None
    for turn in turns:
        if turn.view is not None and turn.view.privacy is not None:
            privacy = stricter(privacy, Privacy(turn.view.privacy))
    last = turns[-1].view if turns else None
    return Earlier(
        messages=joined(message for turn in turns if turn.answered for message in turn.messages()),
        previous_task_id=previous_task_id,
        privacy=privacy,
        session=None if last is None or previous_task_id is None else last.session,
    )


def expect_continuable(turns: Sequence[PastTurn], response: str) -> None:
    """Check the turns up to a response, from the first to the last. Raises Refusal."""
    if not turns:
        raise previous_not_found(response)
    if (missing := turns[0].kept.turn.previous_task_id) is not None:
        raise previous_not_found(response_id(missing))
    last = turns[-1]
    if last.open:
        raise bad_request(
            f"Previous response with id '{response}' is still in progress: wait until it is completed.",
            "previous_response_id",
            "response_in_progress",
        )
    if not last.answered:
        raise bad_request(
            f"Previous response with id '{response}' has no answer, so that it cannot be continued.",
            "previous_response_id",
            "previous_response_failed",
        )


def previous_not_found(response: str) -> Refusal:
    """400, as OpenAI answers."""
    return bad_request(
        f"Previous response with id '{response}' not found. Responses are kept for a limited time, and only if they "
        "were made with store set to true.",
        "previous_response_id",
        "previous_response_not_found",
    )


def response_not_found(response: str) -> Refusal:
    """404 for a response."""
    return Refusal(404, "response-not-found", f"Response with id '{response}' not found.", "response_id")


def expect_unlocked(turns: Sequence[PastTurn]) -> None:
    """Raises Refusal if a turn of the conversation has not ended."""
    if any(turn.open for turn in turns):
        raise bad_request(
            "Another process is currently operating on this conversation. Please retry in a few seconds.",
            "conversation",
            "conversation_locked",
        )


def task_of_item(item_id: str) -> str | None:
    """The turn that an item belongs to; None for an id that no item has."""
    match = _ITEM_ID.fullmatch(item_id)
    return None if match is None else match[1]


def said_by_id(turn: PastTurn) -> Mapping[str, SpokenParts]:
    """What the items of a turn say, by their ids."""
    found = dict(input_listing(turn))
    said = {item_id: said for item_id, (_, said) in found.items()}
    if turn.view is not None and turn.view.ended and turn.answered:
        said |= _answered(turn.view)
    return said


def _answered(view: TaskView) -> dict[str, SpokenParts]:
    parts = answer_parts(view)
    said: dict[str, SpokenParts] = {}
    calls = [part for part in parts if part.kind is PartKind.TOOL_CALL]
    for item in output_items(view):
        match item["type"]:
            case "function_call":
                chosen = tuple(part for part in calls if part.call_id == item["call_id"])
            case "reasoning":
                chosen = tuple(part for part in parts if part.kind is PartKind.REASONING)
            case _:
                chosen = tuple(part for part in parts if part.kind in (PartKind.TEXT, PartKind.REFUSAL))
        said[item["id"]] = SpokenParts("assistant", chosen)
    return said


def input_listing(turn: PastTurn) -> list[tuple[str, tuple[Item, SpokenParts]]]:
    """The input items of a turn in order: id, item, and what it says. Raises ContentSealed."""
    listed: list[tuple[str, tuple[Item, SpokenParts]]] = []
    for message in turn.kept.messages:
        parts = message.parts or (MessagePart(kind=PartKind.TEXT, content=message.content),)
        for kind, said in _split(message.role, parts):
            item_id = f"{kind}_{turn.turn_id}_in{len(listed)}"
            listed.append((item_id, ({**_item(kind, said), "id": item_id}, said)))
    return listed


def _split(role: str, parts: Sequence[MessagePart]) -> Iterable[tuple[str, SpokenParts]]:
    if role == "tool":
        yield "fco", SpokenParts(role, tuple(parts))
        return
    thoughts = tuple(part for part in parts if part.kind is PartKind.REASONING)
    said = tuple(part for part in parts if part.kind not in (PartKind.REASONING, PartKind.TOOL_CALL))
    if thoughts:
        yield "rs", SpokenParts(role, thoughts)
    if said:
        yield "msg", SpokenParts(role, said)
    for part in parts:
        if part.kind is PartKind.TOOL_CALL:
            yield "fc", SpokenParts(role, (part,))


def _item(kind: str, said: SpokenParts) -> Item:
    match kind:
        case "fco":
            first, *rest = said.parts
            output: Any = _text(first)
            if rest:
                output = [{"type": "input_text", "text": output}, *map(_input_part, rest)]
            return {
                "type": "function_call_output", "call_id": first.call_id, "output": output, "status": "completed",
            }  # fmt: skip
        case "rs":
            return reasoning_item("", 0, texts(said.parts, PartKind.REASONING), sealed_thoughts(said.parts))
        case "fc":
            part = said.parts[0]
            return call_item("", 0, part.call_id or "", part.name or "", _text(part) or "{}")
        case _ if said.role == "assistant":
            content = [
                output_refusal(_text(part)) if part.kind is PartKind.REFUSAL else output_text(_text(part))
                for part in said.parts
            ]
            return message_item("", 0, content)
        case _:
            content = [_input_part(part) for part in said.parts]
            return {"type": "message", "role": said.role, "status": "completed", "content": content}


def _input_part(part: MessagePart) -> Item:
    match part.kind:
        case PartKind.IMAGE:
            return {
                "type": "input_image",
                "image_url": _address(part),
                "file_id": None,
                "detail": part.detail or "auto",
            }
        case PartKind.FILE:
            name = None if part.filename is None else text_of(part.filename)
            where = "file_url" if part.content is None else "file_data"
            return {"type": "input_file", where: _address(part), "filename": name}
        case PartKind.AUDIO:
            return {"type": "input_text", "text": "(a recording)"}
        case _:
            return {"type": "input_text", "text": _text(part)}


def _address(part: MessagePart) -> str:
    if part.content is None:
        return "" if part.url is None else text_of(part.url)
    return data_url(part)


def data_url(part: MessagePart) -> str:
    """The bytes of a part as a data URL. Raises ContentSealed."""
    assert part.content is not None
    return f"data:{part.media_type};base64,{base64.b64encode(part.content.data).decode()}"


def _text(part: MessagePart) -> str:
    return "" if part.content is None else text_of(part.content)
