"""Waits for dependencies, so that a service can start before Kafka, the registry or Postgres is available."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import aiohttp

from headrace_runtime.health import Health
from headrace_runtime.logging import get_logger
from headrace_runtime.redaction import redact_text

T = TypeVar("T")

_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 3.0
_SAY_EVERY_SECONDS: Final = 10.0

_log = get_logger("headrace.runtime.waiting")


class NotReady(Exception):
    """Raised by a probe: the dependency answered, but is not ready; try again."""


_NOT_YET: Final[tuple[type[Exception], ...]] = (NotReady, OSError, TimeoutError, aiohttp.ClientError)


async def wait_until(
    what: str,
    probe: Callable[[], Awaitable[T]],
    *,
    not_yet: tuple[type[Exception], ...] = (),
    health: Health | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    now: Callable[[], float] = time.monotonic,
) -> T:
    """Call `probe` until it returns, with growing delays, and report what is waited for in the log (and in /readyz).

    `what` is text such as "Kafka at 127.0.0.1:9092". NotReady, connection errors, timeouts and the types in `not_yet`
    lead to a retry; any other error is raised at once.
    """
    retried = (*_NOT_YET, *not_yet)
    delay = _FIRST_DELAY_SECONDS
    began = now()
    said_at: float | None = None
    if health is not None:
        # The first answer may take long, too.
        health.set(f"waiting for {what}", "no answer yet")
    while True:
        try:
            result = await probe()
        except retried as error:
            reason = redact_text(str(error)) or type(error).__name__
            if health is not None:
                health.set(f"waiting for {what}", reason)
            if said_at is None or now() - said_at >= _SAY_EVERY_SECONDS:
                said_at = now()
                _log.info(f"waiting for {what}", reason=reason, waited_seconds=round(said_at - began, 1))
            await sleep(delay)
            delay = min(delay * 1.6, _LONGEST_DELAY_SECONDS)
        else:
            if said_at is not None:
                _log.info(f"{what} is available", waited_seconds=round(now() - began, 1))
            if health is not None:
                health.remove(f"waiting for {what}")
            return result
