"""Which endpoint has read the beginning of a prompt before, as far as the worker itself can tell.

An engine keeps what it has computed for the prompts that it read last. A prompt that begins like one of them is read
only from where it differs: turns of a conversation, agents with a long system prompt, questions about one document.
Engines are not asked for it. As in llm-d's approximate prefix index, the worker remembers which beginnings it has sent
where: a prompt is cut into blocks of characters, the hash of each block covers all before it, and of each endpoint and
model the newest hashes are remembered, about as many as its context holds.

A call goes where its prompt is warm as long as that place has not much more to do than the others: consistent hashing
with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016), as in KubeAI. Values only, but for the memory itself.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

Prefix = tuple[int, ...]
"""Hashes of the blocks of a prompt, each of all that comes before its end."""

BLOCK_BYTES: Final = 512
TOKENS_PER_BLOCK: Final = BLOCK_BYTES // 4
_MOST_BLOCKS: Final = 256
"""Of one prompt that are looked at: 128 KiB. What comes after them is as good as new."""
_USUAL_CONTEXT_TOKENS: Final = 8_192
_MOST_CONTEXT_TOKENS: Final = 2_000_000
_MOST_PLACES: Final = 4_096
"""Endpoints and models that are remembered: names come from outside."""
_BOUND: Final = 1.25
"""How much more than the mean an endpoint may have to do and still get calls for what it has warm."""


def prefix_of(texts: Iterable[bytes]) -> Prefix:
    """The hashes of a prompt's beginning, of what it says, piece by piece; none for a short one.

    Where pieces end counts, too: one message is another prompt than two.
    """
    found: list[int] = []
    digest, left = blake2b(digest_size=8), BLOCK_BYTES
    for text in texts:
        piece = len(text).to_bytes(8, "big") + text
        start = 0
        while len(piece) - start >= left:
            digest.update(piece[start : start + left])
            found.append(int.from_bytes(digest.digest(), "big"))
            if len(found) == _MOST_BLOCKS:
                return tuple(found)
            start, left = start + left, BLOCK_BYTES
        digest.update(piece[start:])
        left -= len(piece) - start
    return tuple(found)


def within_bound(busy: Mapping[str, int], slots: Mapping[str, int]) -> frozenset[str]:
    """The endpoints that may get one more call for what they have warm, by the calls they run and their slots."""
    to_do, all_slots = sum(busy.values()) + 1, sum(max(1, number) for number in slots.values())
    return frozenset(
        name
        for name, number in busy.items()
        if number + 1 <= math.ceil(_BOUND * to_do * max(1, slots[name]) / max(1, all_slots))
    )


class WarmPrefixes:
    """The beginnings of prompts that endpoints have read last."""

    def __init__(self) -> None:
        self._read: OrderedDict[tuple[str, str], OrderedDict[int, None]] = OrderedDict()

    def warm_tokens(self, endpoint: str, model: str, prefix: Prefix) -> int:
        """How many tokens of a prompt's beginning an endpoint need not read again, about."""
        read = self._read.get((endpoint, model))
        if not read:
            return 0
        blocks = 0
        for block in prefix:
            if block not in read:
                break
            blocks += 1
        return blocks * TOKENS_PER_BLOCK

    def has_read(self, endpoint: str, model: str, prefix: Prefix, context_tokens: int | None, slots: int) -> None:
        """An endpoint reads a prompt.

        Args:
            context_tokens: How long a prompt the model takes there; None if unknown.
            slots: Prompts that it keeps at once.
        """
        if not prefix:
            return
        read = self._read.setdefault((endpoint, model), OrderedDict())
        self._read.move_to_end((endpoint, model))
        if len(self._read) > _MOST_PLACES:
            self._read.popitem(last=False)
        # The beginning is the last that is forgotten: without it the rest is of no use.
        for block in reversed(prefix):
            read[block] = None
            read.move_to_end(block)
        context = min(max(context_tokens or _USUAL_CONTEXT_TOKENS, TOKENS_PER_BLOCK), _MOST_CONTEXT_TOKENS)
        while len(read) > max(1, slots) * context // TOKENS_PER_BLOCK:
            read.popitem(last=False)

    def forget(self, endpoint: str, model: str | None = None) -> None:
        """An endpoint has nothing warm any more, of a model or at all: it was restarted, or the model unloaded."""
        for place in [one for one in self._read if one[0] == endpoint and model in (None, one[1])]:
            del self._read[place]
