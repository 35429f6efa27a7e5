"""B. Consume, decide, keep, act: our journal beside Kafka transactions and a Faust table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
from headrace_contracts.topics import TASKS_CANCELLED, TASKS_JOURNAL, TASKS_REPLIES
from headrace_streams.records import NewTopic

from headrace_bench.broker import create
from headrace_bench.children import Child, ContestantFailed, running
from headrace_bench.ratios import ratios, spread
from headrace_bench.report import Section, Target, left_out, rate, times
from headrace_bench.rounds import ROUND_SECONDS, Contestant, Outcome, module

_RATE = 1_000
_CHANGELOG = "hop-cancellations-changelog"
"""Faust would create it as well, and then fail on its first records, since it has not heard of it yet."""
_OURS = "our journal: append, then publish"
_TRANSACTION = "confluent_kafka, a transaction for each batch"
_FAUST = "Faust, agent with a table"
_TIMES_FAUST = 10.0
_OF_TRANSACTION = 0.1
_HEAD = (
    "", "events/s, backlog", "CPU µs/event", "events/s per core", "per core × Faust's",
    f"p50 ms at {_RATE:,}/s", f"p99 ms at {_RATE:,}/s",
)  # fmt: skip


def _contestants(bootstrap: str) -> list[Contestant]:
    def common(name: str) -> dict[str, object]:
        return {"bootstrap": bootstrap, "prefix": f"bench-{name}."}

    return [
        Contestant(
            name=_OURS,
            command=module("hop_journal"),
            request={**common("journal"), "properties": {}},
            settings="headrace_streams.journal.Journal, up to 2,000 entries under way, no linger",
        ),
        Contestant(
            name=f"{_OURS}, linger.ms=0.5",
            command=module("hop_journal"),
            request={**common("lingering"), "properties": {"linger.ms": "0.5"}},
            settings="as above, for more events a core and a little more latency",
        ),
        Contestant(
            name=_TRANSACTION,
            command=module("hop_transaction"),
            request={**common("transaction"), "batch": 500, "properties": {"retry.backoff.ms": 5}},
            settings="retry.backoff.ms=5, linger.ms=0, at most 500 events a transaction",
        ),
        Contestant(
            name=_FAUST,
            command=module("hop_faust"),
            request={**common("faust"), "settings": {"producer_linger": 0.0, "stream_wait_empty": False}},
            settings="at least once, table in memory, no linger",
        ),
    ]


async def measure(bootstrap: str, folder: Path, rounds: int, records: int) -> Section:
    """Run all hops at once, and give each its turn: a backlog first, then events at a steady rate."""
    outcomes = [Outcome(contestant) for contestant in _contestants(bootstrap)]
    for outcome in outcomes:
        names = (TASKS_CANCELLED.name, TASKS_REPLIES.name, TASKS_JOURNAL.name, _CHANGELOG)
        prefix = outcome.contestant.request["prefix"]
        await create(bootstrap, *(NewTopic(f"{prefix}{name}", 1, 1) for name in names))
    async with AsyncExitStack() as stack:
        loads: dict[str, Child] = {}
        hops: dict[str, Child] = {}
        for outcome in outcomes:
            contestant = outcome.contestant
            hop = await stack.enter_async_context(running(contestant.name, contestant.command, folder))
            hops[contestant.name] = hop
            started = running(f"load of {contestant.name}", module("hop_load"), folder)
            loads[contestant.name] = await stack.enter_async_context(started)
            try:
                await hop.round(contestant.request, ROUND_SECONDS)
            except ContestantFailed as error:
                _leave_out(outcome, error)
        for number in range(rounds + 1):
            turn = number % len(outcomes)
            for outcome in outcomes[turn:] + outcomes[:turn]:
                if outcome.failure is not None:
                    continue
                name = outcome.contestant.name
                try:
                    answer = await _round(loads[name], hops[name], outcome.contestant, records)
                except ContestantFailed as error:
                    _leave_out(outcome, error)
                    continue
                if number > 0:
                    outcome.answers.append(answer)
                when = f"round {number}" if number else "warm-up"
                sys.stderr.write(
                    f"  {when:8} {name:48} {answer['records'] / answer['seconds']:10,.0f} /s, "
                    f"{1e6 * answer['cpu_seconds'] / answer['records']:6.1f} µs each, at {_RATE:,}/s "
                    f"p50 {answer['p50_ms']:.1f} p99 {answer['p99_ms']:.1f} ms\n"
                )
                sys.stderr.flush()
    return _section(outcomes, records)


async def _round(load: Child, hop: Child, contestant: Contestant, records: int) -> Mapping[str, float]:
    request = {"bootstrap": contestant.request["bootstrap"], "prefix": contestant.request["prefix"]}
    before = _cpu_seconds(hop)
    backlog = await load.round({**request, "records": records, "rate": None}, ROUND_SECONDS)
    between = _cpu_seconds(hop)
    steady = await load.round({**request, "records": max(records // 2, 1), "rate": _RATE}, ROUND_SECONDS)
    after = _cpu_seconds(hop)
    return {
        "records": backlog["records"],
        "seconds": backlog["seconds"],
        "cpu_seconds": between - before,
        "steady_records": steady["records"],
        "steady_cpu_seconds": after - between,
        "p50_ms": steady["p50_ms"],
        "p99_ms": steady["p99_ms"],
        "longest_ms": steady["longest_ms"],
    }


def _cpu_seconds(hop: Child) -> float:
    try:
        spent = psutil.Process(hop.process.pid).cpu_times()
    except psutil.Error as error:
        raise ContestantFailed(f"{hop.name}: {error}") from error
    return float(spent.user + spent.system)


def _leave_out(outcome: Outcome, error: ContestantFailed) -> None:
    outcome.failure = str(error)
    sys.stderr.write(f"  {outcome.contestant.name}: left out. {error}\n")


def _section(outcomes: list[Outcome], records: int) -> Section:
    ours, _, transaction, faust = outcomes
    rows: list[list[str]] = []
    for one in outcomes:
        if one.failure is not None:
            rows.append(left_out(one, len(_HEAD)))
            continue
        rows.append(
            [
                one.contestant.name,
                rate(spread(one.rates)),
                f"{spread(one.cpu_microseconds).median:.1f}",
                rate(spread(_a_core(one))),
                "–" if faust.failure is not None else times(ratios(_a_core(one), _a_core(faust))),
                f"{spread(one.figures('p50_ms')).median:.1f}",
                f"{spread(one.figures('p99_ms')).median:.1f}",
            ]
        )
    measured = ours.failure is None
    against_faust = ratios(_a_core(ours), _a_core(faust)) if measured and faust.failure is None else None
    in_time = ratios(ours.rates, faust.rates) if measured and faust.failure is None else None
    against_transaction = (
        ratios(ours.figures("p99_ms"), transaction.figures("p99_ms"))
        if measured and transaction.failure is None
        else None
    )
    return Section(
        title="Consume, decide, journal, publish",
        what=f"{records:,} events at once, then {max(records // 2, 1):,} at {_RATE:,} per second; one partition",
        head=_HEAD,
        rows=rows,
        targets=[
            Target("events/s per core, relative to Faust", _TIMES_FAUST, against_faust),
            Target("events/s with a backlog, relative to Faust", _TIMES_FAUST, in_time),
            Target(
                f"p99 at {_RATE:,} events/s, relative to the transaction",
                _OF_TRANSACTION,
                against_transaction,
                at_most=True,
            ),
        ],
        outcomes={one.contestant.name: one for one in outcomes},
    )


def _a_core(outcome: Outcome) -> list[float]:
    """Events for each second of the process's processor time, round by round."""
    return [1e6 / cost for cost in outcome.cpu_microseconds]
