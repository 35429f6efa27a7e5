"""Function calls of a conversation, and the outputs that answer them."""

from __future__ import annotations

from collections.abc import Iterable

from headrace_contracts.events import Message, PartKind

from headrace_intake.decide.refusals import bad_request


def check_calls(messages: Iterable[Message]) -> None:
    """Check that every call has been answered, and every output answers a call: providers fail otherwise.

    Raises Refusal, in OpenAI's words.
    """
    open_calls: set[str] = set()
    called: set[str] = set()
    for message in messages:
        for part in message.parts:
            if part.kind is PartKind.TOOL_CALL and part.call_id is not None:
                called.add(part.call_id)
                open_calls.add(part.call_id)
            elif part.kind is PartKind.TOOL_RESULT and part.call_id is not None:
                if part.call_id not in called:
                    why = f"No tool call found for function call output with call_id {part.call_id}."
                    raise bad_request(why, "input")
                open_calls.discard(part.call_id)
    if open_calls:
        raise bad_request(f"No tool output found for function call {min(open_calls)}.", "input")
