"""`/v1/embeddings` in the form the openai client libraries expect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_contracts.events import Content
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import parse_model, read_json

from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.problems import problem_with
from headrace_intake.decide.chat_answers import (
    answer_sealed,
    error_of,
    headers,
    model_name,
    provenance,
    too_late,
    usage,
)
from headrace_intake.decide.embeddings import EmbeddingsRequest, draft_of_embeddings, taken_embedding
from headrace_intake.decide.idempotency import parse_key
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.vectors import Form, in_base64, in_numbers, takes_long
from headrace_intake.decide.views import TaskView
from headrace_intake.decide.waits import wait_seconds
from headrace_intake.hang_ups import HangUps
from headrace_intake.service import Intake, SubmitRequest

_DECLARES_NUMBERS: Final = "python"


class EmbeddingsApi:
    """Handler of the OpenAI-compatible API for vectors.

    Args:
        answer_seconds: Longest wait for a task without a deadline.
        clock: Milliseconds since the epoch.
    """

    def __init__(self, intake: Intake, hang_ups: HangUps, *, answer_seconds: float, clock: Callable[[], int]) -> None:
        self._intake = intake
        self._hang_ups = hang_ups
        self._answer_seconds = answer_seconds
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/embeddings", self.embed)]

    async def embed(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        key = parse_key(request.headers.getall("Idempotency-Key", []))
        said = with_headers(expect_object(await read_json(request)), request.headers, request.query)
        body = taken_embedding(said, EmbeddingsRequest)
        asked = parse_model(body, EmbeddingsRequest)
        # How the vectors are written is no part of the task.
        document = {name: value for name, value in body.items() if name != "encoding_format"}
        acceptance = await self._intake.accept(
            SubmitRequest("embeddings", caller, draft_of_embeddings(asked), document, key)
        )
        told = {"X-Headrace-Task-Id": acceptance.view.task_id}
        if acceptance.replayed:
            told["Idempotency-Replayed"] = "true"
        wait = wait_seconds(acceptance.view, self._clock(), self._answer_seconds)
        with self._hang_ups.watching(request, caller, acceptance.view.task_id):
            end = await self._intake.end(acceptance, wait)
        if end is None:
            raise problem_with(too_late(acceptance.view.task_id), told)
        told |= headers(end)
        if (error := error_of(end)) is not None:
            raise problem_with(error, told)
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
