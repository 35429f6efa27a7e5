"""Fixtures of the skill broadcaster's tests on the log's in-memory twin."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from headrace_testing.skill_broadcaster import Installation, skill_installation


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    """A cluster with the topics of skills."""
    async with skill_installation() as installation:
        yield installation


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """Waits until a condition holds."""

    async def wait(condition: Callable[[], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come about in time"
            await asyncio.sleep(0.005)

    return wait
