"""What a worker is late itself, is not the fault of its endpoints."""

from __future__ import annotations

import asyncio
import time

import pytest
from headrace_models.ports import CallUsage, ChatResult
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.estimates import CallSize
from headrace_models.worker.own_delay import OwnDelay
from headrace_testing.workers import ScriptedProvider

MODEL = "gemma2:2b"


async def test_a_loop_that_stands_is_late_by_as_much() -> None:
    loop, calls = asyncio.get_running_loop(), True
    delay = OwnDelay(lambda: calls)
    delay.watch()
    await asyncio.sleep(0.3)
    usual = delay.seconds(loop.time())
    time.sleep(0.7)  # noqa: ASYNC251 - this is what is tested
    at_once = delay.seconds(loop.time())
    await asyncio.sleep(0.01)
    later = delay.seconds(loop.time())
    assert usual < 0.3
    assert at_once - usual == pytest.approx(0.5, abs=0.25), "known before the next look"
    assert later == pytest.approx(at_once, abs=0.1), "and counted once"
    calls = False
    await asyncio.sleep(0.3)
    quiet = delay.seconds(loop.time())
    time.sleep(0.3)  # noqa: ASYNC251 - as above
    assert delay.seconds(loop.time()) == quiet, "nobody looks while there are no calls"


def answer(first: float, total: float) -> ChatResult:
    return ChatResult("so it is", "stop", CallUsage(7, 3), MODEL, first * 1000, total * 1000, False, "id-1")


def ended(endpoint: Endpoint, size: CallSize, began: float, first: float, now: float) -> None:
    endpoint.observe(MODEL, answer(first, now - began), now, size)
    endpoint.give_back("acme", now, size)


class _Late(OwnDelay):
    def __init__(self, rate: float) -> None:
        super().__init__(lambda: True)
        self._rate = rate

    def seconds(self, now: float) -> float:
        return self._rate * now


def known(late: float) -> Endpoint:
    """An endpoint with one answer: 0.1 s to the first token, 1 s in all."""
    endpoint = Endpoint(ScriptedProvider(), 64)
    endpoint.seen(endpoint.provider.current)  # type: ignore[attr-defined]
    endpoint.own_delay = _Late(late)
    size = CallSize(10)
    endpoint.take("acme", 1, MODEL, 0.0, size)
    ended(endpoint, size, 0.0, 0.1, 1.0)
    return endpoint


@pytest.mark.parametrize(("late", "room"), [(0.0, 16), (0.9, 64)])
def test_no_queue_at_the_endpoint_is_learned_from_a_worker_that_was_late(late: float, room: int) -> None:
    endpoint = known(late)
    sizes = [CallSize(10) for _ in range(64)]
    for size in sizes:
        endpoint.take("acme", 1, MODEL, 10.0, size)
    for size in sizes[:3]:
        ended(endpoint, size, 10.0, 3.1, 14.0)
    for size in sizes[3:]:
        endpoint.give_back("acme", 14.0, size)
    assert endpoint.room(MODEL, 14.0, alone=True) == pytest.approx(room, abs=1)


def test_the_first_of_calls_that_begin_together_share_the_endpoint_with_all() -> None:
    endpoint = known(0.0)
    sizes = [CallSize(10) for _ in range(32)]
    for size in sizes:
        endpoint.take("acme", 1, MODEL, 10.0, size)
    for size in sizes[:6]:
        ended(endpoint, size, 10.0, 1.1, 12.0)
    for size in sizes[6:]:
        endpoint.give_back("acme", 12.0, size)
    assert endpoint.room(MODEL, 12.0, alone=True) >= 14, "two calls at once are not half of what it runs"
