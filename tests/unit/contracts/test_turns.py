"""Turns: so many a second and at a time, in turn among the sources, and none is lost when somebody gives up."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from headrace_contracts.turns import Turns


async def take(turns: Turns, source: str, taken: list[str], seconds: float = 0.0) -> None:
    async with turns.turn(source):
        taken.append(source)
        await asyncio.sleep(seconds)


@pytest.mark.parametrize(("per_second", "burst", "wanted"), [(100, 10, 40), (200, 1, 50), (50, 25, 40)])
async def test_there_are_so_many_a_second(per_second: float, burst: int, wanted: int) -> None:
    turns, taken = Turns(per_second, burst, 1_000), list[str]()
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(take(turns, "a", taken) for _ in range(wanted)))
    assert asyncio.get_running_loop().time() - began >= (wanted - burst) / per_second - 0.01
    assert len(taken) == wanted
    assert turns.waiting == 0


@pytest.mark.parametrize("most", [1, 3, 7])
async def test_there_are_so_many_at_once(most: int) -> None:
    turns = Turns(10_000, 10_000, most)
    running, peak = 0, 0

    async def work(number: int) -> None:
        nonlocal running, peak
        async with turns.turn(number % 5):
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.001)
            running -= 1

    await asyncio.gather(*(work(number) for number in range(60)))
    assert peak == most


@pytest.mark.parametrize("others", [1, 3, 10])
async def test_the_many_of_one_source_do_not_hold_back_another(others: int) -> None:
    turns, taken = Turns(500, 1, 4), list[str]()
    flood = [asyncio.create_task(take(turns, "flood", taken)) for _ in range(1_000)]
    await asyncio.sleep(0)
    await asyncio.gather(*(take(turns, f"other {number}", taken) for number in range(others)))
    assert taken.count("flood") <= 4 * others + 8
    for each in flood:
        each.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    await take(turns, "after", taken)
    assert turns.waiting == 0


async def test_whoever_gives_up_loses_no_turn_of_others() -> None:
    turns, taken = Turns(2_000, 1, 2), list[str]()
    tasks = [asyncio.create_task(take(turns, f"s{number % 7}", taken, 0.001)) for number in range(140)]
    for number, task in enumerate(tasks):
        if number % 3 == 0:
            await asyncio.sleep(0.0005)
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    ended = Counter(type(each) for each in results)
    assert ended[type(None)] > 90
    # All turns have been given back.
    await asyncio.wait_for(asyncio.gather(*(take(turns, "after", taken) for _ in range(10))), 30)
    assert turns._running == turns.waiting == 0


async def test_a_dear_turn_counts_as_many() -> None:
    turns, taken = Turns(100, 1, 1), list[str]()
    began = asyncio.get_running_loop().time()
    await take(turns, "a", taken)
    turns.charge(20)
    await take(turns, "a", taken)
    assert asyncio.get_running_loop().time() - began >= 0.2
