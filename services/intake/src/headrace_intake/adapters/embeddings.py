"""`/v1/embeddings` in the form the openai client libraries expect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_contracts.events import Content
from headrace_runtime.http import parse_model, read_json

from headrace_intake.adapters.answering import Answering, asker
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.problems import problem_with
from headrace_intake.decide.chat_answers import (
    answer_sealed,
    headers,
    model_name,
    provenance,
    usage,
)
from headrace_intake.decide.embeddings import EmbeddingsRequest, draft_of_embeddings, taken_embedding
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.vectors import Form, in_base64, in_numbers, takes_long
from headrace_intake.decide.views import TaskView
from headrace_intake.service import SubmitRequest

_DECLARES_NUMBERS: Final = "python"


class EmbeddingsApi:
    """Handler of the OpenAI-compatible API for vectors."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/embeddings", self.embed)]

    async def embed(self, request: web.Request) -> web.Response:
        caller, key = asker(request)
        said = with_headers(expect_object(await read_json(request)), request.headers, request.query)
        body = taken_embedding(said, EmbeddingsRequest)
        asked = parse_model(body, EmbeddingsRequest)
        # How the vectors are written is no part of the task.
        document = {name: value for name, value in body.items() if name != "encoding_format"}
        acceptance, told = await self._answering.accept(
            SubmitRequest("embeddings", caller, draft_of_embeddings(asked), document, key)
        )
        with self._answering.watching(request, caller, acceptance.view.task_id):
            end = await self._answering.end(acceptance, told)
        told |= headers(end)
        # The Python package asks for base64 by itself and takes both; it declares the field as a list of numbers, so
        # that with strict validation it fails on base64.
        numbers = asked.encoding_format == "float" or request.headers.get("X-Stainless-Lang") == _DECLARES_NUMBERS
        try:
            text = await written(partial(_answer, end, in_numbers if numbers else in_base64), end.embeddings)
        except ContentSealed as sealed:
            raise problem_with(answer_sealed(sealed), told) from sealed
        return web.Response(text=text, content_type="application/json", headers=told)


async def written(write: Callable[[], str], vectors: Sequence[Content]) -> str:
    """What `write` returns; of many vectors, without stopping everything else for as long as that takes."""
    return await asyncio.to_thread(write) if takes_long(vectors) else write()


def _answer(end: TaskView, form: Form) -> str:
    """The body of an answer. Raises ContentSealed."""
    data = ",".join(
        f'{{"object":"embedding","index":{place},"embedding":{form(vector)}}}'
        for place, vector in enumerate(end.embeddings)
    )
    tokens = usage(end)
    counted = {name: tokens[name] for name in ("prompt_tokens", "total_tokens")}
    rest = dumps({"model": model_name(end), "usage": counted, "headrace": provenance(end)})
    return f'{{"object":"list","data":[{data}],{rest[1:]}'
