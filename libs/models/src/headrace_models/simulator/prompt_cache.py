"""What a simulated engine keeps of the prompts that it has read, so that it need not read their beginnings again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from headrace_models.conversation import ChatMessage
from headrace_models.simulator.answers import count_tokens

BILLED_FROM_TOKENS: Final = 1_024
BILLED_STEP_TOKENS: Final = 128
_PROVIDERS_PROMPTS: Final = 256
"""As OpenAI's API documents its prompt caching: a beginning of 1,024 tokens and more, in steps of 128."""


class PromptCache:
    """The prompts that were read last, as Ollama's runner keeps them, one in each slot (its `ollamarunner/cache.go`).

    A prompt that goes on from a kept one takes its place, any other takes the slot that was used the longest ago. What
    it has in common with a kept one is copied.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[str, ...]] = OrderedDict()
        self._number = 0

    def read(self, messages: Sequence[ChatMessage], slots: int) -> int:
        """How many tokens of a prompt are kept already; it is kept from now on."""
        prompt = _pieces(messages)
        shared = {number: _in_common(prompt, kept) for number, kept in self._kept.items()}
        best = max(shared, key=shared.__getitem__, default=None)
        tokens = 0 if best is None else sum(count_tokens(piece) for piece in prompt[: shared[best]])
        if best is not None and shared[best] == len(self._kept[best]):
            del self._kept[best]
        while len(self._kept) >= slots:
            self._kept.popitem(last=False)
        self._number += 1
        self._kept[self._number] = prompt
        return tokens


class BilledPromptCache:
    """The prompt cache of a provider that bills what it finds there for less."""

    def __init__(self) -> None:
        self._cache = PromptCache()

    def read(self, messages: Sequence[ChatMessage]) -> int:
        """How many tokens of a prompt are billed as cached."""
        tokens = self._cache.read(messages, _PROVIDERS_PROMPTS)
        return tokens // BILLED_STEP_TOKENS * BILLED_STEP_TOKENS if tokens >= BILLED_FROM_TOKENS else 0


def _pieces(messages: Sequence[ChatMessage]) -> tuple[str, ...]:
    """A prompt in pieces, each of about a hundred characters, so that beginnings are compared in little time."""
    return tuple([
        piece
        for message in messages
        for piece in (f"<{message.role}>", *(message.text[at : at + 100] for at in range(0, len(message.text), 100)))
    ])  # fmt: skip


def _in_common(one: Sequence[str], other: Sequence[str]) -> int:
    for place, (mine, its) in enumerate(zip(one, other, strict=False)):
        if mine != its:
            return place
    return min(len(one), len(other))
