"""The machines of a simulated fleet: unequal, with room for few models, and now and then away, dead, stuck or slow.

Simulated are calls, not tokens: a call takes what loading its model, reading its prompt and writing its answer take on
its machine, and says something every few seconds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from headrace_models.answer import SpokenPiece
from headrace_models.conversation import AnswerSchema
from headrace_models.errors import RetrySameProvider, TryAnotherProvider
from headrace_models.ports import (
    CallUsage,
    ChatRequest,
    ChatResult,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    OnPiece,
    OnText,
    ProviderStatus,
    hand_out,
    no_pieces,
)

PROBE_SECONDS: Final = 3.0
CONNECT_SECONDS: Final = 10.0
"""How long a client waits for a machine that does not answer: with a probe, with a call."""
_SAYS_SOMETHING_SECONDS: Final = 10.0
_LOAD_GB_PER_SECOND: Final = 1.0
_PROMPT_SPEED: Final = 20.0
"""How many times as fast as it writes a machine reads."""
_WORK: Final = re.compile(r"(\d+) tokens about (\d+) tokens")


@dataclass(frozen=True, slots=True)
class DayModel:
    """A model, and how many tokens a second a machine of speed 1 writes with it."""

    name: str
    size_gb: float
    tokens_per_second: float


MODELS: Final[Mapping[str, DayModel]] = {
    one.name: one
    for one in (
        DayModel("gemma2:2b", 1.6, 25), DayModel("qwen2.5-coder:1.5b", 0.9, 25), DayModel("phi3:3.8b", 2.3, 20),
        DayModel("llama3:8b", 4.7, 15), DayModel("qwen2.5-coder:7b", 4.7, 15), DayModel("llama3.1:8b", 4.9, 15),
        DayModel("qwen2.5:7b", 4.7, 15), DayModel("codellama:7b", 3.8, 15), DayModel("mistral:7b", 4.1, 15),
    )
}  # fmt: skip
"""Those of a developer with an AI team, and of a small cluster that thinks as one."""


def work_of(answer_tokens: int, prompt_tokens: int) -> str:
    """How a prompt says how much there is to do."""
    return f"{answer_tokens} tokens about {prompt_tokens} tokens"


class Condition(StrEnum):
    """How a machine is.

    `AWAY`: its lid is closed, or its network gone; no connection is closed. `DEAD`: its server does not run. `STUCK`:
    it answers, but for the inference.
    """

    UP = "up"
    AWAY = "away"
    DEAD = "dead"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """What a machine is.

    Attributes:
        speed: How many times as fast as the slowest it is.
        slots: Calls that it runs at once.
        latency: Seconds to reach it.
        laptop: Whether it leaves in the evening, and now and then during the day.
    """

    name: str
    speed: float
    slots: int
    memory_gb: float
    models: Sequence[str]
    latency: float = 0.001
    laptop: bool = False


@dataclass(slots=True, eq=False)
class MachineCall:
    """A call as its machine saw it: times in seconds, `ended` when it was done, cut or given up; `interrupted` if the
    worker ended it while the machine was well."""

    machine: str
    model: str
    text: str
    began: float
    condition: Condition
    ended: float | None = None
    done: bool = False
    running: bool = False
    interrupted: bool = False


@dataclass
class Ledger:
    """All calls of a day, and when machines changed."""

    calls: list[MachineCall] = field(default_factory=list)
    changes: dict[str, list[tuple[float, Condition]]] = field(default_factory=dict)

    def condition(self, machine: str, at: float) -> tuple[Condition, float]:
        """How a machine was at a time, and since when."""
        since, found = 0.0, Condition.UP
        for when, condition in self.changes.get(machine, ()):
            if when > at:
                break
            since, found = when, condition
        return found, since

    def spans(self, machine: str, until: float) -> Iterator[tuple[float, float, Condition]]:
        """The conditions of a machine, one after the other."""
        since, condition = 0.0, Condition.UP
        for when, after in [*self.changes.get(machine, ()), (until, Condition.UP)]:
            if when > since:
                yield since, min(when, until), condition
            since, condition = when, after
            if since >= until:
                return


class Machine:
    """A machine of the fleet, as the worker's provider."""

    provider: Final = "ollama"

    def __init__(self, spec: MachineSpec, ledger: Ledger) -> None:
        self.spec = spec
        self.node = spec.name
        self.condition = Condition.UP
        self.slowness = 1.0
        """How many times as long as usual everything takes."""
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._loaded: dict[str, int] = {}
        """Calls that use each model in memory; the longest unused first."""
        self._loading = asyncio.Lock()
        self._changed = asyncio.Event()
        # A dict, for its order: sets of objects have another one in each process.
        self._waits: dict[asyncio.Future[None], None] = {}
        self._room = asyncio.Event()
        self._status: ProviderStatus | None = None

    def become(self, condition: Condition) -> None:
        """Change it now. A server that dies, and a machine that comes back, have no connections left."""
        if condition is self.condition:
            return
        before, self.condition = self.condition, condition
        self._ledger.changes.setdefault(self.node, []).append((self._loop.time(), condition))
        if condition is Condition.DEAD or before is Condition.AWAY:
            for wait in self._waits:
                if not wait.done():
                    wait.set_exception(
                        RetrySameProvider("connection_lost", f"{self.node} closed it", provider=self.provider)
                    )
        if condition is Condition.DEAD:
            self._loaded.clear()
            self._status = None
        self._changed.set()
        self._changed = asyncio.Event()

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        began = self._loop.time()
        call = MachineCall(self.node, request.model, request.messages[-1].text, began, self.condition)
        self._ledger.calls.append(call)
        try:
            async with asyncio.timeout(request.timeout_seconds):
                return await self._chat(call, request, on_text)
        except TimeoutError as error:
            message = f"{self.node} did not finish within {request.timeout_seconds:g} s"
            raise RetrySameProvider("timeout", message, provider=self.provider, usage=CallUsage(1, 1)) from error
        except asyncio.CancelledError:
            call.interrupted = self.condition is Condition.UP
            raise
        finally:
            call.ended = self._loop.time()

    async def _chat(self, call: MachineCall, request: ChatRequest, on_text: OnText) -> ChatResult:
        await self._reach()
        if request.model not in self.spec.models:
            raise TryAnotherProvider("model_missing", f"{self.node} has no {request.model}", provider=self.provider)
        answer, prompt = map(int, _found(call.text))
        await self._load(request.model)
        try:
            call.running = True
            speed = MODELS[request.model].tokens_per_second * self.spec.speed
            await self._compute(prompt / (speed * _PROMPT_SPEED))
            first = self._loop.time()
            await hand_out(on_text, no_pieces, SpokenPiece("text", "It "))
            left = answer / speed
            while left > 0:
                await self._compute(min(left, _SAYS_SOMETHING_SECONDS))
                left -= _SAYS_SOMETHING_SECONDS
                await hand_out(on_text, no_pieces, SpokenPiece("text", "is so. "))
            call.done = True
        finally:
            # A server that has died meanwhile has nothing in memory any more.
            if request.model in self._loaded:
                self._loaded[request.model] -= 1
            self._room.set()
        now = self._loop.time()
        usage = CallUsage(prompt, answer)
        took, heard = (now - call.began) * 1000, (first - call.began) * 1000
        return ChatResult("It is so.", "stop", usage, request.model, heard, took, True, "")

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        raise TryAnotherProvider("unsupported_operation", f"{self.node} makes no vectors", provider=self.provider)

    def keeps_to(self, schema: AnswerSchema, model: str) -> bool:
        return False

    async def status(self) -> ProviderStatus:
        if self.condition is Condition.DEAD:
            return ProviderStatus(False, f"{self.node} cannot be reached (refused)", unreachable=True)
        if self.condition is Condition.AWAY:
            await asyncio.sleep(PROBE_SECONDS)
            return ProviderStatus(False, f"{self.node} cannot be reached (timed out)", unreachable=True)
        if self._status is None:
            models = tuple(
                ModelInfo(name, round(MODELS[name].size_gb * 2**30), 8192, name in self._loaded, 8192)
                for name in self.spec.models
            )
            self._status = ProviderStatus(True, "", models, self.spec.latency * 1000, "0.13", True)
        return self._status

    async def close(self) -> None:
        """Nothing is open."""

    async def _reach(self) -> None:
        if self.condition is Condition.AWAY:
            await self._pause(CONNECT_SECONDS)
            if self.condition is Condition.AWAY:
                raise RetrySameProvider("unreachable", f"{self.node} is away", provider=self.provider, sent=False)
        await asyncio.sleep(self.spec.latency)
        if self.condition is Condition.DEAD:
            raise RetrySameProvider("unreachable", f"{self.node} refuses", provider=self.provider, sent=False)

    async def _load(self, model: str) -> None:
        """Have a model in memory, once for its call: idle ones make room, and loads follow each other."""
        if model not in self._loaded:
            async with self._loading:
                while model not in self._loaded:
                    size = MODELS[model].size_gb
                    idle = next((name for name, calls in self._loaded.items() if not calls), None)
                    if sum(MODELS[name].size_gb for name in self._loaded) + size <= self.spec.memory_gb:
                        await self._compute(size / _LOAD_GB_PER_SECOND)
                        self._loaded[model] = 0
                        self._status = None
                    elif idle is not None:
                        del self._loaded[idle]
                        self._status = None
                    else:
                        self._room.clear()
                        await self._pause(None, self._room)
        calls = self._loaded.pop(model)
        self._loaded[model] = calls + 1

    async def _compute(self, seconds: float) -> None:
        """Work for so long, at the speed that it has now; while it is stuck or away nothing moves."""
        await self._pause(seconds * self.slowness)
        while self.condition in (Condition.STUCK, Condition.AWAY):
            await self._pause(None, self._changed)

    async def _pause(self, seconds: float | None, event: asyncio.Event | None = None) -> None:
        """Wait for some time or an event. Raises RetrySameProvider when the connection breaks."""
        wait = self._loop.create_future()
        self._waits[wait] = None
        timer = self._loop.call_later(seconds, _end, wait) if seconds is not None else None
        beside = asyncio.ensure_future(event.wait()) if event is not None else None
        if beside is not None:
            beside.add_done_callback(lambda _: _end(wait))
        try:
            await wait
        finally:
            self._waits.pop(wait, None)
            if timer is not None:
                timer.cancel()
            if beside is not None:
                beside.cancel()


def _end(wait: asyncio.Future[None]) -> None:
    if not wait.done():
        wait.set_result(None)


def _found(text: str) -> tuple[str, str]:
    found = _WORK.search(text)
    assert found is not None, "a prompt says how much there is to do"
    return found[1], found[2]
