"""The events of a streamed response, in OpenAI's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headrace_contracts.content import ContentSealed
from headrace_contracts.events import PartKind

from headrace_intake.decide.chat_answers import ChatError, Sent, answer_sealed, broken_off, error_of
from headrace_intake.decide.replies import HeardPiece
from headrace_intake.decide.responses.items import sealed_thoughts
from headrace_intake.decide.responses.output import (
    IN_PROGRESS,
    QUEUED,
    Item,
    answer_parts,
    call_item,
    item_id,
    message_item,
    output_items,
    output_refusal,
    output_text,
    reasoning_item,
    response,
    status_of,
)
from headrace_intake.decide.responses.turns import KeptTurn
from headrace_intake.decide.views import ACCEPTED, TaskView

Event = dict[str, Any]
_ITEM_OF = {
    PartKind.REASONING: "reasoning",
    PartKind.TOOL_CALL: "function_call",
    PartKind.TEXT: "message",
    PartKind.REFUSAL: "message",
}


@dataclass(slots=True)
class _OpenItem:
    """An item of which something has been sent.

    Attributes:
        part: Number of the call within the answer; 0 for other items.
        texts: What was sent of each content part; of a call, its arguments.
    """

    kind: str
    number: int
    index: int
    part: int
    call_id: str = ""
    name: str = ""
    texts: dict[PartKind, str] = field(default_factory=dict)
    closed: bool = False


class ResponseEvents:
    """Makes the events of one stream.

    An item is done when the next one begins, but calls only when the whole answer is known: an attempt that breaks off,
    and another that then answers otherwise, must never look like a call to be made.
    """

    def __init__(self, kept: KeptTurn, view: TaskView) -> None:
        self._kept = kept
        # Whoever follows a response again gets the same events, also after its end.
        self._view = replace(view, status=ACCEPTED)
        self._task_id = view.task_id
        self._sequence = 0
        self._items: list[_OpenItem] = []
        self.sent = Sent()

    def opening(self) -> list[Event]:
        """The first events."""
        first = QUEUED if self._kept.turn.background else IN_PROGRESS
        events = [self._event("response.created", response=response(self._kept, self._view, status=first))]
        if self._kept.turn.background:
            events.append(self._event("response.queued", response=response(self._kept, self._view, status=QUEUED)))
        return [*events, self._event("response.in_progress", response=response(self._kept, self._view))]

    def piece(self, piece: HeardPiece) -> list[Event]:
        """The events for the next piece of an answer."""
        if piece.choice != 0 or piece.kind not in _ITEM_OF:
            return []
        opens = piece.kind is PartKind.TOOL_CALL and not self._has_call(piece.part)
        if not piece.text and not opens:
            return []
        self.sent.add(piece)
        return list(self._piece(piece))

    def _has_call(self, part: int) -> bool:
        return any(item.kind == "function_call" and item.part == part for item in self._items)

    def _piece(self, piece: HeardPiece) -> Iterator[Event]:
        kind = _ITEM_OF[piece.kind]
        part = piece.part if kind == "function_call" else 0
        item = next((one for one in self._items if (one.kind, one.part) == (kind, part) and not one.closed), None)
        if item is None:
            for other in self._items:
                if other.kind != "function_call" and not other.closed:
                    yield from self._close(other, self._as_item(other))
            number = piece.part if kind == "function_call" else sum(one.kind == kind for one in self._items)
            item = _OpenItem(kind, number, len(self._items), part, piece.call_id or "", piece.name or "")
            self._items.append(item)
            added = {**self._as_item(item), "status": "in_progress"}
            yield self._event("response.output_item.added", output_index=item.index, item=added)
        if piece.kind not in item.texts:
            item.texts[piece.kind] = ""
            yield from self._part_added(item, piece.kind)
        if piece.text:
            item.texts[piece.kind] += piece.text
            yield self._delta(item, piece.kind, piece.text)

    def _part_added(self, item: _OpenItem, kind: PartKind) -> Iterator[Event]:
        if kind is PartKind.REASONING:
            yield self._of_item("response.reasoning_summary_part.added", item, summary_index=0, part=_summary_part(""))
        elif kind is not PartKind.TOOL_CALL:
            yield self._of_item(
                "response.content_part.added", item, content_index=len(item.texts) - 1, part=_content_part(kind, "")
            )

    def _delta(self, item: _OpenItem, kind: PartKind, text: str) -> Event:
        place = list(item.texts).index(kind)
        match kind:
            case PartKind.REASONING:
                return self._of_item("response.reasoning_summary_text.delta", item, summary_index=0, delta=text)
            case PartKind.TOOL_CALL:
                return self._of_item("response.function_call_arguments.delta", item, delta=text)
            case PartKind.REFUSAL:
                return self._of_item("response.refusal.delta", item, content_index=place, delta=text)
            case _:
                return self._of_item("response.output_text.delta", item, content_index=place, delta=text, logprobs=[])

    def _close(self, item: _OpenItem, whole: Item) -> Iterator[Event]:
        item.closed = True
        for place, (kind, text) in enumerate(item.texts.items()):
            match kind:
                case PartKind.REASONING:
                    yield self._of_item("response.reasoning_summary_text.done", item, summary_index=0, text=text)
                    yield self._of_item(
                        "response.reasoning_summary_part.done", item, summary_index=0, part=_summary_part(text)
                    )
                case PartKind.TOOL_CALL:
                    yield self._of_item("response.function_call_arguments.done", item, name=item.name, arguments=text)
                case _:
                    yield from self._content_done(item, place, kind, text, whole["content"][place])
        yield self._event("response.output_item.done", output_index=item.index, item=whole)

    def _content_done(self, item: _OpenItem, place: int, kind: PartKind, text: str, part: Item) -> Iterator[Event]:
        if kind is PartKind.REFUSAL:
            yield self._of_item("response.refusal.done", item, content_index=place, refusal=text)
        else:
            for number, annotation in enumerate(part["annotations"]):
                yield self._of_item(
                    "response.output_text.annotation.added", item, content_index=place, annotation_index=number,
                    annotation=annotation,
                )  # fmt: skip
            yield self._of_item(
                "response.output_text.done", item, content_index=place, text=text, logprobs=part["logprobs"]
            )
        yield self._of_item("response.content_part.done", item, content_index=place, part=part)

    def _as_item(self, item: _OpenItem) -> Item:
        """The item as far as it was sent."""
        match item.kind:
            case "reasoning":
                return reasoning_item(self._task_id, item.number, item.texts.get(PartKind.REASONING, ""), None)
            case "function_call":
                arguments = item.texts.get(PartKind.TOOL_CALL, "")
                return call_item(self._task_id, item.number, item.call_id, item.name, arguments)
            case _:
                content = [_content_part(kind, text) for kind, text in item.texts.items()]
                return message_item(self._task_id, item.number, content)

    def ending(self, end: TaskView) -> list[Event]:
        """The last events."""
        try:
            if error_of(end) is not None:
                return [self._event("response.failed", response=response(self._kept, end))]
            rest = self.sent.missing(end)
            whole = output_items(end)
            if rest is None or not self._same_calls(whole):
                return [self.failure(broken_off(self._task_id))]
            return [*(event for piece in rest for event in self.piece(piece)), *self._whole(end, whole)]
        except ContentSealed as sealed:
            return [self.failure(answer_sealed(sealed))]

    def _same_calls(self, whole: Sequence[Item]) -> bool:
        """Whether the calls that were begun are those of the answer: an attempt may say the same under other ids."""
        calls = [item for item in whole if item["type"] == "function_call"]
        return all(
            (item.call_id, item.name) == (calls[item.part]["call_id"], calls[item.part]["name"])
            for item in self._items
            if item.kind == "function_call" and item.part < len(calls)
        )

    def _whole(self, end: TaskView, whole: Sequence[Item]) -> Iterator[Event]:
        """What ends an answer that has been sent in full."""
        known = {item["id"]: item for item in whole}
        output: list[Item] = []
        calls = sum(item["type"] == "function_call" for item in whole)
        for item in self._items:
            sent = self._as_item(item)
            told = known.pop(sent["id"], sent)
            if not _agree(sent, told):
                told = sent
            if item.kind == "reasoning" and told is sent and item.number == 0:
                sent["encrypted_content"] = sealed_thoughts(
                    part for part in answer_parts(end) if part.kind is PartKind.REASONING
                )
            if item.kind == "function_call" and item.part >= calls:
                continue  # it was cut off at the limit, and is no part of the answer
            if not item.closed:
                yield from self._close(item, told)
            output.append(told)
        for item_ in known.values():
            # Nothing of it came in pieces: an empty message, or thoughts that their provider sealed.
            if not self._says_something(item_):
                index = len(output)
                yield self._event(
                    "response.output_item.added", output_index=index, item={**item_, "status": "in_progress"}
                )
                yield self._event("response.output_item.done", output_index=index, item=item_)
                output.append(item_)
        state = "response.incomplete" if status_of(end) == "incomplete" else "response.completed"
        yield self._event(state, response=response(self._kept, end, output))

    @staticmethod
    def _says_something(item: Item) -> bool:
        return item["type"] == "function_call" or any(
            part.get("text") or part.get("refusal") for part in item.get("content") or item.get("summary") or ()
        )

    def over(self, end: TaskView, after: int) -> list[Event]:
        """The only event for a caller who had events up to a number, and of whose pieces nothing is left."""
        self._sequence = after + 1
        if error_of(end) is not None:
            return [self._event("response.failed", response=response(self._kept, end))]
        state = "response.incomplete" if status_of(end) == "incomplete" else "response.completed"
        try:
            return [self._event(state, response=response(self._kept, end))]
        except ContentSealed as sealed:
            return [self.failure(answer_sealed(sealed))]

    def failure(self, error: ChatError) -> Event:
        """The event of a stream that cannot go on. The packages raise its `error`."""
        said = {"code": error.refusal.kind, "message": error.refusal.detail, "param": error.refusal.param}
        return self._event("error", **said, error={"type": "server_error", **said})

    def _of_item(self, kind: str, item: _OpenItem, **fields: Any) -> Event:
        its = item_id(item.kind, self._task_id, item.number)
        return self._event(kind, item_id=its, output_index=item.index, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event


def _content_part(kind: PartKind, text: str) -> Item:
    return output_refusal(text) if kind is PartKind.REFUSAL else output_text(text)


def _summary_part(text: str) -> Item:
    return {"type": "summary_text", "text": text}


def _agree(sent: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Whether an item of the answer says what was sent of it."""
    match sent["type"]:
        case "message":
            return [_said(part) for part in sent["content"]] == [_said(part) for part in told["content"]]
        case "reasoning":
            return bool(sent["summary"] == told["summary"])
        case _:
            return bool(sent["arguments"] == told["arguments"])


def _said(part: Mapping[str, Any]) -> tuple[str, str]:
    return part["type"], part.get("text") or part.get("refusal") or ""
