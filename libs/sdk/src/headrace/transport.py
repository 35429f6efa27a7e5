"""Requests to the services: one session, retries where they are harmless, responses and problems as typed values."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from headrace.errors import (
    Conflict,
    HeadraceError,
    NotAllowed,
    NotFound,
    NotUnderstood,
    OverBudget,
    RequestInvalid,
    RetryLater,
    ServiceFailed,
    Unavailable,
)
from headrace.sse import EventParser, ParsedEvent

_CONNECT_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
# The services send a comment long before so much silence.
_SILENCE_SECONDS: Final = 60.0

Params = Mapping[str, str] | Sequence[tuple[str, str]]

# Refusals with 403 that no other key would spare the request.
_LESS_THAN_DEMANDED: Final = frozenset({"below-floor", "privacy", "mode", "no-consent"})
# Responses after which the service certainly has not executed the request: always safe to send again.
_NOT_DONE: Final = frozenset({"not-accepted", "rate-limit-exceeded", "database-unavailable"})


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful response: its status, its headers, and its JSON body (None if there was none)."""

    status: int
    headers: Mapping[str, str]
    document: Any


def pause_before(attempt: int, chance: float) -> float:
    """Seconds to wait before retry number `attempt` (1 is the first): exponential, with full jitter.

    `chance` is uniform in 0 to 1.
    """
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1)) * (0.5 + chance / 2)


class Transport:
    """Sends requests with a key.

    Args:
        api_key: Bearer token, or None for services without keys.
        patience_seconds: How long to retry requests that may succeed later, before the error is raised.
    """

    def __init__(self, api_key: str | None, *, patience_seconds: float = 20.0, timeout_seconds: float = 30.0) -> None:
        self._headers = {"User-Agent": "headrace-sdk", "Accept": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self.patience_seconds = patience_seconds
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._chance: Callable[[], float] = random.random

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        url: str,
        *,
        body: Any = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        timeout_seconds: float | None = None,
    ) -> Reply:
        """Send a request, retrying until there is a definite response.

        Args:
            repeatable: Whether a repeat is harmless, so that the request may be sent again when it is unknown whether
                it was executed.
            timeout_seconds: Longest wait for one response.

        Raises the errors of `headrace.errors`.
        """
        give_up_at = time.monotonic() + self.patience_seconds
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._once(method, url, body, params, headers, timeout_seconds or self._timeout_seconds)
            except _Again as again:
                pause = (
                    again.after_seconds if again.after_seconds is not None else pause_before(attempt, self._chance())
                )
                if not (repeatable or again.surely_not_done) or time.monotonic() + pause > give_up_at:
                    raise again.error from again.__cause__
            await asyncio.sleep(pause)

    async def _once(
        self,
        method: str,
        url: str,
        body: Any,
        params: Params | None,
        headers: Mapping[str, str] | None,
        timeout_seconds: float,
    ) -> Reply:
        timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=_CONNECT_SECONDS)
        try:
            async with self._opened().request(
                method, url, json=body, params=params, headers={**self._headers, **(headers or {})}, timeout=timeout
            ) as response:
                raw = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise _Again(_unreachable(url, error), surely_not_done=True) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Again(_unreachable(url, error), surely_not_done=False) from error
        document = _parsed(raw, response, url)
        if response.status >= 400:
            raise problem(response.status, response.headers, document, url)
        return Reply(response.status, response.headers, document)

    async def events(
        self,
        url: str,
        *,
        params: Params | None = None,
        last_event_id: str = "",
        on_open: Callable[[], None] | None = None,
    ) -> AsyncGenerator[ParsedEvent, None]:
        """The events of a stream, resumed after the last one whenever the connection ends.

        The caller recognises the last event and closes the iterator; it ends by itself when the service says that
        nothing will follow (204). `on_open` is called whenever a connection has been opened. Raises Unavailable or
        RetryLater when the service cannot be reached for `patience_seconds`, and the errors of a refused request.
        """
        pauses, failing_since = 0, 0.0
        while True:
            try:
                async with self._listen(url, params, last_event_id) as response:
                    if response.status == 204:
                        return
                    failing_since = 0.0
                    parser = EventParser(last_event_id)
                    if on_open is not None:
                        on_open()
                    async for chunk in response.content.iter_any():
                        pauses = 0
                        for event in parser.feed(chunk):
                            last_event_id = event.last_id
                            yield event
                        last_event_id = parser.last_id
            except (Unavailable, RetryLater):
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > self.patience_seconds:
                    raise
            pauses += 1
            await asyncio.sleep(pause_before(pauses, self._chance()))

    @asynccontextmanager
    async def _listen(
        self, url: str, params: Params | None, last_event_id: str
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        headers = {**self._headers, "Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        try:
            async with self._opened().get(url, params=params, headers=headers, timeout=timeout) as response:
                if response.status >= 400:
                    raw = await response.read()
                    error = problem(response.status, response.headers, _parsed(raw, response, url), url)
                    raise error.error if isinstance(error, _Again) else error
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(url, error) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Event streams occupy their connections: with a limit, they would block other requests.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session


class _Again(Exception):
    """The request may succeed later; `error` is what to raise when the retry time is over."""

    def __init__(self, error: HeadraceError, *, surely_not_done: bool, after_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.surely_not_done = surely_not_done
        self.after_seconds = after_seconds


def _unreachable(url: str, error: BaseException) -> Unavailable:
    match error:
        case TimeoutError():
            what = "did not answer in time"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            what = "cannot be reached: connection refused"
        case aiohttp.ClientConnectorError():
            what = f"cannot be reached: {error.os_error.strerror or error.os_error}"
        case _:
            what = f"broke the connection ({type(error).__name__})"
    return Unavailable(f"{_root(url)} {what}; is the service running? `headrace doctor` checks every part")


def _root(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _parsed(raw: bytes, response: aiohttp.ClientResponse, url: str) -> Any:
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        if response.status >= 400:
            return None
        raise NotUnderstood(
            f"{url} answered {response.status} with {response.content_type}, not JSON: is this address Headrace's?"
        ) from None


def problem(status: int, headers: Mapping[str, str], document: Any, url: str) -> HeadraceError | _Again:
    """The error for a refused request: problem details (RFC 9457), or OpenAI's shape."""
    details = document if isinstance(document, Mapping) else {}
    openai = details.get("error")
    if isinstance(openai, Mapping):
        details = {"detail": openai.get("message"), "type": openai.get("code"), **openai}
    kind = str(details.get("type") or "").removeprefix("urn:headrace:problem:")
    detail = str(details.get("detail") or details.get("title") or f"{url} answered {status}")
    after = _seconds(headers.get("Retry-After"))
    extra = {name: value for name, value in details.items() if name not in ("type", "title", "status", "detail")}
    if status == 429:
        return _Again(RetryLater(detail, after or 1.0), surely_not_done=True, after_seconds=after)
    if status in (502, 503, 504):
        error = RetryLater(detail, after) if after is not None else Unavailable(f"{_root(url)}: {detail}")
        return _Again(error, surely_not_done=kind in _NOT_DONE, after_seconds=after)
    if status >= 500:
        request_id = headers.get("X-Request-Id", "unknown")
        return ServiceFailed(f"{detail} (request {request_id})", status=status, kind=kind, extra=extra)
    kinds: dict[int, type[RequestInvalid | NotAllowed | OverBudget | NotFound | Conflict]] = {
        401: NotAllowed,
        402: OverBudget,
        403: NotAllowed,
        404: NotFound,
        409: Conflict,
        410: NotFound,
    }
    if status == 403 and kind in _LESS_THAN_DEMANDED:
        # No key may ask for this.
        return RequestInvalid(detail, status=status, kind=kind, extra=extra)
    return kinds.get(status, RequestInvalid)(detail, status=status, kind=kind, extra=extra)


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None
