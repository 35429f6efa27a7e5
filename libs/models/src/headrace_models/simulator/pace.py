"""How fast the simulator answers: instantly, or at the speed of the real models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from headrace_models.simulator.catalog import SimulatedModel

_PIECE_SECONDS: Final = 0.05
"""Tokens due within one such span are sent together, so that a hundred streams do not cost a core."""
_INSTANT_PIECES: Final = 2


@dataclass(frozen=True, slots=True)
class Speed:
    """How many times faster than the real model; None for no delay at all."""

    factor: float | None = 1.0

    @classmethod
    def parse(cls, text: str) -> Speed:
        """`instant`, `realistic`, or a positive factor such as `10`.

        Raises ValueError.
        """
        if text == "instant":
            return cls(None)
        if text == "realistic":
            return cls(1.0)
        factor = float(text)
        if factor <= 0:
            raise ValueError("a speed is instant, realistic or a positive factor")
        return cls(factor)

    def first_token_seconds(self, model: SimulatedModel) -> float:
        return 0.0 if self.factor is None else model.first_token_seconds / self.factor

    def tokens_per_second(self, model: SimulatedModel) -> float:
        return float("inf") if self.factor is None else model.tokens_per_second * self.factor


async def paced(tokens: Sequence[str], model: SimulatedModel, speed: Speed) -> AsyncIterator[str]:
    """The answer's pieces as they become due: after the time to the first token, then evenly."""
    if speed.factor is None:
        size = max(1, -(-len(tokens) // _INSTANT_PIECES))
        for start in range(0, len(tokens), size):
            yield "".join(tokens[start : start + size])
        return
    per_second = speed.tokens_per_second(model)
    size = max(1, round(per_second * _PIECE_SECONDS))
    await asyncio.sleep(speed.first_token_seconds(model))
    for start in range(0, len(tokens), size):
        piece = tokens[start : start + size]
        yield "".join(piece)
        await asyncio.sleep(len(piece) / per_second)
