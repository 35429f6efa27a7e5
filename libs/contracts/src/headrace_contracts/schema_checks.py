"""Checks schema ids for as long as a process runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import RegistryUnavailable

CHECK_SECONDS: Final = (30.0, 60.0)
"""Between two checks: not the same for all processes, which may have started together."""
CHECK_AGAIN_SECONDS: Final = 2.0
"""While the registry is away or has lost schemas."""


async def keep_checking(codec: Codec, on_away: Callable[[str | None], None] = lambda reason: None) -> None:
    """Call `codec.check` until cancelled, soon after an outage has ended.

    `on_away` is called with the reason when the registry stops answering, and with None when it answers again.
    """
    is_away = False
    while True:
        calm = not is_away and codec.trouble is None
        await asyncio.sleep(random.uniform(*CHECK_SECONDS) if calm else CHECK_AGAIN_SECONDS)
        try:
            await codec.check()
        except RegistryUnavailable as error:
            if not is_away:
                on_away(str(error))
            is_away = True
        else:
            if is_away:
                on_away(None)
            is_away = False
