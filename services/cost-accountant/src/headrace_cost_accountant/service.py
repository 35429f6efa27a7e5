"""Keeps live windows running beside the ledger, which they must never stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from headrace_runtime.health import Health
from headrace_runtime.logging import get_logger
from headrace_runtime.redaction import redact_text

from headrace_cost_accountant.metrics import LedgerMetrics

_FIRST_DELAY_SECONDS: Final = 1.0
_LONGEST_DELAY_SECONDS: Final = 60.0
_SETTLED_SECONDS: Final = 120.0
_NOTE: Final = "live windows"

_log = get_logger("headrace.costs.service")


class Windows(Protocol):
    """One run of the computation of live windows."""

    async def run(self, on_started: Callable[[], None]) -> None:
        """Runs until cancelled; raises what ended it."""
        ...


class LiveWindowsRunner:
    """Runs the computation of live windows, and restarts it after a failure with growing delays.

    Args:
        make: Makes one run of it.
        first_delay_seconds: Delay after the first failure.
    """

    def __init__(
        self,
        make: Callable[[], Windows],
        health: Health,
        measures: LedgerMetrics,
        *,
        first_delay_seconds: float = _FIRST_DELAY_SECONDS,
    ) -> None:
        self._make = make
        self._health = health
        self._measures = measures
        self._first_delay = first_delay_seconds

    async def run(self) -> None:
        """Runs until cancelled."""
        loop = asyncio.get_running_loop()
        delay = self._first_delay
        while True:
            began = loop.time()
            self._health.note(_NOTE, "starting")
            try:
                await self._make().run(self._started)
            except Exception as error:  # noqa: BLE001 - the ledger continues whatever the error
                reason = redact_text(f"{type(error).__name__}: {error}")
                _log.warning("computing live windows failed", reason=reason, retry_seconds=delay, exc_info=error)
            else:
                reason = "stopped unrequested"
            finally:
                self._measures.windows_running.set(0)
            self._measures.windows_failures.inc()
            if loop.time() - began > _SETTLED_SECONDS:
                delay = self._first_delay
            down = f"down, restarting in {delay:g} s: {reason}"
            self._health.note(_NOTE, down)
            self._health.degrade(_NOTE, down)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY_SECONDS)

    def _started(self) -> None:
        _log.info("live windows are running")
        self._health.note(_NOTE, "running")
        self._health.degrade(_NOTE, None)
        self._measures.windows_running.set(1)
