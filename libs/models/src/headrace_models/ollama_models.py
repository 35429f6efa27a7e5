"""Models of an Ollama server: onto its disk and into its memory, and out of both.

Its own interface (`/api/pull`, `/api/delete`, and calls without a prompt) is described at
https://github.com/ollama/ollama/blob/main/docs/api.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from headrace_models.upstream.complaints import Complained, complaint_in, error_of
from headrace_models.upstream.events import lines
from headrace_models.upstream.http import UpstreamClient, because, expect_ok, read_body
from headrace_models.upstream.values import Unreadable, document, mapping, text

_SILENCE_SECONDS: Final = 300.0
"""Between two lines of a pull: a server verifies the digest of a layer of 40 GB without a word."""
_LOAD_SECONDS: Final = 600.0
_MOST_LAYERS: Final = 1_000
_LONGEST_STATUS: Final = 100
_LONGEST_WORDS: Final = 200
_PASSING: Final = frozenset({"overloaded", "rate_limited", "unreachable"})
"""Codes of failures that pass by themselves. A server repeats the downloads of a pull itself before it gives up."""


class PlacementFailed(Exception):
    """Tell whoever asked for it; the message says why. `again`: it may succeed later."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull has come.

    Attributes:
        status: In the server's words.
        completed_bytes, total_bytes: Of all layers that it has named so far; None before the first.
    """

    status: str
    completed_bytes: int | None = None
    total_bytes: int | None = None


class Layers:
    """Sums up the layers of a pull, whose lines are about one layer each."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    def take(self, line: Mapping[str, Any]) -> PullProgress:
        """The progress after another line."""
        digest, total = text(line.get("digest")), _bytes_in(line.get("total"))
        if digest and total and (digest in self._known or len(self._known) < _MOST_LAYERS):
            self._known[digest] = (min(_bytes_in(line.get("completed")) or 0, total), total)
        status = text(line.get("status"))[:_LONGEST_STATUS]
        if not self._known:
            return PullProgress(status)
        return PullProgress(
            status, sum(one for one, _ in self._known.values()), sum(all for _, all in self._known.values())
        )


def _bytes_in(value: object) -> int | None:
    """A number of bytes below 2 to the 53rd; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < 2**53 else None


async def pull(client: UpstreamClient, model: str, on_progress: Callable[[PullProgress], None]) -> None:
    """Put a model on the server's disk; one that is there is brought up to date. Goes on where an earlier pull broke
    off. Raises PlacementFailed."""
    layers = Layers()
    async with _translated(), client.stream("POST", "api/pull", json={"model": model, "stream": True}) as response:
        await expect_ok(response)
        done = False
        async for line in _spoken(lines(response.aiter_raw())):
            said = mapping(document(line))
            if said.get("error") and (complaint := complaint_in(said)):
                raise Complained(complaint)
            done = said.get("status") == "success"
            on_progress(layers.take(said))
    if not done:
        raise PlacementFailed("it broke off", again=True)


async def load(
    client: UpstreamClient, model: str, *, keep_alive: str | int | None, num_ctx: int | None, embeds_only: bool
) -> None:
    """Put a model into the server's memory, for as long as `keep_alive` says, with a context of `num_ctx` tokens (None:
    as the server is set). Others may have to leave it. Raises PlacementFailed."""
    said: dict[str, Any] = {} if keep_alive is None else {"keep_alive": keep_alive}
    if num_ctx is not None:
        said["options"] = {"num_ctx": num_ctx}
    await _call_without_prompt(client, model, said, embeds_only=embeds_only)


async def unload(client: UpstreamClient, model: str, *, embeds_only: bool) -> None:
    """Take a model out of the server's memory once its calls have ended. Raises PlacementFailed."""
    await _call_without_prompt(client, model, {"keep_alive": 0}, embeds_only=embeds_only)


async def remove(client: UpstreamClient, model: str) -> None:
    """Take a model off the server's disk. Raises PlacementFailed."""
    async with _translated(), client.stream("DELETE", "api/delete", json={"model": model}, timeout=60.0) as response:
        await expect_ok(response)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except Complained as refused:
        error = error_of(refused.complaint, provider="the server")
        # No content of anybody is in these calls, so the server's own words may be shown.
        words = "".join(sign for sign in refused.complaint.text[:_LONGEST_WORDS] if sign.isprintable())
        raise PlacementFailed(words or str(error), again=error.code in _PASSING) from None
    except httpx2.HTTPError as error:
        raise PlacementFailed(f"the server cannot be reached ({because(error)})", again=True) from None
    except Unreadable as error:
        raise PlacementFailed(f"the server's answer cannot be read: {error}", again=False) from None


async def _call_without_prompt(
    client: UpstreamClient, model: str, more: Mapping[str, Any], *, embeds_only: bool
) -> None:
    # A server refuses to generate with a model that only makes vectors.
    path = "api/embed" if embeds_only else "api/generate"
    nothing: Mapping[str, Any] = {"input": []} if embeds_only else {"stream": False}
    body = {"model": model, **nothing, **more}
    async with _translated(), client.stream("POST", path, json=body, timeout=_LOAD_SECONDS) as response:
        await expect_ok(response)
        said = mapping(document(await read_body(response)))
        if said.get("error") and (complaint := complaint_in(said)):
            raise Complained(complaint)


async def _spoken(said: AsyncIterator[str]) -> AsyncIterator[str]:
    while True:
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                line = await anext(said)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise PlacementFailed(f"the server said nothing for {_SILENCE_SECONDS:.0f} s", again=True) from None
        if line.strip():
            yield line
