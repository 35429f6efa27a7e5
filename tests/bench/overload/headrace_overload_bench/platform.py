"""The platform behind one node of simulated models whose capacity is known."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
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
from headrace_testing.up import RunningStack, open_folder, running_up

NODE: Final = "bench"
MODEL: Final = "gemma2:2b"
_CALIBRATION_CALLS: Final = 6


@dataclass(frozen=True, slots=True)
class Models:
    """What the node does.

    Attributes:
        slots: Calls at a time.
        tokens: Length of every answer, at 25 a second.
    """

    slots: int
    tokens: int


@dataclass(frozen=True, slots=True)
class LoadedPlatform:
    """A running platform, who asks it, and what is known of it.

    Attributes:
        capacity: Answers a second of the node, measured without the platform.
        tenants: Headers with a key of each tenant.
        load: The process that asks.
    """

    stack: RunningStack
    models: Models
    capacity: float
    tenants: Sequence[Mapping[str, str]]
    load: Child
    simulator: int

    @property
    def host(self) -> str:
        """Of intake."""
        return urlsplit(self.stack.intake_url).hostname or ""

    @property
    def port(self) -> int:
        """Of intake."""
        return urlsplit(self.stack.intake_url).port or 0

    def parts(self) -> Parts:
        """The platform's processes as they are now: one that has ended is started again, with another id."""
        return Parts({**self.stack.pids, "supervisor": self.stack.process.pid})


@asynccontextmanager
async def loaded_platform(models: Models, tenants: int, folder: Path) -> AsyncIterator[LoadedPlatform]:
    """A platform from an empty folder, from healthy to stopped. Raises ContestantFailed, AssertionError."""
    async with AsyncExitStack() as stack:
        simulator, origin = await stack.enter_async_context(_simulator(models))
        capacity = await calibrated(f"{origin}/ollama/{NODE}", models)
        say(f"the models alone give {capacity:.2f} answers/s")
        variables = {
            "HEADRACE_OLLAMA_NODES": f"{NODE}={origin}/ollama/{NODE};slots={models.slots}",
            # With one provider of the cloud, `headrace up` starts no simulator of its own. No task may go there.
            "GROQ_API_KEY": "none",
            "HEADRACE_GROQ_URL": f"{origin}/groq/openai/v1",
        }
        own = stack.enter_context(open_folder("bench-overload"))
        up = stack.enter_context(running_up(own, "--port-base", "0", **variables))
        command = [sys.executable, "-m", "headrace_overload_bench.open_load"]
        load = await stack.enter_async_context(running("load", command, folder))
        headers = [{**own, "X-Headrace-Privacy": "sensitive"} for own in await tenants_headers(up, tenants)]
        yield LoadedPlatform(up, models, capacity, headers, load, simulator)


async def calibrated(node_url: str, models: Models) -> float:
    """Answers a second of a node, asked by as many callers as it has slots, straight from here.

    Raises ContestantFailed when it does not answer.
    """
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Say yes."}],
        "options": {"num_predict": models.tokens},
        "stream": False,
    }

    async def caller(session: aiohttp.ClientSession) -> None:
        for _ in range(_CALIBRATION_CALLS):
            async with session.post(f"{node_url}/api/chat", json=body) as response:
                document = await response.json()
                if document.get("eval_count") != models.tokens:
                    raise ContestantFailed(f"the simulated model answered {document}")

    async with aiohttp.ClientSession() as session:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(models.slots):
                group.create_task(caller(session))
        return models.slots * _CALIBRATION_CALLS / (time.monotonic() - began)


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
