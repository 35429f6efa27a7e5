"""How fast a node is with one call and with several at once, and how many slots follow from that."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import aiohttp

from headrace.errors import HeadraceError

PARALLEL: Final = (1, 2, 4)
_TOKENS: Final = 64
_PROMPT_WORDS: Final = 300
_CALL_SECONDS: Final = 300.0
_WORTH_IT: Final = 1.2
"""How much more must be written in all for twice the calls to be worth that each of them is slower."""


class BenchmarkFailed(HeadraceError):
    """The node did not answer as a node must; the message says what it did."""


@dataclass(frozen=True, slots=True)
class CallTimes:
    """One call, in seconds and tokens per second; None where the node does not say."""

    first_token_seconds: float
    seconds: float
    tokens: int
    prompt_per_second: float | None
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class Level:
    """Some calls at once: medians of each call, and what all of them wrote together, in tokens per second."""

    parallel: int
    first_token_seconds: float
    prompt_per_second: float | None
    tokens_per_second: float | None
    total_per_second: float


def level_of(parallel: int, calls: Sequence[CallTimes], seconds: float) -> Level:
    """The summary of calls that ran at the same time, within so many seconds."""

    def middle(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if known else None

    return Level(
        parallel,
        median(call.first_token_seconds for call in calls),
        middle([call.prompt_per_second for call in calls]),
        middle([call.tokens_per_second for call in calls]),
        sum(call.tokens for call in calls) / seconds if seconds > 0 else 0.0,
    )


def suggested_slots(levels: Sequence[Level]) -> int:
    """As many as still add to what is written in all: the next more must be worth it."""
    best = levels[0]
    for level in levels[1:]:
        if level.total_per_second < best.total_per_second * _WORTH_IT:
            break
        best = level
    return best.parallel


async def measure(
    url: str, model: str | None, *, token: str | None = None, tls: ssl.SSLContext | None = None
) -> tuple[str, tuple[Level, ...]]:
    """Call a node, and nothing else; the model that was measured, by default one in memory, and each level.

    Raises BenchmarkFailed.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(limit=0, ssl=tls if tls is not None else True)
    try:
        async with aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False) as session:
            chosen = model or await _a_model(session, url)
            await _call(session, url, chosen)  # loads it
            levels = []
            for parallel in PARALLEL:
                began = time.perf_counter()
                calls = await asyncio.gather(*[_call(session, url, chosen) for _ in range(parallel)])
                levels.append(level_of(parallel, calls, time.perf_counter() - began))
    except (aiohttp.ClientError, OSError) as error:
        raise BenchmarkFailed(f"{url} cannot be reached ({type(error).__name__})") from error
    return chosen, tuple(levels)


async def _a_model(session: aiohttp.ClientSession, url: str) -> str:
    for path in ("/api/ps", "/api/tags"):
        async with session.get(url + path, allow_redirects=False) as response:
            document = _object(await response.text()) if response.status == 200 else {}
        for entry in document.get("models") or ():
            if isinstance(entry, dict) and isinstance(name := entry.get("model") or entry.get("name"), str):
                return name
    raise BenchmarkFailed(f"{url} lists no models; download one there, or name one with --model")


async def _call(session: aiohttp.ClientSession, url: str, model: str) -> CallTimes:
    # Words of its own at the beginning: a prompt that is known to the node costs nothing.
    prompt = f"{uuid.uuid4()} " + "count the apples and the pears in the garden " * (_PROMPT_WORDS // 9)
    body = {"model": model, "prompt": prompt, "stream": True, "options": {"num_predict": _TOKENS, "temperature": 0}}
    began = time.perf_counter()
    first: float | None = None
    pieces, last = 0, {}
    timeout = aiohttp.ClientTimeout(total=_CALL_SECONDS)
    async with session.post(f"{url}/api/generate", json=body, allow_redirects=False, timeout=timeout) as response:
        if response.status != 200:
            said = (await response.content.read(500)).decode("utf-8", "replace")
            raise BenchmarkFailed(f"{url} answers {response.status}: {said}")
        async for line in response.content:
            if line.strip():
                last = _object(line.decode("utf-8", "replace"))
                if last.get("error"):
                    raise BenchmarkFailed(f"{url} says: {str(last['error'])[:300]}")
                pieces += 1
                first = first or time.perf_counter()
    ended = time.perf_counter()
    tokens = last.get("eval_count")
    return CallTimes(
        (first or ended) - began,
        ended - began,
        tokens if isinstance(tokens, int) else pieces,
        _speed(last, "prompt_eval_count", "prompt_eval_duration"),
        _speed(last, "eval_count", "eval_duration"),
    )


def _speed(said: Mapping[str, Any], tokens: str, nanoseconds: str) -> float | None:
    count, duration = said.get(tokens), said.get(nanoseconds)
    if not isinstance(count, int) or not isinstance(duration, int) or duration <= 0:
        return None
    return count / (duration / 1e9)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BenchmarkFailed("what answers is no Ollama: it does not write JSON objects")
    return found
