"""Streams of providers after accidents: whatever comes, an attempt ends in one report, and costs what it can have cost.

What must hold for any bytes: no exception but ours, the slot given back, exactly one report and one record of usage,
and counts between what was reported and what can be estimated.
"""

from __future__ import annotations

import random
import re

import pytest
from headrace_contracts import events, topics
from headrace_contracts.content import plain, text_of
from headrace_models.ports import ModelInfo, ProviderStatus
from headrace_models.prices import estimated_tokens
from headrace_models.upstream.values import MOST_TOKENS
from headrace_models.worker.breaker import CLOSED
from headrace_models.worker.endpoint import Endpoint
from headrace_testing.provider_faults.faults import PROMPT
from headrace_testing.provider_faults.mutations import Playback, cut, mutated, play_to, recordings
from headrace_testing.provider_faults.wires import WIRES, Wire
from headrace_testing.workers import WorkerBench, attempt

_BATCH = 250
"""Streams over one log in memory, which grows."""
_WRITTEN = 120
"""The largest number in the recordings that can pass for a count."""
_NUMBER = re.compile(rb":\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")


async def run(wire: Wire, seed: int, streams: int) -> None:
    rng = random.Random(seed)
    corpus = recordings(wire)
    small = [one for one in corpus if not any(number in one for number in (b"99999", b"1099511627776"))]
    for begun in range(0, streams, _BATCH):
        bench = WorkerBench()
        await bench.prepare()
        client, playback = wire.client("http://127.0.0.1:1"), Playback()
        play_to(client, playback)
        endpoint = Endpoint(client, slots=1)
        endpoint.seen(ProviderStatus(True, "", (ModelInfo(wire.model, loaded=True),), 1.0, "1"))
        runner = bench.runner([endpoint])
        numbers: list[bool] = []
        sent: list[bytes] = []
        for index in range(begun, min(begun + _BATCH, streams)):
            numbers.append(index % 2 == 0)
            data = mutated(rng.choice(corpus if numbers[-1] else small), small, rng, numbers=numbers[-1])
            sent.append(data)
            playback.pieces = cut(data, rng)
            request = attempt(
                task_id=f"task-{index}", provider=wire.provider, model=wire.model,
                messages=(events.Message(role="user", content=plain(PROMPT)),),
            )  # fmt: skip
            record = bench.submit(request)
            # Every stream counts by itself: failures in a row would keep the endpoint from being asked.
            endpoint.breaker = CLOSED
            await runner.handle(record)
            assert endpoint.busy == 0, (seed, index, data)
        await client.close()
        finished = {one.task_id: one for one in bench.read(topics.ATTEMPTS_FINISHED)}
        usages = {one.task_id: one for one in bench.read(topics.USAGE_RECORDED)}
        assert len(bench.records(topics.ATTEMPTS_FINISHED)) == len(sent) == len(finished)
        assert len(bench.records(topics.USAGE_RECORDED)) == len(sent) == len(usages)
        for index, data in enumerate(sent):
            name = f"task-{begun + index}"
            _judge(finished[name], usages[name], _largest(data), numbers=numbers[index], told=(seed, index, data))


def _largest(data: bytes) -> int:
    """The largest number in a stream that can pass for a count: digits may have come together or gone by accident.

    However it is written: `1e30` that has lost its last digit is a thousand, and JSON calls that a number.
    """
    found = [float(number) for number in _NUMBER.findall(data)]
    return max([_WRITTEN, *(int(number) for number in found if number <= MOST_TOKENS)])


def _judge(
    end: events.AttemptFinished, usage: events.UsageRecorded, largest: int, *, numbers: bool, told: object
) -> None:
    used = usage.usage
    assert end.usage == used, told
    assert end.failure is None or end.failure.code != "worker_error", (end.failure, told)
    read, written = used.input_tokens, used.output_tokens
    assert 0 <= read <= 4 * MOST_TOKENS, told
    assert 0 <= written <= MOST_TOKENS, told
    assert used.cached_input_tokens + used.cache_write_5m_tokens + used.cache_write_1h_tokens <= read, told
    text = text_of(end.content) if end.content is not None else ""
    if not numbers:
        assert 1 <= read <= max(largest * 3, estimated_tokens(PROMPT)), told
        # A failed stream's text is not reported: at most all of the recording was heard.
        assert written <= max(largest, estimated_tokens(str(told))), told
        assert not text or written >= 1, told
    assert "\ud800" not in text, told
    if end.failure is None:
        assert end.finish_reason in ("stop", "length", "tool_calls", "refusal", "content_filter"), told
        assert text.strip() or end.finish_reason != "stop", told


@pytest.mark.parametrize("name", WIRES)
async def test_any_stream_ends_in_one_report(name: str) -> None:
    await run(WIRES[name], seed=1, streams=2_000)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WIRES)
async def test_very_many_streams_end_in_one_report_each(name: str) -> None:
    await run(WIRES[name], seed=random.SystemRandom().randrange(2**32), streams=34_000)
