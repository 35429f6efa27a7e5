"""Keeps what lives long out of garbage collection.

A full collection looks at every object of the process and stops the event loop meanwhile: 140 ms in a router with
20,000 tasks in flight. Nearly all of these are freed by their reference counts; only cycles need the collector. So what
has survived a full collection is frozen, and the next one looks only at what has come since. A cycle that dies after it
was frozen is found by a thorough collection, now and then.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

THOROUGH_SECONDS: Final = 3600.0
"""Time between two collections that look at everything."""
_OLDEST: Final = 2


class SurvivorFreezer:
    """Freezes what survives full collections, from `install` to `remove`. One for each process.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thorough_at = clock() + THOROUGH_SECONDS

    def install(self) -> None:
        """Follow the collections of this process from now on."""
        gc.callbacks.append(self._collecting)

    def remove(self) -> None:
        """Leave the collections alone, and let them look at everything again."""
        gc.callbacks.remove(self._collecting)
        gc.unfreeze()

    def _collecting(self, phase: str, about: Mapping[str, Any]) -> None:
        if about["generation"] != _OLDEST:
            return
        if phase == "stop":
            gc.freeze()
        elif self._clock() >= self._thorough_at:
            self._thorough_at = self._clock() + THOROUGH_SECONDS
            gc.unfreeze()
