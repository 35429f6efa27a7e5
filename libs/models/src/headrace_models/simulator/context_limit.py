"""What an Ollama server makes of a prompt that is longer than its context: it is cut without a word, or refused."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_models.conversation import ChatMessage, TextPart
from headrace_models.simulator.answers import count_tokens, tokens_of

TOO_LONG = "the input length exceeds the context length"


def cut_to(messages: Sequence[ChatMessage], most: int) -> tuple[ChatMessage, ...]:
    """The messages that a server which may truncate shows to a model: the oldest go first, but those of the system and
    the last one stay. If these alone are too long, the beginning of the last one is left out."""
    for first in range(len(messages)):
        kept = [*(one for one in messages[:first] if one.role == "system"), *messages[first:]]
        if sum(count_tokens(one.text) for one in kept) <= most:
            return tuple(kept)
    system = [one for one in messages[:-1] if one.role == "system"]
    room = max(1, most - sum(count_tokens(one.text) for one in system))
    last = messages[-1]
    end = "".join(tokens_of(last.text)[-room:])
    return (*system, ChatMessage(last.role, parts=(TextPart(end),)))
