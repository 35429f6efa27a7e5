"""Waiting for what becomes true soon."""

import asyncio
from collections.abc import Awaitable, Callable


async def eventually(what: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Ask until `what` holds. Raises TimeoutError when it does not within `seconds`."""
    async with asyncio.timeout(seconds):
        while not await what():  # noqa: ASYNC110 - what is waited for is in other processes
            await asyncio.sleep(0.05)
