"""A. Work that waits, many records at once: our engine beside a serial consumer and the other parallel consumers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace_devstack.errors import DevstackError
from headrace_streams.records import NewTopic, ProducerRecord

from headrace_bench.broker import create, fill
from headrace_bench.peers import JavaPeer, NotToBeHad, PyrallelPeer, java_peer, pyrallel_peer
from headrace_bench.ratios import Spread, ratios, spread
from headrace_bench.report import Section, Target, left_out, rate, times
from headrace_bench.rounds import Contestant, Outcome, alternate, module

_VALUE_BYTES = 300
_WORKLOADS: Mapping[str, Callable[[random.Random], int]] = {
    "0 ms": lambda _: 0,
    "1 ms": lambda _: 1_000,
    "5 ms": lambda _: 5_000,
    "0 to 5 ms": lambda chance: chance.randrange(5_001),
}
"""Microseconds of a record's work."""
_FEW, _MANY = 20, 1_000
_SERIAL = "confluent_kafka, one record after the other"
_OURS = "our engine"
_JAVA = "Confluent Parallel Consumer (Java)"
_PYRALLEL = "pyrallel-consumer"
_KEYED = "key-ordered, {:,} keys".format
_LARGE_BUFFER = 10_000
_TIMES_SERIAL = 10.0
_OF_JAVA = 0.5


@dataclass(frozen=True, slots=True)
class _Peers:
    """What could be had; else the reason why not."""

    java: JavaPeer | str
    pyrallel: PyrallelPeer | str


async def measure(bootstrap: str, folder: Path, rounds: int, records: int) -> Section:
    """Fill topics for each workload, and have them worked off by each contestant in each round."""
    peers = await _peers(folder)
    outcomes: dict[str, list[Outcome]] = {}
    for workload in _WORKLOADS:
        for keys in (_FEW, _MANY):
            await create(bootstrap, NewTopic(_topic(workload, keys), 1, 1))
            await fill(bootstrap, _records(workload, keys, records))
        contestants = list(_contestants(bootstrap, workload, records, peers))
        outcomes[workload] = await alternate(contestants, rounds, folder, label=workload)
    return _section(outcomes, records)


async def _peers(folder: Path) -> _Peers:
    java: JavaPeer | str
    pyrallel: PyrallelPeer | str
    try:
        java = await java_peer(folder)
    except (NotToBeHad, DevstackError) as error:
        java = str(error)
    try:
        pyrallel = await pyrallel_peer()
    except NotToBeHad as error:
        pyrallel = str(error)
    return _Peers(java, pyrallel)


def _topic(workload: str, keys: int) -> str:
    return f"bench.work.{workload.replace(' ', '-')}.{keys}"


def _records(workload: str, keys: int, count: int) -> Iterator[ProducerRecord]:
    chance = random.Random(7)
    work = _WORKLOADS[workload]
    for number in range(count):
        value = f"{work(chance):08d}".encode().ljust(_VALUE_BYTES, b"x")
        yield ProducerRecord(_topic(workload, keys), value, key=f"key-{number % keys}".encode(), partition=0)


def _contestants(bootstrap: str, workload: str, records: int, peers: _Peers) -> Iterator[Contestant]:
    def common(keys: int) -> dict[str, object]:
        return {"bootstrap": bootstrap, "topic": _topic(workload, keys), "records": records}

    yield Contestant(
        name=_SERIAL,
        command=module("serial"),
        request=common(_MANY),
        warm_up={"records": min(records, 200)},
        settings="poll(), then consume(499, 0)",
    )
    variants = ((_KEYED(_FEW), _FEW, True), (_KEYED(_MANY), _MANY, True), ("unordered", _MANY, False))
    for name, keys, keyed in variants:
        options = {"max_in_flight": 1_000}
        request = {"ordering": "key" if keyed else "unordered", "options": options}
        yield Contestant(
            name=f"{_OURS}, {name}",
            command=module("engine_waiting"),
            request=common(keys) | request,
            settings="max_in_flight 1,000, else defaults",
        )
    for name, keys, keyed, buffer in (
        *((name, keys, keyed, 0) for name, keys, keyed in variants),
        (f"{_KEYED(_MANY)}, large buffer", _MANY, True, _LARGE_BUFFER),
    ):
        contestant = f"{_JAVA}, {name}"
        if isinstance(peers.java, str):
            yield Contestant(name=contestant, command=(), request={}, missing=peers.java)
            continue
        threads = 20 if keys == _FEW else 300
        topic = _topic(workload, keys)
        yield Contestant(
            name=contestant,
            command=peers.java.command(
                bootstrap, topic, records=records, keyed=keyed, keys=keys, concurrency=threads, buffer=buffer
            ),
            request={},
            warm_ups=3,
            settings=f"{peers.java.version}, maxConcurrency {threads}, messageBufferSize {buffer or 'its own'}, "
            "periodic asynchronous commits",
        )
    for name, keys, keyed in variants:
        contestant = f"{_PYRALLEL}, {name}"
        if isinstance(peers.pyrallel, str):
            yield Contestant(name=contestant, command=(), request={}, missing=peers.pyrallel)
            continue
        request = {"ordering": "key_hash" if keyed else "unordered", "options": {"max_in_flight": 1_000}}
        yield Contestant(
            name=contestant,
            command=peers.pyrallel.command(),
            request=common(keys) | request,
            settings=f"{peers.pyrallel.version}, asyncio engine, max_in_flight 1,000",
        )


def _section(outcomes: Mapping[str, list[Outcome]], records: int) -> Section:
    serial = {workload: _named(of_workload, _SERIAL) for workload, of_workload in outcomes.items()}
    rows: list[list[str]] = []
    for same in zip(*outcomes.values(), strict=True):
        failed = next((outcome for outcome in same if outcome.failure is not None), None)
        if failed is not None:
            rows.append(left_out(failed, 1 + len(outcomes)))
            continue
        cells = [
            f"{rate(spread(one.rates))} × {times(ratios(one.rates, serial[workload].rates))}"
            for workload, one in zip(outcomes, same, strict=True)
        ]
        rows.append([same[0].contestant.name, *cells])
    few = f"{_OURS}, {_KEYED(_FEW)}"
    many = f"{_OURS}, {_KEYED(_MANY)}"
    targets = [
        Target(f"{few}, {workload}, relative to serial", _TIMES_SERIAL, _ratio(outcomes[workload], few, _SERIAL))
        for workload in list(_WORKLOADS)[1:]
    ]
    javas = [one for one in outcomes["5 ms"] if one.contestant.name.startswith(f"{_JAVA}, {_KEYED(_MANY)}")]
    java = max(javas, key=lambda one: spread(one.rates).median if one.answers else 0.0).contestant.name
    targets.append(Target(f"{many}, 5 ms, relative to Java", _OF_JAVA, _ratio(outcomes["5 ms"], many, java)))
    return Section(
        title="Parallel work",
        what=f"{records:,} records of {_VALUE_BYTES} bytes on one partition, each waits as the column says; "
        "records/s × speed-up over the serial consumer",
        head=("", *outcomes),
        rows=rows,
        targets=targets,
        outcomes={f"{workload}: {one.contestant.name}": one for workload, some in outcomes.items() for one in some},
    )


def _named(outcomes: list[Outcome], name: str) -> Outcome:
    return next(outcome for outcome in outcomes if outcome.contestant.name == name)


def _ratio(outcomes: list[Outcome], one: str, other: str) -> Spread | None:
    figures, others = _named(outcomes, one), _named(outcomes, other)
    if figures.failure is not None or others.failure is not None:
        return None
    return ratios(figures.rates, others.rates)
