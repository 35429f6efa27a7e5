"""The platform behind one node of simulated models whose capacity is known."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from headrace_bench.children import Child, ContestantFailed, running
from headrace_gateway_bench.measuring import say
from headrace_gateway_bench.processes import Parts
from headrace_scale_bench.platforms import tenants_headers
from headrace_testing.up import open_folder, running_up

from headrace_overload_bench.arrivals import lengths

PLATFORM: Final = "headrace"
NODE: Final = "bench"
MODEL: Final = "gemma2:2b"


@dataclass(frozen=True, slots=True)
class Models:
    """What the node does.

    Attributes:
        slots: Calls at a time.
        tokens: Mean length of the answers (`lengths`), at 25 tokens a second.
    """

    slots: int
    tokens: int


@dataclass(frozen=True, slots=True)
class LoadedNode:
    """The node behind all systems, and the process that asks them.

    Attributes:
        origin: Of the simulator.
        capacity: Answers a second, measured without any system before it.
        load: The process that asks.
    """

    origin: str
    models: Models
    capacity: float
    load: Child
    simulator: int

    @property
    def url(self) -> str:
        """Of the node."""
        return f"{self.origin}/ollama/{NODE}"


@dataclass(frozen=True, slots=True)
class LoadedSystem:
    """A running system before the node, and who asks it.

    Attributes:
        model: The name by which it knows the node's model.
        deadline_field: In which field of a request it takes the time that is left, in seconds.
        tenants: Headers with a key of each tenant.
        parts: The system's processes as they are now: one that has ended is started again, with another id.
        settings: With which settings it runs.
    """

    name: str
    host: str
    port: int
    model: str
    deadline_field: str
    tenants: Sequence[Mapping[str, str]]
    parts: Callable[[], Parts]
    settings: str


@asynccontextmanager
async def loaded_node(models: Models, folder: Path) -> AsyncIterator[LoadedNode]:
    """The node and the process with the load. Raises ContestantFailed."""
    async with AsyncExitStack() as stack:
        simulator, origin = await stack.enter_async_context(_simulator(models))
        capacity = await calibrated(f"{origin}/ollama/{NODE}", models)
        say(f"the models alone give {capacity:.2f} answers/s")
        command = [sys.executable, "-m", "headrace_overload_bench.open_load"]
        load = await stack.enter_async_context(running("load", command, folder))
        yield LoadedNode(origin, models, capacity, load, simulator)


@asynccontextmanager
async def loaded_platform(node: LoadedNode, tenants: int) -> AsyncIterator[LoadedSystem]:
    """The platform from an empty folder, from healthy to stopped. Raises AssertionError."""
    variables = {
        "HEADRACE_OLLAMA_NODES": f"{NODE}={node.url};slots={node.models.slots}",
        # With one provider of the cloud, `headrace up` starts no simulator of its own. No task may go there.
        "GROQ_API_KEY": "none",
        "HEADRACE_GROQ_URL": f"{node.origin}/groq/openai/v1",
    }
    with open_folder("bench-overload") as own, running_up(own, "--port-base", "0", **variables) as up:
        address = urlsplit(up.intake_url)
        yield LoadedSystem(
            PLATFORM,
            address.hostname or "",
            address.port or 0,
            f"ollama/{MODEL}",
            "deadline",
            [{**own, "X-Headrace-Privacy": "sensitive"} for own in await tenants_headers(up, tenants)],
            lambda: Parts({**up.pids, "supervisor": up.process.pid}),
            "`headrace up`, every setting at its default",
        )


async def calibrated(node_url: str, models: Models) -> float:
    """Answers a second of a node, asked by as many callers as it has slots for each length of an answer, straight from
    here.

    Raises ContestantFailed when it does not answer.
    """
    body = {
        "model": MODEL, "messages": [{"role": "user", "content": "Say yes."}], "options": {}, "stream": False,
    }  # fmt: skip

    async def caller(session: aiohttp.ClientSession, first: int) -> None:
        every = lengths(models.tokens)
        # Each caller begins with another length, so that calls end at different moments.
        for number in range(len(every)):
            tokens = every[(first + number) % len(every)]
            asked = {**body, "options": {"num_predict": tokens}}
            async with session.post(f"{node_url}/api/chat", json=asked) as response:
                document = await response.json()
                if document.get("eval_count") != tokens:
                    raise ContestantFailed(f"the simulated model answered {document}")

    async with aiohttp.ClientSession() as session:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(models.slots):
                group.create_task(caller(session, number * len(lengths(models.tokens)) // models.slots))
        return models.slots * len(lengths(models.tokens)) / (time.monotonic() - began)


@asynccontextmanager
async def _simulator(models: Models) -> AsyncIterator[tuple[int, str]]:
    """Process id and origin of a simulator with one node."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headrace_models.simulator", "--port", "0", "--speed", "realistic",
        "--node", f"{NODE}={MODEL}", "--slots", str(models.slots),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise ContestantFailed(f"the simulator ended with {await process.wait()}")
        yield process.pid, line.decode().split()[-1]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
