"""Turns: what the history keeps of a task beside its end, and how later tasks continue it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headrace_contracts.content import ContentSealed, text_of
from headrace_contracts.events import Message, Options, Sampling, TaskSubmitted, Turn

from headrace_intake.decide.choices import as_json, from_json
from headrace_intake.decide.drafts import TaskDraft, sampling_of

RESPONSE_PREFIX: Final = "resp_"
NOTHING_ASKED: Final = Options()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTurn:
    """What a task said and asked.

    Attributes:
        instructions: For this task only.
        messages: Those of this turn.
    """

    turn: Turn
    instructions: Message | None
    messages: tuple[Message, ...]
    options: Options = NOTHING_ASKED
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else the caller set. What is sealed, or was written by others and makes no sense, is as if unset."""
        if self.turn.settings is None:
            return {}
        try:
            found = json.loads(text_of(self.turn.settings))
        except (ContentSealed, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def turn_of_draft(draft: TaskDraft) -> KeptTurn:
    """The turn of a draft of this API."""
    assert draft.turn is not None
    return _turn(draft.turn, draft.messages, draft.asked, sampling_of(draft))


def turn_of_task(task: TaskSubmitted) -> KeptTurn | None:
    """The turn of a task; None if the history keeps none."""
    if task.turn is None or not task.turn.store:
        return None
    return _turn(task.turn, task.messages, task.options, task.sampling)


def _turn(turn: Turn, messages: Sequence[Message], options: Options | None, sampling: Sampling) -> KeptTurn:
    first = 1 if turn.instructions and messages else 0
    return KeptTurn(
        turn=turn,
        instructions=messages[0] if first else None,
        messages=tuple(messages[first + max(0, turn.earlier_messages) :]),
        options=options or NOTHING_ASKED,
        sampling=sampling,
    )


def stored_turn(kept: KeptTurn) -> str:
    """JSON for the view, with the bytes of contents in base64."""
    return as_json({
        "turn": kept.turn.to_avro(),
        "instructions": None if kept.instructions is None else kept.instructions.to_avro(),
        "messages": [message.to_avro() for message in kept.messages],
        "options": kept.options.to_avro(),
        "sampling": kept.sampling.to_avro(),
    })  # fmt: skip


def loaded_turn(text: str) -> KeptTurn:
    """The turn from the view."""
    found = from_json(text)
    return KeptTurn(
        turn=Turn.from_avro(found["turn"]),
        instructions=None if found["instructions"] is None else Message.from_avro(found["instructions"]),
        messages=tuple(map(Message.from_avro, found["messages"])),
        options=Options.from_avro(found["options"]),
        sampling=Sampling.from_avro(found["sampling"]),
    )


def response_id(task_id: str) -> str:
    """Id of the response that a task gives."""
    return RESPONSE_PREFIX + task_id


def task_id_of(response: str) -> str | None:
    """The task of a response; None for an id that no response has."""
    return response.removeprefix(RESPONSE_PREFIX) if response.startswith(RESPONSE_PREFIX) else None


def added_id(change_id: str, place: int) -> str:
    """Id of the turn of a message that was added to a conversation. Those of one change sort in their order."""
    return f"{change_id}.{place:04d}"
