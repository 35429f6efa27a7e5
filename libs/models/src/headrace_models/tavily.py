"""Web search by Tavily behind the same port as a model: the prompt is the query, the answer a JSON list of results."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import aiohttp
from pydantic import SecretStr

from headrace_models.call import Call, limited
from headrace_models.errors import BadRequest, RetrySameProvider, from_status, retry_after
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, ModelInfo, OnText, ProviderStatus
from headrace_models.wire import SIMULATED_HEADER

MODEL: Final = "tavily-search"
"""The one model it offers, so that routing needs no special case."""

_STATUS_TIMEOUT_SECONDS: Final = 5.0
_LONGEST_QUERY: Final = 400
"""Characters; the API rejects longer queries."""
_MOST_RESULTS: Final = 5


class Tavily:
    """The search API with one key. The last user message is the query; the answer is JSON with title, url, text."""

    provider: Final = "tavily"
    node: Final = "tavily"

    def __init__(self, api_key: SecretStr, *, base_url: str = "https://api.tavily.com") -> None:
        self._headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"}
        self._base_url = base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        call = Call(self.provider, request, on_text)
        query = next((message.text.strip() for message in reversed(request.messages) if message.role == "user"), "")
        if not query:
            raise BadRequest("invalid_request", "a search needs a user message as its query", provider=self.provider)
        try:
            async with limited(call):
                return await self._search(call, query[:_LONGEST_QUERY])
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            raise call.unreachable() from None
        except (aiohttp.ContentTypeError, ValueError, KeyError, TypeError):
            message = "tavily's response is not a search result"
            raise RetrySameProvider("provider_error", message, provider=self.provider, usage=call.spent()) from None

    async def _search(self, call: Call, query: str) -> ChatResult:
        body = {"query": query, "search_depth": "basic", "max_results": _MOST_RESULTS, "include_answer": True}
        async with self._open_session().post(f"{self._base_url}/search", json=body) as response:
            if response.status != 200:
                headers = {name.lower(): value for name, value in response.headers.items()}
                # Tavily uses statuses of its own for the limits of a plan and of pay-as-you-go.
                kind = "insufficient_quota" if response.status in (432, 433) else ""
                raise from_status(
                    response.status, provider=self.provider, kind=kind, after_seconds=retry_after(headers)
                )
            call.reported = CallUsage(searches=1)
            document = await response.json()
            simulated = SIMULATED_HEADER in response.headers
        await call.hear(_findings(document))
        return call.result("stop", model=MODEL, simulated=simulated, request_id=str(document.get("request_id") or ""))

    async def status(self) -> ProviderStatus:
        began = time.perf_counter()
        timeout = aiohttp.ClientTimeout(total=_STATUS_TIMEOUT_SECONDS)
        try:
            # Returns the plan's usage; costs no search.
            async with self._open_session().get(f"{self._base_url}/usage", timeout=timeout) as response:
                if response.status != 200:
                    return ProviderStatus(False, str(from_status(response.status, provider=self.provider)))
                simulated = SIMULATED_HEADER in response.headers
        except (aiohttp.ClientError, TimeoutError) as error:
            return ProviderStatus(False, f"tavily cannot be reached ({type(error).__name__})")
        latency_ms = (time.perf_counter() - began) * 1000
        return ProviderStatus(True, "", (ModelInfo(MODEL, loaded=True),), latency_ms, "", simulated)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers, timeout=aiohttp.ClientTimeout(total=None, sock_connect=10)
            )
        return self._session


def _findings(document: dict[str, Any]) -> str:
    results = [
        {"title": result["title"], "url": result["url"], "text": result["content"]} for result in document["results"]
    ]
    return json.dumps({"answer": document.get("answer"), "results": results}, ensure_ascii=False)
