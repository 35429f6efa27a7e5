"""Promises about money: the ledger is the sum of the recorded usage, and budgets hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_streams.records import OffsetAndMetadata, TopicPartition

from headrace_testing.router_twin import PREFIX

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.record import Topics

USAGE = PREFIX + "usage.recorded"


@cache
def _prices() -> Mapping[str, Mapping[str, Any]]:
    text = resources.files("headrace_models").joinpath("prices.yaml").read_text(encoding="utf-8")
    providers: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)["providers"]
    return providers


def cost(event: UsageRecorded) -> int:
    """Nano-dollars, computed independently by the judge from the price book's text; fractions are rounded up."""
    models = _prices()[event.provider]
    price = models.get(event.model, models.get("*"))
    assert price is not None, f"simulated models have prices, not {event.provider}/{event.model}"
    usage = event.usage
    parts: int = usage.input_tokens * price.get("input", 0) + usage.output_tokens * price.get("output", 0)
    searches: int = usage.searches * price.get("search", 0)
    return (parts + 999_999) // 1_000_000 + searches


def check_commit(judge: Judge, client: str, name: TopicPartition, reached: OffsetAndMetadata) -> None:
    """The group's offsets follow the database's."""
    booked = judge.world.database.booked_to(name)
    if reached.next_offset > booked:
        judge.violated(f"{client} commits {name} at {reached.next_offset}, the database is at {booked}")


def unsettled(judge: Judge) -> Sequence[str]:
    """Usage that is not booked yet."""
    cluster, found = judge.world.cluster, []
    for number in range(cluster.partition_counts([USAGE])[USAGE]):
        name = TopicPartition(USAGE, number)
        end, reached = cluster.partition(name).end, judge.world.database.booked_to(name)
        if reached < end:
            found.append(f"{name} is booked up to {reached} of {end}")
    return found


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning money."""
    return [*_ledger(judge), *_budgets(judge), *_executions(judge)]


def _ledger(judge: Judge) -> Iterator[str]:
    database, usage = judge.world.database, judge.topics.usage
    for event_id in sorted(judge.topics.ambiguous_usage):
        yield f"usage {event_id} stands for several executions"
    booked = Counter(entry.event_id for entry in database.entries)
    for event_id in usage:
        if booked[event_id] != 1:
            yield f"usage {event_id} is booked {booked[event_id]} times"
    for event_id in booked:
        if event_id not in usage:
            yield f"usage {event_id} is booked, and was never recorded"
    expected: dict[tuple[str, str, str], int] = defaultdict(int)
    for event in usage.values():
        expected[event.tenant, event.provider, event.model] += cost(event)
    for key in {**expected, **database.balances}:
        if expected[key] != database.balances[key]:
            yield f"the balance of {'/'.join(key)} is {database.balances[key]} nano-dollars, not {expected[key]}"


def _budgets(judge: Judge) -> Iterator[str]:
    """The attempts of a task together cost at most its budget.

    Each is counted with the execution that was reported first, which the router settles it with. An attempt that runs
    twice is billed twice, and its repetition may cost more: that shows in the ledger, and no budget can prevent it.
    """
    topics = judge.topics
    for task_id, submitted in topics.submitted.items():
        budget = submitted[0][1].budget_nanodollars
        if budget is None or task_id in judge.refused:
            continue
        attempts = {request.attempt_id for _, request in topics.of_task(task_id)}
        spent = sum(_settled(topics, attempt) for attempt in sorted(attempts))
        if spent > budget:
            yield f"task {task_id} spent {spent} nano-dollars of its {budget}"


def _settled(topics: Topics, attempt: str) -> int:
    executions = topics.usage_of_attempt[attempt]
    first = topics.finished[attempt][0].execution_id if topics.finished[attempt] else None
    if first in executions:
        return cost(executions[first])
    return max(map(cost, executions.values()), default=0)


def _executions(judge: Judge) -> Iterator[str]:
    """Usage is recorded only of executions that happened: never more than the calls of models."""
    calls = Counter((call.provider, call.model) for call in judge.world.models.calls)
    recorded = Counter(
        (event.provider, event.model)
        for event in judge.topics.usage.values()
        # Nobody knows whether a lost one was called, and one that was stopped before its call has consumed nothing.
        if event.outcome is not Outcome.LOST and not (event.outcome is Outcome.CANCELLED and event.usage == Usage())
    )
    for key, count in recorded.items():
        if count > calls[key]:
            yield f"{count} executions of {'/'.join(key)} are recorded, and it was asked {calls[key]} times"
