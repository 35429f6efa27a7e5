"""Answers that must fit a JSON Schema: checked wherever they come from, and repaired once.

Not every provider makes a model keep to a schema, and those that do skip what they do not support. So an answer is
checked here. One that does not fit is shown to the model again, with what is wrong; if the second does not fit either,
a strict request has failed, and any other gets the second as it is.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from headrace_models.answer import DECLINED, SpokenPiece, WholeAnswer
from headrace_models.conversation import AnswerSchema, ChatMessage, TextPart
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import ChatRequest, ChatResult, OnPiece, OnText, Provider

_MOST_SAID: Final = 300
_LEAST_SECONDS: Final = 1.0


def misfit(text: str, wanted: AnswerSchema) -> str:
    """What is wrong with an answer, quoting nothing of it but names of fields; empty if it fits."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "it is not one JSON value"
    try:
        error: ValidationError | None = next(Draft202012Validator(wanted.schema).iter_errors(value), None)
    except Exception as broken:  # noqa: BLE001 - a schema from outside can make the validator fail as it likes
        return f"it cannot be checked against its schema ({type(broken).__name__})"
    if error is None:
        return ""
    where = "/".join(map(str, error.absolute_path)) or "the value"
    return f"{where} breaks the rule {error.validator!r}"[:_MOST_SAID]


async def ask(provider: Provider, request: ChatRequest, on_text: OnText, on_piece: OnPiece) -> ChatResult:
    """Ask a model, and see to it that the answer fits its schema. Raises what `Provider.chat` raises."""
    began = time.perf_counter()
    wanted = request.schema
    if wanted is None:
        return await provider.chat(request, on_text, on_piece)
    if provider.keeps_to(wanted, request.model):
        result = await provider.chat(request, on_text, on_piece)
        return _judged(provider, result, wanted, _wrong(result, wanted))
    # What would have to be taken back is not passed on: pieces follow once the answer is known to fit.
    held: list[SpokenPiece | str] = []
    first = await provider.chat(request, held.append, held.append)
    if (wrong := _wrong(first, wanted)) is None:
        await _pass_on(held, on_text, on_piece)
        return replace(first, fits_schema=True)
    left = request.timeout_seconds - (time.perf_counter() - began)
    if left < _LEAST_SECONDS:
        return _as_it_is(provider, first, wanted, wrong)
    repaired: list[SpokenPiece | str] = []
    again = replace(
        request,
        timeout_seconds=left,
        messages=(
            *request.messages,
            ChatMessage("assistant", parts=(TextPart(first.text),)),
            ChatMessage("user", f"This does not fit the JSON Schema: {wrong}. Answer with one JSON value that does."),
        ),
    )  # fmt: skip
    try:
        second = await provider.chat(again, repaired.append, repaired.append)
    except ProviderError as error:
        error.usage = first.usage + error.usage
        raise
    second = replace(second, usage=first.usage + second.usage, total_ms=first.total_ms + second.total_ms)
    result = _judged(provider, second, wanted, _wrong(second, wanted))
    await _pass_on(repaired, on_text, on_piece)
    return result


def checked(provider: Provider, request: ChatRequest, result: ChatResult) -> ChatResult:
    """An answer that nobody can ask for again: as it is, if it fits its schema or need not. Raises as `ask`."""
    wanted = request.schema
    return result if wanted is None else _judged(provider, result, wanted, _wrong(result, wanted))


def _wrong(result: ChatResult, wanted: AnswerSchema) -> str | None:
    """What is wrong with the first answer that does not fit; None if all do, or need not."""
    for choice in result.choices or (WholeAnswer(0, (TextPart(result.text),), result.finish_reason),):
        if choice.finish_reason in DECLINED or choice.calls:
            continue
        if choice.finish_reason == "length":
            return "it is cut off"
        if wrong := misfit(choice.text, wanted):
            return wrong
    return None


def _judged(provider: Provider, result: ChatResult, wanted: AnswerSchema, wrong: str | None) -> ChatResult:
    return replace(result, fits_schema=True) if wrong is None else _as_it_is(provider, result, wanted, wrong)


def _as_it_is(provider: Provider, result: ChatResult, wanted: AnswerSchema, wrong: str) -> ChatResult:
    if not wanted.strict:
        return replace(result, fits_schema=False)
    if result.finish_reason == "length":
        message = f"{provider.node} reached the longest answer before the JSON was whole; raise max_tokens"
        raise TryAnotherProvider("output_limit", message, provider=provider.provider, usage=result.usage)
    message = f"{provider.node} gave an answer that does not fit its schema: {wrong}"
    raise RetrySameProvider("answer_does_not_fit", message, provider=provider.provider, usage=result.usage)


async def _pass_on(held: list[SpokenPiece | str], on_text: OnText, on_piece: OnPiece) -> None:
    for piece in held:
        waiting = on_text(piece) if isinstance(piece, str) else on_piece(piece)
        if waiting is not None:
            await waiting
