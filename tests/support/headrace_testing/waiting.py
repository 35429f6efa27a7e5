"""Waiting for conditions."""

import asyncio
from collections.abc import Awaitable, Callable


async def eventually(what: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Poll until `what` holds. Raises TimeoutError if it does not within `seconds`."""
    async with asyncio.timeout(seconds):
        while not await what():  # noqa: ASYNC110 - the condition depends on other processes
            await asyncio.sleep(0.05)
