"""The requests that authenticated callers have open: how many, how many bytes, and their end when a key is revoked.

One tenant's callers can hold a share of a process, never all of it. What is counted is given back when the request
ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from headrace_runtime.access import Caller, StoredKey, is_revoked
from headrace_runtime.api_limits import RequestLimits
from headrace_runtime.problems import Problem
from headrace_runtime.rate_limit import used_up

_RETRY_SECONDS: Final = 1


class OpenRequest:
    """One request that is being answered; `reserve` counts its body."""

    __slots__ = ("_of", "bytes", "caller", "revoked", "task")

    def __init__(self, of: OpenRequests, caller: Caller, task: asyncio.Task[object]) -> None:
        self._of = of
        self.caller = caller
        self.task = task
        self.bytes = 0
        self.revoked = False

    def reserve(self, size: int) -> None:
        """Count `size` bytes for the body, in place of what was counted for it before.

        Raises Problem 429 when the tenant's open requests hold too much, 503 when those of all do.
        """
        self._of._reserve(self, size)


OPEN_REQUEST: Final = web.RequestKey("open_request", OpenRequest)
"""The request as it is counted: `http.read_json` counts its body."""


class OpenRequests:
    """All open requests of a process by key; see `api_limits.RequestLimits`."""

    def __init__(self, limits: RequestLimits | None = None, now: Callable[[], float] = time.time) -> None:
        self.limits = limits if limits is not None else RequestLimits()
        self._now = now
        self._by_key: dict[str, set[OpenRequest]] = {}
        self._by_tenant: dict[str, int] = {}
        self._bytes_by_tenant: dict[str, int] = {}
        self._bytes = 0

    @property
    def body_bytes(self) -> int:
        """Bytes of bodies counted now."""
        return self._bytes

    @property
    def fullness(self) -> float:
        """These, of the most that there may be."""
        return self._bytes / self.limits.body_bytes

    def of_tenant(self, tenant: str) -> int:
        """The tenant's open requests."""
        return self._by_tenant.get(tenant, 0)

    @contextmanager
    def opened(self, caller: Caller) -> Iterator[OpenRequest]:
        """Counts the request of the running task until the block ends.

        Raises Problem 429 when the tenant has too many open requests.
        """
        task = asyncio.current_task()
        assert task is not None
        count = self._by_tenant.get(caller.tenant, 0)
        if count >= self.limits.requests_per_tenant:
            raise Problem(
                429,
                "too-many-open-requests",
                f"This tenant has {count} open requests and streams here: end some of them, or try again later.",
                headers=used_up(
                    "open-requests", self.limits.requests_per_tenant, "concurrent-requests", _RETRY_SECONDS
                ),
            )
        request = OpenRequest(self, caller, task)
        self._by_tenant[caller.tenant] = count + 1
        self._by_key.setdefault(caller.key_id, set()).add(request)
        try:
            yield request
        finally:
            self._leave(request)

    def _leave(self, request: OpenRequest) -> None:
        caller = request.caller
        of_key = self._by_key[caller.key_id]
        of_key.discard(request)
        if not of_key:
            del self._by_key[caller.key_id]
        _subtract(self._by_tenant, caller.tenant, 1)
        self._count_bytes(request, 0)

    def _reserve(self, request: OpenRequest, size: int) -> None:
        more = size - request.bytes
        tenant = request.caller.tenant
        if more > 0 and self._bytes_by_tenant.get(tenant, 0) + more > self.limits.body_bytes_per_tenant:
            raise Problem(
                429,
                "too-many-open-bytes",
                "The bodies of this tenant's open requests are too large together: wait for some of their answers.",
                headers=used_up("open-bytes", self.limits.body_bytes_per_tenant, "content-bytes", _RETRY_SECONDS),
            )
        if more > 0 and self._bytes + more > self.limits.body_bytes:
            raise Problem(
                503, "busy", "Too many large requests are open here; try again.",
                headers={"Retry-After": str(_RETRY_SECONDS)},
            )  # fmt: skip
        self._count_bytes(request, size)

    def _count_bytes(self, request: OpenRequest, size: int) -> None:
        more = size - request.bytes
        request.bytes = size
        self._bytes += more
        tenant = request.caller.tenant
        _subtract(self._bytes_by_tenant, tenant, -more)

    def key_changed(self, key_id: str, key: StoredKey | None) -> None:
        """End the open requests that the key, as it is now, no longer allows; None for a key that was removed."""
        open_now = self._by_key.get(key_id)
        if not open_now:
            return
        now_ms = int(self._now() * 1000)
        for request in tuple(open_now):
            if not _still_allows(key, request.caller, now_ms):
                request.revoked = True
                request.task.cancel()
        if key is not None and key.revoked_at is not None and key.revoked_at > now_ms:
            # The clock of the process that revoked it is ahead of ours.
            seconds = (key.revoked_at - now_ms) / 1000
            asyncio.get_running_loop().call_later(seconds, self.key_changed, key_id, key)


def _still_allows(key: StoredKey | None, caller: Caller, now_ms: int) -> bool:
    return (
        key is not None
        and not is_revoked(key, now_ms)
        and key.tenant == caller.tenant
        and caller.scopes <= frozenset(key.scopes)
    )


def _subtract(counts: dict[str, int], name: str, amount: int) -> None:
    left = counts.get(name, 0) - amount
    if left:
        counts[name] = left
    else:
        counts.pop(name, None)
