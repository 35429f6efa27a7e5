"""C. What the engine costs: work that is nothing, beside a bare batch consumer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headrace_streams.records import NewTopic, Outgoing

from headrace_bench.broker import create, fill
from headrace_bench.ratios import ratios, spread
from headrace_bench.report import Section, Target, left_out, rate, times
from headrace_bench.rounds import Contestant, Outcome, alternate, module

_TOPIC = "bench.overhead"
_KEYS = 1_000
_VALUE_BYTES = 300
_TARGET = 0.9
_HEAD = ("", "records/s", "processor µs/record", "of the bare consumer's rate")


def _records(count: int) -> Iterator[Outgoing]:
    for number in range(count):
        value = f"{number:012d}".encode() * (_VALUE_BYTES // 12)
        yield Outgoing(_TOPIC, value, key=f"key-{number % _KEYS}".encode(), partition=0)


def _contestants(bootstrap: str, records: int) -> list[Contestant]:
    common = {"bootstrap": bootstrap, "topic": _TOPIC, "records": records}
    bare = [
        Contestant(
            name=f"bare confluent_kafka, batches of {batch}{', a call for each' if work == 'call' else ''}",
            command=module("bare"),
            request={**common, "batch": batch, "work": work, "properties": {}},
            settings=f"poll(), then consume({batch - 1}, 0); asynchronous commit every second",
        )
        for batch, work in ((500, "look"), (2_000, "look"), (500, "call"))
    ]
    engines = [
        Contestant(
            name=f"engine, {'async' if coroutine else 'plain'} handler, {ordering}",
            command=module("engine"),
            request={**common, "ordering": ordering, "coroutine": coroutine, "options": {}, "properties": {}},
            settings="default options",
        )
        for coroutine in (False, True)
        for ordering in ("unordered", "key")
    ]
    return bare + engines


async def measure(bootstrap: str, folder: Path, rounds: int, records: int) -> Section:
    """Fill a topic, and have it read by each contestant in each round."""
    await create(bootstrap, NewTopic(_TOPIC, 1, 1))
    await fill(bootstrap, _records(records))
    outcomes = await alternate(_contestants(bootstrap, records), rounds, folder)
    measured = [outcome for outcome in outcomes if outcome.failure is None]
    bare = max((one for one in measured if one.contestant.request.get("work") == "look"), key=_median_rate)
    rows: list[list[str]] = []
    for one in outcomes:
        if one.failure is not None:
            rows.append(left_out(one, len(_HEAD)))
            continue
        cpu = f"{spread(one.cpu_microseconds).median:.2f}"
        rows.append([one.contestant.name, rate(spread(one.rates)), cpu, times(ratios(one.rates, bare.rates))])
    targets = [
        Target(f"{one.contestant.name}, rate relative to the bare consumer", _TARGET, ratios(one.rates, bare.rates))
        for one in measured
        if one.contestant.name.startswith("engine, plain")
    ]
    return Section(
        title="Engine overhead",
        what=f"{records:,} records of {_VALUE_BYTES} bytes with {_KEYS:,} keys on one partition, work that is nothing",
        head=_HEAD,
        rows=rows,
        targets=targets,
        outcomes={one.contestant.name: one for one in outcomes},
    )


def _median_rate(outcome: Outcome) -> float:
    return spread(outcome.rates).median
