"""Web search by Tavily behind the same port as a model: the prompt is the query, the answer a JSON list of results."""

from __future__ import annotations

from typing import Final

from pydantic import SecretStr

from headrace_models import capabilities
from headrace_models.call import Call, calling
from headrace_models.conversation import AnswerSchema
from headrace_models.embedding import makes_none
from headrace_models.found_sources import findings
from headrace_models.ports import (
    ChatRequest,
    ChatResult,
    EmbedRequest,
    EmbedResult,
    OnPiece,
    OnText,
    ProviderStatus,
    no_pieces,
)
from headrace_models.search_calls import look, query_of, search
from headrace_models.upstream.http import open_client
from headrace_models.upstream.probing import Seen, probe
from headrace_models.upstream.values import name, text

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
        query = query_of(request, self.provider)
        simulated, request_id = False, ""
        async with calling(call):
            capabilities.expect(request, frozenset(), self.provider)
            body = {
                "query": query,
                "search_depth": "basic",
                "max_results": _MOST_RESULTS,
                "include_answer": True,
            }
            found, simulated = await search(self._client, call, "POST", "search", json=body)
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
        return await look(self._client, "usage", MODEL)

    async def close(self) -> None:
        await self._client.aclose()
