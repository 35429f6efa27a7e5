"""A batch through the unmodified `openai` package while intake is killed: each line has one end, and one result."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from headrace_contracts.topics import TASKS_COMPLETED, TASKS_SUBMITTED
from headrace_streams.kafka import KafkaLog
from headrace_testing.up import RunningStack
from openai import APIConnectionError, AsyncOpenAI, InternalServerError
from openai.types import Batch

PERIOD_SECONDS = 0.2


@pytest.fixture
async def agent(platform: RunningStack, tenant_key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{platform.intake_url}/v1", api_key=tenant_key, max_retries=0, timeout=60,
        _strict_response_validation=True,
    ) as client:  # fmt: skip
        yield client


def requests(lines: int) -> bytes:
    mark = uuid.uuid4().hex[:8]  # no other run has these prompts, so no cache their answers
    return b"".join(
        json.dumps({
            "custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions",
            "body": {
                "model": "auto", "privacy": "public", "max_tokens": 4,
                "messages": [{"role": "user", "content": f"Say {mark} {number}"}],
            },
        }).encode() + b"\n"
        for number in range(lines)
    )  # fmt: skip


async def seen(agent: AsyncOpenAI, batch: Batch) -> Batch:
    """The batch as it is now, or was before intake could not be asked."""
    try:
        return await agent.batches.retrieve(batch.id)
    except (APIConnectionError, InternalServerError):
        return batch


@pytest.mark.parametrize(
    ("lines", "kills"),
    [(1_000, 1), pytest.param(10_000, 3, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])],
    ids=["short", "long"],
)
async def test_every_line_has_one_result_though_intake_is_killed(
    platform: RunningStack, agent: AsyncOpenAI, tenant: str, lines: int, kills: int
) -> None:
    file = await agent.files.create(file=("requests.jsonl", requests(lines)), purpose="batch")
    batch = await agent.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    for kill in range(1, kills + 1):
        while (batch.request_counts.completed if batch.request_counts else 0) < kill * lines // (kills + 2):
            assert batch.status in ("validating", "in_progress")
            await asyncio.sleep(PERIOD_SECONDS)
            batch = await seen(agent, batch)
        pid = platform.pid("intake")
        os.kill(pid, signal.SIGKILL)
        while platform.pids.get("intake", pid) == pid:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(PERIOD_SECONDS)
    while batch.status in ("validating", "in_progress", "finalizing"):
        await asyncio.sleep(PERIOD_SECONDS)
        batch = await seen(agent, batch)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (lines, lines, 0)
    assert batch.output_file_id is not None
    content = (await agent.files.content(batch.output_file_id)).content
    results = [json.loads(line) for line in content.splitlines()]
    assert [result["custom_id"] for result in results] == [f"line-{number}" for number in range(lines)]
    assert {result["response"]["status_code"] for result in results} == {200}
    submitted, completed = await events_of(platform, tenant)
    assert submitted.keys() == completed.keys() == {result["response"]["request_id"] for result in results}
    assert set(completed.values()) == {1}


async def events_of(platform: RunningStack, tenant: str) -> tuple[Counter[str], Counter[str]]:
    """How often each task of the tenant is in tasks.submitted, and how many ends it has in tasks.completed."""
    log = KafkaLog({"bootstrap.servers": platform.bootstrap_servers})
    found: list[Counter[str]] = []
    for spec in (TASKS_SUBMITTED, TASKS_COMPLETED):
        reader = log.reader()
        counted: Counter[str] = Counter()
        partitions = await reader.partitions_of(platform.topic_prefix + spec.name)
        bounds = await reader.bounds(partitions)
        await reader.assign({place: first for place, (first, _) in bounds.items()})
        left = {place: end for place, (first, end) in bounds.items() if end > first}
        while left:
            for record in await reader.poll(5_000, 5.0):
                headers = dict(record.headers)
                if headers.get("ce_tenant") == tenant.encode():
                    counted[(headers["ce_subject"] or b"").decode()] += 1
                if record.offset + 1 >= left.get(record.topic_partition, 0):
                    left.pop(record.topic_partition, None)
        await reader.close()
        found.append(counted)
    return found[0], found[1]
