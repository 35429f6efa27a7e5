"""Callers of the Batch API, with the unmodified `openai` package."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

import openai
from openai import AsyncOpenAI
from openai.types import Batch

from headrace_testing.intake_bed import BOOTSTRAP_KEY, Running

CHAT: Any = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def request_line(custom_id: Any, text: str = "hello", **body: Any) -> dict[str, Any]:
    """A line of a file."""
    asked = {"model": "auto", "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": asked}


def jsonl(lines: Iterable[Mapping[str, Any] | bytes]) -> bytes:
    """A file; lines that are bytes stay as they are."""
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def client_of(running: Running, key: str = BOOTSTRAP_KEY) -> AsyncOpenAI:
    """The package, as strict as it can be."""
    return AsyncOpenAI(
        base_url=f"{running.url}/v1", api_key=key, max_retries=0, timeout=30, _strict_response_validation=True
    )


async def started(client: AsyncOpenAI, content: bytes, endpoint: Any = CHAT, **options: Any) -> Batch:
    """A batch with this file."""
    file = await client.files.create(file=("requests.jsonl", content), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


async def ended(client: AsyncOpenAI, batch: Batch, seconds: float = 20) -> Batch:
    """The batch at its end."""
    async with asyncio.timeout(seconds):
        while batch.status not in ENDED:
            await asyncio.sleep(0.05)
            batch = await client.batches.retrieve(batch.id)
    return batch


async def lines_of(client: AsyncOpenAI, file_id: str | None) -> list[Any]:
    """The lines of a file of results."""
    if file_id is None:
        return []
    return [json.loads(line) for line in (await client.files.content(file_id)).content.splitlines()]


async def answers(client: AsyncOpenAI) -> bool:
    """Whether intake has its database."""
    try:
        await client.files.list()
    except openai.APIStatusError:
        return False
    return True
