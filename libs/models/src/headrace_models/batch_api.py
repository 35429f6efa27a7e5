"""Requests that the batch APIs of all providers have in common: to create a batch, look at it, list, read, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any, Final

from headrace_models.batch_calls import (
    LOOK_SECONDS,
    MOST_LISTED,
    READ_SECONDS,
    SILENCE_SECONDS,
    SUBMIT_SECONDS,
    NotSubmitted,
    ResultLine,
    asking,
    batch_id_of,
    result_lines,
)
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.upstream.http import UpstreamClient, expect_ok, read_body
from headrace_models.upstream.values import Unreadable, document, items, mapping

SKEW_MS: Final = 60_000
"""Most that a provider's clock and ours may differ."""
_PAGE: Final = 100
_GONE: Final = 404
_SURELY_NOT: Final = frozenset({429, 503, 529})
"""Answers of a server that has taken nothing in."""


class BatchApi:
    """The batch API of one provider. Everything raises ProviderError, unless it says otherwise.

    Args:
        headers: Beside those of every request of the client.
    """

    def __init__(self, client: UpstreamClient, provider: str, headers: Mapping[str, str] | None = None) -> None:
        self.provider = provider
        self._client = client
        self._headers = dict(headers or {})

    async def created(
        self, path: str, *, json: object = None, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        """The id of a batch, or of a file, that is created so."""
        async with asking(self.provider, SUBMIT_SECONDS):
            said = await self._said("POST", path, json=json, content=content, headers=headers, timeout=SUBMIT_SECONDS)
            return batch_id_of(said.get("id"))

    async def submitted(
        self, path: str, *, json: object = None, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        """The same, of a batch. Raises NotSubmitted if there is certainly none, ProviderError if there may be one."""
        try:
            return await self.created(path, json=json, content=content, headers=headers)
        except ProviderError as error:
            if _surely_not_created(error):
                raise NotSubmitted("the provider takes no batch") from error
            raise

    async def seen(
        self, path: str, field: str, *, running: Collection[str], ended: Collection[str]
    ) -> tuple[Mapping[str, Any], bool] | None:
        """The document of a batch, and whether it has ended, by its state in a field; None if it is not there."""
        try:
            async with asking(self.provider):
                said = await self._said("GET", path)
                if (state := said.get(field)) not in running and state not in ended:
                    raise Unreadable("it names no state of a batch")
                return said, state in ended
        except TryAnotherProvider as error:
            if error.status == _GONE:
                return None
            raise

    async def checked(self, batch_id: object) -> str:
        """An id as part of a path."""
        async with asking(self.provider):
            return batch_id_of(batch_id)

    async def asked(self, method: str, path: str) -> Mapping[str, Any]:
        """The answer to a small request."""
        async with asking(self.provider):
            return await self._said(method, path)

    async def deleted(self, path: str) -> None:
        """Delete a batch or a file; what is gone already is no error."""
        try:
            await self.asked("DELETE", path)
        except TryAnotherProvider as error:
            if error.status != _GONE:
                raise

    async def results(self, path: str, read: Callable[[Mapping[str, Any] | None], ResultLine]) -> list[ResultLine]:
        """The lines of a file of results, each as `read` understands it."""
        async with (
            asking(self.provider, READ_SECONDS) as request,
            self._client.stream("GET", path, timeout=SILENCE_SECONDS, headers=self._headers) as response,
        ):
            await expect_ok(response)
            request.accepted = True
            return [read(said) async for said in result_lines(response.aiter_raw())]

    async def listed(
        self, path: str, since_ms: float, *, created_ms: Callable[[Mapping[str, Any]], float], cursor: str
    ) -> AsyncIterator[Mapping[str, Any]]:
        """The newest batches or files, up to the first that was created before a time.

        Args:
            cursor: The parameter with the id after which the next page begins.
        """
        after, seen = "", 0
        while seen < MOST_LISTED:
            said = await self.asked("GET", f"{path}{'&' if '?' in path else '?'}limit={_PAGE}{after}")
            entries = [mapping(one) for one in items(said.get("data"))[:_PAGE]]
            for entry in entries:
                if created_ms(entry) < since_ms:
                    return
                yield entry
            seen += max(1, len(entries))
            if not entries or said.get("has_more") is not True:
                return
            after = f"&{cursor}={await self.checked(entries[-1].get('id'))}"

    async def _said(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = LOOK_SECONDS,
    ) -> Mapping[str, Any]:
        async with self._client.stream(
            method, path, json=json, content=content, timeout=timeout, headers={**self._headers, **(headers or {})}
        ) as response:
            await expect_ok(response)
            return mapping(document(await read_body(response)))


def custom_id_in(said: Mapping[str, Any]) -> str:
    """The id of its call in a line of results; empty if it names none."""
    named = said.get("custom_id")
    return named if isinstance(named, str) else ""


def _surely_not_created(error: ProviderError) -> bool:
    """Whether nothing can have come of a request to create a batch that ended so."""
    if isinstance(error, RetrySameProvider):
        return not error.sent or error.status in _SURELY_NOT
    return True
