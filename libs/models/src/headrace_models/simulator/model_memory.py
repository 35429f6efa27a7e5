"""The models in the memory of a simulated Ollama server, and who waits for them: as its scheduler does it
(server/sched.go of ollama/ollama).

A call of a loaded model waits for a place of its runner, however many do. Any other waits in the queue for its model to
be loaded, one after the other. What has to go to make room is an idle model, else the first to become idle.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from headrace_models.simulator.catalog import SimulatedModel
from headrace_models.simulator.node_settings import GIBIBYTE, NodeSettings
from headrace_models.simulator.prompt_cache import PromptCache

_STUCK_SECONDS: Final = 0.05
_FOR_EVER_SECONDS: Final = 86_400.0 * 365 * 200


class CallRefused(Exception):
    """The server refuses a call: HTTP status, and its words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def server_busy() -> CallRefused:
    """The queue is full."""
    return CallRefused(503, "server busy, please try again.  maximum pending requests exceeded")


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model in memory.

    Attributes:
        context: Length of the context that it was loaded with, in tokens.
        calls: Calls that use it, those that wait for a place included.
        expires_at: When it leaves if nobody uses it until then, in seconds of the clock; infinite while in use.
        prompts: The prompts that it has read last; they leave with it.
    """

    model: SimulatedModel
    context: int
    places: asyncio.Semaphore
    calls: int = 0
    keep_alive: float = 0.0
    expires_at: float = math.inf
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: bool = False
    prompts: PromptCache = field(default_factory=PromptCache)


class ModelMemory:
    """The scheduler of one server.

    Args:
        clock: Seconds, in which models expire.
        faster: By how many times loading is faster than real; infinite for at once.
    """

    def __init__(self, settings: NodeSettings, *, clock: Callable[[], float], faster: float) -> None:
        self._settings = settings
        self._clock = clock
        self._faster = faster
        self._loaded: dict[str, LoadedModel] = {}
        self._queue = asyncio.Lock()
        self._queued = 0
        self._stuck = False

    def loaded(self) -> list[LoadedModel]:
        """What `/api/ps` shows, in the order of loading."""
        self._drop_expired()
        return list(self._loaded.values())

    @property
    def waiting(self) -> int:
        """Calls that wait for a model to be loaded."""
        return self._queued

    @asynccontextmanager
    async def running(
        self, model: SimulatedModel, context: int | None, keep_alive: float | None
    ) -> AsyncIterator[LoadedModel]:
        """A place of the model's runner, once it is loaded with this length of the context (None: as it is, else the
        server's own). Raises CallRefused."""
        loaded = await self._use(model, context)
        try:
            loaded.keep_alive = self._settings.keep_alive if keep_alive is None else keep_alive
            async with loaded.places:
                yield loaded
        finally:
            self._used(loaded)

    async def _use(self, model: SimulatedModel, context: int | None) -> LoadedModel:
        self._drop_expired()
        found = self._usable(model, context)
        if found is None or self._is_stuck():
            if self._queued >= self._settings.max_queue:
                raise server_busy()
            self._queued += 1
            try:
                async with self._queue:
                    while self._is_stuck():  # noqa: ASYNC110 - ends when somebody changes the settings, if ever
                        await asyncio.sleep(_STUCK_SECONDS)
                    found = self._usable(model, context) or await self._load(model, context)
                    _take(found)
            finally:
                self._queued -= 1
        else:
            _take(found)
        return found

    def _usable(self, model: SimulatedModel, context: int | None) -> LoadedModel | None:
        found = self._loaded.get(model.name)
        fits = found is not None and not found.leaving and context in (None, found.context)
        return found if fits else None

    async def _load(self, model: SimulatedModel, context: int | None) -> LoadedModel:
        settings, size = self._settings, model.size_bytes
        while True:
            other = self._loaded.get(model.name)
            total = settings.memory_gb * GIBIBYTE
            used = sum(one.model.size_bytes for one in self._loaded.values())
            full = 0 < settings.max_loaded_models <= len(self._loaded)
            if other is None and not full and (not total or used + size <= total):
                break
            if other is None and not self._loaded:
                need, there = size / GIBIBYTE, settings.memory_gb
                text = f"model requires more system memory ({need:.1f} GiB) than is available ({there:.1f} GiB)"
                raise CallRefused(500, text)
            await self._unload(other or min(self._loaded.values(), key=lambda one: (one.calls > 0, one.keep_alive)))
        if settings.load_gb_per_second:
            await asyncio.sleep(size / GIBIBYTE / settings.load_gb_per_second / self._faster)
        if settings.loading_fails(model.name):
            raise CallRefused(500, "llama runner process has terminated: exit status 2")
        longest = min(context or settings.context_length, model.context_tokens)
        made = LoadedModel(model, longest, asyncio.Semaphore(settings.num_parallel), keep_alive=settings.keep_alive)
        self._loaded[model.name] = made
        return made

    async def _unload(self, one: LoadedModel) -> None:
        if one.calls and self._settings.deadlocks:
            # It is never told of the unload that it waits for.
            self._stuck = True
        while one.calls or self._is_stuck():
            one.idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(one.idle.wait(), _STUCK_SECONDS)
        one.leaving = True
        try:
            await asyncio.sleep(self._settings.unload_seconds / self._faster)
            self._loaded.pop(one.model.name, None)
        finally:
            one.leaving = False

    def _is_stuck(self) -> bool:
        self._stuck = self._stuck and self._settings.deadlocks
        return self._stuck

    def _used(self, one: LoadedModel) -> None:
        one.calls -= 1
        if not one.calls:
            kept = _FOR_EVER_SECONDS if one.keep_alive < 0 else one.keep_alive
            one.expires_at = self._clock() + kept
            one.idle.set()

    def _drop_expired(self) -> None:
        now = self._clock()
        for name, one in list(self._loaded.items()):
            if not one.calls and one.expires_at <= now and not one.leaving:
                del self._loaded[name]


def _take(one: LoadedModel) -> None:
    one.calls += 1
    one.expires_at = math.inf
