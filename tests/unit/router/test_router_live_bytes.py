"""How many bytes of tasks a process has in flight, and when it takes no more."""

from __future__ import annotations

import asyncio

from headrace_router.live_bytes import LiveBytes


async def test_it_closes_at_the_limit_and_opens_when_an_eighth_is_free() -> None:
    opened: list[int] = []
    live = LiveBytes(800)
    live.on_open(lambda: opened.append(live.total))
    first, second = live.share(), live.share()
    closed = []
    for share, held in ((first, 500), (second, 300), (first, 401), (first, 400), (second, 399)):
        share.set(held)
        await asyncio.sleep(0)
        closed.append((live.closed, len(opened)))
    assert closed == [(False, 0), (True, 0), (True, 0), (False, 1), (False, 1)]
    assert opened == [700]


async def test_one_task_may_be_larger_than_all_of_it() -> None:
    live = LiveBytes(10)
    share = live.share()
    share.set(5_000)
    assert live.closed
    share.set(0)
    assert not live.closed


async def test_a_partition_that_is_given_up_leaves_its_room_and_says_nothing_more() -> None:
    live = LiveBytes(100)
    kept, gone = live.share(), live.share()
    kept.set(10)
    gone.set(200)
    assert live.closed
    gone.leave()
    gone.set(300)
    assert (live.total, live.closed) == (10, False)
