"""Web search by Tavily behind the same port as a model: the prompt is the query, the answer a JSON list of results."""

from __future__ import annotations

from typing import Final

from pydantic import SecretStr

from headrace_models import capabilities
from headrace_models.call import Call, calling
from headrace_models.conversation import AnswerSchema
from headrace_models.embedding import makes_none
from headrace_models.errors import TryAnotherProvider
from headrace_models.found_sources import findings, search_query
from headrace_models.ports import (
    ChatRequest,
    ChatResult,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    OnPiece,
    OnText,
    ProviderStatus,
    no_pieces,
)
from headrace_models.upstream.http import expect_ok, open_client, read_body
from headrace_models.upstream.probing import STATUS_TIMEOUT_SECONDS, Seen, probe
from headrace_models.upstream.values import Unreadable, document, mapping, name, text
from headrace_models.wire import SIMULATED_HEADER

MODEL: Final = "tavily-search"
"""The one model it offers, so that routing needs no special case."""

_MOST_RESULTS: Final = 5


class Tavily:
    """The search API with one key. The last user message is the query; the answer is JSON with title, url, text.

    `proxy` as for `open_client`.
    """

    provider: Final = "tavily"
    node: Final = "tavily"

    def __init__(
        self, api_key: SecretStr, *, base_url: str = "https://api.tavily.com", proxy: str | None = None
    ) -> None:
        self._client = open_client(base_url, key=api_key, proxy=proxy)

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        call = Call(self.provider, request, on_text, on_piece)
        call.usage.billed_by_tokens = False
        query = search_query(message.text for message in reversed(request.messages) if message.role == "user")
        if not query:
            message = "a search needs a user message as its query"
            raise TryAnotherProvider("request_rejected", message, provider=self.provider)
        simulated, request_id = False, ""
        async with calling(call):
            capabilities.expect(request, frozenset(), self.provider)
            body = {
                "query": query,
                "search_depth": "basic",
                "max_results": _MOST_RESULTS,
                "include_answer": True,
            }
            async with self._client.stream("POST", "search", json=body) as response:
                await expect_ok(response)
                call.accepted = True
                call.usage.searches = 1
                simulated = SIMULATED_HEADER in response.headers
                found = mapping(document(await read_body(response)))
            if not isinstance(found.get("results"), list):
                raise Unreadable("there are no results in it")
            request_id = name(found.get("request_id"))
            await call.hear(findings(found["results"], excerpt="content", answer=text(found.get("answer"))))
            await call.finish("stop")
        return call.result(model=MODEL, simulated=simulated, request_id=request_id)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        raise makes_none(self.provider)

    def keeps_to(self, schema: AnswerSchema, model: str) -> bool:
        return False

    async def status(self) -> ProviderStatus:
        return await probe(self.provider, self._look, otherwise="does not report its usage")

    async def _look(self) -> Seen:
        # Returns the plan's usage; costs no search.
        async with self._client.stream("GET", "usage", timeout=STATUS_TIMEOUT_SECONDS) as response:
            await expect_ok(response)
            await read_body(response)
            return Seen(
                (ModelInfo(MODEL, loaded=True, capabilities=frozenset()),), SIMULATED_HEADER in response.headers
            )

    async def close(self) -> None:
        await self._client.aclose()
