"""Requests with too many messages or parts are refused at once, and whatever passes can be read by everyone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin
from headrace_contracts.events import EntryKind, JournalEntry, Message, PartKind, TaskSubmitted
from headrace_contracts.events.tasks import MessagePart
from headrace_contracts.limits import MOST_MESSAGES, MOST_MESSAGES_AND_PARTS
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_JOURNAL, TASKS_SUBMITTED
from headrace_intake.decide import chat
from headrace_intake.decide.anthropic import request as anthropic
from headrace_intake.decide.message_counts import objection_to
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.responses.items import input_items
from headrace_intake.decide.tasks import taken_task
from headrace_testing.routing import Desk, task

TEXT = {"type": "text", "text": "hi"}


def request(messages: int, parts: int) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": [TEXT] * parts} for _ in range(messages)]}


def parted(messages: int, parts: int) -> tuple[Message, ...]:
    part = MessagePart(
        kind=PartKind.TEXT, content=plain("hi"), url=plain("u"), filename=plain("f"), signature=plain("s")
    )
    return (Message(role="user", content=plain(""), parts=(part,) * parts),) * messages


@pytest.mark.parametrize("taken", [chat.taken, taken_task, anthropic.taken])
def test_messages_and_parts_are_bounded_together(taken: Callable[[dict[str, Any]], Any]) -> None:
    taken(request(4, 1_023))
    taken(request(2_048, 1))
    for messages, parts in ((4, 1_024), (2_048, 2)):
        with pytest.raises(
            Refusal, match=r"messages: there are \d+ messages with \d+ parts, and may be 4096"
        ) as refused:
            taken(request(messages, parts))
        assert (refused.value.status, refused.value.param) == (400, "messages")
    with pytest.raises(Refusal, match="messages: there are 2049, and may be 2048"):
        taken(request(MOST_MESSAGES + 1, 0))


def _unparsed(document: Any, model: Any, where: str) -> Any:
    raise AssertionError("refused before anything is done for each item")


def test_items_of_responses_are_bounded_alike() -> None:
    item = {"role": "user", "content": [{"type": "input_text", "text": "hi"}] * 1_024}
    with pytest.raises(Refusal, match="input: there are 4 messages with 4096 parts") as refused:
        input_items([item] * 4, _unparsed)
    assert refused.value.param == "input"
    with pytest.raises(Refusal, match="input: there are 2049 items, and may be 2048"):
        input_items([item] * 2_049, _unparsed)


def test_a_conversation_with_its_earlier_turns_is_bounded() -> None:
    assert objection_to(parted(4, 1_023)) is None
    refusal = objection_to(parted(4, 1_024))
    assert refusal is not None
    assert refusal.status == 400


async def test_whatever_passes_is_read_from_the_task_and_from_the_journal() -> None:
    codec = Codec(MemoryRegistry())
    await codec.prepare([TASKS_SUBMITTED, TASKS_JOURNAL], register=True)
    messages = parted(4, MOST_MESSAGES_AND_PARTS // 4 - 1)
    submitted = task("t", messages=messages)
    origin = Origin("t", 0, 0)
    assert codec.decode(TaskSubmitted, codec.encode(TASKS_SUBMITTED, submitted), origin).messages == messages
    desk = Desk()
    decision = desk.submit(replace(submitted, messages=messages))
    entry = JournalEntry(
        kind=EntryKind.DECISION, task_id="t", cause="submitted", state=decision.state, commands=decision.commands,
        rejected=decision.rejected, decided_at=1,
    )  # fmt: skip
    assert codec.decode(JournalEntry, codec.encode(TASKS_JOURNAL, entry), origin).state == decision.state
