"""Vectors that are near for near texts: hashed three-letter sequences and words, of unit length."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from collections.abc import Sequence
from typing import Final

from headrace_models.simulator.faults import Fault, FaultKind

DEFAULT_DIMENSIONS: Final = 256


def embedding(text: str, dimensions: int = DEFAULT_DIMENSIONS) -> list[float]:
    """The vector of a text. Equal texts have equal vectors; the cosine of two grows with what they share."""
    vector = [0.0] * dimensions
    words = " ".join(re.findall(r"\w+", text.lower()))
    lower = f" {words} "
    features = [lower[start : start + 3] for start in range(max(1, len(lower) - 2))] + lower.split() * 2
    for feature in features:
        digest = hashlib.blake2b(feature.encode(), digest_size=8).digest()
        place = int.from_bytes(digest[:4], "big") % dimensions
        vector[place] += 1.0 if digest[4] & 1 else -1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


def vectors(texts: Sequence[str], dimensions: int | None, fault: Fault | None = None) -> list[list[float]]:
    """The vectors of some texts, as a hostile provider says them if there is such a fault."""
    made = [embedding(text, dimensions or DEFAULT_DIMENSIONS) for text in texts]
    match None if fault is None else fault.kind:
        case FaultKind.EMPTY_ANSWER:
            return []
        case FaultKind.VECTOR_MISSING:
            return made[:-1]
        case FaultKind.VECTOR_NOT_A_NUMBER:
            made[-1][-1] = math.nan
        case FaultKind.VECTOR_SHORT:
            # Of a single one, the length is wrong only where one was asked for.
            made[-1].pop()
        case FaultKind.VECTORS_EMPTY:
            return [[] for _ in made]
    return made


def in_base64(vector: Sequence[float]) -> str:
    """A vector in the shorter of OpenAI's two forms."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
