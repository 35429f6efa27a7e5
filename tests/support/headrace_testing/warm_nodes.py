"""Agents with long prompts on simulated Ollama nodes, under virtual time: what it brings to send a prompt where its
beginning was read before.

Only the wire is left out: nodes are those of the simulator, with its memory of models and of prompts, and a worker's
pool chooses among them.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from headrace_contracts.content import plain
from headrace_contracts.events import AttemptRequested, Lane, Message, Privacy, Sampling
from headrace_local_worker.decide.balancing import choose_node
from headrace_models.conversation import ChatMessage
from headrace_models.ollama import OllamaNode
from headrace_models.ports import CallUsage, ChatResult, ModelInfo, ProviderStatus
from headrace_models.simulator import Speed
from headrace_models.simulator.answers import count_tokens
from headrace_models.simulator.node_settings import NodeSettings
from headrace_models.simulator.ollama_node import SimulatedNode
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.pool import Pool
from headrace_models.worker.requests import size_of
from headrace_models.worker.warm_prefixes import WarmPrefixes

from headrace_testing.simulation.loop import VirtualLoop

MODEL = "llama3:8b"
CONTEXT = 8_192
_STEPS, _SECONDS = 5_000_000, 100_000.0


@dataclass(frozen=True, slots=True)
class Load:
    """What agents ask for.

    Attributes:
        agents: Each has a system prompt of its own, and turns that follow one another.
        prompt_tokens: Of a system prompt, about.
        pause_seconds: From an answer to the next turn, on average.
    """

    agents: int = 12
    turns: int = 8
    prompt_tokens: int = 3_000
    answer_tokens: int = 60
    pause_seconds: float = 6.0
    nodes: int = 4
    slots: int = 4
    read_per_second: float = 1_500.0
    write_per_second: float = 40.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of it. Seconds to the first token, tokens of prompts, and how many calls each node ran."""

    first: tuple[float, ...]
    read: int
    cached: int
    calls: tuple[int, ...]

    @property
    def p50(self) -> float:
        return statistics.median(self.first)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.first, n=20)[-1]

    @property
    def share_cached(self) -> float:
        return self.cached / self.read


def in_virtual_time(doing: Coroutine[Any, Any, Figures]) -> Figures:
    """Run it on a loop whose clock jumps."""
    loop = VirtualLoop(max_steps=_STEPS, max_seconds=_SECONDS)  # type: ignore[abstract]
    try:
        figures: Figures = loop.run_until_complete(doing)
        return figures
    finally:
        loop.close()


def measured(load: Load, *, warm: bool, seed: int) -> Figures:
    """The figures of a load, with and without regard to what nodes have read."""
    return in_virtual_time(_Agents(load, warm=warm, seed=seed).run())


class _Agents:
    def __init__(self, load: Load, *, warm: bool, seed: int) -> None:
        self._load, self._warm, self._rng = load, warm, random.Random(seed)
        self._first: list[float] = []
        self._read = 0
        self._nodes: dict[str, SimulatedNode] = {}
        self._calls: dict[str, int] = {}

    async def run(self) -> Figures:
        load = self._load
        endpoints = []
        for number in range(load.nodes):
            name = f"n{number}"
            settings = NodeSettings(
                num_parallel=load.slots, context_length=CONTEXT, tokens_per_second=load.write_per_second,
                prompt_tokens_per_second=load.read_per_second,
            )  # fmt: skip
            self._nodes[name] = SimulatedNode((MODEL,), settings, Speed(1.0))
            self._calls[name] = 0
            endpoint = Endpoint(OllamaNode(name, f"http://127.0.0.1:1/{name}"), load.slots)
            info = ModelInfo(MODEL, 5_000_000_000, CONTEXT, loaded=True, loaded_context_tokens=CONTEXT)
            endpoint.seen(ProviderStatus(True, "", (info,), 1.0))
            endpoints.append(endpoint)
        self._pool = Pool(endpoints, choose_node, warm=WarmPrefixes() if self._warm else None)
        prompts = [self._words(load.prompt_tokens) for _ in range(load.agents)]
        await asyncio.gather(*[self._agent(number, prompt) for number, prompt in enumerate(prompts)])
        cached = sum(node.cached_tokens for node in self._nodes.values())
        return Figures(tuple(self._first), self._read, cached, tuple(self._calls.values()))

    def _words(self, tokens: int) -> str:
        return " ".join(f"w{self._rng.randrange(10_000)}" for _ in range(tokens // 2))

    async def _agent(self, number: int, prompt: str) -> None:
        said = [ChatMessage("system", prompt)]
        for turn in range(self._load.turns):
            await asyncio.sleep(self._rng.expovariate(1 / self._load.pause_seconds))
            said.append(ChatMessage("user", f"{turn} {self._words(80)}"))
            await self._turn(number, said)
            said.append(ChatMessage("assistant", self._words(self._load.answer_tokens)))

    async def _turn(self, number: int, said: Sequence[ChatMessage]) -> None:
        loop, load = asyncio.get_running_loop(), self._load
        began = loop.time()
        size = size_of(_request(number, said))
        endpoint = await self._pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None, size=size)
        sent = loop.time()
        node = self._nodes[endpoint.name]
        async with node.memory.running(node.models[MODEL], CONTEXT, None) as loaded:
            model = node.paced(loaded, said)
            await asyncio.sleep(model.first_token_seconds)
            first = loop.time()
            await asyncio.sleep(load.answer_tokens / model.tokens_per_second)
        self._first.append(first - began)
        self._read += sum(count_tokens(one.text) for one in said)
        self._calls[endpoint.name] += 1
        ended = ChatResult(
            "x", "stop", CallUsage(size.prompt_tokens, load.answer_tokens), MODEL, (first - sent) * 1000,
            (loop.time() - sent) * 1000, False, "",
        )  # fmt: skip
        self._pool.release(endpoint, ended, MODEL, seconds=loop.time() - sent, size=size)


def _request(number: int, said: Sequence[ChatMessage]) -> AttemptRequested:
    return AttemptRequested(
        attempt_id=f"t{number}/1", task_id=f"t{number}", tenant="acme", number=1, home_partition=0, provider="ollama",
        model=MODEL, privacy=Privacy.PUBLIC,
        messages=tuple([Message(role=one.role, content=plain(one.text)) for one in said]), sampling=Sampling(),
        lane=Lane.INTERACTIVE, requested_at=0,
    )  # fmt: skip
