"""Promises about calls that cost money: none without an announcement, none that nobody accounts for, none for what is
already answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_testing.simulation.models import CLOUD_MODELS

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.models import Call


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning calls of providers that bill."""
    calls = [call for call in judge.world.models.calls if call.provider in CLOUD_MODELS]
    return [*_announced(judge, calls), *_accounted(judge, calls), *_not_again(judge, calls), *_marks(judge)]


def _announced(judge: Judge, calls: Sequence[Call]) -> Iterator[str]:
    for call in calls:
        found = judge.topics.started.get(call.execution)
        if found is None or found[0].at > call.at:
            yield f"{call.run} calls {call.provider} for {call.execution} before its start is on disk"


def _accounted(judge: Judge, calls: Sequence[Call]) -> Iterator[str]:
    """What was billed is recorded with its tokens, or it is recorded that it may have been billed.

    Not known to anybody, and no promise: calls of a worker that had lost its partitions and did not know it yet, if it
    dies before it has recorded them. The new owner had looked before they were announced.
    """
    topics = judge.topics
    recorded = {event.execution_id: event for event in topics.usage.values() if not event.event_id.endswith("/lost")}
    abandoned = {found[1].attempt_id for place, found in topics.work.items() if place in topics.letters}
    consumed: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if not call.refused:
            consumed[call.execution].append(call)
    for execution, made in consumed.items():
        event = recorded.get(execution)
        if event is None:
            announced = topics.started.get(execution)
            exempt = any(call.unaware for call in made) or (
                announced is not None and announced[1].attempt_id in abandoned
            )
            if execution not in topics.lost and not exempt:
                yield f"{made[0].run} called {made[0].provider} for {execution}, and nobody knows what it cost"
            continue
        known = [call.consumed for call in made if call.consumed is not None]
        read, written = sum(usage.input_tokens for usage in known), sum(usage.output_tokens for usage in known)
        if event.usage.input_tokens < read or event.usage.output_tokens < written:
            yield f"{execution} consumed {read} and {written} tokens, and {event.usage} is recorded of it"


def _not_again(judge: Judge, calls: Sequence[Call]) -> Iterator[str]:
    """A worker that started after an attempt was reported does not call for it again, if the report is still there."""
    topics = judge.topics
    for call in calls:
        announced = topics.started.get(call.execution)
        if announced is None:
            continue
        attempt = announced[1].attempt_id
        reported = topics.first_report.get(attempt)
        if reported is None or call.unaware:
            continue
        kept = judge.world.cluster.partition(reported.record.topic_partition).start <= reported.record.offset
        if reported.at < call.life_began and kept:
            yield f"{call.run} calls {call.provider} for {attempt}, which was reported before it started"


def _marks(judge: Judge) -> Iterator[str]:
    """What is said to be lost was announced, at the price that the router had named for it, and is booked apart."""
    topics, expected = judge.topics, defaultdict[tuple[str, str, str], int](int)
    worst = {request.attempt_id: request.worst_case_nanodollars for _, request in topics.work.values()}
    recorded = {event.execution_id for event in topics.usage.values() if not event.event_id.endswith("/lost")}
    for execution, event in topics.lost.items():
        if execution not in topics.started:
            yield f"{execution} is recorded as lost, and was never announced"
        if event.possibly_billed_nanodollars != worst.get(event.attempt_id):
            yield f"{execution} may have been billed {event.possibly_billed_nanodollars}, its worst case is another"
        if execution not in recorded:
            expected[event.tenant, event.provider, event.model] += event.possibly_billed_nanodollars
    booked = judge.world.database.possibly_billed
    for key in {**expected, **booked}:
        if expected[key] != booked[key]:
            yield f"{'/'.join(key)} may have been billed {booked[key]} by the ledger, and {expected[key]} is right"
