"""A running call that is given up when its endpoint is gone.

A server whose process is stopped, or whose machine has lost its network, closes no connection: what it was asked would
wait for the limits of a call, which are long since models may take long. Probes notice within seconds.
"""

from __future__ import annotations

import asyncio
from typing import Final

GONE_AFTER_PROBES: Final = 2
"""Probes in a row that did not reach an endpoint, each after some seconds, until it counts as gone."""
SILENT_SECONDS: Final = 5.0
"""A call from which something has come more recently goes on, whatever the probes say."""


class WatchedCall:
    """One call, in the asyncio task that makes it.

    Args:
        limit: Expires when the call is given up.
    """

    __slots__ = ("_heard_at", "_limit")

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._heard_at = asyncio.get_running_loop().time()

    def heard(self) -> None:
        """Something has come from the endpoint."""
        self._heard_at = asyncio.get_running_loop().time()

    def give_up_if_silent(self) -> None:
        """End the call, unless something has come from it lately."""
        now = asyncio.get_running_loop().time()
        if now - self._heard_at >= SILENT_SECONDS and not self._limit.expired():
            self._limit.reschedule(now)
