"""Vectors of texts: as the view stores them, and as callers of the APIs get them."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from typing import Final

from headrace_contracts.content import PLAIN, bytes_of
from headrace_contracts.events import Content

Form = Callable[[Content], str]
"""Writes a vector as JSON."""

_NUMBER: Final = "%.9g"
"""As many digits as tell all 32 bit numbers apart."""
_MANY_BYTES: Final = 64 * 1024
"""Of vectors; to write them as numbers takes some 10 ms."""


def stored(vectors: Sequence[Content]) -> str | None:
    """JSON for the view; None for an answer that has none."""
    if not vectors:
        return None
    pairs = [[vector.cipher, base64.b64encode(vector.data).decode("ascii")] for vector in vectors]
    return json.dumps(pairs, separators=(",", ":"))


def loaded(text: str | None) -> tuple[Content, ...]:
    """The vectors from the view."""
    pairs = () if not text else json.loads(text)
    return tuple(Content(cipher=cipher, data=base64.b64decode(data)) for cipher, data in pairs)


def in_numbers(vector: Content) -> str:
    """A vector as a JSON array of numbers. Raises ContentSealed."""
    data = bytes_of(vector)
    # Whoever may write to Kafka may have written it: four bytes are a number, and what is left over is none.
    numbers = struct.unpack(f"<{len(data) // 4}f", data[: len(data) // 4 * 4])
    return f"[{','.join(map(_NUMBER.__mod__, numbers))}]"


def in_base64(vector: Content) -> str:
    """A vector as a JSON text: its 32 bit numbers, little endian, in base64. Raises ContentSealed."""
    return f'"{base64.b64encode(bytes_of(vector)).decode("ascii")}"'


def takes_long(vectors: Sequence[Content]) -> bool:
    """Whether writing them takes so long that it should not be done in the event loop."""
    return sum(len(vector.data) for vector in vectors) > _MANY_BYTES


def sealed_with(vectors: Sequence[Content]) -> str | None:
    """The data key that vectors are sealed with; None if all can be read."""
    return next((vector.cipher for vector in vectors if vector.cipher != PLAIN), None)
