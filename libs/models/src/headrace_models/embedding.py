"""Vectors of texts: one call for them, what of its answer can be used, and many calls for many texts."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import sys
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from headrace_contracts.cargo import MOST_VECTOR_BYTES, fitting_vectors

from headrace_models.call import no_limit, spent_until
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import CallUsage, EmbedRequest, EmbedResult, Provider
from headrace_models.prices import estimated_tokens
from headrace_models.upstream.usage import UsageTally
from headrace_models.upstream.values import count

INPUTS_PER_CALL: Final = 128
"""Texts of one call. Of more, the first vectors tell how long all are before much is paid for vectors that do not fit
into a record, and no document from a provider gets so large that reading it stops everything else."""
MOST_VECTORS_BYTES: Final = 32 * 1024 * 1024
"""Of one document with vectors: 128 of 8,192 numbers in decimals."""
_NUMBERS: Final = frozenset({int, float})


class EmbedCall:
    """One running call for vectors. `provider` is the endpoint in words."""

    has_ended: Final = False

    def __init__(self, provider: str, request: EmbedRequest) -> None:
        self.provider = provider
        self.request = request
        self.accepted = False
        """Whether the provider has begun to answer, and so may bill."""
        self.usage = UsageTally()
        self._extend: Callable[[float], None] = no_limit
        self._began = time.perf_counter()

    def spent(self) -> CallUsage:
        """What the call has consumed until now, as `Call.spent`."""
        if not self.accepted:
            return CallUsage()
        return self.usage.of(prompt_estimate=sum(map(estimated_tokens, self.request.inputs)), text_estimate=0)

    def result(self, said: Sequence[object], *, model: str, simulated: bool) -> EmbedResult:
        """The vectors as the provider says them: lists of numbers, or base64 of 32 bit numbers.

        Raises RetrySameProvider unless there is one for each input, all alike in length, and TryAnotherProvider if they
        have another length than was asked for.
        """
        vectors = tuple(vector for one in said if (vector := packed(one)) is not None)
        if len(vectors) != len(said):
            raise self._unusable("a vector that is not one of finite numbers")
        if len(vectors) != len(self.request.inputs):
            raise self._unusable(f"{len(vectors)} vectors for {len(self.request.inputs)} texts")
        lengths = {len(vector) // 4 for vector in vectors}
        if len(lengths) != 1:
            raise self._unusable("vectors of several lengths")
        (length,) = lengths
        wanted = self.request.dimensions
        if wanted is not None and length != wanted:
            message = f"{self.provider} gave vectors of {length} numbers, where {wanted} were asked for"
            raise TryAnotherProvider("request_rejected", message, provider=self.provider, usage=self.spent())
        return EmbedResult(
            vectors=vectors,
            usage=self.spent(),
            model=model or self.request.model,
            total_ms=(time.perf_counter() - self._began) * 1000,
            simulated=simulated,
        )

    def _unusable(self, what: str) -> RetrySameProvider:
        message = f"{self.provider} gave {what}"
        return RetrySameProvider("invalid_vectors", message, provider=self.provider, usage=self.spent())


def packed(value: object) -> bytes | None:
    """A vector as 32 bit floating point numbers, little endian; None unless it has some, all of them finite."""
    numbers = array("f")
    try:
        if isinstance(value, str):
            numbers.frombytes(base64.b64decode(value, validate=True))
            if sys.byteorder == "big":
                numbers.byteswap()
        elif isinstance(value, list) and set(map(type, value)) <= _NUMBERS:
            numbers.extend(value)
    except (binascii.Error, ValueError, OverflowError):
        return None
    if not numbers or not all(map(math.isfinite, numbers)):
        return None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def in_order(data: Sequence[Mapping[str, object]]) -> list[object]:
    """The vectors of OpenAI's `data`, by their index."""
    by_index = {count(one.get("index", place)): one.get("embedding") for place, one in enumerate(data)}
    # An index twice, or a gap, shows in the number of vectors.
    return [by_index[place] for place in range(len(data)) if place in by_index]


def makes_none(provider: str) -> TryAnotherProvider:
    """The error of a provider whose API has no vectors. Routing asks none of them, as far as it knows."""
    return TryAnotherProvider("unsupported_operation", f"{provider} makes no vectors of texts", provider=provider)


async def embed(provider: Provider, request: EmbedRequest) -> EmbedResult:
    """The vectors of any number of texts, in as many calls as that takes, one after another.

    Raises what `Provider.embed` raises, with the usage of all calls; TryAnotherProvider if all vectors together are too
    large for the record of an answer.
    """
    began, end = time.perf_counter(), time.perf_counter() + request.timeout_seconds
    if request.dimensions is not None:
        _expect_to_fit(request, request.dimensions, provider, CallUsage())
    vectors: list[bytes] = []
    used = CallUsage()
    result: EmbedResult | None = None
    for first in range(0, len(request.inputs), INPUTS_PER_CALL):
        some = request.inputs[first : first + INPUTS_PER_CALL]
        left = max(0.001, end - time.perf_counter())
        try:
            result = await provider.embed(replace(request, inputs=some, timeout_seconds=left))
        except ProviderError as error:
            error.usage = used + error.usage
            raise
        except asyncio.CancelledError as cancelled:
            cancelled.args = (used + (spent_until(cancelled) or CallUsage()), *cancelled.args)
            raise
        used += result.usage
        if not vectors:
            _expect_to_fit(request, len(result.vectors[0]) // 4, provider, used)
        elif len(result.vectors[0]) != len(vectors[0]):
            message = f"{provider.node} gave vectors of several lengths"
            raise RetrySameProvider("invalid_vectors", message, provider=provider.provider, usage=used)
        vectors += result.vectors
    assert result is not None, "a request has inputs"
    return replace(result, vectors=tuple(vectors), usage=used, total_ms=(time.perf_counter() - began) * 1000)


def _expect_to_fit(request: EmbedRequest, dimensions: int, provider: Provider, used: CallUsage) -> None:
    fit = fitting_vectors(dimensions)
    if len(request.inputs) > fit:
        message = (
            f"{len(request.inputs)} vectors of {dimensions} numbers do not fit into the record of an answer, which "
            f"holds {MOST_VECTOR_BYTES} bytes of them: send at most {fit} texts at once"
        )
        raise TryAnotherProvider("answer_too_large", message, provider=provider.provider, usage=used)
