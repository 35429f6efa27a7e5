"""C. What the engine costs: work that is nothing, or next to nothing, beside a bare batch consumer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headrace_contracts.codec import Codec
from headrace_contracts.events import TaskCancelled
from headrace_contracts.topics import TASKS_CANCELLED
from headrace_streams.records import NewTopic, ProducerRecord

from headrace_bench.broker import create, fill
from headrace_bench.clients.hop import TENANT, prepared_codec
from headrace_bench.ratios import ratios, spread
from headrace_bench.report import Section, Target, left_out, rate, times
from headrace_bench.rounds import Contestant, Outcome, alternate, module

_TOPIC = "bench.overhead"
_KEYS = 1_000
_VALUE_BYTES = 300
_TARGET = 0.9
_HEAD = ("", "records/s", "CPU µs/record", "relative to the bare consumer")


def _records(codec: Codec, count: int) -> Iterator[ProducerRecord]:
    cancellation = TaskCancelled(
        task_id="0199b9d0-0000-7000-8000-000000000001", tenant=TENANT, requested_at=1_760_000_000_000
    )
    bare = len(codec.encode(TASKS_CANCELLED, cancellation))
    for number in range(count):
        # The length of a text takes one byte more from 64 characters on.
        reason = f"{number:012d}".ljust(_VALUE_BYTES - bare - 1)
        filled = TaskCancelled(
            task_id=cancellation.task_id,
            tenant=cancellation.tenant,
            reason=reason,
            requested_at=cancellation.requested_at + number,
        )
        yield ProducerRecord(
            _TOPIC, codec.encode(TASKS_CANCELLED, filled), key=f"key-{number % _KEYS}".encode(), partition=0
        )


def _contestants(bootstrap: str, records: int) -> Iterator[Contestant]:
    common = {"bootstrap": bootstrap, "topic": _TOPIC, "records": records}
    for name, batch, work in (
        ("batches of 500", 500, "look"),
        ("batches of 2,000", 2_000, "look"),
        ("batches of 500, one call per record", 500, "call"),
        ("batches of 500, decoding each record", 500, "decode"),
    ):
        yield Contestant(
            name=f"bare confluent_kafka, {name}",
            command=module("bare"),
            request={**common, "batch": batch, "work": work},
            settings=f"poll(), then consume({batch - 1}, 0); asynchronous commit every second",
        )
    for name, coroutine, work in (
        ("plain handler", False, "look"),
        ("async handler", True, "look"),
        ("plain handler decoding each record", False, "decode"),
    ):
        for ordering in ("unordered", "key"):
            yield Contestant(
                name=f"engine, {name}, {'key-ordered' if ordering == 'key' else ordering}",
                command=module("engine"),
                request={**common, "ordering": ordering, "coroutine": coroutine, "work": work},
                settings="default options",
            )


async def measure(bootstrap: str, folder: Path, rounds: int, records: int) -> Section:
    """Fill a topic, and have it read by each contestant in each round."""
    await create(bootstrap, NewTopic(_TOPIC, 1, 1))
    await fill(bootstrap, _records(await prepared_codec(""), records))
    outcomes = await alternate(list(_contestants(bootstrap, records)), rounds, folder)
    rows: list[list[str]] = []
    targets: list[Target] = []
    for one in outcomes:
        bare = _bare(outcomes, str(one.contestant.request["work"]))
        if one.failure is not None:
            rows.append(left_out(one, len(_HEAD)))
            continue
        share = ratios(one.rates, bare.rates) if bare is not None else None
        cpu = f"{spread(one.cpu_microseconds).median:.2f}"
        rows.append([one.contestant.name, rate(spread(one.rates)), cpu, "–" if share is None else times(share)])
        if one.contestant.name.startswith("engine, plain"):
            what = f"{one.contestant.name}, relative to the bare consumer with the same work"
            targets.append(Target(what, _TARGET, share))
    return Section(
        title="Engine overhead",
        what=f"{records:,} records of {_VALUE_BYTES} bytes with {_KEYS:,} keys on one partition, the handler does "
        "nothing or decodes the record",
        head=_HEAD,
        rows=rows,
        targets=targets,
        outcomes={one.contestant.name: one for one in outcomes},
    )


def _bare(outcomes: list[Outcome], work: str) -> Outcome | None:
    """The fastest bare consumer with this work; that looks at each message is the least, however it does."""
    wanted = "decode" if work == "decode" else "look"
    found = [
        one
        for one in outcomes
        if one.failure is None and "batch" in one.contestant.request and one.contestant.request["work"] == wanted
    ]
    return max(found, key=lambda one: spread(one.rates).median, default=None)
