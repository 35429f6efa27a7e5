"""One simulated Ollama server: its models, its settings, and what it refuses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from headrace_models.conversation import ChatMessage
from headrace_models.simulator.answers import count_tokens
from headrace_models.simulator.catalog import SimulatedModel, node_model
from headrace_models.simulator.context_limit import TOO_LONG, cut_to
from headrace_models.simulator.model_memory import CallRefused, LoadedModel, ModelMemory
from headrace_models.simulator.node_settings import NodeSettings
from headrace_models.simulator.pace import Speed

_HANG_SECONDS: Final = 3600.0
_LOOK_SECONDS: Final = 0.05
_UNITS: Final[Mapping[str, float]] = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0
}  # fmt: skip
_DURATION: Final = re.compile(r"(-?)((?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+)")


class SimulatedNode:
    """A server with these models."""

    def __init__(self, models: Sequence[str], settings: NodeSettings, speed: Speed) -> None:
        self.settings = settings
        self._models = {name: node_model(name) for name in models}
        self._speed = speed
        self.memory = ModelMemory(settings, clock=_now, faster=speed.factor or float("inf"))
        self.cached_tokens = 0
        """Tokens of prompts that were not read again, so far."""

    @property
    def models(self) -> Mapping[str, SimulatedModel]:
        """Those that it has, by name."""
        return {name: model for name, model in self._models.items() if name not in self.settings.removed}

    def add(self, name: str) -> None:
        """As `ollama pull`."""
        self._models[name] = node_model(name)
        self.settings.removed -= {name}

    def expect_token(self, authorisation: str | None) -> None:
        """Raises CallRefused without the token that it wants."""
        if self.settings.token and authorisation != f"Bearer {self.settings.token}":
            raise CallRefused(401, "unauthorized")

    async def hang(self) -> None:
        """Wait while its inference stands still."""
        left = _HANG_SECONDS
        while self.settings.hangs and left > 0:
            await asyncio.sleep(_LOOK_SECONDS)
            left -= _LOOK_SECONDS

    def paced(self, loaded: LoadedModel, messages: Sequence[ChatMessage]) -> SimulatedModel:
        """A model at the speed that it has here, with a prompt to read, but for what it has read just before."""
        known, model = self.settings, loaded.model
        cached = loaded.prompts.read(messages, known.num_parallel)
        prompt_tokens = sum(count_tokens(message.text) for message in messages) - cached
        self.cached_tokens += cached
        reading = prompt_tokens / known.prompt_tokens_per_second if known.prompt_tokens_per_second else 0.0
        return replace(
            model,
            tokens_per_second=known.tokens_per_second or model.tokens_per_second * known.speed,
            first_token_seconds=model.first_token_seconds + reading,
        )

    def context(self, model: SimulatedModel, asked: int | None) -> int:
        """Length of the context of a call that asks for so much, in tokens."""
        return min(asked or self.settings.context_length, model.context_tokens)

    def read(self, messages: Sequence[ChatMessage], loaded: LoadedModel, *, truncate: bool) -> tuple[ChatMessage, ...]:
        """What the model gets to see of a prompt. Raises CallRefused if it is too long and must not be cut."""
        if sum(count_tokens(message.text) for message in messages) <= loaded.context:
            return tuple(messages)
        if not truncate:
            raise CallRefused(400, TOO_LONG)
        return cut_to(messages, loaded.context)

    def running(self) -> list[dict[str, Any]]:
        """The models in memory, as `/api/ps` has them beside what describes them."""
        now, clock = datetime.now(UTC), _now()
        return [
            {
                "model": one.model.name,
                "expires_at": (now + timedelta(seconds=_until_expiry(one, clock))).isoformat(),
                "size_vram": one.model.size_bytes,
                "context_length": one.context,
            }
            for one in self.memory.loaded()
        ]


def keep_alive_of(value: Any) -> float | None:
    """Seconds of a request's `keep_alive`, negative for ever; None if it has none. Raises CallRefused."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise CallRefused(400, f'time: invalid duration "{value}"')
    parts = re.findall(r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|ms|s|m|h)", found[2])
    return (-1 if found[1] else 1) * sum(float(number) * _UNITS[unit] for number, unit in parts)


def _until_expiry(one: LoadedModel, now: float) -> float:
    kept = one.keep_alive if one.calls else one.expires_at - now
    return kept if 0 <= kept < 1e9 else 86_400.0 * 365 * 200


def _now() -> float:
    return asyncio.get_running_loop().time()
