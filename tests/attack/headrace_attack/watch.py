"""Watches the services while they are attacked: whether they answer, and what memory they hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

import aiohttp
import psutil
from headrace_testing.up import RunningStack

from headrace_attack.report import Outcome

_SILENT_SECONDS: Final = 5.0
"""A service that does not answer /healthz for so long hangs: its event loop stands still."""
_PAUSE_SECONDS: Final = 0.25
_GROWTH_BYTES: Final = 200_000_000
_SETTLE_SECONDS: Final = 2.0


class Watch:
    """The services of a running platform."""

    def __init__(self, stack: RunningStack) -> None:
        self._stack = stack

    @contextlib.asynccontextmanager
    async def over(self, outcome: Outcome) -> AsyncIterator[None]:
        """While the block runs: adds to the outcome who was silent, and who holds much more memory afterwards."""
        before = self.memory()
        slowest: dict[str, float] = {}
        watching = [asyncio.create_task(self._ask(name, url, slowest)) for name, url in self._stack.ops_urls.items()]
        try:
            yield
        finally:
            await asyncio.sleep(_SETTLE_SECONDS)
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        for name, seconds in slowest.items():
            if seconds >= _SILENT_SECONDS:
                outcome.hangs.append(f"{name} did not answer /healthz for {seconds:.1f} s")
        after = self.memory()
        grown = {name: after[name] - size for name, size in before.items() if name in after}
        for name, more in grown.items():
            if more > _GROWTH_BYTES:
                outcome.through.append(f"{name} holds {more / 1e6:.0f} MB more than before")
        for name in self._stack.ops_urls:
            if name not in after:
                outcome.through.append(f"{name} has ended")
        slow = max(slowest, key=slowest.__getitem__, default="")
        most = max(grown, key=grown.__getitem__, default="")
        told = (
            f"slowest /healthz {slowest.get(slow, 0):.2f} s ({slow}), "
            f"most growth {grown.get(most, 0) / 1e6:.0f} MB ({most})"
        )
        outcome.note = f"{outcome.note}; {told}" if outcome.note else told

    def memory(self) -> Mapping[str, int]:
        """Resident bytes of each service that runs."""
        found = {}
        for name in self._stack.ops_urls:
            with contextlib.suppress(psutil.Error, KeyError):
                found[name] = psutil.Process(self._stack.pid(name)).memory_info().rss
        return found

    async def _ask(self, name: str, url: str, slowest: dict[str, float]) -> None:
        loop = asyncio.get_running_loop()
        answered = loop.time()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            while True:
                try:
                    async with session.get(f"{url}/healthz") as response:
                        await response.read()
                    silent, answered = loop.time() - answered, loop.time()
                except (aiohttp.ClientError, TimeoutError):
                    silent = loop.time() - answered
                slowest[name] = max(slowest.get(name, 0.0), silent - _PAUSE_SECONDS)
                await asyncio.sleep(_PAUSE_SECONDS)
