"""Settings of models on simulated Ollama nodes, which hold models in memory and load them again as Ollama does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace_contracts.events import PlacementAction
from headrace_contracts.model_settings import NO_DEFAULTS, NodeDefaults
from headrace_models.conversation import ChatMessage
from headrace_models.ollama import OllamaNode
from headrace_models.ports import ChatRequest
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.node_settings import NodeSettings

MODEL = "gemma2:2b"


class _LoadingNode:
    """A node, and what of its server a test looks at."""

    def __init__(self, simulator: Simulator, defaults: NodeDefaults) -> None:
        self.node = OllamaNode("n", simulator.ollama_url("n"), keep_alive="30m", defaults=defaults)
        self._memory = simulator.nodes["n"].memory
        self._seen: list[object] = []

    async def call(self, num_ctx: int | None = None, keep_alive: str | None = None, text: str = "hi") -> None:
        await self.node.status()
        request = ChatRequest(
            MODEL, (ChatMessage("user", text),), timeout_seconds=10, max_output_tokens=20, num_ctx=num_ctx,
            keep_alive=keep_alive,
        )  # fmt: skip
        await self.node.chat(request, lambda piece: None)
        self._look()

    async def load(self, num_ctx: int | None = None, keep_alive: str | None = None) -> None:
        await self.node.status()
        await self.node.place(
            PlacementAction.LOAD, MODEL, lambda progress: None, num_ctx=num_ctx, keep_alive=keep_alive
        )
        self._look()

    def _look(self) -> None:
        for loaded in self._memory.loaded():
            if loaded not in self._seen:
                self._seen.append(loaded)

    @property
    def loads(self) -> int:
        return len(self._seen)

    @property
    def context(self) -> int:
        return self._memory.loaded()[-1].context

    def stays_seconds(self) -> float:
        return self._memory.loaded()[-1].expires_at - asyncio.get_running_loop().time()


@asynccontextmanager
async def node(defaults: NodeDefaults = NO_DEFAULTS) -> AsyncIterator[_LoadingNode]:
    config = SimulatorConfig(
        speed=Speed(None), nodes={"n": (MODEL,)}, servers={"n": NodeSettings(context_length=2_048)}
    )
    async with Simulator(config) as simulator:
        made = _LoadingNode(simulator, defaults)
        try:
            yield made
        finally:
            await made.node.close()


async def test_a_preload_is_the_load_that_the_calls_need() -> None:
    async with node() as found:
        await found.load(num_ctx=8_192, keep_alive="2h")
        assert (found.loads, found.context) == (1, 8_192)
        assert 7_000 < found.stays_seconds() <= 7_200
        for _ in range(3):
            await found.call(num_ctx=8_192)
        assert (found.loads, found.context) == (1, 8_192)
        assert found.stays_seconds() <= 1_800, "a call says anew how long"


async def test_a_preload_of_another_length_would_be_loaded_again() -> None:
    async with node() as found:
        await found.load()
        assert found.context == 2_048
        await found.call(num_ctx=8_192)
        assert (found.loads, found.context) == (2, 8_192)


async def test_roles_with_different_lengths_do_not_take_turns_in_loading_a_model() -> None:
    async with node() as found:
        for num_ctx in (4_096, 8_192, 4_096, 8_192, 4_096):
            await found.call(num_ctx=num_ctx)
        assert (found.loads, found.context) == (2, 8_192)


async def test_a_node_says_what_holds_there_and_what_it_can_take() -> None:
    async with node(NodeDefaults(num_ctx=4_096, max_num_ctx=6_000, keep_alive="1h")) as found:
        await found.load()
        assert found.context == 4_096
        assert 3_000 < found.stays_seconds() <= 3_600
        await found.call()
        await found.call(num_ctx=100_000, keep_alive="-1")
        assert (found.loads, found.context) == (2, 6_000)
        assert found.stays_seconds() > 86_400 * 365
