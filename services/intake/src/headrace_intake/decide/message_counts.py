"""How many messages and parts a request may have: each costs time in all services, however short it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace_contracts.cargo import messages_and_parts
from headrace_contracts.events import Message
from headrace_contracts.limits import MOST_MESSAGES, MOST_MESSAGES_AND_PARTS

from headrace_intake.decide.refusals import Refusal, bad_request


def expect_few(given: Sequence[Any], field: str = "messages", noun: str = "") -> None:
    """Raises Refusal for too many messages or parts in a request, before anything is done for each of them."""
    if len(given) > MOST_MESSAGES:
        raise bad_request(f"{field}: there are {len(given)}{noun and ' '}{noun}, and may be {MOST_MESSAGES}.", field)
    parts = sum(
        len(value) for one in given if isinstance(one, Mapping) for value in one.values() if isinstance(value, list)
    )
    if len(given) + parts > MOST_MESSAGES_AND_PARTS:
        raise _too_many(len(given), parts, field)


def objection_to(messages: Sequence[Message]) -> Refusal | None:
    """Why a conversation, with its earlier turns, cannot be a task; None if it has few enough messages and parts."""
    both = messages_and_parts(messages)
    if both <= MOST_MESSAGES_AND_PARTS:
        return None
    return _too_many(len(messages), both - len(messages), "messages")


def _too_many(messages: int, parts: int, field: str) -> Refusal:
    return bad_request(
        f"{field}: there are {messages} messages with {parts} parts, and may be {MOST_MESSAGES_AND_PARTS} of both "
        "together.",
        field,
    )
